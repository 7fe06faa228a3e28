"""Laplacians on uniform grids as sparse matrices, and their inverses by fast sine, cosine and Fourier transforms."""

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
from scipy import fft, sparse
from scipy.sparse.linalg import LinearOperator

from paperworks.core.validation import check_choice, check_count, check_number

Boundary = Literal["dirichlet", "neumann", "periodic"]


def laplacian(
    shape: int | Sequence[int],
    spacing: float | Sequence[float] = 1.0,
    boundary: Boundary | Sequence[Boundary] = "dirichlet",
) -> sparse.csr_array:
    """Build the negative Laplacian of a uniform grid by central differences: 3, 5 or 7 points in 1, 2 or 3 dimensions.

    Parameters
    ----------
    shape
        Number of unknowns along each axis. Unknowns are numbered with the last axis fastest.
    spacing
        Distance between neighbours, one number or one for each axis.
    boundary
        At both ends of each axis, one word or one for each: "dirichlet" – the value 0 one spacing beyond the last
        unknown; "neumann" – no flux half a spacing beyond it; "periodic".

    Returns
    -------
    scipy.sparse.csr_array
        Symmetric positive semidefinite matrix in CSR format, definite where any axis has Dirichlet ends.

    Raises
    ------
    ValueError
        If a number isn't positive or the lengths don't fit.

    Examples
    --------
    >>> laplacian(3).toarray()
    array([[ 2., -1.,  0.],
           [-1.,  2., -1.],
           [ 0., -1.,  2.]])
    """
    counts, spacings, ends = _axes(shape, spacing, boundary)
    total = sparse.csr_array((1, 1))
    for n, h, end in zip(counts, spacings, ends, strict=True):
        total = sparse.kron(total, sparse.eye_array(n)) + sparse.kron(
            sparse.eye_array(total.shape[0]), _second_difference(n, end) / h**2
        )
    return sparse.csr_array(total)


class FastPoisson(LinearOperator):
    """Solve (shift + scale · negative Laplacian) u = f on a uniform grid by fast transforms, in O(n log n).

    A linear operator: the exact inverse of the matrix of `laplacian`, to be called or to precondition others with.
    Where that matrix is singular (no Dirichlet end and no shift), it is the pseudo-inverse: means are taken off.

    Parameters
    ----------
    shape
        Number of unknowns along each axis.
    spacing
        Distance between neighbours, one number or one for each axis.
    boundary
        "dirichlet", "neumann" or "periodic", one word or one for each axis, as `laplacian` takes it.
    shift
        Number added to the diagonal, at least 0.
    scale
        Factor of the Laplacian, above 0.

    Raises
    ------
    ValueError
        If a number isn't positive or the lengths don't fit.

    Examples
    --------
    >>> solve = FastPoisson((3,), boundary="dirichlet")
    >>> (laplacian(3) @ solve.matvec(np.array([1.0, 2.0, 3.0]))).round(12)
    array([1., 2., 3.])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        spacing: float | Sequence[float] = 1.0,
        boundary: Boundary | Sequence[Boundary] = "dirichlet",
        *,
        shift: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.grid, spacings, self.boundary = _axes(shape, spacing, boundary)
        check_number("shift", shift, ge=0)
        check_number("scale", scale, gt=0)
        n = int(np.prod(self.grid))
        super().__init__(np.dtype(float), (n, n))
        eigenvalues = np.zeros(1)
        for count, h, end in zip(self.grid, spacings, self.boundary, strict=True):
            eigenvalues = np.add.outer(eigenvalues, _eigenvalues(count, end) / h**2)
        eigenvalues = shift + scale * eigenvalues[0]
        # The constant is the only eigenvector that a semidefinite Laplacian can lose; its transform is the first one.
        singular = shift == 0 and "dirichlet" not in self.boundary
        with np.errstate(divide="ignore"):
            self._inverse = 1 / eigenvalues
        if singular:
            self._inverse[(0,) * len(self.grid)] = 0.0

    def _matmat(self, f: np.ndarray) -> np.ndarray:
        values = np.asarray(f)
        if np.iscomplexobj(values):
            return self._matmat(values.real) + 1j * self._matmat(values.imag)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(float)
        values = values.reshape(*self.grid, -1)
        for axis, end in enumerate(self.boundary):
            values = _transform(values, axis, end)
        values = values * self._inverse.astype(values.real.dtype, copy=False)[..., None]
        for axis, end in reversed(list(enumerate(self.boundary))):
            values = _transform_back(values, axis, end)
        return np.ascontiguousarray(values.real).reshape(self.shape[0], -1)

    def _matvec(self, f: np.ndarray) -> np.ndarray:
        return self._matmat(f.reshape(-1, 1)).reshape(f.shape)

    def _adjoint(self) -> "FastPoisson":
        return self  # real and symmetric


def _axes(shape: Any, spacing: Any, boundary: Any) -> tuple[tuple[int, ...], tuple[float, ...], tuple[Boundary, ...]]:
    counts = tuple(check_count("shape", n) for n in (shape if np.ndim(shape) else (shape,)))
    if not counts:
        raise ValueError("shape is empty; it takes a number of unknowns for each axis")
    spacings = tuple(spacing) if np.ndim(spacing) else (spacing,) * len(counts)
    ends = (boundary,) * len(counts) if isinstance(boundary, str) else tuple(boundary)
    for name, given in (("spacing", spacings), ("boundary", ends)):
        if len(given) != len(counts):
            raise ValueError(f"{name} has {len(given)} entries; it takes one, or one for each of {len(counts)} axes")
    # Squares of spacings and their reciprocals have to be numbers.
    spacings = tuple(check_number("spacing", h, ge=1e-150, le=1e150) for h in spacings)
    return counts, spacings, tuple(cast(Boundary, check_choice("boundary", end, get_args(Boundary))) for end in ends)


def _second_difference(n: int, end: Boundary) -> sparse.csr_array:
    diagonal = np.full(n, 2.0)
    if end == "neumann":
        diagonal[0] -= 1
        diagonal[-1] -= 1
    matrix = sparse.diags_array([diagonal, -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1, -1], shape=(n, n))
    if end == "periodic":  # neighbours round the ends; with one or two unknowns they meet and add up
        wrap = sparse.coo_array(([-1.0, -1.0], ([0, n - 1], [n - 1, 0])), shape=(n, n))
        matrix = matrix + wrap
    return sparse.csr_array(matrix)


def _eigenvalues(n: int, end: Boundary) -> np.ndarray:
    frequency = {
        "dirichlet": np.arange(1, n + 1) / (2 * (n + 1)),
        "neumann": np.arange(n) / (2 * n),
        "periodic": np.arange(n) / n,
    }[end]
    return 4 * np.sin(np.pi * frequency) ** 2


def _transform(values: np.ndarray, axis: int, end: Boundary) -> np.ndarray:
    if end == "periodic":
        return fft.fft(values, axis=axis)
    if np.iscomplexobj(values):
        return _transform(values.real, axis, end) + 1j * _transform(values.imag, axis, end)
    return fft.dst(values, 1, axis=axis) if end == "dirichlet" else fft.dct(values, 2, axis=axis)


def _transform_back(values: np.ndarray, axis: int, end: Boundary) -> np.ndarray:
    if end == "periodic":
        return fft.ifft(values, axis=axis)
    if np.iscomplexobj(values):
        return _transform_back(values.real, axis, end) + 1j * _transform_back(values.imag, axis, end)
    return fft.idst(values, 1, axis=axis) if end == "dirichlet" else fft.idct(values, 2, axis=axis)
