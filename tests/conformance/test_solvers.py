"""Every exported linear solver: SciPy's signature and what it promises. The examples at the end prove the checks."""

import inspect
import pickle
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


class Solver:
    """A function, or the `solve` or call of an object."""

    def __init__(self, subject: Subject) -> None:
        thing = subject.export.thing
        if inspect.isclass(thing):
            self.object = thing(**arguments(thing, {}, subject.options))
            self.solve = getattr(self.object, "solve", self.object)
        else:
            self.object, self.solve = thing, thing
        names = inspect.signature(self.solve).parameters
        self.seed = {"random_state": 0} if "random_state" in names else {}

    def __call__(self, A: Any = A, b: Any = B, **options: Any) -> tuple[np.ndarray, int]:
        return self.solve(A, b, **{**self.seed, **options})


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
    for other in (sparse.csr_array(A), LinearOperator(A.shape, matvec=lambda v: A @ v, dtype=A.dtype)):
        x, info = Solver(subject)(other, rtol=1e-10, maxiter=5000)
        assert info == 0
        np.testing.assert_allclose(x, dense, atol=1e-8)


@SUITE.check
def it_starts_from_x0(subject):
    seen = []
    x, info = Solver(subject)(x0=np.linalg.solve(A, B), callback=seen.append)
    assert info == 0
    assert len(seen) <= 1
    np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-10)


@SUITE.check
def it_says_when_it_did_not_get_there(subject):
    seen = []
    _, info = Solver(subject)(rtol=1e-14, maxiter=1, callback=seen.append)
    assert info > 0
    assert len(seen) == 1


@SUITE.check
def a_preconditioner_is_used(subject):
    called = []
    M = LinearOperator(A.shape, matvec=lambda v: called.append(1) or v / 3, dtype=A.dtype)
    x, info = Solver(subject)(M=M, rtol=1e-9, maxiter=5000)
    assert info == 0
    assert called
    np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-7)


@SUITE.check
def bad_input_is_refused(subject):
    broken = B.copy()
    broken[3] = np.nan
    for given, name in (((A, broken), "b"), ((A, B[:-1]), "b|shape|dimension"), ((A[:, :-1], B), "A|square|shape")):
        with pytest.raises(ValueError, match=name):
            Solver(subject)(*given)


@SUITE.check
def precision_is_kept(subject):
    x, _ = Solver(subject)(A.astype(np.float32), B.astype(np.float32), rtol=1e-3)
    assert x.dtype == np.float32
    assert x.shape == B.shape


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
    """SciPy's conjugate gradients, with NaN refused."""
    if not np.isfinite(b).all():
        raise ValueError("b has NaN or infinite elements")
    return cg(A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M, callback=callback)


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
