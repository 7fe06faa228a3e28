"""Functions drawn from a posterior: random Fourier features of the prior, moved onto the data (Section 4.3)."""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.ascent import maximise_rows
from paperworks.optimization.bayesian.kernels import MaternKernel, RBFKernel
from paperworks.optimization.bayesian.posterior import Posterior
from paperworks.optimization.bayesian.search import box_of, sobol

Points = Float[np.ndarray, "_ _"]  # one a row


class PosteriorPaths:
    """Functions drawn from the posterior of a stationary process, to be evaluated and maximised anywhere.

    A draw of the prior is a sum of random Fourier features; k(x, X) K^-1 (y - f(X) - noise) moves it onto the data.

    Parameters
    ----------
    posterior
        One of a fitted model's `posteriors_`, with a Matern or an RBF kernel of all columns.
    n_paths
        How many functions.
    n_features
        Pairs of Fourier features.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the kernel is another.

    References
    ----------
    Rahimi and Recht (2007); Wilson et al., arXiv 2002.09309, for the move onto the data.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> paths = PosteriorPaths(model.posteriors_[0], 5)
    >>> bool(abs(paths([[0.4]]) - 1).max() < 1e-3)  # they pass through the data
    True
    """

    def __init__(
        self,
        posterior: Posterior,
        n_paths: int,
        n_features: int = 500,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        kernel = posterior.kernel
        if not isinstance(kernel, (MaternKernel, RBFKernel)) or kernel.columns is not None:
            raise ValueError(f"posterior has the kernel {kernel!r}; it takes MaternKernel or RBFKernel of all columns")
        rng = np.random.default_rng(random_state)
        lengths, amplitude = kernel._split(posterior.theta)
        d = posterior.U.shape[1]
        omega = rng.standard_normal((n_features, d)) / lengths
        if isinstance(kernel, MaternKernel):  # its spectrum is Student's t
            omega *= np.sqrt(2 * kernel.nu / rng.chisquare(2 * kernel.nu, (n_features, 1)))
        self.posterior, self.omega = posterior, omega
        self.w = rng.standard_normal((2 * n_features, n_paths)) * math.sqrt(amplitude / n_features)
        noise = rng.standard_normal((len(posterior.U), n_paths)) * np.sqrt(posterior.noise)[:, None]
        missing = posterior.residual[:, None] - self._features(posterior.U) @ self.w - noise
        self.v = linalg.solve(posterior.L, np.asfortranarray(missing))

    def _features(self, U: Points) -> Float[np.ndarray, "m k"]:
        angles = U @ self.omega.T
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)

    def __call__(self, X: ArrayLike) -> Float[np.ndarray, "s m"]:
        """Return the values of all functions at points `X`.

        Returns
        -------
        Float[np.ndarray, "s m"]
            One row for each function.
        """
        p = self.posterior
        U = p.encode(np.asarray(X, dtype=float))
        K, _ = p.kernel.at(p.theta, U, p.U)
        values = self._features(U) @ self.w + K @ self.v + (p.trend.basis(U) @ p.beta)[:, None]
        return p.scaling.shift + p.scaling.scale * values.T

    def rows(self, X: Points, which: np.ndarray) -> tuple[Float[np.ndarray, " r"], Points]:
        """Return the value and the gradient of the function of number which[i] at the i-th row of `X`.

        Parameters
        ----------
        X
            One point for each function.
        which
            Numbers of the functions.

        Returns
        -------
        tuple[Float[np.ndarray, " r"], Points]
            Values and gradients.
        """
        p = self.posterior
        U = p.encode(X)
        K, pull = p.kernel.at(p.theta, U, p.U)
        angles = U @ self.omega.T
        half = len(self.omega)
        a, b = self.w[:half, which].T, self.w[half:, which].T
        cos, sin = np.cos(angles), np.sin(angles)
        V = self.v[:, which].T
        values = (a * cos + b * sin).sum(axis=1) + (K * V).sum(axis=1) + p.trend.basis(U) @ p.beta
        slope = (b * cos - a * sin) @ self.omega + pull(V)[0] + p.trend.gradient(U, p.beta)
        return p.scaling.shift + p.scaling.scale * values, p.scaling.scale * slope / p.scaling.width

    def maximise(self, bounds: ArrayLike, n_raw: int = 1024) -> tuple[Points, Float[np.ndarray, " s"]]:
        """Return where each function is greatest within bounds, and its values there.

        Parameters
        ----------
        bounds
            Low and high of each column.
        n_raw
            Sobol points that each search begins from the best two of.

        Returns
        -------
        tuple[Points, Float[np.ndarray, " s"]]
            One point for each function, and the greatest values.
        """
        box = box_of(bounds)
        low, high = box.T
        inside = np.clip(self.posterior.U * self.posterior.scaling.width + self.posterior.scaling.low, low, high)
        X = np.concatenate([low + (high - low) * sobol(n_raw, len(box), 0), inside])
        values = self(X)
        first = np.argsort(-values, axis=1, kind="stable")[:, :2]
        paths = np.repeat(np.arange(len(values)), 2)
        found, top = maximise_rows(
            lambda Y, rows: self.rows(Y, paths[rows]), X[first.ravel()], low, high, steps=30, rtol=1e-6
        )
        best = top.reshape(-1, 2).argmax(axis=1)
        numbers = 2 * np.arange(len(values)) + best
        return found[numbers], top[numbers]
