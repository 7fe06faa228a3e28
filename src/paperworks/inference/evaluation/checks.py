"""Checks of arrays that the evaluation functions share."""

import numbers
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

    Raises ValueError for too few models, no samples, predictions of another length or type than `y_true`, probabilities
    in place of labels, or NaN.

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
    known = label_kind("y_true", y)
    for i, column in enumerate(columns):
        if (kind := label_kind(f"predictions[{i}]", column)) != known:
            raise ValueError(f"predictions[{i}] has {kind} for labels, y_true {known}; it takes labels of one type")
        if column.dtype.kind == "f" and y.dtype.kind in "biuf" and not (y % 1).any() and (column % 1).any():
            told = f"{column[column % 1 != 0][0]:g}"
            raise ValueError(f"predictions[{i}] has {told} for whole labels; it takes labels, not probabilities")
    return np.stack([column == y for column in columns], axis=1)


def label_kind(name: str, labels: np.ndarray) -> str:
    """Return what labels are: numbers (truth values among them), text, or the name of another type.

    Raises ValueError where they are of several kinds: none of them would ever equal one of another kind.

    Examples
    --------
    >>> label_kind("y", np.array([0, 1])), label_kind("y", np.array(["a", "b"], dtype=object))
    ('numbers', 'text')
    """
    if labels.dtype.kind in "biuf":
        return "numbers"
    if labels.dtype.kind == "U":
        return "text"
    found = labels.tolist()
    if bad := sum(isinstance(label, float) and label != label for label in found):  # NaN is no label: it isn't itself
        raise ValueError(f"{name} has {bad} NaN elements of {len(found)}; it takes labels")
    kinds = sorted({_kind_of_label(label) for label in found})
    if len(kinds) > 1:
        raise ValueError(f"{name} mixes {' and '.join(kinds)}; it takes labels of one type")
    return kinds[0]


def _kind_of_label(label: object) -> str:
    if isinstance(label, str):
        return "text"
    return "numbers" if isinstance(label, (bool, numbers.Real, np.bool_)) else type(label).__name__


def targets_of(y: ArrayLike) -> np.ndarray:
    """Return targets as a vector; raise ValueError where they aren't one, or mix types that can't be sorted.

    Examples
    --------
    >>> targets_of(["a", "b"]).shape
    (2,)
    """
    targets = np.asarray(y)
    if targets.ndim != 1:
        raise ValueError(f"y has shape {targets.shape}; it takes one target for each sample")
    if targets.dtype.kind == "O" and len(targets):
        label_kind("y", targets)
    return targets


def weights_of(sample_weight: ArrayLike | None, n: int) -> np.ndarray | None:
    """Return weights of n samples as floats, None for none; raise ValueError where they can't be weights.

    Examples
    --------
    >>> weights_of([1, 2], 2)
    array([1., 2.])
    """
    if sample_weight is None:
        return None
    weights = finite_vector("sample_weight", sample_weight)
    if len(weights) != n:
        raise ValueError(f"sample_weight is of {len(weights)} samples; it takes one weight for each of {n}")
    if np.any(weights < 0) or not np.any(weights > 0):
        raise ValueError("sample_weight has negative elements or zeros alone; it takes weights >= 0, some of them > 0")
    return weights


def power_of_two(*vectors: np.ndarray) -> float:
    """Return a power of two about the largest size of some numbers: divided by it they neither overflow nor vanish.

    Examples
    --------
    >>> power_of_two(np.array([0.5, -3.0]), np.zeros(1))
    2.0
    """
    return float(np.ldexp(1.0, int(np.frexp(max(np.abs(vector).max() for vector in vectors))[1]) - 1))


def groups_of(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    """Return the number, from 0, of each sample's group, None for no groups.

    Examples
    --------
    >>> groups_of(["b", "a", "b"], 3)
    array([1, 0, 1])
    """
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups has shape {names.shape}; it takes one group for each of {n} samples")
    if names.dtype.kind == "f" and np.any(np.isnan(names)):
        raise ValueError(f"groups has {int(np.isnan(names).sum())} NaN elements; it takes groups")
    label_kind("groups", names)
    return np.unique(names, return_inverse=True)[1]


def group_sums(values: np.ndarray, groups: ArrayLike | None, sample_weight: ArrayLike | None) -> np.ndarray:
    """Return sums of weighted rows over groups, shape (groups, ...); without groups each row is its own.

    What has no weight is as if it weren't there. Weights count by their ratios alone, in a unit of about the largest.

    Examples
    --------
    >>> group_sums(np.array([[1.0], [2.0], [4.0]]), ["a", "b", "a"], [1, 1, 0.5])
    array([[3.],
           [2.]])
    """
    weights, member = weights_of(sample_weight, len(values)), groups_of(groups, len(values))
    if weights is not None:
        weights = weights / power_of_two(weights)
    weighted = values if weights is None else values * weights.reshape(-1, *[1] * (values.ndim - 1))
    if member is None:
        return weighted if weights is None else weighted[weights > 0]
    sums = np.zeros((member.max() + 1, *values.shape[1:]))
    np.add.at(sums, member, weighted)
    return sums if weights is None else sums[np.bincount(member, weights) > 0]


def counts_from(splits: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """Return a matrix (splits, n) of how often each sample is among a split's training indices.

    Examples
    --------
    >>> counts_from([(np.array([0, 0, 2]), np.array([1]))], 3)
    array([[2, 0, 1]])
    """
    return np.stack([np.bincount(train, minlength=n) for train, _ in splits])
