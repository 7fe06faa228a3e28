"""Measured values with the interval that says how far chance moves them.

A claim's function returns one `Estimate` for each of its bars, made by the function that fits how the value came about:

============== ===================================================================================================
`exact`        nothing random stands behind the value: the same code gives it again
`mean`         the mean of independent values, one a seed or repetition: Student's t
`median`       their median: order statistics, exact for any distribution
`ratio`        the median ratio of paired times or errors: order statistics of the ratios
`difference`   the mean difference of paired values: Student's t
`every`        what has to hold for every seed by itself: from the least value to the greatest
`proportion`   a share of independent trials: Clopper and Pearson's interval
`bootstrap`    any statistic of independent values, paired where there are several: bootstrap percentiles
`normal`       a value with a known standard error
`greatest`     the greatest of several estimates, and `least` their least: all intervals at once
`magnitude`    the absolute value of an estimate
`statistic`    the statistic of a test whose critical value is the bar: chance is in the bar
============== ===================================================================================================
"""

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Interval = tuple[float, float]
UNBOUNDED: Interval = (-math.inf, math.inf)
_RESAMPLES = 4999
_LEAST_RESAMPLED = 6  # repetitions; fewer resemble one another too much to stand for what might have been drawn


@dataclass(frozen=True)
class Estimate:
    """A measured value and how its interval is found.

    Parameters
    ----------
    value
        The number, or truth value, that is shown.
    method
        How the interval is found, in words for a reader.
    interval
        Gives the two ends of the interval at a level of confidence.
    samples
        The values one by one (seeds, repetitions, rounds), as far as they are few enough to keep.
    varies
        Whether the samples have to differ, since chance stands behind them.
    """

    value: float | bool
    method: str
    interval: Callable[[float], Interval] = field(compare=False, repr=False)
    samples: tuple[float, ...] = ()
    varies: bool = False

    def __post_init__(self) -> None:
        if self.varies and len(self.samples) > 2 and len(set(self.samples)) == 1:
            raise ValueError(
                f"samples are {len(self.samples)} times {self.samples[0]!r}, where chance should make them differ; "
                "a value that depends on no seed is `exact`, one that has to hold for each seed is `every`"
            )


def exact(value: float | bool) -> Estimate:
    """Return a value that nothing random stands behind.

    Returns
    -------
    Estimate
        The value, whose interval is itself at any level.

    Examples
    --------
    >>> exact(3.02).interval(0.95)
    (3.02, 3.02)
    """
    value = _scalar("value", value)
    number = float(value)
    return Estimate(value, "exact", lambda level: (number, number))


