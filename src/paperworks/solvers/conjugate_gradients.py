"""Conjugate gradients that keep the history of their residuals."""

from collections.abc import Callable
from typing import Any

import numpy as np

from paperworks.solvers.systems import SolveResult, check_preconditioner, check_stopping, check_system


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
        The iteration ends where the residual's norm is at most max(`rtol` norm(`b`), `atol`). The residual is the one
        of the recursion, as in SciPy, which goes on to fall where that of the solution doesn't: it ends too where it is
        below the square of the precision of the dtype, relative to the first.
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
    maxiter = check_stopping(rtol, atol, maxiter, len(system.b))
    b, x, dtype = system.b, system.x, system.b.dtype
    limit = max(rtol * float(np.linalg.norm(b)), atol)
    r = b - system.apply(x) if x.any() else b.copy()
    norms = [float(np.linalg.norm(r))]
    limit = max(limit, float(np.finfo(dtype).eps) ** 2 * norms[0])
    p, rho = np.zeros_like(b), 1.0
    while norms[-1] > limit and len(norms) <= maxiter:
        z = r if precondition is None else precondition.matvec(r).astype(dtype, copy=False)
        before, rho = rho, np.vdot(r, z).real
        if not rho > 0:
            raise ValueError(f"M is not positive definite: a residual r has r'Mr = {rho:.3g}")
        p = z + (rho / before) * p if len(norms) > 1 else z.copy()
        q = system.apply(p)
        curvature = np.vdot(p, q).real
        if not curvature > 0:
            raise ValueError(
                f"A is not positive definite: a direction p has p'Ap = {curvature:.3g}; take a solver for indefinite or"
                " singular systems, such as scipy.sparse.linalg.minres"
            )
        x += (rho / curvature) * p
        r -= (rho / curvature) * q
        norms.append(float(np.linalg.norm(r)))
        if callback is not None:
            callback(x)
    return system.result(x, norms[-1] <= limit, norms)
