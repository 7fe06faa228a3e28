"""Acquisition functions under expensive constraints, and per unit of cost (arXiv 1807.02811, Sections 5.3 and 5.4)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values, average, posteriors_of
from paperworks.optimization.bayesian.batch import _normal_draws
from paperworks.optimization.bayesian.improvement import log_improvement
from paperworks.optimization.bayesian.posterior import Posterior


class ConstrainedEI(Acquisition):
    """The logarithm of EI(x; best feasible value) * prod_j P(g_j(x) <= 0), of independent processes.

    While nothing feasible is known (`best` is None) it is the logarithm of the probability of feasibility alone.

    Parameters
    ----------
    model
        A fitted `GaussianProcess` of the objective.
    constraints
        Fitted processes of the constraints, which hold where they are <= 0.
    best
        The best feasible value, None where there is none yet.

    Raises
    ------
    ValueError
        Where a model has no data.

    References
    ----------
    arXiv 1807.02811, Section 5.4.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> X = [[0.0], [0.4], [1.0]]
    >>> objective = GaussianProcess(noise=0.0).fit(X, [0.0, 1.0, 0.2])
    >>> constraint = GaussianProcess(noise=0.0).fit(X, [-1.0, 1.0, 3.0])
    >>> value = ConstrainedEI(objective, [constraint], best=0.0)([[0.1], [0.9]])
    >>> bool(value[0] > value[1])
    True
    """

    is_log = True

    def __init__(self, model: Any, constraints: Sequence[Any], best: float | None) -> None:
        super().__init__(model)
        if not len(constraints):
            raise ValueError("constraints is empty; it takes at least one fitted process")
        self.constraints = [posteriors_of(constraint) for constraint in constraints]
        self.best = None if best is None else check_number("best", best)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        value: Values = np.zeros(len(X))
        slope: Any = np.zeros(X.shape) if gradient else None
        if self.best is not None:
            value, slope = log_improvement(posterior, X, self.best, gradient)
        for each in self.constraints:
            added, more = average([_log_feasible(p, X, gradient) for p in each], True)
            value = value + added
            if gradient:
                slope = slope + more
        return value, slope


def _log_feasible(posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
    """Return log P(g(x) <= 0) and its gradient."""
    joint = posterior.joint(X)
    s = np.sqrt(np.maximum(joint.covariance[:, 0, 0], (1e-9 * posterior.scaling.scale) ** 2))
    z = -joint.mean[:, 0] / s
    value = special.log_ndtr(z)
    if not gradient:
        return value, None
    ratio = np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - value)
    return value, joint.pull((-ratio / s)[:, None], (-0.5 * ratio * z / s**2)[:, None, None])


class JointConstrainedEI(Acquisition):
    """E[(f(x) - best)^+ 1(all g_j(x) <= 0)] where one process has objective and constraints as correlated tasks.

    Constraints are drawn one after the other, each from its law below 0 given those before, and the improvement is
    exact given all of them, so that the value is smooth in x.

    Parameters
    ----------
    model
        A fitted `GaussianProcess` whose last column is the task: 0 for the objective, 1, 2, ... for constraints.
    n_constraints
        How many tasks are constraints.
    best
        The best feasible value, None where there is none yet.
    n_draws
        Scrambled Sobol points for the draws.
    random_state
        Seed of the draws.

    Raises
    ------
    ValueError
        Where the model has no data.

    References
    ----------
    arXiv 1807.02811, Section 5.4, for constraints that are correlated with the objective.

    Examples
    --------
    >>> from paperworks.optimization import CoregionalizationKernel, GaussianProcess, MaternKernel
    >>> kernel = MaternKernel(columns=[0], amplitude=False) * CoregionalizationKernel(2)
    >>> X = [[0.0, 0], [0.5, 0], [1.0, 0], [0.0, 1], [0.5, 1], [1.0, 1]]
    >>> model = GaussianProcess(kernel, noise=0.01, bounds=[(0, 1), (0, 1)]).fit(X, [0, 1, 0.2, -1, 0.5, 1])
    >>> JointConstrainedEI(model, 1, best=0.0)([[0.2, 0.0]]).shape
    (1,)
    """

    has_gradient = False

    def __init__(
        self,
        model: Any,
        n_constraints: int,
        best: float | None,
        *,
        n_draws: int = 128,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model)
        self.n_constraints = check_count("n_constraints", n_constraints)
        self.best = None if best is None else check_number("best", best)
        z = _normal_draws(check_count("n_draws", n_draws), self.n_constraints, random_state)
        self.u = special.ndtr(z)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        order = [*range(1, self.n_constraints + 1), 0]
        copies = np.repeat(X, len(order), axis=1)
        copies[:, :, -1] = order
        joint = posterior.joint(copies)
        L = linalg.batch_cholesky(joint.covariance)
        drawn: list[np.ndarray] = []
        weight = np.ones((len(X), len(self.u)))
        for j in range(self.n_constraints):
            mean = joint.mean[:, j, None] + sum(L[:, j, k, None] * drawn[k] for k in range(j))
            edge = special.ndtr(-mean / L[:, j, j, None])
            weight = weight * edge
            drawn.append(special.ndtri(np.clip(self.u[:, j] * edge, 1e-300, 1 - 1e-16)))
        last = self.n_constraints
        if self.best is None:
            return weight.mean(axis=1), None
        d = joint.mean[:, last, None] - self.best + sum(L[:, last, k, None] * drawn[k] for k in range(last))
        z = d / L[:, last, last, None]
        pdf = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        return (weight * (d * special.ndtr(z) + L[:, last, last, None] * pdf)).mean(axis=1), None


class CostAware(Acquisition):
    """An acquisition function per unit of cost, such as KG(x, s) / c(x, s) for fidelities s.

    Parameters
    ----------
    acq
        The acquisition function; of logarithms, the logarithm of the cost is taken off.
    cost
        Takes points (m, d) and returns m positive costs; those of a batch add up.

    Raises
    ------
    ValueError
        Where a cost is not positive.

    References
    ----------
    arXiv 1807.02811, Section 5.3.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess, LogEI
    >>> model = GaussianProcess(noise=0.0).fit([[0.0], [0.4], [1.0]], [0.0, 1.0, 0.2])
    >>> acq = LogEI(model, best=1.0)
    >>> cheap = CostAware(acq, lambda X: 1 + X[:, 0])
    >>> bool(abs(cheap([[0.5]])[0] - acq([[0.5]])[0] + np.log(1.5)) < 1e-12)
    True
    """

    def __init__(self, acq: Acquisition, cost: Callable[[Float[np.ndarray, "m d"]], ArrayLike]) -> None:
        if not isinstance(acq, Acquisition):
            raise TypeError(f"acq is {acq!r}; it takes an Acquisition")
        self.acq, self.cost = acq, cost
        self.posteriors = acq.posteriors
        self.q, self.is_log, self.has_gradient = acq.q, acq.is_log, acq.has_gradient

    @property
    def n_decisions(self) -> int:
        """Points of a batch that are to be evaluated."""
        return self.acq.n_decisions

    def complete(self, X: Batches) -> Batches:
        """Return batches `X` as the function that is divided completes them.

        Returns
        -------
        Batches
            Batches of `q` points.
        """
        return self.acq.complete(X)

    def _costs(self, X: Batches) -> Values:
        decisions = X[:, : self.n_decisions]
        costs = np.asarray(self.cost(decisions.reshape(-1, X.shape[2])), dtype=float).reshape(len(X), -1).sum(axis=1)
        if not (np.isfinite(costs) & (costs > 0)).all():
            raise ValueError(f"cost returned {costs.min()!r}; it takes a function to finite numbers > 0")
        return costs

    def __call__(self, X: ArrayLike, gradient: bool = False) -> Any:
        """Return the value per unit of cost of each point or batch of `X`, and with `gradient` the gradients.

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
        batches = points[:, None] if points.ndim == 2 else points
        costs = self._costs(batches)
        if not gradient:
            values = self.acq(X)
            return values - np.log(costs) if self.is_log else values / costs
        values, slopes = self.acq(X, gradient=True)
        by_log = self._log_slope(batches).reshape(points.shape)
        spread = costs.reshape(-1, *[1] * (points.ndim - 1))
        if self.is_log:
            return values - np.log(costs), slopes - by_log
        per = values / costs
        return per, slopes / spread - per.reshape(spread.shape) * by_log

    def _log_slope(self, X: Batches) -> Batches:
        """Return the gradient of the log cost by differences, in one call of the cost."""
        m, q, d = X.shape
        h = 1e-6 * np.maximum(self.posteriors[0].scaling.width, 1e-12)
        shifts = np.zeros((2, self.n_decisions, d, q, d))
        for i in range(self.n_decisions):
            for j in range(d):
                shifts[0, i, j, i, j], shifts[1, i, j, i, j] = h[j], -h[j]
        moved = X[:, None] + shifts.reshape(1, -1, q, d)
        logs = np.log(self._costs(moved.reshape(-1, q, d))).reshape(m, 2, self.n_decisions, d)
        slope = np.zeros_like(X)
        slope[:, : self.n_decisions] = (logs[:, 0] - logs[:, 1]) / (2 * h)
        return slope

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        return self.acq._evaluate(number, posterior, X, gradient)
