"""Which of many queries are above a threshold: privacy is paid for those only."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.inference.holdout.queries import StatisticalQueryOracle, width_of
from paperworks.inference.privacy.ledger import BudgetExhausted


class Scan(NamedTuple):
    """Which values exceeded their threshold, how many were looked at, and the threshold from here on."""

    exceeded: np.ndarray
    looked_at: int
    threshold: float


def scan(values: np.ndarray, threshold: float, redraw: Callable[[], float], budget: float) -> Scan:
    """Find what exceeds a threshold that is drawn anew after each that does, until the budget of those is spent.

    The work is one pass for what doesn't exceed, in growing blocks between one exceedance and the next.

    Examples
    --------
    >>> scan(np.array([0.1, 0.9, 0.8, 0.7]), 0.5, lambda: 0.5, budget=2)
    Scan(exceeded=array([False,  True,  True, False]), looked_at=3, threshold=0.5)
    """
    exceeded = np.zeros(len(values), dtype=bool)
    start, block = 0, 16
    while start < len(values) and budget >= 1:
        above = values[start : start + block] > threshold
        first = int(above.argmax())
        if not above[first]:
            start, block = start + block, 2 * block
            continue
        start, block = start + first, 16
        exceeded[start] = True
        start, budget, threshold = start + 1, budget - 1, redraw()
    return Scan(exceeded, min(start, len(values)), threshold)


class SparseVector(StatisticalQueryOracle):
    """Tells which queries are above a threshold, for a privacy that doesn't depend on how many are not.

    A query is above where its mean plus Laplace noise of scale ``4 c D / epsilon`` exceeds a threshold with Laplace
    noise of scale ``2 c D / epsilon`` that is drawn anew after each positive, D being the sensitivity of a mean. After
    `c` positives nothing is answered: of many queries those after the last positive are NaN, in the answers that come
    with `BudgetExhausted`.

    Parameters
    ----------
    data, value_range, granularity, random_state
        As in `StatisticalQueryOracle`.
    threshold
        Threshold of the mean.
    epsilon
        Pure differential privacy of the whole interaction.
    c
        Number of queries that may be found above.
    numeric
        Answer the mean plus noise of scale ``c D / epsilon'`` for a query above, and NaN for one below; a ninth of
        `epsilon` is epsilon' then. Otherwise the answers are 1 and 0.

    Raises
    ------
    ValueError
        For an epsilon that isn't positive.

    References
    ----------
    Dwork and Roth, The Algorithmic Foundations of Differential Privacy, section 3.6; used by Dwork et al.,
    arXiv 1411.2664.

    Examples
    --------
    >>> oracle = SparseVector(np.arange(1000) / 1000, threshold=0.3, epsilon=1.0, c=5)
    >>> oracle.answer(lambda x: x), oracle.answer(lambda x: x > 0.99)
    (1.0, 0.0)
    """

    _is_private = True

    def __init__(
        self,
        data: ArrayLike,
        threshold: float,
        *,
        epsilon: float,
        c: int,
        numeric: bool = False,
        value_range: tuple[float, float] = (0.0, 1.0),
        granularity: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        super().__init__(data, value_range=value_range, granularity=granularity, random_state=random_state)
        width_of(self.value_range)
        self.threshold = check_number("threshold", threshold)
        self.epsilon = check_number("epsilon", epsilon, gt=0)
        self.c = check_count("c", c)
        self.numeric = numeric
        self._open(self.c, f"c = {self.c} queries were above the threshold")
        self._scale = self.c * self._width / self.epsilon  # in steps of a sum
        self._comparison = self._scale / (8 / 9 if numeric else 1.0)
        self.noise.laplace(9 * self._scale if numeric else 4 * self._comparison, 0)
        self._noisy_threshold = self._redraw()

    @property
    def remaining(self) -> int:
        """How many queries may still be found above."""
        return int(self._remaining)

    def privacy(self, delta: float = 1e-6) -> dict[str, float]:
        """Return the guarantee of the whole interaction, which is pure at any `delta`.

        Returns
        -------
        dict[str, float]
            Values under ``epsilon``, ``delta`` and ``rho``.
        """
        return {"epsilon": self.epsilon, "delta": 0.0, "rho": self.epsilon**2 / 2}

    def _redraw(self) -> float:
        threshold = math.floor(self._in_steps(self.threshold - self._low))  # whole sums are above it where above this
        return threshold + int(self.noise.laplace(2 * self._comparison, 1)[0])

    def _answers(self, values: np.ndarray) -> np.ndarray:
        sums = self._sums(values)
        noisy = sums + self.noise.laplace(4 * self._comparison, len(sums))
        found = scan(noisy, self._noisy_threshold, self._redraw, self._remaining)
        self._spend(int(found.exceeded.sum()))
        self._noisy_threshold = found.threshold
        answers = np.full(len(sums), np.nan) if self.numeric else found.exceeded.astype(float)
        if self.numeric:
            above = sums[found.exceeded]
            answers[found.exceeded] = self._means(above + self.noise.laplace(9 * self._scale, len(above)))
        if found.looked_at < len(sums):
            answers[found.looked_at :] = np.nan
            raise BudgetExhausted(self._exhausted, answers)
        return answers
