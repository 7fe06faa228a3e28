"""Noise for privacy: from the operating system's cryptographic source by default, or from a seeded generator."""

import functools
import os
from decimal import Decimal, localcontext

import numpy as np
from scipy import special

_DIGITS = 40  # of the probabilities behind a table
_WIDEST = 200_000  # standard deviations beyond this would need tables of many megabytes
_UNIT = 2**64


class SecureNoise:
    """Noise from `os.urandom`: whole numbers where the values are whole, so that no rounding gives anything away.

    Gaussian and Laplace noise on whole numbers is read from a table of the discrete distribution with 64 random bits a
    draw: each draw is within 2^-60 of the discrete distribution in total variation, whose privacy is that of the
    continuous one (Canonne, Kamath and Steinke, arXiv 2004.00010, theorem 4 and section 4).

    Examples
    --------
    >>> noise = SecureNoise().gaussian(3.0, 5)
    >>> noise.shape, bool(np.all(noise == np.round(noise)))
    ((5,), True)
    """

    def gaussian(self, std: float, size: int | tuple[int, ...], whole: bool = True) -> np.ndarray:
        """Draw Gaussian noise, of whole numbers unless told otherwise."""
        if std == 0:
            return np.zeros(size)
        if whole and std <= _WIDEST:
            return _from_table(_gaussian_table(float(std)), size)
        return std * special.ndtri(_uniform(size))

    def laplace(self, scale: float, size: int | tuple[int, ...], whole: bool = True) -> np.ndarray:
        """Draw Laplace noise, of whole numbers unless told otherwise."""
        if scale == 0:
            return np.zeros(size)
        if whole and scale <= _WIDEST / 8:
            return _from_table(_laplace_table(float(scale)), size)
        centred = _uniform(size) - 0.5
        return -scale * np.sign(centred) * np.log1p(-2 * np.abs(centred))

    def gumbel(self, size: int | tuple[int, ...]) -> np.ndarray:
        """Draw standard Gumbel noise, whose argmax with scores is the exponential mechanism."""
        return -np.log(-np.log(_uniform(size)))


class SeededNoise:
    """Continuous noise from a NumPy generator: repeatable, for simulations and tests.

    Examples
    --------
    >>> SeededNoise(np.random.default_rng(0)).gaussian(1.0, 2).round(3)
    array([ 0.126, -0.132])
    """

    def __init__(self, random_state: np.random.Generator) -> None:
        self.rng = random_state

    def gaussian(self, std: float, size: int | tuple[int, ...], whole: bool = True) -> np.ndarray:
        """Draw Gaussian noise."""
        return std * self.rng.standard_normal(size)

    def laplace(self, scale: float, size: int | tuple[int, ...], whole: bool = True) -> np.ndarray:
        """Draw Laplace noise."""
        return scale * self.rng.laplace(size=size)

    def gumbel(self, size: int | tuple[int, ...]) -> np.ndarray:
        """Draw standard Gumbel noise."""
        return self.rng.gumbel(size=size)


Noise = SecureNoise | SeededNoise


def noise_from(random_state: np.random.Generator | None) -> Noise:
    """Return the cryptographic source for None, else the generator's noise.

    Raises
    ------
    TypeError
        Where `random_state` is neither.

    Examples
    --------
    >>> type(noise_from(None)).__name__
    'SecureNoise'
    """
    if random_state is None:
        return SecureNoise()
    if not isinstance(random_state, np.random.Generator):
        raise TypeError(
            f"random_state is {random_state!r}; it takes a numpy.random.Generator, or None for the cryptographic source"
        )
    return SeededNoise(random_state)


def _words(size: int | tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(size))
    return np.frombuffer(os.urandom(8 * count), np.uint64).reshape(size)


def _uniform(size: int | tuple[int, ...]) -> np.ndarray:
    """Draw uniform numbers in the open unit interval, 53 bits each."""
    return ((_words(size) >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53


def _from_table(table: tuple[np.ndarray, int], size: int | tuple[int, ...]) -> np.ndarray:
    thresholds, lowest = table
    return np.searchsorted(thresholds, _words(size), side="right").astype(float) + lowest


@functools.lru_cache(maxsize=32)
def _gaussian_table(std: float) -> tuple[np.ndarray, int]:
    reach = int(np.ceil(9.5 * std)) + 1  # the mass beyond is below 2^-64
    with localcontext() as context:
        context.prec = _DIGITS
        falloff = Decimal(1) / (2 * Decimal(std) ** 2)
        # exp(-k^2 f) by its ratios exp(-(2k+1) f): two multiplications a value instead of an exponential.
        step, ratio = (-falloff).exp(), (-2 * falloff).exp()
        weights = [Decimal(1)]
        for _ in range(reach):
            weights.append(weights[-1] * step)
            step *= ratio
        return _thresholds(weights), -reach


@functools.lru_cache(maxsize=32)
def _laplace_table(scale: float) -> tuple[np.ndarray, int]:
    reach = int(np.ceil(45 * scale)) + 1
    with localcontext() as context:
        context.prec = _DIGITS
        ratio = (-1 / Decimal(scale)).exp()
        weights = [Decimal(1)]
        for _ in range(reach):
            weights.append(weights[-1] * ratio)
        return _thresholds(weights), -reach


def _thresholds(weights: list[Decimal]) -> np.ndarray:
    """Return the cumulative probabilities of a symmetric distribution below each value, in units of 2^-64."""
    both = weights[:0:-1] + weights
    total = sum(both)
    below, cumulative = [], Decimal(0)
    for weight in both[:-1]:
        cumulative += weight
        below.append(min(int(cumulative / total * _UNIT), _UNIT - 1))
    return np.array(below, dtype=np.uint64)
