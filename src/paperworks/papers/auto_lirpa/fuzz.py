"""Every rule against extreme values: cases for each registered operator, and the points that may break a bound."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.papers.auto_lirpa.architectures import Lambda
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm

aten: Any = torch.ops.aten
Function = Callable[[Tensor], Tensor]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METHODS: tuple[Any, ...] = ("IBP", "forward", "CROWN")


def const(x: Tensor, *shape: int) -> Tensor:
    """Return fixed numbers of both signs, a 0 and ties among them, that every type represents, like x."""
    n = torch.Size(shape).numel()
    return ((torch.arange(n, device=x.device) * 5) % 17 - 8).to(x.dtype).div(4).reshape(shape)


def _limits(x: Tensor) -> Tensor:
    """Return limits that are infinite for some elements."""
    return torch.where(torch.arange(x.shape[-1]) % 3 == 0, -math.inf, const(x, x.shape[-1])).to(x.dtype)


PLACES = torch.tensor([2, 0, 0, 3])
MASK = torch.tensor([True, False, True, True])


def _times(f: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Return a product of an input with itself, turned about."""
    return lambda x: f(x, x.flip(-1))


def _masked(number: float) -> Function:
    return lambda x: x.masked_fill(MASK, number)


def _hidden(x: Tensor) -> Tensor:
    """Attend to what a mask of minus infinity leaves."""
    return (x + torch.where(MASK, 0.0, -math.inf).to(x.dtype)).softmax(-1)


ROW, SQUARE, IMAGE, VOLUME = (4,), (4, 4), (2, 4, 4), (1, 2, 4, 4)
Case = tuple[Function, tuple[int, ...]]
_UNARY: dict[str, list[tuple[Any, ...]]] = {
    "relu sigmoid tanh erf atan exp log sqrt rsqrt abs hardsigmoid hardswish silu mish sin cos sign floor ceil "
    "round trunc reciprocal erfc tan asin acos sinh cosh asinh acosh atanh": [()],
    "leaky_relu": [(0.25,), (-0.5,), (1.75,), (0.0,)],
    "hardtanh": [(-1.0, 2.0), (0.5, 0.5), (-0.1, 0.3)],
    "softshrink": [(0.5,), (0.0,)],
    "softplus": [(1.0, 20.0), (-1.5, 20.0), (4.0, 1.0)],
    "elu": [(1.0,), (-0.5,), (0.0,), (1.5, -0.75), (1.0, 1.0, 2.0), (2.0, 1.0, -0.5)],
    "celu": [(1.0,), (-0.5,), (4.0,)],
}


def _with(op: Any, parameters: tuple[Any, ...]) -> Case:
    return lambda x: op(x, *parameters), ROW


