"""The rules of ATen's operators."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds import functions
from paperworks.robustness.bounds.bilinear import ConvolutionRule, MatmulRule, MultiplyRule
from paperworks.robustness.bounds.call import Call, minus_infinity
from paperworks.robustness.bounds.curves import Curve, Lines
from paperworks.robustness.bounds.elementwise import ElementwiseRule, ReLURule
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.linear import (
    AddRule,
    CastRule,
    CatRule,
    ExpandRule,
    LinearRule,
    NegativeRule,
    PermuteRule,
    ReshapeRule,
    SumRule,
    align,
    leading,
)
from paperworks.robustness.bounds.reductions import MaxPoolRule, MaxRule, ShiftRule, SoftmaxRule, UnshiftRule
from paperworks.robustness.bounds.registry import Rule, register_bound
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds, batched

aten = torch.ops.aten


class ReciprocalRule(ElementwiseRule):
    """1 / x, on whichever side of 0 the intervals are."""

    def __init__(self) -> None:
        super().__init__(functions.inverse)

    def _signed(self, node: Node, bounds: Interval) -> Curve:
        positive = bool((bounds.lower > 0).all())
        if not positive and not bool((bounds.upper < 0).all()):
            least, greatest = float(bounds.lower.detach().min()), float(bounds.upper.detach().max())
            raise ValueError(
                f"the input of {node.name!r} ({node.op}) is bounded by [{least:g}, {greatest:g}]; it takes an interval "
                "of positive or of negative numbers"
            )
        return self._make(positive)

    def curve(self, node: Node) -> Curve:
        """Return the curve of positive numbers."""
        return self._make(True)

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return everywhere."""
        return None

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image."""
        bounds = call.bounds(node.inputs[0])
        return Interval(*self._signed(node, bounds).image(*bounds))

    def lines(self, node: Node, bounds: Interval, call: Call) -> Any:
        """Return chord and tangent."""
        return self._signed(node, bounds).lines(*bounds)

    def free_lines(self, node: Node, bounds: Interval, call: Call, rows: Tensor) -> Any:
        """Return lines of free slopes."""
        return _AtCurve(self._signed(node, bounds)).free_lines(node, bounds, call, rows)


class LogOfSumRule(ElementwiseRule):
    """The logarithm of a sum of exponentials, whose lower end may underflow: its own lower end then bounds instead."""

    def __init__(self) -> None:
        super().__init__(functions.logarithm)

    def _underflows(self, bounds: Interval) -> tuple[Tensor, Interval]:
        tiny = torch.finfo(bounds.lower.dtype).tiny
        return bounds.lower < tiny, Interval(bounds.lower.clamp(min=tiny), bounds.upper.clamp(min=tiny))

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the image, without a lower end where that is lost; the sum's own rule knows it."""
        lost, bounds = self._underflows(call.bounds(node.inputs[0]))
        return Interval(torch.where(lost, -1e9, bounds.lower.log()), bounds.upper.log())

    def lines(self, node: Node, bounds: Interval, call: Call) -> Lines:
        """Return tangent and chord, or a constant below."""
        lost, bounds = self._underflows(bounds)
        lines = self.curve(node).lines(*bounds)
        assert lines.lower_intercept is not None
        return lines._replace(
            lower_slope=torch.where(lost, 0.0, lines.lower_slope),
            lower_intercept=torch.where(lost, call.ends[node].lower, lines.lower_intercept),
        )

    def free_lines(self, node: Node, bounds: Interval, call: Call, rows: Tensor) -> Lines:
        """Return the same lines: nothing is free."""
        return self.lines(node, bounds, call)


class _AtCurve(ElementwiseRule):
    """The rule of one curve, whatever the node."""

    def __init__(self, curve: Curve) -> None:
        self._curve = curve

    def curve(self, node: Node) -> Curve:
        return self._curve


