"""The paper's cantilever beam: its model, and the laws of its six inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.stats import qmc

from paperworks.inference import GaussianComponents

# Means and coefficients of variation of the loads F_X and F_Y, Young's modulus E, width w, thickness t and length L.
MEANS = np.array([556.8, 453.6, 200.0, 0.062, 0.0987, 4.29])
VARIATIONS = np.array([0.08, 0.08, 0.06, 0.1, 0.1, 0.1])
LOGNORMAL = slice(0, 3)  # the first three are log-normal, the others normal


def deflection(X: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, " n"]:
    """Return the deflection of the beam's end."""
    F_X, F_Y, E, w, t, L = X.T
    return 4 * L**3 / (1e9 * E * w * t) * np.sqrt((F_X / w**2) ** 2 + (F_Y / t**2) ** 2)


def marginals() -> Sequence[Any]:
    """Return the independent laws of the inputs in the study of Sobol' indices."""
    sigma = np.sqrt(np.log1p(VARIATIONS**2))
    lognormal = [stats.lognorm(s, scale=m * np.exp(-(s**2) / 2)) for m, s in zip(MEANS[:3], sigma[:3], strict=True)]
    return [*lognormal, *(stats.norm(m, c * m) for m, c in zip(MEANS[3:], VARIATIONS[3:], strict=True))]


class BeamLaws:
    """J laws of the inputs at once, whose means and correlations of width, thickness and length differ.

    Each is a normal law in the coordinates (ln F_X, ln F_Y, ln E, w, t, L).
    """

    def __init__(self, means: Float[np.ndarray, "J 6"], correlations: Float[np.ndarray, "J 3"]) -> None:
        sigma = VARIATIONS * means
        sigma[:, LOGNORMAL] = np.sqrt(np.log1p(VARIATIONS[LOGNORMAL] ** 2))
        centres = means.copy()
        centres[:, LOGNORMAL] = np.log(means[:, LOGNORMAL]) - sigma[:, LOGNORMAL] ** 2 / 2
        R = np.broadcast_to(np.eye(6), (len(means), 6, 6)).copy()
        for k, (i, j) in enumerate([(3, 4), (3, 5), (4, 5)]):
            R[:, i, j] = R[:, j, i] = correlations[:, k]
        self._normal = GaussianComponents(centres, R * sigma[:, :, None] * sigma[:, None, :])

    @classmethod
    def design(cls, J: int, rng: np.random.Generator) -> "BeamLaws":
        """Return laws whose nine hyper-parameters are a Latin hypercube."""
        low = np.array([525, 425, 175, 0.06, 0.09, 4, -0.6, 0, 0])
        high = np.array([575, 475, 225, 0.07, 0.1, 5, 0, 0.5, 0.5])
        design = qmc.scale(qmc.LatinHypercube(9, rng=rng).random(J), low, high)
        return cls(design[:, :6], design[:, 6:])

    def __len__(self) -> int:
        return len(self._normal)

    def rvs(self, size: int, random_state: Any = None, weights: Any = None) -> Float[np.ndarray, "size 6"]:
        """Draw from the mixture of the laws, by default the equal one."""
        X = self._normal.rvs(size, random_state, weights)
        X[:, LOGNORMAL] = np.exp(X[:, LOGNORMAL])
        return X

    def logpdf(self, X: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n J"]:
        """Return the log densities, minus infinity where a load or the modulus isn't positive."""
        positive = np.all(X[:, LOGNORMAL] > 0, axis=1)
        Z = np.where(positive[:, None], X, 1.0)
        Z[:, LOGNORMAL] = np.log(Z[:, LOGNORMAL])
        density = self._normal.logpdf(Z) - Z[:, LOGNORMAL].sum(axis=1, keepdims=True)
        return np.where(positive[:, None], density, -np.inf)
