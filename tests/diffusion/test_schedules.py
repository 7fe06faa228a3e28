import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.diffusion import EDMSchedule, NoiseScheduleVP, time_grid
from paperworks.diffusion.schedules import SKIP_TYPES, NoiseSchedule

LINEAR_BETAS = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
SCHEDULES: dict[str, NoiseSchedule] = {
    "linear": NoiseScheduleVP.linear(),
    "cosine": NoiseScheduleVP.cosine(),
    "discrete": NoiseScheduleVP.discrete(betas=LINEAR_BETAS),
    "edm": EDMSchedule(),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def times(schedule: NoiseSchedule, n: int = 101) -> torch.Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, n, dtype=torch.float64)


@each_schedule
def test_floats_and_tensors_agree(schedule):
    t = times(schedule)
    for name in ("log_alpha", "log_sigma", "alpha", "sigma", "lam", "drift", "squared_diffusion", "input_time"):
        function = getattr(schedule, name)
        one_by_one = torch.tensor([function(v) for v in t.tolist()], dtype=torch.float64)
        assert isinstance(function(t[3].item()), float)
        torch.testing.assert_close(function(t), one_by_one, rtol=1e-13, atol=1e-14, msg=name)


@each_schedule
def test_lam_falls_and_is_inverted(schedule):
    t = times(schedule, 400)
    lam = schedule.lam(t)
    assert (lam.diff() < 0).all()
    torch.testing.assert_close(schedule.t_of_lam(lam), t, rtol=1e-13, atol=1e-14)
    assert max(abs(schedule.t_of_lam(schedule.lam(v)) - v) / v for v in t.tolist()) < 1e-9


@each_schedule
def test_drift_and_diffusion_are_the_derivatives_of_the_marginals(schedule):
    # Between the steps of the discrete schedule, whose slope jumps at them.
    t = times(schedule, 57)[1:-1] + 0.37e-3
    e = 1e-7 * schedule.t_max
    slope = (schedule.log_alpha(t + e) - schedule.log_alpha(t - e)) / (2 * e)
    torch.testing.assert_close(schedule.drift(t), slope, rtol=2e-6, atol=2e-6)
    growth = (schedule.sigma(t + e) ** 2 - schedule.sigma(t - e) ** 2) / (2 * e)
    expected = growth - 2 * slope * schedule.sigma(t) ** 2
    torch.testing.assert_close(schedule.squared_diffusion(t), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "discrete"])
def test_variance_is_preserved(name):
    t = times(SCHEDULES[name])
    torch.testing.assert_close(SCHEDULES[name].alpha(t) ** 2 + SCHEDULES[name].sigma(t) ** 2, torch.ones_like(t))


def test_no_cancellation_near_the_data():
    schedule = NoiseScheduleVP.linear()
    # sigma^2 = beta_0 t + O(t^2); 1 - alpha^2 would be 0 in float64.
    assert schedule.sigma(1e-17) ** 2 == pytest.approx(0.1 * 1e-17, rel=1e-12)
    assert schedule.t_of_lam(schedule.lam(1e-12)) == pytest.approx(1e-12, rel=1e-9)


def test_linear_matches_the_integral_of_beta():
    schedule = NoiseScheduleVP.linear(0.2, 10.0)
    t = 0.7
    assert schedule.log_alpha(t) == pytest.approx(-0.5 * (0.2 * t + 0.5 * 9.8 * t**2))
    assert schedule.squared_diffusion(t) == pytest.approx(0.2 + 9.8 * t)


def test_discrete_passes_through_the_trained_steps():
    schedule = NoiseScheduleVP.discrete(betas=LINEAR_BETAS)
    products = torch.cumprod(1 - LINEAR_BETAS, 0)
    n = torch.arange(1000)
    torch.testing.assert_close(schedule.alpha((n + 1) / 1000.0 * torch.ones(1, dtype=torch.float64)) ** 2, products)
    assert schedule.input_time(schedule.t_min) == 0
    assert schedule.input_time(schedule.t_max) == 999
    same = NoiseScheduleVP.discrete(alphas_cumprod=products)
    np.testing.assert_allclose(same.log_alphas, schedule.log_alphas, rtol=1e-12)


def test_discrete_extrapolates_and_inverts_outside():
    schedule = SCHEDULES["discrete"]
    for t in (0.2e-3, 1.0007):
        assert schedule.t_of_lam(schedule.lam(t)) == pytest.approx(t, rel=1e-9)
    first, second = schedule.log_alpha(1e-3), schedule.log_alpha(2e-3)
    assert schedule.log_alpha(0.5e-3) == pytest.approx(first - 0.5 * (second - first), rel=1e-12)


