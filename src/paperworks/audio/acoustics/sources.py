"""Sources of sound as initial pressure fields: Gaussians and band-limited random fields."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.rooms import mesh
from paperworks.core.validation import check_count, check_number

SPEED_OF_SOUND = 343.0  # m/s
DENSITY = 1.2  # kg/m^3


def gaussian_width(f_max: float = 1000.0, c: float = SPEED_OF_SOUND) -> float:
    """Return the width of a Gaussian whose spectrum ends near a frequency: ``c / (pi f_max / 2)``.

    Parameters
    ----------
    f_max
        The frequency in Hz; 1000 by default, the paper's.
    c
        Speed of sound in m/s.

    Returns
    -------
    float
        Width in metres, at which the Gaussian has fallen to 1/e.

    References
    ----------
    arXiv:2308.05141, section on the wave equation.

    Examples
    --------
    >>> round(gaussian_width(1000.0), 5)
    0.21836
    """
    return check_number("c", c, gt=0) / (math.pi * check_number("f_max", f_max, gt=0) / 2)


@dataclass(frozen=True)
class GaussianSource:
    """Pressure ``amplitude exp(-|x - x0|^2 / sigma^2)`` at the start, at rest; there is no 1/2 in the exponent.

    Parameters
    ----------
    position
        Centre (d,) in metres, or several (batch, d).
    sigma
        Width in metres; that of 1000 Hz by default, 0.218 m.
    amplitude
        Pressure at the centre in Pa; 1 by default.

    Raises
    ------
    ValueError
        For positions that aren't finite or a width that isn't positive.

    References
    ----------
    arXiv:2308.05141, section on the wave equation.

    Examples
    --------
    >>> source = GaussianSource([0.5, 1.0])
    >>> source.pressure([[0.5, 1.0], [0.5, 2.0]]).round(4).tolist()
    [[1.0, 0.0]]
    """

    position: Any
    sigma: float = gaussian_width()
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        try:
            centre = np.asarray(self.position, dtype=np.float64)
        except (TypeError, ValueError):
            centre = np.empty(0)
        if centre.ndim not in (1, 2) or not centre.size or not np.isfinite(centre).all():
            raise ValueError(f"position is {self.position!r}; it takes finite coordinates, (d,) or (batch, d)")
        object.__setattr__(self, "position", centre)
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, gt=0))
        object.__setattr__(self, "amplitude", check_number("amplitude", self.amplitude))

    @property
    def positions(self) -> Float[np.ndarray, "batch d"]:
        """All centres as rows."""
        return np.atleast_2d(self.position)

    def pressure(self, points: ArrayLike) -> Float[np.ndarray, "batch n"]:
        """Return the initial pressure of each source at points.

        Parameters
        ----------
        points
            (n, d) in metres.

        Returns
        -------
        ndarray
            Pressure in Pa, one row a source.
        """
        x = np.atleast_2d(np.asarray(points, dtype=np.float64))
        if x.shape[1] != self.positions.shape[1]:
            raise ValueError(f"points has shape {x.shape}; it takes (n, {self.positions.shape[1]})")
        apart = ((x - self.positions[:, None]) ** 2).sum(-1)
        return np.asarray(self.amplitude * np.exp(-apart / self.sigma**2))

    def spectrum(self, f: ArrayLike, c: float = SPEED_OF_SOUND) -> Float[np.ndarray, " n"]:
        """Return what the source puts into a wave of a frequency: its spatial Fourier transform at ``2 pi f / c``.

        Parameters
        ----------
        f
            Frequencies in Hz.
        c
            Speed of sound in m/s.

        Returns
        -------
        ndarray
            ``amplitude (sigma sqrt(pi))^d exp(-(k sigma / 2)^2)``, in Pa m^d.
        """
        k = 2 * np.pi * np.asarray(f, dtype=np.float64) / check_number("c", c, gt=0)
        d = self.positions.shape[1]
        return np.asarray(
            self.amplitude * (self.sigma * math.sqrt(math.pi)) ** d * np.exp(-((k * self.sigma / 2) ** 2))
        )


def random_source_fields(
    n: int,
    axes: Sequence[Float[np.ndarray, " _"]],
    length: float | None = None,
    centres: ArrayLike | None = None,
    width: float | None = None,
    random_state: int | np.random.Generator = 0,
) -> Float[np.ndarray, "n ..."]:
    """Draw smooth random pressure fields of greatest absolute value 1, windowed around a place.

    Parameters
    ----------
    n
        How many fields.
    axes
        Coordinates of the grid along each axis, evenly spaced, in metres.
    length
        Correlation length in metres: white noise is smoothed by the Gaussian of this width; by default that of 1000 Hz.
    centres
        Centres of the windows (n, d) in metres; none by default, when the fields fill the grid.
    width
        Width of the Gaussian windows in metres; twice the length by default.
    random_state
        Seed or generator.

    Returns
    -------
    ndarray
        Fields on the grid, (n, *grid).

    Raises
    ------
    ValueError
        For centres of another shape or far from the grid, or an axis of one coordinate.

    References
    ----------
    arXiv:2308.05141, the experiments with parameterised sources.

    Examples
    --------
    >>> fields = random_source_fields(3, [np.linspace(0, 2, 41)] * 2)
    >>> fields.shape, float(np.abs(fields).max().round(6))
    ((3, 41, 41), 1.0)
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(random_state)
    length = gaussian_width() if length is None else check_number("length", length, gt=0)
    shape = [len(axis) for axis in axes]
    if not shape or min(shape) < 2:
        raise ValueError(f"axes have {shape} coordinates; they take 2 or more each")
    spacing = [axis[1] - axis[0] for axis in axes]
    noise = rng.standard_normal((check_count("n", n), *shape))
    # exp(-x^2 / length^2) is a normal density of deviation length / sqrt(2).
    fields = np.stack([gaussian_filter(x, [length / math.sqrt(2) / s for s in spacing], mode="reflect") for x in noise])
    if centres is not None:
        window = GaussianSource(centres, 2 * length if width is None else check_number("width", width, gt=0))
        if window.positions.shape != (n, len(axes)):
            raise ValueError(f"centres has shape {window.positions.shape}; it takes ({n}, {len(axes)})")
        fields *= window.pressure(mesh(list(axes))).reshape(n, *shape)
    top = np.abs(fields).max(axis=tuple(range(1, fields.ndim)), keepdims=True)
    if not (top > 0).all():
        raise ValueError("centres has one so far from the grid that nothing of its window is there")
    return np.asarray(fields / top)
