"""The functions of one variable that networks use, each with its curvature."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from paperworks.robustness.bounds.curves import Curve, Piece

_ROOT_2_PI = math.sqrt(2 * math.pi)


def _logit_of_slope(k: Tensor) -> Tensor:
    """Return x <= 0 with sigmoid'(x) = k."""
    k = k.clamp(0, 0.25)
    s = 2 * k / (1 + (1 - 4 * k).clamp(min=0).sqrt())
    return s.log() - torch.log1p(-s)


def s_shaped(
    f: Callable[[Tensor], Tensor],
    df: Callable[[Tensor], Tensor],
    right: Callable[[Tensor], Tensor],
    absolute: float = 0.0,
) -> Curve:
    """Return an increasing curve, convex left of 0 and concave right of it, whose derivative is even."""
    pieces = [Piece(True, lambda k: -right(k), end=0.0), Piece(False, right, start=0.0)]
    return Curve(f, df, pieces, increasing=True, s_shaped=True, absolute=absolute)


def sigmoid() -> Curve:
    """1 / (1 + exp(-x))."""
    return s_shaped(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), lambda k: -_logit_of_slope(k))


def tanh() -> Curve:
    """Hyperbolic tangent."""

    def right(k: Tensor) -> Tensor:
        k = k.clamp(0, 1)
        return torch.log1p((1 - k).sqrt()) - k.log() / 2

    return s_shaped(torch.tanh, lambda x: 1 / torch.cosh(x).square(), right)


def erf() -> Curve:
    """The error function."""

    def right(k: Tensor) -> Tensor:
        return (-(k.clamp(0, 2 / math.sqrt(math.pi)) * (math.sqrt(math.pi) / 2)).log()).clamp(min=0).sqrt()

    return s_shaped(torch.erf, lambda x: 2 / math.sqrt(math.pi) * (-x * x).exp(), right, absolute=1.0)


def arctan() -> Curve:
    """Inverse tangent."""
    return s_shaped(torch.atan, lambda x: 1 / (1 + x * x), lambda k: (1 / k.clamp(0, 1) - 1).sqrt())


def exponential() -> Curve:
    """exp; the lower tangent touches where it stays positive on the interval."""
    return Curve(
        torch.exp,
        torch.exp,
        [Piece(True, torch.log)],
        increasing=True,
        touch=lambda lower, upper: torch.minimum((lower + upper) / 2, lower + 0.99),
    )


def logarithm() -> Curve:
    """Natural logarithm."""
    return Curve(torch.log, torch.reciprocal, [Piece(False, torch.reciprocal)], increasing=True, domain=(0, math.inf))


def root() -> Curve:
    """Square root."""
    return Curve(
        torch.sqrt,
        lambda x: 0.5 * x.clamp(min=1e-12).rsqrt(),
        [Piece(False, lambda k: 0.25 / k.square())],
        increasing=True,
        domain=(0, math.inf),
        closed=True,
    )


def inverse_root() -> Curve:
    """1 / sqrt(x)."""
    return Curve(
        torch.rsqrt,
        lambda x: -0.5 * x.pow(-1.5),
        [Piece(True, lambda k: (-2 * k).clamp(min=0).pow(-2 / 3))],
        decreasing=True,
        domain=(0, math.inf),
    )


def inverse(positive: bool) -> Curve:
    """1 / x on one side of 0."""
    sign = 1.0 if positive else -1.0
    return Curve(
        torch.reciprocal,
        lambda x: -x.pow(-2),
        [Piece(positive, lambda k: sign * (-k).clamp(min=0).rsqrt())],
        decreasing=True,
        domain=(0, math.inf) if positive else (-math.inf, 0),
    )


def tangent() -> Curve:
    """Tangent, between its poles around 0."""

    def right(k: Tensor) -> Tensor:
        return k.clamp(min=1).rsqrt().acos()

    pieces = [Piece(False, lambda k: -right(k), end=0.0), Piece(True, right, start=0.0)]
    half = math.pi / 2
    return Curve(torch.tan, lambda x: x.cos().pow(-2), pieces, increasing=True, domain=(-half, half), rounds=8)


def arcsine() -> Curve:
    """Inverse sine."""

    def right(k: Tensor) -> Tensor:
        return (1 - k.clamp(min=1).pow(-2)).clamp(min=0).sqrt()

    return Curve(
        torch.asin,
        lambda x: (1 - x * x).clamp(min=1e-12).rsqrt(),
        [Piece(False, lambda k: -right(k), end=0.0), Piece(True, right, start=0.0)],
        increasing=True,
        domain=(-1.0, 1.0),
        closed=True,
        rounds=8,
    )


