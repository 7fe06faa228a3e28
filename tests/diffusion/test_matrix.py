"""Every sampler of the field, with every kind of prediction, under every schedule, where the ODE is solved exactly."""

import functools
import inspect

import pytest
import torch

from conformance.discovery import asks_for, of_kind
from paperworks.diffusion import (
    DPMSolver,
    EDMSchedule,
    NoiseScheduleVP,
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


# How a sampler is asked for an accurate solution, where its defaults don't do; any other gets STEPS and the grid.
STEPS = 150
OPTIONS = {
    "AdjointSampler": {"steps": 40},
    "odeint_dpm": {"steps": 40},
    "DPMSolver": {"steps": 60, "skip_type": "logSNR"},
    "PNDMSampler": {"steps": 120},
}
RHO = {"time": "rho", "variable_step": True}  # where noise levels grow fast in t
TOLERANCES = {"EDICTSampler": 0.25, "BDIASampler": 0.03, "PNDMSampler": 0.03, "ddim_invert": 0.04}
SAMPLERS = {export.name: export.thing for export in of_kind("sampler") if asks_for(export, "model_fn", "schedule")}


def solve(sampler, model_fn, schedule, x, name, fewer=1):
    """Solve from the schedule's greatest time to T_END, or back for one that inverts."""
    thing = SAMPLERS[sampler]
    options = {"steps": STEPS, "skip_type": GRID[name], "t_end": T_END[name], **OPTIONS.get(sampler, {})}
    options["steps"] //= fewer
    if sampler == "PNDMSampler" and name in ("EDM", "cosine"):
        options |= RHO
    given = {"model_fn": model_fn, "schedule": schedule, "x": x, "x_T": x, **options}

    def take(function):
        names = inspect.signature(function).parameters
        spread = any(p.kind is p.VAR_KEYWORD for p in names.values())
        return {n: v for n, v in given.items() if n in names or (spread and n in options)}

    found = thing(**take(thing))
    if inspect.isclass(thing):
        method = found.sample if hasattr(found, "sample") else found
        found = method(**take(method if hasattr(found, "sample") else found.forward))
    return getattr(found, "sample", found)


def problem(sampler, schedule, name, reach=2, points=21):
    """Return where a sampler starts, and where the exact flow leads from there."""
    x = torch.linspace(-reach, reach, points, dtype=torch.float64)[:, None] * schedule.sigma(schedule.t_max)
    end = MIXTURE.transport(x, schedule, schedule.t_max, T_END[name])
    return (end, x) if "invert" in sampler else (x, end)


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
@torch.no_grad()
def test_it_solves_the_ode(sampler, name, prediction_type):
    schedule = SCHEDULES[name]
    model_fn = wrap_model(exact_network(schedule, prediction_type), schedule, prediction_type)
    x, truth = problem(sampler, schedule, name)
    found = solve(sampler, model_fn, schedule, x, name)
    scale = schedule.sigma(schedule.t_max) if "invert" in sampler else 1
    assert (found - truth).abs().max().item() < TOLERANCES.get(sampler, 0.02) * scale


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
    if (sampler, name) == ("BDIASampler", "EDM") and prediction_type != "v":
        pytest.skip("a reversible step damps nothing, and rounded noise is multiplied by sigma = 80")
    schedule, (exact, quantised) = SCHEDULES[name], exact_and_quantised(name, prediction_type)
    x, _ = problem(sampler, schedule, name, reach=1, points=5)
    fewer = 6 if sampler in ("DPMSolver", "PNDMSampler") else 2
    found, expected = (solve(sampler, model_fn, schedule, x, name, fewer) for model_fn in (quantised, exact))
    scale = schedule.sigma(schedule.t_max) if "invert" in sampler else 1
    assert 0 < (found - expected).abs().max().item() < 0.01 * scale
