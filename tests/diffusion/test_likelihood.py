import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.diffusion import (
    GaussianPerturbation,
    SingularDistributionEstimator,
    composite_smoothness,
    intrinsic_dimension,
    log_marginal,
    ppca_mle,
    sieve_rates,
    singularity_slope,
    sliced_wasserstein1,
    wasserstein1,
)
from paperworks.numerics import energy_distance

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def circle(n, seed=0):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def linear_model(dim=4, latent_dim=2, seed=0):
    loadings = torch.randn(dim, latent_dim, generator=rng(seed), dtype=F64)
    return loadings, (lambda z: z @ loadings.T), lambda s: loadings @ loadings.T + s * s * torch.eye(dim, dtype=F64)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact_for_a_linear_generator(latent_dim):
    _, decoder, covariance = linear_model(latent_dim=latent_dim)
    x = torch.randn(7, 4, generator=rng(1), dtype=F64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=F64), covariance(0.5)).log_prob(x)
    found = log_marginal(x, decoder, 0.5, "quadrature", latent_dim=latent_dim, nodes=128)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_quadrature_refines_until_the_nodes_are_closer_than_the_noise():
    calls = []

    def decoder(z):
        calls.append(len(z))
        return 10 * z

    x = torch.zeros(1, 1, dtype=F64)
    found = log_marginal(x, decoder, 0.05, "quadrature", latent_dim=1, nodes=16)
    assert calls[-1] > calls[0] == 16
    assert found.item() == pytest.approx(-0.5 * math.log(2 * math.pi * (100 + 0.05**2)), abs=1e-5)
    with pytest.warns(RuntimeWarning, match="the likelihood is rough"):
        log_marginal(x, decoder, 0.05, "quadrature", latent_dim=1, nodes=16, most_nodes=64)


def test_a_uniform_latent_in_quadrature():
    # f(u) = u with noise s: the density of a uniform variable blurred by a normal one.
    x, s = torch.tensor([[0.3]], dtype=F64), 0.1
    exact = math.log(0.5 * (math.erf(0.7 / s / math.sqrt(2)) + math.erf(0.3 / s / math.sqrt(2))))
    found = log_marginal(x, lambda z: z, s, "quadrature", latent_dim=1, latent="uniform", nodes=2000)
    assert found.item() == pytest.approx(exact, abs=1e-6)


def posterior_of(loadings, s):
    """Return the exact encoder of a linear generator; its importance weights are constant."""
    d = loadings.shape[1]
    precision = torch.eye(d, dtype=F64) + loadings.T @ loadings / s**2
    covariance = torch.linalg.inv(precision)

    def encoder(x):
        return x @ loadings @ covariance.T / s**2, covariance.diagonal().log().expand(len(x), d)

    return encoder


def test_the_exact_encoder_makes_every_bound_exact():
    loadings, decoder, covariance = linear_model(latent_dim=1)
    x = torch.randn(5, 4, generator=rng(1), dtype=F64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=F64), covariance(0.5)).log_prob(x)
    for method in ("elbo", "iwae", "importance"):
        found = log_marginal(
            x, decoder, 0.5, method, latent_dim=1, encoder=posterior_of(loadings, 0.5), K=1, generator=rng()
        )
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def test_the_bounds_are_ordered_on_average():
    _, decoder, _ = linear_model(latent_dim=1)
    x = torch.randn(3000, 1, generator=rng(1), dtype=F64) @ linear_model(latent_dim=1)[0].T
    x += 0.5 * torch.randn(3000, 4, generator=rng(2), dtype=F64)

    def encoder(x):
        return torch.zeros(len(x), 1, dtype=F64), torch.zeros(len(x), 1, dtype=F64)

    def mean(method, K):
        return log_marginal(x, decoder, 0.5, method, latent_dim=1, encoder=encoder, K=K, generator=rng()).mean().item()

    exact = log_marginal(x, decoder, 0.5, "quadrature", latent_dim=1).mean().item()
    values = [mean("elbo", 8), mean("iwae", 8), mean("iwae", 64), mean("importance", 1000), exact + 0.02]
    assert values == sorted(values)


