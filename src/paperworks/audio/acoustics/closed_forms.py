"""Exact solutions of the wave equation for a Gaussian source: images, modes of a box, the free field."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.boundaries import check_impedance
from paperworks.audio.acoustics.rooms import Room, check_times, mesh
from paperworks.audio.acoustics.sources import SPEED_OF_SOUND, GaussianSource
from paperworks.core.validation import check_number

_FINE = 4096  # least points of the cosine transforms along an axis
_MEMORY = 10**7  # numbers that are held at once
_LOST = 1e-9  # relative size of the modes that are left out


def image_source_1d(
    length: float, source: GaussianSource, x: ArrayLike, t: ArrayLike, xi: float = math.inf, c: float = SPEED_OF_SOUND
) -> Float[np.ndarray, "batch times points"]:
    """Return the pressure in a tube with two equal walls by image sources.

    A wall reflects ``R = (xi - 1) / (xi + 1)``. The air is at rest at first, also where a wall cuts the source off.

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
        For sizes that aren't positive, places outside, or times before 0.

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
    check_number("c", c, gt=0)
    xi = check_impedance(xi)
    room = Room((length,))
    x0 = room.check_inside("source", source.positions)
    reflection = 1.0 if math.isinf(xi) else (xi - 1) / (xi + 1)
    place, time = room.check_inside("x", np.asarray(x, np.float64).reshape(-1, 1))[:, 0], check_times("t", t)
    found = np.zeros((len(x0), len(time), len(place)))
    for way in (-1, 1):
        z = place + way * c * time[:, None]
        # The tube's images stand side by side: the wave comes from one of them, each second one mirrored.
        image = np.floor(z / length) - (z == length)
        start = np.where(image % 2 == 0, z - image * length, (image + 1) * length - z)
        found += 0.5 * reflection ** np.abs(image) * source.pressure(start.reshape(-1, 1)).reshape(found.shape)
    return found


def box_modes(
    size: Sequence[float], source: GaussianSource, points: ArrayLike, t: ArrayLike, c: float = SPEED_OF_SOUND
) -> Float[np.ndarray, "batch times points"]:
    """Return the pressure in a rigid box by its cosine modes, whose weights are cosine transforms of the source.

    Modes beyond the Gaussian's spectrum are left out, which changes nothing where the source is four widths from the
    walls. A nearer one has a kink where a wall cuts it off, which is lost: up to a tenth of the amplitude at the kink,
    a thousandth in the root mean square over a square of 2 m.

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
        For sides that aren't positive, places outside or of other dimensions, or times before 0.

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
    room = Room(size)
    sides = room.size
    check_number("c", c, gt=0)
    x, x0 = room.check_inside("points", points), room.check_inside("source", source.positions)
    time = check_times("t", t)
    highest = 2 / source.sigma * math.sqrt(-math.log(_LOST))  # wave number at which the source's spectrum has fallen
    counts = [math.ceil(highest * side / math.pi) + 1 for side in sides]
    numbers = mesh([np.arange(count, dtype=np.float64) for count in counts])
    waves = np.pi * numbers / np.asarray(sides)
    kept = (waves**2).sum(1) <= highest**2
    numbers, waves = numbers[kept].astype(int), np.sqrt((waves[kept] ** 2).sum(1))
    parts = [
        (_cosine_weights(side, centres, source.sigma, count), np.cos(np.pi / side * np.arange(count)[:, None] * place))
        for side, count, centres, place in zip(sides, counts, x0.T, x.T, strict=True)
    ]
    found = np.zeros((len(x0) * len(time), len(x)))
    together = max(1, _MEMORY // (len(found) + len(x) + 1))
    for start in range(0, len(numbers), together):
        some = slice(start, start + together)
        weights, shapes = np.ones((len(x0), 1)), np.ones((1, len(x)))
        for (weight, shape), number in zip(parts, numbers[some].T, strict=True):
            weights, shapes = weights * weight[:, number], shapes * shape[number]
        swing = np.cos(c * waves[some] * time[:, None])
        found += (weights[:, None] * swing).reshape(len(found), -1) @ shapes
    return np.asarray(source.amplitude * found.reshape(len(x0), len(time), len(x)))


def _cosine_weights(
    side: float, centres: Float[np.ndarray, " batch"], sigma: float, count: int
) -> Float[np.ndarray, "batch modes"]:
    """Return the weights of ``cos(n pi x / side)`` in a Gaussian, by the midpoint rule."""
    from scipy.fft import dct

    fine = max(_FINE, 4 * count)
    x = (np.arange(fine) + 0.5) / fine
    bump = np.exp(-(((side * x - centres[:, None]) / sigma) ** 2))
    return np.asarray(dct(bump)[:, :count] / (1 + (np.arange(count) == 0)) / fine)


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
        For a width that isn't positive, or distances or times that are negative or infinite.

    References
    ----------
    The spherical means of the wave equation in three dimensions (Kirchhoff's formula).

    Examples
    --------
    >>> free_field_3d([0.0, 0.1], [0.0], sigma=0.2).round(4).tolist()
    [[1.0, 0.7788]]
    """
    check_number("sigma", sigma, gt=0)
    check_number("c", c, gt=0)
    check_number("amplitude", amplitude)
    away, time = check_times("r", r), check_times("t", t)[:, None]
    near = away < 1e-4 * sigma  # where the quotient is taken by its limit
    safe = np.where(near, 1.0, away)
    late, early = safe - c * time, safe + c * time
    waves = (late * np.exp(-((late / sigma) ** 2)) + early * np.exp(-((early / sigma) ** 2))) / (2 * safe)
    centre = (1 - 2 * (c * time / sigma) ** 2) * np.exp(-((c * time / sigma) ** 2))
    return np.asarray(amplitude * np.where(near, centre, waves))
