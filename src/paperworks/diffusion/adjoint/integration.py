"""Following a plan, and making one on the way, for states of one or several tensors."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paperworks.diffusion.adjoint.flow import Gradients
from paperworks.diffusion.adjoint.plans import ADAMS_ORDER, DOPRI5, DOPRI5_ERROR, Step, runge_kutta

State = tuple[Tensor, ...]
# field(state, s, weighs): the slope of the state at s, and, unless the evaluation has no weight in the integrals that
# run along, the integrands of those.
Field = Callable[[State, float, bool], tuple[State, Gradients]]
Visit = Callable[[State], None]

SAFETY, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.2, 10.0


class Tolerance(NamedTuple):
    """Relative and absolute tolerance of the error of one step."""

    rtol: float
    atol: float


class Sums:
    """Integrals that run along with a solution and that it doesn't depend on: weighted sums, added up in place."""

    def __init__(self, count: int) -> None:
        self.values: list[Tensor | None] = [None] * count

    def add(self, terms: Gradients, weight: float = 1.0) -> None:
        """Add the terms times a weight; None stands for zero."""
        if weight == 0:
            return
        totals, added = [], []
        for i, term in enumerate(terms):
            if term is None:
                continue
            total = self.values[i]
            if total is None:
                self.values[i] = term * weight
            else:
                totals.append(total)
                added.append(term)
        if totals:
            torch._foreach_add_(totals, added, alpha=weight)  # one call for all parameters


def advance(state: State, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """Add weighted slopes to a state."""
    used = [(w, slope) for w, slope in zip(weights, slopes, strict=False) if w]
    if not used:
        return state
    (first_weight, first), *others = used
    result = []
    for i, y in enumerate(state):
        total = torch.add(y, first[i], alpha=first_weight)
        for weight, slope in others:
            total.add_(slope[i], alpha=weight)
        result.append(total)
    return tuple(result)


def follow(field: Field, state: State, plan: Sequence[Step], sums: Sums, visit: Visit | None = None) -> State:
    """Solve along a plan; `visit` sees the state after each step."""
    history: deque[State] = deque(maxlen=ADAMS_ORDER - 1)
    remembers = any(step.history for step in plan)
    for step in plan:
        slopes: list[State] = []
        for row, place, weight in zip(step.tableau.a, step.places, step.weights, strict=True):
            stage = advance(state, [step.h * a for a in row], slopes)
            slope, integrands = field(stage, place, weight != 0)
            sums.add(integrands, weight)
            slopes.append(slope)
        state = advance(state, (*step.b, *step.history), (*slopes, *history))
        if remembers:
            history.appendleft(slopes[0])
        if visit is not None:
            visit(state)
    return state


def adapt(
    field: Field,
    state: State,
    s: float,
    end: float,
    tolerance: Tolerance,
    sums: Sums,
    visit: Visit | None = None,
) -> tuple[State, list[Step]]:
    """Solve by the Dormand-Prince pair with steps that keep the error within the tolerances; return also the plan.

    Raises
    ------
    RuntimeError
        Where the step shrinks to nothing, as it does when the slope isn't finite.
    """
    first, integrands = field(state, s, True)
    h = _first_step(field, state, first, s, end, tolerance)
    plan: list[Step] = []
    before: tuple[float, float] | None = None  # length and error of the step before
    while s != end:
        arrives = abs(h) >= abs(end - s) * (1 - 1e-9)
        step = runge_kutta(DOPRI5, s, end - s if arrives else h)
        if abs(step.h) <= 1e-14 * max(abs(s), abs(end)):
            raise RuntimeError(
                f"solver 'dopri5' can't meet rtol={tolerance.rtol:g}, atol={tolerance.atol:g} at s={s:g}: its step "
                "shrank to nothing; is the model finite there?"
            )
        tried = Sums(len(sums.values))
        tried.add(integrands, step.b[0])
        slopes = [first]
        for row, place, weight in list(zip(step.tableau.a, step.places, step.b, strict=True))[1:]:
            slope, terms = field(advance(state, [step.h * a for a in row], slopes), place, weight != 0)
            tried.add(terms, weight)
            slopes.append(slope)
        there = advance(state, step.b, slopes)
        s_there = end if arrives else s + step.h
        last, last_integrands = field(there, s_there, True)
        with torch.no_grad():
            nothing = tuple(torch.zeros_like(y) for y in state)
            error = _norm(
                advance(nothing, [step.h * e for e in DOPRI5_ERROR], [*slopes, last]),
                tuple(torch.maximum(y.abs(), z.abs()) for y, z in zip(state, there, strict=True)),
                tolerance,
            )
        factor = SAFETY * max(error, 1e-10) ** -0.2 if math.isfinite(error) else LEAST_FACTOR
        if error <= 1:
            plan.append(step)
            sums.add(tried.values)
            state, s, first, integrands = there, s_there, last, last_integrands
            if visit is not None:
                visit(state)
            if before is not None:  # steps that had to shrink will have to go on shrinking, as rho does towards data
                trend = step.h / before[0] * (before[1] / max(error, 1e-10)) ** 0.2
                factor *= min(1.0, trend)
            before = step.h, max(error, 1e-10)
        h = step.h * min(max(factor, LEAST_FACTOR), MOST_FACTOR)
    return state, plan


def _first_step(field: Field, state: State, slope: State, s: float, end: float, tolerance: Tolerance) -> float:
    """Guess a first step from how fast the slope changes (Hairer, Norsett, Wanner, Solving ODEs I, II.4)."""
    state, slope = tuple(y.detach() for y in state), tuple(k.detach() for k in slope)
    size = tuple(y.abs() for y in state)
    d0, d1 = _norm(state, size, tolerance), _norm(slope, size, tolerance)
    trial = min(0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6, abs(end - s))
    h = math.copysign(trial, end - s)
    moved, _ = field(advance(state, [h], [slope]), s + h, False)
    d2 = _norm(tuple(b - a for a, b in zip(slope, moved, strict=True)), size, tolerance) / trial
    greatest = max(d1, d2)
    good = (0.01 / greatest) ** 0.2 if greatest > 1e-15 else max(1e-6, trial * 1e-3)
    guess = min(100 * trial, good)
    return math.copysign(guess if math.isfinite(guess) else trial, end - s)


def _norm(error: State, size: State, tolerance: Tolerance) -> float:
    """Return the error in units of the tolerance: root mean square over a sample, the greatest of all."""
    worst = 0.0
    for e, y in zip(error, size, strict=True):
        each = (e / (tolerance.atol + tolerance.rtol * y)).reshape(len(e), -1)
        norm = each.square().mean(dim=1).sqrt().max().item()
        worst = norm if math.isnan(norm) else max(worst, norm)  # max would drop a NaN
    return worst
