"""Processes in continuous time whose value functions are known, sampled without error in the state."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import ndtr

from paperworks.core.validation import check_count
from paperworks.dynamics import Trajectories

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class BrownianTerminal:
    """Brownian motion from 0 that is paid where it ends: the value is the state.

    Parameters
    ----------
    horizon
        The time of the end.

    Examples
    --------
    >>> paths = BrownianTerminal().sample(3, 4, random_state=0)
    >>> bool((paths.terminal == paths.x[:, -1]).all())
    True
    """

    horizon: float = 1.0

    def value(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the value function at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `t` and `x`.
        """
        return np.asarray(x, dtype=np.float64)

    def features(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the feature of the family x (1 + theta (T - t)), 0 at the truth, at times t and states x.

        Returns
        -------
        ndarray
            Features, in a last axis of their own.
        """
        return np.stack([np.asarray(x) * (self.horizon - np.asarray(t))], axis=-1)

    def sample(self, paths: int, steps: int, random_state: int | np.random.Generator | None = None) -> Trajectories:
        """Draw paths.

        Parameters
        ----------
        paths, steps
            How many paths, and steps of each.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        Trajectories
            Paths on an even grid.
        """
        n, k, rng = check_count("paths", paths), check_count("steps", steps), np.random.default_rng(random_state)
        x = np.zeros((n, k + 1))
        np.cumsum(math.sqrt(self.horizon / k) * rng.standard_normal((n, k)), axis=1, out=x[:, 1:])
        return Trajectories(np.linspace(0, self.horizon, k + 1), x, np.zeros((n, k)), x[:, -1])


@dataclass(frozen=True)
class OUQuadratic:
    r"""An Ornstein-Uhlenbeck process, $dX = -k X dt + s dW$, with rewards $-q x^2$ and $-g x^2$ at the end.

    Parameters
    ----------
    k, s
        Its rate of return, and its volatility.
    q, g
        Weights of the square along the way and at the end.
    horizon
        The time of the end.
    mean, variance
        Moments of the normal start.

    Examples
    --------
    >>> OUQuadratic().theta.tolist()
    [1.5, -0.125, -0.1875]
    """

    k: float = 1.0
    s: float = 0.5
    q: float = 1.0
    g: float = 2.0
    horizon: float = 1.0
    mean: float = 0.5
    variance: float = 0.25

    @property
    def theta(self) -> Float[np.ndarray, " 3"]:
        """Parameters of the value function in `features`."""
        rest = self.g - self.q / (2 * self.k)
        return np.array([rest, -(self.s**2) * self.q / (2 * self.k), -(self.s**2) * rest / (2 * self.k)])

    def features(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return features at times t and states x that vanish at the end and span the value less what is paid then.

        Returns
        -------
        ndarray
            Features, in a last axis of their own.
        """
        left = self.horizon - np.asarray(t)
        fall = -np.expm1(-2 * self.k * left)
        return np.stack(np.broadcast_arrays(np.asarray(x) ** 2 * fall, left, fall), axis=-1)

    def offset(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return what is paid at the end at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `x`.
        """
        return np.asarray(-self.g * np.asarray(x) ** 2)

    def value(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the value function at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `t` and `x`.
        """
        return np.asarray(self.offset(t, x) + self.features(t, x) @ self.theta)

    def sample(self, paths: int, steps: int, random_state: int | np.random.Generator | None = None) -> Trajectories:
        """Draw paths by the exact transition.

        Parameters
        ----------
        paths, steps
            How many paths, and steps of each.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        Trajectories
            Paths on an even grid.
        """
        n, m, rng = check_count("paths", paths), check_count("steps", steps), np.random.default_rng(random_state)
        start = self.mean + math.sqrt(self.variance) * rng.standard_normal(n)
        x = _ou_paths(start, self.k, self.s, self.horizon / m, m, rng)
        return Trajectories(np.linspace(0, self.horizon, m + 1), x, -self.q * x[:, :-1] ** 2, -self.g * x[:, -1] ** 2)


@dataclass(frozen=True)
class OUDiscounted:
    r"""The same process for ever, with rewards $-q x^2$ discounted at the rate beta.

    Parameters
    ----------
    k, s, q, beta
        Rate of return, volatility, weight of the square, and rate of discount.

    Examples
    --------
    >>> OUDiscounted().sample(2, 10, dt=0.1, random_state=0)
    Trajectories(2 paths of 10 steps, discount=0.5)
    """

    k: float = 0.7
    s: float = 0.4
    q: float = 1.0
    beta: float = 0.5

    @property
    def theta(self) -> Float[np.ndarray, " 2"]:
        """Parameters of the value function in `features`."""
        rate = self.beta + 2 * self.k
        return np.array([-self.q / rate, -(self.s**2) * self.q / (self.beta * rate)])

    def features(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the square and a constant at times t and states x.

        Returns
        -------
        ndarray
            Features, in a last axis of their own.
        """
        return np.stack([np.asarray(x) ** 2, np.ones(np.shape(x))], axis=-1)

    def value(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the value function at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `t` and `x`.
        """
        return np.asarray(self.features(t, x) @ self.theta)

    def sample(
        self, paths: int, steps: int, dt: float, random_state: int | np.random.Generator | None = None
    ) -> Trajectories:
        """Draw stationary paths by the exact transition.

        Parameters
        ----------
        paths, steps
            How many paths, and steps of each.
        dt
            Length of a step, in the unit of time.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        Trajectories
            Paths on an even grid, with nothing said of their end.
        """
        n, m, rng = check_count("paths", paths), check_count("steps", steps), np.random.default_rng(random_state)
        start = self.s / math.sqrt(2 * self.k) * rng.standard_normal(n)
        x = _ou_paths(start, self.k, self.s, dt, m, rng)
        return Trajectories(dt * np.arange(m + 1), x, -self.q * x[:, :-1] ** 2, discount=self.beta)


@dataclass(frozen=True)
class CallOption:
    """A European call on a price that is a geometric Brownian motion under the measure of pricing.

    Parameters
    ----------
    start, strike
        The price now, and that of the option.
    interest, volatility
        The rate of interest, which is the drift too, and the volatility, in a unit of time.
    horizon
        The time of the end.

    Examples
    --------
    >>> round(float(CallOption().value(0.0, 1.0)), 6)
    0.094134
    """

    start: float = 1.0
    strike: float = 1.0
    interest: float = 0.03
    volatility: float = 0.2
    horizon: float = 1.0

    def value(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return Black and Scholes' price at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `t` and `x`.
        """
        left = np.maximum(self.horizon - np.asarray(t, dtype=np.float64), 1e-300)
        spread = self.volatility * np.sqrt(left)
        d1 = (np.log(np.asarray(x) / self.strike) + (self.interest + self.volatility**2 / 2) * left) / spread
        return np.asarray(np.asarray(x) * ndtr(d1) - self.strike * np.exp(-self.interest * left) * ndtr(d1 - spread))

    def sample(self, paths: int, steps: int, random_state: int | np.random.Generator | None = None) -> Trajectories:
        """Draw paths by the exact transition.

        Parameters
        ----------
        paths, steps
            How many paths, and steps of each.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        Trajectories
            Paths of prices on an even grid, with what the option pays at the end.
        """
        n, m, rng = check_count("paths", paths), check_count("steps", steps), np.random.default_rng(random_state)
        dt = self.horizon / m
        rises = (self.interest - self.volatility**2 / 2) * dt + self.volatility * math.sqrt(dt) * rng.standard_normal(
            (n, m)
        )
        x = self.start * np.exp(np.concatenate([np.zeros((n, 1)), np.cumsum(rises, axis=1)], axis=1))
        pays = np.maximum(x[:, -1] - self.strike, 0)
        return Trajectories(np.linspace(0, self.horizon, m + 1), x, np.zeros((n, m)), pays, discount=self.interest)


@dataclass(frozen=True)
class MeanVariance:
    r"""Investing towards a wealth w with little variance, by a Gaussian policy that explores.

    The wealth follows $dX = -\rho^2 (X - w) dt + \rho (X - w) dW$ in the mean of the policy, plus its exploration.

    Parameters
    ----------
    rho
        The Sharpe ratio of the asset.
    volatility
        Its volatility in a unit of time.
    temperature
        The weight of the policy's entropy.
    goal, target
        The wealth w that the policy steers to, and the mean wealth z that is asked for.
    start
        The wealth at the start.
    horizon
        The time of the end.

    Examples
    --------
    >>> MeanVariance().sample(2, 5, random_state=0).x.shape
    (2, 6)
    """

    rho: float = 0.6
    volatility: float = 0.3
    temperature: float = 0.2
    goal: float = 1.4
    target: float = 1.2
    start: float = 1.0
    horizon: float = 1.0

    def spread(self, t: ArrayLike) -> Array:
        """Return the variance of the policy's action at times t.

        Returns
        -------
        ndarray
            Variances, of the shape of `t`.
        """
        left = self.horizon - np.asarray(t)
        return np.asarray(self.temperature / (2 * self.volatility**2) * np.exp(self.rho**2 * left))

    def entropy_cost(self, t: ArrayLike) -> Array:
        """Return minus the temperature times the policy's entropy, which is the running cost at times t.

        Returns
        -------
        ndarray
            Costs a unit of time, of the shape of `t`.
        """
        return np.asarray(-self.temperature / 2 * np.log(2 * math.pi * math.e * self.spread(t)))

    def value(self, t: ArrayLike, x: ArrayLike) -> Array:
        """Return the expected cost from a time and a wealth on at times t and states x.

        Returns
        -------
        ndarray
            Values, of the shape of `t` and `x`.
        """
        left = self.horizon - np.asarray(t)
        log = math.log(self.volatility**2 / (math.pi * self.temperature))
        rest = self.temperature * self.rho**2 / 4 * (self.horizon**2 - np.asarray(t) ** 2)
        rest = rest - self.temperature / 2 * (self.rho**2 * self.horizon - log) * left
        square = (np.asarray(x) - self.goal) ** 2 * np.exp(-(self.rho**2) * left)
        return np.asarray(square + rest - (self.goal - self.target) ** 2)

    def sample(
        self, paths: int, steps: int, random_state: int | np.random.Generator | None = None, *, substeps: int = 8
    ) -> Trajectories:
        """Draw paths by Euler's method, with an action in each substep.

        Parameters
        ----------
        paths, steps
            How many paths, and steps of each.
        random_state
            A seed, or NumPy's generator.
        substeps
            Steps of Euler's method in each step.

        Returns
        -------
        Trajectories
            Paths on an even grid, with running costs and the cost at the end.
        """
        n, m, rng = check_count("paths", paths), check_count("steps", steps), np.random.default_rng(random_state)
        h = self.horizon / (m * substeps)
        x = np.empty((n, m + 1))
        x[:, 0] = now = np.full(n, self.start)
        for i in range(m * substeps):
            mean = -self.rho / self.volatility * (now - self.goal)
            action = mean + math.sqrt(float(self.spread(i * h))) * rng.standard_normal(n)
            noise = math.sqrt(h) * rng.standard_normal(n)
            now = now + self.volatility * action * (self.rho * h + noise)
            if (i + 1) % substeps == 0:
                x[:, (i + 1) // substeps] = now
        t = np.linspace(0, self.horizon, m + 1)
        costs = np.broadcast_to(self.entropy_cost(t[:-1]), (n, m))
        end = (x[:, -1] - self.goal) ** 2 - (self.goal - self.target) ** 2
        return Trajectories(t, x, costs, end)


def _ou_paths(
    start: Float[np.ndarray, " n"], k: float, s: float, dt: float, steps: int, rng: np.random.Generator
) -> Float[np.ndarray, "n m"]:
    fade, noise = math.exp(-k * dt), s * math.sqrt(-math.expm1(-2 * k * dt) / (2 * k))
    x = np.empty((len(start), steps + 1))
    x[:, 0] = start
    draws = noise * rng.standard_normal((steps, len(start)))
    for i in range(steps):
        x[:, i + 1] = fade * x[:, i] + draws[i]
    return x
