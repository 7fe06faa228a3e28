"""The two stepping loops: along a plan, and with steps that keep the error within tolerances.

States are tuples of tensors of any dtype and device; all arithmetic is out of place where a gradient may be asked for.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.numerics.plans import ADAMS_ORDER, Step, fixed_plan, runge_kutta
from paperworks.numerics.tableaus import TABLEAUS, Tableau

State = tuple[Tensor, ...]
Terms = Sequence[Tensor | None]
# field(state, s, weighs): the slope of the state at s, and, unless the evaluation has no weight in the integrals that
# run along, the integrands of those.
Field = Callable[[State, float, bool], tuple[State, Terms]]
Visit = Callable[[State], None]

SAFETY, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.2, 10.0


class Tolerance(NamedTuple):
    """Relative and absolute tolerance of the error of one step.

    Parameters
    ----------
    rtol
        Error allowed relative to the state.
    atol
        Error allowed where the state is near 0, in the unit of the state.

    Examples
    --------
    >>> Tolerance(rtol=1e-3, atol=1e-6).atol
    1e-06
    """

    rtol: float
    atol: float


class Sums:
    """Integrals that run along with a solution and that it doesn't depend on: weighted sums, added up in place.

    Parameters
    ----------
    count
        Number of integrals. `values` holds their values, None for one that was given no term.

    Examples
    --------
    >>> sums = Sums(1)
    >>> sums.add([torch.ones(2)], 0.5)
    >>> sums.values
    [tensor([0.5000, 0.5000])]
    """

    def __init__(self, count: int) -> None:
        self.values: list[Tensor | None] = [None] * count

    def add(self, terms: Terms, weight: float = 1.0) -> None:
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
    """Return a state plus weighted slopes.

    Parameters
    ----------
    state
        One or several tensors.
    weights
        One for each slope; 0 leaves it out.
    slopes
        Slopes of the state, each as many tensors.

    Returns
    -------
    tuple of Tensor
        A new state, or the same where all weights are 0.

    Examples
    --------
    >>> advance((torch.tensor([1.0]),), [0.5], [(torch.tensor([2.0]),)])
    (tensor([2.]),)
    """
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
    """Solve along a plan.

    Parameters
    ----------
    field
        ``field(state, s, weighs)`` returns the slope of the state at `s`, and the integrands of the integrals that run
        along, which it may leave out where `weighs` is False.
    state
        Where the plan begins.
    plan
        The steps, as `fixed_plan` makes them.
    sums
        Takes the integrals; ``Sums(0)`` where there are none.
    visit
        Called with the state after each step.

    Returns
    -------
    tuple of Tensor
        The state at the plan's end.

    Examples
    --------
    >>> field = lambda state, s, weighs: (state, (state[0],))  # dx/ds = x, and the integral of x
    >>> sums = Sums(1)
    >>> (x,) = follow(field, (torch.ones(1, dtype=torch.float64),), fixed_plan("rk4", [0.0, 0.5, 1.0]), sums)
    >>> x.round(decimals=3), sums.values[0].round(decimals=3)
    (tensor([2.7170], dtype=torch.float64), tensor([1.7170], dtype=torch.float64))
    """
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
    tableau: Tableau = TABLEAUS["dopri5"],
) -> tuple[State, list[Step]]:
    """Solve by an embedded pair with steps that keep the error within the tolerances.

    The error of a step is the root mean square over a row of axis 0 in units of the tolerance, the greatest of all
    rows; each row of a batch is thus as accurate as if it were alone.

    Parameters
    ----------
    field, state, sums, visit
        As in `follow`.
    s, end
        Where to begin and where to end.
    tolerance
        Greatest error of a step, relative to the state and absolute.
    tableau
        A method with an embedded one, by default that of Dormand and Prince.

    Returns
    -------
    state, plan
        The state at `end`, and the steps that led there.

    Raises
    ------
    ValueError
        Where the tableau has no embedded method.
    RuntimeError
        Where the step shrinks to nothing, as it does when the slope isn't finite.

    Examples
    --------
    >>> field = lambda state, s, weighs: (state, ())
    >>> (x,), plan = adapt(field, (torch.ones(1, dtype=torch.float64),), 0.0, 1.0, Tolerance(1e-6, 1e-6), Sums(0))
    >>> abs(x.item() - math.e) < 1e-5, len(plan)
    (True, 5)
    """
    if tableau.error is None:
        raise ValueError(f"tableau is {tableau!r}; it takes one with an embedded method")
    power = -1 / (tableau.error_order + 1)
    first, integrands = field(state, s, True)
    h = _first_step(field, state, first, s, end, tolerance, power)
    plan: list[Step] = []
    before: tuple[float, float] | None = None  # length and error of the step before
    while s != end:
        arrives = abs(h) >= abs(end - s) * (1 - 1e-9)
        step = runge_kutta(tableau, s, end - s if arrives else h)
        if abs(step.h) <= 1e-14 * max(abs(s), abs(end)):
            raise RuntimeError(
                f"the adaptive solver can't meet rtol={tolerance.rtol:g}, atol={tolerance.atol:g} at s={s:g}: its step "
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
                advance(nothing, [step.h * e for e in tableau.error], [*slopes, last]),
                tuple(torch.maximum(y.abs(), z.abs()) for y, z in zip(state, there, strict=True)),
                tolerance,
            )
        factor = SAFETY * max(error, 1e-10) ** power if math.isfinite(error) else LEAST_FACTOR
        if error <= 1:
            plan.append(step)
            sums.add(tried.values)
            state, s, first, integrands = there, s_there, last, last_integrands
            if visit is not None:
                visit(state)
            if before is not None:  # steps that had to shrink will have to go on shrinking, as rho does towards data
                trend = step.h / before[0] * (before[1] / max(error, 1e-10)) ** -power
                factor *= min(1.0, trend)
            before = step.h, max(error, 1e-10)
        h = step.h * min(max(factor, LEAST_FACTOR), MOST_FACTOR)
    return state, plan


def _first_step(
    field: Field, state: State, slope: State, s: float, end: float, tolerance: Tolerance, power: float
) -> float:
    """Guess a first step from how fast the slope changes (Hairer, Norsett, Wanner, Solving ODEs I, II.4)."""
    state, slope = tuple(y.detach() for y in state), tuple(k.detach() for k in slope)
    size = tuple(y.abs() for y in state)
    d0, d1 = _norm(state, size, tolerance), _norm(slope, size, tolerance)
    trial = min(0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6, abs(end - s))
    h = math.copysign(trial, end - s)
    moved, _ = field(advance(state, [h], [slope]), s + h, False)
    d2 = _norm(tuple(b - a for a, b in zip(slope, moved, strict=True)), size, tolerance) / trial
    greatest = max(d1, d2)
    good = (0.01 / greatest) ** -power if greatest > 1e-15 else max(1e-6, trial * 1e-3)
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


def runge_kutta_step(
    f: Callable[[Tensor, float], Tensor], x: Float[Tensor, "*shape"], t: float, h: float, method: str = "rk4"
) -> Float[Tensor, "*shape"]:
    """Return the state one step of an explicit Runge-Kutta method later.

    Parameters
    ----------
    f
        ``f(x, t)``, the slope.
    x
        State at `t`.
    t, h
        Where the step begins, and its length, of either sign.
    method
        One of `TABLEAUS`.

    Returns
    -------
    Tensor
        State at ``t + h``.

    Raises
    ------
    ValueError
        For an unknown method.

    Examples
    --------
    >>> runge_kutta_step(lambda x, t: x, torch.ones(1), 0.0, 0.5, "midpoint")
    tensor([1.6250])
    """
    tableau = TABLEAUS[check_choice("method", method, TABLEAUS)]
    (x,) = follow(_alone(f), (x,), (runge_kutta(tableau, t, h),), Sums(0))
    return x


def odeint(
    f: Callable[[Tensor, float], Tensor],
    x: Float[Tensor, "*shape"],
    times: Sequence[float],
    method: str = "rk4",
    *,
    rtol: float | None = None,
    atol: float = 1e-6,
    callback: Callable[[float, Tensor], None] | None = None,
) -> Float[Tensor, "*shape"]:
    """Solve ``dx/dt = f(x, t)``: with one step from each time to the next, or with as many as the tolerances ask for.

    Parameters
    ----------
    f
        ``f(x, t)``, the slope.
    x
        State at the first time.
    times
        Strictly rising or falling.
    method
        One of `TABLEAUS`, or ``ab``, the Adams-Bashforth method of order four.
    rtol, atol
        With `rtol`, steps between the times are chosen so that each one's error stays within ``atol + rtol |x|``, which
        takes a method with an embedded one: ``heun``, ``bosh3`` or ``dopri5``.
    callback
        Called with each time after the first, and the state there.

    Returns
    -------
    Tensor
        State at the last time.

    Raises
    ------
    ValueError
        For an unknown method, one without an embedded method where `rtol` is given, or times in no order.

    Examples
    --------
    >>> x = torch.ones(1, dtype=torch.float64)
    >>> odeint(lambda x, t: -x, x, [0.0, 1.0], "dopri5", rtol=1e-8, atol=1e-8).round(decimals=6)
    tensor([0.3679], dtype=torch.float64)
    """
    signs = {(b > a) - (b < a) for a, b in itertools.pairwise(times)}
    if len(times) < 2 or len(signs) != 1 or 0 in signs:
        raise ValueError(f"times is {list(times)}; it takes two or more, strictly rising or falling")
    if rtol is None:
        ends = iter(times[1:])
        visit = None if callback is None else (lambda state: callback(next(ends), state[0]))
        (x,) = follow(_alone(f), (x,), fixed_plan(method, times), Sums(0), visit)
        return x
    check_choice("method", method, [name for name, tableau in TABLEAUS.items() if tableau.error is not None])
    tolerance = Tolerance(check_number("rtol", rtol, ge=0), check_number("atol", atol, gt=0))
    for start, end in itertools.pairwise(times):
        (x,), _ = adapt(_alone(f), (x,), start, end, tolerance, Sums(0), tableau=TABLEAUS[method])
        if callback is not None:
            callback(end, x)
    return x


def _alone(f: Callable[[Tensor, float], Tensor]) -> Field:
    return lambda state, s, weighs: ((f(state[0], s),), ())
