"""Sets: least values of linear functions on them by brute force, soundness, and perturbed weights."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bound_checks import METHODS, check_bounds, reached
from paperworks.papers.auto_lirpa.architectures import build
from paperworks.papers.auto_lirpa.points import extreme_point, random_points
from paperworks.robustness import (
    BoundedModule,
    BoundedParameter,
    BoundedTensor,
    PerturbationL0Norm,
    PerturbationLpNorm,
    PerturbationSynonym,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def words(batch=2, length=3, candidates=2, dim=2, budget=2, masked=True):
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(batch, length, candidates, generator=generator) < 0.7 if masked else None
    return PerturbationSynonym(budget, normal(batch, length, candidates, dim, seed=4), mask)


BOX = PerturbationLpNorm(x_L=torch.tensor([-0.5, 0.0, -0.1, 0.2]), x_U=torch.tensor([0.5, 0.0, 0.3, 0.9]))
SETS = {
    "L1": PerturbationLpNorm(0.4, 1),
    "L1.5": PerturbationLpNorm(0.4, 1.5),
    "L2": PerturbationLpNorm(0.4, 2),
    "L5": PerturbationLpNorm(0.4, 5),
    "L inf": PerturbationLpNorm(0.4),
    "radius of each sample": PerturbationLpNorm(torch.tensor([0.1, 0.5, 0.0]), 2),
    "box": BOX,
    "clipped": PerturbationLpNorm(0.4, x_L=torch.tensor(0.0), x_U=torch.tensor(1.0)),
    "L0": PerturbationL0Norm(2),
    "L0, none": PerturbationL0Norm(0),
}


@pytest.mark.parametrize("name", SETS)
def test_the_minimum_is_reached_at_an_extreme_point_and_nowhere_undercut(name):
    ptb = SETS[name]
    center = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = normal(5, 3, 4)
    least = ptb.minimum(rows, center)
    assert least.shape == (5, 3)
    for row, value in zip(rows, least, strict=True):
        point = extreme_point(ptb, center, row)
        torch.testing.assert_close((row * point).sum(1), value)
        for other in random_points(ptb, center, 20, torch.Generator().manual_seed(1)):
            assert ((row * other).sum(1) >= value - 1e-12).all()
    shared = rows[:, :1]
    torch.testing.assert_close(ptb.minimum(shared, center), ptb.minimum(shared.expand(5, 3, 4), center))
    lower, upper = ptb.box(center)
    for i in range(4):
        axis = torch.zeros(1, 1, 4, dtype=torch.float64)
        axis[..., i] = 1
        torch.testing.assert_close(ptb.minimum(axis, center)[0], lower[:, i])
        torch.testing.assert_close(ptb.minimum(-axis, center)[0], -upper[:, i])
    assert (ptb.free(center) == (lower < upper).any(0)).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.integers(0, 4), masked=st.booleans())
def test_synonyms_are_chosen_as_by_brute_force(seed, budget, masked):
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.randn(2, 3, 2, 2, generator=generator)
    mask = torch.rand(2, 3, 2, generator=generator) < 0.6 if masked else None
    center, rows = torch.randn(2, 3, 2, generator=generator), torch.randn(2, 1, 3, 2, generator=generator)
    found = PerturbationSynonym(budget, candidates, mask).minimum(rows, center)
    for b in range(2):
        choices = []
        for i in range(3):
            kept = [candidates[b, i, c] for c in range(2) if mask is None or mask[b, i, c]]
            choices.append([center[b, i], *kept])
        sentences = itertools.product(*(range(len(c)) for c in choices))
        allowed = [s for s in sentences if sum(i > 0 for i in s) <= budget]
        for row, value in zip(rows[:, 0], found[:, b], strict=True):
            best = min(float(sum((row[i] * choices[i][c]).sum() for i, c in enumerate(s))) for s in allowed)
            assert math.isclose(best, float(value), rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("first", ["linear", "curved"])
def test_bounds_hold_on_every_set(name, first):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Tanh()] if first == "linear" else [nn.Tanh(), nn.Linear(4, 6), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(6, 2)).double()
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    widths = check_bounds(BoundedModule(module, x, {"steps": 2}), module, SETS[name], x)
    assert widths["CROWN"] <= widths["IBP"] * 1.001 + 1e-12


def test_bounds_hold_for_synonyms():
    torch.manual_seed(0)
    ptb = words()
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    x = normal(2, 3, 2)
    widths = check_bounds(BoundedModule(module, x, {"steps": 2}), module, ptb, x)
    assert widths["CROWN"] <= widths["IBP"]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    least, greatest = reached(linear, ptb, x, n=300)
    lower, upper = BoundedModule(linear, x).compute_bounds(BoundedTensor(x, ptb))
    torch.testing.assert_close(lower, least)
    torch.testing.assert_close(upper, greatest)


def test_the_first_layer_takes_the_dual_norm_in_intervals_too():
    layer, x = nn.Linear(4, 3).double(), normal(2, 4)
    lower, upper = BoundedModule(layer, x).compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.3, 2)), "IBP")
    radius = 0.3 * layer.weight.norm(dim=1)
    torch.testing.assert_close(upper - lower, (2 * radius).expand(2, 3))


def test_several_inputs_and_weights_move_together():
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, y):
            return self.b((self.a(x) * y).tanh() + y)

    module, x, y = Two().double(), normal(2, 3), normal(2, 4, seed=1)
    module.b.weight = BoundedParameter(module.b.weight, PerturbationLpNorm(0.05))
    module.a.bias = BoundedParameter(module.a.bias, PerturbationLpNorm(0.1, 2))
    inputs = [BoundedTensor(x, PerturbationLpNorm(0.1, 1)), BoundedTensor(y, PerturbationLpNorm(0.02))]
    bounded = BoundedModule(module, [x, y], {"steps": 3})
    generator = torch.Generator().manual_seed(2)
    roots = {"b.weight": module.b.weight, "a.bias": module.a.bias}
    outputs = []
    for _ in range(300):
        moved = {
            name: next(iter(random_points(p.ptb, p.detach().as_subclass(torch.Tensor)[None], 1, generator)))[0]
            for name, p in roots.items()
        }
        points = [next(iter(random_points(i.ptb, i.as_subclass(torch.Tensor), 1, generator))) for i in inputs]
        with torch.no_grad():
            outputs.append(torch.func.functional_call(module, moved, tuple(points)))
    outputs = torch.stack(outputs)
    for method in METHODS:
        lower, upper = bounded.compute_bounds(inputs, method)
        assert (lower <= outputs.amin(0)).all(), method
        assert (upper >= outputs.amax(0)).all(), method
        assert ((upper - lower) < 6 * (outputs.amax(0) - outputs.amin(0))).all() or method in ("IBP", "forward")
    _, _, A = bounded.compute_bounds(inputs, "CROWN", return_A=True)
    assert set(A) == {"input_0", "input_1", "b.weight", "a.bias"}
    assert A["b.weight"][0].shape == (2, 2, 2, 4)


@pytest.mark.parametrize("norm", [2, torch.inf])
def test_a_perturbed_weight_of_a_linear_layer_is_bounded_exactly(norm):
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2).double(), normal(4, 3)
    layer.weight = BoundedParameter(layer.weight, PerturbationLpNorm(0.1, norm))
    bounded = BoundedModule(layer, x)
    radius = 0.1 * torch.linalg.vector_norm(x, 2 if norm == 2 else 1, dim=1, keepdim=True)
    for method in ("CROWN", "CROWN-IBP", "forward+backward"):
        lower, upper = bounded.compute_bounds(x, method)
        torch.testing.assert_close(upper - lower, (2 * radius).expand(4, 2))
        torch.testing.assert_close((upper + lower) / 2, layer(x))
    lower.sum().backward()
    assert layer.weight.grad is not None


def test_perturbed_weights_of_a_network_are_sound():
    module = build("MLP")
    x = normal(3, 6)
    for name in ("0.weight", "2.weight", "4.weight", "2.bias"):
        layer, attribute = module[int(name[0])], name[2:]
        setattr(layer, attribute, BoundedParameter(getattr(layer, attribute), PerturbationLpNorm(0.03, 2)))
    bounded = BoundedModule(module, x)
    names = [n for n, p in module.named_parameters() if isinstance(p, BoundedParameter)]
    center = {n: module.get_parameter(n).detach().as_subclass(torch.Tensor) for n in names}
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for _ in range(300):
        steps = {n: torch.randn(c.shape, dtype=c.dtype, generator=generator) for n, c in center.items()}
        moved = {n: c + 0.03 * steps[n] / steps[n].norm() for n, c in center.items()}
        with torch.no_grad():
            outputs.append(torch.func.functional_call(module, moved, (x,)))
    outputs = torch.stack(outputs)
    widths = {}
    for method in METHODS[:-1]:
        lower, upper = bounded.compute_bounds(x, method)
        assert (lower <= outputs.amin(0)).all(), method
        assert (upper >= outputs.amax(0)).all(), method
        widths[method] = float((upper - lower).mean().detach())
    assert widths["CROWN"] <= widths["CROWN-IBP"] <= widths["IBP"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerturbationLpNorm(0.1, 0.5), "norm is 0.5; it takes a number from 1 to infinity"),
        (lambda: PerturbationLpNorm(-0.1), "eps is -0.1; it takes a finite number >= 0"),
        (lambda: PerturbationLpNorm(torch.tensor([0.1, -2.0])), "eps has the element -2"),
        (lambda: PerturbationLpNorm(x_L=torch.ones(2), x_U=torch.zeros(2)), "x_L is above x_U"),
        (lambda: PerturbationLpNorm(0.1, 2, x_L=torch.zeros(2)), "they take norm = infinity"),
        (lambda: PerturbationL0Norm(-1), "eps is -1; it takes a whole number >= 0"),
        (lambda: PerturbationL0Norm(1, 1.0, 0.0), "it takes low < high"),
        (lambda: PerturbationSynonym(1, torch.zeros(2, 3, 4)), r"candidates has shape \(2, 3, 4\)"),
        (lambda: PerturbationSynonym(1, torch.zeros(1, 2, 3, 4), torch.ones(1, 2)), r"mask has shape \(1, 2\)"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("ptb", "message"),
    [
        (PerturbationLpNorm(x_L=torch.zeros(5), x_U=torch.ones(5)), r"x_L has shape \(5,\); it takes one that fits"),
        (PerturbationLpNorm(torch.ones(3)), r"eps has shape \(3,\); it takes one number or \(2,\)"),
        (PerturbationLpNorm(0.1, x_L=torch.full((4,), 2.0)), "x_L is above x_U"),
        (PerturbationL0Norm(1), r"x leaves \[0, 1\]"),
        (words(), r"x has shape \(2, 4\); these candidates take \(2, 3, 2\)"),
    ],
)
def test_a_set_that_does_not_fit_its_input_is_refused(ptb, message):
    x = normal(2, 4)
    with pytest.raises(ValueError, match=message):
        BoundedModule(nn.Linear(4, 2).double(), x).compute_bounds(BoundedTensor(x, ptb))
    with pytest.raises(TypeError, match="ptb"):
        BoundedTensor(x, 0.1)
