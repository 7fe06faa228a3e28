"""Solvers that choose their steps: a pair of neighbouring orders on the same evaluations (DPM-Solver-12 and -23)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.diffusion.dpm_solver.exponential import Form, Level, SolverType
from paperworks.diffusion.dpm_solver.plans import singlestep_updates
from paperworks.diffusion.sampling import SampleResult, Sampling, combine, per_sample
from paperworks.diffusion.schedules import NoiseSchedule

Predict = Callable[[Sampling, Tensor, float | Tensor, float | Tensor, float | Tensor], Tensor]

# DPM-Solver's own constants: the first step in lam, the factor kept below the step that the error allows, and how
# near to the end counts as there.
FIRST_STEP = 0.05
SAFETY = 0.9
TIME_TOLERANCE = 1e-5
MOST_GROWTH = 10.0  # where the error is nil, as in an exactly solved problem


class Control(NamedTuple):
    """Tolerances of the error, the number of attempts at which to give up, and whether to step as the official program.

    That lets steps grow without a limit, and evaluates the model anew where a step was rejected.
    """

    atol: float
    rtol: float
    max_steps: int
    legacy: bool = False

    def check(self) -> None:
        """Raise ValueError where a number is out of range."""
        check_number("atol", self.atol, gt=0)
        check_number("rtol", self.rtol, ge=0)
        check_count("max_steps", self.max_steps)


def solve(
    sampling: Sampling,
    predict: Predict,
    schedule: NoiseSchedule,
    form: Form,
    order: int,
    t_end: float,
    solver_type: SolverType,
    control: Control,
    alone: bool,
    correct: Callable[[Tensor, float | Tensor, int], Tensor] | None,
) -> SampleResult:
    """Solve with steps whose error estimate stays within the tolerances (arXiv 2206.00927, appendix C).

    All samples share their steps, which the worst of them decides; `alone` gives each its own. What is per step size
    has shape (groups,), one group being the whole batch or one sample; samples that have arrived stay where they are.
    """
    control.check()
    x, t_start = sampling.x, sampling.times[0]
    if alone and (sampling.trajectory is not None or correct is not None):
        raise ValueError("per_sample stepping has no common times; it takes no return_trajectory or correcting_xt_fn")
    s = torch.full((len(x) if alone else 1,), t_start, dtype=torch.float64)
    lam_end = schedule.lam(t_end)
    h = torch.full_like(s, FIRST_STEP if t_end < t_start else -FIRST_STEP)
    r = [j / order for j in range(1, order)]
    parts = torch.tensor(r, dtype=s.dtype)[:, None]
    state = before = x
    first_value: Tensor | None = None
    attempts = accepted = rejected = 0
    while not bool((there := (s - t_end).abs() <= TIME_TOLERANCE).all()):
        if attempts == control.max_steps:
            raise RuntimeError(
                f"adaptive solver stopped after max_steps={control.max_steps} attempts at t={_furthest(s, t_end):g}; "
                "loosen atol or rtol, or raise max_steps"
            )
        attempts += 1
        start = Level.at_time(schedule, s)
        remaining = lam_end - start.lam
        arrives = h.abs() >= remaining.abs()
        h = torch.where(there, 0.0, torch.where(arrives, remaining, h))
        t = torch.where(there, s, torch.where(arrives, t_end, schedule.t_of_lam(start.lam + h)))
        nodes = torch.stack([s, *schedule.t_of_lam(start.lam + h * parts), t])
        grid = Level.at_time(schedule, nodes)
        levels = [grid[j] for j in range(order + 1)]
        high = state
        values: list[Tensor] = []
        for node, level, update in zip(nodes, levels, singlestep_updates(form, levels, solver_type, r), strict=False):
            if not values and first_value is not None:  # the step before was rejected, and this is where it began
                values.append(first_value)
            else:
                arguments = (_given(v, x, alone) for v in (level.log_alpha.exp(), level.log_sigma.exp()))
                values.insert(0, predict(sampling, high, node.to(x.device) if alone else node.item(), *arguments))
            high = _apply(update, state, values, alone)
        rule = "midpoint" if solver_type == "dpmsolver" else "taylor"
        update = form.update(start, levels[-1], r[: order - 2], rule)  # type: ignore[arg-type]
        low = _apply(update, state, values[::-1], alone)
        error = _error(high, low, before, control, alone).to(s)
        if not bool(torch.isfinite(error).all()):
            raise ValueError("model_fn returned NaN or infinity, or the state overflowed; the error isn't a number")
        ok = (error <= 1) & ~there
        accepted += int(ok.sum())
        rejected += int((~ok & ~there).sum())
        growth = torch.clamp(SAFETY * error ** (-1 / order), max=math.inf if control.legacy else MOST_GROWTH)
        h = growth * h
        s = torch.where(ok, t, s)
        first_value = None if control.legacy or bool(ok.any()) else values[-1]
        if alone:
            mask = ok.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
            state, before = torch.where(mask, high, state), torch.where(mask, low, before)
        elif bool(ok):
            state, before = high, low
            if correct is not None:
                state = correct(state, s.item(), accepted)
        if bool(ok.any()):
            sampling.reached(state, _furthest(s, t_end))
    return sampling.result(n_accept=accepted, n_reject=rejected)


def _furthest(s: Tensor, t_end: float) -> float:
    return s[(s - t_end).abs().argmax()].item()


def _given(value: Tensor, x: Tensor, alone: bool) -> float | Tensor:
    """Return a value per group as what multiplies the state: one number, or one row per sample."""
    return per_sample(value, x) if alone else value.item()


def _apply(update: list[Tensor], state: Tensor, values: list[Tensor], alone: bool) -> Tensor:
    return combine([_given(c, state, alone) for c in update], [state, *values])


def _error(high: Tensor, low: Tensor, before: Tensor, control: Control, alone: bool) -> Tensor:
    """Return the error in units of the tolerance: root mean square over a sample, the greatest of a group."""
    tolerance = torch.maximum(low.abs(), before.abs()).mul_(control.rtol).clamp_(min=control.atol)
    each = ((high - low) / tolerance).reshape(len(high), -1).square().mean(dim=1).sqrt()
    return each if alone else each.max().reshape(1)
