"""Successive over-relaxation, forward and symmetric, as solvers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from paperworks.solvers.relaxation.splitting import Splitting, relax
from paperworks.solvers.systems import SolveResult, check_system


def sor(
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
    """Solve by successive over-relaxation: x += W^-1 (b - A x) with W = D/omega + L (arXiv:2310.02246, Algorithm 1).

    Converges for every positive definite matrix, and for others such as diagonally dominant ones.

    Parameters
    ----------
    A
        Matrix, n by n, an array or a sparse matrix, without zeros on its diagonal.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start. Default: zeros.
    omega
        Relaxation parameter between 0 and 2; 1 is Gauss-Seidel, and `optimal_omega` gives the best for many grids.
    rtol
        The sweeps end where the residual's norm is at most max(`rtol` norm(`b`), `atol`). The paper's is relative to
        the first residual, which is the same from zeros. The default is the paper's.
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most sweeps, by default the paper's. None stands for SciPy's ten for each unknown.
    callback
        Called with the present solution after each sweep.

    Returns
    -------
    SolveResult
        The pair (x, info), with `iterations`, `converged` and `residual_norms`; `info` is 0 only where the residual
        of `x` itself, not of the recursion, is within the tolerance.

    Raises
    ------
    ValueError
        If `omega` is out of range, a diagonal entry is zero, shapes don't fit, something isn't finite, or the sweeps
        diverge until numbers overflow.
    TypeError
        If `A` is an operator: sweeps read entries.

    Examples
    --------
    >>> x, info = sor(np.array([[2.0, -1.0], [-1.0, 2.0]]), np.ones(2), omega=1.1)
    >>> x.round(6), info
    (array([1., 1.]), 0)
    """
    system = check_system(A, b, x0, entries=True)
    split = Splitting(system.A, omega)
    return relax(system, split.sor, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)


def ssor(
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
    """Solve by symmetric successive over-relaxation, a sweep forward and one back (arXiv:2310.02246, Section 3).

    x += V^-1 K W^-1 (b - A x) with W = D/omega + L, V = D/omega + U and K = (2/omega - 1) D.

    Parameters
    ----------
    A
        Matrix, n by n, an array or a sparse matrix, without zeros on its diagonal.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start. Default: zeros.
    omega
        Relaxation parameter between 0 and 2.
    rtol
        The sweeps end where the residual's norm is at most max(`rtol` norm(`b`), `atol`). With `rtol=0` and an
        `atol`, the test is the paper's absolute one.
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most pairs of sweeps, by default the paper's. None stands for SciPy's ten for each unknown.
    callback
        Called with the present solution after each pair of sweeps.

    Returns
    -------
    SolveResult
        The pair (x, info), with `iterations`, `converged` and `residual_norms`; `info` is 0 only where the residual
        of `x` itself, not of the recursion, is within the tolerance.

    Raises
    ------
    ValueError
        If `omega` is out of range, a diagonal entry is zero, shapes don't fit, something isn't finite, or the sweeps
        diverge until numbers overflow.
    TypeError
        If `A` is an operator: sweeps read entries.

    Examples
    --------
    >>> ssor(np.array([[2.0, -1.0], [-1.0, 2.0]]), np.ones(2), omega=1.1).converged
    True
    """
    system = check_system(A, b, x0, entries=True)
    split = Splitting(system.A, omega)
    return relax(system, split.ssor, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)