def arccosine() -> Curve:
    """Inverse cosine."""

    def right(k: Tensor) -> Tensor:
        return (1 - k.clamp(max=-1).pow(-2)).clamp(min=0).sqrt()

    return Curve(
        torch.acos,
        lambda x: -(1 - x * x).clamp(min=1e-12).rsqrt(),
        [Piece(True, lambda k: -right(k), end=0.0), Piece(False, right, start=0.0)],
        decreasing=True,
        domain=(-1.0, 1.0),
        closed=True,
        rounds=8,
        absolute=1.0,
    )


def hyperbolic_sine() -> Curve:
    """Hyperbolic sine."""

    def right(k: Tensor) -> Tensor:
        return k.clamp(min=1).acosh()

    pieces = [Piece(False, lambda k: -right(k), end=0.0), Piece(True, right, start=0.0)]
    return Curve(torch.sinh, torch.cosh, pieces, increasing=True, rounds=8)


def hyperbolic_cosine() -> Curve:
    """Hyperbolic cosine."""
    return Curve(torch.cosh, torch.sinh, [Piece(True, torch.asinh)], rounds=8)


def area_sine() -> Curve:
    """Inverse hyperbolic sine."""
    return s_shaped(torch.asinh, lambda x: (1 + x * x).rsqrt(), lambda k: (k.clamp(0, 1).pow(-2) - 1).sqrt())


def area_cosine() -> Curve:
    """Inverse hyperbolic cosine."""
    return Curve(
        torch.acosh,
        lambda x: (x * x - 1).clamp(min=1e-12).rsqrt(),
        [Piece(False, lambda k: (1 + k.clamp(min=0).pow(-2)).sqrt(), start=1.0)],
        increasing=True,
        domain=(1.0, math.inf),
        closed=True,
        rounds=8,
        absolute=1.0,
    )


def area_tangent() -> Curve:
    """Inverse hyperbolic tangent."""

    def right(k: Tensor) -> Tensor:
        return (1 - k.clamp(min=1).reciprocal()).clamp(min=0).sqrt()

    pieces = [Piece(False, lambda k: -right(k), end=0.0), Piece(True, right, start=0.0)]
    return Curve(
        torch.atanh, lambda x: 1 / (1 - x * x), pieces, increasing=True, domain=(-1.0, 1.0), rounds=8, absolute=1.0
    )


def erfc() -> Curve:
    """The complement of the error function."""

    def right(k: Tensor) -> Tensor:
        return (-((-k).clamp(0, 2 / math.sqrt(math.pi)) * (math.sqrt(math.pi) / 2)).log()).clamp(min=0).sqrt()

    return Curve(
        torch.erfc,
        lambda x: -2 / math.sqrt(math.pi) * (-x * x).exp(),
        [Piece(False, lambda k: -right(k), end=0.0), Piece(True, right, start=0.0)],
        decreasing=True,
        absolute=1.0,
    )


def power(n: float, more_rounds: int = 0) -> Curve:
    """X to a power: a whole one >= 2, or a real one of what isn't negative, whose implementation rounds the power."""
    if n == int(n):
        return _whole_power(int(n))
    return Curve(
        lambda x: x**n,
        lambda x: n * x.clamp(min=1e-12) ** (n - 1),
        [Piece(n > 1 or n < 0, lambda k: (k / n).clamp(min=0) ** (1 / (n - 1)), start=0.0)],
        increasing=n > 0,
        decreasing=n < 0,
        domain=(0, math.inf),
        closed=n > 0,
        rounds=8 + more_rounds,
    )


def _whole_power(n: int) -> Curve:
    def root(k: Tensor) -> Tensor:
        return (k.abs() / n).pow(1 / (n - 1))

    if n % 2:
        pieces = [
            Piece(False, lambda k: -root(k.clamp(min=0)), end=0.0),
            Piece(True, lambda k: root(k.clamp(min=0)), start=0.0),
        ]
    else:
        pieces = [Piece(True, lambda k: k.sign() * root(k))]
    return Curve(lambda x: x**n, lambda x: n * x ** (n - 1), pieces, increasing=n % 2 == 1, rounds=4 + n)


