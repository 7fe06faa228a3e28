"""Conjugate gradients with a preconditioner that may change from step to step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paperworks.solvers.systems import Advance, SolveResult, check_preconditioner, check_system, iterate, norm


def flexible_cg(
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
    r"""Solve a symmetric (Hermitian) positive definite system by flexible conjugate gradients.

    The next direction is $z_{k+1} + \beta p_k$ with $\beta = z_{k+1}^T (r_{k+1} - r_k) / (z_k^T r_k)$ (Polak and
    Ribière), which is conjugate to the last one whatever `M` does: it may be a network, as from
    `DCDMNet.as_linear_operator`. Where `M` is linear and symmetric positive definite, the method is `cg`.

    Parameters
    ----------
    A
        Matrix, n by n: an array, a sparse matrix or a linear operator.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start. Default: zeros.
    rtol
        The iteration ends where the solution's residual has a norm of at most max(`rtol` norm(`b`), `atol`).
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most iterations. Default: ten for each unknown, as in SciPy.
    M
        Approximate inverse of `A`, which needn't be linear; the sign and the scale of what it returns don't matter.
    callback
        Called with the present solution after each iteration.

    Returns
    -------
    SolveResult
        The pair (x, info), with `iterations`, `converged` and `residual_norms`.

    Raises
    ------
    ValueError
        If shapes don't fit, something isn't finite, or a direction shows that `A` isn't positive definite.
    TypeError
        If `M` returns complex numbers in a real system.

    References
    ----------
    Notay, Flexible conjugate gradients, SIAM J. Sci. Comput. 22 (2000); arXiv:2205.10763 for the network.

    Examples
    --------
    >>> x, info = flexible_cg(np.diag([1.0, 2.0]), np.ones(2))
    >>> x.round(6), info
    (array([1. , 0.5]), 0)
    """
    system = check_system(A, b, x0)
    precondition = check_preconditioner(M, len(system.b))

    def begin(x: np.ndarray, r: np.ndarray) -> Advance:
        p, change, rho = np.zeros_like(r), np.zeros_like(r), 1.0

        def direction() -> np.ndarray:
            if precondition is None:
                return r.copy()
            z = precondition.matvec(r)
            if np.iscomplexobj(z) and not np.iscomplexobj(r):
                raise TypeError("M returned complex numbers for a real residual; it takes a real one for real systems")
            if not np.isfinite(z).all():
                raise ValueError("M returned NaN or infinite elements; it takes one that is finite")
            return z.astype(r.dtype, copy=False)

        def advance(limit: float, steps: int) -> Sequence[float]:
            nonlocal p, change, rho
            z = direction()
            p = z + np.conj(np.vdot(z, change) / rho) * p
            rho = np.vdot(z, r)
            if not abs(rho) > np.finfo(r.dtype).eps * norm(r) * norm(z):  # M helps nothing here: start afresh
                p, rho = r.copy(), np.vdot(r, r)
            q = system.apply(p)
            curvature = np.vdot(p, q).real
            if not (0 < abs(rho) < np.inf and np.isfinite(curvature)):
                raise ValueError("A and b are of a size whose squares under- or overflow; it takes them scaled")
            if not curvature > 0:
                raise ValueError(
                    f"A is not positive definite: a direction p has p'Ap = {curvature:.3g}; take a solver for"
                    " indefinite or singular systems, such as scipy.sparse.linalg.minres"
                )
            alpha = np.vdot(p, r) / curvature
            x[:] += alpha * p
            change = -alpha * q
            r[:] += change
            return [norm(r)]

        return advance

    return iterate(system, begin, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)
