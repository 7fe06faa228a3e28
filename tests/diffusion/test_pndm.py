import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.diffusion.pndm import (
    PNDMSampler,
    training_steps,
    transfer_coefficients,
)
from paperworks.diffusion.schedules import EDMSchedule, NoiseScheduleVP
from paperworks.numerics import multistep_weights
from paperworks.testbeds.mixtures import GaussianMixture, bench_mixture_1d

F64 = torch.float64
LINEAR = NoiseScheduleVP.linear()
DISCRETE = NoiseScheduleVP.discrete(betas=np.linspace(1e-4, 2e-2, 1000))
BENCH = bench_mixture_1d()
X_T = torch.linspace(-2.5, 2.5, 41, dtype=F64)[:, None]
PSEUDO = ("DDIM", "improved-Euler", "S-PNDM", "F-PNDM", "PLMS", "PRK")


def counting(model_fn):
    def counted(x, t):
        counted.calls += 1
        counted.times.append(t)
        return model_fn(x, t)

    counted.calls, counted.times = 0, []
    return counted


def error(method, steps, t_end=0.05, schedule=LINEAR, **options):
    sampler = PNDMSampler(BENCH.model(schedule), schedule, method, **options)
    truth = BENCH.transport(X_T, schedule, schedule.t_max, t_end)
    return (sampler.sample(X_T, steps, t_end=t_end).sample - truth).abs().max().item()


def papers_transfer(x, e, a_t, a_u):
    """Equation 11 of the paper in alpha-bar."""
    scale = math.sqrt(a_u / a_t)
    denominator = math.sqrt(a_t) * (math.sqrt((1 - a_u) * a_t) + math.sqrt((1 - a_t) * a_u))
    return scale * x - (a_u - a_t) / denominator * e


@settings(max_examples=50, deadline=None)
@given(t=st.floats(0.01, 1.0), u=st.floats(0.001, 1.0), x=st.floats(-3, 3), e=st.floats(-3, 3))
def test_transfer_is_the_papers_and_exact_for_true_noise(t, u, x, e):
    sampler = PNDMSampler(lambda x, t: x, LINEAR)
    a, b = transfer_coefficients(sampler._node(t), sampler._node(u))
    expected = papers_transfer(x, e, LINEAR.alpha(t) ** 2, LINEAR.alpha(u) ** 2)
    scale = 1 + LINEAR.alpha(u) / LINEAR.alpha(t)
    assert a * x + b * e == pytest.approx(expected, abs=1e-9 * scale)
    noisy = LINEAR.alpha(t) * x + LINEAR.sigma(t) * e
    assert a * noisy + b * e == pytest.approx(LINEAR.alpha(u) * x + LINEAR.sigma(u) * e, abs=1e-12 * scale)


@pytest.mark.parametrize("method", PSEUDO)
@pytest.mark.parametrize("schedule", [LINEAR, NoiseScheduleVP.cosine(), DISCRETE, EDMSchedule()])
def test_point_mass_is_sampled_exactly(method, schedule):
    mixture = GaussianMixture(torch.ones(1, dtype=F64), torch.full((1, 2), 0.3, dtype=F64), 0.0)
    noise = torch.tensor([[0.5, -1.0], [2.0, 0.1]], dtype=F64)
    x = schedule.alpha(schedule.t_max) * mixture.means + schedule.sigma(schedule.t_max) * noise
    end = schedule.t_min
    result = PNDMSampler(mixture.model(schedule), schedule, method).sample(x, 5, t_end=end)
    expected = schedule.alpha(end) * mixture.means + schedule.sigma(end) * noise
    atol = 1e-9 if isinstance(schedule, EDMSchedule) else 1e-11  # rounding of x at sigma 80 is divided by sigma 0.002
    assert torch.allclose(result.sample, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        ("DDIM", 7, 7),
        ("improved-Euler", 7, 14),
        ("S-PNDM", 7, 8),
        ("F-PNDM", 10, 19),
        ("PLMS", 7, 8),
        ("PRK", 5, 20),
        ("FON", 10, 19),
    ],
)
def test_number_of_evaluations(method, steps, expected):
    model_fn = counting(BENCH.model(LINEAR))
    result = PNDMSampler(model_fn, LINEAR, method).sample(X_T, steps, t_end=0.01)
    assert result.nfe == model_fn.calls == expected


