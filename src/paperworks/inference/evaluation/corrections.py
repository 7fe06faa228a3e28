"""Corrections of p-values for how many hypotheses were tested."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice
from paperworks.inference.evaluation.checks import finite_vector

NanPolicy = Literal["raise", "omit", "propagate"]

# The methods by the spellings of R's p.adjust, SciPy and statsmodels, in small letters with "_" for "-".
_SPELLINGS = {
    "bonferroni": ("bonferroni", "bonf", "b"),
    "sidak": ("sidak", "šidák", "s"),
    "holm": ("holm", "holm_bonferroni", "h"),
    "hochberg": ("hochberg", "simes_hochberg", "sh"),
    "bh": ("bh", "fdr_bh", "fdr", "benjamini_hochberg"),
    "by": ("by", "fdr_by", "benjamini_yekutieli"),
}
_METHODS = {spelling: method for method, spellings in _SPELLINGS.items() for spelling in spellings}


def adjust_pvalues(pvalues: ArrayLike, method: str = "holm", *, nan_policy: NanPolicy = "raise") -> np.ndarray:
    """Return p-values adjusted for multiple testing, in the order given; reject where one is at most the level.

    Parameters
    ----------
    pvalues
        One p-value in [0, 1] per hypothesis; there may be none.
    method
        ``bonferroni``, ``sidak`` (independent tests), ``holm`` and ``hochberg`` (step-down, step-up; Hochberg's needs
        non-negative dependence) control the probability of any false rejection; ``bh`` (Benjamini and Hochberg) and
        ``by`` (Benjamini and Yekutieli, any dependence) the expected share of false ones among the rejections. The
        spellings of R, SciPy and statsmodels will do: ``fdr_bh``, ``BH``, ``simes-hochberg``.
    nan_policy
        What a NaN does, as in SciPy: ``raise`` refuses it, ``omit`` adjusts the others as if it weren't there and
        leaves it NaN, ``propagate`` makes every adjusted p-value NaN.

    Returns
    -------
    ndarray
        Adjusted p-values, of the shape given.

    Raises
    ------
    ValueError
        For an unknown method or policy, or p-values that are no vector of numbers in [0, 1].

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> adjust_pvalues([0.01, 0.04, 0.03], "holm")
    array([0.03, 0.06, 0.06])
    >>> adjust_pvalues([0.01, np.nan, 0.03], "fdr_bh", nan_policy="omit")
    array([0.02,  nan, 0.03])
    """
    method = correction_of("method", method)
    check_choice("nan_policy", nan_policy, ("raise", "omit", "propagate"))
    p = np.asarray(pvalues, dtype=float)
    missing = np.isnan(p)
    if p.ndim == 1 and missing.any() and nan_policy != "raise":
        adjusted = np.full(p.shape, np.nan)
        if nan_policy == "omit":
            adjusted[~missing] = adjust_pvalues(p[~missing], method)
        return adjusted
    p = finite_vector("pvalues", p, at_least=0)
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
    return np.minimum(stepped, 1)[np.argsort(order)]


def correction_of(name: str, method: str) -> str:
    """Return a correction's own name, whatever the usual spelling it was given in; else raise ValueError.

    Examples
    --------
    >>> correction_of("correction", "FDR_BH")
    'bh'
    """
    found = _METHODS.get(str(method).lower().replace("-", "_").replace(" ", "_"))
    return found or check_choice(name, method, list(_SPELLINGS))
