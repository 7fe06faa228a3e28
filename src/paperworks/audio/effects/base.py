"""What every effect is: named knobs with ranges, and a function from sound and knobs to sound."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_number

Values = Mapping[str, Float[np.ndarray, "rows 1"]]
_SLACK = 1e-6  # how far beyond their ends knobs may be by rounding


class Effect(ABC):
    """An effect with knobs, the ground truth that a network learns.

    Knobs are normalised to [-1/2, 1/2], as networks see them, and stand for values from the low end to the high end of
    their range. A subclass gives `RANGES` and `_apply`, where values have natural ends `_bounds`, and where it draws at
    random `RANDOM`.

    Parameters
    ----------
    sr
        Samples in a second; 44100 by default, the paper's.
    ranges
        For some or all knobs, by name, other ends ``(low, high)``, or one number that fixes the knob, which is then
        none any more.
    inverse
        Whether networks learn to undo the effect: input and target of `pair` are swapped. Default: what is usual for
        the effect.

    Raises
    ------
    ValueError
        For a sample rate that isn't positive, an unknown knob, ends that aren't in order, or what the effect can't do.

    References
    ----------
    Mitchell and Hawley, arXiv:2006.05584; Hawley, Colburn and Mimilakis, arXiv:1905.11928, section 2.
    """

    RANGES: ClassVar[Mapping[str, tuple[float, float] | float]]
    INVERSE: ClassVar[bool] = False
    RANDOM: ClassVar[bool] = False

    def __init__(
        self,
        sr: float = 44100,
        ranges: Mapping[str, Sequence[float] | float] | None = None,
        *,
        inverse: bool | None = None,
    ) -> None:
        self.sr = check_number("sr", sr, gt=0)
        self.inverse = self.INVERSE if inverse is None else inverse
        if unknown := set(ranges or {}) - set(self.RANGES):
            raise ValueError(f"ranges has {sorted(unknown)}; it takes {list(self.RANGES)}")
        self.ranges: dict[str, tuple[float, float]] = {}
        self.fixed: dict[str, float] = {}
        bounds = self._bounds()
        for name, ends in {**self.RANGES, **(ranges or {})}.items():
            own = bounds.get(name, {})
            if not isinstance(ends, tuple | list):
                self.fixed[name] = check_number(f"ranges[{name!r}]", ends, **own)
                continue
            numbers = [check_number(f"ranges[{name!r}]", end, **own) for end in ends]
            if len(numbers) != 2 or not numbers[0] < numbers[1]:
                raise ValueError(f"ranges[{name!r}] is {ends}; it takes (low, high) with low < high")
            self.ranges[name] = numbers[0], numbers[1]

    def _bounds(self) -> Mapping[str, dict[str, float]]:
        """Return by name the bounds of values that the effect can do, as `check_number` takes them."""
        return {}

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names of the knobs that can be turned, in the order of their values."""
        return tuple(self.ranges)

    def values(self, knobs: Any) -> Float[np.ndarray, "*batch knobs"]:
        """Return what normalised knobs stand for.

        Parameters
        ----------
        knobs
            Normalised positions from -1/2 to 1/2, in the last axis one for each knob.

        Returns
        -------
        ndarray
            Values in the units of each knob, in double precision.

        Raises
        ------
        ValueError
            For another number of knobs, and for positions outside [-1/2, 1/2] by more than rounding.
        """
        k = np.asarray(knobs, dtype=np.float64)
        if k.ndim == 0 or k.shape[-1] != len(self.ranges):
            raise ValueError(
                f"knobs has shape {k.shape}; it takes {len(self.ranges)} in the last axis: {', '.join(self.ranges)}"
            )
        if not (np.abs(k) <= 0.5 + _SLACK).all():  # NaN too
            raise ValueError(f"knobs go from {k.min():g} to {k.max():g}; they take positions from -0.5 to 0.5")
        low, high = np.array(list(self.ranges.values())).reshape(-1, 2).T
        return low + (k.clip(-0.5, 0.5) + 0.5) * (high - low)

    def normalised(self, values: Any) -> Float[np.ndarray, "*batch knobs"]:
        """Return the positions from -1/2 to 1/2 of knobs that stand for values.

        Parameters
        ----------
        values
            Values in the units of each knob, in the last axis one for each.

        Returns
        -------
        ndarray
            Positions of the knobs, in double precision.

        Raises
        ------
        ValueError
            For another number of values, and for values outside the ranges.
        """
        v = np.asarray(values, dtype=np.float64)
        if v.ndim == 0 or v.shape[-1] != len(self.ranges):
            raise ValueError(f"values has shape {v.shape}; it takes {len(self.ranges)} in the last axis")
        low, high = np.array(list(self.ranges.values())).reshape(-1, 2).T
        k = (v - low) / (high - low) - 0.5
        if not (np.abs(k) <= 0.5 + _SLACK).all():
            raise ValueError(f"values is {v.tolist()}; it takes values within {self.ranges}")
        return k.clip(-0.5, 0.5)

    def process(
        self, x: Float[np.ndarray, "*batch n"], knobs: Any = (), random_state: np.random.Generator | None = None
    ) -> Float[np.ndarray, "*batch n"]:
        """Apply the effect along the last axis, to each row alone.

        Parameters
        ----------
        x
            Sound, in single or double precision; channels are rows.
        knobs
            Normalised positions: one for each knob, or one set for each row.
        random_state
            Draws what is random in some effects.

        Returns
        -------
        ndarray
            The processed sound, of the shape and type of `x`.

        Raises
        ------
        TypeError
            For sound that is no array.
        ValueError
            For sound that is empty or not finite, knobs that don't fit, a random effect without `random_state`, and
            where the effect answers with another shape or samples that aren't finite.
        """
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x is a {type(x).__name__}; it takes a NumPy array of samples")
        if x.size == 0 or x.ndim == 0 or x.dtype not in (np.float32, np.float64):
            raise ValueError(f"x has shape {x.shape} and type {x.dtype}; it takes samples as float32 or float64")
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1])).view()
        rows.flags.writeable = False  # an effect that works in place would change the caller's
        if not np.isfinite(rows).all():
            raise ValueError(f"x has {np.count_nonzero(~np.isfinite(rows))} samples that are NaN or infinite")
        turned = self.values(knobs)
        try:
            turned = np.broadcast_to(turned, (*x.shape[:-1], turned.shape[-1])).reshape(len(rows), -1)
        except ValueError:
            raise ValueError(f"knobs has shape {turned.shape} for sound of shape {x.shape}") from None
        values = {name: turned[:, i : i + 1] for i, name in enumerate(self.ranges)}
        values |= {name: np.full((len(rows), 1), value) for name, value in self.fixed.items()}
        y = np.asarray(self._apply(rows, values, random_state))
        if y.shape != rows.shape or not np.isfinite(y).all():
            bad = f"samples of shape {y.shape}" if y.shape != rows.shape else "samples that are NaN or infinite"
            raise ValueError(f"{type(self).__name__} made {bad} of sound of shape {rows.shape}")
        return y.astype(x.dtype, copy=np.may_share_memory(y, x)).reshape(x.shape)

    def pair(
        self, x: Float[np.ndarray, "*batch n"], knobs: Any = (), random_state: np.random.Generator | None = None
    ) -> tuple[Float[np.ndarray, "*batch n"], Float[np.ndarray, "*batch n"]]:
        """Return what a network hears and what it should answer: swapped where the effect is to be undone.

        Parameters
        ----------
        x
            Sound, in single or double precision.
        knobs
            Normalised positions: one for each knob, or one set for each row.
        random_state
            Draws what is random in some effects.

        Returns
        -------
        tuple
            Input and target, each of the shape of `x`.
        """
        y = self.process(x, knobs, random_state)
        return (y, x) if self.inverse else (x, y)

    @abstractmethod
    def _apply(
        self, x: Float[np.ndarray, "rows n"], values: Values, random_state: np.random.Generator | None
    ) -> Float[np.ndarray, "rows n"]:
        """Process rows of finite sound.

        Parameters
        ----------
        x
            Rows of finite sound, not to be changed.
        values
            By the name of each knob, its value for each row.
        random_state
            Draws what is random, where the caller gave one.

        Returns
        -------
        ndarray
            The processed rows.
        """
