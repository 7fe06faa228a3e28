"""Checks of arrays that the evaluation functions share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def finite_vector(name: str, values: ArrayLike, at_least: int = 1) -> np.ndarray:
    """Return `values` as a vector of at least so many finite floats, else raise ValueError.

    Examples
    --------
    >>> finite_vector("losses", [1, 2])
    array([1., 2.])
    """
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or len(vector) < at_least:
        raise ValueError(f"{name} has shape {vector.shape}; it takes a vector of at least {at_least} numbers")
    if bad := int(np.sum(~np.isfinite(vector))):
        raise ValueError(f"{name} has {bad} NaN or infinite elements of {vector.size}; it takes finite numbers")
    return vector


def right_of(y_true: ArrayLike, predictions: Sequence[ArrayLike], at_least: int = 2) -> np.ndarray:
    """Return a matrix (samples, models) that says where each model's prediction is right.

    Raises ValueError for too few models, no samples, or predictions of another length than `y_true`, or NaN.

    Examples
    --------
    >>> right_of([0, 1], [[0, 1], [1, 1]])
    array([[ True, False],
           [ True,  True]])
    """
    y = np.asarray(y_true)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y_true has shape {y.shape}; it takes a vector of at least one label")
    if len(predictions) < at_least:
        raise ValueError(f"predictions is of {len(predictions)} models; it takes at least {at_least}")
    columns = [np.asarray(p) for p in predictions]
    for name, labels in (("y_true", y), *((f"predictions[{i}]", column) for i, column in enumerate(columns))):
        if labels.dtype.kind == "f" and (bad := int(np.isnan(labels).sum())):  # NaN is no label: it isn't itself
            raise ValueError(f"{name} has {bad} NaN elements of {labels.size}; it takes labels")
    for i, column in enumerate(columns):
        if column.shape != y.shape:
            raise ValueError(f"predictions[{i}] has shape {column.shape}; it takes that of y_true, {y.shape}")
    return np.stack([column == y for column in columns], axis=1)


def counts_from(splits: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """Return a matrix (splits, n) of how often each sample is among a split's training indices.

    Examples
    --------
    >>> counts_from([(np.array([0, 0, 2]), np.array([1]))], 3)
    array([[2, 0, 1]])
    """
    return np.stack([np.bincount(train, minlength=n) for train, _ in splits])
