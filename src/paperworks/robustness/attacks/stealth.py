"""Whether an attack on observations would be noticed: tests that a monitor could run."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from paperworks.core.validation import check_count, check_number

Series = Float[np.ndarray, "steps features"]


@dataclass(frozen=True)
class FeatureTestResult:
    """A test of each feature.

    Parameters
    ----------
    statistic, pvalue
        Statistic and p-value of each feature.

    Examples
    --------
    >>> FeatureTestResult(np.array([0.5, 0.1]), np.array([0.01, 0.5])).adjusted
    array([0.02, 0.5 ])
    """

    statistic: Float[np.ndarray, " features"]
    pvalue: Float[np.ndarray, " features"]

    @property
    def adjusted(self) -> Float[np.ndarray, " features"]:
        """P-values after Holm's correction, for all features to be tested together."""
        return holm(self.pvalue)


@dataclass(frozen=True)
class TwoSampleResult:
    """A test of two samples, with the statistic under permutations.

    Parameters
    ----------
    statistic, pvalue
        Statistic and p-value of the test.
    null
        Statistics of the permuted samples.

    Examples
    --------
    >>> TwoSampleResult(0.5, 0.01, np.zeros(99)).pvalue
    0.01
    """

    __test__ = False

    statistic: float
    pvalue: float
    null: Float[np.ndarray, " permutations"]