@pytest.mark.parametrize(
    ("method", "options", "low", "high"),
    [
        ("DDIM", {}, 0.95, 1.05),
        ("improved-Euler", {}, 1.95, 2.05),
        ("S-PNDM", {}, 1.9, 2.1),
        ("F-PNDM", {}, 1.9, 2.15),
        ("PLMS", {}, 1.9, 2.15),
        ("PRK", {}, 1.9, 2.1),
        ("FON", {}, 3.7, 4.1),
        ("F-PNDM", {"time": "rho"}, 3.7, 4.1),
        ("PRK", {"time": "rho"}, 3.9, 4.1),
        ("S-PNDM", {"time": "rho"}, 1.9, 2.15),
    ],
)
def test_order_of_convergence(method, options, low, high):
    coarse, fine = (error(method, steps, **options) for steps in (200, 400))
    assert low <= math.log2(coarse / fine) <= high


def test_fifty_pseudo_steps_beat_hundreds_of_ddim():
    assert error("F-PNDM", 50, t_end=1e-3) < 0.2 * error("DDIM", 400, t_end=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.floats(0.05, 3.0), min_size=1, max_size=4),
    step=st.floats(0.05, 3.0),
    start=st.floats(-5, 5),
    sign=st.sampled_from([-1, 1]),
)
def test_multistep_weights_integrate_polynomials_exactly(gaps, step, start, sign):
    places = start - sign * np.concatenate([[0.0], np.cumsum(gaps[:-1])])
    weights = multistep_weights(places.tolist(), start + sign * step)
    assert sum(weights) == pytest.approx(1, abs=1e-9)
    for power in range(len(places)):
        values = ((places - start) / step) ** power
        assert np.dot(weights, values) == pytest.approx(sign**power / (power + 1), rel=1e-6, abs=1e-6)


