"""Reports that compare several models, or several algorithms, with one call."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_number
from paperworks.inference.evaluation.algorithms import split_scores
from paperworks.inference.evaluation.checks import right_of, weights_of
from paperworks.inference.evaluation.corrections import adjust_pvalues, correction_of
from paperworks.inference.evaluation.models import CochransQResult, LooneyFResult, cochrans_q, looney_f_test, mcnemar
from paperworks.inference.evaluation.paired import (
    CombinedFResult,
    PairedTResult,
    five_by_two_f,
    five_by_two_t,
    paired_t,
)
from paperworks.inference.evaluation.scoring import Scoring
from paperworks.inference.evaluation.splits import (
    RandomState,
    Splits,
    Usual,
    drawn_splits,
    random_parts,
    repeated_folds,
)


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
        Accuracy (of models) or mean score (of algorithms) by name.
    omnibus
        Tests of all models at once, by name.
    pairs
        All pairs with their p-values.
    correction
        How the p-values of the pairs were adjusted.
    score
        What the scores are.
    """

    scores: dict[str, float]
    omnibus: dict[str, CochransQResult | LooneyFResult]
    pairs: list[Pair]
    correction: str
    score: str = "accuracy"

    def __str__(self) -> str:
        """Return the comparison as lines of text."""
        lines = [f"{name}: {self.score} {score:.4f}" for name, score in self.scores.items()]
        lines += [f"{name}: {test.statistic:.4f}, p = {test.pvalue:.4g}" for name, test in self.omnibus.items()]
        lines += [
            f"{p.first} - {p.second}: {p.difference:+.4f}, p = {p.pvalue:.4g}, {self.correction} {p.adjusted:.4g}"
            for p in self.pairs
        ]
        return "\n".join(lines)


def compare_models(
    y_true: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    *,
    correction: str = "holm",
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
    groups, sample_weight
        The group and the weight of each sample, as in `mcnemar`.

    Returns
    -------
    ComparisonResult
        Tests of all models at once and of all pairs, with adjusted p-values.

    Raises
    ------
    ValueError
        For fewer than two models, predictions of another length or type than the labels, an unknown correction, or
        groups or weights that don't fit.
    TypeError
        For predictions without names.

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
    correction = correction_of("correction", correction)
    _check_named("predictions", predictions)
    right = right_of(y_true, list(predictions.values()))
    means = np.average(right, axis=0, weights=weights_of(sample_weight, len(right)))
    scores = dict(zip(predictions, means.tolist(), strict=True))
    of: dict[str, Any] = {"groups": groups, "sample_weight": sample_weight}
    tests = {
        (a, b): mcnemar(y_true, predictions[a], predictions[b], **of) for a, b in itertools.combinations(predictions, 2)
    }
    adjusted = adjust_pvalues([t.pvalue for t in tests.values()], correction)
    pairs = [
        Pair(a, b, scores[a] - scores[b], t.statistic, t.pvalue, float(p))
        for ((a, b), t), p in zip(tests.items(), adjusted, strict=True)
    ]
    omnibus: dict[str, CochransQResult | LooneyFResult] = {
        "Cochran's Q": cochrans_q(y_true, *predictions.values(), **of),
        "Looney's F": looney_f_test(y_true, *predictions.values(), **of),
    }
    return ComparisonResult(scores, omnibus, pairs, correction)


_Statistic = Callable[[np.ndarray, np.ndarray, Splits], PairedTResult | CombinedFResult]
_ALGORITHM_TESTS: dict[str, tuple[Callable[[RandomState], Usual], _Statistic]] = {
    "5x2cv-f": (functools.partial(repeated_folds, 2, 5), five_by_two_f),
    "5x2cv-t": (functools.partial(repeated_folds, 2, 5), five_by_two_t),
    "kfold-t": (functools.partial(repeated_folds, 10, 1), functools.partial(paired_t, corrected=True)),
    "resampled-t": (functools.partial(random_parts, 30, 1 / 3), functools.partial(paired_t, corrected=True)),
}


def compare_algorithms(
    estimators: Mapping[str, Any],
    X: Any,
    y: ArrayLike,
    *,
    test: Literal["5x2cv-f", "5x2cv-t", "kfold-t", "resampled-t"] = "5x2cv-f",
    correction: str = "holm",
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> ComparisonResult:
    """Compare learning algorithms on one data set: a test of every pair, all on the same splits.

    Parameters
    ----------
    estimators
        Two or more algorithms by name; they are cloned, never fitted in place. Classes are kept in proportion if the
        first is a classifier.
    X, y
        Samples in rows, and their targets.
    test
        ``5x2cv-f`` is the article's advice for small data; ``kfold-t`` and ``resampled-t`` are used with Nadeau and
        Bengio's correction.
    correction
        Correction of the pairs' p-values, as in `adjust_pvalues`.
    cv, splits, groups
        Other splits, and groups that stay together, as in `ttest_resampled`.
    sample_weight, scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the splits.

    Returns
    -------
    ComparisonResult
        Tests of all pairs with adjusted p-values, and the mean score of each algorithm.

    Raises
    ------
    ValueError
        For fewer than two algorithms, an unknown test or correction, splits that the test can't use, or scores that
        aren't finite.
    TypeError
        For estimators without names.

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
    correction = correction_of("correction", correction)
    _check_named("estimators", estimators)
    if len(estimators) < 2:
        raise ValueError(f"estimators is of {len(estimators)} algorithms; it takes at least two")
    usual, statistic = _ALGORITHM_TESTS[test]
    first = next(iter(estimators.values()))
    drawn = drawn_splits(first, X, y, usual(random_state), cv=cv, splits=splits, groups=groups)
    scores = {
        name: split_scores(estimator, X, y, drawn, scoring, n_jobs, sample_weight=sample_weight)
        for name, estimator in estimators.items()
    }
    found = {(a, b): statistic(scores[a], scores[b], drawn) for a, b in itertools.combinations(estimators, 2)}
    adjusted = adjust_pvalues([t.pvalue for t in found.values()], correction)
    pairs = [
        Pair(a, b, t.difference, t.statistic, t.pvalue, float(p))
        for ((a, b), t), p in zip(found.items(), adjusted, strict=True)
    ]
    means = {name: float(each.mean()) for name, each in scores.items()}
    return ComparisonResult(means, {}, pairs, correction, "mean score")


def _check_named(name: str, given: Any) -> None:
    if not hasattr(given, "keys"):
        raise TypeError(f"{name} is a {type(given).__name__}; it takes a mapping, such as a dict, from names")


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
    check_number("alpha", alpha, gt=0, lt=1)
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
