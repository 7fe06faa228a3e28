"""Gradients by the adjoint equation: the trajectory is solved backwards, and memory doesn't grow with its steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.numerics import PAIRS, Solution, Sums, Tolerance, adapt
from paperworks.numerics.stepping import Func


class Outputs(NamedTuple):
    """States that a solve gives to the graph, and the times that they are at."""

    states: Tensor  # (outputs, batch, ...)
    times: Sequence[float]
    solution: Solution


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        solve: Callable[[Tensor], Outputs],
        func: Func,
        t0: float,
        options: dict[str, Any],
        kept: list[Outputs],
        u0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        outputs = solve(u0)
        kept.append(outputs)
        ctx.func, ctx.t0, ctx.options, ctx.times = func, t0, options, outputs.times
        ctx.save_for_backward(outputs.states, *parameters)  # which says if they were changed meanwhile
        ctx.parameters = list(parameters)  # the very ones that `func` has: hooks give back others
        return outputs.states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, parameters = ctx.saved_tensors[0], ctx.parameters
        order = sorted(range(len(ctx.times)), key=lambda i: ctx.times[i], reverse=True)
        u, t = states[order[0]], ctx.times[order[0]]
        adjoint = torch.zeros_like(u)
        total: list[Tensor | None] = [None] * len(parameters)
        for i, j in zip(order, [*order[1:], None], strict=True):
            adjoint, u = adjoint + grad[i], states[i]
            end = ctx.t0 if j is None else ctx.times[j]
            if end < t:
                adjoint, added = _back(ctx.func, u, adjoint, parameters, t, end, ctx.options)
                total = [b if a is None else a if b is None else a + b for a, b in zip(total, added, strict=True)]
            t = end
        return None, None, None, None, None, adjoint, *total


def _back(
    func: Func, u: Tensor, adjoint: Tensor, parameters: list[Tensor], t: float, end: float, options: dict[str, Any]
) -> tuple[Tensor, list[Tensor | None]]:
    """Follow state and adjoint back; the equation is linear in the adjoint, which is followed in units of its size."""
    size = adjoint.square().mean().sqrt()
    if size == 0:
        return adjoint, [None] * len(parameters)
    calls, limit = 0, options["max_steps"] * 7
    per_sample = options["control"] == "sample"

    def field(state: tuple[Tensor, ...], s: float, weighs: bool) -> tuple[tuple[Tensor, ...], Sequence[Tensor | None]]:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise RuntimeError(f"the adjoint stopped at t={s:g}: max_steps={options['max_steps']} don't suffice")
        x, a = state
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            place = x.new_full((len(x),) if per_sample else (), s)
            slope = func(place, x)
            wanted = (x, *parameters) if weighs else (x,)
            if calls == 1:
                _check_parameters(slope, (x, *parameters))
            if not slope.requires_grad:
                return (slope, torch.zeros_like(x)), [None] * len(parameters)
            pulled = torch.autograd.grad(slope, wanted, -a, allow_unused=True)
        along = torch.zeros_like(x) if pulled[0] is None else pulled[0]
        return (slope.detach(), along), pulled[1:] or [None] * len(parameters)

    sums = Sums(len(parameters))
    tolerance = Tolerance(options["rtol"], options["atol"])
    with torch.no_grad():
        (_, adjoint), _ = adapt(field, (u, adjoint / size), t, end, tolerance, sums, tableau=PAIRS[options["solver"]])
    return adjoint * size, [None if value is None else value * size for value in sums.values]


def _check_parameters(slope: Tensor, known: Sequence[Tensor]) -> None:
    """Raise where the graph of a slope ends in tensors that would get no gradient."""
    found, seen = [slope.grad_fn], set()
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is one for one in known):
            raise RuntimeError(
                f"func has a parameter of shape {tuple(leaf.shape)} that the adjoint can't find; make func a module "
                "that has it among its parameters, or take adjoint='backprop'"
            )
        found += [following for following, _ in node.next_functions]


def solve_with_adjoint(
    solve: Callable[[Tensor], Outputs], func: Func, t0: float, options: dict[str, Any], u0: Tensor
) -> Outputs:
    """Solve without a graph, and let the gradient come from the adjoint equation."""
    parameters = [p for p in getattr(func, "parameters", tuple)() if p.requires_grad]
    kept: list[Outputs] = []
    states = _Adjoint.apply(solve, func, t0, options, kept, u0, *parameters)
    return kept[0]._replace(states=states)
