"""Bandits that choose a parameter by the cost of the choices before."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_choice, check_count, check_number

Arms = Sequence[float] | Float[np.ndarray, " arms"] | None
Estimator = Literal["importance_weighted", "reduced_variance"]


class Bandit(ABC):
    """A choice among values of a parameter that learns from costs: `predict` gives a value, `update` takes its cost.

    The two take turns: a cost is that of the value given last, so threads each need a bandit of their own.

    Parameters
    ----------
    arms
        Values to choose from. Default: the paper's, 20 from 1 to 1.95.
    random_state
        Seed or generator of the choices.
    """

    def __init__(self, arms: Arms, random_state: int | np.random.Generator | None) -> None:
        self.arms = np.linspace(1, 1.95, 20) if arms is None else np.array(arms, dtype=float)
        if self.arms.ndim != 1 or not len(self.arms):
            raise ValueError(f"arms has shape {self.arms.shape}; it takes a list of at least one value")
        if not np.isfinite(self.arms).all():
            raise ValueError("arms has values that are not finite; it takes finite numbers")
        self.random_state = np.random.default_rng(random_state)
        self.counts_ = np.zeros(len(self.arms), dtype=int)
        self.history_: list[tuple[float, float]] = []
        self._chosen: tuple[int, np.ndarray, Any] | None = None

    def probabilities(self, context: float | None = None) -> Float[np.ndarray, " arms"]:
        """Return with which probability each value is chosen next.

        Parameters
        ----------
        context
            What is known of the next instance, for bandits that take it.

        Returns
        -------
        ndarray
            One probability for each value, of sum 1.
        """
        p = self._weigh(self._check_context(context))
        return p / p.sum()

    def predict(self, context: float | None = None) -> float:
        """Choose a value for the next instance.

        Parameters
        ----------
        context
            What is known of the next instance, for bandits that take it.

        Returns
        -------
        float
            The value chosen, one of `arms`.
        """
        context = self._check_context(context)
        p = self._weigh(context)
        sums = np.cumsum(p)
        arm = min(int(np.searchsorted(sums, self.random_state.random() * sums[-1], side="right")), len(sums) - 1)
        self._chosen = arm, p / sums[-1], context
        return float(self.arms[arm])

    def update(self, cost: float) -> None:
        """Learn from what the value chosen last has cost.

        Parameters
        ----------
        cost
            A number from 1 to 1e100, such as iterations; seconds in a unit that no solve falls below. Costs count by
            what they exceed 1.

        Raises
        ------
        ValueError
            If the cost is out of range, or no value was chosen since the last update.
        """
        check_number("cost", cost, ge=1, le=1e100)
        if self._chosen is None:
            raise ValueError("update has no choice to learn from: predict comes first")
        (arm, p, context), self._chosen = self._chosen, None
        self._learn(arm, p, context, float(cost))
        self.counts_[arm] += 1
        self.history_.append((float(self.arms[arm]), float(cost)))

    def state_dict(self) -> dict[str, Any]:
        """Return all that was learnt, with the state of the generator, so that a copy goes on bit by bit alike.

        Returns
        -------
        dict
            What `load_state_dict` takes.
        """
        state = {name: value for name, value in vars(self).items() if name != "random_state"}
        return {**copy.deepcopy(state), "generator": copy.deepcopy(self.random_state.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what another one has learnt that was made alike.

        Parameters
        ----------
        state
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If it is of another kind of bandit, or of other values.
        """
        own = vars(self).keys() - {"random_state"} | {"generator"}
        if not isinstance(state, dict) or state.keys() != own or not np.array_equal(state["arms"], self.arms):
            raise ValueError("state is of another bandit; it takes one of the same class and the same arms")
        state = copy.deepcopy(state)
        self.random_state.bit_generator.state = state.pop("generator")
        vars(self).update(state)

    def _check_context(self, context: float | None) -> Any:
        return context

    @abstractmethod
    def _weigh(self, context: Any) -> np.ndarray:
        """Return probabilities, up to the rounding of their sum."""

    @abstractmethod
    def _learn(self, arm: int, p: np.ndarray, context: Any, cost: float) -> None:
        """Take in what a value has cost that was chosen with these probabilities."""


