"""The knowledge gradient of an observation of the value and of derivatives (arXiv 1807.02811, Section 5.6)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_count
from paperworks.optimization.bayesian import linalg
from paperworks.optimization.bayesian.acquisition import Acquisition, Batches, Values
from paperworks.optimization.bayesian.batch import _normal_draws
from paperworks.optimization.bayesian.derivatives import DerivativeKernel
from paperworks.optimization.bayesian.knowledge_gradient import default_discretization
from paperworks.optimization.bayesian.posterior import Posterior
from paperworks.optimization.bayesian.search import box_of, optimize_acquisition


class DerivativeKnowledgeGradient(Acquisition):
    """E[max mean_(n+1) - max mean_n] where f(x) and some of its derivatives at x are observed together.

    The maxima are over a finite set and x itself, the expectation is by fixed quasi-random draws.

    Parameters
    ----------
    model
        A `GaussianProcess` that was fitted with derivatives (or with dY all NaN).
    bounds
        Low and high of each column of the domain.
    derivatives
        Columns that are differentiated by; all by default, none for the value alone.
    discretization
        The finite set; by default 128 Sobol points, those of the data and the mean's maximiser.
    n_draws
        Scrambled Sobol points that are made normal.
    random_state
        Seed of the points and draws.

    Raises
    ------
    ValueError
        Where the model wasn't fitted with derivatives, or a column doesn't exist.

    References
    ----------
    arXiv 1807.02811, Section 5.6; Wu, Poloczek, Wilson and Frazier, arXiv 1703.04389.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.01).fit([[0.0], [1.0]], [0.0, 0.5], dY=[[1.0], [0.2]])
    >>> value, slope = (
    ...     DerivativeKnowledgeGradient(model, [(0, 1)], derivatives=d)([[0.6]])[0] for d in ([], [0])
    ... )
    >>> bool(slope >= value)  # more is known with the derivative
    True
    """

    has_gradient = False

    def __init__(
        self,
        model: Any,
        bounds: ArrayLike,
        derivatives: Sequence[int] | None = None,
        *,
        discretization: ArrayLike | None = None,
        n_draws: int = 256,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        super().__init__(model)
        box = box_of(bounds)
        if not isinstance(self.posteriors[0].kernel, DerivativeKernel):
            raise ValueError("model was fitted without derivatives; it takes one whose fit was given dY")
        self.derivatives = list(range(len(box))) if derivatives is None else [int(j) for j in derivatives]
        if any(not 0 <= j < len(box) for j in self.derivatives):
            raise ValueError(f"derivatives is {derivatives!r}; it takes columns 0 to {len(box) - 1}")
        rng = np.random.default_rng(random_state)
        A = (
            default_discretization(model, box, None, rng)
            if discretization is None
            else np.asarray(discretization, float)
        )
        self.anchors = [p.anchors(A) for p in self.posteriors]
        self.z = _normal_draws(check_count("n_draws", n_draws), 1 + len(self.derivatives), rng)

    def _evaluate(self, number: int, posterior: Posterior, X: Batches, gradient: bool) -> tuple[Values, Batches | None]:
        return np.array([self._one(posterior, self.anchors[number], x) for x in X]), None

    def _one(self, posterior: Posterior, anchors: Any, x: Float[np.ndarray, "1 d"]) -> float:
        rows = [posterior.encode(x), *(posterior.encode(x, j) for j in self.derivatives)]
        P = np.concatenate(rows)
        K, _ = posterior.kernel.at(posterior.theta, P, posterior.U)
        prior, _ = posterior.kernel.at(posterior.theta, P, np.concatenate([anchors.points, P]))
        V = linalg.solve(posterior.L, np.asfortranarray(K.T))
        m = len(anchors.mean)
        cross = prior[:, :m] - K @ anchors.weights
        own = prior[:, m:] - K @ V
        noise = np.full(len(P), posterior.new_noise)
        L = linalg.batch_cholesky((own + np.diag(noise))[None])[0]
        lines = np.concatenate([cross, own[:, :1]], axis=1)  # covariances of the observation with each mean
        B = posterior.scaling.scale * linalg.half_solve(L, lines)
        a = np.append(anchors.mean, posterior.moments(x)[0])
        return float((a + self.z @ B).max(axis=1).mean() - a.max())


def choose_derivatives(
    model: Any,
    bounds: ArrayLike,
    subsets: Sequence[Sequence[int]],
    cost: Callable[[Sequence[int]], float] = lambda subset: 1.0,
    **options: Any,
) -> tuple[Float[np.ndarray, " d"], list[int], float]:
    """Choose where to evaluate, and which derivatives to take there, by the knowledge gradient per unit of cost.

    Parameters
    ----------
    model
        A `GaussianProcess` that was fitted with derivatives.
    bounds
        Low and high of each column of the domain.
    subsets
        Sets of columns to choose from; an empty one is the value alone.
    cost
        Takes a set of columns and returns the cost of an evaluation with these derivatives.
    options
        Passed on to `optimize_acquisition`.

    Returns
    -------
    tuple[Float[np.ndarray, " d"], list[int], float]
        The point, the columns, and the knowledge gradient per unit of cost.

    Raises
    ------
    ValueError
        Where there is nothing to choose from, or a cost is not positive.

    Examples
    --------
    >>> from paperworks.optimization import GaussianProcess
    >>> model = GaussianProcess(noise=0.01).fit([[0.0], [1.0]], [0.0, 0.5], dY=[[1.0], [0.2]])
    >>> x, columns, gain = choose_derivatives(model, [(0, 1)], [[], [0]], n_raw=16, n_starts=1, steps=2)
    >>> columns
    [0]
    """
    if not len(subsets):
        raise ValueError("subsets is empty; it takes at least one set of columns")
    found = []
    for subset in subsets:
        price = float(cost(subset))
        if not price > 0:
            raise ValueError(f"cost returned {price!r} for {list(subset)!r}; it takes a positive number")
        x, value = optimize_acquisition(DerivativeKnowledgeGradient(model, bounds, subset), bounds, **options)
        found.append((x, list(subset), value / price))
    return max(found, key=lambda choice: choice[2])
