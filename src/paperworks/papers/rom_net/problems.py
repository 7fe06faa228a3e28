"""Five families of simulations, and one of a real part: inputs, and what was simulated from them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import solve_banded
from scipy.sparse.linalg import splu, spsolve

from paperworks.testbeds import DatasetMissing, burgers


class Simulations(NamedTuple):
    """Inputs (m, d), and a snapshot (m, n) of each."""

    inputs: np.ndarray
    snapshots: np.ndarray


def transport(m: int, rng: np.random.Generator, n: int = 400) -> Simulations:
    """Move a bump whose height is spread over two decades."""
    x = np.linspace(0, 1, n)
    inputs = rng.uniform([0.1, -1], [0.9, 1], size=(m, 2))
    return Simulations(inputs, 10 ** inputs[:, 1:] * np.exp(-(((x - inputs[:, :1]) / 0.07) ** 2)))


def heat_conduction(m: int, rng: np.random.Generator, n: int = 32) -> Simulations:
    r"""Heat a plate whose conductivity grows with the temperature, 1 + u, by a small source of any strength.

    With :math:`\theta = u + u^2/2` the equation :math:`-\nabla\cdot((1+u)\nabla u) = f` is Poisson's (Kirchhoff).
    """
    ticks = np.arange(1, n) / n
    second = sp.diags_array([-np.ones(n - 2), 2 * np.ones(n - 1), -np.ones(n - 2)], offsets=[-1, 0, 1]) * n**2
    poisson = splu(sp.csc_array(sp.kronsum(second, second)))
    inputs = rng.uniform([0.2, 0.2, 0], [0.8, 0.8, 4], size=(m, 3))
    bumps = [np.exp(-(((ticks - inputs[:, i, None]) / 0.1) ** 2)) for i in (0, 1)]
    source = 10 ** inputs[:, 2, None] * np.einsum("mi,mj->mij", *bumps).reshape(m, -1)
    theta = np.maximum(poisson.solve(source.T).T, 0)
    return Simulations(inputs, 2 * theta / (1 + np.sqrt(1 + 2 * theta)))


def viscous_burgers(m: int, rng: np.random.Generator, n: int = 128) -> Simulations:
    """Let a bump run to the right and steepen, of any height from 0.05 to 2 and from any place."""
    inputs = rng.uniform([np.log10(0.05), 0.2], [np.log10(2), 0.5], size=(m, 2))
    equation = burgers(n, nu=0.01)
    (x,) = (axis.numpy() for axis in equation.grid.coordinates())
    start = 10 ** inputs[:, :1] * np.exp(-(((x - inputs[:, 1:]) / 0.1) ** 2))
    states = equation.simulate(torch.from_numpy(start), 0.5, 1, substeps=100)
    return Simulations(inputs, states[:, -1].numpy())


def thermo_elasticity(m: int, rng: np.random.Generator, n: int = 16) -> Simulations:
    """Heat a plate that is held at its left side and has a stiff round inclusion, which expands less."""
    inputs = rng.uniform([0.25, 0.25, 0.1], [0.75, 0.75, 0.25], size=(m, 3))
    plate = _Plate(n)
    return Simulations(inputs, np.array([plate.solve(*row) for row in inputs]))


class _Plate:
    """Plane stress on n x n bilinear elements of a unit square."""

    def __init__(self, n: int) -> None:
        corner = np.arange(n * n) + np.arange(n * n) // n
        nodes = np.stack([corner, corner + 1, corner + n + 2, corner + n + 1], 1)
        self.dofs = np.stack([2 * nodes, 2 * nodes + 1], 2).reshape(n * n, 8)
        self.centres = np.stack([np.arange(n * n) % n, np.arange(n * n) // n], 1) / n + 0.5 / n
        self.size, self.free = 2 * (n + 1) ** 2, np.flatnonzero(np.arange(2 * (n + 1) ** 2) // 2 % (n + 1) != 0)
        elastic = np.array([[1, 0.3, 0], [0.3, 1, 0], [0, 0, 0.35]]) / (1 - 0.3**2)
        self.stiffness, self.load = np.zeros((8, 8)), np.zeros(8)
        for s, t in np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / np.sqrt(3):
            slopes = np.array([[t - 1, 1 - t, 1 + t, -1 - t], [s - 1, -1 - s, 1 + s, 1 - s]]) / 4 * 2 * n
            B = np.zeros((3, 8))
            B[0, ::2], B[1, 1::2], B[2, ::2], B[2, 1::2] = slopes[0], slopes[1], slopes[1], slopes[0]
            self.stiffness += B.T @ elastic @ B / (4 * n * n)
            self.load += B.T @ elastic @ np.array([1.0, 1.0, 0.0]) / (4 * n * n)

    def solve(self, x: float, y: float, radius: float) -> np.ndarray:
        """Return the displacements of a plate with an inclusion there."""
        distance = np.hypot(*(self.centres - [x, y]).T)
        inside = 1 / (1 + np.exp((distance - radius) / 0.02))
        modulus, expansion = 1 + 9 * inside, 1 - 0.8 * inside
        rows, columns = np.repeat(self.dofs, 8, axis=1).ravel(), np.tile(self.dofs, 8).ravel()
        matrix = sp.csr_array(((modulus[:, None, None] * self.stiffness).ravel(), (rows, columns)), (self.size,) * 2)
        force = np.bincount(self.dofs.ravel(), ((modulus * expansion)[:, None] * self.load).ravel(), self.size)
        found = np.zeros(self.size)
        found[self.free] = spsolve(matrix[self.free][:, self.free].tocsc(), force[self.free])
        return found


def helmholtz(m: int, rng: np.random.Generator, n: int = 300) -> Simulations:
    """Send a wave of one frequency through five layers of random speed; real and imaginary part as one vector."""
    inputs = rng.uniform(0.7, 1.4, size=(m, 5))
    x = np.linspace(0, 1, n + 1)[1:]
    speed = inputs[:, np.minimum((x * 5).astype(int), 4)]
    waves = (2 * np.pi * 1.5 / speed) ** 2 * (1 + 0.02j)
    found = np.empty((m, n), dtype=complex)
    for i, square in enumerate(waves):
        bands = np.ones((3, n), dtype=complex) * n**2
        bands[1] = square - 2 * n**2
        bands[1, -1] = square[-1] - 2 * n**2 + 2j * n * np.sqrt(square[-1])  # what arrives at the right side leaves
        bands[2, -2] = 2 * n**2
        rhs = np.zeros(n, dtype=complex)
        rhs[0] = -(n**2)  # the left side moves with size 1
        found[i] = solve_banded((1, 1), bands, rhs)
    return Simulations(inputs, np.hstack([found.real, found.imag]))


FAMILIES: dict[str, Callable[[int, np.random.Generator], Simulations]] = {
    "transport": transport,
    "heat conduction": heat_conduction,
    "Burgers": viscous_burgers,
    "thermo-elasticity": thermo_elasticity,
    "Helmholtz": helmholtz,
}


def real_part() -> tuple[np.ndarray, np.ndarray]:
    """Load the thermo-mechanical simulations of a part, for training and for testing, as trajectories (m, 27, 23).

    They are the reduced coordinates of public simulations, 23 coordinates at 27 times, of the repository
    arthurPignet/ROM_NET_clustering, under the MIT licence.

    Raises
    ------
    DatasetMissing
        Where the folder that PAPERWORKS_DATA names has no rom-net.
    """
    folder = Path(os.environ.get("PAPERWORKS_DATA", "")) / "rom-net"
    if not (folder / "train.npz").is_file() or not (folder / "test.npz").is_file():
        raise DatasetMissing(
            "the simulations of the part are not there; set PAPERWORKS_DATA to a folder with rom-net/train.npz and"
            " test.npz, made of the files of arthurPignet/ROM_NET_clustering"
        )
    found = []
    for name in ("train", "test"):
        with np.load(folder / f"{name}.npz") as data:
            found.append(np.ascontiguousarray(data["coordinates"].transpose(0, 2, 1)))
    return found[0], found[1]
