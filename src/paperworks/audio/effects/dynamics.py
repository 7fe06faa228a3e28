"""Compressors: with four controls, and the simple one with three."""

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, lfilter, lfilter_zi

from paperworks.audio.effects.base import Effect, Values
from paperworks.audio.effects.kernels import kernels
from paperworks.audio.effects.smoothing import time_coefficient

_DB = 20 / math.log(10)  # decibels of a natural logarithm


class Compressor4C(Effect):
    """A compressor with threshold (dB), ratio, attack and release (seconds).

    Levels above the threshold are brought down to ``T + (level - T) / R`` by a gain that follows with one speed on its
    way down and another on its way up. The gain before the first sample is 0 dB.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        For some or all knobs, by name, other ends ``(low, high)``, or one number that fixes the knob. Default: [-30, 0]
        dB, [1, 5], and [1, 40] ms twice, the paper's.
    inverse
        Whether networks learn to undo the effect, a de-compressor; no by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, the compressor's listing.

    Examples
    --------
    >>> loud = np.full(44100, 0.5)
    >>> compressor = Compressor4C(44100)
    >>> settings = compressor.normalised([-20, 4, 0.005, 0.02])
    >>> quieter = compressor.process(loud, settings)[-1]
    >>> round(20 * math.log10(quieter), 3), round(-20 + (20 * math.log10(0.5) + 20) / 4, 3)
    (-16.505, -16.505)
    """

    RANGES: ClassVar = {"threshold": (-30.0, 0.0), "ratio": (1.0, 5.0), "attack": (1e-3, 4e-2), "release": (1e-3, 4e-2)}

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {name: {"gt": 0} for name in ("ratio", "attack", "release")}

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Compress each row."""
        # Levels and gains are natural logarithms, so that nothing is scaled back and forth; all is linear in them.
        threshold, ratio = values["threshold"] / _DB, values["ratio"]
        gain = np.abs(x)
        gain += gain.dtype.type(1e-8)
        np.log(gain, out=gain)
        gain -= threshold.astype(x.dtype)
        # Levels below -96 dB count as -96 dB, as published: it matters for thresholds below that alone.
        np.maximum(gain, np.maximum(-96 / _DB - threshold, 0).astype(x.dtype), out=gain)
        gain *= (1 / ratio - 1).astype(x.dtype)
        attack, release = (time_coefficient(values[name], self.sr)[:, 0] for name in ("attack", "release"))
        kernels().smooth(gain, attack, release, np.zeros(len(x)), gain)
        np.exp(gain, out=gain)
        gain *= x
        return gain


class SimpleCompressor(Effect):
    """A compressor with threshold (dB), ratio, and one time (samples) of attack and release.

    The envelope is the level in decibels behind a first-order Butterworth filter, which starts settled at the first
    sample's level.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        For some or all knobs, by name, other ends ``(low, high)``, or one number that fixes the knob. Default: [-30, 0]
        dB, [1, 5], and [10, 2048] samples, the paper's.
    inverse
        Whether networks learn to undo the effect; no by default.

    References
    ----------
    Hawley, Colburn and Mimilakis, arXiv:1905.11928, section 2.

    Examples
    --------
    >>> compressor = SimpleCompressor(44100)
    >>> y = compressor.process(np.full(100, 0.5), compressor.normalised([-20, 4, 64]))
    >>> round(20 * math.log10(y[-1]), 3)
    -16.505
    """

    RANGES: ClassVar = {"threshold": (-30.0, 0.0), "ratio": (1.0, 5.0), "attack_release": (10.0, 2048.0)}

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {"ratio": {"gt": 0}, "attack_release": {"gt": 1}}  # a filter at half the sample rate

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Compress each row."""
        level = 20 * np.log10(np.abs(x) + 1e-6)
        envelope = np.empty_like(level)
        for i, (samples,) in enumerate(values["attack_release"]):
            b, a = butter(1, 1 / samples)
            envelope[i] = lfilter(b, a, level[i], zi=lfilter_zi(b, a) * level[i, 0])[0]
        over = np.maximum(envelope - values["threshold"], 0)
        return x * 10 ** (over * (1 / values["ratio"] - 1) / 20)
