"""Exact confidence bounds and tests of a binomial share, for whole arrays of counts."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betaincinv

from paperworks.core.validation import check_count, check_number

Counts = Int[np.ndarray, "*shape"] | int


def lower_confidence_bound(count: Counts, n: int, alpha: float = 0.001) -> Float[np.ndarray, "*shape"]:
    """Bound a binomial probability from below by Clopper and Pearson's exact one-sided interval.

    Parameters
    ----------
    count
        Numbers of successes, each of `n` draws.
    n
        Number of draws.
    alpha
        Probability that a bound exceeds the true probability, at most. Default 0.001, as is usual for certificates.

    Returns
    -------
    ndarray
        The bound, of the shape of `count`: the quantile `alpha` of the beta distribution with parameters ``count`` and
        ``n - count + 1``; 0 without successes, and ``alpha**(1/n)`` where all draws are.

    Raises
    ------
    ValueError
        For counts outside 0 to `n`, `n` below 1, or `alpha` outside (0, 1).

    Notes
    -----
    Each different count is solved for once, so an array much longer than `n` costs hardly more than a look-up.

    Examples
    --------
    >>> lower_confidence_bound(np.array([0, 990, 1000]), 1000).round(4)
    array([0.    , 0.976 , 0.9931])
    """
    check_count("n", n)
    check_number("alpha", alpha, gt=0, lt=1)
    counts = _checked(count, n)
    if counts.size < 32:
        return _clopper_pearson(counts, n, alpha)
    seen = np.zeros(n + 1, dtype=bool)
    seen[counts] = True
    bounds = np.zeros(n + 1)
    bounds[seen] = _clopper_pearson(np.flatnonzero(seen), n, alpha)
    return bounds[counts]


def _clopper_pearson(counts: np.ndarray, n: int, alpha: float) -> np.ndarray:
    quantile = betaincinv(np.maximum(counts, 1), n - counts + 1, alpha)  # a beta distribution needs one success
    quantile = np.nan_to_num(quantile, nan=0.0)  # where no bound is found, as for alpha below 1e-100: none is given
    return np.where(counts == n, alpha ** (1 / n), np.where(counts == 0, 0.0, quantile))


def two_sided_p_value(count: Counts, n: Counts) -> Float[np.ndarray, "*shape"]:
    """Test whether two outcomes are equally likely: the probability of a split of `n` at least as uneven.

    Parameters
    ----------
    count
        How often one of the two outcomes occurred.
    n
        How many trials there were.

    Returns
    -------
    ndarray of shape (...)
        One p-value for each count.

    Raises
    ------
    ValueError
        For counts outside 0 to `n`.

    Examples
    --------
    >>> two_sided_p_value(np.array([5, 10]), 10)
    array([1.        , 0.00195312])
    """
    draws = np.asarray(n)
    counts = _checked(count, draws)
    more = np.maximum(counts, draws - counts)
    tail = betainc(np.maximum(more, 1), draws - more + 1, 0.5)  # P(X >= more)
    return np.where(2 * more == draws, 1.0, np.minimum(1.0, 2 * tail))


def _checked(count: Counts, n: int | np.ndarray) -> np.ndarray:
    counts = np.asarray(count)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"count has dtype {counts.dtype}; it takes whole numbers")
    if counts.size and (counts.min() < 0 or (counts > n).any()):
        raise ValueError(f"count ranges from {counts.min()} to {counts.max()}; it takes 0 to n = {np.max(n)}")
    return counts
