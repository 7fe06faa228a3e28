"""Quadrature rules of few points and positive weights, found by non-negative least squares that is updated."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.linalg import qr, qr_delete, qr_insert
from scipy.linalg.lapack import dtrtrs

from paperworks.core.validation import check_count, check_number


class EmpiricalCubature:
    r"""Few of many integration points, with positive weights, that integrate given functions within a tolerance.

    Of integrands :math:`G_{mg}` (function m at point g) with weights w, whose integrals are :math:`b = G w`, it finds
    sparse :math:`x \ge 0` with :math:`|G x - b| \le \varepsilon |b|`, and with `volume` also
    :math:`|\sum x - \sum w| \le \varepsilon \sum w`: non-negative orthogonal matching pursuit (Casenave and Akkari,
    doi 10.3390/mca24020041, operator compression). The next point is the one of greatest *positive* correlation with
    the residual, since no positive weight mends a negative one; then the weights of all points are the non-negative
    least squares solution, and points whose weight falls to 0 leave.

    That is the active-set method of Lawson and Hanson, stopped early, and it goes on from one point to the next with
    the QR factorisation of the chosen columns updated instead of solving anew. The residual falls with every point, so
    random extra points, as some codes add, are never needed: :math:`x = w` solves the problem exactly.

    Parameters
    ----------
    rtol
        The tolerance, relative to the norm of all integrals; 1e-3, the default, is the loosest that the paper uses.
    init
        Indices of points to begin with, such as those of an earlier rule; None, the default, begins with none.
    volume
        Whether the constant 1 has to be integrated too, so that the weights sum to the volume; true by default.
    normalize
        Whether correlations are divided by the norm of the point's column, so that large integrands are not
        preferred; false by default, as in the paper.
    max_points
        The most points; None, the default, sets no limit.

    Attributes
    ----------
    points_ : np.ndarray
        Indices of the chosen points, rising.
    weights_ : np.ndarray
        Their weights, positive.
    residual_ : float
        What is left, relative to the norm of the integrals.
    converged_ : bool
        Whether the tolerance is met; false only where `max_points` are too few.

    References
    ----------
    Casenave and Akkari, doi 10.3390/mca24020041, 2019. Lawson and Hanson, "Solving least squares problems", 1974,
    chapter 23.

    Examples
    --------
    >>> x, w = np.polynomial.legendre.leggauss(200)
    >>> cubature = EmpiricalCubature(rtol=1e-10).fit(x ** np.arange(6)[:, None], w)
    >>> len(cubature.points_) <= 6, round(float(cubature.weights_ @ x[cubature.points_] ** 4), 8)  # the integral is 2/5
    (True, 0.4)
    """

    def __init__(
        self,
        rtol: float = 1e-3,
        init: ArrayLike | None = None,
        volume: bool = True,
        normalize: bool = False,
        max_points: int | None = None,
    ) -> None:
        self.rtol = check_number("rtol", rtol, gt=0, lt=1)
        self.init, self.volume, self.normalize = init, volume, normalize
        self.max_points = max_points if max_points is None else check_count("max_points", max_points)

    def fit(self, G: Float[np.ndarray, "m points"], weights: Float[np.ndarray, " points"]) -> "EmpiricalCubature":
        """Choose points and weights.

        Parameters
        ----------
        G
            The integrands at all points, one row a function.
        weights
            The weights of the full rule, positive.

        Returns
        -------
        EmpiricalCubature
            The fitted rule.

        Raises
        ------
        ValueError
            Where shapes differ, values are not finite, weights are not positive, all integrals are 0 without a
            `volume`, or points of `init` are not among the points.
        """
        init = np.asarray(() if self.init is None else self.init)
        if init.ndim != 1 or (init.size and not np.issubdtype(init.dtype, np.integer)):
            raise ValueError(f"init has shape {init.shape} and dtype {init.dtype}; it takes a row of indices")
        if self.max_points is not None and init.size > self.max_points:
            raise ValueError(f"init has {init.size} points, more than max_points, {self.max_points}")
        points = np.unique(init.astype(int))
        return self._fit(G, weights, points, None)

    def update(self, G: Float[np.ndarray, "m points"], weights: Float[np.ndarray, " points"]) -> "EmpiricalCubature":
        """Choose points and weights for other integrands, beginning with the present ones.

        Parameters
        ----------
        G
            The new integrands at the same points; any number of functions.
        weights
            The weights of the full rule, positive.

        Returns
        -------
        EmpiricalCubature
            The fitted rule.

        Raises
        ------
        ValueError
            As in `fit`, or where there is no present rule.
        """
        if not hasattr(self, "points_"):
            raise ValueError("the rule is not fitted; call fit before update")
        return self._fit(G, weights, self.points_, self.weights_)

    def _fit(self, G: np.ndarray, weights: np.ndarray, points: np.ndarray, x: np.ndarray | None) -> "EmpiricalCubature":
        G, w = np.asarray(G, dtype=float), np.asarray(weights, dtype=float)
        _check(G, w, points)
        b = G @ w
        size = float(np.linalg.norm(b))
        if self.volume:
            # The row of ones weighs as much as all others, or as it is where there are none.
            scale = size / w.sum() if size > 0 else 1.0
            G, b = np.vstack([G, np.full(len(w), scale)]), np.append(b, scale * w.sum())
        elif not size > 0:
            raise ValueError("G has integrals that are all 0; it takes some that are not, or volume=True")

        def enough(x: np.ndarray, r: np.ndarray) -> bool:
            rows = r[:-1] if self.volume else r
            fits = bool(np.linalg.norm(rows) <= self.rtol * size)
            return fits and (not self.volume or abs(float(x.sum() - w.sum())) <= self.rtol * float(w.sum()))

        chosen = UpdatableNNLS(G, b)
        chosen.begin(points, x)
        norms = np.sqrt(np.einsum("ij,ij->j", G, G)) if self.normalize else None
        most = len(w) if self.max_points is None else self.max_points
        while not (done := enough(chosen.x, chosen.r)) and len(chosen.points) < most and chosen.add(norms):
            pass
        order = np.argsort(chosen.points)
        self.points_, self.weights_ = chosen.points[order], chosen.x[order]
        rows = chosen.r[:-1] if self.volume else chosen.r
        self.residual_ = float(np.linalg.norm(rows)) / (size or 1.0)
        self.converged_ = done or enough(chosen.x, chosen.r)
        return self


class UpdatableNNLS:
    r"""Non-negative least squares :math:`\min_{x \ge 0} |A x - b|` by active sets, one column after the other.

    The QR factorisation of the active columns is updated as columns come and go. Each call of `add` is one outer step
    of Lawson and Hanson's method, so that it can be stopped as soon as the residual is small enough, and begun from
    any set of columns.

    Parameters
    ----------
    A
        The matrix whose columns are chosen from.
    b
        The right-hand side.

    Raises
    ------
    ValueError
        Where shapes differ or values are not finite.

    Attributes
    ----------
    points : np.ndarray
        The active columns, in the order they came.
    x : np.ndarray
        Their coefficients, positive.
    r : np.ndarray
        The residual b - A x.

    Examples
    --------
    >>> nnls = UpdatableNNLS(np.eye(3), np.array([1.0, -2.0, 3.0]))
    >>> while nnls.add():
    ...     pass
    >>> nnls.points, nnls.x
    (array([2, 0]), array([3., 1.]))
    """

    def __init__(self, A: Float[np.ndarray, "m n"], b: Float[np.ndarray, " m"]) -> None:
        A, b = np.asarray(A, dtype=float), np.asarray(b, dtype=float)
        if A.ndim != 2 or b.shape != A.shape[:1]:
            raise ValueError(f"A and b have shapes {A.shape} and {b.shape}; they take (m, n) and (m,)")
        if not np.isfinite(A).all() or not np.isfinite(b).all():
            raise ValueError("A or b has values that are NaN or infinite; they take finite ones")
        self.A, self.b = A, b
        self._columns = np.ascontiguousarray(A.T)  # next to each other in memory, as all that follows reads columns
        self.points, self.x, self.r = np.zeros(0, dtype=int), np.zeros(0), b.copy()
        self._Q, self._R = np.zeros((len(b), 0)), np.zeros((0, 0))
        self._floor = 1e-14 * float(np.linalg.norm(b)) * np.sqrt(np.einsum("ij,ij->j", A, A))

    def begin(self, points: Int[np.ndarray, " k"], x: Float[np.ndarray, " k"] | None = None) -> None:
        """Begin with some active columns instead of none.

        Parameters
        ----------
        points
            The columns; of those that depend on the others or get no positive coefficient, some are dropped.
        x
            Coefficients to begin from, positive; None, the default, takes the least squares solution and drops what
            isn't positive.
        """
        if not len(points):
            return
        # Of columns that depend on each other the factorisation keeps some, the longest first.
        _, R, order = qr(self.A[:, points], mode="economic", pivoting=True)
        diagonal = np.abs(np.diag(R))
        kept = np.sort(order[: int((diagonal > 1e-10 * diagonal[0]).sum())])
        self.points = points[kept]
        self._Q, self._R = qr(self.A[:, self.points], mode="economic")
        self._settle(np.zeros(len(kept)) if x is None else x[kept])

    def add(self, norms: Float[np.ndarray, " n"] | None = None) -> bool:
        """Make the column active that promises most, and solve.

        Parameters
        ----------
        norms
            By what correlations are divided; None, the default, takes them as they are.

        Returns
        -------
        bool
            Whether a column was added; false where no positive coefficient lowers the residual further.
        """
        promise = self._columns @ self.r
        promise[promise <= self._floor] = -np.inf  # what rounding leaves
        if norms is not None:
            promise = np.divide(promise, norms, out=np.full_like(promise, -np.inf), where=norms > 0)
        promise[self.points] = -np.inf
        before = float(self.r @ self.r)
        while promise[best := int(np.argmax(promise))] > 0:
            column = self._columns[best]
            if self._Q.shape[1] < len(column):
                state = self.points, self.x, self.r, self._Q, self._R
                self._Q, self._R = _insert(self._Q, self._R, column)
                if not abs(self._R[-1, -1]) > 1e-10 * np.sqrt(column @ column):  # it depends on the active ones
                    self.points, self.x, self.r, self._Q, self._R = state
                    promise[best] = -np.inf
                    continue
                self.points = np.append(self.points, best)
                self._settle(np.append(self.x, 0.0))
                if float(self.r @ self.r) < before:
                    return True
                self.points, self.x, self.r, self._Q, self._R = state  # rounding is all that is left
            promise[best] = -np.inf
        return False

    def _settle(self, x: np.ndarray) -> None:
        """Go from coefficients that aren't negative to the least squares solution, dropping columns on the way."""
        while True:
            target = dtrtrs(self._R, self._Q.T @ self.b)[0] if len(x) else x
            bad = target <= 0
            if not bad.any():
                break
            # As far towards the solution as coefficients stay positive; those that reach 0 leave.
            gaps = np.where(bad, x - target, 1.0)
            share = float(np.where(bad, np.divide(x, gaps, out=np.zeros_like(x), where=gaps > 0), 1.0).min())
            x = x + share * (target - x)
            leaves = bad & (x <= 1e-14 * max(float(np.abs(x).max()), 1e-300))
            for k in np.flatnonzero(leaves)[::-1]:
                self._Q, self._R = _delete(self._Q, self._R, int(k))
            x, self.points = x[~leaves], self.points[~leaves]
        self.x = target
        self.r = self.b - target @ self._columns[self.points]


