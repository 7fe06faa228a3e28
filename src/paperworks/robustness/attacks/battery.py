"""A building with solar panels and a battery that an agent charges hour by hour."""

import math
from typing import Any, TypeVar

import gymnasium
import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_count, check_number

Array = TypeVar("Array", np.ndarray, Tensor)
CALENDAR = ("month_cos", "month_sin", "day_type_cos", "day_type_sin", "hour_cos", "hour_sin")


class BatteryDispatchEnv(gymnasium.Env):
    """Hourly charging of a battery behind the meter of a building, for one episode or for many at once.

    An action from -1 to 1 is the power of the battery, as a share of its greatest, that it charges with (above 0) or
    discharges with; what it can't take or give is cut off. The reward is the negative cost of what is drawn from the
    grid. Observations in [0, 1] are, in the order of `feature_names`: the calendar on circles, the weather, the carbon
    intensity, load, solar generation, state of charge, the consumption of the hour before, and prices.

    Parameters
    ----------
    load, pv
        Consumption of the building and generation of its panels, in kWh.
    price
        Per kWh: (hours,), or (hours, k) with forecasts after the present one.
    carbon
        Emissions per kWh.
    weather
        Weather of each hour, of shape (hours, k).
    capacity
        Capacity of the battery in kWh.
    power
        Greatest power of the battery in kW.
    efficiency
        Share of energy that is left after charging and discharging.
    num_envs
        Number of episodes side by side, for `reset_batch` and `step_batch`.
    calendar
        (hours, 3): month 1 to 12, day 1 to 7 and hour 1 to 24; by default counted from the first hour of a year.
    horizon
        Hours of an episode; by default all but the last, as an observation follows each action. Shorter ones start
        anywhere.
    bins
        Number of equally spaced discrete actions from -1 to 1; continuous ones by default.

    Raises
    ------
    ValueError
        For series of different lengths or with what isn't finite, or options out of range.

    Notes
    -----
    The dynamics of CityLearn's battery with constant efficiency and power (arXiv 2012.10504).

    Examples
    --------
    >>> hours = np.ones(50)
    >>> env = BatteryDispatchEnv(0.5 * hours, 0 * hours, 0.2 * hours, 0.1 * hours, np.zeros((50, 0)))
    >>> obs, _ = env.reset()
    >>> obs, reward, _, _, info = env.step(np.array([0.2]))
    >>> round(reward, 3), round(info["consumption"], 3), round(float(obs[env.feature_names.index("soc")]), 3)
    (-0.3, 1.5, 0.148)
    """

    def __init__(
        self,
        load: Float[np.ndarray, " hours"],
        pv: Float[np.ndarray, " hours"],
        price: Float[np.ndarray, " hours *forecasts"],
        carbon: Float[np.ndarray, " hours"],
        weather: Float[np.ndarray, "hours k"],
        capacity: float = 6.4,
        power: float = 5.0,
        efficiency: float = 0.9,
        num_envs: int = 1,
        *,
        calendar: Float[np.ndarray, "hours 3"] | None = None,
        horizon: int | None = None,
        bins: int | None = None,
    ) -> None:
        hours = len(load)
        calendar = _counted(hours) if calendar is None else np.asarray(calendar, dtype=float)
        series = {"pv": pv, "price": price, "carbon": carbon, "weather": weather, "calendar": calendar, "load": load}
        for name, values in series.items():
            if len(values) != hours or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} has {len(values)} hours or isn't finite; it takes {hours} finite ones, as load"
                )
        self.capacity = check_number("capacity", capacity, gt=0)
        self.power = check_number("power", power, gt=0)
        self.efficiency = check_number("efficiency", efficiency, gt=0, le=1)
        self.num_envs = check_count("num_envs", num_envs)
        self.horizon = hours - 1 if horizon is None else check_count("horizon", horizon, at_most=hours - 1)
        self.bins = bins if bins is None else check_count("bins", bins, at_least=2)
        prices = np.asarray(price, dtype=float).reshape(hours, -1)
        self.price, self.carbon = prices[:, 0], np.asarray(carbon, dtype=float)
        self.demand = np.asarray(load, dtype=float) - np.asarray(pv, dtype=float)  # on the grid without a battery
        self.least, self.most = float(self.demand.min()) - self.power, float(self.demand.max()) + self.power
        weather_names = tuple(f"weather_{k}" for k in range(weather.shape[1]))
        price_names = ("price", *(f"price_forecast_{k}" for k in range(1, prices.shape[1])))
        self.feature_names = (
            *CALENDAR, *weather_names, "carbon", "load", "pv", "soc", "consumption", *price_names
        )  # fmt: skip
        blank = np.zeros((hours, 2))  # for the state of charge and the consumption
        columns = [_scaled(np.column_stack([weather, carbon, load, pv])), blank, _scaled(prices)]
        self.table = np.hstack([_on_circles(calendar), *columns]).astype(np.float32)
        self._soc = self.feature_names.index("soc")
        self._hour, self._left = np.zeros(self.num_envs, dtype=int), 0
        self._stored, self._consumption = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(self.feature_names),), np.float32)
        self.action_space: gymnasium.Space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if bins is None else gymnasium.spaces.Discrete(bins)
        )

    @property
    def calendar_mask(self) -> Bool[np.ndarray, " features"]:
        """True for the features an attacker may change: all but the calendar."""
        return np.array([name not in CALENDAR for name in self.feature_names])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " features"], dict[str, Any]]:
        """Start an episode with an empty battery, at the hour ``options["start"]`` or a random one.

        Parameters
        ----------
        seed
            Seed of the environment's random numbers.
        options
            The first hour under ``start``; random without it.

        Returns
        -------
        tuple[ndarray of shape (features,), dict[str, Any]]
            The first observation, and no information.
        """
        super().reset(seed=seed)
        latest = len(self.table) - 1 - self.horizon
        start = (options or {}).get("start", self.np_random.integers(latest + 1))
        return self._begin(np.array([start]))[0], {}

    def step(self, action: Any) -> tuple[Float[np.ndarray, " features"], float, bool, bool, dict[str, Any]]:
        """Charge for an hour.

        Parameters
        ----------
        action
            Share of the greatest power, -1 to 1, or the number of a bin.

        Returns
        -------
        tuple[ndarray of shape (features,), float, bool, bool, dict[str, Any]]
            Observation, reward, False, whether the episode is over, and ``consumption`` from the grid in kWh.
        """
        obs, reward, done, consumption = self.step_batch(np.asarray(action).reshape(1))
        return obs[0], float(reward[0]), False, done, {"consumption": float(consumption[0])}

    def reset_batch(self, starts: Int64[np.ndarray, " batch"]) -> Float[np.ndarray, "batch features"]:
        """Start an episode at each of some hours, with empty batteries, and return the observations.

        Parameters
        ----------
        starts
            First hour of each episode, of shape (batch,).

        Returns
        -------
        ndarray of shape (batch, features)
            The first observations, one row for each battery.

        Raises
        ------
        ValueError
            For other than `num_envs` hours, or one after which there are fewer than `horizon`.
        """
        starts = np.asarray(starts)
        latest = len(self.table) - 1 - self.horizon
        if starts.shape != (self.num_envs,) or starts.min() < 0 or starts.max() > latest:
            raise ValueError(f"starts is {starts}; it takes {self.num_envs} hours from 0 to {latest}")
        return self._begin(starts)

    def step_batch(
        self, actions: Float[np.ndarray, " batch"] | Int64[np.ndarray, " batch"]
    ) -> tuple[Float[np.ndarray, "batch features"], Float[np.ndarray, " batch"], bool, Float[np.ndarray, " batch"]]:
        """Charge all batteries for an hour.

        Parameters
        ----------
        actions
            Share of the greatest power for each battery, -1 to 1, or the number of a bin.

        Returns
        -------
        observations : ndarray
            One row for each battery, of shape (batch, features).
        rewards : ndarray
            One for each battery, of shape (batch,).
        over : bool
            Whether the episodes are over, all at once.
        consumption : ndarray
            Energy drawn from the grid in the hour, in kWh, of shape (batch,).
        """
        share = actions if self.bins is None else np.asarray(actions) * (2 / (self.bins - 1)) - 1
        self._stored, energy = charge(self._stored, share, self.capacity, self.power, self.efficiency)
        self._consumption = self.demand[self._hour] + energy
        reward = -self.price[self._hour] * np.maximum(self._consumption, 0)
        self._hour = self._hour + 1
        self._left -= 1
        return self._observed(), reward, self._left == 0, self._consumption

    def _begin(self, starts: np.ndarray) -> np.ndarray:
        self._hour, self._left = starts.astype(int), self.horizon
        self._stored, self._consumption = np.zeros(len(starts)), self.demand[self._hour]
        return self._observed()

    def _observed(self) -> np.ndarray:
        obs = self.table[self._hour]
        obs[:, self._soc] = self._stored / self.capacity
        obs[:, self._soc + 1] = (self._consumption - self.least) / (self.most - self.least)
        return obs