CASES: dict[str, list[Case]] = {
    "aten.gelu.default": [(F.gelu, ROW), (lambda x: F.gelu(x, approximate="tanh"), ROW)],
    "power": [_with(torch.pow, (n,)) for n in (2, 3, 4, 7, -2, -3, 1.5, 0.3, 2.7, -1.3)],
    "whole": [(lambda x: x.to(torch.int64).to(x.dtype) * 2, ROW)],
    "above": [(lambda x: torch.where(x > 0.5, x, -x), ROW), (_times(lambda x, y: x.masked_fill(x < y, 0.0)), ROW)],
    "at_least": [(lambda x: (x >= 0) * x + (x <= 1.0), ROW)],
    "equal": [(lambda x: (x == 0) * 2.0 + (x != 1.0).to(x.dtype) * x, ROW)],
    "aten.view.default": [(lambda x: x.view(len(x), 2, 2), ROW)],
    "aten._unsafe_view.default": [(lambda x: aten._unsafe_view.default(x, [len(x), 2, 2]), ROW)],
    "aten.unsqueeze.default": [(lambda x: x.unsqueeze(1), ROW)],
    "aten.squeeze.dim": [(lambda x: x.unsqueeze(2).squeeze(2), ROW)],
    "aten.squeeze.dims": [(lambda x: x[:, None, :, None].squeeze((1, 3)), ROW)],
    "aten.clone.default": [(lambda x: x.clone(), ROW)],
    "aten.detach.default": [(lambda x: aten.detach.default(x), ROW)],
    "aten.alias.default": [(lambda x: aten.alias.default(x), ROW)],
    "aten._to_copy.default": [(lambda x: x.to(torch.float64).to(x.dtype) * 3, ROW), (lambda x: x.half(), ROW)],
    "aten.transpose.int": [(lambda x: x.transpose(1, 2), SQUARE)],
    "aten.permute.default": [(lambda x: x.permute(0, 3, 1, 2), IMAGE)],
    "aten.expand.default": [(lambda x: x[:, :, None].expand(-1, -1, 3) * const(x, 3), ROW)],
    "aten.sum.dim_IntList": [(lambda x: x.sum((1, 2)), SQUARE)],
    "aten.mean.dim": [(lambda x: x.mean(1), SQUARE), (lambda x: x - x.mean(-1, keepdim=True), ROW)],
    "aten.add.Tensor": [
        (lambda x: x + const(x, 4), ROW),
        (lambda x: x[:, :, None] + x[:, None], ROW),
        (lambda x: 2 - x, ROW),
        (lambda x: torch.add(x, x, alpha=-1), ROW),
    ],
    "aten.add.Scalar": [(lambda x: aten.add.Scalar(x, 1.5, 2), ROW)],
    "aten.sub.Tensor": [(_times(torch.sub), ROW), (lambda x: x.sub(x, alpha=3), ROW)],
    "aten.sub.Scalar": [(lambda x: aten.sub.Scalar(x, 1.5), ROW)],
    "aten.neg.default": [(torch.neg, ROW)],
    "aten.cat.default": [(lambda x: torch.cat([x, -x, torch.ones_like(x)], 1), ROW)],
    "aten.slice.Tensor": [(lambda x: x[:, 1:, ::2] - x[:, :3, 2:], SQUARE)],
    "aten.select.int": [(lambda x: x[:, 1] - x[:, :, 2], SQUARE)],
    "aten.index_select.default": [(lambda x: x.index_select(1, PLACES), ROW)],
    "aten.where.self": [(lambda x: torch.where(MASK, x, -2 * x), ROW), (lambda x: torch.where(x > 0, x * x, x), ROW)],
    "aten.gather.default": [(lambda x: x.gather(1, PLACES.expand(len(x), -1)), ROW)],
    "aten.masked_fill.Scalar": [(_masked(n), ROW) for n in (-1e4, -65504.0, 0.1)],
    "aten.masked_fill.Tensor": [(lambda x: x.masked_fill(MASK, torch.tensor(-2.0, dtype=x.dtype)), ROW)],
    "aten.flip.default": [(lambda x: x.flip(1) - x, ROW)],
    "aten.roll.default": [(lambda x: x.roll(1, 1) + x, ROW)],
    "aten.pixel_shuffle.default": [(lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2), IMAGE)],
    "aten.pixel_unshuffle.default": [(lambda x: F.pixel_unshuffle(x, 2), IMAGE)],
    "aten.diagonal.default": [(lambda x: x.diagonal(dim1=1, dim2=2), SQUARE)],
    "aten.tril.default": [(lambda x: x.tril(-1), SQUARE)],
    "aten.triu.default": [(lambda x: x.triu(1), SQUARE)],
    "aten.diag_embed.default": [(torch.diag_embed, ROW)],
    "aten.channel_shuffle.default": [(lambda x: F.channel_shuffle(x, 2), (4, 2, 2))],
    "aten.constant_pad_nd.default": [(lambda x: F.pad(x, (1, 2), value=2.0), ROW)],
    "aten.repeat.default": [(lambda x: x.repeat(1, 3) * const(x, 12), ROW)],
    "aten.upsample_nearest1d.default": [(lambda x: F.interpolate(x, scale_factor=2), SQUARE)],
    "aten.avg_pool2d.default": [(lambda x: F.avg_pool2d(x, 2, 1, 1), IMAGE)],
    "aten.avg_pool3d.default": [(lambda x: F.avg_pool3d(x, 2, 1), VOLUME)],
    "aten.cumsum.default": [(lambda x: x.cumsum(1), ROW)],
    "aten.index.Tensor": [(lambda x: x[:, PLACES] - x[:, [1, 1, 2, 3]], ROW)],
    "aten.reflection_pad1d.default": [(lambda x: F.pad(x, (1, 2), "reflect"), SQUARE)],
    "aten.reflection_pad2d.default": [(lambda x: F.pad(x, (1, 0, 1, 1), "reflect"), IMAGE)],
    "aten.im2col.default": [(lambda x: F.unfold(x, 2), IMAGE)],
    "aten.replication_pad1d.default": [(lambda x: F.pad(x, (3, 1), "replicate"), SQUARE)],
    "aten.replication_pad2d.default": [(lambda x: F.pad(x, (1, 0, 2, 1), "replicate"), IMAGE)],
    "aten.unfold.default": [(lambda x: x.unfold(1, 3, 1), ROW)],
    "aten._adaptive_avg_pool2d.default": [(lambda x: F.adaptive_avg_pool2d(x, (3, 2)), IMAGE)],
    "aten._adaptive_avg_pool3d.default": [(lambda x: F.adaptive_avg_pool3d(x, (1, 3, 2)), VOLUME)],
    "aten.upsample_nearest2d.default": [(lambda x: F.interpolate(x, scale_factor=2), IMAGE)],
    "aten.upsample_nearest3d.default": [(lambda x: F.interpolate(x, scale_factor=2), VOLUME)],
    "aten._upsample_nearest_exact2d.default": [(lambda x: F.interpolate(x, size=(6, 3), mode="nearest-exact"), IMAGE)],
    "aten.upsample_linear1d.default": [(lambda x: F.interpolate(x, size=7, mode="linear"), SQUARE)],
    "aten.upsample_bilinear2d.default": [(lambda x: F.interpolate(x, size=(5, 3), mode="bilinear"), IMAGE)],
    "aten.col2im.default": [(lambda x: F.fold(x.reshape(len(x), 8, 4), (3, 3), 2), IMAGE)],
    "aten.index_add.default": [(lambda x: const(x, 4).expand_as(x).index_add(1, PLACES, x, alpha=2), ROW)],
    "aten.mul.Tensor": [
        (lambda x: x * const(x, 4), ROW),
        (_times(torch.mul), ROW),
        (lambda x: x * x, ROW),
        (lambda x: x[:, :1] * x, ROW),
    ],
    "aten.mul.Scalar": [(lambda x: aten.mul.Scalar(x, -2.5), ROW), (lambda x: aten.mul.Scalar(x, 0.1), ROW)],
    "aten.mm.default": [(lambda x: x @ const(x, 4, 5), ROW), (lambda x: x @ const(x, 4, 3), SQUARE)],
    "aten.bmm.default": [(_times(torch.matmul), SQUARE)],
    "aten.convolution.default": [
        (lambda x: F.conv2d(x, const(x, 3, 2, 3, 3), const(x, 3), 2, 1), IMAGE),
        (lambda x: F.conv_transpose1d(x, const(x, 4, 2, 3), stride=2), SQUARE),
    ],
    "aten.amax.default": [(lambda x: x.amax(1) - x.amin(1), SQUARE)],
    "max_pool": [(lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE), (lambda x: F.max_pool2d(-x, 2, 1), IMAGE)],
    "aten._softmax.default": [(lambda x: x.softmax(1), ROW), (_hidden, ROW), (lambda x: x.softmax(1), SQUARE)],
    "shift": [(lambda x: F.log_softmax(x, 1), ROW)],
    "unshift": [(lambda x: x.logsumexp(1, keepdim=True), ROW)],
    "log_of_sum": [(lambda x: x.logsumexp((1, 2))[:, None] - x.sum((1, 2))[:, None], SQUARE)],
    "compositions": [
        (lambda x: F.avg_pool1d(x, 3, 1, 1) + F.adaptive_avg_pool1d(x, 1), SQUARE),
        (lambda x: F.layer_norm(x, ROW), ROW),
        (lambda x: F.rms_norm(x, ROW, const(x, 4), 0.125), ROW),
        (lambda x: torch.maximum(x, _limits(x)) - torch.minimum(x, -_limits(x)), ROW),
        (lambda x: x / (1 + x.abs()), ROW),
        (lambda x: F.scaled_dot_product_attention(x, x.flip(1), x), SQUARE),
        (lambda x: F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), reduction="none")[:, None], ROW),
        (lambda x: x.exp().sum(-1, keepdim=True) - x.exp(), ROW),
        (lambda x: x.clamp(-const(x, 4).abs(), const(x, 4).abs()), ROW),
        (lambda x: x.sort(1).values - x, SQUARE),
        (lambda x: x.topk(2, 1).values + x.median(1, keepdim=True).values, ROW),
        (lambda x: x.cumprod(1) + x.cummax(1).values, ROW),
        (_times(torch.atan2), ROW),
        (_times(torch.hypot), ROW),
        (_times(torch.pow), ROW),
        (_times(torch.xlogy), ROW),
        (lambda x: F.adaptive_max_pool2d(x, (3, 2)), IMAGE),
        (lambda x: const(x, 4).expand_as(x).scatter(1, PLACES.expand(len(x), -1)[:, 1:3], x[:, :2]), ROW),
        (lambda x: x.scatter_add(1, PLACES.expand(len(x), -1), x), ROW),
        (lambda x: F.threshold(x, 0.5, -2.0), ROW),
        (lambda x: F.hardshrink(x, 0.5), ROW),
    ],
}
CASES |= {
    f"aten.{name}.default": [_with(getattr(aten, name).default, parameters) for parameters in choices]
    for names, choices in _UNARY.items()
    for name in names.split()
}
ELSEWHERE = {
    "aten.embedding.default": "its indices aren't perturbed; a perturbed table is a weight",
    **dict.fromkeys(("clean_mean", "clean_var"), "held constant"),
    "index": "no bound is given",
    **dict.fromkeys(
        (
            *("aten.reshape.default", "aten._reshape_alias.default", "aten.contiguous.default", "aten.squeeze.default"),
            *("aten.sum.default", "aten.mean.default", "aten.t.default", "aten.trace.default"),
            *("aten.avg_pool1d.default", "aten.adaptive_avg_pool1d.default"),
        ),
        "torch takes it apart before it is recorded, or a sample's graph has another in its place",
    ),
    **dict.fromkeys(("aten.lift_fresh.default", "aten.lift_fresh_copy.default"), "of constants"),
}
"""Operators without a case of their own, and why."""


