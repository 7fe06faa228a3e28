"""Bounds hold for the function and for what is computed, whatever the numbers, and are finite or refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_checks import METHODS
from paperworks.papers.auto_lirpa.architectures import Lambda
from paperworks.papers.auto_lirpa.fuzz import CASES, DTYPES, ELSEWHERE, REGIONS, cases, tried
from paperworks.papers.auto_lirpa.vit import VisionTransformer
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm
from paperworks.robustness.bounds.operators import BUILT_IN
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.rounding import depth, outward


def bounds(function, x, eps, method, **options):
    module = function if isinstance(function, nn.Module) else Lambda(function)
    ball = PerturbationLpNorm(eps) if not isinstance(eps, tuple) else PerturbationLpNorm(x_L=eps[0], x_U=eps[1])
    with torch.no_grad():
        return BoundedModule(module, x, options).compute_bounds(BoundedTensor(x, ball), method)


def test_every_rule_has_a_generator_of_cases():
    names = {str(op) for op in BUILT_IN}
    assert names - set(CASES) - set(ELSEWHERE) == set(), "a rule without a case of the fuzzer, or a reason"
    assert set(ELSEWHERE) <= names
    assert set(CASES) - names == {"compositions"}


@pytest.mark.parametrize("name", [name for name in CASES if name != "compositions"])
def test_a_case_reaches_the_rule_it_is_for(name):
    for function, shape in CASES[name]:
        graph, _ = BoundedModule(Lambda(function), torch.ones(1, *shape))._graph()
        moving = set(graph.inputs)
        for node in graph:
            moving |= {node} if moving.intersection(node.inputs) else set()
        assert name in {str(node.op) for node in moving}


@pytest.mark.parametrize(("name", "number", "case"), cases(), ids=lambda v: str(v) if not isinstance(v, tuple) else "")
def test_no_point_is_beyond_a_bound(name, number, case):
    place = sum(map(ord, name)) + number  # another type and other regions for each
    for i in range(3):
        dtype, region = DTYPES[(place + i) % 4], REGIONS[(place + 3 * i) % 8]
        found = tried(case, dtype, region, batch=4, points=12, seed=place)
        assert (found.beyond, found.unnamed) == (0, 0), (dtype, region)


def test_a_rule_that_is_wrong_does_not_pass(monkeypatch):
    from paperworks.robustness.bounds.curves import Curve

    kept = Curve.image
    monkeypatch.setattr(Curve, "image", lambda self, a, b: tuple(end + 1e-3 for end in kept(self, a, b)))
    assert tried((torch.tanh, (4,)), torch.float32, REGIONS[0], 4, 12, 0).beyond > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reach", [50.0, 60.0, 500.0])
def test_softmax_of_wide_logits_is_bounded_by_what_it_reaches(method, reach):
    x = torch.zeros(1, 4)
    lower, upper = bounds(lambda x: x.softmax(-1), x, reach, method)
    assert (lower >= 0).all()
    assert (lower <= 1e-20).all()
    assert ((upper - 1).abs() < 1e-5).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_overflows_is_named(method):
    x = torch.full((1, 3), -50.0)
    function = lambda x: x.exp().sum(-1, keepdim=True) - x.exp()  # noqa: E731
    with pytest.raises(ValueError, match=r"'exp_0' \(aten.exp.default\) are not finite in torch.float32"):
        bounds(function, x, 150.0, method)
    lower, upper = bounds(function, x.double(), 150.0, method)  # what is finite in double precision is bounded there
    assert (lower <= 0).all()
    assert (upper >= 2 * math.exp(100)).all()
    assert (lower.isfinite() & upper.isfinite()).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [-1e10, torch.finfo(torch.float32).min, -math.inf])
def test_masked_attention_is_bounded_as_without_what_is_masked(method, number):
    x = torch.tensor([[0.3, -0.2, 0.5]])
    mask = torch.tensor([False, True, False])
    for fill in (lambda x: x.masked_fill(mask, number), lambda x: x + torch.where(mask, number, 0.0)):
        lower, upper = bounds(lambda x, f=fill: f(x).softmax(-1), x, 0.1, method)
        least, greatest = bounds(lambda x: x[:, [0, 2]].softmax(-1), x, 0.1, method)
        torch.testing.assert_close(lower[:, [0, 2]], least, atol=1e-4, rtol=0)
        torch.testing.assert_close(upper[:, [0, 2]], greatest, atol=1e-4, rtol=0)
        assert 0 <= lower[0, 1] <= upper[0, 1] <= 1e-30


@pytest.mark.parametrize("method", METHODS)
def test_layer_norm_round_an_offset_holds(method):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, generator=generator) + 1e4
    lower, upper = bounds(nn.LayerNorm(8), x, 0.01, method)
    points = x + 0.01 * (2 * torch.rand(400, 3, 8, generator=generator) - 1)
    for value in (F.layer_norm(points, (8,)), F.layer_norm(points.double(), (8,))):
        assert ((lower <= value) & (value <= upper)).all()
    assert float((upper - lower).mean()) < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_denormals_have_inverse_roots(method):
    x = torch.tensor([[3e-40, 2e-39, 1e-38, 7e-45]])
    lower, upper = bounds(torch.rsqrt, x, (x / 2, x * 2), method)
    assert ((lower <= x.double().rsqrt()) & (x.double().rsqrt() <= upper)).all()
    assert (upper / lower < 3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_short_types_are_bounded_for_their_own_evaluation(method, dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    x = torch.randn(3, 6, dtype=dtype)
    lower, upper = bounds(module, x, 0.1, method, steps=4)
    assert lower.dtype == dtype
    with torch.no_grad():
        points = (x + 0.1 * (2 * torch.rand(300, 3, 6) - 1).to(dtype)).clamp(x - 0.1, x + 0.1)
        assert ((lower <= module(points)) & (module(points) <= upper)).all()
        module.double()
        assert ((lower <= module(points.double())) & (module(points.double()) <= upper)).all()
    assert float((upper - lower).mean()) < 3


def test_rounding_goes_away_from_what_is_bounded():
    x = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        lower, upper = outward(x, x, dtype)
        assert (lower.double() <= x).all()
        assert (upper.double() >= x).all()
        assert ((upper.double() - lower.double()) <= 2 * torch.finfo(dtype).eps * x.abs() + 1e-7).all()


@pytest.mark.parametrize("n", [1, 7, 256, 1000, 1009, 4096])
def test_a_sum_in_parts_rounds_no_more_than_its_depth(n):
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(5, 3, n, generator=generator)
    for lead in (1, 3):
        values = torch.randn(lead, n, generator=generator)
        for some in (rows, rows[:, :1]):
            exact = (some.double() * values.double()).sum(-1)
            size = (some.double() * values.double()).abs().sum(-1)
            error = (row_dot(some, values).double() - exact).abs()
            assert (error <= depth(n) * 2**-24 * size).all()
    assert depth(n) <= n + 1


def test_soundness_can_be_left_out_and_be_had_in_double_precision():
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    plain, default = bounds(module, x, 0.1, "CROWN", sound=False), bounds(module, x, 0.1, "CROWN")
    assert (default[0] < plain[0]).all()
    assert (default[1] > plain[1]).all()
    torch.testing.assert_close(default[0], plain[0], atol=1e-4, rtol=0)
    module, x = module.double(), x.double()
    plain, sound = bounds(module, x, 0.1, "CROWN"), bounds(module, x, 0.1, "CROWN", sound=True)
    assert (sound[0] < plain[0]).all()
    torch.testing.assert_close(sound[0], plain[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [1e-3, 0.05])
def test_a_vision_transformer_has_bounds_by_every_method(method, eps):
    torch.manual_seed(0)
    module = VisionTransformer().eval().requires_grad_(False)
    x = torch.rand(1, 1, 8, 8)
    lower, upper = bounds(module, x, eps, method, steps=1, optimize_intermediate=False)
    points = (x + eps * (2 * torch.rand(200, 1, 8, 8) - 1)).clamp(x - eps, x + eps)
    assert ((lower <= module(points)) & (module(points) <= upper)).all()
    # The last norm keeps its outputs within the root of 16, whatever comes before: no bound is worse.
    trivial = 2 * math.sqrt(16) * module.head.weight.abs().sum(1)
    assert ((upper - lower) <= trivial * (1 + 1e-3)).all()
    if "CROWN" in method and method != "CROWN-IBP" and eps == 1e-3:
        assert float((upper - lower).mean()) < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_of_denormals_are_bounded(method):
    generator = torch.Generator().manual_seed(0)
    weight = 1e3 * torch.randn(3, 8, generator=generator)
    quantum = 2.0**-149
    lower = torch.randint(-9, 9, (4, 8), generator=generator) * quantum
    upper = lower + torch.randint(0, 4, (4, 8), generator=generator) * quantum
    low, high = bounds(lambda x: x @ weight.T, lower, (lower, upper), method)
    w, a, b = weight.double(), lower.double(), upper.double()
    assert (low.double() <= a @ w.clamp(min=0).T + b @ w.clamp(max=0).T).all()
    assert (high.double() >= b @ w.clamp(min=0).T + a @ w.clamp(max=0).T).all()


@pytest.mark.parametrize("needed", [True, False])
def test_optimised_bounds_are_the_best_ones_with_gradients_or_without(needed):
    # Linear functions alone are far worse than intervals here, so that the difference of both would be rounded.
    torch.manual_seed(0)
    last = nn.Linear(4, 2)
    function = nn.Sequential(Lambda(lambda x: (x * 1e6).square().sin().softmax(-1)), last).requires_grad_(needed)
    x, ball = torch.randn(2, 4), PerturbationLpNorm(0.5)
    bounded = BoundedModule(function, x, {"steps": 2})
    low, high = bounded.compute_bounds(BoundedTensor(x, ball), "alpha-CROWN")
    crown_low, crown_high = bounded.compute_bounds(BoundedTensor(x, ball), "CROWN")
    assert (low >= crown_low).all()
    assert (high <= crown_high).all()
    assert low.requires_grad is needed
    if needed:
        low.sum().backward()
        assert float(last.bias.grad.sum()) == pytest.approx(4.0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("radius", [1e-2, 0.1, 3.0])
def test_layer_norm_has_nearly_exact_intervals(radius, offset):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 8, generator=generator) + offset
    lower, upper = bounds(nn.LayerNorm(8), x, radius, "IBP")
    low, high = (x - radius).double(), (x + radius).double()
    # What is reached: each output pushed up and down by the gradient, from the middle.
    z = x.double().repeat(16, 1, 1).requires_grad_()
    sides = torch.cat([torch.eye(8), -torch.eye(8)]).double()[:, None]
    for _ in range(30):
        (slope,) = torch.autograd.grad((F.layer_norm(z, (8,)) * sides).sum(), z)
        z = (z + slope.sign() * radius / 4).clamp(low, high).detach().requires_grad_()
    for value in (F.layer_norm(z, (8,)), F.layer_norm(z.float(), (8,))):
        assert ((lower <= value) & (value <= upper)).all()
    found = F.layer_norm(z, (8,)).detach()
    if not offset:
        assert (
            float((upper - lower).mean() / (found.amax(0) - found.amin(0)).mean())
            < {1e-2: 1.02, 0.1: 1.1, 3.0: 1.5}[radius]
        )


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_near_1_lose_nothing_to_large_logits_in_double_precision(method):
    x = torch.tensor([[-30.6, -61.2, 40.0]], dtype=torch.float64)
    lower, upper = bounds(lambda x: x[:, :2].softmax(-1), x, 1e-9, method, sound=True)
    low, high = (1 / (1 + math.exp(-d)) for d in (30.6 - 2e-9, 30.6 + 2e-9))
    assert lower[0, 0] <= low <= high <= upper[0, 0]
    assert float(upper[0, 0] - lower[0, 0]) < 1e-13
