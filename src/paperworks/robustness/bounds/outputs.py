"""Bounds of a graph's output, or of rows of it, by each method."""

from collections.abc import Sequence

import torch
from torch import Tensor

from paperworks.robustness.bounds import backward, forward
from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.elementwise import ElementwiseRule
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.linear import ReshapeRule
from paperworks.robustness.bounds.methods import Method, intermediate, interval, meet, nonlinear
from paperworks.robustness.bounds.reductions import UnshiftRule
from paperworks.robustness.bounds.registry import rule_of
from paperworks.robustness.bounds.values import Interval


def bounds_of(
    call: Call,
    method: Method,
    C: Tensor | None,
    sides: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return bounds of the output (batch, *output of the graph), or of rows of it (batch, specs)."""
    output = call.graph.output
    if method in ("IBP", "forward"):
        intermediate(call, output, method)
        if C is None:
            return tuple(end if side else None for end, side in zip(call.ends[output], sides, strict=True))  # type: ignore[return-value]
        if method == "forward" and not call.options.intersect:
            return _of_linear(call, output, C, sides)
        found = _backward(call, output, C, sides, stop=True)
        return found if method == "IBP" else _better(found, _of_linear(call, output, C, sides))
    if C is not None:
        intermediate(call, output, method)
        found = _backward(call, output, C, sides)
        return _better(found, _backward(call, output, C, sides, stop=True)) if call.options.intersect else found
    # What a function of one variable does to bounds it does exactly: the backward pass begins before it.
    base, chain = _peeled(output)
    intermediate(call, base, method)
    wanted = sides if all(_is_increasing(n) for n in chain) else (True, True)
    found = _backward(call, base, identity(call, base), wanted)
    kept = call.ends[base]
    ends = Interval(*(k if f is None else f.reshape(-1, *base.shape) for k, f in zip(kept, found, strict=True)))
    inside = any(rule_of(node).partial(node) for node in chain)  # of a domain, which linear functions may leave
    call.ends[base] = meet(ends, kept) if call.options.intersect or inside else ends
    for node in chain:
        call.ends[node] = interval(call, node)
    return tuple(end if side else None for end, side in zip(call.ends[output], sides, strict=True))  # type: ignore[return-value]


def check_bounds(call: Call, found: Sequence[Tensor | None]) -> None:
    """Raise ValueError where a bound isn't finite, naming the first operator whose ends aren't."""
    if all(b is None or bool(b.detach().isfinite().all()) for b in found):
        return
    for node in call.graph:
        ends = call.ends.get(node)
        if ends is not None and not all(bool(end.detach().isfinite().all()) for end in ends):
            break
    else:
        node = call.graph.output
    sources = ", ".join(
        f"[{float(call.ends[n].lower.detach().min()):g}, {float(call.ends[n].upper.detach().max()):g}]"
        for n in node.inputs
        if n in call.ends
    )
    raise ValueError(
        f"the bounds of {node.name!r} ({node.op}) are not finite in {call.type_of(node)}, with inputs in {sources}; "
        "it takes a smaller set, or a wider type"
    )


def _better(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """Return the greater of two lower bounds, and the lesser of two upper ones."""
    (low, up), (low_too, up_too) = a, b
    return (
        low if low is None or low_too is None else torch.maximum(low, low_too),
        up if up is None or up_too is None else torch.minimum(up, up_too),
    )


def _peeled(output: Node) -> tuple[Node, list[Node]]:
    """Return the node before the functions of one variable that end a graph, and those, in order."""
    chain: list[Node] = []
    node = output
    while node.kind == "operator" and isinstance(rule_of(node), (ElementwiseRule, ReshapeRule, UnshiftRule)):
        chain.insert(0, node)
        node = node.inputs[0]
    return node, chain


def _is_increasing(node: Node) -> bool:
    rule = rule_of(node)
    return not isinstance(rule, ElementwiseRule) or rule.curve(node).increasing


def _backward(
    call: Call, start: Node, rows: Tensor, sides: tuple[bool, bool], stop: bool = False
) -> tuple[Tensor | None, Tensor | None]:
    stops = nonlinear(call, start) if stop else ()
    found = backward.lower_bounds(call, start, signed(rows, sides), stops).T
    pieces = list(found.split(len(rows), 1))
    lower = pieces.pop(0) if sides[0] else None
    return lower, -pieces[0] if sides[1] else None


def _of_linear(
    call: Call,
    output: Node,
    C: Tensor,
    sides: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return bounds of rows from the linear bounds of the forward mode."""
    b = call.linear[output]
    rows = C.flatten(2)
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)

    def combine(first: Tensor, second: Tensor) -> Tensor:
        first, second = first.flatten(-len(output.shape)), second.flatten(-len(output.shape))
        return torch.einsum("sbn,...bn->...bs", positive.expand(-1, call.batch, -1), first) + torch.einsum(
            "sbn,...bn->...bs", negative.expand(-1, call.batch, -1), second
        )

    combined = type(b)(
        combine(b.lower_weight, b.upper_weight),
        combine(b.lower_bias, b.upper_bias),
        combine(b.upper_weight, b.lower_weight),
        combine(b.upper_bias, b.lower_bias),
    )
    if call.sound:
        reach = call.reach[output].flatten(1).expand(call.batch, -1)
        away = call.gap(output, output.shape.numel()) * torch.einsum(
            "sbn,bn->bs", rows.abs().expand(-1, call.batch, -1), reach
        )
        combined = combined._replace(lower_bias=combined.lower_bias - away, upper_bias=combined.upper_bias + away)
    ends = forward.concretize(call, combined, output)
    return ends.lower if sides[0] else None, ends.upper if sides[1] else None


def identity(call: Call, node: Node) -> Tensor:
    """Return rows that read out each element of a node."""
    like = call.value(call.roots[0])
    return torch.eye(node.shape.numel(), dtype=like.dtype, device=like.device).reshape(-1, 1, *node.shape)


def signed(rows: Tensor, sides: tuple[bool, bool]) -> Tensor:
    """Return rows for the lower bounds asked for, and behind them the negatives for the upper ones."""
    return torch.cat([sign * rows for sign, side in ((1, sides[0]), (-1, sides[1])) if side])
