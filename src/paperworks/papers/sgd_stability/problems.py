"""Networks that many runs train at once, with the gradients written out: two-layer ReLU, diagonal linear."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.numerics import train
from paperworks.testbeds import digits


class Problem(NamedTuple):
    """Data of as many seeds as there are, on the leading axis."""

    x: np.ndarray
    """Inputs, (seeds, n, d)."""
    y: np.ndarray
    """Targets, (seeds, n)."""
    test_x: np.ndarray
    test_y: np.ndarray


class Found(NamedTuple):
    """What runs ended at: one row for each seed, one column for each learning rate."""

    trace: np.ndarray
    """Trace of the Hessian over the training data, the mean of its values in the last tenth of the steps."""
    relative_loss: np.ndarray
    """Training loss at the end to that at the start; infinite where it diverged."""
    test: np.ndarray
    """Mean squared error on test data."""
    norm: np.ndarray
    """Path norm, or l1 norm of the linear map."""


def sphere(seeds: Iterable[int], n: int, d: int, n_test: int = 2000) -> Problem:
    """Return a ReLU neuron's outputs at inputs on the sphere of radius root d."""
    parts = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        x = rng.normal(size=(n + n_test, d))
        x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
        w = rng.normal(size=d)
        y = np.maximum(x @ (w / np.linalg.norm(w)), 0)
        parts.append((x[:n], y[:n], x[n:], y[n:]))
    return Problem(*(np.stack(part) for part in zip(*parts, strict=True)))


def odd_digits(seeds: Iterable[int], n: int) -> Problem:
    """Return digits, of unit mean square norm with a constant beside, and 1 for odd ones, -1 for even ones."""
    data, parts = digits(), []
    pixels = data[:].flatten(1).double().numpy()
    pixels = pixels - pixels.mean(0)
    pixels = np.c_[pixels / np.sqrt((pixels**2).sum(1).mean()), np.ones(len(pixels))]
    labels = 2.0 * (data.labels.numpy() % 2) - 1
    for seed in seeds:
        order = np.random.default_rng([seed, 2]).permutation(len(pixels))
        parts.append((pixels[order[:n]], labels[order[:n]], pixels[order[n:]], labels[order[n:]]))
    return Problem(*(np.stack(part) for part in zip(*parts, strict=True)))