def _insert(Q: np.ndarray, R: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not Q.shape[1]:
        size = np.linalg.norm(column)
        return (column / size)[:, None], np.array([[size]])
    found: Any = qr_insert(Q, R, column, R.shape[1], which="col", check_finite=False)
    return _economic(*found)


def _delete(Q: np.ndarray, R: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if Q.shape[1] == 1:
        return np.zeros((len(Q), 0)), np.zeros((0, 0))
    found: Any = qr_delete(Q, R, k, which="col", check_finite=False)
    return _economic(*found)


def _economic(Q: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a factorisation that has a column of Q for each of R."""
    return Q[:, : R.shape[1]], R[: R.shape[1]]


def _check(G: np.ndarray, w: np.ndarray, points: np.ndarray) -> None:
    if G.ndim != 2 or w.shape != G.shape[1:]:
        raise ValueError(f"G and weights have shapes {G.shape} and {w.shape}; they take (m, points) and (points,)")
    if not np.isfinite(G).all() or not np.isfinite(w).all():
        raise ValueError("G or weights has values that are NaN or infinite; they take finite ones")
    if not len(w) or not (w > 0).all():
        raise ValueError("weights has values that are not positive; it takes the weights of a positive rule")
    if len(points) and (points[0] < 0 or points[-1] >= len(w)):
        raise ValueError(f"init has points from {points[0]} to {points[-1]}; it takes indices below {len(w)}")
