"""Rules of operators that are linear in what is perturbed: exact in every mode."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node, nodes_in
from paperworks.robustness.bounds.patches import closed, dot, opened
from paperworks.robustness.bounds.registry import Rule
from paperworks.robustness.bounds.rounding import depth, least, unit
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds, batched

Lookup = Callable[[Node], Tensor]


def leading(tensor: Tensor, lead: int) -> Tensor:
    """Return a value with batch in front with `lead` axes in front."""
    return tensor[(None,) * (lead - 1)] if lead > 1 else tensor


def align(tensor: Tensor, shape: Sequence[int], rank: int) -> Tensor:
    """Give a value of `shape`, with axes in front, the rank it takes to broadcast with values of `rank`."""
    missing = rank - len(shape)
    if missing <= 0:
        return tensor
    lead = tensor.ndim - len(shape)
    return tensor.reshape(*tensor.shape[:lead], *(1,) * missing, *shape)


def unbroadcast(rows: Tensor, shape: Sequence[int], lead: int) -> Tensor:
    """Sum coefficients of a broadcast value over the axes it was broadcast along."""
    extra = rows.ndim - lead - len(shape)
    axes = [lead + i for i in range(extra)]
    axes += [lead + extra + i for i, n in enumerate(shape) if n == 1 and rows.shape[lead + extra + i] != 1]
    if axes:
        rows = rows.sum(axes)
    return rows.reshape(*rows.shape[:lead], *shape)


class LinearRule(Rule):
    """An operator linear in its data arguments, taken together.

    Parameters
    ----------
    data
        Which arguments hold data; the others (indices, masks, sizes) may not be perturbed.
    nonnegative
        Whether all coefficients are >= 0, so that ends map to ends. An operator for which this is false must give
        `ends` itself.
    apply
        The operator on arguments with `lead` axes in front, `apply(node, args, kwargs, lead)`; by default it is mapped
        over them.
    terms
        How many products an element of the output, or of its adjoint, adds up at most, 0 where elements are only moved;
        rounding goes as far. By default as many as there are elements.

    Examples
    --------
    >>> from paperworks.robustness import register_bound
    >>> register_bound(torch.ops.aten.rot90.default, LinearRule())
    """

    diagonal = False
    """Whether every element of the output takes one element of the data, and none is taken twice."""

    def __init__(
        self,
        data: Sequence[int] = (0,),
        nonnegative: bool = True,
        apply: Callable[[Node, tuple[Any, ...], dict[str, Any], int], Tensor] | None = None,
        terms: Callable[[Node], int] | None = None,
    ) -> None:
        self.data, self.nonnegative, self._apply, self._terms = tuple(data), nonnegative, apply, terms

    def terms(self, node: Node) -> int:
        """Return how many products an element of the output, or of coefficients, adds up at most; 0 if it is moved."""
        if self._terms is not None:
            return self._terms(node)
        return max(n.numel() for n in (node.shape, *(n.shape for n in self.data_nodes(node))))

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin in shape where elements are moved, or their signs are, and nothing else."""
        moves = self.diagonal and not self.terms(node)
        return margin.reshape(*margin.shape[:1], *node.shape) if moves else None

    def rounding(self, node: Node, call: Call, size: Lookup, ends: Interval) -> Tensor | None:
        """Return the error of the sums, from the sizes of what is added up."""
        terms = self.terms(node)
        if self.has_offset(node, call):
            terms += depth(node.shape.numel())
        if not terms:
            return None
        gap = call.gap(node, terms)  # first, so that sizes don't overflow
        return self.sizes(node, call, lambda n: gap * size(n), gap) + terms * least(call.type_of(node))

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the errors of the sums that are the ends, where these are made of ends of the same side."""
        if most is None or not self.nonnegative or not call.delicate:
            return super().rounding_of_ends(node, call, ends, most)
        return tuple(
            self.rounding(node, call, lambda n, i=i: call.bounds(n)[i].detach().abs(), ends)  # type: ignore[misc]
            for i in (0, 1)
        )

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return whether all that is added up is of one sign."""
        ends = [call.bounds(n) for n in self.data_nodes(node)] if self.nonnegative else []
        return (
            bool(ends) and all(bool((lower >= 0).all()) for lower, _ in ends),
            bool(ends) and all(bool((upper <= 0).all()) for _, upper in ends),
        )

    def sizes(self, node: Node, call: Call, size: Lookup, gap: float) -> Tensor:
        """Return the sum of sizes of what is added up, from those of data; numbers count `gap` times."""
        data = set(self.data_nodes(node))

        def value(n: Node) -> Tensor:
            return size(n) if n in data else call.value(n)

        return self.apply(node, node.resolve(value), node.resolve_kwargs(value), 1)

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Apply the operator to arguments with `lead` axes in front."""
        if self._apply is not None:
            return self._apply(node, args, kwargs, lead)
        return batched(node.op, lead, args, kwargs)

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the operator's value."""
        return self.apply(node, args, kwargs, 1)

    def data_nodes(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes among the data arguments."""
        return nodes_in([node.args[i] for i in self.data if i < len(node.args)])

    def moving(self, node: Node, call: Call) -> list[Node]:
        """Return the perturbed data; raise NotImplementedError where anything else is perturbed."""
        data = self.data_nodes(node)
        for source in node.inputs:
            if source in call.perturbed and source not in data:
                raise NotImplementedError(
                    f"operator {node.op} (node {node.name!r}): {source.name} is perturbed, and there is a rule for "
                    "its other arguments only"
                )
        return [n for n in data if n in call.perturbed]

    def needs(self, node: Node, call: Call) -> tuple[Node, ...]:
        """Return nothing: linear operators need no ends."""
        return ()

    def is_affine(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True

    def filled(self, node: Node, call: Call, moving: Lookup, lead: int, constants: bool) -> Tensor:
        """Apply the operator with values for what is perturbed, and its constants or zeros for other data."""
        data = set(self.data_nodes(node))

        def value(n: Node) -> Tensor:
            if n in data and n in call.perturbed:
                return moving(n)
            if n not in data:
                return leading(call.value(n), lead)
            constant = call.constant(n)
            return leading(constant if constants else torch.zeros_like(constant[:1]), lead)

        return self.apply(node, node.resolve(value), node.resolve_kwargs(value), lead)

    def ends(
        self, node: Node, call: Call, lower: Lookup, upper: Lookup, lead: int, constants: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the ends of the output from those of the perturbed data, with or without the constant part."""
        if not self.nonnegative:
            raise NotImplementedError(f"operator {node.op} (node {node.name!r}): its rule does not give ends")
        low = self.filled(node, call, lower, lead, constants)
        return low, low if lower is upper else self.filled(node, call, upper, lead, constants)

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image of a box (of each output for itself)."""
        self.moving(node, call)
        return Interval(*self.ends(node, call, lambda n: call.bounds(n).lower, lambda n: call.bounds(n).upper, 1, True))

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Apply the operator to weights, and with its constants to biases."""
        self.moving(node, call)
        linear = call.linear
        lw, uw = self.ends(
            node, call, lambda n: linear[n].lower_weight, lambda n: linear[n].upper_weight, 2, constants=False
        )
        lb, ub = self.ends(
            node, call, lambda n: linear[n].lower_bias, lambda n: linear[n].upper_bias, 1, constants=True
        )
        return LinearBounds(lw, lb, uw, ub)

    def has_offset(self, node: Node, call: Call) -> bool:
        """Return whether there is a constant part."""
        return any(n not in call.perturbed for n in self.data_nodes(node))

    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Apply the adjoint; what the constants give falls out."""
        moving = self.moving(node, call)
        coefficients = self.adjoint(node, rows, moving, call)
        if not self.has_offset(node, call):
            return Backward(coefficients)
        if node not in call.offsets:
            zero = {n: call.value(n).new_zeros(1, *n.shape) for n in moving}
            call.offsets[node] = self.filled(node, call, zero.__getitem__, 1, constants=True)
        return Backward(coefficients, dot(rows, call.offsets[node], node))

    def adjoint(self, node: Node, rows: Any, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Return the coefficients of the perturbed data: by default, the operator's own vector-Jacobian product."""
        # Of each sample its own where an index or a mask is: the product would sum over samples that share an input.
        given = [(1, len(call.value(n))) for n in node.inputs if n not in moving]
        lead = torch.broadcast_shapes(rows.shape[:2], *given)
        zeros = [rows.new_zeros(*lead, *n.shape) for n in moving]

        def run(*values: Tensor) -> Tensor:
            return self.filled(node, call, dict(zip(moving, values, strict=True)).__getitem__, 2, constants=False)

        out, pull, *_ = torch.func.vjp(run, *zeros)
        return list(zip(moving, pull(rows.expand_as(out)), strict=True))


class MoveRule(LinearRule):
    """A linear operator whose elements are moved, or negated, and never added."""

    def terms(self, node: Node) -> int:
        """Return 0: nothing is rounded."""
        return 0


class ReshapeRule(MoveRule):
    """Anything that keeps elements in their order."""

    diagonal = True

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Reshape what is behind the leading axes."""
        return args[0].reshape(*args[0].shape[:lead], *node.shape)

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin in shape."""
        return margin.reshape(*margin.shape[:1], *node.shape)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Shape back."""
        return [(moving[0], rows.reshape(*rows.shape[:2], *moving[0].shape))]


class CastRule(ReshapeRule):
    """A change of precision; to whole numbers there is no bound."""

    def moving(self, node: Node, call: Call) -> list[Node]:
        """Refuse a type that rounds."""
        if node.dtype is None or not node.dtype.is_floating_point:
            raise NotImplementedError(
                f"operator {node.op} (node {node.name!r}) casts to {node.dtype}: no rule bounds it"
            )
        return super().moving(node, call)

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Cast."""
        return super().value(node, args, kwargs).to(node.dtype)

    def rounding(self, node: Node, call: Call, size: Lookup, ends: Interval) -> Tensor | None:
        """Return the error of the cast: bounds themselves are computed in the widest type of all."""
        if unit(call.type_of(node)) <= unit(call.type_of(node.inputs[0])):
            return None
        own = call.type_of(node)
        return 2 * unit(own) * size(node.inputs[0]) + least(own)

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin: coefficients pass as they are."""
        return margin.reshape(*margin.shape[:1], *node.shape)


class PermuteRule(MoveRule):
    """Transposition and permutation; told how to find the order of axes from the arguments behind the first."""

    diagonal = True

    def __init__(self, order: Callable[..., Sequence[int]]) -> None:
        super().__init__()
        self.order = order

    def _order(self, node: Node) -> list[int]:
        rank = len(node.shape)
        return [d % rank for d in self.order(rank, *node.args[1:])] if rank else []

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Permute what is behind the leading axes."""
        return args[0].permute(*range(lead), *(lead + d for d in self._order(node)))

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin in order."""
        return self.apply(node, (margin,), {}, 1)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Permute back."""
        order = self._order(node)
        back = sorted(range(len(order)), key=order.__getitem__)
        return [(moving[0], rows.permute(0, 1, *(2 + d for d in back)))]


def ratio(node: Node) -> int:
    """Return how many elements of the larger of data and output belong to each of the smaller."""
    n, m = node.inputs[0].shape.numel(), node.shape.numel()
    return max(n, m) // max(1, min(n, m))


class ExpandRule(LinearRule):
    """Broadcasting to a shape."""

    def __init__(self) -> None:
        super().__init__(terms=lambda node: ratio(node) if ratio(node) > 1 else 0)

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Broadcast what is behind the leading axes."""
        x = align(args[0], args[0].shape[lead:], len(node.shape))
        return x.expand(*x.shape[:lead], *node.shape)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Sum over what was broadcast."""
        return [(moving[0], unbroadcast(rows, moving[0].shape, 2))]


class SumRule(LinearRule):
    """Sums and means over axes."""

    def __init__(self, mean: bool = False) -> None:
        super().__init__(terms=ratio)
        self.mean = mean

    def _axes(self, node: Node) -> list[int]:
        rank = len(node.inputs[0].shape)
        axes = node.args[1] if len(node.args) > 1 else None
        if isinstance(axes, int):
            axes = [axes]
        return [a % rank - rank for a in (axes or range(rank))] if rank else []

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Sum or average over axes behind the leading ones."""
        axes = self._axes(node)
        if not axes:
            return args[0]
        out = args[0].mean(axes) if self.mean else args[0].sum(axes)
        return out.reshape(*out.shape[:lead], *node.shape)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Spread over the axes."""
        shape = moving[0].shape
        axes = self._axes(node)
        kept = [1 if i - len(shape) in axes else n for i, n in enumerate(shape)]
        if self.mean and axes:
            rows = rows / torch.Size([shape[a] for a in axes]).numel()
        return [(moving[0], rows.reshape(*rows.shape[:2], *kept).expand(*rows.shape[:2], *shape))]


class AddRule(LinearRule):
    """a + alpha b and a - alpha b, with broadcasting; either may be a number."""

    diagonal = True

    def __init__(self, sign: int = 1) -> None:
        super().__init__(data=(0, 1), nonnegative=False)
        self.sign = sign

    def terms(self, node: Node) -> int:
        """Return 2, or more where coefficients are summed over what was broadcast."""
        return 1 + max(node.shape.numel() // max(1, n.shape.numel()) for n in self.data_nodes(node))

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return the errors of the sums that are the ends, where nothing perturbed is subtracted."""
        b = node.args[1]
        crossed = self._scale(node, node.kwargs) < 0 and isinstance(b, Node) and b in call.perturbed
        if crossed or not call.delicate:
            return None if most is None else (most, most)
        return tuple(
            self.rounding(node, call, lambda n, i=i: call.bounds(n)[i].detach().abs(), ends)  # type: ignore[misc]
            for i in (0, 1)
        )

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return twice whether it is one sum, which is rounded to a number of its own sign."""
        alone = abs(self._scale(node, node.kwargs)) == 1
        return alone, alone

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return the margin where data are multiplied by nothing but a sign."""
        carries = node.args[0] is not node.args[1] and abs(self._scale(node, node.kwargs)) == 1
        return margin.reshape(*margin.shape[:1], *node.shape) if carries else None

    def rounding(self, node: Node, call: Call, size: Lookup, ends: Interval) -> Tensor | None:
        """Return the error of the sum, and for a constant that of its products with coefficients."""
        scale, rank = abs(self._scale(node, node.kwargs)), len(node.shape)
        gap, most = call.gap(node, self.terms(node)), call.gap(node, depth(node.shape.numel()))
        total: Any = least(call.type_of(node))
        for x, factor in zip(node.args[:2], (1.0, scale), strict=True):
            if not isinstance(x, Node):
                total = total + most * factor * abs(x)
            else:
                total = total + align(size(x), x.shape, rank) * (factor * (gap if x in call.perturbed else most))
        return total

    def _scale(self, node: Node, kwargs: dict[str, Any]) -> float:
        return self.sign * kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Add."""
        a, b = (align(t, t.shape[lead:], len(node.shape)) if isinstance(t, Tensor) else t for t in args[:2])
        scale = self._scale(node, kwargs)
        return a + b if scale == 1 else a - b if scale == -1 else a + scale * b

    def filled(self, node: Node, call: Call, moving: Lookup, lead: int, constants: bool) -> Tensor:
        """Leave numbers out where constants are."""
        if not constants and not all(isinstance(a, Node) for a in node.args[:2]):
            number = next(i for i in (0, 1) if not isinstance(node.args[i], Node))
            x = moving(node.args[1 - number])
            return x if number == 1 else self._scale(node, node.kwargs) * x
        return super().filled(node, call, moving, lead, constants)

    def has_offset(self, node: Node, call: Call) -> bool:
        """Return whether a term is constant."""
        return any(not isinstance(a, Node) or a not in call.perturbed for a in node.args[:2])

    def ends(
        self, node: Node, call: Call, lower: Lookup, upper: Lookup, lead: int, constants: bool
    ) -> tuple[Tensor, Tensor]:
        """Add like ends, or unlike ones where the second term is subtracted."""
        a, b = node.args[0], node.args[1]
        if self._scale(node, node.kwargs) >= 0 or not isinstance(b, Node) or b not in call.perturbed:
            return (
                self.filled(node, call, lower, lead, constants),
                self.filled(node, call, upper, lead, constants),
            )
        if a is b:  # (1 - s) x
            first, second = (lower, upper) if self._scale(node, node.kwargs) >= -1 else (upper, lower)
            return tuple(self.filled(node, call, ends, lead, constants) for ends in (first, second))  # type: ignore[return-value]

        def crossed(first: Lookup, second: Lookup) -> Tensor:
            return self.filled(node, call, lambda n: first(n) if n is a else second(n), lead, constants)

        return crossed(lower, upper), crossed(upper, lower)

    def is_local(self, node: Node, call: Call) -> bool:
        """Return whether nothing is broadcast."""
        return all(n.shape == node.shape for n in self.data_nodes(node) if n in call.perturbed)

    def adjoint(self, node: Node, rows: Any, moving: list[Node], call: Call) -> list[tuple[Node, Any]]:
        """Hand the coefficients on, the second term's times its factor."""
        scale = self._scale(node, node.kwargs)
        rows, box = opened(rows)
        found = []
        for place, source in enumerate(node.args[:2]):
            if isinstance(source, Node) and source in call.perturbed:
                part = rows if place == 0 or scale == 1 else scale * rows
                part = unbroadcast(part, source.shape, 2) if source.shape != node.shape else part
                found.append((source, closed(part, box)))
        return found


class NegativeRule(MoveRule):
    """-x."""

    diagonal = True

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Negate."""
        return -args[0]

    def ends(
        self, node: Node, call: Call, lower: Lookup, upper: Lookup, lead: int, constants: bool
    ) -> tuple[Tensor, Tensor]:
        """Change the ends' places."""
        (source,) = node.inputs
        return -upper(source), -lower(source)

    def is_local(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True

    def adjoint(self, node: Node, rows: Any, moving: list[Node], call: Call) -> list[tuple[Node, Any]]:
        """Negate."""
        rows, box = opened(rows)
        return [(moving[0], closed(-rows, box))]


class CatRule(MoveRule):
    """Concatenation along an axis."""

    def apply(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lead: int) -> Tensor:
        """Concatenate behind the leading axes, which are first made equal."""
        parts = args[0]
        shape = torch.broadcast_shapes(*(p.shape[:lead] for p in parts))
        parts = [p.expand(*shape, *p.shape[lead:]) for p in parts]
        axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(node.shape)
        return torch.cat(parts, axis + lead)

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Cut into parts."""
        axis = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(node.shape)
        parts = rows.split([n.shape[axis] for n in node.args[0]], axis + 2)
        return [(n, part) for n, part in zip(node.args[0], parts, strict=True) if n in call.perturbed]