def charge(stored: Array, action: Array, capacity: float, power: float, efficiency: float) -> tuple[Array, Array]:
    """Charge or discharge batteries for an hour; of arrays or of tensors, through which gradients flow.

    ``e = clip(action power, -sqrt(eta) s, capacity - s)``, and then ``s + sqrt(eta) e``, or ``s + e / sqrt(eta)`` for
    e < 0.

    Parameters
    ----------
    stored
        Energy in the batteries, in kWh.
    action
        Share of the greatest power, -1 (discharge) to 1.
    capacity
        Energy that a battery holds, in kWh.
    power
        Greatest power, in kW.
    efficiency
        Share of energy that is left after charging and discharging.

    Returns
    -------
    stored : ndarray or Tensor
        Energy in the batteries afterwards, in kWh.
    energy : ndarray or Tensor
        What the batteries drew from the building or gave to it (below 0), in kWh.

    Examples
    --------
    >>> charge(np.array([1.0]), np.array([-1.0]), 6.4, 5.0, 0.81)
    (array([0.]), array([-0.9]))
    """
    root = math.sqrt(efficiency)
    energy = (action.clip(-1, 1) * power).clip(-root * stored, capacity - stored)
    after = stored + root * energy.clip(0, None) + energy.clip(None, 0) / root
    return after.clip(0, capacity), energy  # but for rounding it is within


