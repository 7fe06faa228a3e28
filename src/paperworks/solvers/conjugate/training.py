"""Training of the network without solutions, on mixtures of the Ritz vectors of one matrix."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from paperworks.core.validation import check_count, check_number
from paperworks.numerics.eigenvalues import lanczos
from paperworks.numerics.random import torch_generator
from paperworks.numerics.training import EarlyStopping, Progress, silent, train
from paperworks.solvers.conjugate.domains import PoissonDomain
from paperworks.solvers.conjugate.networks import DCDMNet
from paperworks.solvers.conjugate.unknowns import unknowns_of


class RitzDataset(Dataset[Tensor]):
    r"""Right-hand sides to train on: random mixtures of a matrix's Ritz vectors, of norm one.

    Lanczos' algorithm from $A g$ with Gaussian $g$, with full reorthogonalisation, gives Ritz vectors $v_j$ that
    cover the whole spectrum. A sample is $\sum_j c_j v_j / \| \cdot \|$ with independent Gaussian $c_j$, where those of
    the lower half of the spectrum, which rules the residuals of a running solve, are `low_weight` times as large.

    Parameters
    ----------
    A
        A `PoissonDomain`, or a symmetric matrix or operator; the paper's is that of a box without obstacles.
    n_ritz
        Dimension of the Krylov space; fewer where it is exhausted before. The paper takes 10,000 for 64 and 128 voxels
        per side in three dimensions, 400 suffice for 32 per side in two.
    n_samples
        Number of mixtures; 20,000 in the paper.
    low_weight
        Factor of the lower coefficients. Default: 9, the paper's.
    theta_frac
        The factor goes to the first half of the Ritz values that were found and this share more. Default: 0.05, the
        paper's 500 of 10,000.
    shape
        Numbers of voxels along the axes. Default: the domain's own, or a square or cube.
    random_state
        Seed of the start and of the coefficients.

    Attributes
    ----------
    samples
        All samples in single precision, of shape (n_samples, *grid).
    values
        Ritz values, rising, but for those below 1e-8 of the greatest, which are left out.

    Raises
    ------
    ValueError
        If a number is out of its bounds.

    References
    ----------
    arXiv:2205.10763, the section on training data.

    Examples
    --------
    >>> data = RitzDataset(PoissonDomain(np.ones((8, 8), bool)), n_ritz=16, n_samples=10)
    >>> len(data), data[0].shape, round(float(data[0].norm()), 6)
    (10, torch.Size([8, 8]), 1.0)
    """

    samples: Float[Tensor, " n_samples *grid"]
    values: Float[Tensor, " k"]

    def __init__(
        self,
        A: Any,
        n_ritz: int,
        n_samples: int,
        low_weight: float = 9.0,
        theta_frac: float = 0.05,
        *,
        shape: Sequence[int] | None = None,
        random_state: int = 0,
    ) -> None:
        where = unknowns_of(A, shape, None)
        check_count("n_ritz", n_ritz, at_most=int(where.active.sum()))
        check_count("n_samples", n_samples)
        check_number("low_weight", low_weight, gt=0)
        check_number("theta_frac", theta_frac, ge=0, le=0.5)
        generator = torch_generator(random_state)

        def product(v: Tensor) -> Tensor:
            return torch.from_numpy(where.apply(v.numpy()[None])[0])

        start = product(torch.randn(where.n, dtype=torch.float64, generator=generator))
        if not start.any():
            raise ValueError("A maps a random vector to 0; it takes a matrix that has a right-hand side to train on")
        found = lanczos(product, start, n_ritz)
        # Relative to the spectrum, which scales with the spacing; the paper's matrix has a norm of about 10.
        kept = found.values > 1e-8 * found.values[-1]
        self.values = found.values[kept]
        weights = torch.ones(len(self.values), dtype=torch.float64)
        weights[: round(len(found.values) * (0.5 + theta_frac))] = low_weight
        coefficients = torch.randn(n_samples, len(weights), dtype=torch.float64, generator=generator) * weights
        # A space that is exhausted goes on with rounding errors, which needn't be in the matrix's range.
        samples = torch.from_numpy(where.project((coefficients @ found.vectors[:, kept].T).numpy()))
        samples /= samples.norm(dim=1, keepdim=True)
        self.samples = samples.float().reshape(n_samples, *where.grid)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Tensor:
        return self.samples[index]


def dcdm_loss(
    net_out: Float[Tensor, " batch *grid"], r: Float[Tensor, " batch *grid"], apply_A: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    r"""Return the mean squared residual that an exact line search along the proposed directions leaves.

    $\| r - \alpha A z \|^2$ with $\alpha = r^T z / (z^T A z)$, through which gradients flow: neither the norm nor the
    sign of a direction matters, and no solution is needed.

    Parameters
    ----------
    net_out
        Directions z that the network proposes.
    r
        Residuals that it was given.
    apply_A
        Multiplies a batch of grids by the matrix, such as `PoissonDomain.apply`.

    Returns
    -------
    Tensor
        The mean over the batch.

    Raises
    ------
    ValueError
        If the shapes of directions and residuals differ.

    References
    ----------
    arXiv:2205.10763, the loss of the training.

    Examples
    --------
    >>> r = torch.eye(2).reshape(2, 1, 2)
    >>> dcdm_loss(r / 5, r, lambda z: 3 * z)
    tensor(0.)
    """
    if net_out.shape != r.shape:
        raise ValueError(f"net_out has shape {tuple(net_out.shape)}; it takes {tuple(r.shape)}, that of r")
    z, r = net_out.flatten(1), r.flatten(1)
    image = apply_A(net_out).flatten(1)
    alpha = (r * z).sum(1) / ((z * image).sum(1) + 1e-12)
    return (r - alpha[:, None] * image).square().sum(1).mean()


class DCDMTraining(NamedTuple):
    """How a training went.

    Examples
    --------
    >>> DCDMTraining(np.array([1.0, 0.5]), 0.6, 2).losses[-1]
    np.float64(0.5)
    """

    losses: Float[np.ndarray, " steps"]
    """The loss of each step's batch."""
    validation: float
    """The least mean loss of the held-out samples; the network has the weights that had it."""
    step: int
    """The step that it was seen after."""


