"""Conjugate gradients preconditioned by symmetric sweeps, and the preconditioner by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from paperworks.solvers.relaxation.splitting import Splitting, relax
from paperworks.solvers.systems import SolveResult, check_matrix, check_system


def ssor_pcg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    omega: float,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int | None = 10_000,
    callback: Callable[[np.ndarray], Any] | None = None,
) -> SolveResult:
    """Solve a positive definite system by conjugate gradients with symmetric sweeps (arXiv:2310.02246, Section 3).

    The iterates are those of conjugate gradients with `SSORPreconditioner`. With W = D/omega + L and
    K = (2/omega - 1) D the matrix is W + W^H - K, and W^-1 A W^-H p = t + W^-1 (p - K t), t = W^-H p, takes no product
    with the matrix: an iteration costs its two sweeps (Eisenstat's trick).

    Parameters
    ----------
    A
        Symmetric (Hermitian) positive definite matrix, n by n, an array or a sparse matrix.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start, such as the solution of the step before. Default: zeros.
    omega
        Relaxation parameter between 0 and 2.
    rtol
        The iteration ends where the residual's norm is at most max(`rtol` norm(`b`), `atol`). The default is the
        paper's.
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most iterations, by default the paper's. None stands for SciPy's ten for each unknown.
    callback
        Called with the present solution after each iteration.

    Returns
    -------
    SolveResult
        The pair (x, info), with `iterations`, `converged` and `residual_norms`; `info` is 0 only where the residual
        of `x` itself, not of the recursion, is within the tolerance.

    Raises
    ------
    ValueError
        If `omega` is out of range, `A` shows itself not to be positive definite or Hermitian, shapes don't fit, or
        something isn't finite.
    TypeError
        If `A` is an operator: sweeps read entries.

    Examples
    --------
    >>> from paperworks.solvers import laplacian
    >>> A, b = laplacian((30, 30)), np.ones(900)
    >>> ssor_pcg(A, b, omega=1.7).iterations < ssor_pcg(A, b, omega=1.0).iterations
    True
    """
    system = check_system(A, b, x0, entries=True)
    split = Splitting(system.A, omega)
    if not (split.diagonal.real > 0).all():
        raise ValueError("A is not positive definite: its diagonal has entries that are not positive")
    result = relax(system, split.pcg, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)
    if not result.converged and (apart := _asymmetry(split.A)):
        raise ValueError(
            f"A is not Hermitian, up to {apart:.3g}; conjugate gradients take a symmetric matrix; sor takes others"
        )
    return result


class SSORPreconditioner(LinearOperator):
    """Approximate inverse of a matrix by a sweep forward and one back, for `M` of any of SciPy's solvers.

    Applies the inverse of (D/omega + L) ((2/omega - 1) D)^-1 (D/omega + U) (arXiv:2310.02246, Section 3). It is
    positive definite where `A` is, and has no set-up: `omega` can be set anew at any time, at the cost of a division
    of the diagonal where numba is installed.

    Parameters
    ----------
    A
        Square matrix, an array or a sparse matrix, without zeros on its diagonal.
    omega
        Relaxation parameter between 0 and 2; 1 gives symmetric Gauss-Seidel.

    Raises
    ------
    ValueError
        If `omega` is out of range, a diagonal entry is zero, or something isn't finite.
    TypeError
        If `A` is an operator: sweeps read entries.

    Examples
    --------
    >>> from paperworks.solvers import cg, laplacian
    >>> A = laplacian((9, 9))
    >>> M = SSORPreconditioner(A, omega=1.5)
    >>> cg(A, np.ones(81), M=M).iterations < cg(A, np.ones(81)).iterations
    True
    """

    def __init__(self, A: Any, omega: float = 1.0) -> None:
        self._splitting = Splitting(check_matrix(A, entries=True), omega)
        super().__init__(self._splitting.A.dtype, self._splitting.A.shape)

    @property
    def omega(self) -> float:
        """The relaxation parameter."""
        return self._splitting.omega

    @omega.setter
    def omega(self, omega: float) -> None:
        self._splitting.omega = omega

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        split = self._splitting
        v = np.asarray(v)
        if np.iscomplexobj(v) and not np.iscomplexobj(split.diagonal):
            return self._matvec(v.real) + 1j * self._matvec(v.imag)
        flat = np.ascontiguousarray(v.ravel(), dtype=self.dtype)
        return split.upper(split.inner * split.lower(flat)).reshape(v.shape)

    def _adjoint(self) -> "SSORPreconditioner":
        return SSORPreconditioner(self._splitting.A.conj().T, self.omega)


def _asymmetry(A: Any) -> float:
    """Return the greatest deviation from the matrix's adjoint, 0 where it is of rounding."""
    apart = float(abs(A - A.conj().T).max())
    return apart if apart > 100 * np.finfo(A.dtype).eps * abs(A).max() else 0.0
