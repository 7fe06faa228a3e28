"""Stochastic differential equations with diagonal noise: adaptive steps of strong order 1.5 that tell their errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.neural_de.brownian import BrownianTree
from paperworks.dynamics.neural_de.regularizers import check_penalty
from paperworks.numerics import Solution, TakenStep, check_state, checked_slope
from paperworks.numerics.stepping import Func

Rows = tuple[tuple[float, ...], ...]
Estimator = Literal["sosri", "lamba", "milstein"]
ESTIMATORS: tuple[Estimator, ...] = ("sosri", "lamba", "milstein")

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 5.0
_FINEST = 2.0**-32  # share of the path's span; in shorter steps its areas are lost to rounding
_DELTA = 1.0  # weight of the drift's part of the error


@dataclass(frozen=True)
class SRITableau:
    """The coefficients of a stochastic Runge-Kutta method of Rößler's class SRI.

    Parameters
    ----------
    a0, b0
        Weights of drifts and diffusions before it, where a stage's drift is evaluated.
    a1, b1
        The same, where its diffusion is evaluated.
    c0, c1
        Shares of the step at which drift and diffusion are evaluated.
    alpha
        Weights of the drifts in the step.
    beta
        Weights of the diffusions, with each of four multiples of the noise.

    Examples
    --------
    >>> round(sum(SOSRI.alpha), 12), len(SOSRI.beta)
    (1.0, 4)
    """

    a0: Rows
    a1: Rows
    b0: Rows
    b1: Rows
    c0: tuple[float, ...]
    c1: tuple[float, ...]
    alpha: tuple[float, ...]
    beta: Rows


SOSRI = SRITableau(
    a0=(
        (),
        (-0.04199224421316468,),
        (2.842612915017106, -2.0527723684000727),
        (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
    ),
    a1=(
        (),
        (0.26204282091330466,),
        (0.20903646383505375, -0.1502377115150361),
        (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
    ),
    b0=(
        (),
        (-0.21641093549612528,),
        (1.5336352863679572, 0.26066223492647056),
        (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
    ),
    b1=(
        (),
        (-0.5119011827621657,),
        (2.67767339866713, -4.9395031322250995),
        (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
    ),
    c0=(0.0, -0.04199224421316468, 0.7898405466170333, 3.7504010171562823),
    c1=(0.0, 0.26204282091330466, 0.05879875232001766, 0.758661169101175),
    alpha=(1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714),
    beta=(
        (-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956),
        (0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336),
        (2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
        (0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
    ),
)
"""The method of Rackauckas and Nie (arXiv 1804.04344), optimised for stability; its third c1 as published."""


def _sum(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    total = terms[0] * weights[0]
    for weight, term in zip(weights[1:], terms[1:], strict=False):
        total = torch.add(total, term, alpha=weight)
    return total


def _check_shapes(u: Tensor, f: Tensor, g: Tensor) -> None:
    for name, found in (("drift", f), ("diffusion", g)):
        if found.shape != u.shape:
            raise ValueError(f"{name} returned shape {tuple(found.shape)}; it takes that of u, {tuple(u.shape)}")


def _step(
    drift: Func, diffusion: Func, u: Tensor, t: float, h: float, w: Tensor, area: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the state a step of SOSRI later, and its error."""
    table, root = SOSRI, h**0.5
    twice = w / 2 + area
    f: list[Tensor] = []
    g: list[Tensor] = []
    at = torch.tensor([*table.c0, *table.c1], dtype=u.dtype, device=u.device).mul_(h).add_(t).unbind()
    stages = len(table.alpha)
    for i in range(stages):
        at_f, at_g = u, u
        if i:
            at_f = u + _sum(table.a0[i], f) * h + twice * _sum(table.b0[i], g)
            at_g = u + _sum(table.a1[i], f) * h + _sum(table.b1[i], g) * root
        f.append(drift(at[i], at_f))
        g.append(diffusion(at[stages + i], at_g))
    _check_shapes(u, f[0], g[0])
    parts = torch.tensordot(u.new_tensor(table.beta), torch.stack(g), 1)
    noise = twice * parts[2] + (w**3 - 3 * h * w) / (6 * h) * parts[3]
    end = u + _sum(table.alpha, f) * h + w * parts[0] + (w**2 - h) / (2 * root) * parts[1] + noise
    return end, torch.add(noise, sum(f[1:], f[0]), alpha=_DELTA * h)


