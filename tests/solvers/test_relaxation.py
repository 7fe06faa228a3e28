import math
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import cg as scipy_cg
from scipy.sparse.linalg import gmres

from paperworks.solvers import (
    AdaptiveSolver,
    BinnedBandit,
    ChebCB,
    SolveResult,
    SSORPreconditioner,
    TsallisINF,
    cg,
    energy_bound,
    estimate_tau,
    jacobi_radius,
    laplacian,
    near_asymptotic_bound,
    optimal_omega,
    pcg_bound,
    regret_bound,
    sor,
    sor_radius,
    ssor,
    ssor_pcg,
)
from paperworks.solvers.relaxation.bandits import _minimise
from paperworks.solvers.relaxation.chebyshev import box_least_squares
from paperworks.solvers.relaxation.kernels import compiled
from paperworks.solvers.relaxation.splitting import Splitting

A = laplacian((7, 6))
DENSE = A.toarray()
D, L = np.diag(np.diag(DENSE)), np.tril(DENSE, -1)
B = np.random.default_rng(0).normal(size=42)
OMEGAS = [0.6, 1.0, 1.5]


@pytest.fixture(params=["numba", "scipy"])
def way(request, monkeypatch):
    """Both ways to sweep."""
    if request.param == "scipy":
        monkeypatch.setattr("paperworks.solvers.relaxation.splitting.compiled", lambda: None)
    elif compiled() is None:
        pytest.skip("numba is not installed")


def lopsided(seed=0):
    """A matrix that isn't symmetric, and diagonally dominant."""
    entries = np.random.default_rng(seed).normal(size=(42, 42)) * (np.random.default_rng(1).random((42, 42)) < 0.2)
    return entries + np.diag(1 + abs(entries).sum(1))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("omega", OMEGAS)
@pytest.mark.parametrize("matrix", [DENSE, lopsided()], ids=["symmetric", "lopsided"])
def test_sweeps_are_those_of_the_definition(matrix, omega):
    diagonal = np.diag(np.diag(matrix))
    W, V = diagonal / omega + np.tril(matrix, -1), diagonal / omega + np.triu(matrix, 1)
    forward = both = np.zeros(42)
    for _ in range(3):
        forward = forward + np.linalg.solve(W, B - matrix @ forward)
        both = both + np.linalg.solve(V, (2 / omega - 1) * diagonal @ np.linalg.solve(W, B - matrix @ both))
    for solve, expected in ((sor, forward), (ssor, both)):
        result = solve(matrix, B, omega=omega, maxiter=3)
        np.testing.assert_allclose(result.x, expected, atol=1e-12)
        assert result.residual_norms[-1] == pytest.approx(np.linalg.norm(B - matrix @ expected))
        assert result.info == 3


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("omega", OMEGAS)
def test_eisensteins_iterates_are_those_of_preconditioned_conjugate_gradients(omega):
    M = np.linalg.inv((D + omega * L) @ np.linalg.inv(D) @ (D + omega * L).T / (omega * (2 - omega)))
    ours, theirs, x0 = [], [], np.linspace(0, 1, 42)
    result = ssor_pcg(A, B, x0, omega=omega, callback=lambda x: ours.append(x.copy()))
    scipy_cg(A, B, x0, rtol=1e-8, M=M, callback=lambda x: theirs.append(x.copy()))
    assert result.iterations == len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    whole = ssor_pcg(A, B, x0, omega=omega)  # in one call of the loop
    np.testing.assert_array_equal(whole.x, result.x)
    np.testing.assert_allclose(whole.residual_norms, result.residual_norms, rtol=1e-8)


