"""Domains of points: numbers, whole numbers, logarithms and categories, and their place in the unit cube."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_number
from paperworks.optimization.bayesian.search import sobol

Units = Float[np.ndarray, "_ _"]  # one a row


class Dimension(ABC):
    """One argument of the function that is optimised."""

    width: int = 1
    continuous: bool = False

    @abstractmethod
    def encode(self, values: Sequence[Any]) -> Units:
        """Return the place of each of `values` in the unit cube.

        Returns
        -------
        Units
            One row for each value.
        """

    @abstractmethod
    def decode(self, U: Units) -> list[Any]:
        """Return the values at places `U` of the unit cube.

        Returns
        -------
        list[Any]
            One value for each row.
        """

    @abstractmethod
    def snap(self, U: Units) -> Units:
        """Return the nearest places `U` that stand for a value.

        Returns
        -------
        Units
            Places in the shape of `U`.
        """

    @abstractmethod
    def spread(self, u: Float[np.ndarray, " m"]) -> Units:
        """Return places for numbers `u` in [0, 1), so that each value is as likely as another.

        Returns
        -------
        Units
            One row for each number.
        """

    @abstractmethod
    def neighbours(self, u: Float[np.ndarray, " k"]) -> Units:
        """Return the places next to `u`, none for a continuous dimension.

        Returns
        -------
        Units
            One row for each neighbour.
        """


@dataclass(frozen=True)
class Continuous(Dimension):
    """A number between two bounds, on its own or on a logarithmic scale.

    Parameters
    ----------
    low, high
        Bounds, both included.
    log
        Whether its logarithm is what is scaled.

    Raises
    ------
    ValueError
        Where bounds are reversed, or not positive on a logarithmic scale.

    Examples
    --------
    >>> Continuous(1e-4, 1.0, log=True).encode([0.01]).tolist()
    [[0.5]]
    """

    low: float
    high: float
    log: bool = False
    continuous = True

    def __post_init__(self) -> None:
        low = check_number("low", self.low, **({"gt": 0.0} if self.log else {}))
        high = check_number("high", self.high, gt=low)
        if not math.isfinite(high - low):
            raise ValueError(f"high - low is {high - low} for low {low} and high {high}; it takes a finite width")

    def _ends(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.log else (float(self.low), float(self.high))

    def encode(self, values: Sequence[Any]) -> Units:
        x = _numbers(values, self.low, self.high)
        low, high = self._ends()
        return ((np.log(x) if self.log else x) - low)[:, None] / (high - low)

    def decode(self, U: Units) -> list[Any]:
        low, high = self._ends()
        x = low + np.clip(U[:, 0], 0.0, 1.0) * (high - low)
        return np.clip(np.exp(x) if self.log else x, self.low, self.high).tolist()

    def snap(self, U: Units) -> Units:
        return U

    def spread(self, u: Float[np.ndarray, " m"]) -> Units:
        return u[:, None]

    def neighbours(self, u: Float[np.ndarray, " k"]) -> Units:
        return np.zeros((0, 1))


@dataclass(frozen=True)
class Integer(Dimension):
    """A whole number between two bounds; the kernel sees the rounded one.

    Parameters
    ----------
    low, high
        Bounds, both included.
    log
        Whether its logarithm is what is scaled.

    Raises
    ------
    ValueError
        Where bounds are reversed or no whole numbers, or not positive on a logarithmic scale.

    Examples
    --------
    >>> import numpy as np
    >>> Integer(1, 5).decode(np.array([[0.6]]))
    [3]
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if not check_number(name, value).is_integer():
                raise ValueError(f"{name} is {value!r}; it takes a whole number")
        Continuous(self.low, self.high, self.log)

    def _scale(self) -> Continuous:
        return Continuous(self.low, self.high, self.log)

    def encode(self, values: Sequence[Any]) -> Units:
        x = _numbers(values, self.low, self.high)
        if (x != np.rint(x)).any():
            raise ValueError(f"X has {x[x != np.rint(x)][0]!r} where a whole number is due")
        return self._scale().encode(x)  # type: ignore[arg-type]

    def decode(self, U: Units) -> list[Any]:
        return [round(v) for v in self._scale().decode(U)]

    def snap(self, U: Units) -> Units:
        return self._scale().encode(self.decode(U))

    def spread(self, u: Float[np.ndarray, " m"]) -> Units:
        if self.log:
            return self.snap(u[:, None])
        return np.floor(u * (self.high - self.low + 1))[:, None] / (self.high - self.low)

    def neighbours(self, u: Float[np.ndarray, " k"]) -> Units:
        here, span = self.decode(u[None])[0], self.high - self.low
        steps = {1, max(1, span // 10)}
        near = {here + sign * step for step in steps for sign in (-1, 1)}
        return self.encode(sorted(v for v in near if self.low <= v <= self.high))


@dataclass(frozen=True)
class Categorical(Dimension):
    """One of several values without an order, each a corner of its own (one-hot).

    Parameters
    ----------
    choices
        The values, of any kind that can be compared.

    Raises
    ------
    ValueError
        Where there are fewer than two, or one twice.

    Examples
    --------
    >>> Categorical(("sgd", "adam")).encode(["adam"]).tolist()
    [[0.0, 1.0]]
    """

    choices: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if len(self.choices) < 2 or any(self.choices.count(c) > 1 for c in self.choices):
            raise ValueError(f"choices is {self.choices!r}; it takes at least two different values")

    @property
    def width(self) -> int:  # type: ignore[override]
        """Columns that it takes in the unit cube."""
        return len(self.choices)

    def encode(self, values: Sequence[Any]) -> Units:
        for value in values:
            if value not in self.choices:
                raise ValueError(f"X has {value!r}; it takes one of {', '.join(map(repr, self.choices))}")
        return np.eye(self.width)[[self.choices.index(value) for value in values]]

    def decode(self, U: Units) -> list[Any]:
        return [self.choices[i] for i in U.argmax(axis=1)]

    def snap(self, U: Units) -> Units:
        return np.eye(self.width)[U.argmax(axis=1)]

    def spread(self, u: Float[np.ndarray, " m"]) -> Units:
        return np.eye(self.width)[np.minimum((u * self.width).astype(int), self.width - 1)]

    def neighbours(self, u: Float[np.ndarray, " k"]) -> Units:
        return np.eye(self.width)[np.arange(self.width) != u.argmax()]


def _numbers(values: Sequence[Any], low: float, high: float) -> Float[np.ndarray, " m"]:
    """Return values as floats, or raise ValueError where one is not a number within bounds."""
    try:
        x = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        raise ValueError(f"X has {list(values)!r}; it takes numbers from {low} to {high}") from None
    slack = 1e-9 * (high - low)
    wrong = ~((x >= low - slack) & (x <= high + slack))
    if wrong.any():
        raise ValueError(f"X has {x[wrong][0]!r}; it takes numbers from {low} to {high}")
    return np.clip(x, low, high)


class Space:
    """The product of dimensions, and its place in the unit cube; pairs of numbers are continuous dimensions."""

    def __init__(self, dimensions: Sequence[Any]) -> None:
        if isinstance(dimensions, (str, bytes)) or not len(dimensions):
            raise ValueError(f"bounds is {dimensions!r}; it takes a (low, high) or a dimension for each argument")
        self.dimensions = [self._dimension(d) for d in dimensions]
        ends = np.cumsum([0, *(d.width for d in self.dimensions)])
        self.slices = [slice(a, b) for a, b in pairwise(ends)]
        self.size = int(ends[-1])
        self.continuous = np.concatenate([np.full(d.width, d.continuous) for d in self.dimensions])
        self.numeric = bool(self.continuous.all())

    @staticmethod
    def _dimension(given: Any) -> Dimension:
        if isinstance(given, Dimension):
            return given
        try:
            low, high = (float(v) for v in given)
        except (TypeError, ValueError):
            raise ValueError(f"bounds has {given!r}; it takes (low, high) or a Dimension") from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"bounds has {given!r}; it takes finite numbers low < high")
        return Continuous(low, high)

    def __len__(self) -> int:
        return len(self.dimensions)

    def encode(self, X: Any) -> Units:
        """Return points as rows in the unit cube."""
        if not np.iterable(X) or any(isinstance(x, (str, bytes)) or not np.iterable(x) for x in X):
            raise ValueError(f"X is {X!r}; it takes points of {len(self)} values, one a row")
        rows = [list(x) for x in X]
        for row in rows:
            if len(row) != len(self):
                raise ValueError(f"X has a point of {len(row)} values: {row!r}; it takes {len(self)}")
        columns = list(zip(*rows, strict=True)) if rows else [() for _ in self.dimensions]
        return np.concatenate([d.encode(list(c)) for d, c in zip(self.dimensions, columns, strict=True)], axis=1)

    def decode(self, U: Units) -> np.ndarray:
        """Return points of rows in the unit cube: floats where all dimensions are continuous, else objects."""
        columns = [d.decode(U[:, s]) for d, s in zip(self.dimensions, self.slices, strict=True)]
        if self.numeric:
            return np.array(columns, dtype=float).T
        found = np.empty((len(U), len(self)), dtype=object)
        for j, column in enumerate(columns):
            for i, value in enumerate(column):
                found[i, j] = value
        return found

    def snap(self, U: Units) -> Units:
        """Return the nearest rows that stand for a point."""
        if self.numeric:
            return U
        return np.concatenate([d.snap(U[:, s]) for d, s in zip(self.dimensions, self.slices, strict=True)], axis=1)

    def sample(self, n: int, random_state: int | np.random.Generator | None) -> Units:
        """Return rows of a scrambled Sobol sequence."""
        u = sobol(n, len(self), random_state)
        return np.concatenate([d.spread(u[:, j]) for j, d in enumerate(self.dimensions)], axis=1)

    def neighbours(self, u: Float[np.ndarray, " k"]) -> Units:
        """Return the rows next to one, along dimensions that are not continuous."""
        found = []
        for d, s in zip(self.dimensions, self.slices, strict=True):
            for near in d.neighbours(u[s]):
                row = u.copy()
                row[s] = near
                found.append(row)
        return np.array(found).reshape(-1, self.size)