def absolute() -> Curve:
    """|x|: a convex function of two linear pieces."""
    return Curve(torch.abs, torch.sign, kinks=[0.0], rounds=0)


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve:
    """log(1 + exp(beta x)) / beta, concave for a negative beta; torch jumps to x where beta x > threshold."""
    return Curve(
        lambda x: functional.softplus(x, beta, threshold),
        lambda x: torch.sigmoid(beta * x),
        [Piece(beta > 0, lambda k: (k.clamp(0, 1).log() - torch.log1p(-k.clamp(0, 1))) / beta)],
        increasing=True,
        slack=math.exp(-threshold) / abs(beta),
    )


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Curve:
    """ELU, SELU and CELU: an exponential left of 0, a line right of it. Of some signs it falls or is concave."""
    steep = scale * alpha * input_scale
    pieces = [
        Piece(steep * input_scale > 0, lambda k: ((k / steep).clamp(min=0).log() / input_scale).clamp(max=0), end=0.0)
    ]
    return Curve(
        lambda x: torch.where(x > 0, scale * x, scale * alpha * torch.expm1(input_scale * x.clamp(max=0))),
        lambda x: torch.where(x > 0, scale, steep * (input_scale * x.clamp(max=0)).exp()),
        pieces if steep else [],  # else all that is left of 0 is 0
        kinks=[0.0],
        increasing=steep >= 0 and scale >= 0,
        slopes=[scale] if steep else [scale, 0.0],
    )


def leaky_relu(slope: float = 0.01) -> Curve:
    """X right of 0, slope x left of it."""
    return Curve(
        lambda x: functional.leaky_relu(x, slope),
        lambda x: torch.where(x > 0, 1.0, slope),
        kinks=[0.0],
        increasing=slope >= 0,
        slopes=[1.0, slope],
    )


def hardtanh(low: float = -1.0, high: float = 1.0) -> Curve:
    """X cut off below and above; either limit may be infinite."""
    kinks = [k for k in (low, high) if math.isfinite(k)]
    return Curve(
        lambda x: x.clamp(low, high),
        lambda x: ((x > low) & (x < high)).to(x),
        kinks=kinks,
        increasing=True,
        slopes=[0.0, 1.0],
        rounds=1,
    )


def hardsigmoid() -> Curve:
    """Min(max(x + 3, 0), 6) / 6."""
    return Curve(
        functional.hardsigmoid,
        lambda x: ((x > -3) & (x < 3)).to(x) / 6,
        kinks=[-3.0, 3.0],
        increasing=True,
        slopes=[0.0, 1 / 6],
    )


def hardswish() -> Curve:
    """X times hardsigmoid(x): a parabola between two lines."""
    return Curve(
        functional.hardswish,
        lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        [Piece(True, lambda k: (3 * k - 1.5).clamp(-3, 3), -3.0, 3.0)],
        kinks=[-3.0, 3.0],
        slopes=[0.0, 1.0],
        cancels=True,
    )


def softshrink(limit: float = 0.5) -> Curve:
    """X moved towards 0 by a limit."""
    return Curve(
        lambda x: functional.softshrink(x, limit),
        lambda x: (x.abs() > limit).to(x),
        kinks=[-limit, limit],
        increasing=True,
        slopes=[0.0, 1.0],
        cancels=True,
    )


def _gated(f: Callable[[Tensor], Tensor], df: Callable[[Tensor], Tensor], left: float, right: float) -> Curve:
    """Return an activation that is concave, convex between two inflections, and concave again."""
    pieces = [Piece(False, end=left), Piece(True, start=left, end=right), Piece(False, start=right)]
    return Curve(f, df, pieces, cancels=True)


def gelu(approximate: str = "none") -> Curve:
    """GELU, exact or by tanh."""
    if approximate == "tanh":
        c, d = math.sqrt(2 / math.pi), 0.044715

        def slope(x: Tensor) -> Tensor:
            t = torch.tanh(c * (x + d * x**3))
            return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * d * x * x)

        return _gated(lambda x: functional.gelu(x, approximate="tanh"), slope, -1.4185040087908284, 1.4185040087908284)

    def exact_slope(x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-x / math.sqrt(2)) + x * (-x * x / 2).exp() / _ROOT_2_PI

    return _gated(functional.gelu, exact_slope, -math.sqrt(2), math.sqrt(2))


def silu() -> Curve:
    """X times sigmoid(x)."""

    def slope(x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))

    return _gated(functional.silu, slope, -2.3993572805154677, 2.3993572805154677)


