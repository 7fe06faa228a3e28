"""The solution as a function that automatic differentiation knows: what is kept, and how a gradient comes back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks.diffusion.adjoint.flow import Flow
from paperworks.diffusion.adjoint.gradients import transposed
from paperworks.diffusion.adjoint.problem import Problem
from paperworks.diffusion.sampling import check_sample
from paperworks.numerics.integration import Sums
from paperworks.numerics.plans import Step

AdjointMode = Literal["discrete", "continuous", "symplectic", "backprop"]
"""How gradients are made, which `AdjointSampler` explains."""


@dataclass
class Evaluations:
    """Number of evaluations of the model, forwards and backwards."""

    forward: int = 0
    backward: int = 0


@dataclass
class Solution:
    """One call of a sampler.

    Parameters
    ----------
    model_fn
        The model.
    problem
        What is solved.
    adjoint
        Gradient mode.
    names
        Names of the tensors of the condition, where it is a mapping.
    evaluations
        Where evaluations are counted.
    known
        What the model answers at the start, where it was asked already.
    plan
        What the solution followed, once it is there.
    """

    model_fn: Callable[..., Any]
    problem: Problem
    adjoint: AdjointMode
    names: tuple[str, ...] | None
    evaluations: Evaluations
    known: Tensor | None = None
    plan: Sequence[Step] = ()

    def flow(self, condition: Sequence[Tensor]) -> Flow:
        """Return the ODE under a condition."""
        if self.names is not None:
            return Flow(self.model_fn, self.problem.variable, dict(zip(self.names, condition, strict=True)))
        return Flow(self.model_fn, self.problem.variable, condition[0] if condition else None)

    def solve(self, x: Tensor, condition: Sequence[Tensor], keep: bool) -> tuple[Tensor, list[Tensor]]:
        """Return the sample, and what the way back needs of the states after the first one."""
        variable, problem = self.problem.variable, self.problem
        flow = self.flow(condition)
        flow.known, self.known = self.known, None
        mode = "nothing" if not keep else "cuts" if self.adjoint == "continuous" else "steps"
        start, end = (variable.place(variable.of_time(t)).scale for t in (problem.t_start, problem.t_end))
        y, kept, self.plan = problem.solve(flow, x / start, mode)  # type: ignore[arg-type]
        self.evaluations.forward += flow.nfe
        if mode == "steps":
            kept.pop()  # no step starts at the last state
        sample = y * end
        return check_sample(sample), kept

    def differentiable(self, x: Tensor, condition: Sequence[Tensor], params: Sequence[Tensor]) -> Tensor:
        """Return the sample with a gradient function to the noise, the condition and the parameters."""
        return _Solve.apply(self, len(condition), x, *condition, *params)

    def gradients(
        self,
        gradient: Tensor,
        x: Tensor,
        kept: Sequence[Tensor],
        condition: Sequence[Tensor],
        params: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Return the gradients of noise, condition and parameters from that of the sample."""
        problem, variable = self.problem, self.problem.variable
        leaves = [c.detach().requires_grad_(c.requires_grad) for c in condition]
        wanted = [v.requires_grad for v in (*leaves, *params)]
        targets = [v for v in (*leaves, *params) if v.requires_grad]
        flow, sums = self.flow(leaves), Sums(len(targets))
        start, end = (variable.place(variable.of_time(t)).scale for t in (problem.t_start, problem.t_end))
        # The adjoint ODE is linear; tolerances of its solution mean something once its size is known.
        size = gradient.abs().max().item() if self.adjoint == "continuous" else 1.0
        a = gradient * (end / (size or 1.0))
        if self.adjoint == "continuous":
            a = problem.solve_adjoint(flow, kept, a, targets, sums)
        else:
            a = transposed(flow, self.plan, [x / start, *kept], a, targets, sums, self.adjoint == "symplectic")
        self.evaluations.backward = flow.nfe
        others = iter(total if total is None or size == 1 else total.mul_(size) for total in sums.values)
        found = [a * (size / start), *(next(others) if w else None for w in wanted)]
        if torch.isfinite(gradient).all() and not all(g is None or torch.isfinite(g).all() for g in found):
            raise RuntimeError(
                f"the gradient has NaN or infinite elements on the way back of adjoint {self.adjoint!r}; "
                "take more steps, or adjoint='discrete'"
            )
        return found

    def find_parameters(self, x: Tensor, condition: Sequence[Tensor]) -> list[Tensor]:
        """Find the leaf tensors that the model uses, by looking at the graph of its first evaluation.

        The evaluation is not wasted: it is the first of the solution.

        Raises
        ------
        ValueError
            Where the model uses a tensor that was computed outside it from others: the way back would end there.
        """
        place = self.problem.variable.place(self.problem.variable.of_time(self.problem.t_start))
        flow = self.flow([c.detach() for c in condition])
        with torch.enable_grad():
            born = torch.ones((), requires_grad=True).exp().grad_fn._sequence_nr()  # type: ignore[union-attr]
            noise = flow.noise(x.detach(), place.t)
        self.evaluations.forward += flow.nfe
        self.known = noise.detach()
        leaves: dict[int, Tensor] = {}
        seen = set()
        nodes = [noise.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if (leaf := getattr(node, "variable", None)) is not None:
                leaves[id(leaf)] = leaf
            elif node._sequence_nr() < born:
                raise ValueError(
                    f"model_fn uses a tensor that was computed outside it (by {node.name()}); give it in cond, or name "
                    "all tensors whose gradients are wanted in params"
                )
            nodes += [following for following, _ in node.next_functions]
        return list(leaves.values())


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solution: Solution, n_condition: int, x: Tensor, *others: Tensor) -> Tensor:
        sample, kept = solution.solve(x, others[:n_condition], keep=True)
        ctx.solution, ctx.n_condition, ctx.n_others = solution, n_condition, len(others)
        # Parameters are used by reference; saving them too makes autograd notice a change in place.
        ctx.params = others[n_condition:]
        ctx.save_for_backward(x, *others, *kept)
        kind = x.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return sample

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, others, kept = saved[0], saved[1 : 1 + ctx.n_others], saved[1 + ctx.n_others :]
        with torch.no_grad(), torch.autocast(*ctx.autocast):
            found = ctx.solution.gradients(gradients[0], x, kept, others[: ctx.n_condition], ctx.params)
        if torch.is_grad_enabled():  # the caller wants to differentiate the gradient
            inputs = (gradients[0], x, *others)
            found = list(_Once.apply(len(inputs), *inputs, *found))
        return None, None, *found


class _Once(torch.autograd.Function):
    """Pass gradients on, and refuse to differentiate them."""

    @staticmethod
    def forward(ctx: Any, n_inputs: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[n_inputs:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(
            "the gradient of an adjoint sampler can't be differentiated again; take adjoint='backprop', which can"
        )
