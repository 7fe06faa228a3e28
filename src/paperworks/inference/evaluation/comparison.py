"""Reports that compare several models, or several algorithms, with one call."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.base import BaseEstimator

from paperworks.core.validation import check_choice
from paperworks.inference.evaluation.algorithms import (
    CombinedFResult,
    PairedTResult,
    RandomState,
    ftest_5x2cv,
    ttest_5x2cv,
    ttest_kfold,
    ttest_resampled,
)
from paperworks.inference.evaluation.checks import right_of
from paperworks.inference.evaluation.corrections import Correction, adjust_pvalues
from paperworks.inference.evaluation.models import CochransQResult, LooneyFResult, cochrans_q, looney_f_test, mcnemar
from paperworks.inference.evaluation.scoring import Scoring


class Pair(NamedTuple):
    """One pair of a comparison: the difference of the first from the second, and its p-value plain and adjusted."""

    first: str
    second: str
    difference: float
    statistic: float
    pvalue: float
    adjusted: float


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found; printed, it is a table.

    Attributes
    ----------
    scores
        Accuracy (of models) by name; empty for algorithms.
    omnibus
        Tests of all models at once, by name.
    pairs
        All pairs with their p-values.
    correction
        How the p-values of the pairs were adjusted.
    """

    scores: dict[str, float]
    omnibus: dict[str, CochransQResult | LooneyFResult]
    pairs: list[Pair]
    correction: str

    def __str__(self) -> str:
        """Return the comparison as lines of text."""
        lines = [f"{name}: accuracy {score:.4f}" for name, score in self.scores.items()]
        lines += [f"{name}: {test.statistic:.4f}, p = {test.pvalue:.4g}" for name, test in self.omnibus.items()]
        lines += [
            f"{p.first} - {p.second}: {p.difference:+.4f}, p = {p.pvalue:.4g}, {self.correction} {p.adjusted:.4g}"
            for p in self.pairs
        ]
        return "\n".join(lines)


def compare_models(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike], *, correction: Correction = "holm"
) -> ComparisonResult:
    """Compare fixed models on one test set: Cochran's Q and Looney's F of all, then McNemar's test of every pair.

    Parameters
    ----------
    y_true
        True label of each test sample.
    predictions
        Predictions of two or more models by name.
    correction
        Correction of the pairs' p-values, as in `adjust_pvalues`.

    Returns
    -------
    ComparisonResult
        Tests of all models at once and of all pairs, with adjusted p-values.

    Raises
    ------
    ValueError
        For fewer than two models, predictions of another length than the labels, or an unknown correction.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> y = np.ones(40)
    >>> report = compare_models(y, {"a": y, "b": np.arange(40) >= 12, "c": np.arange(40) >= 1})
    >>> print(report)
    a: accuracy 1.0000
    b: accuracy 0.7000
    c: accuracy 0.9750
    Cochran's Q: 22.1667, p = 1.537e-05
    Looney's F: 14.9481, p = 3.195e-06
    a - b: +0.3000, p = 0.0004883, holm 0.001465
    a - c: +0.0250, p = 1, holm 1
    b - c: -0.2750, p = 0.0009766, holm 0.001953
    """
    right = right_of(y_true, list(predictions.values()))
    scores = dict(zip(predictions, right.mean(axis=0).tolist(), strict=True))
    tests = {(a, b): mcnemar(y_true, predictions[a], predictions[b]) for a, b in itertools.combinations(predictions, 2)}
    adjusted = adjust_pvalues([t.pvalue for t in tests.values()], correction)
    pairs = [
        Pair(a, b, scores[a] - scores[b], t.statistic, t.pvalue, float(p))
        for ((a, b), t), p in zip(tests.items(), adjusted, strict=True)
    ]
    omnibus: dict[str, CochransQResult | LooneyFResult] = {
        "Cochran's Q": cochrans_q(y_true, *predictions.values()),
        "Looney's F": looney_f_test(y_true, *predictions.values()),
    }
    return ComparisonResult(scores, omnibus, pairs, correction)


_ALGORITHM_TESTS: dict[str, Callable[..., PairedTResult | CombinedFResult]] = {
    "5x2cv-f": ftest_5x2cv,
    "5x2cv-t": ttest_5x2cv,
    "kfold-t": ttest_kfold,
    "resampled-t": ttest_resampled,
}


