"""Preconditioners that learned directions are held against: incomplete Cholesky, and deflation by Ritz vectors."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, splu

from paperworks.core.validation import check_count, check_number
from paperworks.numerics.eigenvalues import lanczos
from paperworks.solvers.conjugate.unknowns import symmetric
from paperworks.solvers.systems import check_matrix


class IncompleteCholesky(LinearOperator):
    r"""Incomplete Cholesky preconditioner without fill, IC(0), or its modified form, MIC(0), for grid stencils.

    $M = (D + L) D^{-1} (D + L^T)$ with the part $L$ of $A$ below the diagonal and
    $D_i = A_{ii} - \sum_{j<i} A_{ij} (A_{ij} + \tau \sum_{k>j,\, k \ne i} A_{kj}) / D_j$, where $\tau$ is `modified`:
    the share of the fill that is dropped which goes to the diagonal. A pivot below a quarter of $A_{ii}$ is replaced by
    $A_{ii}$; zero rows stay zero. It is the usual factor of matrices in which no three unknowns are all
    neighbours of each other, such as those of 5 and 7 points; others are refused.

    Parameters
    ----------
    A
        Symmetric matrix, sparse or dense, with its unknowns in the order of the elimination.
    modified
        Share of the dropped fill, from 0 (IC) to 1 (MIC). Default: 0; Bridson (2015) takes 0.97 for Poisson systems.

    Raises
    ------
    ValueError
        If three unknowns are neighbours of each other, the matrix isn't symmetric, or a diagonal element isn't positive
        in a row that isn't zero.
    TypeError
        If the matrix is complex, or an operator.

    References
    ----------
    Bridson, Fluid Simulation for Computer Graphics (2015), section 5.1, with its safety of 0.25.

    Examples
    --------
    >>> from paperworks.solvers import cg, laplacian
    >>> A = laplacian((32, 32))
    >>> b = np.sin(np.arange(1024.0))
    >>> [cg(A, b, M=M, rtol=1e-8).iterations for M in (None, IncompleteCholesky(A), IncompleteCholesky(A, 0.97))]
    [93, 32, 20]
    """

    def __init__(self, A: Any, modified: float = 0.0) -> None:
        self.modified = check_number("modified", modified, ge=0, le=1)
        matrix = symmetric(check_matrix(A, entries=True)).astype(float)
        matrix.eliminate_zeros()
        super().__init__(np.dtype(float), matrix.shape)
        lower = sparse.csr_array(sparse.tril(matrix, -1))
        pattern = lower.astype(bool).astype(int)  # values might cancel, under- or overflow
        if (pattern @ pattern).multiply(pattern).sum():
            raise ValueError("A has three unknowns that are neighbours of each other; it takes 5 or 7 point stencils")
        diagonal = matrix.diagonal()
        used = np.diff(matrix.indptr) > 0
        if (diagonal[used] <= 0).any():
            raise ValueError(f"A has the diagonal element {diagonal[used].min():.3g}; it takes positive ones")
        self.pivots: Float[np.ndarray, " n"] = self._eliminate(lower, diagonal)
        self._used = used
        root = np.sqrt(np.where(used, self.pivots, 1))
        factor = sparse.csc_array(sparse.diags_array(root) + lower @ sparse.diags_array(1 / root))
        # A triangular matrix factors into itself; what is wanted are the library's compiled solves.
        self._factor = factor
        self._solver: Any = None

    def _eliminate(self, lower: sparse.csr_array, diagonal: np.ndarray) -> np.ndarray:
        # Plain lists: each pivot needs those before it, and a grid has two or three neighbours before each unknown.
        starts, columns, values = lower.indptr.tolist(), lower.indices.tolist(), lower.data.tolist()
        below = (self.modified * np.asarray(lower.sum(axis=0)).ravel()).tolist()
        own, share = diagonal.tolist(), self.modified
        pivots = list(own)
        for i, whole in enumerate(own):
            pivot = whole
            for at in range(starts[i], starts[i + 1]):
                a, j = values[at], columns[at]
                pivot -= a * ((a + below[j] - share * a) / pivots[j])
            pivots[i] = pivot if pivot >= 0.25 * whole else whole
        return np.array(pivots)

    def _matvec(self, r: np.ndarray) -> np.ndarray:
        if self._solver is None:
            self._solver = splu(
                self._factor, permc_spec="NATURAL", diag_pivot_thresh=0, relax=1, options={"SymmetricMode": True}
            )
        values = np.asarray(r).ravel()
        if np.iscomplexobj(values):
            return self._matvec(values.real) + 1j * self._matvec(values.imag)
        x = self._solver.solve(self._solver.solve(values.astype(float)), "T")
        return np.where(self._used, x, 0).astype(values.dtype if values.dtype.kind == "f" else float, copy=False)

    def _adjoint(self) -> "IncompleteCholesky":
        return self  # real and symmetric

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_solver": None}  # SuperLU's object can't be copied


class RitzDeflation(LinearOperator):
    r"""Jacobi's preconditioner with a coarse correction, $M = Q \Lambda^{-1} Q^T + D^{-1}$, from least Ritz pairs.

    Parameters
    ----------
    A
        Symmetric positive definite matrix, sparse or dense.
    start
        First vector of the Krylov space, such as the residual of a system that will be solved.
    n_ritz
        How many Ritz pairs, those of the least values. Default: 16, as many as the paper's baseline takes.
    steps
        Dimension of the Krylov space. Default: four for each pair.

    Raises
    ------
    ValueError
        If the matrix isn't symmetric, a diagonal element or a Ritz value isn't positive, or a number is out of bounds.
    TypeError
        If the matrix is complex, or an operator.

    References
    ----------
    arXiv:2205.10763, the baselines of the experiments.

    Examples
    --------
    >>> from paperworks.solvers import cg, laplacian
    >>> A, b = laplacian((32, 32)), np.sin(np.arange(1024.0))
    >>> cg(A, b).iterations > cg(A, b, M=RitzDeflation(A, b)).iterations
    True
    """

    def __init__(self, A: Any, start: ArrayLike, n_ritz: int = 16, steps: int | None = None) -> None:
        matrix = symmetric(check_matrix(A, entries=True))
        n = matrix.shape[0]
        if np.shape(start) not in ((n,), (n, 1)):
            raise ValueError(f"start has shape {np.shape(start)}; it takes ({n},), as A has {n} rows")
        first = np.array(start, dtype=float).ravel()
        super().__init__(np.dtype(float), (n, n))
        count = check_count("n_ritz", n_ritz, at_most=n)
        steps = min(4 * count, n) if steps is None else check_count("steps", steps, at_least=count, at_most=n)
        diagonal = matrix.diagonal()
        if (diagonal <= 0).any():
            raise ValueError(f"A has the diagonal element {diagonal.min():.3g}; it takes positive ones")
        found = lanczos(lambda v: torch.from_numpy(matrix @ v.numpy()), torch.from_numpy(first), steps)
        self.values: Float[np.ndarray, " k"] = found.values[:count].numpy()
        self.vectors: Float[np.ndarray, "n k"] = np.ascontiguousarray(found.vectors[:, :count].numpy())
        if not self.values[0] > 0:
            raise ValueError(f"A has the Ritz value {self.values[0]:.3g}; it takes a positive definite matrix")
        self._inverse = 1 / diagonal

    def _matvec(self, r: np.ndarray) -> np.ndarray:
        values = np.asarray(r).ravel()
        found = self.vectors @ ((self.vectors.T @ values) / self.values) + self._inverse * values
        return found.astype(values.dtype if values.dtype.kind in "fc" else float, copy=False)

    def _adjoint(self) -> "RitzDeflation":
        return self  # real and symmetric
