"""The Ladder: a leader board that shows an improvement only where it is one."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_number
from paperworks.inference.holdout.queries import StatisticalQueryOracle


class Ladder(StatisticalQueryOracle):
    """Answers each submission with the best score so far, which moves only for a significant improvement.

    A query is a submission: its scores on the samples, such as 1 where a prediction is right and 0 where it is wrong.
    Where their mean exceeds the best so far by more than a margin, it becomes the best, rounded; else the answer is as
    before. Whoever tries many useless models learns next to nothing of the samples, however they are chosen. It fits
    holdouts that are too small for private noise.

    Parameters
    ----------
    data, value_range
        As in `StatisticalQueryOracle`: the labels, for functions that compare them with predictions.
    step
        Margin, and step that scores are rounded to. By default the margin is the standard error of the difference
        between a submission and the best one, and scores are rounded to 1 / n.

    Raises
    ------
    ValueError
        As `StatisticalQueryOracle`, and for a step that isn't positive.

    References
    ----------
    Blum and Hardt, arXiv 1502.04585, algorithms 1 and 2.

    Examples
    --------
    >>> ladder = Ladder(np.tile([0, 1, 1, 0], 50))
    >>> [ladder.answer(lambda y: y == guess) for guess in (0, 1, np.arange(200) % 4 > 0)]  # the last is right in 3 of 4
    [0.5, 0.5, 0.75]
    """

    def __init__(self, data: ArrayLike, step: float | None = None, **options: Any) -> None:
        super().__init__(data, **options)
        self.step = None if step is None else check_number("step", step, gt=0)
        self.best = -math.inf
        self._leader = np.zeros(self.n)

    def _answers(self, values: np.ndarray) -> np.ndarray:
        answers = np.empty(len(values))
        for i, (scores, mean) in enumerate(zip(values, values.mean(axis=1), strict=True)):
            spread = np.std(scores - self._leader, ddof=1) if self.n > 1 else 0.0
            if mean > self.best + (spread / math.sqrt(self.n) if self.step is None else self.step):
                rounded = round(mean * self.n) / self.n if self.step is None else round(mean / self.step) * self.step
                self.best, self._leader = float(rounded), scores.copy()
            answers[i] = self.best
        return answers
