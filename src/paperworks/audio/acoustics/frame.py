"""What ties a network to a room: sensors, the width of sources, and normalised coordinates."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from paperworks.audio.acoustics.rooms import Room, check_times, mesh
from paperworks.audio.acoustics.sources import SPEED_OF_SOUND, GaussianSource, gaussian_width
from paperworks.core.validation import check_number

ASPECT_PRESERVING = 2.0
"""The `time_scale` at which a wave moves as far along the axis of time as along those of space."""


@dataclass(frozen=True)
class RoomFrame:
    """What ties a network to a room: where its sensors are, how wide its sources, and how coordinates are normalised.

    Parameters
    ----------
    room
        The room, whose greatest side normalises all axes.
    f_max
        Highest frequency in Hz; 1000 by default. It sets the width of sources, and the sensors' spacing.
    sensors_per_wavelength
        Sensors in a wavelength of `f_max`; 2 by default, the paper's.
    time_scale
        Time is normalised to ``time_scale c t / extent``; 1/2 by default, as the published code does it.
        `ASPECT_PRESERVING`, which is 2, keeps the proportion of time to space.
    c
        Speed of sound in m/s.

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    References
    ----------
    arXiv:2308.05141, supplement on the data.

    Examples
    --------
    >>> frame = RoomFrame(Room((2.0, 2.0)))
    >>> frame.sensor_shape
    (13, 13)
    """

    room: Room
    f_max: float = 1000.0
    sensors_per_wavelength: float = 2.0
    time_scale: float = 0.5
    c: float = SPEED_OF_SOUND

    def __post_init__(self) -> None:
        if not isinstance(self.room, Room):
            raise TypeError(f"room is {self.room!r}; it takes a Room")
        for name in ("f_max", "sensors_per_wavelength", "time_scale", "c"):
            check_number(name, getattr(self, name), gt=0)

    @property
    def spacing(self) -> float:
        """Greatest distance between neighbouring sensors, in metres."""
        return self.c / (self.f_max * self.sensors_per_wavelength)

    @property
    def sigma(self) -> float:
        """Width of the Gaussian sources, in metres."""
        return gaussian_width(self.f_max, self.c)

    @property
    def sensor_axes(self) -> list[Float[np.ndarray, " _"]]:
        """Coordinates of the sensors along each axis, in metres."""
        return [np.linspace(0, side, int(np.ceil(side / self.spacing)) + 1) for side in self.room.size]

    @property
    def sensor_shape(self) -> tuple[int, ...]:
        """Number of sensors along each axis."""
        return tuple(len(axis) for axis in self.sensor_axes)

    def source_fields(self, positions: ArrayLike) -> Float[Tensor, "batch ..."]:
        """Return the pressure at the sensors of Gaussian sources.

        Parameters
        ----------
        positions
            (batch, d) or (d,) in metres.

        Returns
        -------
        Tensor
            Pressure in Pa, (batch, *sensors), 0 where a sensor is outside the room.

        Raises
        ------
        ValueError
            For a source outside the room. One that is nearer to a wall than the sensors to one another warns.
        """
        x0 = self.room.check_inside("positions", positions)
        steps = self.spacing * mesh([np.array([-1.0, 1.0])] * self.room.dim) * (1 - 1e-9)
        if not all(self.room.contains(x0 + step).all() for step in steps):
            warnings.warn(
                f"a source is nearer than {self.spacing:.3f} m, the spacing of the sensors, to a wall; training data "
                "rarely has such sources",
                stacklevel=2,
            )
        points = mesh(self.sensor_axes)
        u = GaussianSource(x0, self.sigma).pressure(points) * self.room.contains(points)
        return torch.as_tensor(u, dtype=torch.float32).reshape(-1, *self.sensor_shape)

    def coordinates(self, points: ArrayLike, times: ArrayLike) -> Float[Tensor, "n d_plus_1"]:
        """Return all combinations of places and times as physical coordinates, times running fastest.

        Parameters
        ----------
        points
            Places (p, d) in metres, inside the room.
        times
            Times (t,) in seconds, 0 or later.

        Returns
        -------
        Tensor
            (p t, d + 1), in metres and seconds.

        Raises
        ------
        ValueError
            For a place outside the room or a negative time.
        """
        x = self.room.check_inside("points", points)
        t = check_times("times", times)
        both = np.concatenate([np.repeat(x, len(t), 0), np.tile(t, len(x))[:, None]], 1)
        return torch.as_tensor(both, dtype=torch.float32)

    def normalised(self, y: Float[Tensor, "*batch d_plus_1"]) -> Float[Tensor, "*batch d_plus_1"]:
        """Return coordinates as the trunk takes them: space from -1 to 1 by one extent for all axes, and time.

        Parameters
        ----------
        y
            Places in metres and a time in seconds, in the last axis.

        Returns
        -------
        Tensor
            Normalised coordinates of the same shape.

        Raises
        ------
        ValueError
            For another number of coordinates.
        """
        d = self.room.dim
        if y.shape[-1] != d + 1:
            raise ValueError(f"y has shape {tuple(y.shape)}; it takes {d} coordinates of space and one of time")
        scale = y.new_tensor([2 / self.room.extent] * d + [self.time_scale * self.c / self.room.extent])
        return y * scale - y.new_tensor([1.0] * d + [0.0])
