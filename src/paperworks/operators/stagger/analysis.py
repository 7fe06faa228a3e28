"""What a coarse piece can't know: the error that no solver of a piece goes below, and the factor it allows."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Complex, Float

from paperworks.core.validation import check_number
from paperworks.operators.stagger.splitting import check_divisible, check_factors

Spectrum = Float[np.ndarray, "*grid"]
Propagator = Float[np.ndarray, "*grid"] | Complex[np.ndarray, "*grid"]


def stagger_information_loss(spectrum: Spectrum, propagator: Propagator, factors: int | Sequence[int]) -> float:
    r"""Return the least relative error with which any solver of a piece alone can predict it.

    A piece sees sums over the s wave numbers :math:`k = q + m N / s` that look alike on its grid. For Gaussian fields
    whose modes have variances :math:`P_k` and are multiplied by :math:`g_k`, the best prediction is linear, with

    .. math:: E^2 = \sum_q \Big[\sum_m |g_m|^2 P_m - \frac{|\sum_m g_m P_m|^2}{\sum_m P_m}\Big] \Big/ \sum_k |g_k|^2 P_k

    which is 0 where the field has nothing beyond the coarse grid's waves, or all waves that look alike move alike.

    Parameters
    ----------
    spectrum
        Variances P of modes, on a grid of one to three axes in the order of `numpy.fft.fftn`; in any unit.
    propagator
        Factors g by which modes are multiplied over the time of a step, in the same order.
    factors
        By what each axis is divided: one number for all axes, or one for each.

    Returns
    -------
    float
        The root E of the mean squared error over the mean square, from 0 to 1.

    Raises
    ------
    ValueError
        For arrays of two shapes, variances that are negative, all zero or not finite, or a grid that the factors don't
        divide.

    References
    ----------
    An extension of arXiv:2302.10255, whose limit by the smallest scale it puts in numbers.

    Examples
    --------
    >>> k = np.fft.fftfreq(64, 1 / 64)
    >>> heat = np.exp(-((2 * np.pi * k) ** 2) * 1e-3)
    >>> stagger_information_loss((np.abs(k) < 8) * 1.0, heat, 4)  # no wave that the pieces don't see
    0.0
    """
    power, gain = np.asarray(spectrum), np.asarray(propagator)
    if not 1 <= power.ndim <= 3 or np.iscomplexobj(power):
        raise ValueError(
            f"spectrum is {power.dtype} of shape {power.shape}; it takes real numbers on one to three axes"
        )
    if power.shape != gain.shape:
        raise ValueError(f"propagator has shape {gain.shape}; it takes {power.shape}, as spectrum has")
    if not (np.isfinite(power).all() and (power >= 0).all() and np.isfinite(gain).all()):
        raise ValueError("spectrum and propagator take finite numbers, and the spectrum none below 0")
    parts = check_factors(factors, power.ndim)
    check_divisible("spectrum", power.shape, parts)
    # The error has no unit, so that the largest may be 1: squares of others are neither infinite nor 0.
    power, gain = (values / (np.abs(values).max(initial=0) or 1.0) for values in (power, gain))
    whole = float((np.abs(gain) ** 2 * power).sum())
    if not whole > 0:
        raise ValueError("spectrum times propagator is zero everywhere; it takes a field that is not")
    # In the order of the transform, index m N / s + q is the m-th wave that looks like q.
    both = [n for side, s in zip(power.shape, parts, strict=True) for n in (s, side // s)]
    alike = tuple(range(0, len(both), 2))
    power, gain = power.reshape(both), gain.reshape(both)
    total = power.sum(alike, keepdims=True)
    best = (gain * power).sum(alike, keepdims=True) / np.where(total > 0, total, 1)
    # The same as the formula, without its cancellation: the variance of g over waves that look alike.
    return math.sqrt(float((np.abs(gain - best) ** 2 * power).sum()) / whole)


def recommend_factor(spectrum: Spectrum, propagator: Propagator, rtol: float = 0.05) -> int:
    """Return the largest factor, alike for all axes, whose pieces can be predicted to a tolerance.

    Parameters
    ----------
    spectrum
        Variances of modes, as for `stagger_information_loss`.
    propagator
        Factors by which modes are multiplied over the time of a step.
    rtol
        Greatest relative error that is accepted; 0.05 by default, below what networks of this kind reach.

    Returns
    -------
    int
        A factor that divides every side and leaves pieces of two points at least; 1 where no other is good enough.

    Raises
    ------
    ValueError
        For a tolerance below 0, or what `stagger_information_loss` refuses.

    References
    ----------
    An extension of arXiv:2302.10255, see `stagger_information_loss`.

    Examples
    --------
    >>> k = np.fft.fftfreq(64, 1 / 64)
    >>> recommend_factor((np.abs(k) < 8) * 1.0, np.exp(-((2 * np.pi * k) ** 2) * 1e-3))
    4
    """
    check_number("rtol", rtol, ge=0)
    stagger_information_loss(spectrum, propagator, 1)  # refuses what it can't take, whatever the sides divide by
    common = math.gcd(*np.shape(spectrum))
    divisors = [s for s in range(common // 2 or 1, 1, -1) if common % s == 0]
    return next((s for s in divisors if stagger_information_loss(spectrum, propagator, s) <= rtol), 1)
