"""Private running sums: a tree of noisy partial sums, and the square-root factorisation."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
from scipy import signal

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.mechanism import ContinualMechanism, largest_gaussian, largest_laplace_sum

_SLACK = 1e-12  # of a norm that was rounded


class _Counter(ContinualMechanism):
    """Publishes running sums plus noise that doesn't depend on the records.

    `sparsity` and `max_norm` say how far what is protected can move the sums; without them all `d` coordinates may
    change by `sensitivity`.
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
        sparsity: int | None = None,
        max_norm: float | None = None,
        granularity: float | None = None,
        restart: bool = False,
        random_state: np.random.Generator | None = None,
    ) -> None:
        if max_norm is not None and (sparsity is not None or sensitivity != 1):
            raise ValueError("max_norm is given with sparsity or sensitivity; it takes max_norm alone, or the others")
        self.sparsity = None if sparsity is None else check_count("sparsity", sparsity, at_most=check_count("d", d))
        self.max_norm = None if max_norm is None else check_number("max_norm", max_norm, gt=0)
        if self.max_norm is not None and granularity is None:
            granularity = 2.0 ** (math.frexp(self.max_norm)[1] - 31)
        self.restart = restart
        super().__init__(
            T,
            d,
            rho=rho,
            epsilon=epsilon,
            delta=delta,
            sensitivity=sensitivity,
            granularity=granularity,
            random_state=random_state,
        )

    @property
    def l2_sensitivity(self) -> float:
        """How far what is protected moves a sum in the Euclidean norm: sqrt(d) for an event in all coordinates."""
        if self.max_norm is not None:
            return 2 * self.max_norm * (1 + _SLACK) + math.sqrt(self.d) * self._step  # both records are rounded
        return self._reach * self._step * math.sqrt(self._coordinates)

    @property
    def l1_sensitivity(self) -> float:
        """How far what is protected moves a sum in the sum of absolute values."""
        if self.max_norm is not None:
            return math.sqrt(self.d) * self.l2_sensitivity
        return self._reach * self._step * self._coordinates

    @property
    def _coordinates(self) -> int:
        """How many coordinates change: an event may be changed for another one, with other coordinates."""
        return self.d if self.sparsity is None else min(self.d, 2 * self.sparsity)

    def _start(self) -> None:
        self._base = np.zeros(self.d, dtype=np.int64)  # noisy sums of the epochs before this one
        self._begin(self.T)

    def _begin(self, horizon: int) -> None:
        self.horizon = horizon
        self._steps = 0  # of this epoch
        self._sums = np.zeros(self.d, dtype=np.int64)
        self._last = np.zeros(self.d, dtype=np.int64)

    def _answer(self, records: np.ndarray) -> np.ndarray:
        parts = [np.empty((0, self.d))]
        while len(records):
            if self._steps == self.horizon:
                # A record is in one epoch only, so the next epoch has the whole budget again.
                self._base = self._base + self._last
                self._begin(2 * self.horizon)
            room = self.horizon - self._steps
            now, records = records[:room], records[room:]
            exact = self._sums + np.cumsum(now, axis=0)
            noisy = self._noisy(now, exact)
            self._sums, self._last = exact[-1], noisy[-1]
            self._steps += len(now)
            self.t += len(now)
            parts.append((self._base + noisy) * self._step)
        return parts[-1] if len(parts) == 2 else np.concatenate(parts)

    @abstractmethod
    def _noisy(self, records: np.ndarray, exact: np.ndarray) -> np.ndarray:
        """Return the noisy sums (n, d) after these records of this epoch, in steps, given the exact ones."""

    def _records(self, X: np.ndarray) -> np.ndarray:
        records = super()._records(X)
        if self.max_norm is not None and not np.all(np.linalg.norm(X, axis=1) <= self.max_norm * (1 + _SLACK)):
            raise ValueError(f"x takes records of Euclidean norm at most max_norm = {self.max_norm:g}")
        return records

    def _check_horizon(self, records: int) -> None:
        if not self.restart and records > self.T:
            raise ValueError(
                f"x is record {records}; this mechanism takes at most T = {self.T} records, or more with restart=True"
            )


