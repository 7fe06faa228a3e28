"""Many small optimisations of known processes at once, on a grid, by the exact sums of the library."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from paperworks.optimization import MaternKernel, piecewise_expectation

Policy = Literal["plug-in", "noisy", "kg"]
Draws = Float[np.ndarray, "draws grid"]


class GridProcess:
    """Functions drawn from a Matern-5/2 process of lengthscale 0.25 on a square grid, its hyper-parameters known."""

    def __init__(self, side: int, draws: int, noise: float, rng: np.random.Generator) -> None:
        axis = np.linspace(0, 1, side)
        X = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        self.prior = MaternKernel(2.5, ard=False).at(np.log([0.25, 1.0]), X, X)[0]
        L = np.linalg.cholesky(self.prior + 1e-10 * np.eye(len(X)))
        self.f = rng.standard_normal((draws, len(X))) @ L.T
        self.noise = (noise * self.f.std(axis=1)) ** 2
        self.draws = draws

    def run(self, policy: Policy, first: int, steps: int, seed: int) -> dict[str, Float[np.ndarray, " draws"]]:
        """Evaluate `first` random points and `steps` chosen ones; return the opportunity costs of final rules.

        The initial points and the noise are the same for each policy. "observed" reports the point of the greatest
        observation, "evaluated" that of the greatest posterior mean of those evaluated, "domain" that of all.
        """
        rng = np.random.default_rng(seed)
        rows, size = np.arange(self.draws), self.f.shape[1]
        mean, S = np.zeros_like(self.f), np.repeat(self.prior[None], self.draws, axis=0)
        places = np.zeros((self.draws, 0), dtype=int)
        values = np.zeros((self.draws, 0))
        start = rng.integers(size, size=(first, self.draws))
        shocks = rng.standard_normal((first + steps, self.draws)) * np.sqrt(self.noise)
        for k in range(first + steps):
            x = start[k] if k < first else self._choose(policy, mean, S, places, values)
            y = self.f[rows, x] + shocks[k]
            column = S[rows, x]
            gain = column / (column[rows, x] + self.noise)[:, None]
            mean = mean + gain * (y - mean[rows, x])[:, None]
            S -= gain[:, :, None] * column[:, None]
            places, values = np.column_stack([places, x]), np.column_stack([values, y])
        top = self.f.max(axis=1)
        evaluated = np.take_along_axis(mean, places, axis=1).argmax(axis=1)
        return {
            "observed": top - self.f[rows, places[rows, values.argmax(axis=1)]],
            "evaluated": top - self.f[rows, places[rows, evaluated]],
            "domain": top - self.f[rows, mean.argmax(axis=1)],
        }

    def _choose(
        self,
        policy: Policy,
        mean: Draws,
        S: Float[np.ndarray, "draws grid grid"],
        places: np.ndarray,
        values: Float[np.ndarray, "draws n"],
    ) -> np.ndarray:
        variance = np.maximum(np.einsum("dgg->dg", S), 1e-14)
        if policy == "plug-in":
            s = np.sqrt(variance)
            z = (mean - values.max(axis=1, keepdims=True)) / s
            improvement = s * (np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) + z * special.ndtr(z))
            return improvement.argmax(axis=1)
        found = np.zeros(self.draws, dtype=int)
        block = 10 if policy == "kg" else 50
        for start in range(0, self.draws, block):
            d = slice(start, start + block)
            slopes = S[d] / np.sqrt(variance[d] + self.noise[d, None])[:, :, None]  # [draw, candidate, place]
            if policy == "kg":
                a = np.broadcast_to(mean[d, None], slopes.shape)
                gain = piecewise_expectation(_flat(a), _flat(slopes)).value.reshape(slopes.shape[:2])
            else:
                old = np.repeat(places[d, None], slopes.shape[1], axis=1)
                own = np.einsum("dgg->dg", slopes)
                a_old = np.take_along_axis(mean[d], places[d], axis=1)
                a = np.concatenate([np.broadcast_to(a_old[:, None], old.shape), mean[d][:, :, None]], axis=2)
                b = np.concatenate([np.take_along_axis(slopes, old, axis=2), own[:, :, None]], axis=2)
                gain = piecewise_expectation(_flat(a), _flat(b)).value.reshape(own.shape)
                gain = gain + np.maximum(mean[d] - a_old.max(axis=1, keepdims=True), 0.0)
            found[d] = gain.argmax(axis=1)
        return found


def _flat(x: Float[np.ndarray, "d c m"]) -> Float[np.ndarray, "r m"]:
    return x.reshape(-1, x.shape[2])
