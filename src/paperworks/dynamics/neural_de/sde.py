"""A neural SDE whose training makes its solver take fewer steps."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.neural_de.brownian import BrownianTree
from paperworks.dynamics.neural_de.ode import check_span, check_times
from paperworks.dynamics.neural_de.regularizers import Sampling, SolverInfo
from paperworks.dynamics.neural_de.stochastic import ESTIMATORS, Estimator, local_sde_regularizer, solve_sde
from paperworks.numerics import torch_generator
from paperworks.numerics.stepping import Func


class NeuralSDE(nn.Module):
    r"""The solution of $du = f(t, u) dt + g(t, u) dW$ as a layer, with the penalty that makes it cheap.

    The method is that of arXiv 2303.02262, section 3. The noise is Itô's and independent for each element of the state.
    In training mode a forward pass also returns a penalty, to be added to the loss times a weight; in evaluation mode
    it is 0 and costs nothing.

    Parameters
    ----------
    drift, diffusion
        ``drift(t, u)`` and ``diffusion(t, u)``, modules or functions; both return the shape of `u`, (batch, ...).
    t_span
        Where time begins and ends, rising; (0, 1) by default.
    solver
        ``sosri``, of strong order 1.5; its rejected steps don't change the path.
    atol, rtol
        Error that a step may make, ``atol + rtol |u|``; 0.01 by default, StochasticDiffEq's. The paper takes 0.14.
    regularize
        None; ``unbiased``: the local step begins at a uniformly drawn time, where the solver stops; ``biased``: at the
        start of one of the solver's steps; ``global``: all steps are penalised.
    estimator
        Whose error the local step has: ``sosri`` (the default), ``lamba`` or ``milstein``.
    detach_state
        Whether the local step's first state is a constant for the gradient, as in the paper's code.
    step_size
        Length of the local step: ``auto`` (the paper's): what a solver begins with there; ``solver``, with ``biased``:
        that of the solver's step.
    t_eval
        Times to return the solution at, rising; by default the last alone, without the first dimension.
    max_steps
        Attempts of the solver before it gives up; 10 000 by default.
    random_state
        Seed of the generator that draws times, and the noise of passes that are given none.

    Raises
    ------
    ValueError
        For unknown names, tolerances that aren't positive, or times in no order.

    Examples
    --------
    >>> layer = NeuralSDE(lambda t, u: -u, lambda t, u: 0.1 * u, regularize="biased")
    >>> u, info = layer(torch.ones(2, 1, dtype=torch.float64), random_state=0)
    >>> u.shape, bool(info.reg > 0), info.n_reject
    (torch.Size([2, 1]), True, 0)
    """

    def __init__(
        self,
        drift: Func,
        diffusion: Func,
        t_span: tuple[float, float] = (0.0, 1.0),
        solver: Literal["sosri"] = "sosri",
        atol: float = 1e-2,
        rtol: float = 1e-2,
        regularize: Sampling | None = None,
        *,
        estimator: Estimator = "sosri",
        detach_state: bool = True,
        step_size: Literal["auto", "solver"] = "auto",
        t_eval: Sequence[float] | None = None,
        max_steps: int = 10_000,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        self.drift, self.diffusion = drift, diffusion
        self.t_span = check_span(t_span)
        self.solver = check_choice("solver", solver, ("sosri",))
        self.atol, self.rtol = check_number("atol", atol, gt=0), check_number("rtol", rtol, gt=0)
        self.regularize = check_choice("regularize", regularize, (None, "unbiased", "biased", "global"))
        self.estimator = check_choice("estimator", estimator, ESTIMATORS)
        self.detach_state = detach_state
        self.step_size = check_choice("step_size", step_size, ("auto", "solver"))
        if step_size == "solver" and regularize not in (None, "biased"):
            raise ValueError(f"step_size is 'solver' with regularize={regularize!r}; it takes 'biased'")
        self.t_eval = None if t_eval is None else check_times(t_eval, self.t_span)
        self.max_steps = check_count("max_steps", max_steps)
        self.rng = np.random.default_rng(check_count("random_state", random_state, at_least=0))

    def extra_repr(self) -> str:
        """Say in a module's representation what the solver does.

        Returns
        -------
        str
            The span, the tolerances and the penalty.
        """
        return f"t_span={self.t_span}, atol={self.atol}, rtol={self.rtol}, regularize={self.regularize!r}"

    def forward(self, u0: Float[Tensor, "batch ..."], random_state: int | None = None) -> tuple[Tensor, SolverInfo]:
        """Solve from the first time to the last.

        Parameters
        ----------
        u0
            States at the first time, (batch, ...).
        random_state
            Seed of the noise; by default the layer's generator draws one.

        Returns
        -------
        Tensor, SolverInfo
            The state at the last time, or the states at `t_eval`, (times, batch, ...); the penalty and the cost.
        """
        t0, t1 = self.t_span
        mode = self.regularize if self.training else None
        times = [t1] if self.t_eval is None else self.t_eval
        drawn = [float(self.rng.uniform(t0, t1))] if mode == "unbiased" else []
        seed = int(self.rng.integers(2**32)) if random_state is None else random_state
        path = BrownianTree(tuple(u0.shape), self.t_span, seed, u0.dtype, u0.device)
        asked = sorted({*times, *drawn})
        solution = solve_sde(
            self.drift,
            self.diffusion,
            u0,
            self.t_span,
            path,
            atol=self.atol,
            rtol=self.rtol,
            t_eval=asked,
            max_steps=self.max_steps,
            estimates=mode == "global",
            keep_states=mode == "biased",
        )
        reg, t_reg, cost = u0.new_zeros(()), float("nan"), 0
        if mode == "global":
            reg = torch.stack([step.estimate for step in solution.steps if step.estimate is not None]).sum()
        elif mode is not None:
            start, length = None, None
            if mode == "unbiased":
                t_reg, start = drawn[0], solution.states[asked.index(drawn[0])]
            else:
                step = solution.steps[int(self.rng.integers(len(solution.steps)))]
                t_reg, start, length = float(step.t[0]), step.u, float(step.h[0])
            assert start is not None
            reg = local_sde_regularizer(
                self.drift,
                self.diffusion,
                start,
                t_reg,
                t1,
                self.atol,
                self.rtol,
                torch_generator(seed, 0, 1),  # not of the path, whose generators have one key
                estimator=self.estimator,
                detach_state=self.detach_state,
                step=length if self.step_size == "solver" else None,
            )
            cost = 4 * (self.step_size == "auto") + {"sosri": 8, "lamba": 4, "milstein": 5}[self.estimator]
        states = solution.states[[asked.index(time) for time in times]]
        accepted, rejected = int(solution.n_accept[0]), int(solution.n_reject[0])
        info = SolverInfo(reg, int(solution.nfe[0]) + cost, accepted, rejected, t_reg, solution.steps)
        return (states[0] if self.t_eval is None else states), info
