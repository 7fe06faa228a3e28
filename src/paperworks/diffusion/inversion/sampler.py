"""BDIA: sampling that can be undone exactly, by integrating from each state both ways (arXiv 2307.10829).

A one-step sampler adds to its state the increment ``D_f(z_i)`` of the ODE over the next interval. BDIA uses the same
slope a second time, for the increment ``D_b(z_i)`` back over the interval before, and corrects by the difference to
what that interval really added:

    z_{i-1} = z_i + D_f(z_i) + gamma [(z_{i+1} - z_i) - D_b(z_i)].

Where both increments depend on ``z_i`` alone, the rule can be solved for ``z_{i+1}``: the sampler runs backwards at
one evaluation a step and returns to its start up to rounding. Read as a linear two-step method its characteristic
roots are 1 and -gamma: the leading error is ``(1 - gamma)/(1 + gamma)`` times that of the one-step sampler, and at
gamma 1 the method is of second order.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.inversion.ddim import falling_times
from paperworks.diffusion.inversion.steppers import (
    DDIMStepper,
    HeunStepper,
    MultistepStepper,
    Stepper,
    StoredHeunStepper,
)
from paperworks.diffusion.sampling import Callback, ModelFn, SampleResult, Sampling, check_state
from paperworks.diffusion.schedules import NoiseSchedule, SkipType

Base = Literal["ddim", "edm", "dpmpp2m"]
Backward = Literal["stored", "heun"]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BDIAResult(SampleResult):
    """What a BDIA sampler returns: besides the sample, the pair of states that the other direction starts from.

    `pair` is (last, last but one) in the direction of travel: (z_0, z_1) after sampling, (z_N, z_{N-1}) after
    inverting. Only the pair, not the sample alone, carries the whole state of the two-step rule.

    Parameters
    ----------
    pair
        The last state and the last but one, in the direction of travel.
    """

    pair: Pair = field(default=(), repr=False)  # type: ignore[assignment]


def roundtrip_error_bound(gamma: float, steps: int, dtype: torch.dtype = torch.float32) -> float:
    """Estimate the rounding error of a round trip relative to the state: ``u gamma^(-steps)``.

    Inverting divides by gamma at each step, so a unit of rounding ``u`` grows by ``1/gamma`` a step.

    Parameters
    ----------
    gamma
        Share of the correction, above 0 and at most 1.
    steps
        Number of steps each way.
    dtype
        Type of the numbers, which says what ``u`` is.

    Returns
    -------
    float
        The error relative to the state, without unit.

    Raises
    ------
    ValueError
        Unless ``0 < gamma <= 1`` and ``steps >= 1``.

    Examples
    --------
    >>> roundtrip_error_bound(1.0, 50, torch.float64) < 1e-15
    True
    >>> roundtrip_error_bound(0.5, 50, torch.float64) > 0.1
    True
    """
    check_number("gamma", gamma, gt=0, le=1)
    check_count("steps", steps)
    exponent = math.log(torch.finfo(dtype).eps / 2) - steps * math.log(gamma)
    return math.exp(exponent) if exponent < 700 else math.inf


class BDIASampler:
    """A sampler whose every step can be undone, on top of DDIM; or with the same correction on EDM or DPM-Solver++.

    Parameters
    ----------
    model_fn
        ``model_fn(x, t)``, the noise in `x` at time `t`. For exact inversion it has to answer bit by bit the same in
        both directions: no dropout, the same batch, the same precision and guidance.
    schedule
        Noise schedule of the model; ``base="edm"`` needs one with alpha = 1.
    gamma
        Share of the correction, between 0 (the base sampler itself) and 1 (second order, exact round trips). The
        paper recommends 1 for 40 steps and more and 0.5 for about ten guided steps. Default 1.
    base
        ``ddim``; ``edm``: Heun's method of EDM (arXiv 2206.00364); ``dpmpp2m``: the second-order multistep
        DPM-Solver++ (arXiv 2211.01095).
    backward
        For ``edm``, which slope the backward increment ends with: ``stored``, that of the step before (no evaluation
        more, not invertible), or ``heun``, evaluated anew (one more a step, invertible).
    allow_any_gamma
        Permit a gamma outside [0, 1].

    Raises
    ------
    ValueError
        Where a choice is unknown, gamma is out of range, or the schedule does not fit the base.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> sampler = BDIASampler(lambda x, t: torch.tanh(x), NoiseScheduleVP.linear())
    >>> noise = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    >>> there = sampler.sample(noise, steps=50)
    >>> back = sampler.invert(*there.pair, steps=50)
    >>> bool((back.sample - noise).abs().max() < 1e-13)
    True
    """

    def __init__(
        self,
        model_fn: ModelFn,
        schedule: NoiseSchedule,
        gamma: float = 1.0,
        base: Base = "ddim",
        *,
        backward: Backward = "stored",
        allow_any_gamma: bool = False,
    ) -> None:
        check_choice("base", base, get_args(Base))
        check_choice("backward", backward, get_args(Backward))
        check_number("gamma", gamma, **({} if allow_any_gamma else {"ge": 0.0, "le": 1.0}))
        if base == "edm" and schedule.alpha(schedule.t_max) != 1:
            raise ValueError("schedule scales the data; base 'edm' takes one with alpha = 1, such as EDMSchedule")
        self.model_fn = model_fn
        self.schedule = schedule
        self.gamma = float(gamma)
        self.base: Base = base
        self.backward: Backward = backward

    @property
    def invertible(self) -> bool:
        """Whether a step depends on the newer of its two states alone, so that it can be undone."""
        return self.gamma != 0 and (self.base == "ddim" or (self.base == "edm" and self.backward == "heun"))

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> BDIAResult:
        """Sample from noise `x`: one step of the base sampler, then BDIA's.

        Parameters
        ----------
        x
            Noise at the first time.
        steps
            Number of steps, at least 2; or else
        timesteps
            The times themselves, falling; for ``edm`` the last may be 0.
        skip_type
            Grid of times for `steps`; see `time_grid`. With ``edm`` and ``karras`` a last step to 0 is included, so
            that `steps` is the number of EDM's sampling steps.
        t_start, t_end
            First and last time of the grid; `t_max` and `t_end(steps)` of the schedule by default.
        return_trajectory
            Keep all states.
        callback
            Called after each step.

        Returns
        -------
        BDIAResult
            The samples, with the pair that inverts them.
        """
        times = self._times(steps, timesteps, skip_type, t_start, t_end)
        check_state("x", x)
        sampling = Sampling(self.model_fn, x, times[0], len(times) - 1, return_trajectory, callback)
        run = self._stepper(sampling)
        first = run.first(x, times[0], times[1])
        sampling.reached(first, times[1])
        return self._walk(sampling, run, (first, x.clone()), times)

    @torch.no_grad()
    def resume(
        self,
        pair: Pair | BDIAResult,
        steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> BDIAResult:
        """Sample from what `invert` gave, on the same grid; the other arguments as in `sample`.

        Parameters
        ----------
        pair
            The result of `invert` (or of `BDIAPipeline.invert`), which knows its grid; or its states
            (z_N, z_{N-1}) alone.
        steps, timesteps
            The grid of the inversion, as in `sample`, for a pair of states.
        skip_type
            How the times between are spaced, as in `time_grid`.
        t_start, t_end
            First and last time of the grid, as in `sample`.
        return_trajectory
            Whether the states between are returned too.
        callback
            Called with a `SamplingStep` after each step.

        Returns
        -------
        BDIAResult
            The samples, with the pair that inverts them.

        Raises
        ------
        ValueError
            Where the sampler is not invertible: such a pair is then not all that its first step needs. Where the
            result is not one of `invert`.
        """
        self._require_invertible("resume")
        if isinstance(pair, BDIAResult):
            falling = way_back("pair", pair)
            timesteps = falling if steps is None and timesteps is None else timesteps
            pair = (pair.pair[0].to(pair.sample), pair.pair[1].to(pair.sample))  # a pipeline's is more precise
        times = self._times(steps, timesteps, skip_type, t_start, t_end)
        older, newer = check_pair("pair", pair)
        sampling = Sampling(self.model_fn, newer, times[1], len(times) - 2, return_trajectory, callback)
        result = self._walk(sampling, self._stepper(sampling), (newer.clone(), older.clone()), times)
        kept = (older.clone(), *result.trajectory) if return_trajectory else ()
        return dataclasses.replace(result, times=times, trajectory=kept)

    @torch.no_grad()
    def invert(
        self,
        z0: Float[Tensor, " batch *shape"],
        z1: Float[Tensor, " batch *shape"] | None = None,
        steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> BDIAResult:
        """Go back from data to noise on the grid of `sample`.

        Parameters
        ----------
        z0, z1
            The pair that sampling ended with; without `z1` (a real image) it is made by one step of DDIM inversion,
            and the round trip from there is exact all the same.
        steps, timesteps, skip_type, t_start, t_end, return_trajectory, callback
            As in `sample`; times fall there as well.

        Returns
        -------
        BDIAResult
            The noise, with the pair that `resume` starts from.

        Raises
        ------
        ValueError
            Where gamma is 0 or the base can't be inverted.

        Warns
        -----
        RuntimeWarning
            Where rounding is expected to grow above 1e-3 (`roundtrip_error_bound`).
        """
        self._require_invertible("invert")
        times = self._times(steps, timesteps, skip_type, t_start, t_end)
        check_state("z0", z0)
        n = len(times) - 1
        if 0 < self.gamma <= 1:
            warn_of_amplification(self.gamma, n, z0.dtype)
        sampling = Sampling(self.model_fn, z0, times[-1], n - (z1 is not None), return_trajectory, callback)
        run = self._stepper(sampling)
        given = z1
        if z1 is None:
            z1 = run.first(z0, times[-1], times[-2])
            sampling.reached(z1, times[-2])
        newer, z = (state.clone() for state in check_pair("z0 and z1", (z0, z1)))
        for i in range(n - 1, 0, -1):
            newer, z = z, run.undo(newer, z, times[i - 1], times[i], times[i + 1], newer)
            sampling.reached(z, times[i - 1])
        result = sampling.result(BDIAResult, times=tuple(reversed(times)), pair=(z, newer))
        if given is None or not return_trajectory:
            return result
        first, *others = result.trajectory
        return dataclasses.replace(result, trajectory=(first, given.clone(), *others))

    def edit(
        self,
        x: Float[Tensor, " batch *shape"],
        target_model_fn: ModelFn,
        steps: int,
        *,
        strength: float = 1.0,
        skip_type: SkipType = "time_uniform",
        t_start: float | None = None,
        t_end: float | None = None,
        callback: Callback | None = None,
    ) -> BDIAResult:
        """Invert `x` under this sampler's model and sample again under another, such as another condition.

        Parameters
        ----------
        x
            Data to edit.
        target_model_fn
            The model of the way back; with this sampler's own the data return.
        steps
            Steps of the whole grid.
        strength
            Share of the grid to go back through, in (0, 1]; the noisiest rest is skipped.
        skip_type, t_start, t_end, callback
            As in `sample`; the callback sees both ways.

        Returns
        -------
        BDIAResult
            Samples under the other model, with the pair that inverts them.
        """
        check_number("strength", strength, gt=0, le=1)
        times = self._times(steps, None, skip_type, t_start, t_end)
        times = last_part(times, strength)
        there = self.invert(x, timesteps=times, callback=callback)
        target = BDIASampler(
            target_model_fn, self.schedule, self.gamma, self.base, backward=self.backward, allow_any_gamma=True
        )
        back = target.resume(there.pair, timesteps=times, callback=callback)
        return BDIAResult(back.sample, there.nfe + back.nfe, times, pair=back.pair)

    def _times(
        self,
        steps: int | None,
        timesteps: Sequence[float] | None,
        skip_type: SkipType,
        t_start: float | None,
        t_end: float | None,
    ) -> tuple[float, ...]:
        if (steps is None) == (timesteps is None):
            raise ValueError("steps and timesteps are both given or both missing; one of them is taken")
        if timesteps is not None:
            times = tuple(float(t) for t in timesteps)
            if len(times) < 3 or any(s <= t for s, t in itertools.pairwise(times)):
                raise ValueError(f"timesteps is {list(times)!r}; it takes three or more times that fall strictly")
            if times[-1] < 0 or (times[-1] == 0 and self.base != "edm"):
                raise ValueError(f"timesteps end at {times[-1]:g}; base {self.base!r} takes positive times")
            return times
        if self.base == "edm" and skip_type == "karras" and t_end is None:
            check_count("steps", steps, at_least=3)
            return (*falling_times(self.schedule, steps - 1, skip_type, t_start, None), 0.0)  # type: ignore[operator]
        check_count("steps", steps, at_least=2)
        return falling_times(self.schedule, steps, skip_type, t_start, t_end)  # type: ignore[arg-type]

    def _stepper(self, sampling: Sampling) -> "Stepper":
        if self.base == "ddim":
            return DDIMStepper(sampling.ask, self.schedule, self.gamma)
        if self.base == "edm":
            kind = StoredHeunStepper if self.backward == "stored" else HeunStepper
            return kind(sampling.ask, self.schedule, self.gamma)
        return MultistepStepper(sampling.ask, self.schedule, self.gamma)

    def _require_invertible(self, what: str) -> None:
        if self.gamma == 0:
            raise ValueError(f"gamma is 0; {what} divides by it and takes gamma > 0")
        if not self.invertible:
            raise ValueError(
                f"base {self.base!r} with backward {self.backward!r} can't be undone; {what} takes base 'ddim', "
                "or 'edm' with backward 'heun'"
            )

    def _walk(self, sampling: Sampling, run: "Stepper", states: Pair, times: tuple[float, ...]) -> BDIAResult:
        """Step on from `states` = (newer, older) at the first two times; their buffers are used up."""
        newer, older = states
        for i in range(1, len(times) - 1):
            newer, older = run.step(older, newer, times[i - 1], times[i], times[i + 1], older), newer
            sampling.reached(newer, times[i + 1])
        return sampling.result(BDIAResult, pair=(newer, older))


def warn_of_amplification(gamma: float, steps: int, dtype: torch.dtype) -> None:
    """Warn where a round trip is expected to amplify rounding above 1e-3."""
    if (bound := roundtrip_error_bound(gamma, steps, dtype)) > 1e-3:
        warnings.warn(
            f"gamma {gamma:g} over {steps} steps in {dtype} amplifies rounding to about {bound:.1g}; "
            "take gamma closer to 1, fewer steps or float64",
            RuntimeWarning,
            stacklevel=4,
        )


def last_part(times: tuple[float, ...], strength: float) -> tuple[float, ...]:
    """Return the part of falling times that an edit of some strength goes through: two steps at least."""
    return times[-(max(2, round(strength * (len(times) - 1))) + 1) :]


def way_back(name: str, result: Any) -> tuple[float, ...]:
    """Return the falling times of the way back from what `invert` returned, whose own times rise."""
    if not isinstance(result, BDIAResult):
        raise TypeError(f"{name} is {type(result).__name__}; it takes what invert returned")
    times = tuple(result.times)
    if len(times) < 3 or not all(s < t for s, t in itertools.pairwise(times)):
        raise ValueError(f"{name} has {len(times)} times that don't rise; it takes what invert returned, whose do")
    return times[::-1]


def check_pair(name: str, pair: Pair) -> Pair:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} is {type(pair).__name__}; it takes two states")
    first, second = (check_state(name, z) for z in pair)
    if first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"{name} have shapes {tuple(first.shape)} and {tuple(second.shape)}, dtypes {first.dtype} and "
            f"{second.dtype}; they take two alike states"
        )
    return first, second
