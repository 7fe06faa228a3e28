"""Problems on which batch eigenvalues and largest stable rates are known or can be searched for, many at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paperworks.numerics import mlp, seeded, torch_generator
from paperworks.testbeds import digits, fashion_mnist

Data = tuple[Tensor, Tensor]
Step = Callable[[list[Tensor], int], None]  # moves a stack's weights by their gradients, in the step of a number


class Extremes(NamedTuple):
    """The largest eigenvalues of a random matrix with spikes along the first axes."""

    values: np.ndarray
    """Falling."""
    overlaps: np.ndarray
    """Squared components of each vector along the axis of its own rank."""


def wigner(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a symmetric matrix of independent normal numbers of variance 1."""
    a = rng.standard_normal((n, n), dtype=np.float32) / np.float32(np.sqrt(2))
    return a + a.T


def extremes(matrix: np.ndarray, count: int) -> Extremes:
    """Return the largest eigenvalues and the overlaps of their vectors, to about six digits."""
    values, vectors = eigsh(matrix, count, which="LA", ncv=8 * count, tol=1e-5, v0=np.ones(len(matrix), np.float32))
    order = np.argsort(-values)
    return Extremes(values[order].astype(float), np.diagonal(vectors[:count, order]).astype(float) ** 2)


def spiked_covariance(rng: np.random.Generator, n: int, samples: int, spikes: tuple[float, ...]) -> np.ndarray:
    """Return the second moments of normal features of variance 1 but along the first axes."""
    x = rng.standard_normal((samples, n), dtype=np.float32)
    x[:, : len(spikes)] *= np.sqrt(spikes, dtype=np.float32)
    return x.T @ x / np.float32(samples)


def flat_digits() -> Data:
    """Return all digits as rows, with their classes."""
    data = digits()
    return data[:].flatten(1), data.labels


def flat_garments(count: int) -> Data:
    """Return garments as rows of 14 x 14 pixels, with their classes."""
    data = fashion_mnist()
    small = nn.functional.avg_pool2d(data[:count], 2)
    return small.flatten(1), data.labels[:count]


def breast_cancer() -> Data:
    """Return the 569 tumours of scikit-learn, each feature of mean 0 and variance 1."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x = torch.from_numpy(bunch.data)
    return ((x - x.mean(0)) / x.std(0)).float(), torch.from_numpy(bunch.target).long()


def network_at(sizes: tuple[int, ...], data: Data, loss: float, random_state: int) -> nn.Sequential:
    """Return a tanh network trained by SGD with momentum until its loss on all data has fallen to a value."""
    with seeded(random_state):
        network = mlp(list(sizes), nn.Tanh)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9)
    generator = torch_generator(random_state, 1)
    for _ in range(200):
        for rows in torch.randperm(len(data[1]), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(network(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
            with torch.no_grad():
                if float(cross_entropy(network(data[0]), data[1])) <= loss:
                    return network
    raise RuntimeError(f"the loss hasn't fallen to {loss}")


class LeastSquares(NamedTuple):
    """Least squares with normal features of variance `tau2` but for the first, of variance `ell`."""

    p: int = 512
    ell: float = 1.0
    tau2: float = 0.25

    @property
    def spectrum(self) -> np.ndarray:
        """The Hessian's eigenvalues."""
        return np.r_[self.ell, np.full(self.p - 1, self.tau2)]

    @property
    def critical(self) -> float:
        """Batch size at which the trace of the bulk, as noise, has the curvature of the spike."""
        return self.p * self.tau2 / self.ell

    def threshold(self, batch_size: int) -> float:
        """Return the rate at which the mean square of SGD with fresh batches begins to grow."""
        lam, b = self.spectrum, batch_size

        def excess(lr: float) -> float:
            return float((lr * lam / (b * (2 - lr * lam * (1 + 1 / b)))).sum()) - 1

        return float(brentq(excess, 1e-9, 2 / (self.ell * (1 + 1 / b)) * (1 - 1e-12), xtol=1e-14))

    def growth(self, rates: np.ndarray, batch_size: int, steps: int, rng: np.random.Generator) -> np.ndarray:
        """Return, for each rate, the loss after SGD with fresh batches to that at the start, all on the same batches.

        Batches of more samples than features are drawn as Wishart matrices by their triangular factors.
        """
        p, root = self.p, np.sqrt(self.spectrum).astype(np.float32)
        w = np.repeat(rng.normal(size=p).astype(np.float32)[:, None], len(rates), 1)
        lam = self.spectrum.astype(np.float32)[:, None]
        start, alive = (lam * w**2).sum(0), np.arange(len(rates))
        out, lr = np.full(len(rates), np.inf), rates.astype(np.float32)
        last = []
        for step in range(steps):
            if batch_size <= p:
                x = rng.standard_normal((batch_size, p), dtype=np.float32) * root
                pushed = x.T @ (x @ w)
            else:
                low = np.tril(rng.standard_normal((p, p), dtype=np.float32), -1)
                np.fill_diagonal(low, np.sqrt(rng.chisquare(batch_size - np.arange(p))))
                pushed = root[:, None] * (low @ (low.T @ (root[:, None] * w)))
            w = w - lr[alive] * pushed / batch_size
            size = (lam * w**2).sum(0)
            if step % 10 == 9:  # what has grown a billionfold doesn't come back
                kept = size < 1e9 * start[alive]
                w, alive, size = w[:, kept], alive[kept], size[kept]
            if step >= 0.9 * steps:
                last.append((alive, size))
        for k in alive:
            sizes = [max(float(size[list(at).index(k)]), 1e-300) for at, size in last]
            out[k] = np.exp(np.mean(np.log(sizes))) / start[k]
        return out


