"""Which samples train and which test: a caller's splits or splitter, or the usual ones, which keep groups together."""

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    check_cv,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from paperworks.inference.evaluation.checks import groups_of, targets_of
from paperworks.inference.evaluation.scoring import classifies

Splits = Sequence[tuple[np.ndarray, np.ndarray]]
RandomState = int | np.random.RandomState | None
Usual = Callable[[bool, bool], Iterable[Any]]
"""Splitters, given whether classes are to be kept in proportion, and groups together."""


def drawn_splits(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    usual: Usual,
    *,
    cv: Any = None,
    splits: Iterable[Any] | None = None,
    groups: ArrayLike | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of training and test indices: `splits` as they are, those that `cv` yields, or the usual ones.

    A whole number as `cv` is that many folds, without a shuffle, as scikit-learn has it, or with groups of groups.

    Raises ValueError where both `cv` and `splits` are given, or a split has no samples, samples that don't exist, or a
    sample or a group on both of its sides.
    """
    if cv is not None and splits is not None:
        raise ValueError("cv and splits are both given; it takes one of them")
    labels, n = targets_of(y), _num_samples(X)
    member = groups_of(groups, n)
    if splits is not None:
        pairs = list(splits)
    elif isinstance(cv, numbers.Integral) and member is not None:
        pairs = list(folds_of_groups(classifies(estimator))(n_splits=cv).split(X, labels, groups))
    elif cv is not None:
        pairs = list(check_cv(cv, labels, classifier=classifies(estimator)).split(X, labels, groups))
    else:
        splitters = usual(classifies(estimator), member is not None)
        pairs = [pair for splitter in splitters for pair in splitter.split(X, labels, groups)]
    return checked_splits(pairs, n, member)


def random_parts(n_splits: int, test_size: float, random_state: RandomState) -> Usual:
    """Return the usual random splits."""

    def splitters(stratify: bool, grouped: bool) -> Iterable[Any]:
        kind: Any = GroupShuffleSplit if grouped else StratifiedShuffleSplit if stratify else ShuffleSplit
        return [kind(n_splits, test_size=test_size, random_state=random_state)]

    return splitters


def repeated_folds(n_splits: int, n_repeats: int, random_state: RandomState) -> Usual:
    """Return the usual folds, shuffled anew each time."""

    def splitters(stratify: bool, grouped: bool) -> Iterable[Any]:
        kind: Any = folds_of_groups(stratify) if grouped else StratifiedKFold if stratify else KFold
        rng = check_random_state(random_state)
        return [kind(n_splits, shuffle=True, random_state=rng) for _ in range(n_repeats)]

    return splitters


def folds_of_groups(stratify: bool) -> Any:
    """Return the splitter into folds that keeps groups together, and classes in proportion if so asked."""
    return StratifiedGroupKFold if stratify else GroupKFold


def checked_splits(
    splits: Iterable[Any], n: int, member: np.ndarray | None = None, apart: bool = True
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return splits of n samples as pairs of arrays of indices, else raise ValueError naming the first bad one.

    Where they aren't to be `apart`, a sample may be on both sides, as for scores on the training set.
    """
    found = []
    trains = np.zeros(n, dtype=bool)
    for i, pair in enumerate(splits):
        try:
            train, test = (_indices(part, n) for part in pair)
        except (TypeError, ValueError, IndexError):
            raise ValueError(
                f"splits[{i}] is {pair!r}; it takes a pair of training and test indices (or masks) of {n} samples"
            ) from None
        if not len(train) or not len(test):
            raise ValueError(
                f"splits[{i}] has {len(train)} training and {len(test)} test samples; it takes some of each"
            )
        trains[:] = False
        trains[train] = True
        if apart and trains[test].any():
            both = test[trains[test]][0]
            raise ValueError(f"splits[{i}] has sample {both} for training and for the test; it takes them apart")
        if member is not None and len(both := np.intersect1d(member[train], member[test])):
            raise ValueError(f"splits[{i}] has {len(both)} of the groups on both sides; it takes groups kept together")
        found.append((train, test))
    if not found:
        raise ValueError("splits is empty; it takes at least one pair of training and test indices")
    return found


def _indices(part: ArrayLike, n: int) -> np.ndarray:
    array = np.asarray(part)
    if array.dtype == bool and array.shape == (n,):
        return np.flatnonzero(array)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError
    return np.arange(n)[array.astype(int)]
