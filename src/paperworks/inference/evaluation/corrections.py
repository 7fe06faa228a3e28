"""Corrections of p-values for how many hypotheses were tested."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice
from paperworks.inference.evaluation.checks import finite_vector

Correction = Literal["bonferroni", "sidak", "holm", "hochberg", "bh", "by"]


def adjust_pvalues(pvalues: ArrayLike, method: Correction = "holm") -> np.ndarray:
    """Return p-values adjusted for multiple testing, in the order given; reject where one is at most the level.

    Parameters
    ----------
    pvalues
        One p-value in [0, 1] per hypothesis.
    method
        ``bonferroni``, ``sidak`` (independent tests), ``holm`` and ``hochberg`` (step-down, step-up; Hochberg's needs
        non-negative dependence) control the probability of any false rejection; ``bh`` (Benjamini and Hochberg) and
        ``by`` (Benjamini and Yekutieli, any dependence) the expected share of false ones among the rejections.

    Returns
    -------
    ndarray
        Adjusted p-values, of the shape given.

    Raises
    ------
    ValueError
        For an unknown method, or p-values that are no vector of numbers in [0, 1].

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> adjust_pvalues([0.01, 0.04, 0.03], "holm")
    array([0.03, 0.06, 0.06])
    """
    check_choice("method", method, get_args(Correction))
    p = finite_vector("pvalues", pvalues)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"pvalues is {pvalues!r}; it takes numbers in [0, 1]")
    m = len(p)
    if method == "bonferroni":
        return np.minimum(m * p, 1)
    if method == "sidak":
        with np.errstate(divide="ignore"):
            return -np.expm1(m * np.log1p(-p))
    order = np.argsort(p, kind="stable")
    rank = np.arange(1, m + 1)
    if method == "holm":
        stepped = np.maximum.accumulate((m - rank + 1) * p[order])
    else:
        factor = {
            "hochberg": m - rank + 1.0,
            "bh": m / rank,
            "by": m / rank * np.sum(1 / rank),
        }[method]
        stepped = np.minimum.accumulate((factor * p[order])[::-1])[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
