"""Linear discriminant analysis refitted on many weighted versions of one data set, and left-one-out by down-dating."""

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from paperworks.inference.evaluation.batches import rounds_at_once, weighted_grams, weighted_products
from paperworks.inference.evaluation.linear import LEAST_LEFT, digits_lost, solve_positive


def applies(estimator: Any) -> bool:
    """Say whether the estimator is the textbook's: pooled covariance as estimated, priors from the class shares."""
    return (
        type(estimator) is LinearDiscriminantAnalysis
        and estimator.solver in ("svd", "lsqr")
        and estimator.priors is None
        and estimator.shrinkage is None
        and estimator.covariance_estimator is None
        and estimator.n_components is None  # of which scikit-learn says whether there are as many
    )


def refit_predictions(
    estimator: Any, X: np.ndarray, y: np.ndarray, counts: np.ndarray, X_eval: np.ndarray
) -> np.ndarray | None:
    """Return predictions (rounds, evaluated) of the model fitted with each row of counts; None if singular."""
    classes, member = np.unique(y, return_inverse=True)
    shift = X.mean(axis=0)
    X, X_eval = X - shift, X_eval - shift
    one_hot = np.eye(len(classes))[member]
    parts = []
    for rows in rounds_at_once(len(counts), X.shape[1] ** 2 + len(X_eval) * len(classes)):
        weights = counts[rows].astype(float)
        total, sizes = weights.sum(axis=1), weights @ one_hot
        if np.any((sizes > 0).sum(axis=1) < 2) or np.any(total <= (sizes > 0).sum(axis=1)):
            return None  # the estimator itself says what is wrong with such a sample
        sums = weighted_products(weights, one_hot, X)
        means = sums / np.maximum(sizes, 1)[:, :, None]
        squares = weighted_grams(weights, X)
        within = squares - means.transpose(0, 2, 1) @ sums
        if digits_lost(np.linalg.diagonal(within), np.linalg.diagonal(squares)):
            return None
        deviation = _deviations(estimator, within)
        correlation = within / (deviation[:, :, None] * deviation[:, None, :])
        coefficients = solve_positive(
            correlation, means.transpose(0, 2, 1) / deviation[:, :, None], _least_share(estimator)
        )
        if coefficients is None:
            return None
        coefficients *= total[:, None, None] / deviation[:, :, None]
        with np.errstate(divide="ignore"):
            log_prior = np.log(sizes / total[:, None])
        offset = log_prior - 0.5 * np.einsum("rkd,rdk->rk", means, coefficients)
        parts.append(classes[(X_eval @ coefficients + offset[:, None, :]).argmax(axis=-1)])
    return np.concatenate(parts)


def _deviations(estimator: Any, within: np.ndarray) -> np.ndarray:
    """Return by what features are divided: by roots of the scatter matrices' diagonals for ``svd``, else by nothing."""
    squares = np.linalg.diagonal(within)
    return np.sqrt(np.where((squares > 0) & (estimator.solver == "svd"), squares, 1.0))


def _least_share(estimator: Any) -> float:
    """Return the least pivot: below ``tol^2`` of a feature's, scikit-learn's ``svd`` drops what is left of it."""
    return max(1e-12, 100 * estimator.tol**2) if estimator.solver == "svd" else 1e-12


def loo_predictions(estimator: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return each sample's prediction by the model fitted on all others; None where one of those isn't determined.

    Without sample i of class c the scatter within classes is ``S - n_c / (n_c - 1) d d'`` with ``d = x_i - mean_c``,
    whose inverse Sherman and Morrison's formula gives, so that one factorisation serves all samples.
    """
    n, features = X.shape
    classes, member = np.unique(y, return_inverse=True)
    sizes = np.bincount(member)
    if len(classes) < 2 or sizes.min() < 2 or n - 1 <= len(classes):
        return None
    X = X - X.mean(axis=0)
    means = np.stack([X[member == c].mean(axis=0) for c in range(len(classes))])
    residual = X - means[member]
    deviation = _deviations(estimator, (residual.T @ residual)[None])[0]
    X, means, residual = X / deviation, means / deviation, residual / deviation  # where no unit of a feature matters
    inverse = solve_positive((residual.T @ residual)[None], np.eye(features)[None], _least_share(estimator))
    if inverse is None:
        return None
    factor = (sizes / (sizes - 1.0))[member]
    solved = residual @ inverse[0]
    rest = 1 - factor * np.einsum("nd,nd->n", solved, residual)
    if np.any(rest < LEAST_LEFT):
        return None  # the other samples' scatter is singular
    apart = X[:, None, :] - means  # from each class mean; the own class's moves when the sample leaves
    apart[np.arange(n), member] *= factor[:, None]
    distance = np.einsum("nkd,nkd->nk", apart @ inverse[0], apart)
    distance += factor[:, None] * np.einsum("nkd,nd->nk", apart, solved) ** 2 / rest[:, None]
    left = sizes - np.eye(len(classes), dtype=int)[member]
    return classes[(np.log(left) - 0.5 * (n - 1) * distance).argmax(axis=1)]
