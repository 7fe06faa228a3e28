"""A matrix split into its diagonal and its two triangles, with the iterations that sweep over them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from paperworks.core.validation import check_number
from paperworks.solvers.relaxation.kernels import compiled
from paperworks.solvers.systems import Advance, SolveResult, System, iterate, norm


def check_omega(omega: float) -> float:
    """Check a relaxation parameter.

    Parameters
    ----------
    omega
        Relaxation parameter, between 0 and 2, where sweeps over a positive definite matrix converge.

    Returns
    -------
    float
        The parameter.

    Examples
    --------
    >>> check_omega(2.0)
    Traceback (most recent call last):
    ...
    ValueError: omega is 2.0; it takes a finite number > 0 and < 2
    """
    return check_number("omega", omega, gt=0, lt=2)


class Splitting:
    """A = L + D + U, with solves of W = D/omega + L and V = D/omega + U.

    In double precision the loops are numba's where it is installed, and a new `omega` costs nothing; else SciPy's
    triangular factors do the same, which are made anew where `omega` changes.

    Parameters
    ----------
    A
        Square matrix with floating-point numbers, an array or in CSR, without zeros on its diagonal.
    omega
        Relaxation parameter, which can be set later too.
    compile
        Whether to take numba's loops where they are to be had.

    Raises
    ------
    ValueError
        If a diagonal entry is zero, or `omega` is out of range.

    Examples
    --------
    >>> split = Splitting(np.array([[2.0, 1.0], [1.0, 2.0]]), 1.0)
    >>> split.lower(np.array([2.0, 3.0]))
    array([1., 1.])
    """

    def __init__(self, A: Any, omega: float, *, compile: bool = True) -> None:
        A = A if isinstance(A, sparse.csr_array) else sparse.csr_array(A)
        if not A.has_canonical_format:
            A = A.copy()
            A.sum_duplicates()
        self.A, self.diagonal = A, A.diagonal()
        if not self.diagonal.all():
            raise ValueError(
                f"A has {int((self.diagonal == 0).sum())} zeros on its diagonal; relaxation divides by its entries"
            )
        self.compiled = compiled() if compile and A.dtype == np.float64 and A.nnz < 2**31 else None
        if self.compiled:
            middle = np.empty(A.shape[0], np.int32)
            indptr, indices = A.indptr.astype(np.int32, copy=False), A.indices.astype(np.int32, copy=False)
            self.compiled.find_diagonal(indptr, indices, middle)
            self._matrix = indptr, indices, A.data, middle
        self.omega = omega

    def __reduce__(self) -> tuple[Any, ...]:
        return Splitting, (self.A, self.omega)

    @property
    def omega(self) -> float:
        """The relaxation parameter."""
        return self._omega

    @omega.setter
    def omega(self, omega: float) -> None:
        self._omega = check_omega(omega)
        self._scale = self._omega / self.diagonal
        self._factors: dict[str, SuperLU] = {}

    @property
    def inner(self) -> np.ndarray:
        """The diagonal K = (2/omega - 1) D, by which the two triangles exceed the matrix: W + V - K = A."""
        return (2 / self.omega - 1) * self.diagonal

    def lower(self, v: np.ndarray) -> np.ndarray:
        """Solve W u = v.

        Parameters
        ----------
        v
            Right-hand side of shape (n,), in the dtype of the matrix.

        Returns
        -------
        ndarray
            Solution u, a fresh array.
        """
        if not self.compiled:
            return self._factor("lower").solve(v)
        u = v.copy()
        self.compiled.sweep_lower(*self._matrix, self._scale, u)
        return u

    def upper(self, v: np.ndarray) -> np.ndarray:
        """Solve V u = v.

        Parameters
        ----------
        v
            Right-hand side of shape (n,), in the dtype of the matrix.

        Returns
        -------
        ndarray
            Solution u, a fresh array.
        """
        if not self.compiled:
            return self._factor("upper").solve(v)
        u = v.copy()
        self.compiled.sweep_upper(*self._matrix, self._scale, u)
        return u

    def sor(self, x: np.ndarray, r: np.ndarray) -> Advance:
        """Begin forward sweeps: x += W^-1 r.

        Parameters
        ----------
        x
            Solution to begin with, which the iteration changes in place.
        r
            Its residual, which the iteration changes along.

        Returns
        -------
        Callable[[float, int], Sequence[float]]
            Advances until the residual's norm is at most a limit, at most so many iterations, and returns the norms.
        """
        if self.compiled:
            return self._run(self.compiled.sor_steps, x, r)
        U = sparse.triu(self.A, 1, format="csr")

        def step() -> np.ndarray:
            change = self.lower(r)
            np.add(x, change, out=x)
            return (1 / self.omega - 1) * self.diagonal * change - U @ change

        return _stepwise(step, r)

    def ssor(self, x: np.ndarray, r: np.ndarray) -> Advance:
        """Begin forward and backward sweeps: x += V^-1 K W^-1 r.

        Parameters
        ----------
        x
            Solution to begin with, which the iteration changes in place.
        r
            Its residual, which the iteration changes along.

        Returns
        -------
        Callable[[float, int], Sequence[float]]
            Advances until the residual's norm is at most a limit, at most so many iterations, and returns the norms.
        """
        if self.compiled:
            return self._run(self.compiled.ssor_steps, x, r)
        L = sparse.tril(self.A, -1, format="csr")

        def step() -> np.ndarray:
            first = self.lower(r)
            change = self.upper(self.inner * first)
            np.add(x, change, out=x)
            left = first - change
            return L @ left + (1 - 1 / self.omega) * self.diagonal * left

        return _stepwise(step, r)

    def pcg(self, x: np.ndarray, r: np.ndarray) -> Advance:
        """Begin conjugate gradients on the split system W^-1 A V^-1, whose products cost no more than two solves.

        Parameters
        ----------
        x
            Solution to begin with, which the iteration changes in place.
        r
            Its residual, which the iteration changes along.

        Returns
        -------
        Callable[[float, int], Sequence[float]]
            Advances until the residual's norm is at most a limit, at most so many iterations, and returns the norms.
        """
        split, inner = self.lower(r), self.inner
        p = inner * split
        # What is left where rounding has the last word; there a direction says nothing of the matrix any more.
        least = 1e3 * np.finfo(r.dtype).eps * norm(r)
        if self.compiled:
            return self._run(self.compiled.pcg_steps, x, r, split, p, least=least)
        rho = np.vdot(split, p).real

        def step() -> np.ndarray:
            nonlocal rho
            t = self.upper(p)
            q = t + self.lower(p - inner * t)
            image = self.A @ t
            curvature = np.vdot(t, image).real
            if not curvature > 0:
                if not norm(r) <= least:
                    raise _indefinite()
                return np.zeros_like(r)
            before, alpha = rho, rho / curvature
            np.add(x, alpha * t, out=x)
            np.subtract(split, alpha * q, out=split)
            scaled = inner * split
            rho = np.vdot(split, scaled).real
            np.add(scaled, (rho / before) * p, out=p)
            return r - alpha * image

        return _stepwise(step, r)

    def _run(self, kernel: Any, *state: np.ndarray, least: float = 0.0) -> Advance:
        return functools.partial(self._advance, kernel, state, least)

    def _advance(
        self, kernel: Any, state: tuple[np.ndarray, ...], least: float, limit: float, steps: int
    ) -> Sequence[float]:
        norms = np.empty(min(steps, 1000))
        made = kernel(*self._matrix, self._scale, self.omega, limit, norms, *state)
        if made < 0:
            if not norm(state[1]) <= least:
                raise _indefinite()
            return [*norms[: -made - 1].tolist(), 0.0]
        return norms[:made].tolist()

    def _factor(self, triangle: str) -> SuperLU:
        # A triangle is its own factor: in the natural order, without pivoting, nothing is filled in.
        if triangle not in self._factors:
            part = sparse.tril(self.A, -1) if triangle == "lower" else sparse.triu(self.A, 1)
            whole = sparse.csc_array(part + sparse.diags_array(self.diagonal / self.omega))
            whole = whole.astype(self.A.dtype, copy=False)
            self._factors[triangle] = splu(
                whole, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        return self._factors[triangle]


def relax(
    system: System,
    begin: Callable[[np.ndarray, np.ndarray], Advance],
    *,
    atol: float,
    callback: Callable[[np.ndarray], Any] | None,
    **stopping: Any,
) -> SolveResult:
    """Iterate to a tolerance, with a right-hand side near 1 where the squares of its numbers would leave the range.

    Parameters
    ----------
    system
        Matrix, right-hand side and start.
    begin
        Begins the iteration, as for `iterate`.
    atol
        Absolute tolerance.
    callback
        Called with the present solution after each iteration.
    **stopping
        Further arguments of `iterate`.

    Returns
    -------
    SolveResult
        The solution.
    """
    size = _size(system)
    if size == 1:
        return iterate(system, begin, atol=atol, callback=callback, **stopping)
    scaled = system._replace(b=system.b / size, x=system.x / size)
    told = None if callback is None else lambda x: callback(x * size)
    most = float(np.finfo(float).max)
    result = iterate(scaled, begin, atol=min(atol / size, most), callback=told, **stopping)
    return SolveResult(result.x * size, result.info, result.residual_norms * size)


def _size(system: System) -> float:
    """Return a power of 2 near the right-hand side's numbers where they are extreme and the start isn't, else 1."""
    most, start = (float(abs(v).max(initial=0)) for v in (system.b, system.x))
    root = float(np.finfo(system.b.dtype).max) ** 0.25
    if 1 / root <= most <= root or not 0 < most < math.inf:
        return 1.0
    size = 2.0 ** (math.frexp(most)[1] - 1)
    return size if start / size <= root else 1.0


def _stepwise(step: Any, r: np.ndarray) -> Advance:
    def advance(limit: float, steps: int) -> Sequence[float]:
        norms: list[float] = []
        while len(norms) < steps and (not norms or (norms[-1] > limit and np.isfinite(norms[-1]))):
            r[:] = step()
            norms.append(float(np.linalg.norm(r)))
        return norms

    return advance


def _indefinite() -> ValueError:
    return ValueError(
        "A is not positive definite: a direction p has p'Ap <= 0; take a solver for indefinite or singular systems,"
        " such as scipy.sparse.linalg.minres"
    )