def train_dcdm(
    net: DCDMNet,
    dataset: RitzDataset,
    domain: PoissonDomain,
    epochs: int = 50,
    *,
    max_seconds: float = math.inf,
    batch_size: int = 16,
    lr: float = 1e-3,
    held_out: float = 0.1,
    random_state: int = 0,
    progress: Progress = silent,
) -> DCDMTraining:
    """Train a network in place, and leave it with the weights that did best on samples held out.

    Adam, whose step size falls linearly to 2 % of itself.

    Parameters
    ----------
    net
        The network, on any device.
    dataset
        Samples of norm one.
    domain
        Where the samples' matrix is applied.
    epochs
        How often all samples are seen. Default: 50, about the paper's.
    max_seconds
        When to end before that. The same seeds then needn't give the same weights. Default: never.
    batch_size
        Samples in a step. Default: 16; the paper takes 10.
    lr
        Greatest step size. Default: 1e-3; the paper takes a fixed 1e-4, which needs many more steps.
    held_out
        Share of the samples, the last ones, that only validate. Default: a tenth.
    random_state
        Seed of the order of samples.
    progress
        Wraps the range of steps.

    Returns
    -------
    DCDMTraining
        The losses of all steps and the best one of the samples held out.

    Raises
    ------
    ValueError
        If the grids don't fit or a number is out of its bounds.

    References
    ----------
    arXiv:2205.10763, the section on training.

    Examples
    --------
    >>> domain = PoissonDomain(np.ones((8, 8), bool))
    >>> data = RitzDataset(domain, n_ritz=16, n_samples=40)
    >>> net = DCDMNet(2, channels=4)
    >>> len(train_dcdm(net, data, domain, epochs=2).losses)
    6
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_number("lr", lr, gt=0)
    check_number("held_out", held_out, gt=0, lt=1)
    if not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds!r}; it takes a number > 0")
    if tuple(dataset.samples.shape[1:]) != domain.grid or net.dim != len(domain.grid):
        raise ValueError(
            f"dataset has grids of {tuple(dataset.samples.shape[1:])} and net {net.dim} dimensions; they take"
            f" {domain.grid}, the grid of the domain"
        )
    weight = next(net.parameters())
    samples = dataset.samples.to(weight.device, weight.dtype)
    count = min(len(samples) - 1, math.ceil((1 - held_out) * len(samples)))
    if count < 1:
        raise ValueError(f"dataset has {len(samples)} samples; it takes two at least, one to train on and one held out")
    per_epoch = math.ceil(count / batch_size)
    steps = epochs * per_epoch
    generator = torch_generator(random_state)
    order = [torch.empty(0, dtype=torch.long)]
    started = time.monotonic()

    def done(step: int) -> float:
        return max(step / steps, (time.monotonic() - started) / max_seconds)

    def of_step(step: int) -> Tensor:
        if step % per_epoch == 0:
            order[0] = torch.randperm(count, generator=generator)
        at = step % per_epoch * batch_size
        r = samples[order[0][at : at + batch_size]]
        return dcdm_loss(net(r), r, domain.apply)

    def validate() -> float:
        parts = samples[count:].split(256)
        return sum(len(r) * float(dcdm_loss(net(r), r, domain.apply)) for r in parts) / (len(samples) - count)

    best = EarlyStopping(net, validate, patience=steps, every=per_epoch)
    net.train()
    losses = train(
        of_step,
        torch.optim.Adam(net.parameters(), lr),
        steps,
        schedule=lambda step: 1 - 0.98 * min(1.0, done(step)),
        callback=lambda step, loss: best(step, loss) or done(step + 1) >= 1,
        progress=progress,
    )
    best(best.every * len(losses) - 1, losses[-1])  # the last weights, wherever training ended
    best.restore()
    net.eval()
    return DCDMTraining(losses, best.best, min(best.best_step + 1, len(losses)))
