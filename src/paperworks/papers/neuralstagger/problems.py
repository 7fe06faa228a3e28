"""Burgers' equation from random states, and solvers of it that all train alike, without labels and for equal time."""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from platformdirs import user_cache_dir
from torch import Tensor, nn
from torch.nn import functional

from paperworks.evidence import Run
from paperworks.numerics import seeded, torch_generator
from paperworks.operators import Burgers, NeuralStagger, StatePool, late_growth, physics_train
from paperworks.testbeds import PeriodicGrid, burgers, gaussian_fields

POINTS, DT, NU, HORIZON = 128, 0.01, 0.01, 20
BATCH, POOL, LR = 16, 256, 4e-3  # chosen on a seed and states of their own, alike for all
LIMIT = 10.0  # of values that the equation keeps below the start's greatest, which is 2 or so


Backbone = Callable[[int], nn.Module]  # from the number of heads to a network


class Factors(NamedTuple):
    """By what a solver divides space and time, and how it steps over the latter."""

    space: int
    time: int
    temporal: Literal["interleave", "bundle"] = "bundle"

    @property
    def name(self) -> str:
        """Say it in words."""
        if self.time == 1:
            return "full" if self.space == 1 else f"{self.space} in space"
        how = "at once" if self.temporal == "bundle" else "interleaved"
        return f"{self.space} in space, {self.time} in time {how}"

    @property
    def needed(self) -> int:
        """The number of consecutive states that it starts from."""
        return self.time if self.temporal == "interleave" else 1

    @property
    def heads(self) -> int:
        """The number of states that a network returns."""
        return self.time if self.temporal == "bundle" else 1


FULL, SPACE, BOTH, INTERLEAVED = Factors(1, 1), Factors(2, 1), Factors(2, 4), Factors(2, 4, "interleave")


class ConvNet(nn.Module):
    """Five periodic convolutions, with gaps in the middle ones."""

    def __init__(self, heads: int = 1, dims: int = 1, width: int = 24, gaps: tuple[int, ...] = (1, 2, 4, 2, 1)) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        widths = [1, *[width] * (len(gaps) - 1), heads]
        self.dims, self.gaps = dims, gaps
        self.layers = nn.ModuleList(
            convolution(a, b, 3, dilation=gap) for a, b, gap in zip(widths, widths[1:], gaps, strict=False)
        )

    def forward(self, x: Float[Tensor, "batch 1 *grid"]) -> Float[Tensor, "batch heads *grid"]:
        """Return the changes of fields."""
        for i, (layer, reach) in enumerate(zip(self.layers, self.gaps, strict=True)):
            for axis in range(-self.dims, 0):  # joining the ends on is faster than a circular padding
                n = x.shape[axis]
                x = torch.cat([x.narrow(axis, n - reach, reach), x, x.narrow(axis, 0, reach)], axis)
            x = layer(functional.gelu(x) if i else x)
        return x


def residual() -> Burgers:
    """Return the residual of a fine step."""
    return Burgers(POINTS, DT, NU)


def starts(count: int, generator: torch.Generator | None) -> Float[Tensor, "count 1 n"]:
    """Draw random states of mean 0 and standard deviation 0.58."""
    grid = PeriodicGrid(POINTS, 1.0)
    return gaussian_fields(grid, count, lambda k: (k > 0) * 25 / (k**2 + 25), generator)[:, None].float()


def truth(u0: Float[Tensor, "count 1 n"], steps: int = HORIZON) -> Float[Tensor, "count times 1 n"]:
    """Solve with ten fourth-order steps to each fine one."""
    return burgers(POINTS, NU).simulate(u0[:, 0], DT, steps, 10)[:, :, None]


def warm(u0: Tensor, count: int) -> Tensor:
    """Solve the first steps by two fourth-order steps to each fine one."""
    return burgers(POINTS, NU).simulate(u0[:, 0], DT, count, 2)[:, 1:, None]


def untrained(factors: Factors, seed: int, backbone: Backbone = ConvNet) -> NeuralStagger:
    """Return a solver before its training."""
    with seeded(seed):
        made = partial(backbone, factors.heads)
        model = NeuralStagger(made, (factors.space,), factors.time, temporal=factors.temporal)
    model.register_state_dict_post_hook(_without_settings)
    return model


def _without_settings(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
    state.pop("_metadata", None)  # neuraloperator's, which no weights-only file holds


def pool(factors: Factors, steps: int, seed: int) -> StatePool:
    """Return the states of a training, warmed up by a numerical solver where sequences are interleaved."""

    def sampler(count: int, generator: torch.Generator | None) -> Tensor:
        u0 = starts(count, generator)
        more = factors.needed - 1
        return torch.cat([u0[:, None], warm(u0, more)], 1) if more else u0[:, None]

    growth = late_growth(steps, max(1, HORIZON // factors.time))
    return StatePool(sampler, POOL, growth, torch_generator(seed, 1), limit=LIMIT)


def fit(run: Run, model: nn.Module, factors: Factors, steps: int, seed: int, name: str, kept: bool = False) -> None:
    """Train a solver; long trainings are written to a file, and go on from it."""
    path = None
    if kept:
        folder = Path(run.cache_folder or os.environ.get("PAPERWORKS_CACHE") or user_cache_dir("paperworks"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"neuralstagger-{name}-{seed}-{steps}.pt"
    states = pool(factors, steps, seed)
    physics_train(
        model,
        residual(),
        states,
        steps,
        batch_size=BATCH,
        lr=LR,
        checkpoint=path,
        progress=run.progress,
        label=f"training {name}",
    )
    if path is not None:
        path.unlink()  # so that no other code goes on from it
    if states.dropped:
        run.log.info("%s: %d states dropped", name, states.dropped)


def seconds(run: Run) -> float:
    """Return the processor time of a training."""
    return run.at(smoke=0.0, desk=20.0, full=3600.0)


def steps_in(run: Run, factors: Factors, backbone: Backbone = ConvNet, name: str = "conv") -> int:
    """Return how many training steps take the processor time of the scale."""
    if run.scale == "smoke":
        return 3

    def measure() -> float:
        spent = []
        model = untrained(factors, 0, backbone)
        for block in range(4):
            started = time.process_time()
            fit(Run(), model, factors, 8, block, name)
            spent.append((time.process_time() - started) / 8)
        return statistics.median(spent[1:])

    each = run.cached("neuralstagger-step", measure, factors=list(factors), backbone=name)
    return max(1, round(seconds(run) / each))


def trained(run: Run, factors: Factors, seed: int, backbone: Backbone = ConvNet, name: str = "conv") -> NeuralStagger:
    """Return a solver trained for the seconds of the scale."""
    steps = steps_in(run, factors, backbone, name)
    label = "-".join(map(str, (name, *factors)))

    def train(model: nn.Module) -> None:
        fit(run, model, factors, steps, seed, label, kept=run.scale == "full")

    settings = {"factors": list(factors), "steps": steps, "seed": seed, "backbone": name}
    made = run.trained(f"neuralstagger-{label}", untrained(factors, seed, backbone), train, **settings)
    assert isinstance(made, NeuralStagger)
    return made


def relative(found: Float[Tensor, "count 1 n"], true: Float[Tensor, "count 1 n"]) -> Float[Tensor, " count"]:
    """Return the relative error in L2 of each state."""
    return ((found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).double()
