"""A wave solver by finite differences in time for rooms of boxes and cells, with walls of any local reaction."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.boundaries import RIGID, ImpedanceBoundary
from paperworks.audio.acoustics.rooms import Room, mesh
from paperworks.audio.acoustics.sources import SPEED_OF_SOUND, GaussianSource
from paperworks.core.validation import check_choice, check_count, check_number

Boundaries = ImpedanceBoundary | Mapping[str, ImpedanceBoundary]


@dataclass(frozen=True)
class WaveField:
    """Pressure of several sources at points over time.

    Parameters
    ----------
    times
        Times in seconds.
    points
        Places (points, d) in metres.
    pressure
        Pressure (batch, times, points) in Pa.
    energy
        Discrete energy (batch, steps) between each two time steps where it was asked for, in Pa^2 m^d / s^2.
    dt
        The solver's time step in seconds.

    Examples
    --------
    >>> fdtd(Room((2.0,)), GaussianSource([1.0]), 0.001, h=0.05).pressure.shape[2]
    41
    """

    times: Float[np.ndarray, " times"]
    points: Float[np.ndarray, "points d"]
    pressure: Float[np.ndarray, "batch times points"]
    energy: Float[np.ndarray, "batch steps"] | None
    dt: float


def fdtd(
    room: Room,
    source: GaussianSource | Float[np.ndarray, "batch ..."],
    t_max: float,
    boundary: Boundaries = RIGID,
    *,
    h: float | None = None,
    cfl: float | None = None,
    receivers: ArrayLike | None = None,
    save_every: int = 1,
    c: float = SPEED_OF_SOUND,
    energy: bool = False,
    dtype: Literal["float64", "float32"] = "float64",
) -> WaveField:
    """Solve the wave equation for all sources of a room at once by leapfrog steps, of second order.

    Nodes stand on the walls. Each has the part of a cell that is inside, each two neighbours the part of a face, so
    that the discrete energy of a room of any shape stays where walls are rigid, and never rises where they have an
    impedance.

    Parameters
    ----------
    room
        The room; walls of its cut-outs follow the cells' edges.
    source
        Gaussian sources, or fields on the grid's nodes (batch, *nodes), at rest.
    t_max
        End in seconds; the time step divides it.
    boundary
        All walls', or a mapping from walls to theirs: "x0" and "x1" face the low and the high end of the first axis,
        "y0", "y1", "z0", "z1" of the others. Walls that are left out are rigid.
    h
        Spacing of the grid in metres, rounded so that whole cells fill each side. A tenth of the shortest wavelength
        has errors of a few percent after some metres; that of Gaussian sources is the default, pi/20 of their width.
    cfl
        Number ``c dt / h``, at most ``1 / sqrt(d)``; 0.95 of that by default.
    receivers
        Places (n, d) in metres whose pressure is kept, interpolated linearly; all nodes of the room by default.
    save_every
        Steps from one time that is kept to the next.
    c
        Speed of sound in m/s.
    energy
        Whether the discrete energy is kept too.
    dtype
        "float64" or "float32".

    Returns
    -------
    WaveField
        Pressure of all sources at the receivers.

    Raises
    ------
    ValueError
        For a time step beyond the stable one, sources or receivers outside, unknown walls, fields of another shape, or
        a cut-out that no cell's centre is in.

    References
    ----------
    Botteldooren, J. Acoust. Soc. Am. 98 (1995) for the scheme; arXiv:2308.05141, boundary conditions, for the walls.

    Examples
    --------
    >>> room, source = Room((2.0, 2.0)), GaussianSource([0.8, 1.1])
    >>> field = fdtd(room, source, 0.004, ImpedanceBoundary(xi=5.83), h=0.04, receivers=[[1.5, 0.5]])
    >>> field.pressure.shape == (1, len(field.times), 1)
    True
    """
    if not isinstance(room, Room):
        raise TypeError(f"room is {room!r}; it takes a Room")
    if h is None:
        if not isinstance(source, GaussianSource):
            raise ValueError("h is None; fields on a grid take its spacing")
        h = min(math.pi / 20 * source.sigma, min(room.size) / 2)
    scheme = _Scheme(room, boundary, check_number("h", h, gt=0), _checked_cfl(cfl, room.dim), t_max, c, dtype)
    check_count("save_every", save_every)
    p = scheme.initial(source)
    keep = scheme.reader(receivers)
    first = keep(p)
    kept = np.empty((len(p), scheme.steps // save_every + 1, first.shape[1]), scheme.dtype)
    kept[:, 0] = first
    energies: list[np.ndarray] = []
    before = p
    state = scheme.rest(p)
    for step in range(scheme.steps):
        after = scheme.first(p, state) if step == 0 else scheme.step(before, p, state)
        if energy:
            energies.append(scheme.energy(p, after))
        before, p = p, after
        if (step + 1) % save_every == 0:
            kept[:, (step + 1) // save_every] = keep(p)
    times = scheme.dt * np.arange(0, scheme.steps + 1, save_every)
    points = scheme.points if receivers is None else room.points("receivers", receivers)
    return WaveField(times, points, kept, np.stack(energies, 1) if energy else None, scheme.dt)


def _checked_cfl(cfl: float | None, dim: int) -> float:
    limit = 1 / math.sqrt(dim)
    if cfl is None:
        return 0.95 * limit
    if not 0 < cfl <= limit * (1 + 1e-12):
        raise ValueError(f"cfl is {cfl!r}; it takes a number > 0 and <= 1/sqrt({dim}) = {limit:.4f}, or it is unstable")
    return float(cfl)


class _Scheme:
    """The grid of a room with its cells' volumes, faces and walls, and the steps on it; fields are (batch, *nodes)."""

    def __init__(
        self, room: Room, boundary: Boundaries, h: float, cfl: float, t_max: float, c: float, dtype: str
    ) -> None:
        self.dtype = np.dtype(check_choice("dtype", dtype, ("float64", "float32")))
        check_number("t_max", t_max, gt=0)
        check_number("c", c, gt=0)
        self.room, self.c = room, c
        self.axes = room.axes(h)
        self.spacings = [float(axis[1] - axis[0]) for axis in self.axes]
        # For equal spacings this is cfl h / c; otherwise as near to the stable step.
        mean = math.sqrt(room.dim / sum(1 / s**2 for s in self.spacings))
        self.steps = math.ceil(t_max / (cfl * mean / c) - 1e-9)
        self.dt = t_max / self.steps
        self.shape = tuple(len(axis) for axis in self.axes)
        self.courant = [(c * self.dt / s) ** 2 for s in self.spacings]
        cells = room.cells(h)
        if not cells.any():
            raise ValueError(f"h is {h}, at which no cell is inside the room")
        centres = [(axis[1:] + axis[:-1]) / 2 for axis in self.axes]
        for box in room.removed:
            if not all(((a < x) & (x < b)).any() for a, x, b in zip(box[0], centres, box[1], strict=True)):
                raise ValueError(f"h is {h}, too wide for the box {box} that is cut out of the room")
        self.volume = _gathered(cells, range(room.dim)) / 2**room.dim
        self.inside = self.volume > 0
        grid = mesh(self.axes)
        self.points = grid[self.inside.reshape(-1)]
        self.cell_size = math.prod(self.spacings)
        safe = np.where(self.inside, self.volume, 1.0)
        self.faces = [
            _gathered(cells, [i for i in range(room.dim) if i != axis]) / 2 ** (room.dim - 1)
            for axis in range(room.dim)
        ]
        self.is_box = bool(cells.all())
        centre = -sum(
            courant * (_shifted(face, axis, 0) + _shifted(face, axis, 1)) / safe
            for axis, (courant, face) in enumerate(zip(self.courant, self.faces, strict=True))
        )
        # A scalar where all nodes have as many neighbours.
        self.centre = 2 + (float(np.min(centre)) if self.is_box else np.asarray(centre, self.dtype))
        self.weights: list[tuple[np.ndarray, np.ndarray]] = []
        if not self.is_box:
            for axis, (courant, face) in enumerate(zip(self.courant, self.faces, strict=True)):
                low, high = _ends(axis)
                self.weights.append(
                    ((courant * face / safe[high]).astype(self.dtype), (courant * face / safe[low]).astype(self.dtype))
                )
        self.walls = self._walls(boundary, cells, safe)

    def _walls(self, boundary: Boundaries, cells: np.ndarray, safe: np.ndarray) -> list["_Wall"]:
        if not isinstance(boundary, (ImpedanceBoundary, Mapping)):
            raise TypeError(f"boundary is {boundary!r}; it takes an ImpedanceBoundary, or a mapping from walls to such")
        names = [f"{letter}{end}" for letter in "xyz"[: self.room.dim] for end in (0, 1)]
        given: dict[str, ImpedanceBoundary] = (
            dict.fromkeys(names, boundary) if isinstance(boundary, ImpedanceBoundary) else dict(boundary)
        )
        if unknown := given.keys() - set(names):
            raise ValueError(f"boundary has walls {sorted(unknown)}; it takes {', '.join(names)}")
        # Walls of one kind share their accumulators: one sum of areas for each boundary.
        areas: dict[int, tuple[ImpedanceBoundary, np.ndarray]] = {}
        for name, wall in given.items():
            if not isinstance(wall, ImpedanceBoundary):
                raise TypeError(f"boundary[{name!r}] is {wall!r}; it takes an ImpedanceBoundary")
            if wall.is_rigid:
                continue
            axis, end = "xyz".index(name[0]), int(name[1])
            padded = np.pad(cells, [(1, 1) if i == axis else (0, 0) for i in range(self.room.dim)]).astype(np.int8)
            edge = np.diff(padded, axis=axis) == (1, -1)[end]  # where a cell begins, or ends, along the axis
            others = [i for i in range(self.room.dim) if i != axis]
            area = _gathered(edge, others) / 2 ** (self.room.dim - 1) / self.spacings[axis]
            total = areas[id(wall)][1] if id(wall) in areas else np.zeros(self.shape)
            areas[id(wall)] = (wall, total + area)
        return [_Wall(wall, area / safe, self) for wall, area in areas.values()]

    def initial(self, source: Any) -> np.ndarray:
        """Return the initial pressure on all nodes, 0 outside."""
        if isinstance(source, GaussianSource):
            self.room.check_inside("source", source.positions)
            field = source.pressure(mesh(self.axes)).reshape(-1, *self.shape)
        else:
            try:
                field = np.asarray(source, np.float64)
            except (TypeError, ValueError):
                raise TypeError(f"source is {source!r}; it takes GaussianSource or fields (batch, nodes)") from None
            if field.shape[1:] != self.shape or not np.isfinite(field).all():
                raise ValueError(
                    f"source has shape {field.shape}; it takes GaussianSource or finite fields {('batch', *self.shape)}"
                )
        with np.errstate(over="ignore"):
            found = (field * self.inside).astype(self.dtype)
        if not np.isfinite(found).all():
            raise ValueError(f"source has {np.abs(field).max():.3g} Pa, which {self.dtype} can't hold")
        return found

    def rest(self, p: np.ndarray) -> list[np.ndarray]:
        """Return accumulators of zero."""
        return [np.zeros((len(wall.outputs), len(p), len(wall.nodes)), self.dtype) for wall in self.walls]

    def _neighbours(self, p: np.ndarray) -> np.ndarray:
        """Return ``2 p`` and the Laplacian times ``(c dt)^2``."""
        out = self.centre * p
        for axis, courant in enumerate(self.courant):
            low, high = ((slice(None), *end) for end in _ends(axis))
            if self.is_box:
                part = courant * p
                out[high] += part[low]
                out[low] += part[high]
                # A wall sees its neighbour twice, its own image.
                first, second, last, other = ((slice(None), *_at(axis, i)) for i in (0, 1, -1, -2))
                out[first] += part[second]
                out[last] += part[other]
            else:
                upper, lower = self.weights[axis]
                out[high] += upper * p[low]
                out[low] += lower * p[high]
        return out

    def first(self, p: np.ndarray, state: list[np.ndarray]) -> np.ndarray:
        """Return the pressure after a step from rest.

        The air is at rest but walls give way at once where there is pressure: without the volume that they take, a mean
        pressure would stay, and grow where the admittance ends at 0 for low frequencies.
        """
        after = (self._neighbours(p) / 2).astype(self.dtype)
        if self.walls:
            flat, now = (a.reshape(len(p), -1) for a in (after, p))
            damping: Any = np.ones(flat.shape[1], self.dtype)
            for wall in self.walls:
                flat[:, wall.nodes] -= wall.strength * wall.direct * now[:, wall.nodes]
                damping[wall.nodes] += wall.strength * wall.direct
            flat[:, self.wall_nodes] /= damping[self.wall_nodes]
        for wall, x in zip(self.walls, state, strict=True):
            wall.follow(x, p, after)
        return after

    def step(self, before: np.ndarray, p: np.ndarray, state: list[np.ndarray]) -> np.ndarray:
        """Return the pressure after a step."""
        after = self._neighbours(p)
        after -= before
        if self.walls:
            # v_next - v_before is affine in p_next at each node; where walls meet, their parts add up.
            flat, old, now = (a.reshape(len(p), -1) for a in (after, before, p))
            damping: Any = np.ones(flat.shape[1], self.dtype)
            for wall, x in zip(self.walls, state, strict=True):
                flat[:, wall.nodes] -= wall.strength * wall.known(x, now, old)
                damping[wall.nodes] += wall.strength * wall.direct
            flat[:, self.wall_nodes] /= damping[self.wall_nodes]
            for wall, x in zip(self.walls, state, strict=True):
                wall.follow(x, p, after)
        return after

    @property
    def wall_nodes(self) -> np.ndarray:
        """All nodes on walls that aren't rigid."""
        if not hasattr(self, "_wall_nodes"):
            self._wall_nodes = np.unique(np.concatenate([wall.nodes for wall in self.walls]))
        return self._wall_nodes

    def energy(self, p: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the energy between two steps: kinetic part, and potential part as a product of both gradients."""
        every = tuple(range(1, p.ndim))
        total = 0.5 * (self.volume * ((after - p) / self.dt) ** 2).sum(every)
        for axis, (face, spacing) in enumerate(zip(self.faces, self.spacings, strict=True)):
            slopes = np.diff(p, axis=axis + 1) * np.diff(after, axis=axis + 1) / spacing**2
            total = total + 0.5 * self.c**2 * (face * slopes).sum(every)
        return np.asarray(self.cell_size * total)

    def reader(self, receivers: ArrayLike | None) -> Any:
        """Return what reads the pressure at receivers, or at all nodes inside."""
        if receivers is None:
            nodes = np.flatnonzero(self.inside)
            return lambda p: p.reshape(len(p), -1)[:, nodes]
        x = self.room.check_inside("receivers", receivers)
        place = np.stack([x[:, i] / s for i, s in enumerate(self.spacings)], 1)
        base = np.clip(np.floor(place + 1e-9).astype(int), 0, np.array(self.shape) - 2)
        part = np.clip(place - base, 0, 1)
        corners, shares = [], []
        for corner in itertools.product((0, 1), repeat=self.room.dim):
            corners.append(np.ravel_multi_index(tuple((base + corner).T), self.shape))
            share = np.prod(np.where(corner, part, 1 - part), 1)
            shares.append(share * self.inside.reshape(-1)[corners[-1]])
        share = np.array(shares, self.dtype)
        if (lost := share.sum(0) <= 0).any():
            raise ValueError(f"receivers has {x[lost][0].tolist()}, near which the grid has no node inside the room")
        share /= share.sum(0)
        return lambda p: sum(w * p.reshape(len(p), -1)[:, n] for w, n in zip(share, corners, strict=True))


class _Wall:
    """The nodes on walls of one boundary, and what flows into them."""

    def __init__(self, boundary: ImpedanceBoundary, areas: np.ndarray, scheme: _Scheme) -> None:
        self.nodes = np.flatnonzero(areas)
        advance, drive, outputs = boundary.filter(scheme.dt)
        # (c dt)^2 S / V dp/dn, with dp/dn = -rho (v_next - v_before) / (2 dt).
        strength = boundary.rho * scheme.c**2 * scheme.dt / 2 * areas.reshape(-1)[self.nodes]
        self.strength = strength.astype(scheme.dtype)
        self.advance, self.drive, self.outputs = (a.astype(scheme.dtype) for a in (advance, drive, outputs))
        # v_next = direct p_next + what is known
        self.at_once = boundary.Y_inf or 0.0
        self.direct = float(self.at_once + outputs @ drive)
        self.earlier: Any = 0.0  # velocity of the accumulators a step before

    def known(self, x: np.ndarray, p: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return ``v_next - v_before`` but for what the next pressure adds."""
        found = -self.at_once * before[:, self.nodes]
        if len(self.outputs):
            ahead = self.outputs @ self.advance
            found += np.tensordot(ahead, x, 1) + (self.outputs @ self.drive) * p[:, self.nodes]
            found -= self.earlier
        return np.asarray(found)

    def follow(self, x: np.ndarray, p: np.ndarray, after: np.ndarray) -> None:
        """Move the accumulators a step on."""
        if len(self.outputs):
            self.earlier = np.tensordot(self.outputs, x, 1)
            both = (p.reshape(len(p), -1) + after.reshape(len(p), -1))[:, self.nodes]
            x[:] = np.tensordot(self.advance, x, 1) + self.drive[:, None, None] * both


def _gathered(cells: np.ndarray, axes: Sequence[int] | range) -> Float[np.ndarray, "..."]:
    """Sum cells on both sides of each node along axes, of which none is outside the grid."""
    out = np.asarray(cells, np.float64)
    for axis in axes:
        out = np.pad(out, [(1, 1) if i == axis else (0, 0) for i in range(out.ndim)])
        low, high = _ends(axis)
        out = out[low] + out[high]
    return out


def _shifted(face: np.ndarray, axis: int, end: int) -> np.ndarray:
    """Return the faces before or after each node along an axis, 0 where there is none."""
    return np.pad(face, [((1, 0) if end == 0 else (0, 1)) if i == axis else (0, 0) for i in range(face.ndim)])


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return what takes all but the last, and all but the first, along an axis."""
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _at(axis: int, i: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, i)
