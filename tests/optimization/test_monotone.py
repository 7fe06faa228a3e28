"""Monotone inclusions: rates, exact limits, unbiased components, counts, restarts, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, lsq_linear
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

from paperworks.optimization import (
    BilinearGame,
    FiniteSumOperator,
    LeastSquaresOperator,
    RobustRegressionGame,
    anchored_extragradient,
    expected_cocoercivity,
    extragradient,
    extragradient_vr,
    game_gap,
    halpern,
    halpern_vr,
    natural_residual,
    operator_residual,
    prox_box,
    prox_l1,
    prox_simplex,
)

pytestmark = pytest.mark.filterwarnings("ignore:sqrt:UserWarning")

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(60, 4)), RNG.normal(size=60)
GAME = RNG.normal(size=(7, 5))
SUMS = {
    "least squares": lambda sampling: LeastSquaresOperator(A, B, ridge=0.1, sampling=sampling),
    "game": lambda sampling: BilinearGame(GAME, sampling=sampling),
    "robust regression": lambda sampling: RobustRegressionGame(A, B, budget=0.2, ridge=0.1, sampling=sampling),
}


def components(F):
    """Each component with its probability."""
    if isinstance(F, BilinearGame):
        p, c = (np.full(law.n, 1 / law.n) if law.p is None else law.p for law in (F.rows, F.columns))
        for i, j in itertools.product(range(len(p)), range(len(c))):
            yield (np.array([i]), np.array([j])), p[i] * c[j]
    else:
        p = np.full(F.n, 1 / F.n) if F.law.p is None else F.law.p
        for i in range(F.n):
            yield np.array([i]), p[i]


@pytest.mark.parametrize("sampling", ["importance", "uniform"])
@pytest.mark.parametrize("name", SUMS)
def test_components_are_unbiased_and_their_constants_bound_them(name, sampling):
    F = SUMS[name](sampling)
    u, v = RNG.normal(size=(2, F.size))
    mean = sum(p * F.batch(u, index) for index, p in components(F))
    np.testing.assert_allclose(mean, F(u), atol=1e-12)
    for _ in range(20):
        u, v = RNG.normal(size=(2, F.size))
        drawn = [(F.batch_difference(u, v, index), p) for index, p in components(F)]
        np.testing.assert_allclose(drawn[3][0], F.batch(u, i := next(itertools.islice(components(F), 3, 4))[0])
                                   - F.batch(v, i), atol=1e-12)  # fmt: skip
        square = sum(p * float(d @ d) for d, p in drawn)
        step = F(u) - F(v)
        assert np.linalg.norm(step) <= F.L_F * np.linalg.norm(u - v) * (1 + 1e-12)
        if name == "least squares":
            assert square <= F.L * float(step @ (u - v)) * (1 + 1e-12)
        else:
            assert square <= F.L**2 * float((u - v) @ (u - v)) * (1 + 1e-12)
            assert step @ (u - v) >= -1e-12
    assert F.L_F <= F.L * (1 + 1e-12)


def test_draws_follow_their_probabilities():
    F = LeastSquaresOperator(np.diag([1.0, 2.0, 0.0, 3.0]), np.zeros(4))
    counts = np.bincount(F.sample(20_000, np.random.default_rng(0)), minlength=4) / 20_000
    np.testing.assert_allclose(counts, np.array([1, 4, 0, 9]) / 14, atol=0.02)
    assert pytest.approx(14 / 4) == F.L
    assert expected_cocoercivity(F, pairs=3, random_state=0) <= F.L * 1.1


def test_exact_halpern_on_a_resolvent_has_its_rate():
    for _ in range(100):
        skew = RNG.normal(size=(6, 6))
        J = np.linalg.inv(np.eye(6) + skew - skew.T)
        u0, worst = RNG.normal(size=6), 0.0
        # The resolvent is the forward step of the cocoercive operator I - J.
        found = halpern(lambda u, J=J: u - J @ u, u0, L=1.0, eta=1.0, atol=0, max_passes=60)
        for k, residual in enumerate(found.residual_history):
            worst = max(worst, residual * (k + 1) / (2 * np.linalg.norm(u0)))
        assert worst <= 1 + 1e-12


def test_whole_batches_are_the_deterministic_iteration():
    F, u0 = LeastSquaresOperator(A, B), RNG.normal(size=4)
    points = []
    halpern_vr(F, u0, G="cocoercive", batch_size=F.n, max_passes=30, atol=0, callback=lambda r: points.append(r.x))
    u = u0
    for k, point in enumerate(points, start=1):
        u = 2 / (k + 4) * u0 + (1 - 2 / (k + 4)) * u - F(u) / (4 * F.L)
        np.testing.assert_allclose(point, u, rtol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_the_last_iterate_has_its_rate(seed):
    rng = np.random.default_rng(seed)
    rows = 1 + 0.4 * rng.normal(size=(2500, 6))
    F = LeastSquaresOperator(rows, rows @ rng.normal(size=6))
    end, worst = np.linalg.lstsq(F.A, F.b, rcond=None)[0], []

    def follow(r):
        worst.append((r.nit + 4) * np.linalg.norm(F(r.x)) / (F.L * np.linalg.norm(end)))

    halpern_vr(F, np.zeros(6), G="cocoercive", atol=0, max_passes=60, callback=follow, random_state=seed)
    assert max(worst) < 8
    assert len(worst) > 300


def test_a_success_is_a_residual_that_holds():
    rows = 1 + 0.3 * RNG.normal(size=(40_000, 5))
    F = LeastSquaresOperator(rows, rows @ np.arange(5.0))
    found = halpern_vr(F, np.zeros(5), G="cocoercive", eta=1 / F.L, atol=0.05, random_state=0)
    assert found.success
    assert found.residual == pytest.approx(np.linalg.norm(F(found.x)))
    assert found.residual <= 0.05
    assert found.nfev == found.nfev_history[-1]
    assert found.npasses == found.nfev / F.n
    assert len(found.residual_history) == found.nit
    assert found.npasses < halpern(F, np.zeros(5), atol=0.05, max_passes=1000).npasses


def test_evaluations_are_counted_as_they_are_made():
    calls = {"whole": 0, "parts": 0}

    def whole(u):
        calls["whole"] += 1
        return F(u)

    def part(u, index):
        calls["parts"] += len(index)
        return F.batch(u, index)

    F = LeastSquaresOperator(A, B, sampling="uniform")
    for G in ("cocoercive", "monotone_lipschitz"):
        calls.update(whole=0, parts=0)
        found = halpern_vr(whole, np.zeros(4), F_batch=part, n=60, L=F.L, G=G, random_state=1, max_passes=50)
        assert found.nfev == 60 * calls["whole"] + calls["parts"]


@pytest.mark.parametrize("solver", [halpern_vr, anchored_extragradient, extragradient, extragradient_vr])
def test_games_are_solved_to_their_value(solver):
    game = BilinearGame(GAME)
    seed = {"random_state": 0} if solver in (halpern_vr, extragradient_vr) else {}
    start = np.concatenate([np.full(5, 1 / 5), np.full(7, 1 / 7)])
    found = solver(game, start, atol=0.02, max_passes=20_000, **seed)
    assert found.success, found.message
    x, y = game.split(found.x)
    assert game_gap(GAME, x, y) < 0.05
    # The value of the game, by linear programming.
    cost = np.append(np.zeros(5), 1.0)
    exact = linprog(cost, A_ub=np.c_[GAME, -np.ones(7)], b_ub=np.zeros(7), A_eq=[[1.0] * 5 + [0.0]], b_eq=[1],
                    bounds=[(0, None)] * 5 + [(None, None)])  # fmt: skip
    assert y @ GAME @ x == pytest.approx(exact.fun, abs=0.05)


@pytest.mark.parametrize("inner", ["theory", "adaptive", lambda k: 500])
def test_inner_rules_reach_the_same_solution(inner):
    F = RobustRegressionGame(A, B, budget=0.2, ridge=0.1)
    found = halpern_vr(F, np.zeros(8), inner_steps=inner, atol=5e-3, max_passes=5000, random_state=0)
    assert found.success
    assert natural_residual(F, F.resolvent, found.x, 0.1) < 1e-2
    assert (abs(found.x[4:]) <= 0.2 + 1e-12).all()


def test_constraints_end_where_another_solver_does():
    F = LeastSquaresOperator(A, 5 * B)
    expected = lsq_linear(A, 5 * B, bounds=(0, np.inf), tol=1e-12).x
    for options in ({"G": "cocoercive", "restart": "adaptive", "random_state": 0}, {"restart": 20, "random_state": 0}):
        found = halpern_vr(F, np.zeros(4), resolvent=prox_box, atol=1e-5, max_passes=50_000, **options)
        assert found.success
        np.testing.assert_allclose(found.x, expected, atol=1e-4)


def test_restarts_make_strongly_monotone_problems_linear():
    F = LeastSquaresOperator(A, B, ridge=0.5)
    plain, restarted = (
        halpern_vr(F, np.zeros(4), G="cocoercive", atol=1e-8, max_passes=1500, restart=rule, random_state=0)
        for rule in (None, "adaptive")
    )
    assert restarted.success
    assert not plain.success
    np.testing.assert_allclose(restarted.x, np.linalg.solve(A.T @ A / 60 + np.eye(4) / 2, A.T @ B / 60), atol=1e-7)


def test_l1_has_its_known_solution():
    F = LeastSquaresOperator(np.eye(4) * 2, np.array([2.0, 0.1, -3.0, 0.0]))
    found = halpern_vr(F, np.zeros(4), resolvent=lambda v, s: prox_l1(v, s, weight=0.25), G="cocoercive",
                       atol=1e-9, max_passes=20_000, restart="adaptive", random_state=0)  # fmt: skip
    # x = S(A^T b / 4, w) / (A^T A / 4) entry by entry.
    np.testing.assert_allclose(found.x, [0.75, 0.0, -1.25, 0.0], atol=1e-8)


def test_adaptive_batches_need_no_whole_evaluation():
    class Stream(LeastSquaresOperator):
        def __call__(self, u):
            raise AssertionError("a stream has no whole")

    rows = 1 + 0.2 * RNG.normal(size=(2000, 3))
    F, noise = Stream(rows, rows @ np.ones(3)), 0.05
    found = halpern_vr(F, np.zeros(3), G="cocoercive", page_batches="adaptive", variance=noise, atol=0.0,
                       max_passes=200, random_state=0)  # fmt: skip
    assert np.linalg.norm(LeastSquaresOperator.__call__(F, found.x)) < 0.1


def test_torch_and_numpy_walk_alike():
    F = LeastSquaresOperator(A, B, sampling="uniform")
    T, b = torch.from_numpy(A), torch.from_numpy(B)

    def whole(u):
        return (T @ u - b) @ T / 60

    def part(u, index):
        return (T[index] @ u - b[index]) @ T[index] / len(index)

    for G in ("cocoercive", "monotone_lipschitz"):
        options = {"G": G, "max_passes": 20, "random_state": 3, "atol": 1e-12, "L": F.L, "n": 60}
        ours = halpern_vr(F, np.zeros(4), **options)
        theirs = halpern_vr(whole, torch.zeros(4, dtype=torch.float64), F_batch=part, **options)
        assert isinstance(theirs.x, torch.Tensor)
        if G == "cocoercive":
            np.testing.assert_allclose(theirs.x.numpy(), ours.x, atol=1e-12)
    half = halpern_vr(lambda u: u, torch.ones(3, dtype=torch.float32), F_batch=lambda u, i: u, n=4, L=1.0)
    assert half.x.dtype == torch.float32


def test_a_start_of_whole_numbers_is_taken_and_left():
    u0 = np.array([1, 2, 3, 4])
    halpern_vr(LeastSquaresOperator(A, B), u0, G="cocoercive", max_passes=5)
    assert u0.tolist() == [1, 2, 3, 4]


def test_a_residual_is_that_of_the_point_it_comes_with():
    F = LeastSquaresOperator(A, B)
    u, residual = operator_residual(F, prox_box, RNG.normal(size=4), 0.3)
    g = -F(u)  # where an entry is positive, g is 0 there
    assert residual >= np.linalg.norm(F(u)[u > 0]) - 1e-12
    assert natural_residual(F, prox_box, np.maximum(g, 0), 0.3) >= 0
    assert natural_residual(F, None, u, 1.0) == pytest.approx(np.linalg.norm(F(u)))


def test_a_callback_stops():
    def stop(result):
        if result.nit == 3:
            raise StopIteration

    found = halpern_vr(LeastSquaresOperator(A, B), np.zeros(4), G="cocoercive", callback=stop, atol=0)
    assert (found.nit, found.status, found.success) == (3, 2, False)


def test_what_promises_nothing_is_warned_of():
    with pytest.warns(UserWarning, match="sqrt"):
        halpern_vr(LeastSquaresOperator(A, B), np.zeros(4), G="cocoercive", max_passes=2)
    with pytest.warns(RuntimeWarning, match="L may be too small"):
        halpern_vr(lambda u: 30 * u, np.ones(3), F_batch=lambda u, i: 30 * u, n=9, L=1.0, G="cocoercive", max_passes=50)
    with pytest.warns(RuntimeWarning, match="cohypomonotonicity"):
        halpern_vr(lambda u: u, np.ones(3), F_batch=lambda u, i: u, n=9, L=1.0, cohypomonotonicity=9.0, max_passes=2)


F0 = LeastSquaresOperator(A, B)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"L": 0}, ValueError, "L is 0"),
        ({"L": -1.0}, ValueError, "L is -1"),
        ({"n": 0}, ValueError, "n is 0"),
        ({"batch_size": 61}, ValueError, "batch_size is 61"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"eta": -1.0}, ValueError, "eta is -1"),
        ({"G": "cocoercive", "eta": 100.0}, ValueError, "eta is 100"),
        ({"G": "convex"}, ValueError, "G is 'convex'"),
        ({"atol": math.nan}, ValueError, "atol is nan"),
        ({"max_passes": 0}, ValueError, "max_passes is 0"),
        ({"restart": "often"}, ValueError, "restart is 'often'"),
        ({"restart_factor": 1.0}, ValueError, "restart_factor is 1"),
        ({"inner_steps": "few"}, ValueError, "inner_steps is 'few'"),
        ({"G": "cocoercive", "page_batches": "adaptive"}, TypeError, "variance is None"),
        ({"callback": 3}, TypeError, "callback is int"),
        ({"u0": np.zeros(3)}, ValueError, "u0 has 3 entries"),
        ({"u0": np.zeros((2, 2))}, ValueError, "u0 has shape"),
        ({"u0": np.full(4, np.nan)}, ValueError, "u0 has entries"),
        ({"u0": [0.0] * 4}, TypeError, "u0 is list"),
        ({"u0": torch.zeros(4)}, TypeError, "u0 is a torch tensor"),
        ({"F": lambda u: u * np.nan, "F_batch": lambda u, i: u, "L": 1.0, "n": 4}, ValueError, "F returned entries"),
        (
            {"F": lambda u: u[:2], "F_batch": lambda u, i: u, "L": 1.0, "n": 4},
            ValueError,
            "F returned ndarray",
        ),
        ({"F": lambda u: u, "L": 1.0, "n": 4}, TypeError, "F_batch is missing"),
        ({"F": lambda u: u, "F_batch": lambda u, i: u, "n": 4}, TypeError, "L is missing"),
        ({"F": lambda u: u, "F_batch": lambda u, i: u, "L": 1.0}, TypeError, "n is missing"),
        ({"F": 3}, TypeError, "F is int"),
    ],
)
def test_bad_input_is_named(options, error, message):
    given = {"F": F0, "u0": np.zeros(4), "max_passes": 3, **options}
    with pytest.raises(error, match=message):
        halpern_vr(given.pop("F"), given.pop("u0"), **given)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeastSquaresOperator(A, B[:3]), "A has 60 rows"),
        (lambda: LeastSquaresOperator(A * np.inf, B), "A has entries"),
        (lambda: LeastSquaresOperator(A, B, sampling="some"), "sampling is 'some'"),
        (lambda: LeastSquaresOperator(0 * A, B), "A has only zeros"),
        (lambda: BilinearGame(np.zeros((2, 2))), "A has only zeros"),
        (lambda: BilinearGame(np.ones(3)), "A has shape"),
        (lambda: RobustRegressionGame(A, B, budget=0.1, price=1.0), "price is 1"),
        (lambda: RobustRegressionGame(A, B, budget=0.0), "budget is 0"),
        (lambda: game_gap(GAME, np.ones(5), np.full(7, 1 / 7)), "x is no mixed strategy"),
        (lambda: game_gap(GAME, np.ones(7), np.ones(5)), "A has shape"),
    ],
)
def test_bad_problems_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("wrap", [csr_array, aslinearoperator])
def test_matrices_whose_rows_can_not_be_drawn_are_named(wrap):
    with pytest.raises(TypeError, match="it takes a dense array"):
        LeastSquaresOperator(wrap(A), B)


def test_problems_are_finite_sums():
    assert all(isinstance(make("uniform"), FiniteSumOperator) for make in SUMS.values())
    assert BilinearGame(GAME, constraints=None).resolvent is None
    assert prox_simplex(np.ones(4)).sum() == 1