class Unsupported(Rule):
    """An operator whose value may be read where nothing is perturbed, and that has no bound."""

    def _refuse(self, node: Node) -> Any:
        raise NotImplementedError(f"operator {node.op} (node {node.name!r}) has no rule to bound it")

    def interval(self, node: Node, call: Call) -> Interval:
        """Refuse."""
        return self._refuse(node)

    def backward(self, node: Node, rows: Tensor, call: Call) -> Backward:
        """Refuse."""
        return self._refuse(node)

    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Refuse."""
        return self._refuse(node)


class BatchStatistic(Unsupported):
    """A statistic of each channel of the clean batch, which bounds hold constant."""

    def __init__(self, variance: bool) -> None:
        self.variance = variance

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the statistic over samples and places; axes are (sample, 1, channel, *space)."""
        x = args[0]
        axes = [0, 1, *range(3, x.ndim)]
        return (x.var(axes, correction=0) if self.variance else x.mean(axes))[None]


class IndexOfExtreme(Unsupported):
    """Places of maxima, defined for clean values alone."""

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Refuse: nothing may read it."""
        return self._refuse(node)


class PartRule(LinearRule):
    """Slices and selections, told the adjoint: it takes rows, the shape behind the leading axes, and the arguments."""

    diagonal = True

    def __init__(self, apply: Callable[..., Tensor], back: Callable[..., Tensor]) -> None:
        super().__init__(apply=apply)
        self.back = back

    def adjoint(self, node: Node, rows: Tensor, moving: list[Node], call: Call) -> list[tuple[Node, Tensor]]:
        """Put rows in their place among zeros."""
        return [(moving[0], self.back(rows, moving[0].shape, *node.args[1:]))]


def _unslice(
    rows: Tensor, shape: Sequence[int], dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    whole, n = [*rows.shape[:2], *shape], shape[dim]
    start, end, _ = slice(start, end).indices(n)
    return aten.slice_backward(rows, whole, 2 + dim % len(shape), start, end, step)


def _unselect(rows: Tensor, shape: Sequence[int], dim: int, index: int) -> Tensor:
    return aten.select_backward(rows, [*rows.shape[:2], *shape], 2 + dim % len(shape), index)


def _slice(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    x, rest = args[0], list(args[1:]) + [None] * (5 - len(args))
    dim = (rest[0] or 0) % len(node.shape)
    return aten.slice(x, lead + dim, rest[1], rest[2], 1 if rest[3] is None else rest[3])


def _select(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    return args[0].select(lead + args[1] % len(node.inputs[0].shape), args[2])


def _index_select(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    if args[2].shape[:lead].numel() != 1:
        return batched(node.op, lead, args, kwargs)
    return args[0].index_select(lead + args[1] % len(node.shape), args[2][(0,) * lead])


def _where(node: Node, args: Any, kwargs: Any, lead: int) -> Tensor:
    rank = len(node.shape)
    condition, a, b = (align(t, t.shape[lead:], rank) if isinstance(t, Tensor) else t for t in args)
    return torch.where(condition, a, b)


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

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the filled value."""
        rank = len(node.shape)
        x, mask = (align(t, t.shape[1:], rank) for t in args[:2])
        return torch.where(mask, args[2], x)

    def has_offset(self, node: Node, call: Call) -> bool:
        """Return True."""
        return True


def _transposed(rank: int, *dims: int) -> Sequence[int]:
    order = list(range(rank))
    a, b = dims or (0, 1)
    order[a], order[b] = order[b], order[a]
    return order


def _register(rule: Rule, *ops: Any) -> None:
    for op in ops:
        register_bound(op, rule)


