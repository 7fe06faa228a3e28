"""The race against the authors' own library."""

import importlib
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.evidence import Estimate, Measurement, Run, Table, every, greatest, interleaved
from paperworks.numerics import seeded
from paperworks.papers.auto_lirpa.memory import peak_bytes
from paperworks.papers.auto_lirpa.networks import RACED, natural_networks
from paperworks.papers.auto_lirpa.training import digits_in
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm, margin_spec


def official() -> types.ModuleType:
    """Import auto_LiRPA as installed, or from the folder that $PAPERWORKS_AUTO_LIRPA names."""
    folder = os.environ.get("PAPERWORKS_AUTO_LIRPA")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("auto_LiRPA")


def against_official(run: Run) -> Measurement:
    """Wrap the same networks, bound the same margins, and compare times, values and memory."""
    theirs = official()
    few, repeats = run.at(smoke=4, desk=64, full=360), run.at(smoke=1, desk=9, full=15)
    inputs, labels = digits_in(run.torch_rng())[1]
    x, C, rows = inputs[:few], margin_spec(labels[:few], 10), []
    apart: list[list[float]] = []  # by network and seed
    found: dict[str, list[Estimate]] = {"crown_time": [], "wrap_time": []}

    def race(name: str, key: str, model: nn.Module, x: Tensor, C: Tensor, radius: float, repeats: int) -> None:
        ours, peer = BoundedModule(model, x, {"intersect": False}), theirs.BoundedModule(model, x)
        with torch.no_grad():
            jobs: dict[str, Callable[[], Any]] = {
                "ours": partial(our_margins, ours, x, C, radius, "CROWN"),
                "theirs": partial(their_margins, peer, their_ball(theirs, x, radius), C, "CROWN"),
                "our wrapping": partial(BoundedModule, model, x),
                "their wrapping": partial(theirs.BoundedModule, model, x),
            }
            times = interleaved(run, jobs, repeats)
            memory = [peak_bytes(jobs[job]) / 1e6 for job in ("ours", "theirs")]
        found.setdefault(key, []).append(times.ratio("ours", "theirs"))
        found["wrap_time"].append(times.ratio("our wrapping", "their wrapping"))
        rows.append([name, max(apart[-1]), *(1e3 * times.median(job) for job in jobs), *memory])

    for name in ("perceptron", "residual CNN"):
        apart.append([margins_apart(theirs, untrained(name, seed), x, C, 0.02) for seed in run.seeds])
        race(f"{name}, {few} digits", "crown_time", untrained(name, run.seed), x, C, 0.02, repeats)
    for key, network in RACED.items():
        apart.append([])
        for seed in run.seeds:
            model, image = network.untrained(seed, run.at(smoke=4, desk=1, full=1))
            margins = margin_spec(model(image).argmax(1), 10)
            apart[-1].append(margins_apart(theirs, model, image, margins, 2 / 255))
            if seed == run.seed:
                race(f"{key}, one image", key, model, image, margins, 2 / 255, repeats)
    return Measurement(
        {
            "difference": every([max(of_seed) for of_seed in zip(*apart, strict=True)]),
            **{key: greatest(ratios) for key, ratios in found.items()},
        },
        table=Table(
            ["network", "largest difference", "CROWN, ms", "theirs", "wrapping, ms", "theirs", "peak MB", "theirs"],
            rows,
        ),
        settings="its defaults, with the same relaxation of ReLU, one thread for both, radius 0.02 on digits and 2/255 "
        "on images; our times with bounds rounded outward, as by default, and the difference without",
        remark=f"auto_LiRPA {getattr(theirs, '__version__', 'of unknown version')}; of wrapping the worst counts.",
    )


def untrained(name: str, seed: int) -> nn.Module:
    """Return a network for the digits as it is before training."""
    with seeded(seed):
        return natural_networks()[name]().eval()


def our_margins(wrapped: BoundedModule, x: Tensor, C: Tensor, radius: float, method: Any) -> Tensor:
    """Return lower bounds of margins by ours."""
    return wrapped.compute_bounds(BoundedTensor(x, PerturbationLpNorm(radius)), method, C=C, bound_upper=False)[0]


def their_ball(theirs: Any, x: Tensor, radius: float) -> Any:
    """Return an input as auto_LiRPA takes it."""
    return theirs.BoundedTensor(x, theirs.PerturbationLpNorm(norm=torch.inf, eps=radius))


def their_margins(wrapped: Any, ball: Any, C: Tensor, method: str) -> Tensor:
    """Return lower bounds of margins by auto_LiRPA."""
    return wrapped.compute_bounds(x=(ball,), method=method, C=C, bound_upper=False)[0]


@torch.no_grad()
def margins_apart(theirs: Any, model: nn.Module, x: Tensor, C: Tensor, radius: float) -> float:
    """Return the largest difference of both's margins, to their size where that is above 1."""
    opts = {"intersect": False, "sound": False}  # theirs leaves rounding out
    ours, peer = BoundedModule(model, x, opts), theirs.BoundedModule(model, x)
    ball = their_ball(theirs, x, radius)
    apart = 0.0
    for kind in ("CROWN-IBP", "CROWN"):
        mine, other = our_margins(ours, x, C, radius, kind), their_margins(peer, ball, C, kind)
        apart = max(apart, float(((mine - other) / other.abs().clamp(min=1)).abs().max()))
    return apart
