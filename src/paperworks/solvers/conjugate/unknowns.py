"""Which entries of a system's vectors are unknowns on a grid, and which constants its matrix maps to zero."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator

from paperworks.core.validation import check_count
from paperworks.solvers.conjugate.domains import PoissonDomain, PoissonOperator
from paperworks.solvers.systems import check_matrix

Rows = Float[np.ndarray, "k n"]


class Unknowns(NamedTuple):
    """A symmetric positive semidefinite matrix on a grid, applied to rows of vectors.

    Parameters
    ----------
    apply
        Multiplies each row of an array of shape (k, n) by the matrix.
    grid
        Numbers of voxels along the axes.
    active
        Which entries are unknowns; rows of the others are zero.
    closed
        For each entry the number of its component whose constants the matrix maps to zero, from 1 on; 0 for none.
    """

    apply: Callable[[Rows], Rows]
    grid: tuple[int, ...]
    active: Bool[np.ndarray, " n"]
    closed: Int[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """Number of entries of a vector."""
        return len(self.active)

    def project(self, rows: Rows) -> Rows:
        """Set what is no unknown to 0, and take the means off components that have no fixed value."""
        rows = rows if self.active.all() else np.where(self.active, rows, 0)
        if not self.closed.any():
            return rows
        return rows - self._means(rows)[:, self.closed]

    def check_range(self, b: Rows) -> None:
        """Refuse right-hand sides that no vector is mapped to."""
        outside = (b != 0) & ~self.active
        if outside.any():
            raise ValueError(
                f"b has {int(outside.sum())} elements other than 0 in zero rows of A, such as those of solids; it"
                " takes 0 there, else there is no solution"
            )
        if not self.closed.any():
            return
        sizes, given = np.bincount(self.closed), unit(b)
        sums = self._means(given) * sizes
        spread = np.stack([np.sqrt(np.bincount(self.closed, row**2, len(sizes))) for row in given]) * np.sqrt(sizes)
        wrong = np.abs(sums) > np.sqrt(np.finfo(b.dtype).eps) * spread
        wrong[:, 0] = False
        if wrong.any():
            column, component = (int(index[0]) for index in np.nonzero(wrong))
            total = b[column, self.closed == component].sum()
            raise ValueError(
                f"b sums to {total:.3g} over a component of {sizes[component]} unknowns without a"
                " fixed value; it takes 0 there, else there is no solution: take the mean off"
            )

    def _means(self, rows: Rows) -> Float[np.ndarray, "k components"]:
        sizes = np.bincount(self.closed)
        means = np.stack([np.bincount(self.closed, row, len(sizes)) for row in rows]) / np.maximum(sizes, 1)
        means[:, 0] = 0
        return means.astype(rows.dtype, copy=False)


def unknowns_of(A: Any, shape: Sequence[int] | None, dim: int | None) -> Unknowns:
    """Find the unknowns of a system's matrix.

    Parameters
    ----------
    A
        A domain, its operator, a sparse or dense symmetric matrix, or any linear operator; the last says nothing of
        zero rows or components, so all entries count as unknowns.
    shape
        Numbers of voxels along the axes. Default: the domain's own, or a square or cube.
    dim
        Dimensions that the grid has to have; None for any.

    Returns
    -------
    Unknowns
        The matrix and its unknowns.

    Raises
    ------
    ValueError
        If the shape doesn't fit, the matrix isn't symmetric, or its diagonal isn't that of a semidefinite one.
    TypeError
        If the matrix isn't of real numbers in single or double precision.
    """
    domain = A if isinstance(A, PoissonDomain) else A.domain if isinstance(A, PoissonOperator) else None
    if domain is None:
        A = check_matrix(A)
    n = domain.n if domain is not None else A.shape[0]
    grid = _grid(n, domain.grid if domain is not None and shape is None else shape, dim)
    if domain is not None:
        if grid != domain.grid:
            raise ValueError(f"shape is {grid}; it takes {domain.grid}, that of the domain")
        return Unknowns(
            lambda rows: domain.apply(rows.reshape(-1, *grid)).reshape(-1, n),
            grid,
            domain.fluid.ravel(),
            domain.closed.ravel(),
        )
    if isinstance(A, LinearOperator):
        return Unknowns(lambda rows: np.asarray(A @ rows.T).T, grid, np.ones(n, bool), np.zeros(n, int))
    matrix = symmetric(A)
    matrix.eliminate_zeros()  # which would connect what they stand between
    active, closed = _structure(matrix)
    return Unknowns(lambda rows: np.asarray(matrix @ rows.T).T, grid, active, closed)


def symmetric(A: Any) -> sparse.csr_array:
    """Return a copy of a matrix that may be positive semidefinite: real, symmetric, with no diagonal element below 0.

    Parameters
    ----------
    A
        Square matrix, sparse or dense, of floating numbers.

    Returns
    -------
    scipy.sparse.csr_array
        The matrix.

    Raises
    ------
    ValueError
        If it isn't symmetric, or a diagonal element is below 0.
    TypeError
        If it isn't of real numbers in single or double precision.
    """
    matrix = sparse.csr_array(A, copy=True)
    if matrix.dtype not in (np.float32, np.float64):
        raise TypeError(f"A holds {matrix.dtype}; it takes real numbers of single or double precision")
    diagonal = matrix.diagonal()
    if (diagonal < 0).any():
        raise ValueError(f"A has the diagonal element {diagonal.min():.3g}; it takes none below 0")
    apart, root = sparse.coo_array(matrix - matrix.T), np.sqrt(diagonal)
    i, j = apart.coords
    # The diagonal bounds elements of semidefinite matrices, so that it is the measure of their rounding.
    if (np.abs(apart.data) > 10 * np.finfo(matrix.dtype).eps * root[i] * root[j]).any():
        raise ValueError("A is not symmetric; it takes a symmetric positive semidefinite matrix")
    return matrix


def norms_of(rows: Rows) -> Float[np.ndarray, " k"]:
    """Return the norms of rows, also of numbers whose squares under- or overflow."""
    size = np.abs(rows).max(axis=1, initial=0)
    divisor = np.where(size > 0, size, 1)
    return np.asarray(size * np.linalg.norm(rows / divisor[:, None], axis=1))


def unit(rows: Rows) -> Rows:
    """Return rows of norm one; zeros stay what they are."""
    size = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    rows = rows / np.where(size > 0, size, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _grid(n: int, shape: Sequence[int] | None, dim: int | None) -> tuple[int, ...]:
    if shape is None:
        for axes in (dim,) if dim else (2, 3):
            side = round(n ** (1 / axes))
            if side**axes == n:
                return (side,) * axes
        raise ValueError(f"shape is None, and {n} unknowns are no square or cube; it takes the shape of the grid")
    grid = tuple(check_count("shape", size) for size in shape)
    if np.prod(grid) != n:
        raise ValueError(f"shape is {grid}; it takes one with {n} voxels, as A has {n} rows")
    if dim is not None and len(grid) != dim:
        raise ValueError(f"shape is {grid}; it takes {dim} dimensions, as the network has")
    return grid


def _structure(A: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are not zero, and the components whose constants are mapped to zero."""
    diagonal = A.diagonal()
    total = np.asarray(abs(A).sum(axis=1)).ravel()
    if ((diagonal == 0) & (total > 0)).any():
        raise ValueError("A has a row with 0 on the diagonal and other elements; it is not positive semidefinite")
    count, label = connected_components(A, directed=False)
    # Relative to each row, so that small rows beside large ones count as what they are.
    lost = np.abs(A.sum(axis=1)).ravel() > 10 * np.finfo(A.dtype).eps * total
    held = np.zeros(count, bool)
    held[label[lost]] = True
    held[label[diagonal == 0]] = True  # zero rows, which are no unknowns
    return diagonal > 0, np.where(held, 0, np.cumsum(~held))[label]
