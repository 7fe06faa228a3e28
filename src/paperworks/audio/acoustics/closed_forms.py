"""Exact solutions of the wave equation for a Gaussian source: images, modes of a box, the free field."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.rooms import mesh
from paperworks.audio.acoustics.sources import SPEED_OF_SOUND, GaussianSource
from paperworks.core.validation import check_number

_FINE = 4096  # points of the cosine transforms along an axis
_LOST = 1e-9  # relative size of the modes that are left out


def image_source_1d(
    length: float, source: GaussianSource, x: ArrayLike, t: ArrayLike, xi: float = math.inf, c: float = SPEED_OF_SOUND
) -> Float[np.ndarray, "batch times points"]:
    """Return the pressure in a tube with two equal walls by image sources.

    A wall reflects ``R = (xi - 1) / (xi + 1)``. The sum is exact where the source is three widths from the walls.

    Parameters
    ----------
    length
        Length of the tube, which begins at 0, in metres.
    source
        One source or several.
    x
        Places in metres.
    t
        Times in seconds.
    xi
        Normalised impedance of the walls; infinite by default, rigid.
    c
        Speed of sound in m/s.

    Returns
    -------
    ndarray
        Pressure in Pa, (batch, times, points).

    Raises
    ------
    ValueError
        For sizes that aren't positive, or a source that isn't of one dimension.

    References
    ----------
    arXiv:2308.05141, the wave equation with frequency-independent boundaries; d'Alembert's solution.

    Examples
    --------
    >>> p = image_source_1d(2.0, GaussianSource([1.0]), [1.0], [0.0, 2 / 343], xi=1.0)
    >>> p.round(6).ravel().tolist()  # nothing comes back from a wall that absorbs all
    [1.0, 0.0]
    """
    check_number("length", length, gt=0)
    if not xi > 0:
        raise ValueError(f"xi is {xi!r}; it takes a number > 0")
    x0 = source.positions
    if x0.shape[1] != 1:
        raise ValueError(f"source has {x0.shape[1]} coordinates; it takes 1")
    reflection = 1.0 if math.isinf(xi) else (xi - 1) / (xi + 1)
    place, time = np.asarray(x, np.float64).reshape(-1), np.asarray(t, np.float64).reshape(-1)
    travelled = c * time[:, None]
    reach = math.ceil((c * float(time.max(initial=0)) + 6 * source.sigma) / (2 * length)) + 1
    found = np.zeros((len(x0), len(time), len(place)))
    for n in range(-reach, reach + 1):
        for sign in (1, -1):
            strength = reflection ** abs(2 * n - (sign == -1))
            if strength:
                apart = place - 2 * n * length - sign * x0[:, :, None]
                for z in (apart - travelled, apart + travelled):
                    found += 0.5 * source.amplitude * strength * np.exp(-((z / source.sigma) ** 2))
    return found


def box_modes(
    size: Sequence[float], source: GaussianSource, points: ArrayLike, t: ArrayLike, c: float = SPEED_OF_SOUND
) -> Float[np.ndarray, "batch times points"]:
    """Return the pressure in a rigid box by its cosine modes, whose weights are cosine transforms of the source.

    Parameters
    ----------
    size
        Lengths of the sides in metres.
    source
        One source or several, anywhere in the box.
    points
        Places (points, d) in metres.
    t
        Times in seconds.
    c
        Speed of sound in m/s.

    Returns
    -------
    ndarray
        Pressure in Pa, (batch, times, points).

    Raises
    ------
    ValueError
        For sides that aren't positive or points of other dimensions.

    References
    ----------
    arXiv:2308.05141, the wave equation with rigid walls; the weights are products, as a Gaussian is one.

    Examples
    --------
    >>> source = GaussianSource([0.7, 0.9])
    >>> p = box_modes((2.0, 3.0), source, [[0.7, 0.9], [1.0, 1.0]], [0.0, 0.01])
    >>> bool(np.allclose(p[:, 0], source.pressure([[0.7, 0.9], [1.0, 1.0]]), atol=1e-6))
    True
    """
    sides = [check_number("size", side, gt=0) for side in size]
    x, x0 = np.atleast_2d(np.asarray(points, np.float64)), source.positions
    if not x.shape[1] == x0.shape[1] == len(sides):
        raise ValueError(f"points has shape {x.shape}, source {x0.shape}; they take {len(sides)} coordinates")
    highest = 2 / source.sigma * math.sqrt(-math.log(_LOST))  # wave number at which the source's spectrum has fallen
    counts = [math.ceil(highest * side / math.pi) + 1 for side in sides]
    numbers = mesh([np.arange(count, dtype=np.float64) for count in counts])
    waves = np.pi * numbers / np.asarray(sides)
    kept = (waves**2).sum(1) <= highest**2
    weights = np.ones((len(x0), int(kept.sum())))
    shapes = np.ones((int(kept.sum()), len(x)))
    for axis, (side, count) in enumerate(zip(sides, counts, strict=True)):
        part = _cosine_weights(side, x0[:, axis], source.sigma, count)
        weights *= part[:, numbers[kept, axis].astype(int)]
        shapes *= np.cos(np.pi / side * np.arange(count)[:, None] * x[:, axis])[numbers[kept, axis].astype(int)]
    time = np.asarray(t, np.float64).reshape(-1)
    swing = np.cos(c * np.sqrt((waves[kept] ** 2).sum(1)) * time[:, None])
    found = (weights[:, None] * swing).reshape(len(x0) * len(time), -1) @ shapes
    return np.asarray(source.amplitude * found.reshape(len(x0), len(time), len(x)))


def _cosine_weights(
    side: float, centres: Float[np.ndarray, " batch"], sigma: float, count: int
) -> Float[np.ndarray, "batch modes"]:
    """Return the weights of ``cos(n pi x / side)`` in a Gaussian, by the midpoint rule."""
    x = (np.arange(_FINE) + 0.5) / _FINE
    bump = np.exp(-(((side * x - centres[:, None]) / sigma) ** 2))
    cosines = np.cos(np.pi * x[:, None] * np.arange(count))
    return np.asarray(bump @ cosines * (2 - (np.arange(count) == 0)) / _FINE)


def free_field_3d(
    r: ArrayLike, t: ArrayLike, sigma: float, amplitude: float = 1.0, c: float = SPEED_OF_SOUND
) -> Float[np.ndarray, "times points"]:
    """Return the pressure of a Gaussian in three dimensions without walls.

    Parameters
    ----------
    r
        Distances to the source in metres.
    t
        Times in seconds.
    sigma
        Width of the source in metres.
    amplitude
        Pressure at its centre in Pa.
    c
        Speed of sound in m/s.

    Returns
    -------
    ndarray
        Pressure in Pa, (times, points).

    Raises
    ------
    ValueError
        For a width that isn't positive, or negative distances.

    References
    ----------
    The spherical means of the wave equation in three dimensions (Kirchhoff's formula).

    Examples
    --------
    >>> free_field_3d([0.0, 0.1], [0.0], sigma=0.2).round(4).tolist()
    [[1.0, 0.7788]]
    """
    check_number("sigma", sigma, gt=0)
    away, time = np.asarray(r, np.float64).reshape(-1), np.asarray(t, np.float64).reshape(-1, 1)
    if not (away >= 0).all():
        raise ValueError(f"r has {away.min()}; it takes distances >= 0")
    near = away < 1e-4 * sigma  # where the quotient is taken by its limit
    safe = np.where(near, 1.0, away)
    late, early = safe - c * time, safe + c * time
    waves = (late * np.exp(-((late / sigma) ** 2)) + early * np.exp(-((early / sigma) ** 2))) / (2 * safe)
    centre = (1 - 2 * (c * time / sigma) ** 2) * np.exp(-((c * time / sigma) ** 2))
    return np.asarray(amplitude * np.where(near, centre, waves))