class Stack:
    """Copies of a network with one hidden layer of tanh, trained side by side at different rates."""

    def __init__(self, networks: list[nn.Sequential]) -> None:
        parts = [[p.detach().clone() for p in network.parameters()] for network in networks]
        self.weights = [torch.stack(tensors).requires_grad_() for tensors in zip(*parts, strict=True)]

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return each copy's mean loss; `x` and `y` are for all, or one batch for each copy."""
        w1, b1, w2, b2 = self.weights
        x = x if x.ndim == 3 else x.expand(len(w1), *x.shape)
        y = y if y.ndim == 2 else y.expand(len(w1), len(y))
        hidden = torch.tanh(torch.baddbmm(b1[:, None], x, w1.transpose(1, 2)))
        out = torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
        return cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(len(w1), -1).mean(1)

    def train(
        self, step: Callable[[list[Tensor], int], None], batches: Callable[[int], Data], steps: int
    ) -> np.ndarray:
        """Take steps and return the losses of the last tenth of them, (copies,), infinite where one isn't finite."""
        last, bad = [], torch.zeros(len(self.weights[0]), dtype=torch.bool)
        for number in range(steps):
            losses = self.losses(*batches(number))
            gradients = torch.autograd.grad(losses.sum(), self.weights)
            bad |= ~torch.isfinite(losses.detach())
            with torch.no_grad():
                step([torch.nan_to_num(g) for g in gradients], number)
            if number + 1 > 0.9 * steps:
                last.append(losses.detach())
        found = torch.stack(last).mean(0).double().numpy()
        return np.where(bad.numpy() | ~np.isfinite(found), np.inf, found)


def sgd(stack: Stack, rates: Tensor) -> Step:
    """Return the step of SGD at each copy's own rate."""

    def step(gradients: list[Tensor], number: int) -> None:
        for w, g in zip(stack.weights, gradients, strict=True):
            w.sub_(rates.view(-1, *[1] * (g.ndim - 1)) * g)

    return step


def adam(stack: Stack, rates: Tensor) -> Step:
    """Return the step of Adam with its usual constants at each copy's own rate."""
    first, second = ([torch.zeros_like(w) for w in stack.weights] for _ in range(2))

    def step(gradients: list[Tensor], number: int) -> None:
        for w, g, m, v in zip(stack.weights, gradients, first, second, strict=True):
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            size = (v / (1 - 0.999 ** (number + 1))).sqrt_().add_(1e-8)
            w.sub_(rates.view(-1, *[1] * (g.ndim - 1)) / (1 - 0.9 ** (number + 1)) * m / size)

    return step
