"""Pseudo numerical methods: multistep and Runge-Kutta solvers whose every move stays among noisy data.

A classical solver adds a multiple of a slope to the state and, where steps are long, leaves the region that the
network was trained on. A pseudo numerical method (arXiv 2202.09778) is a solver in two parts: a *gradient part*, that
combines several predictions of the noise, and a *transfer part*, that moves the state to another noise level as if the
combination were its true noise. The transfer part is DDIM's step, exact where the prediction is.

A sampler here is a plan, made before the first evaluation: a list of stages, each one evaluation of the model and one
linear combination of the state with at most four predictions.
"""

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.sampling import (
    Callback,
    ModelFn,
    SampleResult,
    Sampling,
    check_sample,
    check_state,
    combine,
)
from paperworks.diffusion.schedules import SKIP_TYPES, DiscreteVP, NoiseSchedule, SkipType, time_grid
from paperworks.numerics.plans import multistep_weights

PNDMMethod = Literal["DDIM", "improved-Euler", "S-PNDM", "F-PNDM", "PLMS", "PRK", "FON", "FON-legacy", "PF"]
"""The methods of `PNDMSampler`, which says what each does."""
Spacing = Literal["leading", "trailing", "linspace"]
Variable = Literal["t", "rho"]

_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class Recipe(NamedTuple):
    """The gradient part: how many first steps use a one-step method, which one, and the order of the multistep rest."""

    starts: float
    starter: Literal["none", "improved-Euler", "Runge-Kutta"]
    order: int


RECIPES: dict[str, Recipe] = {
    "DDIM": Recipe(0, "none", 1),
    "improved-Euler": Recipe(math.inf, "improved-Euler", 1),
    "S-PNDM": Recipe(1, "improved-Euler", 2),
    "F-PNDM": Recipe(3, "Runge-Kutta", 4),
    "PLMS": Recipe(1, "improved-Euler", 4),
    "PRK": Recipe(math.inf, "Runge-Kutta", 1),
    "FON": Recipe(3, "Runge-Kutta", 4),
    "FON-legacy": Recipe(3, "Runge-Kutta", 4),
}


class Node(NamedTuple):
    """A point of the grid: its time for the model, the noise level there, and its place in the variable of the ODE."""

    t: float
    log_alpha: float
    log_sigma: float
    place: float

    @property
    def noiseless(self) -> bool:
        """Whether only data are left, where a network has nothing to predict."""
        return self.log_sigma == -math.inf


class Stage(NamedTuple):
    """One evaluation of the model at `node`, and the state that follows it.

    The next state is ``coefficients[0]`` times the state at `base`, the start of the step, plus ``coefficients[1:]``
    times predictions: first those of the steps' starts from the newest back, `n_history` of them, then the last
    `n_inner` of the later stages of this step. It lies at `target`.
    """

    node: Node
    base: Node
    target: Node
    coefficients: tuple[float, ...]
    n_history: int
    n_inner: int
    starts: bool  # the first evaluation of a step, which the history keeps
    advances: bool  # the next state ends the step


def transfer_coefficients(source: Node, target: Node) -> tuple[float, float]:
    """Return a and b of the transfer part ``phi(x, e) = a x + b e`` (arXiv 2202.09778, equation 11)."""
    a = math.exp(target.log_alpha - source.log_alpha)
    if target.noiseless:
        return a, -a * math.exp(source.log_sigma)
    fall = (source.log_alpha - source.log_sigma) - (target.log_alpha - target.log_sigma)
    return a, a * math.exp(source.log_sigma) * math.expm1(fall)  # expm1: sigma_u - a sigma_t cancels for short steps


