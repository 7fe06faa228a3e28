"""Learned conjugate directions: exact cases, what never gets worse, singular systems, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from paperworks.solvers import DCDMNet, DCDMSolver, PoissonDomain, cg, dcdm, laplacian

BOX = PoissonDomain(np.ones((12, 12), bool))
B = np.random.default_rng(0).standard_normal(BOX.n)
INVERSE = torch.linalg.inv(torch.from_numpy(BOX.matrix().toarray()))


def perfect(r):
    return (r.reshape(len(r), -1) @ INVERSE).reshape(r.shape)


def identity(r):
    return r


def blurred(r):
    """Something between the two: useful, nonlinear and never conjugate by itself."""
    return perfect(r) + 0.3 * r + 0.05 * r.abs()


def error(x, A, b):
    """The square of the A-norm of an error."""
    e = x - np.linalg.pinv(A) @ b
    return e @ A @ e


def test_a_perfect_network_needs_one_iteration():
    x, info = result = dcdm(BOX, B, perfect, rtol=1e-10)
    assert (info, result.iterations) == (0, 1)
    np.testing.assert_allclose(BOX.operator() @ x, B, atol=1e-10)


@pytest.mark.parametrize("orth", [2, 5, "all"])
def test_the_identity_gives_conjugate_gradients(orth):
    paths = [[], []]
    dcdm(BOX, B, identity, rtol=0, maxiter=20, orth=orth, callback=paths[0].append)
    cg(BOX.matrix(), B, rtol=0, maxiter=20, callback=lambda x: paths[1].append(x.copy()))
    assert len(paths[0]) == 20
    np.testing.assert_allclose(*paths, rtol=1e-8, atol=1e-10)


def test_without_conjugation_the_identity_gives_steepest_descent():
    x, r = np.zeros(BOX.n), B.copy()
    for _ in range(5):
        q = BOX.operator() @ r
        alpha = r @ r / (r @ q)
        x, r = x + alpha * r, r - alpha * q
    np.testing.assert_allclose(dcdm(BOX, B, identity, orth=0, maxiter=5).x, x)


@given(st.integers(0, 2**31), st.sampled_from([0, 1, 2, "all"]))
@settings(max_examples=15, deadline=None)
def test_the_error_never_grows_whatever_the_network_says(seed, orth):
    cells = np.random.default_rng(seed).integers(0, 3, (5, 5))
    cells[2, 1:3] = 1
    domain = PoissonDomain(cells)
    generator = torch.Generator().manual_seed(seed)
    A = domain.matrix().toarray()
    b = A @ np.random.default_rng(seed).standard_normal(domain.n)
    errors = [error(np.zeros(domain.n), A, b)]
    solver = DCDMSolver(lambda r: torch.randn(r.shape, dtype=r.dtype, generator=generator), orth=orth)
    x, info = solver.solve(domain, b, rtol=1e-6, maxiter=2000, callback=lambda x: errors.append(error(x, A, b)))
    assert info == 0
    assert np.linalg.norm(b - A @ x) <= 1.001e-6 * np.linalg.norm(b)
    assert (np.diff(errors) <= 1e-9 * errors[0]).all()


@pytest.mark.parametrize("factor", [-1.0, 1e-12, 1e12])
def test_neither_sign_nor_norm_of_a_direction_matters(factor):
    one, other = (dcdm(BOX, B, net) for net in (blurred, lambda r: factor * blurred(r)))
    np.testing.assert_allclose(one.residual_norms, other.residual_norms, rtol=1e-6)


def test_a_network_that_says_nothing_costs_no_solution():
    solver = DCDMSolver(torch.zeros_like)
    x, info = solver.solve(BOX, B, rtol=1e-8)
    assert info == 0
    assert solver.fallbacks_ == solver.iterations_
    assert solver.iterations_ <= cg(BOX.matrix(), B, rtol=1e-8).iterations + 1
    np.testing.assert_allclose(BOX.operator() @ x, B, atol=1e-7)


def test_conjugate_gradients_go_on_where_the_residual_stays():
    asked = []

    def noise(r):
        asked.append(1)
        return torch.randn(r.shape, dtype=r.dtype, generator=torch.Generator().manual_seed(len(asked))) + r / 100

    solver = DCDMSolver(noise, orth=0)
    _, info = solver.solve(PoissonDomain(np.ones((24, 24), bool)), np.ones(576), rtol=1e-8, maxiter=200)
    assert info == 0
    assert len(asked) < 30


def test_several_right_hand_sides_are_solved_as_each_alone():
    b = np.stack([B, np.ones(BOX.n), np.zeros(BOX.n)], axis=1)
    solver = DCDMSolver(blurred)
    x, info = solver.solve(BOX, b, rtol=1e-8)
    assert info == 0
    assert x.shape == b.shape
    alone = [dcdm(BOX, column, blurred, rtol=1e-8) for column in b.T]
    assert solver.iterations_.tolist() == [found.iterations for found in alone]
    np.testing.assert_allclose(x, np.stack([found.x for found in alone], axis=1), atol=1e-12)
    assert solver.history_.shape == (max(solver.iterations_) + 1, 3)
    np.testing.assert_allclose(solver.history_[: alone[0].iterations + 1, 0], alone[0].residual_norms, rtol=1e-6)


def test_matrices_of_all_kinds_give_the_same():
    expected = dcdm(BOX, B, blurred)
    matrix = BOX.matrix()
    for A in (BOX.operator(), matrix, sparse.csc_matrix(matrix), matrix.toarray(), aslinearoperator(matrix)):
        np.testing.assert_allclose(dcdm(A, B, blurred).x, expected.x)
    np.testing.assert_allclose(dcdm(matrix, B, blurred, shape=(12, 12)).x, expected.x)
    wide = PoissonDomain(np.ones((3, 5, 4), bool))
    b = np.arange(60.0)
    np.testing.assert_allclose(
        dcdm(wide.matrix(), b, identity, shape=(3, 5, 4)).x, dcdm(wide, b, identity).x, atol=1e-10
    )


def test_the_pair_is_scipys():
    seen = []
    start = np.linalg.solve(BOX.matrix().toarray(), B)
    assert dcdm(BOX, B, blurred, start).iterations == 0
    _, info = dcdm(BOX, B, blurred, rtol=1e-12, maxiter=1, callback=seen.append)
    assert (info, len(seen)) == (1, 1)
    assert dcdm(BOX, B, blurred, maxiter=0).info == 1
    x, info = dcdm(BOX, np.zeros(BOX.n), blurred)
    assert info == 0
    assert not x.any()
    assert dcdm(BOX, B[:, None], blurred).x.shape == (BOX.n, 1)
    assert dcdm(BOX, B, blurred, start[:, None]).iterations == dcdm(BOX, B[:, None], blurred, start).iterations == 0
    assert dcdm(BOX, B.astype(np.float32), identity, rtol=1e-3).x.dtype == np.float64  # the matrix's
    single = dcdm(BOX.matrix().astype(np.float32), B.astype(np.float32), identity, rtol=1e-3)
    assert single.x.dtype == np.float32
    assert single.info == 0
    before, given_b = start.copy(), B.copy()
    dcdm(BOX, B, blurred, start, rtol=1e-12)
    np.testing.assert_array_equal(start, before)
    np.testing.assert_array_equal(given_b, B)
    assert dcdm(BOX, B, blurred, atol=1e9).iterations == 0


@pytest.mark.parametrize("as_matrix", [False, True])
@pytest.mark.parametrize("net", [identity, blurred])
def test_closed_regions_have_solutions_of_mean_zero(as_matrix, net):
    domain = PoissonDomain(np.pad(np.ones((10, 10), bool), 1), bc="neumann")
    b = np.where(domain.fluid, np.random.default_rng(1).standard_normal((12, 12)), 0)
    b = np.where(domain.fluid, b - b.sum() / 100, 0).ravel()
    x, info = dcdm(domain.matrix() if as_matrix else domain, b, net, 5 * np.ones(144), rtol=1e-9, maxiter=300)
    assert info == 0
    np.testing.assert_allclose(domain.operator() @ x, b, atol=1e-7)
    assert abs(x.sum()) < 1e-9
    assert not x[~domain.fluid.ravel()].any()


@pytest.mark.parametrize("as_matrix", [False, True])
def test_a_right_hand_side_without_a_solution_is_refused(as_matrix):
    mask = np.ones((8, 8), bool)
    mask[0, 3] = False
    domain = PoissonDomain(mask, bc="neumann")
    A = domain.matrix() if as_matrix else domain
    with pytest.raises(ValueError, match="sums to"):
        dcdm(A, domain.fluid.ravel().astype(float), identity)
    with pytest.raises(ValueError, match="zero rows"):
        dcdm(A, np.ones(64), identity)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("net", [identity, blurred])
def test_sizes_whose_squares_under_or_overflow_do(scale, net):
    expected = dcdm(BOX, B, net)
    found = dcdm(BOX, scale * B, net)
    assert (found.info, found.iterations) == (0, expected.iterations)
    np.testing.assert_allclose(found.x / scale, expected.x, rtol=1e-9)
    np.testing.assert_allclose(found.residual_norms / scale, expected.residual_norms, rtol=1e-6)
    np.testing.assert_allclose(dcdm(scale * BOX.matrix(), scale * B, net).x, expected.x, rtol=1e-9)
    mixed = dcdm(BOX, np.stack([B, scale * B], axis=1), net)
    assert mixed.info == 0
    np.testing.assert_allclose(mixed.x[:, 1] / scale, mixed.x[:, 0], rtol=1e-9)
    np.testing.assert_allclose(dcdm(BOX, B, lambda r: scale * net(r)).x, expected.x, rtol=1e-9)


def test_small_rows_beside_large_ones_are_equations_too():
    b = 10.0 ** np.arange(0, -16, -1)
    x, info = dcdm(np.diag(b), b, identity, rtol=1e-8, maxiter=500)
    assert info == 0
    assert np.linalg.norm(b - b * x) <= 1e-8 * np.linalg.norm(b)
    both = np.zeros((32, 32))
    both[:16, :16] = laplacian((4, 4)).toarray()
    both[16:, 16:] = 1e-16 * both[:16, :16]  # open, although its sums of rows are below the rounding of the others
    b = np.append(np.zeros(16), np.random.default_rng(1).standard_normal(16))
    x, info = dcdm(both, b, identity, shape=(4, 8), rtol=1e-9)
    assert info == 0
    np.testing.assert_allclose(both @ x, b, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_part_of_b_out_of_the_range_counts_in_the_residual(dtype):
    domain = PoissonDomain(np.ones((12, 12), bool), bc="neumann")
    A = domain.matrix().astype(dtype)
    off = float(np.sqrt(np.finfo(dtype).eps)) / 2
    b = (B - B.mean() + off).astype(dtype)
    for rtol, solved in ((off / 4, False), (off * 4, True)):
        x, info = found = dcdm(A, b, identity, rtol=rtol, maxiter=100)
        left = np.linalg.norm(b - A @ x)
        assert (info == 0) == solved == (left <= rtol * np.linalg.norm(b))
        assert found.residual_norms[-1] == pytest.approx(left, rel=1e-3)


@given(st.integers(0, 2**31), st.sampled_from([(1, 1), (1, 9), (7, 5), (3, 5, 4), (1, 1, 6)]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_domains_of_any_shape_are_solved_as_directly(seed, grid, walls):
    rng = np.random.default_rng(seed)
    cells = rng.choice(3, grid, p=[0.3, 0.6, 0.1])
    cells.flat[0] = 1
    domain = PoissonDomain(cells, bc="neumann" if walls else "dirichlet")
    A = domain.matrix().toarray()
    expected = rng.standard_normal((domain.n, 3)) * [1e-150, 1, 1e150]
    expected = np.linalg.pinv(A) @ (A @ expected)
    x, info = dcdm(domain, A @ expected, lambda r: r + 0.1 * r.abs(), rtol=1e-10, maxiter=500)
    assert info == 0
    scale = np.abs(expected).max(axis=0) + (not A.any())
    np.testing.assert_allclose(x / scale, expected / scale, atol=1e-7)


def test_networks_of_half_precision_do():
    net = DCDMNet(2, channels=4).to(torch.bfloat16)
    x, info = dcdm(BOX, B, net, rtol=1e-8, maxiter=500)
    assert info == 0
    np.testing.assert_allclose(BOX.operator() @ x, B, atol=1e-6)


def test_copies_of_a_solver_give_the_same():
    torch.manual_seed(0)
    solver = DCDMSolver(DCDMNet(2, channels=4), orth=3)
    first = solver.solve(BOX, B).x
    for again in (pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver)):
        np.testing.assert_array_equal(again.solve(BOX, B).x, first)


def test_what_the_network_sees_has_norm_one_if_asked():
    seen = []

    def watch(r):
        seen.append(r.flatten(1).norm(dim=1))
        return perfect(r)

    DCDMSolver(watch).solve(BOX, 7 * B)
    DCDMSolver(watch, normalize=False).solve(BOX, 7 * B)
    assert seen[0].item() == pytest.approx(1)
    assert seen[-1].item() == pytest.approx(7 * np.linalg.norm(B))


LOPSIDED = np.eye(4) + np.eye(4, k=1)
NOWHERE = LinearOperator((16, 16), matvec=lambda v: v * np.nan, dtype=float)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: dcdm(BOX, B[:-1], identity), ValueError, "b has shape"),
        (lambda: dcdm(BOX, np.ones((2, 2, 2)), identity), ValueError, "b has shape"),
        (lambda: dcdm(BOX, B, identity, np.ones(3)), ValueError, "x0 has shape"),
        (lambda: dcdm(BOX, np.full(BOX.n, np.nan), identity), ValueError, "b has"),
        (lambda: dcdm(BOX, 1j * B, identity), TypeError, "complex"),
        (lambda: dcdm(BOX, B.astype(np.longdouble), identity), TypeError, "single or double"),
        (lambda: dcdm(BOX, B, lambda r: r * np.nan), ValueError, "net returned NaN"),
        (lambda: dcdm(BOX, B, lambda r: r.numpy()), TypeError, "net returned ndarray"),
        (lambda: dcdm(BOX, B, lambda r: 1j * r), TypeError, "net returned torch.complex128"),
        (lambda: dcdm(BOX, B, None), TypeError, "net is None"),
        (lambda: dcdm(BOX, B, DCDMNet(2).to("meta")), ValueError, "meta device"),
        (lambda: dcdm(NOWHERE, B[:16], identity), ValueError, "NaN or infinite"),
        (lambda: dcdm(BOX, B, lambda r: r[..., 1:]), ValueError, "net returned shape"),
        (lambda: dcdm(BOX, B, DCDMNet(3)), ValueError, "takes 3 dimensions"),
        (lambda: dcdm(BOX, B, identity, shape=(6, 24)), ValueError, "that of the domain"),
        (lambda: dcdm(BOX.matrix(), B, identity, shape=(6, 12)), ValueError, "144 voxels"),
        (lambda: dcdm(laplacian((3, 4)), np.ones(12), identity), ValueError, "no square or cube"),
        (lambda: dcdm(LOPSIDED, np.ones(4), identity), ValueError, "not symmetric"),
        (lambda: dcdm(-np.eye(4), np.ones(4), identity), ValueError, "diagonal element -1"),
        (lambda: dcdm(1 - np.eye(4), np.ones(4), identity), ValueError, "0 on the diagonal"),
        (lambda: dcdm(3 * np.ones((4, 4)) - 2 * np.eye(4), [1, -1, 0, 0.0], identity), ValueError, "not positive"),
        (lambda: dcdm(BOX, B, identity, rtol=-1), ValueError, "rtol"),
        (lambda: dcdm(BOX, B, identity, maxiter=-1), ValueError, "maxiter"),
        (lambda: DCDMSolver(identity, orth=-1), ValueError, "orth"),
        (lambda: DCDMSolver(identity, orth="some"), TypeError, "orth"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
