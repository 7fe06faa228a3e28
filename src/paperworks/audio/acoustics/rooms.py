"""The volume that sound fills: a box, less what is cut out of it, and its grids."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number

_SLACK = 1e-6  # of the greatest side: a point on a wall is inside in single precision too


@dataclass(frozen=True)
class Room:
    """A room of one, two or three dimensions: a box with a corner at the origin, less what is cut out of it.

    Parameters
    ----------
    size
        Lengths of the sides in metres.
    removed
        Boxes that are cut out, such as furniture or a corner, each as its lowest and its highest corner.
    inside
        Says of points (n, d) in metres whether sound is there, for other shapes such as a dome; all of the box by
        default. Walls follow the edges of the solver's cells.

    Raises
    ------
    ValueError
        For sides that aren't positive, more than three of them, or boxes of other dimensions or outside the room.

    Examples
    --------
    >>> room = Room.l_shape((2.0, 2.0), (1.0, 1.0))
    >>> room.contains([[0.5, 1.5], [1.5, 1.5]]).tolist()
    [True, False]
    """

    size: Sequence[float]
    removed: Sequence[Sequence[Sequence[float]]] = ()
    inside: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.size) != 1:
            raise ValueError(f"size is {self.size!r}; it takes the lengths of 1 to 3 sides")
        size = tuple(check_number("size", side, gt=0) for side in self.size)
        if not 1 <= len(size) <= 3:
            raise ValueError(f"size is {self.size!r}; it takes 1 to 3 sides")
        try:
            boxes = tuple((tuple(map(float, low)), tuple(map(float, high))) for low, high in self.removed)
        except (TypeError, ValueError):
            raise ValueError(f"removed is {self.removed!r}; it takes boxes, each by two corners") from None
        for low, high in boxes:
            if not len(low) == len(high) == len(size) or not all(a < b for a, b in zip(low, high, strict=True)):
                raise ValueError(f"removed has the box {low}, {high}; it takes two corners of {len(size)} coordinates")
            if not all(a < side and b > 0 for a, b, side in zip(low, high, size, strict=True)):
                raise ValueError(f"removed has the box {low}, {high}, which lies outside the room of {size} m")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "removed", boxes)

    @classmethod
    def l_shape(cls, size: Sequence[float], notch: Sequence[float]) -> "Room":
        """Return a room that lacks the corner farthest from the origin.

        Parameters
        ----------
        size
            Lengths of the sides in metres.
        notch
            How far the part that is cut out reaches into the room along each axis, in metres.

        Returns
        -------
        Room
            The box without that corner.

        Raises
        ------
        ValueError
            For a notch of other dimensions, or one that reaches through the room.
        """
        if len(notch) != len(size) or not all(0 < part < side for side, part in zip(size, notch, strict=True)):
            raise ValueError(f"notch is {notch!r}; it takes numbers > 0 and below the sides {tuple(size)}")
        lows = tuple(side - part for side, part in zip(size, notch, strict=True))
        return cls(size, ((lows, size),))

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.size)

    @property
    def extent(self) -> float:
        """The greatest side in metres, by which all axes are normalised."""
        return max(self.size)

    @property
    def is_box(self) -> bool:
        """Whether nothing is cut out."""
        return not self.removed and self.inside is None

    def contains(self, points: ArrayLike) -> Bool[np.ndarray, " n"]:
        """Say of points whether they are inside or on a wall.

        Parameters
        ----------
        points
            (n, d) in metres.

        Returns
        -------
        ndarray
            A truth value for each point.
        """
        x = self.points("points", points)
        slack = _SLACK * self.extent
        found = ((x >= -slack) & (x <= np.asarray(self.size) + slack)).all(1)
        for low, high in self.removed:
            # A box that reaches a wall takes that part of the wall with it.
            start = np.where(np.asarray(low) <= 0, -np.inf, low) + slack
            end = np.where(np.asarray(high) >= np.asarray(self.size), np.inf, high) - slack
            found &= ~((x > start) & (x < end)).all(1)
        if self.inside is not None:
            says = np.asarray(self.inside(x), dtype=bool)
            if says.shape != found.shape:
                raise ValueError(f"inside returns shape {says.shape}; it takes truth values ({len(x)},)")
            found &= says
        return np.asarray(found)

    def points(self, name: str, points: ArrayLike) -> Float[np.ndarray, "n d"]:
        """Return points as an array (n, d), or raise.

        Parameters
        ----------
        name
            The argument that they came as, for the message.
        points
            One point or several, in metres.

        Returns
        -------
        ndarray
            In double precision, one row a point.

        Raises
        ------
        ValueError
            For another number of coordinates, or numbers that aren't finite.
        """
        x = np.atleast_2d(np.asarray(points, dtype=np.float64))
        if x.ndim != 2 or x.shape[1] != self.dim or not np.isfinite(x).all():
            raise ValueError(f"{name} has shape {x.shape}; it takes finite points of {self.dim} coordinates, (n, d)")
        return x

    def check_inside(self, name: str, points: ArrayLike) -> Float[np.ndarray, "n d"]:
        """Return points as an array, or raise ValueError where one is outside.

        Parameters
        ----------
        name
            The argument that they came as, for the message.
        points
            One point or several, in metres.

        Returns
        -------
        ndarray
            In double precision, one row a point.
        """
        x = self.points(name, points)
        if not (within := self.contains(x)).all():
            raise ValueError(f"{name} has {x[~within][0].tolist()}, which is outside the room of {self.size} m")
        return x

    def axes(self, h: float) -> list[Float[np.ndarray, " n"]]:
        """Return the coordinates of a grid's nodes along each axis, walls included.

        Parameters
        ----------
        h
            Spacing in metres, which is rounded so that whole cells fill each side.

        Returns
        -------
        list of ndarray
            Coordinates along each axis, in metres.
        """
        check_number("h", h, gt=0, le=min(self.size) / 2)
        return [np.linspace(0, side, round(side / h) + 1) for side in self.size]

    def nodes(self, h: float) -> Float[np.ndarray, "n d"]:
        """Return the nodes of a grid that are inside or on a wall.

        Parameters
        ----------
        h
            Spacing in metres.

        Returns
        -------
        ndarray
            Points (n, d), the last axis running fastest.
        """
        grid = mesh(self.axes(h))
        return grid[self.contains(grid)]

    def cells(self, h: float) -> Bool[np.ndarray, "..."]:
        """Say of each cell of a grid whether its centre is inside.

        Parameters
        ----------
        h
            Spacing in metres.

        Returns
        -------
        ndarray
            Truth values, one fewer along each axis than there are nodes.
        """
        centres = [(axis[1:] + axis[:-1]) / 2 for axis in self.axes(h)]
        return self.contains(mesh(centres)).reshape([len(axis) for axis in centres])

    def random_points(
        self, n: int, margin: float = 0.0, random_state: int | np.random.Generator = 0
    ) -> Float[np.ndarray, "n d"]:
        """Draw points evenly from the room.

        Parameters
        ----------
        n
            How many points.
        margin
            Least distance to the walls along each axis, in metres.
        random_state
            Seed or generator.

        Returns
        -------
        ndarray
            Points (n, d) in metres.

        Raises
        ------
        ValueError
            Where no point is as far from the walls.
        """
        rng = np.random.default_rng(random_state)
        check_count("n", n, at_least=0)
        check_number("margin", margin, ge=0)
        low, high = np.full(self.dim, margin), np.asarray(self.size) - margin
        if not (low <= high).all():
            raise ValueError(f"margin is {margin}; it takes at most half of each side of {self.size}")
        corners = margin * mesh([np.array([-1.0, 1.0])] * self.dim)
        found = np.empty((0, self.dim))
        for _ in range(1000):
            x = rng.uniform(low, high, (n, self.dim))
            clear = np.all([self.contains(x + corner) for corner in corners], axis=0)
            found = np.concatenate([found, x[clear]])
            if len(found) >= n:
                return found[:n]
        raise ValueError(f"margin is {margin}; no points of the room are as far from its walls")


def mesh(axes: list[Float[np.ndarray, " _"]]) -> Float[np.ndarray, "n d"]:
    """Return all combinations of coordinates as rows, the last axis running fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(math.prod(map(len, axes)), len(axes))


def check_times(name: str, times: ArrayLike) -> Float[np.ndarray, " t"]:
    """Return times as a flat array in double precision, or raise ValueError where one isn't a finite number >= 0."""
    t = np.asarray(times, np.float64).reshape(-1)
    if (bad := t[~(np.isfinite(t) & (t >= 0))]).size:
        raise ValueError(f"{name} has {bad[0]}; it takes finite numbers >= 0")
    return t
