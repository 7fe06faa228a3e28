"""Lines bound their functions on every interval, and are as tight as the paper's rules."""

import math

import pytest
import torch

from paperworks.robustness.bounds import functions
from paperworks.robustness.bounds.curves import Curve

INF = math.inf
CURVES = {
    "sigmoid": (functions.sigmoid(), -INF, INF),
    "tanh": (functions.tanh(), -INF, INF),
    "erf": (functions.erf(), -INF, INF),
    "arctan": (functions.arctan(), -INF, INF),
    "erfc": (functions.erfc(), -INF, INF),
    "tan": (functions.tangent(), -1.57, 1.57),
    "arcsine": (functions.arcsine(), -1, 1),
    "arccosine": (functions.arccosine(), -1, 1),
    "sinh": (functions.hyperbolic_sine(), -9, 9),
    "cosh": (functions.hyperbolic_cosine(), -9, 9),
    "area sine": (functions.area_sine(), -INF, INF),
    "area cosine": (functions.area_cosine(), 1, INF),
    "area tangent": (functions.area_tangent(), -0.999, 0.999),
    "power of 1.5": (functions.power(1.5), 0, INF),
    "power of 0.3": (functions.power(0.3), 0, INF),
    "power of 2.5": (functions.power(2.5), 0, INF),
    "power of -1.5": (functions.power(-1.5), 1e-3, INF),
    "exp": (functions.exponential(), -INF, 8),
    "log": (functions.logarithm(), 1e-6, INF),
    "sqrt": (functions.root(), 0, INF),
    "rsqrt": (functions.inverse_root(), 1e-3, INF),
    "1/x, x > 0": (functions.inverse(True), 1e-3, INF),
    "1/x, x < 0": (functions.inverse(False), -INF, -1e-3),
    "square": (functions.power(2), -INF, INF),
    "cube": (functions.power(3), -INF, INF),
    "fourth power": (functions.power(4), -6, 6),
    "fifth power": (functions.power(5), -6, 6),
    "abs": (functions.absolute(), -INF, INF),
    "softplus": (functions.softplus(), -INF, INF),
    "steep softplus": (functions.softplus(3.0), -INF, INF),
    "elu": (functions.elu(), -INF, INF),
    "elu of slope 2": (functions.elu(2.0), -INF, INF),
    "falling elu": (functions.elu(-0.5), -INF, INF),
    "elu of slope 0": (functions.elu(0.0), -INF, INF),
    "concave celu": (functions.elu(-0.5, 1.0, -2.0), -4, INF),
    "selu of negative scale": (functions.elu(1.5, -0.7), -INF, INF),
    "concave softplus": (functions.softplus(-1.5), -INF, INF),
    "selu": (functions.elu(1.6732632423543772, 1.0507009873554805), -INF, INF),
    "leaky relu": (functions.leaky_relu(0.1), -INF, INF),
    "concave leaky relu": (functions.leaky_relu(1.7), -INF, INF),
    "falling leaky relu": (functions.leaky_relu(-0.3), -INF, INF),
    "hardtanh": (functions.hardtanh(-1.0, 2.0), -INF, INF),
    "clamp": (functions.hardtanh(0.5, INF), -INF, INF),
    "hardsigmoid": (functions.hardsigmoid(), -INF, INF),
    "hardswish": (functions.hardswish(), -INF, INF),
    "softshrink": (functions.softshrink(), -INF, INF),
    "gelu": (functions.gelu(), -INF, INF),
    "gelu by tanh": (functions.gelu("tanh"), -INF, INF),
    "silu": (functions.silu(), -INF, INF),
    "mish": (functions.mish(), -INF, INF),
    "sine": (functions.sine(), -INF, INF),
    "cosine": (functions.cosine(), -INF, INF),
}


def intervals(low, high, n=3000):
    generator = torch.Generator().manual_seed(0)
    middle = 8 * torch.rand(n, dtype=torch.float64, generator=generator) - 4
    middle[: n // 4] *= 4
    width = 10 ** (7 * torch.rand(n, dtype=torch.float64, generator=generator) - 6)
    lower, upper = (middle - width).clamp(low, high), (middle + width).clamp(low, high)
    upper[:20] = lower[:20]  # points
    return lower, upper


@pytest.mark.parametrize("name", CURVES)
def test_lines_and_images_hold(name):
    curve, low, high = CURVES[name]
    lower, upper = intervals(low, high)
    at = lower + (upper - lower) * torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    at = torch.cat([at, torch.clamp(torch.zeros_like(lower), lower, upper)[None]])  # where most have their kink
    values = curve.f(at)
    lines = curve.lines(lower, upper)
    scale = 1e-11 * (1 + values.abs().amax(0) + (lines.lower_slope.abs() + lines.upper_slope.abs()) * at.abs().amax(0))
    assert (lines.lower_slope * at + lines.lower_intercept <= values + scale).all()
    assert (lines.upper_slope * at + lines.upper_intercept >= values - scale).all()
    least, greatest = curve.image(lower, upper)
    assert (least <= values.amin(0) + scale).all()
    assert (greatest >= values.amax(0) - scale).all()
    spread = values.amax(0) - values.amin(0)
    assert (least >= values.amin(0) - 0.02 * spread - scale - 1e-7).all()
    assert (greatest <= values.amax(0) + 0.02 * spread + scale + 1e-7).all()
    # Any slope bounds, and the chosen one is at most a little worse in the middle than the best of many.
    middle = (lower + upper) / 2
    for above in (False, True):
        low_slope, high_slope = curve.slope_range(lower, upper, above)
        sign = -1 if above else 1
        chosen = (lines.upper_slope if above else lines.lower_slope) * middle
        chosen = chosen + (lines.upper_intercept if above else lines.lower_intercept)
        for share in torch.linspace(0, 1, 7, dtype=torch.float64):
            slope = low_slope + share * (high_slope - low_slope)
            intercept = curve.intercept(slope, lower, upper, above)
            assert (sign * (slope * at + intercept - values) <= scale + 1e-11 * slope.abs() * at.abs().amax(0)).all()
            gain = sign * (slope * middle + intercept - chosen)
            if name not in ("exp", "sine", "cosine"):  # exp stays positive instead; a wave may have many candidates
                assert (gain <= 0.12 * spread + 2 * scale + 1e-7).all(), (above, float(share))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "log", "square", "1/x, x > 0"])
