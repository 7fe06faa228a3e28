"""The largest of many private running sums, and which one it is."""

from typing import Any, Literal

import numpy as np

from paperworks.core.validation import check_choice
from paperworks.inference.continual.counters import FactorizationCounter, TreeCounter
from paperworks.inference.continual.mechanism import ContinualMechanism

Factorization = Literal["tree", "sqrt"]


class _OfSums(ContinualMechanism):
    """Answers from the noisy sums of a counter, which costs no privacy."""

    def __init__(self, T: int, d: int = 1, *, factorization: Factorization = "tree", **options: Any) -> None:
        check_choice("factorization", factorization, ("tree", "sqrt"))
        self._counter = (TreeCounter if factorization == "tree" else FactorizationCounter)(T, d, **options)
        shared = ("rho", "epsilon", "delta", "sensitivity", "granularity", "random_state")
        super().__init__(T, d, **{name: options[name] for name in shared if name in options})

    def _start(self) -> None:
        self._counter.reset()

    def _records(self, X: np.ndarray) -> np.ndarray:
        return self._counter._records(X)

    def _answer(self, records: np.ndarray) -> np.ndarray:
        sums = self._counter._answer(records)
        self.t = self._counter.t
        return self._of(sums)

    def _of(self, sums: np.ndarray) -> np.ndarray:
        return sums.max(axis=1)


class TreeMaxSum(_OfSums):
    """Publish the largest of d running sums, from a tree of noisy sums of all of them.

    Its error is of order ``sqrt(d) log(T)^(3/2) / sqrt(rho)``: better than `RecomputeMaxSum` for few coordinates.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, sparsity, max_norm, granularity, restart, random_state
        As in `TreeCounter`.
    factorization
        ``tree``, or ``sqrt`` for `FactorizationCounter` in its place.

    Raises
    ------
    ValueError
        As `TreeCounter`, and for an unknown `factorization`.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4.

    Examples
    --------
    >>> mechanism = TreeMaxSum(T=1000, d=3, rho=0.5, random_state=np.random.default_rng(0))
    >>> answers = mechanism.release(np.ones((1000, 3), dtype=int))
    >>> bool(np.abs(answers - np.arange(1, 1001)).max() < mechanism.error_bound(0.01))
    True
    """

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: that of the sums.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        return self._counter.error_bound(beta)


class TreeSumSelect(_OfSums):
    """Publish the index of the largest of d running sums, from a tree of noisy sums of all of them.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, sparsity, max_norm, granularity, restart, factorization, random_state
        As in `TreeMaxSum`.

    Raises
    ------
    ValueError
        As `TreeCounter`, and for an unknown `factorization`.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4.

    Examples
    --------
    >>> mechanism = TreeSumSelect(T=1000, d=3, rho=0.5, random_state=np.random.default_rng(0))
    >>> int(mechanism.release(np.tile([0, 1, 0], (1000, 1)))[-1])
    1
    """

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: twice that of the sums.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        return 2 * self._counter.error_bound(beta)

    def _of(self, sums: np.ndarray) -> np.ndarray:
        return sums.argmax(axis=1)
