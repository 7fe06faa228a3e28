"""What accurate answers give away: the reductions behind the lower bounds, tracing, and a game of privacy."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_count, check_number
from paperworks.inference.continual.mechanism import ContinualMechanism

Factory = Callable[[int, int], ContinualMechanism]
"""Makes a mechanism from a horizon and a number of coordinates."""


def marginals_from_maxsum(factory: Factory, Y: ArrayLike) -> np.ndarray:
    """Read the column sums of a table out of a mechanism for the largest running sum.

    The stream is the rows of the table; then, for each column j, n copies of its unit vector, whose last answer less
    ``j n`` is the estimate, and n copies of the vector that is 0 in column j only, which levels all columns again. Each
    estimate is as near to the truth as the mechanism's answers are.

    Parameters
    ----------
    factory
        Makes a mechanism for ``T = n (2 d + 1)`` records of d coordinates.
    Y
        Shape (n, d): zeros and ones.

    Returns
    -------
    numpy.ndarray
        Shape (d,): estimates of the column sums.

    Raises
    ------
    ValueError
        For a table that isn't of zeros and ones.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 3.

    Examples
    --------
    >>> exact = lambda T, d: TreeMaxSum(T, d, rho=math.inf)
    >>> from paperworks.inference import TreeMaxSum
    >>> marginals_from_maxsum(exact, [[0, 1, 1], [0, 0, 1]])
    array([0., 1., 2.])
    """
    rows = _table(Y)
    n, d = rows.shape
    unit = np.eye(d, dtype=int)
    rounds = np.stack([unit, 1 - unit], axis=1)  # (column, phase, coordinates)
    stream = np.concatenate([rows, np.repeat(rounds.reshape(2 * d, d), n, axis=0)])
    answers = factory(len(stream), d).release(stream)
    columns = np.arange(d)
    return answers[n + 2 * n * columns + n - 1] - n * (columns + 1)


def marginals_from_sumselect(factory: Factory, Y: ArrayLike) -> np.ndarray:
    """Read the column sums of a table out of a mechanism for the index of the largest running sum.

    A counter is added as the last coordinate. After the rows of the table, for each column j: n copies of its unit
    vector, n of the counter's, and n more of the counter's, during which the column leads for as many steps as its sum;
    then n copies of all columns, and n of all but j, which level everything again.

    Parameters
    ----------
    factory
        Makes a mechanism for ``T = n (5 d + 1)`` records of d + 1 coordinates.
    Y
        Shape (n, d): zeros and ones.

    Returns
    -------
    numpy.ndarray
        Shape (d,): estimates of the column sums, each within the mechanism's error plus 1 of the truth.

    Raises
    ------
    ValueError
        For a table that isn't of zeros and ones.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 3.

    Examples
    --------
    >>> from paperworks.inference import TreeSumSelect
    >>> marginals_from_sumselect(lambda T, d: TreeSumSelect(T, d, rho=math.inf), [[0, 1, 1], [0, 0, 1]])
    array([0, 1, 2])
    """
    rows = _table(Y)
    n, d = rows.shape
    unit, counter = np.eye(d + 1, dtype=int)[:d], np.eye(d + 1, dtype=int)[d]
    columns = 1 - counter
    rounds = np.stack([np.stack([e, counter, counter, columns, columns - e]) for e in unit])
    padded = np.concatenate([rows, np.zeros((n, 1), dtype=int)], axis=1)
    stream = np.concatenate([padded, np.repeat(rounds.reshape(5 * d, d + 1), n, axis=0)])
    answers = factory(len(stream), d + 1).release(stream)
    read = answers[n:].reshape(d, 5, n)[:, 2]
    return np.sum(read != d, axis=1)


def tracing_scores(estimates: ArrayLike, probabilities: ArrayLike, Y: ArrayLike) -> np.ndarray:
    """Return for each row how well it agrees with estimated marginals: members of the table score high.

    Parameters
    ----------
    estimates
        Shape (d,): estimated column means.
    probabilities
        Shape (d,): the population's means, from which all rows were drawn.
    Y
        Shape (n, d): rows to score.

    Returns
    -------
    numpy.ndarray
        Shape (n,): ``sum_j (estimates_j - p_j) (Y_ij - p_j)``.

    Raises
    ------
    ValueError
        For arrays whose shapes don't fit.

    References
    ----------
    Jain et al., arXiv 2112.00828, section 3; Dwork et al. (2015) on robust traceability.

    Examples
    --------
    >>> tracing_scores([1.0, 0.0], [0.5, 0.5], [[1, 0], [0, 1]])
    array([ 0.5, -0.5])
    """
    means, p, rows = (np.asarray(a, dtype=float) for a in (estimates, probabilities, Y))
    if rows.ndim != 2 or means.shape != p.shape or means.shape != rows.shape[1:]:
        raise ValueError(
            f"estimates, probabilities and Y have shapes {means.shape}, {p.shape} and {rows.shape}; "
            "it takes (d,), (d,) and (n, d)"
        )
    return (rows - p) @ (means - p)


@runtime_checkable
class Adversary(Protocol):
    """Chooses each record after the answers before it, and scores what it saw in the end."""

    def choose(self, answers: Sequence[Any]) -> Any:
        """Return the next record; once in a game a pair (left, right) of records, of which one is used."""

    def score(self, answers: Sequence[Any]) -> float:
        """Return a number that is greater the more the answers look like the right side."""


class GameResult(NamedTuple):
    """A lower bound on epsilon, with the rates of right and wrong guesses it stands on.

    Parameters
    ----------
    epsilon
        The lower bound, 0 where the games show nothing.
    true_positive_rate
        Share of right records that were guessed as such.
    false_positive_rate
        Share of left records that were guessed as right.
    """

    epsilon: float
    true_positive_rate: float
    false_positive_rate: float


class AdaptivePrivacyGame:
    """The game that defines privacy for streams chosen adaptively, played to bound epsilon from below.

    The mechanism gets the left or the right record of the challenge; whoever tells the two sides apart better than
    (epsilon, delta) allows has shown that the mechanism isn't private.

    Parameters
    ----------
    mechanism
        A mechanism; it is reset before each game.
    adversary
        Plays all `T` records of each game.

    Examples
    --------
    >>> from paperworks.inference import TreeCounter
    >>> class OneRecord:
    ...     def choose(self, answers):
    ...         return ([0], [1]) if not answers else [0]
    ...     def score(self, answers):
    ...         return answers[0][0]
    >>> game = AdaptivePrivacyGame(TreeCounter(T=2, rho=0.5, random_state=np.random.default_rng(0)), OneRecord())
    >>> game.run(500).epsilon < 2.0
    True
    """

    def __init__(self, mechanism: ContinualMechanism, adversary: Adversary) -> None:
        self.mechanism = mechanism
        self.adversary = adversary

    def play(self, right: bool) -> float:
        """Play one game with the left or the right record and return the adversary's score.

        Returns
        -------
        float
            The adversary's score; greater where it takes the record for the right one.

        Raises
        ------
        ValueError
            Where the adversary makes no challenge, or more than one.
        """
        self.mechanism.reset()
        answers: list[Any] = []
        challenges = 0
        for _ in range(self.mechanism.T):
            record = self.adversary.choose(answers)
            if isinstance(record, tuple):
                challenges += 1
                record = record[1 if right else 0]
            answers.append(self.mechanism.update(record))
        if challenges != 1:
            raise ValueError(f"adversary made {challenges} challenges; it takes one pair of records in a game")
        return self.adversary.score(answers)

    def run(self, n_trials: int, *, delta: float = 0.0, alpha: float = 0.05) -> GameResult:
        """Play `n_trials` games a side and return a lower bound on epsilon that holds with probability ``1 - alpha``.

        The threshold on the score is chosen on the first half of the games and judged on the second by Clopper and
        Pearson's bounds of its rates.

        Parameters
        ----------
        n_trials
            Games with each of the two records.
        delta
            Delta of the guarantee that is tested.
        alpha
            Probability that the bound may fail.

        Returns
        -------
        GameResult
            The bound on epsilon, with the rates it stands on.

        Raises
        ------
        ValueError
            For fewer than two games, or a `delta` or `alpha` out of range.
        """
        check_count("n_trials", n_trials, at_least=2)
        check_number("delta", delta, ge=0, lt=1)
        check_number("alpha", alpha, gt=0, lt=1)
        left, right = (np.array([self.play(side) for _ in range(n_trials)], dtype=float) for side in (False, True))
        half = n_trials // 2
        threshold = _best_threshold(left[:half], right[:half], delta)
        hits, false = int(np.sum(right[half:] >= threshold)), int(np.sum(left[half:] >= threshold))
        n, tail = n_trials - half, alpha / 2
        low = stats.beta.ppf(tail, hits, n - hits + 1) if hits else 0.0
        high = stats.beta.ppf(1 - tail, false + 1, n - false) if false < n else 1.0
        epsilon = math.log((low - delta) / high) if low > delta else 0.0
        return GameResult(max(0.0, epsilon), hits / n, false / n)


def _best_threshold(left: np.ndarray, right: np.ndarray, delta: float) -> float:
    """Return the score at which the ratio of the rates, each pulled towards the other by one count, is greatest."""
    candidates = np.unique(np.concatenate([left, right]))
    above = [len(side) - np.searchsorted(np.sort(side), candidates) for side in (left, right)]
    spread = [np.sqrt(a + 1) * 2 for a in above]  # two deviations of a rare count
    ratio = (above[1] - spread[1] - delta * len(right)) / (above[0] + spread[0] + 1)
    return float(candidates[ratio.argmax()])


def _table(Y: ArrayLike) -> np.ndarray:
    rows = np.asarray(Y)
    if rows.ndim != 2 or not rows.size or not np.all((rows == 0) | (rows == 1)):
        raise ValueError(f"Y has shape {rows.shape}; it takes a table (n, d) of zeros and ones")
    return rows.astype(int)
