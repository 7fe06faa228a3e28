"""Effects that move sound: in pitch by a phase vocoder, and in time."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.signal import resample

from paperworks.audio.effects.base import Effect, Values
from paperworks.audio.effects.linear import drawn_by

_SIZE, _HOP = 1024, 256  # of the vocoder's frames


class PitchShift(Effect):
    """A shift of the pitch by steps of a twelfth of an octave, without change of the length.

    Sound is stretched by a phase vocoder and resampled back to its length.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        Other ends ``(low, high)`` for "steps", or one number that fixes it. Default: [-12, 12], the paper's.
    inverse
        Whether networks learn to undo the effect; no by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released code.

    Examples
    --------
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(16384) / 16384)
    >>> octave = PitchShift(16384).process(tone, [0.5])
    >>> abs(int(np.abs(np.fft.rfft(octave)).argmax()) - 880) <= 1
    True
    """

    RANGES: ClassVar = {"steps": (-12.0, 12.0)}

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {"steps": {"ge": -60, "le": 60}}  # five octaves, 32 times the length on the way

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Shift each row."""
        rates = 2 ** (values["steps"][:, 0] / 12)
        return np.stack([resample(_stretched(row, rate), row.size) for row, rate in zip(x, rates, strict=True)])


def _stretched(x: Float[np.ndarray, " n"], rate: float) -> Float[np.ndarray, " m"]:
    """Return sound of `rate` times the length at the same pitch.

    Bins around a peak keep their phases relative to it (Laroche and Dolson, 1999); else they would cancel.
    """
    window = np.hanning(_SIZE + 1)[:-1]
    padded = np.pad(x.astype(np.float64), (_SIZE, 2 * _SIZE))
    frames = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[::_HOP] * window)
    sizes, angles = np.abs(frames), np.angle(frames)
    places = np.arange(0, len(frames) - 1, 1 / rate)
    out, weight = np.zeros((2, _HOP * len(places) + _SIZE))
    advance = 2 * np.pi * _HOP * np.arange(_SIZE // 2 + 1) / _SIZE
    phase = angles[0]
    for i, place in enumerate(places):
        low = int(place)
        size = (1 - place + low) * sizes[low] + (place - low) * sizes[low + 1]
        inner = size[1:-1]
        peaks = 1 + np.flatnonzero((inner >= size[:-2]) & (inner >= size[2:]))
        if peaks.size:
            between = (peaks[1:] + peaks[:-1]) / 2
            nearest = peaks[np.searchsorted(between, np.arange(size.size))]
            phase = phase[nearest] + angles[low] - angles[low][nearest]
        part = slice(i * _HOP, i * _HOP + _SIZE)
        out[part] += np.fft.irfft(size * np.exp(1j * phase), _SIZE) * window
        weight[part] += window**2
        turn = angles[low + 1] - angles[low] - advance
        phase = phase + advance + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    start, length = round(_SIZE * rate), round(x.size * rate)
    return (out / np.maximum(weight, 1e-3))[start : start + length]


class TimeAlign(Effect):
    """A shift in time by a random share of the length, with silence for what moves in; networks learn to undo it.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        Other ends ``(low, high)`` for "strength", the largest share of the length, or one number that fixes it.
        Default: [0.001, 0.5], the paper's.
    inverse
        Whether networks learn to undo the effect; yes by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released code.

    Examples
    --------
    >>> heard, wanted = TimeAlign().pair(np.eye(1, 64, 32), [0.5], np.random.default_rng(0))
    >>> int(wanted.argmax()), int(heard.argmax())
    (32, 40)
    """

    RANGES: ClassVar = {"strength": (0.001, 0.5)}
    INVERSE: ClassVar = True
    RANDOM: ClassVar = True

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {"strength": {"ge": 0, "le": 1}}

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Shift each row."""
        random_state = drawn_by(random_state)
        y = np.zeros_like(x)
        n = x.shape[1]
        for row, into, (strength,) in zip(x, y, values["strength"], strict=True):
            shift = int(n * strength * random_state.uniform(-1, 1))
            into[max(shift, 0) : n + min(shift, 0)] = row[max(-shift, 0) : n - max(shift, 0)]
        return y
