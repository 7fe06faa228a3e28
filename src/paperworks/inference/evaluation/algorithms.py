"""Tests for comparing learning algorithms, which are refitted on parts of one data set."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing, indexable

from paperworks.core.validation import check_count, check_number
from paperworks.inference.evaluation.checks import targets_of, weights_of
from paperworks.inference.evaluation.paired import (
    CombinedFResult,
    PairedTResult,
    five_by_two_f,
    five_by_two_t,
    paired_t,
)
from paperworks.inference.evaluation.refits import split_responses
from paperworks.inference.evaluation.scoring import (
    PairLoss,
    SampleLoss,
    Scoring,
    check_two_classes,
    fitted,
    pair_error,
    score_of,
    scoring_of,
)
from paperworks.inference.evaluation.splits import (
    RandomState,
    Splits,
    checked_splits,
    drawn_splits,
    random_parts,
    repeated_folds,
)


def split_scores(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    splits: Iterable[Any],
    scoring: Scoring = None,
    n_jobs: int | None = None,
    *,
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Return the score of each split: trained on its first indices, tested on its second.

    Models with a closed form are refitted on all training sets at once; all others get the training samples in the
    order of their indices, on which what bagging draws depends.

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
    sample_weight
        Weights of the samples in the scores, and in the fits of estimators whose `fit` takes them.

    Returns
    -------
    ndarray
        One score for each split, in their order.

    Raises
    ------
    ValueError
        For no splits or such that aren't pairs of indices, weights that don't fit or are zero on a test, more than two
        classes for ``roc_auc``, or where `scoring` is None and the estimator has no default one.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 4.0])
    >>> split_scores(LinearRegression(), X, y, [(np.array([0, 1, 2]), np.array([3]))]).round(6)
    array([-1.])
    """
    X, labels = indexable(X, targets_of(y))
    pairs = checked_splits(splits, len(labels), apart=False)
    how, weights = scoring_of(estimator, scoring), weights_of(sample_weight, len(labels))
    for i, (_, test) in enumerate(pairs):
        if weights is not None and not np.any(weights[test] > 0):
            raise ValueError(f"sample_weight is zero on all test samples of splits[{i}]; it takes some weight in each")
    if isinstance(how, PairLoss):
        check_two_classes(labels)
    if isinstance(how, SampleLoss | PairLoss):
        responses = split_responses(estimator, X, labels, pairs, how.response, weights, n_jobs)
        codes = labels if how.response == "predict" else np.unique(labels, return_inverse=True)[1]
        ones = np.ones(len(labels)) if weights is None else weights
        tested = [(codes[test], row, ones[test]) for row, (_, test) in zip(responses, pairs, strict=True)]
        if isinstance(how, PairLoss):
            return np.array([how.best - pair_error(code == 1, row, w) for code, row, w in tested])
        return np.array([how.best - np.average(how.of(code, row), weights=w) for code, row, w in tested])

    def one(train: np.ndarray, test: np.ndarray) -> float:
        of_train, of_test = (None, None) if weights is None else (weights[train], weights[test])
        model = fitted(estimator, _safe_indexing(X, train), labels[train], of_train)
        return score_of(how, model, _safe_indexing(X, test), labels[test], of_test)

    return np.array(Parallel(n_jobs=n_jobs)(delayed(one)(train, test) for train, test in pairs))


def ttest_resampled(
    estimator_1: Any,
    estimator_2: Any,
    X: Any,
    y: ArrayLike,
    *,
    n_splits: int = 30,
    test_size: float = 1 / 3,
    corrected: bool = False,
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
    cv, splits
        Other splits: a splitter of scikit-learn's kind or a number of folds, or pairs of training and test indices.
    groups
        The group of each sample; groups stay together, and the splitter of `cv` gets them.
    sample_weight, scoring, n_jobs
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
        For fewer than two splits, a share outside (0, 1), an estimator without a default score, both `cv` and `splits`,
        splits with a sample or a group on both sides, or scores that aren't finite.

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
    pairs = drawn_splits(
        estimator_1, X, y, random_parts(n_splits, test_size, random_state), cv=cv, splits=splits, groups=groups
    )
    return paired_t(*_scores(estimator_1, estimator_2, X, y, pairs, sample_weight, scoring, n_jobs), pairs, corrected)


def ttest_kfold(
    estimator_1: Any,
    estimator_2: Any,
    X: Any,
    y: ArrayLike,
    *,
    n_splits: int = 10,
    n_repeats: int = 1,
    corrected: bool = False,
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
        Nadeau and Bengio's correction: the variance factor is ``1 / (k r) + 1 / (k - 1)`` instead of ``1 / (k r)``; for
        other splits the added term is that of test to training samples.
    cv, splits, groups
        Other splits, and groups that stay together, as in `ttest_resampled`.
    sample_weight, scoring, n_jobs
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
        For fewer than two folds, no repeats, or as in `ttest_resampled`.

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
    pairs = drawn_splits(
        estimator_1, X, y, repeated_folds(n_splits, n_repeats, random_state), cv=cv, splits=splits, groups=groups
    )
    return paired_t(*_scores(estimator_1, estimator_2, X, y, pairs, sample_weight, scoring, n_jobs), pairs, corrected)


def ttest_5x2cv(
    estimator_1: Any,
    estimator_2: Any,
    X: Any,
    y: ArrayLike,
    *,
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
    cv, splits, groups
        Other halves, and groups that stay together, as in `ttest_resampled`: five times two folds, each trained on what
        the other is tested on, such as ``RepeatedStratifiedKFold(n_splits=2, n_repeats=5)`` yields.
    sample_weight, scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the halves.

    Returns
    -------
    PairedTResult
        t against Student's distribution of 5 degrees of freedom. Where no replication varies it is 0 (p = 1) for a
        first difference of 0, else infinite (p = 0).

    Raises
    ------
    ValueError
        For splits that aren't five times two folds, or as in `ttest_resampled`.

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
    pairs = drawn_splits(estimator_1, X, y, repeated_folds(2, 5, random_state), cv=cv, splits=splits, groups=groups)
    return five_by_two_t(*_scores(estimator_1, estimator_2, X, y, pairs, sample_weight, scoring, n_jobs), pairs)


def ftest_5x2cv(
    estimator_1: Any,
    estimator_2: Any,
    X: Any,
    y: ArrayLike,
    *,
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
    cv, splits, groups
        Other halves, and groups that stay together, as in `ttest_resampled`: five times two folds, each trained on what
        the other is tested on, such as ``RepeatedStratifiedKFold(n_splits=2, n_repeats=5)`` yields.
    sample_weight, scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the halves.

    Returns
    -------
    CombinedFResult
        F against the F distribution of (10, 5) degrees of freedom. Where no replication varies it is 0 (p = 1) if all
        differences are 0, else infinite (p = 0).

    Raises
    ------
    ValueError
        For splits that aren't five times two folds, or as in `ttest_resampled`.

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
    pairs = drawn_splits(estimator_1, X, y, repeated_folds(2, 5, random_state), cv=cv, splits=splits, groups=groups)
    return five_by_two_f(*_scores(estimator_1, estimator_2, X, y, pairs, sample_weight, scoring, n_jobs), pairs)


def _scores(
    estimator_1: Any,
    estimator_2: Any,
    X: Any,
    y: ArrayLike,
    splits: Splits,
    sample_weight: ArrayLike | None,
    scoring: Scoring,
    n_jobs: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    first, second = (
        split_scores(e, X, y, splits, scoring, n_jobs, sample_weight=sample_weight) for e in (estimator_1, estimator_2)
    )
    return first, second
