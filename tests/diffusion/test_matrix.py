"""Every sampler of the field, with every kind of prediction, under every schedule, where the ODE is solved exactly."""

import functools

import pytest
import torch

from paperworks.diffusion import (
    BDIASampler,
    DPMSolver,
    EDICTSampler,
    EDMSchedule,
    NoiseScheduleVP,
    PNDMSampler,
    QuantConfig,
    UniformTimes,
    collect_calibration,
    quantize_diffusion,
    sample_heun,
    wrap_model,
)
from paperworks.testbeds import bench_mixture_1d

MIXTURE = bench_mixture_1d()
BETAS = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
SCHEDULES = {
    "linear": NoiseScheduleVP.linear(),
    "cosine": NoiseScheduleVP.cosine(),
    "discrete": NoiseScheduleVP.discrete(betas=BETAS),
    "EDM": EDMSchedule(),
}
T_END = {"linear": 0.02, "cosine": 0.05, "discrete": 0.02, "EDM": 0.1}
PREDICTIONS = ["noise", "x_start", "v", "score"]
GRID = {"linear": "time_uniform", "cosine": "logSNR", "discrete": "time_uniform", "EDM": "karras"}


def dpm_solver(model_fn, schedule, x, name, fewer=1):
    return DPMSolver(model_fn, schedule).sample(x, 60 // fewer, 2, "logSNR", t_end=T_END[name]).sample


def pndm(model_fn, schedule, x, name, fewer=1):
    options = {"variable_step": True, "time": "rho"} if name in ("EDM", "cosine") else {}
    sampler = PNDMSampler(model_fn, schedule, "F-PNDM", **options)
    return sampler.sample(x, 120 // fewer, t_end=T_END[name], skip_type=GRID[name]).sample


def bdia(model_fn, schedule, x, name, fewer=1):
    return BDIASampler(model_fn, schedule).sample(x, 150 // fewer, skip_type=GRID[name], t_end=T_END[name]).sample


def edict(model_fn, schedule, x, name, fewer=1):
    return EDICTSampler(model_fn, schedule).sample(x, 150 // fewer, skip_type=GRID[name], t_end=T_END[name]).sample


SAMPLERS = {"DPM-Solver": dpm_solver, "PNDM": pndm, "BDIA": bdia, "EDICT": edict}
TOLERANCES = {"DPM-Solver": 0.02, "PNDM": 0.03, "BDIA": 0.03, "EDICT": 0.25}


def exact_network(schedule, prediction_type):
    """Return a network of that kind as it is trained: called with the schedule's own input times."""
    total = getattr(schedule, "total", None)
    model = MIXTURE.model(schedule, prediction_type)

    def network(x, time):
        return model(x, (time + 1) / total if total else time)

    return network


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_solves_the_ode(sampler, name, prediction_type):
    schedule = SCHEDULES[name]
    model_fn = wrap_model(exact_network(schedule, prediction_type), schedule, prediction_type)
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * schedule.sigma(schedule.t_max)
    truth = MIXTURE.transport(x, schedule, schedule.t_max, T_END[name])
    found = SAMPLERS[sampler](model_fn, schedule, x, name)
    assert (found - truth).abs().max().item() < TOLERANCES[sampler]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_edms_sampler_solves_its_ode(prediction_type):
    schedule = SCHEDULES["EDM"]
    model_fn = wrap_model(exact_network(schedule, prediction_type), schedule, prediction_type)
    x = 80 * torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    truth = MIXTURE.transport(x, schedule, 80.0, 1e-9)
    assert (sample_heun(model_fn, x, 60).sample - truth).abs().max().item() < 0.02


class ExactLayers(torch.nn.Module):
    """The exact network and two linear layers that change nothing: something to quantise."""

    def __init__(self, schedule, prediction_type):
        super().__init__()
        self.exact = exact_network(schedule, prediction_type)
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(1, 1, dtype=torch.float64) for _ in range(2)))
        for layer in self.layers:
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x, time):
        return self.layers(self.exact(x.double(), time.double()))


@functools.cache
def exact_and_quantised(name, prediction_type):
    """Return the exact model and its quantised copy, calibrated on what DPM-Solver shows it."""
    schedule = SCHEDULES[name]
    network = ExactLayers(schedule, prediction_type)
    exact = wrap_model(network, schedule, prediction_type)
    calibration = collect_calibration(
        network, schedule, (1,), 3000, times=UniformTimes(), model_fn=exact, generator=torch.Generator().manual_seed(0),
        sampler=lambda model_fn, x: DPMSolver(model_fn, schedule).sample(x, 30, 2, "logSNR", t_end=T_END[name]),
    )  # fmt: skip
    # A score grows by orders of magnitude on the way, so each part of the way has a range of its own.
    groups = 15 if prediction_type == "score" else 1
    config = QuantConfig(n_bits_w=12, n_bits_a=12, scale_method="minmax", timewise_groups=groups)
    return exact, wrap_model(quantize_diffusion(network, calibration, config), schedule, prediction_type)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@torch.no_grad()
def test_a_quantised_network_goes_anywhere(sampler, name, prediction_type, untyped):
    if (sampler, name) == ("BDIA", "EDM") and prediction_type != "v":
        pytest.skip("a reversible step damps nothing, and rounded noise is multiplied by sigma = 80")
    schedule, (exact, quantised) = SCHEDULES[name], exact_and_quantised(name, prediction_type)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None] * schedule.sigma(schedule.t_max)
    fewer = {"DPM-Solver": 6, "PNDM": 6, "BDIA": 2, "EDICT": 2}[sampler]
    found, expected = (SAMPLERS[sampler](model_fn, schedule, x, name, fewer) for model_fn in (quantised, exact))
    assert 0 < (found - expected).abs().max().item() < 0.01
