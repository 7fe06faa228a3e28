"""Smoke that rises around a moving disc: a flow that asks for a new pressure equation in each frame."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates
from scipy.sparse.linalg import spsolve

from paperworks.core.validation import check_count
from paperworks.solvers import PoissonDomain

Cells = Float[np.ndarray, "n n"]
Solve = Callable[[PoissonDomain, Float[np.ndarray, " voxels"]], Float[np.ndarray, " voxels"]]
_STEP, _LIFT, _RADIUS = 1.0, 0.05, 0.12  # time of a frame, acceleration by smoke in voxels, radius of the disc


class SmokeFrame(NamedTuple):
    """One frame: its pressure equation, and what came of it.

    Examples
    --------
    >>> frame = next(rising_smoke(16, 1))
    >>> frame.domain.grid, frame.b.shape
    ((16, 16), (256,))
    """

    domain: PoissonDomain
    """Fluid and disc, in a box that is open at all sides."""
    b: Float[np.ndarray, " voxels"]
    """Right-hand side: what flows into each fluid voxel before pressure acts."""
    smoke: Cells
    """Density of smoke at the centres of voxels, the first axis to the right, the second upwards."""
    outflow: Cells
    """What still flows out of each fluid voxel after pressure acted: 0 but for the error of the solve."""


def rising_smoke(n: int, frames: int, solve: Solve | None = None) -> Iterator[SmokeFrame]:
    """Simulate smoke that rises from a source at the ground, around a solid disc that swings from side to side.

    Velocities stand on the faces of voxels (a staggered grid) and are carried along by semi-Lagrangian steps; smoke
    lifts; faces of the disc move with it; pressure takes the divergence off.

    Parameters
    ----------
    n
        Voxels per side, 8 or more.
    frames
        Number of frames.
    solve
        Called with the domain and the right-hand side, returns the pressure. Default: a direct solve, so that frames
        have no error of a solver in them.

    Yields
    ------
    SmokeFrame
        The frames in the order of time.

    References
    ----------
    Stam, Stable fluids (1999); Bridson, Fluid Simulation for Computer Graphics (2015).

    Examples
    --------
    >>> frames = list(rising_smoke(16, 3))
    >>> len(frames), max(float(np.abs(f.outflow).max()) < 1e-10 for f in frames)
    (3, True)
    """
    check_count("n", n, at_least=8)
    check_count("frames", frames)
    centres = np.stack(np.meshgrid(np.arange(n) + 0.5, np.arange(n) + 0.5, indexing="ij"))
    smoke, u, v = np.zeros((n, n)), np.zeros((n + 1, n)), np.zeros((n, n + 1))
    source = (np.abs(centres[0] - n / 2) < n / 10) & (centres[1] < n / 10)
    for frame in range(frames):
        angle = 2 * np.pi * frame / 80
        middle = n * np.array([0.5 + 0.22 * np.sin(angle), 0.45])
        speed = n * 0.22 * 2 * np.pi / 80 * np.cos(angle) / _STEP
        solid = np.hypot(*(centres - middle[:, None, None])) < _RADIUS * n
        smoke, u, v = _carried(smoke, u, v)
        smoke = np.where(solid, 0, np.where(source, 1, smoke))
        v[:, 1:-1] += _STEP * _LIFT * (smoke[:, 1:] + smoke[:, :-1]) / 2
        beside, below = np.zeros(u.shape, bool), np.zeros(v.shape, bool)
        beside[:-1] |= solid
        beside[1:] |= solid
        below[:, :-1] |= solid
        below[:, 1:] |= solid
        u[beside], v[below] = speed, 0
        domain = PoissonDomain(~solid)
        b = np.where(solid, 0, -_outflow(u, v)).ravel()
        pressure = (_direct if solve is None else solve)(domain, b).reshape(n, n)
        padded = np.pad(np.where(solid, 0, pressure), 1)
        u = np.where(beside, u, u - np.diff(padded, axis=0)[:, 1:-1])
        v = np.where(below, v, v - np.diff(padded, axis=1)[1:-1])
        yield SmokeFrame(domain, b, smoke.copy(), np.where(solid, 0, _outflow(u, v)))


def _outflow(u: np.ndarray, v: np.ndarray) -> Cells:
    return np.diff(u, axis=0) + np.diff(v, axis=1)


def _carried(smoke: np.ndarray, u: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
    """Take each value from where the flow was a step before; grids begin at these offsets of a voxel's corner."""
    fields = [(smoke, (0.5, 0.5)), (u, (0.0, 0.5)), (v, (0.5, 0.0))]

    def at(field: np.ndarray, offset: tuple[float, float], places: np.ndarray) -> np.ndarray:
        return map_coordinates(field, places - np.reshape(offset, (2, 1, 1)), order=1, mode="nearest")

    found = []
    for field, offset in fields:
        places = np.stack(
            np.meshgrid(*(np.arange(s) + o for s, o in zip(field.shape, offset, strict=True)), indexing="ij")
        )
        flow = np.stack([at(u, (0.0, 0.5), places), at(v, (0.5, 0.0), places)])
        found.append(at(field, offset, places - _STEP * flow))
    return found


def _direct(domain: PoissonDomain, b: np.ndarray) -> np.ndarray:
    fluid = domain.fluid.ravel()
    x = np.zeros(domain.n)
    x[fluid] = spsolve(domain.matrix()[fluid][:, fluid].tocsc(), b[fluid])
    return x
