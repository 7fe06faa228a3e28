"""Ordinary differential equations by embedded pairs: one loop, in steps of the batch or of each sample, with estimates.

Times and lengths of steps are kept as NumPy arrays with one element for the batch or one for each sample, so that both
ways of control are the same lines; the solution stays on its device and is asked for one row of numbers a step. With a
graph the steps' lengths are constants, so gradients are those of the discrete solution.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.numerics.pairs import PAIRS, EmbeddedPair
from paperworks.numerics.stepping import ESTIMATES, Control, EstimateKind, Func, Trial, column, first_step, take_step

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 5.0
_STIFF = 0.8  # of the stability's size; steps that are that long are held back by stability, not by accuracy


@dataclass(frozen=True)
class TakenStep:
    """A step that was accepted, by the batch or by some of its samples.

    Parameters
    ----------
    t, h
        Where it begins and its signed length, (1,) or (batch,); the length is 0 for samples that didn't take it.
    error
        Error of each sample in units of its tolerances, (batch,).
    estimate
        What was asked for as `estimates`, one value or one for each sample.
    u
        The state where the step begins, where states were asked for.

    Examples
    --------
    >>> u = torch.ones(2, 1, dtype=torch.float64)
    >>> step = solve_ode(lambda t, u: -u, u, (0.0, 1.0)).steps[0]
    >>> step.t, step.error.shape
    (array([0.]), (2,))
    """

    t: np.ndarray
    h: np.ndarray
    error: np.ndarray
    estimate: Tensor | None = None
    u: Tensor | None = None


@dataclass(frozen=True)
class Solution:
    """What a solver found and what it took.

    Parameters
    ----------
    states
        The solution at the times asked for, (times, batch, ...).
    nfe, n_accept, n_reject
        Evaluations, accepted and rejected steps: one number, or one for each sample.
    steps
        The accepted steps with their estimates.

    Examples
    --------
    >>> u = torch.ones(2, 1, dtype=torch.float64)
    >>> solution = solve_ode(lambda t, u: -u, u, (0.0, 1.0))
    >>> solution.nfe - 6 * (solution.n_accept + solution.n_reject)
    array([2])
    """

    states: Tensor
    nfe: np.ndarray
    n_accept: np.ndarray
    n_reject: np.ndarray
    steps: list[TakenStep] = field(default_factory=list)


def solve_ode(
    func: Func,
    u0: Float[Tensor, "batch ..."],
    t_span: tuple[float, float],
    *,
    pair: str = "tsit5",
    atol: "float | Float[Tensor, ' batch']" = 1e-6,
    rtol: "float | Float[Tensor, ' batch']" = 1e-6,
    t_eval: Sequence[float] | None = None,
    control: Control = "batch",
    controller: Literal["i", "pi"] = "i",
    max_steps: int = 10_000,
    estimates: EstimateKind | None = None,
    keep_states: bool = False,
) -> Solution:
    """Solve ``du/dt = func(t, u)`` in steps whose errors stay within the tolerances, forwards or backwards in time.

    Parameters
    ----------
    func
        ``func(t, u)``, the slope, of the shape of `u`. `t` is a tensor without dimension; with ``control="sample"``
        each sample is at a time of its own, and `t` is (batch,).
    u0
        States of a batch of samples at the first time.
    t_span
        Where to begin and to end, rising or falling.
    pair
        One of `PAIRS`: ``tsit5`` (the default), ``dopri5`` or ``bosh3``.
    atol, rtol
        Error allowed in a step, ``atol + rtol |u|``: numbers, or one for each sample; 1e-6 by default.
    t_eval
        Times to return the solution at, within the span and in its order; the last alone by default. Steps don't stop
        there: the dense output is taken.
    control
        ``batch``: the steps are the same for all samples, and the error is the root mean square of all; ``sample``:
        each sample has steps of its own, from its own error.
    controller
        ``i``: the next step comes from the last error (Hairer's default); ``pi``: from the last two.
    max_steps
        Attempts, rejected ones included, before the solver gives up.
    estimates
        Estimate to keep of each accepted step, as `Trial.estimate` names them, with its graph where there is one.
    keep_states
        Whether to keep the state at the start of each accepted step.

    Returns
    -------
    Solution
        States at the times asked for, counts and steps.

    Raises
    ------
    ValueError
        For bad arguments, or a slope of another shape than `u0`.
    RuntimeError
        Where the slope isn't finite, the step shrinks to nothing, or `max_steps` don't suffice, as for stiff problems.
    TypeError
        For states that aren't float32 or float64, or a slope of another type than theirs.

    Examples
    --------
    >>> u = torch.ones(1, 1, dtype=torch.float64)
    >>> solution = solve_ode(lambda t, u: -u, u, (0.0, 1.0), atol=1e-9, rtol=1e-9, t_eval=[0.5, 1.0])
    >>> solution.states.ravel().round(decimals=6)
    tensor([0.6065, 0.3679], dtype=torch.float64)
    """
    method, t0, t1, times = _checked(u0, t_span, pair, t_eval, control, controller, estimates)
    check_count("max_steps", max_steps)
    atol, rtol = (check_tolerance(name, value, u0) for name, value in (("atol", atol), ("rtol", rtol)))
    groups = 1 if control == "batch" else len(u0)
    sign, power = np.sign(t1 - t0), 1 / (method.error_order + 1)
    t, u = np.full(groups, t0), u0
    slope = checked_slope(func, t0 if control == "batch" else t, u)
    h = first_step(func, u, slope, _times(t, control), t1, method, atol, rtol, control)
    counts = np.zeros((2, groups), dtype=np.int64)  # rejected, accepted
    before = np.ones(groups)  # the last accepted step's error
    found = _DenseOutput([time for time in times if time not in (t0, t1)], sign, control)
    steps: list[TakenStep] = []
    trial: Trial | None = None
    while (left := t1 - t).any():
        active = left != 0
        if counts[:, active].sum(0).max() >= max_steps:
            raise _gave_up(f"max_steps={max_steps} don't suffice", t, h, active, trial, control, rtol)
        if (active & (np.abs(h) <= 1e-14 * np.abs(t) + 1e-25 * abs(t1 - t0))).any():
            raise _gave_up("its step shrank to nothing", t, h, active, trial, control, rtol)
        arrives = np.abs(h) >= np.abs(left) * (1 - 1e-9)
        length = np.where(arrives, left, h)
        trial = take_step(func, u, slope, _times(t, control), _times(length, control), method)
        with torch.no_grad():
            errors = trial.squares(atol, rtol).double().cpu().numpy()
        error = np.sqrt(errors.mean(keepdims=True) if control == "batch" else errors)
        accepted = active & (error <= 1)
        # What isn't finite would make gradients NaN, even of samples that leave it out: all try again from here.
        lost = trial.end.requires_grad and not np.isfinite(error).all()
        accepted &= not lost
        counts[accepted.astype(int), np.arange(groups)] += active
        there = np.where(arrives, t1, t + length)
        if accepted.any():
            found.record(trial, t, there, accepted)
            taken = np.where(accepted, length, 0.0)
            estimate = None if estimates is None else trial.estimate(estimates, atol, rtol, control)
            steps.append(TakenStep(t, taken, np.sqrt(errors), estimate, u if keep_states else None))
            t = np.where(accepted, there, t)
            if accepted.all():
                u, slope = trial.end, trial.last
            else:
                mask = column(torch.as_tensor(accepted, device=u.device), u)
                u, slope = torch.where(mask, trial.end, u), torch.where(mask, trial.last, slope)
        bounded = np.where(np.isfinite(error), np.maximum(error, 1e-10), np.inf)
        factor = _SAFETY * bounded**-power
        if controller == "pi":
            factor = _SAFETY * bounded ** (-0.7 * power) * before ** (0.4 * power)
            before = np.where(accepted, bounded, before)
        most = np.where(accepted, _MOST, 1.0)
        factor = np.where(lost & (error <= 1), 1.0, np.clip(factor, _LEAST, most))
        h = np.where(active, length * factor, h)
    first, last = ([x[None]] if time in times else [] for time, x in ((t0, u0), (t1, u)))
    states = torch.cat([*first, *found.states(), *last])
    nfe = 2 + len(method.b) * counts.sum(0)
    return Solution(states, nfe, counts[1], counts[0], steps)


def checked_slope(func: Func, t: "float | np.ndarray", u: Tensor) -> Tensor:
    """Return the first slope, or raise where it can't be one.

    Parameters
    ----------
    func
        ``func(t, u)``, the slope.
    t, u
        The first time, a number or one for each sample, and the states there.

    Returns
    -------
    Tensor
        The slope, of the state's shape.

    Raises
    ------
    TypeError
        For anything but a tensor of the state's type.
    ValueError
        For another shape than the state's.
    RuntimeError
        Where it isn't finite.

    Examples
    --------
    >>> checked_slope(lambda t, u: u.sum(1), 0.0, torch.ones(2, 1))
    Traceback (most recent call last):
    ...
    ValueError: func returned shape (2,); it takes that of u0, (2, 1)
    """
    slope = func(torch.as_tensor(t, dtype=u.dtype, device=u.device), u)
    if not isinstance(slope, Tensor) or slope.dtype != u.dtype:
        kind = slope.dtype if isinstance(slope, Tensor) else type(slope).__name__
        raise TypeError(f"func returned {kind}; it takes a tensor of u0's, {u.dtype}")
    if slope.shape != u.shape:
        raise ValueError(f"func returned shape {tuple(slope.shape)}; it takes that of u0, {tuple(u.shape)}")
    if not torch.isfinite(slope.detach().sum()):
        raise RuntimeError(f"func returned NaN or infinity at t={np.min(t):g}, where the solution begins")
    return slope if slope.requires_grad else slope.clone()  # some functions return the same memory each time


def _times(values: np.ndarray, control: Control) -> "float | np.ndarray":
    return float(values[0]) if control == "batch" else values


def _checked(
    u0: Tensor,
    t_span: tuple[float, float],
    pair: str,
    t_eval: Sequence[float] | None,
    control: str,
    controller: str,
    estimates: str | None,
) -> tuple[EmbeddedPair, float, float, list[float]]:
    check_choice("pair", pair, PAIRS)
    check_choice("control", control, ("batch", "sample"))
    check_choice("controller", controller, ("i", "pi"))
    if estimates is not None:
        check_choice("estimates", estimates, ESTIMATES)
    check_state(u0)
    if len(t_span) != 2:
        raise ValueError(f"t_span has {len(t_span)} times; it takes 2, where to begin and to end")
    t0, t1 = (check_number("t_span", time) for time in t_span)
    if not np.isfinite(t1 - t0):
        raise ValueError(f"t_span is {tuple(t_span)}; it takes times whose difference is finite")
    if t0 == t1:
        raise ValueError(f"t_span is {tuple(t_span)}; it takes two different times")
    times = [t1] if t_eval is None else [check_number("t_eval", time) for time in t_eval]
    sign = 1 if t1 > t0 else -1
    inside = all(sign * t0 <= sign * time <= sign * t1 for time in times)
    if not times or not inside or any(sign * (b - a) <= 0 for a, b in itertools.pairwise(times)):
        raise ValueError(f"t_eval is {times}; it takes times within t_span {(t0, t1)}, strictly in its order")
    return PAIRS[pair], t0, t1, times


def check_state(u0: Tensor) -> Tensor:
    """Return `u0` if it is a batch of finite states of floating point, else raise.

    Parameters
    ----------
    u0
        States, (batch, ...).

    Returns
    -------
    Tensor
        The states themselves.

    Raises
    ------
    TypeError
        For anything but a tensor of float32 or float64; steps of half precision lose more than they add.
    ValueError
        For no batch, no elements, NaN or infinity.

    Examples
    --------
    >>> check_state(torch.tensor([[float("nan")]]))
    Traceback (most recent call last):
    ...
    ValueError: u0 has 1 NaN or infinite elements of 1; it takes finite numbers
    """
    kind = u0.dtype if isinstance(u0, Tensor) else type(u0).__name__
    if kind not in (torch.float32, torch.float64):
        raise TypeError(f"u0 is {kind}; it takes a tensor of real numbers of floating point, float32 or float64")
    if u0.ndim == 0 or u0.numel() == 0:
        raise ValueError(f"u0 has shape {tuple(u0.shape)}; it takes a batch of one or more samples, (batch, ...)")
    return check_finite("u0", u0)


def check_tolerance(name: str, value: "float | Tensor", u0: Tensor) -> "float | Tensor":
    """Return a positive tolerance, or one for each sample in a shape that goes with the states, else raise.

    Parameters
    ----------
    name
        What an error calls it.
    value
        A number, or (batch,).
    u0
        The states, (batch, ...).

    Returns
    -------
    float or Tensor
        The tolerance.

    Raises
    ------
    ValueError
        For numbers that aren't positive and finite, or another count of them than of samples.

    Examples
    --------
    >>> check_tolerance("atol", torch.tensor([1e-3, 1e-6]), torch.ones(2, 5)).shape
    torch.Size([2, 1])
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return check_number(name, value, gt=0)
    if value.shape != u0.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it takes a number or one for each of {len(u0)} samples"
        )
    if not bool(((value > 0) & torch.isfinite(value)).all()):
        raise ValueError(f"{name} is down to {value.min():g}; it takes finite numbers > 0")
    return column(value.to(u0), u0)


