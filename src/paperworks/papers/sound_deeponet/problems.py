"""Rooms with sources to learn from and to be judged by, and the networks that claims share."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.audio import (
    ASPECT_PRESERVING,
    AcousticDeepONet,
    GaussianSource,
    Room,
    RoomFrame,
    box_modes,
    fdtd,
    image_source_1d,
    make_acoustic_deeponet,
    train_deeponet,
)
from paperworks.evidence import Run
from paperworks.numerics import seeded

XI = 5.83
"""Normalised impedance of the tube's walls, the paper's."""
GRID = (0.3, 1.7)
"""Where sources of the square are, in metres."""
_TUBE, _SQUARE, _CORNER = (Room((2.0,)), Room((2.0, 2.0)), Room.l_shape((2.0, 2.0), (1.0, 1.0)))


@dataclass(frozen=True)
class Sound:
    """Pressure of sources of a room at coordinates, for training and for tests."""

    frame: RoomFrame
    axes: list[Float[np.ndarray, " _"]]  # of the sources to learn from, where they are on a grid
    sources: Float[np.ndarray, "n d"]
    tests: Float[np.ndarray, "m d"]
    points: Float[np.ndarray, "p d"]
    times: Float[np.ndarray, " t"]
    pressure: Float[Tensor, "n coordinates"]
    truth: Float[Tensor, "m coordinates"]

    @property
    def coordinates(self) -> Float[Tensor, "coordinates d_plus_1"]:
        """All places at all times."""
        return self.frame.coordinates(self.points, self.times)


def exact(frame: RoomFrame, sources: Any, points: Any, times: Any) -> Float[Tensor, "n coordinates"]:
    """Return the exact pressure in the tube or the square, times running fastest."""
    made = GaussianSource(sources, frame.sigma)
    if frame.room.dim == 1:
        p = image_source_1d(frame.room.size[0], made, points[:, 0], times, XI)
    else:
        p = box_modes(frame.room.size, made, points, times)
    return flat(p)


def flat(p: Float[np.ndarray, "n t points"]) -> Float[Tensor, "n coordinates"]:
    """Return pressures in the order of coordinates, in single precision."""
    return torch.as_tensor(p.transpose(0, 2, 1).reshape(len(p), -1), dtype=torch.float32)


def tube(run: Run) -> Sound:
    """Return sources at least three widths from the walls, where the images are exact."""
    frame = RoomFrame(_TUBE, time_scale=ASPECT_PRESERVING)
    ends = (3 * frame.sigma, 2 - 3 * frame.sigma)
    count, tests = run.at(smoke=(9, 5), desk=(49, 24), full=(49, 24))
    axis = np.linspace(*ends, count)
    unseen = np.random.default_rng([run.seed, 1]).uniform(*ends, (tests, 1))
    points = np.linspace(0, 2, run.at(smoke=21, desk=101, full=101))[:, None]
    times = _times(*run.at(smoke=(0.005, 21), desk=(0.02, 161), full=(0.05, 401)))
    learnt, truth = (exact(frame, x0, points, times) for x0 in (axis[:, None], unseen))
    return Sound(frame, [axis], axis[:, None], unseen, points, times, learnt, truth)


def square(run: Run) -> Sound:
    """Return sources on a grid of seven by seven in a square with rigid walls, and random ones to be judged by."""
    frame = RoomFrame(_SQUARE, time_scale=ASPECT_PRESERVING)
    count, tests = run.at(smoke=(3, 5), desk=(7, 20), full=(7, 20))
    axis = np.linspace(*GRID, count)
    sources = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    unseen = np.random.default_rng([run.seed, 2]).uniform(*GRID, (tests, 2))
    points = _SQUARE.nodes(run.at(smoke=0.25, desk=1 / 12, full=1 / 12))
    times = _times(*run.at(smoke=(0.005, 11), desk=(0.01, 41), full=(0.05, 201)))
    learnt, truth = (exact(frame, x0, points, times) for x0 in (sources, unseen))
    return Sound(frame, [axis, axis], sources, unseen, points, times, learnt, truth)


def corner(run: Run) -> Sound:
    """Return the square's sources and coordinates without a corner, solved by finite differences."""
    frame = RoomFrame(_CORNER, time_scale=ASPECT_PRESERVING)
    whole = square(run)
    spacing = frame.spacing
    sources = whole.sources[_clear(frame, whole.sources, spacing)]
    unseen = np.random.default_rng([run.seed, 3]).uniform(*GRID, (10 * len(whole.tests), 2))
    unseen = unseen[_clear(frame, unseen, spacing)][: len(whole.tests)]
    points = whole.points[_CORNER.contains(whole.points)]
    h = run.at(smoke=0.125, desk=1 / 48, full=1 / 48)
    found = []
    for x0 in (sources, unseen):
        # Steps that the kept times are whole numbers of.
        each = math.ceil(whole.times[1] / (0.95 * h / math.sqrt(2) / frame.c))
        cfl = frame.c * whole.times[1] / each / h
        solved = fdtd(
            _CORNER,
            GaussianSource(x0, frame.sigma),
            float(whole.times[-1]),
            h=h,
            cfl=cfl * (1 + 1e-9),
            receivers=points,
            save_every=each,
            dtype="float32",
        )
        found.append(flat(solved.pressure))
    return Sound(frame, whole.axes, sources, unseen, points, whole.times, found[0], found[1])


