"""Kernels, processes and their hyper-parameters: exact values, gradients, scikit-learn's posterior, bad input."""

import pickle

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from paperworks.optimization import (
    CoregionalizationKernel,
    DerivativeKernel,
    FidelityKernel,
    GammaPrior,
    GaussianProcess,
    LogNormalPrior,
    MaternKernel,
    RBFKernel,
    Sources,
)
from paperworks.optimization.bayesian import linalg

pytestmark = pytest.mark.usefixtures("untyped")


def differences(function, x, h=1e-6):
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        found[i] = (function(x + step) - function(x - step)) / (2 * h)
    return found


def points(n, d=3, last=None, seed=0):
    X = np.random.default_rng(seed).random((n, d))
    if last is not None:
        X[:, -1] = np.resize(last, n)
    return X


FIRST = [0, 1]
KERNELS = [
    (RBFKernel(), None),
    (MaternKernel(), None),
    (MaternKernel(1.5), None),
    (MaternKernel(0.5), None),
    (MaternKernel(2.2), None),
    (MaternKernel(ard=False), None),
    (RBFKernel(columns=FIRST) * MaternKernel(1.5, columns=[2], amplitude=False) + MaternKernel(columns=[0]), None),
    (RBFKernel(columns=FIRST) + FidelityKernel("truncated") * MaternKernel(columns=FIRST), [0.3, 1.0]),
    (RBFKernel(columns=FIRST) * FidelityKernel("decay"), [0.3, 1.0]),
    (RBFKernel(columns=FIRST) + FidelityKernel("bias") * RBFKernel(columns=FIRST), [0.3, 1.0]),
    (CoregionalizationKernel(2) * RBFKernel(columns=FIRST, amplitude=False), [0, 1]),
    (DerivativeKernel(MaternKernel()), [-1, 0, 1]),
    (DerivativeKernel(MaternKernel(1.5)), [-1, 0, 1]),
    (DerivativeKernel(RBFKernel()), [-1, 0, 1]),
]


@pytest.mark.parametrize(("kernel", "last"), KERNELS, ids=lambda v: repr(v)[:60])
def test_gradients_of_kernels_are_those_of_differences(kernel, last):
    rng = np.random.default_rng(1)
    X, Z = points(5, last=last), points(4, last=last, seed=2)
    theta = 0.3 * rng.standard_normal(kernel.size(3))
    W, V = rng.standard_normal((5, 4)), rng.standard_normal((5, 5))
    moved = slice(0, 3) if last is None else slice(0, 2)
    by_x = kernel.at(theta, X, Z)[1](W)[0][:, moved]
    reference = differences(lambda x: (W * kernel.at(theta, x, Z)[0]).sum(), X)[:, moved]
    np.testing.assert_allclose(by_x, reference, atol=1e-7)
    K, pull = kernel.bind(X)(theta)
    np.testing.assert_allclose(K, kernel.at(theta, X, X)[0], atol=1e-13)
    np.testing.assert_allclose(kernel.diagonal(theta, X)[0], K.diagonal(), atol=1e-13)
    by_theta = differences(lambda t: (V * kernel.bind(X)(t)[0]).sum(), theta)
    np.testing.assert_allclose(pull(V), by_theta, atol=1e-7)
    assert np.linalg.eigvalsh(K).min() > -1e-12


def test_general_smoothness_agrees_with_the_closed_forms():
    s = np.linspace(0, 9, 50)[None]
    for nu in (1.5, 2.5):
        closed, general = MaternKernel(nu), MaternKernel(nu + 1e-9)
        for order in (0, 1):
            np.testing.assert_allclose(general.profile(s, order)[order], closed.profile(s, order)[order], atol=1e-7)


def test_derivatives_of_a_process_are_limits_of_differences():
    h, x, z = 1e-4, np.array([[0.2, 0.5]]), np.array([[0.6, 0.1]])
    kernel, theta = DerivativeKernel(RBFKernel()), np.log([0.5, 0.8, 1.3])
    base = RBFKernel()

    def k(a, b):
        return base.at(theta, a, b)[0][0, 0]

    e, f = np.array([[h, 0.0]]), np.array([[0.0, h]])
    mixed = (k(x + e, z + f) - k(x - e, z + f) - k(x + e, z - f) + k(x - e, z - f)) / (4 * h * h)
    assert kernel.at(theta, np.append(x, [[0]], 1), np.append(z, [[1]], 1))[0][0, 0] == pytest.approx(mixed, rel=1e-6)
    by_z = (k(x, z + f) - k(x, z - f)) / (2 * h)
    assert kernel.at(theta, np.append(x, [[-1]], 1), np.append(z, [[1]], 1))[0][0, 0] == pytest.approx(by_z, rel=1e-6)


