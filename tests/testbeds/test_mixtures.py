import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from paperworks.diffusion.schedules import EDMSchedule, NoiseScheduleVP
from paperworks.testbeds.mixtures import GaussianMixture, bench_mixture_1d, bench_mixture_64d, digits_mixture

F64 = torch.float64


def random_mixture(seed, components, dim, common=False):
    g = torch.Generator().manual_seed(seed)
    stds = 0.3 if common else torch.rand(components, generator=g, dtype=F64) + 0.1
    weights = torch.rand(components, generator=g, dtype=F64) + 0.1
    return GaussianMixture(weights, torch.randn(components, dim, generator=g, dtype=F64), stds), g


def naive_log_density(mixture, x, alpha, sigma):
    alpha, sigma = (torch.as_tensor(level, dtype=F64).reshape(-1, 1, 1) for level in (alpha, sigma))
    square = ((x[:, None] - alpha * mixture.means) ** 2).sum(-1)
    variance = (alpha**2 * mixture.stds[:, None] ** 2 + sigma**2).squeeze(-1)
    terms = mixture.weights.log() - 0.5 * mixture.dim * (2 * math.pi * variance).log() - 0.5 * square / variance
    return torch.logsumexp(terms, 1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    components=st.integers(1, 6),
    dim=st.integers(1, 5),
    alpha=st.floats(0.01, 1.0),
    sigma=st.floats(0.05, 50.0),
    common=st.booleans(),
    per_sample=st.booleans(),
)
def test_all_predictions_follow_from_the_density(seed, components, dim, alpha, sigma, common, per_sample):
    mixture, g = random_mixture(seed, components, dim, common)
    x = (2 * (alpha + sigma) * torch.randn(7, dim, generator=g, dtype=F64)).requires_grad_()
    level = torch.linspace(0.5, 1.0, 7, dtype=F64) if per_sample else 1.0
    a, s = alpha * level, sigma * level
    column = (lambda v: v[:, None]) if per_sample else (lambda v: v)
    expected = naive_log_density(mixture, x, a, s)
    assert torch.allclose(mixture.log_density(x, a, s), expected, rtol=1e-9, atol=1e-9)
    (score,) = torch.autograd.grad(expected.sum(), x)
    eps, x0 = -column(s) * score, (x + column(s) ** 2 * score) / column(a)
    tolerance = {"rtol": 1e-8, "atol": 1e-8 * (1 + sigma / alpha)}
    assert torch.allclose(mixture.score(x, a, s), score, **tolerance)
    assert torch.allclose(mixture.eps(x, a, s), eps, **tolerance)
    assert torch.allclose(mixture.x0(x, a, s), x0, **tolerance)
    assert torch.allclose(mixture.v(x, a, s), column(a) * eps - column(s) * x0, **tolerance)


def test_any_sample_shape_and_dtype():
    mixture = bench_mixture_64d()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    eps = mixture.eps(x, 0.6, 0.8)
    assert eps.shape == x.shape
    assert eps.dtype == torch.float32
    exact = mixture.eps(x.double().flatten(1), 0.6, 0.8).reshape(x.shape)
    assert torch.allclose(eps.double(), exact, atol=2e-5)


def test_point_masses_predict_the_noise_that_was_added():
    means = torch.tensor([[5.0, 0.0], [-5.0, 0.0]], dtype=F64)
    mixture = GaussianMixture(torch.ones(2, dtype=F64), means, 0.0)
    noise = torch.tensor([[0.3, -0.7], [1.0, 0.2]], dtype=F64)
    assert torch.allclose(mixture.eps(0.9 * means + 0.1 * noise, 0.9, 0.1), noise, atol=1e-12)


def test_parameters_get_gradients():
    logits = torch.zeros(3, dtype=F64, requires_grad=True)
    means = torch.tensor([[-1.0], [0.0], [1.0]], dtype=F64, requires_grad=True)
    x = torch.linspace(-1, 1, 4, dtype=F64)[:, None]

    def eps(logits, means):
        return GaussianMixture(logits.exp(), means, torch.tensor([0.2, 0.3, 0.4], dtype=F64)).eps(x, 0.8, 0.6)

    assert torch.autograd.gradcheck(eps, (logits, means))


def test_samples_have_the_moments_of_the_mixture():
    mixture = bench_mixture_1d()
    n, alpha, sigma = 200_000, 0.7, 0.5
    x = mixture.sample(n, torch.Generator().manual_seed(0), alpha, sigma)[:, 0]
    mean = alpha * (mixture.weights * mixture.means[:, 0]).sum()
    second = (mixture.weights * (alpha**2 * (mixture.means[:, 0] ** 2 + mixture.stds**2) + sigma**2)).sum()
    assert abs(x.mean() - mean) < 5 * second.sqrt() / math.sqrt(n)
    assert abs((x**2).mean() - second) < 5 * (x**2).std() / math.sqrt(n)
    assert torch.equal(x[:10], mixture.sample(n, torch.Generator().manual_seed(0), alpha, sigma)[:10, 0])


