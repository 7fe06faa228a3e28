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
"""All kinds of signals that `test_signal` draws."""
COMPRESSOR_MIX: tuple[Signal, ...] = ("sine", "noisy sine", "pluck", "box", "noisy box", "noisy pluck")
"""The kinds of signals that `SynthAudioDataset` draws by default."""

Array = Float[np.ndarray, " n"]
Draw = Callable[[Array, np.random.Generator], Array]  # of times in seconds


def _noise(t: Array, random_state: np.random.Generator) -> Array:
    return random_state.uniform(-1, 1, t.size)


def _sine(t: Array, random_state: np.random.Generator) -> Array:
    y = np.zeros(t.size)
    for _ in range(random_state.integers(1, 3)):
        amplitude, frequency, start = (
            random_state.uniform(0.2, 0.9),
            random_state.uniform(5, 150),
            random_state.uniform(0, t[-1] + 1e-9),
        )
        y += amplitude * np.cos(frequency * (t - start))  # in radians a second, as released
    return y


def _decay(t: Array, random_state: np.random.Generator) -> Array:
    start, before, height = (
        random_state.uniform(0, 0.35) * t[-1],
        random_state.uniform(0.1, 0.2),
        random_state.uniform(0.6, 0.95),
    )
    return np.where(t < start, before, height * np.exp(-random_state.uniform(0, 12) * np.maximum(t - start, 0)))


def _pluck(t: Array, random_state: np.random.Generator) -> Array:
    tones = np.zeros(t.size)
    for _ in range(random_state.integers(1, 4)):
        amplitude, frequency = (
            random_state.choice([-1, 1]) * random_state.uniform(0.5, 0.95),
            random_state.uniform(50, 6400),
        )
        tones += amplitude * np.sin(frequency * (t - random_state.uniform(-0.3, 0.3) * t[-1]))
    return tones * _decay(t, random_state)


def _triangle(t: Array, random_state: np.random.Generator) -> Array:
    height, width = (
        random_state.choice([-1, 1]) * random_state.uniform(0.4, 0.8),
        max(random_state.uniform(0, 0.25) * t[-1], 1e-9),
    )
    middle = 2 * width + random_state.uniform(0, 0.4) * t[-1]
    return height * np.maximum(1 - np.abs(t - middle) / width, 0) + random_state.uniform(0.02, 0.12) * _noise(
        t, random_state
    )


def _box(t: Array, random_state: np.random.Generator) -> Array:
    low, high, n = random_state.uniform(0.1, 0.4), random_state.uniform(0.6, 0.95), t.size
    slope, up = 1 + n // 100, random_state.uniform(0, 0.3) * n
    down = up + random_state.uniform(0.3, 0.65) * n
    return np.interp(np.arange(n), [up, up + 2 * slope, down, down + 2 * slope], [low, high, high, low])


def _spikes(t: Array, random_state: np.random.Generator) -> Array:
    y = np.zeros(t.size + 2)
    at, heights = random_state.integers(1, t.size + 1, 50), random_state.uniform(-0.7, 0.7, 50)
    for shift, share in ((0, 1.0), (-1, 0.5), (1, 0.5)):
        y[at + shift] = share * heights
    return y[1:-1] + 0.1 * random_state.uniform() * random_state.standard_normal(t.size)


def _staircase(t: Array, random_state: np.random.Generator) -> Array:
    lowest = int(random_state.choice([-40, -30]))
    level = lowest + np.arange(t.size) * (1 - lowest) // t.size  # whole decibels up to 0
    return 10 ** (level / 20) * np.sin(2 * np.pi * random_state.uniform(50, 1000) * t)


def _sweep(t: Array, random_state: np.random.Generator) -> Array:
    low, high = 20.0, 0.45 / (t[1] - t[0])
    rate = math.log(high / low) / (t[-1] or 1)
    return random_state.uniform(0.2, 0.9) * np.sin(2 * np.pi * low / rate * np.expm1(rate * t))


def _pink(t: Array, random_state: np.random.Generator) -> Array:
    bins = np.fft.rfft(random_state.standard_normal(t.size)) / np.sqrt(np.maximum(np.arange(t.size // 2 + 1), 1))
    bins[0] = 0
    y = np.fft.irfft(bins, t.size)
    return random_state.uniform(0.1, 0.9) * y / np.abs(y).max()


_DRAW: dict[Signal, Draw] = {
    "sine": _sine,
    "noisy sine": lambda t, random_state: _sine(t, random_state) + 0.1 * _noise(t, random_state),
    "pluck": _pluck,
    "noisy pluck": lambda t, random_state: (
        _pluck(t, random_state) + random_state.uniform(0.1, 0.4) * _noise(t, random_state)
    ),
    "triangle": _triangle,
    "box": _box,
    "noisy box": lambda t, random_state: _box(t, random_state) * _noise(t, random_state),
    "spikes": _spikes,
    "staircase": _staircase,
    "sweep": _sweep,
    "pink noise": _pink,
    "white noise": lambda t, random_state: random_state.uniform(0.2, 0.8) * _noise(t, random_state),
}


def test_signal(kind: Signal, n: int, sr: float, random_state: np.random.Generator) -> Float[np.ndarray, " n"]:
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
    random_state
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
    return random_state.choice([-1.0, 1.0]) * _DRAW[kind](t, random_state) + 1e-8 * random_state.standard_normal(t.size)


test_signal.__test__ = False  # type: ignore[attr-defined]  # it is none of pytest's


def beta_knobs(random_state: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    """Draw knobs by a beta law with both parameters 0.8, which is denser at the ends, shifted to [-1/2, 1/2].

    Parameters
    ----------
    random_state
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
    return random_state.beta(0.8, 0.8, count) - 0.5
