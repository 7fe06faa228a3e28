"""Gaussian processes on tensor grids: one factor for each axis, and all algebra by products with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.solvers.kernels.equations import MultiIndex
from paperworks.solvers.kernels.spectral import SpectralMixtureKernel

MAX_JITTER = 1e-4
_EVEN = 1e-9  # how far steps may differ, relative to their mean, to count as equal


@dataclass(frozen=True)
class Axis:
    """The nodes of one variable."""

    nodes: Float[Tensor, " n"]

    @property
    def length(self) -> float:
        """From the first node to the last."""
        return float(self.nodes[-1] - self.nodes[0])

    @property
    def nyquist(self) -> float:
        """The greatest frequency that the nodes tell from lower ones, in cycles per unit."""
        return (len(self.nodes) - 1) / (2 * self.length)

    @cached_property
    def even(self) -> bool:
        """Whether all steps are equal, so that N lags say everything."""
        steps = self.nodes.diff()
        return bool((steps - steps.mean()).abs().max() <= _EVEN * steps.mean())

    def matrices(self, kernel: SpectralMixtureKernel, orders: Sequence[int]) -> dict[int, Float[Tensor, "n n"]]:
        """Return the kernel's derivatives by the first argument between all nodes."""
        if not self.even:
            return kernel.derivatives(self.nodes[:, None] - self.nodes, orders)
        return {
            order: toeplitz(values, odd=order % 2 == 1)
            for order, values in kernel.derivatives(self.nodes - self.nodes[0], orders).items()
        }

    def cross(self, kernel: SpectralMixtureKernel, points: Float[Tensor, " m"], order: int) -> Float[Tensor, "m n"]:
        """Return a derivative of the kernel between points and nodes."""
        return kernel(points[:, None] - self.nodes, order)


def toeplitz(column: Float[Tensor, " n"], odd: bool = False) -> Float[Tensor, "n n"]:
    """Return the matrix with the entries column[i - j], which is even or odd in i - j."""
    mirrored = column[1:].flip(0)
    values = torch.cat([-mirrored if odd else mirrored, column])
    return values.unfold(0, len(column), 1).flip(1)


def mode_product(matrices: Sequence[Tensor], tensor: Tensor) -> Tensor:
    """Multiply each axis of a tensor by its matrix."""
    for axis, matrix in enumerate(matrices):
        tensor = _along(axis, matrix, tensor)
    return tensor


def mode_solve(factors: Sequence[Tensor], tensor: Tensor, *, transposed: bool = False) -> Tensor:
    """Solve along each axis with its lower triangular factor, or with the transpose of it."""
    for axis, factor in enumerate(factors):
        tensor = _solve_along(axis, factor, tensor, transposed=transposed)
    return tensor


def _along(axis: int, matrix: Tensor, tensor: Tensor) -> Tensor:
    if axis == tensor.ndim - 1:
        return tensor @ matrix.mT
    if axis == 0:
        return (matrix @ tensor.reshape(len(tensor), -1)).reshape(len(matrix), *tensor.shape[1:])
    return torch.tensordot(matrix, tensor, dims=([1], [axis])).movedim(0, axis)


def _solve_along(axis: int, factor: Tensor, tensor: Tensor, *, transposed: bool) -> Tensor:
    rows = tensor.movedim(axis, 0)
    triangle = factor.mT if transposed else factor
    solved = torch.linalg.solve_triangular(triangle, rows.reshape(len(factor), -1), upper=transposed)
    return solved.reshape(rows.shape).movedim(0, axis)


def cholesky(K: Float[Tensor, "n n"], jitter: float) -> tuple[Float[Tensor, "n n"], float]:
    """Factor K + jitter I; where that fails, take ten times the jitter, up to 1e-4."""
    eye = torch.eye(len(K), dtype=K.dtype, device=K.device)
    while True:
        L, failed = torch.linalg.cholesky_ex(K + jitter * eye)
        if not failed:
            return L, jitter
        if not torch.isfinite(K).all():
            raise torch.linalg.LinAlgError(
                "the covariance is not finite; lr, max_freq, init_lengthscale or the length of the box is out of range"
            )
        if jitter * 10 > MAX_JITTER * (1 + 1e-9):
            raise torch.linalg.LinAlgError(
                f"the covariance has no Cholesky factor with a jitter up to {jitter:g}; a smaller lr or a smaller "
                "max_freq may help"
            )
        jitter *= 10


class Prior:
    """The process at the kernels' present parameters; differentiable by them.

    A function is given by its whitened values W, of independent standard normal entries: U = (L1 x L2 x ...) W.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        kernels: Sequence[SpectralMixtureKernel],
        coefficients: Mapping[MultiIndex, float],
        jitter: float,
    ) -> None:
        self.axes, self.kernels, self.coefficients = axes, kernels, coefficients
        self.derivatives: list[dict[int, Tensor]] = []
        self.factors: list[Tensor] = []
        self.jitter = jitter
        for j, (axis, kernel) in enumerate(zip(axes, kernels, strict=True)):
            found = axis.matrices(kernel, sorted({0, *(index[j] for index in coefficients)}))
            L, used = cholesky(found.pop(0), jitter)
            self.factors.append(L)
            self.derivatives.append(found)
            self.jitter = max(self.jitter, used)

    def half_log_determinant(self) -> Float[Tensor, ""]:
        """Return half the logarithm of the determinant of the covariance of all nodes."""
        nodes = [len(L) for L in self.factors]
        total = torch.Size(nodes).numel()
        terms = [total // n * L.diagonal().log().sum() for n, L in zip(nodes, self.factors, strict=True)]
        return torch.stack(terms).sum()

    def values(self, W: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """Return values at the nodes from whitened ones."""
        return mode_product(self.factors, W)

    def whitened(self, U: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """Return whitened values from those at the nodes."""
        return mode_solve(self.factors, U)

    def dual(self, W: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """Return what is multiplied by covariances to predict: K^-1 U."""
        return mode_solve(self.factors, W, transposed=True)

    def operator(self, W: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """Return the linear part of the equation at the nodes."""
        total = torch.zeros_like(W)
        for index, constant in self.coefficients.items():
            term = W
            for axis, order in enumerate(index):
                L = self.factors[axis]
                if order:
                    term = _along(axis, self.derivatives[axis][order], _solve_along(axis, L, term, transposed=True))
                else:
                    term = _along(axis, L, term)
            total = total + constant * term
        return total

    def operator_matrices(self) -> list[dict[int, Float[Tensor, "n n"]]]:
        """Return, axis by axis, what maps whitened values to derivatives of each order: K^(a) L^-T, and L itself."""
        found = []
        for L, derivatives in zip(self.factors, self.derivatives, strict=True):
            G = {o: torch.linalg.solve_triangular(L, D.mT, upper=False).mT for o, D in derivatives.items()}
            found.append({0: L, **G})
        return found

    def variance(self, orders: Sequence[int]) -> float:
        """Return the variance of a derivative of the process before anything is known."""
        value = 1.0
        for kernel, order in zip(self.kernels, orders, strict=True):
            zero = torch.zeros(1, dtype=torch.float64, device=kernel.raw_mixture_means.device)
            value *= (-1) ** order * float(kernel(zero, 2 * order))
        return value
