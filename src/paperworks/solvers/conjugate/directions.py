"""Solves symmetric positive semidefinite systems along conjugate directions that a network proposes."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_count
from paperworks.solvers.conjugate.domains import PoissonDomain
from paperworks.solvers.conjugate.unknowns import Rows, Unknowns, norms_of, unit, unknowns_of
from paperworks.solvers.systems import SolveResult, check_stopping, check_system

Network = Callable[[Tensor], Tensor]
_LEAST_COSINE = 1e-3  # between a direction and the residual; below it the step would gain nothing
_PATIENCE = 20  # steps in which the residual has to halve


class Proposal:
    """A network as what it is to the solver: residuals in, directions out, both as rows in the system's precision.

    Parameters
    ----------
    net
        Maps tensors of shape (k, *grid) to tensors of the same shape, in the dtype and on the device of its weights.
    where
        The unknowns; directions are projected on them.
    normalize
        Whether the network sees residuals of norm one, as it was trained.
    """

    def __init__(self, net: Network, where: Unknowns, normalize: bool = True) -> None:
        self.net, self.where, self.normalize = net, where, normalize
        if not callable(net):
            raise TypeError(f"net is {net!r}; it takes a network, which maps tensors to tensors")
        self.weights = next(net.parameters(), None) if isinstance(net, nn.Module) else None
        if self.weights is not None and self.weights.is_meta:
            raise ValueError("net is on the meta device, where weights have no values; move it to another first")

    def __call__(self, residuals: Rows) -> Rows:
        """Return a direction for each residual."""
        if self.normalize:
            residuals = unit(residuals)
        with torch.inference_mode():
            given = torch.from_numpy(residuals.reshape(-1, *self.where.grid))
            given = given if self.weights is None else given.to(self.weights)
            found = self.net(given)
            if not isinstance(found, Tensor) or found.is_complex():
                what = found.dtype if isinstance(found, Tensor) else type(found).__name__
                raise TypeError(f"net returned {what}; it has to return a real tensor")
            if found.shape != given.shape:
                raise ValueError(f"net returned shape {tuple(found.shape)} for {tuple(given.shape)}; it has to keep it")
            # Not every dtype of a network is one of NumPy's.
            rows = found.to("cpu", torch.float64).numpy().reshape(residuals.shape).astype(residuals.dtype, copy=False)
        if not np.isfinite(rows).all():
            raise ValueError("net returned NaN or infinite elements; it takes a network with finite weights")
        return self.where.project(rows)


class _Step(NamedTuple):
    """Directions of one step, a row for each right-hand side, 0 where none was taken."""

    d: Rows
    q: Rows
    curvature: Float[np.ndarray, " k"]


class DCDMSolver:
    r"""Deep conjugate direction method: a network proposes directions, line searches along them are exact.

    A step asks the network for $d = f(r / \|r\|)$, takes off what isn't A-orthogonal to the last directions, goes to
    the minimum of the A-norm of the error along $d$, and computes the residual anew. That norm never rises. Where a
    direction is of no use (no curvature, or nearly orthogonal to the residual) the step goes along the residual; where
    20 steps haven't halved the residual, conjugate gradients go on from there, so that a network that doesn't fit costs
    time and not the solution.

    Parameters
    ----------
    net
        A trained `DCDMNet`, or anything that maps tensors of shape (k, *grid) to tensors of that shape.
    shape
        Numbers of voxels along the axes. Default: those of the domain, or of a square or cube.
    orth
        How many directions a new one is made A-orthogonal to, or "all". Default: 2, as in the paper; with fewer than 2
        and the residual as direction the method isn't that of conjugate gradients.
    normalize
        Whether the network sees residuals of norm one. By default it does, as it was trained; since its layers have
        biases, others are something new to it.

    Attributes
    ----------
    history_
        Norms of the residuals of the last solve, of shape (iterations + 1, k); a column stays once it is solved.
    iterations_
        Iterations of each of the k right-hand sides of the last solve.
    fallbacks_
        How many of them went along the residual, for each right-hand side.

    Raises
    ------
    ValueError
        If `orth` is below 0.

    References
    ----------
    arXiv:2205.10763, Algorithm 1.

    Examples
    --------
    >>> domain = PoissonDomain(np.ones((8, 8), bool))
    >>> solver = DCDMSolver(lambda r: r)  # the residual itself: conjugate gradients
    >>> x, info = solver.solve(domain, np.ones(64), rtol=1e-8)
    >>> info, bool(np.abs(domain.operator() @ x - 1).max() < 1e-6)
    (0, True)
    """

    history_: Float[np.ndarray, "steps k"]
    iterations_: np.ndarray
    fallbacks_: np.ndarray

    def __init__(
        self,
        net: Network,
        shape: Sequence[int] | None = None,
        *,
        orth: int | Literal["all"] = 2,
        normalize: bool = True,
    ) -> None:
        self.net, self.shape, self.normalize = net, shape, normalize
        self.orth = orth if orth == "all" else check_count("orth", orth, at_least=0)

    def solve(
        self,
        A: Any,
        b: Any,
        x0: Any = None,
        *,
        rtol: float = 1e-4,
        atol: float = 0.0,
        maxiter: int | None = 100,
        callback: Callable[[np.ndarray], Any] | None = None,
    ) -> SolveResult:
        """Solve for one right-hand side, or for several at once, which go through the network together.

        Parameters
        ----------
        A
            A `PoissonDomain`, or a symmetric positive semidefinite matrix or linear operator on a grid's voxels.
        b
            Right-hand side of shape (n,) or (n, 1), or k of them as columns of (n, k).
        x0
            Start, of the same shape. Default: zeros.
        rtol
            The iteration ends where each residual's norm is at most max(`rtol` norm(`b`), `atol`). Default: 1e-4, the
            paper's.
        atol
            Absolute tolerance, in the unit of `b`.
        maxiter
            Most iterations. Default: 100, the paper's; None for ten for each unknown, as in SciPy.
        callback
            Called with the present solution after each iteration.

        Returns
        -------
        SolveResult
            The pair (x, info); of several right-hand sides `residual_norms` are the greatest. Where the matrix maps
            constants to zero, solutions have mean zero.

        Raises
        ------
        ValueError
            If shapes don't fit, something isn't finite, `b` is not in the range of `A`, or `A` is not semidefinite.
        TypeError
            If the system isn't of real numbers in single or double precision, or the network returns something else.
        """
        where, X, B, form = self._system(A, b, x0)
        maxiter = check_stopping(rtol, atol, maxiter, where.n)
        propose = Proposal(self.net, where, self.normalize)
        limits = np.maximum(rtol * norms_of(B), atol)
        R = B - where.apply(X) if X.any() else B.copy()
        norms = [norms_of(R)]
        R = where.project(R)  # what is outside of the range stays in the norms, so that they are those of B - A X
        # Conjugate gradients, where they have to go on, need the last direction whatever the network's are made of.
        kept: deque[_Step] = deque(maxlen=None if self.orth == "all" else max(self.orth, 1))
        steepest, fallbacks = np.zeros(len(B), bool), np.zeros(len(B), int)
        counts = np.zeros(len(B), int)
        while (running := (norms[-1] > limits) & R.any(axis=1)).any() and len(norms) <= maxiter:
            d, q, weak = np.zeros_like(R), np.zeros_like(R), running.copy()
            ask = running & ~steepest
            steps = list(kept) if self.orth else []
            if ask.any():
                d[ask] = _conjugate(unit(propose(R[ask])), steps, ask)
                q = where.apply(d)
                weak = running & ~_useful(d, q, R)
            for rows, earlier in ((weak & ~steepest, steps), (weak & steepest, list(kept))):
                if rows.any():
                    d[rows] = _conjugate(unit(R[rows]), earlier, rows)
                    q[rows] = where.apply(d[rows])
            curvature = _dots(d, q)
            if not np.isfinite(curvature).all():
                raise ValueError("A has a product with a finite vector that is NaN or infinite; it takes finite ones")
            if not (curvature[running] > 0).all():
                raise ValueError(
                    f"A is not positive definite: a direction d has d'Ad = {curvature[running].min():.3g}; take a"
                    " solver for indefinite systems, such as scipy.sparse.linalg.minres"
                )
            alpha = np.divide(_dots(d, R), curvature, out=np.zeros_like(curvature), where=running)
            X += alpha[:, None] * d
            left = B[running] - where.apply(X[running])
            kept.append(_Step(d, q, curvature))
            norms.append(norms[-1].copy())
            norms[-1][running] = norms_of(left)
            if not np.isfinite(norms[-1]).all():
                raise ValueError(f"A is too badly scaled: the residual overflowed after {len(norms) - 1} iterations")
            R[running] = where.project(left)
            counts += running
            fallbacks += weak
            if len(norms) > _PATIENCE:
                slow = running & ~steepest & (norms[-1] > norms[-1 - _PATIENCE] / 2)
                steepest |= slow
                for step in kept:  # conjugate gradients take a fresh start
                    for part in step:
                        part[slow] = 0
            if callback is not None:
                callback(form(X))
        self.history_, self.iterations_, self.fallbacks_ = np.array(norms), counts, fallbacks
        reached = bool((norms[-1] <= limits).all())
        return SolveResult(form(X), 0 if reached else max(1, len(norms) - 1), self.history_.max(axis=1))

    def _system(self, A: Any, b: Any, x0: Any) -> tuple[Unknowns, Rows, Rows, Callable[[Rows], np.ndarray]]:
        """Check a system; return its unknowns, starts and right-hand sides as rows, and what gives rows b's shape."""
        b = np.asarray(b)
        matrix = A.operator() if isinstance(A, PoissonDomain) else A
        given = b.reshape(len(b), -1) if b.ndim == 2 else b[:, None] if b.ndim == 1 else None
        starts = None if x0 is None else np.asarray(x0)
        if given is None or not given.size:
            raise ValueError(f"b has shape {b.shape}; it takes (n,) or (n, k)")
        if starts is not None and (starts[:, None] if starts.ndim == 1 else starts).shape != given.shape:
            raise ValueError(f"x0 has shape {starts.shape}; it takes {b.shape}, that of b")
        columns = [None] * given.shape[1] if starts is None else list(starts.reshape(given.shape).T)
        checked = [check_system(matrix, column, start) for column, start in zip(given.T, columns, strict=True)]
        if checked[0].b.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"A, b or x0 holds {checked[0].b.dtype}; it takes real numbers of single or double precision"
            )
        where = unknowns_of(
            A if isinstance(A, PoissonDomain) else checked[0].A, self.shape, getattr(self.net, "dim", None)
        )
        B = np.stack([system.b for system in checked])
        where.check_range(B)
        X = where.project(np.stack([system.x for system in checked]))
        return where, X, B, lambda rows: rows.T.reshape(b.shape).copy()


