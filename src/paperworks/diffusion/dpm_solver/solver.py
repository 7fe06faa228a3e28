"""DPM-Solver and DPM-Solver++ as one sampler."""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.dpm_solver import adaptive, plans
from paperworks.diffusion.dpm_solver.correction import dynamic_thresholding
from paperworks.diffusion.dpm_solver.exponential import AlgorithmType, Form, SolverType
from paperworks.diffusion.dpm_solver.plans import Stage
from paperworks.diffusion.sampling import (
    Buffers,
    Callback,
    ModelFn,
    SampleResult,
    Sampling,
    check_sample,
    check_state,
    combine,
    evaluate,
    noise_like,
    per_sample,
)
from paperworks.diffusion.schedules import SKIP_TYPES, NoiseSchedule, SkipType

DPMSolverMethod = Literal["multistep", "singlestep", "singlestep_fixed", "adaptive"]
"""How `DPMSolver.sample` makes its steps; its reference says what each costs."""
CorrectX0 = Callable[[Tensor, float | Tensor], Tensor]
CorrectXt = Callable[[Tensor, float | Tensor, int], Tensor]


class DPMSolver:
    """Sample a diffusion model in 10 to 20 evaluations by an exponential integrator of its ODE.

    The linear part of the diffusion ODE is solved exactly; the network, smooth in half the log signal-to-noise
    ratio, is replaced by a polynomial. Order 1 is DDIM. Nothing is trained.

    Parameters
    ----------
    model_fn
        Returns the noise in `x` at time `t` (a float), as the result of `wrap_model` does. Its outputs are kept
        for up to two more evaluations and not copied; it must not reuse their memory.
    schedule
        Noise schedule of the model.
    algorithm_type
        ``dpmsolver++`` integrates the predicted data (steadier under guidance), ``dpmsolver`` the predicted noise;
        ``sde-dpmsolver++`` and ``sde-dpmsolver`` solve the reverse SDE instead of the ODE, by ``multistep`` only.
    correcting_x0_fn
        For ``++``: ``"dynamic_thresholding"``, or a function of the predicted data and `t`.
    correcting_xt_fn
        A function of the state, its time and the number of the step, applied after each step.

    Raises
    ------
    ValueError
        Where a choice is unknown, or `correcting_x0_fn` is given to a solver that never forms the data.

    Notes
    -----
    arXiv 2206.00927 and 2211.01095. The third-order multistep solver takes the second derivative in full;
    ``legacy_3m=True`` halves it, as widespread implementations do, which leaves a second-order solver.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> schedule = NoiseScheduleVP.linear()
    >>> solver = DPMSolver(lambda x, t: schedule.sigma(t) * x, schedule)  # the model of N(0, I) data
    >>> result = solver.sample(torch.ones(2, 3), steps=10)
    >>> result.nfe, result.sample.shape
    (10, torch.Size([2, 3]))
    """

    def __init__(
        self,
        model_fn: ModelFn,
        schedule: NoiseSchedule,
        algorithm_type: AlgorithmType = "dpmsolver++",
        correcting_x0_fn: Literal["dynamic_thresholding"] | CorrectX0 | None = None,
        correcting_xt_fn: CorrectXt | None = None,
    ) -> None:
        self.model_fn = model_fn
        self.schedule = schedule
        self.algorithm_type = check_choice("algorithm_type", algorithm_type, get_args(AlgorithmType))
        self.form = Form.of(algorithm_type)
        if correcting_x0_fn is not None and not self.form.data:
            raise ValueError(
                f"correcting_x0_fn is given with algorithm_type {algorithm_type!r}; "
                "it takes 'dpmsolver++' or 'sde-dpmsolver++', which work on the predicted data"
            )
        if isinstance(correcting_x0_fn, str):
            check_choice("correcting_x0_fn", correcting_x0_fn, ("dynamic_thresholding",))
            self.correcting_x0_fn: CorrectX0 | None = lambda x0, t: dynamic_thresholding(x0)
        else:
            self.correcting_x0_fn = correcting_x0_fn
        self.correcting_xt_fn = correcting_xt_fn

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 20,
        order: int = 2,
        skip_type: SkipType = "time_uniform",
        method: DPMSolverMethod = "multistep",
        t_start: float | None = None,
        t_end: float | None = None,
        *,
        solver_type: SolverType = "dpmsolver",
        lower_order_final: bool = True,
        denoise_to_zero: bool = False,
        legacy_3m: bool = False,
        legacy_adaptive: bool = False,
        atol: float = 0.0078,
        rtol: float = 0.05,
        per_sample: bool = False,
        max_steps: int = 10_000,
        return_trajectory: bool = False,
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Solve from `t_start` down to `t_end`.

        Parameters
        ----------
        x
            State at `t_start`; not changed.
        steps
            Number of evaluations, exactly (for ``singlestep_fixed`` rounded down to a multiple of `order`; not used
            by ``adaptive``).
        order
            1, 2 or 3.
        skip_type
            How the steps are placed; see `time_grid`. ``logSNR`` suits small images, ``time_uniform`` large ones and
            latents. Not used by ``adaptive``.
        method
            ``multistep`` re-uses past evaluations (order 2 is "2M"); ``singlestep`` takes steps of `order` and lower
            ones to spend `steps` exactly ("DPM-Solver-fast" at order 3); ``singlestep_fixed`` takes only steps of
            `order`; ``adaptive`` chooses its steps by the error (order 2 or 3: "DPM-Solver-12" and "-23").
        t_start, t_end
            First and last time; by default the schedule's `t_max` and its `t_end` for that many steps. Less than
            `t_max` starts from a noised image.
        solver_type
            How derivatives are taken: as DPM-Solver's own algorithms, or by Taylor expansion.
        lower_order_final
            Lower the order of the last steps of a multistep solver with fewer than 10 steps, which steadies them.
        denoise_to_zero
            Return the predicted data at `t_end`, for one evaluation more.
        legacy_3m
            Halve the second derivative of the third-order multistep solver.
        legacy_adaptive
            For ``adaptive``: take the steps of the official program, which grow without a limit and, where one is
            rejected, evaluate the model at its start again. Ours grow tenfold at most.
        atol, rtol
            Tolerances of ``adaptive``; the default `atol` is one 8-bit grey level of data in [-1, 1].
        per_sample
            For ``adaptive``: let each sample choose its own steps, so that its result doesn't depend on the batch.
            `model_fn` then gets a tensor of times, one per sample.
        max_steps
            For ``adaptive``: attempts after which it gives up.
        return_trajectory
            Keep the state of each step in the result.
        generator
            Source of the noise, for the SDE.
        callback
            Called after each step.

        Returns
        -------
        SampleResult
            States at `t_end` in ``sample``, with the count of evaluations.

        Raises
        ------
        TypeError
            Where `x` is no floating-point tensor or a count is no whole number.
        ValueError
            Where an argument is out of range, they don't go together, or the model returned NaN or infinity.
        RuntimeError
            Where ``adaptive`` needs more than `max_steps`.
        """
        t_start = self.schedule.t_max if t_start is None else t_start
        if t_end is None:
            t_end = self.schedule.t_end(None if method == "adaptive" else check_count("steps", steps))
        self._check(x, steps, order, skip_type, method, t_start, t_end, solver_type, generator)
        t_start, t_end = float(t_start), float(t_end)
        if method == "adaptive":
            result = adaptive.solve(
                Sampling(self.model_fn, x, t_start, None, return_trajectory, callback),
                self._predict,
                self.schedule,
                self.form,
                order,
                t_end,
                solver_type,
                adaptive.Control(atol, rtol, max_steps, legacy_adaptive),
                per_sample,
                self.correcting_xt_fn,
            )
        else:
            plan = plans.make_plan(
                self.schedule,
                self.form,
                method,
                steps,
                order,
                skip_type,
                t_start,
                t_end,
                solver_type,
                lower_order_final,
                legacy_3m,
            )
            result = self._follow(plan, x, return_trajectory, generator, callback)
        if denoise_to_zero:
            result = self._denoise(result, t_end)
            check_sample(result.sample)
        return result

    def inverse(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 20,
        order: int = 2,
        skip_type: SkipType = "time_uniform",
        method: DPMSolverMethod = "multistep",
        t_start: float | None = None,
        t_end: float | None = None,
        **options: Any,
    ) -> SampleResult:
        """Solve the same ODE from data to noise: from `t_start`, by default near 0, up to `t_end`, by default `t_max`.

        The arguments are those of `sample`. An inversion followed by a sampling gives `x` back only up to the errors
        of both.

        Parameters
        ----------
        x
            Data or samples at `t_start`, of shape (batch, ...).
        steps
            Number of steps, at least one.
        order
            Order of the solver, 1 to 3.
        skip_type
            How the times between are spaced, as in `time_grid`.
        method
            Kind of the solver, as in `sample`.
        t_start, t_end
            First and last time, by default those of the schedule.

        Returns
        -------
        SampleResult
            States at `t_end` in ``sample``, with the count of evaluations.

        Raises
        ------
        ValueError
            As `sample`, and for an SDE, which has no inverse.
        """
        if self.form.sde:
            raise ValueError(f"algorithm_type is {self.algorithm_type!r}; inverse takes an ODE solver")
        if t_start is None:
            t_start = self.schedule.t_end(None if method == "adaptive" else check_count("steps", steps))
        t_end = self.schedule.t_max if t_end is None else t_end
        return self.sample(x, steps, order, skip_type, method, t_start, t_end, **options)

    def add_noise(
        self,
        x0: Float[Tensor, " batch *shape"],
        t: float | Float[Tensor, " batch"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, " batch *shape"] | None = None,
    ) -> Float[Tensor, " batch *shape"]:
        """Return ``alpha(t) x_0 + sigma(t) z``, from where `sample` can start at ``t_start=t``.

        Parameters
        ----------
        x0
            Clean samples, of shape (batch, ...).
        t
            One time, or one per sample.
        generator, noise
            Where the noise comes from, or the noise itself.

        Returns
        -------
        Tensor of shape (batch, ...)
            Noisy samples at time `t`, of shape (batch, ...).

        Raises
        ------
        ValueError
            Where neither of the two is given, or a time is not positive.
        """
        check_state("x0", x0)
        z = noise_like(x0, generator) if noise is None else noise
        if isinstance(t, Tensor):
            time = t.double()
            if not bool((time > 0).all()):
                raise ValueError(f"t has a smallest element {time.min().item():g}; it takes times > 0")
            alpha, sigma = per_sample(self.schedule.alpha(time), x0), per_sample(self.schedule.sigma(time), x0)
            return combine((alpha, sigma), (x0, z))
        t = check_number("t", t, gt=0)
        return combine((self.schedule.alpha(t), self.schedule.sigma(t)), (x0, z))

    def _check(
        self,
        x: Tensor,
        steps: int,
        order: int,
        skip_type: str,
        method: str,
        t_start: float,
        t_end: float,
        solver_type: str,
        generator: torch.Generator | None,
    ) -> None:
        check_state("x", x)
        check_choice("method", method, get_args(DPMSolverMethod))
        check_choice("order", order, (2, 3) if method == "adaptive" else (1, 2, 3))
        check_choice("skip_type", skip_type, SKIP_TYPES)
        check_choice("solver_type", solver_type, get_args(SolverType))
        least = order if method in ("multistep", "singlestep_fixed") else 1
        check_count("steps", steps, at_least=1)
        if steps < least:
            raise ValueError(f"steps is {steps}; {method} of order {order} takes at least {least}")
        for name, t in (("t_start", t_start), ("t_end", t_end)):
            check_number(name, t, gt=0, le=self.schedule.t_max)
        if t_start == t_end:
            raise ValueError(f"t_start and t_end are both {t_start!r}; they take two different times")
        if self.form.sde:
            if method != "multistep":
                raise ValueError(f"method is {method!r}; algorithm_type {self.algorithm_type!r} takes 'multistep'")
            if t_end > t_start:
                raise ValueError(f"t_end {t_end!r} is above t_start {t_start!r}; an SDE solver takes a smaller t_end")
            if generator is None:
                raise ValueError(f"generator is None; algorithm_type {self.algorithm_type!r} takes a torch.Generator")

    def _predict(
        self, sampling: Sampling, x: Tensor, t: float | Tensor, alpha: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """Return what the form integrates: the predicted noise, or the predicted and corrected data."""
        noise = sampling.ask(x, t)
        if not self.form.data:
            return noise
        x0 = combine((1 / alpha, -sigma / alpha), (x, noise))
        return x0 if self.correcting_x0_fn is None else self.correcting_x0_fn(x0, t)

    def _follow(
        self,
        plan: tuple[Stage, ...],
        x: Tensor,
        return_trajectory: bool,
        generator: torch.Generator | None,
        callback: Callback | None,
    ) -> SampleResult:
        depth = max(len(stage.coefficients) for stage in plan) - 1
        # Uncorrected data are kept as x - sigma noise = alpha x0, one pass instead of two; see `plans.scaled`.
        scaled = self.form.data and self.correcting_x0_fn is None
        if scaled:
            plan = plans.scaled(plan)
        spare = Buffers(x, depth) if scaled else None
        base = state = x
        main = torch.empty_like(x)
        inner = main if all(stage.advances for stage in plan) else torch.empty_like(x)
        values: deque[Tensor] = deque(maxlen=depth)
        total = sum(stage.advances for stage in plan)
        sampling = Sampling(self.model_fn, x, plan[0].t, total, return_trajectory, callback)
        for stage in plan:
            if spare is not None:
                values.appendleft(torch.sub(state, sampling.ask(state, stage.t), alpha=stage.sigma, out=next(spare)))
            else:
                values.appendleft(self._predict(sampling, state, stage.t, stage.alpha, stage.sigma))
            state = combine(stage.coefficients, (base, *values), out=main if stage.advances else inner)
            if not stage.advances:
                continue
            if stage.noise:
                state.add_(noise_like(state, generator), alpha=stage.noise)
            if self.correcting_xt_fn is not None:
                corrected = self.correcting_xt_fn(state, stage.t_next, len(sampling.times))
                if corrected is not state:
                    state.copy_(corrected)
            base = state
            sampling.reached(state, stage.t_next)
        return sampling.result()

    def _denoise(self, result: SampleResult, t: float) -> SampleResult:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x0 = combine((1 / alpha, -sigma / alpha), (result.sample, evaluate(self.model_fn, result.sample, t)))
        if self.correcting_x0_fn is not None:
            x0 = self.correcting_x0_fn(x0, t)
        kept: dict[str, Any] = {}
        if result.trajectory:
            kept = {"times": [*result.times, 0.0], "trajectory": [*result.trajectory, x0]}
        return dataclasses.replace(result, sample=x0, nfe=result.nfe + 1, **kept)
