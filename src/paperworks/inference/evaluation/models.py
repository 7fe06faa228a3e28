"""Tests for comparing fixed models on one test set."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.evaluation.checks import group_sums, right_of
from paperworks.inference.evaluation.permutation import MOST_EXACT_SIGNS, Alternative, share_of_signs

_EXACT_BELOW = 25  # discordant samples below which the chi-square approximation is not trusted
_ROUNDING = 1e-24  # of squares, as a share of the squares they are made of


class McNemarResult(NamedTuple):
    """Statistic, p-value and degrees of freedom (0 for the exact forms) of McNemar's test.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    df
        Degrees of freedom, 0 for the exact forms.
    """

    statistic: float
    pvalue: float
    df: int


class CochransQResult(NamedTuple):
    """Statistic, p-value and degrees of freedom of Cochran's Q test.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    df
        Degrees of freedom, models less one.
    """

    statistic: float
    pvalue: float
    df: int


class LooneyFResult(NamedTuple):
    """Statistic, p-value and degrees of freedom of Looney's F-test.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    df
        Degrees of freedom of numerator and denominator.
    """

    statistic: float
    pvalue: float
    df: tuple[int, int]


class ProportionZResult(NamedTuple):
    """Statistic and p-value of the test for the difference of proportions.

    Parameters
    ----------
    statistic
        The test statistic, without unit.
    pvalue
        Probability of at least this much under the null hypothesis.
    """

    statistic: float
    pvalue: float


def mcnemar(
    table_or_y: ArrayLike,
    predictions_1: ArrayLike | None = None,
    predictions_2: ArrayLike | None = None,
    *,
    exact: bool | Literal["auto", "mid-p"] = "auto",
    correction: bool = True,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> McNemarResult:
    """Test whether two models err equally often on one test set.

    With b samples that only the first and c that only the second model has right: ``(|b - c| - 1)^2 / (b + c)`` against
    a chi-square of one degree of freedom, or the binomial distribution of ``min(b, c)`` given ``b + c``.

    Samples of one group, such as the visits of a patient, aren't independent: with groups or weights the test is of the
    sums D of the weighted differences over each group, ``(sum D)^2 / sum D^2`` against the same chi-square. That is
    ``(b - c)^2 / (b + c)`` where each sample is a group, and allows any dependence within a group.

    Parameters
    ----------
    table_or_y
        The table ``[[a, b], [c, d]]`` of counts, or the true labels.
    predictions_1, predictions_2
        Predictions of the two models, where labels are given.
    exact
        The binomial test: always (True), never (False), its mid-p form (``mid-p``), or ``auto``: where ``b + c < 25``.
    correction
        Edwards' correction for continuity of the chi-square statistic. It never takes more than the difference there
        is: where b = c the statistic is 0. It is for counts, so not used with groups or weights.
    groups
        The group of each sample, whose differences change sign together. The exact form then goes through all signs of
        at most 20 groups that differ; with more, `paired_permutation_test` draws them.
    sample_weight
        The weight of each sample.

    Returns
    -------
    McNemarResult
        For the exact forms ``df`` is 0 and the statistic ``min(b, c)``; with groups or weights it is always as above.

    Raises
    ------
    ValueError
        For a table that isn't 2x2 of whole numbers >= 0, predictions of another length or type than the labels, or
        groups or weights with a table or where they don't fit.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Edwards (1948); Fagerland, Lydersen and Laake (2013) for mid-p.

    Examples
    --------
    >>> found = mcnemar([[9959, 11], [1, 29]])
    >>> found.statistic, round(found.pvalue, 4)
    (1.0, 0.0063)
    """
    check_choice("exact", exact, (True, False, "auto", "mid-p"))
    if groups is not None or sample_weight is not None:
        return _mcnemar_of_groups(table_or_y, predictions_1, predictions_2, exact, groups, sample_weight)
    b, c = _discordant(table_or_y, predictions_1, predictions_2)
    if exact == "mid-p" or exact is True or (exact == "auto" and b + c < _EXACT_BELOW):
        least = min(b, c)
        pvalue = 2 * stats.binom.cdf(least, b + c, 0.5)
        if exact == "mid-p":
            pvalue -= stats.binom.pmf(least, b + c, 0.5)
        return McNemarResult(float(least), float(min(pvalue, 1.0)), 0)
    if b + c == 0:
        return McNemarResult(0.0, 1.0, 1)
    statistic = max(abs(b - c) - (1 if correction else 0), 0) ** 2 / (b + c)
    return McNemarResult(statistic, float(stats.chi2.sf(statistic, 1)), 1)


def _mcnemar_of_groups(
    y_true: ArrayLike,
    predictions_1: ArrayLike | None,
    predictions_2: ArrayLike | None,
    exact: bool | str,
    groups: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> McNemarResult:
    if predictions_1 is None or predictions_2 is None:
        raise ValueError("groups and sample_weight are of samples; they take labels with both predictions, no table")
    if exact == "mid-p":
        raise ValueError("exact is 'mid-p', which is for counts; with groups or weights it takes True, False or 'auto'")
    right = right_of(y_true, [predictions_1, predictions_2]).astype(float)
    differences = group_sums(right[:, 0] - right[:, 1], groups, sample_weight)
    differences = differences[differences != 0]
    squares = float(np.sum(differences**2))
    statistic = float(differences.sum() ** 2 / squares) if squares else 0.0
    if exact is True or (exact == "auto" and len(differences) <= MOST_EXACT_SIGNS):
        if len(differences) > MOST_EXACT_SIGNS:
            raise ValueError(
                f"exact is True for {len(differences)} groups that differ; it goes through the signs of at most "
                f"{MOST_EXACT_SIGNS}, and paired_permutation_test draws those of more"
            )
        return McNemarResult(statistic, share_of_signs(differences, "two-sided"), 0)
    return McNemarResult(statistic, float(stats.chi2.sf(statistic, 1)), 1)


def _discordant(table_or_y: ArrayLike, p1: ArrayLike | None, p2: ArrayLike | None) -> tuple[int, int]:
    if (p1 is None) != (p2 is None):
        raise ValueError(
            "predictions of one model are missing; it takes a table alone, or labels with both predictions"
        )
    if p1 is not None and p2 is not None:
        first, second = right_of(table_or_y, [p1, p2]).T
        return int(np.sum(first & ~second)), int(np.sum(~first & second))
    table = np.asarray(table_or_y)
    if table.shape != (2, 2):
        raise ValueError(f"table has shape {table.shape}; it takes (2, 2)")
    if table.dtype.kind not in "iuf" or not np.all(np.isfinite(table)) or np.any(table < 0) or np.any(table % 1):
        raise ValueError(f"table is {table.tolist()}; it takes whole numbers >= 0")
    return int(table[0, 1]), int(table[1, 0])


def cochrans_q(
    y_true: ArrayLike,
    *predictions: ArrayLike,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> CochransQResult:
    """Test whether several models have the same accuracy on one test set.

    With the vectors c of how far each model is above the mean of all models on a sample, the statistic is
    ``(L - 1) |sum c|^2 / sum |c|^2``, which is Cochran's. With groups or weights c are weighted sums over groups, whose
    models are exchangeable under the null hypothesis whatever the dependence within a group.

    Parameters
    ----------
    y_true
        True label of each test sample.
    *predictions
        Predictions of two or more models.
    groups, sample_weight
        The group and the weight of each sample, as in `mcnemar`.

    Returns
    -------
    CochransQResult
        Statistic against a chi-square of L - 1 degrees of freedom, 0 (p = 1) where all models err on the same samples.
        With two models it is McNemar's, uncorrected.

    Raises
    ------
    ValueError
        For fewer than two models, or predictions of another length than the labels.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Cochran (1950).

    Examples
    --------
    >>> q = cochrans_q([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1])
    >>> round(q.statistic, 4), round(q.pvalue, 4)
    (2.6667, 0.2636)
    """
    right = right_of(y_true, predictions).astype(float)
    models = right.shape[1]
    above = group_sums(right - right.mean(axis=1, keepdims=True), groups, sample_weight)
    squares = float(np.sum(above**2))
    if squares <= _ROUNDING * float(np.sum(group_sums(np.ones_like(right), groups, sample_weight) ** 2)):
        return CochransQResult(0.0, 1.0, models - 1)
    q = float((models - 1) * np.sum(above.sum(axis=0) ** 2) / squares)
    return CochransQResult(q, float(stats.chi2.sf(q, models - 1)), models - 1)


def looney_f_test(
    y_true: ArrayLike,
    *predictions: ArrayLike,
    df2: Literal["interaction", "samples"] = "interaction",
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> LooneyFResult:
    """Test by analysis of variance whether several models have the same accuracy on one test set.

    The interaction of models and samples is the error: ``F = (SSA / (L - 1)) / (SSAB / df2)``. With groups or weights,
    groups take the place of samples, with their weighted numbers of right predictions.

    Parameters
    ----------
    y_true
        True label of each test sample.
    *predictions
        Predictions of two or more models.
    df2
        Degrees of freedom of the denominator: ``interaction`` is (L - 1)(n - 1), Looney's; ``samples`` is (L - 1) n, as
        Kuncheva and mlxtend have it. It divides the interaction and is looked up alike.
    groups, sample_weight
        The group and the weight of each sample, as in `mcnemar`.

    Returns
    -------
    LooneyFResult
        F and its p-value; where the models err on the same samples, F is 0 and p is 1.

    Raises
    ------
    ValueError
        For fewer than two models, fewer than two samples, or predictions of another length than the labels.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4; Looney (1988).

    Examples
    --------
    >>> f = looney_f_test([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1])
    >>> round(f.statistic, 4), f.df
    (1.5, (2, 6))
    """
    check_choice("df2", df2, ("interaction", "samples"))
    rows = group_sums(right_of(y_true, predictions).astype(float), groups, sample_weight)
    n, models = rows.shape
    if n < 2:
        raise ValueError(f"{'y_true has one sample' if groups is None else 'groups is of one'}; it takes at least two")
    of_model, mean = rows.mean(axis=0), rows.mean()
    between_models = float(n * np.sum((of_model - mean) ** 2))
    interaction = float(np.sum((rows - of_model - rows.mean(axis=1, keepdims=True) + mean) ** 2))
    df = (models - 1, (models - 1) * (n if df2 == "samples" else n - 1))
    slack = _ROUNDING * float(np.sum(rows**2))
    if interaction <= slack:
        return LooneyFResult(0.0, 1.0, df) if between_models <= slack else LooneyFResult(np.inf, 0.0, df)
    statistic = (between_models / df[0]) / (interaction / df[1])
    return LooneyFResult(statistic, float(stats.f.sf(statistic, *df)), df)


def proportion_ztest(
    accuracy_1: float, accuracy_2: float, n_1: int, n_2: int | None = None, alternative: Alternative = "two-sided"
) -> ProportionZResult:
    """Test whether two models, each with a test set of its own, have the same accuracy.

    The statistic is ``(p1 - p2) / sqrt(p (1 - p) (1 / n1 + 1 / n2))`` with the pooled accuracy p. It takes the two test
    sets as independent, and their samples too: for two models on one test set use `mcnemar`, for groups or weights
    `unpaired_permutation_test`.

    Parameters
    ----------
    accuracy_1, accuracy_2
        Accuracies in [0, 1].
    n_1, n_2
        Sizes of the test sets; `n_2` is `n_1` by default.
    alternative
        ``two-sided``, or that the first accuracy is ``less`` or ``greater``.

    Returns
    -------
    ProportionZResult
        The statistic with its p-value.

    Raises
    ------
    ValueError
        For accuracies outside [0, 1], sizes below 1 or an unknown alternative.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> z, p = proportion_ztest(0.84, 0.92, 100)
    >>> round(z, 4), round(p, 4)
    (-1.7408, 0.0817)
    """
    check_choice("alternative", alternative, ("two-sided", "less", "greater"))
    p1 = check_number("accuracy_1", accuracy_1, ge=0, le=1)
    p2 = check_number("accuracy_2", accuracy_2, ge=0, le=1)
    n1 = check_count("n_1", n_1)
    n2 = n1 if n_2 is None else check_count("n_2", n_2)
    pooled = (n1 * p1 + n2 * p2) / (n1 + n2)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    z = 0.0 if p1 == p2 else float((p1 - p2) / deviation)
    pvalue = {"two-sided": 2 * stats.norm.sf(abs(z)), "less": stats.norm.cdf(z), "greater": stats.norm.sf(z)}
    return ProportionZResult(z, float(pvalue[alternative]))
