"""The bar of a claim: the condition on a measured value that decides whether the claim holds."""

import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

_COMPARISONS = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_COMPARISON = re.compile(rf"(>=|>|<=|<|==)\s*{_NUMBER}")
_BETWEEN = re.compile(rf"between\s+{_NUMBER}\s+and\s+{_NUMBER}")


@dataclass(frozen=True)
class Bar:
    """A condition on one number (or truth value), parsed from its text.

    The grammar: `>= x`, `> x`, `<= x`, `< x`, `== x`, `between a and b` (both ends included), `true`.

    Parameters
    ----------
    text
        The bar as the record writes it.
    comparison
        One of ``>=``, ``>``, ``<=``, ``<``, ``==``, ``between`` and ``true``.
    low, high
        The two ends that ``between`` takes; for the other comparisons both are the one number, for ``true`` 1.

    Examples
    --------
    >>> Bar.parse("between 0.95 and 1.1").holds(1.02)
    True
    >>> Bar.parse(">= 2.8").holds(float("nan"))
    False
    """

    text: str
    comparison: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> "Bar":
        """Parse a bar; raise ValueError where the text is not of the grammar.

        Returns
        -------
        Bar
            The bar that the text states.
        """
        stripped = text.strip()
        if stripped == "true":
            return cls(stripped, "true", 1.0, 1.0)
        if match := _COMPARISON.fullmatch(stripped):
            value = float(match[2])
            return cls(stripped, match[1], value, value)
        if match := _BETWEEN.fullmatch(stripped):
            low, high = float(match[1]), float(match[2])
            if low > high:
                raise ValueError(f"bar {text!r}: the lower end {low:g} is above the upper end {high:g}")
            return cls(stripped, "between", low, high)
        raise ValueError(
            f"bar {text!r} does not parse; a bar is '>= x', '> x', '<= x', '< x', '== x', 'between a and b' or 'true'"
        )

    def holds(self, value: float | bool) -> bool:
        """Tell whether the value clears the bar; NaN never does.

        Returns
        -------
        bool
            Whether this one number clears the bar.
        """
        if self.comparison == "true":
            return value is True or value == 1
        number = float(value)
        if math.isnan(number):
            return False
        if self.comparison == "between":
            return self.low <= number <= self.high
        return bool(_COMPARISONS[self.comparison](number, self.low))

    def decide(self, low: float, high: float) -> bool | None:
        """Tell whether all values of an interval clear the bar (True), none does (False), or it is open (None).

        Parameters
        ----------
        low, high
            Ends of the interval of the measured value.

        Returns
        -------
        bool | None
            True, False, or None where the interval stands on both sides of the bar.

        Examples
        --------
        >>> bar = Bar.parse(">= 2.8")
        >>> bar.decide(2.9, 3.1), bar.decide(2.5, 2.7), bar.decide(2.7, 2.9)
        (True, False, None)
        """
        if math.isnan(low) or math.isnan(high):
            return False
        least, greatest = self.low, self.high
        if self.comparison in ("==", "between", "true"):
            if least <= low and high <= greatest:
                return True
            return False if high < least or low > greatest else None
        ends = self.holds(low), self.holds(high)
        return ends[0] if ends[0] == ends[1] else None

    def decide_each(self, samples: Iterable[float]) -> bool:
        """Tell whether every sample clears the bar by itself: one that doesn't is no matter of chance.

        Parameters
        ----------
        samples
            Values of which each has to hold.

        Returns
        -------
        bool
            Whether all of them do.
        """
        return all(self.holds(sample) for sample in samples)

    def __str__(self) -> str:
        return self.text
