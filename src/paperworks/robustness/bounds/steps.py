"""Functions that jump: rounding, signs and comparisons, and what masks and quantised networks make of them."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.capture import Decomposition, emit, is_moving
from paperworks.robustness.bounds.curves import Curve

aten = torch.ops.aten


@dataclass(frozen=True)
class Steps(Curve):
    """A function that is constant between jumps, bounded by constants or, where it follows x, by lines of slope 1.

    Parameters
    ----------
    near
        The least and greatest value of f(x) - x, None where f does not follow x.
    ends
        The least and greatest values on intervals; those at their ends by default, as of a function that rises.
    """

    near: tuple[float, float] | None = None
    ends: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    rounds: int = 0

    def image(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and greatest values on intervals."""
        return (self.f(lower), self.f(upper)) if self.ends is None else self.ends(lower, upper)

    def intercept(self, slope: Tensor, lower: Tensor, upper: Tensor, above: bool) -> Tensor:
        """Return a bound of f(x) - slope x: by the values, or by how far f is from x, whichever is better."""
        values, (worst, best) = self.image(lower, upper)[above], (torch.minimum, torch.maximum)
        if above:
            worst, best = best, worst
        found = values + worst(-slope * lower, -slope * upper)
        if self.near is None:
            return found
        return best(found, self.near[above] + worst((1 - slope) * lower, (1 - slope) * upper))

    def slope(self, lower: Tensor, upper: Tensor, chord: Tensor, above: bool) -> Tensor:
        """Return 0 or 1, whichever is better in the middle."""
        flat, steep = torch.zeros_like(lower), torch.ones_like(lower)
        if self.near is None:
            return flat
        middle, sign = (lower + upper) / 2, -1.0 if above else 1.0
        by_flat, by_steep = (k * middle + self.intercept(k, lower, upper, above) for k in (flat, steep))
        return torch.where(sign * by_steep > sign * by_flat, steep, flat)

    def slope_range(self, lower: Tensor, upper: Tensor, above: bool) -> tuple[Tensor, Tensor]:
        """Return 0, and 1 where f follows x."""
        return torch.zeros_like(lower), torch.full_like(lower, 0.0 if self.near is None else 1.0)


def _steps(
    f: Callable[[Tensor], Tensor],
    near: tuple[float, float] | None = None,
    ends: Any = None,
    domain: tuple[float, float] = (-math.inf, math.inf),
) -> Steps:
    return Steps(f, torch.zeros_like, near=near, ends=ends, increasing=ends is None, domain=domain)


STEPS: dict[Any, Callable[..., Curve]] = {
    aten.sign.default: lambda: _steps(torch.sign),
    aten.floor.default: lambda: _steps(torch.floor, (-1.0, 0.0)),
    aten.ceil.default: lambda: _steps(torch.ceil, (0.0, 1.0)),
    aten.round.default: lambda: _steps(torch.round, (-0.5, 0.5)),
    aten.trunc.default: lambda: _steps(torch.trunc, (-1.0, 1.0)),
    "whole": lambda low, high: _steps(torch.trunc, (-1.0, 1.0), domain=(low, high)),
    "above": lambda: _steps(lambda x: (x > 0).to(x)),
    "at_least": lambda: _steps(lambda x: (x >= 0).to(x)),
    "equal": lambda: _steps(
        lambda x: (x == 0).to(x),
        ends=lambda lower, upper: (((lower == 0) & (upper == 0)).to(lower), ((lower <= 0) & (upper >= 0)).to(lower)),
    ),
}


def _above(a: Any, b: Any) -> Tensor:
    return emit("above", lambda: a > b, a - b)


def _at_least(a: Any, b: Any) -> Tensor:
    return emit("at_least", lambda: a >= b, a - b)


def _equal(a: Any, b: Any) -> Tensor:
    return emit("equal", lambda: a == b, a - b)