def test_doubly_reparameterised_gradients_have_the_same_mean_and_less_variance():
    from paperworks.diffusion.likelihood.marginal import log_weights

    loadings, decoder, _ = linear_model(latent_dim=1)
    x = (loadings @ torch.ones(1, 1, dtype=F64)).T
    shift = torch.tensor(0.1, dtype=F64, requires_grad=True)
    base = posterior_of(loadings, 0.5)

    def encoder(x):
        mean, log_variance = base(x)
        return mean + shift, log_variance

    def gradients(doubly):
        found = []
        for seed in range(300):
            weights = log_weights(x, decoder, encoder, 0.5, 16, "normal", rng(seed), doubly=doubly)
            shares = torch.softmax(weights.detach(), 0)
            loss = (shares * weights).sum() if doubly else torch.logsumexp(weights, 0).sum()
            found.append(torch.autograd.grad(loss, shift)[0])
        return torch.stack(found)

    plain, doubly = gradients(False), gradients(True)
    error = 4 * (plain.std() + doubly.std()) / math.sqrt(300)
    assert abs(plain.mean() - doubly.mean()) < error
    assert doubly.std() < plain.std()


def test_ppca_recovers_what_made_the_data_and_is_blind_to_perturbation():
    loadings, _, _ = linear_model(6, 2)
    X = torch.randn(400, 2, generator=rng(1), dtype=F64) @ loadings.T + 3
    plain, perturbed = ppca_mle(X, 2), ppca_mle(X, 2, perturbation=0.3)
    centred = X - X.mean(0)
    torch.testing.assert_close(plain.loadings @ plain.loadings.T, centred.T @ centred / 400)
    torch.testing.assert_close(perturbed.loadings, plain.loadings, rtol=0, atol=1e-10)
    assert perturbed.noise_variance - plain.noise_variance == pytest.approx(0.09, abs=1e-10)
    assert plain.noise_variance == pytest.approx(0, abs=1e-25)
    assert math.isfinite(perturbed.mean_log_likelihood())


def test_ppcas_likelihood_is_the_normal_one():
    X = torch.randn(200, 5, generator=rng(1), dtype=F64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.5], dtype=F64)
    fit = ppca_mle(X, 2)
    covariance = fit.loadings @ fit.loadings.T + fit.noise_variance * torch.eye(5, dtype=F64)
    direct = torch.distributions.MultivariateNormal(fit.mean, covariance).log_prob(X).mean().item()
    assert fit.mean_log_likelihood() == pytest.approx(direct, abs=1e-10)
    assert fit.mean_log_likelihood(1.5 * math.sqrt(fit.noise_variance)) < direct


def test_the_likelihood_of_singular_data_grows_by_the_codimension():
    X = torch.randn(200, 2, generator=rng(1), dtype=F64) @ torch.randn(2, 6, generator=rng(2), dtype=F64)
    assert singularity_slope(ppca_mle(X, 2).mean_log_likelihood, 1e-3) == pytest.approx(4, abs=1e-3)
    regular = torch.randn(200, 6, generator=rng(1), dtype=F64)
    density = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), torch.eye(6, dtype=F64))
    assert singularity_slope(lambda sigma: density.log_prob(regular).mean().item(), 1e-3) == 0


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_intrinsic_dimension(dimension):
    X = torch.rand(1500, dimension, generator=rng(), dtype=F64) @ torch.randn(
        dimension, 10, generator=rng(1), dtype=F64
    )
    assert intrinsic_dimension(X) == pytest.approx(dimension, rel=0.15)


def test_a_module_is_copied_and_every_fit_starts_from_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2))
    before = copy.deepcopy(module.state_dict())
    X = torch.randn(60, 2, generator=rng(), dtype=F64).numpy()
    options = {"decoder": module, "max_iter": 15, "random_state": 0}
    fits = [
        SingularDistributionEstimator(perturbation="grid", grid=grid, **options).fit(X)
        for grid in ((0.1, 0.4), (0.4, 0.1))
    ]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    # The levels don't go on from each other, so their order doesn't matter.
    assert fits[0].path_ == fits[1].path_
    assert np.array_equal(fits[0].sample(3), fits[1].sample(3))
    assert fits[0].sample(0).shape == (0, 2)


