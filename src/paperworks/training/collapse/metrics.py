"""How far features and the last layer are from collapse: the measures NC1 to NC4, for any sizes of classes."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from paperworks.core.validation import check_choice, check_number

Which = Literal["nc1", "nc1_trace", "nc2", "nc3", "nc3_distance", "nc4", "cdnv"]
MEASURES: tuple[Which, ...] = get_args(Which)
OF_WEIGHT = ("nc3", "nc3_distance", "nc4")
DEFAULT: tuple[Which, ...] = ("nc1", "nc1_trace", "nc2", "nc3")
ROWS = {"cpu": 256}  # of samples that are worked on at once, by kind of device: what stays in a cache
MANY = 65_536  # on all others


@dataclass(frozen=True)
class NCMetrics:
    """Measures of neural collapse, all 0 where it is complete; None where a measure wasn't asked for.

    Parameters
    ----------
    nc1
        `tr(S_W S_B^+) / K`, of the covariance within classes and the pseudo-inverse of that of the class means.
    nc1_trace
        `tr S_W / tr S_B`, the ratio that the paper's theorems are of.
    nc2
        Distance of the class means' Gram matrix, of norm 1, to that of a simplex (or of orthogonal means).
    nc3
        Distance of the product of last layer and class means, of norm 1, to the same.
    nc3_distance
        Distance of last layer and class means, both of norm 1.
    nc4
        Share of samples whose class by the last layer isn't that of the nearest class mean.
    cdnv
        Mean over pairs of classes of their mean variance over the squared distance of their means.

    Examples
    --------
    >>> NCMetrics(nc1_trace=0.5)
    NCMetrics(nc1_trace=0.5)
    """

    nc1: float | None = None
    nc1_trace: float | None = None
    nc2: float | None = None
    nc3: float | None = None
    nc3_distance: float | None = None
    nc4: float | None = None
    cdnv: float | None = None

    def __repr__(self) -> str:
        measured = ((name, getattr(self, name)) for name in MEASURES)
        return f"NCMetrics({', '.join(f'{name}={value:.4g}' for name, value in measured if value is not None)})"


def nc_metrics(
    features: Float[np.ndarray, "N d"] | Float[Tensor, "N d"],
    labels: Shaped[np.ndarray, " N"] | Shaped[Tensor, " N"],
    weight: Float[np.ndarray, "K d"] | Float[Tensor, "K d"] | None = None,
    *,
    bias: Float[np.ndarray, " K"] | Float[Tensor, " K"] | None = None,
    which: Sequence[Which] = DEFAULT,
    orthogonal: bool = False,
    rtol: float = 1e-10,
) -> NCMetrics:
    r"""Measure the collapse of features in double precision, whatever their own.

    `S_W` is the mean over all samples, `S_B` that over class means about their own mean, so a small class counts as
    much as a large one in the latter. NC1 needs features only within the span of the class means, whose covariance is
    never built: the cost is 2 N d K operations where K < d. Sources: Section 3 of arXiv 2210.16658 for NC1 by traces;
    Papyan, Han and Donoho (2020) for NC1 to NC4; arXiv 2112.15121 for `cdnv`.

    Parameters
    ----------
    features
        One row a sample, of NumPy or torch, any precision and device.
    labels
        Class of each row, of any kind of value that sorts; classes needn't be balanced.
    weight
        Last layer, a row for each class in the sorted order of labels; without it measures of it are left out.
    bias
        What the last layer adds, for `nc4`; 0 by default.
    which
        Measures to take, of "nc1", "nc1_trace", "nc2", "nc3", "nc3_distance", "nc4", "cdnv".
    orthogonal
        Whether NC2 and NC3 compare with orthogonal means, as least squares without a bias leads to, and not with a
        simplex about the mean of the means.
    rtol
        Eigenvalues of `S_B` up to this share of the largest count as 0 in its pseudo-inverse.

    Returns
    -------
    NCMetrics
        The measures as floats. They are inf where no class means are apart.

    Raises
    ------
    ValueError
        For shapes that don't fit, entries that aren't finite, fewer than two classes, an unknown measure, or a weight
        with other rows than there are classes, as where a class has no samples.

    Examples
    --------
    >>> features = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    >>> nc_metrics(features, np.array(["cat", "cat", "dog", "dog"]), np.eye(2), which=("nc1_trace", "nc2", "nc3"))
    NCMetrics(nc1_trace=0.02, nc2=0, nc3=0)
    """
    which = checked(which)
    X = tensor_of("features", features)
    if X.ndim != 2 or not X.numel():
        raise ValueError(f"features has shape {tuple(X.shape)}; it takes (N, d) with entries")
    if not X.is_floating_point():
        raise ValueError(f"features are of {X.dtype}; they take real numbers")
    codes, K = class_codes(labels, len(X), X.device)
    counts = torch.bincount(codes, minlength=K).double()
    sums = X.new_zeros(K, X.shape[1], dtype=torch.double)
    for rows in blocks(X):
        sums.index_add_(0, codes[rows], X[rows].double())
    if not torch.isfinite(sums).all():
        bad = int((~torch.isfinite(X)).sum())
        raise ValueError(f"features has {bad} NaN or infinite entries of {X.numel()}; it takes finite numbers")
    means = ClassMeans(sums / counts[:, None], rtol)
    W, b = head(weight, bias, means.values)
    wanted = tuple(name for name in which if W is not None or name not in OF_WEIGHT)
    directions = means.whitening() if "nc1" in wanted else None
    variance, spread, apart = torch.zeros_like(counts), 0.0, 0
    for rows in blocks(X) if {"nc1", "nc1_trace", "cdnv", "nc4"} & set(wanted) else ():
        x = X[rows].double()
        if "nc4" in wanted and W is not None:
            apart += int(means.disagreements(x, W, b))
        x = x - means.values[codes[rows]]
        variance.index_add_(0, codes[rows], torch.linalg.vector_norm(x, dim=1).square())
        if directions is not None:
            spread += float((x @ directions).square().sum())
    return measure(
        wanted,
        means,
        variance / counts,
        float(variance.sum()) / len(X),
        spread / len(X) / K,
        W,
        orthogonal,
        apart / len(X),
    )


def checked(which: Sequence[Which]) -> tuple[Which, ...]:
    """Return the measures asked for, if all are known."""
    if isinstance(which, str):
        raise ValueError(f"which is {which!r}; it takes a sequence of names, such as ({which!r},)")
    return tuple(check_choice("which", name, MEASURES) for name in which)


def class_codes(labels: np.ndarray | Tensor, rows: int, device: torch.device) -> tuple[Tensor, int]:
    """Return labels of any kind as numbers from 0 in sorted order, and how many there are."""
    if isinstance(labels, Tensor):
        if labels.is_floating_point() and not torch.isfinite(labels).all():
            raise ValueError("labels has NaN or infinite entries; it takes classes")
        classes, codes = torch.unique(labels, return_inverse=True)
        codes = codes.to(device)
    else:
        labels = np.asarray(labels)
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("labels has NaN or infinite entries; it takes classes")
        classes, found = np.unique(labels, return_inverse=True)
        codes = torch.from_numpy(found.astype(np.int64)).to(device)
    if codes.shape != (rows,):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for {rows} rows of features; it takes one for each row"
        )
    if len(classes) < 2:
        raise ValueError(f"labels are of {len(classes)} class; it takes two or more")
    return codes, len(classes)


def head(
    weight: np.ndarray | Tensor | None, bias: np.ndarray | Tensor | None, means: Float[Tensor, "K d"]
) -> tuple[Tensor | None, Tensor | float]:
    """Return the last layer in double precision beside the class means, if it fits them."""
    if weight is None:
        return None, 0.0
    W = tensor_of("weight", weight).to(means)
    if W.shape != means.shape:
        raise ValueError(
            f"weight has shape {tuple(W.shape)}; it takes {tuple(means.shape)}, a row for each of the "
            f"{len(means)} classes that have samples"
        )
    b = 0.0 if bias is None else tensor_of("bias", bias).to(means)
    if isinstance(b, Tensor) and b.shape != means.shape[:1]:
        raise ValueError(f"bias has shape {tuple(b.shape)}; it takes ({len(means)},)")
    if not torch.isfinite(W).all() or not np.isfinite(float(b.sum() if isinstance(b, Tensor) else b)):
        raise ValueError("weight or bias has NaN or infinite entries; they take finite numbers")
    check_size("weight", W)
    return W, b


def check_size(name: str, values: Tensor) -> Tensor:
    """Return numbers whose fourth powers are neither infinite nor 0, as NC2 takes them, if they are such."""
    largest = float(values.abs().max())
    if not (1e-70 < largest < 1e70 or largest == 0):
        raise ValueError(
            f"{name} is of size {largest:.1e}; it takes 1e-70 to 1e70, and no measure depends on the scale"
        )
    return values


class ClassMeans:
    """Class means, and what all measures need of them."""

    def __init__(self, values: Float[Tensor, "K d"], rtol: float = 1e-10) -> None:
        self.values, self.rtol = check_size("features", values), check_number("rtol", rtol, gt=0)
        self.centred = values - values.mean(0)
        self.trace = float(self.centred.square().sum()) / len(values)
        rounding = 4 * torch.finfo(torch.double).eps
        self.coincide = self.trace <= rounding**2 * float(values.square().sum()) / len(values)

    def whitening(self) -> Float[Tensor, "d rank"]:
        """Return the factor V of the pseudo-inverse `V V^T` of the class means' covariance."""
        _, size, directions = torch.linalg.svd(self.centred / math.sqrt(len(self.values)), full_matrices=False)
        kept = size**2 > self.rtol * size[:1] ** 2
        return directions[kept].T / size[kept]

    def disagreements(
        self, x: Float[Tensor, "batch d"], W: Float[Tensor, "K d"], b: Float[Tensor, " K"] | float
    ) -> int:
        """Return for how many samples the last layer and the nearest class mean say different classes."""
        # About the mean of the means, so that distances lose nothing where that is far away.
        moved, centre = x - self.values.mean(0), self.centred
        nearest = torch.addmm(centre.square().sum(1), moved, centre.T, alpha=-2).argmin(1)
        return int(((x @ W.T + b).argmax(1) != nearest).sum())

    def structure(self, W: Float[Tensor, "K d"], orthogonal: bool) -> float:
        """Return the distance of `W M`, of norm 1, to the Gram matrix of a simplex, or of orthogonal means.

        It goes through blocks of classes, and so needs no matrix of all classes by all.
        """
        means, K = self.values if orthogonal else self.centred, len(W)
        if self.coincide and not orthogonal:
            return math.inf
        if W.shape[1] < K:
            size = math.sqrt(max(0.0, float(((W.T @ W) * (means.T @ means)).sum())))
        else:
            size = float(torch.linalg.matrix_norm(W @ means.T))
        if size == 0:
            return math.inf
        off, diagonal = (0.0, 1 / math.sqrt(K)) if orthogonal else (-1 / K / math.sqrt(K - 1), 1 / math.sqrt(K - 1))
        total = 0.0
        for rows in blocks(W):
            block = W[rows] @ means.T / size - off
            block.diagonal(rows.start).sub_(diagonal)
            total += float(block.square().sum())
        return math.sqrt(total)

    def distance_variance(self, variance: Float[Tensor, " K"]) -> float:
        """Return the mean over pairs of classes of their mean variance over the squared distance of their means."""
        total, K = 0.0, len(variance)
        if self.coincide:
            return math.inf
        squares = self.centred.square().sum(1)
        for rows in blocks(self.centred):
            apart = squares[rows, None] + squares - 2 * self.centred[rows] @ self.centred.T
            both = (variance[rows, None] + variance) / 2
            ratio = torch.where(apart > 0, both / apart, math.inf)
            ratio.diagonal(rows.start).zero_()
            total += float(ratio.sum())
        return total / K / (K - 1)