def test_both_ways_give_the_same_numbers():
    if compiled() is None:
        pytest.skip("numba is not installed")
    for matrix in (A, sparse.csr_array(lopsided())):
        one, other = Splitting(matrix, 1.3), Splitting(matrix, 1.3, compile=False)
        for start in (Splitting.sor, Splitting.ssor, *([Splitting.pcg] if matrix is A else [])):
            x, y = np.zeros(42), np.zeros(42)
            norms = start(one, x, B.copy())(0.0, 15)
            np.testing.assert_allclose(norms, start(other, y, B.copy())(0.0, 15), rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(x, y, atol=1e-12)
        for solve in (Splitting.lower, Splitting.upper):
            np.testing.assert_allclose(solve(one, B), solve(other, B), atol=1e-13)


def test_without_numba_everything_works():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from paperworks.solvers import laplacian, sor, ssor_pcg\n"
        "from paperworks.solvers.relaxation.kernels import compiled\n"
        "import numpy as np\n"
        "assert compiled() is None\n"
        "print(sor(laplacian((7, 6)), np.ones(42), omega=1.5).iterations,"
        " ssor_pcg(laplacian((7, 6)), np.ones(42), omega=1.5).iterations)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ones = np.ones(42)
    assert [int(count) for count in found] == [solve(A, ones, omega=1.5).iterations for solve in (sor, ssor_pcg)]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_other_precisions_and_complex_numbers(dtype):
    turned = np.exp(1j * np.arange(42)) if np.issubdtype(dtype, np.complexfloating) else np.ones(42)
    matrix, b = (DENSE * np.outer(turned, turned.conj())).astype(dtype), (B * turned).astype(dtype)
    for solve in (sor, ssor, ssor_pcg):
        result = solve(matrix, b, omega=1.4, rtol=1e-5)
        assert result.converged
        assert result.x.dtype == dtype
        np.testing.assert_allclose(result.x / turned, np.linalg.solve(DENSE, B), atol=1e-3)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_indices_of_both_widths(kind):
    wide = sparse.csr_array((A.data, A.indices.astype(kind), A.indptr.astype(kind)), A.shape)
    np.testing.assert_array_equal(sor(wide, B, omega=1.5).x, sor(A, B, omega=1.5).x)


def test_read_only_matrices_are_taken():
    locked = A.copy()
    for part in (locked.data, locked.indices, locked.indptr):
        part.flags.writeable = False
    assert ssor_pcg(locked, B, omega=1.5).converged


@pytest.mark.usefixtures("way")
def test_the_preconditioner_is_symmetric_definite_and_set_anew():
    M = SSORPreconditioner(A, 1.2)
    for omega in OMEGAS:
        M.omega = omega
        found = M @ np.eye(42)
        inverse = (D + omega * L) @ np.linalg.inv(D) @ (D + omega * L).T / (omega * (2 - omega))
        np.testing.assert_allclose(found, np.linalg.inv(inverse), atol=1e-12)
        np.testing.assert_allclose(found, found.T, atol=1e-14)
        assert np.linalg.eigvalsh(found).min() > 0
    assert scipy_cg(A, B, M=M, rtol=1e-8)[1] == 0
    again = pickle.loads(pickle.dumps(M))
    np.testing.assert_array_equal(again @ B, M @ B)
    np.testing.assert_allclose(M @ (B + 2j * B), (1 + 2j) * (M @ B))
    uneven = SSORPreconditioner(lopsided(), 1.2)
    np.testing.assert_allclose(uneven.H @ np.eye(42), (uneven @ np.eye(42)).T, atol=1e-14)
    assert gmres(lopsided(), B, M=uneven)[1] == 0
    with pytest.raises(ValueError, match="omega"):
        M.omega = 2


@pytest.mark.usefixtures("untyped", "way")
@pytest.mark.parametrize("solve", [sor, ssor, ssor_pcg])
def test_bad_systems_are_refused(solve):
    for omega in (0.0, 2.0, -1, math.nan):
        with pytest.raises(ValueError, match="omega"):
            solve(A, B, omega=omega)
    hollow = DENSE.copy()
    hollow[3, 3] = 0
    with pytest.raises(ValueError, match=r"A has 1 zeros on its diagonal|A is not positive definite"):
        solve(hollow, B, omega=1.0)
    with pytest.raises(TypeError, match="A is a linear operator"):
        solve(SSORPreconditioner(A), B, omega=1.0)


@pytest.mark.usefixtures("way")
def test_what_does_not_converge_says_so():
    indefinite = DENSE - 3 * np.eye(42)
    with pytest.raises(ValueError, match="A is no matrix for this method: the residual overflowed"):
        sor(indefinite, B, omega=1.5)
    with pytest.raises(ValueError, match="A is not positive definite"):
        ssor_pcg(indefinite, B, omega=1.5)
    with pytest.raises(ValueError, match="A is not Hermitian"):
        ssor_pcg(DENSE + np.triu(np.ones((42, 42)), 1), B, omega=1.5, maxiter=50)
    stuck = sor(DENSE.astype(np.float32), B.astype(np.float32), omega=1.5, rtol=1e-12)
    assert not stuck.converged
    assert stuck.iterations < 1000  # it doesn't sweep on where rounding leaves nothing to gain


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("solve", [sor, ssor, ssor_pcg])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_right_hand_sides_whose_squares_leave_the_range(solve, size):
    seen, usual = [], solve(A, B, omega=1.3)
    for matrix in (A, sparse.csr_array(A * size)):
        result = solve(matrix, B * size, omega=1.3, callback=lambda x: seen.append(x.copy()))
        assert (result.info, result.iterations) == (0, usual.iterations)
        np.testing.assert_array_equal(seen[-1], result.x)
        residual = B - matrix @ (result.x / size)
        assert result.residual_norms[-1] / size == pytest.approx(np.linalg.norm(residual), rel=1e-4)
    assert solve(A, B * size, omega=1.3, rtol=0.0, atol=1e-3 * size).iterations < usual.iterations


@pytest.mark.usefixtures("way")
def test_a_tolerance_below_rounding_is_not_laid_on_the_matrix():
    result = ssor_pcg(A, B, omega=1.3, rtol=0.0)
    assert not result.converged
    np.testing.assert_allclose(result.x, np.linalg.solve(DENSE, B), rtol=1e-12)


@pytest.mark.usefixtures("untyped", "way")
@pytest.mark.parametrize("solve", [sor, ssor, ssor_pcg])
def test_a_parameter_is_a_number_of_full_precision(solve):
    expected = solve(A, B, omega=1.5)
    for omega in (np.float32(1.5), np.float64(1.5), np.array(1.5)):
        np.testing.assert_array_equal(solve(A, B, omega=omega).x, expected.x)
    assert solve(A, B, omega=1.5, maxiter=10**12).iterations == expected.iterations
    slow = solve(A, B, omega=1e-3, maxiter=3000, rtol=1e-12)  # over several calls of the loop
    assert slow.iterations == (3000 if solve is not ssor_pcg else slow.iterations)
    for omega in (0.0, 2.0, math.nan):
        with pytest.raises(ValueError, match="omega"):
            Splitting(A, omega)


def test_conjugate_gradients_begin_again_where_the_recursion_has_lost_its_way():
    # At this condition number the recursion's residual goes on to fall after that of the solution has stopped.
    hilbert = 1 / (1 + np.arange(10) + np.arange(10)[:, None])
    x = np.zeros(10)
    result = cg(hilbert, np.ones(10), rtol=1e-10, maxiter=10_000)
    x, info = result
    residual = np.linalg.norm(np.ones(10) - hilbert @ x)
    assert residual == pytest.approx(result.residual_norms[-1])
    assert (info == 0) == (residual <= 1e-10 * np.sqrt(10) * (1 + 1e-6))


def test_youngs_formulas():
    for shape in ((5, 4), (24, 20)):  # by dense eigenvalues and by Lanczos
        beta = (math.cos(math.pi / (shape[0] + 1)) + math.cos(math.pi / (shape[1] + 1))) / 2
        assert jacobi_radius(laplacian(shape)) == pytest.approx(beta, abs=1e-9)
    beta = jacobi_radius(A)
    best = optimal_omega(A)
    assert best == pytest.approx(2 / (1 + math.sqrt(1 - beta**2)))
    omegas = np.array([0.5, 1.0, 1.2, best - 0.02, best + 0.02, 1.9])
    measured = [abs(np.linalg.eigvals(np.eye(42) - DENSE @ np.linalg.inv(D / omega + L))).max() for omega in omegas]
    np.testing.assert_allclose(sor_radius(beta, omegas), measured, atol=1e-8)
    assert sor_radius(0.0, 1.0) == 0


def test_bounds_are_above_the_counts():
    omegas = np.linspace(1, 1.9, 10)
    counts = [sor(A, B, omega=omega).iterations for omega in omegas]
    bound = near_asymptotic_bound(jacobi_radius(A), omegas, estimate_tau(A, omegas, counts))
    assert (counts < bound).all()
    assert (counts < energy_bound(A, omegas)).all()
    assert ([ssor_pcg(A, B, omega=omega).iterations for omega in omegas] < pcg_bound(A, omegas)).all()


def test_the_condition_number_of_the_bound_is_not_below_the_true_one():
    for omega in OMEGAS:
        values = np.linalg.eigvals((SSORPreconditioner(A, omega) @ np.eye(42)) @ DENSE).real
        # The bound of a given condition number is that of Chebyshev's polynomials.
        kappa, plain = values.max() / values.min(), np.linalg.cond(DENSE)
        least = math.log(math.sqrt(plain) / 1e-8 + math.sqrt(plain / 1e-16 - 1))
        assert pcg_bound(A, omega) >= 1 + least / -math.log(1 - 2 / (1 + math.sqrt(kappa))) - 1e-9


def test_the_regret_bound_by_hand():
    alphas = np.array([0.8, 0.9])
    ends = -math.log(1e-8) / 10 * (1 / math.log(0.8) ** 2 + 1 / math.log(0.9) ** 2)
    assert regret_bound(alphas, 10, 50.0) == pytest.approx(2 * 50 * math.sqrt(40) + ends)
    assert regret_bound(alphas, 10, 50.0, anytime=True) == pytest.approx(4 * 50 * math.sqrt(20) + 1 + ends)


@given(
    st.lists(st.floats(0, 1e8), min_size=1, max_size=50),
    st.floats(1e-3, 2),
    st.floats(-1e8, 1e8),
)
@settings(max_examples=60, deadline=None)
def test_the_probabilities_are_those_of_the_minimum(costs, eta, shift):
    costs = np.array(costs) + shift
    p = _minimise(costs, eta)
    assert p.sum() == pytest.approx(1, abs=1e-10)
    # At the minimum <costs, p> - (4/eta) sum sqrt(p) changes by the same for all: costs - 2 / (eta sqrt(p)).
    slopes = costs - costs.min() - 2 / (eta * np.sqrt(p))
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-7, atol=1e-7 * (1 + abs(slopes).max()))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_least_squares_in_a_box_are_scipys(seed, n, lost):
    rng = np.random.default_rng(seed)
    matrix, target, box = rng.normal(size=(n + 1, n)), rng.normal(size=n + 1), rng.uniform(0.01, 0.5, n)
    matrix[:, : min(lost, n - 1)] = 0  # rank lost
    found = box_least_squares(matrix, target, box)
    assert (abs(found) <= box * (1 + 1e-12)).all()
    best = lsq_linear(matrix, target, (-box, box), tol=1e-14)
    assert np.linalg.norm(matrix @ found - target) ** 2 <= 2 * best.cost * (1 + 1e-8) + 1e-14