def test_the_rates():
    rates = sieve_rates(10_000, beta=1, t=1)
    assert rates.perturbation == pytest.approx(10_000**-0.25)
    assert rates.wasserstein == pytest.approx(2 * 10_000**-0.25)  # both terms balance
    assert sieve_rates(10_000, 1, 1, sigma=0.5).perturbation == 0
    noisier = sieve_rates(10_000, 1, 1, sigma=0.5)
    assert noisier.hellinger < rates.hellinger
    # Data as they are: without noise the density's theory is void, with enough of it nothing is to be added.
    assert rates.hellinger_unperturbed == rates.wasserstein_unperturbed == math.inf
    assert (noisier.hellinger_unperturbed, noisier.wasserstein_unperturbed) == (noisier.hellinger, noisier.wasserstein)
    little = sieve_rates(10_000, 1, 1, sigma=0.01)
    assert little.hellinger_unperturbed == pytest.approx(10_000 ** (-1 / 3) * 0.01 ** (-1 / 3))
    assert little.wasserstein_unperturbed == pytest.approx(little.hellinger_unperturbed + 0.01)
    assert little.wasserstein_unperturbed > little.wasserstein
    assert composite_smoothness([1, 2], [3, 1]) == (1.0, 3.0)
    assert composite_smoothness([3, 0.5], [3, 1.5]) == (0.5, 1.5)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 1000))
def test_the_wasserstein_distance_is_one(n, dim, seed):
    a, b, c = (torch.randn(n, dim, generator=rng(seed + i), dtype=F64) for i in range(3))
    assert wasserstein1(a, a[torch.randperm(n, generator=rng(seed))]) == pytest.approx(0, abs=1e-12)
    assert wasserstein1(a, b) == pytest.approx(wasserstein1(b, a))
    assert wasserstein1(a, c) <= wasserstein1(a, b) + wasserstein1(b, c) + 1e-9
    assert wasserstein1(a, a + 2) == pytest.approx(2 * math.sqrt(dim))
    assert sliced_wasserstein1(a, b, rng()) <= wasserstein1(a, b) + 1e-9


def test_sinkhorn_is_near_the_assignment():
    a, b = torch.randn(60, 2, generator=rng(), dtype=F64), torch.randn(120, 2, generator=rng(1), dtype=F64) + 1
    exact = wasserstein1(a.repeat(2, 1), b)
    assert wasserstein1(a, b) == pytest.approx(exact, rel=0.02)


def test_the_energy_distance_is_nil_on_average_for_equal_laws():
    values = [
        energy_distance(torch.randn(50, 2, generator=rng(i)), torch.randn(50, 2, generator=rng(1000 + i)))
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)


@pytest.mark.parametrize("likelihood", ["elbo", "iwae", "dreg", "quadrature"])
def test_every_likelihood_learns_the_circle(likelihood):
    data = circle(400)
    estimator = SingularDistributionEstimator(
        latent_dim=2, likelihood=likelihood, perturbation=0.15, max_iter=250, lr=5e-3, K=4, random_state=0
    )
    if likelihood == "quadrature":
        estimator.set_params(latent_dim=1, latent="uniform")
    estimator.fit(data)
    radii = np.linalg.norm(estimator.sample(500), axis=1)
    assert np.median(np.abs(radii - 1)) < 0.2
    assert estimator.history_[-20:].mean() < estimator.history_[:20].mean()
    assert np.isfinite(estimator.score(data))


def test_samples_are_without_noise_unless_asked_for():
    estimator = SingularDistributionEstimator(latent_dim=1, perturbation=0.3, max_iter=30, random_state=0).fit(
        circle(100)
    )
    clean, noisy = estimator.sample(50, random_state=1), estimator.sample_noisy(50, random_state=1)
    step = (noisy - clean) / (estimator.sigma_ * estimator.scale_)
    assert step.std() == pytest.approx(1, abs=0.25)
    assert estimator.sigma_ > 0.15  # at least half the perturbation


def test_the_same_seed_gives_the_same_fit_and_scale_and_place_do_not_matter():
    settings = {"latent_dim": 1, "max_iter": 20, "random_state": 3, "perturbation": 0.1}
    first = SingularDistributionEstimator(**settings).fit(circle(100))
    again = SingularDistributionEstimator(**settings).fit(circle(100))
    moved = SingularDistributionEstimator(**settings).fit(8 * circle(100) + 16)
    np.testing.assert_array_equal(first.sample(10), again.sample(10))
    np.testing.assert_allclose(8 * first.sample(10) + 16, moved.sample(10), rtol=1e-3, atol=1e-2)
    assert first.score(circle(50)) == pytest.approx(moved.score(8 * circle(50) + 16) + 2 * math.log(8), abs=0.02)


