"""Scrambled nets in importance sampling, levels that lead to rare events, and errors that hold."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import special, stats

from paperworks.inference import GaussianComponents, ISCVEstimator, multiple_expectations
from paperworks.inference.importance.laws import InputLaws
from paperworks.inference.importance.points import largest_net, smallest_net, sobol_points, stratified_points

NORMAL = GaussianComponents([[0.0]], [[[1.0]]])
PLANE = GaussianComponents(np.zeros((1, 2)), np.eye(2)[None])


def run(func, law, n_max, repeats, **options):
    results = [multiple_expectations(func, law, n_max, random_state=seed, **options) for seed in range(repeats)]
    return np.array([result.estimate for result in results]), results


@pytest.mark.parametrize("n", [8, 15, 16, 17, 100, 1000])
def test_nets_are_the_largest_within_and_the_smallest_beyond(n):
    sizes = sorted(R << m for R in range(8, 16) for m in range(12))
    assert largest_net(n).total == max(size for size in sizes if size <= n)
    assert smallest_net(n).total == min(size for size in sizes if size >= n)


def test_each_net_has_a_point_in_each_interval():
    points = sobol_points(3, largest_net(160), np.random.default_rng(0)).reshape(10, 16, 3)
    cells = np.sort((points * 16).astype(int), axis=1)
    np.testing.assert_array_equal(cells, np.broadcast_to(np.arange(16)[:, None], (10, 16, 3)))


def test_strata_have_powers_of_two_and_count_what_they_are_wide():
    shares = np.array([0.1, 1e-6, 0.6, 0.299999])
    U, counts, replicates = stratified_points(shares, 2, 1000, 8, np.random.default_rng(0))
    assert len(U) == len(counts) <= 1000
    first, weights = U[: len(U) // replicates, 0], counts[: len(U) // replicates] / (len(U) // replicates)
    edges = [0, 0.1, 0.700001, 1]
    for low, high in pairwise(edges):
        inside = (first >= low) & (first < high)
        assert inside.sum() in {2**k for k in range(10)}
        assert weights[inside].sum() == pytest.approx(high - low)
    # Unbiased: the counted mean of the first coordinate, over many scrambles, is one half.
    assert counts @ U[:, 0] / len(U) == pytest.approx(0.5, abs=2e-3)


def test_points_of_one_variable_are_mirrored_in_their_intervals():
    U, counts, replicates = stratified_points(np.ones(1), 1, 512, 8, np.random.default_rng(0))
    x = U[:, 1].reshape(replicates, 2, -1)
    n = x.shape[2]
    np.testing.assert_array_equal(np.floor(x[:, 0] * n), np.floor(x[:, 1] * n))
    np.testing.assert_allclose((x.sum(axis=1) * n) % 2, 1, atol=1e-6)
    # Exact for lines, and nearly so for what is smooth.
    means = (counts * np.exp(U[:, 1])).reshape(replicates, -1).mean(axis=1)
    np.testing.assert_allclose(means, math.e - 1, atol=1e-4)


def test_uniform_points_become_draws_of_each_kind_of_law():
    U = sobol_points(3, largest_net(8192), np.random.default_rng(0))
    covariance = np.array([[2.0, 0.6], [0.6, 1.0]])
    laws = [stats.multivariate_normal([1, 2], covariance), GaussianComponents([[1.0, 2.0]], covariance[None])]
    for law in (*laws, laws):
        X = InputLaws(law).from_uniform(U)
        np.testing.assert_allclose(X.mean(axis=0), [1, 2], atol=0.01)
        np.testing.assert_allclose(np.cov(X.T), covariance, atol=0.03)
    X = InputLaws(stats.expon()).from_uniform(U[:, :2])
    assert X.mean() == pytest.approx(1, abs=0.01)
    estimator = ISCVEstimator(PLANE, [1.0], [0.0], 0.25, laws[0])
    assert estimator.from_uniform(U).mean(axis=0) == pytest.approx([0.25, 0.5], abs=0.02)
    assert InputLaws([stats.norm(), object.__new__(_Sampler)]).uniform_dimension is None


class _Sampler:
    def rvs(self, size, random_state):
        return stats.norm().rvs(size, random_state)

    def logpdf(self, x):
        return stats.norm().logpdf(x)


def test_nets_beat_independent_draws_without_a_bias():
    powers = 2 * np.arange(1, 6)
    exact = special.factorial2(powers - 1)
    errors = {}
    for sampling in ("sobol", "random"):
        found, results = run(lambda X: X**powers, NORMAL, 3000, 20, weights=1 / exact**2, sampling=sampling)
        errors[sampling] = np.square(found / exact - 1).sum(axis=1).mean()
        inside = [(low <= exact) & (exact <= high) for low, high in (result.interval() for result in results)]
        assert np.mean(inside) >= 0.85
        assert all((result.replicates is None) == (sampling == "random") for result in results)
    assert errors["sobol"] < errors["random"] / 10


def test_the_pilot_tells_where_nets_profit():
    smooth = multiple_expectations(lambda X: np.exp(X), NORMAL, 4000, random_state=0)
    assert smooth.replicates is not None
    rng = np.random.default_rng(0)
    noise = multiple_expectations(lambda X: rng.exponential(size=X.shape), NORMAL, 4000, random_state=0)
    assert noise.replicates is None
    assert noise.n_evals == 4000
    law = multiple_expectations(np.exp, _Sampler(), 4000, random_state=0)  # no map of uniform points
    assert law.estimate[0] == pytest.approx(math.exp(0.5), rel=0.02)
    two = multiple_expectations(lambda X: X ** [2, 4], NORMAL, 4000, n_batches=2, random_state=0)
    np.testing.assert_allclose(two.estimate, [1, 3], rtol=0.02)


@pytest.mark.parametrize(
    ("score", "law", "threshold", "exact", "options"),
    [
        (lambda X: X.sum(axis=1) / math.sqrt(6), GaussianComponents(np.zeros((1, 6)), np.eye(6)[None]), 3.846126,
         6e-5, {}),
        (lambda X: (X**2).sum(axis=1), stats.multivariate_normal([0, 0]), -2 * math.log(6e-5), 6e-5, {}),
        (lambda X: np.abs(X[:, 0]), PLANE, 4.0, 2 * stats.norm.sf(4), {"family": "gm"}),
        (lambda X: X, stats.expon(), -math.log(6e-5), 6e-5, {}),
    ],
    ids=["plane", "ball", "two sides", "exponential"],
)  # fmt: skip
def test_levels_lead_to_rare_events(score, law, threshold, exact, options):
    found, results = run(score, law, 20_000, 6, threshold=threshold, **options)
    error = np.sqrt(np.mean((found / exact - 1) ** 2))
    assert error < 0.07  # the events are 1.2 in 20,000 plain draws: a coefficient of variation of 0.9
    z = np.array([(result.estimate - exact) / result.std_error for result in results])
    assert np.sqrt(np.mean(z**2)) < 2.5
    assert all(result.n_evals <= 20_000 for result in results)


def test_events_of_different_rarity_share_a_sample():
    exact = stats.norm.sf([0.5, 2.0, 4.5])
    found, _ = run(lambda X: X[:, :1], PLANE, 10_000, 5, threshold=[0.5, 2.0, 4.5])
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), rtol=0.1)


def test_errors_of_indicators_hold_by_default():
    exact = stats.norm.sf([2, 2, 1])

    def coverage(**options):
        _, results = run(lambda X: (np.concatenate([X, -X, X + 1], axis=1) > 2) * 1.0, NORMAL, 3000, 25, **options)
        return np.mean([(low <= exact) & (exact <= high) for low, high in (result.interval() for result in results)])

    assert coverage() > 0.88
    assert coverage(sampling="random") > 0.88
    assert coverage(sampling="random", defensive=0) < 0.88


def test_a_zero_among_others_is_zero_for_itself_alone():
    with pytest.warns(RuntimeWarning, match="func is 0 for expectation 1 at all"):
        result = multiple_expectations(lambda X: X**2 * [1, 0, 3], NORMAL, 4000, weights="relative", random_state=0)
    np.testing.assert_allclose(result.estimate, [1, 0, 3], rtol=0.01)
    assert result.std_error[1] == 0


@pytest.mark.parametrize("sampling", ["auto", "random"])
def test_parts_that_few_points_hit_are_split_off(sampling):
    # Below 0 are 3 of 10,000 points, fewer than a fit takes.
    exact = stats.norm.expect(lambda x: max(x, -4.0) + 3.4)
    found, _ = run(lambda X: np.maximum(X, -4) + 3.4, NORMAL, 2000, 5, signed="split", sampling=sampling)
    np.testing.assert_allclose(found, exact, rtol=0.02)


def test_models_may_write_into_their_input_and_return_the_same_array_twice():
    buffers = {}

    def reckless(X):
        X *= 2
        out = buffers.setdefault(len(X), np.empty((len(X), 1)))
        out[:] = X**2
        return out

    plain = multiple_expectations(lambda X: (2 * X) ** 2, NORMAL, 2000, random_state=0)
    found = multiple_expectations(reckless, NORMAL, 2000, random_state=0)
    np.testing.assert_array_equal(found.estimate, plain.estimate)
    assert plain.estimate[0] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    ("func", "law", "exact"),
    [
        (np.sqrt, stats.expon(), math.gamma(1.5)),
        (lambda X: np.log(X) ** 2, stats.lognorm(1), 1.0),
        (lambda X: X, stats.beta(0.5, 0.5), 0.5),
        (lambda X: np.sqrt(X - 2), stats.uniform(2, 1), 2 / 3),
        (lambda X: np.sqrt(X * [1, -1]), [stats.expon(), stats.expon(-1, 1)], [math.gamma(1.5), math.nan]),
    ],
    ids=["exponential", "lognormal", "beta", "uniform", "two laws"],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_models_are_not_asked_where_the_law_has_no_density(func, law, exact):
    if isinstance(law, list):  # the second output lives below 0, where the first law has no density
        law[1] = _Negative()
        exact = [math.gamma(1.5)] * 2
        result = multiple_expectations(func, law, 4000, random_state=0)
    else:

        def strict(X):
            assert np.all(np.isfinite(law.logpdf(X)))
            return func(X)

        result = multiple_expectations(strict, law, 4000, random_state=0)
    assert np.all(np.abs(result.estimate - exact) < 5 * result.std_error)
    np.testing.assert_allclose(result.estimate, exact, rtol=0.06)


class _Negative:
    def rvs(self, size, random_state):
        return -random_state.exponential(size=size)

    def logpdf(self, x):
        return stats.expon().logpdf(-x)


def test_results_depend_on_the_state_of_a_generator_alone():
    def found(generator):
        return multiple_expectations(lambda X: X**2, NORMAL, 1000, random_state=generator).estimate[0]

    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    first = found(generator)
    assert found(generator) != first
    generator.bit_generator.state = state
    assert found(generator) == first
    jumped = [found(np.random.Generator(np.random.PCG64(0).jumped())) for _ in range(2)]
    assert jumped[0] == jumped[1] != first
    # One that was seeded by NumPy's older interface has nothing to spawn from.
    assert found(np.random.Generator(np.random.RandomState(0)._bit_generator)) == pytest.approx(1, abs=0.1)


def test_scores_that_are_equal_for_nearly_all_points_have_levels():
    for score, threshold, exact in (
        (lambda X: np.maximum(X - 2, 0), 1, stats.norm.sf(3)),
        (lambda X: X > 2, 1, stats.norm.sf(2)),
    ):
        result = multiple_expectations(score, NORMAL, 6000, threshold=threshold, random_state=0)
        assert result.estimate[0] == pytest.approx(exact, rel=0.15)


def test_values_whose_squares_vanish_are_warned_of():
    with pytest.warns(RuntimeWarning, match="scale it"):
        multiple_expectations(lambda X: 1e-200 * X**2, NORMAL, 1000, random_state=0)


def test_errors_hold_for_laws_with_heavy_tails():
    # E|X| of Student's law with 3 degrees of freedom, from few draws in the tails.
    exact = 2 * math.sqrt(3) / math.pi

    def errors(**options):
        found, results = run(np.abs, stats.t(3), 1500, 60, sampling="random", **options)
        inside = [low[0] <= exact <= high[0] for low, high in (result.interval() for result in results)]
        return np.square(found - exact).mean(), np.mean(inside)

    error, covered = errors()
    assert covered >= 0.8
    narrow, missed = errors(defensive=0.1)
    assert error < narrow
    assert covered > missed
