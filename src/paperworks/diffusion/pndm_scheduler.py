"""PNDM as a scheduler that a diffusers pipeline takes for its own."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from paperworks.core.validation import check_choice, check_count
from paperworks.diffusion.models import to_noise
from paperworks.diffusion.pndm import (
    RECIPES,
    Node,
    Predictions,
    Spacing,
    Stage,
    make_plan,
    training_steps,
    transfer_coefficients,
)
from paperworks.diffusion.scheduler_config import SchedulerOutput, scheduler_mixin
from paperworks.diffusion.schedulers import PREDICTION_TYPES, Generator, Scheduler

__getattr__ = scheduler_mixin
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Prediction = Literal["epsilon", "v_prediction"]


class PNDMScheduler(Scheduler):
    """F-PNDM, or PLMS where `skip_prk_steps` is set, one evaluation of the network at a time.

    It has the arguments and methods of the diffusers scheduler of that name and follows it step by step, but for
    this: levels are in float64; each v-prediction becomes noise at the state it was made for, before predictions are
    combined; every step ends at the timestep that comes next, also where the spacing isn't even; and a trajectory
    may begin at any of `timesteps` (inside a Runge-Kutta step it goes to the end of that step by DDIM, and the
    history builds up from order 1).

    `timesteps` has one entry per evaluation, so more than `num_inference_steps`: a Runge-Kutta step takes four.

    Parameters
    ----------
    num_train_timesteps
        Number of steps that the network was trained with.
    beta_start, beta_end, beta_schedule
        Variances of the forward steps: ``linear``, ``scaled_linear`` (linear in the square root) or
        ``squaredcos_cap_v2`` (the cosine schedule). The defaults are DDPM's.
    trained_betas
        The variances themselves, each between 0 and 1.
    skip_prk_steps
        Begin with an improved Euler step and lower orders instead of three Runge-Kutta steps.
    set_alpha_to_one
        Take the last step onto data without noise; else onto the level of step 0.
    prediction_type
        What the network predicts: ``epsilon`` (the noise) or ``v_prediction``.
    timestep_spacing
        How timesteps are chosen, see `PNDMSampler`.
    steps_offset
        Added to the timesteps of ``leading``.

    Raises
    ------
    ValueError
        For an unknown choice or a number out of range.

    Examples
    --------
    >>> scheduler = PNDMScheduler()
    >>> scheduler.set_timesteps(10)
    >>> scheduler.timesteps.tolist()[:6], len(scheduler.timesteps)
    ([900, 850, 850, 800, 800, 750], 19)
    >>> x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> for t in scheduler.timesteps:
    ...     x = scheduler.step(0.1 * x, t, x).prev_sample
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | np.ndarray | Tensor | None = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: Prediction = "epsilon",
        timestep_spacing: Spacing = "leading",
        steps_offset: int = 0,
    ) -> None:
        # The noisy tail of a cosine schedule stays: its levels are in the plan of whole steps.
        self._configure(locals())
        if self.config.trained_betas is not None and self.config.trained_betas[-1] == 1:
            raise ValueError(
                "trained_betas end at 1, which leaves no signal at the last step; PNDM takes some, for it divides by it"
            )
        check_choice("prediction_type", prediction_type, get_args(Prediction))
        check_choice("timestep_spacing", timestep_spacing, get_args(Spacing))
        check_count("steps_offset", steps_offset, at_least=0)
        self._laid_out: tuple[object, ...] = ()

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps and begin a new trajectory.

        Parameters
        ----------
        num_inference_steps
            How many steps the sampler takes.
        device
            Device of the timesteps, by default the CPU.

        Raises
        ------
        ValueError
            Unless the number of steps is between 1 (with Runge-Kutta steps 4) and `num_train_timesteps`.
        """
        check_count("num_inference_steps", num_inference_steps, at_most=len(self))
        recipe = RECIPES["PLMS" if self.config.skip_prk_steps else "F-PNDM"]
        if recipe.starter == "Runge-Kutta" and num_inference_steps < 4:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}; F-PNDM takes at least 4 (or set skip_prk_steps)"
            )
        chosen = training_steps(len(self), num_inference_steps, self.config.timestep_spacing)
        if self.config.timestep_spacing == "leading":
            chosen = tuple(n + self.config.steps_offset for n in chosen)
            if chosen[0] >= len(self):
                raise ValueError(
                    f"steps_offset is {self.config.steps_offset}; with {num_inference_steps} steps it leads beyond "
                    f"the last of {len(self)} training steps"
                )
        laid_out = (recipe, chosen, self.config.set_alpha_to_one)
        if laid_out != self._laid_out:
            self._laid_out, self._recipe = laid_out, recipe
            end = Node(-1, 0.0, -math.inf, -1) if self.config.set_alpha_to_one else self._node(0)
            self._nodes = [*(self._node(n) for n in chosen), end]
            self._plan = self._plan_from(0)
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor([int(stage.node.t) for stage in self._plan], device=device)
        self.begin_index = self.step_index = None
        self._stages: tuple[Stage, ...] = ()
        self._predictions = Predictions()
        self._end = len(self._plan)

    def step(
        self,
        model_output: Float[Tensor, " batch *shape"],
        timestep: int | Int[Tensor, ""],
        sample: Float[Tensor, " batch *shape"],
        return_dict: bool = True,
        generator: Generator = None,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Return the sample at which the network is to be evaluated next, at last the result.

        Parameters
        ----------
        model_output
            What the network answered for `sample` at `timestep`.
        timestep
            The entry of `timesteps` whose turn it is.
        sample
            What the call before returned.
        return_dict
            Return an object with `prev_sample`; else a tuple.
        generator
            Not used: some pipelines pass one to every scheduler.

        Returns
        -------
        SchedulerOutput | tuple[Tensor]
            The next state, in a `SchedulerOutput` or a tuple of one.

        Raises
        ------
        TypeError
            Where `sample` is no tensor of floating point.
        RuntimeError
            Before `set_timesteps`, or after the last timestep.
        ValueError
            Where another timestep is next, the shapes differ, or the sample isn't finite after the last.
        """
        output, x = self._take(model_output, sample)
        index = self._begin(self._start(timestep)) if self.step_index is None else self.step_index
        t = int(timestep)
        if index == self._end:
            raise RuntimeError("step was called after the last timestep; set_timesteps begins a new trajectory")
        stage = self._stages[index - self._first]
        if t != stage.node.t:
            raise ValueError(
                f"timestep is {t}; the next one is {int(stage.node.t)} "
                "(set_timesteps begins a new trajectory, set_begin_index one that doesn't begin at the first timestep)"
            )
        if (kind := PREDICTION_TYPES[self.config.prediction_type]) != "noise":
            alpha, sigma = math.exp(stage.node.log_alpha), math.exp(stage.node.log_sigma)
            output = to_noise(output, x, alpha, sigma, kind)
        self._predictions.add(stage, output)
        if stage.starts:
            self._base = x
        previous = self._predictions.combine(stage, self._base)
        self.step_index = index + 1
        return self._output(previous, sample, self.step_index == self._end, return_dict)

    def _forget(self) -> None:
        del self._base
        self._predictions = Predictions()

    def _node(self, n: int) -> Node:
        t = (n + 1) / self.schedule.total
        return Node(n, self.schedule.log_alpha(t), self.schedule.log_sigma(t), n)

    def _plan_from(self, step: int) -> tuple[Stage, ...]:
        nodes = self._nodes[step:]

        def middle(i: int) -> Node:
            low, high = int(nodes[i + 1].t), int(nodes[i].t)
            return self._node(low + (high - low) // 2)

        return make_plan(self._recipe._replace(starts=max(0, self._recipe.starts - step)), nodes, middle)

    def _begin(self, index: int) -> int:
        """Lay out the rest of the trajectory from an entry of `timesteps`."""
        self._first = index
        if index == 0:
            self._stages = self._plan
            return 0
        step = sum(stage.advances for stage in self._plan[:index])
        moves: list[Stage] = []
        if not self._plan[index].starts:  # inside a step, whose beginning was not seen
            while not moves or not self._plan[index - 1].advances:
                node = self._plan[index].node
                to = self._plan[index + 1].node if index + 1 < len(self._plan) else self._nodes[-1]
                moves.append(Stage(node, node, to, transfer_coefficients(node, to), 1, 0, starts=True, advances=True))
                index += 1
            step += 1
        self._stages = (*moves, *self._plan_from(step))
        return self._first
