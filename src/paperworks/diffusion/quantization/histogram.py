"""Histograms of many tensors at once, filled batch by batch in constant memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 4096


@dataclass
class Histogram:
    """Counts of values in equal bins between exact bounds, one row per tensor; every row's bounds contain 0.

    Examples
    --------
    >>> histogram = Histogram.between(torch.tensor([-1.0]), torch.tensor([3.0]), bins=4)
    >>> histogram.add(0, torch.tensor([-0.5, 0.2, 0.3, 3.0]))
    >>> histogram.counts
    tensor([[1., 2., 0., 1.]], dtype=torch.float64)
    """

    lo: Float[Tensor, " rows"]
    hi: Float[Tensor, " rows"]
    counts: Float[Tensor, "rows bins"]

    @classmethod
    def between(cls, lo: Float[Tensor, " rows"], hi: Float[Tensor, " rows"], bins: int = BINS) -> "Histogram":
        """Make an empty one; a row that is 0 throughout gets bounds of its own."""
        lo, hi = lo.double().clamp_max(0), hi.double().clamp_min(0)
        hi = torch.where(hi > lo, hi, torch.finfo(torch.float32).tiny)
        return cls(lo, hi, torch.zeros(len(lo), bins, dtype=torch.float64, device=lo.device))

    @classmethod
    def of(cls, rows: Float[Tensor, "rows n"], bins: int = BINS) -> "Histogram":
        """Count the values of each row."""
        histogram = cls.between(rows.amin(1), rows.amax(1), bins)
        position = (rows.double() - histogram.lo[:, None]) / histogram.width[:, None]
        index = position.long().clamp(0, bins - 1)
        histogram.counts.scatter_add_(1, index, torch.ones((), dtype=torch.float64).expand_as(index))
        return histogram

    def add(self, row: int, values: Float[Tensor, "..."]) -> None:
        """Count values into a row."""
        lo, hi = float(self.lo[row]), float(self.hi[row])
        # The last bits of the bounds may be lost in the dtype of the values, and what is outside would not be counted.
        values = values.detach().flatten().float().clamp(lo, hi)
        self.counts[row] += torch.histc(values, self.counts.shape[1], lo, hi)

    @property
    def width(self) -> Float[Tensor, " rows"]:
        """Width of a bin."""
        return (self.hi - self.lo) / self.counts.shape[1]

    @property
    def centers(self) -> Float[Tensor, "rows bins"]:
        """Middles of the bins."""
        steps = torch.arange(self.counts.shape[1], dtype=torch.float64, device=self.lo.device) + 0.5
        return self.lo[:, None] + steps * self.width[:, None]

    @property
    def weights(self) -> Float[Tensor, "rows bins"]:
        """Share of the values in each bin."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)