def _lower_order(
    drift: Func, diffusion: Func, u: Tensor, t: float, h: float, w: Tensor, third: bool
) -> tuple[Tensor, Tensor]:
    """Return the state an Euler step later, with the errors that the next terms of its expansion leave."""
    place, root = u.new_tensor(t), h**0.5
    f, g = drift(place, u), diffusion(place, u)
    _check_shapes(u, f, g)
    late = u.new_tensor(t + h)
    error = (drift(late, u + h * f) - f) * (h / 2)
    slope = (diffusion(place, u + root * g) - g) / root  # g' g
    end = u + h * f + g * w
    if not third:
        return end, error + slope * w**2 / 2
    curve = (diffusion(place, u + root * slope) - g) / root  # g' g' g
    return end + slope * (w**2 - h) / 2, error + curve * w**3 / 6


def _size(error: Tensor, u: Tensor, end: Tensor, atol: float, rtol: float) -> tuple[Tensor, Tensor]:
    """Return the root mean square of the error in units of the tolerances, and the mean square of each sample."""
    scale = torch.maximum(u.abs(), end.abs()) * rtol + atol
    squares = (error / scale).reshape(len(u), -1).square().mean(1)
    tiny = torch.finfo(u.dtype).tiny
    mean = squares.mean()
    return torch.where(mean <= tiny, 0.0, mean.clamp_min(tiny).sqrt()), squares  # NaN stays NaN


def _first_step(drift: Func, diffusion: Func, u: Tensor, t: float, t_end: float, atol: float, rtol: float) -> float:
    """Guess a first step, from drift and three standard deviations of the noise, as for an ordinary equation."""

    def size(x: Tensor) -> float:
        return float((x / scale).square().mean().sqrt())

    with torch.no_grad():
        scale = u.abs() * rtol + atol
        place = u.new_tensor(t)
        f, g = drift(place, u), 3 * diffusion(place, u)
        d0, d1 = size(u), size(torch.maximum((f + g).abs(), (f - g).abs()))
        span = t_end - t
        usable = d0 > 1e-5 and 1e-5 < d1 < np.inf
        trial = min(max(0.01 * d0 / d1, 1e-300) if usable else 1e-6, span)
        late, moved = u.new_tensor(t + trial), u + trial * f
        f1, g1 = drift(late, moved), 3 * diffusion(late, moved)
        turn = torch.maximum((g - g1).abs(), (g + g1).abs())
        d2 = size(torch.maximum((f1 - f + turn).abs(), (f1 - f - turn).abs())) / trial
        greatest = max(d1, d2)
        good = (0.01 / greatest) ** 0.5 if greatest > 1e-15 else max(1e-6, 1e-3 * trial)
        guess = min(100 * trial, good, span)
        return guess if np.isfinite(guess) and guess > 0 else trial


