"""Neural collapse of features that come in batches: one pass, any number of shards, many classes."""

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from scipy.linalg.blas import dsyrk, ssyrk
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite
from paperworks.training.collapse.metrics import (
    DEFAULT,
    OF_WEIGHT,
    ClassMeans,
    NCMetrics,
    Which,
    blocks,
    checked,
    head,
    measure,
    tensor_of,
)

_FLUSH = 8192  # samples whose products are added up in the features' own precision


class NeuralCollapseMeter:
    r"""Measures of collapse of features that are seen once, in batches.

    For each class it keeps a fixed reference (the mean in the first batch that has the class) and the sums of what
    features differ from it, so nothing cancels near collapse and each sample costs one product, as a covariance does.
    Differences are multiplied in the precision of the features (single for less), and sums are kept in double. Meters
    of shards merge to that of all samples, in any order, to rounding. Measures are those of `nc_metrics`.

    Parameters
    ----------
    num_classes
        Number of classes K; labels are 0 to K - 1.
    dim
        Dimension d of the features.
    covariance
        Whether to keep the d x d scatter within classes, which `nc1` alone needs; without it an update costs next to
        nothing.
    device
        Where sums are kept; batches are brought there.

    Raises
    ------
    ValueError
        For fewer than two classes, a dimension below 1, or the meta device.

    Examples
    --------
    >>> meter = NeuralCollapseMeter(2, 2)
    >>> for labels in (torch.tensor([0, 1]), torch.tensor([1, 0])):
    ...     meter.update(torch.eye(2)[labels] + 0.1, labels)
    >>> meter.compute()
    NCMetrics(nc1=0, nc1_trace=0, nc2=0)
    """

    def __init__(
        self, num_classes: int, dim: int, *, covariance: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.num_classes, self.dim = check_count("num_classes", num_classes, at_least=2), check_count("dim", dim)
        self.covariance, self.device = covariance, torch.device(device)
        if self.device.type == "meta":
            raise ValueError("device is meta, where sums have no values; it takes one that keeps numbers")
        self.reset()

    @torch.inference_mode(False)
    def reset(self) -> None:
        """Forget all samples."""
        K, d, place = self.num_classes, self.dim, self.device
        self.counts = torch.zeros(K, dtype=torch.long, device=place)
        # In single precision, so that features of any precision differ from the same reference.
        self._references = torch.zeros(K, d, device=place)
        self._sums = torch.zeros(K, d, dtype=torch.double, device=place)
        self._squares = torch.zeros(K, dtype=torch.double, device=place)
        self._scatter = torch.zeros((d, d) if self.covariance else (0, 0), dtype=torch.double, device=place)

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(
        self,
        features: Float[Tensor, "batch d"] | Float[np.ndarray, "batch d"],
        labels: Integer[Tensor, " batch"] | Integer[np.ndarray, " batch"],
    ) -> None:
        """Take a batch in.

        Parameters
        ----------
        features
            One row a sample, of any precision. In single precision and less, differences of features below 1e-18 are
            lost, and those above 1e18 overflow.
        labels
            Class of each row, 0 to `num_classes` - 1.

        Raises
        ------
        ValueError
            For shapes that don't fit, entries that aren't finite, or a label out of range; nothing is taken in then.
        TypeError
            For labels that are no whole numbers.
        """
        X = self._rows(features)
        y = tensor_of("labels", labels).to(self.device)
        if y.is_floating_point() or y.dtype == torch.bool:
            raise TypeError(f"labels are of {y.dtype}; they take whole numbers")
        if y.shape != (len(X),):
            raise ValueError(f"labels has shape {tuple(y.shape)} for {len(X)} rows; it takes one for each row")
        if not len(X):
            return
        y = y.long()
        check = y.aminmax()
        if check.min < 0 or check.max >= self.num_classes:
            raise ValueError(
                f"labels go from {int(check.min)} to {int(check.max)}; they take 0 to {self.num_classes - 1}"
            )
        added = torch.bincount(y, minlength=self.num_classes)
        self._refer(X, y, added)
        self.counts += added
        partial, pending = _Scatter(X), 0
        for rows in blocks(X):
            codes = y[rows]
            x = self._references.index_select(0, codes).to(X)
            torch.sub(X[rows], x, out=x)
            self._sums.index_add_(0, codes, x.double())
            self._squares.index_add_(0, codes, torch.linalg.vector_norm(x, dim=1).double().square())
            if self.covariance:
                partial.add(x)
                pending += len(x)
                if pending >= _FLUSH or rows.stop == len(X):
                    partial.flush(self._scatter)
                    pending = 0

    def compute(
        self,
        weight: Float[Tensor, "K d"] | Float[np.ndarray, "K d"] | None = None,
        *,
        which: Sequence[Which] = DEFAULT,
        orthogonal: bool = False,
        empty: Literal["raise", "skip"] = "raise",
        rtol: float = 1e-10,
    ) -> NCMetrics:
        """Return the measures of all samples so far.

        Parameters
        ----------
        weight
            Last layer, one row a class; without it measures of it are left out.
        which, orthogonal, rtol
            As in `nc_metrics`; "nc4" needs samples again, which `disagreement` takes.
        empty
            What to do with classes without samples: raise, or leave them out, with their rows of the weight.

        Returns
        -------
        NCMetrics
            The measures as floats.

        Raises
        ------
        ValueError
            Where fewer than two classes have samples, or one has none and `empty` is "raise"; for "nc4", "nc1" without
            a covariance, unknown measures, or a weight that doesn't fit.
        """
        which, there = checked(which), self.counts > 0
        missing = self.num_classes - int(there.sum())
        if "nc4" in which:
            raise ValueError("which has 'nc4', which needs samples again; call disagreement with them")
        if "nc1" in which and not self.covariance:
            raise ValueError("which has 'nc1', which needs covariance=True")
        if check_choice("empty", empty, ("raise", "skip")) == "raise" and missing:
            raise ValueError(f"{missing} of {self.num_classes} classes have no samples; empty='skip' leaves them out")
        if self.num_classes - missing < 2:
            raise ValueError(f"{self.num_classes - missing} classes have samples; it takes two or more")
        if not torch.isfinite(self._squares.sum() + self._scatter.sum()):
            raise ValueError(
                "squares of features overflow; in single precision they take features up to 1e18, say scaled"
            )
        counts, sums = self.counts[there].double(), self._sums[there]
        shift = sums / counts[:, None]
        means = ClassMeans(self._references[there].double() + shift, rtol)
        if weight is not None:
            weight = tensor_of("weight", weight)
            if weight.shape != (self.num_classes, self.dim):
                raise ValueError(f"weight has shape {tuple(weight.shape)}; it takes {(self.num_classes, self.dim)}")
            weight = weight.to(self.device)[there]
        W, _ = head(weight, None, means.values)
        wanted = tuple(name for name in which if W is not None or name not in OF_WEIGHT)
        variance = (self._squares[there] / counts - shift.square().sum(1)).clamp(min=0)
        total, spread = float(counts.sum()), 0.0
        if "nc1" in wanted:
            V = means.whitening()
            about = float(((self._scatter @ V) * V).sum()) - float((counts[:, None] * (shift @ V).square()).sum())
            spread = max(0.0, about)
        return measure(
            wanted, means, variance, float(variance @ counts) / total, spread / total / len(counts), W, orthogonal
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def disagreement(
        self,
        features: Float[Tensor, "batch d"] | Float[np.ndarray, "batch d"],
        weight: Float[Tensor, "K d"] | Float[np.ndarray, "K d"],
        bias: Float[Tensor, " K"] | Float[np.ndarray, " K"] | None = None,
    ) -> float:
        """Return NC4 of samples, which needn't be those that the class means are of.

        Parameters
        ----------
        features
            One row a sample.
        weight, bias
            Last layer, one row a class.

        Returns
        -------
        float
            Share of rows whose class by the last layer isn't that of the nearest class mean.

        Raises
        ------
        ValueError
            For shapes that don't fit, entries that aren't finite, or a class without samples so far.
        """
        X = self._rows(features)
        if not len(X):
            raise ValueError("features has no rows; it takes one or more")
        if missing := int((self.counts == 0).sum()):
            raise ValueError(f"{missing} of {self.num_classes} classes have no samples; disagreement takes all means")
        means = ClassMeans(self._references.double() + self._sums / self.counts[:, None])
        W, b = head(weight, bias, means.values)
        assert W is not None
        return sum(means.disagreements(X[rows].double(), W, b) for rows in blocks(X)) / len(X)

    @torch.inference_mode(False)
    @torch.no_grad()
    def merge(self, other: "NeuralCollapseMeter") -> "NeuralCollapseMeter":
        """Take in all samples of another meter, which stays as it is.

        Parameters
        ----------
        other
            A meter of as many classes and dimensions.

        Returns
        -------
        NeuralCollapseMeter
            This meter, with the samples of both.

        Raises
        ------
        ValueError
            Where the other's classes, dimension or covariance differ.
        """
        for name in ("num_classes", "dim", "covariance"):
            if getattr(other, name) != getattr(self, name):
                raise ValueError(f"other has {name} {getattr(other, name)}; it takes {getattr(self, name)}")
        counts = other.counts.to(self.device)
        fresh = (self.counts == 0)[:, None]
        references, sums = other._references.to(self.device), other._sums.to(self.device)
        self._references = torch.where(fresh, references, self._references)
        shift, n = references.double() - self._references.double(), counts[:, None].double()
        if self.covariance:
            crossed = (sums + n * shift / 2).T @ shift
            self._scatter += other._scatter.to(self.device) + crossed + crossed.T
        self._squares += other._squares.to(self.device) + ((2 * sums + n * shift) * shift).sum(1)
        self._sums += sums + n * shift
        self.counts = self.counts + counts
        return self

    def gathered(self, group: "torch.distributed.ProcessGroup | None" = None) -> "NeuralCollapseMeter":
        """Return the meter of all processes' samples, the same on each; this one stays as it is.

        Parameters
        ----------
        group
            Processes of `torch.distributed`, all by default; each has to call.

        Returns
        -------
        NeuralCollapseMeter
            A new meter on this one's device, merged in the order of ranks.
        """
        mine = copy.copy(self)
        mine.__dict__ = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        mine.device = torch.device("cpu")
        found: list[NeuralCollapseMeter | None] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(found, mine, group=group)
        total = NeuralCollapseMeter(self.num_classes, self.dim, covariance=self.covariance, device=self.device)
        for meter in found:
            assert meter is not None
            total.merge(meter)
        return total

    def _rows(self, features: Tensor | np.ndarray) -> Tensor:
        X = tensor_of("features", features)
        if X.ndim != 2 or X.shape[1] != self.dim:
            raise ValueError(f"features has shape {tuple(X.shape)}; it takes (batch, {self.dim})")
        if not X.is_floating_point():
            raise TypeError(f"features are of {X.dtype}; they take real numbers")
        X = X.to(self.device)
        return check_finite("features", X if X.dtype in (torch.float32, torch.float64) else X.float())

    def _refer(self, X: Tensor, y: Tensor, added: Tensor) -> None:
        """Give classes that come for the first time the mean of their rows as reference."""
        fresh = (added > 0) & (self.counts == 0)
        if fresh.any():
            place, rows = fresh.cumsum(0) - 1, fresh[y]
            if not rows.all():
                X, y = X[rows], y[rows]
            sums = X.new_zeros(int(fresh.sum()), self.dim).index_add_(0, place[y], X)
            most = torch.finfo(torch.float).max
            self._references[fresh] = (sums / added[fresh, None]).clamp(-most, most).float()


class _Scatter:
    """Adds up `x^T x` of blocks in their own precision; BLAS' rank-k update halves the work where it can."""

    def __init__(self, like: Tensor) -> None:
        self.total = like.new_zeros(like.shape[1], like.shape[1])
        self.update = {torch.float32: ssyrk, torch.float64: dsyrk}[like.dtype] if like.device.type == "cpu" else None
        self.memory = self.total.numpy().T if self.update else None  # in Fortran's order

    def add(self, x: Tensor) -> None:
        if self.update:
            self.update(1.0, x.numpy().T, beta=1.0, c=self.memory, overwrite_c=1)
        else:
            self.total.addmm_(x.T, x)

    def flush(self, scatter: Tensor) -> None:
        """Add the sum to a scatter, and start anew."""
        scatter += self.total
        if self.update:  # one triangle has been written
            scatter += self.total.tril(-1).T
        self.total.zero_()
