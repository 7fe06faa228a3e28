"""AdjointDPM: samples of a diffusion model that can be differentiated in constant memory (arXiv 2307.10711).

Sampling solves the probability-flow ODE. With ``rho = sigma/alpha`` and ``y = x/alpha`` it loses its linear part and
reads ``dy/drho = eps(alpha y, t)``. Gradients of a loss of the sample then come from going back along the solution,
evaluation by evaluation, so that no more than one step's activations are ever held.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.adjoint.flow import VARIABLES, AdjointVariable
from paperworks.diffusion.adjoint.function import AdjointMode, Evaluations, Solution
from paperworks.diffusion.adjoint.problem import Problem
from paperworks.diffusion.adjoint.solvers import AdjointSolver
from paperworks.diffusion.sampling import check_state
from paperworks.diffusion.schedules import SKIP_TYPES, NoiseSchedule, SkipType
from paperworks.numerics.integration import Tolerance

Condition = Tensor | Mapping[str, Tensor]


class AdjointOptions(TypedDict, total=False):
    """The keyword arguments of `AdjointSampler`."""

    steps: int
    skip_type: SkipType
    solver: AdjointSolver
    adjoint: AdjointMode
    params: Iterable[Tensor] | None
    t_start: float | None
    t_end: float | None
    y_checkpoints: int
    backward_steps: int | None
    backward_solver: AdjointSolver | None
    rtol: float
    atol: float
    variable: AdjointVariable


class AdjointSampler(nn.Module):
    """A differentiable sampler: noise and condition in, sample out, with gradients in constant memory.

    ``loss(sampler(x_T, cond)).backward()`` fills the gradients of the noise, of the condition and of the model's
    parameters. How they are found is the gradient mode `adjoint`:

    ===============  ==============================  ==============================  ==============================
    mode             gradient of                     memory                          evaluations backwards
    ===============  ==============================  ==============================  ==============================
    ``discrete``     the sampler as it computes      one state a step, and one       those of the sampler
                                                     step's activations
    ``symplectic``   the same                        one state a step, and one       those, and all but one of each
                                                     evaluation's activations        step once more
    ``continuous``   the ODE, by solving another     two states (and checkpoints),   those of `backward_solver`
                     one; the paper's                and one evaluation's
    ``backprop``     the sampler as it computes      all activations of all steps    none
    ===============  ==============================  ==============================  ==============================

    Parameters
    ----------
    model_fn
        The noise in x: ``model_fn(x, t)``, or ``model_fn(x, t, cond)`` where a condition is given, or
        ``model_fn(x, t, **cond)`` where it is a mapping; `t` is one float. It has to answer the same each time, and
        shouldn't be clipped or thresholded. Networks of other kinds become one by `wrap_model`.
    schedule
        Noise schedule of the model.
    steps
        Steps of the sampler, 20 by default; ``dopri5`` chooses its own.
    skip_type
        Grid of times, see `time_grid`; ``logSNR`` by default.
    solver
        ``ab``: Adams-Bashforth of order four, one evaluation a step after three steps of RK4, the paper's default;
        ``euler``, which is DDIM; ``midpoint`` or ``heun``, two; ``rk4``, four; ``dopri5``, adaptive.
    adjoint
        Gradient mode, ``discrete`` by default.
    params
        Tensors whose gradients are wanted. By default the parameters of `model_fn` where it is a module, else all
        leaf tensors that require a gradient and that its first evaluation is seen to use.
    t_start, t_end
        First and last time; `t_max` and ``t_end(steps)`` of the schedule by default.
    y_checkpoints
        For ``continuous``: states kept between start and end, at which the solution on the way back is put right.
    backward_steps, backward_solver
        For ``continuous``: of the way back. `steps` and `solver` by default, but ``heun`` instead of ``ab``, whose
        steps grow on the way back and make it unstable.
    rtol, atol
        Tolerances of ``dopri5`` on the state and on its gradient, the latter in units of its largest element;
        1e-5 each by default, the paper's.
    variable
        ``rho``, or ``t`` to integrate in time without the change of variables, for comparison.

    Raises
    ------
    ValueError
        Where an option is unknown or out of range; on a call, where a tensor of `cond` has another batch than `x_T`,
        the model has active dropout or batch statistics, or it answers with another shape or the sample isn't finite.
    RuntimeError
        Where a gradient isn't finite; on the way back, where an input or a parameter was changed in place in between.
    NotImplementedError
        Where a gradient is differentiated again, in any mode but ``backprop``.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(2))
    ...     def forward(self, x, t, cond):
    ...         return torch.tanh(self.weight * x + cond)
    >>> sampler = AdjointSampler(Model(), NoiseScheduleVP.linear(), steps=10)
    >>> x_T, cond = torch.randn(3, 2), torch.zeros(3, 2, requires_grad=True)
    >>> sampler(x_T, cond).square().sum().backward()
    >>> cond.grad.shape, sampler.model_fn.weight.grad.shape
    (torch.Size([3, 2]), torch.Size([2]))
    >>> sampler.last_nfe
    (19, 19)
    """

    def __init__(
        self,
        model_fn: Callable[..., Any],
        schedule: NoiseSchedule,
        *,
        steps: int = 20,
        skip_type: SkipType = "logSNR",
        solver: AdjointSolver = "ab",
        adjoint: AdjointMode = "discrete",
        params: Iterable[Tensor] | None = None,
        t_start: float | None = None,
        t_end: float | None = None,
        y_checkpoints: int = 0,
        backward_steps: int | None = None,
        backward_solver: AdjointSolver | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        variable: AdjointVariable = "rho",
    ) -> None:
        super().__init__()
        check_choice("skip_type", skip_type, SKIP_TYPES)
        check_choice("adjoint", adjoint, get_args(AdjointMode))
        check_choice("variable", variable, list(VARIABLES))
        check_choice("solver", solver, get_args(AdjointSolver))
        self.model_fn = model_fn
        self.adjoint: AdjointMode = adjoint
        self.params = None if params is None else list(params)
        steps = check_count("steps", steps)
        self.problem = Problem(
            VARIABLES[variable](schedule),
            solver,
            steps,
            skip_type,
            float(schedule.t_max if t_start is None else check_number("t_start", t_start, gt=0)),
            float(schedule.t_end(steps) if t_end is None else check_number("t_end", t_end, gt=0)),
            check_count("y_checkpoints", y_checkpoints, at_least=0),
            check_choice(
                "backward_solver", backward_solver or ("heun" if solver == "ab" else solver), get_args(AdjointSolver)
            ),
            check_count("backward_steps", steps if backward_steps is None else backward_steps),
            Tolerance(check_number("rtol", rtol, gt=0), check_number("atol", atol, gt=0)),
        )
        self._evaluations = Evaluations()

    @property
    def last_nfe(self) -> tuple[int, int]:
        """Evaluations of the model in the last call and in its way back (0 before that, and for ``backprop``)."""
        return self._evaluations.forward, self._evaluations.backward

    def forward(
        self, x_T: Float[Tensor, " batch *shape"], cond: Condition | None = None
    ) -> Float[Tensor, " batch *shape"]:
        """Sample.

        Parameters
        ----------
        x_T
            Noise at the first time.
        cond
            What the model is conditioned on: a tensor with one row per sample, or a mapping of such tensors.

        Returns
        -------
        Tensor of shape (batch, ...)
            Samples of the shape of `x_T`, differentiable in the inputs.
        """
        check_state("x_T", x_T)
        names, condition = _condition(cond, x_T)
        self._evaluations = Evaluations()
        solution = Solution(self.model_fn, self.problem, self.adjoint, names, self._evaluations)
        if self.adjoint != "backprop" and torch.is_grad_enabled():
            params = self._wanted(solution, x_T, condition)
            if any(v.requires_grad for v in (x_T, *condition, *params)):
                _check_reproducible(self.model_fn)
                return solution.differentiable(x_T, condition, params)
        return solution.solve(x_T, condition, keep=False)[0]

    def without_params(self) -> "AdjointSampler":
        """Return this sampler, the model shared, without gradients of parameters: for those of its inputs alone.

        Returns
        -------
        AdjointSampler
            A sampler that shares the model.
        """
        other = copy.copy(self)
        other.params = []
        return other

    def extra_repr(self) -> str:
        """Show the solver, its steps and the gradient mode.

        Returns
        -------
        str
            The words within the parentheses of ``repr``.
        """
        return f"solver={self.problem.solver!r}, steps={self.problem.steps}, adjoint={self.adjoint!r}"

    def _wanted(self, solution: Solution, x_T: Tensor, condition: list[Tensor]) -> list[Tensor]:
        if self.params is not None:
            found: Iterable[Tensor] = self.params
        elif isinstance(self.model_fn, nn.Module):
            found = self.model_fn.parameters()
        else:
            return solution.find_parameters(x_T, condition)
        return [p for p in found if p.requires_grad]


def odeint_dpm(
    model_fn: Callable[..., Any],
    schedule: NoiseSchedule,
    x_T: Float[Tensor, " batch *shape"],
    cond: Condition | None = None,
    **options: Unpack[AdjointOptions],
) -> Float[Tensor, " batch *shape"]:
    """Sample from noise `x_T` by an ODE, differentiably and in constant memory.

    Gradients flow to `x_T`, to the tensors of `cond` and to the parameters of `model_fn`; options and errors are
    those of `AdjointSampler`, which is the same as a module.

    Parameters
    ----------
    model_fn
        The network, which predicts the noise.
    schedule
        Noise schedule of the network.
    x_T
        Noise of shape (batch, ...).
    cond
        What the network is called with besides, None for nothing.

    Returns
    -------
    Tensor of shape (batch, ...)
        Samples of the shape of `x_T`.

    Examples
    --------
    The gradient of the discretised sampler, checked against back-propagation through all of it:

    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> def gradient(adjoint):
    ...     x_T = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None].requires_grad_()
    ...     x_0 = odeint_dpm(lambda x, t: torch.tanh(x), NoiseScheduleVP.linear(), x_T, adjoint=adjoint)
    ...     return torch.autograd.grad(x_0.sum(), x_T)[0]
    >>> torch.allclose(gradient("discrete"), gradient("backprop"), rtol=1e-12)
    True
    """
    return AdjointSampler(model_fn, schedule, **options)(x_T, cond)


def _condition(cond: Condition | None, x_T: Tensor) -> tuple[tuple[str, ...] | None, list[Tensor]]:
    """Return the names of a condition that is a mapping, and its tensors."""
    if cond is None:
        return None, []
    named = dict(cond) if isinstance(cond, Mapping) else {"cond": cond}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {type(value).__name__}; cond takes a tensor, or a mapping of tensors")
        if not value.ndim or len(value) != len(x_T):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; it takes one row per sample, {len(x_T)} of them")
    return tuple(named) if isinstance(cond, Mapping) else None, list(named.values())


def _check_reproducible(model_fn: Any) -> None:
    """Refuse a model that would answer differently when it is evaluated again on the way back."""
    for part in (model_fn, getattr(model_fn, "model", None)):
        for name, module in part.named_modules() if isinstance(part, nn.Module) else ():
            random = (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0) or (
                isinstance(module, nn.MultiheadAttention) and module.dropout > 0
            )
            if module.training and (random or isinstance(module, nn.modules.batchnorm._BatchNorm)):
                raise ValueError(
                    f"model_fn has {type(module).__name__} '{name}' in training mode, and the way back needs the same "
                    "answers again; call eval() on it, or take adjoint='backprop'"
                )