def test_variable_steps_reduce_to_the_constants_on_a_uniform_grid():
    known = [(1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]
    for order, constants in enumerate(known, start=1):
        places = [0.4 + 0.1 * i for i in range(order)]
        assert multistep_weights(places, 0.3) == pytest.approx(constants, abs=1e-12)
    fixed, variable = (
        PNDMSampler(BENCH.model(LINEAR), LINEAR, variable_step=v).sample(X_T, 20, t_end=0.01) for v in (False, True)
    )
    assert torch.allclose(fixed.sample, variable.sample, rtol=0, atol=1e-12)


def test_variable_steps_follow_an_uneven_grid():
    """With noise that is cubic in time the fourth-order gradient part is exact, whatever the grid."""
    model_fn = lambda x, t: torch.full_like(x, 1 + t - t**2 + 2 * t**3)  # noqa: E731
    grid = {"t_start": 0.9, "t_end": 0.1, "skip_type": "logSNR"}
    plain, variable = (
        PNDMSampler(model_fn, LINEAR, variable_step=v).sample(X_T, 12, return_trajectory=True, **grid)
        for v in (False, True)
    )
    t, u = variable.times[-2:]
    mean = sum(c * (u ** (k + 1) - t ** (k + 1)) / (k + 1) for k, c in enumerate((1, 1, -1, 2))) / (u - t)
    for result, exact in ((variable, True), (plain, False)):
        expected = papers_transfer(result.trajectory[-2], mean, LINEAR.alpha(t) ** 2, LINEAR.alpha(u) ** 2)
        assert torch.allclose(result.sample, expected, rtol=0, atol=1e-9) is exact


def test_sampling_there_and_back():
    sampler = PNDMSampler(BENCH.model(LINEAR), LINEAR, time="rho")
    there = sampler.sample(X_T, 100, t_end=0.05).sample
    back = sampler.sample(there, 100, t_start=0.05, t_end=1.0).sample
    assert torch.allclose(back, X_T, atol=1e-3)


def test_history_keeps_predictions_and_not_their_combinations():
    """S-PNDM by hand on three steps."""
    model_fn = BENCH.model(LINEAR)
    t = np.linspace(1.0, 0.4, 4).tolist()

    def phi(x, e, i):
        return papers_transfer(x, e, LINEAR.alpha(t[i]) ** 2, LINEAR.alpha(t[i + 1]) ** 2)

    e0 = model_fn(X_T, t[0])
    x = phi(X_T, (e0 + model_fn(phi(X_T, e0, 0), t[1])) / 2, 0)
    e1 = model_fn(x, t[1])
    x = phi(x, (3 * e1 - e0) / 2, 1)
    x = phi(x, (3 * model_fn(x, t[2]) - e1) / 2, 2)
    result = PNDMSampler(model_fn, LINEAR, "S-PNDM").sample(X_T, 3, t_end=0.4)
    assert torch.allclose(result.sample, x, rtol=0, atol=1e-12)


def test_grid_of_a_discrete_schedule():
    assert training_steps(1000, 4, "leading") == (750, 500, 250, 0)
    assert training_steps(1000, 4, "trailing") == (999, 749, 499, 249)
    assert training_steps(10, 3, "linspace") == (9, 4, 0)
    assert training_steps(10, 4, "leading") == (6, 4, 2, 0)
    model_fn = counting(BENCH.model(DISCRETE))
    result = PNDMSampler(model_fn, DISCRETE, "DDIM").sample(X_T, 4, return_trajectory=True)
    assert model_fn.times == pytest.approx([0.751, 0.501, 0.251, 0.001])
    assert result.times[-1] == 0
    assert len(result.trajectory) == 5


def test_last_step_onto_data_or_onto_the_first_level():
    model_fn = BENCH.model(DISCRETE)
    clean = PNDMSampler(model_fn, DISCRETE, "DDIM").sample(X_T, 10).sample
    noisy = PNDMSampler(model_fn, DISCRETE, "DDIM", set_alpha_to_one=False).sample(X_T, 10).sample
    t = DISCRETE.t_min
    x0 = (noisy - DISCRETE.sigma(t) * model_fn(noisy, t)) / DISCRETE.alpha(t)
    assert torch.allclose(clean, x0, rtol=0, atol=1e-12)
    for method in ("improved-Euler", "PRK"):  # nothing is evaluated at the noiseless end
        model = counting(model_fn)
        PNDMSampler(model, DISCRETE, method).sample(X_T, 5)
        assert min(model.times) >= t - 1e-12


def original_program(x, steps, model, alphas_cumprod):
    """F-PNDM as the paper's program runs it: levels looked up at trunc(t) + 1."""
    skip = len(alphas_cumprod) // steps
    seq = [i * skip for i in range(steps)]
    history = []

    def move(x, t, u, e):
        return papers_transfer(x, e, alphas_cumprod[math.trunc(t) + 1], alphas_cumprod[math.trunc(u) + 1])

    for t, u in zip(reversed(seq), reversed([-1, *seq[:-1]]), strict=True):
        m = (t + u) / 2
        e1 = model(x, t)
        history.append(e1)
        if len(history) > 3:
            e = (55 * history[-1] - 59 * history[-2] + 37 * history[-3] - 9 * history[-4]) / 24
        else:
            e2 = model(move(x, t, m, e1), m)
            e3 = model(move(x, t, m, e2), m)
            e4 = model(move(x, t, u, e3), u)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        x = move(x, t, u, e)
    return x


def test_legacy_offset_reproduces_the_original_program():
    alphas_cumprod = np.exp(2 * np.asarray(DISCRETE.log_alphas)).tolist()
    model_fn = BENCH.model(DISCRETE)
    for steps in (10, 40):  # 40: the middle of a step isn't a whole training step
        expected = original_program(X_T, steps, lambda x, n: model_fn(x, (n + 1) / 1000), alphas_cumprod)
        legacy = PNDMSampler(model_fn, DISCRETE, legacy_offset=True).sample(X_T, steps).sample
        assert torch.allclose(legacy, expected, rtol=0, atol=1e-11)
        aligned = PNDMSampler(model_fn, DISCRETE).sample(X_T, steps).sample
        assert (aligned - expected).abs().max() > 1e-4


def test_legacy_fon_replaces_the_slope_by_a_difference():
    """For a point mass the DDIM difference is exact, so the slope is right to first order in a training step."""
    model_fn = BENCH.model(DISCRETE)
    fon, legacy = (PNDMSampler(model_fn, DISCRETE, m).sample(X_T, 100).sample for m in ("FON", "FON-legacy"))
    ddim = PNDMSampler(model_fn, DISCRETE, "DDIM").sample(X_T, 100).sample
    difference = (fon - legacy).abs().max()
    assert 1e-6 < difference < 0.5 * (fon - ddim).abs().max()


def test_pf_is_the_adaptive_ode_solver():
    model_fn = counting(BENCH.model(LINEAR))
    result = PNDMSampler(model_fn, LINEAR, "PF").sample(X_T, t_end=1e-3, rtol=1e-8, atol=1e-8)
    assert result.nfe == model_fn.calls
    assert (result.sample - BENCH.transport(X_T, LINEAR, 1.0, 1e-3)).abs().max() < 1e-6


def test_pf_goes_all_the_way_on_a_discrete_schedule():
    model_fn = counting(BENCH.model(DISCRETE))
    for steps in (1, 7):  # PF chooses its own
        result = PNDMSampler(model_fn, DISCRETE, "PF").sample(X_T, steps, rtol=1e-6, atol=1e-6)
        assert (result.times[0], result.times[-1]) == (DISCRETE.t_max, DISCRETE.t_end(steps))
        exact = BENCH.transport(X_T, DISCRETE, DISCRETE.t_max, DISCRETE.t_end(steps))
        assert (result.sample - exact).abs().max() < 1e-3


def test_clipping_keeps_the_noiseless_sample_in_range():
    x = 3 * X_T
    for method in PSEUDO:
        clipped = PNDMSampler(BENCH.model(DISCRETE), DISCRETE, method, clip_sample=True).sample(x, 10).sample
        assert clipped.abs().max() <= 1 + 1e-12
        assert clipped.abs().max() > 0.99
    narrow = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), 0.05)
    plain, clipped = (
        PNDMSampler(narrow.model(DISCRETE), DISCRETE, "F-PNDM", clip_sample=c).sample(X_T, 10).sample
        for c in (False, True)
    )
    assert torch.allclose(plain, clipped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_shape_and_input_are_kept(dtype):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    result = PNDMSampler(lambda x, t: LINEAR.sigma(t) * x, LINEAR).sample(x, 10)
    assert result.sample.dtype == dtype
    assert result.sample.shape == x.shape
    assert torch.equal(x, before)
    # For standard normal data noise and sample coincide: nothing moves.
    assert torch.allclose(result.sample.float(), x.float(), atol=0.2)


def test_intermediate_states_and_callback():
    seen = []
    result = PNDMSampler(BENCH.model(LINEAR), LINEAR).sample(
        X_T, 5, t_end=0.1, return_trajectory=True, callback=lambda s: seen.append((s.index, s.total, s.nfe, s.t))
    )
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4]
    assert [s[2] for s in seen] == [4, 8, 12, 13, 14]
    assert result.times == pytest.approx([1.0, 0.82, 0.64, 0.46, 0.28, 0.1])
    assert torch.equal(result.trajectory[0], X_T)
    assert torch.equal(result.trajectory[-1], result.sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "RK4"}, "method is 'RK4'; it takes one of"),
        ({"time": "s"}, "time is 's'"),
        ({"timestep_spacing": "odd"}, "timestep_spacing is 'odd'"),
        ({"method": "FON", "time": "rho"}, "take a pseudo numerical method"),
        ({"method": "PF", "clip_sample": True}, "take a pseudo numerical method"),
        ({"legacy_offset": True}, "take a discrete schedule"),
        ({"method": "FON-legacy"}, "take a discrete schedule"),
        ({"method": "FON", "legacy_offset": True, "schedule": DISCRETE}, "legacy_offset takes a pseudo"),
    ],
)
def test_bad_options(options, message):
    options = {"schedule": LINEAR} | options
    with pytest.raises(ValueError, match=message):
        unchecked(PNDMSampler)(lambda x, t: x, **options)