@pytest.fixture
def data():
    X = points(20, 2)
    return X, np.sin(5 * X[:, 0]) + X[:, 1]


def test_the_posterior_is_scikit_learns(data):
    X, y = data
    ours = GaussianProcess(
        noise=0.01, mean="zero", standardize=False, bounds=[(0, 1)] * 2, inference="fixed",
        hyperparameters={"lengthscale": [0.3, 0.5], "amplitude": 2.0},
    ).fit(X, y)  # fmt: skip
    theirs = GaussianProcessRegressor(2.0 * Matern([0.3, 0.5], nu=2.5), alpha=0.01, optimizer=None).fit(X, y)
    Z = points(7, 2, seed=3)
    for a, b in zip(ours.predict(Z, return_cov=True), theirs.predict(Z, return_cov=True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert ours.log_marginal_likelihood() == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-12)


@pytest.mark.parametrize("mean", ["constant", "linear", "zero", 0.3])
def test_the_likelihoods_gradient_is_that_of_differences(data, mean):
    model = GaussianProcess(mean=mean, n_starts=1).fit(*data)
    theta = model.theta_ + 0.1
    _, gradient = model.log_marginal_likelihood(theta, gradient=True)
    np.testing.assert_allclose(gradient, differences(model.log_marginal_likelihood, theta), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inference", ["map", "mle", "bayes"])
def test_each_inference_explains_the_data(data, inference):
    X, y = data[0][:8, :1], np.sin(5 * data[0][:8, 0])
    model = GaussianProcess(inference=inference, n_samples=3, n_starts=1).fit(X, y)
    assert np.abs(model.predict(X) - y).max() < 0.1
    assert len(model.posteriors_) == (3 if inference == "bayes" else 1)
    again = GaussianProcess(inference=inference, n_samples=3, n_starts=1).fit(X, y)
    assert np.array_equal(model.predict(X), again.predict(X))


def test_maximum_likelihood_is_at_least_as_likely(data):
    likely, probable = (GaussianProcess(inference=kind).fit(*data) for kind in ("mle", "map"))
    assert likely.log_marginal_likelihood_ >= probable.log_marginal_likelihood_


def test_units_do_not_matter(data):
    X, y = data
    a, b = GaussianProcess().fit(X, y), GaussianProcess().fit(100 * X - 7, 1e3 * y + 5)
    np.testing.assert_allclose(1e3 * a.predict(X) + 5, b.predict(100 * X - 7), rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_gradients_tell_of_the_function(data, noise):
    X, y = data
    slopes = np.stack([5 * np.cos(5 * X[:, 0]), np.ones(len(X))], axis=1)
    few = slice(0, 6)
    Z = points(50, 2, seed=5)
    truth = np.sin(5 * Z[:, 0]) + Z[:, 1]
    errors = [np.abs(GaussianProcess("rbf", noise=noise).fit(X[few], y[few], dY).predict(Z) - truth).max()
              for dY in (slopes[few], None)]  # fmt: skip
    assert errors[0] < errors[1]
    partial = slopes[few].copy()
    partial[:, 1] = np.nan
    assert GaussianProcess("rbf", noise=noise).fit(X[few], y[few], partial).posteriors_[0].U.shape == (12, 3)


def test_an_appended_factor_is_the_factor(data):
    model = GaussianProcess(noise=0.01).fit(*data)
    more = points(3, 2, seed=9)
    grown = model.condition(more, np.zeros(3)).posteriors_[0]
    K = grown.kernel.at(grown.theta, grown.U, grown.U)[0] + np.diag(grown.noise)
    np.testing.assert_allclose(grown.L @ grown.L.T, K, atol=1e-12)
    assert len(model.posteriors_[0].U) == 20
    model = GaussianProcess(noise=0.01, mean="zero").fit(*data)  # what is said of the data is of all of them
    conditioned = model.condition(more, np.zeros(3))
    assert conditioned.log_marginal_likelihood() == pytest.approx(conditioned.log_marginal_likelihood_, rel=1e-9)
    assert conditioned.log_marginal_likelihood_ != pytest.approx(model.log_marginal_likelihood_)


def test_gradients_of_joint_moments_are_those_of_differences(data):
    posterior = GaussianProcess(mean="linear").fit(*data).posteriors_[0]
    rng = np.random.default_rng(0)
    X, anchors = rng.random((3, 2, 2)), posterior.anchors(rng.random((4, 2)))
    bars = rng.standard_normal((3, 2)), rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 2, 4))

    def total(x):
        return sum((bar * part).sum() for bar, part in zip(bars, posterior.joint(x, anchors)[:3], strict=True))

    np.testing.assert_allclose(posterior.joint(X, anchors).pull(*bars), differences(total, X), atol=1e-6)
    weights = rng.standard_normal(3)
    values, pull = posterior.pairs(X[:, 0], X[:, 1])
    np.testing.assert_allclose(values, posterior.covariance(X[:, 0], X[:, 1]).diagonal(), atol=1e-12)
    reference = differences(lambda x: weights @ posterior.pairs(X[:, 0], x)[0], X[:, 1])
    np.testing.assert_allclose(pull(weights)[1], reference, atol=1e-6)


def test_draws_have_the_posteriors_moments(data):
    model = GaussianProcess().fit(*data)
    Z = points(4, 2, seed=8)
    mean, covariance = model.predict(Z, return_cov=True)
    draws = model.sample(Z, 20_000, random_state=0)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02 * covariance.max())


