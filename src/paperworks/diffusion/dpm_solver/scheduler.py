"""DPM-Solver as a scheduler that a diffusers pipeline takes for its own."""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.dpm_solver import plans
from paperworks.diffusion.dpm_solver.correction import dynamic_thresholding
from paperworks.diffusion.dpm_solver.exponential import AlgorithmType, Form, SolverType
from paperworks.diffusion.dpm_solver.plans import Stage
from paperworks.diffusion.models import to_noise, to_scaled_data
from paperworks.diffusion.pndm import Spacing
from paperworks.diffusion.sampling import Buffers, blocks, combine
from paperworks.diffusion.scheduler_config import OF_OTHER_SOLVERS, SchedulerOutput, scheduler_mixin
from paperworks.diffusion.schedulers import PREDICTION_TYPES, Generator, Scheduler, custom_timesteps, draw_noise
from paperworks.diffusion.schedules import SKIP_TYPES, FlowSchedule, SkipType, time_grid
from paperworks.diffusion.sigma_grids import SigmaGrid, flow_sigmas, sigma_grid, spaced_steps

SHORT = 15  # as in the schedulers it stands in for; the solver's own limit is 10
_SOLVER_TYPES: dict[str, SolverType] = {"midpoint": "dpmsolver", "heun": "taylor"}
_GRIDS: tuple[SigmaGrid, ...] = ("karras", "exponential", "beta")
__getattr__ = scheduler_mixin


