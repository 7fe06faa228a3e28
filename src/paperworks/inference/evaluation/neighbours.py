"""Nearest neighbours for many weighted versions of one data set: one search serves them all."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from paperworks.inference.evaluation.batches import rounds_at_once


def applies(estimator: Any) -> bool:
    """Say whether all neighbours count alike."""
    return (
        type(estimator) in (KNeighborsClassifier, KNeighborsRegressor)
        and estimator.weights == "uniform"
        and estimator.metric != "nan_euclidean"  # whose samples may have gaps
    )


def refit_predictions(
    estimator: Any, X: np.ndarray, y: np.ndarray, counts: np.ndarray, X_eval: np.ndarray
) -> np.ndarray | None:
    """Return predictions (rounds, evaluated) of the model fitted with each sample repeated as often as counted.

    Neighbours at equal distances are taken in the order of their indices. None where a round has too few samples.
    """
    k, n = estimator.n_neighbors, len(X)
    if np.any(counts.sum(axis=1) < k):
        return None
    classifies = type(estimator) is KNeighborsClassifier
    classes, member = np.unique(y, return_inverse=True) if classifies else (None, None)
    values = np.eye(len(classes))[member] if classes is not None else y.astype(float)[:, None]
    options = {name: getattr(estimator, name) for name in ("algorithm", "leaf_size", "metric", "p", "metric_params")}
    search = NearestNeighbors(**options).fit(X)
    predictions = np.empty((len(counts), len(X_eval)), dtype=y.dtype if classifies else float)
    pending = np.arange(len(counts))
    wanted = min(n, 2 * k + 16)
    while len(pending):
        nearest = search.kneighbors(X_eval, n_neighbors=wanted, return_distance=False)
        short = []
        for rows in rounds_at_once(len(pending), nearest.size):
            rounds = pending[rows]
            there = counts[rounds][:, nearest]
            before = np.cumsum(there, axis=-1) - there
            enough = np.all(before[..., -1] + there[..., -1] >= k, axis=-1)
            short.append(rounds[~enough])
            taken = np.clip(k - before[enough], 0, there[enough]).astype(float)
            votes = np.matmul(taken.transpose(1, 0, 2), values[nearest]).transpose(1, 0, 2)
            predictions[rounds[enough]] = classes[votes.argmax(axis=-1)] if classes is not None else votes[..., 0] / k
        pending = np.concatenate(short)
        if len(pending) and wanted == n:
            return None  # distances that aren't numbers
        wanted = min(n, 2 * wanted)
    return predictions


def loo_predictions(estimator: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return each sample's prediction by its neighbours other than itself; None where there are too few."""
    if len(X) <= estimator.n_neighbors:
        return None
    # Without points to look at, scikit-learn asks for the training samples, none its own neighbour.
    return clone(estimator).fit(X, y).predict(None)


def scaled_loo_predictions(estimator: Any, X: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """Return each sample's prediction by its nearest others on its own scale, shape (n, features).

    None for other distances than Euclid's or where there are too few samples.
    """
    n, k = len(X), estimator.n_neighbors
    euclidean = estimator.metric == "euclidean" or (estimator.metric == "minkowski" and estimator.p == 2)
    if n <= k or not euclidean or estimator.metric_params:
        return None
    classifies = type(estimator) is KNeighborsClassifier
    classes, member = np.unique(y, return_inverse=True) if classifies else (None, None)
    values = np.eye(len(classes))[member] if classes is not None else y.astype(float)[:, None]
    X = X - X.mean(axis=0)
    wanted = min(n - 1, k + 8)  # products of matrices round, so that a few more are looked at again
    found = np.empty((n, k), dtype=int)
    for rows in rounds_at_once(n, n + wanted * X.shape[1]):
        points, weight = X[rows], scale[rows] ** -2
        distance = weight @ (X**2).T - 2 * (weight * points) @ X.T
        distance[np.arange(len(points)), np.arange(n)[rows]] = np.inf
        near = np.sort(distance.argpartition(wanted - 1, axis=1)[:, :wanted], axis=1)
        exact = np.sum(((points[:, None, :] - X[near]) / scale[rows][:, None, :]) ** 2, axis=-1)
        found[rows] = np.take_along_axis(near, exact.argsort(axis=1, kind="stable")[:, :k], axis=1)
    votes = values[found].sum(axis=1)
    return classes[votes.argmax(axis=1)] if classes is not None else votes[:, 0] / k