def make_plan(
    recipe: Recipe,
    nodes: Sequence[Node],
    middle: Callable[[int], Node],
    coefficients_of: Callable[[Node, Node], tuple[float, float]] = transfer_coefficients,
    variable_step: bool = False,
) -> tuple[Stage, ...]:
    """Lay out a sampler on a grid.

    Parameters
    ----------
    recipe
        The gradient part.
    nodes
        Points of the grid; one step leads from each to the next.
    middle
        Returns the point in the middle of the step of that index.
    coefficients_of
        Returns a and b of the transfer part ``a x + b e`` between two points.
    variable_step
        Whether multistep weights follow the places of the points; else they are those of a uniform grid.
    """
    plan: list[Stage] = []
    for i, (base, target) in enumerate(itertools.pairwise(nodes)):
        # Rows of: where to evaluate, where to go next, weights of the steps' first predictions, of this step's last.
        rows: list[tuple[Node, Node, Sequence[float], Sequence[float]]]
        if i >= recipe.starts or recipe.starter == "none" or target.noiseless:  # no model is asked at the noiseless end
            order = min(recipe.order, i + 1)
            places = [node.place for node in nodes[i::-1][:order]]
            weights = multistep_weights(places, target.place) if variable_step else _ADAMS_BASHFORTH[order]
            rows = [(base, target, weights, ())]
        elif recipe.starter == "improved-Euler":
            rows = [(base, target, (1.0,), ()), (target, target, (1 / 2,), (1 / 2,))]
        else:
            half = middle(i)
            rows = [
                (base, half, (1.0,), ()),
                (half, half, (), (1.0,)),
                (half, target, (), (1.0,)),
                (target, target, (1 / 6,), (2 / 6, 2 / 6, 1 / 6)),
            ]
        for j, (node, to, history, inner) in enumerate(rows):
            a, b = coefficients_of(base, to)
            coefficients = (a, *(b * w for w in (*history, *inner)))
            plan.append(Stage(node, base, to, coefficients, len(history), len(inner), j == 0, j == len(rows) - 1))
    return tuple(plan)


class Predictions:
    """The predictions that the stages of a plan combine: of the last four steps, and inside the present step."""

    def __init__(self) -> None:
        self.history: deque[Tensor] = deque(maxlen=4)
        self.inner: list[Tensor] = []

    def add(self, stage: Stage, prediction: Tensor) -> None:
        """Keep what the model answered at a stage."""
        if stage.starts:
            self.history.appendleft(prediction)
            self.inner.clear()
        else:
            self.inner.append(prediction)

    def combine(self, stage: Stage, base: Tensor, clip: bool = False, out: Tensor | None = None) -> Tensor:
        """Return the state that follows a stage, with the noiseless sample behind it clamped to [-1, 1] if `clip`."""
        predictions = [*self.history] if stage.n_history == 4 else [*self.history][: stage.n_history]
        if stage.n_inner:
            predictions += self.inner[-stage.n_inner :]
        if not clip:
            return combine(stage.coefficients, (base, *predictions), out)
        total = math.fsum(stage.coefficients[1:])
        if total == 0:  # a step of no length
            return base.clone() if out is None else out.copy_(base)
        alpha, sigma = math.exp(stage.base.log_alpha), math.exp(stage.base.log_sigma)
        weights = (-sigma / alpha * c / total for c in stage.coefficients[1:])
        x0 = combine((1 / alpha, *weights), (base, *predictions)).clamp_(-1, 1)
        to_alpha, to_sigma = math.exp(stage.target.log_alpha), math.exp(stage.target.log_sigma)
        return combine((to_sigma / sigma, to_alpha - to_sigma * alpha / sigma), (base, x0), out)


