"""The best solution for given kernels and precisions: a least-squares problem in whitened values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paperworks.solvers.kernels.equations import Equation, MultiIndex
from paperworks.solvers.kernels.prior import Prior, mode_product

_HALVINGS = 4


@dataclass(frozen=True)
class Problem:
    """An equation with its data on the grid.

    `base` and `base_operator` are a part of the solution that is kept as it is, and the linear operator on it.
    """

    equation: Equation
    source: Float[Tensor, "*grid"]
    boundary: Float[Tensor, "*grid"]
    known: Bool[Tensor, "*grid"]
    boundary_weight: float
    base: Float[Tensor, "*grid"]
    base_operator: Float[Tensor, "*grid"]

    @property
    def count(self) -> int:
        """How many values of the boundary there are."""
        return int(self.known.sum())

    def residual(self, U: Tensor, operator: Tensor) -> Tensor:
        """Return by how much the equation fails at the nodes."""
        left = operator + self.base_operator
        if self.equation.nonlinear is not None:
            left = left + self.equation.nonlinear(U + self.base)
        return left - self.source

    def gaps(self, prior: Prior, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of squares that boundary and equation fail by, and the residual."""
        U = prior.values(W)
        H = self.residual(U, prior.operator(W))
        off = (U + self.base - self.boundary)[self.known]
        return off.square().sum(), H.square().sum(), H

    def objective(self, prior: Prior, W: Tensor, log_precisions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return -L of Sec. 3.2 (the negative logarithm of the joint density), both gaps and the residual."""
        boundary, equation, H = self.gaps(prior, W)
        log1, log2 = log_precisions
        value = (
            prior.half_log_determinant()
            + 0.5 * W.square().sum()
            + 0.5 * self.boundary_weight * (log1.exp() * boundary - self.count * log1)
            + 0.5 * (log2.exp() * equation - H.numel() * log2)
        )
        return value, boundary, equation, H


@dataclass(frozen=True)
class Linearised:
    """The linear least-squares problem at given parameters, around given values where the equation is nonlinear.

    It minimises |W|^2 + p1 |(L W - g)_known|^2 + p2 |R W + slope L W - f|^2.
    """

    prior: Prior
    known: Tensor
    g: Tensor
    f: Tensor
    slope: Tensor | None
    p1: float
    p2: float

    @staticmethod
    def around(problem: Problem, prior: Prior, W: Tensor, log_precisions: Tensor) -> "Linearised":
        """Linearise a problem around whitened values."""
        f, slope = problem.source - problem.base_operator, None
        if problem.equation.nonlinear is not None and problem.equation.slope is not None:
            own = prior.values(W)
            slope = problem.equation.slope(own + problem.base)
            f = f - problem.equation.nonlinear(own + problem.base) + slope * own
        log1, log2 = log_precisions.tolist()
        return Linearised(
            prior,
            problem.known,
            torch.where(problem.known, problem.boundary - problem.base, 0.0),
            f,
            slope,
            problem.boundary_weight * math.exp(log1),
            math.exp(log2),
        )


class DenseProjection:
    """Solves the problem of one variable by a Cholesky factor of its normal matrix."""

    def __init__(self, problem: Linearised) -> None:
        self.problem = problem
        (G,) = problem.prior.operator_matrices()
        L = G[0]
        R = sum((c * G[order] for (order,), c in problem.prior.coefficients.items()), start=torch.zeros_like(L))
        if problem.slope is not None:
            R = R + problem.slope[:, None] * L
        self.rows = torch.cat([math.sqrt(problem.p1) * L[problem.known], math.sqrt(problem.p2) * R])
        self.R = R
        A = self.rows.mT @ self.rows
        A.diagonal().add_(1.0)
        factor, failed = torch.linalg.cholesky_ex(A)
        if failed:  # squares lose half the digits; the QR factor of the rows themselves doesn't
            eye = torch.eye(len(L), dtype=L.dtype, device=L.device)
            upper = torch.linalg.qr(torch.cat([self.rows, eye]), mode="r")[1]
            factor = (upper * upper.diagonal().sign()[:, None]).mT
        self.factor = factor

    def solve(self, start: Tensor | None = None) -> Tensor:
        """Return the minimiser."""
        p = self.problem
        known = math.sqrt(p.p1) * p.g[p.known]
        right = self.rows.mT @ torch.cat([known, math.sqrt(p.p2) * p.f])
        return self.apply_inverse(right)

    def apply_inverse(self, right: Tensor) -> Tensor:
        """Return the inverse of the normal matrix times a vector: the covariance of the whitened values."""
        return torch.cholesky_solve(right[:, None], self.factor)[:, 0]


class KroneckerProjection:
    """Solves the problem of several variables by conjugate gradients in the eigenbases of the derivatives.

    In these bases every term of the equation is near to diagonal, and the exact diagonal of the normal matrix is a
    short sum of products over the axes: a good preconditioner. First derivatives have a skew matrix, whose basis is
    complex.
    """

    def __init__(self, problem: Linearised, rtol: float, steps: int) -> None:
        self.problem, self.rtol, self.steps = problem, rtol, steps
        matrices = problem.prior.operator_matrices()
        bases = [_basis(problem.prior.factors[j], G) for j, G in enumerate(matrices)]
        self.complex = any(Q.is_complex() for Q in bases)
        dtype = torch.complex128 if self.complex else torch.float64
        self.bases = [Q.to(dtype) for Q in bases]
        self.matrices = [
            {order: matrix.to(dtype) @ Q for order, matrix in G.items()}
            for G, Q in zip(matrices, self.bases, strict=True)
        ]
        self.L = [G[0] for G in self.matrices]
        self.diagonal = self._diagonal()

    def _diagonal(self) -> Tensor:
        """Return the diagonal of the normal matrix, with the mean slope for that of each node."""
        p = self.problem
        terms: dict[MultiIndex, float] = dict(p.prior.coefficients)
        if p.slope is not None:
            zero = (0,) * p.f.ndim
            terms[zero] = terms.get(zero, 0.0) + float(p.slope.mean())
        known = mode_product([L.abs().square().mT for L in self.L], p.known.to(torch.float64))
        squares = torch.zeros_like(known)
        for (m, a), (n, b) in product(terms.items(), repeat=2):
            columns = [(G[i].conj() * G[k]).sum(0) for G, i, k in zip(self.matrices, m, n, strict=True)]
            outer = columns[0]
            for column in columns[1:]:
                outer = outer[..., None] * column
            squares = squares + a * b * (outer.real if self.complex else outer)
        return 1 + p.p1 * known + p.p2 * squares.clamp(min=0)

    def _forward(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and the linearised equation's left side."""
        values = mode_product(self.L, V)
        total = torch.zeros_like(values)
        for index, constant in self.problem.prior.coefficients.items():
            matrices = [G[order] for G, order in zip(self.matrices, index, strict=True)]
            total = total + constant * mode_product(matrices, V)
        if self.complex:
            values, total = values.real, total.real
        if self.problem.slope is not None:
            total = total + self.problem.slope * values
        return values, total

    def _adjoint(self, values: Tensor, left: Tensor) -> Tensor:
        if self.problem.slope is not None:
            values = values + self.problem.slope * left
        values, left = values.to(self.L[0].dtype), left.to(self.L[0].dtype)
        total = mode_product([L.mH for L in self.L], values)
        for index, constant in self.problem.prior.coefficients.items():
            matrices = [G[order].mH for G, order in zip(self.matrices, index, strict=True)]
            total = total + constant * mode_product(matrices, left)
        return total

    def _normal(self, V: Tensor) -> Tensor:
        values, left = self._forward(V)
        p = self.problem
        return V + self._adjoint(p.p1 * torch.where(p.known, values, 0.0), p.p2 * left)

    def solve(self, start: Tensor | None = None) -> Tensor:
        """Return the minimiser, from whitened values to start at."""
        p = self.problem
        return self._conjugate_gradients(self._adjoint(p.p1 * p.g, p.p2 * p.f), start)

    def apply_inverse(self, right: Tensor) -> Tensor:
        """Return the inverse of the normal matrix times whitened values."""
        rotated = mode_product([Q.mH for Q in self.bases], right.to(self.L[0].dtype))
        return self._conjugate_gradients(rotated, None)

    def _conjugate_gradients(self, right: Tensor, start: Tensor | None) -> Tensor:
        if start is None:
            V, r = torch.zeros_like(right), right
        else:
            V = mode_product([Q.mH for Q in self.bases], start.to(right.dtype))
            r = right - self._normal(V)
        z = r / self.diagonal
        d, rz = z, _dot(r, z)
        goal = self.rtol**2 * _dot(right, right / self.diagonal)
        for _ in range(self.steps):
            if rz <= goal:
                break
            Ad = self._normal(d)
            step = rz / _dot(d, Ad)
            V, r = V + step * d, r - step * Ad
            z = r / self.diagonal
            rz, last = _dot(r, z), rz
            d = z + rz / last * d
        W = mode_product(self.bases, V)
        return W.real if self.complex else W


Projection = DenseProjection | KroneckerProjection


def projection(problem: Linearised, rtol: float, steps: int) -> Projection:
    """Return what solves the problem: dense algebra for one variable, conjugate gradients for several."""
    return DenseProjection(problem) if problem.f.ndim == 1 else KroneckerProjection(problem, rtol, steps)


def project(
    problem: Problem, prior: Prior, W: Tensor, log_precisions: Tensor, inner_steps: int, rtol: float, cg_steps: int
) -> Tensor:
    """Return the whitened values that minimise the objective, by Gauss-Newton steps where it is nonlinear."""
    linear = problem.equation.is_linear
    for _ in range(1 if linear else inner_steps):
        found = projection(Linearised.around(problem, prior, W, log_precisions), rtol, cg_steps).solve(W)
        if linear:
            return found
        before = problem.objective(prior, W, log_precisions)[0]
        for _ in range(_HALVINGS):
            if problem.objective(prior, found, log_precisions)[0] <= before:
                W = found
                break
            found = (found + W) / 2
    return W


def _basis(L: Tensor, G: Mapping[int, Tensor]) -> Tensor:
    """Return the eigenvectors of an axis' lowest derivative in whitened values, of an odd one where there is one."""
    orders = sorted(order for order in G if order)
    if not orders:
        return torch.linalg.eigh(L.mT @ L)[1]
    order = next((o for o in orders if o % 2), orders[0])
    S = torch.linalg.solve_triangular(L, G[order], upper=False)
    if order % 2:
        return torch.linalg.eigh(0.5j * (S - S.mT))[1]
    return torch.linalg.eigh((S + S.mT) / 2)[1]


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).sum().real) if a.is_complex() else float((a * b).sum())


def with_base(problem: Problem, base: Tensor, base_operator: Tensor) -> Problem:
    """Return the problem of what is missing from a part of the solution."""
    return replace(problem, base=base, base_operator=base_operator)
