"""What AdjointDPM's claims are measured on: exact gradients, errors at few steps, saved memory, and networks."""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paperworks.diffusion import (
    AdjointMode,
    AdjointSampler,
    AdjointSolver,
    AdjointVariable,
    NoiseScheduleVP,
    SkipType,
)
from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.testbeds import Denoiser, GaussianMixture, UNet, bench_mixture_64d

SCHEDULE = NoiseScheduleVP.linear()


def relative(found: Tensor, exact: Tensor) -> float:
    """Return the size of the difference relative to that of the exact."""
    return float((found - exact).norm() / exact.norm())


def each(found: Tensor, exact: Tensor) -> Tensor:
    """Return the relative difference sample by sample."""
    return (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)


class MixtureNetwork(nn.Module):
    """The exact noise of the one-dimensional mixture: its means are weights, its mixing logits the condition."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.means = nn.Parameter(mixture.means[:, 0].clone())
        self.register_buffer("variances", mixture.stds**2)

    def forward(self, x: Tensor, t: float, logits: Tensor) -> Tensor:
        """Return the noise in `x`."""
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variances = alpha**2 * self.variances + sigma**2
        distances = x - alpha * self.means
        shares = torch.softmax(logits - 0.5 * variances.log() - 0.5 * distances**2 / variances, dim=1)
        return sigma * (shares * distances / variances).sum(1, keepdim=True)


def exact_gradients(mixture: GaussianMixture, x_T: Tensor, t_end: float) -> dict[str, Tensor]:
    """Return the gradients of the sum of the samples, from x_0 = F_0^{-1}(F_T(x_T)).

    So dx_0/dx_T = p_T(x_T) / p_0(x_0), and dx_0/dtheta = (dF_T(x_T) - dF_0(x_0)) / p_0(x_0) for any parameter.
    """
    w = mixture.weights

    def at(x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the density, and the derivatives of the distribution function by means and by logits."""
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        spreads = (alpha**2 * mixture.stds**2 + sigma**2).sqrt()
        z = (x - alpha * mixture.means.T) / spreads
        normal = torch.exp(-0.5 * z**2) / (spreads * math.sqrt(2 * math.pi))
        below = torch.special.ndtr(z)
        by_logits = w * (below - (w * below).sum(1, keepdim=True))
        return (w * normal).sum(1, keepdim=True), -w * alpha * normal, by_logits

    density_T, means_T, logits_T = at(x_T, 1.0)
    density_0, means_0, logits_0 = at(mixture.transport(x_T, SCHEDULE, 1.0, t_end), t_end)
    return {
        "noise": density_T / density_0,
        "conditioning": (logits_T - logits_0) / density_0,
        "weights": ((means_T - means_0) / density_0).sum(0),
    }


