"""A lower level solved to convergence: accelerated projected gradients whose step finds itself."""

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

from paperworks.optimization.bilevel.levels import Tensors, dot, mixed, moved, norm, subtract


class Minimum(NamedTuple):
    """Where a minimisation ended."""

    y: Tensors
    residual: float  # norm of the last projected gradient step over its length


def minimise(
    value_and_gradient: Callable[[Tensors], tuple[float, Tensors]],
    start: Tensors,
    project: Callable[[Tensors], Tensors],
    atol: float = 1e-10,
    steps: int = 5000,
) -> Minimum:
    """Minimise a smooth function on a convex set by FISTA with backtracking and restarts.

    The step grows by a tenth after each success and halves until the quadratic upper bound holds; momentum starts again
    whenever it points uphill, which makes the rate linear where the function is strongly convex near its minimum.
    """
    y, ahead, t, L, residual = start, start, 1.0, 1.0, float("inf")
    for _ in range(steps):
        value, gradient = value_and_gradient(ahead)
        for _ in range(60):
            new = project(moved(ahead, gradient, 1 / L))
            step = subtract(new, ahead)
            length = norm(step)
            if not isfinite(value + length):
                raise ValueError("the lower level is not finite: it has no bound below, or is not defined at its start")
            # Near the minimum values cancel; there the bound is tested by gradients, which do not.
            bound = value + dot(gradient, step) + L / 2 * length**2
            new_value, new_gradient = value_and_gradient(new)
            if not isfinite(new_value):
                enough = False
            elif abs(new_value - value) > 1e-9 * (1 + abs(value)):
                enough = new_value <= bound
            else:
                enough = dot(subtract(new_gradient, gradient), step) <= L * length**2 * (1 + 1e-9) + 1e-300
            if enough:
                break
            L *= 2
        residual = L * length
        if residual <= atol:
            return Minimum(new, residual)
        if dot(subtract(ahead, new), subtract(new, y)) > 0:
            t, ahead = 1.0, new
        else:
            after = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = mixed((t - 1) / after, subtract(new, y), new)
            t = after
        y, L = new, max(L / 1.1, 1e-8)
    return Minimum(y, residual)
