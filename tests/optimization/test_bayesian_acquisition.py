"""Acquisition functions: quadrature, gradients, limits, equalities between forms, bad input."""

import numpy as np
import pytest

from paperworks.optimization import (
    ConstrainedEI,
    CoregionalizationKernel,
    CostAware,
    DerivativeKnowledgeGradient,
    EntropySearch,
    ExpectedImprovement,
    GaussianProcess,
    JointConstrainedEI,
    KnowledgeGradient,
    LogEI,
    MaternKernel,
    MaxValueEntropySearch,
    NoisyExpectedImprovement,
    PosteriorPaths,
    PredictiveEntropySearch,
    RolloutEI,
    TargetMean,
    choose_derivatives,
    fill_batch,
    log_h,
    optimize_acquisition,
    piecewise_expectation,
    qEI,
    qKG,
)
from paperworks.optimization.bayesian.ascent import maximise_rows

pytestmark = pytest.mark.usefixtures("untyped")
BOX = [(0, 1)] * 2
RNG = np.random.default_rng(0)
X = RNG.random((12, 2))
Y = np.sin(5 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(12)
Z = RNG.random((4, 2))
GRID = RNG.random((20, 2))


def known(noise=0.1, y=Y, **options):
    values = {"lengthscale": [0.4, 0.7], "amplitude": 1.0}
    made = {"inference": "fixed", "hyperparameters": values, "bounds": BOX, "noise": noise, **options}
    return GaussianProcess(**made).fit(X, y)


MODEL, QUIET = known(), known(0.0)


def differences(function, x, h=1e-6):
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        found[i] = (function(x + step) - function(x - step)) / (2 * h)
    return found


def simulated(a, b, n=400_001):
    z = np.linspace(-12, 12, n)
    return (
        np.trapezoid((a[:, None] + b[:, None] * z).max(axis=0) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi), z) - a.max()
    )


def test_piecewise_expectations_are_integrals():
    a, b = np.random.default_rng(1).standard_normal((2, 20, 9))
    found = piecewise_expectation(a, b, "value")
    for i in range(20):
        assert found.value[i] == pytest.approx(simulated(a[i], b[i]), abs=1e-8)
    np.testing.assert_allclose(np.log(found.value), found.log_value, rtol=1e-12)
    by_a = differences(lambda x: piecewise_expectation(x, b).value.sum(), a)
    by_b = differences(lambda x: piecewise_expectation(a, x).value.sum(), b)
    np.testing.assert_allclose(found.by_a, by_a, atol=1e-7)
    np.testing.assert_allclose(found.by_b, by_b, atol=1e-7)
    logs = piecewise_expectation(a, b, "log")
    np.testing.assert_allclose(logs.by_a, found.by_a / found.value[:, None], rtol=1e-9, atol=1e-12)


def test_piecewise_expectations_at_their_edges():
    assert piecewise_expectation([1.0, 2.0], [3.0, 3.0]).value[0] == 0  # parallel lines
    assert piecewise_expectation([[0.0]], [[5.0]]).value[0] == 0  # a single one
    far = piecewise_expectation([0.0, -50.0], [0.0, 1.0], "log")
    assert far.value[0] == 0
    assert far.log_value[0] == pytest.approx(float(log_h(np.array(-50.0))))
    h = 1e-5
    rise = [piecewise_expectation([0.0, -50.0 + s], [0.0, 1.0]).log_value[0] for s in (h, -h)]
    assert far.by_a[0, 1] == pytest.approx((rise[0] - rise[1]) / (2 * h), rel=1e-6)
    same = piecewise_expectation([0.0, 0.0, 0.0], [1.0, 1.0, -1.0]).value[0]
    assert same == pytest.approx(2 / np.sqrt(2 * np.pi))
    for a, b in (([0.0, np.nan], [0.0, 1.0]), ([0.0, 1.0], [1.0]), ([[]], [[]])):
        with pytest.raises(ValueError, match="a "):
            piecewise_expectation(a, b)


