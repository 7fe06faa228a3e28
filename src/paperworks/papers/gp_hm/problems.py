"""Problems of the paper with known solutions, and what solves them without learning anything."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.solvers import AllenCahn, Equation, GPHMSolver, Poisson

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Case:
    """A problem of one variable: its solution, the second derivative of it, the domain, nodes and frequencies."""

    u: Callable[[Array], Array]
    bend: Callable[[Array], Array]
    length: float
    nodes: int
    max_freq: float
    true_frequencies: tuple[float, ...] = ()

    def solver(self, equation: Equation | None = None, **options: Any) -> GPHMSolver:
        """Return the unfitted solver of the paper's setting."""
        settings = {"grid_shape": self.nodes, "max_freq": self.max_freq, **options}
        return GPHMSolver(equation or Poisson(), (0.0, self.length), **settings)

    def source(self, equation: Equation) -> Callable[[Array], Array]:
        """Return the right side that makes `u` the solution."""
        if isinstance(equation, AllenCahn):
            return lambda x: self.bend(x) + self.u(x) * (self.u(x) ** 2 - 1)
        return self.bend

    def fit(self, equation: Equation | None = None, callback: Any = None, **options: Any) -> GPHMSolver:
        """Return the fitted solver."""
        solver = self.solver(equation, **options)
        return solver.fit(self.source(solver.equation), self.u, callback=callback)

    def error(self, solver: GPHMSolver) -> float:
        """Return the relative error on the paper's test grid of 300 points."""
        x = np.linspace(0, self.length, 300)
        return relative(solver.predict(x), self.u(x))


def relative(found: ArrayLike, exact: ArrayLike) -> float:
    """Return the relative error in the Euclidean norm."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(exact)) / np.linalg.norm(np.asarray(exact)))


def _p3(x: Array) -> Array:
    return np.sin(6 * x) * np.cos(100 * x)


def _p3_bend(x: Array) -> Array:
    return -(36 + 1e4) * _p3(x) - 1200 * np.cos(6 * x) * np.sin(100 * x)


CASES = {
    "P1": Case(lambda x: np.sin(100 * x), lambda x: -1e4 * np.sin(100 * x), 2 * np.pi, 400, 20, (50 / np.pi,)),
    "P2": Case(
        lambda x: x * np.sin(200 * x),
        lambda x: 400 * np.cos(200 * x) - 4e4 * x * np.sin(200 * x),
        2 * np.pi,
        900,
        50,
    ),
    "P3": Case(_p3, _p3_bend, 2 * np.pi, 400, 20, (47 / np.pi, 53 / np.pi)),
    "P4": Case(
        lambda x: np.sin(x) + 0.1 * np.sin(20 * x) + 0.05 * np.sin(100 * x),
        lambda x: -np.sin(x) - 40 * np.sin(20 * x) - 500 * np.sin(100 * x),
        1.0,
        400,
        30,
    ),
    "P5": Case(lambda x: np.sin(500 * x) - 2 * (x - 0.5) ** 2, lambda x: -25e4 * np.sin(500 * x) - 4, 1.0, 400, 100),
}


def chebyshev(case: Case, degree: int) -> Callable[[Array], Array]:
    """Solve u'' = f by collocation in Chebyshev points, and return the interpolating polynomial."""
    nodes = np.cos(np.pi * np.arange(degree + 1) / degree)
    weights = np.where(np.arange(degree + 1) % degree == 0, 2.0, 1.0) * (-1.0) ** np.arange(degree + 1)
    apart = nodes[:, None] - nodes + np.eye(degree + 1)
    D = np.outer(weights, 1 / weights) / apart
    D -= np.diag(D.sum(1))
    x = (1 - nodes) * case.length / 2
    A = (D @ D) * (2 / case.length) ** 2
    right = case.bend(x)
    A[[0, -1]] = np.eye(degree + 1)[[0, -1]]
    right[[0, -1]] = case.u(x[[0, -1]])
    values = np.linalg.solve(A, right)

    def interpolant(at: Array) -> Array:
        distance = (1 - 2 * at[:, None] / case.length) - nodes
        hit = distance == 0
        terms = (1 / np.where(hit, 1, distance)) * (1 / weights)
        found = (terms @ values) / terms.sum(1)
        rows, columns = np.nonzero(hit)
        found[rows] = values[columns]
        return found

    return interpolant


@dataclass(frozen=True)
class PlaneCase:
    """A problem of two variables."""

    equation: Equation
    u: Callable[[Array, Array], Array]
    f: Callable[[Array, Array], Array]
    length: float
    nodes: int
    max_freq: float

    def fit(self, callback: Any = None, **options: Any) -> GPHMSolver:
        """Return the fitted solver."""
        settings = {"grid_shape": self.nodes, "max_freq": self.max_freq, **options}
        solver = GPHMSolver(self.equation, [(0.0, self.length)] * 2, **settings)
        return solver.fit(self.f, self.u, callback=callback)

    def error(self, solver: GPHMSolver) -> float:
        """Return the relative error on the paper's test grid of 300 x 300 points."""
        x = np.linspace(0, self.length, 300)
        return relative(solver.predict_grid([x, x]), self.u(*np.meshgrid(x, x, indexing="ij")))
