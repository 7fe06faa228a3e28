"""EDICT: exact inversion by two coupled chains (arXiv 2211.12446), at two evaluations a step."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.diffusion.inversion.ddim import ddim_coefficients, falling_times
from paperworks.diffusion.inversion.sampler import Pair
from paperworks.diffusion.sampling import (
    Callback,
    ModelFn,
    SampleResult,
    Sampling,
    check_state,
    combine,
)
from paperworks.diffusion.schedules import NoiseSchedule, SkipType


class EDICTSampler:
    """DDIM on a pair of states, each moved by the noise in the other and then mixed with it.

    Parameters
    ----------
    model_fn
        ``model_fn(x, t)``, the noise in `x` at time `t`.
    schedule
        Noise schedule of the model.
    mixing
        Weight of a state in its mixture with the other, in (0.5, 1]; 0.93 is the paper's. Many steps with little
        mixing drive the chains apart, much mixing amplifies rounding by ``1/mixing`` a step on the way back.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> sampler = EDICTSampler(lambda x, t: torch.tanh(x), NoiseScheduleVP.linear())
    >>> noise = torch.ones(1, 2, dtype=torch.float64)
    >>> pair = sampler.sample(noise, steps=10).trajectory[-2:]
    >>> bool((sampler.invert(pair, steps=10).sample - noise).abs().max() < 1e-12)
    True
    """

    def __init__(self, model_fn: ModelFn, schedule: NoiseSchedule, mixing: float = 0.93) -> None:
        self.model_fn = model_fn
        self.schedule = schedule
        self.mixing = check_number("mixing", mixing, gt=0.5, le=1)

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"] | Pair,
        steps: int,
        *,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Sample from noise, or from the pair that `invert` gave; `trajectory` ends with the final pair.

        Parameters
        ----------
        x
            Noise of shape (batch, ...), or the pair of states that `invert` gave.
        steps
            Number of steps, at least one.
        skip_type
            How the times between are spaced, as in `time_grid`.
        t_start, t_end
            First and last time, by default those of the schedule.
        callback
            Called with a `SamplingStep` after each step.

        Returns
        -------
        SampleResult
            The samples, with the final pair last in ``trajectory``.
        """
        times = falling_times(self.schedule, steps, skip_type, t_start, t_end)
        p = self.mixing
        a, b = _pair(x)
        sampling = Sampling(self.model_fn, a, times[0], steps, callback=callback)
        for s, t in itertools.pairwise(times):
            keep, gain = ddim_coefficients(self.schedule, s, t)
            combine((keep, gain), (a, sampling.ask(b, s)), out=a)
            combine((keep, gain), (b, sampling.ask(a, s)), out=b)
            combine((p, 1 - p), (a, b), out=a)
            combine((p, 1 - p), (b, a), out=b)
            sampling.reached(a, t)
        return sampling.result(times=times[-1:] * 2, trajectory=(a, b))

    @torch.no_grad()
    def invert(
        self,
        x: Float[Tensor, " batch *shape"] | Pair,
        steps: int,
        *,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Undo `sample` from data, or from the pair that it ended with; `trajectory` ends with the pair of noises.

        Parameters
        ----------
        x
            Data of shape (batch, ...), or the pair of states that `sample` ended with.
        steps
            Number of steps, that of the sampling.
        skip_type
            How the times between are spaced, as in `time_grid`.
        t_start, t_end
            First and last time, by default those of the schedule.
        callback
            Called with a `SamplingStep` after each step.

        Returns
        -------
        SampleResult
            The noise, with the pair of noises last in ``trajectory``.
        """
        times = falling_times(self.schedule, steps, skip_type, t_start, t_end)
        p = self.mixing
        a, b = _pair(x)
        sampling = Sampling(self.model_fn, a, times[-1], steps, callback=callback)
        for t, s in itertools.pairwise(reversed(times)):
            keep, gain = ddim_coefficients(self.schedule, s, t)
            combine((1 / p, -(1 - p) / p), (b, a), out=b)
            combine((1 / p, -(1 - p) / p), (a, b), out=a)
            combine((1 / keep, -gain / keep), (b, sampling.ask(a, s)), out=b)
            combine((1 / keep, -gain / keep), (a, sampling.ask(b, s)), out=a)
            sampling.reached(a, s)
        return sampling.result(times=times[:1] * 2, trajectory=(a, b))


def _pair(x: Tensor | Pair) -> Pair:
    first, second = (x, x) if isinstance(x, Tensor) else x
    return check_state("x", first).clone(), check_state("x", second).clone()