@dataclass(frozen=True)
class Region:
    """Where intervals lie: sizes of middles and widths, as powers of 10 to the greatest that a type squares."""

    name: str
    size: float
    width: float


REGIONS = (
    Region("ordinary", 0.0, 0.0),
    Region("narrow", 0.5, -4.0),
    Region("wide", 1.7, 1.7),
    Region("offset", 3.5, -2.0),
    Region("tiny", -6.0, -6.0),
    Region("denormal", -math.inf, -math.inf),
    Region("huge", math.inf, math.inf),
    Region("ties", 0.0, 0.0),
)


def intervals(region: Region, shape: tuple[int, ...], dtype: torch.dtype, generator: Any) -> tuple[Tensor, Tensor]:
    """Return ends (batch, *shape), of points and of numbers of one sign as well."""
    info = torch.finfo(dtype)
    spread = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    sign = torch.randn(shape, generator=generator, dtype=torch.float64).sign()
    if region.name == "denormal":
        middle, width = sign * spread[0] * info.tiny, spread[1] * info.tiny * info.eps * 8
    elif region.name == "huge":
        most = math.log10(info.max) * 0.9
        middle, width = sign * 10 ** (most * (0.5 + 0.5 * spread[0])), 10 ** (most * spread[1])
    else:
        middle, width = sign * spread[0] * 10**region.size, spread[1] * 10**region.width
    if region.name == "ties":
        middle, width = (middle * 4).round() / 2, (width * 4).round() / 2
    kind = torch.randint(4, (len(middle), *(1,) * (middle.ndim - 1)), generator=generator)
    middle = torch.where(kind == 1, middle.abs() + 1.01 * width, middle)  # an interval right of 0
    middle = torch.where(kind == 2, -middle.abs() - 1.01 * width, middle)
    width = torch.where(kind == 3, 0.0, width)
    lower, upper = (middle - width).to(dtype), (middle + width).to(dtype)
    return lower.clamp(-info.max, info.max), upper.clamp(-info.max, info.max)


