"""Where the schedulers of diffusers place their steps: whole steps of the training, or chosen noise levels."""

from typing import Literal

import numpy as np
from scipy import stats

from paperworks.core.validation import check_choice, check_count
from paperworks.diffusion.pndm import Spacing

SigmaGrid = Literal["karras", "exponential", "beta"]


def spaced_steps(spacing: Spacing, total: int, steps: int, offset: int = 0) -> list[float]:
    """Place steps on whole training steps, falling (arXiv 2305.08891, table 2); after the last the data follow.

    Parameters
    ----------
    spacing
        ``leading``: multiples of ``total // (steps + 1)`` without 0, shifted up by `offset`; ``trailing``: from the
        last training step downwards; ``linspace``: from it evenly towards 0, rounded.
    total
        Steps of the training.
    steps
        How many to place.
    offset
        Added to the steps of ``leading``.

    Returns
    -------
    list[float]
        The steps, `steps` of them.

    Raises
    ------
    ValueError
        Where that many don't fit.

    Examples
    --------
    >>> spaced_steps("leading", 1000, 4, 1), spaced_steps("trailing", 1000, 4)
    ([801.0, 601.0, 401.0, 201.0], [999.0, 749.0, 499.0, 249.0])
    """
    check_choice("timestep_spacing", spacing, ("linspace", "leading", "trailing"))
    n = check_count("num_inference_steps", steps, at_most=total)
    if spacing == "trailing":
        return (np.round(total - np.arange(n) * (total / n)) - 1).tolist()
    if spacing == "linspace":
        return np.linspace(0, total - 1, n + 1).round()[:0:-1].tolist()
    found = np.arange(n, 0, -1) * float(total // (n + 1)) + offset
    if n == total or found[0] > total - 1:
        raise ValueError(
            f"num_inference_steps is {n} and steps_offset {offset}; 'leading' leads beyond the last of {total} steps"
        )
    return found.tolist()


def sigma_grid(kind: SigmaGrid, sigma_max: float, sigma_min: float, steps: int) -> np.ndarray:
    """Place noise levels from the greatest to the least, both taken.

    Parameters
    ----------
    kind
        ``karras``: even in ``sigma^(1/7)`` (arXiv 2206.00364, equation 5); ``exponential``: even in ``log sigma``;
        ``beta``: quantiles of the beta distribution with both parameters .6 (arXiv 2407.12173).
    sigma_max, sigma_min
        Greatest and least level.
    steps
        How many.

    Returns
    -------
    ndarray
        The levels, of shape (steps,).

    Examples
    --------
    >>> sigma_grid("exponential", 8.0, 2.0, 3).round(6).tolist()
    [8.0, 4.0, 2.0]
    """
    even = np.linspace(0, 1, steps)
    if kind == "karras":
        ends = sigma_max ** (1 / 7), sigma_min ** (1 / 7)
        return (ends[0] + even * (ends[1] - ends[0])) ** 7
    if kind == "exponential":
        return np.exp(np.log(sigma_max) + even * np.log(sigma_min / sigma_max))
    return sigma_min + stats.beta.ppf(1 - even, 0.6, 0.6) * (sigma_max - sigma_min)


def flow_sigmas(total: int, steps: int, shift: float = 1.0) -> np.ndarray:
    """Place the noise levels of a flow that mixes ``(1 - sigma) x_0 + sigma z``: even, then shifted to more noise.

    Parameters
    ----------
    total
        Steps of the training, whose last, ``1 - 1/total``, is the greatest level before the shift.
    steps
        How many.
    shift
        ``sigma`` becomes ``shift sigma / (1 + (shift - 1) sigma)`` (arXiv 2403.03206, equation 23).

    Returns
    -------
    ndarray
        The levels, falling, of shape (steps,).

    Examples
    --------
    >>> flow_sigmas(1000, 3, 3.0).round(3).tolist()
    [1.0, 0.857, 0.6]
    """
    sigmas = np.linspace(0, 1 - 1 / total, steps + 1)[:0:-1]
    return shift * sigmas / (1 + (shift - 1) * sigmas)
