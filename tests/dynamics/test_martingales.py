"""Values in continuous time: identities, exact answers, every kind of path and family, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.dynamics import (
    CGTD,
    CLSTD,
    CTD,
    LinearValue,
    MartingaleLoss,
    TorchValue,
    Trajectories,
    collect,
    martingale_increments,
    martingale_loss,
    mesh_study,
    mstde_loss,
    orthogonality_residual,
)
from paperworks.testbeds import BrownianTerminal, CallOption, MeanVariance, OUDiscounted, OUQuadratic

OU = OUQuadratic()


def family(horizon=1.0):
    return LinearValue(OU.features, OU.offset, horizon)


@pytest.mark.parametrize(
    "problem", [BrownianTerminal(), OUQuadratic(), CallOption(), MeanVariance()], ids=lambda p: type(p).__name__
)
def test_the_true_value_makes_a_martingale(problem):
    paths = problem.sample(4000, 50, random_state=0)
    increments = martingale_increments(problem.value, paths)
    sums = increments.sum(1)
    # Rewards at left ends add an error of first order in the step, which is small beside this.
    assert abs(sums.mean()) < 4 * sums.std() / math.sqrt(len(sums)) + 0.01
    assert np.corrcoef(increments[:, 10], increments[:, 30])[0, 1] == pytest.approx(0, abs=0.1)


def test_the_value_of_the_process_for_ever_solves_its_equation():
    problem, x = OUDiscounted(), np.linspace(-1, 1, 5)
    square, constant = problem.theta
    drift = -problem.k * x * 2 * square * x + problem.s**2 * square
    np.testing.assert_allclose(drift - problem.q * x**2 - problem.beta * (square * x**2 + constant), 0, atol=1e-14)


def test_estimates_approach_the_truth():
    paths = OU.sample(20_000, 100, random_state=0)
    for estimator in (CLSTD(family()), CLSTD(family(), lam=0.2), MartingaleLoss(family()), CGTD(family(), "gtd2")):
        found = estimator.fit(paths)
        t = np.broadcast_to(paths.t, paths.x.shape)[:500]
        assert np.abs(found.predict(t, paths.x[:500]) - OU.value(t, paths.x[:500])).max() < 0.05
    assert np.abs(CLSTD(family()).fit(paths).theta_ - OU.theta).max() < 0.01


def test_irregular_grids_discounts_and_ragged_paths_are_one_thing():
    """Paths cut to pieces, on grids of their own, give the equations of the whole."""
    rng, problem = np.random.default_rng(0), OUDiscounted()
    paths = problem.sample(6, 400, 0.05, random_state=0)
    value = LinearValue(problem.features)
    whole = CLSTD(value).fit(paths).theta_
    cuts = np.sort(rng.choice(np.arange(20, 380), 3, replace=False)).tolist()
    t, x, r = [], [], []
    for k in range(6):
        for a, b in zip([0, *cuts], [*cuts, 400], strict=True):
            t.append(paths.t[0, a : b + 1])
            x.append(paths.x[k, a : b + 1])
            r.append(paths.income[k, a:b] / paths.dt[0, a:b])
    pieces = Trajectories(t, x, r, discount=problem.beta)
    np.testing.assert_allclose(CLSTD(value).fit(pieces).theta_, whole, rtol=1e-10)
    assert martingale_increments(problem.value, pieces, discounted=False).sum() == pytest.approx(
        martingale_increments(problem.value, paths, discounted=False).sum()
    )
    # Each path on a grid of its own, integrated rewards instead of rates.
    keep = np.sort(rng.permuted(np.tile(np.arange(1, 400), (6, 1)), axis=1)[:, :100], axis=1)
    times = np.take_along_axis(np.broadcast_to(paths.t, paths.x.shape), keep, 1)
    states = np.take_along_axis(paths.x, keep, 1)
    rates = -(states[:, :-1] ** 2)
    by_rate = Trajectories(times, states, rates, discount=0.5)
    by_sum = Trajectories(times, states, rates * np.diff(times, axis=1), discount=0.5, integrated=True)
    np.testing.assert_allclose(CLSTD(value).fit(by_rate).theta_, CLSTD(value).fit(by_sum).theta_, rtol=1e-12)
    np.testing.assert_allclose(by_rate.returns(), by_sum.returns())


def test_the_fast_equations_are_the_general_ones():
    for paths in (OU.sample(30, 20, random_state=1), OUDiscounted().sample(30, 20, 0.1, random_state=1)):
        value = LinearValue(lambda t, x: np.stack([x**2 + t, np.ones_like(x), x], -1), lambda t, x: -2 * x**2)
        fast = CLSTD(value).fit(paths).theta_
        general = CLSTD(value, test=value.features).fit(paths).theta_
        np.testing.assert_allclose(fast, general, rtol=1e-8)


def test_ctd_1_is_the_gradient_of_the_loss():
    value, path = family(), OU.sample(1, 40, random_state=0)
    value.theta = np.array([0.3, -1.0, 0.5])
    step = CTD(value, 1.0, "offline", lr=lambda k: 1.0, averaging=False).fit(path).theta_ - value.theta
    eps, numeric = 1e-6, []
    for axis in np.eye(3):
        ends = []
        for sign in (1, -1):
            other = family()
            other.theta = value.theta + sign * eps * axis
            ends.append(martingale_loss(other, path))
        numeric.append(-(ends[0] - ends[1]) / (2 * eps))
    np.testing.assert_allclose(step, numeric, rtol=1e-6)
    assert value.theta.tolist() == [0.3, -1.0, 0.5]  # what was given stays as it was


def test_traces_decay_by_time_and_not_by_step():
    paths = OU.sample(2000, 200, random_state=0)
    coarse, fine = CLSTD(family(), lam=0.3).fit(paths.coarsened(4)).theta_, CLSTD(family(), lam=0.3).fit(paths).theta_
    np.testing.assert_allclose(coarse, fine, atol=0.06)


def test_the_squared_td_error_has_the_minimiser_of_the_quadratic_variation():
    problem = BrownianTerminal()
    paths, value = problem.sample(20_000, 100, random_state=0), LinearValue(problem.features, problem.value)
    losses = []
    for theta in (-1.6, -1.4851, -1.37, 0.0):
        value.theta = np.array([theta])
        losses.append(mstde_loss(value, paths))
    assert np.argmin(losses) == 1
    later = 1 - paths.t[0, 1:]
    exact = ((1 - 1.4851 * later) ** 2 + paths.t[0, :-1] * 1.4851**2 / 100).sum() / 2
    assert losses[1] == pytest.approx(exact, rel=0.01)
    assert abs(MartingaleLoss(value).fit(paths).theta_[0]) < 0.03


def test_networks_are_families_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    value = TorchValue(module, terminal=lambda x: -2 * x**2, horizon=1.0, stacked=True)
    paths = OU.sample(400, 25, random_state=0)
    before = value.theta.copy()
    trained = MartingaleLoss(value, lambda p: torch.optim.Adam(p, lr=2e-2), epochs=30, batch_size=500).fit(paths)
    t = np.broadcast_to(paths.t, paths.x.shape)
    assert np.sqrt(np.mean((trained.predict(t, paths.x) - OU.value(t, paths.x)) ** 2)) < 0.2
    np.testing.assert_array_equal(value.theta, before)
    np.testing.assert_allclose(trained.predict(np.ones(5), paths.x[:5, -1]), -2 * paths.x[:5, -1] ** 2)
    # Derivatives by the parameters are those of differences.
    gradient, eps = value.gradient(np.array([0.3, 0.6]), np.array([0.5, -0.2])), 1e-6
    for k in (0, 20, 64):
        ends = []
        for sign in (1, -1):
            moved = before.copy()
            moved[k] += sign * eps
            value.theta = moved
            ends.append(value(np.array([0.3, 0.6]), np.array([0.5, -0.2])))
        np.testing.assert_allclose(gradient[:, k], (ends[0] - ends[1]) / (2 * eps), atol=1e-8)
    value.theta = before
    for estimator in (CTD(value, 0.1, lr=0.05), CTD(value, 0.1, "offline", lr=0.05), CGTD(value, "gtd2", lr=0.05)):
        assert np.isfinite(estimator.fit(paths[:30]).theta_).all()


def test_a_linear_network_learns_online_as_the_linear_family():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, t, x):
            fall = 1 - torch.exp(-2 * (1 - t))
            return -2 * x**2 + torch.stack([x**2 * fall, 1 - t, fall], -1) @ self.theta

    paths = OU.sample(20, 30, random_state=0)
    for options in ({"lam": 0.0}, {"lam": 0.3}, {"lam": 0.3, "mode": "offline"}):
        network = CTD(TorchValue(Features()), lr=2.0, **options).fit(paths)
        np.testing.assert_allclose(network.theta_, CTD(family(), lr=2.0, **options).fit(paths).theta_, rtol=1e-9)


def test_learning_goes_on_where_it_stopped():
    paths = OU.sample(60, 30, random_state=0)
    once = CTD(family(), 0.2, lr=2.0, averaging=False).fit(paths).theta_
    parts = CTD(family(), 0.2, lr=2.0, averaging=False)
    for part in paths.parts(7):
        parts.partial_fit(part)
    np.testing.assert_allclose(parts.theta_, once)
    solved = CLSTD(family())
    for part in paths.parts(7):
        solved.partial_fit(part)
    np.testing.assert_allclose(solved.theta_, CLSTD(family()).fit(paths).theta_, rtol=1e-8)


def test_all_variants_of_cgtd_solve_the_same_equations_and_weigh_more_tests_differently():
    paths = OU.sample(2000, 50, random_state=0)
    solved = CLSTD(family()).fit(paths).theta_
    for variant in ("gtd0", "gtd2", "tdc"):
        np.testing.assert_allclose(CGTD(family(), variant).fit(paths).theta_, solved, atol=1e-7)
    more = lambda t, x: np.concatenate([OU.features(t, x), np.stack([x, x**4], -1)], -1)  # noqa: E731
    over = [CGTD(family(), variant, test=more).fit(paths).theta_ for variant in ("gtd0", "gtd2")]
    assert np.abs(over[0] - over[1]).max() > 1e-4
    for theta in over:
        np.testing.assert_allclose(theta, OU.theta, atol=0.2)


def test_orthogonality_tells_a_wrong_value_from_a_right_one():
    paths, value = OU.sample(3000, 200, random_state=0), family()
    value.theta = OU.theta
    right = orthogonality_residual(value, paths)
    assert right.dof == 3
    assert right.p_value > 1e-3
    value.theta = OU.theta * 0.7
    assert orthogonality_residual(value, paths).p_value < 1e-6
    at_truth = [
        orthogonality_residual(LinearValue(lambda t, x: np.stack([x, x**2], -1), BrownianTerminal().value), p).p_value
        for p in BrownianTerminal().sample(20_000, 10, random_state=1).parts(200)
    ]
    assert 0.3 < np.mean(at_truth) < 0.7  # uniform where the candidate is the value
    assert np.mean(np.array(at_truth) < 0.1) < 0.25


def test_mesh_study_extrapolates():
    study = mesh_study(CLSTD(family()), OU.sample(20_000, 80, random_state=0), (1, 2, 4))
    assert study.dt.tolist() == pytest.approx([1 / 80, 1 / 40, 1 / 20])
    errors = np.linalg.norm(study.theta - OU.theta, axis=1)
    assert errors[0] < errors[2]
    np.testing.assert_allclose(study.extrapolated, 2 * study.theta[0] - study.theta[1])


def test_paths_come_from_environments():
    gymnasium = pytest.importorskip("gymnasium")

    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.x, self.n = 0, 0
            return np.array([0.0]), {}

        def step(self, action):
            self.x += int(self.np_random.integers(2)) * 2 - 1
            self.n += 1
            return np.array([float(self.x)]), -0.1, abs(self.x) == 2, self.n == 100, {}

    paths = collect(Walk(), lambda observation: 0, dt=0.1, episodes=40, random_state=0)
    assert len(paths) == 40
    constant = LinearValue(lambda t, x: np.ones((*np.shape(t), 1)))
    found = CLSTD(constant, test=lambda t, x: (x[..., 0] == 0)[..., None].astype(float)).fit(paths)
    # From 0 it takes two steps in the half of cases, and is at 0 again else: four steps in the mean.
    assert MartingaleLoss(LinearValue(lambda t, x: (np.asarray(t) == 0)[..., None].astype(float))).fit(paths).theta_[
        0
    ] == pytest.approx(-0.1 * np.mean((~paths.ended).sum(1)))
    assert np.isfinite(found.theta_).all()


def test_singular_equations_are_solved_with_a_warning_and_ridge_heals_them():
    paths = OU.sample(50, 20, random_state=0)
    twice = LinearValue(lambda t, x: np.stack([1 - t, 1 - t], -1) + 0 * x[..., None], OU.offset)
    with pytest.warns(UserWarning, match="rank 1 among 2"):
        theta = CLSTD(twice).fit(paths).theta_
    assert theta[0] == pytest.approx(theta[1])
    assert CLSTD(twice, ridge=1e-6).fit(paths).theta_ == pytest.approx(theta, rel=1e-3)


GRID, ZEROS = np.linspace(0, 1, 5), np.zeros((3, 5))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Trajectories(GRID[::-1], ZEROS, ZEROS[:, 1:]), ValueError, "times that increase"),
        (lambda: Trajectories(GRID, ZEROS, ZEROS), ValueError, "r has shape"),
        (lambda: Trajectories(GRID[1:], ZEROS, ZEROS[:, 1:]), ValueError, "t has shape"),
        (lambda: Trajectories(GRID, ZEROS[0], ZEROS[0, 1:]), ValueError, "x has shape"),
        (lambda: Trajectories(GRID, ZEROS + math.nan, ZEROS[:, 1:]), ValueError, "x has 15 NaN"),
        (lambda: Trajectories(GRID, ZEROS, ZEROS[:, 1:], np.zeros(2)), ValueError, "terminal has shape"),
        (lambda: Trajectories(GRID, ZEROS, ZEROS[:, 1:], discount=-1.0), ValueError, "discount is -1"),
        (lambda: Trajectories([GRID, GRID], [GRID, GRID[:3]], [GRID[1:], GRID[:2]]), ValueError, "t has lengths"),
        (lambda: OU.sample(3, 10).coarsened(3), ValueError, "stride is 3"),
        (lambda: LinearValue(3), TypeError, "features is 3"),
        (lambda: TorchValue(nn.Linear(2, 1), terminal=torch.square), ValueError, "go together"),
        (lambda: CLSTD(family(), lam=1.5), ValueError, "lam is 1.5"),
        (lambda: CLSTD(TorchValue(nn.Linear(2, 1))), TypeError, "LinearValue"),
        (lambda: CTD(family(), mode="batch"), ValueError, "mode is 'batch'"),
        (lambda: CGTD(family(), "gtd1"), ValueError, "variant is 'gtd1'"),
        (lambda: MartingaleLoss(family(), "newton"), ValueError, "solver is 'newton'"),
        (lambda: CLSTD(family()).fit(ZEROS), TypeError, "Trajectories"),
        (lambda: CLSTD(family()).theta_, ValueError, "isn't fitted"),
        (lambda: CLSTD(family(2.0)).fit(OU.sample(5, 4)), ValueError, "at t = 2"),
        (
            lambda: CLSTD(LinearValue(lambda t, x: np.stack([x], -1), None, 1.0)).fit(OU.sample(5, 4)),
            ValueError,
            "vanish",
        ),
        (lambda: CLSTD(LinearValue(lambda t, x: x)).fit(OU.sample(5, 4)), ValueError, "one more axis"),
        (
            lambda: MartingaleLoss(LinearValue(OU.features)).fit(OUDiscounted().sample(2, 9, 0.1)),
            ValueError,
            "end before",
        ),
        (lambda: CTD(family(), lr=1e6).fit(OU.sample(50, 20)), ValueError, "lr is too large"),
        (lambda: mesh_study(CLSTD(family()), OU.sample(3, 8), (2,)), ValueError, "strides"),
        (lambda: martingale_increments(lambda t, x: x / 0, OU.sample(3, 8)), ValueError, "finite along the paths"),
        (lambda: martingale_increments(OU.value, OU.sample(3, 8), "heun"), ValueError, "scheme is 'heun'"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("make", [CLSTD, MartingaleLoss, CGTD, lambda f: CLSTD(f, 0.3), lambda f: CGTD(f, "gtd2")])
def test_fits_do_not_depend_on_the_scale_of_features(make, recwarn):
    problem, scale = OUQuadratic(), np.array([1e-8, 1.0, 1e8])
    paths = problem.sample(500, 20, random_state=0)
    plain = make(LinearValue(problem.features, problem.offset)).fit(paths).theta_
    scaled = make(LinearValue(lambda t, x: problem.features(t, x) * scale, problem.offset)).fit(paths).theta_
    np.testing.assert_allclose(scaled * scale, plain, rtol=1e-8)
    assert not recwarn


def test_the_test_of_a_candidate_does_not_depend_on_the_scale_of_features():
    problem, found = OUQuadratic(), []
    paths = problem.sample(500, 20, random_state=0)
    for scale in (np.ones(3), np.array([1e-8, 1.0, 1e8])):
        family = LinearValue(lambda t, x, scale=scale: problem.features(t, x) * scale, problem.offset)
        family.theta = problem.theta / scale
        result = orthogonality_residual(family, paths)
        found.append((result.chi2, result.dof))
    assert found[1] == (pytest.approx(found[0][0], rel=1e-8), 3)
    with pytest.raises(ValueError, match="more than the 3 test functions"):
        orthogonality_residual(family, paths[:3])


def test_huge_rewards_are_no_divergence_and_divergence_is_one_for_every_solver():
    problem = OUQuadratic()
    paths = problem.sample(50, 20, random_state=0)
    huge = Trajectories(paths.t[0], paths.x, 1e20 * -(paths.x[:, :-1] ** 2), 1e20 * paths.terminal)
    family = LinearValue(problem.features, problem.offset)
    large = LinearValue(problem.features, lambda t, x: 1e20 * problem.offset(t, x))
    for make in (CTD, lambda f: CGTD(f, lr=1.0), lambda f: MartingaleLoss(f, "sgd")):
        np.testing.assert_allclose(make(large).fit(huge).theta_ / 1e20, make(family).fit(paths).theta_, rtol=1e-9)
    with pytest.raises(ValueError, match="parameters diverge"):
        MartingaleLoss(family, "sgd", lr=1e5).fit(paths)


@pytest.mark.filterwarnings("error")
def test_what_functions_give_is_checked():
    problem = OUQuadratic()
    paths = problem.sample(50, 20, random_state=0)
    for offset, match in (
        (lambda t, x: x[..., None], "offset gave shape"),
        (lambda t, x: x * np.nan, "offset gave NaN"),
    ):
        for make in (CLSTD, MartingaleLoss, CTD):
            with pytest.raises(ValueError, match=match):
                make(LinearValue(problem.features, offset)).fit(paths)
    zero, none = (CLSTD(LinearValue(problem.features, f)).fit(paths).theta_ for f in (lambda t, x: 0.0, None))
    np.testing.assert_array_equal(zero, none)
    with pytest.raises(ValueError, match="value gave shape"):
        martingale_loss(lambda t, x: x[..., None], paths)
    with pytest.raises(ValueError, match="value gave NaN"):
        martingale_loss(lambda t, x: x * np.nan, paths)
    with pytest.raises(ValueError, match="test gave NaN"):
        CLSTD(LinearValue(problem.features), test=lambda t, x: np.full((*x.shape, 3), np.nan)).fit(paths)
    with pytest.raises(ValueError, match="paths has none"):
        CLSTD(LinearValue(problem.features)).fit(paths[:0])
    with pytest.raises(TypeError, match="x is complex"):
        Trajectories([0, 1.0], 1j * np.ones((2, 2)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="r has lengths"):
        Trajectories([np.arange(3.0), np.arange(2.0)], [[0, 1, 2.0], [0, 1.0]], [0.0, 0.0])
    network = TorchValue(torch.nn.Linear(2, 1), stacked=True)
    with pytest.raises(ValueError, match=r"theta has shape \(9,\)"):
        network.theta = np.zeros(9)
