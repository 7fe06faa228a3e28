"""What every mechanism under continual observation shares: one record at a time in, one answer at a time out."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from paperworks.core.validation import check_count, check_number
from paperworks.inference.privacy.accounting import PrivacyBudget
from paperworks.inference.privacy.ledger import PrivateMechanism
from paperworks.inference.privacy.noise import Noise
from paperworks.inference.privacy.values import as_numbers

_ELEMENTS = 2_000_000  # of the largest intermediate array of `release`: 16 MB


class ContinualMechanism(PrivateMechanism, ABC):
    """A mechanism that answers after every record of a stream, private over the whole sequence of answers.

    A record is what happened in one step, such as the counts of a day. There is one answer a step, so that the number
    of answers says nothing of the number of events; to hand in one record an event would publish how many there were.

    `sensitivity` says who is protected: it is the most that one of those whom the guarantee is for can add to any
    coordinate over the whole stream. With 1 that is a single event (*event-level* privacy): the answers hardly tell
    whether it happened, but may tell that someone had many. With the greatest number of events that a person has, after
    cutting off what a person has beyond it, that is a person with everything they did (*user-level* privacy). The size
    of the records doesn't matter. The noise never depends on the records, so the guarantee is the same when each record
    is chosen after the answers before it. Why a record is refused is said to whoever hands it in, and isn't private.

    Parameters
    ----------
    T
        Horizon: the number of records.
    d
        Coordinates of a record, each a whole number.
    rho
        Budget of zero-concentrated differential privacy. Infinite means no noise and no privacy, for tests.
    epsilon, delta
        Instead of `rho`: approximate differential privacy, or pure for `epsilon` alone.
    sensitivity
        The most that what is protected changes each coordinate, summed over the stream: one event by default.
    granularity
        Step of the grid that records are rounded to and answers lie on, where records aren't whole numbers. Rounding
        may add a step to the sensitivity, which the noise allows for; `sensitivity` has to allow for more where what is
        protected is part of several records. A granularity well below the sensitivity costs next to nothing. Half a
        step a record is added to error bounds, for what rounding alone can move a sum.
    random_state
        None takes noise from the operating system's cryptographic source. A NumPy generator makes runs repeatable and
        is for tests and simulations only: whoever knows its state takes the noise off.

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
        sensitivity: float = 1,
        granularity: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        self.T = check_count("T", T)
        self.d = check_count("d", d)
        self.budget = PrivacyBudget.of(rho, epsilon, delta)
        self.sensitivity = check_number("sensitivity", sensitivity, gt=0)
        self.granularity = None if granularity is None else check_number("granularity", granularity, gt=0)
        self._step = self.granularity or 1.0
        # What is protected changes the rounded records by this many steps.
        self._reach = math.ceil(self.sensitivity / self._step) + (granularity is not None)
        self.noise = Noise(random_state)
        self.streams = 0
        self.t = 0
        self._open(math.inf, "")
        self.reset()

    def reset(self) -> None:
        """Forget all records and answers, and begin another stream, whose cost `privacy` adds to that of the others."""
        with self._charged():  # a stream that begins by halves could have noise of the one before
            if self.t or not self.streams:
                self.streams += 1
                self.t = 0
                self._start()

    def update(self, x: ArrayLike) -> Any:
        """Take the next record, of shape (d,), and return the answer after it.

        Parameters
        ----------
        x
            The next record, of shape (d,).

        Returns
        -------
        Any
            The answer after this record, in the problem's own form.

        Raises
        ------
        ValueError
            For a record that isn't of `d` whole numbers (any with a granularity), or after `T` records.
        BudgetExhausted
            Where the budget was moved, or an answer interrupted.
        """
        with self._lock:
            self._check_open()
            record = self._records(as_numbers("x", x).reshape(1, -1))
            with self._charged():
                return self._answer(record)[0]

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
        with self._lock:
            self._check_open()
            X = as_numbers("x", X)
            if X.ndim < 2:
                if X.size % self.d:
                    raise ValueError(f"x has {X.size} numbers; it takes records of {self.d} coordinates")
                X = X.reshape(X.size // self.d, self.d)
            records = self._records(X)
            step = max(1, _ELEMENTS // self.d)
            with self._charged():
                parts = [self._answer(records[i : i + step]) for i in range(0, max(1, len(records)), step)]
            return np.concatenate(parts)

    def release(self, stream: ArrayLike) -> np.ndarray:
        """Return the answers to a whole stream of at most `T` records, from the beginning, as after `reset`.

        Returns
        -------
        ndarray
            One answer for each record, along the first axis.
        """
        with self._lock:
            self.reset()
            return self.update_batch(stream)

    @property
    def _rounding(self) -> float:
        """How far rounding the records may move a sum."""
        return 0.0 if self.granularity is None else self.T * self.granularity / 2

    @abstractmethod
    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all `T` answers stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """

    def privacy(self, delta: float = 1e-6) -> dict[str, float]:
        """Return the guarantee as rho of zCDP and as epsilon at a delta (the one given to the mechanism goes first).

        It is for all streams so far together, as if the same people were in each.

        Returns
        -------
        dict[str, float]
            Values under ``rho``, ``epsilon`` and ``delta``, as far as they apply.
        """
        return self.budget.times(self.streams).report(delta)

    def _start(self) -> None:
        """Forget all records and answers."""

    @abstractmethod
    def _answer(self, records: np.ndarray) -> np.ndarray:
        """Advance by checked records, in steps of the grid, and return the answers after each."""

    def _records(self, X: np.ndarray) -> np.ndarray:
        if X.ndim != 2 or X.shape[1] != self.d:
            raise ValueError(f"x has {X.shape[-1]} coordinates; it takes {self.d}")
        self._check_horizon(self.t + len(X))
        if X.dtype.kind not in "biu":
            X = np.asarray(X, dtype=float)
            # An overflow or a NaN is refused below.
            with np.errstate(over="ignore", invalid="ignore"):
                steps = np.floor(X / self._step + 0.5)
            if self.granularity is None and not np.array_equal(X, steps):
                raise ValueError("x takes whole numbers only, or other numbers with a granularity")
        else:
            steps = X if self.granularity is None else np.floor(X / self._step + 0.5)
        # All sums fit in 64 bits; more than 2^40 records take longer than anyone has.
        greatest = max(2**20, min(2**40, 2**61 // max(self.T, self.t + len(X))))
        if steps.size and not (steps.min() > -greatest and steps.max() < greatest):
            raise ValueError(f"x takes finite numbers of size below {greatest * self._step:g}")
        return steps.astype(np.int64)

    def _check_horizon(self, records: int) -> None:
        if records > self.T:
            raise ValueError(f"x is record {records}; this mechanism takes at most T = {self.T} records")


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

    The union bound on exact tails: the x at which the expected number of values beyond x is beta. Discrete values are
    below that and half a step: from a deviation on, the density is convex, so that the steps beyond weigh no more than
    the tail half a step before them.

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
    # Where all deviations are the widest this is the solution, on either side of which rounding may fall.
    beyond = widest * -special.ndtri(beta / (2 * times.sum()))
    return optimize.brentq(lambda x: 2 * (times * special.ndtr(-x / deviations)).sum() - beta, 0, 1.001 * beyond)


def largest_laplace_sum(scale: float, terms: int, count: int, beta: float) -> float:
    """Return what `count` sums of discrete Laplace variables stay below in size with probability ``1 - beta``.

    The union bound on Chernoff's, with the exact moment generating function.

    Parameters
    ----------
    scale
        Scale of each variable.
    terms
        How many are in a sum at most.

    Examples
    --------
    >>> round(largest_laplace_sum(1.0, 1, 1, 0.05), 1)  # a single one is below 3.4
    5.8
    """
    log = log_inverse(beta, 2 * count)

    def bound(share: float) -> float:
        slope = share / scale
        growth = 2 * math.log(-math.expm1(-1 / scale))
        growth -= math.log(-math.expm1(slope - 1 / scale)) + math.log(-math.expm1(-slope - 1 / scale))
        return (log + terms * growth) / slope

    return float(optimize.minimize_scalar(bound, bounds=(1e-6, 1 - 1e-9), method="bounded").fun)
