"""Fields from their values at few points: least squares with modes, and the points that make it well posed."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.linalg import qr

from paperworks.core.validation import check_count


def qdeim_points(modes: Float[np.ndarray, "k n"], block: int = 1) -> Int[np.ndarray, " points"]:
    """Return points at which modes can be told apart: pivots of a QR factorisation with column pivoting (Q-DEIM).

    Parameters
    ----------
    modes
        Modes as rows.
    block
        Values of a mode at each point, next to each other; 1, the default, for scalars.

    Returns
    -------
    np.ndarray
        At most k points, rising; the matrix of the modes there has full rank.

    References
    ----------
    Drmac and Gugercin, "A new selection operator for the discrete empirical interpolation method",
    arXiv:1505.00370, 2015.

    Examples
    --------
    >>> qdeim_points(np.array([[0.0, 1.0, 3.0, 0.0], [2.0, 0.0, 0.0, 0.0]]))
    array([0, 2])
    """
    if modes.ndim != 2 or not len(modes) or modes.shape[1] % check_count("block", block):
        raise ValueError(f"modes has shape {modes.shape}; it takes rows whose length is a multiple of block, {block}")
    pivots = qr(modes, mode="r", pivoting=True)[1][: len(modes)].astype(int)
    return np.unique(pivots // block)


class GappyPOD:
    r"""Reconstruct a field from its values at some points: :math:`z = \arg\min |\Phi_s z - \hat p|_2`.

    Parameters
    ----------
    modes
        Modes as rows, at all points.
    points
        Indices of the points where values are known; with more of them than modes the residual says how well the modes
        fit, with as many it is always 0.
    block
        Values of a mode at each point, next to each other, such as the components of a tensor; 1, the default, for
        scalars.

    Attributes
    ----------
    condition : float
        The condition number of the modes at the points.

    Raises
    ------
    ValueError
        Where fewer values than modes are known, or the modes can't be told apart at the points.

    References
    ----------
    Everson and Sirovich, "Karhunen-Loeve procedure for gappy data", 1995; Casenave and Akkari, doi
    10.3390/mca24020041, 2019, online reconstruction.

    Examples
    --------
    >>> modes = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
    >>> gappy = GappyPOD(modes, [0, 1, 3])
    >>> coefficients, residual = gappy.fit(np.array([1.0, 3.0, 7.0]))
    >>> (coefficients @ modes).round(6), round(float(residual), 6)
    (array([1., 3., 5., 7.]), 0.0)
    """

    def __init__(self, modes: Float[np.ndarray, "k n"], points: ArrayLike, block: int = 1) -> None:
        at = np.asarray(points)
        check_count("block", block)
        if modes.ndim != 2 or not len(modes) or modes.shape[1] % block:
            raise ValueError(f"modes has shape {modes.shape}; it takes rows whose length is a multiple of {block}")
        if not np.isfinite(modes).all():
            raise ValueError("modes has values that are NaN or infinite; it takes finite ones")
        if (
            not np.issubdtype(at.dtype, np.integer)
            or at.ndim != 1
            or not len(at)
            or at.min() < 0
            or at.max() >= modes.shape[1] // block
        ):
            raise ValueError(
                f"points has shape {at.shape} and dtype {at.dtype}; it takes indices below {modes.shape[1] // block}"
            )
        self.modes, self.points, self.block = modes, at, block
        self._known = (block * at[:, None] + np.arange(block)).ravel()
        self._at_points = modes[:, self._known].T
        rows, k = self._at_points.shape
        if rows < k:
            raise ValueError(f"points gives {rows} values of {k} modes; it takes at least as many values as modes")
        Q, R = qr(self._at_points, mode="economic")
        values = np.linalg.svd(R, compute_uv=False)
        self.condition = float(values[0] / values[-1]) if values[-1] > 0 else np.inf
        if not self.condition < 1e12:
            raise ValueError(
                f"points tells the modes apart only with a condition of {self.condition:.2g}; "
                "it takes more or other points, such as those of qdeim_points"
            )
        self._solve = np.linalg.solve(R, Q.T)

    def fit(
        self, values: Float[np.ndarray, "..."]
    ) -> tuple[Float[np.ndarray, "... k"], Float[np.ndarray, "..."] | np.float64]:
        """Find the coefficients of fields whose values at the points are known.

        Parameters
        ----------
        values
            Values at the points, one field a row; of tensors (..., points, block) or flat.

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            The coefficients, and the root of the mean square of what they leave at the points: it does not grow with
            the number of points.
        """
        flat = self._flat(values)
        z = flat @ self._solve.T
        return z, np.sqrt(((flat - z @ self._at_points.T) ** 2).mean(-1))

    def reconstruct(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... n"]:
        """Return the fields everywhere that fit `values` at the points, as they are in `fit`.

        Returns
        -------
        np.ndarray
            Fields at all points, flat as the modes are.
        """
        return np.asarray(self.fit(values)[0] @ self.modes)

    def size(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."] | np.float64:
        """Return the root of the mean square of `values` at the points, which residuals are compared with.

        Returns
        -------
        np.ndarray
            One number for each field.
        """
        return np.sqrt((self._flat(values) ** 2).mean(-1))

    def _flat(self, values: np.ndarray) -> np.ndarray:
        found = np.asarray(values)
        n = len(self._known)
        if self.block > 1 and found.shape[-2:] == (len(self.points), self.block):
            found = found.reshape(*found.shape[:-2], n)
        if not found.shape or found.shape[-1] != n:
            raise ValueError(f"values has shape {found.shape}; it takes {n} values at {len(self.points)} points")
        if not np.isfinite(found).all():
            raise ValueError("values has entries that are NaN or infinite; it takes finite ones")
        return found
