"""Bootstrap resamples of samples, or of groups of them."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from paperworks.core.validation import check_count
from paperworks.inference.evaluation.checks import groups_of
from paperworks.inference.evaluation.splits import RandomState

OnDegenerate = Literal["resample", "raise"]
_TRIES = 1000  # redraws of a degenerate resample before giving up


class BootstrapOutOfBag:
    """A splitter of scikit-learn's kind: train on a bootstrap resample, test on what it left out.

    Parameters
    ----------
    n_splits
        Number of rounds.
    random_state
        Seed or generator of the resamples.

    Examples
    --------
    >>> splitter = BootstrapOutOfBag(n_splits=2, random_state=0)
    >>> [(train.tolist(), test.tolist()) for train, test in splitter.split([10, 20, 30, 40])]
    [([0, 3, 1, 0], [2]), ([3, 3, 3, 3], [0, 1, 2])]
    """

    def __init__(self, n_splits: int = 200, random_state: RandomState = None) -> None:
        self.n_splits = check_count("n_splits", n_splits)
        self.random_state = random_state

    def split(self, X: Any = None, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices, in [0, n), of each round's resample and of the samples it left out, never none.

        Parameters
        ----------
        X
            Samples, dense or sparse, of which only the number is used; None where `y` or `groups` has it.
        y
            As good for the number of samples, and otherwise ignored.
        groups
            The group of each sample. Where given, whole groups are drawn, so that none is on both sides.

        Returns
        -------
        Iterator[tuple[ndarray, ndarray]]
            For each round the indices of the resample and those of the samples left out.

        Raises
        ------
        ValueError
            Where X, y and groups are all None, or there are fewer than two samples or groups.
        """
        known = next((data for data in (X, y, groups) if data is not None), None)
        if known is None:
            raise ValueError("X, y and groups are None; split takes one of them, for the number of samples")
        n = check_count("number of samples", _num_samples(known), at_least=2)
        member = groups_of(groups, n)
        units = n if member is None else check_count("number of groups", int(member.max()) + 1, at_least=2)
        rows = None if member is None else [np.flatnonzero(member == group) for group in range(units)]
        rng = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            drawn = rng.randint(0, units, units)
            while len(left := np.setdiff1d(np.arange(units), drawn)) == 0:
                drawn = rng.randint(0, units, units)
            if rows is None:
                yield drawn, left
            else:
                yield np.concatenate([rows[g] for g in drawn]), np.sort(np.concatenate([rows[g] for g in left]))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of rounds.

        Parameters
        ----------
        X, y, groups
            Ignored; they are scikit-learn's convention.

        Returns
        -------
        int
            The number `n_splits` of resamples.
        """
        return self.n_splits


def draw_resamples(
    labels: np.ndarray | None,
    n: int,
    rounds: int,
    on_degenerate: OnDegenerate,
    random_state: RandomState,
    groups: ArrayLike | None = None,
    both_sides: bool = False,
) -> np.ndarray:
    """Return how often each of n samples is in each resample, shape (rounds, n).

    Each resample leaves something out and, where labels are given, holds at least two classes, as does what it left out
    if `both_sides` says so. With groups, whole groups are drawn.

    Examples
    --------
    >>> draw_resamples(None, 4, 2, "resample", 0)
    array([[2, 1, 0, 1],
           [0, 0, 0, 4]])
    """
    rng = check_random_state(random_state)
    if labels is not None and len(np.unique(labels)) < 2:
        raise ValueError("y holds one class; a classifier takes at least two")
    member = groups_of(groups, n)
    units = n if member is None else check_count("number of groups", int(member.max()) + 1, at_least=2)

    def draw(times: int) -> np.ndarray:
        drawn = np.stack([np.bincount(rng.randint(0, units, units), minlength=units) for _ in range(times)])
        return drawn if member is None else drawn[:, member]

    def bad(rows: np.ndarray) -> np.ndarray:
        found = np.all(rows > 0, axis=1)
        if labels is not None:
            one_hot = labels[:, None] == np.unique(labels)
            single = np.sum(rows @ one_hot > 0, axis=1) < 2
            if both_sides:
                single |= np.sum((rows == 0) @ one_hot > 0, axis=1) < 2
            if on_degenerate == "raise" and single.any():
                raise ValueError(
                    f"{single.sum()} of {len(rows)} resamples hold one class; on_degenerate='resample' redraws"
                )
            found |= single
        return found

    counts = draw(rounds)
    for _ in range(_TRIES):
        again = np.flatnonzero(bad(counts))
        if not len(again):
            return counts
        counts[again] = draw(len(again))
    raise ValueError(f"y has too few samples of all classes but one: {_TRIES} resamples in a row held one class")
