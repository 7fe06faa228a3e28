"""Networks that learn maps of fields, all trained alike: one loss and schedule, equal times, rates chosen alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.evidence import Run
from paperworks.numerics import seeded, torch_generator, train, warmup_cosine
from paperworks.operators import FieldNormalizer, MgNO, RelativeH1Loss, RelativeL2Loss
from paperworks.testbeds import OperatorPairs

OURS, THEIRS, EQUAL = "MgNO", "FNO", "FNO of as many parameters"
MODES = (20, 18)  # ten along each axis, counted from 0: of both signs along the first, of one along the last
BATCH = 8
# With the usual 0.999 two of three networks of ours diverge at 6e-3, on seeds that nothing is judged on. Fourier
# operators are a little more accurate with 0.99 too.
BETAS = (0.9, 0.99)


def fourier(channels: int, modes: tuple[int, int] = MODES, margin: float = 0.0) -> nn.Module:
    """Return neuraloperator's Fourier neural operator: four layers, with the grid's coordinates as further inputs.

    A margin, in shares of each side, is added around fields that aren't periodic: errors are about a tenth smaller.
    """
    from neuralop.models import FNO

    return FNO(modes, 1, 1, channels, domain_padding=margin or None)


def parameters(network: nn.Module) -> int:
    """Count real parameters; a complex one is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in network.parameters())


class Surrogate(nn.Module):
    """A network between the scaling of its inputs and that of its outputs."""

    def __init__(self, network: nn.Module, inputs: FieldNormalizer, outputs: FieldNormalizer) -> None:
        super().__init__()
        self.network = network
        for name, scale in (("inputs", inputs), ("outputs", outputs)):
            self.register_buffer(f"{name}_mean", scale.mean)
            self.register_buffer(f"{name}_std", scale.std)
        self.register_state_dict_post_hook(_without_settings)

    def forward(self, x: Float[Tensor, "batch 1 n m"]) -> Float[Tensor, "batch 1 n m"]:
        y: Tensor = self.network(FieldNormalizer(self.inputs_mean, self.inputs_std).encode(x))
        return FieldNormalizer(self.outputs_mean, self.outputs_std).decode(y)


def _without_settings(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
    state.pop("_metadata", None)  # neuraloperator's, which no weights-only file holds


@dataclass(frozen=True)
class Problem:
    """Samples to train on, to choose rates by and to judge by, and the networks that learn from them."""

    name: str
    train: OperatorPairs
    validation: OperatorPairs
    test: OperatorPairs
    networks: Mapping[str, Callable[[], nn.Module]] = field(compare=False)
    residual: bool = False  # whether inputs and outputs are frames of one motion, which are scaled alike
    batch: int = BATCH
    settings: Mapping[str, Any] = field(default_factory=dict)

    def surrogate(self, name: str, seed: int) -> Surrogate:
        """Return a network before its training."""
        inputs = FieldNormalizer.of(self.train.inputs, pointwise=False)
        outputs = inputs if self.residual else FieldNormalizer.of(self.train.outputs)
        with seeded(seed):
            return Surrogate(self.networks[name](), inputs, outputs)

    def loss(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Return the loss of a minibatch, relative in H1 as in the paper."""
        chosen = torch.randint(len(self.train.inputs), (self.batch,), generator=generator)
        return RelativeH1Loss(reduction="mean")(network(self.train.inputs[chosen]), self.train.outputs[chosen])

    def trained(self, run: Run, name: str, seed: int, lr: float, steps: int) -> nn.Module:
        """Return a network trained for so many steps."""

        def fit(network: nn.Module) -> None:
            generator = torch_generator(seed, 1)
            train(
                lambda step: self.loss(network, generator),
                torch.optim.Adam(network.parameters(), lr, betas=BETAS),
                steps,
                schedule=lambda step: warmup_cosine(step, steps // 10, steps),
                clip=1.0,
                progress=run.progress,
                label=f"{name}, {self.name}",
            )

        made = {"problem": self.name, "architecture": name, "seed": seed, "lr": lr, "steps": steps, **self.settings}
        return run.trained("mgno", self.surrogate(name, seed), fit, **made)

    def steps(self, run: Run, seconds: float) -> dict[str, int]:
        """Return how many steps each network takes in as much processor time, measured in turn."""
        if run.scale == "smoke":
            return dict.fromkeys(self.networks, 2)

        def measure() -> dict[str, float]:
            networks = {name: self.surrogate(name, 0) for name in self.networks}
            optimizers = {
                name: torch.optim.Adam(network.parameters(), betas=BETAS) for name, network in networks.items()
            }
            spent: dict[str, list[float]] = {name: [] for name in networks}
            generator = torch_generator(0, 2)
            for _ in range(10):
                for name, network in networks.items():
                    started = time.process_time()
                    train(lambda step: self.loss(network, generator), optimizers[name], 1, clip=1.0)  # noqa: B023
                    spent[name].append(time.process_time() - started)
            return {name: statistics.median(times[1:]) for name, times in spent.items()}

        each = run.cached("mgno-steps", measure, problem=self.name, networks=list(self.networks), **self.settings)
        return {name: max(1, round(seconds / each[name])) for name in self.networks}


@torch.no_grad()
def errors(network: nn.Module, pairs: OperatorPairs) -> tuple[float, float]:
    """Return the mean relative errors in L2 and in H1."""
    predicted = torch.cat([network(x) for x in pairs.inputs.split(16)])
    losses = (RelativeL2Loss("mean"), RelativeH1Loss(reduction="mean"))
    l2, h1 = (float(loss(predicted, pairs.outputs)) for loss in losses)
    return l2, h1


def best_rates(
    run: Run, problem: Problem, rates: tuple[float, ...], seconds: float, seeds: tuple[int, ...] = (1000, 1001)
) -> tuple[dict[str, float], list[Any]]:
    """Choose each network's rate by its mean error on the validation split, after equal time and from seeds of its own.

    More than one, as a rate at which some trainings diverge is none.
    """
    steps, rows = problem.steps(run, seconds), []
    chosen: dict[str, float] = {}
    for name in problem.networks:
        found = {}
        for lr in rates:
            try:
                networks = [problem.trained(run, name, seed, lr, steps[name]) for seed in seeds]
                found[lr] = statistics.mean(errors(network, problem.validation)[0] for network in networks)
            except FloatingPointError:  # it diverged
                found[lr] = float("inf")
        chosen[name] = min(found, key=lambda lr: found[lr])
        rows += [[name, f"{lr:g}, validation", steps[name], error, ""] for lr, error in found.items()]
    return chosen, rows


def mgno(channels: int = 16, **options: Any) -> Callable[[], MgNO]:
    """Return what makes our network: four layers on five levels."""
    return lambda: MgNO(hidden_channels=channels, n_layers=4, **options)
