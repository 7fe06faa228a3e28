"""Every exported linear solver: SciPy's signature and what it promises. The examples at the end prove the checks."""

import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from conformance.discovery import SCIPY_SOLVER, Export, kind_of
from conformance.suite import CAUGHT, Subject, Suite, arguments

pytestmark = pytest.mark.usefixtures("untyped")

# Symmetric, positive definite and diagonally dominant: any solver's case.
A = np.diag(np.full(12, 3.0)) - np.diag(np.ones(11), 1) - np.diag(np.ones(11), -1)
B = np.linspace(-1, 1, 12)


def jacobi(residuals: Any) -> Any:
    """A direction for each residual, as a network would propose it: a damped step of Jacobi's."""
    return residuals / 4


# What single methods ask for beside SciPy's arguments.
VALUES = {"A": lambda: A, "b": lambda: B, "omega": lambda: 1.2, "net": lambda: jacobi}
# What they may take, and need here: the grid of a network's input.
GIVEN = {"shape": (3, 4)}


class Solver:
    """A function, or the `solve` or call of an object."""

    def __init__(self, subject: Subject) -> None:
        thing = subject.export.thing
        if inspect.isclass(thing):
            self.object = thing(**arguments(thing, VALUES, {**GIVEN, **subject.options}))
            self.solve = getattr(self.object, "solve", self.object)
        else:
            self.object, self.solve = thing, thing
        self.names = inspect.signature(self.solve).parameters
        self.options = arguments(self.solve, VALUES, GIVEN)
        del self.options["A"], self.options["b"]
        if "random_state" in self.names:
            self.options["random_state"] = 0

    def __call__(self, A: Any = A, b: Any = B, **options: Any) -> tuple[np.ndarray, int]:
        return self.solve(A, b, **{**self.options, **options})

    def unless(self, kind: Any, says: str, *given: Any, **options: Any) -> tuple[np.ndarray | None, int]:
        """Solve, or return None where an error refuses that says what it has to."""
        try:
            return self(*given, **options)
        except kind as error:
            if not re.search(says, str(error)):
                pytest.fail(f"the error does not say {says}: {error}")
            return None, -1

    def tries(self, A: Any, b: np.ndarray, rtol: float = 1e-6, maxiter: int = 500) -> str:
        """Try a system that not every method solves: only a solution may be called one, and an error says why."""
        with np.errstate(all="ignore"):
            x, info = self.unless(ValueError, r"\b[Ab]\b", A, b, rtol=rtol, maxiter=maxiter)
            if x is None:
                return "refused"
            if info == 0:
                assert away(A, x, b) <= rtol * (1 + 1e-5), "called solved, and isn't"
                return "solved"
        assert 0 < info <= maxiter
        return "not solved"


def away(A: Any, x: np.ndarray, b: np.ndarray) -> float:
    """Return the residual relative to the right-hand side, of numbers of any size."""
    x, b, size = np.ravel(x), np.ravel(b), abs(b).max()
    return np.linalg.norm(b / size - A @ (x / size)) / np.linalg.norm(b / size)


SUITE = Suite("solver")


@SUITE.check
def it_solves_to_its_tolerance(subject):
    for rtol in (1e-3, 1e-9):
        x, info = Solver(subject)(rtol=rtol, maxiter=5000)
        assert info == 0
        assert np.linalg.norm(B - A @ x) <= rtol * np.linalg.norm(B) * (1 + 1e-6)


@SUITE.check
def its_input_is_left_alone(subject):
    a, b, x0 = A.copy(), B.copy(), np.ones(12)
    x, _ = Solver(subject)(a, b, x0=x0)
    assert np.array_equal(a, A)
    assert np.array_equal(b, B)
    assert np.array_equal(x0, np.ones(12))
    assert not np.shares_memory(x, x0)


