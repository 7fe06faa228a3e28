"""What histories are brought to before a law of them is learned: a common size, or few coefficients of modes."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice
from paperworks.reduction.snapshots import SnapshotPOD

KINDS = ("max", "standard", "none")
_ROUNDING = {8: 1e-12, 4: 5e-7}  # what varies by less, relative to its size, doesn't; by bytes of a number


class FieldScaler(TransformerMixin, BaseEstimator):
    """Scale each component of histories.

    Parameters
    ----------
    kind
        ``"max"``, the default, divides by the largest absolute value of the component in the data, so that all lie in
        [-1, 1]; ``"standard"`` subtracts the component's mean and divides by its deviation, over samples, nodes and
        times; ``"none"`` leaves data as they are.

    Attributes
    ----------
    shift_ : np.ndarray
        What is subtracted from each component.
    scale_ : np.ndarray
        What each component is divided by.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[[[1.0, -4.0]]], [[[2.0, 0.0]]]])
    >>> FieldScaler().fit_transform(X)[0, 0, 0]
    array([ 0.25, -1.  ])
    """

    def __init__(self, kind: str = "max") -> None:
        self.kind = kind

    def fit(self, X: Any, y: object = None) -> "FieldScaler":
        """Find the scale of data.

        Parameters
        ----------
        X
            Samples whose second axis is that of the components, such as (n, C, n_b, n_t).
        y
            Ignored; scikit-learn's interface has it.

        Returns
        -------
        FieldScaler
            The fitted scaler.

        Raises
        ------
        ValueError
            For data that are not finite, or another kind.
        """
        check_choice("kind", self.kind, KINDS)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True)
        axes = (0, *range(2, X.ndim))
        largest, standard = np.abs(X).max(axes), self.kind == "standard"
        self.shift_ = (X.mean(axes, dtype=np.float64) if standard else np.zeros(X.shape[1])).astype(X.dtype)
        scale = np.ones(X.shape[1]) if self.kind == "none" else X.std(axes, dtype=np.float64) if standard else largest
        least = _ROUNDING[X.dtype.itemsize] * largest if standard else 0  # below, there is rounding alone
        self.scale_ = np.where(scale > least, scale, 1).astype(X.dtype)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Scale `X`, of the shape of the data but for the number of samples.

        Returns
        -------
        np.ndarray
            Scaled samples of the same shape.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True, reset=False)
        return np.asarray((X - self._beside(self.shift_, X)) / self._beside(self.scale_, X))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Bring scaled samples `X` back to their size.

        Returns
        -------
        np.ndarray
            Samples of the same shape.
        """
        check_is_fitted(self)
        X = np.asarray(X)
        return np.asarray(X * self._beside(self.scale_, X) + self._beside(self.shift_, X))

    @staticmethod
    def _beside(values: np.ndarray, X: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *(1,) * (X.ndim - 2))


class PODTransform(TransformerMixin, BaseEstimator):
    r"""Coefficients of histories on their modes, all divided by the same number :math:`\sigma_1/\sqrt n`.

    The mean is subtracted first, so that :math:`\sigma_1/\sqrt n` is the deviation of the first coefficient. To divide
    each by its own deviation would make the noise of the last mode as important as the first mode. Decoding is linear,
    so what is decoded is as smooth in time as the modes are.

    Parameters
    ----------
    n_modes
        The most modes that are kept; None, the default, sets no limit.
    rtol
        Modes are kept until what is left out has this relative norm over the data; 1e-3, the default, leaves out 1e-6
        of the energy.

    Attributes
    ----------
    mean_ : np.ndarray
        The mean sample.
    modes_ : np.ndarray
        The modes, of shape (modes, ...), orthonormal as vectors.
    scale_ : float
        What all coefficients are divided by.
    n_modes_ : int
        How many modes are kept.

    References
    ----------
    Boukraichi et al., arXiv:2110.13680, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(50, 2, 3, 4))
    >>> pod = PODTransform(rtol=1e-9).fit(X)
    >>> bool(np.allclose(pod.inverse_transform(pod.transform(X)), X)), pod.n_modes_
    (True, 24)
    """

    def __init__(self, n_modes: int | None = None, rtol: float | None = 1e-3) -> None:
        self.n_modes = n_modes
        self.rtol = rtol

    def fit(self, X: Any, y: object = None) -> "PODTransform":
        """Find mean and modes.

        Parameters
        ----------
        X
            Samples of any shape (n, ...), two or more.
        y
            Ignored; scikit-learn's interface has it.

        Returns
        -------
        PODTransform
            The fitted transform.

        Raises
        ------
        ValueError
            For data that are not finite or do not vary.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True, ensure_min_samples=2)
        self.mean_ = X.mean(0, dtype=np.float64).astype(X.dtype)
        centred = (X - self.mean_).reshape(len(X), -1)
        if np.abs(centred).max() <= _ROUNDING[X.dtype.itemsize] * np.abs(X).max():
            raise ValueError(f"X has {len(X)} samples that are all the same; it takes some that vary")
        pod = SnapshotPOD(self.n_modes, self.rtol).fit(centred)
        self.n_modes_ = pod.n_modes_
        self.modes_ = pod.modes_.reshape(-1, *X.shape[1:])
        self.scale_ = float(pod.singular_values_[0] / np.sqrt(len(X)))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the scaled coefficients of samples `X`.

        Returns
        -------
        np.ndarray
            Coefficients of shape (n, n_modes_).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True, reset=False)
        if X.shape[1:] != self.mean_.shape:
            raise ValueError(f"X has samples of shape {X.shape[1:]}; it takes {self.mean_.shape}")
        flat = (X - self.mean_).reshape(len(X), -1)
        return np.asarray(flat @ self.modes_.reshape(self.n_modes_, -1).T / self.scale_)

    def inverse_transform(self, coefficients: Any) -> np.ndarray:
        """Return the samples that scaled `coefficients` (n, n_modes_) stand for.

        Returns
        -------
        np.ndarray
            Samples of the shape of the data.
        """
        check_is_fitted(self)
        q = np.asarray(coefficients)
        if q.ndim != 2 or q.shape[1] != self.n_modes_:
            raise ValueError(f"coefficients have shape {q.shape}; it takes (n, {self.n_modes_})")
        flat = q @ (self.modes_.reshape(self.n_modes_, -1) * self.scale_)
        return np.asarray(flat.reshape(len(q), *self.mean_.shape) + self.mean_)
