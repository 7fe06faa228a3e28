"""The reusable holdout: training answers where the holdout agrees, noisy holdout answers where it doesn't."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.holdout.bounds import generalization_bound
from paperworks.inference.holdout.queries import check_range, check_values, evaluated, width_of
from paperworks.inference.holdout.sparse import scan
from paperworks.inference.privacy.accounting import approx_dp_from_zcdp
from paperworks.inference.privacy.ledger import BudgetExhausted, PrivateMechanism
from paperworks.inference.privacy.noise import Noise
from paperworks.inference.privacy.values import as_numbers, kept

_BETA = 0.05  # of the union bounds that defaults and warnings rest on


class Transcript(NamedTuple):
    """All answers so far, and whether each came from the holdout.

    Parameters
    ----------
    exceeded
        Whether each answer came from the holdout, of shape (m,).

    Examples
    --------
    >>> reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-9)
    >>> answers = reusable.query_means([0.5, 0.9], [0.5, 0.6])
    >>> reusable.transcript.exceeded
    array([False,  True])
    """

    answers: np.ndarray
    exceeded: np.ndarray


class ReusableHoldout(PrivateMechanism):
    """Answers queries by their training mean, and from the holdout, with noise, where the two differ too much.

    A query costs nothing as long as the training data don't overfit it. With ``noise="laplace"`` this is Thresholdout:
    the threshold has noise of scale ``2 s`` that is drawn anew after each exceedance, each comparison noise of scale
    ``4 s`` and each answer from the holdout noise of scale s. With ``noise="gaussian"`` comparisons and answers have
    Gaussian noise of standard deviation s and the threshold has none, as in the published experiment. Means of the
    holdout are rounded to the grid, and the noise is whole steps of it.

    The guarantee is about the holdout: keep it untouched otherwise. A training mean is certified to within the
    threshold only. For m questions that don't depend on the answers, a plain holdout is within a union bound
    ``U = sqrt(ln(40 m) / 2 n)`` of the truth. By default half of U is the threshold, and the noise is as large as
    keeps all comparisons within the other half, with probability .95. Settings that allow more than U are warned of:
    such answers are further from the truth than those of the plain holdout. On a small holdout the default noise gives
    next to no privacy, and its answers are about those of the plain holdout; `Ladder` tells less there. What
    the experiment of Science (2015) used, a threshold of 4 / sqrt(n) and noise of 1 / sqrt(n), is for thousands of
    samples.

    For a metric other than a mean of values use `query_means` with noise of the metric's own standard error.

    Parameters
    ----------
    train, holdout
        The two samples, for queries that are functions. They may be left out where only values are passed.
    threshold
        How much the means may differ; by default chosen from the size of the holdout and `m`.
    noise_scale
        The noise s; by default the same.
    budget
        Number of answers from the holdout; None for no limit.
    noise
        ``laplace`` or ``gaussian``.
    value_range
        Least and greatest value of a query; None takes any finite values.
    m
        Number of queries to expect, for the defaults and the warning.
    exhausted
        After the budget is spent, ``raise`` `BudgetExhausted` or answer ``nan``.
    granularity
        Step of the grid of means; by default at most 2^-30 of the noise.
    random_state
        None takes noise from the operating system's cryptographic source. A NumPy generator makes it repeatable and is
        for tests and simulations only: whoever knows its state takes the noise off.

    Raises
    ------
    ValueError
        For a threshold or noise scale that isn't positive, a negative budget, or defaults without a holdout.

    Warns
    -----
    UserWarning
        Where the threshold and the noise allow more than a union bound for a plain holdout.

    References
    ----------
    Dwork et al., arXiv 1506.02629, section 4.1, and Science 349:636 (2015); validity rests on arXiv 1411.2664.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> reusable = ReusableHoldout(rng.normal(size=1000), rng.normal(size=1000), random_state=rng)
    >>> round(reusable.query(lambda x: x > 1), 2), reusable.transcript.exceeded
    (0.15, array([False]))
    """

    def __init__(
        self,
        train: Any = None,
        holdout: Any = None,
        *,
        threshold: float | None = None,
        noise_scale: float | None = None,
        budget: int | None = None,
        noise: Literal["laplace", "gaussian"] = "laplace",
        value_range: tuple[float, float] | None = (0.0, 1.0),
        m: int = 100,
        exhausted: Literal["raise", "nan"] = "raise",
        granularity: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        if (threshold is None or noise_scale is None) and holdout is None:
            raise ValueError("threshold and noise_scale are None; without a holdout it takes both")
        self.kind = check_choice("noise", noise, ("laplace", "gaussian"))
        self.value_range = check_range(value_range)
        self.m = check_count("m", m)
        union = math.inf
        if holdout is not None:
            union = self._span * generalization_bound("hoeffding", n=len(holdout), m=self.m, beta=_BETA)
        self.threshold = check_number("threshold", union / 2 if threshold is None else threshold, gt=0)
        default = union / 2 / self._reach_of_noise()
        self.noise_scale = check_number("noise_scale", default if noise_scale is None else noise_scale, gt=0)
        allowed = self.threshold + self.noise_scale * self._reach_of_noise()
        if allowed > union * (1 + 1e-9):
            warnings.warn(
                f"threshold and noise let answers be {allowed:.3g} from the holdout's; with {len(holdout)} samples a "
                f"plain union bound over m = {self.m} questions that don't depend on answers is {union:.3g}. The "
                "defaults stay within it",
                stacklevel=2,
            )
        self.budget = math.inf if budget is None else check_count("budget", budget, at_least=0)
        self.exhausted = check_choice("exhausted", exhausted, ("raise", "nan"))
        fine = 2.0 ** (math.frexp(self.noise_scale)[1] - 31) if granularity is None else granularity
        self.granularity = check_number("granularity", fine, gt=0)
        self._train, self._holdout = _kept(train), _kept(holdout)
        self._noise = Noise(random_state)
        self._draw(4 if self.kind == "laplace" else 1, 0)
        self._noisy_threshold = self._redraw()
        self._answers: list[np.ndarray] = []
        self._exceeded: list[np.ndarray] = []
        self._open(self.budget, f"the budget of {self.budget} answers from the holdout is spent")

    @classmethod
    def from_tolerance(
        cls, tau: float, beta: float, m: int, n: int, train: Any = None, holdout: Any = None, **options: Any
    ) -> "ReusableHoldout":
        """Return Thresholdout with the constants under which all answers are within `tau` with probability 1 - beta.

        The threshold is ``3 tau / 4`` and the noise ``tau / (96 ln(4 m / beta))``; the budget is the largest for which
        the interaction is (tau / 16)-differentially private, so that no exceedance overfits the holdout by more than
        ``tau / 8``. These constants hold for every analyst, and take very many samples.

        Parameters
        ----------
        tau, beta, m
            Tolerance of the answers, probability of failure, and number of queries.
        n
            Size of the holdout.
        train, holdout, **options
            As in `ReusableHoldout`.

        Returns
        -------
        ReusableHoldout
            The mechanism with its threshold, noise and budget set.

        Raises
        ------
        ValueError
            Where `n` is too small for one answer from the holdout; the message says how many it takes.

        References
        ----------
        Dwork et al., arXiv 1506.02629, theorem 25; arXiv 1411.2664, theorem 10, for the overfitting of the holdout.

        Examples
        --------
        >>> reusable = ReusableHoldout.from_tolerance(0.2, 0.05, m=100, n=10**7)
        >>> round(reusable.threshold, 3), reusable.remaining_budget
        (0.15, 14)
        """
        tau = check_number("tau", tau, gt=0, le=1)
        beta, m = check_number("beta", beta, gt=0, lt=1), check_count("m", m)
        scale = tau / (96 * math.log(4 * m / beta))
        budget = math.floor(tau / 16 * scale * check_count("n", n) / 2)
        least = max(12 * math.log(8 * m / beta) / (tau / 8) ** 2, 32 / (tau * scale))
        if budget < 1 or n < least:
            raise ValueError(
                f"n is {n}; tau = {tau:g} with beta = {beta:g} and m = {m} takes {math.ceil(least)} or more"
            )
        made = cls(None, None, threshold=0.75 * tau, noise_scale=scale, budget=budget, noise="laplace", m=m, **options)
        # Set afterwards, since such constants are looser than a union bound at any n, which is warned of.
        made._train, made._holdout = _kept(train), _kept(holdout)
        return made

    @property
    def remaining_budget(self) -> float:
        """How many answers may still come from the holdout."""
        return self._remaining

    @property
    def transcript(self) -> Transcript:
        """All answers so far, and which of them came from the holdout."""
        return Transcript(
            np.concatenate([np.empty(0), *self._answers]), np.concatenate([np.empty(0, dtype=bool), *self._exceeded])
        )

    def query(self, phi: Callable[[Any], ArrayLike]) -> float:
        """Answer a query: a function that gives one value for each sample of the training or the holdout data.

        Parameters
        ----------
        phi
            Called with the training data and with the holdout; returns one value for each sample.

        Returns
        -------
        float
            The mean on the training data where the two agree, else a noisy one on the holdout.

        Raises
        ------
        ValueError
            For values outside the range, or where no data were given.
        BudgetExhausted
            Where the budget is spent.
        """
        if self._train is None or self._holdout is None:
            raise ValueError("phi takes train and holdout data, which were not given; use query_values")
        self._check_open_or_nan()
        # To refuse values of the holdout would tell something of it.
        on_train = evaluated("phi", phi, self._train, None)
        on_holdout = evaluated("phi", phi, self._holdout, self.value_range)
        return float(self.query_values(on_train[None], on_holdout[None])[0])

    def query_values(self, train_values: ArrayLike, holdout_values: ArrayLike) -> np.ndarray:
        """Answer many queries in their order, given their values (m, samples) on the two samples.

        Parameters
        ----------
        train_values
            Values on the training data, of shape (m, n).
        holdout_values
            Values on the holdout, of shape (m, n of the holdout).

        Returns
        -------
        ndarray
            The answers in the order of the queries, of shape (m,).

        Raises
        ------
        ValueError
            For values outside the range, or numbers of queries that differ.
        BudgetExhausted
            Where the budget is spent before the last of them; it and `transcript` have the answers up to there.
        """
        train = check_values("train_values", train_values, _size(self._train), self.value_range)
        holdout = check_values("holdout_values", holdout_values, _size(self._holdout), self.value_range)
        return self.query_means(train.mean(axis=1), holdout.mean(axis=1))

    def query_means(self, train_means: ArrayLike, holdout_means: ArrayLike) -> np.ndarray:
        """Answer many queries in their order, given their means or any other metric (m,) on the two samples.

        Parameters
        ----------
        train_means
            Means on the training data, of shape (m,).
        holdout_means
            Means on the holdout, of shape (m,).

        Returns
        -------
        ndarray
            The answers in the order of the queries, of shape (m,).

        Raises
        ------
        ValueError
            For means that aren't finite, or numbers of queries that differ.
        BudgetExhausted
            As `query_values`.
        """
        train = as_numbers("train_means", train_means).astype(float)
        holdout = as_numbers("holdout_means", holdout_means).astype(float)
        if train.ndim != 1 or train.shape != holdout.shape:
            raise ValueError(
                f"train_means and holdout_means have shapes {train.shape} and {holdout.shape}; it takes (m,)"
            )
        if not (np.all(np.isfinite(train)) and np.all(np.isfinite(holdout))):
            raise ValueError("train_means and holdout_means take finite numbers only")
        with self._lock:
            if self._is_over_and_nan():
                answers, exceeded, known = np.full(len(train), np.nan), np.zeros(len(train), dtype=bool), len(train)
            else:
                steps = self._steps(train), self._steps(holdout)
                with self._charged():
                    answers, exceeded, known = self._looked_up(train, *steps)
            self._answers.append(answers[:known].copy())  # the caller may write to what is returned
            self._exceeded.append(exceeded[:known])
            if known < len(train):
                raise BudgetExhausted(self._exhausted, answers)
            return answers

    def _looked_up(
        self, train: np.ndarray, train_steps: np.ndarray, holdout: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return answers, which of them came from the holdout, and how many of them are known."""
        gaps = np.abs(holdout - train_steps) - self._draw(4 if self.kind == "laplace" else 1, len(train))
        found = scan(gaps, self._noisy_threshold, self._redraw, self._remaining)
        self._noisy_threshold = found.threshold
        self._spend(int(found.exceeded.sum()))
        answers = train.copy()
        above = holdout[found.exceeded]
        answers[found.exceeded] = (above + self._draw(1, len(above))) * self.granularity
        answers[found.looked_at :] = np.nan
        return answers, found.exceeded, len(train) if self.exhausted == "nan" else found.looked_at

    def _is_over_and_nan(self) -> bool:
        return self.exhausted == "nan" and self._closed == self._exhausted

    def _check_open_or_nan(self) -> None:
        if not self._is_over_and_nan():
            self._check_open()

    def _steps(self, means: np.ndarray) -> np.ndarray:
        steps = np.floor(means / self.granularity + 0.5)
        if steps.size and np.abs(steps).max() >= 2.0**61:
            raise ValueError(f"granularity is {self.granularity:g}; with such means it takes a coarser one")
        return steps.astype(np.int64)

    def privacy(self, n: int, delta: float = 0.0) -> float:
        """Return the epsilon of the differential privacy of all answers with respect to a holdout of n samples.

        Parameters
        ----------
        n
            Number of samples in the holdout.
        delta
            Delta of the guarantee, 0 for a pure one.

        Returns
        -------
        float
            The epsilon of the differential privacy of all answers with respect to a holdout of n samples.

        Raises
        ------
        ValueError
            For Gaussian noise or no budget, which have no such guarantee, or a delta outside [0, 1).

        References
        ----------
        Dwork et al., arXiv 1506.02629, lemmas 23 and 24, with the composition of zCDP for a delta.
        """
        if self.kind == "gaussian" or self.budget == math.inf:
            raise ValueError("privacy takes Laplace noise and a budget")
        check_number("delta", delta, ge=0, lt=1)
        span = width_of(self.value_range)
        # By how many steps a sample moves a mean: both are rounded, and were computed in floating point.
        moved = math.ceil(span / check_count("n", n) / self.granularity) + 1
        each = moved * self.granularity / self.noise_scale
        basic = 2 * self.budget * each
        # Between one exceedance and the next all comparisons and the answer are differentially private with 2 each.
        return min(basic, approx_dp_from_zcdp(2 * self.budget * each**2, delta)) if delta and self.budget else basic

    @property
    def _span(self) -> float:
        return 1.0 if self.value_range is None else self.value_range[1] - self.value_range[0]

    def _reach_of_noise(self) -> float:
        """Return what the noise of m comparisons stays below with probability .95, in units of its scale."""
        log = math.log(2 * self.m / _BETA)
        return 4 * log + 2 * math.log(2 / _BETA) if self.kind == "laplace" else math.sqrt(2 * log)

    def _redraw(self) -> float:
        threshold = math.floor(self.threshold / self.granularity)
        return threshold + (int(self._draw(2, 1)[0]) if self.kind == "laplace" else 0)

    def _draw(self, times: float, size: int) -> np.ndarray:
        draw = self._noise.laplace if self.kind == "laplace" else self._noise.gaussian
        return draw(times * self.noise_scale / self.granularity, size)


def _kept(sample: Any) -> Any:
    """Return arrays as copies that no query writes to, and other samples, such as tables, as they are."""
    return kept(sample) if isinstance(sample, np.ndarray) else sample


def _size(sample: Any) -> int | None:
    """Return the number of samples, or None where only values are passed."""
    return None if sample is None else len(sample)
