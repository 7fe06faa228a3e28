"""Proper orthogonal decomposition of snapshots, in any inner product: what every reduced model starts from."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.reduction.inner_products import (
    InnerProduct,
    check_inner_product,
    correlation_matrix,
    gram_matrix,
    orthonormal_rows,
    positive_eigen,
    row_norms,
)

METHODS = ("svd", "snapshots", "randomized")


class SnapshotPOD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Proper orthogonal decomposition: the modes that represent snapshots best, on average of squares.

    The modes :math:`\psi_k` are orthonormal in the inner product of M, and the error of the projection onto the first
    k of them is :math:`\sum_{i>k} \lambda_i`, the least that k modes allow, where the :math:`\lambda_i = \sigma_i^2`
    are the eigenvalues of the correlation matrix :math:`C_{ij} = \langle u_i, u_j\rangle_M`. The largest coefficient
    of a snapshot is positive in each mode. With a tolerance, as many modes are kept as the larger of: those with
    :math:`\lambda_i > \varepsilon^2\lambda_1`, and the fewest with
    :math:`\sum_{i>k}\lambda_i \le \varepsilon^2 \sum_i \lambda_i` (Casenave and Akkari, doi 10.3390/mca24020041,
    data compression). Snapshots are not centred: modes of a homogeneous problem have to keep its boundary values.

    Parameters
    ----------
    n_modes
        The most modes that are kept; None, the default, sets no limit.
    rtol
        The tolerance :math:`\varepsilon`, relative; None, the default, keeps what rounding can tell from zero.
    inner_product
        The matrix M, sparse or dense, its diagonal as a vector, or None, the default, for the Euclidean product.
    method
        ``"svd"``, the default, decomposes the snapshots themselves and finds singular values to rounding; of an inner
        product that is a matrix it first makes the rows orthonormal. ``"snapshots"`` diagonalises the correlation
        matrix, which costs one product and loses singular values below `1e-7` of the largest. ``"randomized"`` looks
        at `n_modes` + 10 random combinations of the snapshots with two power iterations (Halko, Martinsson and Tropp,
        arXiv:0909.4061, algorithms 4.4 and 5.1); it needs `n_modes`.
    random_state
        The seed of ``"randomized"``; None, the default, draws one.

    Attributes
    ----------
    modes_ : np.ndarray
        The modes as rows, of shape (n_modes_, n).
    singular_values_ : np.ndarray
        All singular values that were found, also of the modes that were left out.
    n_modes_ : int
        How many modes are kept.
    relative_error_ : float
        The root of the share of squares that the modes leave out.

    References
    ----------
    Casenave and Akkari, "An error indicator-based adaptive reduced order model", doi 10.3390/mca24020041, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 50)
    >>> U = np.outer([1.0, 2.0, 4.0], np.sin(np.pi * x)) + np.outer([0.1, 0.0, 0.2], x)
    >>> pod = SnapshotPOD(rtol=1e-6).fit(U)
    >>> pod.n_modes_
    2
    >>> bool(np.allclose(pod.inverse_transform(pod.transform(U)), U))
    True
    """

    def __init__(
        self,
        n_modes: int | None = None,
        rtol: float | None = None,
        inner_product: Any = None,
        method: str = "svd",
        random_state: Any = None,
    ) -> None:
        self.n_modes = n_modes
        self.rtol = rtol
        self.inner_product = inner_product
        self.method = method
        self.random_state = random_state

    def fit(self, U: Any, y: object = None, *, correlation: Float[np.ndarray, "m m"] | None = None) -> "SnapshotPOD":
        """Find the modes of snapshots.

        Parameters
        ----------
        U
            Snapshots as rows, of shape (m, n).
        y
            Ignored; scikit-learn's interface has it.
        correlation
            Where the domain is cut into parts and `U` is one part of the snapshots: the sum of the parts'
            `correlation_matrix`. The modes are then this part of the whole domain's. None, the default, is one part.

        Returns
        -------
        SnapshotPOD
            The fitted model.

        Raises
        ------
        ValueError
            Where snapshots are not finite or all zero, or a parameter is out of its range.
        """
        U = validate_data(self, U, dtype=[np.float64, np.float32])
        return self._decompose(U, correlation)

    def partial_fit(self, U: Any, y: object = None) -> "SnapshotPOD":
        """Add snapshots: the decomposition of the old modes, scaled by their singular values, and the new snapshots.

        Parameters
        ----------
        U
            New snapshots as rows.
        y
            Ignored; scikit-learn's interface has it.

        Returns
        -------
        SnapshotPOD
            The updated model. What earlier truncations left out is lost, as it is not stored.
        """
        first = not hasattr(self, "modes_")
        U = validate_data(self, U, dtype=[np.float64, np.float32], reset=first)
        if not first:
            U = np.concatenate([self.modes_ * self.singular_values_[: self.n_modes_, None], U], dtype=U.dtype)
        return self._decompose(U, None)

    def transform(self, U: Any) -> np.ndarray:
        r"""Return the coefficients :math:`\langle u, \psi_k\rangle_M` of vectors.

        Parameters
        ----------
        U
            Vectors as rows, of shape (m, n).

        Returns
        -------
        np.ndarray
            Coefficients of shape (m, n_modes_).
        """
        check_is_fitted(self)
        U = validate_data(self, U, dtype=[np.float64, np.float32], reset=False)
        return gram_matrix(U, self.modes_, self.inner_product)

    def inverse_transform(self, coefficients: Any) -> np.ndarray:
        """Return the vectors that coefficients stand for.

        Parameters
        ----------
        coefficients
            Coefficients of shape (m, n_modes_).

        Returns
        -------
        np.ndarray
            Vectors as rows.
        """
        check_is_fitted(self)
        if np.ndim(coefficients) != 2 or np.shape(coefficients)[1] != self.n_modes_:
            raise ValueError(f"coefficients have shape {np.shape(coefficients)}; it takes (m, {self.n_modes_})")
        q = check_array(coefficients, dtype=[np.float64, np.float32], input_name="coefficients")
        return q @ self.modes_

    def _decompose(self, U: np.ndarray, correlation: np.ndarray | None) -> "SnapshotPOD":
        """Find the modes of rows that have been checked."""
        check_choice("method", self.method, METHODS)
        if self.n_modes is not None:
            check_count("n_modes", self.n_modes)
        if self.rtol is not None:
            check_number("rtol", self.rtol, gt=0, lt=1)
        check_inner_product(self.inner_product, U.shape[1])
        scale = 1.0
        if correlation is not None:
            modes, values, missed = _of_correlation(U, _checked_correlation(correlation, len(U)), "correlation")
        else:
            scale = float(np.abs(U).max()) or 1.0  # so that squares neither overflow nor vanish
            modes, values, missed = self._found(U / U.dtype.type(scale))
        if not len(values):
            raise ValueError("U has no snapshot that is not zero; it takes at least one")
        squares = np.concatenate([values.astype(np.float64) ** 2, [missed]])
        left = np.cumsum(squares[::-1])[::-1]  # of the modes from each on, and what was not found
        total, left = left[0], left[1:]
        kept = len(modes)
        if self.rtol is not None:
            above = int((values > self.rtol * values[0]).sum())
            enough = int((left > self.rtol**2 * total).sum()) + 1
            kept = min(kept, max(above, enough))
        self.n_modes_ = min(kept, self.n_modes or kept)
        self.modes_ = modes[: self.n_modes_].astype(U.dtype, copy=False)
        self.singular_values_ = values * U.dtype.type(scale)
        self.relative_error_ = float(np.sqrt(left[self.n_modes_ - 1] / total))
        return self

    def _found(self, U: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the modes of rows, their singular values, and the sum of squares of what was not found."""
        M = self.inner_product
        if self.method == "svd":
            return _by_svd(U, M)
        if self.method == "snapshots":
            modes, values, missed = _of_correlation(U, correlation_matrix(U, M), "inner_product")
            if len(modes):  # rounding has turned the weakest ones towards each other
                modes = np.linalg.solve(np.linalg.cholesky(correlation_matrix(modes, M)), modes)
            return modes, values, missed
        if self.n_modes is None:
            raise ValueError("n_modes is None; the randomized method takes a number of modes")
        return _randomized(U, M, self.n_modes + 10, self.random_state)

    @property
    def _n_features_out(self) -> int:
        return self.n_modes_


def _checked_correlation(C: Any, m: int) -> np.ndarray:
    """Return a correlation matrix of m snapshots that somebody gave, if it is one."""
    C = np.asarray(C)
    if C.shape != (m, m) or C.dtype.kind not in "fiu":
        raise ValueError(f"correlation has shape {C.shape} and type {C.dtype}; it takes real numbers, {(m, m)}")
    if not np.isfinite(C).all() or np.abs(C - C.T).max() > 1e-6 * np.abs(C).max():
        raise ValueError("correlation is not finite or not symmetric; it takes the sum of correlation_matrix of parts")
    return C if C.dtype.kind == "f" else C.astype(np.float64)


def _signs(left: np.ndarray) -> np.ndarray:
    """Return for each mode the sign of its largest coefficient over the snapshots."""
    return np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])


def _of_correlation(U: np.ndarray, C: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Diagonalise the correlation matrix; the modes are sums of snapshots."""
    values, vectors = positive_eigen(name, (C + C.T) / 2)
    keep = values > max(values[0], 0) * len(U) * np.finfo(U.dtype).eps * 10
    sigma = np.sqrt(values[keep])
    modes = (vectors[:, keep] * _signs(vectors[:, keep]) / sigma).T @ U
    return modes, sigma, float(np.abs(values[~keep]).sum())


def _by_svd(U: np.ndarray, M: InnerProduct) -> tuple[np.ndarray, np.ndarray, float]:
    """Decompose the snapshots; of a matrix M, their coefficients in an orthonormal basis of their span."""
    if M is None or (np.ndim(M) == 1 and not issparse(M)):
        root = np.ones(1, U.dtype) if M is None else np.sqrt(np.asarray(M)).astype(U.dtype)
        left, sigma, modes = np.linalg.svd(U * root, full_matrices=False)
        modes = modes / root
    else:
        Q = orthonormal_rows(U, M)
        left, sigma, small = np.linalg.svd(gram_matrix(U, Q, M), full_matrices=False)
        modes = small @ Q
    modes = _signs(left)[:, None] * modes
    keep = sigma > (sigma[0] if len(sigma) else 0) * max(U.shape) * np.finfo(U.dtype).eps
    return modes[keep], sigma[keep], float((sigma[~keep] ** 2).sum())


def _randomized(U: np.ndarray, M: InnerProduct, size: int, random_state: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Decompose the snapshots' projection onto the span of random sums of them, after two power iterations."""
    noise = check_random_state(random_state).standard_normal((min(size, *U.shape), len(U))).astype(U.dtype)
    Q = orthonormal_rows(noise @ U, M)
    for _ in range(2):
        Q = orthonormal_rows(gram_matrix(Q, U, M) @ U, M)
    coefficients = gram_matrix(U, Q, M)
    left, sigma, small = np.linalg.svd(coefficients, full_matrices=False)
    missed = float((row_norms(U - coefficients @ Q, M) ** 2).sum())
    return _signs(left)[:, None] * small @ Q, sigma, missed