def test_lines_are_those_of_the_paper(name):
    curve, low, high = CURVES[name]
    lower, upper = intervals(low, high)
    wide = (upper - lower) > 1e-4
    lower, upper = lower[wide], upper[wide]
    middle = (lower + upper) / 2
    chord = (curve.f(upper) - curve.f(lower)) / (upper - lower)
    lines = curve.lines(lower, upper)
    if name in ("sigmoid", "tanh"):
        for part, convex in ((upper <= 0, True), (lower >= 0, False)):
            tangent, line = (lines.lower_slope, lines.upper_slope) if convex else (lines.upper_slope, lines.lower_slope)
            torch.testing.assert_close(line[part], chord[part], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(tangent[part], curve.df(middle)[part], rtol=1e-6, atol=1e-9)
        mixed = (lower < 0) & (upper > 0)
        by_chord = mixed & (chord < curve.df(lower))
        torch.testing.assert_close(lines.lower_slope[by_chord], chord[by_chord], rtol=1e-6, atol=1e-9)
        # Else the tangent through the right end, or a better one: that is far below where most of the interval is left.
        through = mixed & ~by_chord
        low, high, end = lower[through], torch.zeros_like(lower[through]), upper[through]
        for _ in range(60):
            touch = (low + high) / 2
            left = curve.f(touch) + curve.df(touch) * (end - touch) < curve.f(end)
            low, high = torch.where(left, touch, low), torch.where(left, high, touch)
        paper = curve.f(end) + curve.df(low) * (middle[through] - end)
        found = (lines.lower_slope * middle + lines.lower_intercept)[through]
        assert through.sum() > 100
        assert (found >= paper - 1e-3).all()
        return
    touch = torch.minimum(middle, lower + 0.99) if name == "exp" else middle
    convex = name != "log"
    tangent, line = (lines.lower_slope, lines.upper_slope) if convex else (lines.upper_slope, lines.lower_slope)
    torch.testing.assert_close(line, chord)
    torch.testing.assert_close(tangent, curve.df(touch))
    if name == "exp":
        assert (lines.lower_slope * lower + lines.lower_intercept > 0).all(), "the lower line stays positive"


def test_lines_are_differentiable_in_the_ends():
    for name in ("tanh", "exp", "sine", "hardswish", "square"):
        curve, *_ = CURVES[name]
        lower = torch.tensor([-1.3, -0.7, 0.3], dtype=torch.float64, requires_grad=True)
        upper = torch.tensor([-0.2, -0.1, 1.1], dtype=torch.float64, requires_grad=True)

        def ends(lower, upper, curve=curve):
            lines = curve.lines(lower, upper)
            # What backward bounds are made of: the lines' values at both ends.
            return torch.stack([k * x + c for k, c in (lines[:2], lines[2:]) for x in (lower, upper)])

        gradients = torch.autograd.grad(ends(lower, upper).sum(), (lower, upper))
        for gradient, place in zip(gradients, (0, 1), strict=True):
            step = [torch.full_like(lower, 1e-6) if i == place else torch.zeros_like(lower) for i in (0, 1)]
            with torch.no_grad():
                up, down = (ends(lower + s * step[0], upper + s * step[1]) for s in (1, -1))
            torch.testing.assert_close(gradient, (up - down).sum(0) / 2e-6, rtol=2e-3, atol=2e-3)


def test_a_curve_is_checked_against_its_domain():
    curve = Curve(torch.log, torch.reciprocal, domain=(0.0, INF))
    with pytest.raises(ValueError, match=r"x is bounded by \[0, 1\]; it takes an interval inside \(0, inf\)"):
        curve.check(torch.tensor(0.0), torch.tensor(1.0), "x")


@pytest.mark.parametrize("name", ["sine", "cosine"])
@pytest.mark.parametrize("center", [1e3, 1e5, 1e6, -1e6])
def test_periodic_functions_are_bounded_far_from_0(name, center):
    curve = CURVES[name][0]
    middle = center + 100 * torch.rand(500, generator=torch.Generator().manual_seed(0))
    lower, upper = middle - 0.5, middle + 0.5
    low, high = curve.image(lower, upper)
    lines = curve.lines(lower, upper)
    for share in torch.linspace(0, 1, 21):
        x = torch.clamp(lower + share * (upper - lower), lower, upper)
        value = curve.f(x.double())  # the function itself, at the number that float32 holds
        assert (value >= low).all()
        assert (value <= high).all()
        below = value - (lines.lower_slope.double() * x + lines.lower_intercept)
        above = lines.upper_slope.double() * x + lines.upper_intercept - value
        assert min(below.min(), above.min()) >= 0
    assert (high - low).mean() < 1.2  # of 2: the interval is a sixth of a period
