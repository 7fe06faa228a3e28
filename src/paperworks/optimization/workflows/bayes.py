"""Bayesian optimisation of a few bounded numbers in a workflow."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_count
from paperworks.optimization.workflows.graph import TraceGraph
from paperworks.optimization.workflows.nodes import ParameterNode
from paperworks.optimization.workflows.optimizer import SOLVED
from paperworks.optimization.workflows.search import ScoredOptimizer

Points = Float[np.ndarray, "n d"]
LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
NOISES = (1e-6, 1e-4, 1e-2, 1e-1)


class BayesOptimizer(ScoredOptimizer):
    """Models the score by a Gaussian process and tries where the most improvement is expected.

    The kernel is Matérn 5/2 on the box of bounds scaled to the unit cube; its length and the noise are those of
    greatest likelihood on a grid. Parameters whose bounds are positive and a factor of 1,000 or more apart go by their
    logarithm.

    Parameters
    ----------
    parameters
        Numbers with bounds.
    initial
        How many points of a scrambled Sobol' sequence are tried before the model, the present values first (5).
    options
        Those of `ScoredOptimizer`: objective, goal, random_state, patience.

    References
    ----------
    Jones, Schonlau, Welch 1998, *Efficient global optimization of expensive black-box functions*.

    Examples
    --------
    >>> from paperworks.optimization import BayesOptimizer, node
    >>> x = node(0.9, trainable=True, name="x", bounds=(0.0, 1.0))
    >>> opt = BayesOptimizer([x], random_state=0)
    >>> for _ in range(15):
    ...     opt.zero_feedback()
    ...     out = (x - 0.3) * (x - 0.3)
    ...     opt.backward(out, -out.data)
    ...     _ = opt.step()
    >>> opt.restore_best()
    >>> abs(x.data - 0.3) < 0.02
    True
    """

    def __init__(self, parameters: Iterable[Any], *, initial: int = 5, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.initial = check_count("initial", initial)
        for p in self.parameters:
            if p.bounds is None or isinstance(p._data, bool) or not isinstance(p._data, (int, float)):
                raise ValueError(f"parameters has {p!r}; it takes numbers with bounds")
        self._seed = int(self._rng.integers(2**31))
        self._tried: list[list[float]] = []
        self._scores: list[float] = []

    def propose(self, graph: TraceGraph) -> dict[ParameterNode, Any]:
        """Return the point at which the greatest improvement is expected.

        Parameters
        ----------
        graph
            The minimal subgraph with the feedback.

        Returns
        -------
        dict[ParameterNode, Any]
            New values of all parameters.
        """
        _, score = self.judge(graph)
        self._tried.append([_to_unit(p, p._data) for p in self.parameters])
        self._scores.append(score if self.objective == "max" else -score)
        if self.status == SOLVED:
            return {}
        return {p: _from_unit(p, u) for p, u in zip(self.parameters, self._next(), strict=True)}

    def _next(self) -> list[float]:
        from scipy.stats import qmc

        d, n = len(self.parameters), len(self._tried)
        design = qmc.Sobol(d, rng=np.random.default_rng(self._seed))
        if n < self.initial:
            return design.random(2 ** math.ceil(math.log2(max(self.initial, 2))))[n - 1].tolist()
        X, y = np.array(self._tried), np.array(self._scores)
        finite = np.isfinite(y)
        if finite.sum() < 2:
            return self._rng.random(d).tolist()
        y = np.where(finite, y, y[finite].min() - np.ptp(y[finite]))
        spread = y.std() or 1.0
        model = _GaussianProcess.fit(X, (y - y.mean()) / spread)
        best = X[np.argmax(y)]
        near = np.concatenate([best + s * self._rng.standard_normal((64, d)) for s in (0.02, 0.1)])
        candidates = np.concatenate([self._rng.random((1024, d)), np.clip(near, 0, 1)])
        return candidates[np.argmax(model.expected_improvement(candidates))].tolist()

    def _memory(self) -> Any:
        return {**super()._memory(), "tried": self._tried, "scores": self._scores, "seed": self._seed}

    def _remember(self, memory: Any) -> None:
        super()._remember(memory)
        self._tried, self._scores, self._seed = memory["tried"], memory["scores"], memory["seed"]


def _by_logarithm(p: ParameterNode) -> bool:
    assert p.bounds is not None
    return bool(p.bounds[0] > 0 and p.bounds[1] >= 1000 * p.bounds[0])


def _to_unit(p: ParameterNode, value: float) -> float:
    low, high = p.bounds  # type: ignore[misc]
    if _by_logarithm(p):
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _from_unit(p: ParameterNode, unit: float) -> float | int:
    low, high = p.bounds  # type: ignore[misc]
    value = low * (high / low) ** unit if _by_logarithm(p) else low + unit * (high - low)
    value = min(max(value, low), high)
    return round(value) if isinstance(p._data, int) else value


class _GaussianProcess:
    """A Gaussian process of unit variance and zero mean on points of the unit cube."""

    def __init__(self, X: Points, y: Float[np.ndarray, " n"], length: float, noise: float) -> None:
        self.X, self.y, self.length = X, y, length
        K = _matern(X, X, length) + noise * np.eye(len(X))
        self.factor = np.linalg.cholesky(K)
        self.weights = np.linalg.solve(self.factor.T, np.linalg.solve(self.factor, y))
        self.log_likelihood = float(-0.5 * y @ self.weights - np.log(np.diag(self.factor)).sum())

    @classmethod
    def fit(cls, X: Points, y: Float[np.ndarray, " n"]) -> "_GaussianProcess":
        """Return the process of greatest likelihood on a grid of lengths and noises."""
        fitted = [cls(X, y, length, noise) for length in LENGTHS for noise in NOISES]
        return max(fitted, key=lambda model: model.log_likelihood)

    def expected_improvement(self, points: Points) -> Float[np.ndarray, " n"]:
        """Return by how much each point is expected to beat the best mean of a point that was tried."""
        from scipy.special import ndtr

        cross = _matern(points, self.X, self.length)
        mean = cross @ self.weights
        half = np.linalg.solve(self.factor, cross.T)
        sigma = np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-12))
        best = (_matern(self.X, self.X, self.length) @ self.weights).max()
        z = (mean - best) / sigma
        return sigma * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))


def _matern(A: Points, B: Float[np.ndarray, "m d"], length: float) -> Float[np.ndarray, "n m"]:
    r = np.sqrt(5.0) * np.linalg.norm(A[:, None] - B[None], axis=-1) / length
    return (1 + r + r**2 / 3) * np.exp(-r)
