"""Looking several steps ahead by simulation (arXiv 1807.02811, Section 4.4)."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values
from paperworks.optimization.bayesian.batch import _normal_draws
from paperworks.optimization.bayesian.piecewise import log_h
from paperworks.optimization.bayesian.posterior import Posterior


class RolloutEI(Acquisition):
    """E[(max of the next `depth` values of f - best)^+] where x comes first and expected improvement chooses the rest.

    Later points are chosen from a finite set, by the law of f given what was simulated before; the simulations are
    quasi-random and the same for every x. It is meant to evaluate policies more than to be searched.

    Parameters
    ----------
    model
        A fitted `GaussianProcess`.
    best
        The value to improve on.
    candidates
        Points that later steps choose from.
    depth
        Steps in all; 1 is expected improvement.
    n_simulations
        How many futures are simulated.
    random_state
        Seed of the simulations.

    Raises
    ------
    ValueError
        Where the model has no data, or a shape doesn't fit.

    References
    ----------
    arXiv 1807.02811, Section 4.4; Lam, Willcox and Wolpert (2016).

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> grid = np.linspace(0, 1, 21)[:, None]
    >>> one, two = (RolloutEI(model, 1.0, grid, depth=d)([[0.6]])[0] for d in (1, 2))
    >>> bool(two > one)
    True
    """

    has_gradient = False

    def __init__(
        self,
        model: Any,
        best: float,
        candidates: ArrayLike,
        *,
        depth: int = 2,
        n_simulations: int = 256,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model)
        self.best, self.depth = check_number("best", best), check_count("depth", depth)
        A = np.asarray(candidates, dtype=float)
        if A.ndim != 2 or A.shape[1] != self.posteriors[0].scaling.low.size:
            raise ValueError(f"candidates has shape {A.shape}; it takes points in rows")
        self.A = A
        self.z = _normal_draws(check_count("n_simulations", n_simulations), self.depth, random_state)
        self.anchors = [p.anchors(A) for p in self.posteriors]
        self.covariances = [p.joint(A[None]).covariance[0] for p in self.posteriors]

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        return np.array([self._one(number, posterior, x) for x in X]), None

    def _one(self, number: int, posterior: Posterior, x: Float[np.ndarray, "1 d"]) -> float:
        joint = posterior.joint(x[None], self.anchors[number])
        assert joint.cross is not None
        n, noise = len(self.z), posterior.noise_variance
        floor = (1e-9 * posterior.scaling.scale) ** 2
        variance = max(float(joint.covariance[0, 0, 0]), 0.0)
        # The first step, from the same draws for f(x) as later ones: the noise is small beside what f may be.
        f = float(joint.mean[0, 0]) + math.sqrt(variance) * self.z[:, 0]
        top = np.maximum(self.best, f)
        step = joint.cross[0, 0] / math.sqrt(variance + noise + floor)
        mean = self.anchors[number].mean + self.z[:, [0]] * step
        steps = [np.broadcast_to(step, (n, len(step)))]
        S = self.covariances[number]
        left = np.maximum(S.diagonal() - step**2, floor) + np.zeros((n, 1))
        for k in range(1, self.depth):
            s = np.sqrt(left)
            score = np.log(s) + log_h((mean - top[:, None]) / s)
            i, rows = score.argmax(axis=1), np.arange(n)
            f = mean[rows, i] + s[rows, i] * self.z[:, k]
            cross = S[i] - sum(t * t[rows, i][:, None] for t in steps)
            step = cross / np.sqrt(left[rows, i] + noise + floor)[:, None]
            mean = mean + step * self.z[:, [k]]
            left = np.maximum(left - step**2, floor)
            steps.append(step)
            top = np.maximum(top, f)
        return float((top - self.best).mean())