@dataclass
class Found:
    """What a case gave: points held against bounds, those beyond, bounds that were refused."""

    points: int = 0
    beyond: int = 0
    refused: int = 0
    unnamed: int = 0
    """Errors that name no operator."""


def tried(case: Case, dtype: torch.dtype, region: Region, batch: int, points: int, seed: int) -> Found:
    """Bound a case on intervals of a region, one by one where all are refused together, and hold points against it."""
    function, shape = case
    generator = torch.Generator().manual_seed(seed)
    lower, upper = intervals(region, (batch, *shape), dtype, generator)
    found = Found()
    try:
        function(lower)
    except (RuntimeError, NotImplementedError):  # torch hasn't got it in this type
        return found
    example = ((lower / 2 + upper / 2).abs() + 0.5).clamp(max=2).to(dtype)
    bounded = BoundedModule(Lambda(function), example, {"sound": True})
    inner = torch.rand(points, *lower.shape, generator=generator, dtype=torch.float64)
    edge = torch.randint(4, inner.shape, generator=generator)
    inner = torch.where(edge == 0, 0.0, torch.where(edge == 1, 1.0, inner))
    x = (lower + inner * (upper.double() - lower)).to(dtype).clamp(lower, upper)
    outputs = [function(x.flatten(0, 1).double())]  # the function itself, at the numbers that the type holds
    if dtype != torch.float64:
        outputs.append(function(x.flatten(0, 1)).double())
    values = [out.unflatten(0, (points, batch)) for out in outputs]
    for method in METHODS:
        for part in _parts(bounded, method, lower, upper, found):
            low, high, rows = part
            for place, value in enumerate(values):
                held = value[:, rows]
                fits = (held >= low) & (held <= high)
                # Infinities of a type's own evaluation are of steps on the way, which bounds need not follow.
                fits |= ~held.isfinite() if place or dtype == torch.float64 else torch.zeros_like(fits)
                found.beyond += int((~fits).sum())
                found.points += held[..., 0].numel() if held.ndim > 2 else held.numel()
    return found


def _parts(
    bounded: BoundedModule, method: Any, lower: Tensor, upper: Tensor, found: Found
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Yield bounds of all samples, or of each where together they are refused."""

    def bounds(rows: slice) -> tuple[Tensor, Tensor, slice]:
        ball = PerturbationLpNorm(x_L=lower[rows], x_U=upper[rows])
        with torch.no_grad():
            low, high = bounded.compute_bounds(BoundedTensor(lower[rows], ball), method)
        return low.double(), high.double(), rows

    try:
        yield bounds(slice(None))
        return
    except (ValueError, NotImplementedError) as error:
        found.unnamed += "(" not in str(error) and "operator" not in str(error)
    for i in range(len(lower)):
        try:
            yield bounds(slice(i, i + 1))
        except (ValueError, NotImplementedError):
            found.refused += 1


def cases() -> Iterator[tuple[str, int, Case]]:
    """Yield every case with the operator it is for and its number."""
    for name, of_operator in CASES.items():
        for number, case in enumerate(of_operator):
            yield name, number, case
