"""Estimates of the largest eigenvalue of a network's Hessian, and of the noise that batches add to it."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics.curvature import Loss, check_mode
from paperworks.numerics.frozen import BatchNormMode, FrozenCurvature, FrozenKind, differentiable_twice
from paperworks.numerics.per_sample import per_sample_products
from paperworks.numerics.random import torch_generator
from paperworks.numerics.spectra import TopEigenvalue, largest_eigenvalue
from paperworks.training.batch_size.outliers import critical_batch_size, deflate_eigenvalue, effective_batch_size
from paperworks.training.stability.operators import Data

NoiseMethod = Literal["fit", "directional", "frobenius"]
_NUMBERS = 2**24  # that single samples' products may take at once


class BatchEigenvalues(NamedTuple):
    """Largest eigenvalues of batches of one size.

    Parameters
    ----------
    batch_size
        Samples in each batch.
    effective
        Effective batch size, as `effective_batch_size` gives it.
    eigenvalue
        Mean of the largest eigenvalues.
    standard_error
        Standard deviation of that mean over draws of batches; NaN for a single batch.
    implied_s2
        The noise at which the closed form gives that mean.
    used
        Whether the size is above the transition, and part of the fit.
    values
        The largest eigenvalue of each batch.

    Examples
    --------
    >>> BatchEigenvalues(8, 8.0, 4.0, 0.1, 32.0, True, (3.9, 4.1)).implied_s2
    32.0
    """

    batch_size: int
    effective: float
    eigenvalue: float
    standard_error: float
    implied_s2: float
    used: bool
    values: tuple[float, ...]


@dataclass(frozen=True)
class NoiseEstimate:
    """The two numbers that decide how learning rates depend on the batch.

    Parameters
    ----------
    lam
        Largest eigenvalue of the Hessian of all data.
    s2
        Noise, P times the variance of the Hessian's elements over samples: what `batch_outlier` takes.
    s2_stderr
        Standard error of the noise, over the batches or samples that it was estimated from.
    n_data
        Samples of all data.
    method
        How it was estimated.
    table
        Eigenvalues by batch size, for ``fit``.

    Examples
    --------
    >>> round(NoiseEstimate(2.0, 32.0, 1.0, 10_000, "fit").critical_batch_size, 3)
    7.994
    """

    lam: float
    s2: float
    s2_stderr: float
    n_data: int
    method: NoiseMethod
    table: tuple[BatchEigenvalues, ...] = ()

    @property
    def critical_batch_size(self) -> float:
        """Batch size at which noise has the curvature of the outlier; see `critical_batch_size`."""
        return critical_batch_size(self.lam, self.s2, self.n_data)


def estimate_hessian_noise(
    model: nn.Module,
    loss_fn: Loss,
    data: Data,
    method: NoiseMethod = "fit",
    *,
    batch_sizes: Sequence[int] | None = None,
    repeats: int = 12,
    n_probes: int = 8,
    max_samples: int | None = None,
    batch_size: int = 512,
    kind: FrozenKind = "hessian",
    params: Iterable[Tensor | str] | None = None,
    batch_norm: BatchNormMode = "eval",
    rtol: float = 1e-4,
    random_state: int = 0,
) -> NoiseEstimate:
    r"""Estimate the largest eigenvalue of a network's Hessian, and the noise of batches.

    Parameters
    ----------
    model
        The network, compiled or not. Its modes are put back and its gradients aren't touched.
    loss_fn
        ``loss_fn(outputs, targets)``, the mean over a batch.
    data
        A pair of inputs and targets, or batches of them such as a `DataLoader`, which are put together.
    method
        ``fit``: regress the largest eigenvalues of random batches on one over their effective size. The noise of real
        networks is concentrated in few directions, which this sees and the others see less of.
        ``directional``: mean square of what the top eigenvector's products with single samples' Hessians have besides
        it. ``frobenius``: mean square distance of single samples' Hessians to their mean, over P: the model taken at
        its word, and far too small for real networks. All three agree where elements are independent.
    batch_sizes
        For ``fit``; 8, 16, 32 and 64 by default, those that are at most a quarter of the data.
    repeats
        Batches of each size.
    n_probes
        Random signs for ``frobenius``.
    max_samples
        Take the full Hessian, and single samples, from as many samples at random, all by default. The bias that this
        brings to the eigenvalue is taken out by ``deflate_eigenvalue``.
    batch_size
        Samples of the full Hessian that go through at once.
    kind
        ``hessian`` or ``gauss_newton``, of which ``fit`` takes both.
    params, batch_norm
        As in `FrozenCurvature`; ``train`` is for ``fit`` alone, since it makes samples depend on each other.
    rtol
        Relative accuracy of eigenvalues, as in `largest_eigenvalue`.
    random_state
        Seed of batches and starts.

    Returns
    -------
    NoiseEstimate
        The eigenvalue, the noise with its standard error, the critical batch size, and a table by batch size.

    Raises
    ------
    ValueError
        For counts out of bounds, sizes above the data, parameters on the meta device, or a Hessian without a positive
        eigenvalue.
    TypeError
        For inputs or targets that aren't tensors.
    NotImplementedError
        Where an operation has no second derivative.

    Warns
    -----
    RuntimeWarning
        Where all sizes are below the transition, so that only the edge of the bulk could be fitted.

    References
    ----------
    arXiv 2006.09092, on estimating the variance of the Hessian.

    Examples
    --------
    >>> from paperworks.numerics import seeded
    >>> with seeded(0):
    ...     model, x = nn.Linear(6, 1), torch.randn(400, 6)
    >>> found = estimate_hessian_noise(model, nn.functional.mse_loss, (x, x[:, :1]))
    >>> 2 < found.lam < 4, [row.batch_size for row in found.table]
    (True, [8, 16, 32, 64])
    """
    if check_choice("method", method, get_args(NoiseMethod)) != "fit" and (kind, batch_norm) != ("hessian", "eval"):
        raise ValueError(
            f"kind is {kind!r} and batch_norm {batch_norm!r}; method {method!r} takes 'hessian' and 'eval'"
        )
    inputs, targets = gather(data)
    n = len(targets)
    counts = {"repeats": repeats, "n_probes": n_probes, "batch_size": batch_size}
    for name, count in counts.items():
        check_count(name, count)
    check_number("rtol", rtol, gt=0)
    generator = torch_generator(random_state)
    if max_samples is not None and check_count("max_samples", max_samples, at_least=2) < n:
        chosen = torch.randperm(n, generator=generator)[:max_samples]
    else:
        chosen = torch.arange(n)
    freeze = _freezer(model, loss_fn, kind, params, batch_norm)
    part = _Part(inputs[chosen.to(inputs.device)], targets[chosen.to(targets.device)], batch_size, freeze)
    top = part.top(random_state, rtol)
    if not top.value > 0:
        raise ValueError(f"model has the largest eigenvalue {top.value:g} of its {kind}; it takes a positive one")
    if method != "fit":
        s2, error = _of_samples(model, loss_fn, params, part, method, top, n_probes, random_state)
        return NoiseEstimate(_unbiased(top.value, s2, part.n, n), s2, error, n, method)
    sizes = _sizes(batch_sizes, n)
    values = []
    for size in sizes:
        drawn = []
        for _ in range(repeats):
            rows = torch.randperm(n, generator=generator)[:size]
            one = _Part(inputs[rows.to(inputs.device)], targets[rows.to(targets.device)], size, freeze)
            drawn.append(one.top(random_state, rtol, start=top.vector).value)
        values.append(np.array(drawn))
    effective = np.array([effective_batch_size(size, n) for size in sizes])
    lam = top.value
    for _ in range(20 if part.n < n else 1):  # the eigenvalue's bias hangs on the noise, which hangs on the eigenvalue
        s2, error, used = _fit(lam, effective, values)
        lam = _unbiased(top.value, s2, part.n, n)
    if not used.any():
        warnings.warn("all batch sizes are below the transition; take larger ones", RuntimeWarning, stacklevel=2)
    table = []
    for size, b, found, used_one in zip(sizes, effective.tolist(), values, used.tolist(), strict=True):
        middle = float(found.mean())
        implied = implied_noise(lam, middle, b)
        table.append(
            BatchEigenvalues(size, b, middle, _standard_error(found), implied, used_one, tuple(found.tolist()))
        )
    return NoiseEstimate(lam, s2, error, n, method, tuple(table))


def implied_noise(lam: float, value: float, effective: float) -> float:
    """Return the noise at which an outlier's eigenvalue is `value` in batches: the inverse of `batch_outlier` in `s2`.

    Parameters
    ----------
    lam
        The outlier for all data, above 0.
    value
        Largest eigenvalue of a batch, or the mean of several.
    effective
        Effective size of the batches.

    Returns
    -------
    float
        From the shift of the outlier, or where that is more than the outlier itself, from the edge of the bulk;
        negative where `value` is below `lam`.

    Examples
    --------
    >>> implied_noise(2.0, 2.5, 10.0), implied_noise(2.0, 6.0, 10.0)
    (10.0, 90.0)
    """
    return effective * (lam * (value - lam) if value < 2 * lam else value**2 / 4)


def gather(data: Data) -> tuple[Tensor, Tensor]:
    """Return data as one pair of inputs and targets.

    Parameters
    ----------
    data
        A pair of tensors, or an iterable of such pairs.

    Returns
    -------
    tuple[Tensor, Tensor]
        Inputs and targets with the samples in front.

    Raises
    ------
    TypeError
        For inputs or targets that aren't tensors.
    ValueError
        For no samples, or other numbers of inputs than of targets.
    """
    pair = isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data is of type {type(data).__name__}; it takes a pair of inputs and targets, or batches of them"
        )
    batches: list[Any] = [data] if pair else list(data)
    if not batches:
        raise ValueError("data holds no samples")
    for batch in batches:
        if len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
            raise TypeError("data has batches that are no pairs of tensors; it takes inputs and targets as tensors")
    inputs, targets = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
    if len(inputs) != len(targets):
        raise ValueError(f"data has {len(inputs)} inputs and {len(targets)} targets; it takes as many of both")
    if not len(targets):
        raise ValueError("data holds no samples")
    return inputs, targets


Freeze = Callable[[Tensor, Tensor], FrozenCurvature]


def _freezer(model: nn.Module, loss_fn: Loss, kind: FrozenKind, params: Any, batch_norm: BatchNormMode) -> Freeze:
    names = None if params is None else list(params) if not isinstance(params, (str, Tensor)) else [params]
    return lambda x, y: FrozenCurvature(model, loss_fn, [(x, y)], kind, params=names, batch_norm=batch_norm)


class _Part:
    """Samples with the Hessian of their mean loss: its graph is kept where all go through at once, else made anew."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, freeze: Freeze) -> None:
        self.n = len(targets)
        self.pieces = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        self.freeze = freeze
        self.first = freeze(*self.pieces[0])

    def products(self, v: Tensor) -> Tensor:
        total = self.first.samples / self.n * (self.first @ v)
        for x, y in self.pieces[1:]:
            total = total + len(y) / self.n * (self.freeze(x, y) @ v)
        return total

    def top(self, random_state: int, rtol: float, start: Tensor | None = None) -> TopEigenvalue:
        like = self.first.like
        dtype = torch.promote_types(like.dtype, torch.float32)
        generator = torch_generator(random_state, device=like.device)
        if start is not None:  # near the vector of all data, but blind to nothing
            other = torch.randn(len(start), generator=generator, device=like.device, dtype=dtype)
            start = start + other / other.norm()
        return largest_eigenvalue(self.products, self.first.n, generator, rtol=rtol, start=start, dtype=dtype)


