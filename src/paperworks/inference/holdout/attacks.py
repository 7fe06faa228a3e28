"""Analysts who overfit: the vote of many features' signs, and regression on features that tests selected."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from paperworks.core.validation import check_count, check_number


def sign_vote(answers: ArrayLike, X: ArrayLike) -> np.ndarray:
    """Classify samples by a vote of features, each counted with the sign of its answered correlation.

    Parameters
    ----------
    answers
        Shape (d,): what an oracle said each feature's correlation with the labels is.
    X
        Shape (n, d).

    Returns
    -------
    numpy.ndarray
        Shape (n,): labels -1 and 1, and 0 for a tie.

    Raises
    ------
    ValueError
        For shapes that don't fit.

    References
    ----------
    The analyst of Dwork et al., arXiv 1411.2664, section 1.1 (and Freedman, 1983).

    Examples
    --------
    >>> sign_vote([0.1, -0.2], [[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    array([ 1., -1.,  0.])
    """
    signs, features = np.sign(np.asarray(answers, dtype=float)), np.asarray(X, dtype=float)
    if features.ndim != 2 or signs.shape != features.shape[1:]:
        raise ValueError(f"answers and X have shapes {signs.shape} and {features.shape}; it takes (d,) and (n, d)")
    return np.sign(features @ signs)


def sign_vote_accuracy(d: int, n: int, noise_std: float = 0.0) -> float:
    """Return the accuracy that a sign vote of d independent features seems to have on the n samples it was made from.

    ``Phi(sqrt(2 d / pi) (1 / n) / sqrt(1 / n + s^2))`` for Gaussian features, labels independent of them, and Gaussian
    noise of standard deviation s on each correlation. On fresh samples it is 1/2.

    Parameters
    ----------
    d, n
        Numbers of features and of samples.
    noise_std
        Standard deviation of the noise of each answer.

    Returns
    -------
    float
        The apparent accuracy, a share from 0 to 1.

    Raises
    ------
    ValueError
        For counts below 1 or a negative noise.

    References
    ----------
    The error of order ``sqrt(d / n)`` of Dwork et al., arXiv 1411.2664, section 1.1, with its constant.

    Examples
    --------
    >>> round(sign_vote_accuracy(500, 1000), 4), round(sign_vote_accuracy(500, 1000, 0.1), 4)
    (0.7137, 0.5675)
    """
    d, n = check_count("d", d), check_count("n", n)
    noise_std = check_number("noise_std", noise_std, ge=0)
    return float(special.ndtr(math.sqrt(2 * d / math.pi) / n / math.sqrt(1 / n + noise_std**2)))


class FreedmanResult(NamedTuple):
    """What a regression on selected features reports about itself.

    Parameters
    ----------
    selected
        Indices of the features that were selected.
    r_squared
        Share of the variance that the regression explains, 0 to 1.
    pvalue
        The p-value of the regression as a whole, by its F-test.
    significant
        How many of the selected features seem significant.

    Examples
    --------
    >>> FreedmanResult(selected=np.array([3]), r_squared=0.4, pvalue=0.01, significant=1).pvalue
    0.01
    """

    selected: np.ndarray
    r_squared: float
    pvalue: float
    significant: int


def freedman_regression(X: ArrayLike, y: ArrayLike, alpha: float = 0.25, final_alpha: float = 0.05) -> FreedmanResult:
    """Regress on all features, keep those that pass a test at `alpha`, regress on them, and report as if from scratch.

    Parameters
    ----------
    X, y
        Shapes (n, d) and (n,), with more samples than features and a column for the constant.
    alpha
        Significance at which a feature is kept.
    final_alpha
        Significance at which features are counted in the end.

    Returns
    -------
    FreedmanResult
        `selected` features, `r_squared` and the F test's `pvalue` of the second regression, and how many of its
        coefficients are `significant`.

    Raises
    ------
    ValueError
        For shapes that don't fit, or alphas outside (0, 1).

    References
    ----------
    Freedman, A Note on Screening Regression Equations (1983); the example of Dwork et al., arXiv 1411.2664, section 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = freedman_regression(rng.normal(size=(100, 50)), rng.normal(size=100))
    >>> found.pvalue < 0.05
    True
    """
    features, target = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    if features.ndim != 2 or target.shape != features.shape[:1] or features.shape[0] <= features.shape[1] + 1:
        raise ValueError(f"X and y have shapes {features.shape} and {target.shape}; it takes (n > d + 1, d) and (n,)")
    check_number("alpha", alpha, gt=0, lt=1)
    check_number("final_alpha", final_alpha, gt=0, lt=1)
    selected = np.flatnonzero(_regress(features, target)[2] < alpha)
    r_squared, pvalue, pvalues = _regress(features[:, selected], target)
    return FreedmanResult(selected, r_squared, pvalue, int(np.sum(pvalues < final_alpha)))


def _regress(X: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return R squared, the p-value of the F test, and the p-values of the coefficients."""
    n, d = X.shape
    design = np.column_stack([np.ones(n), X])
    q, r = np.linalg.qr(design)
    coefficients = np.linalg.solve(r, q.T @ y)
    freedom = n - d - 1
    residual = float(np.sum((y - design @ coefficients) ** 2))
    total = float(np.sum((y - y.mean()) ** 2))
    errors = np.sqrt(residual / freedom * np.sum(np.linalg.inv(r) ** 2, axis=1))
    pvalues = 2 * stats.t.sf(np.abs(coefficients / errors), freedom)[1:]
    fisher = (total - residual) / max(d, 1) / (residual / freedom)
    return 1 - residual / total, float(stats.f.sf(fisher, max(d, 1), freedom)), pvalues
