"""Problems of two levels: quadratics with closed forms, noisy ones in a batch, and digits with wrong labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import lsq_linear
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

DOUBLE = torch.float64


@dataclass
class Quadratic:
    """A lower level |A y - B x|^2 / 2 and an upper one |y - c|^2 / 2, whose solutions have closed forms."""

    A: Tensor
    B: Tensor
    c: Tensor
    x: Tensor

    @classmethod
    def draw(cls, seed: int, rank: int, dx: int = 4, dy: int = 6) -> "Quadratic":
        generator = torch.Generator().manual_seed(seed)
        shapes = (rank, dy), (rank, dx), (dy,), (dx,)
        return cls(*(torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes))

    def f(self, x: Tensor, y: Tensor) -> Tensor:
        return (y - self.c).square().sum() / 2 + torch.cos(x).sum()

    def g(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.A @ y - self.B @ x).square().sum() / 2

    def solution(self, x: Tensor) -> Tensor:
        """Return the lower solution nearest to c."""
        return self.c + torch.linalg.pinv(self.A) @ (self.B @ x - self.A @ self.c)

    def boxed(self, x: Tensor) -> Tensor:
        """Return the lower solution within [-1, 1]."""
        found = lsq_linear(self.A.numpy(), (self.B @ x).numpy(), (-1, 1), method="bvls", tol=1e-15)
        return torch.from_numpy(found.x)

    def differences(self, solution: Callable[[Tensor], Tensor], h: float = 1e-5) -> Tensor:
        """Return central differences of the upper objective along the solutions."""
        steps = h * torch.eye(len(self.x), dtype=DOUBLE)
        values = [[float(self.f(p, solution(p))) for p in (self.x + s, self.x - s)] for s in steps]
        return torch.tensor([(a - b) / (2 * h) for a, b in values], dtype=DOUBLE)


class Noisy:
    """Quadratics in a batch, one a row, with additive and multiplicative noise; means of samples are drawn as such."""

    def __init__(self, seeds: list[int], copies: int) -> None:
        draws = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            B, c, h = (torch.randn(s, generator=generator, dtype=DOUBLE) for s in ((4, 4), (4,), (4,)))
            draws.append((B / 2, c, 0.5 + torch.sigmoid(h)))
        self.B, self.c, self.h = (torch.stack([d[i] for d in draws]).repeat_interleave(copies, 0) for i in range(3))
        self.generator = torch.Generator().manual_seed(seeds[0] + 1)
        self.rows = len(self.c)

    def sampler(self, count: int) -> tuple[Tensor, Tensor]:
        shape = (2, self.rows, 9)
        return tuple(torch.randn(shape, generator=self.generator, dtype=DOUBLE).div_(math.sqrt(count)))

    def f(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        value = (1 + 0.5 * noise[:, :1]) * (y - self.c).square() / 2 + 0.05 * x.square()
        return value.sum() + 0.2 * (noise[:, 1:5] * y).sum() + 0.2 * (noise[:, 5:] * x).sum()

    def g(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        value = (1 + 0.5 * noise[:, :1]) * self.h * (y - self.product(x)).square() / 2
        return value.sum() + 0.2 * (noise[:, 1:5] * y).sum() + 0.2 * (noise[:, 5:] * x).sum()

    def product(self, x: Tensor) -> Tensor:
        return torch.einsum("rij,rj->ri", self.B, x)

    def gradient(self, x: Tensor) -> Tensor:
        """Return the norms of the true gradients."""
        off = self.product(x) - self.c
        return (torch.einsum("rij,ri->rj", self.B, off) + 0.1 * x).norm(dim=-1)

    def penalised(self, x: Tensor, sigma: float) -> Tensor:
        """Return the norms of the penalised objective's gradients."""
        off = self.h / (sigma + self.h) * (self.product(x) - self.c)
        return (torch.einsum("rij,ri->rj", self.B, off) + 0.1 * x).norm(dim=-1)


@dataclass
class Cleaning:
    """Digits, some of whose training labels are drawn at random."""

    train: Tensor
    labels: Tensor
    clean: Tensor
    val: Tensor
    val_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @classmethod
    def draw(cls, seed: int, share: float = 0.4) -> "Cleaning":
        X, y = load_digits(return_X_y=True)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(X))
        X, y = torch.tensor(X[order] / 16, dtype=torch.float32), torch.tensor(y[order])
        labels = y[:800].clone()
        bad = torch.from_numpy(rng.choice(800, round(share * 800), replace=False))
        labels[bad] = torch.from_numpy(rng.integers(10, size=len(bad)))
        return cls(X[:800], labels, y[:800], X[800:1200], y[800:1200], X[1200:], y[1200:])

    def accuracy(self, logits: Callable[[Tensor], Tensor]) -> float:
        with torch.no_grad():
            return float((logits(self.test).argmax(1) == self.test_labels).float().mean())

    def auc(self, weights: Tensor) -> float:
        return float(roc_auc_score((self.labels == self.clean).numpy(), weights.detach().numpy()))

    def upper(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(logits(self.val), self.val_labels)

    def lower(self, logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        losses = F.cross_entropy(logits(self.train), self.labels, reduction="none")
        return (torch.sigmoid(x) * losses).mean()