def _clear(frame: RoomFrame, x: Float[np.ndarray, "n 2"], margin: float) -> Any:
    steps = [np.array([a, b]) * margin for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return np.all([frame.room.contains(x + step) for step in steps], 0)


def _times(end: float, count: int) -> Float[np.ndarray, " t"]:
    return np.linspace(0, end, count)


def steps_of(run: Run, dim: int) -> int:
    """Return the steps of a training."""
    return run.at(smoke=20, desk={1: 1500, 2: 3000}[dim], full=60_000)


def network(run: Run, frame: RoomFrame, seed: int) -> AcousticDeepONet:
    """Return an untrained network: the paper's layers at full scale, narrower ones below."""
    width = {1: 192, 2: 256}[frame.room.dim]
    with seeded(seed):
        if run.scale == "full":
            return make_acoustic_deeponet(frame)
        return make_acoustic_deeponet(frame, run.at(smoke=32, desk=width, full=width), 2)


def fitted(
    run: Run, model: torch.nn.Module, data: Sound, steps: int, seed: int, callback: Any = None
) -> Float[np.ndarray, " steps"]:
    """Train a network on a room's sources, at desk scale with a rate that falls along half a cosine."""
    assert isinstance(model, AcousticDeepONet)
    published = run.scale == "full"
    return train_deeponet(
        model,
        data.frame.source_fields(data.sources),
        data.coordinates,
        data.pressure,
        steps,
        lr=1e-3 if published else 3e-3,
        clip=0.01 if published else 1.0,
        schedule=None if published else lambda step: (1 + math.cos(math.pi * step / steps)) / 2,
        random_state=seed,
        callback=callback,
        progress=run.progress,
    )


def trained(run: Run, data: Sound) -> AcousticDeepONet:
    """Return the network of the tube or the square, trained once for all claims."""
    dim = data.frame.room.dim
    steps = steps_of(run, dim)

    def train(model: torch.nn.Module) -> None:
        fitted(run, model, data, steps, run.seed)

    found = run.trained(
        f"sound-deeponet-{dim}d",
        network(run, data.frame, run.seed),
        train,
        steps=steps,
        seed=run.seed,
        scale=run.scale,
    )
    assert isinstance(found, AcousticDeepONet)
    return found.eval()


def predicted(model: AcousticDeepONet, frame: RoomFrame, sources: Any, coordinates: Tensor) -> Tensor:
    """Return the network's pressure for sources at coordinates."""
    with torch.no_grad():
        return model(frame.source_fields(sources), coordinates)


def mean_square(p: Tensor) -> Float[np.ndarray, " n"]:
    """Return the mean square of each source's pressure."""
    return p.double().square().mean(1).numpy()
