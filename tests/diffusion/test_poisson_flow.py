import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paperworks.diffusion import (
    DDPMLoss,
    EDMLoss,
    EDMPrecond,
    EDMSchedule,
    NoiseScheduleVP,
    PFGMPPNoise,
    PFGMPPScheduler,
    aligned_hyperparameters,
    empirical_denoiser,
    ode_log_likelihood,
    pfgm_field,
    poisson_field,
    sample_heun,
    wrap_model,
)

F64 = torch.float64
INF = math.inf
ATOMS = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=F64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def exact_model(data, D):
    return wrap_model(empirical_denoiser(data, D), EDMSchedule(), "x_start")


def test_at_infinity_the_noise_is_the_gaussian_draw_bit_by_bit():
    drawn = PFGMPPNoise(INF, 6).sample((5, 2, 3), 2.5, rng())
    assert torch.equal(drawn, 2.5 * torch.randn(5, 2, 3, generator=rng()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("D", [2, 128, math.inf])
def test_half_precision_is_the_same_noise_rounded(D, dtype):
    noise = PFGMPPNoise(D, 12)
    for sigma in (1.0, 80.0):
        half = noise.sample((500, 12), sigma, rng(3), dtype)
        wide = noise.sample((500, 12), sigma, rng(3))
        assert half.dtype == dtype
        assert torch.equal(half, wide.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype))
    assert torch.isfinite(PFGMPPNoise(0.01, 12).sample((500, 12), 80.0, rng(3), dtype)).all()


def test_all_d_share_their_directions():
    gaussian = PFGMPPNoise(INF, 6).sample((5, 6), 1.0, rng())
    for D in (0.05, 1, 64, 2.0**30):
        heavy = PFGMPPNoise(D, 6).sample((5, 6), 1.0, rng())
        torch.testing.assert_close(torch.nn.functional.normalize(heavy), torch.nn.functional.normalize(gaussian))
    torch.testing.assert_close(heavy, gaussian, rtol=1e-3, atol=0)


@pytest.mark.parametrize("D", [0.5, 1, 3, 64])
def test_a_coordinate_is_student_t_and_the_norm_a_beta_prime(D):
    drawn = PFGMPPNoise(D, 4).sample((20_000, 4), 2.0, rng(1), dtype=F64)
    assert stats.kstest((drawn[:, 0] / 2).numpy(), stats.t(D).cdf).pvalue > 1e-3
    share = drawn.square().sum(1) / (drawn.square().sum(1) + 4 * D)
    assert stats.kstest(share.numpy(), stats.beta(2, D / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("D", [0.3, 1, 7, 2048, 1e9])
def test_the_density_is_scipys(D):
    x = torch.randn(6, 3, generator=rng(), dtype=F64) * 3
    theirs = stats.multivariate_t(shape=4 * torch.eye(3).numpy(), df=D).logpdf(x.numpy())
    assert PFGMPPNoise(D, 3).log_prob(x, 2.0).numpy() == pytest.approx(theirs, abs=1e-6 if D > 1e6 else 1e-11)


@settings(deadline=None, max_examples=30)
@given(st.floats(1, 1e12), st.floats(0.1, 10))
def test_the_density_integrates_to_one(D, sigma):
    # The line folded into (-pi/2, pi/2) by x = sigma tan u, where the midpoint rule sees all of the tails.
    u = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000 * math.pi - math.pi / 2
    density = PFGMPPNoise(D, 1).log_prob(sigma * torch.tan(u)[:, None], sigma).exp()
    total = (density * sigma / torch.cos(u) ** 2).sum() * math.pi / 20_000
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_truncation_shortens_the_longest_only():
    free, cut = (PFGMPPNoise(1, 8, q).sample((4000, 8), 1.0, rng(), dtype=F64).norm(dim=1) for q in (1.0, 0.9))
    changed = cut < free
    assert changed.double().mean().item() == pytest.approx(0.1, abs=0.02)
    assert cut.max().item() == pytest.approx(cut[changed].min().item())


@pytest.mark.parametrize("D", [1, 2.5, 64])
def test_the_field_is_the_brute_force_sum_and_its_ratio_the_ode_of_the_denoiser(D):
    data = torch.randn(50, 3, generator=rng(), dtype=F64)
    x, r = torch.randn(6, 3, generator=rng(1), dtype=F64), 0.7
    power = (torch.cdist(x, data) ** 2 + r * r) ** (-(3 + D) / 2)
    brute = (power[..., None] * (x[:, None] - data)).sum(1) / (power.sum(1) * r)[:, None]
    e_x, e_r = poisson_field(x, r, data, D)
    torch.testing.assert_close(e_x / e_r[:, None], brute, rtol=1e-12, atol=1e-12)
    sigma = r / math.sqrt(D)
    slope = (x - empirical_denoiser(data, D)(x, sigma)) / sigma
    torch.testing.assert_close(slope / math.sqrt(D), brute, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(e_x.square().sum(1) + e_r.square(), torch.ones(6, dtype=F64))


def test_the_batch_target_of_pfgm_points_along_the_field():
    data = torch.randn(50, 3, generator=rng(), dtype=F64)
    x = torch.randn(6, 3, generator=rng(1), dtype=F64)
    e_x, e_r = poisson_field(x, 0.7, data, 1)
    v_x, v_r = pfgm_field(x, 0.7, data)
    torch.testing.assert_close(v_x / v_r[:, None], e_x / e_r[:, None])
    assert (torch.cat([v_x, v_r[:, None]], 1).norm(dim=1) < 2).all()  # sqrt(N + 1) at most


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("D", [1, 128, INF])
def test_the_denoiser_does_not_depend_on_its_chunks(D, chunk):
    data = 1e3 + torch.randn(40, 2, 2, generator=rng(), dtype=F64)
    x = data[:5] + 0.1
    whole = empirical_denoiser(data, D, batch_size=40)(x, 0.3)
    torch.testing.assert_close(empirical_denoiser(data, D, chunk)(x, torch.full((5,), 0.3)), whole)


@pytest.mark.parametrize("D", [1, 2, 128, INF])
def test_sampling_carries_the_prior_onto_the_data(D):
    prior = PFGMPPNoise(D, 2).sample((4000, 2), 80.0, rng(), dtype=F64)
    samples = sample_heun(exact_model(ATOMS, D), prior, 18, D=D).sample
    assert (samples[:, 0] < 0).double().mean().item() == pytest.approx(0.25, abs=0.03)
    nearest = torch.cdist(samples, ATOMS).min(dim=1).values
    assert nearest.median().item() < 1e-6


def test_the_sampler_at_infinity_is_edms_algorithm_bit_by_bit():
    data = torch.randn(20, 3, generator=rng(), dtype=F64)
    model_fn = exact_model(data, INF)
    steps, rho = 12, 7
    start = PFGMPPNoise(INF, 3).sample((4, 3), 80.0, rng(), dtype=F64)
    ours = sample_heun(model_fn, start, steps, return_trajectory=True)
    x = 80.0 * torch.randn(4, 3, generator=rng(), dtype=F64)
    times = list(ours.times)
    by_formula = [
        (80 ** (1 / rho) + i / (steps - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(steps)
    ]
    assert times == pytest.approx([*by_formula, 0.0], rel=1e-12)
    for t, u in itertools.pairwise(times):
        d = model_fn(x, t)
        y = x + (u - t) * d
        x = y if u == 0 else x + (u - t) * 0.5 * (d + model_fn(y, u))
    torch.testing.assert_close(ours.sample, x, rtol=0, atol=1e-13)
    assert ours.nfe == 2 * steps - 1


def test_sampling_is_of_second_order():
    prior = PFGMPPNoise(64, 2).sample((50, 2), 80.0, rng(), dtype=F64)
    wide = torch.randn(100, 2, generator=rng(2), dtype=F64)

    def sample(steps):
        return sample_heun(exact_model(wide, 64), prior, steps, sigma_min=0.3).sample

    truth = sample(1600)
    errors = [(sample(n) - truth).abs().mean().item() for n in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)


def test_extra_noise_comes_from_the_generator_and_is_warned_of_where_it_does_not_fit():
    prior = PFGMPPNoise(INF, 2).sample((5, 2), 80.0, rng(), dtype=F64)
    model_fn = exact_model(ATOMS, INF)
    first, again = (sample_heun(model_fn, prior, 8, step_noise=0.3, generator=rng(3)).sample for _ in range(2))
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="generator is None"):
        sample_heun(model_fn, prior, 8, step_noise=0.3)
    churned = sample_heun(model_fn, prior, 8, s_churn=10, generator=rng(3)).sample
    assert torch.isfinite(churned).all()
    with pytest.warns(RuntimeWarning, match="D = 64"):
        sample_heun(exact_model(ATOMS, 64), prior, 8, D=64, s_churn=10, generator=rng(3))


def test_preconditioning_is_edms_and_its_loss_has_unit_size():
    denoiser = EDMPrecond(lambda x, level: level[:, None] + 0 * x, sigma_data=0.5)
    x = torch.randn(4, 3, generator=rng(), dtype=F64)
    sigma = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=F64)
    total = sigma**2 + 0.25
    expected = (0.25 / total)[:, None] * x + (sigma * 0.5 / total.sqrt() * sigma.log() / 4)[:, None]
    torch.testing.assert_close(denoiser(x, sigma), expected)
    # A network that answers nothing leaves a residual of variance one, whatever the noise level.
    silent = EDMPrecond(lambda x, level: 0 * x)
    data = 0.5 * torch.randn(40_000, 2, generator=rng(), dtype=F64)
    assert EDMLoss()(silent, data, rng(1)).item() == pytest.approx(1, abs=0.03)


def test_the_loss_is_least_at_the_exact_denoiser_of_its_own_noise():
    data = ATOMS.repeat(5000, 1)
    losses = {D: EDMLoss(2)(empirical_denoiser(ATOMS, D), data, rng(1)).item() for D in (1, 2, 64)}
    assert min(losses, key=losses.get) == 2


def test_stable_targets_lower_the_loss_and_keep_its_minimiser():
    data = ATOMS.repeat(64, 1)
    exact = empirical_denoiser(ATOMS, 64)
    one_sample, stable = (EDMLoss(64, stable_target=flag)(exact, data, rng(1)).item() for flag in (False, True))
    assert stable < 1e-20 < one_sample
    assert EDMLoss(64, stable_target=True)(exact, data[:4], rng(1), reference=ATOMS).item() < 1e-20


def test_ddpms_loss_only_exchanges_the_noise():
    schedule = NoiseScheduleVP.linear()
    data = torch.randn(8, 4, generator=rng(), dtype=F64)
    seen = {}

    def network(x, t):
        seen["x"], seen["t"] = x, t
        return torch.zeros_like(x)

    assert DDPMLoss(schedule)(network, data, rng(1)).item() == pytest.approx(1, abs=0.5)
    gaussian = seen["x"]
    DDPMLoss(schedule, D=8)(network, data, rng(1))
    assert not torch.equal(gaussian, seen["x"])
    assert ((seen["t"] >= schedule.t_min) & (seen["t"] <= schedule.t_max)).all()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("D", [3.0, INF])
def test_the_likelihood_of_one_point_mass_seen_from_afar_is_the_noises_own(trace, D):
    # With all data at 0 the marginal at any level is the noise itself, so the ODE must return its density.
    x = torch.randn(3, 2, generator=rng(), dtype=F64)
    value = ode_log_likelihood(lambda x, sigma: x / sigma, x, D, sigma_min=1.0, trace=trace, generator=rng(1))
    torch.testing.assert_close(value, PFGMPPNoise(D, 2).log_prob(x, 1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "raw", "v_prediction"])
@pytest.mark.parametrize("D", [64, INF])
def test_the_scheduler_is_the_sampler(prediction_type, D):
    data = torch.randn(20, 3, generator=rng(), dtype=F64)
    denoise = empirical_denoiser(data, D)
    scheduler = PFGMPPScheduler.from_config(PFGMPPScheduler(D=D, prediction_type=prediction_type).config)
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == 19
    x = start = scheduler.sample_prior((4, 3), rng(), dtype=F64)
    levels = sample_heun(exact_model(data, D), start, 10, return_trajectory=True).times
    visited = [levels[0], *(s for sigma in levels[1:-1] for s in (sigma, sigma))]
    for t, sigma in zip(scheduler.timesteps, visited, strict=True):
        given = scheduler.scale_model_input(x, t)
        if prediction_type in ("raw", "v_prediction"):
            total = math.sqrt(sigma**2 + 0.25)
            output = (denoise(given * total, sigma) - 0.25 / total**2 * given * total) * total / (sigma * 0.5)
            output = output if prediction_type == "raw" else -output
        else:
            output = denoise(x, sigma) if prediction_type == "sample" else (x - denoise(x, sigma)) / sigma
        x = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(x, sample_heun(exact_model(data, D), start, 10).sample, rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match="after the last"):
        scheduler.step(x, 0.0, x)


def test_noise_is_added_at_the_level_of_a_timestep():
    scheduler = PFGMPPScheduler(D=64, prediction_type="raw")
    scheduler.set_timesteps(5)
    x0, noise = torch.zeros(2, 3), torch.ones(2, 3)
    noisy = scheduler.add_noise(x0, noise, scheduler.timesteps[:1])
    torch.testing.assert_close(noisy, torch.full((2, 3), 80.0), rtol=1e-5, atol=0)


def test_radii_are_aligned():
    assert aligned_hyperparameters(0.002, 80, 128) == pytest.approx((0.002 * 128**0.5, 80 * 128**0.5))
    assert PFGMPPNoise(128, 4).radius(2.0) == pytest.approx(2 * 128**0.5)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PFGMPPNoise(0, 4), "D is 0"),
        (lambda: PFGMPPNoise(math.nan, 4), "D is nan"),
        (lambda: PFGMPPNoise(64, 0), "n_dims is 0"),
        (lambda: PFGMPPNoise(64, 4).sample((2, 5), 1.0, rng()), "shape is"),
        (lambda: PFGMPPNoise(64, 4).sample((2, 4)), "generator is None"),
        (lambda: PFGMPPNoise(64, 4).log_prob(torch.zeros(2, 5)), "x has 5 elements"),
        (lambda: PFGMPPNoise(64, 4, max_radius_quantile=0), "max_radius_quantile is 0"),
        (lambda: aligned_hyperparameters(1, 0.5, 64), "sigma_max is 0.5"),
        (lambda: empirical_denoiser(torch.full((3, 1), math.nan)), "data has 3 NaN"),
        (lambda: empirical_denoiser(torch.zeros(3)), "data has shape"),
        (lambda: poisson_field(torch.zeros(1, 1), 1.0, torch.zeros(3, 1), INF), "D is inf"),
        (lambda: sample_heun(lambda x, t: x, torch.zeros(1, 1), steps=1), "steps is 1"),
        (lambda: sample_heun(lambda x, t: x, torch.full((1, 1), math.nan)), "x has 1 NaN"),
        (lambda: EDMLoss(levels="vp"), "levels is 'vp'"),
        (lambda: EDMLoss(D=-1), "D is -1"),
        (lambda: ode_log_likelihood(lambda x, t: x, torch.zeros(1, 1), trace="full"), "trace is 'full'"),
        (lambda: ode_log_likelihood(lambda x, t: x, torch.zeros(1, 1), trace="hutchinson"), "generator is None"),
        (lambda: PFGMPPScheduler(prediction_type="x"), "prediction_type is 'x'"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_before_the_timesteps_are_set_is_an_error():
    with pytest.raises(RuntimeError, match="before set_timesteps"):
        PFGMPPScheduler().step(torch.zeros(1, 1), 80.0, torch.zeros(1, 1))