@pytest.mark.parametrize("estimator", ["importance_weighted", "reduced_variance"])
def test_estimates_of_costs_have_no_bias(estimator):
    arms, true = [1.0, 1.3, 1.6], np.array([30.0, 20.0, 50.0])
    estimates = []
    for seed in range(600):
        bandit = TsallisINF(arms, horizon=30, normalizer=40.0, estimator=estimator, random_state=seed)
        for _ in range(2):
            bandit.update(true[arms.index(bandit.predict())])
        estimates.append(bandit._costs / 2)
    deviations = (np.mean(estimates, 0) - (true - 1)) / (np.std(estimates, 0) / math.sqrt(len(estimates)))
    assert abs(deviations).max() < 4


def test_chebcb_refits_as_least_squares_over_all_rounds_would():
    rng = np.random.default_rng(0)
    bandit = ChebCB([1.0, 1.5], degree=3, low=-1.0, high=1.0, random_state=0)
    contexts, seen = rng.uniform(-1, 1, 60), {1.0: [], 1.5: []}
    for context in contexts:
        arm = bandit.predict(context)
        cost = 20 + 10 * arm * context + rng.normal()
        bandit.update(cost)
        seen[arm].append((context, cost))
    for number, arm in enumerate((1.0, 1.5)):
        x, costs = np.array(seen[arm]).T
        features = np.polynomial.chebyshev.chebvander(x, 3)
        everything = np.array([cost for _, cost in bandit.history_])
        spread = everything.max() - everything.min()
        share = 2 + 4 * spread / everything.max() * (1 + math.log(4))
        scale = share * everything.max()
        box = np.array([1 / share, *(2 * spread / scale / np.arange(1, 4))])
        expected = lsq_linear(features, (costs - 1) / scale, (-box, box), tol=1e-14).x
        np.testing.assert_allclose(bandit._theta[number], expected, atol=1e-7)
    assert bandit._scale == pytest.approx(scale)