def _sizes(batch_sizes: Sequence[int] | None, n: int) -> list[int]:
    if batch_sizes is None:
        sizes = [size for size in (8, 16, 32, 64) if 4 * size <= n]
        if len(sizes) < 2:
            raise ValueError(f"data has {n} samples; the default batch_sizes take 64, so name smaller ones")
        return sizes
    if not isinstance(batch_sizes, Iterable):
        raise TypeError(f"batch_sizes is {batch_sizes!r}; it takes several sizes, better three to six")
    sizes = [check_count("batch_sizes", size, at_most=n - 1) for size in batch_sizes]
    if not sizes:
        raise ValueError("batch_sizes is empty; it takes one size at least, better three to six")
    return sizes


def _fit(lam: float, effective: np.ndarray, values: list[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Regress eigenvalues on one over the effective batch size, through that of all data, above the transition.

    An eigenvalue's variance falls as one over the size too, so that the best weights make the slope a ratio of sums.
    """
    used = np.ones(len(effective), dtype=bool)
    s2 = error = 0.0
    for _ in range(10):
        x = np.concatenate([np.full(len(v), 1 / b) for v, b, u in zip(values, effective, used, strict=True) if u])
        y = np.concatenate([v - lam for v, u in zip(values, used, strict=True) if u])
        slope = max(float(y.sum() / x.sum()), 0.0)
        s2 = lam * slope
        spread = math.sqrt(float(((y - slope * x) ** 2).sum()) * len(y) / (len(y) - 1)) if len(y) > 1 else math.nan
        error = lam * spread / float(x.sum())
        above = effective * lam**2 > s2
        if (above == used).all():
            return s2, error, used
        if not above.any():
            break
        used = above
    edges = np.concatenate([b * v**2 / 4 for v, b in zip(values, effective, strict=True)])
    return float(edges.mean()), _standard_error(edges), np.zeros(len(effective), dtype=bool)


def _of_samples(
    model: nn.Module, loss_fn: Loss, params: Any, part: _Part, method: str, top: TopEigenvalue, n_probes: int, seed: int
) -> tuple[float, float]:
    """Return mean square deviations of single samples' products from their mean, and their standard error."""
    if part.n < 2:
        raise ValueError(f"data has {part.n} samples; it takes two at least")
    v = top.vector[:, None]
    if method == "frobenius":
        generator = torch_generator(seed, 1, device=v.device)
        v = 2 * torch.randint(0, 2, (len(v), n_probes), generator=generator, device=v.device).to(v) - 1
    names, squares = part.first.names, []
    rows = max(1, _NUMBERS // len(v))
    with differentiable_twice(model):
        check_mode(model)  # batch normalisation may keep no statistics
        for column, mean in zip(v.T, part.products(v).T, strict=True):
            found = []
            for x, y in part.pieces:
                for batch in zip(x.split(rows), y.split(rows), strict=True):
                    off = per_sample_products(model, loss_fn, [batch], column, names) - mean
                    if method == "directional":
                        off = off - torch.outer(off @ column, column)
                    found.append(off.double().square().sum(1))
            squares.append(torch.cat(found))
    each = torch.stack(squares).cpu().numpy() * part.n / (part.n - 1)
    if method == "frobenius":
        each = each / len(v)
    error = _standard_error(each.mean(0)) ** 2 + (_standard_error(each.mean(1)) ** 2 if len(each) > 1 else 0.0)
    return float(each.mean()), math.sqrt(error)


def _unbiased(value: float, s2: float, count: int, n: int) -> float:
    return value if count == n else deflate_eigenvalue(value, s2, count, n)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