def _register_all() -> None:
    _register(
        ReshapeRule(),
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default),
        *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.clone.default),
        *(aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default),
        aten.contiguous.default,
    )
    _register(CastRule(), aten._to_copy.default)
    _register(PermuteRule(_transposed), aten.t.default, aten.transpose.int)
    _register(PermuteRule(lambda rank, dims: dims), aten.permute.default)
    _register(ExpandRule(), aten.expand.default)
    _register(SumRule(), aten.sum.default, aten.sum.dim_IntList)
    _register(SumRule(mean=True), aten.mean.default, aten.mean.dim)
    _register(AddRule(), aten.add.Tensor, aten.add.Scalar)
    _register(AddRule(-1), aten.sub.Tensor, aten.sub.Scalar)
    _register(NegativeRule(), aten.neg.default)
    _register(CatRule(), aten.cat.default)
    _register(PartRule(_slice, _unslice), aten.slice.Tensor)
    _register(PartRule(_select, _unselect), aten.select.int)
    _register(LinearRule(apply=_index_select), aten.index_select.default)
    _register(LinearRule(data=(1, 2), apply=_where), aten.where.self)
    _register(GatherRule(), aten.gather.default)
    _register(MaskedFillRule(), aten.masked_fill.Scalar, aten.masked_fill.Tensor)
    _register(
        LinearRule(),
        *(aten.index.Tensor, aten.flip.default, aten.roll.default, aten.repeat.default),
        *(aten.constant_pad_nd.default, aten.reflection_pad1d.default, aten.reflection_pad2d.default),
        *(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.cumsum.default),
        *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
        *(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default, aten.adaptive_avg_pool1d.default),
        *(aten.upsample_nearest1d.default, aten.upsample_nearest2d.default, aten.upsample_nearest3d.default),
        *(aten.upsample_linear1d.default, aten.upsample_bilinear2d.default, aten._upsample_nearest_exact2d.default),
        *(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.unfold.default, aten.im2col.default),
        *(aten.col2im.default, aten.diagonal.default, aten.tril.default, aten.triu.default, aten.trace.default),
        *(aten.embedding.default, aten.diag_embed.default, aten.channel_shuffle.default),
    )
    _register(MultiplyRule(), aten.mul.Tensor, aten.mul.Scalar)
    _register(MatmulRule(), aten.mm.default, aten.bmm.default)
    _register(ConvolutionRule(), aten.convolution.default)
    _register(MaxRule(), aten.amax.default)
    _register(MaxPoolRule(), "max_pool")
    _register(SoftmaxRule(), aten._softmax.default)
    _register(ShiftRule(), "shift")
    _register(UnshiftRule(), "unshift")
    _register(LogOfSumRule(), "log_of_sum")
    _register(BatchStatistic(variance=False), "clean_mean")
    _register(BatchStatistic(variance=True), "clean_var")
    _register(IndexOfExtreme(), "index_of_maximum", "index_of_minimum")
    _register(ReLURule(), aten.relu.default)
    _register(ReciprocalRule(), aten.reciprocal.default)
    curves: dict[Any, Callable[..., Curve]] = {
        aten.leaky_relu.default: functions.leaky_relu,
        aten.hardtanh.default: functions.hardtanh,
        aten.hardsigmoid.default: functions.hardsigmoid,
        aten.hardswish.default: functions.hardswish,
        aten.softshrink.default: functions.softshrink,
        aten.sigmoid.default: functions.sigmoid,
        aten.tanh.default: functions.tanh,
        aten.erf.default: functions.erf,
        aten.atan.default: functions.arctan,
        aten.exp.default: functions.exponential,
        aten.log.default: functions.logarithm,
        aten.sqrt.default: functions.root,
        aten.rsqrt.default: functions.inverse_root,
        aten.abs.default: functions.absolute,
        aten.softplus.default: functions.softplus,
        aten.elu.default: functions.elu,
        aten.celu.default: lambda alpha=1.0: functions.elu(alpha, 1.0, 1 / alpha),
        aten.gelu.default: functions.gelu,
        aten.silu.default: functions.silu,
        aten.mish.default: functions.mish,
        aten.sin.default: functions.sine,
        aten.cos.default: functions.cosine,
        "power": functions.power,
    }
    for op, make in curves.items():
        _register(ElementwiseRule(make), op)


_register_all()
