"""Gaussian naive Bayes refitted on many weighted versions of one data set, and left-one-out by down-dating."""

from typing import Any

import numpy as np
from sklearn.naive_bayes import GaussianNB

from paperworks.inference.evaluation.batches import rounds_at_once
from paperworks.inference.evaluation.linear import digits_lost


def applies(estimator: Any) -> bool:
    """Say whether the estimator takes its priors from the class shares."""
    return type(estimator) is GaussianNB and estimator.priors is None


def refit_predictions(
    estimator: Any, X: np.ndarray, y: np.ndarray, counts: np.ndarray, X_eval: np.ndarray
) -> np.ndarray | None:
    """Return predictions (rounds, evaluated) of the model fitted with each row of counts as weights."""
    classes, member = np.unique(y, return_inverse=True)
    shift = X.mean(axis=0)
    X, X_eval = X - shift, X_eval - shift
    parts = []
    for rows in rounds_at_once(len(counts), len(X_eval) * len(classes)):
        weights = counts[rows].astype(float)
        total = weights.sum(axis=1)[:, None]
        spread = weights @ X**2 / total - (weights @ X / total) ** 2
        epsilon = estimator.var_smoothing * spread.max(axis=1)
        scores = np.full((len(weights), len(X_eval), len(classes)), -np.inf)
        for k in range(len(classes)):
            centre = X[member == k].mean(axis=0)
            own, mine = X[member == k] - centre, weights[:, member == k]
            size = mine.sum(axis=1)[:, None]
            present = size[:, 0] > 0
            mine, size = mine[present], size[present]
            mean = mine @ own / size
            squares = mine @ own**2 / size
            variance = squares - mean**2 + epsilon[present, None]
            if digits_lost(variance, squares) or not np.all(variance > 0):
                return None
            scores[present, :, k] = np.log(size / total[present]) + _log_density(X_eval - centre, mean, variance)
        parts.append(classes[scores.argmax(axis=-1)])
    return np.concatenate(parts)


def loo_predictions(estimator: Any, X: np.ndarray, y: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray | None:
    """Return each sample's prediction by the model fitted on all others; None where a class has a single sample.

    With the scales (n, features) by which each fold's features are divided before the fit, the smoothing is a share of
    the features' own variances, which are 1 on that scale.
    """
    n = len(X)
    classes, member = np.unique(y, return_inverse=True)
    sizes = np.bincount(member).astype(float)
    if len(classes) < 2 or sizes.min() < 2:
        return None
    X = X - X.mean(axis=0)
    # Without one sample a sum of squares about the mean falls by n / (n - 1) times the square of its deviation.
    if scale is None:
        spread = (np.sum(X**2, axis=0) - n / (n - 1) * X**2) / (n - 1)
        epsilon = estimator.var_smoothing * spread.max(axis=1)[:, None]
    else:
        epsilon = estimator.var_smoothing * scale**2
    scores = np.empty((n, len(classes)))
    for k, size in enumerate(sizes):
        mine = member == k
        mean = X[mine].mean(axis=0)
        away = X - mean
        squares = np.sum(away[mine] ** 2, axis=0)
        left = np.where(mine, size - 1, size)[:, None]
        lost = np.where(mine[:, None], size / (size - 1) * away**2, 0.0)
        variance = (squares - lost) / left + epsilon
        if digits_lost(variance, squares / left) or not np.all(variance > 0):
            return None
        away = np.where(mine[:, None], away * size / (size - 1), away)
        density = -0.5 * np.sum(np.log(2 * np.pi * variance) + away**2 / variance, axis=1)
        scores[:, k] = np.log(left[:, 0] / (n - 1)) + density
    return classes[scores.argmax(axis=1)]


def _log_density(points: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return log densities (rounds, points) of independent normals, as products of matrices."""
    constant = -0.5 * np.sum(np.log(2 * np.pi * variance) + mean**2 / variance, axis=1)
    return constant[:, None] - 0.5 * (1 / variance) @ (points**2).T + (mean / variance) @ points.T