def relu_network(
    problem: Problem, lrs: np.ndarray, width: int, steps: int, seeds: Iterable[int], *, full: bool = False
) -> Found:
    """Train two-layer ReLU networks without biases, by single samples or all at once, for each seed and rate together.

    Those of a seed begin at the same weights, and by single samples see the same samples.
    """
    lrs = np.broadcast_to(lrs, (len(problem.x), np.shape(lrs)[-1]))
    (count, n, d), rates = problem.x.shape, lrs.shape[1]
    rngs = [np.random.default_rng([seed, 3]) for seed in seeds]
    a0 = np.stack([rng.normal(size=width) * np.sqrt(2 / width) for rng in rngs])
    b0 = np.stack([rng.normal(size=(d, width)) * np.sqrt(2 / d) for rng in rngs])
    a, b = np.repeat(a0[:, None], rates, 1), np.repeat(b0[:, None], rates, 1)
    x, y, eta = problem.x[:, None], problem.y[:, None], lrs[:, :, None]

    def loss() -> np.ndarray:
        return (((np.maximum(x @ b, 0) @ a[..., None])[..., 0] - y) ** 2).mean(-1) / 2

    def trace() -> np.ndarray:
        hidden = x @ b
        gates = (hidden > 0) * a[:, :, None]
        return (np.maximum(hidden, 0) ** 2).sum((2, 3)) / n + ((gates**2).sum(3) * (x**2).sum(3)).sum(2) / n

    start, traces, tenth = loss(), [], max(1, steps // 200)
    draws = np.stack([rng.integers(n, size=steps) for rng in rngs])
    index = np.arange(count)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            if full:
                hidden = np.maximum(x @ b, 0)
                residual = ((hidden @ a[..., None])[..., 0] - y) / n
                back = residual[..., None] * a[:, :, None] * (hidden > 0)
                a = a - eta * (residual[:, :, None] @ hidden)[:, :, 0]
                b = b - eta[..., None] * (np.swapaxes(x, 2, 3) @ back)
            else:
                at = problem.x[index, draws[:, step]]
                hidden = np.maximum((at[:, None, None] @ b)[:, :, 0], 0)
                residual = eta * ((hidden * a).sum(-1) - problem.y[index, draws[:, step]][:, None])[..., None]
                back = residual * a * (hidden > 0)
                a = a - residual * hidden
                b = b - at[:, None, :, None] * back[:, :, None]
            if step >= 0.9 * steps and step % tenth == 0:
                traces.append(trace())
        test = ((np.maximum(problem.test_x[:, None] @ b, 0) @ a[..., None])[..., 0] - problem.test_y[:, None]) ** 2
        relative = loss() / start
        norm = (np.abs(a) * np.sqrt((b**2).sum(2))).sum(-1)
    return Found(np.mean(traces, 0), np.where(np.isfinite(relative), relative, np.inf), test.mean(-1), norm)


def sparse_regression(seeds: Iterable[int], n: int, d: int, nonzero: int) -> Problem:
    """Return linear outputs of a sparse vector at normal inputs; the test data are the vector itself."""
    parts = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 4])
        beta = np.zeros(d)
        beta[rng.choice(d, nonzero, replace=False)] = rng.choice([-1.0, 1.0], nonzero)
        x = rng.normal(size=(n, d))
        parts.append((x, x @ beta, np.eye(d), beta))
    return Problem(*(np.stack(part) for part in zip(*parts, strict=True)))


def diagonal_network(problem: Problem, lrs: np.ndarray, scale: float, steps: int, seeds: Iterable[int]) -> Found:
    """Train diagonal linear networks from a = scale, b = 0 by single samples, for each seed and rate together.

    The test error is the squared distance to the sparse vector.
    """
    lrs = np.broadcast_to(lrs, (len(problem.x), np.shape(lrs)[-1]))
    count, n, d = problem.x.shape
    a, b = np.full((count, lrs.shape[1], d), scale), np.zeros((count, lrs.shape[1], d))
    x, y, eta = problem.x[:, None], problem.y[:, None], lrs[:, :, None]

    def loss() -> np.ndarray:
        return (((x @ (a * b)[..., None])[..., 0] - y) ** 2).mean(-1) / 2

    start, traces, tenth, index = loss(), [], max(1, steps // 200), np.arange(count)
    draws = np.stack([np.random.default_rng([seed, 5]).integers(n, size=steps) for seed in seeds])
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            at = problem.x[index, draws[:, step]][:, None]
            residual = (at * a * b).sum(-1) - problem.y[index, draws[:, step]][:, None]
            back = eta * residual[..., None] * at
            a, b = a - back * b, b - back * a
            if step >= 0.9 * steps and step % tenth == 0:
                traces.append(((x**2).mean(2) * (a**2 + b**2)).sum(-1))
        relative, beta = loss() / start, a * b
        test = ((beta - problem.test_y[:, None]) ** 2).sum(-1)
    return Found(np.mean(traces, 0), np.where(np.isfinite(relative), relative, np.inf), test, np.abs(beta).sum(-1))


def digits_network(network: nn.Module, data: tuple[Tensor, Tensor], loss: Callable[..., Tensor], steps: int) -> None:
    """Train a network on all data at once by Adam with a rate that falls to 0."""
    train(
        lambda step: loss(network(data[0]), data[1]),
        torch.optim.Adam(network.parameters(), 3e-3),
        steps,
        schedule=lambda step: 0.5 * (1 + np.cos(np.pi * step / steps)),
    )