def test_contexts_go_to_their_bins():
    bandit = BinnedBandit([1.0], 4, low=0.0, high=8.0)
    assert [bandit._check_context(c) for c in (0.0, 2.0, 2.1, 4.0, 7.9, 8.0)] == [0, 0, 1, 1, 3, 3]


def test_a_sequence_is_solved_and_learnt_from():
    rng = np.random.default_rng(0)
    solver = AdaptiveSolver(sor, TsallisINF([1.0, 1.5, 1.95], random_state=0))
    systems = [(A, rng.normal(size=42)) for _ in range(300)]
    results = list(solver.solve_sequence(systems, rtol=1e-6))
    assert all(result.converged for result in results)
    assert [cost for _, cost in solver.bandit.history_] == [result.iterations for result in results]
    assert solver.bandit.counts_.argmax() == 1
    warm = AdaptiveSolver(ssor_pcg, ChebCB(low=0.0, high=1.0, random_state=0))
    again = list(warm.solve_sequence([(A, B, 0.5)] * 3, warm_start=True))
    assert [result.iterations for result in again[1:]] == [0, 0]
    assert [cost for _, cost in warm.bandit.history_[1:]] == [1, 1]


def test_any_solver_and_parameter_and_costs_at_the_cap():
    def other(A, b, x0=None, *, restart):
        return scipy_cg(A, b, x0, maxiter=int(restart))

    solver = AdaptiveSolver(other, TsallisINF([2.0, 50.0], random_state=0), "restart", cost=lambda pair: 7.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        infos = [solver.solve(A, B)[1] for _ in range(20)]
    assert len(caught) == sum(info != 0 for info in infos) > 0
    assert "did not reach its tolerance with restart = 2" in str(caught[0].message)
    counts = iter([10, 10, 10_000])

    def slow(A, b, x0=None, *, omega):
        count = next(counts)
        return SolveResult(b, int(count > 10), [1.0] * (count + 1))

    solver = AdaptiveSolver(slow, TsallisINF(random_state=0), cap_ratio=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            solver.solve(A, B)
    assert [cost for _, cost in solver.bandit.history_] == [10, 10, 200]
    with pytest.raises(TypeError, match="cost takes a function"):
        AdaptiveSolver(lambda A, b, x0, omega: scipy_cg(A, b), TsallisINF()).solve(A, B)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jacobi_radius(-DENSE), "A has a diagonal"),
        (lambda: optimal_omega(1.0), "beta"),
        (lambda: sor_radius(0.5, 2.5), "omega"),
        (lambda: near_asymptotic_bound(0.5, 1.0, 1.0), "tau"),
        (lambda: near_asymptotic_bound(0.5, 1.0, 0.1, 2.0), "rtol"),
        (lambda: estimate_tau(A, [1.0], [2, 3]), "counts"),
        (lambda: estimate_tau(A, [1.0], [1]), "counts"),
        (lambda: pcg_bound(DENSE - 3 * np.eye(42), 1.0), "A is not positive definite"),
        (lambda: regret_bound([1.0], 3, 2.0), "alphas"),
        (lambda: TsallisINF(horizon=0), "horizon"),
        (lambda: TsallisINF(normalizer=-1.0), "normalizer"),
        (lambda: TsallisINF(estimator="best"), "estimator"),
        (lambda: BinnedBandit(n_bins=0, low=0.0, high=1.0), "n_bins"),
        (lambda: ChebCB(degree=-1, low=0.0, high=1.0), "degree"),
        (lambda: AdaptiveSolver(sor, TsallisINF(), cap_ratio=0.5), "cap_ratio"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
