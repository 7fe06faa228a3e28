"""DPM-Solver as a scheduler that a diffusers pipeline takes for its own."""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.dpm_solver import plans
from paperworks.diffusion.dpm_solver.correction import dynamic_thresholding
from paperworks.diffusion.dpm_solver.exponential import AlgorithmType, Form, SolverType
from paperworks.diffusion.dpm_solver.plans import Stage
from paperworks.diffusion.models import to_noise
from paperworks.diffusion.sampling import Buffers, combine, noise_like
from paperworks.diffusion.schedulers import PREDICTION_TYPES, Scheduler, SchedulerOutput, check_alike, custom_timesteps
from paperworks.diffusion.schedules import SKIP_TYPES, SkipType, time_grid

SHORT = 15  # as in the schedulers it stands in for; the solver's own limit is 10
_SOLVER_TYPES: dict[str, SolverType] = {"midpoint": "dpmsolver", "heun": "taylor"}


class DPMSolverScheduler(Scheduler):
    """DPM-Solver and DPM-Solver++ for diffusers pipelines: as many network evaluations as steps, whatever the method.

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas
        The noise that the network was trained with; see `training_betas`.
    solver_order
        1, 2 or 3.
    prediction_type
        What the network predicts: ``epsilon``, ``sample`` or ``v_prediction``.
    thresholding, dynamic_thresholding_ratio
        Whether to apply `dynamic_thresholding` to the predicted data, and at which quantile.
    algorithm_type
        As in `DPMSolver`.
    solver_type
        ``midpoint`` or ``heun``: what `DPMSolver` calls ``dpmsolver`` and ``taylor``.
    method
        ``multistep`` or ``singlestep``.
    lower_order_final
        Lower the order of the last steps of fewer than 15 multistep ones.
    skip_type
        How the steps are placed; see `time_grid`. They are not rounded: the network gets fractional steps.
    final_sigmas_type
        Where the last step ends: ``zero``, at the predicted data, or ``sigma_min``, at the least noise of the training.
    legacy_3m
        As in `DPMSolver`.

    Raises
    ------
    ValueError
        Where a choice is unknown or a number out of range.

    Examples
    --------
    >>> scheduler = DPMSolverScheduler(solver_order=3)
    >>> scheduler.set_timesteps(4)
    >>> x = torch.ones(1, 2)
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(torch.zeros(1, 2), t, x).prev_sample
    >>> bool(torch.allclose(x, x / 1.0))
    True
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | Tensor | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        algorithm_type: AlgorithmType = "dpmsolver++",
        solver_type: Literal["midpoint", "heun"] = "midpoint",
        method: Literal["multistep", "singlestep"] = "multistep",
        lower_order_final: bool = True,
        skip_type: SkipType = "time_uniform",
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        legacy_3m: bool = False,
    ) -> None:
        check_choice("solver_order", solver_order, (1, 2, 3))
        check_choice("algorithm_type", algorithm_type, get_args(AlgorithmType))
        check_choice("solver_type", solver_type, tuple(_SOLVER_TYPES))
        check_choice("method", method, ("multistep", "singlestep"))
        check_choice("skip_type", skip_type, SKIP_TYPES)
        check_choice("final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))
        check_number("dynamic_thresholding_ratio", dynamic_thresholding_ratio, gt=0, le=1)
        self._form = Form.of(algorithm_type)
        if self._form.sde and method != "multistep":
            raise ValueError(f"method is {method!r}; algorithm_type {algorithm_type!r} takes 'multistep'")
        if thresholding and not self._form.data:
            raise ValueError(
                f"thresholding takes an algorithm_type of '++', which predicts data; got {algorithm_type!r}"
            )
        self._configure(locals())
        self._times: list[float] = []

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> "DPMSolverScheduler":
        """Make a scheduler from the configuration of another one; settings that it doesn't have are left out.

        Parameters
        ----------
        config
            Settings by their names, as ``scheduler.config`` holds them.

        Returns
        -------
        DPMSolverScheduler
            A scheduler with these settings and the `changes`.
        """
        translated: dict[str, Any] = {}
        if config.get("use_karras_sigmas"):
            translated["skip_type"] = "karras"
        elif config.get("use_lu_lambdas"):
            translated["skip_type"] = "logSNR"
        if config.get("solver_type", "midpoint") not in _SOLVER_TYPES:
            translated["solver_type"] = "midpoint"
        return super().from_config({**config, **translated}, **changes)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Place the steps, and start anew.

        Parameters
        ----------
        num_inference_steps
            Number of steps, each one evaluation of the network.
        device
            Where `timesteps` shall live.
        timesteps
            The steps themselves, in place of their number.

        Raises
        ------
        TypeError
            Unless one of the two is given.
        ValueError
            Where the number is less than 1, or the steps don't fall.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise TypeError("set_timesteps takes one of num_inference_steps and timesteps, and got both or neither")
        t_max, t_min = self.schedule.t_max, self.schedule.t_min
        if timesteps is not None:
            steps = custom_timesteps(timesteps, self.schedule.total)
            if steps[-1] == 0 and self.config.final_sigmas_type == "sigma_min":
                raise ValueError("timesteps ends at 0, where final_sigmas_type 'sigma_min' leaves nothing to do")
            self._times = [*((step + 1) * t_min for step in steps), t_min]
        else:
            n = check_count("num_inference_steps", num_inference_steps)
            if self.config.method == "singlestep":
                blocks = plans.singlestep_times(self.schedule, self._orders(n), self.config.skip_type, t_max, t_min)
                self._times = [t for block in blocks for t in block[:-1]] + [t_min]
            else:
                self._times = time_grid(self.schedule, n, t_max, t_min, self.config.skip_type)
        self.num_inference_steps = len(self._times) - 1
        visited = [self.schedule.input_time(t) for t in self._times[:-1]]
        self.timesteps = torch.tensor(visited, dtype=torch.float32, device=device)
        self.step_index = self.begin_index = None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
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
            Source of the noise, for the SDE.
        return_dict
            Whether to return an object with `prev_sample`, or a tuple.

        Returns
        -------
        SchedulerOutput | tuple[Tensor]
            The next state, in a `SchedulerOutput` or a tuple of one.

        Raises
        ------
        RuntimeError
            Where it is called before `set_timesteps` or after the last step.
        ValueError
            Where the shapes differ, or an SDE gets no `generator`.
        """
        check_alike("model_output", model_output, "sample", sample)
        if self.step_index is None:
            self.step_index = self._begin = self._start(timestep)
            self._plan = self._make_plan(self._begin)
            self._values: deque[Tensor] = deque(maxlen=3)
            self._base = sample
            self._spare = Buffers(sample, 3)
        if self.step_index - self._begin == len(self._plan):
            raise RuntimeError(f"step was called after the last of {len(self._plan)} steps; set_timesteps starts anew")
        stage = self._plan[self.step_index - self._begin]
        self._values.appendleft(self._value(model_output, sample, stage))
        following = combine(stage.coefficients, (self._base, *self._values))
        if stage.noise:
            following.add_(noise_like(sample, generator), alpha=stage.noise)
        if stage.advances:
            self._base = following
        self.step_index += 1
        return self._output(following, self.step_index - self._begin == len(self._plan), return_dict)

    def _value(self, output: Tensor, x: Tensor, stage: Stage) -> Tensor:
        """Return what the form integrates: the noise, or the data times alpha (see `plans.scaled`)."""
        noise = to_noise(output, x, stage.alpha, stage.sigma, PREDICTION_TYPES[self.config.prediction_type])
        if not self._form.data:
            return noise
        recorded = torch.is_grad_enabled() and (x.requires_grad or noise.requires_grad)
        data = torch.sub(x, noise, alpha=stage.sigma, out=None if recorded else next(self._spare))
        if self.config.thresholding:
            ratio = self.config.dynamic_thresholding_ratio
            data = dynamic_thresholding(data.div_(stage.alpha), ratio).mul_(stage.alpha)
        return data

    def _orders(self, steps: int) -> list[int]:
        order, to_zero = self.config.solver_order, self.config.final_sigmas_type == "zero"
        if self.config.method == "singlestep":
            # Only the first order reaches the noise level 0; a step of its own keeps the others away from it.
            return [*plans.singlestep_orders(steps - to_zero, order), *[1] * to_zero]
        orders = plans.multistep_orders(steps, order, self.config.lower_order_final and steps < SHORT)
        return [*orders[:-1], 1] if to_zero else orders

    def _make_plan(self, begin: int) -> tuple[Stage, ...]:
        """Lay out the trajectory from the given step on."""
        times = tuple(self._times[begin:])
        orders = self._orders(len(times) - 1)
        solver_type = _SOLVER_TYPES[self.config.solver_type]
        if self.config.method == "singlestep":
            ends = [sum(orders[:i]) for i in range(len(orders) + 1)]
            blocks = tuple(times[a : b + 1] for a, b in itertools.pairwise(ends))
            # Started in the midst of a step, the nodes aren't where the third-order rule wants them.
            plan = plans.singlestep_plan(self.schedule, self._form, blocks, "taylor" if begin else solver_type)
        else:
            plan = plans.multistep_plan(
                self.schedule, self._form, times, tuple(orders), solver_type, self.config.legacy_3m
            )
        if self.config.final_sigmas_type == "zero":
            last = plan[-1]
            reaching = (0.0, 1.0) if self._form.data else (1 / last.alpha, -last.sigma / last.alpha)
            plan = (*plan[:-1], last._replace(coefficients=reaching, noise=0.0, t_next=0.0))
        return plans.scaled(plan) if self._form.data else plan