def mean(samples: Collection[float], of: str = "seeds") -> Estimate:
    """Return the mean of independent values with Student's interval; a single value has none.

    Parameters
    ----------
    samples
        Independent values, one for each seed or repetition.
    of
        What the samples are, in the plural.

    Returns
    -------
    Estimate
        The mean in the unit of the samples, with its interval.

    Examples
    --------
    >>> low, high = mean([1.0, 2.0, 3.0]).interval(0.95)
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    values = _samples(samples)
    count, centre = len(values), math.fsum(values) / len(values)

    def interval(level: float) -> Interval:
        if count < 2:
            return UNBOUNDED
        from scipy.special import stdtrit

        deviation = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (count - 1))
        half = float(stdtrit(count - 1, 0.5 + level / 2)) * deviation / math.sqrt(count)
        return centre - half, centre + half

    return Estimate(centre, f"Student's t over {count} {of}", interval, values, varies=True)


def median(samples: Collection[float], of: str = "seeds") -> Estimate:
    """Return the median of independent values with the interval of their order statistics.

    The interval is right for every distribution; five values or fewer have none at 95 %.

    Parameters
    ----------
    samples
        Independent values, one for each seed or repetition.
    of
        What the samples are, in the plural.

    Returns
    -------
    Estimate
        The median in the unit of the samples, with its interval.

    Examples
    --------
    >>> median(range(11)).interval(0.95)
    (1.0, 9.0)
    >>> median([1.0, 2.0, 4.0]).interval(0.95)
    (-inf, inf)
    """
    values = _samples(samples)
    ordered, count = sorted(values), len(values)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2

    def interval(level: float) -> Interval:
        from scipy.special import bdtr

        # The median lies between the k-th least and the k-th greatest value but for 2 P(Binomial(n, 1/2) < k).
        kept = [k for k in range(1, count // 2 + 1) if 2 * float(bdtr(k - 1, count, 0.5)) <= 1 - level]
        return (ordered[kept[-1] - 1], ordered[count - kept[-1]]) if kept else UNBOUNDED

    return Estimate(middle, f"order statistics of {count} {of}", interval, values, varies=True)


def ratio(ours: Collection[float], theirs: Collection[float], of: str = "paired rounds") -> Estimate:
    """Return the median of ours / theirs over pairs, with the interval of the order statistics.

    Parameters
    ----------
    ours, theirs
        Paired values, as many of both.
    of
        What the pairs are, in the plural.

    Returns
    -------
    Estimate
        The median ratio, without unit, with its interval.

    Examples
    --------
    >>> ratio([1.0, 2.1, 3.0], [2.0, 4.0, 6.3]).value
    0.5
    """
    pairs = _pairs(ours, theirs)
    return median([_quotient(a, b) for a, b in pairs], of)


def difference(ours: Collection[float], theirs: Collection[float], of: str = "paired seeds") -> Estimate:
    """Return the mean of ours - theirs over pairs, with Student's interval.

    Parameters
    ----------
    ours, theirs
        Paired values, as many of both.
    of
        What the pairs are, in the plural.

    Returns
    -------
    Estimate
        The mean difference in the unit of the values, with its interval.

    Examples
    --------
    >>> difference([1.0, 2.0, 3.5], [0.5, 1.0, 2.0]).value
    1.0
    """
    return mean([a - b for a, b in _pairs(ours, theirs)], of)


def every(samples: Collection[float | bool], of: str = "seeds") -> Estimate:
    """Return what has to hold for each seed by itself: the mean, and the interval from the least to the greatest.

    Truth values hold where all are true.

    Parameters
    ----------
    samples
        One number or truth value for each seed.
    of
        What the samples are, in the plural.

    Returns
    -------
    Estimate
        The mean, or whether all are true, with the range as interval.

    Examples
    --------
    >>> every([0.0, 0.0, 1e-9]).interval(0.95)
    (0.0, 1e-09)
    >>> every([True, True]).value
    True
    """
    items = [_scalar("samples", s) for s in samples]
    truth = bool(items) and all(isinstance(s, bool) for s in items)
    values = _samples([float(s) for s in items])
    value = all(values) if truth else math.fsum(values) / len(values)
    return Estimate(value, f"range of {len(values)} {of}", lambda level: (min(values), max(values)), values)


def proportion(successes: int, trials: int, of: str = "trials") -> Estimate:
    """Return a share of independent trials with Clopper and Pearson's interval.

    Parameters
    ----------
    successes
        How many trials succeeded.
    trials
        How many there were.
    of
        What the trials are, in the plural.

    Returns
    -------
    Estimate
        The share, 0 to 1, with its interval.

    Examples
    --------
    >>> low, high = proportion(0, 100).interval(0.95)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    successes, trials = int(successes), int(trials)
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"successes is {successes} of {trials} trials; it takes 0 to all of at least one trial")

    def interval(level: float) -> Interval:
        from scipy.special import betaincinv

        tail, misses = (1 - level) / 2, trials - successes
        low = float(betaincinv(successes, misses + 1, tail)) if successes else 0.0
        high = float(betaincinv(successes + 1, misses, 1 - tail)) if misses else 1.0
        return low, high

    return Estimate(successes / trials, f"Clopper-Pearson, {trials} {of}", interval)


def bootstrap(statistic: Callable[..., Any], *samples: Collection[Any], of: str = "repetitions") -> Estimate:
    """Return a statistic of independent repetitions with the percentiles of 4,999 resamplings, the same each time.

    Fewer than six repetitions have no interval.

    Parameters
    ----------
    statistic
        Takes arrays whose first axis runs over repetitions and returns one number.
    samples
        One array, or several whose entries belong together and are drawn together.
    of
        What the repetitions are.

    Returns
    -------
    Estimate
        The statistic of all repetitions with the percentiles as interval.

    Examples
    --------
    >>> import numpy as np
    >>> found = bootstrap(lambda a, b: a.mean() / b.mean(), [1.0, 1.2, 1.1], [2.0, 2.2, 2.4])
    >>> round(found.value, 3), found.interval(0.95)
    (0.5, (-inf, inf))
    """
    import numpy as np

    arrays = [np.asarray(s, dtype=float) for s in samples]
    count = len(arrays[0]) if arrays else 0
    if not count or any(len(a) != count for a in arrays):
        raise ValueError(f"samples have lengths {[len(a) for a in arrays]}; they take one length of at least 1")

    def interval(level: float) -> Interval:
        if count < _LEAST_RESAMPLED:
            return UNBOUNDED
        rng = np.random.default_rng(0)
        draws = np.array([drawn(rows) for rows in rng.integers(count, size=(_RESAMPLES, count))])
        low, high = np.quantile(draws[~np.isnan(draws)], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def drawn(rows: Any) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):  # a few draws of one repetition alone have no spread
            try:
                return float(statistic(*(a[rows] for a in arrays)))
            except ZeroDivisionError:
                return math.nan

    kept = tuple(arrays[0].tolist()) if len(arrays) == 1 and arrays[0].ndim == 1 and count <= _KEPT else ()
    return Estimate(float(statistic(*arrays)), f"bootstrap of {count} {of}", interval, kept, varies=bool(kept))


