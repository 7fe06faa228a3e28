"""What all acquisition functions share: a fitted model, batches of points, averages over hyper-parameters."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.optimization.bayesian.posterior import Posterior

Values = Float[np.ndarray, " b"]
Batches = Float[np.ndarray, "b q d"]


class Acquisition(ABC):
    """A function of points that says how much an evaluation there is worth, under a fitted model.

    It is called with points, one a row, or with batches of `q` points, and returns one value each; with
    ``gradient=True`` also the gradients in the shape of the points. Over draws of hyper-parameters it is the average.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.

    Attributes
    ----------
    q
        Points of a batch.
    is_log
        Whether values are logarithms, of which the average is that of what they are logarithms of.
    has_gradient
        Whether gradients are known; a search takes differences otherwise.
    """

    q: int = 1
    is_log: bool = False
    has_gradient: bool = True

    def __init__(self, model: Any) -> None:
        self.posteriors = posteriors_of(model)

    @property
    def n_decisions(self) -> int:
        """Points of a batch that are to be evaluated; others only help to find them."""
        return self.q

    def complete(self, X: Batches) -> Batches:
        """Return batches `X` of decisions with the further points that a search needs besides.

        Returns
        -------
        Batches
            Batches of `q` points.
        """
        return X

    @abstractmethod
    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        """Return values and gradients under the posterior of one draw of the hyper-parameters."""

    def __call__(self, X: ArrayLike, gradient: bool = False) -> Any:
        """Return the value of each point or batch of `X`, and with `gradient` the gradients.

        Parameters
        ----------
        X
            Points of shape (m, d), or batches of shape (m, q, d).
        gradient
            Whether gradients in the shape of `X` are returned too.

        Returns
        -------
        Any
            Values, or values and gradients.
        """
        points = np.asarray(X, dtype=float)
        d = self.posteriors[0].scaling.low.size
        shape = points.shape
        if points.ndim == 2 and self.q == 1:
            points = points[:, None]
        if points.ndim != 3 or points.shape[1:] != (self.q, d):
            takes = f"(m, {d})" if self.q == 1 else f"(m, {self.q}, {d})"
            raise ValueError(f"X has shape {shape}; it takes {takes}")
        if not np.isfinite(points).all():
            raise ValueError("X has NaN or infinite elements; it takes finite numbers")
        found = [self._evaluate(k, p, points, gradient) for k, p in enumerate(self.posteriors)]
        values, slopes = average(found, self.is_log)
        if not gradient:
            return values
        return values, slopes.reshape(shape)


def average(found: list[tuple[Values, Batches | None]], is_log: bool) -> tuple[Values, Any]:
    """Return the average of values and gradients, of which `is_log` says whether they are of logarithms."""
    if len(found) == 1:
        return found[0]
    V = np.array([values for values, _ in found])
    if is_log:
        top = V.max(axis=0)
        shares = np.exp(V - np.where(np.isfinite(top), top, 0.0))
        total = shares.sum(axis=0)
        with np.errstate(divide="ignore"):
            values = top + np.log(np.maximum(total, 1e-300) / len(V))
        shares = shares / np.maximum(total, 1e-300)
    else:
        values, shares = V.mean(axis=0), np.full_like(V, 1 / len(V))
    if found[0][1] is None:
        return values, None
    return values, sum(s[:, None, None] * g for s, (_, g) in zip(shares, found, strict=True))


def posteriors_of(model: Any) -> list[Posterior]:
    """Return the posteriors of a fitted model, or of a posterior by itself."""
    if isinstance(model, Posterior):
        return [model]
    found = getattr(model, "posteriors_", None)
    if not found:
        raise ValueError(f"model is {model!r}, which has no data yet; it takes a GaussianProcess that was fitted")
    return list(found)
