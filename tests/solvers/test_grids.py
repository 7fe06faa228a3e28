import itertools
import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import cg as scipy_cg

from paperworks.solvers import FastPoisson, SolveResult, cg, laplacian

ENDS = ["dirichlet", "neumann", "periodic"]


@pytest.mark.parametrize("ends", [*itertools.product(ENDS), *itertools.product(ENDS, ENDS), tuple(ENDS)])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_fast_solver_inverts_the_matrix(ends, shift):
    shape, spacing = (4, 5, 3)[: len(ends)], (0.5, 2.0, 1.3)[: len(ends)]
    matrix = shift * np.eye(np.prod(shape)) + 3 * laplacian(shape, spacing, ends).toarray()
    solve = FastPoisson(shape, spacing, ends, shift=shift, scale=3)
    np.testing.assert_allclose(solve @ np.eye(len(matrix)), np.linalg.pinv(matrix, rcond=1e-12), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("end", ENDS)
def test_grids_of_one_and_two_points(n, end):
    expected = {
        ("dirichlet", 1): [[2]],
        ("neumann", 1): [[0]],
        ("periodic", 1): [[0]],
        ("dirichlet", 2): [[2, -1], [-1, 2]],
        ("neumann", 2): [[1, -1], [-1, 1]],
        ("periodic", 2): [[2, -2], [-2, 2]],
    }[end, n]
    np.testing.assert_array_equal(laplacian(n, 1.0, end).toarray(), expected)
    np.testing.assert_allclose(FastPoisson(n, 1.0, end) @ np.eye(n), np.linalg.pinv(np.array(expected, float)))


def test_second_order_to_the_exact_solution():
    errors = []
    for n in (15, 31):
        x = np.arange(1, n + 1) / (n + 1)
        u = np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x)
        found = FastPoisson((n, n), 1 / (n + 1)).matvec(5 * np.pi**2 * u.ravel())
        errors.append(np.abs(found - u.ravel()).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


def test_precision_and_complex_numbers_are_kept():
    solve = FastPoisson((4, 4), 1.0, ("dirichlet", "periodic"))
    f = np.arange(16.0)
    assert (solve @ f.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(solve @ (f + 2j * f), (1 + 2j) * (solve @ f))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laplacian(0), "shape"),
        (lambda: laplacian(()), "shape is empty"),
        (lambda: laplacian((3, 3), (1.0,)), "spacing has 1 entries"),
        (lambda: laplacian(3, -1.0), "spacing"),
        (lambda: laplacian(3, 1.0, "robin"), "boundary"),
        (lambda: FastPoisson(3, shift=-1), "shift"),
        (lambda: FastPoisson(3, scale=0), "scale"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_grids_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("M", [None, sparse.diags_array(1 / (1 + np.arange(81)))], ids=["plain", "preconditioned"])
def test_conjugate_gradients_are_scipys(M):
    A = laplacian((9, 9))
    b = np.random.default_rng(0).normal(size=81)
    ours, theirs = [], []
    result = cg(A, b, rtol=1e-8, M=M, callback=lambda x: ours.append(x.copy()))
    scipy_cg(A, b, rtol=1e-8, M=M, callback=lambda x: theirs.append(x.copy()))
    assert result.iterations == len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(b - A @ result.x), result.residual_norms[-1], rtol=1e-3)


def test_conjugate_gradients_on_complex_numbers_and_at_the_edges():
    rng = np.random.default_rng(1)
    B = rng.normal(size=(6, 6)) + 1j * rng.normal(size=(6, 6))
    A = B @ B.conj().T + np.eye(6)
    x, info = cg(A, B[:, :1], rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(A @ x, B[:, :1])
    assert cg(np.eye(3), np.zeros(3)).iterations == 0
    assert cg(np.eye(3), np.ones(3), maxiter=0).info == 1
    assert cg(np.eye(3, dtype=int), [1, 2, 3]).x.dtype == np.float64
    with pytest.raises(ValueError, match="A is not positive definite"):
        cg(np.diag([1.0, -1.0]), np.ones(2))
    with pytest.raises(ValueError, match="M is not positive definite"):
        cg(np.eye(2), np.ones(2), M=-np.eye(2))


def test_a_result_is_a_pair_with_its_history():
    result = SolveResult(np.ones(2), 3, [1.0, 0.5])
    x, info = result
    again = pickle.loads(pickle.dumps(result))
    assert (info, result.converged, again.iterations) == (3, False, 1)
    assert "residual_norm=0.5" in repr(result)
    np.testing.assert_array_equal(again.x, x)
