"""Effects that are linear in the sound: echo, low-pass, and noise to be removed."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, sosfilt

from paperworks.audio.effects.base import Effect, Values


class Echo(Effect):
    """Echoes: the i-th comes after i delays (samples, fractions interpolated) with the i-th power of a ratio.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        For some or all knobs, by name, other ends ``(low, high)``, or one number that fixes the knob. Default: [100,
        1500] samples, [0.1, 0.9], and always 2 echoes, the paper's.
    inverse
        Whether networks learn to undo the effect; no by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released code.

    Examples
    --------
    >>> echo = Echo(44100, {"delay": 1.5, "ratio": 0.5})
    >>> echo.process(np.array([1.0, 0.0, 0.0, 0.0])).tolist()
    [1.0, 0.25, 0.25, 0.25]
    """

    RANGES: ClassVar = {"delay": (100.0, 1500.0), "ratio": (0.1, 0.9), "echoes": 2.0}

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {name: {"ge": 0} for name in ("delay", "echoes")}

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Add the echoes of each row."""
        y = x.copy()
        n = x.shape[1]
        for row, into, delay, ratio, echoes in zip(
            x, y, *(values[name][:, 0] for name in ("delay", "ratio", "echoes")), strict=True
        ):
            for i in range(1, round(float(echoes)) + 1):
                whole, part = divmod(i * delay, 1)
                for shift, share in ((int(whole), 1 - part), (int(whole) + 1, part)):
                    if shift < n:
                        into[shift:] += ratio**i * share * row[: n - shift]
        return y


class LowPass(Effect):
    """A Butterworth filter of order 3 whose cut-off (Hz) is the knob.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        Other ends ``(low, high)`` for "cutoff", or one number that fixes it. Default: [10, 2000] Hz, the paper's.
    inverse
        Whether networks learn to undo the effect; no by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released code.

    Examples
    --------
    >>> low = LowPass(8000, {"cutoff": 100.0})
    >>> bool(abs(low.process(np.ones(4000))[-1] - 1) < 1e-9)
    True
    """

    RANGES: ClassVar = {"cutoff": (10.0, 2000.0)}

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {"cutoff": {"gt": 0, "lt": self.sr / 2}}

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Filter each row."""
        return np.stack(
            [
                sosfilt(butter(3, float(f), fs=self.sr, output="sos"), row)
                for row, (f,) in zip(x, values["cutoff"], strict=True)
            ]
        )


class Denoise(Effect):
    """Uniform noise of a strength, which networks learn to take away.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        Other ends ``(low, high)`` for "strength", or one number that fixes it. Default: [0.01, 0.5], the paper's.
    inverse
        Whether networks learn to undo the effect; yes by default.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; the released code.

    Examples
    --------
    >>> heard, wanted = Denoise().pair(np.zeros(100), [0.5], np.random.default_rng(0))
    >>> bool(0.4 < abs(heard).max() <= 0.5), float(abs(wanted).max())
    (True, 0.0)
    """

    RANGES: ClassVar = {"strength": (0.01, 0.5)}
    INVERSE: ClassVar = True
    RANDOM: ClassVar = True

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return the bounds of values."""
        return {"strength": {"ge": 0}}

    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Add the noise."""
        return x + values["strength"] * drawn_by(random_state).uniform(-1, 1, x.shape)


def drawn_by(random_state: np.random.Generator | None) -> np.random.Generator:
    """Return the generator of an effect that draws, or raise where there is none."""
    if random_state is None:
        raise ValueError("random_state is None; this effect draws at random, and takes a numpy.random.Generator")
    return random_state
