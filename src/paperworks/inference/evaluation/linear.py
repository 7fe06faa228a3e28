"""Linear models refitted on many weighted versions of one data set at once, and left-one-out in closed form."""

from typing import Any

import numpy as np
from scipy import linalg
from sklearn.linear_model import LinearRegression, Ridge, RidgeClassifier

from paperworks.inference.evaluation.batches import rounds_at_once, weighted_grams, weighted_products

_SINGULAR = 1e-12  # least share of the largest pivot that a pivot of the Gram matrix may have
LEAST_LEFT = 1e-8  # of what a sample leaves to the others: where there is less, the update has lost its digits


def applies(estimator: Any) -> bool:
    """Say whether the estimator is solved by the normal equations alone."""
    if type(estimator) is LinearRegression:
        return not estimator.positive
    if type(estimator) not in (Ridge, RidgeClassifier) or estimator.positive:
        return False
    return np.ndim(estimator.alpha) == 0 and getattr(estimator, "class_weight", None) is None


def refit_predictions(
    estimator: Any, X: np.ndarray, y: np.ndarray, counts: np.ndarray, X_eval: np.ndarray
) -> np.ndarray | None:
    """Return predictions (rounds, evaluated) of the model fitted with each row of counts as weights; None if singular.

    One batched product makes all Gram matrices, one batched solve all coefficients.
    """
    targets, classes = targets_of(estimator, y)
    if classes is not None and len(classes) < 2:
        return None
    shift = X.mean(axis=0) if estimator.fit_intercept else np.zeros(X.shape[1])
    X, X_eval = X - shift, X_eval - shift  # near the origin, the centred products lose no digits
    penalty = getattr(estimator, "alpha", 0.0) * np.eye(X.shape[1])
    parts = []
    for rows in rounds_at_once(len(counts), X.shape[1] ** 2 + len(X_eval) * targets.shape[1]):
        weights = counts[rows].astype(float)
        gram, moment = weighted_grams(weights, X), weighted_products(weights, X, targets)
        total = weights.sum(axis=1)
        x_mean, y_mean = np.zeros((len(weights), X.shape[1])), np.zeros((len(weights), targets.shape[1]))
        if estimator.fit_intercept:
            x_mean, y_mean = weights @ X / total[:, None], weights @ targets / total[:, None]
            squares = np.linalg.diagonal(gram).copy()
            gram -= total[:, None, None] * x_mean[:, :, None] * x_mean[:, None, :]
            if digits_lost(np.linalg.diagonal(gram + penalty), squares):
                return None
            moment -= total[:, None, None] * x_mean[:, :, None] * y_mean[:, None, :]
        coefficients = solve_positive(gram + penalty, moment, max(_SINGULAR, _least_share(estimator) ** 2))
        if coefficients is None:
            return None
        offset = y_mean - np.einsum("rd,rdk->rk", x_mean, coefficients)
        values = np.tensordot(coefficients, X_eval, (1, 1)).transpose(0, 2, 1) + offset[:, None, :]  # one product
        parts.append(labels_of(values, classes, _present(weights, y, classes)))
    return np.concatenate(parts)


def loo_predictions(estimator: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return each sample's prediction by the model fitted on all others: ``y - e / (1 - h)`` with the leverages h.

    None where a leverage is one, so that the model without that sample isn't determined.
    """
    targets, classes = targets_of(estimator, y)
    centred = X - X.mean(axis=0) if estimator.fit_intercept else X
    y_mean = targets.mean(axis=0) if estimator.fit_intercept else np.zeros(targets.shape[1])
    u, s, _ = linalg.svd(centred, full_matrices=False)
    alpha = getattr(estimator, "alpha", 0.0)
    if alpha == 0 and not np.all(s > s[0] * max(max(X.shape) * np.finfo(float).eps, _least_share(estimator))):
        return None
    shrink = s**2 / (s**2 + alpha) if alpha else np.ones_like(s)
    leverage = (u**2) @ shrink + (1 / len(X) if estimator.fit_intercept else 0)
    if np.any(1 - leverage < LEAST_LEFT):
        return None
    fitted = u @ (shrink[:, None] * (u.T @ (targets - y_mean))) + y_mean
    values = targets - (targets - fitted) / (1 - leverage)[:, None]
    if classes is not None and np.bincount(np.searchsorted(classes, y)).min() < 2:
        return None  # a class leaves with its only sample
    return labels_of(values[None], classes, None)[0]


def _least_share(estimator: Any) -> float:
    """Return the share of the largest singular value below which scikit-learn's least squares may drop another."""
    return 10 * estimator.tol if type(estimator) is LinearRegression and hasattr(estimator, "tol") else 0.0


def digits_lost(left: np.ndarray, squares: np.ndarray) -> bool:
    """Say whether what is left of sums of squares, once their means' are taken off, has few digits that are right."""
    return bool(np.any((left < _SINGULAR * 100 * squares) & (squares > 0)))


def solve_positive(matrices: np.ndarray, right: np.ndarray, least: float = _SINGULAR) -> np.ndarray | None:
    """Solve a batch of symmetric positive definite systems; None where a pivot has less than some share of another."""
    try:
        pivots = np.linalg.diagonal(np.linalg.cholesky(matrices)) ** 2
    except np.linalg.LinAlgError:
        return None
    if np.any(pivots.min(axis=-1) < least * pivots.max(axis=-1)):
        return None
    return np.linalg.solve(matrices, right)


def targets_of(estimator: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the targets as columns, for a classifier one of -1 and 1 per class (one alone for two classes)."""
    if type(estimator) is not RidgeClassifier:
        return y.astype(float)[:, None], None
    classes = np.unique(y)
    columns = classes[1:] if len(classes) == 2 else classes
    return np.where(y[:, None] == columns, 1.0, -1.0), classes


def _present(weights: np.ndarray, y: np.ndarray, classes: np.ndarray | None) -> np.ndarray | None:
    return None if classes is None else weights @ (y[:, None] == classes) > 0


def labels_of(values: np.ndarray, classes: np.ndarray | None, present: np.ndarray | None) -> np.ndarray:
    """Turn values (rounds, evaluated, columns) into predictions."""
    if classes is None:
        return values[..., 0]
    if values.shape[-1] == 1:
        return classes[(values[..., 0] > 0).astype(int)]
    if present is not None:
        values = np.where(present[:, None, :], values, -np.inf)
    return classes[values.argmax(axis=-1)]