def holm(pvalues: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return p-values adjusted so that all may be compared with one level (Holm, 1979).

    Parameters
    ----------
    pvalues
        Several p-values, of shape (n,).

    Returns
    -------
    ndarray of shape (n,)
        Adjusted p-values in the order given.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(pvalues)
    stepped = np.maximum.accumulate(pvalues[order] * np.arange(len(pvalues), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def ks_test(x: Series, y: Float[np.ndarray, "others features"]) -> FeatureTestResult:
    """Test of each feature whether two samples have one distribution, by Kolmogorov and Smirnov.

    Parameters
    ----------
    x
        Values of one sample, of shape (steps, features).
    y
        Values of the other sample, of shape (others, features).

    Returns
    -------
    FeatureTestResult
        One statistic and one p-value for each feature.

    Raises
    ------
    ValueError
        For samples of different features, fewer than two rows, NaN or infinity.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> result = ks_test(x[:250], x[250:] + [0.0, 1.0])
    >>> result.adjusted < 0.05
    array([False,  True])
    """
    _check(x, y)
    found = [stats.ks_2samp(a, b) for a, b in zip(x.T, y.T, strict=True)]
    return FeatureTestResult(
        np.array([float(one.statistic) for one in found]), np.array([float(one.pvalue) for one in found])
    )


def change_test(x: Series, y: Float[np.ndarray, "others features"]) -> FeatureTestResult:
    """Test of each feature whether its changes from step to step have one distribution, ``|o_t - o_{t-1}|``.

    Parameters
    ----------
    x
        Hourly values of one series, of shape (steps, features).
    y
        Hourly values of the other series, of shape (others, features).

    Returns
    -------
    FeatureTestResult
        One statistic and one p-value for each feature.

    Raises
    ------
    ValueError
        For series of different features, fewer than three steps, NaN or infinity.

    Examples
    --------
    >>> smooth = np.linspace(0, 1, 300)[:, None]
    >>> result = change_test(smooth, smooth + 0.05 * np.random.default_rng(0).normal(size=(300, 1)))
    >>> result.pvalue < 0.001
    array([ True])
    """
    _check(x, y, at_least=3)
    return ks_test(np.abs(np.diff(x, axis=0)), np.abs(np.diff(y, axis=0)))


def mmd_test(
    x: Float[np.ndarray, "n features"],
    y: Float[np.ndarray, "m features"],
    permutations: int = 1000,
    bandwidth: float | None = None,
    random_state: int = 0,
) -> TwoSampleResult:
    """Test whether two samples have one distribution, by the unbiased squared maximum mean discrepancy.

    Samples are exchanged at random for the p-value, which holds where they are independent: days don't overlap, see
    `daily_samples`.

    Parameters
    ----------
    x, y
        Samples in rows, of shapes (n, features) and (m, features).
    permutations
        Number of exchanges.
    bandwidth
        Width of the kernel ``exp(-|a - b|^2 / (2 h^2))``; the median distance of all samples by default.
    random_state
        Seed of the exchanges.

    Returns
    -------
    TwoSampleResult
        The statistic with its p-value.

    Raises
    ------
    ValueError
        For samples of different features or fewer than two, NaN or infinity, or options out of range.

    Notes
    -----
    Gretton and others, "A kernel two-sample test" (2012), lemma 6.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(100, 3))
    >>> mmd_test(x[:50], x[50:]).pvalue > 0.05, round(mmd_test(x[:50], x[50:] + 1).pvalue, 3)
    (True, 0.001)
    """
    _check(x, y)
    check_count("permutations", permutations)
    n, m = len(x), len(y)
    both = np.vstack([x, y])
    squares = (both**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0)
    if bandwidth is None:
        middle = float(np.median(distances[np.triu_indices(n + m, 1)]))
        bandwidth = math.sqrt(middle) if middle > 0 else 1.0
    kernel = np.exp(-distances / (2 * check_number("bandwidth", bandwidth, gt=0) ** 2))
    np.fill_diagonal(kernel, 0)
    labels = np.zeros((permutations + 1, n + m))
    labels[:, :n] = 1
    labels[1:] = np.random.default_rng(random_state).permuted(labels[1:], axis=1)
    to_first = labels @ kernel
    within_first = (to_first * labels).sum(1)
    across = (to_first * (1 - labels)).sum(1)
    within_second = kernel.sum() - within_first - 2 * across
    found = within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)
    statistic, null = float(found[0]), found[1:]
    # Up to rounding, so that a permutation that changes nothing counts.
    reached = int((null >= statistic - 1e-12).sum())
    return TwoSampleResult(statistic, (1 + reached) / (1 + permutations), null)


def daily_samples(
    series: Series, days: int | None = None, hours: int = 24, random_state: int = 0
) -> Float[np.ndarray, "days day"]:
    """Return random days of an hourly series as rows, each at most once: (days, hours * features).

    Parameters
    ----------
    series
        Hourly values, of shape (steps, features).
    days
        How many; all in their order by default.
    hours
        Number of hours of a day.
    random_state
        Seed of the choice.

    Returns
    -------
    ndarray of shape (days, day)
        One day in each row, in the unit of the series.

    Raises
    ------
    ValueError
        For more days than there are, a series of another number of dimensions, NaN or infinity.

    Examples
    --------
    >>> daily_samples(np.arange(72.0)[:, None], 2).shape
    (2, 24)
    """
    _check_series("series", series, 1)
    check_count("hours", hours)
    whole = len(series) // hours
    rows = series[: whole * hours].reshape(whole, hours * series.shape[1])
    if days is None:
        return rows
    check_count("days", days, at_most=whole)
    return rows[np.random.default_rng(random_state).permutation(whole)[:days]]


def zscore_outliers(
    series: Series, window: int | None = None, threshold: float = 3.0, warm_up: int = 24
) -> Bool[np.ndarray, "steps features"]:
    """Say which values are many standard deviations from the mean of those before.

    Parameters
    ----------
    series
        Values in time.
    window
        How many before; all by default.
    threshold
        Number of standard deviations.
    warm_up
        First values, of which none is an outlier.

    Returns
    -------
    ndarray of shape (steps, features)
        True for each value that is an outlier.

    Raises
    ------
    ValueError
        For options out of range, a series of another number of dimensions, NaN or infinity.

    Examples
    --------
    >>> values = np.sin(np.arange(100.0))[:, None]
    >>> values[60] = 9
    >>> zscore_outliers(values).nonzero()[0], zscore_outliers(values, window=30).nonzero()[0]
    (array([60]), array([60]))
    """
    _check_series("series", series, 1)
    check_number("threshold", threshold, gt=0)
    check_count("warm_up", warm_up, at_least=2)
    steps = len(series)
    window = steps if window is None else check_count("window", window, at_least=2)
    # Sums of values less their mean, so that their squares don't cancel.
    centred = series - series.mean(0)
    first, second = (np.vstack([np.zeros((1, series.shape[1])), np.cumsum(v, axis=0)]) for v in (centred, centred**2))
    at = np.arange(steps)
    since = np.maximum(at - window, 0)
    count = np.maximum(at - since, 1)[:, None]
    mean = (first[at] - first[since]) / count
    spread = np.sqrt(np.maximum((second[at] - second[since]) / count - mean**2, 0))
    found = np.abs(centred - mean) > threshold * np.maximum(spread, 1e-12)
    found[:warm_up] = False
    return found


def ljung_box(series: Series, lags: int = 24) -> FeatureTestResult:
    """Test of each feature whether its values follow each other without correlation.

    ``Q = n (n + 2) sum_k r_k^2 / (n - k)``, by chi-squared with as many degrees as lags (Ljung and Box, 1978).

    Parameters
    ----------
    series
        Values step by step, of shape (steps, features).
    lags
        How many lags are tested at once.

    Returns
    -------
    FeatureTestResult
        One statistic and one p-value for each feature.

    Raises
    ------
    ValueError
        For as many lags as steps or more, a series of another number of dimensions, NaN or infinity.

    Examples
    --------
    >>> white = np.random.default_rng(0).normal(size=(500, 1))
    >>> ljung_box(white).pvalue > 0.05, ljung_box(np.cumsum(white, axis=0)).pvalue < 1e-6
    (array([ True]), array([ True]))
    """
    _check_series("series", series, 2)
    n = len(series)
    check_count("lags", lags, at_most=n - 1)
    centred = series - series.mean(0)
    power = np.maximum((centred**2).sum(0), 1e-300)
    terms = [((centred[k:] * centred[:-k]).sum(0) / power) ** 2 / (n - k) for k in range(1, lags + 1)]
    statistic = n * (n + 2) * np.sum(terms, axis=0)
    return FeatureTestResult(statistic, stats.chi2.sf(statistic, lags))


def detection_rate(
    pvalues: Iterable[float] | Callable[[int], float], alpha: float = 0.05, n_repeats: int = 100
) -> float:
    """Return the share of repeats in which a test sounds an alarm: power under attack, false alarms without one.

    Parameters
    ----------
    pvalues
        The p-values of all repeats, or a function from the number of a repeat to its p-value.
    alpha
        Significance level, at or below which there is an alarm.
    n_repeats
        How many p-values to ask of a function; unused where they are given.

    Returns
    -------
    float
        A share from 0 to 1.

    Raises
    ------
    ValueError
        For an `alpha` outside (0, 1), or no p-values.

    Examples
    --------
    >>> detection_rate([0.01, 0.2, 0.05, 0.9])
    0.5
    """
    check_number("alpha", alpha, gt=0, lt=1)
    values = np.array([pvalues(k) for k in range(n_repeats)] if callable(pvalues) else list(pvalues))
    if not len(values):
        raise ValueError("pvalues is empty; it takes one or more")
    return float((values <= alpha).mean())


def _check(x: np.ndarray, y: np.ndarray, at_least: int = 2) -> None:
    _check_series("x", x, at_least)
    _check_series("y", y, at_least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; they take rows of the same features")


def _check_series(name: str, values: np.ndarray, at_least: int) -> None:
    if values.ndim != 2 or len(values) < at_least:
        raise ValueError(f"{name} has shape {values.shape}; it takes {at_least} rows or more, (steps, features)")
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{name} has {bad} NaN or infinite elements of {values.size}; it takes finite numbers")
