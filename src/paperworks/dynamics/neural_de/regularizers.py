"""The penalty of one step of a solver, started anywhere on a trajectory that any solver may have found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics import ESTIMATES, PAIRS, check_state, checked_slope, first_step, take_step
from paperworks.numerics.solving import check_tolerance
from paperworks.numerics.stepping import Control, EstimateKind, Func

Sampling = Literal["unbiased", "biased", "global"]


@dataclass(frozen=True)
class ExponentialDecay:
    """A weight that goes from one value to another by the same factor each step, and stays there.

    Parameters
    ----------
    start, end
        The weight at step 0, and from step `steps` on; the paper takes 2.5 and 1 for the error estimate.
    steps
        How many steps it takes.

    Raises
    ------
    ValueError
        For weights that aren't positive, or no steps.

    Examples
    --------
    >>> weight = ExponentialDecay(100.0, 1.0, 10)
    >>> [round(weight(step), 6) for step in (0, 5, 10, 20)]
    [100.0, 10.0, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        check_number("start", self.start, gt=0)
        check_number("end", self.end, gt=0)
        check_count("steps", self.steps)

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        return self.start * (self.end / self.start) ** min(step / self.steps, 1.0)


@dataclass(frozen=True)
class SolverInfo:
    """What a forward pass cost and what it penalises.

    Parameters
    ----------
    reg
        The penalty, a tensor without dimension; 0 where nothing is regularised, as in evaluation mode.
    nfe
        Evaluations of the dynamics, those of the penalty included; of an SDE, drift and diffusion are counted each.
    n_accept, n_reject
        Accepted and rejected steps of the solve; where samples have steps of their own, those of the slowest.
    t_reg
        Time of the local step, NaN where there is none; where samples have times of their own, their mean.
    steps
        The accepted steps of the solve, with the error of each sample.

    Examples
    --------
    >>> from paperworks.dynamics import NeuralODE
    >>> _, info = NeuralODE(lambda t, u: -u)(torch.ones(1, 1, dtype=torch.float64))
    >>> info.nfe, info.n_accept, info.reg.item()
    (32, 5, 0.0)
    """

    reg: Tensor
    nfe: int
    n_accept: int
    n_reject: int
    t_reg: float
    steps: Sequence[Any]


def local_regularizer(
    func: Func,
    u: Float[Tensor, "..."],
    t: "float | Sequence[float] | np.ndarray | Tensor",
    t_end: float,
    atol: "float | Tensor" = 1e-6,
    rtol: "float | Tensor" = 1e-6,
    kind: EstimateKind = "error_estimate",
    generator: torch.Generator | None = None,
    *,
    solver: Literal["tsit5", "dopri5", "bosh3"] = "tsit5",
    detach_state: bool = True,
    detach_slope: bool | None = None,
    step: "float | np.ndarray | None" = None,
    control: Control = "batch",
) -> Float[Tensor, ""]:
    r"""Return the penalty of one step of a solver from a state on a trajectory (arXiv 2303.02262, section 3).

    The gradient reaches the parameters through this step alone, so that the trajectory may come from any solver, by any
    way of differentiating it. With the step's length $h$ and its error $E$ in units of the tolerances, the penalty is
    $h E$, or the estimate of stiffness $\|k_7 - k_6\| / \|g_7 - g_6\|$ over the size of the region of stability.

    Parameters
    ----------
    func
        ``func(t, u)``, the dynamics.
    u
        State (batch, ...) at time `t`; or a whole trajectory (times, batch, ...), of which one time but the last is
        drawn.
    t
        Time of the state; times of the trajectory; or with ``control="sample"`` the time of each sample.
    t_end
        Where the trajectory ends; the step doesn't go beyond.
    atol, rtol
        Tolerances of the solver that is to become fast: numbers, or one for each sample; 1e-6 by default.
    kind
        ``error_estimate`` (the default), ``stiffness_estimate``, or ``mixed``: the first plus 0.1 of the second.
    generator
        Draws the time of a trajectory; torch's global one by default.
    solver
        Whose step it is: ``tsit5`` (the paper's, by default), ``dopri5`` or ``bosh3``.
    detach_state
        Whether the state is a constant for the gradient, as in the paper's code; the step's length always is.
    detach_slope
        Whether the step's first slope is a constant for the gradient too; by default as `detach_state`, as in the
        paper's code. The error is a difference of slopes; with one of them held fast, its gradient is mostly that of
        the slopes' common size, so False is what lowers it.
    step
        The step's length, or one for each sample, cut where it would go beyond `t_end`; by default that which a solver
        begins with here.
    control
        ``batch``: one step and one error for all samples; ``sample``: one for each, and the mean of their penalties.

    Returns
    -------
    Tensor
        The penalty, without dimension.

    Raises
    ------
    ValueError
        For unknown names, tolerances that aren't positive, times in no order, or that aren't before `t_end`.
    RuntimeError
        Where the step isn't finite.

    Examples
    --------
    >>> decay = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    >>> u = torch.ones(4, 2, dtype=torch.float64)
    >>> stiffness = local_regularizer(lambda t, u: decay * u, u, 0.0, 1.0, kind="stiffness_estimate")
    >>> round(stiffness.item() * 3.5068, 9), torch.autograd.grad(stiffness, decay)[0] < 0
    (3.0, tensor(True))
    """
    check_choice("kind", kind, ESTIMATES)
    check_choice("control", control, ("batch", "sample"))
    pair = PAIRS[check_choice("solver", solver, PAIRS)]
    start: float | np.ndarray
    times = np.asarray(t, float)
    if times.ndim == 0:
        start = check_number("t", float(times))
    elif len(times) != len(u) or len(times) < 2:
        raise ValueError(f"t has {len(times)} times for {len(u)} states; it takes one for each, two or more")
    elif control == "sample":
        start = times
    elif not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError(f"t is {times.tolist()}; it takes times of a trajectory that rise")
    else:
        where = generator.device if generator else None
        drawn = int(torch.randint(len(times) - 1, (), generator=generator, device=where))
        start, u = float(times[drawn]), u[drawn]
    check_state(u.detach())
    check_number("t_end", t_end)
    if not (np.asarray(start) < t_end).all():
        raise ValueError(f"t is {np.max(start):g}; it takes times before t_end, {t_end:g}")
    atol, rtol = (check_tolerance(name, value, u) for name, value in (("atol", atol), ("rtol", rtol)))
    if detach_state:
        u = u.detach()
    constant = detach_state if detach_slope is None else detach_slope
    with torch.set_grad_enabled(torch.is_grad_enabled() and not constant):
        slope = checked_slope(func, start, u)
    if step is None:
        found = first_step(func, u, slope, start, t_end, pair, atol, rtol, control)
    else:
        found = np.array(step, float)
        if found.shape not in ((), (len(u),) if control == "sample" else ()) or not (found > 0).all():
            raise ValueError(f"step is {step}; it takes one length > 0, or with control='sample' one for each sample")
        found = np.minimum(found, t_end - np.asarray(start)).reshape(-1)
    length: float | np.ndarray = float(found[0])
    if control == "sample":
        start, length = (np.broadcast_to(x, (len(u),)).copy() for x in (start, found))
    penalty = take_step(func, u, slope, start, length, pair).estimate(kind, atol, rtol, control).mean()
    return check_penalty(penalty, start)


def local_evaluations(solver: str, step_size: str) -> int:
    """Return how often `local_regularizer` evaluates the dynamics."""
    return 1 + (step_size == "auto") + len(PAIRS[solver].b)


def check_penalty(penalty: Tensor, t: "float | np.ndarray") -> Tensor:
    """Return a finite penalty, else raise RuntimeError."""
    if not torch.isfinite(penalty.detach()):
        raise RuntimeError(f"the local step's penalty at t={np.min(t):g} is {penalty.item():g}; it takes finite slopes")
    return penalty
