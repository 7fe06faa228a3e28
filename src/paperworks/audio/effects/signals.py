"""Signals that exercise an effect: tones, plucks, steps of the level, spikes, sweeps and noise."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_choice, check_count, check_number

Signal = Literal[
    "sine",
    "noisy sine",
    "pluck",
    "noisy pluck",
    "triangle",
    "box",
    "noisy box",
    "spikes",
    "staircase",
    "sweep",
    "pink noise",
    "white noise",
]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
COMPRESSOR_MIX: tuple[Signal, ...] = ("sine", "noisy sine", "pluck", "box", "noisy box", "noisy pluck")

Array = Float[np.ndarray, " n"]
Draw = Callable[[Array, np.random.Generator], Array]  # of times in seconds


def _noise(t: Array, rng: np.random.Generator) -> Array:
    return rng.uniform(-1, 1, t.size)


def _sine(t: Array, rng: np.random.Generator) -> Array:
    y = np.zeros(t.size)
    for _ in range(rng.integers(1, 3)):
        amplitude, frequency, start = rng.uniform(0.2, 0.9), rng.uniform(5, 150), rng.uniform(0, t[-1] + 1e-9)
        y += amplitude * np.cos(frequency * (t - start))  # in radians a second, as released
    return y


def _decay(t: Array, rng: np.random.Generator) -> Array:
    start, before, height = rng.uniform(0, 0.35) * t[-1], rng.uniform(0.1, 0.2), rng.uniform(0.6, 0.95)
    return np.where(t < start, before, height * np.exp(-rng.uniform(0, 12) * np.maximum(t - start, 0)))


def _pluck(t: Array, rng: np.random.Generator) -> Array:
    tones = np.zeros(t.size)
    for _ in range(rng.integers(1, 4)):
        amplitude, frequency = rng.choice([-1, 1]) * rng.uniform(0.5, 0.95), rng.uniform(50, 6400)
        tones += amplitude * np.sin(frequency * (t - rng.uniform(-0.3, 0.3) * t[-1]))
    return tones * _decay(t, rng)


def _triangle(t: Array, rng: np.random.Generator) -> Array:
    height, width = rng.choice([-1, 1]) * rng.uniform(0.4, 0.8), max(rng.uniform(0, 0.25) * t[-1], 1e-9)
    middle = 2 * width + rng.uniform(0, 0.4) * t[-1]
    return height * np.maximum(1 - np.abs(t - middle) / width, 0) + rng.uniform(0.02, 0.12) * _noise(t, rng)


def _box(t: Array, rng: np.random.Generator) -> Array:
    low, high, n = rng.uniform(0.1, 0.4), rng.uniform(0.6, 0.95), t.size
    slope, up = 1 + n // 100, rng.uniform(0, 0.3) * n
    down = up + rng.uniform(0.3, 0.65) * n
    return np.interp(np.arange(n), [up, up + 2 * slope, down, down + 2 * slope], [low, high, high, low])


def _spikes(t: Array, rng: np.random.Generator) -> Array:
    y = np.zeros(t.size + 2)
    at, heights = rng.integers(1, t.size + 1, 50), rng.uniform(-0.7, 0.7, 50)
    for shift, share in ((0, 1.0), (-1, 0.5), (1, 0.5)):
        y[at + shift] = share * heights
    return y[1:-1] + 0.1 * rng.uniform() * rng.standard_normal(t.size)


def _staircase(t: Array, rng: np.random.Generator) -> Array:
    lowest = int(rng.choice([-40, -30]))
    level = lowest + np.arange(t.size) * (1 - lowest) // t.size  # whole decibels up to 0
    return 10 ** (level / 20) * np.sin(2 * np.pi * rng.uniform(50, 1000) * t)


def _sweep(t: Array, rng: np.random.Generator) -> Array:
    low, high = 20.0, 0.45 / (t[1] - t[0])
    rate = math.log(high / low) / (t[-1] or 1)
    return rng.uniform(0.2, 0.9) * np.sin(2 * np.pi * low / rate * np.expm1(rate * t))


def _pink(t: Array, rng: np.random.Generator) -> Array:
    bins = np.fft.rfft(rng.standard_normal(t.size)) / np.sqrt(np.maximum(np.arange(t.size // 2 + 1), 1))
    bins[0] = 0
    y = np.fft.irfft(bins, t.size)
    return rng.uniform(0.1, 0.9) * y / np.abs(y).max()


_DRAW: dict[Signal, Draw] = {
    "sine": _sine,
    "noisy sine": lambda t, rng: _sine(t, rng) + 0.1 * _noise(t, rng),
    "pluck": _pluck,
    "noisy pluck": lambda t, rng: _pluck(t, rng) + rng.uniform(0.1, 0.4) * _noise(t, rng),
    "triangle": _triangle,
    "box": _box,
    "noisy box": lambda t, rng: _box(t, rng) * _noise(t, rng),
    "spikes": _spikes,
    "staircase": _staircase,
    "sweep": _sweep,
    "pink noise": _pink,
    "white noise": lambda t, rng: rng.uniform(0.2, 0.8) * _noise(t, rng),
}


def test_signal(kind: Signal, n: int, sr: float, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Draw a signal of a kind, of random sign, with noise of 1e-8 so that it is nowhere silent.

    Parameters
    ----------
    kind
        One of "sine" (one or two slow tones of 5 to 150 radians a second), "pluck" (decaying tones of 50 to 6400),
        "triangle", "box" (a step of the level up and down), some of them also noisy, "spikes", "staircase" (a tone that
        grows by 1 dB a step), "sweep" (exponential), "pink noise", "white noise".
    n
        Number of samples, at least 16.
    sr
        Samples in a second.
    rng
        Draws frequencies, levels and noise.

    Returns
    -------
    ndarray
        The signal in double precision; sums of tones may exceed 1.

    Raises
    ------
    ValueError
        For an unknown kind, fewer samples, or a sample rate that isn't positive.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released generators.

    Examples
    --------
    >>> test_signal("pluck", 1024, 44100, np.random.default_rng(0)).shape
    (1024,)
    """
    check_choice("kind", kind, SIGNALS)
    t = np.arange(check_count("n", n, at_least=16)) / check_number("sr", sr, gt=0)
    return rng.choice([-1.0, 1.0]) * _DRAW[kind](t, rng) + 1e-8 * rng.standard_normal(t.size)


test_signal.__test__ = False  # type: ignore[attr-defined]  # it is none of pytest's


def beta_knobs(rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    """Draw knobs by a beta law with both parameters 0.8, which is denser at the ends, shifted to [-1/2, 1/2].

    Parameters
    ----------
    rng
        Draws the positions.
    count
        Number of knobs.

    Returns
    -------
    ndarray
        Positions of the knobs.

    Examples
    --------
    >>> bool(abs(beta_knobs(np.random.default_rng(0), 4)).max() <= 0.5)
    True
    """
    return rng.beta(0.8, 0.8, count) - 0.5