class _DenseOutput:
    """States at the times that accepted steps pass."""

    def __init__(self, times: list[float], sign: float, control: Control) -> None:
        self._times, self._sign, self._control = np.array(times), sign, control
        self._found: list[Tensor] = []
        self._places: list[np.ndarray] = []  # of what was found: the number of the time, then of the sample

    def record(self, trial: Trial, t: np.ndarray, there: np.ndarray, accepted: np.ndarray) -> None:
        times = self._sign * self._times[:, None]
        rows, samples = np.nonzero(accepted & (self._sign * t < times) & (times <= self._sign * there))
        shares = (self._times[rows] - t[samples]) / (there - t)[samples]
        if self._control == "batch":
            self._found.extend(trial.inside(float(share))[None] for share in shares)
        elif len(rows):
            self._found.append(trial.inside(torch.as_tensor(shares, device=trial.start.device), samples))
            self._places.append(rows * len(t) + samples)

    def states(self) -> list[Tensor]:
        """Return parts that make (times, batch, ...) one after another."""
        if not self._places:
            return self._found
        found = torch.cat(self._found)
        order = torch.as_tensor(np.concatenate(self._places).argsort(), device=found.device)
        return [found[order].unflatten(0, (len(self._times), -1))]


def _gave_up(
    why: str,
    t: np.ndarray,
    h: np.ndarray,
    active: np.ndarray,
    trial: Trial | None,
    control: Control,
    rtol: "float | Tensor",
) -> RuntimeError:
    slowest = int(np.argmax(np.where(active, np.abs(h) < np.inf, False)))
    text = f"the solver stopped at t={t[slowest]:g} with a step of {h[slowest]:.3g}: {why}"
    if trial is not None and float(torch.as_tensor(rtol).min()) < torch.finfo(trial.start.dtype).eps:
        text += f"; rtol is below the precision of {trial.start.dtype}"
    if trial is not None:
        with torch.no_grad():
            stiffness = float(trial.stiffness_estimate(control).max())
        if stiffness * float(np.abs(h[active]).max()) > _STIFF:
            text += (
                f"; the problem is stiff there (the slope changes by {stiffness * trial.pair.stability:.3g} where the "
                "state changes by 1, which holds the steps back): it takes an implicit solver, or other dynamics"
            )
    return RuntimeError(text)