def dcdm(
    A: Any,
    b: Any,
    net: Network,
    x0: Any = None,
    *,
    rtol: float = 1e-4,
    atol: float = 0.0,
    maxiter: int | None = 100,
    orth: int | Literal["all"] = 2,
    shape: Sequence[int] | None = None,
    callback: Callable[[np.ndarray], Any] | None = None,
) -> SolveResult:
    """Solve a Poisson system by the deep conjugate direction method: `DCDMSolver` as a function.

    Parameters
    ----------
    A
        A `PoissonDomain`, or a symmetric positive semidefinite matrix or linear operator on a grid's voxels.
    b
        Right-hand side of shape (n,) or (n, 1), or several as columns of (n, k).
    net
        A trained `DCDMNet`, or anything that maps tensors of shape (k, *grid) to tensors of that shape.
    x0
        Start, of the same shape as `b`. Default: zeros.
    rtol
        The iteration ends where each residual's norm is at most max(`rtol` norm(`b`), `atol`). Default: 1e-4, the
        paper's.
    atol
        Absolute tolerance, in the unit of `b`.
    maxiter
        Most iterations. Default: 100, the paper's.
    orth
        How many directions a new one is made A-orthogonal to, or "all". Default: 2, the paper's.
    shape
        Numbers of voxels along the axes. Default: those of the domain, or of a square or cube.
    callback
        Called with the present solution after each iteration.

    Returns
    -------
    SolveResult
        The pair (x, info) as from SciPy's solvers, with `iterations`, `converged` and `residual_norms`.

    Raises
    ------
    ValueError
        If shapes don't fit, something isn't finite, `b` is not in the range of `A`, or `A` is not semidefinite.
    TypeError
        If the system isn't of real numbers in single or double precision, or the network returns something else.

    References
    ----------
    arXiv:2205.10763, Algorithm 1.

    Examples
    --------
    >>> domain = PoissonDomain(np.ones((4, 4), bool))
    >>> inverse = torch.linalg.inv(torch.from_numpy(domain.matrix().toarray()))
    >>> perfect = lambda r: (r.reshape(len(r), -1) @ inverse).reshape(r.shape)
    >>> dcdm(domain, np.arange(16.0), perfect).iterations
    1
    """
    solver = DCDMSolver(net, shape, orth=orth)
    return solver.solve(A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback)


def _dots(a: Rows, b: Rows) -> Float[np.ndarray, " k"]:
    return np.einsum("kn,kn->k", a, b)


def _conjugate(d: Rows, steps: list[_Step], rows: np.ndarray) -> Rows:
    """Take off what isn't A-orthogonal to the directions of earlier steps."""
    for step in steps:
        curvature = step.curvature[rows]
        share = np.divide(_dots(d, step.q[rows]), curvature, out=np.zeros_like(curvature), where=curvature > 0)
        d = d - share[:, None] * step.d[rows]
    return d


def _useful(d: Rows, q: Rows, r: Rows) -> np.ndarray:
    """Return where a direction has curvature and isn't nearly orthogonal to the residual."""
    length, force = norms_of(d), norms_of(r)
    curved = _dots(d, q) > np.finfo(d.dtype).eps * length * norms_of(q)
    return np.asarray(curved & (np.abs(_dots(d, r)) >= _LEAST_COSINE * length * force))
