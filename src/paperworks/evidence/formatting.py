"""How numbers, values and times are written, the same in terminal, Markdown and HTML."""

import math
from datetime import UTC, datetime

from paperworks.evidence.entry import Value


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


def value(value: Value, unit: str = "") -> str:
    """Write a value with its unit and its interval, where it has one that is more than a point.

    Examples
    --------
    >>> value(Value(3.0, 3.0, 3.0, "exact")), value(Value(0.25, 0.2, 0.31, "bootstrap"), "s")
    ('3', '0.25 s [0.2, 0.31]')
    """
    text = number(value.value) + (f" {unit}" if unit else "")
    spread = interval(value)
    point = value.low == value.high or not isinstance(value.low, float) or math.isnan(value.low)
    return text if point or not spread else f"{text} {spread}"


def interval(value: Value) -> str:
    """Write an interval, empty where there is none.

    Examples
    --------
    >>> interval(Value(1.0, 0.5, 2.0)), interval(Value(1.0)), interval(Value(1.0, float("-inf"), float("inf")))
    ('[0.5, 2]', '', '[-∞, ∞]')
    """
    if value.low is None or value.high is None:
        return ""
    ends = [number(end).replace("inf", "∞") for end in (value.low, value.high)]
    return f"[{', '.join(ends)}]"


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


def age(date: str, now: datetime | None = None) -> str:
    """Write how long ago something was measured, by its date in ISO 8601.

    Examples
    --------
    >>> age("2026-11-06T09:30:00Z", datetime(2026, 11, 8, 9, 30, tzinfo=UTC))
    '2 days ago'
    """
    days = ((now or datetime.now(UTC)) - datetime.fromisoformat(date)).days
    return "today" if days < 1 else "yesterday" if days == 1 else f"{days} days ago"
