"""Minimisation with SciPy's result, over the same loop."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from paperworks.core.validation import check_count
from paperworks.optimization.bayesian.optimizer import BayesianOptimizer


def minimize(
    fun: Callable[[Any], float],
    bounds: Sequence[Any],
    n_calls: int = 50,
    *,
    x0: Sequence[Any] | None = None,
    y0: ArrayLike | None = None,
    callback: Callable[[OptimizeResult], bool | None] | None = None,
    random_state: int | None = 0,
    **options: Any,
) -> OptimizeResult:
    """Minimise an expensive function in few calls.

    Parameters
    ----------
    fun
        Takes a point and returns a number.
    bounds
        For each argument (low, high), `Continuous`, `Integer` or `Categorical`.
    n_calls
        How often `fun` is called in all.
    x0
        Points that are evaluated first, before initial ones are drawn.
    y0
        Their values, where they are known; they then cost no call.
    callback
        Called after each evaluation with the result so far; a true return value stops.
    random_state
        Seed of the points and searches; None for a fresh one.
    options
        Passed on to `BayesianOptimizer`: `acq`, `noise`, `n_initial`, `kernel`, `inference`.

    Returns
    -------
    OptimizeResult
        With `x`, `fun`, `nfev`, `x_iters`, `func_vals`, `success`, `message` and the `optimizer`. Without noise, `x` is
        the best point that was evaluated, else the evaluated one of the least posterior mean.

    Raises
    ------
    ValueError
        Where bounds are reversed, or `fun` returns NaN or infinity.

    References
    ----------
    arXiv 1807.02811, Algorithm 1, with the sign turned.

    Examples
    --------
    >>> result = minimize(lambda x: (x[0] - 0.3) ** 2, [(0, 1)], n_calls=12, noise=0.0)
    >>> bool(abs(result.x[0] - 0.3) < 0.01), result.nfev
    (True, 12)
    """
    check_count("n_calls", n_calls)
    optimizer = BayesianOptimizer(bounds, random_state=random_state, **options)
    if optimizer.n_constraints or optimizer.sources is not None:
        raise ValueError("options has constraints or fidelities; it takes those of a function of points alone")
    given: Sequence[Any] = () if x0 is None else x0
    if len(given) and (isinstance(given[0], (str, bytes)) or not np.iterable(given[0])):
        given = [given]  # one point by itself
    points = [list(x) for x in given]
    optimizer.space.encode(points)  # whose errors come before any call
    if y0 is not None:
        if not points:
            raise ValueError("y0 is given without x0; it takes the points of its values too")
        optimizer.tell(points, -np.atleast_1d(np.asarray(y0, dtype=float)))
        points = []
    calls = 0

    def result(message: str) -> OptimizeResult:
        x, y = optimizer.best
        return OptimizeResult(
            x=x,
            fun=-y,
            nfev=calls,
            nit=calls,
            x_iters=optimizer.X,
            func_vals=-optimizer.y,
            success=True,
            status=0,
            message=message,
            optimizer=optimizer,
        )

    while calls < n_calls:
        X = [points.pop(0)] if points else optimizer.ask(1)
        value = _number(fun(X[0]))
        calls += 1
        if not np.isfinite(value):
            raise ValueError(f"fun returned {value} at {list(X[0])!r}; it takes a function to finite numbers")
        optimizer.tell(X, [-value])
        if callback is not None and callback(result("running")):
            return result("stopped by the callback")
    return result(f"all {n_calls} calls were made")


def _number(value: Any) -> float:
    """Return what a function gave as a float, or raise TypeError."""
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise TypeError(f"fun returned {value!r}; it takes a function to one number") from None
