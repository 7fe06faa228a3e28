"""The estimator for given densities: importance sampling from their mixture, each a control of its own expectation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from paperworks.core.validation import check_number
from paperworks.inference.importance.coefficients import check_simplex
from paperworks.inference.importance.components import GaussianComponents
from paperworks.inference.importance.laws import InputLaws, log_mixture
from paperworks.inference.importance.points import covariance_of_mean, replicate_means


@dataclass(frozen=True)
class ISCVEstimate:
    """Estimates of J expectations from one sample.

    Parameters
    ----------
    estimate
        Estimated expectations, of shape (J,).
    covariance
        Estimated covariance of the estimates, of shape (J, J).

    Examples
    --------
    >>> ISCVEstimate(np.array([2.0]), np.array([[0.25]]), np.ones((4, 1))).std_error
    array([0.5])
    """

    estimate: Float[np.ndarray, " J"]
    covariance: Float[np.ndarray, "J J"]
    weights: Float[np.ndarray, "n laws"]
    """Importance weights ``f_j / g_alpha`` of the sample: one column a law."""

    @property
    def std_error(self) -> Float[np.ndarray, " J"]:
        """Standard errors of the estimates."""
        return np.sqrt(np.diagonal(self.covariance))


class ISCVEstimator:
    """Importance sampling with control variates for many expectations ``I_j = E_{f_j}[phi_j(X)]`` from one sample.

    With ``g_alpha = sum_j alpha_j g_j`` and draws from it, the estimate is the mean of
    ``(f_j phi_j - beta_j g_j) / g_alpha + beta_j``. It is unbiased for any alpha and beta, as g_j / g_alpha has mean 1,
    and has no variance at all where ``g_j = f_j phi_j / I_j`` and ``beta_j = I_j``, whatever alpha is.

    Parameters
    ----------
    components
        The densities g_j.
    alpha
        Weights of the mixture, of shape (J,).
    beta
        Control parameters, of shape (J,); zeros are plain importance sampling.
    defensive
        Share of the sample drawn from the input laws instead, which bounds the importance weights.
    input_dist
        The input laws, as in `multiple_expectations`; needed where `defensive` isn't 0.

    Raises
    ------
    ValueError
        For weights off the simplex, shapes that don't match, or a share without laws.

    References
    ----------
    arXiv 2212.00568, section 3.

    Examples
    --------
    >>> f = GaussianComponents([[0.0]], [[[1.0]]])
    >>> ideal = GaussianComponents([[1.0], [2.0]], np.ones((2, 1, 1)))  # of exp(x) and exp(2 x)
    >>> estimator = ISCVEstimator(ideal, [0.3, 0.7], np.exp([0.5, 2.0]))
    >>> X = estimator.rvs(10, 0)
    >>> np.log(estimator.estimate(X, f.logpdf(X), np.exp(X * [1, 2])).estimate).round(12)
    array([0.5, 2. ])
    """

    def __init__(
        self,
        components: GaussianComponents,
        alpha: ArrayLike,
        beta: ArrayLike,
        defensive: float = 0.0,
        input_dist: object = None,
    ) -> None:
        self.components = components
        self.alpha = check_simplex("alpha", alpha, len(components))
        self.beta = np.asarray(beta, dtype=float)
        if self.beta.shape != self.alpha.shape:
            raise ValueError(f"beta has shape {self.beta.shape}; it takes ({len(components)},)")
        self.defensive = check_number("defensive", defensive, ge=0, lt=1)
        if self.defensive and input_dist is None:
            raise ValueError(f"defensive is {defensive}; it takes an input_dist too")
        self._laws = input_dist if isinstance(input_dist, InputLaws) or input_dist is None else InputLaws(input_dist)

    def rvs(self, size: int, random_state: np.random.Generator | int | None = None) -> Float[np.ndarray, "size d"]:
        """Draw from the mixture, the defensive share included.

        Parameters
        ----------
        size
            Number of draws.
        random_state
            Seed or generator of NumPy; None draws a fresh one.

        Returns
        -------
        ndarray of shape (size, d)
            Draws in rows, of shape (size, d).
        """
        rng = np.random.default_rng(random_state)
        safe = rng.binomial(size, self.defensive) if self.defensive else 0
        drawn = self.components.rvs(size - safe, rng, self.alpha)
        return np.concatenate([self._laws.rvs(safe, rng), drawn]) if safe and self._laws is not None else drawn

    @property
    def shares(self) -> Float[np.ndarray, " parts"]:
        """Probabilities of the defensive share and of each Gaussian, in the order of `from_uniform`."""
        parts = (1 - self.defensive) * (self.alpha[:, None] * self.components.weights).ravel()
        return np.concatenate([[self.defensive], parts]) if self.defensive else parts

    def from_uniform(
        self, U: Float[np.ndarray, "n more_d"], random_state: np.random.Generator | int | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Map uniform points to draws from the mixture, the defensive share included.

        Parameters
        ----------
        U
            Points of the open unit cube, of shape (n, 1 + d): the first coordinate chooses the component.
        random_state
            Draws the defensive share where the input laws can't map uniform points.

        Returns
        -------
        ndarray of shape (n, d)
            One draw for each point.
        """
        if not self.defensive or self._laws is None:
            return self.components.from_uniform(U, self.alpha)
        X, safe = np.empty((len(U), U.shape[1] - 1)), U[:, 0] < self.defensive
        law, rest = U[safe], U[~safe]
        law[:, 0] /= self.defensive
        rest[:, 0] = (rest[:, 0] - self.defensive) / (1 - self.defensive)
        if self._laws.uniform_dimension is not None:
            X[safe] = self._laws.from_uniform(law)
        elif safe.any():
            X[safe] = self._laws.rvs(len(law), np.random.default_rng(random_state))
        X[~safe] = self.components.from_uniform(rest, self.alpha)
        return X

    def logpdf(self, X: Float[np.ndarray, "n d"], log_f: Float[np.ndarray, "n laws"]) -> Float[np.ndarray, " n"]:
        """Return the log density of the mixture at points with known log densities of the laws.

        Parameters
        ----------
        X
            Points of shape (n, d).
        log_f
            Log densities of the laws at the points, of shape (n, laws).

        Returns
        -------
        ndarray of shape (n,)
            The log density of the mixture at points with known log densities of the laws.
        """
        return self._mix(self.components.logpdf(X), log_f)

    def ratios(
        self, X: Float[np.ndarray, "n d"], log_f: Float[np.ndarray, "n laws"]
    ) -> tuple[Float[np.ndarray, "n laws"], Float[np.ndarray, "n J"]]:
        """Return ``f / g_alpha`` and ``g / g_alpha`` at points.

        Parameters
        ----------
        X
            Points of shape (n, d).
        log_f
            Log densities of the laws at the points, of shape (n, laws).

        Returns
        -------
        tuple[ndarray of shape (n, laws), ndarray of shape (n, J)]
            ``f / g_alpha`` and ``g / g_alpha`` at points.
        """
        log_g = self.components.logpdf(X)
        log_q = self._mix(log_g, log_f)[:, None]
        return np.exp(log_f - log_q), np.exp(log_g - log_q)

    def _mix(self, log_g: Float[np.ndarray, "n J"], log_f: Float[np.ndarray, "n laws"]) -> Float[np.ndarray, " n"]:
        with np.errstate(divide="ignore"):
            log_mixed = special.logsumexp(log_g + np.log(self.alpha), axis=1)
        if not self.defensive:
            return log_mixed
        return np.logaddexp(np.log1p(-self.defensive) + log_mixed, np.log(self.defensive) + log_mixture(log_f))

    def estimate(self, X: ArrayLike, log_f: ArrayLike, Y: ArrayLike) -> ISCVEstimate:
        """Estimate the expectations from draws.

        Parameters
        ----------
        X
            Draws from `rvs`, of shape (n, d).
        log_f
            Log densities of the input laws, of shape (n, J), or (n, 1) for one law.
        Y
            Values phi_j of shape (n, J), or (n, 1) for one function.

        Returns
        -------
        ISCVEstimate
            The J estimates with their covariance.

        Raises
        ------
        ValueError
            For shapes that don't match.
        """
        points, logs, values = (np.asarray(array, dtype=float) for array in (X, log_f, Y))
        n, J = len(points), len(self.components)
        for name, array in {"log_f": logs, "Y": values}.items():
            if array.ndim != 2 or len(array) != n or array.shape[1] not in (1, J):
                raise ValueError(f"{name} has shape {array.shape}; it takes ({n}, {J}) or ({n}, 1)")
        W, R = self.ratios(points, logs)
        return summarise(W, values, R, self.beta)


def summarise(
    W: Float[np.ndarray, "n laws"],
    Y: Float[np.ndarray, "n outputs"],
    R: Float[np.ndarray, "n J"],
    beta: Float[np.ndarray, " J"],
    replicates: int | None = None,
) -> ISCVEstimate:
    """Return the mean of ``W Y - beta R + beta`` and its covariance, from replicates of consecutive rows if given."""
    summands = W * Y - beta * R
    means = summands if replicates is None else replicate_means(summands, replicates)
    return ISCVEstimate(summands.mean(axis=0) + beta, covariance_of_mean(means), W)
