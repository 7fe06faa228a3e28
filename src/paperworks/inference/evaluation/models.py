"""Tests for comparing fixed models on one test set."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.evaluation.checks import finite_vector, right_of

_EXACT_BELOW = 25  # discordant samples below which the chi-square approximation is not trusted
_MOST_EXACT_SIGNS = 20  # differing samples up to which all sign flips are gone through
_ELEMENTS = 4_000_000  # of the largest block of random signs: 32 MB

Alternative = Literal["two-sided", "less", "greater"]


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


class PermutationResult(NamedTuple):
    """Mean difference, p-value, and how many permutations it stands on.

    Parameters
    ----------
    statistic
        Mean difference, first less second.
    pvalue
        Probability of at least this much under the null hypothesis.
    n_permutations
        How many permutations the p-value stands on.
    """

    statistic: float
    pvalue: float
    n_permutations: int


def mcnemar(
    table_or_y: ArrayLike,
    predictions_1: ArrayLike | None = None,
    predictions_2: ArrayLike | None = None,
    *,
    exact: bool | Literal["auto", "mid-p"] = "auto",
    correction: bool = True,
) -> McNemarResult:
    """Test whether two models err equally often on one test set.

    With b samples that only the first and c that only the second model has right: ``(|b - c| - 1)^2 / (b + c)`` against
    a chi-square of one degree of freedom, or the binomial distribution of ``min(b, c)`` given ``b + c``.

    Parameters
    ----------
    table_or_y
        The table ``[[a, b], [c, d]]`` of counts, or the true labels.
    predictions_1, predictions_2
        Predictions of the two models, where labels are given.
    exact
        The binomial test: always (True), never (False), its mid-p form (``mid-p``), or ``auto``: where ``b + c < 25``.
    correction
        Edwards' correction for continuity of the chi-square statistic.

    Returns
    -------
    McNemarResult
        For the exact forms the statistic is ``min(b, c)`` and ``df`` is 0.

    Raises
    ------
    ValueError
        For a table that isn't 2x2 of whole numbers >= 0, or predictions of another length than the labels.

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


def cochrans_q(y_true: ArrayLike, *predictions: ArrayLike) -> CochransQResult:
    """Test whether several models have the same accuracy on one test set.

    Parameters
    ----------
    y_true
        True label of each test sample.
    *predictions
        Predictions of two or more models.

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
    by_model, by_sample = right.sum(axis=0), right.sum(axis=1)
    total = by_model.sum()
    below = models * total - np.sum(by_sample**2)
    if below == 0:
        return CochransQResult(0.0, 1.0, models - 1)
    q = (models - 1) * (models * np.sum(by_model**2) - total**2) / below
    return CochransQResult(float(q), float(stats.chi2.sf(q, models - 1)), models - 1)


def looney_f_test(
    y_true: ArrayLike, *predictions: ArrayLike, df2: Literal["interaction", "samples"] = "interaction"
) -> LooneyFResult:
    """Test by analysis of variance whether several models have the same accuracy on one test set.

    Parameters
    ----------
    y_true
        True label of each test sample.
    *predictions
        Predictions of two or more models.
    df2
        Degrees of freedom of the denominator: ``interaction`` is (L - 1)(n - 1), Looney's; ``samples`` is (L - 1) n, as
        Kuncheva and mlxtend have it.

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
    right = right_of(y_true, predictions).astype(float)
    n, models = right.shape
    if n < 2:
        raise ValueError("y_true has one sample; it takes at least two")
    mean = right.mean()
    between_models = n * np.sum((right.mean(axis=0) - mean) ** 2)
    between_samples = models * np.sum((right.mean(axis=1) - mean) ** 2)
    # The mean square of zeros and ones is their mean, so the total is n L mean (1 - mean).
    interaction = n * models * mean * (1 - mean) - between_models - between_samples
    df = (models - 1, (models - 1) * (n if df2 == "samples" else n - 1))
    if interaction <= 1e-12 * n * models:
        return LooneyFResult(0.0, 1.0, df) if between_models <= 1e-12 * n else LooneyFResult(np.inf, 0.0, df)
    statistic = float((between_models / df[0]) / (interaction / df[1]))
    return LooneyFResult(statistic, float(stats.f.sf(statistic, *df)), df)


def proportion_ztest(
    accuracy_1: float, accuracy_2: float, n_1: int, n_2: int | None = None, alternative: Alternative = "two-sided"
) -> ProportionZResult:
    """Test whether two models, each with a test set of its own, have the same accuracy.

    The statistic is ``(p1 - p2) / sqrt(p (1 - p) (1 / n1 + 1 / n2))`` with the pooled accuracy p. It takes the two test
    sets as independent: for two models on one test set use `mcnemar`.

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


def paired_permutation_test(
    losses_1: ArrayLike,
    losses_2: ArrayLike,
    *,
    n_permutations: int = 100_000,
    alternative: Alternative = "two-sided",
    random_state: int | np.random.Generator | None = None,
) -> PermutationResult:
    """Test whether two models have the same mean loss on one test set, by flipping the signs of the differences.

    Parameters
    ----------
    losses_1, losses_2
        A loss (or 0/1 correctness) of every sample by each model.
    n_permutations
        Random sign flips where more than 20 samples differ; with fewer all of them are gone through and p is exact.
    alternative
        ``two-sided``, or that the first mean loss is ``less`` or ``greater``.
    random_state
        Seed or generator of the flips.

    Returns
    -------
    PermutationResult
        The mean difference, and ``(1 + hits) / (1 + n_permutations)`` (or the exact share) as the p-value.

    Raises
    ------
    ValueError
        For losses that aren't finite or of unequal length, or an unknown alternative.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4 (permutation tests).

    Examples
    --------
    >>> paired_permutation_test([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]).pvalue
    0.25
    """
    check_choice("alternative", alternative, ("two-sided", "less", "greater"))
    first, second = finite_vector("losses_1", losses_1), finite_vector("losses_2", losses_2)
    if first.shape != second.shape:
        raise ValueError(f"losses_2 has shape {second.shape}; it takes that of losses_1, {first.shape}")
    observed = float(np.mean(first - second))
    differences = first - second
    differences = differences[differences != 0]  # a zero doesn't change with its sign
    total = differences.sum()
    slack = 1e-12 * np.abs(differences).sum()  # of rounding, between sums that are equal
    if len(differences) <= _MOST_EXACT_SIGNS:
        sums = np.zeros(1)
        for d in differences:
            sums = np.concatenate([sums + d, sums - d])
        return PermutationResult(observed, float(_as_extreme(sums, total, slack, alternative) / len(sums)), len(sums))
    check_count("n_permutations", n_permutations)
    rng = np.random.default_rng(random_state)
    hits, done = 0, 0
    while done < n_permutations:
        rows = min(n_permutations - done, max(1, _ELEMENTS // len(differences)))
        bits = np.unpackbits(
            np.frombuffer(rng.bytes(rows * ((len(differences) + 7) // 8)), np.uint8).reshape(rows, -1), axis=1
        )
        signs = bits[:, : len(differences)].astype(float)
        hits += _as_extreme(2 * (signs @ differences) - total, total, slack, alternative)
        done += rows
    return PermutationResult(observed, (1 + hits) / (1 + n_permutations), n_permutations)


def _as_extreme(sums: np.ndarray, total: float, slack: float, alternative: Alternative) -> int:
    if alternative == "less":
        return int(np.sum(sums <= total + slack))
    if alternative == "greater":
        return int(np.sum(sums >= total - slack))
    return int(np.sum(np.abs(sums) >= abs(total) - slack))