def test_the_logarithm_of_h_is_smooth_everywhere():
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    for z in (-1e5, -1e4, -300.0, -38.0, -5.0, -1.0001, -0.9999, 0.0, 7.0):
        exact = mpmath.log(mpmath.npdf(z) + mpmath.mpf(z) * mpmath.ncdf(z)) if z > -300 else None
        if exact is not None:
            assert float(log_h(np.array(z))) == pytest.approx(float(exact), rel=1e-10)
    steps = log_h(np.array([-1e4 - 1e-6, -1e4 + 1e-6]))
    assert abs(np.diff(steps)[0]) < 0.1


CASES = {
    "ei": lambda: ExpectedImprovement(MODEL, 1.0),
    "log-ei": lambda: LogEI(MODEL, 1.0),
    "noisy": lambda: NoisyExpectedImprovement(MODEL, log=False),
    "log-noisy": lambda: NoisyExpectedImprovement(MODEL),
    "kg": lambda: KnowledgeGradient(MODEL, BOX, discretization=GRID),
    "kg-one-shot": lambda: KnowledgeGradient(MODEL, BOX, "one_shot", n_draws=3),
    "kg-target": lambda: KnowledgeGradient(MODEL, BOX, target=TargetMean([1], [0.1, 0.9], [0.3, 0.7])),
    "kg-one-shot-target": lambda: KnowledgeGradient(MODEL, BOX, "one_shot", n_draws=2, target=TargetMean([1], [0.9])),
    "q-ei": lambda: qEI(MODEL, 1.0, 3),
    "q-ei-pending": lambda: qEI(MODEL, 1.0, 2, pending=[[0.5, 0.5]]),
    "q-kg": lambda: qKG(MODEL, BOX, 2, discretization=GRID),
    "constrained": lambda: ConstrainedEI(MODEL, [known(y=X[:, 0] - 0.5)], 1.0),
    "infeasible": lambda: ConstrainedEI(MODEL, [known(y=X[:, 0] - 0.5), QUIET], None),
    "per-cost": lambda: CostAware(LogEI(MODEL, 1.0), lambda x: 1 + x[:, 0] ** 2),
    "batch-per-cost": lambda: CostAware(qEI(MODEL, 1.0, 2), lambda x: 1 + x[:, 0]),
    "mes": lambda: MaxValueEntropySearch(MODEL, BOX, n_samples=4),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name):
    acq = CASES[name]()
    points = np.random.default_rng(3).random((3, acq.q, 2))
    points = points[:, 0] if acq.q == 1 else points
    value, gradient = acq(points, gradient=True)
    reference = differences(lambda x: acq(x).sum(), points)
    np.testing.assert_allclose(gradient, reference, rtol=2e-5, atol=1e-6 * np.abs(reference).max())
    np.testing.assert_allclose(value, acq(points), rtol=1e-12)


def test_simulated_knowledge_gradients_hold_their_maximisers():
    acq = KnowledgeGradient(MODEL, BOX, "mc", n_draws=8)
    _, gradient = acq(Z, gradient=True)
    reference = differences(lambda x: acq(x).sum(), Z, 1e-4)
    np.testing.assert_allclose(gradient, reference, atol=0.02 * np.abs(reference).max())


def test_expected_improvement_is_its_integral_and_its_logarithm():
    mean, deviation = MODEL.predict(Z, return_std=True)
    value = ExpectedImprovement(MODEL, 1.0)(Z)
    for i in range(4):
        lines = np.array([1.0, mean[i]]), np.array([0.0, deviation[i]])
        assert value[i] == pytest.approx(simulated(*lines) + max(mean[i] - 1, 0), abs=1e-8)
    np.testing.assert_allclose(np.log(value), LogEI(MODEL, 1.0)(Z), rtol=1e-10)