class TsallisINF(Bandit):
    """Approach the cost of the best fixed value: Tsallis-INF (arXiv:2310.02246, Algorithm 1).

    The probabilities p minimise <k/s, p> - (4/eta) sum sqrt(p), where k sums estimates of the costs less 1, s is their
    scale and eta = 2/sqrt(t) in round t. The default estimates aren't the paper's, whose algorithm is that with
    `estimator="importance_weighted"`: see there.

    Parameters
    ----------
    arms
        Values to choose from. Default: the paper's, 20 from 1 to 1.95.
    horizon
        Number of rounds, where it is known: eta is then 1/sqrt(horizon) throughout, as in Theorem 3.1.
    normalizer
        Scale s of the costs: a bound of them, or "running_mean", the mean cost less 1 so far, as in the paper's
        experiments.
    estimator
        How the costs of the values not chosen are estimated, without bias in both cases: "importance_weighted", the
        paper's, divides a cost by its value's probability and takes 0 for the others; "reduced_variance" does so with
        the distance from the mean so far, of values whose probability is at least eta^2 (after Zimmert and Seldin,
        arXiv:1807.07623), and learns faster.
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
        If there are no values, or a number is out of range.

    Examples
    --------
    >>> bandit = TsallisINF([1.0, 1.5, 1.9], random_state=0)
    >>> for _ in range(300):
    ...     omega = bandit.predict()
    ...     bandit.update(10 + 100 * abs(omega - 1.5))
    >>> int(bandit.counts_.argmax())
    1
    """

    def __init__(
        self,
        arms: Arms = None,
        *,
        horizon: int | None = None,
        normalizer: float | Literal["running_mean"] = "running_mean",
        estimator: Estimator = "reduced_variance",
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(arms, random_state)
        self._horizon = None if horizon is None else check_count("horizon", horizon)
        self._scale = None if normalizer == "running_mean" else check_number("normalizer", normalizer, gt=0)
        self._reduced = check_choice("estimator", estimator, get_args(Estimator)) == "reduced_variance"
        self._costs = np.zeros(len(self.arms))
        self._rounds, self._mean = 0, 0.0  # the mean cost less 1

    @property
    def _eta(self) -> float:
        return 1 / math.sqrt(self._horizon) if self._horizon else 2 / math.sqrt(self._rounds + 1)

    def _weigh(self, context: Any) -> np.ndarray:
        scale = self._scale or (max(self._mean, 1e-12) if self._rounds else 1.0)
        return _minimise(self._costs / scale, self._eta)

    def _learn(self, arm: int, p: np.ndarray, context: Any, cost: float) -> None:
        base = self._mean * (self._reduced & (p >= self._eta**2))
        self._costs += base
        self._costs[arm] += (cost - 1 - base[arm]) / p[arm]
        self._rounds += 1
        self._mean += (cost - 1 - self._mean) / self._rounds


def _minimise(costs: np.ndarray, eta: float) -> np.ndarray:
    """Return the p on the simplex that minimises <costs, p> - (4/eta) sum sqrt(p).

    p = 4 / (eta (costs - x))^2 with the x below the least cost at which they sum to 1. Newton's iteration is on the
    gap y = min(costs) - x, which no cancellation harms: at 2/eta the sum is at least 1, and from there convexity makes
    the steps rise to the root without passing it.
    """
    gaps, y = costs - costs.min(), 2 / eta
    for _ in range(100):
        root = 2 / (eta * (gaps + y))  # sqrt(p)
        excess = root @ root - 1
        if excess <= 1e-12:
            break
        y += excess / (eta * (root**3).sum())
    return root**2


class BinnedBandit(Bandit):
    """Approach the cost of the best value for each range of a context: Tsallis-INF-CB (arXiv:2310.02246, Algorithm 3).

    The interval is cut into equal bins, each with a `TsallisINF` of its own.

    Parameters
    ----------
    arms
        Values to choose from. Default: the paper's, 20 from 1 to 1.95.
    n_bins
        Number of bins. The paper takes 5 for shifts and 6 for the heat equation.
    low, high
        Ends of the context's interval.
    horizon
        Number of rounds in each bin, where it is known.
    normalizer
        Scale of the costs: a bound of them, or "running_mean", that of each bin.
    estimator
        How costs are estimated, as in `TsallisINF`: the paper's is "importance_weighted".
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
    >>> bandit = BinnedBandit([1.0, 1.9], n_bins=2, low=0.0, high=1.0, random_state=0)
    >>> for t in range(600):
    ...     context = t % 2 * 0.9
    ...     omega = bandit.predict(context)
    ...     bandit.update(100.0 if (omega > 1.5) == (context > 0.5) else 10.0)
    >>> (bandit.probabilities(0.1) > 0.9).tolist(), (bandit.probabilities(0.9) > 0.9).tolist()
    ([False, True], [True, False])
    """

    def __init__(
        self,
        arms: Arms = None,
        n_bins: int = 5,
        *,
        low: float,
        high: float,
        horizon: int | None = None,
        normalizer: float | Literal["running_mean"] = "running_mean",
        estimator: Estimator = "reduced_variance",
        clip: bool = False,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(arms, random_state)
        self._interval = Interval(low, high, clip)
        self._bins = [
            TsallisINF(self.arms, horizon=horizon, normalizer=normalizer) for _ in range(check_count("n_bins", n_bins))
        ]

    def _check_context(self, context: float | None) -> int:
        # Ceiling, so that a context between two bins goes to the lower one.
        unit = self._interval.unit(context)
        return max(math.ceil(unit * len(self._bins)) - 1, 0)

    def _weigh(self, context: Any) -> np.ndarray:
        return self._bins[context]._weigh(None)

    def _learn(self, arm: int, p: np.ndarray, context: Any, cost: float) -> None:
        self._bins[context]._learn(arm, p, None, cost)


class Interval:
    """An interval of contexts.

    Parameters
    ----------
    low, high
        Its two ends, the first below the second.
    clip
        Whether a context outside counts as the nearer end.

    Examples
    --------
    >>> Interval(0.0, 10.0).unit(2.5)
    0.25
    """

    def __init__(self, low: float, high: float, clip: bool = False) -> None:
        self.low, self.high, self.clip = check_number("low", low), check_number("high", high, gt=low), clip
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"high is {high:g}; its distance from low, {low:g}, overflows")

    def unit(self, context: float | None) -> float:
        """Map a context to [0, 1]."""
        if context is None:
            raise ValueError("context is missing; this bandit takes a number for each instance")
        given = check_number("context", context)
        if self.clip:
            given = min(max(given, self.low), self.high)
        if not self.low <= given <= self.high:
            raise ValueError(
                f"context is {given:g}; it takes a number from {self.low:g} to {self.high:g}, or clip=True"
            )
        return (given - self.low) / (self.high - self.low)
