"""A neural ODE whose training makes its solver take fewer steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.neural_de.adjoint import Outputs, solve_with_adjoint
from paperworks.dynamics.neural_de.regularizers import Sampling, SolverInfo, local_evaluations, local_regularizer
from paperworks.numerics import ESTIMATES, PAIRS, Solution, solve_ode
from paperworks.numerics.stepping import Control, EstimateKind, Func


@dataclass(frozen=True)
class _Place:
    """Where the local step begins: time, state and the length of the solver's step there."""

    t: "float | np.ndarray"
    u: Tensor
    h: "float | np.ndarray"


class NeuralODE(nn.Module):
    r"""The solution of $u' = f(t, u)$ as a layer, with the penalty that makes it cheap (arXiv 2303.02262).

    In training mode a forward pass also returns a penalty, to be added to the loss times a weight. Its local versions
    penalise one step of the solver from a random time, and go with the adjoint; the global ones, ERNODE and SRNODE
    (arXiv 2105.03918), add up all steps. In evaluation mode nothing is penalised and no evaluation added.

    Parameters
    ----------
    func
        ``func(t, u)``, the dynamics: a module, whose parameters the adjoint finds, or a function; one with parameters
        takes ``backprop``. `u` is (batch, ...), `t` a tensor without dimension, or (batch,) with ``control="sample"``.
    t_span
        Where time begins and ends, rising; (0, 1) by default.
    solver
        ``tsit5`` (the paper's, by default), ``dopri5`` or ``bosh3``.
    atol, rtol
        Error that a step may make, ``atol + rtol |u|``: numbers, or one for each sample of the batch; 1e-6 by default,
        which float32 can just do. The weight of the penalty has to be found anew where they change.
    regularize
        None; ``unbiased``: the local step begins at a uniformly drawn time; ``biased``: at the start of one of the
        solver's steps, of which there are more where they are short; ``global``: all steps are penalised.
    reg_type
        ``error_estimate`` (the default), ``stiffness_estimate`` or ``mixed``: the first plus 0.1 of the second.
    adjoint
        ``backprop``: through the solver's steps; ``adjoint``: by the adjoint equation, solved backwards, whose memory
        doesn't grow with the number of steps.
    detach_state, detach_slope
        Whether the local step's first state, and its first slope, are constants for the gradient: both by default, as
        in the paper's code; see `local_regularizer`.
    step_size
        Length of the local step: ``auto`` (the paper's): what a solver begins with there; ``solver``: that of the
        solver's step which the time is in.
    aggregate
        With ``global``, whether the ``sum`` or the ``mean`` over the steps is penalised.
    steer
        In training the end of time is drawn uniformly from so far before to so far behind (STEER, arXiv 2006.10711);
        0 by default.
    t_eval
        Times to return the solution at, rising; by default the last alone, without the first dimension.
    control
        ``batch``: the solver's steps are the same for all samples; ``sample``: each has its own.
    max_steps
        Attempts of the solver before it gives up; 10 000 by default.
    random_state
        Seed of the generator that draws times; it draws nothing else.

    Raises
    ------
    ValueError
        For unknown names, tolerances that aren't positive, times in no order, ``global`` with the adjoint.

    Notes
    -----
    A forward pass raises RuntimeError where the dynamics aren't finite, the step shrinks to nothing or `max_steps`
    don't suffice, and says whether the problem is stiff. The adjoint's backward pass raises it where the dynamics have
    parameters that it can't find.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> layer = NeuralODE(lambda t, u: torch.sin(3 * t) * u, regularize="unbiased")
    >>> u, info = layer(torch.ones(2, 1, dtype=torch.float64))
    >>> info.nfe == 2 + 6 * (info.n_accept + info.n_reject) + 8, bool(info.reg > 0)
    (True, True)
    """

    def __init__(
        self,
        func: Func,
        t_span: tuple[float, float] = (0.0, 1.0),
        solver: Literal["tsit5", "dopri5", "bosh3"] = "tsit5",
        atol: "float | Tensor" = 1e-6,
        rtol: "float | Tensor" = 1e-6,
        regularize: Sampling | None = None,
        reg_type: EstimateKind = "error_estimate",
        adjoint: Literal["backprop", "adjoint"] = "backprop",
        *,
        detach_state: bool = True,
        detach_slope: bool | None = None,
        step_size: Literal["auto", "solver"] = "auto",
        aggregate: Literal["sum", "mean"] = "sum",
        steer: float = 0.0,
        t_eval: Sequence[float] | None = None,
        control: Control = "batch",
        max_steps: int = 10_000,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        self.func = func
        self.t_span = check_span(t_span)
        self.solver = check_choice("solver", solver, PAIRS)
        self.atol, self.rtol = check_tolerance("atol", atol), check_tolerance("rtol", rtol)
        self.regularize = check_choice("regularize", regularize, (None, "unbiased", "biased", "global"))
        self.reg_type = check_choice("reg_type", reg_type, ESTIMATES)
        self.adjoint = check_choice("adjoint", adjoint, ("backprop", "adjoint"))
        if regularize == "global" and adjoint == "adjoint":
            raise ValueError("regularize is 'global' with adjoint='adjoint'; a sum over all steps takes 'backprop'")
        self.detach_state, self.detach_slope = detach_state, detach_slope
        self.step_size = check_choice("step_size", step_size, ("auto", "solver"))
        self.aggregate = check_choice("aggregate", aggregate, ("sum", "mean"))
        self.steer = check_number("steer", steer, ge=0, lt=self.t_span[1] - self.t_span[0])
        self.t_eval = None if t_eval is None else check_times(t_eval, self.t_span)
        if steer and t_eval is not None:
            raise ValueError("steer moves the end of time; it takes t_eval=None")
        self.control: Control = check_choice("control", control, ("batch", "sample"))
        if (regularize, adjoint, control, detach_state) == ("biased", "adjoint", "sample", False):
            raise ValueError(
                "detach_state is False, with times of each sample's own; the adjoint takes control='batch'"
            )
        self.max_steps = check_count("max_steps", max_steps)
        self.rng = np.random.default_rng(check_count("random_state", random_state, at_least=0))

    def extra_repr(self) -> str:
        """Say in a module's representation what the solver does.

        Returns
        -------
        str
            The span, the tolerances and the penalty.
        """
        tolerances = f"atol={self.atol}, rtol={self.rtol}"
        return f"t_span={self.t_span}, solver={self.solver!r}, {tolerances}, regularize={self.regularize!r}"

    def forward(self, u0: Float[Tensor, "batch ..."]) -> tuple[Tensor, SolverInfo]:
        """Solve from the first time to the last.

        Parameters
        ----------
        u0
            States at the first time, (batch, ...).

        Returns
        -------
        Tensor, SolverInfo
            The state at the last time, or the states at `t_eval`, (times, batch, ...); the penalty and the cost.
        """
        t0, t1 = self.t_span
        penalises = self.training and self.regularize is not None
        if self.training and self.steer:
            t1 += float(self.rng.uniform(-self.steer, self.steer))
        times = [t1] if self.t_eval is None else list(self.t_eval)
        drawn: list[float] = []
        if penalises and self.regularize == "unbiased":
            drawn = [float(self.rng.uniform(t0, t1))]
        asked = sorted({*times, *drawn, t1})
        estimates = self.reg_type if penalises and self.regularize == "global" else None
        place: list[_Place] = []

        def solve(u: Tensor) -> Outputs:
            solution = solve_ode(
                self.func,
                u,
                (t0, t1),
                pair=self.solver,
                atol=self.atol,
                rtol=self.rtol,
                t_eval=asked,
                control=self.control,
                max_steps=self.max_steps,
                estimates=estimates,
                keep_states=penalises and self.regularize == "biased",
            )
            states, places = solution.states, asked
            if drawn:
                place.append(_Place(drawn[0], states[asked.index(drawn[0])], _length_at(solution, drawn[0])))
            elif penalises and self.regularize == "biased":
                place.append(self._start_of_a_step(solution))
                if not self.detach_state and self.adjoint == "adjoint":
                    states, places = torch.cat([states, place[0].u[None]]), [*asked, float(np.max(place[0].t))]
            light = replace(solution, steps=[replace(step, u=None) for step in solution.steps])
            return Outputs(states, places, light)

        if self.adjoint == "adjoint":
            outputs = solve_with_adjoint(solve, self.func, t0, self._options(), u0)
            if place and not self.detach_state:
                at = len(asked) if self.regularize == "biased" else asked.index(drawn[0])
                place[0] = replace(place[0], u=outputs.states[at])
        else:
            outputs = solve(u0)
        reg, cost, t_reg = outputs.states.new_zeros(()), 0, float("nan")
        if place:
            reg, cost, t_reg = (
                self._local(place[0], t1),
                local_evaluations(self.solver, self.step_size),
                float(np.mean(place[0].t)),
            )
        elif penalises:
            stacked = torch.stack([step.estimate for step in outputs.solution.steps if step.estimate is not None])
            took = torch.as_tensor(np.stack([step.h != 0 for step in outputs.solution.steps]), device=stacked.device)
            sums = torch.where(took, stacked, 0.0).sum(0)
            reg = (sums if self.aggregate == "sum" else sums / took.sum(0)).mean()
        states = outputs.states[[asked.index(time) for time in times]]
        solution = outputs.solution
        info = SolverInfo(
            reg,
            int(solution.nfe.max()) + cost,
            int(solution.n_accept.max()),
            int(solution.n_reject.max()),
            t_reg,
            solution.steps,
        )
        return (states[0] if self.t_eval is None else states), info

    def _options(self) -> dict[str, Any]:
        atol, rtol = (float(x.min()) if isinstance(x, Tensor) else x for x in (self.atol, self.rtol))
        return {
            "atol": atol,
            "rtol": rtol,
            "solver": self.solver,
            "max_steps": self.max_steps,
            "control": self.control,
        }

    def _local(self, place: _Place, t1: float) -> Tensor:
        return local_regularizer(
            self.func,
            place.u,
            place.t,
            t1,
            self.atol,
            self.rtol,
            self.reg_type,
            solver=self.solver,
            detach_state=self.detach_state,
            detach_slope=self.detach_slope,
            step=place.h if self.step_size == "solver" else None,
            control=self.control,
        )

    def _start_of_a_step(self, solution: Solution) -> _Place:
        """Draw one of the accepted steps, for each sample one of its own where steps are."""
        steps = solution.steps
        u = [step.u for step in steps if step.u is not None]
        if self.control == "batch":
            i = int(self.rng.integers(len(steps)))
            return _Place(float(steps[i].t[0]), u[i], float(steps[i].h[0]))
        t, h = (np.stack([getattr(step, name) for step in steps]) for name in ("t", "h"))
        chosen = np.array([self.rng.choice(np.flatnonzero(column)) for column in h.T])
        rows = np.arange(h.shape[1])
        states = torch.stack(u)[torch.as_tensor(chosen), torch.as_tensor(rows)]
        return _Place(t[chosen, rows], states, h[chosen, rows])


def _length_at(solution: Solution, time: float) -> "float | np.ndarray":
    """Return the length of the step that a time is in, of each sample where they have their own."""
    t, h = (np.stack([getattr(step, name) for step in solution.steps]) for name in ("t", "h"))
    within = (h != 0) & (t <= time) & (time < t + h)
    lengths = np.where(within.any(0), (h * within).sum(0), h[-1])
    return float(lengths[0]) if len(lengths) == 1 else lengths


def check_span(t_span: tuple[float, float]) -> tuple[float, float]:
    """Return two times that rise, else raise ValueError."""
    if len(t_span) != 2:
        raise ValueError(f"t_span has {len(t_span)} times; it takes two that rise")
    t0, t1 = (check_number("t_span", time) for time in t_span)
    if t1 <= t0:
        raise ValueError(f"t_span is {(t0, t1)}; it takes two times that rise")
    return t0, t1


def check_times(t_eval: Sequence[float], t_span: tuple[float, float]) -> list[float]:
    """Return times within a span that rise, else raise ValueError."""
    times = [check_number("t_eval", time) for time in t_eval]
    if not times or not t_span[0] <= times[0] or not times[-1] <= t_span[1] or times != sorted(set(times)):
        raise ValueError(f"t_eval is {times}; it takes times within t_span, {t_span}, that rise")
    return times


def check_tolerance(name: str, value: "float | Tensor") -> "float | Tensor":
    """Return a positive number, or a tensor of them, else raise ValueError."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return check_number(name, value, gt=0)
    if not bool(((value > 0) & torch.isfinite(value)).all()):
        raise ValueError(f"{name} is down to {value.min():g}; it takes finite numbers > 0")
    return value
