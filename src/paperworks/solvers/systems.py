"""A linear system as SciPy's solvers take it, checked once, and what a solve returns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from paperworks.core.validation import check_count, check_number


class SolveResult(tuple):
    """What a linear solver returns: the pair (x, info) of SciPy's solvers, and how the solve went.

    Parameters
    ----------
    x
        Solution, with the shape of the right-hand side.
    info
        0 where the tolerance was reached, else the number of iterations made, as SciPy says it.
    residual_norms
        Norm of the residual at the start and after each iteration.

    Examples
    --------
    >>> x, info = result = SolveResult(np.ones(2), 0, [1.0, 1e-9])
    >>> info, result.iterations, result.converged
    (0, 1, True)
    """

    residual_norms: np.ndarray

    def __new__(cls, x: np.ndarray, info: int, residual_norms: Sequence[float] | np.ndarray) -> "SolveResult":
        """Make the pair, with the history beside it."""
        made = super().__new__(cls, (x, info))
        made.residual_norms = np.asarray(residual_norms, dtype=float)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Say what a copy is made from."""
        return (self.x, self.info, self.residual_norms)

    @property
    def x(self) -> np.ndarray:
        """The solution."""
        return self[0]

    @property
    def info(self) -> int:
        """0 where the tolerance was reached, else the number of iterations made."""
        return self[1]

    @property
    def iterations(self) -> int:
        """Number of iterations made."""
        return len(self.residual_norms) - 1

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.info == 0

    def __repr__(self) -> str:
        last = self.residual_norms[-1] if len(self.residual_norms) else np.nan
        return f"SolveResult(info={self.info}, iterations={self.iterations}, residual_norm={last:.3g})"


class System(NamedTuple):
    """A square system with everything in one floating dtype.

    Parameters
    ----------
    A
        The matrix as it was given: an array, a sparse array in CSR or a linear operator.
    b
        Right-hand side, of shape (n,).
    x
        Start of the iteration, a fresh array.
    shape
        Shape of the right-hand side as it was given: (n,) or (n, 1).

    Examples
    --------
    >>> System(np.eye(2), np.ones(2), np.zeros(2), (2,)).apply(np.ones(2))
    array([1., 1.])
    """

    A: Any
    b: np.ndarray
    x: np.ndarray
    shape: tuple[int, ...]

    def apply(self, v: np.ndarray) -> np.ndarray:
        """Multiply by the matrix, in the dtype of the system."""
        return np.asarray(self.A @ v).astype(self.b.dtype, copy=False)

    def result(self, x: np.ndarray, reached: bool, residual_norms: Sequence[float]) -> SolveResult:
        """Give the solution the shape of the right-hand side, and the history SciPy's `info`."""
        # One entry is the start: where no iteration was allowed, SciPy's info would say that all is well.
        info = 0 if reached else max(1, len(residual_norms) - 1)
        return SolveResult(x.reshape(self.shape), info, residual_norms)


Advance = Callable[[float, int], Sequence[float]]
"""Makes iterations until the residual's norm is at most a limit, or as many as are given, and returns the norms."""

SLACK = 1 + 1e-6
"""By what a residual may exceed its tolerance: the last digits are rounding's."""


def iterate(
    system: System,
    begin: Callable[[np.ndarray, np.ndarray], Advance],
    *,
    rtol: float,
    atol: float,
    maxiter: int | None,
    callback: Callable[[np.ndarray], Any] | None = None,
) -> SolveResult:
    """Iterate to a tolerance that the solution itself meets.

    Methods carry the residual along, and rounding takes theirs away from that of their solution. Where the method has
    got to the tolerance and the solution hasn't, the method begins again from there, for as long as that helps.

    Parameters
    ----------
    system
        Matrix, right-hand side and start.
    begin
        Called with a solution and its residual, arrays that the method changes in place; returns what advances them.
    rtol
        Tolerance relative to the norm of the right-hand side.
    atol
        Absolute tolerance; the greater of the two decides.
    maxiter
        Most iterations. None stands for SciPy's default, ten for each unknown.
    callback
        Called with the present solution after each iteration.

    Returns
    -------
    SolveResult
        The solution, with info 0 only where its residual is within the tolerance.

    Raises
    ------
    ValueError
        If a tolerance is negative, or the residual overflows.

    Examples
    --------
    >>> def begin(x, r):  # half a step of Jacobi's method
    ...     def advance(limit, steps):
    ...         x[:] += r / 2
    ...         r[:] /= 2
    ...         return [np.linalg.norm(r)]
    ...     return advance
    >>> iterate(check_system(np.eye(2), np.ones(2)), begin, rtol=1e-3, atol=0.0, maxiter=None).iterations
    10
    """
    most = check_stopping(rtol, atol, maxiter, len(system.b))
    b, x = system.b, system.x
    limit = max(rtol * norm(b), atol)
    r = b - system.apply(x) if x.any() else b.copy()
    norms = [norm(r)]
    with np.errstate(over="ignore", invalid="ignore"):
        while norms[-1] > limit * SLACK and len(norms) <= most:
            before = norms[-1]
            advance = begin(x, r)
            while len(norms) <= most and np.isfinite(norms[-1]):
                found = advance(limit, 1 if callback else most + 1 - len(norms))
                norms.extend(found)
                if callback is not None:
                    callback(x)
                if norms[-1] <= limit:
                    break
            r = b - system.apply(x)
            carried, norms[-1] = norms[-1], norm(r)
            if not np.isfinite([carried, norms[-1]]).all():
                raise ValueError(
                    f"A is no matrix for this method: the residual overflowed after {len(norms) - 1} iterations"
                )
            if norms[-1] > before / 2:  # rounding leaves no more to gain
                break
    return system.result(x, norms[-1] <= limit * SLACK, norms)