def unchecked(cls):
    """Make an object past the type checks of the test run, to see the class's own."""

    def make(*args, **kwargs):
        made = object.__new__(cls)
        cls.__init__.__wrapped__(made, *args, **kwargs)
        return made

    return make


@pytest.mark.parametrize(
    ("method", "schedule", "arguments", "message"),
    [
        ("DDIM", LINEAR, {"steps": 0}, "steps is 0"),
        ("F-PNDM", LINEAR, {"steps": 3}, "steps is 3; F-PNDM takes at least 4"),
        ("PRK", LINEAR, {"steps": 3}, "PRK takes at least 4"),
        ("DDIM", DISCRETE, {"steps": 1001}, "steps is 1001"),
        ("DDIM", LINEAR, {"steps": 5, "t_end": 0.0}, "t_end is 0.0"),
        ("DDIM", LINEAR, {"steps": 5, "t_start": 2.0}, "t_start is 2.0"),
        ("PF", LINEAR, {"rtol": -1.0}, "rtol is -1.0"),
    ],
)
def test_bad_arguments(method, schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        PNDMSampler(BENCH.model(schedule), schedule, method).sample(X_T, **arguments)


def test_bad_states_and_models():
    with pytest.raises(ValueError, match="x has 1 NaN"):
        PNDMSampler(lambda x, t: x, LINEAR).sample(torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match=r"model_fn returned shape \(41, 2\)"):
        PNDMSampler(lambda x, t: x.expand(41, 2), LINEAR).sample(X_T)
    with pytest.raises(ValueError, match="the sample isn't finite"):
        PNDMSampler(lambda x, t: x * math.nan, LINEAR).sample(X_T)