@pytest.mark.parametrize("schedule", [NoiseScheduleVP.linear(), NoiseScheduleVP.cosine()], ids=["linear", "cosine"])
def test_transport_solves_the_diffusion_ode(schedule):
    mixture = bench_mixture_1d()
    x = torch.linspace(-2.5, 2.5, 41, dtype=F64)[:, None]

    def slope(t, values):
        score = mixture.score(torch.from_numpy(values)[:, None], schedule.alpha(t), schedule.sigma(t))[:, 0].numpy()
        return schedule.drift(t) * values - 0.5 * schedule.squared_diffusion(t) * score

    t_start, t_end = 0.99, 1e-3
    solved = solve_ivp(slope, (t_start, t_end), x[:, 0].numpy(), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    assert abs(mixture.transport(x, schedule, t_start, t_end)[:, 0].numpy() - solved).max() < 1e-12


def test_transport_of_one_gaussian_is_affine():
    mixture = GaussianMixture(torch.ones(1, dtype=F64), torch.full((1, 1), 0.7, dtype=F64), 0.3)
    schedule = EDMSchedule()
    x = torch.tensor([[-300.0], [0.0], [300.0]], dtype=F64)
    expected = 0.7 + math.sqrt((0.09 + 0.002**2) / (0.09 + 80.0**2)) * (x - 0.7)
    assert torch.allclose(mixture.transport(x, schedule, 80.0, 0.002), expected, rtol=1e-13, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), components=st.integers(1, 5), spread=st.floats(0.1, 8.0))
def test_transport_preserves_order_and_quantiles_and_reverses(seed, components, spread):
    mixture, g = random_mixture(seed, components, 1)
    schedule = NoiseScheduleVP.linear()
    x = (spread * torch.randn(20, generator=g, dtype=F64)).sort().values
    y = mixture.transport(x[:, None], schedule, 1.0, 0.3)[:, 0]
    assert (y.diff() >= 0).all()
    for upper in (False, True):
        start = mixture.log_cdf(x, schedule.alpha(1.0), schedule.sigma(1.0), upper=upper)
        end = mixture.log_cdf(y, schedule.alpha(0.3), schedule.sigma(0.3), upper=upper)
        assert torch.allclose(start, end, rtol=1e-10, atol=1e-13)
    assert torch.allclose(mixture.transport(y[:, None], schedule, 0.3, 1.0)[:, 0], x, rtol=1e-9, atol=1e-9)


def test_model_answers_per_sample_times_like_single_ones():
    mixture, schedule = bench_mixture_1d(), NoiseScheduleVP.linear()
    x = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    times = torch.linspace(0.1, 0.9, 5, dtype=F64)
    for kind in ("noise", "x_start", "v", "score"):
        model = mixture.model(schedule, kind)
        rows = torch.cat([model(x[i : i + 1], times[i].item()) for i in range(5)])
        assert torch.allclose(model(x, times), rows, rtol=1e-12, atol=1e-12)


def test_digits_are_real_and_scaled():
    mixture = digits_mixture()
    assert mixture.means.shape == (1797, 64)
    assert mixture.means.min() == -1
    assert mixture.means.max() == 1
    denoised = mixture.x0(mixture.means[:5], 1.0, 0.01)
    assert torch.allclose(denoised, mixture.means[:5], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(2)}, "means has shape"),
        ({"weights": torch.ones(3)}, "weights has shape"),
        ({"stds": torch.ones(3)}, "stds"),
        ({"weights": torch.tensor([1.0, 0.0])}, "weights has a smallest element 0"),
        ({"stds": -0.1}, "stds has a smallest element -0.1"),
        ({"means": torch.full((2, 1), math.nan)}, "means has 2 NaN"),
    ],
)
def test_bad_parameters(change, message):
    given_ = {"weights": torch.ones(2), "means": torch.zeros(2, 1), "stds": 1.0} | change
    with pytest.raises(Exception, match=message) as caught:
        GaussianMixture.__init__.__wrapped__(object.__new__(GaussianMixture), **given_)
    assert isinstance(caught.value, ValueError)


def test_bad_input():
    with pytest.raises(ValueError, match="x has 3 elements a sample; this mixture takes 1"):
        bench_mixture_1d().eps(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="transport is for mixtures of one dimension; this one has 64"):
        bench_mixture_64d().transport(torch.zeros(2, 64), NoiseScheduleVP.linear(), 1.0, 0.5)
    with pytest.raises(ValueError, match="x has 1 NaN"):
        bench_mixture_1d().transport(torch.tensor([[math.nan]]), NoiseScheduleVP.linear(), 1.0, 0.5)
    with pytest.raises(ValueError, match="n is 0"):
        bench_mixture_1d().sample(0, torch.Generator())
