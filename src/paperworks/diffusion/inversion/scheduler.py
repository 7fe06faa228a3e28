"""BDIA-DDIM and its inverse as schedulers that a diffusers pipeline takes for its own."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.models import to_noise
from paperworks.diffusion.pndm import Spacing, training_steps
from paperworks.diffusion.sampling import combine
from paperworks.diffusion.scheduler_config import SchedulerOutput, scheduler_mixin
from paperworks.diffusion.schedulers import PREDICTION_TYPES, Generator, Scheduler
from paperworks.diffusion.schedules import SKIP_TYPES, SkipType, time_grid
from paperworks.diffusion.sigma_grids import spaced_steps

__getattr__ = scheduler_mixin


class _TwoStepScheduler(Scheduler):
    """What both directions share: the grid, and the state before the current one.

    `previous_sample` is that state. It is None at the start, where the first step is then DDIM's; who goes on from
    the pair that the other direction ended with sets it to the first of the two, passes the second as the sample,
    and begins at entry 1 of `timesteps` (``set_begin_index(1)``).
    """

    toward_data: ClassVar[bool]
    # What the scheduler of DDIM does to the predicted data, and can't be undone.
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"clip_sample": (False,), "set_alpha_to_one": (False,)}

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | Tensor | None = None,
        prediction_type: str = "epsilon",
        gamma: float = 1.0,
        skip_type: SkipType = "time_uniform",
        timestep_spacing: Spacing = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        if self.toward_data:
            check_number("gamma", gamma, ge=0, le=1)
        else:
            check_number("gamma", gamma, gt=0, le=1)
        check_choice("skip_type", skip_type, SKIP_TYPES)
        check_choice("timestep_spacing", timestep_spacing, get_args(Spacing))
        check_count("steps_offset", steps_offset, at_least=0)
        check_choice("prediction_type", prediction_type, ("epsilon", "sample", "v_prediction"))
        self._configure(locals(), clip_lam=-5.1)
        self.previous_sample: Tensor | None = None

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Place `num_inference_steps` steps, at least 2, and start anew.

        Parameters
        ----------
        device
            Device of the timesteps, by default the CPU.
        """
        grid = self.grid(check_count("num_inference_steps", num_inference_steps, at_least=2))
        self._visit(grid if self.toward_data else grid[::-1], device)

    def grid(self, steps: int) -> list[float]:
        """Return the times of that many steps and their end, from noise to data, without placing them.

        Parameters
        ----------
        steps
            How many steps, at least 2.

        Returns
        -------
        list[float]
            The times, one more than the steps.
        """
        n = check_count("steps", steps, at_least=2)
        c, schedule = self.config, self.schedule
        if c.skip_type == "time_uniform" and c.timestep_spacing != "linspace":
            visited = spaced_steps(c.timestep_spacing, len(self), n, c.steps_offset)
            if c.timestep_spacing == "leading" and c.steps_offset:  # the steps of DDIM, which else end with 0 twice
                visited = [float(step + c.steps_offset) for step in training_steps(len(self), n, "leading")]
            return [*map(self._time, visited), schedule.t_min]
        return time_grid(schedule, n, schedule.t_max, schedule.t_min, c.skip_type)

    def _visit(self, times: list[float], device: str | torch.device | None) -> None:
        """Place times in the order of travel, the last of which is only reached."""
        t, g = torch.tensor(times, dtype=torch.float64), self.config.gamma
        log_alpha, alpha, sigma = self.schedule.log_alpha(t), self.schedule.alpha(t), self.schedule.sigma(t)
        # From each time the DDIM steps z_to = a z + b eps onward, and from all but the first also back.
        a, a_back = torch.exp(log_alpha[1:] - log_alpha[:-1]), torch.exp(log_alpha[:-2] - log_alpha[1:-1])
        b, b_back = sigma[1:] - a * sigma[:-1], sigma[:-2] - a_back * sigma[1:-1]
        # z_to = g z_before + a z + b eps - g (a' z + b' eps), g = gamma to the data and 1/gamma to the noise.
        g = g if self.toward_data else 1 / g
        self._ddim = list(zip(a.tolist(), b.tolist(), strict=True))
        both = zip((a[1:] - g * a_back).tolist(), (b[1:] - g * b_back).tolist(), strict=True)
        self._bdia = [(), *((g, *pair) for pair in both)]
        self._levels = list(zip(alpha.tolist(), sigma.tolist(), strict=True))
        visited = [self.schedule.input_time(t) for t in times[:-1]]
        self.timesteps = torch.tensor(visited, dtype=torch.float32, device=device)
        self.num_inference_steps = len(times) - 1
        self.step_index = self.begin_index = None
        self.previous_sample = None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from one entry of `timesteps` to the next.

        Parameters
        ----------
        model_output
            What the network made of `sample`.
        timestep
            The entry of `timesteps` that the network got.
        sample
            The current state; it is not changed.
        generator
            Not used: pipelines pass one to every scheduler.
        return_dict
            Whether to return an object with `prev_sample`, or a tuple.

        Returns
        -------
        SchedulerOutput | tuple[Tensor]
            The next state, in a `SchedulerOutput` or a tuple of one.

        Raises
        ------
        TypeError
            Where `sample` is no tensor of floating point.
        RuntimeError
            Before `set_timesteps`, or after the last step.
        ValueError
            Where the shapes differ.
        """
        output, x = self._take(model_output, sample)
        i = self._start(timestep) if self.step_index is None else self.step_index
        if i == self.num_inference_steps:
            raise RuntimeError(f"step was called after the last of {i} steps; set_timesteps starts anew")
        noise = to_noise(output, x, *self._levels[i], PREDICTION_TYPES[self.config.prediction_type])
        if self.previous_sample is None or i == 0:
            following = combine(self._ddim[i], (x, noise))
        else:
            following = combine(self._bdia[i], (self.previous_sample.to(x), x, noise))
        self.previous_sample = sample
        self.step_index = i + 1
        return self._output(following, sample, self.step_index == self.num_inference_steps, return_dict)


class BDIADDIMScheduler(_TwoStepScheduler):
    """BDIA-DDIM for diffusers pipelines: DDIM's cost, second order at gamma 1, and invertible (arXiv 2307.10829).

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas
        The noise that the network was trained with; see `training_betas`.
    prediction_type
        What the network predicts: ``epsilon``, ``sample`` or ``v_prediction``.
    gamma
        Share of the correction, in [0, 1]; see `BDIASampler`.
    skip_type
        How the steps are placed; see `time_grid`. The network gets fractional steps.
    timestep_spacing, steps_offset
        Where `skip_type` is ``time_uniform``: ``leading`` (with an offset those of `training_steps`, as in DDIM) or
        ``trailing`` whole steps, see `spaced_steps`; ``linspace`` leaves it at that.
    rescale_betas_zero_snr
        Rescale the training's noise so that the last step has no signal (arXiv 2305.08891).

    Raises
    ------
    ValueError
        Where a choice is unknown or a number out of range.

    Examples
    --------
    >>> scheduler = BDIADDIMScheduler()
    >>> scheduler.set_timesteps(4)
    >>> x = torch.ones(1, 2)
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros(1, 2), t, x).prev_sample
    >>> x.shape, scheduler.previous_sample.shape  # the pair (z_0, z_1)
    (torch.Size([1, 2]), torch.Size([1, 2]))
    """

    toward_data = True


class BDIADDIMInverseScheduler(_TwoStepScheduler):
    """The way back of `BDIADDIMScheduler`, from data to noise; its arguments are the same, gamma is not 0.

    A pipeline hands over one state, and the way back takes two (`previous_sample`): with pipelines use `BDIAPipeline`.

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, skip_type
        As in `BDIADDIMScheduler`.
    timestep_spacing, steps_offset, rescale_betas_zero_snr
        As in `BDIADDIMScheduler`.
    gamma
        Share of the correction, above 0 and at most 1.

    Examples
    --------
    >>> scheduler = BDIADDIMInverseScheduler()
    >>> scheduler.set_timesteps(4)
    >>> [round(t) for t in scheduler.timesteps.tolist()]
    [0, 250, 500, 749]
    """

    toward_data = False
