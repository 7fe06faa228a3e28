"""How numbers, values and bars are written, the same in terminal, Markdown and HTML."""

import math
from collections.abc import Mapping

from paperworks.evidence.bars import Bar
from paperworks.evidence.entry import Entry
from paperworks.evidence.measurement import SINGLE


def number(value: float | bool) -> str:
    """Write a number to four significant digits, a truth value as yes or no.

    Examples
    --------
    >>> number(3.14159), number(1e-9), number(True), number(12345.6)
    ('3.142', '1e-09', 'yes', '12346')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if math.isfinite(value) and 1000 <= abs(value) < 1e6:
        return f"{value:.0f}" if abs(value) >= 10_000 or value == int(value) else f"{value:.1f}"
    return f"{value:.4g}"


def measured(entry: Entry | None) -> list[str]:
    """Write an entry's values, one line for each: the value, its unit and the interval of its mean over seeds."""
    return [] if entry is None else [_named(name, measured_value(entry, name)) for name in entry.values]


def measured_value(entry: Entry, name: str = SINGLE) -> str:
    """Write one of an entry's values, with its unit and the interval of its mean over seeds."""
    return number(entry.values[name]) + (f" {entry.unit}" if entry.unit else "") + _spread(entry, name)


def bars(bars: Mapping[str, Bar]) -> list[str]:
    """Write a claim's bars, one line for each.

    Examples
    --------
    >>> bars({"order": Bar.parse(">= 2.8"), "exact": Bar.parse("true")})
    ['order: >= 2.8', 'exact: true']
    """
    return [_named(name, str(bar)) for name, bar in bars.items()]


def duration(seconds: float) -> str:
    """Write a duration.

    Examples
    --------
    >>> duration(0.034), duration(12.3), duration(200)
    ('0.03 s', '12.3 s', '3 min 20 s')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _named(name: str, text: str) -> str:
    return text if name == SINGLE else f"{name}: {text}"


def _spread(entry: Entry, name: str) -> str:
    """Write ± half the interval, with the mean where it isn't the value itself."""
    if name not in entry.interval:
        return ""
    low, high = entry.interval[name]
    mean, half = (low + high) / 2, (high - low) / 2
    spread = f"± {half:.2g}"
    if math.isclose(mean, float(entry.values[name]), rel_tol=1e-9, abs_tol=1e-12):
        return f" {spread}"
    return f" (mean {number(mean)} {spread})"
