"""Smooth regressors that can be differentiated: the paper's networks J climb the error of a predictor through them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.neural_network import MLPRegressor
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from paperworks.core.validation import check_count, check_number

TorchFunction = Callable[[Tensor], Tensor]
"""Maps inputs (..., d) to predictions (...)."""

_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the random features, times the root of the number of inputs
_PENALTIES = np.logspace(-6, 4, 21)  # times the number of samples; the largest leave the mean


class SmoothRegressor(RegressorMixin, BaseEstimator):
    """Ridge regression on the inputs and random Fourier features of them, with settings by leave-one-out.

    Lengths of the features and penalties range from the mean to a flexible curve. Among settings whose leave-one-out
    error can't be told from the least one, the stiffest is taken: where the inputs say nothing that is a constant,
    which no intervention on them can attack.

    Parameters
    ----------
    n_features
        Number of random features.
    standard_errors
        How many standard errors of the difference an error may be above the least one; 0 takes the least.
    random_state
        Seed of the features.

    Examples
    --------
    >>> X = np.linspace(-2, 2, 100)[:, None]
    >>> model = SmoothRegressor().fit(X, np.sin(2 * X[:, 0]))
    >>> bool(abs(model.predict([[1.0]])[0] - np.sin(2)) < 0.01)
    True
    """

    def __init__(self, n_features: Any = 64, standard_errors: Any = 1.0, random_state: Any = 0) -> None:
        self.n_features = n_features
        self.standard_errors = standard_errors
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "SmoothRegressor":
        """Fit to inputs (n, d) and targets (n,).

        Parameters
        ----------
        X
            Inputs of shape (n, d).
        y
            Targets of shape (n,).

        Returns
        -------
        SmoothRegressor
            The fitted regressor itself.

        Raises
        ------
        ValueError
            For shapes that don't match, fewer than two samples, numbers that aren't finite, or parameters out of range.
        """
        count = check_count("n_features", self.n_features)
        slack = check_number("standard_errors", self.standard_errors, ge=0)
        inputs, targets = validate_data(self, X, y, y_numeric=True, dtype=float, ensure_min_samples=2)
        n, d = inputs.shape
        # In units of their largest sizes no square overflows or vanishes; powers of two cost no digits.
        units, unit = _units(inputs), float(_units(targets[:, None])[0])
        inputs, targets = inputs / units, targets / unit
        mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
        # What varies by rounding alone is a constant: nothing is known of its other values, so that none counts.
        constant = spread <= n * np.finfo(float).eps * np.abs(inputs).max(axis=0)
        scale = np.where(constant, np.inf, spread)
        self.mean_, self.scale_ = mean * units, scale * units
        intercept = float(np.mean(targets))
        rng = np.random.default_rng(self.random_state)
        directions, self.phases_ = rng.standard_normal((d, count)), rng.uniform(0, 2 * np.pi, count)
        Z, centred = (inputs - mean) / scale, targets - intercept
        frequencies = [directions / (length * d**0.5) for length in _LENGTHS]
        paths = [_RidgePath(_features(Z, each, self.phases_), centred) for each in frequencies]
        errors = np.concatenate([path.errors for path in paths], axis=1)
        freedom = np.concatenate([path.freedom for path in paths])
        best = int(errors.mean(axis=0).argmin())
        excess = errors - errors[:, [best]]
        close = excess.mean(axis=0) <= slack * excess.std(axis=0) / n**0.5
        chosen = int(np.where(close, freedom, np.inf).argmin())
        k, penalty = divmod(chosen, len(_PENALTIES))
        self.frequencies_, self.offset_ = frequencies[k], paths[k].offset
        self.intercept_, self.coef_ = intercept * unit, paths[k].coef(penalty) * unit
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " n"]:
        """Predict at inputs (n, d).

        Parameters
        ----------
        X
            Inputs of shape (n, d).

        Returns
        -------
        ndarray of shape (n,)
            One prediction for each input, in the unit of the target.
        """
        check_is_fitted(self)
        Z = (validate_data(self, X, reset=False, dtype=float) - self.mean_) / self.scale_
        return self.intercept_ + (_features(Z, self.frequencies_, self.phases_) - self.offset_) @ self.coef_

    def torch_function(self) -> TorchFunction:
        """Return the prediction as a function of tensors.

        Returns
        -------
        TorchFunction
            Maps inputs (..., d) to predictions (...), differentiably.
        """
        check_is_fitted(self)
        mean, scale, frequencies, phases, coef = (
            torch.from_numpy(array) for array in (self.mean_, self.scale_, self.frequencies_, self.phases_, self.coef_)
        )
        d, constant = len(mean), self.intercept_ - float(self.offset_ @ self.coef_)
        wave = (2 / len(phases)) ** 0.5 * coef[d:]

        return functools.partial(_smooth, mean, scale, frequencies, phases, coef[:d], wave, constant)


def _units(columns: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    return np.ldexp(1.0, np.frexp(np.abs(columns).max(axis=0))[1] - 1)


def _features(
    Z: Float[np.ndarray, "n d"], frequencies: Float[np.ndarray, "d D"], phases: Float[np.ndarray, " D"]
) -> Float[np.ndarray, "n d+D"]:
    return np.concatenate([Z, (2 / len(phases)) ** 0.5 * np.cos(Z @ frequencies + phases)], axis=1)


class _RidgePath:
    """Ridge regressions of a centred target at all penalties, with the leave-one-out errors of each."""

    def __init__(self, features: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> None:
        n, self.offset = len(y), features.mean(axis=0)
        U, self._s, self._Vt = np.linalg.svd(features - self.offset, full_matrices=False)
        self._projected = U.T @ y
        self._penalties = n * _PENALTIES
        shrinkage = self._s[:, None] ** 2 / (self._s[:, None] ** 2 + self._penalties)
        leverage = 1 / n + U**2 @ shrinkage
        residuals = y[:, None] - U @ (shrinkage * self._projected[:, None])
        self.errors: Float[np.ndarray, "n penalties"] = (residuals / np.maximum(1 - leverage, 1e-9)) ** 2
        self.freedom: Float[np.ndarray, " penalties"] = shrinkage.sum(axis=0)

    def coef(self, k: int) -> Float[np.ndarray, " p"]:
        return self._Vt.T @ (self._s / (self._s**2 + self._penalties[k]) * self._projected)


def torch_function(regressor: Any, X: Float[np.ndarray, "n d"]) -> TorchFunction:
    """Return a fitted regressor as a function of tensors.

    One that has a `torch_function` of its own, is linear or one of scikit-learn's networks is exact; any other is
    replaced by a `SmoothRegressor` that is fitted to its predictions at X.
    """
    if hasattr(regressor, "torch_function"):
        return regressor.torch_function()
    coef = np.asarray(getattr(regressor, "coef_", np.empty(0)), dtype=float).ravel()
    if coef.size == X.shape[1] and np.size(getattr(regressor, "intercept_", ())) == 1:
        weights, constant = torch.from_numpy(coef), float(np.squeeze(regressor.intercept_))
        return functools.partial(_linear, weights, constant)
    if isinstance(regressor, MLPRegressor):
        layers = [
            (torch.from_numpy(W), torch.from_numpy(b))
            for W, b in zip(regressor.coefs_, regressor.intercepts_, strict=True)
        ]
        return functools.partial(_network, regressor.activation, layers)
    return SmoothRegressor(n_features=300).fit(X, np.asarray(regressor.predict(X), dtype=float)).torch_function()


# Partial calls of these can be pickled, closures can't.


def _smooth(
    mean: Tensor,
    scale: Tensor,
    frequencies: Tensor,
    phases: Tensor,
    slopes: Tensor,
    wave: Tensor,
    constant: float,
    X: Tensor,
) -> Tensor:
    Z = (X - mean) / scale
    return constant + Z @ slopes + torch.cos(Z @ frequencies + phases) @ wave


def _linear(weights: Tensor, constant: float, X: Tensor) -> Tensor:
    return X @ weights + constant


def _network(activation: str, layers: list[tuple[Tensor, Tensor]], X: Tensor) -> Tensor:
    functions: dict[str, TorchFunction] = {
        "identity": lambda x: x,
        "logistic": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
    }
    *hidden, (last, bias) = layers
    for W, b in hidden:
        X = functions[activation](X @ W + b)
    return (X @ last + bias)[..., 0]