def test_without_noise_the_noisy_form_is_expected_improvement():
    best = float(QUIET.predict(X).max())
    quiet = known(1e-10)
    np.testing.assert_allclose(
        NoisyExpectedImprovement(quiet, log=False)(Z), ExpectedImprovement(quiet, best)(Z), atol=1e-7
    )


def test_a_batch_of_one_is_the_point():
    points = np.random.default_rng(5).random((3, 1, 2))
    one = qEI(MODEL, 0.5, 1, n_draws=8192)(points)
    np.testing.assert_allclose(one, ExpectedImprovement(MODEL, 0.5)(points[:, 0]), rtol=0.01, atol=1e-4)
    kg = qKG(MODEL, BOX, 1, discretization=GRID, n_draws=8192)(points)
    np.testing.assert_allclose(
        kg, KnowledgeGradient(MODEL, BOX, discretization=GRID)(points[:, 0]), rtol=0.02, atol=1e-4
    )


def test_more_knowledge_is_worth_more():
    points = np.random.default_rng(5).random((3, 2, 2))
    alone = np.maximum(*(qEI(MODEL, 1.0, 1, n_draws=4096)(points[:, [k]]) for k in range(2)))
    assert (qEI(MODEL, 1.0, 2, n_draws=4096)(points) >= alone - 1e-3).all()
    rollouts = [RolloutEI(MODEL, 1.0, GRID, depth=d, n_simulations=2048)(Z) for d in (1, 2, 3)]
    np.testing.assert_allclose(rollouts[0], ExpectedImprovement(MODEL, 1.0)(Z), rtol=0.02, atol=2e-3)
    assert (rollouts[1] > rollouts[0]).all()
    assert (rollouts[2] > rollouts[1]).all()


def test_hybrid_and_one_shot_do_not_exceed_what_the_whole_domain_gives():
    fine = np.stack(np.meshgrid(*[np.linspace(0, 1, 31)] * 2), axis=-1).reshape(-1, 2)
    exact = KnowledgeGradient(MODEL, BOX, discretization=fine)(Z)
    hybrid = KnowledgeGradient(MODEL, BOX, "hybrid")(Z)
    np.testing.assert_allclose(hybrid, exact, atol=0.05 * exact.max())
    simulated_value = KnowledgeGradient(MODEL, BOX, "mc", n_draws=512)(Z)
    np.testing.assert_allclose(simulated_value, exact, atol=0.05 * exact.max())


def test_simulated_gradients_are_unbiased():
    acq = KnowledgeGradient(MODEL, BOX, "mc", discretization=GRID, refine=False)
    draws = acq.gradient_draws(Z[0], np.random.default_rng(0).standard_normal(20_000))
    p, mean = MODEL.posteriors_[0], MODEL.predict(GRID)

    def value(x):
        slopes = p.covariance(x, GRID) / np.sqrt(p.covariance(x, x)[0, 0] + p.noise_variance)
        return piecewise_expectation(mean[None], slopes).value[0]

    reference = differences(value, Z[:1], 1e-5)[0]
    assert (np.abs(draws.mean(axis=0) - reference) < 4 * draws.std(axis=0) / np.sqrt(20_000)).all()


def test_entropy_searches_are_the_same_quantity():
    options = {"n_samples": 20_000}
    es = EntropySearch(MODEL, GRID, random_state=1, **options)(Z)
    exact = PredictiveEntropySearch(MODEL, GRID, random_state=2, **options)(Z)
    moments = PredictiveEntropySearch(MODEL, GRID, method="moments", random_state=2, **options)(Z)
    np.testing.assert_allclose(es, exact, atol=0.03)
    assert (moments <= exact + 2e-3).all()
    ep = PredictiveEntropySearch(MODEL, BOX, method="ep", n_samples=16)(np.concatenate([Z, GRID]))
    assert np.isfinite(ep).all()
    assert ep.max() > 0