def test_a_factor_can_be_differentiated_through():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2, 3, 3))
    S, W = A @ np.swapaxes(A, 1, 2) + np.eye(3), rng.standard_normal((2, 3, 3))
    D = rng.standard_normal((2, 3, 3))
    D = D + np.swapaxes(D, 1, 2)
    h = 1e-6
    rise = (np.tril(W) * (np.linalg.cholesky(S + h * D) - np.linalg.cholesky(S - h * D))).sum() / (2 * h)
    assert (linalg.pull_cholesky(np.linalg.cholesky(S), W) * D).sum() == pytest.approx(rise, rel=1e-6)


@pytest.mark.parametrize("prior", [LogNormalPrior(0.3, 0.7), GammaPrior(2.0, 0.15)])
def test_priors_know_their_slopes(prior):
    slope = differences(lambda t: prior.logpdf(np.exp(t))[0].sum(), np.array([0.4]))
    np.testing.assert_allclose(prior.logpdf(np.exp([0.4]))[1], slope, rtol=1e-6)
    assert (prior.sample(10, np.random.default_rng(0)) > 0).all()


def test_it_can_be_pickled_whole(data):
    model = pickle.loads(pickle.dumps(GaussianProcess().fit(*data)))
    assert np.isfinite(model.log_marginal_likelihood())


def test_repeated_points_need_noise():
    X, y = [[0.0], [0.0], [1.0]], [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"repeats .*noise"):
        GaussianProcess(noise=0.0).fit(X, y)
    assert GaussianProcess(noise=0.0).fit(X, [1.0, 1.0, 2.0]).predict([[0.0]])[0] == pytest.approx(1.0, abs=1e-3)
    assert 0 < GaussianProcess().fit(X, y).predict([[0.0]])[0] < 2
    with pytest.raises(ValueError, match=r"repeats .*row"):  # two exact ones among noisy ones
        GaussianProcess(noise="fixed").fit(X, y, noise_variance=[0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="overflow"):
        GaussianProcess().fit([[0.0], [1.0]], [0.0, 1e200])


@pytest.mark.parametrize(
    ("options", "fit", "words"),
    [
        ({"kernel": "cubic"}, {}, "kernel"),
        ({"noise": -1.0}, {}, "noise"),
        ({"noise": "much"}, {}, "noise"),
        ({"inference": "guess"}, {}, "inference"),
        ({"mean": "cubic"}, {}, "mean"),
        ({"bounds": [(1, 0), (0, 1)]}, {}, "bounds"),
        ({"noise": "fixed"}, {}, "noise_variance"),
        ({}, {"noise_variance": np.ones(20)}, "noise_variance"),
        ({"noise": "fixed"}, {"noise_variance": -np.ones(20)}, "noise_variance"),
        ({}, {"dY": np.ones((3, 2))}, "dY"),
        ({"kernel": "matern12"}, {"dY": np.ones((20, 2))}, "differentiable"),
        ({"inference": "fixed", "hyperparameters": {"width": 1}}, {}, "hyperparameters"),
        ({"inference": "fixed", "hyperparameters": {"amplitude": -1}}, {}, "amplitude"),
    ],
)
def test_bad_input_is_named(data, options, fit, words):
    with pytest.raises(ValueError, match=words):
        GaussianProcess(**options).fit(*data, **fit)


def test_bad_kernels_are_named():
    with pytest.raises(ValueError, match="nu"):
        MaternKernel(-1.0)
    with pytest.raises(ValueError, match="tasks"):
        CoregionalizationKernel(2).at(np.zeros(4), np.full((1, 1), 5.0), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="levels"):
        Sources((1, 2), kernel="tasks")
    with pytest.raises(ValueError, match="costs"):
        Sources((0.5, 1.0), costs=(0.0, 1.0))
