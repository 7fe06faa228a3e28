"""Neural ODEs that classify handwritten digits, several of them trained at once, each with its own solver's steps."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.dynamics import ExponentialDecay, NeuralODE
from paperworks.testbeds import digits

STATES, HIDDEN, BATCH = 16, 32, 64
TRAINING, EVALUATION = 1e-5, 1e-8  # tolerances
Part = Literal["train", "validation", "test"]


@functools.cache
def data() -> dict[Part, tuple[Tensor, Tensor]]:
    """Return principal components of the images, with unit mean square, and their classes, in three parts."""
    images, labels = digits()[:].flatten(1).double(), digits().labels
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train = images[order[:897]]
    mean, axes = train.mean(0), torch.linalg.svd(train - train.mean(0), full_matrices=False)[2][:STATES]
    x = (images - mean) @ axes.T
    x = x / x[order[:897]].square().mean().sqrt()
    cuts: dict[Part, Tensor] = {"train": order[:897], "validation": order[897:1197], "test": order[1197:]}
    return {name: (x[rows], labels[rows]) for name, rows in cuts.items()}


class Fields(nn.Module):
    """Dynamics of several independent networks: two layers with a tanh between, both with time as an input."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        sizes = ((STATES, HIDDEN), (HIDDEN, STATES), (STATES, 10))
        drawn = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            drawn.append([(2 * torch.rand(n + 2, m, generator=generator, dtype=torch.float64) - 1) / n**0.5
                          for n, m in sizes])  # fmt: skip
        self.first, self.second, self.head = (nn.Parameter(torch.stack(part)) for part in zip(*drawn, strict=True))

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        place = t.reshape(-1, 1, 1)
        hidden = torch.tanh(_affine(self.first, place, u))
        return _affine(self.second, place, hidden)

    def classify(self, u: Tensor) -> Tensor:
        return _affine(self.head, u.new_zeros(1, 1, 1), u)

    def member(self, i: int) -> "Fields":
        one = Fields([0])
        for name, parameter in one.named_parameters():
            parameter.data = self.get_parameter(name).detach()[i : i + 1].clone()
        return one.eval().requires_grad_(False)


def _affine(weights: Tensor, place: Tensor, x: Tensor) -> Tensor:
    return torch.baddbmm(torch.addcmul(weights[:, -1:], place, weights[:, -2:-1]), x, weights[:, :-2])


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: what is regularised, in which way, and the rest of the solver's options."""

    regularize: str | None = None
    reg_type: str = "error_estimate"
    weight: float = 0.0
    end: float = 1.0  # share of the weight that is left at the end
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        options = dict(self.options)
        if self.regularize is None:
            return "STEER" if options.get("steer") else "none"
        name = f"{self.regularize}, {self.reg_type.removesuffix('_estimate')}"
        return name if self.regularize == "global" or "detach_slope" in options else f"{name}, first slope detached"


def train(recipes: Sequence[Recipe], seeds: Sequence[int], iterations: int) -> Fields:
    """Train one network for each pair of a recipe and a seed; the recipes differ in nothing but their weights."""
    first, members = recipes[0], len(seeds)
    fields = Fields(seeds)
    solver = NeuralODE(fields, atol=TRAINING, rtol=TRAINING, control="sample", regularize=first.regularize,
                       reg_type=first.reg_type, random_state=seeds[0], **dict(first.options))  # fmt: skip
    x, y = data()["train"]
    weights = torch.tensor([recipe.weight for recipe in recipes], dtype=torch.float64)
    decay = ExponentialDecay(1.0, first.end, iterations)
    orders = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    parameters = list(fields.parameters())
    optimizer = torch.optim.Adam(parameters, 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for step in range(iterations):
        rows = torch.stack([torch.randint(len(x), (BATCH,), generator=order) for order in orders])
        u, info = solver(x[rows])
        loss = cross_entropy(fields.classify(u).flatten(0, 1), y[rows].flatten()) * members
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        if first.regularize is not None:
            # Members share nothing, so each one's gradient of the sum is that of its own penalty.
            added = torch.autograd.grad(info.reg * members, parameters, allow_unused=True)
            gradients = tuple(
                g if a is None else g + decay(step) * weights.reshape(-1, 1, 1) * a
                for g, a in zip(gradients, added, strict=True)
            )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    return fields


class Result(NamedTuple):
    """What one network does on a part of the data."""

    evaluations: int
    points: float


def predictor(field: Fields, tolerance: float = EVALUATION) -> NeuralODE:
    return NeuralODE(field, atol=tolerance, rtol=tolerance).eval()


@torch.no_grad()
def evaluate(fields: Fields, part: Part, tolerance: float = EVALUATION) -> list[Result]:
    """Solve each network's whole part of the data at once, and count."""
    x, y = data()[part]
    found = []
    for i in range(len(fields.first)):
        field = fields.member(i)
        u, info = predictor(field, tolerance)(x[None])
        right = field.classify(u)[0].argmax(1) == y
        found.append(Result(info.nfe, 100 * float(np.mean(right.numpy()))))
    return found