def test_the_perturbation_can_be_chosen():
    auto = SingularDistributionEstimator(latent_dim=1, max_iter=5, t=1, random_state=0).fit(circle(100))
    assert auto.perturbation_ == pytest.approx(100**-0.25)
    grid = SingularDistributionEstimator(
        latent_dim=1, perturbation="grid", grid=(0.0, 0.2), max_iter=20, random_state=0
    ).fit(circle(100))
    assert set(grid.path_) == {0.0, 0.2}
    assert grid.perturbation_ == min(grid.path_, key=grid.path_.get)
    once = SingularDistributionEstimator(
        latent_dim=1, perturbation="anneal", resample=True, max_iter=5, t=1, random_state=0
    ).fit(circle(100))
    assert once.perturbation_ == pytest.approx(100**-0.25)


def test_the_perturbation_layer_is_for_training_only():
    layer, x = GaussianPerturbation(0.5), torch.zeros(10_000)
    assert layer.train()(x, rng()).std().item() == pytest.approx(0.5, rel=0.05)
    assert layer.eval()(x) is x
    assert GaussianPerturbation(0.0).train()(x) is x


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"latent_dim": 3}, "latent_dim is 3"),
        ({"likelihood": "exact"}, "likelihood is 'exact'"),
        ({"perturbation": -0.1}, "perturbation is -0.1"),
        ({"perturbation": "best"}, "perturbation is 'best'"),
        ({"sigma": -1}, "sigma is -1"),
        ({"sigma_min": 0}, "sigma_min is 0"),
        ({"sigma_min": 1, "sigma_max": 0.5}, "sigma_max is 0.5"),
        ({"K": 0}, "K is 0"),
        ({"latent": "beta"}, "latent is 'beta'"),
        ({"perturbation": "grid", "grid": ()}, "'grid' takes"),
    ],
)
def test_bad_parameters_are_told_at_fit(change, message):
    with pytest.raises(ValueError, match=message):
        SingularDistributionEstimator(**{"latent_dim": 1, "max_iter": 2, **change}).fit(circle(20))


@pytest.mark.parametrize("X", [np.full((5, 2), np.nan), np.zeros((1, 2)), np.zeros(4)])
def test_bad_data_are_told_at_fit(X):
    with pytest.raises(ValueError, match=r"NaN|sample|1D"):
        SingularDistributionEstimator(latent_dim=1, max_iter=2).fit(X)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: log_marginal(torch.zeros(1, 3), lambda z: z, 1.0, "quadrature", latent_dim=3), "latent_dim is 3"),
        (lambda: log_marginal(torch.zeros(1, 1), lambda z: z, 0.0, "quadrature", latent_dim=1), "sigma is 0"),
        (lambda: log_marginal(torch.zeros(1, 1), lambda z: z, 1.0, "iwae", latent_dim=1), "encoder or generator"),
        (lambda: log_marginal(torch.zeros(1, 1), lambda z: z, 1.0, "mcmc", latent_dim=1), "method is 'mcmc'"),
        (lambda: sieve_rates(0, 1, 1), "n is 0"),
        (lambda: sieve_rates(10, 0, 1), "beta is 0"),
        (lambda: composite_smoothness([1], []), "betas has 1"),
        (lambda: ppca_mle(torch.zeros(5, 2), 2), "latent_dim is 2"),
        (lambda: ppca_mle(torch.full((5, 2), math.nan), 1), "X has 10 NaN"),
        (lambda: wasserstein1(torch.zeros(2, 2), torch.zeros(2, 3)), "a has 2 columns"),
        (lambda: energy_distance(torch.zeros(1, 2), torch.zeros(2, 2)), "of at least 2"),
        (lambda: intrinsic_dimension(torch.zeros(5, 2)), "X has shape"),
        (lambda: GaussianPerturbation(-1), "sigma is -1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_embedding_is_a_better_start_than_random_weights():
    u = np.random.default_rng(0).uniform(size=(300, 1))
    curve = np.concatenate([np.cos(1.2 * np.pi * u), 0.6 * np.sin(2 * np.pi * u)], 1)
    truth = np.linspace(0, 1, 500)[:, None]
    truth = torch.from_numpy(np.concatenate([np.cos(1.2 * np.pi * truth), 0.6 * np.sin(2 * np.pi * truth)], 1))
    distances = []
    for init in ("embedding", "random"):
        estimator = SingularDistributionEstimator(
            likelihood="quadrature", latent="uniform", perturbation=0.2, max_iter=30, init=init, random_state=0
        ).fit(curve)
        distances.append(wasserstein1(torch.from_numpy(estimator.sample(500, 0)).double(), truth))
    assert distances[0] < 0.5 * distances[1]
    with pytest.raises(ValueError, match="init is 'zeros'"):
        SingularDistributionEstimator(init="zeros").fit(curve)
