"""What acts on a part in the course of time: temperatures, pressures, rotation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_number

TimeTable: TypeAlias = float | tuple[Sequence[float], Any]
"""A constant, or (times, values), between which values are interpolated linearly; values may be fields."""


@dataclass(frozen=True)
class Loads:
    r"""Temperatures, pressures on boundaries and a rotation, each a table in time.

    Before the first time of a table its first value holds, after the last its last one; with a period the tables
    repeat.

    Parameters
    ----------
    temperature
        A number, or (times, fields): temperatures at the nodes of the mesh, one row a time; or (times, numbers).
    pressure
        For each boundary of the mesh, by its name, the pressure on it: a number or (times, values). A negative
        pressure pulls.
    speed
        The angular velocity: a number or (times, values). It pulls with density times velocity squared times the
        distance from the axis.
    centre
        A point on the axis of rotation; None, the default, is the origin.
    axis
        The direction of the axis in 3-D; None, the default, is z. In plane strain it is z.
    period
        Time after which all tables repeat; None, the default, never.

    Raises
    ------
    TypeError, ValueError
        Where a table is not (rising times, as many finite values), or a number is out of its range.

    Examples
    --------
    >>> loads = Loads(temperature=([0.0, 1.0], [20.0, 620.0]), pressure={"top": ([0, 1, 2], [0, -100, 0])}, period=2.0)
    >>> loads.factors(4.5)  # of the unit pressure on top
    array([-50.])
    """

    temperature: TimeTable = 20.0
    pressure: Mapping[str, TimeTable] = field(default_factory=dict)
    speed: TimeTable | None = None
    centre: Sequence[float] | None = None
    axis: Sequence[float] | None = None
    period: float | None = None

    def __post_init__(self) -> None:
        if self.period is not None:
            check_number("period", self.period, gt=0)
        if not isinstance(self.pressure, Mapping):
            raise TypeError(f"pressure is {self.pressure!r}; it takes a table for each name of a boundary")
        if not all(isinstance(name, str) for name in self.pressure):
            raise TypeError(f"pressure is on {list(self.pressure)}; it takes names of boundaries")
        tables = {f"pressure of {name!r}": table for name, table in self.pressure.items()}
        if self.speed is not None:
            tables["speed"] = self.speed
        for name, table in tables.items():
            if _table(name, table)[1].ndim != 1:
                raise ValueError(f"{name} has values that are fields; it takes a number for each time")
        if _table("temperature", self.temperature)[1].ndim > 2:
            raise ValueError("temperature has values of more than two axes; it takes a row of nodes for each time")
        for name, table in (tables | {"temperature": self.temperature}).items():
            if self.period is not None and (last := _table(name, table)[0][-1]) > self.period:
                raise ValueError(f"period is {self.period:g}, but the table of {name} goes on to {last:g}")

    def factors(self, t: float) -> Float[np.ndarray, " loads"]:
        """Return by what the vectors of unit loads are multiplied at time `t`: each pressure, then the rotation.

        Returns
        -------
        np.ndarray
            The pressures in the order of their boundaries, and the square of the angular velocity where there is one.
        """
        found = [self._at(table, t) for table in self.pressure.values()]
        if self.speed is not None:
            found.append(self._at(self.speed, t) ** 2)
        return np.asarray(found, dtype=float)

    def knots(self) -> Float[np.ndarray, " times"]:
        """Return the times of all tables of pressure and speed: loads are largest at one of them.

        Returns
        -------
        np.ndarray
            Times, each once.
        """
        tables = [*self.pressure.values(), *(() if self.speed is None else (self.speed,))]
        return np.unique(np.concatenate([np.zeros(1), *(_table("table", table)[0] for table in tables)]))

    def fields(self, n_nodes: int) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times nodes"]]:
        """Return the times and fields of the temperature.

        Parameters
        ----------
        n_nodes
            The number of nodes of the mesh.

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            Times, and the temperatures at all nodes for each of them.
        """
        times, values = _table("temperature", self.temperature)
        if values.ndim == 1:
            return times, np.repeat(values[:, None], n_nodes, axis=1)
        if values.shape[1] != n_nodes:
            raise ValueError(f"temperature has fields of {values.shape[1]} nodes; it takes the mesh's {n_nodes}")
        return times, values

    def between(self, times: Float[np.ndarray, " times"], t: float) -> tuple[int, int, float]:
        """Return the two entries of a table between which `t` lies, and the share of the second.

        Parameters
        ----------
        times
            The times of the table.
        t
            The time that is asked for; with a period, that of its cycle.

        Returns
        -------
        tuple[int, int, float]
            Two indices and the weight of the second entry, 0 to 1.
        """
        if self.period is not None:
            # A time that ends a cycle, but for rounding, is its end and not the begin of the next.
            cycle = np.floor(t / self.period * (1 - 1e-12)) if t > 0 else np.floor(t / self.period)
            t = t - cycle * self.period
        after = int(np.searchsorted(times, t))
        if after == 0 or after == len(times):
            end = min(after, len(times) - 1)
            return end, end, 0.0
        return after - 1, after, float((t - times[after - 1]) / (times[after] - times[after - 1]))

    def _at(self, table: TimeTable, t: float) -> float:
        times, values = _table("table", table)
        i, j, share = self.between(times, t)
        return float((1 - share) * values[i] + share * values[j])


def _table(name: str, table: TimeTable) -> tuple[np.ndarray, np.ndarray]:
    """Return times and values of a table that has been checked."""
    if isinstance(table, np.ndarray) and table.ndim:
        raise TypeError(f"{name} is an array of shape {table.shape}; it takes a number or a table (times, values)")
    if not isinstance(table, (tuple, list)):
        return np.zeros(1), np.array([check_number(name, table)])
    if len(table) != 2:
        raise TypeError(f"{name} has {len(table)} parts; it takes (times, values)")
    times, values = (np.asarray(part, dtype=float) for part in table)
    if times.ndim != 1 or not len(times) or values.shape[:1] != times.shape or not (np.diff(times) > 0).all():
        raise ValueError(
            f"{name} has times of shape {times.shape} and values of shape {values.shape}; it takes as many of both, "
            "the times rising"
        )
    if not np.isfinite(values).all() or not np.isfinite(times).all():
        raise ValueError(f"{name} has times or values that are NaN or infinite; it takes finite ones")
    return times, values


class LoadPath:
    """Loads at the integration points and unknowns of one model: what its steps ask for.

    Parameters
    ----------
    loads
        The loads, for their tables in time.
    times
        The times of the temperature's fields.
    temperatures
        Temperatures at the model's points for each of them.
    forces
        The vectors of unit loads, in the order of `Loads.factors`.
    scale
        The size of the largest load, mechanical or thermal, that residuals are compared with.

    Examples
    --------
    >>> loads = Loads(pressure={"top": ([0.0, 1.0], [0.0, 3.0])})
    >>> path = LoadPath(loads, np.zeros(1), np.full((1, 2), 20.0), np.array([[1.0, 2.0]]), 6.0)
    >>> path.force(0.5), path.temperature(0.5)
    (array([1.5, 3. ]), array([20., 20.]))
    """

    def __init__(
        self, loads: Loads, times: np.ndarray, temperatures: np.ndarray, forces: np.ndarray, scale: float
    ) -> None:
        self.loads, self.times, self.temperatures, self.forces, self.scale = loads, times, temperatures, forces, scale

    def temperature(self, t: float) -> np.ndarray:
        """Return the temperatures at the points at time `t`.

        Returns
        -------
        np.ndarray
            One temperature a point.
        """
        i, j, share = self.loads.between(self.times, t)
        return (1 - share) * self.temperatures[i] + share * self.temperatures[j]

    def force(self, t: float) -> np.ndarray:
        """Return the vector of loads at time `t`.

        Returns
        -------
        np.ndarray
            One force an unknown.
        """
        return self.loads.factors(t) @ self.forces