@SUITE.check
def matrices_of_all_kinds_are_taken(subject):
    dense, _ = Solver(subject)(rtol=1e-10, maxiter=5000)
    # Entries that stand twice add up, and none of the formats has to be in order.
    rows, columns = np.nonzero(A)
    twice = (np.concatenate([A[rows, columns] / 4, 3 * A[rows, columns] / 4])[::-1], [np.tile(rows, 2)[::-1]])
    doubled = sparse.coo_array((twice[0], (twice[1][0], np.tile(columns, 2)[::-1])), shape=A.shape)
    shuffled = sparse.csr_array((A[:, ::-1].ravel(), np.tile(np.arange(12)[::-1], 12), np.arange(0, 145, 12)), A.shape)
    entries = shuffled.indices.copy()
    for other in (np.asfortranarray(A), sparse.csr_array(A), sparse.csc_matrix(A), doubled, shuffled, A.tolist()):
        x, info = Solver(subject)(other, rtol=1e-10, maxiter=5000)
        assert info == 0
        np.testing.assert_allclose(x, dense, atol=1e-8)
    assert np.array_equal(shuffled.indices, entries)


@SUITE.check
def an_operator_is_taken_or_refused_by_name(subject):
    operator = LinearOperator(A.shape, matvec=lambda v: A @ v, dtype=A.dtype)
    x, info = Solver(subject).unless(TypeError, r"\bA is a linear operator", operator, B, rtol=1e-10, maxiter=5000)
    if x is not None:
        assert info == 0
        np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-8)


@SUITE.check
def it_starts_from_x0(subject):
    seen = []
    x, info = Solver(subject)(x0=np.linalg.solve(A, B), callback=seen.append)
    assert info == 0
    assert len(seen) <= 1
    np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-10)


@SUITE.check
def it_says_when_it_did_not_get_there(subject):
    for most in (1, 2):
        seen = []
        x, info = Solver(subject)(rtol=1e-14, maxiter=most, callback=lambda x, seen=seen: seen.append(x.copy()))
        assert info > 0
        assert len(seen) == most
        assert np.array_equal(seen[-1], x)


@SUITE.check
def a_preconditioner_is_used(subject):
    solver, called = Solver(subject), []
    if "M" not in solver.names:
        return
    M = LinearOperator(A.shape, matvec=lambda v: called.append(1) or v / 3, dtype=A.dtype)
    x, info = solver(M=M, rtol=1e-9, maxiter=5000)
    assert info == 0
    assert called
    np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-7)


@SUITE.check
def nothing_on_the_right_gives_zeros(subject):
    for x0 in (None, np.ones(12)):
        x, info = Solver(subject)(b=np.zeros(12), x0=x0)
        assert info == 0
        assert np.array_equal(x, np.zeros(12))


@SUITE.check
def a_singular_matrix_gives_no_wrong_answer(subject):
    singular = A.copy()
    singular[0, 0] = singular[-1, -1] = 2
    np.fill_diagonal(singular[1:-1, 1:-1], 2)
    singular[0, 0] = singular[-1, -1] = 1  # without flux at both ends
    Solver(subject).tries(singular, singular @ np.arange(12.0))  # has solutions
    assert Solver(subject).tries(singular, np.ones(12)) != "solved"  # has none
    empty = A.copy()
    empty[3] = empty[:, 3] = 0
    assert Solver(subject).tries(empty, B) != "solved"
    assert Solver(subject).tries(np.zeros((12, 12)), B) != "solved"


@SUITE.check
def an_indefinite_matrix_gives_no_wrong_answer(subject):
    signs = np.where(np.arange(12) % 3, 1.0, -1.0)
    for indefinite in (-A, np.diag(signs) @ A @ np.diag(signs) - 2.5 * np.eye(12), A * np.outer(signs, signs) * signs):
        Solver(subject).tries(indefinite, B)
        Solver(subject).tries((indefinite + indefinite.T) / 2, B)


@SUITE.check
def a_matrix_that_is_not_symmetric_gives_no_wrong_answer(subject):
    for strength in (0.5, 3.0):
        Solver(subject).tries(A + strength * np.diag(np.ones(11), 1), B)
        Solver(subject).tries(A + strength * (np.diag(np.ones(10), 2) - np.diag(np.ones(10), -2)), B)


@SUITE.check
def numbers_of_any_size_give_no_wrong_answer(subject):
    sizes = np.logspace(-6, 6, 12)
    Solver(subject).tries(A * np.outer(sizes, sizes), B)
    for size in (1e-30, 1e30):
        assert Solver(subject).tries(size * A, B) == "solved"
        assert Solver(subject).tries(A, size * B) == "solved"
    for size in (1e-200, 1e-160, 1e160, 1e200):
        Solver(subject).tries(A, size * B)