class SavedTensors:
    """Bytes of the tensors that automatic differentiation holds, those of `parameters` not counted."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self.users: Counter[tuple[int, int]] = Counter()  # how often a storage, its address and size, is held
        self.bytes = 0
        self.peak = 0

    @contextmanager
    def watched(self) -> Iterator["SavedTensors"]:
        """Watch what is saved inside."""

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        def drop(storage: tuple[int, int]) -> None:
            self.users[storage] -= 1
            if not self.users[storage]:
                self.bytes -= storage[1]

        def pack(tensor: Tensor) -> Kept:
            kept = Kept(tensor.detach())  # with its graph it would keep itself alive
            storage = (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            if storage[0] not in self.parameters:
                if not self.users[storage]:
                    self.bytes += storage[1]
                    self.peak = max(self.peak, self.bytes)
                self.users[storage] += 1
                weakref.finalize(kept, drop, storage)
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            yield self


def held(loss: Callable[[], Tensor], network: nn.Module) -> tuple[int, int]:
    """Return the bytes held between the way there and the way back, and the most at any time."""
    with SavedTensors(network.parameters()).watched() as saved:
        value = loss()
        between = saved.bytes
        value.backward()
    return between, saved.peak


def sum_of_samples(sampler: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """Return a loss of the samples from noise that wants a gradient."""
    return sampler(noise.clone().requires_grad_()).sum()


def small_unet(run: Run, seed: int = 0) -> Denoiser:
    """Return a U-Net for images of 8x8 pixels with random weights, none of them zero."""
    with seeded(seed):
        network = UNet(*run.at(smoke=((8, 16), 2), desk=((32, 64, 64), 1), full=((32, 64, 64), 1)))
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return Denoiser(network, (1, 8, 8))


# The variable that the ODE is solved in, and the grid of steps, by the names that tables and figures show.
WAYS: dict[str, tuple[AdjointVariable, SkipType]] = {
    "in t, grid in t": ("t", "time_uniform"),
    "in t, grid in λ": ("t", "logSNR"),
    "in ρ, grid in t": ("rho", "time_uniform"),
    "in ρ, grid in λ": ("rho", "logSNR"),
}


class FewSteps:
    """Samples of a 64-dimensional mixture and gradients of a random linear function of each, and their errors."""

    def __init__(self, run: Run, mixture: GaussianMixture, n: int, seed: int) -> None:
        generator = run.torch_rng(seed)
        self.mixture = mixture
        self.noise, self.weights = torch.randn(2, n, 64, generator=generator, dtype=torch.float64).unbind(0)
        self.sample, self.gradient = self.solve(
            "in ρ, grid in λ", "rk4", run.at(smoke=4, desk=400, full=400), "discrete"
        )

    def solve(
        self, way: str, solver: AdjointSolver, steps: int, adjoint: AdjointMode | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return samples, and their gradients in the noise unless `adjoint` is None."""
        variable, skip_type = WAYS[way]
        sampler = AdjointSampler(
            self.mixture.model(SCHEDULE),
            SCHEDULE,
            steps=steps,
            solver=solver,
            skip_type=skip_type,
            variable=variable,
            t_end=1e-3,
            adjoint=adjoint or "discrete",
            params=(),
            **options,
        )
        x_T = self.noise.clone().requires_grad_(adjoint is not None)
        sample = sampler(x_T)
        gradient = torch.autograd.grad((sample * self.weights).sum(), x_T)[0] if adjoint else torch.empty(0)
        return sample.detach(), gradient


def mixtures() -> dict[str, GaussianMixture]:
    """Return data from concentrated to nearly normal."""
    return {
        "s=0.2": bench_mixture_64d(20, 0.2),
        "s=0.01": bench_mixture_64d(20, 0.01),
        "s=0.7": bench_mixture_64d(20, 0.7),
        "s=0.7, means x 0.3": bench_mixture_64d(20, 0.7, 0.3),
    }


class Perceptron(nn.Module):
    """A network of 64 numbers and the time."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return the noise in `x`."""
        return self.layers(torch.cat([x, torch.full_like(x[:, :1], t)], dim=1))


class Contest(NamedTuple):
    """A network, the model that it makes, and the shape of its samples."""

    name: str
    network: nn.Module
    model_fn: Callable[..., Tensor]
    shape: tuple[int, ...]

    def sampler(self, **options: Any) -> AdjointSampler:
        """Return a sampler with gradients of the weights."""
        return AdjointSampler(self.model_fn, SCHEDULE, params=self.network.parameters(), **options)

    def gradients(self, sampler: Callable[[Tensor], Tensor], noise: Tensor) -> list[Tensor]:
        """Return the gradients of a loss of the samples in the noise and in all weights that matter."""
        x_T = noise.clone().requires_grad_()
        targets = [x_T, *self.network.parameters()]
        found = torch.autograd.grad(sampler(x_T).square().sum(), targets, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    def noise_gradient(self, sampler: AdjointSampler, noise: Tensor) -> Tensor:
        """Return the gradient in the noise alone."""
        x_T = noise.clone().requires_grad_()
        return torch.autograd.grad(sampler.without_params()(x_T).square().sum(), x_T)[0]


def contests(run: Run) -> list[Contest]:
    """Return a network whose evaluation costs little and one whose evaluation costs more."""
    with seeded(run.seed):
        perceptron = Perceptron()
    unet = small_unet(run)
    return [
        Contest("perceptron", perceptron, perceptron, (64,)),
        Contest("U-Net", unet, unet.model(SCHEDULE), unet.shape),
    ]


def all_relative(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the relative difference of gradients in noise or weights, the larger one."""
    flat = [torch.cat([g.flatten() for g in gradients[1:]]) for gradients in (found, exact)]
    return max(relative(found[0], exact[0]), relative(*flat))


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(math.log(value) for value in values) / len(values))
