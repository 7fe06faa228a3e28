"""Private multiplicative weights: a distribution over a finite universe that learns from the queries it got wrong."""

import math

import numpy as np
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.inference.holdout.queries import StatisticalQueryOracle
from paperworks.inference.privacy.accounting import approx_dp_from_zcdp
from paperworks.inference.privacy.ledger import BudgetExhausted

_BLOCK = 256


class PrivateMultiplicativeWeights(StatisticalQueryOracle):
    """Answers queries from a hypothesis, a distribution over a finite universe, and corrects it where it is wrong.

    Where a query's mean on the samples and on the hypothesis differ by more than a noisy threshold, the answer is the
    samples' mean plus Gaussian noise, and the hypothesis is updated; otherwise the answer is the hypothesis' mean,
    which costs no privacy. After `max_updates` nothing is answered, since each comparison would cost; the `hypothesis`
    stays public. There can be at most ``4 ln N / alpha^2`` updates by more than alpha, so that the error
    grows with the logarithm of the number of queries only.

    Parameters
    ----------
    samples
        Shape (n,): the index in the universe of each sample.
    universe_size
        Number N of points. A query is a function of the indices 0 to N - 1, or its N values.
    threshold
        Difference beyond which the hypothesis is corrected.
    comparison_scale
        Scale of the Laplace noise of each comparison; that of the threshold, drawn anew after each update, is half.
    noise_scale
        Standard deviation of the noise of answers from the samples.
    max_updates
        Number of updates; by default ``ceil(4 ln N / threshold^2)``.
    lr
        Step size of the updates; by default half the threshold.
    granularity, random_state
        As in `StatisticalQueryOracle`.

    Raises
    ------
    ValueError
        For indices outside the universe, or scales, thresholds or rates that aren't positive.

    References
    ----------
    Hardt and Rothblum (2010), as used by Dwork et al., arXiv 1411.2664, section 4; Dwork and Roth, section 4.2.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> samples = rng.binomial(15, 0.2, size=5000)
    >>> scales = {"threshold": 0.05, "comparison_scale": 0.005, "noise_scale": 0.005}
    >>> pmw = PrivateMultiplicativeWeights(samples, 16, **scales, random_state=rng)
    >>> round(pmw.answer(lambda x: x < 4), 2), pmw.updates
    (0.65, 1)
    """

    def __init__(
        self,
        samples: ArrayLike,
        universe_size: int,
        *,
        threshold: float,
        comparison_scale: float,
        noise_scale: float,
        max_updates: int | None = None,
        lr: float | None = None,
        granularity: float | None = None,
        random_state: np.random.Generator | None = None,
    ) -> None:
        size = check_count("universe_size", universe_size, at_least=2)
        super().__init__(np.arange(size), granularity=granularity, random_state=random_state)
        points = np.asarray(samples)
        if points.ndim != 1 or not len(points) or points.dtype.kind not in "iu":
            raise ValueError(f"samples have shape {points.shape} and type {points.dtype}; it takes (n,) indices")
        if points.min() < 0 or points.max() >= size:
            raise ValueError(f"samples go from {points.min()} to {points.max()}; it takes indices from 0 to {size - 1}")
        self.n_samples = self._samples = len(points)
        self._histogram = np.bincount(points, minlength=size).astype(float)
        self._check_exact(self._width)
        self.threshold = check_number("threshold", threshold, gt=0)
        self.comparison_scale = check_number("comparison_scale", comparison_scale, gt=0)
        self.noise_scale = check_number("noise_scale", noise_scale, gt=0)
        default = math.ceil(4 * math.log(size) / self.threshold**2)
        self.max_updates = default if max_updates is None else check_count("max_updates", max_updates)
        rate = self.threshold / 2 if lr is None else lr
        self.lr = check_number("lr", rate, gt=0)
        self._open(self.max_updates, f"all max_updates = {self.max_updates} updates are made")
        self._log_weights = np.zeros(size)
        self._hypothesis = np.full(size, 1 / size)
        self.noise.laplace(self._in_steps(self.comparison_scale), 0)
        self.noise.gaussian(self._in_steps(self.noise_scale), 0)
        self._noisy_threshold = self._redraw()

    @classmethod
    def for_privacy(
        cls,
        samples: ArrayLike,
        universe_size: int,
        *,
        alpha: float,
        rho: float,
        m: int,
        beta: float = 0.05,
        random_state: np.random.Generator | None = None,
    ) -> "PrivateMultiplicativeWeights":
        """Return the mechanism that is rho-zCDP and answers m queries about the samples within alpha.

        There are ``c = 4 ln N / (alpha / 3)^2`` updates; half the budget pays for their comparisons and half for their
        answers. With probability ``1 - beta`` no noise is beyond the tail that a third of alpha leaves room for.

        Parameters
        ----------
        samples
            Indices of the samples in the universe, of shape (n,).
        universe_size
            How many values a sample can have, N.
        alpha
            Error that the answers stay within, a share of the samples.
        rho
            Budget of zero-concentrated differential privacy.
        m
            Number of queries to be answered.
        beta
            Probability that the bound may fail.
        random_state
            As in `StatisticalQueryOracle`.

        Returns
        -------
        PrivateMultiplicativeWeights
            The mechanism that is rho-zCDP and answers m queries about the samples within alpha.

        Raises
        ------
        ValueError
            For parameters out of range, or too few samples; the message says how many it takes.

        References
        ----------
        Dwork et al., arXiv 1411.2664, section 4, with the composition of zCDP in the place of its constants.

        Examples
        --------
        >>> samples = np.random.default_rng(0).integers(0, 16, 100_000)
        >>> pmw = PrivateMultiplicativeWeights.for_privacy(samples, 16, alpha=0.3, rho=0.5, m=1000)
        >>> round(pmw.privacy()["rho"], 3), pmw.max_updates
        (0.5, 1110)
        """
        alpha, rho = check_number("alpha", alpha, gt=0, le=1), check_number("rho", rho, gt=0)
        m, beta = check_count("m", m), check_number("beta", beta, gt=0, lt=1)
        c = math.ceil(4 * math.log(check_count("universe_size", universe_size, at_least=2)) / (alpha / 3) ** 2)
        n = np.size(samples)
        comparison, noise = 4 / n * math.sqrt(c / rho), math.sqrt(c / rho) / n
        tail = comparison * (math.log(2 * m / beta) + math.log(2 * c / beta) / 2)
        if tail > alpha / 3:
            raise ValueError(f"samples are {n}; alpha = {alpha:g} takes {math.ceil(n * tail / (alpha / 3))} or more")
        return cls(
            samples,
            universe_size,
            threshold=2 * alpha / 3,
            comparison_scale=comparison,
            noise_scale=noise,
            max_updates=c,
            lr=alpha / 6,
            random_state=random_state,
        )

    @property
    def updates(self) -> int:
        """How often the hypothesis was corrected."""
        return int(self._spent)

    @property
    def hypothesis(self) -> np.ndarray:
        """Shape (N,): the distribution that answers, which is public."""
        return self._hypothesis.copy()

    def privacy(self, delta: float = 1e-6) -> dict[str, float]:
        """Return the privacy of all `max_updates` updates: rho of zCDP, and the epsilon it implies at this delta.

        All comparisons up to an update are differentially private with ``epsilon_0 = 4 / (n comparison_scale)``, which
        is ``epsilon_0^2 / 2``-zCDP, and each answer ``1 / (2 n^2 noise_scale^2)``-zCDP.

        Returns
        -------
        dict[str, float]
            Values under ``rho``, ``epsilon`` and ``delta``.

        Raises
        ------
        ValueError
            For a delta outside (0, 1).
        """
        check_number("delta", delta, gt=0, lt=1)
        compared, answered = (
            self._width / self._in_steps(scale) for scale in (self.comparison_scale, self.noise_scale)
        )
        rho = self.max_updates * (8 * compared**2 + answered**2 / 2)
        return {"rho": rho, "epsilon": approx_dp_from_zcdp(rho, delta), "delta": delta}

    def _redraw(self) -> float:
        threshold = math.floor(self._in_steps(self.threshold))
        return threshold + int(self.noise.laplace(self._in_steps(self.comparison_scale / 2), 1)[0])

    def _answers(self, values: np.ndarray) -> np.ndarray:
        answers, start, queries = np.full(len(values), np.nan), 0, self._steps(values)
        while start < len(values):
            if self.updates == self.max_updates:
                raise BudgetExhausted(self._exhausted, answers)
            block = queries[start : start + _BLOCK]
            means = block @ self._hypothesis * self.granularity
            exact = (block @ self._histogram).astype(np.int64)  # sums of whole steps, exactly
            noise = self.noise.laplace(self._in_steps(self.comparison_scale), len(block))
            guessed = np.floor(self._in_steps(1.0) * means + 0.5).astype(np.int64)
            above = np.abs(exact - guessed) + noise > self._noisy_threshold
            first = int(above.argmax())
            end = first if above[first] else len(block)
            answers[start : start + end] = means[:end]
            start += end
            if end < len(block):
                answers[start] = self._update(block[end] * self.granularity, int(exact[end]), float(means[end]))
                start += 1
        return answers

    def _update(self, query: np.ndarray, exact: int, mean: float) -> float:
        self._spend(1)
        noisy = exact + int(self.noise.gaussian(self._in_steps(self.noise_scale), 1)[0])
        answer = noisy / self._in_steps(1.0)
        # Points that the query counts lose weight where the hypothesis gives it too much, and gain it otherwise.
        self._log_weights -= self.lr * (query if answer < mean else 1 - query)
        self._log_weights -= self._log_weights.max()
        weights = np.exp(self._log_weights)
        self._hypothesis = weights / weights.sum()
        self._noisy_threshold = self._redraw()
        return answer