def local_sde_regularizer(
    drift: Func,
    diffusion: Func,
    u: Float[Tensor, "batch ..."],
    t: float,
    t_end: float,
    atol: float = 1e-2,
    rtol: float = 1e-2,
    generator: torch.Generator | None = None,
    *,
    estimator: Estimator = "sosri",
    detach_state: bool = True,
    step: float | None = None,
) -> Float[Tensor, ""]:
    r"""Return the penalty ``h E`` of one step of a stochastic solver from a state on a path (arXiv 2303.02262).

    Parameters
    ----------
    drift, diffusion
        ``drift(t, u)`` and ``diffusion(t, u)``, both of the state's shape: Itô noise, independent for each element.
    u
        State (batch, ...) at time `t`.
    t, t_end
        Where the step begins, and where the path ends; the step doesn't go beyond.
    atol, rtol
        Tolerances of the solver that is to become fast; 0.01 by default, StochasticDiffEq's.
    generator
        Draws the step's noise, independent of the path; torch's global one by default.
    estimator
        ``sosri`` (the paper's, by default); ``lamba``: the Euler step's, from $h (f(u + h f) - f) / 2$ and
        $g' g \, \Delta W^2 / 2$; ``milstein``: the Milstein step's, with $g' g' g \, \Delta W^3 / 6$ in its place.
    detach_state
        Whether the state is a constant for the gradient; the step's length always is.
    step
        The step's length, cut where it would go beyond `t_end`; by default that which a solver begins with here.

    Returns
    -------
    Tensor
        The penalty, without dimension.

    Raises
    ------
    ValueError
        For unknown names, tolerances that aren't positive, or a time that isn't before `t_end`.
    RuntimeError
        Where the step isn't finite.

    Examples
    --------
    >>> u = torch.ones(4, 2, dtype=torch.float64)
    >>> noise = torch.Generator().manual_seed(0)
    >>> reg = local_sde_regularizer(lambda t, u: -u, lambda t, u: 0.1 * u, u, 0.0, 1.0, generator=noise)
    >>> reg.shape, bool(reg > 0)
    (torch.Size([]), True)
    """
    check_choice("estimator", estimator, ESTIMATORS)
    check_state(u.detach())
    check_number("t", t, lt=check_number("t_end", t_end))
    atol, rtol = check_number("atol", atol, gt=0), check_number("rtol", rtol, gt=0)
    if detach_state:
        u = u.detach()
    h = _first_step(drift, diffusion, u, t, t_end, atol, rtol) if step is None else check_number("step", step, gt=0)
    h = min(h, t_end - t)
    draws = torch.randn(
        (2, *u.shape), generator=generator, dtype=u.dtype, device=generator.device if generator else "cpu"
    )
    w, area = draws.to(u) * u.new_tensor([h, h / 12]).sqrt().reshape(2, *[1] * u.ndim)
    if estimator == "sosri":
        end, error = _step(drift, diffusion, u, t, h, w, area)
    else:
        end, error = _lower_order(drift, diffusion, u, t, h, w, estimator == "milstein")
    return check_penalty(h * _size(error, u, end, atol, rtol)[0], t)


