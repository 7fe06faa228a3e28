"""The trained networks that quantisation is measured on, and the samples that they make."""

import copy
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    BDIASampler,
    CalibrationSet,
    NoiseScheduleVP,
    QuantConfig,
    collect_calibration,
)
from paperworks.evidence import Run
from paperworks.papers.ptq4dm.ddpm import DDPM, DISCRETE, ddim_to_data, trained_ddpm
from paperworks.testbeds import Denoiser, digits, trained_denoiser

SCHEDULE = NoiseScheduleVP.linear()
T_END = 0.02


def rms(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference."""
    return float((a - b).square().mean().sqrt())


def settings(run: Run, n_bits_w: int = 8, n_bits_a: int = 8, **options: Any) -> QuantConfig:
    """Return the paper's settings but for what is given."""
    return QuantConfig(n_bits_w, n_bits_a, candidates=run.at(smoke=5, desk=100, full=100), **options)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the mean of ratios that treats x and 1/x alike."""
    return math.exp(statistics.fmean(map(math.log, values)))


@dataclass(frozen=True)
class Bench:
    """A trained denoiser in full precision, and what it makes of some noise by DDIM."""

    denoiser: Denoiser | DDPM
    steps: int
    noise: Tensor

    @classmethod
    def of(cls, run: Run, images: int, steps: int) -> "Bench":
        """Train the denoiser, or load it, and draw the noise that all samples start from."""
        denoiser = trained_denoiser(
            "digits", size=run.at(smoke="smoke", desk="desk", full="desk"), progress=run.progress
        )
        return cls(denoiser, steps, torch.randn(images, 1, 8, 8, generator=run.torch_rng(10_000)))

    @classmethod
    def ddpm(cls, run: Run, images: int, steps: int) -> "Bench":
        """Do the same with a plain network of discrete steps as the paper's."""
        return cls(trained_ddpm(run), steps, torch.randn(images, 1, 8, 8, generator=run.torch_rng(10_000)))

    @property
    def network(self) -> nn.Module:
        """The U-Net that is quantised."""
        return self.denoiser.network

    def denoiser_of(self, network: nn.Module) -> Denoiser | DDPM:
        """Return the denoiser with a network that stands in for its U-Net."""
        denoiser = copy.deepcopy(self.denoiser)
        denoiser.add_module("network", network)
        return denoiser

    def model(self, network: nn.Module) -> Callable[[Tensor, Any], Tensor]:
        """Return a sampler's model made of such a network."""
        denoiser = self.denoiser_of(network)
        return denoiser.model() if isinstance(denoiser, DDPM) else denoiser.model(SCHEDULE)

    def run(self, model_fn: Callable[[Tensor, Any], Tensor], noise: Tensor) -> Tensor:
        """Run DDIM from noise, deterministic."""
        if isinstance(self.denoiser, DDPM):
            return ddim_to_data(model_fn, noise, self.steps)
        return BDIASampler(model_fn, SCHEDULE, gamma=0.0).sample(noise, self.steps, t_end=T_END).sample

    @torch.no_grad()
    def sample(self, network: nn.Module, noise: Tensor | None = None) -> Tensor:
        """Return the finished samples, from the bench's noise unless other is given."""
        return self.run(self.model(network), self.noise if noise is None else noise)

    def collect(self, n: int, generator: torch.Generator, **options: Any) -> CalibrationSet:
        """Build a calibration set with the sampler that is used."""
        schedule = DISCRETE if isinstance(self.denoiser, DDPM) else SCHEDULE
        return collect_calibration(
            self.network, schedule, (1, 8, 8), n, generator=generator, model_fn=self.model(self.network),
            images=digits()[:], sampler=self.run, **options,
        )  # fmt: skip

    @torch.no_grad()
    def states(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network in full precision is called with on the way: inputs and their times, by call."""
        calls: list[tuple[Tensor, Tensor]] = []
        handle = self.network.register_forward_pre_hook(lambda module, args: calls.append((args[0], args[1])))
        try:
            self.run(self.model(self.network), noise)
        finally:
            handle.remove()
        return torch.stack([x for x, _ in calls]), torch.stack([t for _, t in calls])

    @torch.no_grad()
    def noise_error(self, network: nn.Module, states: tuple[Tensor, Tensor]) -> float:
        """Return the mean square change of the predicted noise over the trajectories of full precision."""
        exact, changed = self.denoiser, self.denoiser_of(network)
        errors = [(changed(x, time) - exact(x, time)).square().mean() for x, time in zip(*states, strict=True)]
        return float(torch.stack(errors).mean())
