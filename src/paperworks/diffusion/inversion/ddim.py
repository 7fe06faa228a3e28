"""DDIM in both directions: its coefficients, its grid, and its approximate inversion."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count
from paperworks.diffusion.sampling import (
    Callback,
    ModelFn,
    SampleResult,
    Sampling,
    check_state,
    combine,
)
from paperworks.diffusion.schedules import NoiseSchedule, SkipType, time_grid


def ddim_coefficients(schedule: NoiseSchedule, t_from: float, t_to: float) -> tuple[float, float]:
    """Return (a, b) of the DDIM step ``z_to = a z + b eps`` between two times, in either direction.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> ddim_coefficients(NoiseScheduleVP.linear(), 0.5, 0.5)
    (1.0, 0.0)
    """
    a = math.exp(schedule.log_alpha(t_to) - schedule.log_alpha(t_from))
    return a, schedule.sigma(t_to) - a * schedule.sigma(t_from)


def falling_times(
    schedule: NoiseSchedule, steps: int, skip_type: SkipType, t_start: float | None, t_end: float | None
) -> tuple[float, ...]:
    """Place `steps` + 1 times from noise to data, by default from the schedule's first to its last."""
    check_count("steps", steps)
    start = schedule.t_max if t_start is None else t_start
    end = schedule.t_end(steps) if t_end is None else t_end
    times = tuple(time_grid(schedule, steps, start, end, skip_type))
    if times[0] <= times[-1]:
        raise ValueError(f"t_start is {start!r} and t_end {end!r}; they take falling times, from noise to data")
    return times


@torch.no_grad()
def ddim_invert(
    model_fn: ModelFn,
    schedule: NoiseSchedule,
    x: Float[Tensor, " batch *shape"],
    steps: int,
    *,
    skip_type: SkipType = "time_uniform",
    t_start: float | None = None,
    t_end: float | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Run DDIM from data to noise, evaluating the noise at the state it leaves: inversion only to first order.

    Parameters
    ----------
    model_fn
        ``model_fn(x, t)``, the noise in `x`.
    schedule
        Noise schedule of the model.
    x
        Data, at time `t_end`.
    steps
        Number of steps and evaluations.
    skip_type
        Grid of times; see `time_grid`.
    t_start, t_end
        Times of noise and data; the schedule's `t_max` and `t_end(steps)` by default.
    callback
        Called after each step.

    Returns
    -------
    SampleResult
        Noise at `t_end` in ``sample``, with the count of evaluations.

    Raises
    ------
    ValueError
        Where an argument is out of range, or the model returned another shape, NaN or infinity.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> ddim_invert(lambda x, t: 0 * x, NoiseScheduleVP.linear(), torch.ones(1, 2), steps=4).nfe
    4
    """
    check_state("x", x)
    times = falling_times(schedule, steps, skip_type, t_start, t_end)[::-1]
    z = x.clone()
    sampling = Sampling(model_fn, z, times[0], steps, callback=callback)
    for s, t in itertools.pairwise(times):
        combine(ddim_coefficients(schedule, s, t), (z, sampling.ask(z, s)), out=z)
        sampling.reached(z, t)
    return sampling.result()
