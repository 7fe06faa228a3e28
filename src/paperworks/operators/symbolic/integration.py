"""Trajectories of many systems at once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.numerics import solve_ode
from paperworks.operators.symbolic.systems import System

BOUND = 1e3
"""Greatest size of a state of an accepted trajectory."""


def simulate(
    rhs: Callable[[Tensor], Tensor],
    u0: Float[Tensor, "n d"],
    times: Sequence[float] | np.ndarray,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    bound: float = BOUND,
) -> Float[Tensor, "n times d"]:
    """Integrate autonomous systems from many states at once, each in steps of its own.

    Parameters
    ----------
    rhs
        Slopes of all states, (n, d) of (n, d).
    u0
        States at the first time, in rows of float32 or float64.
    times
        Times in rising order, the first one that of `u0`.
    rtol, atol
        Tolerances of a step, 1e-6 each by default; the authors' code takes 1e-5 and 1e-6 with implicit steps.
    bound
        A trajectory that leaves this size is given up; 1e3 in the authors' code.

    Returns
    -------
    Tensor
        States at the times; NaN throughout for trajectories that were given up, or whose slope isn't finite.

    Raises
    ------
    ValueError
        For a bound that isn't positive, fewer than two times, and for what `solve_ode` refuses.
    RuntimeError
        Where the solver gives up.

    Examples
    --------
    >>> simulate(lambda u: -u, torch.ones(2, 1), [0.0, 1.0])[:, -1, 0]
    tensor([0.3679, 0.3679])
    """
    check_number("bound", bound, gt=0)
    if len(times) < 2:
        raise ValueError(f"times has {len(times)}; it takes two or more, the first one that of u0")

    def held(t: Tensor, u: Tensor) -> Tensor:
        slope = rhs(u)
        # What is lost stands still, so that it doesn't hold up the others.
        fine = torch.isfinite(slope).all(1, keepdim=True) & (u.abs().amax(1, keepdim=True) < bound)
        return torch.where(fine, slope, 0.0)

    span = (float(times[0]), float(times[-1]))
    with torch.no_grad():
        solution = solve_ode(held, u0, span, rtol=rtol, atol=atol, t_eval=[*map(float, times)], control="sample")
        states = solution.states.transpose(0, 1)
        end = states[:, -1]
        lost = (states.abs().amax((1, 2)) >= bound) | ~torch.isfinite(rhs(end)).all(1)
    return torch.where(lost[:, None, None], torch.nan, states)


def integrate_systems(
    systems: Sequence[System | None], u0: Float[Tensor, "n d"], times: Sequence[float] | np.ndarray, rtol: float = 1e-6
) -> Float[Tensor, "n times d"]:
    """Integrate each of several systems from a state of its own; those with the same skeleton go through at once.

    Parameters
    ----------
    systems
        One system with numbers for each state, or None.
    u0
        States at the first time, padded to one width.
    times
        Times in rising order.
    rtol
        Relative tolerance of a step, 1e-6 by default, and absolute one.

    Returns
    -------
    Tensor
        States at the times, 0 in columns that a system doesn't have; NaN for None, for a system with placeholders, for
        one whose trajectory was given up, and for one of more components than `u0` has columns.

    Raises
    ------
    ValueError
        For another number of systems than of states.
    TypeError
        For states that aren't of floating point.

    Examples
    --------
    >>> from paperworks.operators import Expr
    >>> decay = System((-0.5 * Expr.variable(0),))
    >>> integrate_systems([decay, None], torch.ones(2, 1), [0.0, 2.0])[:, -1, 0]
    tensor([0.3679,    nan])
    """
    if len(systems) != len(u0):
        raise ValueError(f"systems has {len(systems)}; it takes one for each of {len(u0)} states")
    if not u0.is_floating_point():
        raise TypeError(f"u0 is {u0.dtype}; it takes a tensor of floating point")
    found = u0.new_full((len(u0), len(times), u0.shape[1]), torch.nan)
    groups: dict[System, list[int]] = {}
    for i, system in enumerate(systems):
        if system is not None and system.dimension <= u0.shape[1]:
            groups.setdefault(system.skeleton(), []).append(i)
    for skeleton, rows in groups.items():
        d = skeleton.dimension
        numbers = torch.tensor([systems[i].numbers() for i in rows], dtype=u0.dtype)  # type: ignore[union-attr]
        for chosen in (range(len(rows)), *[[k] for k in range(len(rows))]):
            try:
                at = torch.tensor([rows[k] for k in chosen])
                part = simulate(_of(skeleton, numbers[list(chosen)].to(u0)), u0[at, :d], times, rtol, rtol)
            except RuntimeError:  # a stiff one stops the solver: then each goes alone
                continue
            found[at] = torch.nn.functional.pad(part, (0, u0.shape[1] - d)) + 0 * part[:, :1, :1]  # NaN for the lost
            if len(chosen) == len(rows):
                break
    return found


def _of(skeleton: System, numbers: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda u: skeleton.evaluate(u, numbers)