def norm(v: np.ndarray) -> float:
    """Return the Euclidean norm, also of numbers whose squares under- or overflow.

    Parameters
    ----------
    v
        A vector of real or complex numbers.

    Returns
    -------
    float
        The norm of the vector.

    Examples
    --------
    >>> norm(np.array([3e-200, 4e-200]))
    5e-200
    """
    return float(linalg.norm(v, check_finite=False))


def check_matrix(A: Any, *, entries: bool = False) -> Any:
    """Check a square matrix, and bring its numbers to a floating dtype.

    Parameters
    ----------
    A
        Square matrix: an array, a sparse matrix or array, or a linear operator.
    entries
        Whether the entries of the matrix are read, so that an operator won't do.

    Returns
    -------
    array, sparse array or LinearOperator
        The matrix, a sparse one in CSR.

    Raises
    ------
    ValueError
        If it isn't square, or an entry isn't finite.
    TypeError
        If it holds no numbers, or is an operator and entries are needed.

    Examples
    --------
    >>> check_matrix([[2, 0], [0, 2]]).dtype
    dtype('float64')
    """
    if sparse.issparse(A):
        A = A if isinstance(A, sparse.csr_array) else sparse.csr_array(A)
    elif isinstance(A, LinearOperator) or (hasattr(A, "matvec") and hasattr(A, "shape")):
        if entries:
            raise TypeError("A is a linear operator; this solver reads entries: it takes an array or a sparse matrix")
        A = aslinearoperator(A)
    else:
        A = np.asarray(A)
    if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A has shape {tuple(A.shape)}; it takes a square matrix")
    if not isinstance(A, LinearOperator):
        A = A.astype(_floating(A.dtype), copy=False)
        _check_finite("A", A.data if sparse.issparse(A) else A)
    return A


def check_system(A: Any, b: Any, x0: Any = None, *, entries: bool = False) -> System:
    """Check a system of linear equations and bring it to one floating dtype.

    Integers and booleans become float64; float32 and complex numbers stay what they are.

    Parameters
    ----------
    A
        Square matrix: an array, a sparse matrix or array, or a linear operator.
    b
        Right-hand side of shape (n,) or (n, 1).
    x0
        Start, of the same shapes. Default: zeros.
    entries
        Whether the solver reads the entries of the matrix, so that an operator won't do.

    Returns
    -------
    System
        The system, its vectors of shape (n,).

    Raises
    ------
    ValueError
        If shapes don't fit, anything isn't finite, or the norm of `b` is beyond all numbers.
    TypeError
        If something isn't numbers, or `A` is an operator and entries are needed.

    Examples
    --------
    >>> check_system([[2, 0], [0, 2]], [1, 1]).b
    array([1., 1.])
    """
    A, b = check_matrix(A, entries=entries), np.asarray(b)
    n, shape = A.shape[0], b.shape
    dtype = _floating(A.dtype, b.dtype, *([] if x0 is None else [np.asarray(x0).dtype]))
    if not isinstance(A, LinearOperator):
        A = A.astype(dtype, copy=False)
    b = _vector("b", b, n, dtype)
    # A copy, since the iteration may write to it.
    x = np.zeros(n, dtype) if x0 is None else _vector("x0", np.asarray(x0), n, dtype).copy()
    if not b.any():  # solved by zeros, whatever the start and the matrix: no tolerance is relative to nothing
        x[:] = 0
    return System(A, b, x, shape)


def check_preconditioner(M: Any, n: int) -> LinearOperator | None:
    """Check an approximate inverse as SciPy takes it.

    Parameters
    ----------
    M
        An array, a sparse matrix or a linear operator that approximates the inverse of the matrix; None for none.
    n
        Number of unknowns of the system.

    Returns
    -------
    LinearOperator or None
        It as an operator, or None.

    Raises
    ------
    ValueError
        If its shape doesn't fit.

    Examples
    --------
    >>> check_preconditioner(np.eye(2), 2).shape
    (2, 2)
    """
    if M is None:
        return None
    M = aslinearoperator(M)
    if M.shape != (n, n):
        raise ValueError(f"M has shape {M.shape}; it takes the shape ({n}, {n}) of A")
    return M


def check_stopping(rtol: float, atol: float, maxiter: int | None, n: int) -> int:
    """Check tolerances, and return how many iterations are allowed.

    Parameters
    ----------
    rtol
        Relative tolerance, at least 0.
    atol
        Absolute tolerance, at least 0.
    maxiter
        Most iterations. None stands for SciPy's default, ten for each unknown.
    n
        Number of unknowns of the system.

    Returns
    -------
    int
        The most iterations.

    Examples
    --------
    >>> check_stopping(1e-5, 0.0, None, 12)
    120
    """
    check_number("rtol", rtol, ge=0)
    check_number("atol", atol, ge=0)
    return 10 * n if maxiter is None else check_count("maxiter", maxiter, at_least=0)


def _floating(*kinds: np.dtype) -> np.dtype:
    if any(kind.kind not in "biufc" for kind in kinds):
        raise TypeError(f"A, b and x0 hold {', '.join(map(str, kinds))}; they take numbers")
    found = np.result_type(*kinds)
    return found if found in (np.float32, np.float64, np.complex64, np.complex128) else np.result_type(found, float)


def _vector(name: str, v: np.ndarray, n: int, dtype: np.dtype) -> np.ndarray:
    if v.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} has shape {v.shape}; it takes ({n},) or ({n}, 1), as A has {n} rows")
    _check_finite(name, v)
    return v.reshape(n).astype(dtype, copy=False)


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{name} has {count} elements that are NaN or infinite; it takes finite numbers")
