"""Leave-one-out behind a scaler that is fitted in each fold: means and variances of all folds by rank-one updates."""

from types import ModuleType
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.preprocessing import StandardScaler

from paperworks.inference.evaluation import linear, naive_bayes, neighbours

_ITERATIONS, _CONVERGED = 100, 1e-14


def loo_predictions(
    scaler: Any, estimator: Any, module: ModuleType | None, X: np.ndarray, y: np.ndarray
) -> np.ndarray | None:
    """Return each sample's prediction by scaler and model fitted on all others; None where no closed form applies.

    With d a sample's deviation from the mean of n samples, the others' mean is ``mean - d / (n - 1)`` and their sum of
    squares about it smaller by ``n / (n - 1) d^2``. Discriminants, and linear models without a penalty that have an
    intercept, predict the same on any scale.
    """
    n = len(X)
    if type(scaler) is not StandardScaler or module is None or n < 3:
        return None
    away = X - X.mean(axis=0)
    squares = np.sum(away**2, axis=0)
    # As scikit-learn has it: what doesn't vary but for rounding is a constant, and is not scaled.
    constant = squares <= n * (n * np.abs(X).max(axis=0) * np.finfo(float).eps) ** 2
    if scaler.with_std:  # then no unit matters, and one of the size of the deviations loses no digits
        unit = np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, squares) / n))
        X, away, squares = X / unit, away / unit, squares / unit**2
    left = squares - n / (n - 1) * away**2
    if constant.all() or np.any(left[:, ~constant] < linear.LEAST_LEFT * squares[~constant]):
        return None
    scale = np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, left) / (n - 1)))
    if module is linear and not (estimator.fit_intercept and getattr(estimator, "alpha", 0.0) == 0):
        penalised, centred = scaler.with_std & ~constant, scaler.with_mean or estimator.fit_intercept
        return _linear(estimator, X, y, squares, left, penalised, centred)
    if module is naive_bayes and scaler.with_std:
        return naive_bayes.loo_predictions(estimator, X, y, scale)
    if module is neighbours and scaler.with_std:
        return neighbours.scaled_loo_predictions(estimator, X, y, scale)
    return module.loo_predictions(estimator, X, y)


def _linear(
    estimator: Any,
    X: np.ndarray,
    y: np.ndarray,
    squares: np.ndarray,
    left: np.ndarray,
    scaled: np.ndarray,
    centred: bool,
) -> np.ndarray | None:
    """Solve all folds' normal equations, in the features' own units, where the penalty is times their variances.

    Without a sample of deviation d they have the matrix ``M - f d d' - c diag(d^2)``. The inverse of the first two
    terms is that of M and a rank-one update; the last one, of the order of one sample's share, takes a few iterations,
    whose splitting of a positive definite matrix always converges.
    """
    targets, classes = linear.targets_of(estimator, y)
    if classes is not None and np.bincount(np.searchsorted(classes, y)).min() < 2:
        return None  # a class leaves with its only sample
    n, alpha = len(X), getattr(estimator, "alpha", 0.0)
    grow = n / (n - 1) if centred else 1.0
    d = X - X.mean(axis=0) if centred else X
    y_mean = targets.mean(axis=0)
    residual = targets - y_mean if centred else targets
    penalty = alpha * np.where(scaled, squares / (n - 1), 1.0)
    lost = penalty - alpha * np.where(scaled, left / (n - 1), 1.0)
    # By an orthogonal factor of d over the penalty's root, leverages keep their digits, even with n below the features.
    factor, triangle = linalg.qr(np.vstack([d, np.diag(np.sqrt(penalty))]), mode="economic")
    pivots = np.abs(np.diag(triangle))
    if pivots.min() < 1e-6 * pivots.max():
        return None
    half = linalg.solve_triangular(triangle, np.eye(len(triangle)))
    inverse, own = half @ half.T, factor[:n]
    solved = own @ half.T
    rest = 1 - grow * np.einsum("nd,nd->n", own, own)
    if np.any(rest < linear.LEAST_LEFT):
        return None

    def without(right: np.ndarray) -> np.ndarray:
        update = grow * np.einsum("nd,nd->n", solved, right) / rest
        return right @ inverse + update[:, None] * solved

    values = np.empty(targets.shape)
    for k, moment in enumerate((d.T @ residual).T):
        right = moment - grow * d * residual[:, [k]]
        found, change = without(right), np.inf
        for _ in range(_ITERATIONS):
            before, found = found, without(right + lost * found)
            change = np.abs(found - before).max() / max(np.abs(found).max(), np.finfo(float).tiny)
            if change < _CONVERGED:
                break
        else:
            return None
        values[:, k] = grow * np.einsum("nd,nd->n", d, found)
    if estimator.fit_intercept:
        values += y_mean - residual / (n - 1)
    return linear.labels_of(values[None], classes, None)[0]
