"""Private running sums: a binary tree of noisy partial sums, and the square-root factorisation."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
from scipy import signal

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.mechanism import ContinualMechanism, largest_gaussian, log_inverse


class _Counter(ContinualMechanism):
    """Publishes running sums plus noise that doesn't depend on the records.

    `sparsity` and `max_norm` say how far one record can move the sums; without them all `d` coordinates may change.
    """

    def __init__(
        self,
        T: int,
        d: int = 1,
        *,
        rho: float | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        sparsity: int | None = None,
        max_norm: float | None = None,
        restart: bool = False,
        random_state: np.random.Generator | None = None,
    ) -> None:
        if sparsity is not None and max_norm is not None:
            raise ValueError("sparsity and max_norm are both given; it takes one of them")
        self.sparsity = None if sparsity is None else check_count("sparsity", sparsity, at_most=check_count("d", d))
        self.max_norm = None if max_norm is None else check_number("max_norm", max_norm, gt=0)
        self.restart = restart
        super().__init__(T, d, rho=rho, epsilon=epsilon, delta=delta, random_state=random_state)

    @property
    def l2_sensitivity(self) -> float:
        """How far replacing one record moves a sum in the Euclidean norm: sqrt(d) for records of zeros and ones."""
        if self.max_norm is not None:
            return 2 * self.max_norm
        return math.sqrt(self.d if self.sparsity is None else min(self.d, 2 * self.sparsity))

    @property
    def l1_sensitivity(self) -> float:
        """How far replacing one record moves a sum in the sum of absolute values."""
        if self.max_norm is not None:
            return 2 * self.max_norm * math.sqrt(self.d)
        return float(self.d if self.sparsity is None else min(self.d, 2 * self.sparsity))

    def reset(self) -> None:
        """Forget all records and answers, and return to the horizon `T`."""
        super().reset()
        self._base = np.zeros(self.d)  # noisy sums of the epochs before this one
        self._begin(self.T)

    def _begin(self, horizon: int) -> None:
        self.horizon = horizon
        self._steps = 0  # of this epoch
        self._sums = np.zeros(self.d)
        self._last = np.zeros(self.d)

    def _answer(self, records: np.ndarray) -> np.ndarray:
        parts = []
        while len(records):
            if self._steps == self.horizon:
                # A record is in one epoch only, so the next epoch has the whole budget again.
                self._base = self._base + self._last
                self._begin(2 * self.horizon)
            room = self.horizon - self._steps
            now, records = records[:room], records[room:]
            exact = self._sums + np.cumsum(now, axis=0)
            noisy = exact + self._noise_of(self._steps, len(now))
            self._sums, self._last = exact[-1], noisy[-1]
            self._steps += len(now)
            self.t += len(now)
            parts.append(self._base + noisy)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, self.d)), *parts])

    @abstractmethod
    def _noise_of(self, before: int, n: int) -> np.ndarray:
        """Return the noise (n, d) of the sums after `before` + 1 to `before` + n records of this epoch."""

    def _draw(self, size: tuple[int, ...], scale: float) -> np.ndarray:
        whole = self.max_norm is None
        return (self.noise.laplace if self.budget.pure else self.noise.gaussian)(scale, size, whole)

    def _records(self, X: np.ndarray) -> np.ndarray:
        if X.ndim != 2 or X.shape[1] != self.d:
            raise ValueError(f"x has {X.shape[-1]} coordinates; it takes {self.d}")
        if not self.restart and self.t + len(X) > self.T:
            raise ValueError(
                f"x is record {self.t + len(X)}; this mechanism takes at most T = {self.T} records, "
                "or more with restart=True"
            )
        if self.max_norm is not None:
            X = X.astype(float)
            if not np.all(np.linalg.norm(X, axis=1) <= self.max_norm * (1 + 1e-12)):  # NaN fails too
                raise ValueError(f"x takes records of Euclidean norm at most max_norm = {self.max_norm:g}")
            return X
        if not np.all((X == 0) | (X == 1)):
            raise ValueError("x takes zeros and ones only, or other numbers with max_norm")
        if self.sparsity is not None and np.any(X.sum(axis=1) > self.sparsity):
            raise ValueError(f"x takes at most sparsity = {self.sparsity} ones")
        return X.astype(np.int64)


class TreeCounter(_Counter):
    """Publish d running sums by the binary tree mechanism.

    The sum after t records is the exact one plus the noise of the nodes in t's binary decomposition, one for each bit
    that is set. A record lies in at most ``h = floor(log2 T) + 1`` nodes, each of which has Gaussian noise of variance
    ``h D^2 / (2 rho)`` (Laplace of scale ``h D_1 / epsilon`` for a pure budget), D being the sensitivity of one sum.
    Memory is O(d log T).

    Parameters
    ----------
    T, d, rho, epsilon, delta, random_state
        As in `ContinualMechanism`.
    sparsity
        Greatest number of ones in a record, where it is less than `d`: the sensitivity is then ``sqrt(2 sparsity)``.
    max_norm
        Greatest Euclidean norm of records that are any numbers; the sensitivity is then twice that.
    restart
        Go on after `T` records with a new tree of twice the horizon, on top of the last noisy sums.

    Raises
    ------
    ValueError
        As `ContinualMechanism`, and for records beyond what `sparsity` or `max_norm` say.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 4; Dwork et al. (2010); Chan, Shi and Song (2010).

    Examples
    --------
    >>> counter = TreeCounter(T=1000, rho=0.5, random_state=np.random.default_rng(0))
    >>> sums = counter.release(np.ones(1000, dtype=int))
    >>> sums.shape, bool(np.abs(sums[:, 0] - np.arange(1, 1001)).max() < counter.error_bound(0.01))
    ((1000, 1), True)
    """

    def _begin(self, horizon: int) -> None:
        super()._begin(horizon)
        # The noise of the node that is in use at each level, which is one where the bit of the time is set.
        self._nodes = np.zeros((self.levels, self.d))

    @property
    def levels(self) -> int:
        """Number of levels of the tree, ``floor(log2 T) + 1``: the nodes that one record can be in."""
        return int(self.horizon).bit_length()

    @property
    def node_scale(self) -> float:
        """Standard deviation of a node's Gaussian noise, or the scale of its Laplace noise."""
        if self.budget.pure:
            return self.levels * self.l1_sensitivity / float(self.budget.epsilon or 1)
        return self.budget.gaussian_std(self.l2_sensitivity * math.sqrt(self.levels))

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all sums stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in counts of records.
        """
        if self.budget.pure:
            # A sum of Laplace variables is sub-exponential: Chan, Shi and Song, lemma 2.8.
            log = log_inverse(beta, 2 * self.d * self.T)
            return self.node_scale * max(math.sqrt(self.levels), math.sqrt(log)) * math.sqrt(8 * log)
        bits = np.arange(1, self.levels + 1)
        return largest_gaussian(self.node_scale * np.sqrt(bits), self.d * _times_with_bits(self.T), beta)

    def _noise_of(self, before: int, n: int) -> np.ndarray:
        last = before + n
        if n == 1:
            level = (last & -last).bit_length() - 1  # a node is complete that absorbs those of all levels below
            self._nodes[:level] = 0
            self._nodes[level] = self._draw((self.d,), self.node_scale)
            return self._nodes.sum(axis=0)[None]
        # From the top of the tree down: the noise of the times k 2^level, which is that of their parent plus, for an
        # odd k, that of node k. Twice n additions in all, and n draws.
        total = np.zeros((1, self.d))
        for level in reversed(range(self.levels)):
            first, k = before >> level, np.arange(before >> level, (last >> level) + 1)
            total = total[(k >> 1) - (first >> 1)]
            odd = slice(2 if first & 1 else 1, None, 2)
            fresh = self._draw(total[odd].shape, self.node_scale)
            total[odd] += fresh
            if first & 1:
                total[0] += self._nodes[level]
            if k[-1] > first:
                self._nodes[level] = fresh[-1] if k[-1] & 1 else 0
        return total[1:]


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

    Parameters
    ----------
    T, d, rho, epsilon, delta, sparsity, max_norm, restart, random_state
        As in `TreeCounter`.

    Raises
    ------
    ValueError
        As `TreeCounter`, and for a pure budget.

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

    def _begin(self, horizon: int) -> None:
        super()._begin(horizon)
        i = np.arange(1, horizon)
        self._coefficients = np.concatenate([[1.0], np.cumprod((2 * i - 1) / (2 * i))])
        self._z = np.zeros((0, self.d))

    @property
    def noise_std(self) -> float:
        """Standard deviation of each z."""
        return self.budget.gaussian_std(self.l2_sensitivity) * float(np.linalg.norm(self._coefficients))

    def error_bound(self, beta: float = 1 / 3) -> float:
        """Return what the largest error of all sums stays below with probability ``1 - beta``.

        Returns
        -------
        float
            The bound, in counts of records.
        """
        deviation = self.noise_std * float(np.linalg.norm(self._coefficients))  # of the last sum, the widest
        return largest_gaussian([deviation], [self.d * self.T], beta)

    def _noise_of(self, before: int, n: int) -> np.ndarray:
        fresh = self.noise.gaussian(self.noise_std, (n, self.d), whole=False)
        self._z = np.concatenate([self._z, fresh])
        if n == 1:
            return self._coefficients[before::-1][None] @ self._z
        whole = signal.fftconvolve(self._z, self._coefficients[: len(self._z), None], axes=0)
        return whole[before : before + n]