def _not(a: Tensor) -> Tensor:
    return torch.where(a, torch.zeros_like(a), torch.ones_like(a))


def _boolean(a: Tensor) -> Any:
    return _not(a) if a.dtype == torch.bool else NotImplemented


def _any(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return _truth(x).amax(dim, keepdim)


def _all(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return _not(_not(_truth(x)).amax(dim, keepdim))


def _chosen(x: Tensor, mask: Tensor, number: Any) -> Any:
    """Fill by a mask that is perturbed, as a choice; by another one there is a rule."""
    if not is_moving(mask):
        return NotImplemented
    return torch.where(mask, torch.as_tensor(number, dtype=x.dtype, device=x.device).expand(x.shape), x)


def _truth(x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else _not(_equal(x, 0))


def _of_truths(combine: Decomposition) -> Decomposition:
    """Take numbers that aren't 0 for true."""
    return lambda a, *rest: combine(_truth(a), *(_truth(b) if isinstance(b, Tensor) else b for b in rest))


def _of_booleans(combine: Decomposition) -> Decomposition:
    """Leave whole numbers, whose bits are combined, without a rule."""
    return lambda a, b: combine(a, b) if a.dtype == b.dtype == torch.bool else NotImplemented


def _both(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a, b, torch.zeros_like(b)) if is_moving(a) else torch.where(b, a, torch.zeros_like(a))


def _one(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a, torch.ones_like(b), b) if is_moving(a) else torch.where(b, torch.ones_like(a), a)


def _cast(x: Tensor, *, dtype: Any = None, **rest: Any) -> Any:
    if dtype == torch.bool != x.dtype:
        return _truth(x)
    if dtype is None or dtype.is_floating_point or not x.is_floating_point():
        return NotImplemented
    limits = torch.iinfo(dtype)
    return emit("whole", lambda: x.to(dtype), x, float(limits.min) - 1, float(limits.max) + 1)


def _remainder(x: Tensor, m: float) -> Any:
    return x - (x * (1 / m)).floor() * m if x.is_floating_point() else NotImplemented


def _quantized(x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    (scale,) = struct.unpack("f", struct.pack("f", scale))  # as torch has it
    whole = (x * (1 / scale)).round() + zero_point
    return (whole.clamp(quant_min, quant_max) - zero_point) * scale, torch.ones_like(x, dtype=torch.bool)


COMPARISONS: dict[Any, Decomposition] = {
    **dict.fromkeys((aten.gt.Scalar, aten.gt.Tensor), _above),
    **dict.fromkeys((aten.ge.Scalar, aten.ge.Tensor), _at_least),
    **dict.fromkeys((aten.lt.Scalar, aten.lt.Tensor), lambda a, b: _above(b, a)),
    **dict.fromkeys((aten.le.Scalar, aten.le.Tensor), lambda a, b: _at_least(b, a)),
    **dict.fromkeys((aten.eq.Scalar, aten.eq.Tensor), _equal),
    **dict.fromkeys((aten.ne.Scalar, aten.ne.Tensor), lambda a, b: _not(_equal(a, b))),
    aten.logical_not.default: _of_truths(_not),
    aten.bitwise_not.default: _boolean,
    aten.logical_and.default: _of_truths(_both),
    aten.bitwise_and.Tensor: _of_booleans(_both),
    aten.logical_or.default: _of_truths(_one),
    aten.bitwise_or.Tensor: _of_booleans(_one),
    **dict.fromkeys((aten.any.default, aten.any.dim, aten.any.dims), _any),
    **dict.fromkeys((aten.all.default, aten.all.dim, aten.all.dims), _all),
    aten.masked_fill.Scalar: _chosen,
    aten.masked_fill.Tensor: _chosen,
    aten._to_copy.default: _cast,
    aten.frac.default: lambda x: x - x.trunc(),
    aten.remainder.Scalar: _remainder,
    aten.fake_quantize_per_tensor_affine_cachemask.default: _quantized,
}
