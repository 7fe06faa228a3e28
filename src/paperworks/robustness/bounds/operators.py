"""The rules of ATen's operators."""

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
    ratio,
)
from paperworks.robustness.bounds.reductions import MaxPoolRule, MaxRule, ShiftRule, SoftmaxRule, UnshiftRule
from paperworks.robustness.bounds.registry import Rule, register_bound, registered
from paperworks.robustness.bounds.rounding import double
from paperworks.robustness.bounds.selections import (
    GatherRule,
    MaskedFillRule,
    PartRule,
    WhereRule,
    index_add,
    index_select,
    moved,
    per_axis,
    select_part,
    slice_part,
    unselect,
    unslice,
    window,
)
from paperworks.robustness.bounds.steps import STEPS
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

    def partial(self, node: Node) -> bool:
        """Return True: 0 has no inverse."""
        return True

    def curve(self, node: Node) -> Curve:
        """Return the curve of positive numbers."""
        return self._make(True)

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return everywhere."""
        return None

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the exact image."""
        bounds = call.bounds(node.inputs[0])
        return Interval(*(end.to(call.dtype) for end in self._signed(node, bounds).image(*double(*bounds))))

    def lines(self, node: Node, bounds: Interval, call: Call) -> Any:
        """Return chord and tangent."""
        return self._signed(node, bounds).lines(*double(*bounds), call.dtype)

    def free_lines(self, node: Node, bounds: Interval, call: Call, rows: Tensor) -> Any:
        """Return lines of free slopes."""
        return _AtCurve(self._signed(node, bounds)).free_lines(node, bounds, call, rows)


class ClampRule(ElementwiseRule):
    """A cut at limits, which rounds nothing but these, where the module's type doesn't hold them."""

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return the error of the limits."""
        dtype = call.type_of(node)
        exact = all(float(torch.tensor(limit, dtype=dtype)) == limit for limit in self.curve(node).kinks)
        return None if exact else super().rounding(node, call, size, ends)


class LogOfSumRule(ElementwiseRule):
    """The logarithm of a sum of exponentials, whose lower end may underflow: its own lower end then bounds instead."""

    def __init__(self) -> None:
        super().__init__(functions.logarithm)

    def _underflows(self, bounds: Interval) -> tuple[Tensor, Interval]:
        tiny = torch.finfo(bounds.lower.dtype).tiny
        lower, upper = double(*bounds)
        return bounds.lower < tiny, Interval(lower.clamp(min=tiny), upper.clamp(min=tiny))

    def interval(self, node: Node, call: Call) -> Interval:
        """Return the image, without a lower end where that is lost; the sum's own rule knows it."""
        lost, bounds = self._underflows(call.bounds(node.inputs[0]))
        lower = torch.where(lost, minus_infinity(call.dtype), bounds.lower.log())
        return Interval(lower.to(call.dtype), bounds.upper.log().to(call.dtype))

    def lines(self, node: Node, bounds: Interval, call: Call) -> Lines:
        """Return tangent and chord, or a constant below."""
        lost, bounds = self._underflows(bounds)
        lines = self.curve(node).lines(*bounds, call.dtype)
        assert lines.lower_intercept is not None
        return lines._replace(
            lower_slope=torch.where(lost, 0.0, lines.lower_slope),
            lower_intercept=torch.where(lost, call.ends[node].lower.double(), lines.lower_intercept),
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
    """Places of maxima, or of all elements by their order: defined for clean values alone. Arguments (x, function)."""

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the places that the operator itself finds in each sample: of equal elements, it chooses its own."""
        x, find = args
        return batched(find, 1, (x,), {})


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
    _register(PartRule(slice_part, unslice), aten.slice.Tensor)
    _register(PartRule(select_part, unselect), aten.select.int)
    _register(LinearRule(apply=index_select), aten.index_select.default)
    _register(WhereRule(), aten.where.self)
    _register(GatherRule(), aten.gather.default)
    _register(MaskedFillRule(), aten.masked_fill.Scalar, aten.masked_fill.Tensor)
    _register(
        LinearRule(terms=moved),
        *(aten.flip.default, aten.roll.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
        *(aten.diagonal.default, aten.tril.default, aten.triu.default, aten.diag_embed.default),
        *(aten.channel_shuffle.default, aten.constant_pad_nd.default),
    )
    _register(
        LinearRule(terms=ratio),
        *(aten.repeat.default, aten.upsample_nearest1d.default),
    )
    _register(
        LinearRule(terms=window),
        *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
    )
    _register(LinearRule(terms=per_axis), aten.cumsum.default)
    _register(
        LinearRule(),
        *(aten.index.Tensor, aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.im2col.default),
        *(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.unfold.default),
        *(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default, aten.adaptive_avg_pool1d.default),
        *(aten.upsample_nearest2d.default, aten.upsample_nearest3d.default, aten._upsample_nearest_exact2d.default),
        *(aten.upsample_linear1d.default, aten.upsample_bilinear2d.default, aten.embedding.default),
        *(aten.col2im.default, aten.trace.default),
    )
    _register(LinearRule(data=(0, 3), apply=index_add), aten.index_add.default)
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
    _register(IndexOfExtreme(), "index")
    _register(ReLURule(), aten.relu.default)
    _register(ClampRule(functions.hardtanh), aten.hardtanh.default)
    _register(ReciprocalRule(), aten.reciprocal.default)
    curves: dict[Any, Callable[..., Curve]] = {
        aten.leaky_relu.default: functions.leaky_relu,
        aten.hardsigmoid.default: functions.hardsigmoid,
        aten.hardswish.default: functions.hardswish,
        aten.softshrink.default: functions.softshrink,
        aten.sigmoid.default: functions.sigmoid,
        aten.tanh.default: functions.tanh,
        aten.erf.default: functions.erf,
        aten.erfc.default: functions.erfc,
        aten.tan.default: functions.tangent,
        aten.asin.default: functions.arcsine,
        aten.acos.default: functions.arccosine,
        aten.atan.default: functions.arctan,
        aten.sinh.default: functions.hyperbolic_sine,
        aten.cosh.default: functions.hyperbolic_cosine,
        aten.asinh.default: functions.area_sine,
        aten.acosh.default: functions.area_cosine,
        aten.atanh.default: functions.area_tangent,
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
        **STEPS,
    }
    for op, make in curves.items():
        _register(ElementwiseRule(make), op)


_register_all()
BUILT_IN = registered()
"""Operators that have a rule here, whatever others are registered later."""
