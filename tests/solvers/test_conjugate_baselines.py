"""What learned directions are held against: flexible conjugate gradients, incomplete Cholesky, deflation."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from paperworks.solvers import IncompleteCholesky, PoissonDomain, RitzDeflation, cg, flexible_cg, laplacian

A = laplacian((7, 6))
B = np.random.default_rng(0).standard_normal(42)


CANCELLING = np.array([[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, -1], [1, 1, -1, 0]])  # triangles, whose products sum to 0


def dense(M):
    return np.stack([M @ e for e in np.eye(M.shape[0])], axis=1)


def test_a_fixed_preconditioner_gives_conjugate_gradients():
    for M in (None, IncompleteCholesky(A)):
        ours, theirs = (solve(A, B, M=M, rtol=1e-9) for solve in (flexible_cg, cg))
        np.testing.assert_allclose(ours.residual_norms, theirs.residual_norms, rtol=1e-5, atol=1e-12)


def test_a_changing_preconditioner_does():
    rng = np.random.default_rng(0)
    inverse = np.linalg.inv(A.toarray())

    def restless(r):
        noise = rng.standard_normal(42)
        return rng.choice([-5, 3]) * (inverse @ r + 0.05 * np.linalg.norm(r) * noise / np.linalg.norm(noise))

    M = LinearOperator(A.shape, matvec=restless, dtype=float)
    x, info = found = flexible_cg(A, B, M=M, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(A @ x, B, atol=1e-8)
    assert found.iterations < cg(A, B, rtol=1e-10).iterations
    nothing = LinearOperator(A.shape, matvec=np.zeros_like, dtype=float)
    assert flexible_cg(A, B, M=nothing).info == 0


@pytest.mark.parametrize("shape", [(7, 6), (3, 4, 5)])
@pytest.mark.parametrize("modified", [0.0, 0.97, 1.0])
def test_incomplete_factors_are_those_of_their_definition(shape, modified):
    matrix = laplacian(shape).toarray()
    M = np.linalg.inv(dense(IncompleteCholesky(matrix, modified)))
    np.testing.assert_allclose(M, M.T, atol=1e-10)
    off = ~np.eye(len(M), dtype=bool)
    if modified == 0:  # on the pattern of the matrix the product is the matrix
        np.testing.assert_allclose(M[matrix != 0], matrix[matrix != 0], atol=1e-10)
    else:
        np.testing.assert_allclose(M[off & (matrix != 0)], matrix[off & (matrix != 0)], atol=1e-10)
    if modified == 1:  # and its sums of rows are those of the matrix
        np.testing.assert_allclose(M.sum(1), matrix.sum(1), atol=1e-10)


def test_without_fill_a_factor_is_exact():
    chain = laplacian(30)
    assert cg(chain, np.ones(30), M=IncompleteCholesky(chain), rtol=1e-10).iterations == 1


@pytest.mark.parametrize("modified", [0.0, 0.97])
def test_solids_stay_out_of_a_factor(modified):
    domain = PoissonDomain(np.tri(9, k=2, dtype=bool))
    M, fluid = IncompleteCholesky(domain.matrix(), modified), domain.fluid.ravel()
    inside = IncompleteCholesky(domain.matrix()[fluid][:, fluid], modified)
    r = np.arange(81.0)
    np.testing.assert_allclose((M @ r)[fluid], inside @ r[fluid])
    assert not (M @ r)[~fluid].any()


def test_factors_are_copied_and_keep_precision():
    M = IncompleteCholesky(A)
    again = pickle.loads(pickle.dumps(M))
    np.testing.assert_array_equal(again @ B, M @ B)
    assert (M @ B.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("M", [IncompleteCholesky(A), RitzDeflation(A, B), RitzDeflation(A, B, n_ritz=1)])
def test_complex_vectors_keep_both_parts(M):
    np.testing.assert_allclose(M @ (B + 2j * B), (1 + 2j) * (M @ B))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_factors_scale_with_their_matrix(scale):
    for modified in (0.0, 0.97):
        found = IncompleteCholesky(scale * A, modified) @ B * scale
        np.testing.assert_allclose(found, IncompleteCholesky(A, modified) @ B, rtol=1e-10)


def test_the_residual_is_that_of_the_solution():
    b, rtol = A @ np.ones(42), 2e-16
    x, info = found = flexible_cg(A, b, rtol=rtol, maxiter=500)
    left = np.linalg.norm(b - A @ x)
    assert (info == 0) == (left <= rtol * np.linalg.norm(b) * (1 + 1e-6))
    assert found.residual_norms[-1] == pytest.approx(left)


def test_one_ritz_vector_deflates():
    M = RitzDeflation(A, B, n_ritz=1, steps=42)
    least, vectors = np.linalg.eigh(A.toarray())
    np.testing.assert_allclose(dense(M), np.outer(vectors[:, 0], vectors[:, 0]) / least[0] + np.eye(42) / 4, atol=1e-8)


def test_matrices_with_positive_elements_off_the_diagonal_do():
    matrix = abs(A)  # no M-matrix
    for modified in (0.0, 0.97, 1.0):
        M = IncompleteCholesky(matrix, modified)
        assert (M.pivots > 0).all()
        assert cg(matrix, B, M=M, rtol=1e-10).converged


def test_the_known_ranking_of_preconditioners():
    matrix, b = laplacian((32, 32)), np.random.default_rng(0).standard_normal(1024)
    factors = (IncompleteCholesky(matrix, 0.97), IncompleteCholesky(matrix), RitzDeflation(matrix, b, 16, 128), None)
    counts = [cg(matrix, b, M=M, rtol=1e-8).iterations for M in factors]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] / 3


def test_deflation_by_all_ritz_pairs_is_the_inverse_and_jacobi():
    M = dense(RitzDeflation(A, B, n_ritz=42, steps=42))
    # A random start on a rectangle of different sides sees every eigenvector.
    np.testing.assert_allclose(M, np.linalg.inv(A.toarray()) + np.eye(42) / 4, atol=1e-8)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: IncompleteCholesky(4 * np.eye(3) - np.ones((3, 3))), "three unknowns"),
        (lambda: IncompleteCholesky(5 * np.eye(4) + CANCELLING), "three unknowns"),
        (lambda: IncompleteCholesky(np.array([[2.0, 1.0], [0.0, 2.0]])), "not symmetric"),
        (lambda: RitzDeflation(np.array([[2.0, 1.0], [0.0, 2.0]]), np.ones(2), 1), "not symmetric"),
        (lambda: IncompleteCholesky(3.0), "A has shape"),
        (lambda: IncompleteCholesky(A, 1.5), "modified"),
        (lambda: IncompleteCholesky(-A), "diagonal element -4"),
        (lambda: IncompleteCholesky(sparse.csr_array([[0.0, 1.0], [1.0, 2.0]])), "diagonal element 0"),
        (lambda: RitzDeflation(A, B, n_ritz=43), "n_ritz"),
        (lambda: RitzDeflation(A, B, n_ritz=4, steps=3), "steps"),
        (lambda: RitzDeflation(sparse.diags_array([1.0, 0.0]), np.ones(2), 1), "diagonal element 0"),
        (lambda: RitzDeflation(A, B[1:]), "start has shape"),
        (lambda: flexible_cg(A, 1e-200 * B), "size whose squares"),
        (lambda: flexible_cg(A, 1e200 * B), "size whose squares"),
        (
            lambda: flexible_cg(A, B, M=LinearOperator(A.shape, matvec=lambda v: v * np.nan, dtype=float)),
            "M returned NaN",
        ),
        (lambda: flexible_cg(-A, B), "not positive definite"),
        (lambda: flexible_cg(A, B[1:]), "b has shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: IncompleteCholesky(np.array([[2, 1j], [-1j, 2]])),
        lambda: RitzDeflation(np.array([[2, 1j], [-1j, 2]]), np.ones(2), 1),
        lambda: IncompleteCholesky(PoissonDomain([[1]]).operator()),
        lambda: flexible_cg(A, B, M=LinearOperator(A.shape, matvec=lambda v: 1j * v, dtype=complex)),
    ],
)
def test_what_is_of_another_kind_is_refused(call):
    with pytest.raises(TypeError):
        call()
