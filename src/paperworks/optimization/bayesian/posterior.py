"""The posterior of a Gaussian process at one set of hyper-parameters: moments, covariances and their gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.derivatives import VALUE, DerivativeKernel
from paperworks.optimization.bayesian.kernels import Kernel
from paperworks.optimization.bayesian.trend import Trend

Points = Float[np.ndarray, "_ _"]  # one a row
Batches = Float[np.ndarray, "b q d"]


@dataclass(frozen=True)
class Scaling:
    """How points are brought into the unit cube, and values to mean 0 and variance 1."""

    low: Float[np.ndarray, " d"]
    width: Float[np.ndarray, " d"]
    shift: float = 0.0
    scale: float = 1.0

    def unit(self, X: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return (X - self.low) / self.width


class Joint(NamedTuple):
    """Joint moments of the process at batches of points, with what pulls weights back to a gradient by the points.

    `pull(mean_bar, covariance_bar, cross_bar)` takes weights in the shapes of the three, each or None.
    """

    mean: Float[np.ndarray, "b q"]
    covariance: Float[np.ndarray, "b q q"]
    cross: Float[np.ndarray, "b q a"] | None
    pull: Callable[..., Batches]


class Anchors(NamedTuple):
    """Fixed points, encoded, with what covariances to them take and their own means."""

    points: Points
    weights: Float[np.ndarray, "n a"]
    mean: Float[np.ndarray, " a"]


@dataclass(frozen=True)
class Posterior:
    """The posterior of a Gaussian process, all of it in the units of the data.

    Parameters
    ----------
    kernel
        Covariance function of the prior, in scaled units.
    theta
        Raw parameters of the kernel.
    trend
        Mean function of the prior.
    beta
        Coefficients of the trend.
    scaling
        How points and values are scaled.
    U
        Encoded points of the data.
    residual
        Scaled values less the trend.
    noise
        Variance of the noise of each datum, in scaled units.
    new_noise
        Variance of the noise of an observation to come, in scaled units.
    L
        Lower Cholesky factor of the covariance of the data.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> posterior = GaussianProcess(noise=0.0).fit([[0.0], [1.0]], [1.0, 3.0]).posteriors_[0]
    >>> mean, deviation = posterior.moments([[0.0]])
    >>> round(float(mean[0]), 6), bool(deviation[0] < 1e-4)
    (1.0, True)
    """

    kernel: Kernel
    theta: Float[np.ndarray, " p"]
    trend: Trend
    beta: Float[np.ndarray, " r"]
    scaling: Scaling
    U: Points
    residual: Float[np.ndarray, " n"]
    noise: Float[np.ndarray, " n"]
    new_noise: float
    L: Float[np.ndarray, "n n"]
    weights: Float[np.ndarray, " n"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", linalg.solve(self.L, self.residual))

    @property
    def noise_variance(self) -> float:
        """Variance of the noise of an observation to come, in the units of the data."""
        return self.new_noise * self.scaling.scale**2

    @property
    def log_likelihood(self) -> float:
        """Log marginal likelihood of the scaled data."""
        n = len(self.residual)
        logs = float(np.log(self.L.diagonal()).sum())
        return -0.5 * float(self.residual @ self.weights) - logs - 0.5 * n * math.log(2 * math.pi)

    @property
    def prior_scale(self) -> float:
        """Variance of the prior at the first datum, in scaled units."""
        return float(self.kernel.diagonal(self.theta, self.U[:1])[0][0])

    def encode(self, X: Points, component: int | None = None) -> Points:
        """Return points `X` as the kernel takes them: those of values, or of derivatives by column `component`.

        Returns
        -------
        Points
            Scaled points, with the component as last column where data hold derivatives.
        """
        U = self.scaling.unit(np.asarray(X, dtype=float))
        if not isinstance(self.kernel, DerivativeKernel):
            if component is not None:
                raise ValueError("component is given; it takes a process that was fitted with derivatives")
            return U
        return np.column_stack([U, np.full(len(U), VALUE if component is None else component)])

    def anchors(self, X: Points) -> Anchors:
        """Return fixed points `X`, ready for covariances to them.

        Returns
        -------
        Anchors
            The points with their weights and means.
        """
        return self._anchored(self.encode(X))

    def _anchored(self, P: Points) -> Anchors:
        C, _ = self.kernel.at(self.theta, P, self.U)
        V = linalg.solve(self.L, np.asfortranarray(C.T))
        return Anchors(P, V, self._mean(P, C))

    def _mean(self, P: Points, C: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
        scaling = self.scaling
        return scaling.shift + scaling.scale * (C @ self.weights + self.trend.basis(P) @ self.beta)

    def joint(self, X: Batches, anchors: Anchors | None = None) -> Joint:
        """Return joint moments within each batch of `X`, and covariances with `anchors`.

        Parameters
        ----------
        X
            Batches of points in the units of the data.
        anchors
            Fixed points, from the method `anchors`.

        Returns
        -------
        Joint
            Means, covariances within batches, covariances with the anchors, and what pulls weights back.
        """
        b, q, d = X.shape
        n, scale2 = len(self.U), self.scaling.scale**2
        U = self.encode(X.reshape(b * q, d))
        P = self.U if anchors is None else np.concatenate([self.U, anchors.points])
        K, pull_k = self.kernel.at(self.theta, U, P)
        C = K[:, :n]
        V = linalg.solve(self.L, np.asfortranarray(C.T))  # (n, b q)
        mean = self._mean(U, C).reshape(b, q)
        if q == 1:
            prior, slope = self.kernel.diagonal(self.theta, U)
            variance = np.maximum(prior - np.einsum("mn,nm->m", C, V), 0.0)
            covariance, blocks = scale2 * variance.reshape(b, 1, 1), []
        else:
            slope = None
            blocks = [self.kernel.at(self.theta, u, u) for u in U.reshape(b, q, -1)]
            reduced = C.reshape(b, q, n) @ V.T.reshape(b, q, n).swapaxes(1, 2)
            covariance = scale2 * (np.stack([block for block, _ in blocks]) - reduced)
        cross = None if anchors is None else scale2 * (K[:, n:] - C @ anchors.weights).reshape(b, q, -1)

        def pull(mean_bar: object = None, covariance_bar: object = None, cross_bar: object = None) -> Batches:
            W = np.zeros_like(K)
            extra: np.ndarray | float = 0.0
            if mean_bar is not None:
                w = self.scaling.scale * np.asarray(mean_bar).reshape(-1, 1)
                W[:, :n] += w * self.weights
                extra = w * self.trend.gradient(U, self.beta)
            if covariance_bar is not None:
                S = scale2 * np.asarray(covariance_bar)
                S = 0.5 * (S + S.swapaxes(1, 2))
                W[:, :n] -= 2 * (S @ V.T.reshape(b, q, n)).reshape(b * q, n)
                if q > 1:
                    extra = extra + np.concatenate(
                        [2 * inner(s)[0] for (_, inner), s in zip(blocks, S, strict=True)]
                    )  # both arguments are the batch, so twice the first's
                elif slope is not None:
                    extra = extra + S.reshape(-1, 1) * slope
            if cross_bar is not None and anchors is not None:
                B = scale2 * np.asarray(cross_bar).reshape(b * q, -1)
                W[:, n:] += B
                W[:, :n] -= B @ anchors.weights.T
            gradient = pull_k(W)[0] + extra
            return (gradient[:, :d] / self.scaling.width).reshape(b, q, d)

        return Joint(mean, covariance, cross, pull)

    def moments(
        self, X: ArrayLike, gradient: bool = False
    ) -> tuple[Float[np.ndarray, " m"], ...] | tuple[Float[np.ndarray, "..."], ...]:
        """Return means and standard deviations at points `X`, and with `gradient` those of both.

        Returns
        -------
        tuple[Float[np.ndarray, " m"], ...] | tuple[Float[np.ndarray, "..."], ...]
            Mean, deviation, and the gradients of the two where they are asked for.
        """
        points = np.atleast_2d(np.asarray(X, dtype=float))
        joint = self.joint(points[:, None])
        mean, deviation = joint.mean[:, 0], np.sqrt(joint.covariance[:, 0, 0])
        if not gradient:
            return mean, deviation
        by_mean = joint.pull(np.ones_like(joint.mean))[:, 0]
        half = 0.5 / np.maximum(deviation, 1e-150)
        by_deviation = joint.pull(None, half[:, None, None])[:, 0]
        return mean, deviation, by_mean, by_deviation

    def covariance(self, X: Points, Z: Points) -> Float[np.ndarray, "m k"]:
        """Return the posterior covariances of the values at points `X` and `Z`.

        Returns
        -------
        Float[np.ndarray, "m k"]
            One row for each point of `X`.
        """
        U = self.encode(X)
        anchors = self.anchors(Z)
        K, _ = self.kernel.at(self.theta, U, np.concatenate([self.U, anchors.points]))
        n = len(self.U)
        return self.scaling.scale**2 * (K[:, n:] - K[:, :n] @ anchors.weights)

    def rows_covariance(self, P: Points, Q: Points) -> Float[np.ndarray, "m k"]:
        """Return posterior covariances of encoded rows `P` and `Q`, which may be derivatives, in scaled units.

        Returns
        -------
        Float[np.ndarray, "m k"]
            One row for each row of `P`.
        """
        A, _ = self.kernel.at(self.theta, P, self.U)
        B, _ = self.kernel.at(self.theta, Q, self.U)
        K, _ = self.kernel.at(self.theta, P, Q)
        return K - A @ linalg.solve(self.L, np.asfortranarray(B.T))

    def pairs(self, X: Points, Z: Points) -> tuple[Float[np.ndarray, " m"], Callable[..., tuple[Points, Points]]]:
        """Return covariances of the i-th point of `X` with the i-th of `Z`, and what pulls weights back to both.

        Returns
        -------
        tuple[Float[np.ndarray, " m"], Callable[..., tuple[Points, Points]]]
            The covariances, and a function of weights that returns the gradients by `X` and by `Z`.
        """
        U, P = self.encode(X), self.encode(Z)
        n, d = len(self.U), X.shape[1]
        K, pull_x = self.kernel.at(self.theta, U, np.concatenate([self.U, P]))
        KZ, pull_z = self.kernel.at(self.theta, P, np.concatenate([self.U, U]))
        VX, VZ = (linalg.solve(self.L, np.asfortranarray(k[:, :n].T)) for k in (K, KZ))
        scale2 = self.scaling.scale**2
        values = scale2 * (K[:, n:].diagonal() - np.einsum("mn,nm->m", K[:, :n], VZ))

        def pull(w: Float[np.ndarray, " m"]) -> tuple[Points, Points]:
            w = scale2 * w
            by_x = pull_x(np.concatenate([-w[:, None] * VZ.T, np.diag(w)], axis=1))[0]
            by_z = pull_z(np.concatenate([-w[:, None] * VX.T, np.diag(w)], axis=1))[0]
            return by_x[:, :d] / self.scaling.width, by_z[:, :d] / self.scaling.width

        return values, pull

    def condition(
        self, X: Points, y: Float[np.ndarray, " m"], noise: Float[np.ndarray, " m"] | float | None = None
    ) -> "Posterior":
        """Return the posterior with further data at the same hyper-parameters, in O(n^2) for a point.

        Parameters
        ----------
        X
            Further points in the units of the data.
        y
            Values at these points.
        noise
            Variances of their noise, by default that of all data.

        Returns
        -------
        Posterior
            A new posterior; this one stays as it is.
        """
        P = self.encode(X)
        return self.condition_rows(
            P,
            (np.asarray(y, dtype=float) - self.scaling.shift) / self.scaling.scale,
            None if noise is None else np.broadcast_to(noise, len(P)) / self.scaling.scale**2,
        )

    def condition_rows(
        self, P: Points, y: Float[np.ndarray, " m"], noise: Float[np.ndarray, " m"] | None = None
    ) -> "Posterior":
        """Return the posterior with further data in encoded rows and scaled units.

        Parameters
        ----------
        P
            Encoded rows, of values or of derivatives.
        y
            Scaled values there.
        noise
            Scaled variances of their noise, by default that of an observation to come.

        Returns
        -------
        Posterior
            A new posterior; this one stays as it is.
        """
        added = np.full(len(P), self.new_noise) if noise is None else np.asarray(noise, dtype=float)
        B, _ = self.kernel.at(self.theta, self.U, P)
        C, _ = self.kernel.at(self.theta, P, P)
        return replace(
            self,
            U=np.concatenate([self.U, P]),
            residual=np.append(self.residual, y - self.trend.basis(P) @ self.beta),
            noise=np.append(self.noise, added),
            L=linalg.append(self.L, B, C + np.diag(added), self.prior_scale),
        )
