"""Adaptive importance sampling with control variates, against exact integrals, its theory and other optimisers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from paperworks.inference import (
    GaussianComponents,
    ISCVEstimator,
    fit_cross_entropy,
    multiple_expectations,
    optimal_alpha,
    optimal_beta,
    sobol_from_samples,
    sobol_indices,
)
from paperworks.inference.importance.laws import InputLaws

NORMAL = GaussianComponents([[0.0]], [[[1.0]]])


def random_components(rng: np.random.Generator, J: int, d: int, K: int = 1) -> GaussianComponents:
    A = rng.normal(size=(J, K, d, d))
    return GaussianComponents(
        rng.normal(size=(J, K, d)), A @ A.transpose(0, 1, 3, 2) + 0.1 * np.eye(d), rng.dirichlet(np.ones(K), size=J)
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), J=st.integers(1, 4), d=st.integers(1, 4), K=st.integers(1, 3))
def test_densities_are_those_of_scipy(seed, J, d, K):
    rng = np.random.default_rng(seed)
    components, X = random_components(rng, J, d, K), 3 * rng.normal(size=(7, d))
    expected = [
        sum(
            w * stats.multivariate_normal(m, S).pdf(X)
            for w, m, S in zip(components.weights[j], components.means[j], components.covariances[j], strict=True)
        )
        for j in range(J)
    ]
    np.testing.assert_allclose(np.exp(components.logpdf(X)), np.transpose(expected).reshape(7, J), rtol=1e-9)


def test_densities_keep_their_digits_far_from_the_origin_and_in_blocks():
    X = 1e6 + np.random.default_rng(0).normal(size=(300_000, 2))
    components = GaussianComponents([[1e6, 1e6], [1e6 + 1, 1e6]], np.stack([np.eye(2)] * 2))
    expected = -((X - 1e6) ** 2).sum(axis=1) / 2 - math.log(2 * math.pi)
    np.testing.assert_allclose(components.logpdf(X)[:, 0], expected, atol=1e-8)


def test_draws_have_the_moments_of_the_mixture():
    components = random_components(np.random.default_rng(1), 2, 2, 2)
    X = components.rvs(200_000, 0, [0.2, 0.8])
    weights = np.array([0.2, 0.8])[:, None] * components.weights
    mean = np.einsum("jk,jkd->d", weights, components.means)
    centred = components.means - mean
    covariance = np.einsum(
        "jk,jkde->de", weights, components.covariances + np.einsum("jkd,jke->jkde", centred, centred)
    )
    np.testing.assert_allclose(X.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(X.T), covariance, rtol=0.03, atol=0.03)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 3))
def test_single_gaussians_have_weighted_moments(seed, d):
    rng = np.random.default_rng(seed)
    X, p = rng.normal(size=(30, d)) * 5 + 2, rng.exponential(size=(30, 2))
    fitted = fit_cross_entropy(X, p)
    for j in range(2):
        np.testing.assert_allclose(fitted.means[j, 0], np.average(X, axis=0, weights=p[:, j]))
        expected = np.atleast_2d(np.cov(X.T, aweights=p[:, j], ddof=0)) + 1e-6 * np.diag(X.var(axis=0))
        np.testing.assert_allclose(fitted.covariances[j, 0], expected, rtol=1e-9, atol=1e-12)
    diagonal = fit_cross_entropy(X, p, diag=True).covariances[:, 0]
    np.testing.assert_allclose(diagonal, fitted.covariances[:, 0] * np.eye(d))


def test_a_fit_does_not_depend_on_units():
    rng = np.random.default_rng(0)
    X, p, scale = rng.normal(size=(50, 2)), rng.exponential(size=50), np.array([1e-6, 1e6])
    fitted, scaled = fit_cross_entropy(X, p), fit_cross_entropy(X * scale, p)
    np.testing.assert_allclose(scaled.covariances[0, 0], fitted.covariances[0, 0] * np.outer(scale, scale))


def test_mixtures_find_two_modes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 1))
    target = stats.norm(-1, 0.3).pdf(X) + 3 * stats.norm(1, 0.2).pdf(X)
    fitted = fit_cross_entropy(X, target / stats.norm.pdf(X), "gm", random_state=0)
    order = fitted.means[0, :, 0].argsort()
    np.testing.assert_allclose(fitted.means[0, order, 0], [-1, 1], atol=0.05)
    np.testing.assert_allclose(fitted.weights[0, order], [0.25, 0.75], atol=0.03)
    np.testing.assert_allclose(fitted.covariances[0, order, 0, 0], [0.09, 0.04], rtol=0.15)


def test_one_heavy_point_makes_no_spike():
    X = np.random.default_rng(0).normal(size=(500, 2))
    p = np.ones(500)
    p[0] = 200.0
    for seed in range(5):
        fitted = fit_cross_entropy(X, p, "gm", random_state=seed)
        used = fitted.covariances[fitted.weights > 0.01]
        assert np.linalg.eigvalsh(used).min() > 0.05


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), J=st.integers(2, 6), scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_alpha_minimises_the_criterion(seed, J, scale):
    rng = np.random.default_rng(seed)
    num, G, H = rng.exponential(size=200), rng.exponential(size=(200, J)), rng.uniform(0.5, 2, size=200)

    def criterion(alpha):
        return np.mean(num / (G @ alpha * H))

    alpha = optimal_alpha(scale * num, G, H)
    assert alpha.sum() == pytest.approx(1)
    assert alpha.min() >= 0
    for other in rng.dirichlet(np.ones(J), size=50):
        assert criterion(alpha) <= criterion(other) * (1 + 1e-6)
        assert criterion(alpha) <= criterion(0.99 * alpha + 0.01 * other) * (1 + 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_beta_has_the_least_variance(seed):
    rng = np.random.default_rng(seed)
    R, V = rng.exponential(size=(2, 50, 3))
    beta = optimal_beta(R, V)
    for step in (-0.1, 0.1):
        assert np.all((V - beta * R).var(axis=0) < (V - (beta + step) * R).var(axis=0))
    np.testing.assert_allclose(optimal_beta(np.ones((50, 3)), V), V.mean(axis=0))


def exponentials(d: int, J: int, seed: int):
    """``exp(a.x)`` under a standard normal law: the ideal densities are Gaussians around the a."""
    a = np.random.default_rng(seed).normal(size=(J, d))
    law = GaussianComponents(np.zeros((1, d)), np.eye(d)[None])
    ideal = GaussianComponents(a, np.broadcast_to(np.eye(d), (J, d, d)))
    return a, law, ideal, np.exp((a**2).sum(axis=1) / 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 4), J=st.integers(1, 5))
def test_ideal_densities_have_no_variance_whatever_the_mixture(seed, d, J):
    a, law, ideal, exact = exponentials(d, J, seed)
    alpha = np.random.default_rng(seed).dirichlet(np.ones(J))
    estimator = ISCVEstimator(ideal, alpha, exact)
    X = estimator.rvs(20, seed)
    found = estimator.estimate(X, law.logpdf(X), np.exp(X @ a.T))
    np.testing.assert_allclose(found.estimate, exact, rtol=1e-12)
    assert np.all(found.std_error <= 1e-12 * exact)


@pytest.mark.parametrize("defensive", [0.0, 0.3])
def test_the_variance_is_the_formulas(defensive):
    # N Var(I) = int (f phi - beta g)^2 / g_alpha dx - (I - beta)^2, for any densities and parameters.
    components = GaussianComponents([[0.5], [-1.0]], [[[2.0]], [[1.5]]])
    alpha, beta = np.array([0.3, 0.7]), np.array([0.8, 1.7])
    estimator = ISCVEstimator(components, alpha, beta, defensive, NORMAL)
    exact = np.array([1.0, 3.0])

    def integrand(x):
        point = np.array([[x]])
        f, g = stats.norm.pdf(x), np.exp(components.logpdf(point)[0])
        mixed = (1 - defensive) * g @ alpha + defensive * f
        return (f * np.array([x**2, x**4]) - beta * g) ** 2 / mixed

    expected = [integrate.quad(lambda x, j=j: integrand(x)[j], -12, 12, limit=200)[0] for j in range(2)]
    expected = np.array(expected) - (exact - beta) ** 2
    n = 200_000
    X = estimator.rvs(n, 0)
    found = estimator.estimate(X, NORMAL.logpdf(X), X ** [2, 4])
    np.testing.assert_allclose(n * found.std_error**2, expected, rtol=0.05)
    assert np.all(np.abs(found.estimate - exact) < 4 * found.std_error)


def test_adaptation_approaches_the_ideal():
    a, law, ideal, exact = exponentials(3, 4, 0)
    result = multiple_expectations(lambda X: np.exp(X @ a.T), law, weights="relative", random_state=0)
    np.testing.assert_allclose(result.estimate, exact, rtol=0.02)
    assert np.all(np.abs(result.estimate - exact) < 4 * result.std_error)
    monte_carlo = np.sqrt((np.exp(2 * (a**2).sum(axis=1)) - exact**2) / 10_000)
    assert np.all(result.std_error < monte_carlo / 3)
    np.testing.assert_allclose(result.components.means[:, 0], a, atol=0.3)
    assert len(ideal) == len(result.components)


def test_the_budget_is_kept_and_the_final_sample_is_fresh():
    calls = []

    def func(X):
        calls.append(X)
        return np.exp(X @ np.ones((2, 1)))

    law = stats.multivariate_normal(np.zeros(2), np.eye(2))
    result = multiple_expectations(func, law, n_max=3000, random_state=0)
    assert 2700 <= sum(map(len, calls)) == result.n_evals <= 3000
    assert len(result.sample) >= 1500
    np.testing.assert_array_equal(result.sample, calls[-1])
    assert [step.n_evals for step in result.history] == np.cumsum([len(X) for X in calls[:-1]]).tolist()
    plain = multiple_expectations(func, law, n_max=3000, sampling="random", random_state=0)
    assert plain.n_evals == 3000
    assert [step.n_evals for step in plain.history] == [300 * (i + 1) for i in range(len(plain.history))]
    # The final sample can be used again, for another function.
    again = result.weights.T @ result.sample[:, 0] / len(result.sample)
    assert again[0] == pytest.approx(0, abs=0.2)
    assert 1 < result.effective_sample_size[0] < len(result.sample)


def test_one_function_of_several_laws():
    laws = [stats.norm(mean, 1) for mean in (0.0, 0.5, 1.0)]
    alone = multiple_expectations(lambda X: X**2, laws, random_state=0)
    np.testing.assert_allclose(alone.estimate, [1, 1.25, 2], rtol=0.02)
    batched = GaussianComponents([[0.0], [0.5], [1.0]], np.ones((3, 1, 1)))
    X = np.linspace(-1, 1, 5)[:, None]
    np.testing.assert_allclose(InputLaws(laws).logpdf(X), batched.logpdf(X))
    together = multiple_expectations(lambda X: X**2, batched, random_state=0)
    np.testing.assert_allclose(together.estimate, [1, 1.25, 2], rtol=0.02)
    assert together.weights.shape[1] == 3


@pytest.mark.parametrize("signed", ["split", "abs"])
@pytest.mark.parametrize("law", [NORMAL, [stats.norm(0, 1), stats.norm(0, 1)]])
def test_functions_with_signs(signed, law):
    def func(X):
        return np.concatenate([np.exp(X), X**3 + X], axis=1)

    result = multiple_expectations(func, law, signed=signed, random_state=0)
    assert np.all(np.abs(result.estimate - [math.exp(0.5), 0]) < 4 * result.std_error)
    assert np.all(result.std_error < [0.02, 0.1])
    np.testing.assert_allclose(result.values, func(result.sample), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multiple_expectations(lambda X: X, NORMAL, random_state=0), "signed='split'"),
        (lambda: multiple_expectations(lambda X: X * np.nan, NORMAL, random_state=0), "NaN or infinite"),
        (lambda: multiple_expectations(lambda X: X[:5], NORMAL, random_state=0), "func returned shape"),
        (
            lambda: multiple_expectations(lambda X: 0 * X, NORMAL, random_state=0),
            "func is 0 at all 960 points.*threshold",
        ),
        (lambda: multiple_expectations(lambda X: X, NORMAL, threshold=np.nan), "threshold is nan"),
        (lambda: multiple_expectations(lambda X: X, NORMAL, threshold=1.0, signed="abs"), "signed is 'abs'"),
        (
            lambda: multiple_expectations(lambda X: X, NORMAL, threshold=40.0, random_state=0),
            "a tenth of func's values",
        ),
        (
            lambda: multiple_expectations(lambda X: X ** [1, 2], NORMAL, threshold=[1, 2, 3.0]),
            "2 outputs.* 3 thresholds",
        ),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, 60, sampling="sobol"), "n_max is 60"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, replicates=1), "replicates is 1"),
        (lambda: multiple_expectations(lambda X: X ** [2, 4], NORMAL, 15, random_state=0), "n_max is 15"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, 10, random_state=0), "at least two evaluations"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, weights=[0.0], random_state=0), "weights is"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, weights=[1, 1], random_state=0), "it takes 1 finite"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, adapt_fraction=1.0), "adapt_fraction"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, defensive=-0.1), "defensive"),
        (lambda: multiple_expectations(lambda X: X**2, []), "input_dist is empty"),
        (
            lambda: multiple_expectations(lambda X: X ** [2, 4], [stats.norm()] * 3, random_state=0),
            "func has 2 outputs for 3 laws",
        ),
        (lambda: ISCVEstimator(NORMAL, [0.5], [1.0]), "alpha is"),
        (lambda: ISCVEstimator(NORMAL, [1.0], [1.0, 2.0]), "beta has shape"),
        (lambda: ISCVEstimator(NORMAL, [1.0], [1.0], 0.1), "takes an input_dist"),
        (
            lambda: ISCVEstimator(NORMAL, [1.0], [1.0]).estimate(np.ones((3, 1)), np.ones((3, 2)), np.ones((3, 1))),
            "log_f has shape",
        ),
        (lambda: GaussianComponents([[0.0]], [[[-1.0]]]), "not positive definite"),
        (lambda: GaussianComponents([[0.0]], [[1.0]]), "covariances has shape"),
        (lambda: GaussianComponents([[0.0]], [[[1.0]]], [[0.5]]), "weights has shape"),
        (lambda: NORMAL.logpdf([[0.0, 1.0]]), "X has shape"),
        (lambda: fit_cross_entropy([[0.0], [1.0]], [1.0]), "p has shape"),
        (lambda: fit_cross_entropy([[0.0], [1.0], [2.0]], [1.0, -1.0, 1.0]), "none below 0"),
        (lambda: fit_cross_entropy([[0.0], [1.0], [2.0]], [1.0, 0.0, 1.0]), "2 positive weights in column 0"),
        (lambda: optimal_alpha([1.0], [[1.0], [1.0]]), "G has shape"),
        (lambda: optimal_alpha([-1.0], [[1.0]]), "num has negative"),
        (lambda: optimal_beta([[1.0]], [[1.0]]), "G_over_g has shape"),
        (lambda: sobol_indices(lambda X: X[:, 0], 2, order="third"), "order is 'third'"),
        (lambda: sobol_indices(lambda X: X[:5, 0], 2, 1000), "func returned shape"),
        (lambda: sobol_indices(lambda X: np.nan * X[:, 0], 2, 1000), "NaN or infinite"),
        (lambda: sobol_indices(lambda X: X[:, 0], 2, 10), "n_max is 10"),
        (lambda: sobol_indices(lambda X: X[:, 0], 2, groups=["a"]), "groups has 1 labels"),
        (lambda: sobol_indices(lambda X: X, 2, 1000, adapt=True), "func has 2 outputs"),
        (lambda: sobol_from_samples(np.ones((60, 2)), np.ones(50)), "Y has shape"),
        (lambda: sobol_from_samples(np.ones((10, 2)), np.ones(10)), "X has 10 rows"),
        (lambda: sobol_from_samples(np.full((60, 2), np.nan), np.ones(60)), "X has NaN"),
        (lambda: sobol_from_samples(np.ones((60, 2)), np.ones(60), order="total"), "order is 'total'"),
        (lambda: sobol_indices(lambda X: X[:, 0], 0, 1000), "inputs is 0"),
        (lambda: sobol_indices(lambda X: X[:, :0], 2, 1000), r"func returned shape \(480, 0\)"),
        (lambda: sobol_indices(lambda X: X[:, 0] + 1j, 2, 1000), "func returned complex"),
        (lambda: sobol_indices(lambda X: X[:, 0], [stats.norm([0, 1])], 1000), r"of shape \(2,\) for input 0"),
        (lambda: sobol_from_samples(np.ones((60, 2)), 1j * np.ones(60)), "Y has complex"),
        (
            lambda: sobol_from_samples(np.ones((60, 40)) * np.arange(60)[:, None], np.arange(60.0), groups=[0] * 40),
            "a group of 40",
        ),
        (lambda: multiple_expectations(lambda X: X + 1j, NORMAL), "func returned complex"),
        (lambda: multiple_expectations(lambda X: 1e200 * X**2, NORMAL, random_state=0), "whose square overflows"),
        (lambda: multiple_expectations(lambda X: X**2, NORMAL, 22, random_state=0), "n_max is 22"),
        (
            lambda: multiple_expectations(lambda X: X**2, NORMAL, 300, replicates=1000, sampling="sobol"),
            "replicates is 1000 with n_max 300",
        ),
        (lambda: multiple_expectations(lambda X: X**2, stats.norm([0, 1], 1)), r"parameters of shape \(2,\)"),
        (
            lambda: multiple_expectations(
                lambda X: X**2, stats.multivariate_normal([0, 0], np.ones((2, 2)), allow_singular=True)
            ),
            "covariance of rank below 2",
        ),
        (lambda: multiple_expectations(lambda X: X**2, stats.vonmises(1)), "density is periodic"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_law_without_densities_is_refused():
    with pytest.raises(TypeError, match="rvs and logpdf"):
        multiple_expectations(lambda X: X**2, object())
    with pytest.raises(TypeError, match="gamma without its parameters"):
        multiple_expectations(lambda X: X**2, stats.gamma)


def test_distributions_of_openturns():
    openturns = pytest.importorskip("openturns")
    result = multiple_expectations(lambda X: X**2, openturns.Normal(1), 2000, random_state=0)
    again = multiple_expectations(lambda X: X**2, openturns.Normal(1), 2000, random_state=0)
    assert abs(result.estimate[0] - 1) < 4 * result.std_error[0] + 1e-3
    np.testing.assert_array_equal(result.estimate, again.estimate)