class DPMSolverScheduler(Scheduler):
    """DPM-Solver and DPM-Solver++ for diffusers pipelines: as many network evaluations as steps, whatever the method.

    Parameters
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas
        The noise that the network was trained with; see `training_betas`.
    solver_order
        1, 2 or 3.
    prediction_type
        What the network predicts: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
    thresholding, dynamic_thresholding_ratio, sample_max_value
        Whether to clamp the predicted data at this quantile of their magnitudes, which is taken no lower than 1 and no
        higher than `sample_max_value` (by default 1, so that it is 1), and to scale them back to 1.
    algorithm_type
        As in `DPMSolver`.
    solver_type
        ``midpoint`` or ``heun``: what `DPMSolver` calls ``dpmsolver`` and ``taylor``.
    method
        ``multistep`` or ``singlestep``.
    lower_order_final
        Lower the order of the last steps of fewer than 15 multistep ones.
    euler_at_final
        Take the last step at order 1, however many there are.
    skip_type
        How the steps are placed; see `time_grid`. They are not rounded: the network gets fractional steps.
    timestep_spacing, steps_offset
        Where `skip_type` is ``time_uniform``: ``leading`` (with the offset) or ``trailing`` whole steps, see
        `spaced_steps`; ``linspace`` leaves it at that.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas
        Place the noise levels from the greatest to the least of the training, both evaluated, by `sigma_grid`; the
        last two names are those of quantiles of a beta distribution, and of ``exponential``.
    sigma_min, sigma_max
        Least and greatest of these levels, in place of the training's.
    use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type
        The network is of a flow, ``(1 - sigma) x_0 + sigma z``, whose levels are shifted, see `flow_sigmas`; or by
        what `set_timesteps` gets as `mu`.
    lambda_min_clipped
        Least half log signal-to-noise ratio: noisier steps of the training are not visited. The default is for cosine
        schedules; a schedule that ends without signal is kept whole.
    rescale_betas_zero_snr
        Rescale the training's noise so that the last step has no signal (arXiv 2305.08891).
    variance_type
        Where it begins with ``learned`` the second half of the network's channels is not read.
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

    ignored: ClassVar[frozenset[str]] = OF_OTHER_SOLVERS | {"shift"}

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
        sample_max_value: float = 1.0,
        algorithm_type: AlgorithmType = "dpmsolver++",
        solver_type: Literal["midpoint", "heun"] = "midpoint",
        method: Literal["multistep", "singlestep"] = "multistep",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        skip_type: SkipType = "time_uniform",
        timestep_spacing: Spacing = "linspace",
        steps_offset: int = 0,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: Literal["exponential"] = "exponential",
        lambda_min_clipped: float = -5.1,
        rescale_betas_zero_snr: bool = False,
        variance_type: str | None = None,
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
        check_number("sample_max_value", sample_max_value, ge=1)
        check_choice("timestep_spacing", timestep_spacing, get_args(Spacing))
        check_count("steps_offset", steps_offset, at_least=0)
        check_number("flow_shift", 1.0 if flow_shift is None else flow_shift, gt=0)
        check_choice("time_shift_type", time_shift_type, ("exponential",))
        grids = (use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas, use_flow_sigmas)
        if sum(map(bool, grids)) > 1:
            raise ValueError("two or more of the grids use_…_sigmas and use_lu_lambdas are True; they take one at most")
        flow = prediction_type == "flow_prediction"
        if flow != bool(use_flow_sigmas) and prediction_type != "sample":
            raise ValueError(
                f"prediction_type is {prediction_type!r} and use_flow_sigmas {use_flow_sigmas!r}; "
                "a flow takes 'flow_prediction' (or 'sample') and True"
            )
        self._form = Form.of(algorithm_type)
        if self._form.sde and method != "multistep":
            raise ValueError(f"method is {method!r}; algorithm_type {algorithm_type!r} takes 'multistep'")
        if thresholding and not self._form.data:
            raise ValueError(
                f"thresholding takes an algorithm_type of '++', which predicts data; got {algorithm_type!r}"
            )
        self._configure(locals(), lambda_min_clipped)
        if use_flow_sigmas:
            self.schedule = FlowSchedule(num_train_timesteps)
        self._times: list[float] = []
        self._regular = True

    @classmethod
    def _translated(cls, config: Mapping[str, Any], origin: Mapping[str, Any]) -> Mapping[str, Any]:
        words: dict[str, Any] = {}
        if config.get("algorithm_type") == "deis":
            words["algorithm_type"] = "dpmsolver++"
        if config.get("solver_type", "midpoint") in ("logrho", "bh1", "bh2"):
            words["solver_type"] = "midpoint"
        if "shift" in config and "use_flow_sigmas" not in config:  # of the schedulers for flow matching alone
            words |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": config["shift"]}
        return {**config, **words}

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
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
        sigmas
            The noise levels themselves: sigma/alpha, or those of the flow; where the last is 0 it ends the trajectory.
        mu
            Logarithm of the shift of a flow, with `use_dynamic_shifting`.

        Raises
        ------
        TypeError
            Unless the number, or the steps, or the noise levels are given.
        ValueError
            Where the number is less than 1, or the steps or levels don't fall.
        """
        if timesteps is not None or sigmas is not None:
            num_inference_steps = None  # some pipelines give both
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise TypeError(
                "set_timesteps takes one of num_inference_steps, timesteps and sigmas, and got none or several"
            )
        t_min, self._to_zero, self._regular = self.schedule.t_min, self.config.final_sigmas_type == "zero", False
        if timesteps is not None:
            last = int(self.schedule.input_time(self.schedule.t_max))
            steps = custom_timesteps(timesteps, last + 1)
            if steps[-1] == 0 and not self._to_zero:
                raise ValueError("timesteps ends at 0, where final_sigmas_type 'sigma_min' leaves nothing to do")
            self._times = [*map(self._time, steps), t_min]
        elif sigmas is not None:
            self._times = [*self._times_of_levels(sigmas), t_min]
        else:
            self._times = self._place(check_count("num_inference_steps", num_inference_steps), mu)
        self.num_inference_steps = len(self._times) - 1
        visited = [self.schedule.input_time(t) for t in self._times[:-1]]
        self.timesteps = torch.tensor(visited, dtype=torch.float32, device=device)
        levels = [self.schedule.sigma(t) / (1 if self.config.use_flow_sigmas else self.schedule.alpha(t))
                  for t in self._times]  # fmt: skip
        self.sigmas = torch.tensor([*levels[:-1], 0.0] if self._to_zero else levels, dtype=torch.float32)
        self.step_index = self.begin_index = None

    def _place(self, n: int, mu: float | None) -> list[float]:
        """Return the times of n steps and their end."""
        c, schedule = self.config, self.schedule
        t_max, t_min = schedule.t_max, schedule.t_min
        if mu is not None and not (c.use_dynamic_shifting and c.use_flow_sigmas):
            raise ValueError(f"mu is {mu!r}; it takes use_dynamic_shifting and use_flow_sigmas")
        if c.use_flow_sigmas:
            shift = math.exp(mu) if mu is not None else c.flow_shift or 1.0
            return [*flow_sigmas(schedule.total, n, shift).tolist(), t_min]
        for kind in _GRIDS:
            if c[f"use_{kind}_sigmas"] or (kind == "exponential" and c.use_lu_lambdas):
                ends = (c.sigma_max or math.exp(-schedule.lam(t_max)), c.sigma_min or math.exp(-schedule.lam(t_min)))
                return [*self._times_of_levels(sigma_grid(kind, *ends, n)), t_min]
        if c.skip_type == "time_uniform" and c.timestep_spacing != "linspace":
            steps = spaced_steps(c.timestep_spacing, schedule.total, n, c.steps_offset)
            return [*map(self._time, steps), t_min]
        self._regular = True
        if c.method == "singlestep":
            blocks = plans.singlestep_times(schedule, self._orders(n), c.skip_type, t_max, t_min)
            return [t for block in blocks for t in block[:-1]] + [t_min]
        return time_grid(schedule, n, t_max, t_min, c.skip_type)

    def _times_of_levels(self, sigmas: Sequence[float] | np.ndarray | Tensor) -> list[float]:
        """Return the times of noise levels; a last one of 0 ends the trajectory."""
        levels = np.asarray([float(s) for s in sigmas])
        if len(levels) > 1 and levels[-1] == 0:
            levels, self._to_zero = levels[:-1], True
        t_max, t_min = self.schedule.t_max, self.schedule.t_min
        greatest = t_max if self.config.use_flow_sigmas else math.exp(-self.schedule.lam(t_max))
        if not (len(levels) and (levels > 0).all() and (np.diff(levels) < 0).all() and levels[0] <= 1.001 * greatest):
            raise ValueError(f"sigmas is {sigmas!r}; it takes levels that fall strictly, from {greatest:g} at most")
        if self.config.use_flow_sigmas:
            return np.minimum(levels, t_max).tolist()
        times = self.schedule.t_of_lam(torch.from_numpy(-np.log(levels)))
        return times.clamp(t_min if not self._to_zero else 0.5 * t_min, t_max).tolist()

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
            Source of the noise, for the SDE: one or one for each sample; torch's global one by default.
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
            Where it is called before `set_timesteps` or after the last step.
        ValueError
            Where the shapes differ, or there are several generators and not one for each sample.
        """
        output, x = self._take(model_output, sample)
        if self.step_index is None:
            self.step_index = self._begin = self._start(timestep)
            self._plan = self._make_plan(self._begin)
            self._values: deque[Tensor] = deque(maxlen=3)
            self._spare = Buffers(x, 3)
        if self.step_index - self._begin == len(self._plan):
            raise RuntimeError(f"step was called after the last of {len(self._plan)} steps; set_timesteps starts anew")
        index = self.step_index - self._begin
        stage = self._plan[index]
        if index == 0 or self._plan[index - 1].advances:  # a pipeline may have changed what it got
            self._base = x
        following = self._advanced(output, x, stage)
        if stage.noise:
            following.add_(draw_noise(x, generator), alpha=stage.noise)
        self.step_index += 1
        return self._output(following, sample, index + 1 == len(self._plan), return_dict)

    def _forget(self) -> None:
        del self._values, self._spare, self._base

    def _advanced(self, output: Tensor, x: Tensor, stage: Stage) -> Tensor:
        """Keep what the form integrates, the noise or the data times alpha (see `plans.scaled`), and go on from it."""
        c = self.config
        kind = PREDICTION_TYPES[c.prediction_type]
        recorded = torch.is_grad_enabled() and (x.requires_grad or output.requires_grad)
        if not self._form.data:
            value = to_noise(output, x, stage.alpha, stage.sigma, kind)
        elif c.thresholding or recorded:
            value = to_scaled_data(output, x, stage.alpha, stage.sigma, kind)
            if c.thresholding:
                ratio, bound = c.dynamic_thresholding_ratio, c.sample_max_value
                value = dynamic_thresholding(value / stage.alpha, ratio, bound_max=bound) * stage.alpha
        else:
            older = [*self._values][: len(stage.coefficients) - 2]
            value, following = next(self._spare), torch.empty_like(x)
            for into, to, model_output, state, base, *others in blocks(value, following, output, x, self._base, *older):
                to_scaled_data(model_output, state, stage.alpha, stage.sigma, kind, into)
                combine(stage.coefficients, (base, into, *others), to)
            self._values.appendleft(value)
            return following
        self._values.appendleft(value)
        return combine(stage.coefficients, (self._base, *self._values))

    def _orders(self, steps: int) -> list[int]:
        order, c = self.config.solver_order, self.config
        if c.method == "singlestep":
            # Only the first order reaches the noise level 0; a step of its own keeps the others away from it.
            return [*plans.singlestep_orders(steps - self._to_zero, order), *[1] * self._to_zero]
        orders = plans.multistep_orders(steps, order, c.lower_order_final and steps < SHORT)
        return [*orders[:-1], 1] if self._to_zero or c.euler_at_final else orders

    def _make_plan(self, begin: int) -> tuple[Stage, ...]:
        """Lay out the trajectory from the given step on."""
        times = tuple(self._times[begin:])
        orders = self._orders(len(times) - 1)
        solver_type = _SOLVER_TYPES[self.config.solver_type]
        if self.config.method == "singlestep":
            ends = [sum(orders[:i]) for i in range(len(orders) + 1)]
            blocks = tuple(times[a : b + 1] for a, b in itertools.pairwise(ends))
            # Elsewhere, or started in the midst of a step, the nodes aren't where the third-order rule wants them.
            meant = self.config.solver_order < 3 or (self._regular and not begin)
            rule = solver_type if meant else "taylor"
            plan = plans.singlestep_plan(self.schedule, self._form, blocks, rule)
        else:
            if times[-1] == times[-2]:  # levels down to the least one: the last step is of no length
                orders[-1] = 1
            plan = plans.multistep_plan(
                self.schedule, self._form, times, tuple(orders), solver_type, self.config.legacy_3m
            )
        if self._to_zero:
            last = plan[-1]
            reaching = (0.0, 1.0) if self._form.data else (1 / last.alpha, -last.sigma / last.alpha)
            plan = (*plan[:-1], last._replace(coefficients=reaching, noise=0.0, t_next=0.0))
        return plans.scaled(plan) if self._form.data else plan
