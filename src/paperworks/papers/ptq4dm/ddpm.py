"""A plain network as the paper's: discrete steps, states as they are, sinusoidal times, and the noise as its answer."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paperworks.diffusion import NoiseModel, NoiseScheduleVP, wrap_model
from paperworks.evidence import Run
from paperworks.numerics import seeded
from paperworks.testbeds import UNet, digits, fit

STEPS = 1000
DISCRETE = NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64))
_LONGEST = 10_000.0  # period of the slowest sine that a time is told by, over 2 pi


class DDPM(nn.Module):
    """A U-Net called as ``network(x_t, n)`` with n from 0 to 999, whose output is the noise."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the noise in states at steps."""
        return self.network(x, time)

    def model(self) -> NoiseModel:
        """Return ``model_fn(x, t) -> noise`` for samplers on the discrete schedule."""
        return wrap_model(self, DISCRETE)


def noise_loss(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean square error of the noise at uniform steps, DDPM's simple loss."""
    t = (torch.randint(STEPS, (len(images),), generator=generator) + 1).double() / STEPS
    noise = torch.randn(images.shape, generator=generator)
    alpha, sigma = (factor.to(images)[:, None, None, None] for factor in (DISCRETE.alpha(t), DISCRETE.sigma(t)))
    return functional.mse_loss(network(alpha * images + sigma * noise, DISCRETE.input_time(t).to(images)), noise)


def trained_ddpm(run: Run) -> DDPM:
    """Return the network for digits, trained once and kept."""
    widths, patch = run.at(smoke=((8, 16), 2), desk=((32, 64, 64), 1), full=((32, 64, 64), 1))
    steps, batch_size = run.at(smoke=(10, 16), desk=(500, 128), full=(9000, 128))
    with seeded(0):
        network = UNet(widths, patch)
    network.frequencies.copy_(_LONGEST ** -(torch.arange(len(network.frequencies)) / len(network.frequencies)))
    network = network.to(memory_format=torch.channels_last)

    def train(network: nn.Module) -> nn.Module:
        return fit(
            network, noise_loss, digits(), steps=steps, batch_size=batch_size, decay=0.998, progress=run.progress
        )

    run.trained("ddpm-digits", network, train, widths=widths, patch=patch, steps=steps, batch_size=batch_size)
    return DDPM(network)


def ddim_to_data(model_fn: Callable[[Tensor, Any], Tensor], x: Tensor, steps: int) -> Tensor:
    """Run DDIM, deterministic, at whole steps from the last to the first, and from there to the data."""
    times = ((torch.linspace(STEPS - 1, 0, steps, dtype=torch.float64).round() + 1) / STEPS).tolist()
    for t, s in itertools.zip_longest(times, times[1:]):
        noise = model_fn(x, t)
        clean = (x - DISCRETE.sigma(t) * noise) / DISCRETE.alpha(t)
        x = clean if s is None else DISCRETE.alpha(s) * clean + DISCRETE.sigma(s) * noise
    return x
