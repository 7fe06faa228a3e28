"""Laws by which the time of each calibration sample is drawn, as a rank on the sampling grid."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from paperworks.core.validation import check_number


@runtime_checkable
class TimeLaw(Protocol):
    """Draws ranks on a grid of times, 0 for the cleanest and ``total - 1`` for the noisiest."""

    def draw(self, n: int, total: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Return `n` ranks."""
        ...


@dataclass(frozen=True)
class NDTC:
    """Normally distributed times, skewed to the clean side: ``clamp(int(N(mean, std^2) total), 0, total - 1)``.

    Source: arXiv 2211.15736, section 3.3; the defaults are those of its released script.

    Parameters
    ----------
    mean, std
        As shares of the grid.

    Raises
    ------
    ValueError
        Where `mean` is outside [0, 1] or `std` isn't positive.

    Examples
    --------
    >>> ranks = NDTC().draw(1000, 100, torch.Generator().manual_seed(0))
    >>> 38 < ranks.double().mean() < 48
    tensor(True)
    """

    mean: float = 0.4
    std: float = 0.4

    def __post_init__(self) -> None:
        check_number("mean", self.mean, ge=0, le=1)
        check_number("std", self.std, gt=0)

    def draw(self, n: int, total: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Return `n` ranks on a grid of `total` times.

        Parameters
        ----------
        n
            How many ranks to draw.
        total
            Number of times on the grid.
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        Tensor of shape (n,)
            Ranks from 0 to ``total - 1``.
        """
        drawn = self.mean + self.std * torch.randn(n, generator=generator, dtype=torch.float64)
        return (drawn * total).long().clamp(0, total - 1)


@dataclass(frozen=True)
class UniformTimes:
    """All times alike.

    Examples
    --------
    >>> UniformTimes().draw(1000, 3, torch.Generator().manual_seed(0)).unique()
    tensor([0, 1, 2])
    """

    def draw(self, n: int, total: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Return `n` ranks on a grid of `total` times.

        Parameters
        ----------
        n
            How many ranks to draw.
        total
            Number of times on the grid.
        generator
            What draws the noise; its device is drawn on.

        Returns
        -------
        Tensor of shape (n,)
            Ranks from 0 to ``total - 1``.
        """
        return torch.randint(0, total, (n,), generator=generator)


@dataclass(frozen=True)
class FixedTime:
    """One time for all samples.

    Parameters
    ----------
    share
        Where it is on the grid: 0 for t = 1 (the cleanest), 1 for t = T, 0.5 for the mean time.

    Raises
    ------
    ValueError
        Where `share` is outside [0, 1].

    Examples
    --------
    >>> FixedTime(1.0).draw(2, 50, torch.Generator())
    tensor([49, 49])
    """

    share: float

    def __post_init__(self) -> None:
        check_number("share", self.share, ge=0, le=1)

    def draw(self, n: int, total: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """Return `n` equal ranks on a grid of `total` times.

        Parameters
        ----------
        n
            How many ranks to draw.
        total
            Number of times on the grid.
        generator
            Not used, since nothing is random.

        Returns
        -------
        Tensor of shape (n,)
            Ranks from 0 to ``total - 1``, all the same.
        """
        return torch.full((n,), round(self.share * (total - 1)))
