"""The paper's two sequences of systems: shifted Laplacians, and Crank-Nicolson steps of a heat equation."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse

from paperworks.solvers import laplacian

Instance = tuple[sparse.csr_array, np.ndarray, float]
"""A system's matrix, its right-hand side, and its context."""

SHIFTS = (-0.15, 0.45)
"""The interval of the shifts; the least eigenvalue of the Laplacian is 0.16."""


class Diagonal(NamedTuple):
    """A matrix that differs from instance to instance in its diagonal alone."""

    A: sparse.csr_array
    places: np.ndarray

    @classmethod
    def of(cls, A: sparse.csr_array) -> "Diagonal":
        """Find the places of the diagonal."""
        rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
        return cls(A, np.flatnonzero(A.indices == rows))

    def combined(self, shift: float, scale: float = 1.0) -> sparse.csr_array:
        """Return shift I + scale A."""
        data = scale * self.A.data
        data[self.places] += shift
        return sparse.csr_array((data, self.A.indices, self.A.indptr), shape=self.A.shape)


def shifted(rounds: int, beta: tuple[float, float], rng: np.random.Generator) -> list[Instance]:
    """Draw systems A + c I on a grid of 10 x 10, c = -0.15 + 0.6 Beta, right-hand sides normal in a ball."""
    grid, n = Diagonal.of(laplacian((10, 10))), 100
    found = []
    for c in SHIFTS[0] + (SHIFTS[1] - SHIFTS[0]) * rng.beta(*beta, size=rounds):
        b = rng.normal(size=n)
        while b @ b > n:
            b = rng.normal(size=n)
        found.append((grid.combined(c), b, float(c)))
    return found


class Heat:
    """u' = kappa(t) Laplacian u + f on the unit square, zero at its border, by Crank-Nicolson steps of 1e-3.

    Parameters
    ----------
    cells
        Number of cells along a side.
    """

    step = 1e-3
    contexts = (0.0, 10.0)

    def __init__(self, cells: int) -> None:
        x = np.arange(1, cells) / cells
        self.points = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
        self.laplacian = Diagonal.of(laplacian((cells - 1, cells - 1), 1 / cells))
        self.start = self.bump(0.5, 0.5, 0.25)

    @staticmethod
    def kappa(t: float) -> float:
        """Return the coefficient of diffusion."""
        return max(0.1 * math.sin(2 * math.pi * t), -10 * math.sin(2 * math.pi * t))

    def bump(self, x: float, y: float, radius: float) -> np.ndarray:
        """Return a smooth bump of height 1 at the grid's points."""
        squared = ((self.points - (x, y)) ** 2).sum(1) / radius**2
        inside = squared < 1
        found = np.zeros(len(squared))
        found[inside] = np.exp(1 - 1 / (1 - squared[inside]))
        return found

    def system(self, number: int, u: np.ndarray) -> Instance:
        """Return the system of a step from the solution before."""
        t = number * self.step
        middle = t + self.step / 2
        half = self.kappa(middle) * self.step / 2
        force = 32 * self.bump(
            0.5 + math.cos(16 * math.pi * middle) / 4, 0.5 + math.sin(16 * math.pi * middle) / 4, 0.125
        )
        b = u - half * (self.laplacian.A @ u) + self.step * force
        return self.laplacian.combined(1.0, half), b, min(max(self.kappa(t), self.contexts[0]), self.contexts[1])


def golden_section(count: Callable[[float], int], coarse: Iterable[float], evaluations: int = 12) -> float:
    """Return a parameter of the least count: by golden sections from a coarse grid, the middle of the least ones.

    Parameters
    ----------
    count
        Gives the iterations at a parameter.
    coarse
        Parameters to begin with.
    evaluations
        Counts to take in all, about as many.

    Returns
    -------
    float
        The middle of all parameters that took the least count.
    """
    known = {omega: count(omega) for omega in coarse}
    ordered = sorted(known)
    place = min(range(len(ordered)), key=lambda i: known[ordered[i]])
    low, high = ordered[max(place - 1, 0)], ordered[min(place + 1, len(ordered) - 1)]
    golden = (math.sqrt(5) - 1) / 2
    while len(known) < evaluations:
        left, right = high - golden * (high - low), low + golden * (high - low)
        for omega in (left, right):
            if omega not in known:
                known[omega] = count(omega)
        low, high = (low, right) if known[left] <= known[right] else (left, high)
    least = min(known.values())
    best = [omega for omega in known if known[omega] == least]
    return (min(best) + max(best)) / 2
