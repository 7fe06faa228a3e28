"""Noise levels of a diffusion trajectory, how finely training steps along it, and how slowly its target follows."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_number


@dataclass(frozen=True)
class KarrasGrid:
    """The noise levels of EDM: evenly spaced in ``t**(1/rho)``, from the greatest to the least.

    Parameters
    ----------
    sigma_min, sigma_max
        Least and greatest noise level, where pixels range from -1 to 1. Defaults 0.002 and 80, of the paper.
    rho
        How much closer levels are where they are small. Default 7.

    Raises
    ------
    ValueError
        Unless ``0 < sigma_min < sigma_max`` and ``rho > 0``.

    Notes
    -----
    Equation 5 of EDM (arXiv 2206.00364), which the paper takes over.

    Examples
    --------
    >>> KarrasGrid().levels(3)
    tensor([8.0000e+01, 2.5152e+00, 2.0000e-03], dtype=torch.float64)
    >>> KarrasGrid().nearest(1.0, 81)  # the level that a network is told when it sees noise of 1
    0.9654...
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, gt=0)
        check_number("sigma_max", self.sigma_max, gt=self.sigma_min)
        check_number("rho", self.rho, gt=0)

    def levels(self, n: int) -> Float[Tensor, " n"]:
        """Return `n` levels, at least two, in falling order.

        Returns
        -------
        Tensor of shape (n,)
            Noise levels in falling order, in the unit of the pixels.
        """
        check_count("n", n, at_least=2)
        greatest, least = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = torch.linspace(greatest, least, n, dtype=torch.float64) ** self.rho
        levels[0], levels[-1] = self.sigma_max, self.sigma_min  # without the rounding of the powers
        return levels

    def nearest(self, t: float, n: int) -> float:
        """Return that one of `n` levels which is nearest to `t`.

        Returns
        -------
        float
            One of the levels, in the unit of the pixels.

        Raises
        ------
        ValueError
            For a `t` outside the grid.
        """
        check_number("t", t, ge=self.sigma_min, le=self.sigma_max)
        levels = self.levels(n)
        return float(levels[(levels - t).abs().argmin()])


@dataclass(frozen=True)
class ScaleSchedule:
    """The number of noise levels at each step of training: it doubles a few times, up to the finest grid.

    Parameters
    ----------
    total
        Steps of the whole training.
    start, end
        Intervals of the coarsest and of the finest grid. Defaults 20 and 80.

    Raises
    ------
    ValueError
        For counts below 1, or an end below the start.

    Examples
    --------
    >>> schedule = ScaleSchedule(1000)
    >>> [schedule(step) for step in (0, 1, 430, 432, 1000)]
    [21, 41, 41, 81, 81]
    """

    total: int
    start: int = 20
    end: int = 80

    def __post_init__(self) -> None:
        check_count("total", self.total)
        check_count("start", self.start)
        check_count("end", self.end, at_least=self.start)

    def __call__(self, step: int) -> int:
        """Return the number of levels at a step."""
        check_count("step", step, at_least=0)
        period = math.ceil(self.total / math.log2(math.ceil(self.end / self.start) + 1))
        return min(self.start * 2 ** math.ceil(step / period), self.end) + 1


@dataclass(frozen=True)
class TargetEMASchedule:
    """The decay of the target network's moving average at each step: fast at first, then along a sigmoid to slow.

    Parameters
    ----------
    total
        Steps of the whole training.
    start, end
        Decay at the first and, nearly, at the last step. Defaults 0.99 and 0.9999.
    sharpness
        How early the decay rises: 15 for CIFAR-10 (the default), 10 for ImageNet.

    Raises
    ------
    ValueError
        Unless ``0 <= start < end <= 1`` and the sharpness is above 0.

    Examples
    --------
    >>> schedule = TargetEMASchedule(1000)
    >>> [round(schedule(step), 6) for step in (0, 100, 1000)]
    [0.99, 0.996308, 0.9999]
    """

    total: int
    start: float = 0.99
    end: float = 0.9999
    sharpness: float = 15.0

    def __post_init__(self) -> None:
        check_count("total", self.total)
        check_number("start", self.start, ge=0, lt=1)
        check_number("end", self.end, gt=self.start, le=1)
        check_number("sharpness", self.sharpness, gt=0)

    def __call__(self, step: int) -> float:
        """Return the decay at a step."""
        share = min(1.0, check_count("step", step, at_least=0) / self.total)
        decay = math.sqrt(share * (self.end**2 - self.start**2) + self.start**2)
        risen = math.tanh(self.sharpness * (decay - self.start) / (self.end - self.start) / 2)
        return risen * self.end + (1 - risen) * self.start
