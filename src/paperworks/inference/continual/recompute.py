"""Recompute the answer from all records every r steps, and hold it in between."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
from scipy import special

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.accounting import PrivacyBudget, selection_epsilon
from paperworks.inference.continual.mechanism import ContinualMechanism, log_inverse


class _Recompute(ContinualMechanism):
    """Holds exact sums, of which only every r-th is looked at."""

    def __init__(self, T: int, d: int = 1, *, r: int | None = None, beta: float = 1 / 3, **options: Any) -> None:
        budget = PrivacyBudget.of(*(options.get(name) for name in ("rho", "epsilon", "delta")))
        T, d = check_count("T", T), check_count("d", d)
        best = self._best_r(T, d, budget, beta) if r is None else r
        self.r = check_count("r", best, at_most=T)
        super().__init__(T, d, **options)

    @property
    def releases(self) -> int:
        """How many answers are computed, each of which a record may influence: ``floor(T / r)``."""
        return self.T // self.r

    def reset(self) -> None:
        """Forget all records and answers."""
        super().reset()
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

    @classmethod
    def _best_r(cls, T: int, d: int, budget: PrivacyBudget, beta: float) -> int:
        """Return the r of the least error bound.

        The bounds are staleness that grows with r plus noise that falls with it, so a logarithmic grid, then all values
        near its best, find the least.
        """
        if budget.rho == math.inf:
            return 1
        grid = np.unique(np.geomspace(1, T, 200).astype(int))
        rough = int(grid[np.argmin([cls._bound(T, d, int(r), budget, beta) for r in grid])])
        near = np.unique(np.linspace(max(1, 0.9 * rough), min(T, 1.1 * rough), 200).astype(int))
        return int(near[np.argmin([cls._bound(T, d, int(r), budget, beta) for r in near])])

    @staticmethod
    @abstractmethod
    def _bound(T: int, d: int, r: int, budget: PrivacyBudget, beta: float) -> float:
        """Return the error bound with a release every r steps."""

    @abstractmethod
    def _first(self) -> Any:
        """Return the answer before the first release, which no record influences."""

    @abstractmethod
    def _computed(self, sums: np.ndarray) -> np.ndarray:
        """Return private answers from exact sums, one for each row."""

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: staleness plus noise.

        Returns
        -------
        float
            The bound, in counts of records.
        """
        return self._bound(self.T, self.d, self.r, self.budget, beta)


class RecomputeMaxSum(_Recompute):
    """Publish the largest of d running sums, recomputed every r steps and held in between.

    Each of the ``k = floor(T / r)`` releases adds Gaussian noise of variance ``k / (2 rho)`` (Laplace of scale
    ``k / epsilon`` for a pure budget) to the largest sum, whose sensitivity is 1. The best r balances the staleness
    r - 1 with the noise and gives an error of order ``T^(1/3) / rho^(1/3)``, whatever the number of coordinates.

    Parameters
    ----------
    T, d, rho, epsilon, delta, random_state
        As in `ContinualMechanism`.
    r
        Steps between releases, 1 to `T`; by default the r of the least error bound.
    beta
        Failure probability for which the default r is best.
    center
        Add (r - 1) / 2 to each answer: the largest sum never falls and rises by at most 1 a step, so that an answer in
        the middle of where it may be halves the staleness.

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
        r: int | None = None,
        beta: float = 1 / 3,
        center: bool = False,
        random_state: np.random.Generator | None = None,
    ) -> None:
        self.center = center
        super().__init__(T, d, rho=rho, epsilon=epsilon, delta=delta, r=r, beta=beta, random_state=random_state)

    @staticmethod
    def _bound(T: int, d: int, r: int, budget: PrivacyBudget, beta: float) -> float:
        k = T // r
        if budget.pure:
            return r - 1 + k / float(budget.epsilon or 1) * log_inverse(beta, k)
        return (
            r - 1 - budget.gaussian_std(math.sqrt(k)) * special.ndtri(check_number("beta", beta, gt=0, lt=1) / (2 * k))
        )

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error stays below with probability ``1 - beta``: staleness plus noise.

        Returns
        -------
        float
            The bound, in counts of records.
        """
        return super().error_bound(beta) - (self._offset if self.center else 0)

    @property
    def _offset(self) -> float:
        return (self.r - 1) / 2

    def _first(self) -> float:
        return self._offset if self.center else 0.0

    def _computed(self, sums: np.ndarray) -> np.ndarray:
        largest = sums.max(axis=1)
        if self.budget.pure:
            noise = self.noise.laplace(self.releases / float(self.budget.epsilon or 1), len(sums))
        else:
            noise = self.noise.gaussian(self.budget.gaussian_std(math.sqrt(self.releases)), len(sums))
        return largest + noise + self._first()


class RecomputeSumSelect(_Recompute):
    """Publish the index of the largest of d running sums, selected anew every r steps and held in between.

    Each of the ``k = floor(T / r)`` releases is an exponential mechanism with ``epsilon_0 = sqrt(8 rho / k)`` (or
    ``epsilon / k`` for a pure budget), sampled as the argmax of the sums plus Gumbel noise of scale ``2 / epsilon_0``.

    Parameters
    ----------
    T, d, rho, epsilon, delta, random_state
        As in `ContinualMechanism`.
    r, beta
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

    @staticmethod
    def _bound(T: int, d: int, r: int, budget: PrivacyBudget, beta: float) -> float:
        k = T // r
        return r - 1 + 2 / selection_epsilon(budget, k) * log_inverse(beta, d * k)

    def _first(self) -> int:
        return 0

    def _computed(self, sums: np.ndarray) -> np.ndarray:
        scale = 2 / selection_epsilon(self.budget, self.releases)
        return (sums + scale * self.noise.gumbel(sums.shape)).argmax(axis=1)
