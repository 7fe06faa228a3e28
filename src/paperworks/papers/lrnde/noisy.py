"""A neural SDE that classifies handwritten digits."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.dynamics import NeuralSDE
from paperworks.numerics import seeded
from paperworks.papers.lrnde.digits import Part
from paperworks.testbeds import digits

TOLERANCE, LATENT, BATCH = 0.14, 32, 64


@dataclass(frozen=True)
class NoisyRecipe:
    """What is regularised, and with what weight."""

    regularize: str | None = None
    weight: float = 0.0


def data(part: Part) -> tuple[Tensor, Tensor]:
    """Return pixels and classes; the parts are those of the ordinary equation."""
    images, labels = digits()[:].flatten(1), digits().labels
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = {"train": order[:897], "validation": order[897:1197], "test": order[1197:]}[part]
    return images[rows], labels[rows]


class Classifier(nn.Module):
    """A linear map to the latent states, the SDE, a linear map to the classes."""

    def __init__(self, recipe: NoisyRecipe, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.encode, self.decode = nn.Linear(64, LATENT), nn.Linear(LATENT, 10)
            self.drift = nn.Sequential(nn.Linear(LATENT, 64), nn.Tanh(), nn.Linear(64, LATENT))
            self.diffusion = nn.Linear(LATENT, LATENT)
        options: dict[str, Any] = {"atol": TOLERANCE, "rtol": TOLERANCE, "regularize": recipe.regularize}
        self.solver = NeuralSDE(
            lambda t, u: self.drift(u), lambda t, u: self.diffusion(u), random_state=seed, **options
        )

    def forward(self, x: Tensor, random_state: int | None = None) -> tuple[Tensor, Any]:
        u, info = self.solver(self.encode(x), random_state)
        return self.decode(u), info


def train_noisy(recipe: NoisyRecipe, seed: int, iterations: int) -> Classifier:
    """Train by Adam with a learning rate of 0.01 that falls to 0 as a cosine."""
    network = Classifier(recipe, seed)
    x, y = data("train")
    order = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(x), (BATCH,), generator=order)
        found, info = network(x[rows])
        optimizer.zero_grad()
        (cross_entropy(found, y[rows]) + recipe.weight * info.reg).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def evaluate_noisy(network: Classifier, part: Part, paths: int) -> tuple[float, float]:
    """Return mean evaluations of drift and diffusion, and mean accuracy in points, along some Brownian paths."""
    x, y = data(part)
    cost, right = 0.0, 0.0
    for path in range(paths):
        found, info = network(x, 10_000 + path)
        cost += info.nfe / paths
        right += 100 * float((found.argmax(1) == y).double().mean()) / paths
    return cost, right
