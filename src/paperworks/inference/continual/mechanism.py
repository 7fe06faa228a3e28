"""What every mechanism under continual observation shares: one record at a time in, one answer at a time out."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.accounting import PrivacyBudget
from paperworks.inference.noise import noise_from

_ELEMENTS = 2_000_000  # of the largest intermediate array of `release`: 16 MB


class ContinualMechanism(ABC):
    """A mechanism that answers after every record of a stream, private over the whole sequence of answers.

    Two streams are neighbours where one record was replaced by another. The noise never depends on the records, so the
    guarantee is the same when each record is chosen after the answers before it.

    Parameters
    ----------
    T
        Horizon: the number of records.
    d
        Coordinates of a record, each 0 or 1.
    rho
        Budget of zero-concentrated differential privacy. Infinite means no noise and no privacy, for tests.
    epsilon, delta
        Instead of `rho`: approximate differential privacy, or pure for `epsilon` alone.
    random_state
        None takes noise from the operating system's cryptographic source; a NumPy generator makes runs repeatable.

    Raises
    ------
    ValueError
        For a horizon or dimension below 1, or a budget out of range or stated twice.
    """

    def __init__(
        self,
        T: int,
        d: int = 1,
        *,
        rho: float | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        self.T = check_count("T", T)
        self.d = check_count("d", d)
        self.budget = PrivacyBudget.of(rho, epsilon, delta)
        self.noise = noise_from(random_state)
        self.reset()

    def reset(self) -> None:
        """Forget all records and answers; the next stream spends a budget of its own."""
        self.t = 0

    def update(self, x: ArrayLike) -> Any:
        """Take the next record, of shape (d,), and return the answer after it.

        Parameters
        ----------
        x
            The next record, of shape (d,), with entries 0 and 1.

        Returns
        -------
        Any
            The answer after this record, in the problem's own form.

        Raises
        ------
        ValueError
            For a record that isn't of `d` zeros and ones, or after `T` records.
        """
        return self._answer(self._records(np.reshape(x, (1, -1))))[0]

    def update_batch(self, X: ArrayLike) -> np.ndarray:
        """Take the next records, of shape (n, d), and return the answers after each of them.

        The same as `update` record by record, in distribution, and far faster.

        Parameters
        ----------
        X
            The next records, of shape (n, d).

        Returns
        -------
        ndarray
            One answer for each record, along the first axis.
        """
        records = self._records(np.reshape(X, (-1, self.d)) if np.ndim(X) < 2 else np.asarray(X))
        step = max(1, _ELEMENTS // self.d)
        parts = [self._answer(records[i : i + step]) for i in range(0, len(records), step)]
        return np.concatenate(parts) if parts else np.empty(0)

    def release(self, stream: ArrayLike) -> np.ndarray:
        """Return the answers to a whole stream of at most `T` records, from the beginning.

        Returns
        -------
        ndarray
            One answer for each record, along the first axis.
        """
        self.reset()
        return self.update_batch(stream)

    @abstractmethod
    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all `T` answers stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in counts of records.
        """

    def privacy(self, delta: float = 1e-6) -> dict[str, float]:
        """Return the guarantee as rho of zCDP and as epsilon at a delta (the one given to the mechanism goes first).

        Returns
        -------
        dict[str, float]
            Values under ``rho``, ``epsilon`` and ``delta``, as far as they apply.
        """
        return self.budget.report(delta)

    @abstractmethod
    def _answer(self, records: np.ndarray) -> np.ndarray:
        """Advance by checked records and return the answers after each."""

    def _records(self, X: np.ndarray) -> np.ndarray:
        if X.ndim != 2 or X.shape[1] != self.d:
            raise ValueError(f"x has {X.shape[-1]} coordinates; it takes {self.d}")
        if self.t + len(X) > self.T:
            raise ValueError(f"x is record {self.t + len(X)}; this mechanism takes at most T = {self.T} records")
        if not np.all((X == 0) | (X == 1)):
            raise ValueError("x takes zeros and ones only")
        return X.astype(np.int64)


def log_inverse(beta: float, events: float) -> float:
    """Return ``ln(events / beta)``, what a union bound over so many events pays.

    Examples
    --------
    >>> log_inverse(0.5, 1)
    0.6931471805599453
    """
    return math.log(events / check_number("beta", beta, gt=0, lt=1))


def largest_gaussian(stds: ArrayLike, counts: ArrayLike, beta: float) -> float:
    """Return what all of some Gaussian values stay below in size with probability ``1 - beta``.

    The union bound on exact tails: the x at which the expected number of values beyond x is beta.

    Parameters
    ----------
    stds, counts
        Standard deviations, and how many values have each.

    Examples
    --------
    >>> round(largest_gaussian([1.0], [1], 0.05), 3)
    1.96
    """
    deviations, times = np.asarray(stds, dtype=float), np.asarray(counts, dtype=float)
    beta = check_number("beta", beta, gt=0, lt=1)
    widest = float(deviations.max())
    if widest == 0:
        return 0.0
    beyond = widest * -special.ndtri(beta / (2 * times.sum()))
    return optimize.brentq(lambda x: 2 * (times * special.ndtr(-x / deviations)).sum() - beta, 0, beyond)