def compare_algorithms(
    estimators: Mapping[str, BaseEstimator],
    X: Any,
    y: ArrayLike,
    *,
    test: Literal["5x2cv-f", "5x2cv-t", "kfold-t", "resampled-t"] = "5x2cv-f",
    correction: Correction = "holm",
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: int | None = None,
) -> ComparisonResult:
    """Compare learning algorithms on one data set: a test of every pair, all on the same splits.

    Parameters
    ----------
    estimators
        Two or more algorithms by name; they are cloned, never fitted in place.
    X, y
        Samples in rows, and their targets.
    test
        ``5x2cv-f`` is the article's advice for small data; ``kfold-t`` and ``resampled-t`` are used with Nadeau and
        Bengio's correction.
    correction
        Correction of the pairs' p-values, as in `adjust_pvalues`.
    scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed of the splits.

    Returns
    -------
    ComparisonResult
        Tests of all pairs with adjusted p-values.

    Raises
    ------
    ValueError
        For fewer than two algorithms, or an unknown test or correction.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> report = compare_algorithms({"LDA": LinearDiscriminantAnalysis(), "NB": GaussianNB()}, X, y, random_state=0)
    >>> [(pair.first, pair.second) for pair in report.pairs]
    [('LDA', 'NB')]
    """
    check_choice("test", test, list(_ALGORITHM_TESTS))
    if len(estimators) < 2:
        raise ValueError(f"estimators is of {len(estimators)} algorithms; it takes at least two")
    seed: RandomState = np.random.randint(2**31) if random_state is None else random_state  # noqa: NPY002 - only a seed
    options = {"corrected": True} if test in ("kfold-t", "resampled-t") else {}
    found = {
        (a, b): _ALGORITHM_TESTS[test](
            estimators[a], estimators[b], X, y, scoring=scoring, n_jobs=n_jobs, random_state=seed, **options
        )
        for a, b in itertools.combinations(estimators, 2)
    }
    adjusted = adjust_pvalues([t.pvalue for t in found.values()], correction)
    pairs = [
        Pair(a, b, t.difference, t.statistic, t.pvalue, float(p))
        for ((a, b), t), p in zip(found.items(), adjusted, strict=True)
    ]
    return ComparisonResult({}, {}, pairs, correction)


class FriedmanResult(NamedTuple):
    """Friedman's chi-square and Iman and Davenport's F of the ranks of algorithms over data sets, with mean ranks.

    Parameters
    ----------
    statistic
        Friedman's chi-square of the ranks.
    pvalue
        The p-value of `statistic`.
    df
        Degrees of freedom, algorithms less one.
    f_statistic
        Iman and Davenport's F.
    f_pvalue
        The p-value of `f_statistic`.
    mean_ranks
        Mean rank of each algorithm, 1 for the best.
    critical_difference
        Nemenyi's least difference of mean ranks that is significant.
    """

    statistic: float
    pvalue: float
    df: int
    f_statistic: float
    f_pvalue: float
    mean_ranks: np.ndarray
    critical_difference: float


def friedman_nemenyi(scores: ArrayLike, *, alpha: float = 0.05) -> FriedmanResult:
    """Compare several algorithms over several data sets by their ranks.

    Parameters
    ----------
    scores
        Shape (data sets, algorithms), greater is better; ties share their mean rank.
    alpha
        Level of Nemenyi's critical difference: two algorithms differ where their mean ranks do by more than that.

    Returns
    -------
    FriedmanResult
        Both statistics with p-values, mean ranks and the critical difference.

    Raises
    ------
    ValueError
        For fewer than two data sets or algorithms, NaN or infinity, or an `alpha` outside (0, 1).

    References
    ----------
    Demšar, Journal of Machine Learning Research 7 (2006).

    Examples
    --------
    >>> found = friedman_nemenyi([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [0.9, 0.7, 0.8], [0.7, 0.6, 0.5]])
    >>> found.mean_ranks, round(found.statistic, 2), round(found.critical_difference, 2)
    (array([1.  , 2.25, 2.75]), 6.5, 1.66)
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"scores has shape {values.shape}; it takes at least two data sets and two algorithms")
    if not np.all(np.isfinite(values)):
        raise ValueError("scores holds NaN or infinity; it takes finite numbers")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it takes a number > 0 and < 1")
    sets, algorithms = values.shape
    ranks = stats.rankdata(-values, axis=1)
    mean_ranks = ranks.mean(axis=0)
    # The variance of all ranks, in place of (L^2 - 1) / 12, corrects for ties.
    spread = np.sum((ranks - (algorithms + 1) / 2) ** 2) / (sets * (algorithms - 1))
    statistic = 0.0 if spread == 0 else float(sets * np.sum((mean_ranks - (algorithms + 1) / 2) ** 2) / spread)
    df = algorithms - 1
    below = sets * df - statistic
    f = np.inf if below <= 1e-12 * sets * df else (sets - 1) * statistic / below
    quantile = stats.studentized_range.isf(alpha, algorithms, np.inf) / np.sqrt(2)
    return FriedmanResult(
        statistic,
        float(stats.chi2.sf(statistic, df)),
        df,
        float(f),
        float(stats.f.sf(f, df, df * (sets - 1))),
        mean_ranks,
        float(quantile * np.sqrt(algorithms * (algorithms + 1) / (6 * sets))),
    )