@SUITE.check
def what_rounding_keeps_from_is_not_called_solved(subject):
    hilbert = 1 / (1 + np.arange(12) + np.arange(12)[:, None])
    Solver(subject).tries(hilbert, np.ones(12), rtol=1e-12)
    Solver(subject).tries(hilbert.astype(np.float32), np.ones(12, np.float32), rtol=1e-6)
    Solver(subject).tries(A, B, rtol=0.0)


@SUITE.check
def bad_input_is_refused(subject):
    broken, infinite = B.copy(), A.copy()
    broken[3], infinite[2, 2] = np.nan, np.inf
    for given, name in (
        ((A, broken), "b"),
        ((A, B[:-1]), "b|shape|dimension"),
        ((A[:, :-1], B), "A|square|shape"),
        ((infinite, B), "A"),
    ):
        with pytest.raises(ValueError, match=rf"\b({name})"):
            Solver(subject)(*given)
    for option in ({"x0": np.ones(5)}, {"x0": broken}, {"rtol": -1.0}):
        (name,) = option
        with pytest.raises(ValueError, match=name):
            Solver(subject)(**option)


@SUITE.check
def precision_and_shape_are_kept(subject):
    x, info = Solver(subject)(A.astype(np.float32), B.astype(np.float32), rtol=1e-3)
    assert info == 0
    assert x.dtype == np.float32
    assert x.shape == B.shape
    column, info = Solver(subject)(A.astype(np.float32), B.astype(np.float32)[:, None], rtol=1e-3)
    assert info == 0
    assert column.shape == (12, 1)
    np.testing.assert_array_equal(column[:, 0], x)
    x, info = Solver(subject)((2 * A).astype(int), np.arange(12), rtol=1e-9, maxiter=5000)
    assert info == 0
    assert x.dtype == np.float64
    np.testing.assert_allclose(2 * A @ x, np.arange(12), atol=1e-6)


@SUITE.check
def complex_numbers_are_solved_or_refused_by_name(subject):
    turned = np.exp(1j * np.arange(12))
    hermitian, b = A * np.outer(turned, turned.conj()), B + 1j * B[::-1]
    for matrix in (A, hermitian, sparse.csr_array(hermitian)):
        says = r"\b[Ab]\b.*complex|complex.*\b[Ab]\b"
        x, info = Solver(subject).unless((TypeError, ValueError), says, matrix, b, rtol=1e-9, maxiter=5000)
        if x is not None:
            assert info == 0
            assert x.dtype == np.complex128
            assert away(matrix, x, b) <= 1e-9 * (1 + 1e-5)


@SUITE.check
def runs_repeat_also_after_pickling(subject):
    solver = Solver(subject)
    again = pickle.loads(pickle.dumps(solver.object))
    first = solver()[0]
    assert np.array_equal(first, solver()[0])
    if inspect.isclass(subject.export.thing):
        solver.solve = getattr(again, "solve", again)
        assert np.array_equal(first, solver()[0])


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_solvers(check, subject):
    check(subject)


def right(A, b, x0=None, *, rtol=1e-5, atol=0.0, maxiter=None, M=None, callback=None):
    """SciPy's conjugate gradients, with bad input refused and the residual looked at."""
    if not isinstance(A, LinearOperator):
        A = sparse.csr_array(A)
        if not np.isfinite(A.data).all():
            raise ValueError("A has NaN or infinite elements")
    for name, v in (("b", b), ("x0", x0)):
        if v is not None and not np.isfinite(v).all():
            raise ValueError(f"{name} has NaN or infinite elements")
    if rtol < 0:
        raise ValueError("rtol is below 0")
    x, info = cg(A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M, callback=callback)
    if b.any() and not away(A, x, b) <= rtol * (1 + 1e-6):
        info = info or 1
    return x.reshape(b.shape), info


def careless(A, b, x0=None, *, rtol=1e-5, maxiter=None, M=None, callback=None):
    x = np.zeros(len(b)) if x0 is None else x0
    x += np.random.random(len(b))  # noqa: NPY002
    A[0] = 0
    return x, 0


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_a_right_one_passes_each_check_and_a_careless_one_none(check):
    example = Export("solvers", "right", right)
    assert kind_of(example) == "solver"
    assert set(SCIPY_SOLVER) <= set(inspect.signature(right).parameters)
    check(Subject(example))
    before = A.copy()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(Export("solvers", "careless", careless)))
    finally:
        A[:] = before
