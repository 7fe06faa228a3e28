"""A Gaussian process of scikit-learn as a model of Emukit, whose own wrapper needs GPy."""

import numpy as np
from jaxtyping import Float
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

Rows = Float[np.ndarray, "_ _"]


class SklearnModel:
    """A Matern-5/2 process with fitted hyper-parameters, in the interface of Emukit's models.

    Parameters
    ----------
    X, Y
        Points and values of the data.
    """

    def __init__(self, X: Rows, Y: Rows) -> None:
        self.set_data(X, Y)

    def set_data(self, X: Rows, Y: Rows) -> None:
        """Fit the process to other data, of points `X` and values `Y`."""
        import warnings

        self._X, self._Y = X, Y
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(np.full(X.shape[1], 0.5), (1e-2, 1e2), nu=2.5)
        self.process = GaussianProcessRegressor(
            kernel, alpha=1e-8, normalize_y=True, n_restarts_optimizer=1, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.process.fit(X, Y.ravel())

    @property
    def X(self) -> Rows:
        """Points of the data."""
        return self._X

    @property
    def Y(self) -> Rows:
        """Values of the data."""
        return self._Y

    def optimize(self) -> None:
        """Do nothing: a fit has done it."""

    def predict(self, X: Rows) -> tuple[Rows, Rows]:
        """Return means and variances at points `X`."""
        mean, deviation = self.process.predict(X, return_std=True)
        return mean[:, None], np.maximum(deviation[:, None] ** 2, 1e-12)

    def predict_noiseless(self, X: Rows) -> tuple[Rows, Rows]:
        """Return means and variances without noise at points `X`."""
        return self.predict(X)
