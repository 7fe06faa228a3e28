"""Tests for comparing learning algorithms, which are refitted on parts of one data set."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import (
    KFold,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
)
from sklearn.utils import check_random_state

from paperworks.core.validation import check_count, check_number
from paperworks.inference.evaluation.refits import split_predictions
from paperworks.inference.evaluation.scoring import PointScore, Scoring, scoring_of

Splits = Sequence[tuple[np.ndarray, np.ndarray]]
RandomState = int | np.random.RandomState | None


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


def split_scores(
    estimator: BaseEstimator, X: Any, y: ArrayLike, splits: Splits, scoring: Scoring = None, n_jobs: int | None = None
) -> np.ndarray:
    """Return the score of each split: trained on its first indices, tested on its second.

    Models with a closed form are refitted on all training sets at once.

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X, y
        Samples in rows, and their targets.
    splits
        Pairs of training and test indices; what the `split` method of a splitter yields.
    scoring
        As in `bootstrap_score`.
    n_jobs
        Processes for models that aren't refitted in closed form.

    Returns
    -------
    ndarray
        One score for each split, in their order.

    Raises
    ------
    ValueError
        For no splits, or where `scoring` is None and the estimator has no default one.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 4.0])
    >>> split_scores(LinearRegression(), X, y, [(np.array([0, 1, 2]), np.array([3]))]).round(6)
    array([-1.])
    """
    splits = list(splits)
    if not splits:
        raise ValueError("splits is empty; it takes at least one pair of training and test indices")
    how = scoring_of(estimator, scoring)
    if not isinstance(how, PointScore):
        return cross_val_score(estimator, X, y, scoring=scoring, cv=splits, n_jobs=n_jobs, error_score="raise")
    labels = np.asarray(y)
    predictions = split_predictions(estimator, X, labels, splits, n_jobs)
    tested = zip(predictions, splits, strict=True)
    return np.array([how.best - how.loss(labels[test], row[test]).mean() for row, (_, test) in tested])


def ttest_resampled(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    *,
    n_splits: int = 30,
    test_size: float = 1 / 3,
    corrected: bool = False,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> PairedTResult:
    """Compare two algorithms by a paired t-test over random splits, plain or with Nadeau and Bengio's correction.

    The plain test takes overlapping training sets as independent and finds differences that are not there, so it warns;
    the correction multiplies the variance of the mean by ``1 + n_splits n_test / n_train``.

    Parameters
    ----------
    estimator_1, estimator_2
        The algorithms; they are cloned, never fitted in place.
    X, y
        The data; classes are kept in proportion.
    n_splits, test_size
        Number of random splits and share of the test samples: 30 and a third, as Dietterich has it.
    corrected
        Use the correction.
    scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the splits.

    Returns
    -------
    PairedTResult
        Student's t with its p-value, and the mean difference.

    Raises
    ------
    ValueError
        For fewer than two splits, a share outside (0, 1), or an estimator without a default score.

    Warns
    -----
    UserWarning
        Where the correction is off.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Nadeau and Bengio (2003).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> found = ttest_resampled(LinearDiscriminantAnalysis(), GaussianNB(), X, y, corrected=True, random_state=0)
    >>> found.df, bool(0.05 < found.pvalue < 0.5)
    (29, True)
    """
    check_count("n_splits", n_splits, at_least=2)
    check_number("test_size", test_size, gt=0, lt=1)
    if not corrected:
        warnings.warn(
            "the resampled t-test rejects true hypotheses far too often; corrected=True or ftest_5x2cv don't",
            UserWarning,
            stacklevel=2,
        )
    kind = StratifiedShuffleSplit if is_classifier(estimator_1) else ShuffleSplit
    splits = list(kind(n_splits, test_size=test_size, random_state=random_state).split(X, y))
    differences = _differences(estimator_1, estimator_2, X, y, splits, scoring, n_jobs)
    train, test = splits[0]
    return _paired_t(differences, 1 / n_splits + (len(test) / len(train) if corrected else 0))


def ttest_kfold(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    *,
    n_splits: int = 10,
    n_repeats: int = 1,
    corrected: bool = False,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> PairedTResult:
    """Compare two algorithms by a paired t-test over the folds of (repeated) cross-validation.

    Parameters
    ----------
    estimator_1, estimator_2
        The algorithms; they are cloned, never fitted in place.
    X, y
        The data; classes are kept in proportion.
    n_splits, n_repeats
        Folds, and how often the folds are drawn anew.
    corrected
        Nadeau and Bengio's correction: the variance factor is ``1 / (k r) + 1 / (k - 1)`` instead of ``1 / (k r)``.
    scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the folds.

    Returns
    -------
    PairedTResult
        Student's t with its p-value, and the mean difference.

    Raises
    ------
    ValueError
        For fewer than two folds, no repeats, or an estimator without a default score.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Bouckaert and Frank (2004) for repeats.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> ttest_kfold(LinearDiscriminantAnalysis(), GaussianNB(), X, y, random_state=0).df
    9
    """
    check_count("n_splits", n_splits, at_least=2)
    check_count("n_repeats", n_repeats)
    kind = RepeatedStratifiedKFold if is_classifier(estimator_1) else RepeatedKFold
    splits = list(kind(n_splits=n_splits, n_repeats=n_repeats, random_state=random_state).split(X, y))
    differences = _differences(estimator_1, estimator_2, X, y, splits, scoring, n_jobs)
    return _paired_t(differences, 1 / len(splits) + (1 / (n_splits - 1) if corrected else 0))


def ttest_5x2cv(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    *,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> PairedTResult:
    """Compare two algorithms by Dietterich's 5x2cv paired t-test.

    The statistic is the first difference over the square root of the mean variance of five replications of 2-fold
    cross-validation, so it depends on which fold comes first: give a seed.

    Parameters
    ----------
    estimator_1, estimator_2
        The algorithms; they are cloned, never fitted in place.
    X, y
        The data; classes are kept in proportion.
    scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the halves.

    Returns
    -------
    PairedTResult
        t against Student's distribution of 5 degrees of freedom. Where no replication varies it is 0 (p = 1) for a
        first difference of 0, else infinite (p = 0).

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Dietterich (1998).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> ttest_5x2cv(LinearDiscriminantAnalysis(), GaussianNB(), X, y, random_state=0).df
    5
    """
    differences, variances = _five_by_two(estimator_1, estimator_2, X, y, scoring, n_jobs, random_state)
    statistic = _ratio(float(differences[0, 0]), float(np.sqrt(variances.mean())))
    return PairedTResult(statistic, float(2 * stats.t.sf(abs(statistic), 5)), 5, float(differences.mean()))


def ftest_5x2cv(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    *,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> CombinedFResult:
    """Compare two algorithms by Alpaydin's combined 5x2cv F-test, which uses all ten differences.

    Parameters
    ----------
    estimator_1, estimator_2
        The algorithms; they are cloned, never fitted in place.
    X, y
        The data; classes are kept in proportion.
    scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the halves.

    Returns
    -------
    CombinedFResult
        F against the F distribution of (10, 5) degrees of freedom. Where no replication varies it is 0 (p = 1) if all
        differences are 0, else infinite (p = 0).

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Alpaydin (1999).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> ftest_5x2cv(LinearDiscriminantAnalysis(), GaussianNB(), X, y, random_state=0).df
    (10, 5)
    """
    differences, variances = _five_by_two(estimator_1, estimator_2, X, y, scoring, n_jobs, random_state)
    statistic = _ratio(float(np.sum(differences**2)), float(2 * variances.sum()))
    return CombinedFResult(statistic, float(stats.f.sf(statistic, 10, 5)), (10, 5), float(differences.mean()))


def _differences(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    splits: Splits,
    scoring: Scoring,
    n_jobs: int | None,
) -> np.ndarray:
    first, second = (split_scores(e, X, y, splits, scoring, n_jobs) for e in (estimator_1, estimator_2))
    return first - second


def _paired_t(differences: np.ndarray, variance_factor: float) -> PairedTResult:
    """Return the t-test whose variance of the mean is the differences' variance times a factor."""
    mean, df = float(differences.mean()), len(differences) - 1
    statistic = _ratio(mean, float(np.sqrt(variance_factor * differences.var(ddof=1))))
    return PairedTResult(statistic, float(2 * stats.t.sf(abs(statistic), df)), df, mean)


def _five_by_two(
    estimator_1: BaseEstimator,
    estimator_2: BaseEstimator,
    X: Any,
    y: ArrayLike,
    scoring: Scoring,
    n_jobs: int | None,
    random_state: RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences (5, 2) of five replications and their variances (5,)."""
    rng = check_random_state(random_state)
    kind = StratifiedKFold if is_classifier(estimator_1) else KFold
    splits = [s for _ in range(5) for s in kind(2, shuffle=True, random_state=rng).split(X, y)]
    differences = _differences(estimator_1, estimator_2, X, y, splits, scoring, n_jobs).reshape(5, 2)
    return differences, np.sum((differences - differences.mean(axis=1, keepdims=True)) ** 2, axis=1)


def _ratio(numerator: float, spread: float) -> float:
    """Divide, where differences that never vary give 0 or infinity and a warning."""
    if spread > 1e-12:
        return numerator / spread
    if abs(numerator) <= 1e-12:
        return 0.0
    warnings.warn("the differences of the scores don't vary: the statistic is infinite", UserWarning, stacklevel=4)
    return float(np.copysign(np.inf, numerator))
