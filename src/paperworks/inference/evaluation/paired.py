"""The statistics of tests of algorithms, from the differences of two algorithms' scores on the same splits."""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice
from paperworks.inference.evaluation.checks import finite_vector, power_of_two
from paperworks.inference.evaluation.splits import Splits, checked_splits

_ROUNDING = 1e-12  # of differences, as a share of the largest score


class PairedTResult(NamedTuple):
    """Statistic, p-value and degrees of freedom of a paired t-test, with the mean difference of the scores.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    df
        Degrees of freedom of Student's t.
    difference
        Mean difference of the scores, first less second.
    """

    statistic: float
    pvalue: float
    df: int
    difference: float


class CombinedFResult(NamedTuple):
    """Statistic, p-value and degrees of freedom of the 5x2cv F-test, with the mean difference of the scores.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    df
        Degrees of freedom of numerator and denominator.
    difference
        Mean difference of the scores, first less second.
    """

    statistic: float
    pvalue: float
    df: tuple[int, int]
    difference: float


def compare_scores(
    scores_1: ArrayLike,
    scores_2: ArrayLike,
    splits: Iterable[Any],
    *,
    test: Literal["corrected-t", "paired-t", "5x2cv-t", "5x2cv-f"] = "corrected-t",
) -> PairedTResult | CombinedFResult:
    """Compare two algorithms by scores that are there already, of the same splits.

    It is for models that were fitted elsewhere, and for several tests of one set of refits; `ttest_resampled`,
    `ttest_kfold`, `ttest_5x2cv` and `ftest_5x2cv` fit the models themselves.

    Parameters
    ----------
    scores_1, scores_2
        A score of each split by each algorithm, such as `split_scores` returns.
    splits
        The pairs of training and test indices.
    test
        ``corrected-t`` is Nadeau and Bengio's, for any splits; ``paired-t`` takes them as independent; ``5x2cv-t`` and
        ``5x2cv-f`` take five times two folds.

    Returns
    -------
    PairedTResult or CombinedFResult
        The statistic with its p-value, and the mean difference.

    Raises
    ------
    ValueError
        For scores that aren't finite, another number of them than of splits, an unknown test, fewer than two splits or
        others than five times two folds.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Nadeau and Bengio (2003); Dietterich (1998); Alpaydin (1999).

    Examples
    --------
    >>> from sklearn.model_selection import KFold
    >>> found = compare_scores([0.9, 0.8, 0.9, 0.7], [0.8, 0.8, 0.7, 0.6], KFold(4).split(range(20)))
    >>> round(found.statistic, 3), found.df
    (1.604, 3)
    """
    check_choice("test", test, list(_STATISTICS))
    given = list(splits)
    first, second = finite_vector("scores_1", scores_1), finite_vector("scores_2", scores_2)
    for name, scores in (("scores_1", first), ("scores_2", second)):
        if len(scores) != len(given):
            raise ValueError(f"{name} is of {len(scores)}; it takes one score for each of {len(given)} splits")
    try:
        parts = [np.asarray(part) for pair in given for part in pair]
    except TypeError:
        raise ValueError(
            "splits has elements that are no pairs; it takes training and test indices (or masks)"
        ) from None
    n = max(len(part) if part.dtype == bool else int(part.max(initial=-1)) + 1 for part in parts)
    return _STATISTICS[test](first, second, checked_splits(given, n))


def paired_t(first: np.ndarray, second: np.ndarray, splits: Splits, corrected: bool) -> PairedTResult:
    """Return the paired t-test, plain or with Nadeau and Bengio's variance, which adds test to training samples."""
    differences, unit = _differences(first, second)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        raise ValueError(f"splits is of {count}; a t-test takes at least two")
    overlap = sum(len(test) for _, test in splits) / sum(len(train) for train, _ in splits)
    factor = 1 / count + (overlap if corrected else 0)
    statistic = _ratio(mean, float(np.sqrt(factor * differences.var(ddof=1))))
    return PairedTResult(statistic, float(2 * stats.t.sf(abs(statistic), count - 1)), count - 1, mean * unit)


def five_by_two_t(first: np.ndarray, second: np.ndarray, splits: Splits) -> PairedTResult:
    """Return Dietterich's test: the first difference over the root of the replications' mean variance."""
    differences, unit = _differences(first, second)
    pairs, variances = _five_by_two(differences, splits)
    statistic = _ratio(float(pairs[0, 0]), float(np.sqrt(variances.mean())))
    return PairedTResult(statistic, float(2 * stats.t.sf(abs(statistic), 5)), 5, float(pairs.mean()) * unit)


def five_by_two_f(first: np.ndarray, second: np.ndarray, splits: Splits) -> CombinedFResult:
    """Return Alpaydin's test: all squared differences over twice the replications' variances."""
    differences, unit = _differences(first, second)
    pairs, variances = _five_by_two(differences, splits)
    statistic = _ratio(float(np.sum(pairs**2)), float(2 * variances.sum()), _ROUNDING**2)
    return CombinedFResult(statistic, float(stats.f.sf(statistic, 10, 5)), (10, 5), float(pairs.mean()) * unit)


def _differences(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float]:
    """Return differences of scores in a unit of about the largest score, in which rounding is known, and that unit."""
    for scores in (first, second):
        if bad := int(np.sum(~np.isfinite(scores))):
            raise ValueError(f"scoring gives {bad} NaN or infinite scores of {scores.size}; a test takes finite ones")
    unit = power_of_two(first, second)
    return first / unit - second / unit, unit


def _five_by_two(differences: np.ndarray, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences (5, 2) of five replications and their variances (5,)."""
    if len(splits) != 10 or any(
        not np.array_equal(np.sort(splits[i][0]), np.sort(splits[i + 1][1]))
        or not np.array_equal(np.sort(splits[i][1]), np.sort(splits[i + 1][0]))
        for i in range(0, len(splits) - 1, 2)
    ):
        raise ValueError(
            f"splits is of {len(splits)}; a 5x2cv test takes five times two folds, each trained on what the other tests"
        )
    pairs = differences.reshape(5, 2)
    return pairs, np.sum((pairs - pairs.mean(axis=1, keepdims=True)) ** 2, axis=1)


def _ratio(numerator: float, spread: float, rounding: float = _ROUNDING) -> float:
    """Divide, where differences that never vary give 0 or infinity and a warning."""
    if spread > rounding:
        return numerator / spread
    if abs(numerator) <= rounding:
        return 0.0
    warnings.warn("the differences of the scores don't vary: the statistic is infinite", UserWarning, stacklevel=4)
    return float(np.copysign(np.inf, numerator))


_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray, Splits], PairedTResult | CombinedFResult]] = {
    "corrected-t": functools.partial(paired_t, corrected=True),
    "paired-t": functools.partial(paired_t, corrected=False),
    "5x2cv-t": five_by_two_t,
    "5x2cv-f": five_by_two_f,
}
