"""Permutation tests of two models' mean losses, on one test set or on two."""

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count
from paperworks.inference.evaluation.checks import finite_vector, group_sums, groups_of, power_of_two, weights_of

MOST_EXACT_SIGNS = 20  # differing samples up to which all sign flips are gone through
_ELEMENTS = 4_000_000  # of the largest block of random signs: 32 MB
_SLACK = 1e-12  # of rounding, between sums that are equal, as a share of what is summed

Alternative = Literal["two-sided", "less", "greater"]


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


def paired_permutation_test(
    losses_1: ArrayLike,
    losses_2: ArrayLike,
    *,
    n_permutations: int = 100_000,
    alternative: Alternative = "two-sided",
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
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
    groups
        The group of each sample. Differences of one group, which may depend on one another, change sign together.
    sample_weight
        The weight of each sample in the means.
    random_state
        Seed or generator of the flips.

    Returns
    -------
    PermutationResult
        The mean difference, and ``(1 + hits) / (1 + n_permutations)`` (or the exact share) as the p-value.

    Raises
    ------
    ValueError
        For losses that aren't finite or of unequal length, an unknown alternative, or groups or weights that don't fit.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4 (permutation tests).

    Examples
    --------
    >>> paired_permutation_test([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]).pvalue
    0.25
    >>> paired_permutation_test([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], groups=[7, 7, 8, 8, 9, 9]).pvalue
    0.5
    """
    check_choice("alternative", alternative, ("two-sided", "less", "greater"))
    first, second = finite_vector("losses_1", losses_1), finite_vector("losses_2", losses_2)
    if first.shape != second.shape:
        raise ValueError(f"losses_2 has shape {second.shape}; it takes that of losses_1, {first.shape}")
    unit = power_of_two(first, second)
    apart = first / unit - second / unit
    observed = float(np.average(apart, weights=weights_of(sample_weight, len(first)))) * unit
    differences = group_sums(apart, groups, sample_weight)
    differences = differences[differences != 0]  # a zero doesn't change with its sign
    if len(differences) <= MOST_EXACT_SIGNS:
        return PermutationResult(observed, share_of_signs(differences, alternative), 2 ** len(differences))
    check_count("n_permutations", n_permutations)
    rng = np.random.default_rng(random_state)
    total, slack = differences.sum(), _SLACK * np.abs(differences).sum()
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


def unpaired_permutation_test(
    sample_1: ArrayLike,
    sample_2: ArrayLike,
    *,
    n_permutations: int = 10_000,
    alternative: Alternative = "two-sided",
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = None,
) -> PermutationResult:
    """Test whether two models, each with a test set of its own, have the same mean loss, by exchanging samples.

    Parameters
    ----------
    sample_1, sample_2
        A loss (or 0/1 correctness) of every sample of each test set.
    n_permutations
        Random exchanges; where there are no more in all, each is gone through and p is exact.
    alternative
        ``two-sided``, or that the first mean is ``less`` or ``greater``.
    groups
        The group of each sample, those of the first set and then those of the second; groups are exchanged whole, and
        each has to be in one of the sets.
    sample_weight
        The weight of each sample in the means, in the same order.
    random_state
        Seed or generator of the exchanges.

    Returns
    -------
    PermutationResult
        The difference of the means, and ``(1 + hits) / (1 + n_permutations)`` (or the exact share) as the p-value.

    Raises
    ------
    ValueError
        For losses that aren't finite, an unknown alternative, a set whose weights are all zero, or groups that don't
        fit or are in both sets.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4 (permutation tests).

    Examples
    --------
    >>> unpaired_permutation_test([1, 1, 1], [0, 0, 0])
    PermutationResult(statistic=1.0, pvalue=0.1, n_permutations=20)
    """
    check_choice("alternative", alternative, ("two-sided", "less", "greater"))
    first, second = finite_vector("sample_1", sample_1), finite_vector("sample_2", sample_2)
    losses, in_first = np.concatenate([first, second]), np.arange(len(first) + len(second)) < len(first)
    weights = weights_of(sample_weight, len(losses))
    weights = np.ones(len(losses)) if weights is None else weights
    if not (weights[in_first].any() and weights[~in_first].any()):
        raise ValueError("sample_weight is zero on all of one set; it takes some weight in both")
    member = groups_of(groups, len(losses))
    member = np.arange(len(losses)) if member is None else member
    shared = np.intersect1d(member[in_first], member[~in_first])
    if len(shared):
        raise ValueError(f"groups has {len(shared)} in both sets; it takes groups of which each is in one")
    # What all losses have in common cancels, but its rounding wouldn't.
    unit = power_of_two(losses)
    losses = losses / unit
    losses = losses - losses.mean()
    kept = weights > 0
    # Each group's weight and weighted loss, and how many groups are in the first set.
    columns = group_sums(np.column_stack([np.ones(kept.sum()), losses[kept]]), member[kept], weights[kept])
    m, n = len(np.unique(member[kept & in_first])), len(columns)
    everything = columns.sum(axis=0)

    def differences(chosen: np.ndarray) -> np.ndarray:
        of_first = columns[chosen].sum(axis=-2)
        rest = everything - of_first
        return of_first[..., 1] / of_first[..., 0] - rest[..., 1] / rest[..., 0]

    of_kept = np.unique(member[kept], return_inverse=True)[1]
    observed = float(differences(np.unique(of_kept[in_first[kept]])[None])[0])
    slack = _SLACK * np.abs(losses).max()
    count = math.comb(n, m)
    rows = max(1, _ELEMENTS // (2 * n))
    hits = 0
    if count <= check_count("n_permutations", n_permutations):
        combinations = itertools.combinations(range(n), m)
        while chunk := list(itertools.islice(combinations, rows)):
            hits += _as_extreme(differences(np.array(chunk)), observed, slack, alternative)
        return PermutationResult(observed * unit, hits / count, count)
    rng = np.random.default_rng(random_state)
    for start in range(0, n_permutations, rows):
        drawn = rng.random((min(rows, n_permutations - start), n)).argpartition(m - 1, axis=1)[:, :m]
        hits += _as_extreme(differences(drawn), observed, slack, alternative)
    return PermutationResult(observed * unit, (1 + hits) / (1 + n_permutations), n_permutations)


def share_of_signs(differences: np.ndarray, alternative: Alternative) -> float:
    """Return the share of all sign flips of a few differences whose sum is as extreme as theirs.

    Examples
    --------
    >>> share_of_signs(np.array([1.0, 2.0]), "greater")
    0.25
    """
    sums = np.zeros(1)
    for d in differences:
        sums = np.concatenate([sums + d, sums - d])
    return _as_extreme(sums, differences.sum(), _SLACK * np.abs(differences).sum(), alternative) / len(sums)


def _as_extreme(sums: np.ndarray, total: float, slack: float, alternative: Alternative) -> int:
    if alternative == "less":
        return int(np.sum(sums <= total + slack))
    if alternative == "greater":
        return int(np.sum(sums >= total - slack))
    return int(np.sum(np.abs(sums) >= abs(total) - slack))