def normal(value: float, standard_error: float, of: str = "") -> Estimate:
    """Return a value whose standard error is known; `of` says what it was estimated from.

    Parameters
    ----------
    value
        The number that was estimated.
    standard_error
        Its standard deviation, in the same unit.
    of
        What it was estimated from, in words.

    Returns
    -------
    Estimate
        The value with the interval of a normal distribution.

    Examples
    --------
    >>> low, high = normal(1.0, 0.1).interval(0.95)
    >>> round(low, 3), round(high, 3)
    (0.804, 1.196)
    """
    value, error = float(value), float(standard_error)
    if not error >= 0:
        raise ValueError(f"standard_error is {standard_error!r}; it takes a number >= 0")

    def interval(level: float) -> Interval:
        from scipy.special import ndtri

        half = float(ndtri(0.5 + level / 2)) * error
        return value - half, value + half

    return Estimate(value, f"normal, {of}" if of else "normal", interval)


def greatest(estimates: Iterable[Estimate]) -> Estimate:
    """Return the greatest of several estimates; its interval holds for all of them at once (Bonferroni).

    Returns
    -------
    Estimate
        The greatest value with a simultaneous interval.

    Examples
    --------
    >>> greatest([exact(1.0), exact(3.0)]).interval(0.95)
    (3.0, 3.0)
    """
    return _extreme(estimates, max, "greatest")


def least(estimates: Iterable[Estimate]) -> Estimate:
    """Return the least of several estimates; its interval holds for all of them at once (Bonferroni).

    Returns
    -------
    Estimate
        The least value with a simultaneous interval.

    Examples
    --------
    >>> least([exact(1.0), exact(3.0)]).value
    1.0
    """
    return _extreme(estimates, min, "least")


def magnitude(estimate: Estimate) -> Estimate:
    """Return the absolute value of an estimate.

    Returns
    -------
    Estimate
        The absolute value; its interval begins at 0 where the estimate's contains it.

    Examples
    --------
    >>> magnitude(normal(-0.1, 1.0)).interval(0.95)[0]
    0.0
    """

    def interval(level: float) -> Interval:
        low, high = estimate.interval(level)
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))

    return Estimate(abs(estimate.value), estimate.method, interval)


def statistic(value: float, test: str) -> Estimate:
    """Return the statistic of a test; the bar is its critical value, in which chance is reckoned with.

    Returns
    -------
    Estimate
        The statistic, whose interval is itself at any level.

    Examples
    --------
    >>> statistic(1.3, "largest of ten z-scores").interval(0.95)
    (1.3, 1.3)
    """
    number = float(value)
    return Estimate(number, f"statistic of a test: {test}", lambda level: (number, number))


def _extreme(estimates: Iterable[Estimate], choose: Callable[..., Any], name: str) -> Estimate:
    found = list(estimates)
    if not found:
        raise ValueError("estimates: got none; it takes at least one")

    def interval(level: float) -> Interval:
        each = [estimate.interval(1 - (1 - level) / len(found)) for estimate in found]
        return choose(low for low, _ in each), choose(high for _, high in each)

    methods = ", ".join(dict.fromkeys(estimate.method for estimate in found))
    method = "exact" if methods == "exact" else f"{name} of {len(found)}: {methods}"
    return Estimate(choose(float(estimate.value) for estimate in found), method, interval)


_KEPT = 1000


def _samples(samples: Collection[float]) -> tuple[float, ...]:
    values = tuple(float(v) for v in samples)
    if not values:
        raise ValueError("samples: got no values; it takes at least one")
    return values


def _pairs(ours: Collection[float], theirs: Collection[float]) -> list[tuple[float, float]]:
    if len(ours) != len(theirs):
        raise ValueError(f"ours has {len(ours)} values and theirs {len(theirs)}; pairs take as many of both")
    return [(float(a), float(b)) for a, b in zip(ours, theirs, strict=True)]


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.nan if not a else math.inf


def _scalar(name: str, value: Any) -> float | bool:
    """Turn a NumPy scalar or a tensor of one element into Python's own number."""
    with suppress(AttributeError, ValueError, RuntimeError):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{name} is {value!r}; it takes a number or a truth value")
    return value
