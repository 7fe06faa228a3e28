"""Several ways to evaluate: fidelities, sources of information, tasks, or random environments."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from paperworks.optimization.bayesian.kernels import (
    CoregionalizationKernel,
    FidelityKernel,
    Kernel,
    MaternKernel,
    kernel_of,
)
from paperworks.optimization.bayesian.targets import TargetMean


@dataclass(frozen=True)
class Sources:
    """The ways in which a point can be evaluated, what each costs, and what of them is to be maximised.

    The optimiser then chooses a point and a source, by the knowledge gradient per unit of cost, and its points have
    one value more, the level of the source.

    Parameters
    ----------
    levels
        One number for each source: fidelities in (0, 1] with 1 for the truth, or values of an environment; for
        "tasks" 0, 1, 2, ...
    costs
        Cost of an evaluation of each; equal by default.
    weights
        Weights of what is maximised, sum_s weight_s f(x, s): by default the last level alone, for tasks the first.
        Probabilities make an expectation over a random environment.
    kernel
        "product" (a kernel of the level times one of the point), "truncated" (k1 + (1 - s)(1 - s')(1 + s s')^p k2),
        "additive" (k0 + [s = s' < 1] k, each fidelity with an error of its own), or "tasks" (coregionalisation).

    Raises
    ------
    ValueError
        Where lengths differ, or costs are not positive.

    References
    ----------
    arXiv 1807.02811, Sections 5.3 to 5.5.

    Examples
    --------
    >>> Sources((0.2, 1.0), costs=(0.1, 1.0)).target.shares.tolist()
    [1.0]
    """

    levels: Sequence[float]
    costs: Sequence[float] | None = None
    weights: Sequence[float] | None = None
    kernel: Literal["product", "truncated", "additive", "tasks"] = "product"

    def __post_init__(self) -> None:
        if self.kernel not in ("product", "truncated", "additive", "tasks"):
            raise ValueError(f"kernel is {self.kernel!r}; it takes 'product', 'truncated', 'additive' or 'tasks'")
        n = len(self.levels)
        for name in ("costs", "weights"):
            given = getattr(self, name)
            if given is not None and len(given) != n:
                raise ValueError(f"{name} has {len(given)} numbers; it takes {n}, one for each level")
        if n < 1 or not all(c > 0 for c in self.costs or ()):
            raise ValueError(f"costs is {self.costs!r}; it takes positive numbers, one for each of at least one level")
        if self.kernel == "tasks" and list(self.levels) != list(range(n)):
            raise ValueError(f"levels is {self.levels!r}; for tasks it takes 0, 1, 2, ...")

    @property
    def price(self) -> Float[np.ndarray, " s"]:
        """Cost of each source."""
        return np.ones(len(self.levels)) if self.costs is None else np.asarray(self.costs, dtype=float)

    @property
    def target(self) -> TargetMean:
        """What is maximised, by the last column of points."""
        which = 0 if self.kernel == "tasks" else len(self.levels) - 1
        weights = [float(i == which) for i in range(len(self.levels))] if self.weights is None else self.weights
        kept = [(level, weight) for level, weight in zip(self.levels, weights, strict=True) if weight]
        return TargetMean([-1], [level for level, _ in kept], [float(weight) for _, weight in kept])

    def covariance(self, base: "str | Kernel", dim: int) -> Kernel:
        """Return the kernel of points of `dim` columns and a last one with the level.

        Parameters
        ----------
        base
            Name of the kernel of points, or a kernel of all of `dim` columns.
        dim
            Columns of the points themselves.

        Returns
        -------
        Kernel
            A kernel of `dim` + 1 columns.
        """
        columns = list(range(dim))

        def points(amplitude: bool = True) -> Kernel:
            made = copy.deepcopy(kernel_of(base))
            made.columns, made.amplitude = tuple(columns), amplitude  # type: ignore[attr-defined]
            return made

        if self.kernel == "tasks":
            return points(False) * CoregionalizationKernel(len(self.levels))
        if self.kernel == "truncated":
            return points() + FidelityKernel("truncated") * points()
        if self.kernel == "additive":
            return points() + FidelityKernel("bias") * points()
        return points() * MaternKernel(2.5, columns=[dim], amplitude=False)
