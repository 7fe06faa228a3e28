"""A contextual bandit that predicts each value's cost by a Chebyshev series in the context."""

import math
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from scipy.optimize import lsq_linear

from paperworks.core.validation import check_count
from paperworks.solvers.relaxation.bandits import Arms, Bandit, Interval


class ChebCB(Bandit):
    """Approach the cost of the best value for each context: ChebCB (arXiv:2310.02246, Algorithm 2).

    Each value's cost is predicted by a polynomial in the context that least squares fit to its past costs, within
    bounds that a Lipschitz function's Chebyshev coefficients keep. Values are drawn by the gaps between predictions
    (SquareCB): p = 1 / (d + eta gap), the rest to the best one.

    Parameters
    ----------
    arms
        Values to choose from. Default: the paper's, 20 from 1 to 1.95.
    degree
        Degree of the polynomials, by default the paper's 5.
    low, high
        Ends of the context's interval.
    clip
        Whether a context outside of the interval counts as its nearer end, instead of raising ValueError.
    random_state
        Seed or generator of the choices.

    Attributes
    ----------
    counts_
        How often each value was chosen.
    history_
        Pairs (value, cost) of all rounds.

    Raises
    ------
    ValueError
        If there are no values, a number is out of range, or a context is outside of the interval.

    Examples
    --------
    >>> bandit = ChebCB([1.0, 1.4, 1.8], degree=2, low=0.0, high=1.0, random_state=0)
    >>> for context in np.random.default_rng(0).random(400):
    ...     omega = bandit.predict(context)
    ...     bandit.update(10 + 50 * abs(omega - 1 - 0.8 * context))
    >>> [int(bandit.probabilities(context).argmax()) for context in (0.0, 0.5, 1.0)]
    [0, 1, 2]
    """

    def __init__(
        self,
        arms: Arms = None,
        degree: int = 5,
        *,
        low: float,
        high: float,
        clip: bool = False,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(arms, random_state)
        self._interval = Interval(low, high, clip)
        d, m = len(self.arms), check_count("degree", degree, at_least=0) + 1
        self._theta = np.zeros((d, m))
        # Of each value, the triangular factor of its features with its costs less 1 as the last column.
        self._factors = np.zeros((d, m + 1, m + 1))
        self._least, self._most, self._scale, self._eta = math.inf, 0.0, 0.0, 0.0
        # Sums over rounds of prediction^2, prediction cost, and cost^2, since the scale of costs changes.
        self._sums = np.zeros(3)

    def _check_context(self, context: float | None) -> np.ndarray:
        return chebvander([2 * self._interval.unit(context) - 1], self._theta.shape[1] - 1)[0]

    def _weigh(self, context: Any) -> np.ndarray:
        predicted = self._theta @ context
        best = int(predicted.argmin())
        p = 1 / (len(predicted) + self._eta * (predicted - predicted[best]))
        p[best] = 0.0
        p[best] = 1 - p.sum()
        return p

    def _learn(self, arm: int, p: np.ndarray, context: Any, cost: float) -> None:
        predicted = float(self._theta[arm] @ context)
        self._sums += predicted**2, predicted * cost, cost**2
        row = np.append(context, cost - 1)
        self._factors[arm] = np.linalg.qr(np.vstack([self._factors[arm], row]), mode="r")
        self._least, self._most = min(self._least, cost), max(self._most, cost)
        d, m = self._theta.shape
        spread, before = self._most - self._least, self._scale
        share = 2 + 4 * spread / self._most * (1 + math.log(m))
        self._scale = self._most * share
        # While all costs are equal the bounds would be 0, and the problem without an inside.
        slopes = max(2 * spread / self._scale, 1e-12) / np.arange(1, m)
        box = np.concatenate([[1 / share], slopes])
        misfit = 0.0
        played = np.flatnonzero(self.counts_).tolist() if self._scale != before else []
        for i in {arm, *played}:
            self._theta[i], found = self._fit(i, box)
            misfit = found if found else misfit
        rounds = len(self.history_) + 1
        alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * self._scale * (m + 1)) * spread
        squared, crossed, costs = self._sums
        error = squared - 2 * crossed / self._scale + costs / self._scale**2
        self._eta = 2 * rounds * math.sqrt(d * rounds / max(error - misfit + 2 * alpha**2 * rounds, 1e-12))

    def _fit(self, arm: int, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the coefficients, and the sum of squares where the bounds hold some of them, else 0."""
        factor = self._factors[arm]
        matrix, target = factor[:-1, :-1], factor[:-1, -1] / self._scale
        theta = np.linalg.lstsq(matrix, target, rcond=None)[0]
        if (abs(theta) <= box).all():
            return theta, 0.0
        theta = box_least_squares(matrix, target, box)
        missed = matrix @ theta - target
        return theta, float(missed @ missed) + (factor[-1, -1] / self._scale) ** 2


def box_least_squares(matrix: np.ndarray, target: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Minimise |matrix x - target| over |x| <= box, for a few unknowns: by active sets (Stark and Parker).

    Parameters
    ----------
    matrix
        Matrix, with at least as many rows as columns.
    target
        One value for each row.
    box
        Bound of each unknown's absolute value, above 0.

    Returns
    -------
    ndarray
        The minimiser.

    Examples
    --------
    >>> box_least_squares(np.eye(2), np.array([3.0, 0.5]), np.array([1.0, 1.0]))
    array([1. , 0.5])
    """
    n = len(box)
    x = np.clip(np.linalg.lstsq(matrix, target, rcond=None)[0], -box, box)
    held = np.where(x >= box, 1, np.where(x <= -box, -1, 0))
    small = 1e-12 * (abs(matrix).max() * abs(target).max() + 1e-300)
    for _ in range(5 * n):
        while (free := held == 0).any():
            rest = target - matrix[:, ~free] @ x[~free]
            step = np.linalg.lstsq(matrix[:, free], rest, rcond=None)[0] - x[free]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(step > 0, box[free] - x[free], -box[free] - x[free]) / step
            room[step == 0] = np.inf
            length = min(1.0, room.min())
            x[free] += length * step
            if length == 1:
                break
            stopped = np.flatnonzero(free)[room.argmin()]
            held[stopped] = 1 if step[room.argmin()] > 0 else -1
            x[stopped] = held[stopped] * box[stopped]
        pull = held * (matrix.T @ (target - matrix @ x))  # below 0: the bound keeps from nothing
        worst = int(pull.argmin())
        if pull[worst] >= -small:
            return x
        held[worst] = 0
    # Rounding can make the sets go round; the general method then decides.
    return lsq_linear(matrix, target, (-box, box)).x