def measure(
    which: Sequence[Which],
    means: ClassMeans,
    variance: Float[Tensor, " K"],
    trace: float,
    ratio: float,
    W: Float[Tensor, "K d"] | None,
    orthogonal: bool,
    apart: float | None = None,
) -> NCMetrics:
    """Put measures together from the class means, variances within classes, and what a pass over samples found."""
    found: dict[str, float | None] = {}
    for name in which:
        if name == "nc1":
            found[name] = math.inf if means.coincide else ratio
        elif name == "nc1_trace":
            found[name] = math.inf if means.coincide else trace / means.trace
        elif name == "nc2":
            found[name] = means.structure(means.values if orthogonal else means.centred, orthogonal)
        elif name == "cdnv":
            found[name] = means.distance_variance(variance)
        elif name == "nc4":
            found[name] = apart
        elif W is not None and name == "nc3":
            found[name] = means.structure(W, orthogonal)
        elif W is not None:
            M = means.values if orthogonal else means.centred
            sizes = torch.linalg.matrix_norm(W), torch.linalg.matrix_norm(M)
            found[name] = float(torch.linalg.matrix_norm(W / sizes[0] - M / sizes[1])) if min(sizes) > 0 else math.inf
    return NCMetrics(**found)


def blocks(rows: Tensor) -> Iterator[slice]:
    """Go through the rows of a tensor, as many at a time as its device works on best."""
    count = ROWS.get(rows.device.type, MANY)
    for start in range(0, len(rows), count):
        yield slice(start, min(start + count, len(rows)))


def tensor_of(name: str, array: np.ndarray | Tensor) -> Tensor:
    """Return real numbers as a tensor, which shares their memory where it can."""
    if isinstance(array, Tensor):
        if array.is_complex():
            raise TypeError(f"{name} is a tensor of {array.dtype}; it takes real numbers")
        if array.is_meta:
            raise ValueError(f"{name} is on the meta device, where it has no values; it takes a tensor that has")
        return array.detach()
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is an array of {array.dtype}; it takes real numbers")
    known = np.dtype(
        f"{array.dtype.kind}{min(array.dtype.itemsize, 8)}"
    )  # of the machine's byte order, of torch's types
    array = np.ascontiguousarray(array, dtype=known)
    with warnings.catch_warnings():  # of memory maps that are read only: nothing is written
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