def test_discrete_drops_the_noisy_tail():
    signal = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    schedule = NoiseScheduleVP.discrete(alphas_cumprod=signal[1:] / signal[0])
    assert 990 < schedule.total < 1000
    assert schedule.lam(schedule.t_max) >= -5.1
    assert schedule.input_time(1.0) == schedule.total - 1
    assert NoiseScheduleVP.discrete(alphas_cumprod=[0.9, 0.5, 0.0]).total == 2


def test_float32_times_stay_float32():
    for schedule in SCHEDULES.values():
        t = torch.tensor([0.5, 0.9])
        assert schedule.alpha(t).dtype == schedule.t_of_lam(schedule.lam(t)).dtype == torch.float32


@each_schedule
@pytest.mark.parametrize("skip_type", SKIP_TYPES)
def test_grids(schedule, skip_type):
    grid = time_grid(schedule, 7, schedule.t_max, schedule.t_min, skip_type)
    assert len(grid) == 8
    assert (grid[0], grid[-1]) == (schedule.t_max, schedule.t_min)
    assert all(a > b for a, b in itertools.pairwise(grid))
    backwards = time_grid(schedule, 7, schedule.t_min, schedule.t_max, skip_type)
    np.testing.assert_allclose(backwards[::-1], grid, rtol=1e-9)
    place = {
        "logSNR": schedule.lam,
        "time_uniform": lambda t: t,
        "time_quadratic": math.sqrt,
        "karras": lambda t: math.exp(-schedule.lam(t) / 7),
    }[skip_type]
    np.testing.assert_allclose(np.diff([place(t) for t in grid], 2), 0, atol=1e-9 * abs(place(grid[0])))


def test_karras_grid_is_edms():
    schedule = EDMSchedule()
    i = np.arange(18) / 17
    expected = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(time_grid(schedule, 17, 80.0, 0.002, "karras"), expected, rtol=1e-12)


@given(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0))
def test_lam_orders_times(a, b):
    for schedule in (SCHEDULES["linear"], SCHEDULES["discrete"]):
        if a < b * (1 - 1e-6):
            assert schedule.lam(a) > schedule.lam(b)


def test_stops_nearer_the_data_with_more_steps():
    assert NoiseScheduleVP.linear().t_end(15) == 1e-3
    assert NoiseScheduleVP.linear().t_end(16) == NoiseScheduleVP.linear().t_end() == 1e-4
    assert SCHEDULES["discrete"].t_end(5) == 1e-3


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: NoiseScheduleVP.linear(beta_0=0), ValueError, "beta_0"),
        (lambda: NoiseScheduleVP.linear(beta_0=2.0, beta_1=1.0), ValueError, "beta_1"),
        (lambda: NoiseScheduleVP.cosine(t_max=1.0), ValueError, "t_max"),
        (lambda: NoiseScheduleVP.discrete(), TypeError, "betas"),
        (lambda: NoiseScheduleVP.discrete(betas=[0.1, 1.0]), ValueError, "between 0 and 1"),
        (lambda: NoiseScheduleVP.discrete(betas=[0.1, float("nan")]), ValueError, "finite"),
        (lambda: NoiseScheduleVP.discrete(betas=[[0.1, 0.2]]), ValueError, "shape"),
        (lambda: NoiseScheduleVP.discrete(alphas_cumprod=[0.9, 0.95]), ValueError, "fall strictly"),
        (lambda: NoiseScheduleVP.discrete(betas=[0.1, 0.2], clip_lam=9.0), ValueError, "clip_lam"),
        (lambda: EDMSchedule(sigma_min=0.0), ValueError, "sigma_min"),
        (lambda: EDMSchedule(sigma_min=2.0, sigma_max=1.0), ValueError, "sigma_max"),
        (lambda: time_grid(SCHEDULES["linear"], 0, 1.0, 0.1), ValueError, "steps"),
        (lambda: time_grid(SCHEDULES["linear"], 3, 1.0, 0.0), ValueError, "t_end"),
        (lambda: time_grid(SCHEDULES["linear"], 3, 0.5, 0.5), ValueError, "different"),
    ],
)
def test_bad_input(make, error, says, untyped):
    with pytest.raises(error, match=says):
        make()
