"""Rules of operators that select, place and fill elements."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call, minus_infinity
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.linear import LinearRule, align, leading, ratio, unbroadcast
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.rounding import depth, unit
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds, batched

aten = torch.ops.aten


def moved(node: Node) -> int:
    return 0  # elements go to other places, one each


def window(node: Node) -> int:
    """Return the size of a pooling's window, for which as many windows hold an element at most."""
    return math.prod(node.args[1]) if len(node.args[1]) > 1 else node.args[1][0] ** 3


def per_axis(node: Node) -> int:
    """Return the number of elements along the longest axis of all."""
    return max(1, *node.shape, *node.inputs[0].shape)


class PartRule(LinearRule):
    """Slices and selections, told the adjoint: it takes rows, the shape behind the leading axes, and the arguments."""

    diagonal = True

    def __init__(self, apply: Callable[..., Tensor], back: Callable[..., Tensor]) -> None:
        super().__init__(apply=apply, terms=moved)
        self.back = back

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Put rows in their place among zeros."""
        return [(moving[0], self.back(rows, moving[0].shape, *node.args[1:]))]


def unslice(
    rows: Tensor, shape: Sequence[int], dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    whole, n = [*rows.shape[:2], *shape], shape[dim]
    start, end, _ = slice(start, end).indices(n)
    return aten.slice_backward(rows, whole, 2 + dim % len(shape), start, end, step)


def unselect(rows: Tensor, shape: Sequence[int], dim: int, index: int) -> Tensor:
    return aten.select_backward(rows, [*rows.shape[:2], *shape], 2 + dim % len(shape), index)


def slice_part(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    x, rest = args[0], list(args[1:]) + [None] * (5 - len(args))
    dim = (rest[0] or 0) % len(node.shape)
    return aten.slice(x, lead + dim, rest[1], rest[2], 1 if rest[3] is None else rest[3])


def select_part(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    return args[0].select(lead + args[1] % len(node.inputs[0].shape), args[2])


def index_select(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    if args[2].shape[:lead].numel() != 1:
        return batched(node.op, lead, args, kwargs)
    return args[0].index_select(lead + args[1] % len(node.shape), args[2][(0,) * lead])


def index_add(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    x, dim, index, source = args
    shape = torch.broadcast_shapes(x.shape[:lead], source.shape[:lead])
    x, source = (t.expand(*shape, *t.shape[lead:]) for t in (x, source))
    return x.index_add(lead + dim % len(node.shape), index[(0,) * lead], source)


class WhereRule(LinearRule):
    """One of two values by a condition, which may be perturbed: where it is not decided, constants bound both."""

    def __init__(self) -> None:
        super().__init__(data=(1, 2))

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Choose."""
        rank = len(node.shape)
        condition, a, b = (align(t, t.shape[lead:], rank) if isinstance(t, Tensor) else t for t in args)
        return torch.where(condition.bool(), a, b)

    def terms(self, node: Node) -> int:
        """Return how many coefficients are summed over what was broadcast, 0 for one."""
        most = max(node.shape.numel() // max(1, n.shape.numel()) for n in self.data_nodes(node))
        return most if most > 1 else 0

    def _open(self, node: Node, call: Call) -> bool:
        return node.args[0] in call.perturbed

    def needs(self, node: Node, call: Call) -> tuple[Node, ...]:
        """Return all that is perturbed, if the condition is."""
        return tuple(n for n in node.inputs if n in call.perturbed) if self._open(node, call) else ()

    def is_affine(self, node: Node, call: Call) -> bool:
        """Return whether the condition is known."""
        return not self._open(node, call)

    def _choice(self, node: Node, call: Call) -> tuple[Tensor, Tensor]:
        """Return where the first is chosen, and where it isn't known which is."""
        lower, upper = (align(end, node.args[0].shape, len(node.shape)) for end in call.bounds(node.args[0]))
        return lower > 0, (lower <= 0) & (upper > 0)

    def _either(self, node: Node, call: Call) -> Interval:
        a, b = (call.bounds(n) for n in node.args[1:])
        (al, au), (bl, bu) = (
            (align(end, n.shape, len(node.shape)) for end in ends)
            for ends, n in zip((a, b), node.args[1:], strict=True)
        )
        return Interval(torch.minimum(al, bl), torch.maximum(au, bu))

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the ends of what is chosen, or of both."""
        if not self._open(node, call):
            return super().interval(node, call)
        chosen, unknown = self._choice(node, call)
        a, b = (call.bounds(n) for n in node.args[1:])
        either = self._either(node, call)
        return Interval(
            *(
                torch.where(unknown, end, self.apply(node, (chosen, x, y), {}, 1))
                for end, x, y in zip(either, a, b, strict=True)
            )
        )

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return None: ends are chosen."""
        return None

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of constants that are added up; nothing else is rounded."""
        if not self._open(node, call):
            return super().rounding(node, call, size, ends)
        gap = call.gap(node, self.terms(node) + depth(node.shape.numel()))
        a, b = (align(size(n), n.shape, len(node.shape)) for n in node.args[1:])
        return gap * torch.maximum(a, b)

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Hand coefficients to what is chosen; what isn't known falls out as constants."""
        if not self._open(node, call):
            return super().backward(node, rows, call)
        chosen, unknown = self._choice(node, call)
        either = self._either(node, call)
        open_ = torch.where(unknown, rows, 0.0)
        constant: Any = row_dot(open_.clamp(min=0), either.lower) + row_dot(open_.clamp(max=0), either.upper)
        found: list[tuple[Node, Tensor]] = []
        for source, mask in zip(node.args[1:], (chosen, ~chosen & ~unknown), strict=True):
            part = unbroadcast(torch.where(mask, rows, 0.0), source.shape, 2)
            if source in call.perturbed:
                found.append((source, part))
            else:
                constant = constant + row_dot(part, call.constant(source))
        return Backward(found, constant)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Take the linear bounds of what is chosen, and constants where that isn't known."""
        if not self._open(node, call):
            return super().forward(node, call)
        chosen, unknown = self._choice(node, call)
        either, (a, b) = self._either(node, call), (_linear(n, call) for n in node.args[1:])
        made = []
        for x, y, constant in zip(a, b, (None, either.lower, None, either.upper), strict=True):
            lead, rest = (2, x.new_zeros(())) if constant is None else (1, constant)
            known = self.apply(node, (leading(chosen, lead), x, y), {}, lead)
            made.append(torch.where(leading(unknown, lead), rest, known))
        return LinearBounds(*made)


def _linear(node: Node, call: Call) -> LinearBounds:
    """Return linear bounds of what need not be perturbed."""
    if node in call.perturbed:
        return call.linear[node]
    value = call.constant(node)
    weight = value.new_zeros(len(call.linear[call.roots[0]].lower_weight), 1, *node.shape)
    return LinearBounds(weight, value, weight, value)


class GatherRule(LinearRule):
    """Elements at an index of each sample's own, along an axis."""

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Gather behind the leading axes, which are first made equal."""
        x, dim, index = args[:3]
        shape = torch.broadcast_shapes(x.shape[:lead], index.shape[:lead])
        x, index = (t.expand(*shape, *t.shape[lead:]) for t in (x, index))
        return x.gather(lead + dim % len(node.shape), index)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Add rows up where their elements came from."""
        dim, index = node.args[1] % len(node.shape), leading(call.value(node.args[2]), 2)
        lead = torch.broadcast_shapes(rows.shape[:2], index.shape[:2])
        rows, index = (t.expand(*lead, *t.shape[2:]) for t in (rows, index))
        return [(moving[0], rows.new_zeros(*lead, *moving[0].shape).scatter_add(2 + dim, index, rows))]


class MaskedFillRule(LinearRule):
    """x where a mask is off, a number where it is on."""

    def filled(self, node: Node, call: Call, moving: Any, lead: int, constants: bool) -> Tensor:
        """Fill with the number, or with 0 where constants are left out."""
        rank = len(node.shape)
        x = align(moving(node.args[0]), node.args[0].shape, rank)
        mask = align(leading(call.value(node.args[1]), lead), node.args[1].shape, rank)
        number = node.args[2]
        if isinstance(number, Node):
            number = call.constant(number).reshape(())
        number = minus_infinity(x.dtype) if number == -math.inf else number
        return torch.where(mask, number if constants else 0.0, x)

    def terms(self, node: Node) -> int:
        """Return how many coefficients are summed over what the mask broadcasts, 0 for one."""
        return ratio(node) if ratio(node) > 1 else 0

    def sizes(self, node: Node, call: Call, size: Callable[[Node], Tensor], gap: float) -> Tensor:
        """Return the size of the number where the mask is on: all else is moved, or counted where it is summed."""
        number = node.args[2]
        number = call.constant(number).reshape(()) if isinstance(number, Node) else number
        number = minus_infinity(call.dtype) if number == -math.inf else number
        rank = len(node.shape)
        x = align(size(node.args[0]), node.args[0].shape, rank)
        mask = align(call.value(node.args[1]), node.args[1].shape, rank)
        return torch.where(mask, torch.full_like(x, gap * abs(number)), x if self.terms(node) else torch.zeros_like(x))

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the error of the number in the module's type: elements are moved."""
        number, dtype = node.args[2], call.type_of(node)
        if isinstance(number, Node) or float(torch.tensor(number, dtype=dtype)) == number:
            return None
        mask = align(call.value(node.args[1]), node.args[1].shape, len(node.shape))
        error = torch.where(mask, torch.full_like(ends.lower, 2 * unit(dtype) * abs(number)), 0.0)
        return error, error

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the filled value."""
        rank = len(node.shape)
        x, mask = (align(t, t.shape[1:], rank) for t in args[:2])
        return torch.where(mask, args[2], x)

    def has_offset(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True