class PNDMSampler:
    """Samples from a diffusion model with a pseudo numerical method, or with one of the baselines it is compared to.

    Parameters
    ----------
    model_fn
        ``model_fn(x, t) -> noise``; `wrap_model` makes one of any network.
    schedule
        Noise schedule of the network.
    method
        ``F-PNDM``: fourth-order multistep after three Runge-Kutta steps, steps + 9 evaluations.
        ``S-PNDM``: second-order multistep after one improved Euler step, steps + 1 evaluations.
        ``PLMS``: fourth order reached by orders 2 and 3, steps + 1 evaluations.
        ``DDIM``: first order. ``improved-Euler`` and ``PRK`` (Runge-Kutta): one-step methods of 2 and 4 evaluations.
        ``FON``: the classical counterpart of F-PNDM on the slope of the ODE; ``FON-legacy`` replaces the slope by a
        DDIM difference over one training step, taken at the start of the step also inside Runge-Kutta.
        ``PF``: the ODE given to SciPy's adaptive RK45.
    time
        Variable in which multistep and Runge-Kutta methods interpolate the noise: ``t``, or ``rho`` (sigma/alpha), in
        which the transfer part is linear, so that F-PNDM has order 4 instead of 2.
    variable_step
        Make the multistep weights follow the grid, which ``rho`` always does; by default they are those of a grid
        uniform in `time`, as in the paper.
    timestep_spacing
        For a discrete schedule of N steps and no other grid asked for: ``leading`` takes steps 0, s, 2s, … with
        s = N // steps, whose highest is (steps - 1) s and not N - 1: the first state must be noise of that level.
        ``trailing`` takes N - 1 downwards, ``linspace`` both ends.
    set_alpha_to_one
        On such a grid, take the last step onto data without noise; else onto the level of step 0.
    clip_sample
        Clamp the noiseless sample behind each state to [-1, 1].
    legacy_offset
        Take noise levels one training step too late, with fractions cut off, as the paper's original program does;
        for comparisons.

    Raises
    ------
    ValueError
        For an unknown choice, or options that don't go together.

    Examples
    --------
    >>> from paperworks.diffusion import NoiseScheduleVP
    >>> schedule = NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000))
    >>> sampler = PNDMSampler(lambda x, t: schedule.sigma(t) * x, schedule)  # data that are standard normal
    >>> result = sampler.sample(torch.ones(1, 2, dtype=torch.float64), steps=10)
    >>> result.nfe
    19
    """

    def __init__(
        self,
        model_fn: ModelFn,
        schedule: NoiseSchedule,
        method: PNDMMethod = "F-PNDM",
        *,
        time: Variable = "t",
        variable_step: bool = False,
        timestep_spacing: Spacing = "leading",
        set_alpha_to_one: bool = True,
        clip_sample: bool = False,
        legacy_offset: bool = False,
    ) -> None:
        check_choice("method", method, get_args(PNDMMethod))
        check_choice("time", time, get_args(Variable))
        check_choice("timestep_spacing", timestep_spacing, get_args(Spacing))
        pseudo = not method.startswith("FON") and method != "PF"
        if not pseudo and (time == "rho" or clip_sample):
            raise ValueError(f"method is {method!r}; time='rho' and clip_sample take a pseudo numerical method")
        if (legacy_offset or method == "FON-legacy") and not isinstance(schedule, DiscreteVP):
            raise ValueError("legacy_offset and FON-legacy take a discrete schedule; this one is continuous")
        if legacy_offset and not pseudo:
            raise ValueError(f"method is {method!r}; legacy_offset takes a pseudo numerical method")
        self.model_fn = model_fn
        self.schedule = schedule
        self.method = method
        self.time = time
        self.variable_step = variable_step or time == "rho"
        self.timestep_spacing: Spacing = timestep_spacing
        self.set_alpha_to_one = set_alpha_to_one
        self.clip_sample = clip_sample
        self.legacy_offset = legacy_offset

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, " batch *shape"],
        steps: int = 50,
        *,
        t_start: float | None = None,
        t_end: float | None = None,
        skip_type: SkipType | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        return_trajectory: bool = False,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Solve the diffusion ODE from `x`.

        Parameters
        ----------
        x
            State at the first time of the grid: for a model of images, standard normal noise.
        steps
            Number of steps; PF chooses its own.
        t_start, t_end
            First and last time; by default from the schedule's `t_max` to its `t_end(steps)`. A `t_end` above
            `t_start` turns data into noise.
        skip_type
            Grid between the two, see `time_grid`; by default ``time_uniform``. Where none of the three is given a
            discrete schedule is walked on its own steps, see `timestep_spacing`.
        rtol, atol
            Tolerances of PF; the defaults are the paper's.
        return_trajectory
            Keep the state of each step in the result.
        callback
            Called after each step.

        Returns
        -------
        SampleResult
            States at `t_end` in ``sample``, with the count of evaluations.

        Raises
        ------
        TypeError
            Where `x` is no floating-point tensor or `steps` no whole number.
        ValueError
            Where an argument is out of range (F-PNDM, PRK and FON take at least 4 steps, a discrete schedule at most
            its number of steps), or the model returned another shape, NaN or infinity.
        RuntimeError
            Where PF's solver gives up.
        """
        check_state("x", x)
        check_count("steps", steps)
        least = 4 if self.method in ("F-PNDM", "PRK", "FON", "FON-legacy") else 1
        if steps < least:
            raise ValueError(f"steps is {steps}; {self.method} takes at least {least}")
        nodes = self._grid(steps, t_start, t_end, skip_type)
        if self.method == "PF":
            result = self._solve_by_scipy(x, nodes[0].t, nodes[-1].t, rtol, atol, return_trajectory, callback)
        else:
            result = self._follow(self._plan(nodes), x, return_trajectory, callback)
        return result

    def _grid(self, steps: int, t_start: float | None, t_end: float | None, skip_type: SkipType | None) -> list[Node]:
        schedule = self.schedule
        given = (t_start, t_end, skip_type) != (None, None, None)
        if isinstance(schedule, DiscreteVP) and not given and self.method != "PF":
            indices = training_steps(schedule.total, steps, self.timestep_spacing)
            nodes = [self._node((n + 1) / schedule.total) for n in indices]
            return [*nodes, self._node(0.0 if self.set_alpha_to_one else schedule.t_min)]
        start = schedule.t_max if t_start is None else check_number("t_start", t_start, gt=0, le=schedule.t_max)
        end = schedule.t_end(steps) if t_end is None else check_number("t_end", t_end, gt=0, le=schedule.t_max)
        skip = "time_uniform" if skip_type is None else check_choice("skip_type", skip_type, SKIP_TYPES)
        return [self._node(t) for t in time_grid(schedule, steps, start, end, skip)]

    def _node(self, t: float) -> Node:
        level = t
        if self.legacy_offset:
            assert isinstance(self.schedule, DiscreteVP)
            # Rounded first: N t - 1 of a whole step may come out a little below it.
            level = (math.trunc(round(self.schedule.input_time(t), 6)) + 2) / self.schedule.total
        if level <= 0:
            return Node(t, 0.0, -math.inf, 0.0)
        log_alpha, log_sigma = self.schedule.log_alpha(level), self.schedule.log_sigma(level)
        return Node(t, log_alpha, log_sigma, t if self.time == "t" else math.exp(log_sigma - log_alpha))

    def _plan(self, nodes: list[Node]) -> tuple[Stage, ...]:
        def middle(i: int) -> Node:
            place = 0.5 * (nodes[i].place + nodes[i + 1].place)
            return self._node(place if self.time == "t" else self.schedule.t_of_lam(-math.log(place)))

        def euler(source: Node, target: Node) -> tuple[float, float]:
            return 1.0, target.t - source.t

        classical = self.method.startswith("FON")
        return make_plan(
            RECIPES[self.method], nodes, middle, euler if classical else transfer_coefficients, self.variable_step
        )

    def _follow(
        self, plan: tuple[Stage, ...], x: Tensor, return_trajectory: bool, callback: Callback | None
    ) -> SampleResult:
        gradient = {"FON": self._slope, "FON-legacy": self._legacy_slope}.get(self.method)
        predictions = Predictions()
        base = state = x
        main = torch.empty_like(x)
        inner = main if all(stage.advances for stage in plan) else torch.empty_like(x)
        total = sum(stage.advances for stage in plan)
        sampling = Sampling(self.model_fn, x, plan[0].node.t, total, return_trajectory, callback)
        for stage in plan:
            noise = sampling.ask(state, stage.node.t)
            predictions.add(stage, noise if gradient is None else gradient(stage, state, base, noise))
            state = predictions.combine(stage, base, self.clip_sample, main if stage.advances else inner)
            if stage.advances:
                base = state
                sampling.reached(state, stage.target.t)
        return sampling.result()

    def _slope(self, stage: Stage, state: Tensor, base: Tensor, noise: Tensor) -> Tensor:
        return combine(self._slope_coefficients(stage.node.t), (state, noise))

    def _slope_coefficients(self, t: float) -> tuple[float, float]:
        schedule = self.schedule
        return schedule.drift(t), 0.5 * schedule.squared_diffusion(t) / schedule.sigma(t)

    def _legacy_slope(self, stage: Stage, state: Tensor, base: Tensor, noise: Tensor) -> Tensor:
        assert isinstance(self.schedule, DiscreteVP)
        step = 1 / self.schedule.total
        # On whole steps the difference of two times is exact only up to rounding: below half a step is no step left.
        below = stage.base.t - step
        a, b = transfer_coefficients(stage.base, self._node(below if below > 0.5 * step else 0.0))
        return combine(((1 - a) / step, -b / step), (base, noise))

    def _solve_by_scipy(
        self,
        x: Tensor,
        t_start: float,
        t_end: float,
        rtol: float,
        atol: float,
        return_trajectory: bool,
        callback: Callback | None,
    ) -> SampleResult:
        from scipy.integrate import RK45

        check_number("rtol", rtol, gt=0)
        check_number("atol", atol, gt=0)
        t_end = max(t_end, self.schedule.t_min) if t_end < t_start else t_end

        sampling = Sampling(self.model_fn, x, t_start, None, return_trajectory, callback)

        def as_state(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=x.dtype, device=x.device).reshape(x.shape)

        def slope(t: float, values: np.ndarray) -> np.ndarray:
            state = as_state(values)
            noise = check_sample(
                sampling.ask(state, float(t)), where=f"at t={t:g}, "
            )  # NaN would shrink steps for ever
            return combine(self._slope_coefficients(float(t)), (state, noise)).double().flatten().cpu().numpy()

        start = x.double().flatten().cpu().numpy()
        solver = RK45(slope, t_start, start, t_end, rtol=rtol, atol=atol)
        steps = 0
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed":
                raise RuntimeError(f"PF's solver gave up at t={solver.t:g}: {message}")
            sampling.reached(as_state(solver.y), float(solver.t))
            steps += 1
        return sampling.result(n_accept=steps)


@functools.lru_cache(maxsize=64)
def training_steps(total: int, steps: int, spacing: Spacing) -> tuple[int, ...]:
    """Choose `steps` of the training steps 0 … total - 1, the highest first.

    Raises
    ------
    ValueError
        Unless ``1 <= steps <= total``.

    Examples
    --------
    >>> training_steps(1000, 4, "leading"), training_steps(1000, 4, "trailing"), training_steps(1000, 4, "linspace")
    ((750, 500, 250, 0), (999, 749, 499, 249), (999, 666, 333, 0))
    """
    check_count("steps", steps, at_most=total)
    if spacing == "leading":
        return tuple(n * (total // steps) for n in reversed(range(steps)))
    if spacing == "trailing":
        return tuple(round(total - n * total / steps) - 1 for n in range(steps))
    return tuple(int(n) for n in np.linspace(0, total - 1, steps).round()[::-1])
