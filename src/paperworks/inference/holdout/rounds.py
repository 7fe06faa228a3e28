"""Validation that is paid for only where it fails: SparseValidate, and estimates that last for a round."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.inference.holdout.queries import Query, StatisticalQueryOracle, check_values, cut_off
from paperworks.inference.privacy.ledger import BudgetExhausted, PrivateMechanism


class SparseValidate(PrivateMechanism):
    """Answers yes-or-no questions about the samples exactly, until `budget` of them were answered yes.

    What an analyst can learn is where those answers fell, so there are at most ``(m + 1)^budget`` courses the analysis
    can take, and a union bound over them holds for questions chosen adaptively.

    Parameters
    ----------
    data
        Samples that every question is asked of.
    m
        Number of questions.
    budget
        Number of questions that may be answered yes.

    Raises
    ------
    ValueError
        For no samples, or counts below 1.

    References
    ----------
    Dwork et al., arXiv 1506.02629, section 5.

    Examples
    --------
    >>> validate = SparseValidate(np.arange(100) / 100, m=10, budget=1)
    >>> validate.ask(lambda x: x.mean() > 0.9), validate.differs(lambda x: x, guess=0.2, tau=0.1)
    (False, True)
    """

    def __init__(self, data: ArrayLike, m: int, budget: int) -> None:
        self._data = np.asarray(data)
        if not self._data.ndim or not len(self._data):
            raise ValueError(f"data has shape {self._data.shape}; it takes one or more samples along its first axis")
        self.m = check_count("m", m)
        self.budget = check_count("budget", budget)
        self.asked = 0
        self._open(self.budget, "")

    @property
    def remaining(self) -> int:
        """How many questions may still be answered yes."""
        return int(self._remaining)

    def ask(self, question: Callable[[Any], bool]) -> bool:
        """Return the answer of the samples to a question.

        Returns
        -------
        bool
            The answer of the samples to a question, true or false.

        Raises
        ------
        BudgetExhausted
            After `m` questions, or `budget` answers of yes.
        """
        with self._lock:
            if self.asked >= self.m:
                raise BudgetExhausted(self._said())
            with self._charged():
                self.asked += 1
                found = bool(question(self._data))
                self._spend(found)
                self._exhausted = self._said()
            return found

    def _said(self) -> str:
        return f"{self.asked} of m = {self.m} questions are asked and {self.remaining} may be true"

    def differs(self, query: Query, guess: float, tau: float, value_range: tuple[float, float] = (0.0, 1.0)) -> bool:
        """Ask whether the mean of a query differs from a guess by more than `tau`.

        Parameters
        ----------
        query
            Gives one value for each sample, within `value_range`; those of a function are cut off at its ends.
        guess
            What the mean is taken to be, in the unit of the values.
        tau
            Least difference that counts, in the same unit.
        value_range
            Least and greatest value of the query.

        Returns
        -------
        bool
            Whether it differs by more than that.

        Raises
        ------
        ValueError
            For values outside the range, or a tau that isn't positive.
        BudgetExhausted
            As `ask`.
        """
        check_number("guess", guess)
        check_number("tau", tau, gt=0)
        if not callable(query):
            query = check_values("query", np.reshape(query, (1, -1)), len(self._data), value_range)[0]

        def question(data: np.ndarray) -> bool:
            values = cut_off(query(data) if callable(query) else query, value_range)
            return bool(abs(values.mean() - guess) > tau)

        return self.ask(question)

    def failure_bound(self, beta: float) -> float:
        """Return the probability that any answer is wrong, where each question alone is with probability `beta`.

        Returns
        -------
        float
            The probability that any answer is wrong, where each question alone is with probability `beta`.
        """
        check_number("beta", beta, ge=0, le=1)
        return min(1.0, self.m * beta * math.exp(self.budget * math.log1p(self.m)))


class EffectiveRounds(StatisticalQueryOracle):
    """Answers by the mean over one of `r` parts of the samples, and moves on where a validation part disagrees.

    An analyst whose queries depend on earlier answers in r rounds only gets true answers without saying where a round
    begins: a part is used until it is found overfitted, by more than ``3 tau / 4``.

    Parameters
    ----------
    data, value_range, random_state
        As in `StatisticalQueryOracle`. The samples are taken in their order; the last of them validate.
    r
        Number of rounds.
    tau
        Tolerance of the answers.
    validation_size
        Share of the samples that validate.

    Raises
    ------
    ValueError
        For more rounds than samples, or a tolerance that isn't positive.

    References
    ----------
    Dwork et al., arXiv 1411.2664, section 1.3, with the validation of arXiv 1506.02629; its constants are ours.

    Examples
    --------
    >>> oracle = EffectiveRounds(np.tile([0.0, 1.0], 500), r=3, tau=0.1)
    >>> oracle.answer(lambda x: x), oracle.round
    (0.5, 0)
    """

    _is_private = True

    def __init__(self, data: ArrayLike, r: int, *, tau: float, validation_size: float = 0.5, **options: Any) -> None:
        super().__init__(data, **options)
        validating = round(self.n * check_number("validation_size", validation_size, gt=0, lt=1))
        self.r = check_count("r", r, at_most=max(1, self.n - validating))
        self.tau = check_number("tau", tau, gt=0)
        self._cuts = np.arange(self.r + 1) * (self.n - validating) // self.r
        self._open(self.r, f"all r = {self.r} rounds are over")

    @property
    def round(self) -> int:
        """How many parts were found overfitted."""
        return int(self._spent)

    def _answers(self, values: np.ndarray) -> np.ndarray:
        # The means of all queries over all parts at once; then only the exceedances are gone through one by one.
        parts = np.add.reduceat(values[:, : self._cuts[-1]], self._cuts[:-1], axis=1) / np.diff(self._cuts)
        gaps = np.abs(parts - values[:, self._cuts[-1] :].mean(axis=1)[:, None])
        answers, start = np.full(len(values), np.nan), 0
        while start < len(values):
            over = gaps[start:, self.round] > 0.75 * self.tau
            end = start + int(over.argmax()) if over.any() else len(values)
            answers[start:end] = parts[start:end, self.round]
            if end < len(values):
                self._spend(1)
                if self.round == self.r:
                    raise BudgetExhausted(self._exhausted, answers)
                answers[end] = parts[end, self.round]
                end += 1
            start = end
        return answers
