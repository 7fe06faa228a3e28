"""Noise for privacy: exact discrete laws, with bits of the operating system's cryptographic source or of a seed."""

import math
import os
from typing import Literal

import numpy as np

from paperworks.inference.privacy.sampling import LARGEST_SCALE, Law, choose, draw

_AT_ONCE = 256  # draws that are made together where few are asked for


class Noise:
    """Whole numbers of noise, in steps of the grid on which the values lie.

    Their laws are the discrete Laplace and Gaussian ones, drawn exactly. On values that are whole numbers of steps they
    give what the continuous laws promise: ``D / scale`` of pure differential privacy for a sensitivity of D steps, and
    ``D^2 / (2 std^2)`` of zCDP. Nothing is rounded afterwards, so that no answer tells more than that.

    Parameters
    ----------
    random_state
        None for the operating system's cryptographic source. A generator is for tests and simulations only: whoever
        knows its state takes the noise off.

    Raises
    ------
    TypeError
        Where `random_state` is neither.

    References
    ----------
    Canonne, Kamath and Steinke, arXiv 2004.00010, theorem 4 and section 5.

    Examples
    --------
    >>> noise = Noise().gaussian(1e9, 5)
    >>> noise.dtype, noise.shape
    (dtype('int64'), (5,))
    """

    def __init__(self, random_state: np.random.Generator | None = None) -> None:
        if random_state is not None and not isinstance(random_state, np.random.Generator):
            raise TypeError(
                f"random_state is {random_state!r}; it takes a numpy.random.Generator for tests, "
                "or None for the cryptographic source"
            )
        self._rng = random_state
        self._ready: dict[Law, np.ndarray] = {}

    def gaussian(self, std: float, size: int | tuple[int, ...]) -> np.ndarray:
        """Draw Gaussian noise of this standard deviation, in steps; of size 0 it only checks the deviation.

        Returns
        -------
        ndarray
            Integers of this size.

        Raises
        ------
        ValueError
            For a deviation that is negative or above 2^50 steps.
        """
        return self._drawn("gaussian", std, size)

    def laplace(self, scale: float, size: int | tuple[int, ...]) -> np.ndarray:
        """Draw Laplace noise of this scale, in steps; of size 0 it only checks the scale.

        Returns
        -------
        ndarray
            Integers of this size.

        Raises
        ------
        ValueError
            For a scale that is negative or above 2^50 steps.
        """
        return self._drawn("laplace", scale, size)

    def choose(self, rate: float, scores: np.ndarray) -> np.ndarray:
        """Draw an index of each row of whole scores (rows, n) with weights ``exp(rate scores)``.

        Returns
        -------
        ndarray
            One index a row: the exponential mechanism, exactly.
        """
        gaps = scores.max(axis=1, keepdims=True) - scores
        return gaps.argmin(axis=1) if rate == math.inf else choose(rate, gaps, self._words)

    def _drawn(self, kind: Literal["gaussian", "laplace"], scale: float, size: int | tuple[int, ...]) -> np.ndarray:
        if not 0 <= scale <= LARGEST_SCALE:
            raise ValueError(
                f"the noise's scale is {scale:g} steps of the grid; it takes 0 to 2^50: "
                "a coarser granularity or a larger budget"
            )
        count = math.prod(size) if isinstance(size, tuple) else size
        if scale == 0:
            return np.zeros(size, dtype=np.int64)
        law = Law(kind, float(scale))
        if count > _AT_ONCE // 2:
            return draw(law, count, self._words).reshape(size)
        ready = self._ready.get(law, np.empty(0, dtype=np.int64))
        if len(ready) < count:
            ready = draw(law, _AT_ONCE, self._words)
        self._ready[law] = ready[count:]
        return ready[:count].reshape(size)

    def _words(self, count: int) -> np.ndarray:
        if self._rng is None:
            return np.frombuffer(os.urandom(8 * count), np.uint64)
        return self._rng.integers(0, 2**64, count, dtype=np.uint64)
