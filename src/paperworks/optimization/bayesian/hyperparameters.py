"""Hyper-parameters of a Gaussian process: by likelihood, by posterior density, or by slice sampling of all of them."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.kernels import Kernel, Parameter
from paperworks.optimization.bayesian.priors import Prior

Vector = Float[np.ndarray, " _"]
NOISE = Parameter("noise", 0.01, 1e-8, 10.0)
_FAILED = 1e15  # the objective where no factor exists; finite, so that a line search can come back


class Fit(NamedTuple):
    """The state of a likelihood at one vector of parameters."""

    theta: Vector
    L: Float[np.ndarray, "n n"]
    beta: Float[np.ndarray, " r"]
    residual: Float[np.ndarray, " n"]
    log_likelihood: float


class Likelihood:
    """The log marginal likelihood of scaled data, log N(y; Psi beta, K + noise), with its gradient.

    The coefficients of the trend are at their best, (Psi^T K^-1 Psi)^-1 Psi^T K^-1 y, at any other parameters, so they
    add nothing to the gradient 1/2 tr((a a^T - K^-1) dK), a = K^-1 (y - Psi beta).
    """

    def __init__(
        self,
        kernel: Kernel,
        U: Float[np.ndarray, "n d"],
        y: Float[np.ndarray, " n"],
        basis: Float[np.ndarray, "n r"],
        noise: Float[np.ndarray, " n"] | None,
        priors: Mapping[str, Prior],
        beta: Float[np.ndarray, " r"] | None = None,
    ) -> None:
        self.evaluate = kernel.bind(U)
        self.y, self.basis, self.noise, self.beta = y, basis, noise, beta
        self.parameters = kernel.parameters(U.shape[1]) + ([NOISE] if noise is None else [])
        self.size = len(self.parameters)
        named = [(priors.get(p.name) if p.log else None) for p in self.parameters]
        self.priors = [
            (prior, np.array([i for i, p in enumerate(named) if p is prior]))
            for prior in dict.fromkeys(filter(None, named))
        ]
        self.bounds = [(math.log(p.low), math.log(p.high)) if p.log else (p.low, p.high) for p in self.parameters]
        self.start = np.array([math.log(p.start) if p.log else p.start for p in self.parameters])

    def _factor(self, theta: Vector) -> tuple[Fit, Callable[[Float[np.ndarray, "n n"]], Vector], float]:
        free = self.noise is None
        K, pull = self.evaluate(theta[: self.size - free])
        scale = float(K.diagonal().mean())
        variance = math.exp(theta[-1]) if free else 0.0
        A = K.copy()
        A.flat[:: len(A) + 1] += variance if self.noise is None else self.noise
        L = linalg.cholesky(A, scale)
        if self.beta is not None or self.basis.shape[1] == 0:
            beta = np.zeros(0) if self.beta is None else self.beta
        else:
            Q = linalg.half_solve(L, self.basis)
            beta = np.linalg.lstsq(Q, linalg.half_solve(L, self.y), rcond=None)[0]
        residual = self.y - self.basis @ beta
        half = linalg.half_solve(L, residual)
        n = len(self.y)
        value = -0.5 * float(half @ half) - float(np.log(L.diagonal()).sum()) - 0.5 * n * math.log(2 * math.pi)
        return Fit(theta, L, beta, residual, value), pull, variance

    def fit(self, theta: Vector) -> Fit:
        """Return the state at given parameters."""
        return self._factor(theta)[0]

    def value(self, theta: Vector) -> tuple[float, Vector]:
        """Return the log marginal likelihood and its gradient by the raw parameters."""
        state, pull, variance = self._factor(theta)
        inverse = linalg.lapack.dpotri(state.L, lower=1)[0]  # its lower half; the upper is zero
        a = linalg.solve(state.L, state.residual)
        W = 0.5 * np.outer(a, a) - inverse
        W.flat[:: len(W) + 1] += 0.5 * inverse.diagonal()  # both halves stand in the lower, the diagonal once
        gradient = pull(W)
        return state.log_likelihood, np.append(gradient, variance * np.trace(W)) if self.noise is None else gradient

    def log_prior(self, theta: Vector) -> tuple[float, Vector]:
        """Return the log density of the priors and its gradient by the raw parameters."""
        total, gradient = 0.0, np.zeros(len(theta))
        for prior, where in self.priors:
            value, slope = prior.logpdf(np.exp(theta[where]))
            total += float(value.sum())
            gradient[where] = slope
        return total, gradient

    def objective(self, theta: Vector) -> tuple[float, Vector]:
        """Return what a search minimises, with its gradient."""
        try:
            value, gradient = self.value(theta)
        except np.linalg.LinAlgError:
            return _FAILED, np.zeros_like(theta)
        prior, slope = self.log_prior(theta)
        return -(value + prior), -(gradient + slope)

    def maximise(self, n_starts: int, random_state: np.random.Generator, warm: Vector | None = None) -> Vector:
        """Return the parameters of the greatest posterior density found by L-BFGS-B from several starts.

        The starts are the last fit where there is one, the kernel's own, and draws; of many draws those count that
        are best to begin with.
        """
        starts = [] if warm is None or len(warm) != self.size else [warm]
        starts.append(self.start)
        if (missing := n_starts - len(starts)) > 0:
            draws = [self._draw(random_state) for _ in range(4 * missing)]
            starts += sorted(draws, key=lambda theta: self.objective(theta)[0])[:missing]
        best, least = self.start, math.inf
        for start in starts[:n_starts]:
            found = optimize.minimize(
                self.objective, start, jac=True, method="L-BFGS-B", bounds=self.bounds, options={"maxiter": 200}
            )
            if found.fun < least:
                best, least = found.x, float(found.fun)
        return best

    def _draw(self, random_state: np.random.Generator) -> Vector:
        theta = self.start + random_state.normal(0.0, 1.0, self.size)
        low, high = np.array(self.bounds).T
        return np.clip(theta, low, high)

    def log_density(self, theta: Vector) -> float:
        """Return the log posterior density of raw parameters, the trend's coefficients integrated out."""
        low, high = np.array(self.bounds).T
        if (theta < low).any() or (theta > high).any():
            return -math.inf
        try:
            state = self.fit(theta)
        except np.linalg.LinAlgError:
            return -math.inf
        value = state.log_likelihood + self.log_prior(theta)[0]
        if self.beta is None and self.basis.shape[1]:
            value -= 0.5 * np.linalg.slogdet(self._precision(state.L))[1]
        logs = [i for i, p in enumerate(self.parameters) if p.log]
        return value + float(theta[logs].sum())  # of the density's change to logarithms

    def _precision(self, L: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "r r"]:
        Q = linalg.half_solve(L, self.basis)
        return Q.T @ Q

    def draw_trend(self, state: Fit, random_state: np.random.Generator) -> Fit:
        """Return the state with the trend's coefficients drawn from their posterior law."""
        if self.beta is not None or not self.basis.shape[1]:
            return state
        C = np.linalg.cholesky(self._precision(state.L))
        beta = state.beta + np.linalg.solve(C.T, random_state.standard_normal(len(state.beta)))
        return state._replace(beta=beta, residual=self.y - self.basis @ beta)

    def sample(self, start: Vector, n_samples: int, random_state: np.random.Generator) -> list[Vector]:
        """Return draws of the raw parameters by slice sampling, one coordinate after the other."""
        theta, found = start.copy(), []
        level = self.log_density(theta)
        for sweep in range(10 + 2 * n_samples):
            theta, level = slice_sweep(self.log_density, theta, level, random_state)
            if sweep >= 10 and sweep % 2:
                found.append(theta.copy())
        return found


def slice_sweep(
    log_density: Callable[[Vector], float], theta: Vector, level: float, random_state: np.random.Generator
) -> tuple[Vector, float]:
    """Move each coordinate once by slice sampling with stepping out and shrinkage (Neal 2003)."""
    theta = theta.copy()
    for i in range(len(theta)):
        floor, here, width = level - random_state.exponential(), theta[i], 1.0

        def at(value: float, i: int = i) -> float:
            moved = theta.copy()
            moved[i] = value
            return log_density(moved)

        low = here - width * random_state.random()
        high = low + width
        for _ in range(8):
            if at(low) <= floor:
                break
            low -= width
        for _ in range(8):
            if at(high) <= floor:
                break
            high += width
        while True:
            value = random_state.uniform(low, high)
            found = at(value)
            if found > floor or high - low < 1e-12:
                theta[i], level = value, found
                break
            low, high = (value, high) if value < here else (low, value)
    return theta, level