def mish() -> Curve:
    """X times tanh(softplus(x))."""

    def slope(x: Tensor) -> Tensor:
        t = functional.softplus(x).tanh()
        return t + x * (1 - t * t) * torch.sigmoid(x)

    return _gated(functional.mish, slope, -2.2563763963607931, 1.4905711794854285)


class PeriodicCurve(Curve):
    """A sine or cosine: the pieces of two periods, onto which every interval is moved in double precision.

    Far from 0, where a line's own rounding would count, lines are constant.
    """

    def _moved(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return moved intervals cut off after a period, by how much they moved, and which span a period."""
        low, high = lower.double(), upper.double()
        by = (low / (2 * math.pi)).detach().floor() * (2 * math.pi)
        wide = high - low >= 2 * math.pi
        return low - by, torch.where(wide, low + 2 * math.pi, high) - by, by, wide

    def _far(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.maximum(lower.abs(), upper.abs()) * torch.finfo(lower.dtype).eps > 1e-3

    def image(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and greatest values on intervals, and a margin for the rounding of what is moved."""
        low, high, by, wide = self._moved(lower, upper)
        flat = torch.zeros_like(low)
        margin = 4 * torch.finfo(torch.float64).eps * by.abs() + torch.finfo(lower.dtype).eps
        least = Curve.intercept(self, flat, low, high, False) - margin
        greatest = Curve.intercept(self, flat, low, high, True) + margin
        least, greatest = torch.where(wide, -1.0, least), torch.where(wide, 1.0, greatest)
        return least.clamp(min=-1.0).to(lower), greatest.clamp(max=1.0).to(lower)

    def intercept(self, slope: Tensor, lower: Tensor, upper: Tensor, above: bool) -> Tensor:
        """Return the greatest or least value of f(x) - slope x; a bound of it on more than a period, and far from 0."""
        low, high, by, wide = self._moved(lower, upper)
        steep, sign = slope.double(), 1.0 if above else -1.0
        reach = torch.maximum(lower.abs(), upper.abs()).double()
        margin = 4 * torch.finfo(lower.dtype).eps * (steep * reach).abs() + 2e-15 * (1 + steep.abs() + reach)
        found = Curve.intercept(self, steep, low, high, above) - steep * by + sign * margin
        ends = torch.stack([-steep * lower, -steep * upper])
        least, greatest = self.image(lower, upper)
        apart = greatest + ends.amax(0) + margin if above else least + ends.amin(0) - margin
        return torch.where(wide | self._far(lower, upper), apart, found).to(lower)

    def slope(self, lower: Tensor, upper: Tensor, chord: Tensor, above: bool) -> Tensor:
        """Return the best slope, 0 on more than a period and far from 0."""
        low, high, _, wide = self._moved(lower, upper)
        found = super().slope(low, high, chord.double(), above).to(lower)
        return torch.where(wide | self._far(lower, upper), 0.0, found)

    def slope_range(self, lower: Tensor, upper: Tensor, above: bool) -> tuple[Tensor, Tensor]:
        """Return the least and greatest slopes worth trying, 0 alone on more than a period and far from 0."""
        low, high, _, wide = self._moved(lower, upper)
        flat = wide | self._far(lower, upper)
        least, greatest = (torch.where(flat, 0.0, end.to(lower)) for end in super().slope_range(low, high, above))
        return least, greatest


def sine() -> Curve:
    """Sine."""
    pi = math.pi

    def concave(turn: float) -> Piece:
        return Piece(False, lambda k: turn + k.clamp(-1, 1).acos(), turn, turn + pi)

    def convex(turn: float) -> Piece:
        return Piece(True, lambda k: turn + 2 * pi - k.clamp(-1, 1).acos(), turn + pi, turn + 2 * pi)

    pieces = [concave(0.0), convex(0.0), concave(2 * pi), convex(2 * pi)]
    return PeriodicCurve(torch.sin, torch.cos, pieces)


def cosine() -> Curve:
    """Cosine."""
    pi = math.pi

    def concave(turn: float) -> Piece:
        return Piece(False, lambda k: turn - k.clamp(-1, 1).asin(), turn - pi / 2, turn + pi / 2)

    def convex(turn: float) -> Piece:
        return Piece(True, lambda k: turn + pi + k.clamp(-1, 1).asin(), turn + pi / 2, turn + 3 * pi / 2)

    pieces = [concave(0.0), convex(0.0), concave(2 * pi), convex(2 * pi), concave(4 * pi)]
    return PeriodicCurve(torch.cos, lambda x: -torch.sin(x), pieces)