def solve_sde(
    drift: Func,
    diffusion: Func,
    u0: Float[Tensor, "batch ..."],
    t_span: tuple[float, float],
    path: BrownianTree,
    *,
    atol: float = 1e-2,
    rtol: float = 1e-2,
    t_eval: Sequence[float] | None = None,
    max_steps: int = 10_000,
    estimates: bool = False,
    keep_states: bool = False,
) -> Solution:
    """Solve ``du = drift dt + diffusion dW`` (Itô, noise independent for each element) along a path.

    Parameters
    ----------
    drift, diffusion
        ``drift(t, u)`` and ``diffusion(t, u)``, both of the shape of `u`; `t` is a tensor without dimension.
    u0
        States of a batch at the first time.
    t_span
        Where to begin and to end, rising.
    path
        The noise, of the shape of `u0`, over a time that covers the span.
    atol, rtol
        Error that a step may make, ``atol + rtol |u|``, root mean square of all; 0.01 by default, StochasticDiffEq's.
    t_eval
        Times to return the solution at, rising; steps end there. The last alone by default.
    max_steps
        Attempts, rejected ones included, before the solver gives up.
    estimates
        Whether to keep each accepted step's ``h E``, with its graph where there is one.
    keep_states
        Whether to keep the state at the start of each accepted step.

    Returns
    -------
    Solution
        States at the times asked for, counts and steps; drift and diffusion count as an evaluation each.

    Raises
    ------
    ValueError
        For bad arguments, or drift or diffusion of another shape than `u0`.
    TypeError
        For a path of another type than `u0`, or drift or diffusion of one.
    RuntimeError
        Where they aren't finite, the step shrinks to nothing, or `max_steps` don't suffice.

    References
    ----------
    Rackauckas, Nie, arXiv 1804.04344.

    Examples
    --------
    >>> u0, path = torch.ones(3, 1, dtype=torch.float64), BrownianTree((3, 1), (0.0, 1.0), random_state=0)
    >>> solution = solve_sde(lambda t, u: 0.1 * u, lambda t, u: 0.5 * u, u0, (0.0, 1.0), path, atol=1e-3, rtol=1e-3)
    >>> w, _ = path(0.0, 1.0)
    >>> bool((solution.states[-1] - (0.1 - 0.5**2 / 2 + 0.5 * w).exp()).abs().max() < 1e-2)
    True
    """
    check_state(u0)
    if len(t_span) != 2:
        raise ValueError(f"t_span has {len(t_span)} times; it takes two that rise")
    t0, t1 = (check_number("t_span", time) for time in t_span)
    times = [t1] if t_eval is None else [check_number("t_eval", time) for time in t_eval]
    if t1 <= t0:
        raise ValueError(f"t_span is {(t0, t1)}; it takes two times that rise")
    if not times or times != sorted(set(times)) or not t0 <= times[0] or not times[-1] <= t1:
        raise ValueError(f"t_eval is {times}; it takes times within t_span, {(t0, t1)}, that rise")
    if path.shape != tuple(u0.shape):
        raise ValueError(f"path has shape {path.shape}; it takes that of u0, {tuple(u0.shape)}")
    if path.dtype != u0.dtype:
        raise TypeError(f"path is {path.dtype}; it takes u0's, {u0.dtype}")
    atol, rtol = check_number("atol", atol, gt=0), check_number("rtol", rtol, gt=0)
    check_count("max_steps", max_steps)
    for function in (drift, diffusion):
        checked_slope(function, t0, u0)
    place, last = path.place(t0), path.place(t1)
    stops = sorted({*(path.place(time) for time in times), last})
    u, h = u0, _first_step(drift, diffusion, u0, t0, t1, atol, rtol)
    found = {place: u0}
    steps: list[TakenStep] = []
    rejected = 0
    while place < last:
        t = path.time(place)
        if len(steps) + rejected >= max_steps:
            raise RuntimeError(
                f"the solver stopped at t={t:g} with a step of {h:.3g}: max_steps={max_steps} don't suffice"
            )
        there = min(path.next_place(place, h), next(stop for stop in stops if stop > place))
        h = path.time(there) - t
        end, error = _step(drift, diffusion, u, t, h, *path.between(place, there))
        size, squares = _size(error, u, end, atol, rtol)
        number = float(size.detach())
        if number <= 1:
            each = squares.detach().sqrt().double().cpu().numpy()
            steps.append(
                TakenStep(
                    np.array([t]), np.array([h]), each, h * size if estimates else None, u if keep_states else None
                )
            )
            place, u = there, end
            found[place] = u
            if there not in stops:
                found.pop(place)
        else:
            rejected += 1
            if not h > path.span * _FINEST:
                raise RuntimeError(f"the solver stopped at t={t:g} with a step of {h:.3g}: it shrank to nothing")
        factor = _SAFETY * max(number, 1e-10) ** -0.5 if np.isfinite(number) else _LEAST
        h *= min(max(factor, _LEAST), _MOST if number <= 1 else 1.0)
    stages = len(SOSRI.alpha)
    calls = 2 * (3 + stages * (len(steps) + rejected))
    counts = [np.array([count]) for count in (calls, len(steps), rejected)]
    return Solution(torch.stack([found[path.place(time)] for time in times]), *counts, steps)
