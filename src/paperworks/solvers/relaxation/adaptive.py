"""A solver whose parameter is learnt from solve to solve."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from paperworks.core.validation import check_number
from paperworks.solvers.relaxation.bandits import Bandit


class AdaptiveSolver:
    """Solve a sequence of systems, and learn from their iteration counts what parameter to take (arXiv:2310.02246).

    Parameters
    ----------
    solver
        Called as ``solver(A, b, x0, **{parameter: value}, **options)``; its result is a pair (x, info) of SciPy's kind.
    bandit
        Chooses the value: `TsallisINF`, or `BinnedBandit` or `ChebCB` where each system comes with a context.
    parameter
        Name of the solver's parameter.
    cost
        Gives the cost of a result, a number of at least 1. Default: its `iterations`, at least 1.
    cap_ratio
        Where a solve didn't reach its tolerance, its cost counts as at most so many times the mean cost so far, since
        one cost at the cap would drown what was learnt. None takes it as it is.

    Raises
    ------
    TypeError
        If the solver can't be called, or its result counts no iterations and no `cost` is given.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.solvers import TsallisINF, laplacian, ssor_pcg
    >>> solver = AdaptiveSolver(ssor_pcg, TsallisINF(random_state=0))
    >>> A, rng = laplacian((9, 9)), np.random.default_rng(0)
    >>> results = list(solver.solve_sequence((A, rng.normal(size=81)) for _ in range(20)))
    >>> all(result.converged for result in results), len(solver.bandit.history_)
    (True, 20)
    """

    def __init__(
        self,
        solver: Callable[..., Any],
        bandit: Bandit,
        parameter: str = "omega",
        *,
        cost: Callable[[Any], float] | None = None,
        cap_ratio: float | None = 20.0,
    ) -> None:
        if not callable(solver):
            raise TypeError(f"solver is {type(solver).__name__}; it takes a function such as ssor_pcg")
        self.solver, self.bandit, self.parameter, self.cost = solver, bandit, parameter, cost
        self.cap_ratio = None if cap_ratio is None else check_number("cap_ratio", cap_ratio, ge=1)
        self._mean, self._solves = 0.0, 0

    def solve(self, A: Any, b: Any, x0: Any = None, *, context: float | None = None, **options: Any) -> Any:
        """Solve one system with the value that the bandit chooses, and tell it the cost.

        Parameters
        ----------
        A
            Matrix, as the solver takes it.
        b
            Right-hand side, as the solver takes it.
        x0
            Start, such as the solution of the system before.
        context
            What is known of the system, for bandits that take it.
        **options
            Further arguments of the solver, such as `rtol`.

        Returns
        -------
        SolveResult
            What the solver returned.

        Warns
        -----
        RuntimeWarning
            If the tolerance wasn't reached.
        """
        value = self.bandit.predict(context)
        result = self.solver(A, b, x0, **{self.parameter: value}, **options)
        cost = self._cost(result)
        if result[1] != 0:
            if self.cap_ratio is not None and self._solves:
                cost = min(cost, self.cap_ratio * self._mean)
            warnings.warn(
                f"the solver did not reach its tolerance with {self.parameter} = {value:g} (info {result[1]})",
                RuntimeWarning,
                stacklevel=2,
            )
        self.bandit.update(cost)
        self._solves += 1
        self._mean += (cost - self._mean) / self._solves
        return result

    def solve_sequence(
        self, systems: Iterable[tuple[Any, ...]], *, warm_start: bool = False, **options: Any
    ) -> Iterator[Any]:
        """Solve systems one after the other.

        Parameters
        ----------
        systems
            Pairs (A, b), or triples (A, b, context). They may depend on the solutions before.
        warm_start
            Whether each solve starts from the solution before, as in time stepping.
        **options
            Further arguments of the solver, such as `rtol`.

        Yields
        ------
        SolveResult
            What the solver returned for each system.
        """
        x0 = None
        for A, b, *context in systems:
            result = self.solve(A, b, x0, context=context[0] if context else None, **options)
            x0 = result[0] if warm_start else None
            yield result

    def _cost(self, result: Any) -> float:
        if self.cost is not None:
            return self.cost(result)
        if not hasattr(result, "iterations"):
            raise TypeError("solver returns a result without iterations; cost takes a function that gives its cost")
        return max(1, result.iterations)