def test_gaussian_entropies_of_few_draws_have_no_bias():
    rng, chosen = np.random.default_rng(0), np.repeat(np.arange(500), 20)
    draws = rng.standard_normal(10_000)
    acq = PredictiveEntropySearch(MODEL, GRID, method="moments", n_samples=2)
    for noise in (0.1, 1.0):  # the logarithm of a variance by 20 draws alone is 0.05 low, and its half 0.026
        exact = 0.5 * np.log(2 * np.pi * np.e * (1 + noise))
        assert acq._gaussian(draws, chosen, 500, noise) == pytest.approx(exact, abs=0.012)


def test_drawn_functions_have_the_posteriors_moments():
    paths = PosteriorPaths(QUIET.posteriors_[0], 500)
    np.testing.assert_allclose(paths(X), np.tile(Y, (500, 1)), atol=1e-4)
    np.testing.assert_allclose(paths(Z).mean(axis=0), QUIET.predict(Z), atol=0.1)
    numbers = np.arange(4)
    values, gradient = paths.rows(Z, numbers)
    np.testing.assert_allclose(values, paths(Z)[numbers, numbers], atol=1e-10)
    np.testing.assert_allclose(gradient, differences(lambda x: paths.rows(x, numbers)[0].sum(), Z), atol=1e-5)
    _, tops = paths.maximise(BOX, 64)
    assert (tops >= paths(GRID).max(axis=1) - 0.2).all()


def test_correlated_constraints_without_correlation_are_independent_ones():
    kernel = MaternKernel(columns=[0, 1], amplitude=False) * CoregionalizationKernel(2)
    rows = np.concatenate([np.column_stack([X, np.full(12, t)]) for t in (0, 1)])
    values = np.concatenate([Y, X[:, 0] - 0.5])
    theta = {"lengthscale": 0.5, "loading": 0.0, "task_variance": 1.0}
    options = {"noise": 0.01, "inference": "fixed", "mean": "zero", "standardize": False}
    joint = GaussianProcess(kernel, hyperparameters=theta, bounds=[(0, 1)] * 3, **options).fit(rows, values)
    single = {"hyperparameters": {"lengthscale": 0.5}, "bounds": BOX, **options}
    f, g = GaussianProcess(**single).fit(X, Y), GaussianProcess(**single).fit(X, X[:, 0] - 0.5)
    expected = np.exp(ConstrainedEI(f, [g], 0.5)(Z))
    points = np.column_stack([Z, np.zeros(4)])
    np.testing.assert_allclose(JointConstrainedEI(joint, 1, 0.5)(points), expected, rtol=1e-6, atol=1e-9)
    assert (JointConstrainedEI(joint, 1, None)(points) <= 1).all()


def test_derivatives_are_worth_something():
    slopes = np.stack([5 * np.cos(5 * X[:, 0]), np.ones(12)], axis=1)
    model = GaussianProcess(noise=0.01, bounds=BOX, n_starts=1).fit(X[:5], Y[:5], slopes[:5])
    plain, one, both = (
        DerivativeKnowledgeGradient(model, BOX, d, discretization=GRID, n_draws=1024)(Z) for d in ([], [0], [0, 1])
    )
    assert (one >= plain - 1e-3).all()
    assert (both >= one - 2e-3).all()
    options = {"n_raw": 8, "n_starts": 1, "steps": 1}
    _, chosen, _ = choose_derivatives(model, BOX, [[], [0, 1]], cost=lambda s: 1 + 1e6 * len(s), **options)
    assert chosen == []
    with pytest.raises(ValueError, match="derivatives"):
        DerivativeKnowledgeGradient(model, BOX, [5])
    with pytest.raises(ValueError, match="dY"):
        DerivativeKnowledgeGradient(MODEL, BOX)


@pytest.mark.parametrize("how", ["believer", "liar_min", "liar_mean", "liar_max", "naive"])
def test_filled_batches_are_of_different_points(how):
    batch = fill_batch(QUIET, BOX, float(Y.max()), 3, how)
    assert batch.shape == (3, 2)
    assert min(np.linalg.norm(a - b) for i, a in enumerate(batch) for b in batch[:i]) > 1e-4