class TreeCounter(_Counter):
    """Publish d running sums by a tree of noisy partial sums.

    With Gaussian noise it is the binary tree mechanism. The sum after t records is the exact one plus the noise of the
    nodes in t's binary decomposition, one for each bit that is set. A record lies in at most
    ``h = floor(log2 T) + 1`` nodes, each of which has noise of variance ``h D^2 / (2 rho)``, D being the sensitivity of
    a sum.

    With Laplace noise, for a pure budget, the tree has an odd number k of branches and t is written with digits from
    ``-(k - 1) / 2`` to ``(k - 1) / 2``: nodes are added up or taken away from the nearest multiple of a power of k.
    The h and k of the least noise are taken; a node has noise of scale ``h D_1 / epsilon``. At T = 365 the error is a
    third of the binary tree's. Memory is O(d k h).

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, granularity, random_state
        As in `ContinualMechanism`.
    sparsity
        Greatest number of coordinates that one event counts in, where it is less than `d`. An event may be exchanged
        for another one, so the sensitivity is then ``sqrt(2 sparsity)`` times that of a coordinate.
    max_norm
        Instead of a sensitivity, the greatest Euclidean norm of records that are any numbers, one of which is
        protected; the sensitivity is twice that, and the granularity by default below 2^-30 of it.
    restart
        Go on after `T` records with a new tree of twice the horizon, on top of the last noisy sums.

    Raises
    ------
    ValueError
        As `ContinualMechanism`, and for records beyond what `max_norm` says.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4; Dwork et al. (2010); Chan, Shi and Song (2010). Digits of both signs:
    Andersson, Pagh and Torkamani, arXiv 2408.07021.

    Examples
    --------
    >>> counter = TreeCounter(T=365, epsilon=1.0)  # days of a year; one event is protected
    >>> visits = np.random.default_rng(0).poisson(200, 365)
    >>> sums = counter.release(visits)
    >>> sums.shape, bool(np.abs(sums[:, 0] - np.cumsum(visits)).max() < counter.error_bound(1e-4))
    ((365, 1), True)
    """

    def _begin(self, horizon: int) -> None:
        super()._begin(horizon)
        self.branches, self.levels = _signed_digits(horizon) if self.budget.pure else (2, horizon.bit_length())
        self._least = (self.branches - 1) // 2 if self.budget.pure else 0  # minus the least digit
        # At each level the noise of the sum up to the boundary that was reached, and, relative to their middle or first
        # one, that of the boundaries below the same one of the level above.
        self._totals = np.zeros((self.levels + 1, self.d), dtype=np.int64)
        self._blocks = [self._block(1)[0] for _ in range(self.levels)]

    @property
    def node_scale(self) -> float:
        """Standard deviation of a node's Gaussian noise, or the scale of its Laplace noise."""
        if self.budget.pure:
            return self.budget.laplace_scale(self.levels * self.l1_sensitivity)
        return self.budget.gaussian_std(self.l2_sensitivity * math.sqrt(self.levels))

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all sums stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        scale, many = self.node_scale / self._step, self.d * self.T
        if self.budget.pure:
            return self._rounding + self._step * largest_laplace_sum(scale, self.levels * self._least, many, beta)
        bits = np.arange(1, self.levels + 1)
        largest = largest_gaussian(scale * np.sqrt(bits), self.d * _times_with_bits(self.T), beta)
        return self._rounding + self._step * (largest + (0.5 if scale else 0.0))

    def _noisy(self, records: np.ndarray, exact: np.ndarray) -> np.ndarray:
        reached, ends = [self._steps], [self._steps + len(records)]
        while reached[-1] < ends[-1]:
            reached.append((reached[-1] + self._least) // self.branches)
            ends.append((ends[-1] + self._least) // self.branches)
        top = len(ends) - 1
        # Boundary m of a level is m nodes from the start; its parent is the nearest one of the level above, or the one
        # before it. From the first level whose boundary stays, down: the noise up to a boundary is that up to its
        # parent, and that of the nodes between them.
        total = self._totals[top][None]
        for level in reversed(range(top)):
            first = reached[level + 1]
            m = np.arange(reached[level], ends[level] + 1)
            parent = (m + self._least) // self.branches
            blocks = self._blocks[level][None]
            if ends[level + 1] > first:
                blocks = np.concatenate([blocks, self._block(ends[level + 1] - first)])
                self._blocks[level] = blocks[-1]
            total = total[parent - first] + blocks[parent - first, m + self._least - self.branches * parent]
            self._totals[level] = total[-1]
        return exact + total[1:]

    def _block(self, count: int) -> np.ndarray:
        """Return the noise of all boundaries below so many of the level above, relative to these."""
        draw = self.noise.laplace if self.budget.pure else self.noise.gaussian
        nodes = draw(self.node_scale / self._step, (count, self.branches - 1, self.d))
        noise = np.concatenate([np.zeros((count, 1, self.d), dtype=np.int64), np.cumsum(nodes, axis=1)], axis=1)
        return noise - noise[:, self._least, None]


def _signed_digits(T: int) -> tuple[int, int]:
    """Return the odd number of digits around 0, and of places, that write 1 to T with the least noise."""
    choices = []
    for places in range(1, 2 * T.bit_length()):
        branches = max(3, math.ceil((2 * T + 1) ** (1 / places) - 1e-9) | 1)
        while branches**places < 2 * T + 1:
            branches += 2
        # A node's variance grows as the square of the places, and a sum has a quarter of the branches in each.
        choices.append((places**3 * (branches - 1 / branches), branches, places))
    return min(choices)[1:]


def _times_with_bits(T: int) -> np.ndarray:
    """Return how many of 1 to T have 1, 2, ... up to T.bit_length() bits set."""
    counts = [0] * (T.bit_length() + 1)
    above = 0
    for place in reversed(range(T.bit_length())):
        if T >> place & 1:
            for below in range(place + 1):  # times that agree with T above this place and have a 0 in it
                counts[above + below] += math.comb(place, below)
            above += 1
    counts[above] += 1
    return np.array(counts[1:], dtype=float)


class FactorizationCounter(_Counter):
    """Publish d running sums by the matrix mechanism with the square root of the matrix of prefix sums.

    The noise of the sum after t records is ``sum_i c_i z_(t-i)`` with ``c_0 = 1, c_i = c_(i-1) (2i - 1) / (2i)`` and
    independent Gaussian ``z`` of variance ``D^2 |c|^2 / (2 rho)``: below that of the tree by a constant factor, for a
    memory of O(d T). It takes Gaussian noise, so no pure budget.

    What is private is the records' convolution with c, rounded to a grid about 2^-20 of the noise, plus whole steps of
    it of noise; the answers are the convolution of that with c, rounded to the grid of the records.

    Parameters
    ----------
    T, d, rho, epsilon, delta, sensitivity, sparsity, max_norm, granularity, restart, random_state
        As in `TreeCounter`.

    Raises
    ------
    ValueError
        As `TreeCounter`, for a pure budget, and for records so large that floating point can't convolve them to within
        a step; the message says which.

    References
    ----------
    Fichtenberger, Henzinger and Upadhyay, arXiv 2202.11205; the baseline is that of Jain et al., arXiv 2112.00828.

    Examples
    --------
    >>> tree, root = (kind(T=2**14, rho=0.5) for kind in (TreeCounter, FactorizationCounter))
    >>> root.error_bound() < tree.error_bound()
    True
    """

    def __init__(self, T: int, d: int = 1, **options: Any) -> None:
        super().__init__(T, d, **options)
        if self.budget.pure:
            raise ValueError(
                "epsilon without delta is a pure budget; FactorizationCounter takes rho, or epsilon with delta"
            )
        self._drawn(0)

    def _begin(self, horizon: int) -> None:
        super()._begin(horizon)
        i = np.arange(1, horizon)
        self._coefficients = np.concatenate([[1.0], np.cumprod((2 * i - 1) / (2 * i))])
        self._norm = float(np.linalg.norm(self._coefficients))
        self._fine = 2.0 ** (math.frexp(self.l2_sensitivity / self._step * self._norm)[1] - 21)  # in steps of the grid
        self._past = np.zeros((self.d, 0))
        self._measured = np.zeros((self.d, 0))

    @property
    def noise_std(self) -> float:
        """Standard deviation of each z."""
        # Rounding moves each of the measured numbers by up to a step, and floating point by a quarter of one each time.
        changed = self.horizon * (self.d if self.max_norm is not None else self._coordinates)
        rounding = 1.5 * math.sqrt(changed) * self._fine * self._step
        return self.budget.gaussian_std(self.l2_sensitivity * self._norm + rounding)

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all sums stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in the unit of the records.
        """
        deviation = self.noise_std * self._norm  # of the last sum, the widest
        return self._rounding + largest_gaussian([deviation], [self.d * self.T], beta) + 0.5 * self._step

    def _noisy(self, records: np.ndarray, exact: np.ndarray) -> np.ndarray:
        n = len(records)
        self._past = np.concatenate([self._past, records.T], axis=1)
        steps = np.floor(self._convolved(self._past, n) / self._fine + 0.5) + self._drawn(n)
        self._measured = np.concatenate([self._measured, steps], axis=1)
        return np.floor(self._convolved(self._measured, n).T * self._fine + 0.5).astype(np.int64)

    def _drawn(self, n: int) -> np.ndarray:
        return self.noise.gaussian(self.noise_std / self._step / self._fine, (self.d, n))

    def _convolved(self, values: np.ndarray, n: int) -> np.ndarray:
        """Return the last n of the convolution of values (d, t) with the coefficients."""
        t = values.shape[1]
        if n == 1:
            return (values * self._coefficients[t - 1 :: -1]).sum(axis=1, keepdims=True)
        return signal.fftconvolve(values, self._coefficients[None, :t], axes=1)[:, t - n : t]

    def _records(self, X: np.ndarray) -> np.ndarray:
        records = super()._records(X)
        # Up to here the rounding errors of a convolution, 2^-46 of the product of the norms, are a quarter of a step.
        most = 2.0**44 * self._fine / self._norm / math.sqrt(self.horizon)
        if records.size and np.abs(records).max() > most:
            raise ValueError(
                f"x takes numbers up to {most * self._step:g} with this T and sensitivity; TreeCounter any"
            )
        return records
