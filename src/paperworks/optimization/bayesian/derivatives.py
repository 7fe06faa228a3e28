"""Covariances of a process with its own derivatives, for data that hold gradients (arXiv 1807.02811, Section 5.6)."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist

from paperworks.optimization.bayesian.kernels import (
    Kernel,
    Matrix,
    Parameter,
    Points,
    PullTheta,
    PullX,
    StationaryKernel,
    Vector,
)

VALUE = -1.0
"""The component that stands for the value itself; others are the columns that it is differentiated by."""


class DerivativeKernel(Kernel):
    """The covariance of rows (x, c), where c is -1 for f(x), and j for the derivative of f by its column j.

    With s the squared scaled distance, u_j = (x_j - x'_j) / l_j^2 and a kernel k = g(s): cov(f, d'_j f) = -2 g' u_j and
    cov(d_i f, d'_j f) = -4 g'' u_i u_j - 2 g' [i = j] / l_j^2.

    Parameters
    ----------
    base
        A stationary kernel of all columns but the last, of a process that is differentiable: nu > 1, or RBF.

    Raises
    ------
    ValueError
        Where the process of `base` has no derivative.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import RBFKernel
    >>> K, _ = DerivativeKernel(RBFKernel()).at(np.zeros(2), np.array([[0.0, -1]]), np.array([[1.0, 0]]))
    >>> round(float(K[0, 0]), 4)  # k * (x - x') / l^2 at x - x' = -1, by the second argument
    -0.6065
    """

    def __init__(self, base: StationaryKernel) -> None:
        if not isinstance(base, StationaryKernel) or base.smoothness <= 1 or base.columns is not None or not base.ard:
            raise ValueError(
                f"base is {base!r}; it takes a stationary kernel of all columns, one lengthscale each, whose process "
                "is differentiable: MaternKernel(nu > 1) or RBFKernel()"
            )
        self.base = base

    def parameters(self, dim: int) -> list[Parameter]:
        return self.base.parameters(dim - 1)

    def diagonal(self, theta: Vector, X: Points) -> tuple[Vector, Points | None]:
        lengths, amplitude = self.base._split(theta)
        slope = self.base.profile(np.zeros(1), 1)[1][0]
        by_component = np.append(-2 * amplitude * slope / lengths**2, amplitude)
        return by_component[X[:, -1].astype(int)], None

    def _parts(self, theta: Vector, X: Points, Z: Points) -> "_Parts":
        return _Parts(self.base, theta, X, Z)

    def at(self, theta: Vector, X: Points, Z: Points) -> tuple[Matrix, PullX]:
        if (X[:, -1] < 0).all() and (Z[:, -1] < 0).all():  # no derivative at all
            K, inner = self.base.at(theta, X[:, :-1], Z[:, :-1])
            return K, lambda *weights: [np.pad(g, ((0, 0), (0, 1))) for g in inner(*weights)]
        parts = self._parts(theta, X, Z)
        return parts.matrix(), parts.pull_x

    def bind(self, X: Points) -> Callable[[Vector], tuple[Matrix, PullTheta]]:
        def evaluate(theta: Vector) -> tuple[Matrix, PullTheta]:
            parts = self._parts(theta, X, X)
            return parts.matrix(), parts.pull_theta

        return evaluate


class _Parts:
    """What covariances of values and derivatives between two sets of rows, and their gradients, are made of."""

    def __init__(self, base: StationaryKernel, theta: Vector, X: Points, Z: Points) -> None:
        self.base = base
        self.lengths, self.amplitude = base._split(theta)
        d = X.shape[1] - 1
        cx, cz = X[:, -1].astype(int), Z[:, -1].astype(int)
        self.dx, self.dz = np.eye(d + 1)[cx][:, :d], np.eye(d + 1)[cz][:, :d]  # which component, all 0 for a value
        self.one_x, self.one_z = (cx >= 0)[:, None], (cz >= 0)[None]
        self.delta = X[:, None, :-1] - Z[None, :, :-1]
        self.scaled = self.delta / self.lengths**2
        self.s = cdist(X[:, :-1] / self.lengths, Z[:, :-1] / self.lengths, "sqeuclidean")
        rows, columns = np.arange(len(X)), np.arange(len(Z))
        # Of a value's row they are whatever the last column has: nothing uses them.
        self.u = np.where(self.one_x, self.scaled[rows[:, None], columns[None], cx[:, None]], 0.0)
        self.v = np.where(self.one_z, self.scaled[rows[:, None], columns[None], cz[None]], 0.0)
        self.same = (self.dx / self.lengths**2) @ self.dz.T

    def _by_kind(self, value: Matrix, by_z: Matrix | float, by_x: Matrix | float, both: Matrix | float) -> Matrix:
        """Return what belongs to pairs of values, of a value and a derivative, the other way round, and of two."""
        return np.where(self.one_x, np.where(self.one_z, both, by_x), np.where(self.one_z, by_z, value))

    def matrix(self) -> Matrix:
        g, g1, g2 = self.base.profile(self.s, 2)
        both = -4 * g2 * self.u * self.v - 2 * g1 * self.same
        return self.amplitude * self._by_kind(g, -2 * g1 * self.v, 2 * g1 * self.u, both)

    @cached_property
    def slopes(self) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Derivatives of the matrix by s, by u, by v and by `same`."""
        _, g1, g2, g3 = self.base.profile(self.s, 3)
        u, v, zero = self.u, self.v, np.zeros_like(g1)
        found = (
            self._by_kind(g1, -2 * g2 * v, 2 * g2 * u, -4 * g3 * u * v - 2 * g2 * self.same),
            self._by_kind(zero, 0.0, 2 * g1, -4 * g2 * v),
            self._by_kind(zero, -2 * g1, 0.0, -4 * g2 * u),
            self._by_kind(zero, 0.0, 0.0, -2 * g1),
        )
        by_s, by_u, by_v, by_same = (self.amplitude * slope for slope in found)
        return by_s, by_u, by_v, by_same

    def pull_x(self, *weights: Matrix) -> list[Points]:
        by_s, by_u, by_v, _ = self.slopes
        found = []
        for W in weights:
            gradient = 2 * np.matmul((W * by_s)[:, None], self.scaled)[:, 0]
            gradient += ((W * by_u).sum(axis=1)[:, None] * self.dx + (W * by_v) @ self.dz) / self.lengths**2
            found.append(np.pad(gradient, ((0, 0), (0, 1))))
        return found

    def pull_theta(self, W: Matrix) -> Vector:
        by_s, by_u, by_v, by_same = self.slopes
        squares = (self.delta * self.scaled).reshape(-1, len(self.lengths))
        total = (W * by_s).ravel() @ squares
        total += (W * (by_u * self.u + by_same * self.same)).sum(axis=1) @ self.dx
        total += (W * by_v * self.v).sum(axis=0) @ self.dz
        found = -2 * total
        return np.append(found, np.vdot(W, self.matrix())) if self.base.amplitude else found
