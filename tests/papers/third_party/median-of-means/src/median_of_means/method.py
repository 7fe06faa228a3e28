"""The method of arXiv:1509.05845."""

from collections.abc import Sequence
from statistics import fmean, median


class MedianOfMeans:
    """Estimates a mean from data with heavy tails: the median of the means of blocks.

    Parameters
    ----------
    blocks : int
        Number of blocks; the confidence is about 1 - exp(-blocks / 8).

    Examples
    --------
    >>> MedianOfMeans(3)([1.0, 1.0, 1.0, 1.0, 1.0, 900.0])
    1.0
    """

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; it takes 1 or more")
        self.blocks = blocks

    def __call__(self, values: Sequence[float]) -> float:
        """Return the estimate of the mean of `values`."""
        if len(values) < self.blocks:
            raise ValueError(f"values has {len(values)} numbers; it takes {self.blocks}, the number of blocks, or more")
        return median(fmean(values[start :: self.blocks]) for start in range(self.blocks))