def kpis(
    consumption: Float[np.ndarray, "*batch hours"],
    price: Float[np.ndarray, "*#batch hours"],
    carbon: Float[np.ndarray, "*#batch hours"],
) -> dict[str, Float[np.ndarray, "*batch"]]:
    """Return what is said of a building's consumption; whole days are taken for peaks and load factors.

    Parameters
    ----------
    consumption
        Energy drawn in each hour, of shape (..., hours), in kWh.
    price
        Price of each hour, per kWh.
    carbon
        Carbon of each hour, in kg per kWh.

    Returns
    -------
    dict[str, ndarray]
        ``cost``, ``energy`` and ``carbon`` of what was drawn from the grid; ``ramping``, the sum of changes from hour
        to hour; ``daily_peak``, the mean of each day's greatest; and ``load_factor``, one less the mean over days of
        mean / peak.

    Raises
    ------
    ValueError
        For less than a day.

    Examples
    --------
    >>> found = kpis(np.tile([1.0, 3.0], 12), np.full(24, 0.5), np.full(24, 0.1))
    >>> {name: round(float(value), 3) for name, value in found.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'cost': 24.0, 'energy': 48.0, 'carbon': 4.8, 'ramping': 46.0, 'daily_peak': 3.0, 'load_factor': 0.333}
    """
    hours = consumption.shape[-1]
    if hours < 24:
        raise ValueError(f"consumption has {hours} hours; it takes 24 or more")
    drawn = np.maximum(consumption, 0)
    days = consumption[..., : hours - hours % 24].reshape(*consumption.shape[:-1], -1, 24)
    peak = days.max(-1)
    found = {
        "cost": (drawn * price).sum(-1),
        "energy": drawn.sum(-1),
        "carbon": (drawn * carbon).sum(-1),
        "ramping": np.abs(np.diff(consumption)).sum(-1),
        "daily_peak": peak.mean(-1),
        "load_factor": 1 - (days.mean(-1) / np.where(peak > 0, peak, np.inf)).mean(-1),
    }
    return {name: np.asarray(values) for name, values in found.items()}


def _counted(hours: int) -> np.ndarray:
    count = np.arange(hours)
    return np.column_stack([1 + count // 730 % 12, 1 + count // 24 % 7, 1 + count % 24]).astype(float)


def _on_circles(calendar: np.ndarray) -> np.ndarray:
    angles = 2 * np.pi * calendar / np.array([12, 7, 24])
    return np.stack([(np.cos(angles) + 1) / 2, (np.sin(angles) + 1) / 2], axis=2).reshape(len(calendar), 6)


def _scaled(columns: np.ndarray) -> np.ndarray:
    low, high = columns.min(0), columns.max(0)
    return (columns - low) / np.where(high > low, high - low, 1)
