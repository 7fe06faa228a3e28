"""Conjugate gradients that keep the history of their residuals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paperworks.solvers.systems import Advance, SolveResult, check_preconditioner, check_system, iterate


def cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[np.ndarray], Any] | None = None,
) -> SolveResult:
    """Solve a symmetric (Hermitian) positive definite system by preconditioned conjugate gradients.

    As `scipy.sparse.linalg.cg`, with the number of iterations and the norms of the residuals beside the solution, and
    an error where the matrix shows itself not to be positive definite.

    Parameters
    ----------
    A
        Matrix, n by n: an array, a sparse matrix or a linear operator.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start. Default: zeros.
    rtol
        The iteration ends where the residual's norm is at most max(`rtol` norm(`b`), `atol`). The residual is that of
        the solution, not only of the recursion, as it is in SciPy.
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most iterations. Default: ten for each unknown, as in SciPy.
    M
        Approximate inverse of `A`, symmetric positive definite.
    callback
        Called with the present solution after each iteration.

    Returns
    -------
    SolveResult
        The pair (x, info), with `iterations`, `converged` and `residual_norms`.

    Raises
    ------
    ValueError
        If shapes don't fit, something isn't finite, or a direction shows that `A` or `M` isn't positive definite.

    Examples
    --------
    >>> x, info = cg(np.diag([1.0, 2.0]), np.ones(2))
    >>> x.round(6), info
    (array([1. , 0.5]), 0)
    """
    system = check_system(A, b, x0)
    precondition = check_preconditioner(M, len(system.b))

    def begin(x: np.ndarray, r: np.ndarray) -> Advance:
        p, rho = np.zeros_like(r), 1.0

        def advance(limit: float, steps: int) -> Sequence[float]:
            nonlocal p, rho
            z = r if precondition is None else precondition.matvec(r).astype(r.dtype, copy=False)
            before, rho = rho, np.vdot(r, z).real
            if not rho > 0 and precondition is None:
                raise ValueError("A and b are of a size whose squares underflow; it takes the system scaled up")
            if not rho > 0:
                raise ValueError(f"M is not positive definite: a residual r has r'Mr = {rho:.3g}")
            p = z + (rho / before) * p
            q = system.apply(p)
            curvature = np.vdot(p, q).real
            if not curvature > 0:
                raise ValueError(
                    f"A is not positive definite: a direction p has p'Ap = {curvature:.3g}; take a solver for"
                    " indefinite or singular systems, such as scipy.sparse.linalg.minres"
                )
            x[:] += (rho / curvature) * p
            r[:] -= (rho / curvature) * q
            return [float(np.linalg.norm(r))]

        return advance

    return iterate(system, begin, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)