def test_a_search_finds_the_greatest_value():
    fine = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    acq = LogEI(MODEL, 1.0)
    x, value = optimize_acquisition(acq, BOX)
    assert value >= acq(fine).max() - 1e-6
    assert value == pytest.approx(acq(x[None])[0])
    batch, _ = optimize_acquisition(qEI(MODEL, 1.0, 2), BOX, 64, 2, steps=5)
    assert batch.shape == (2, 2)


def test_many_searches_are_each_by_itself():
    centres = np.random.default_rng(0).random((5, 3)) * 1.4 - 0.2

    def bowls(x, rows):
        gap = (x - centres[rows]) * [1.0, 5.0, 20.0]
        return -(gap**2).sum(axis=1), -2 * gap * [1.0, 5.0, 20.0]

    found, _ = maximise_rows(bowls, np.full((5, 3), 0.5), np.zeros(3), np.ones(3), steps=100)
    np.testing.assert_allclose(found, np.clip(centres, 0, 1), atol=1e-3)


def test_hyper_parameters_are_averaged_over():
    model = GaussianProcess(inference="bayes", n_samples=2, n_starts=1, ard=False, bounds=BOX).fit(X[:6], Y[:6])
    each = [ExpectedImprovement(p, 1.0)(Z) for p in model.posteriors_]
    np.testing.assert_allclose(ExpectedImprovement(model, 1.0)(Z), np.mean(each, axis=0))
    np.testing.assert_allclose(LogEI(model, 1.0)(Z), np.log(np.mean(each, axis=0)), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ExpectedImprovement(GaussianProcess(), 0.0), "no data"),
        (lambda: ExpectedImprovement(MODEL, np.nan), "best"),
        (lambda: ExpectedImprovement(MODEL, 0.0)(np.zeros((2, 3))), "X"),
        (lambda: ExpectedImprovement(MODEL, 0.0)([[np.nan, 0.0]]), "X"),
        (lambda: qEI(MODEL, 0.0, 0), "q"),
        (lambda: qEI(MODEL, 0.0, 2)(Z), "X"),
        (lambda: KnowledgeGradient(MODEL, [(1, 0), (0, 1)]), "bounds"),
        (lambda: KnowledgeGradient(MODEL, BOX, "guess"), "method"),
        (lambda: KnowledgeGradient(MODEL, BOX, discretization=np.zeros((3, 5))), "discretization"),
        (lambda: ConstrainedEI(MODEL, [], 0.0), "constraints"),
        (lambda: CostAware(LogEI(MODEL, 1.0), lambda x: 0 * x[:, 0])(Z), "cost"),
        (lambda: TargetMean([0], [[1.0, 2.0]]), "values"),
        (lambda: TargetMean([0], [1.0, 2.0], [1.0]), "weights"),
        (lambda: EntropySearch(MODEL, np.zeros((3, 5))), "candidates"),
        (lambda: optimize_acquisition(LogEI(MODEL, 1.0), BOX, n_raw=0), "n_raw"),
        (lambda: fill_batch(MODEL, BOX, 0.0, how="guess"), "how"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("best", [1e3, 1e7, 1e12, 1e140])
def test_the_logarithm_of_the_improvement_has_a_finite_slope_however_far_below_the_best(best):
    value, slope = LogEI(MODEL, best)(Z, gradient=True)
    assert np.isfinite(value).all()
    for j, step in enumerate(1e-6 * np.eye(2)):  # far below, the logarithm goes as -z^2 / 2, with z in deviations
        squares = [
            ((MODEL.predict(at) - best) / MODEL.predict(at, return_std=True)[1]) ** 2 for at in (Z + step, Z - step)
        ]
        np.testing.assert_allclose(slope[:, j], (squares[1] - squares[0]) / 4e-6, rtol=2e-2 if best < 1e4 else 1e-3)
