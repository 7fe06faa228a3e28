"""Recompute the answer from all records every r steps, and hold it in between."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
from scipy import special

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.mechanism import ContinualMechanism, log_inverse
from paperworks.inference.privacy.accounting import selection_epsilon


class _Recompute(ContinualMechanism):
    """Holds exact sums, of which only every r-th is looked at."""

    def __init__(
        self,
        T: int,
        d: int = 1,
        *,
        r: int | None = None,
        beta: float = 1 / 3,
        max_value: float = 1,
        **options: Any,
    ) -> None:
        self.r = 1
        self.max_value = check_number("max_value", max_value, gt=0)
        super().__init__(T, d, **options)
        self.r = check_count("r", self._best_r(beta) if r is None else r, at_most=T)
        self._start()
        self._computed(np.zeros((0, self.d), dtype=np.int64))  # which refuses noise that is too wide

    @property
    def releases(self) -> int:
        """How many answers are computed, each of which a record may influence: ``floor(T / r)``."""
        return self.T // self.r

    def _start(self) -> None:
        self._sums = np.zeros(self.d, dtype=np.int64)
        self._held: Any = self._first()

    def _answer(self, records: np.ndarray) -> np.ndarray:
        after = self.t + len(records)
        ends = np.arange((self.t // self.r + 1) * self.r, after + 1, self.r) - self.t  # within these records
        cuts = np.concatenate([[0], ends[ends < len(records)]]).astype(int)
        blocks = np.add.reduceat(records, cuts, axis=0) if len(records) else records
        sums = self._sums + np.cumsum(blocks, axis=0)
        self._sums, self.t = self._sums + records.sum(axis=0), after
        fresh = self._computed(sums[: len(ends)])
        values = np.concatenate([[self._held], fresh])
        self._held = values[-1]
        return np.repeat(values, np.diff([0, *(ends - 1), len(records)]))

    def _best_r(self, beta: float) -> int:
        """Return the r of the least error bound.

        The bounds are staleness that grows with r plus noise that falls with it, so a logarithmic grid, then all values
        near its best, find the least.
        """
        if self.budget.rho == math.inf:
            return 1
        grid = np.unique(np.geomspace(1, self.T, 200).astype(int))
        rough = int(grid[np.argmin([self._bound(int(r), beta) for r in grid])])
        near = np.unique(np.linspace(max(1, 0.9 * rough), min(self.T, 1.1 * rough), 200).astype(int))
        return int(near[np.argmin([self._bound(int(r), beta) for r in near])])

    @abstractmethod
    def _bound(self, r: int, beta: float) -> float:
        """Return the error bound with a release every r steps."""

    @abstractmethod
    def _first(self) -> Any:
        """Return the answer before the first release, which no record influences."""

    @abstractmethod
    def _computed(self, sums: np.ndarray) -> np.ndarray:
        """Return private answers from exact sums in steps of the grid, one for each row."""

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: staleness plus noise.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        return self._bound(self.r, beta)


class RecomputeMaxSum(_Recompute):
    """Publish the largest of d running sums, recomputed every r steps and held in between.

    Each of the ``k = floor(T / r)`` releases adds Gaussian noise of variance ``k / (2 rho)`` (Laplace of scale
    ``k / epsilon`` for a pure budget), times the sensitivity, to the largest sum. The best r balances the staleness of
    r - 1 records with the noise and gives an error of order ``T^(1/3) / rho^(1/3)``, for any number of coordinates.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, granularity, random_state
        As in `ContinualMechanism`.
    r
        Steps between releases, 1 to `T`; by default the r of the least error bound.
    beta
        Failure probability for which the default r is best.
    max_value
        What entries of a record are at most, from 0. Bounds of the error, the default r and `center` rest on it;
        privacy doesn't.
    center
        Add ``max_value (r - 1) / 2`` to each answer: the largest sum never falls and rises by at most `max_value` a
        step, so that an answer in the middle of where it may be halves the staleness.

    Raises
    ------
    ValueError
        As `ContinualMechanism`, and for an r outside 1 to `T`.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4.

    Examples
    --------
    >>> mechanism = RecomputeMaxSum(T=1000, d=3, rho=0.5, random_state=np.random.default_rng(0))
    >>> answers = mechanism.release(np.ones((1000, 3), dtype=int))
    >>> bool(np.abs(answers - np.arange(1, 1001)).max() < mechanism.error_bound(0.01))
    True
    """

    def __init__(
        self,
        T: int,
        d: int = 1,
        *,
        rho: float | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        sensitivity: float = 1,
        granularity: float | None = None,
        r: int | None = None,
        beta: float = 1 / 3,
        max_value: float = 1,
        center: bool = False,
        random_state: np.random.Generator | None = None,
    ) -> None:
        self.center = center
        super().__init__(
            T,
            d,
            rho=rho,
            epsilon=epsilon,
            delta=delta,
            sensitivity=sensitivity,
            granularity=granularity,
            r=r,
            beta=beta,
            max_value=max_value,
            random_state=random_state,
        )

    def _bound(self, r: int, beta: float) -> float:
        k, reach = self.T // r, self._reach * self._step
        stale = (r - 1) * self.max_value + self._rounding
        if self.budget.rho < math.inf:
            stale += self._step / 2  # discrete noise is below the tails of the continuous laws and half a step
        if self.budget.pure:
            return stale + self.budget.laplace_scale(k * reach) * log_inverse(beta, k)
        tail = special.ndtri(check_number("beta", beta, gt=0, lt=1) / (2 * k))
        return stale - self.budget.gaussian_std(reach * math.sqrt(k)) * float(tail)

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: staleness plus noise.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        return super().error_bound(beta) - (self._offset if self.center else 0)

    @property
    def _offset(self) -> float:
        return (self.r - 1) / 2 * self.max_value

    def _first(self) -> float:
        return self._offset if self.center else 0.0

    def _computed(self, sums: np.ndarray) -> np.ndarray:
        if self.budget.pure:
            noise = self.noise.laplace(self.budget.laplace_scale(self.releases * self._reach), len(sums))
        else:
            noise = self.noise.gaussian(self.budget.gaussian_std(self._reach * math.sqrt(self.releases)), len(sums))
        return (sums.max(axis=1) + noise) * self._step + self._first()


class RecomputeSumSelect(_Recompute):
    """Publish the index of the largest of d running sums, selected anew every r steps and held in between.

    Each of the ``k = floor(T / r)`` releases is an exponential mechanism with ``epsilon_0 = sqrt(8 rho / k)`` (or
    ``epsilon / k`` for a pure budget): index j has a weight of ``exp(epsilon_0 S_j / (2 sensitivity))``, and is drawn
    exactly.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, granularity, random_state
        As in `ContinualMechanism`.
    r, beta, max_value
        As in `RecomputeMaxSum`.

    Raises
    ------
    ValueError
        As `ContinualMechanism`, and for an r outside 1 to `T`.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4.

    Examples
    --------
    >>> mechanism = RecomputeSumSelect(T=1000, d=3, rho=0.5, random_state=np.random.default_rng(0))
    >>> int(mechanism.release(np.tile([0, 1, 0], (1000, 1)))[-1])
    1
    """

    def _bound(self, r: int, beta: float) -> float:
        k, reach = self.T // r, self._reach * self._step
        noise = reach / selection_epsilon(self.budget, k) * log_inverse(beta, self.d * k)
        return (r - 1) * self.max_value + 2 * (noise + self._rounding)

    def _first(self) -> int:
        return 0

    def _computed(self, sums: np.ndarray) -> np.ndarray:
        return self.noise.choose(selection_epsilon(self.budget, self.releases) / (2 * self._reach), sums)
