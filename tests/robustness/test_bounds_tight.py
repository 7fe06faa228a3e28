"""Widths that are held: dual norms, what alpha-CROWN reaches and costs, the log-sum-exp pair."""

import itertools
import math

import pytest
import torch
from torch import nn

from paperworks.papers.auto_lirpa.architectures import Lambda, Residual
from paperworks.robustness import BoundedModule, BoundedTensor, Options, PerturbationLpNorm, margin_spec


def width(module, x, ball, method, C=None, **options):
    lower, upper = BoundedModule(module, x, options).compute_bounds(BoundedTensor(x, ball), method, C=C)
    return float((upper - lower).detach().mean())


@pytest.mark.parametrize("norm", [1, 2])
def test_intervals_take_the_dual_norm_at_the_first_layer_of_every_neuron(norm):
    torch.manual_seed(0)
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    module, x, eps = nn.Sequential(*layers).double().requires_grad_(False), torch.rand(4, 64).double(), 0.1
    lower, upper = BoundedModule(module, x).compute_bounds(BoundedTensor(x, PerturbationLpNorm(eps, norm)), "IBP")
    first = layers[0]
    radius = eps * torch.linalg.vector_norm(first.weight, {1: math.inf, 2: 2}[norm], dim=1)
    low, high = first(x) - radius, first(x) + radius
    assert ((low > 0) | (high < 0)).any(), "some neurons are decided"
    for layer in layers[1:]:
        if isinstance(layer, nn.ReLU):
            low, high = low.relu(), high.relu()
        else:
            middle, radius = layer((low + high) / 2), (high - low) / 2 @ layer.weight.abs().T
            low, high = middle - radius, middle + radius
    torch.testing.assert_close(lower, low)
    torch.testing.assert_close(upper, high)


def test_intersecting_does_not_keep_alpha_crown_from_moving():
    for seed in range(3):
        torch.manual_seed(seed)
        block = lambda: Residual(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))  # noqa: E731
        module = nn.Sequential(nn.Linear(4, 8), block(), nn.ReLU(), block(), nn.ReLU(), nn.Linear(8, 2)).double()
        module.requires_grad_(False)
        x, ball = torch.randn(1, 4).double(), PerturbationLpNorm(0.5)
        widths = {k: width(module, x, ball, "alpha-CROWN", intersect=k, seconds=math.inf) for k in (True, False)}
        assert widths[True] <= widths[False] * (1 + 1e-9)
        assert widths[True] < width(module, x, ball, "CROWN")


def test_alpha_crown_ends_when_every_margin_is_decided_or_its_time_is_over():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    module.requires_grad_(False)
    x = torch.randn(2, 4)
    C = margin_spec(module(x).argmax(1), 3)
    seen = []

    def shown(steps):
        for step in steps:
            seen.append(step)
            yield step

    def steps_taken(eps, **options):
        seen.clear()
        options = {"seconds": math.inf} | options
        width(module, x, PerturbationLpNorm(eps), "alpha-CROWN", C=C, progress=shown, **options)
        return len(seen)

    assert steps_taken(1e-3) == 0
    assert steps_taken(1e-3, stop_when_decided=False) == 20
    assert steps_taken(1.0) == 20, "margins that stay open are worked on to the end, and progress is shown"
    assert steps_taken(1.0, seconds=0) == 1


def test_neurons_that_crown_decides_are_refined_in_the_costly_mode_alone():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2)]
    module, x = nn.Sequential(*layers).double().requires_grad_(False), torch.randn(2, 6).double()
    ball = PerturbationLpNorm(0.2)
    crown = width(module, x, ball, "CROWN")
    fixed, default, costly = (
        width(module, x, ball, "alpha-CROWN", **options)
        for options in ({"optimize_intermediate": False}, {}, {"optimize_decided": True})
    )
    assert costly <= default * 1.02
    assert default <= fixed * 1.001
    assert default < crown
    assert crown - default > 0.9 * (crown - costly), "most of what the costly mode gains"


def test_options_are_where_their_docs_say(untyped):
    assert Options().softmax == "lse"
    with pytest.raises(ValueError, match="seconds is -1"):
        BoundedModule(nn.Linear(2, 2), torch.zeros(1, 2), {"seconds": -1})
    with pytest.raises(TypeError, match="progress is 3"):
        BoundedModule(nn.Linear(2, 2), torch.zeros(1, 2), {"progress": 3})


def reference_lines(lower, upper, k):
    """The log-sum-exp pair of Wei et al. (2023) for output k of one row, tangents at the middle, by autograd."""
    middle = ((lower + upper) / 2).requires_grad_()
    kappa = (upper.exp() - lower.exp()) / (upper - lower)
    below = middle[k].exp() / (lower.exp() + kappa * (middle - lower)).sum()
    (low_slope,) = torch.autograd.grad(below, middle)
    at_low = torch.where(torch.arange(len(lower)) == k, lower, upper).softmax(0)[k]
    at_high = torch.where(torch.arange(len(lower)) == k, upper, lower).softmax(0)[k]
    c = (at_high - at_low) / (at_high.log() - at_low.log())
    above = at_high + c * (torch.log_softmax(middle, 0)[k] - at_high.log())
    (up_slope,) = torch.autograd.grad(above, middle)
    m = middle.detach()
    return low_slope, below.detach() - low_slope @ m, up_slope, above.detach() - up_slope @ m


@pytest.mark.parametrize("reach", [0.1, 1.0, 3.0])
def test_softmax_has_the_lines_of_the_reference(reach):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    bounded = BoundedModule(Lambda(lambda x: x.softmax(-1)), x, {"intersect": False})
    ball = BoundedTensor(x, PerturbationLpNorm(reach))
    A = bounded.compute_bounds(ball, "CROWN", return_A=True)[2]["input_0"]
    for k in range(5):
        found = A[0][0, k], A[1][0, k], A[2][0, k], A[3][0, k]
        for ours, theirs in zip(found, reference_lines(x[0] - reach, x[0] + reach, k), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_softmax_is_tighter_than_its_composition():
    generator = torch.Generator().manual_seed(1)
    for n, reach in itertools.product((3, 8), (0.3, 1.0)):
        W = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        x = torch.randn(4, n, generator=generator, dtype=torch.float64)
        module = Lambda(lambda x, W=W: x.softmax(-1) @ W)
        ball = PerturbationLpNorm(reach)
        ours, before = (width(module, x, ball, "CROWN", softmax=s) for s in ("lse", "composition"))
        assert ours < before
