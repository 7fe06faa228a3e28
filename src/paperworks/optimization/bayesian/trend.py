"""Mean functions of a Gaussian process: linear combinations of basis functions (arXiv 1807.02811, Section 3.1)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "_ _"]  # one a row
Basis = Callable[[Points], Float[np.ndarray, "m r"]]


class Trend:
    """The basis of a mean function in scaled units: "zero", "constant", "linear", or a function of scaled points."""

    def __init__(self, mean: "str | float | Basis", derivatives: bool) -> None:
        self.mean, self.derivatives = mean, derivatives
        if callable(mean) and derivatives:
            raise ValueError("mean is a function; with derivatives it takes 'zero', 'constant', 'linear' or a number")

    def basis(self, P: Points) -> Float[np.ndarray, "m r"]:
        """Return the values of the basis functions, or their derivatives where a row stands for one."""
        if callable(self.mean):
            return np.asarray(self.mean(P), dtype=float).reshape(len(P), -1)
        if self.mean == "zero":
            return np.zeros((len(P), 0))
        if not self.derivatives:
            ones = np.ones((len(P), 1))
            return np.concatenate([ones, P], axis=1) if self.mean == "linear" else ones
        component = P[:, -1].astype(int)
        value = (component < 0)[:, None]
        if self.mean == "linear":
            d = P.shape[1] - 1
            slopes = np.where(value, P[:, :-1], np.eye(d + 1)[component][:, :d])
            return np.concatenate([value.astype(float), slopes], axis=1)
        return value.astype(float)

    def gradient(self, P: Points, beta: Float[np.ndarray, " r"]) -> Points | float:
        """Return the gradient of the mean function by the rows of `P`."""
        if callable(self.mean):
            h, columns = 1e-6, []
            for j in range(P.shape[1]):
                step = np.zeros(P.shape[1])
                step[j] = h
                columns.append((self.basis(P + step) - self.basis(P - step)) @ beta / (2 * h))
            return np.stack(columns, axis=1)
        if self.mean == "linear":
            return np.append(beta[1:], 0.0) if self.derivatives else beta[1:]
        return 0.0
