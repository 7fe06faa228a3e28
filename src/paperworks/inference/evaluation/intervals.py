"""Confidence intervals of an accuracy, or of a mean loss, from one held-out test set."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.evaluation.checks import finite_vector, power_of_two

IntervalMethod = Literal["normal", "normal-corrected", "wilson", "clopper-pearson"]


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval; arrays where several were asked for at once.

    Parameters
    ----------
    low
        Lower end, a number or an array.
    high
        Upper end, a number or an array.

    Examples
    --------
    >>> Interval(0.8, 0.9).low
    0.8
    """

    low: Any
    high: Any


def accuracy_interval(accuracy: ArrayLike, n: int, method: IntervalMethod = "wilson", alpha: float = 0.05) -> Interval:
    """Return a confidence interval of the accuracy measured on `n` independent test samples.

    Parameters
    ----------
    accuracy
        Share of right predictions, in [0, 1]; an array gives an interval for each element.
    n
        Number of test samples.
    method
        ``wilson``, the default, inverts the score test and covers well for small `n` and accuracies near 0 or 1, where
        the others don't; ``normal`` is the article's ``acc ± z sqrt(acc (1 - acc) / n)``, ``normal-corrected`` widens
        it by the continuity correction ``1 / (2 n)``; ``clopper-pearson`` is exact, hence conservative. All are cut to
        [0, 1].
    alpha
        Significance level: the interval covers with probability ``1 - alpha``; in (0, 1).

    Returns
    -------
    Interval
        Both ends, as shares from 0 to 1.

    Raises
    ------
    ValueError
        For an accuracy outside [0, 1], ``n < 1``, an unknown method, or an `alpha` outside (0, 1).

    References
    ----------
    Raschka, arXiv 1811.12808, section 1; Brown, Cai and DasGupta (2001).

    Examples
    --------
    >>> low, high = accuracy_interval(0.84, 100)
    >>> round(float(low), 4), round(float(high), 4)
    (0.7558, 0.899)
    """
    check_choice("method", method, get_args(IntervalMethod))
    n = check_count("n", n)
    check_number("alpha", alpha, gt=0, lt=1)
    p = np.asarray(accuracy, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"accuracy is {accuracy!r}; it takes numbers in [0, 1]")
    if method == "clopper-pearson":
        # The beta quantiles are NaN where a shape parameter is zero; there the end is exact.
        low = np.where(p > 0, stats.beta.ppf(alpha / 2, p * n, n - p * n + 1), 0.0)
        high = np.where(p < 1, stats.beta.ppf(1 - alpha / 2, p * n + 1, n - p * n), 1.0)
        return _interval(low, high)
    z = stats.norm.isf(alpha / 2)
    if method == "wilson":
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    else:
        centre = p
        half = z * np.sqrt(p * (1 - p) / n) + (1 / (2 * n) if method == "normal-corrected" else 0)
    return _interval(centre - half, centre + half)


def loss_interval(losses: ArrayLike, alpha: float = 0.05) -> Interval:
    """Return Student's interval of the mean of per-sample losses, ``mean ± t s / sqrt(n)``.

    Parameters
    ----------
    losses
        One loss per test sample, at least two.
    alpha
        Significance level: the interval covers with probability ``1 - alpha``; in (0, 1).

    Returns
    -------
    Interval
        Both ends, in the unit of the losses.

    Raises
    ------
    ValueError
        For fewer than two losses, NaN or infinity among them, or an `alpha` outside (0, 1).

    Examples
    --------
    >>> low, high = loss_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    check_number("alpha", alpha, gt=0, lt=1)
    values = finite_vector("losses", losses, at_least=2)
    unit = power_of_two(values)
    values = values / unit
    half = stats.t.isf(alpha / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean() - half) * unit, float(values.mean() + half) * unit)


def bootstrap_test_set(
    losses: ArrayLike,
    *,
    n_resamples: int = 10_000,
    method: Literal["percentile", "basic", "bca"] = "bca",
    alpha: float = 0.05,
    random_state: int | np.random.Generator | None = None,
) -> Interval:
    """Return a bootstrap interval of a mean loss by resampling the predictions of a fixed model, without refitting it.

    Parameters
    ----------
    losses
        One loss (or one 0/1 correctness) per test sample, at least two.
    n_resamples, method, random_state
        As in `scipy.stats.bootstrap`, which does the work.
    alpha
        Significance level: the interval covers with probability ``1 - alpha``; in (0, 1).

    Returns
    -------
    Interval
        Both ends, in the unit of the losses.

    Raises
    ------
    ValueError
        For fewer than two losses or NaN or infinity among them.

    Examples
    --------
    >>> low, high = bootstrap_test_set([1, 1, 0, 1, 1, 1, 0, 1, 1, 1], method="percentile", random_state=0)
    >>> round(low, 2), round(high, 2)
    (0.5, 1.0)
    """
    values = finite_vector("losses", losses, at_least=2)
    check_choice("method", method, ("percentile", "basic", "bca"))
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    unit = power_of_two(values)
    found = stats.bootstrap(
        (values / unit,),
        np.mean,
        n_resamples=check_count("n_resamples", n_resamples),
        method="BCa" if method == "bca" else method,
        confidence_level=1 - check_number("alpha", alpha, gt=0, lt=1),
        rng=random_state,
        batch=max(1, 10_000_000 // len(values)),
    )
    low, high = found.confidence_interval
    return Interval(float(low) * unit, float(high) * unit)


def _interval(low: Any, high: Any) -> Interval:
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return Interval(float(low), float(high)) if np.ndim(low) == 0 else Interval(low, high)
