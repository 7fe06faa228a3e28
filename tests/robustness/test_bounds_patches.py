"""Coefficients in boxes of places give the bounds that coefficients of all places give."""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationL0Norm, PerturbationLpNorm
from paperworks.robustness.bounds import tiles
from paperworks.robustness.bounds.patches import Patch
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.products import product
from paperworks.robustness.bounds.rounding import depth, split
from paperworks.robustness.bounds.strides import Geometry, phases, pulled

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def configuration(seed):
    """A convolution of odd sizes, as its weight, geometry, groups and how many places there are."""
    draw = random.Random(seed)
    rank, groups = draw.choice([1, 2, 2, 3]), draw.choice([1, 1, 2, 3])
    kernel, stride, padding, dilation, places = (
        [draw.choice(few) for _ in range(rank)]
        for few in ((1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 3), (1, 1, 2), (4, 5, 7, 8, 9))
    )
    generator = torch.Generator().manual_seed(seed)
    many, each = groups * draw.randint(1, 3), draw.randint(1, 3)
    weight = torch.randn(many, each, *kernel, dtype=torch.float64, generator=generator)
    return weight, Geometry.of(kernel, stride, padding, dilation), groups, places, draw, generator


@pytest.mark.parametrize("seed", range(60))
def test_the_adjoint_in_a_box_is_that_of_coefficients_that_are_0_elsewhere(seed):
    weight, geometry, groups, places, draw, generator = configuration(seed)
    x = torch.zeros(3, weight.shape[1] * groups, *places, dtype=torch.float64, requires_grad=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(places, *geometry, strict=True)]
    if min(sizes) < 1:
        pytest.skip("the kernel is larger than the image")
    out = CONVOLUTIONS[len(places)](x, weight, None, *geometry[1:], groups)
    box = []
    for n in out.shape[2:]:
        start = draw.randrange(n)
        box.append(slice(start, draw.randint(start + 1, n)))
    rows = torch.randn(out[(..., *box)].shape, dtype=torch.float64, generator=generator)
    whole = torch.zeros_like(out)
    whole[(..., *box)] = rows
    (expected,) = torch.autograd.grad(out, x, whole)
    kernel = phases(weight, geometry, groups)
    found, where = pulled(rows, tuple(box), geometry, groups, weight, kernel, places)
    torch.testing.assert_close(Patch(found[:, None], where).whole(x.shape[1:])[:, 0], expected)


class Merging(nn.Module):
    """Branches of different kernels, strides and reach, and normalisation between linear layers."""

    def __init__(self, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 1, 1)
        self.wide, self.narrow = nn.Conv2d(4, 6, 5, 2, 2, groups=groups), nn.Conv2d(4, 6, 1, 2)
        self.spread = nn.Conv2d(6, 6, (3, 2), 1, (2, 1), dilation=(2, 1), groups=groups)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, (2, 1), padding=(0, 1), bias=False)
        self.out = nn.LazyLinear(3)

    def forward(self, x):
        """Return what is left of the branches."""
        x = F.relu(self.stem(x))
        y = F.relu(self.wide(x) - self.narrow(x))
        z = self.norm(self.spread(y))[..., :-1]
        y = torch.tanh(z * 0.5) + y + 0.1 * self.norm(F.leaky_relu(y, 0.1))
        return self.out(F.relu(self.last(-y) + 0.3).flatten(1))


class Chain(nn.Sequential):
    """Convolutions of odd strides and paddings on an odd image, with more padding than kernel."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 3, 2, 3, padding=(3, 1)), nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 2, 2, 1),
            nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, 1, 2, dilation=2), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip


NETWORKS = {"merging": Merging, "groups": lambda: Merging(2), "chain": Chain}


def network(name, size=(2, 11, 9), dtype=torch.float64):
    """A network and two images."""
    torch.manual_seed(len(name))
    model, x = NETWORKS[name]().to(dtype), torch.randn(2, *size, dtype=dtype)
    with torch.no_grad():
        model.train()(torch.randn(20, *size, dtype=dtype))
    return model.eval(), x


def by_tiles(monkeypatch, side):
    """Begin passes with tiles of a side; with none, at all places."""
    monkeypatch.setattr(tiles, "_SIDES", () if side is None else (side,))
    if side is not None:
        monkeypatch.setattr(tiles, "_seconds", lambda call, node, count, passes, effort: -passes)


SETS = {
    "box": lambda: PerturbationLpNorm(0.05),
    "euclidean": lambda: PerturbationLpNorm(0.1, norm=2),
    "sum": lambda: PerturbationLpNorm(torch.tensor([0.2, 0.3]), norm=1),
    "few": lambda: PerturbationL0Norm(1),
}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_patches_give_the_bounds_of_whole_coefficients(name, kind, monkeypatch):
    model, x = network(name)
    x = x.sigmoid() if kind == "few" else x
    bounded, ball, found = BoundedModule(model, x), BoundedTensor(x, SETS[kind]()), []
    for side in (None, 1, 2, 4):
        with monkeypatch.context() as patch:
            by_tiles(patch, side)
            lower, upper, linear = bounded.compute_bounds(ball, return_A=True)
            gradients = torch.autograd.grad((upper - lower).sum(), [*model.parameters()])
        found.append((lower, upper, *linear["input_0"], *gradients))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_tiles_are_at_work(monkeypatch):
    model, x = network("merging")
    boxes, inner = [], tiles._pieces
    monkeypatch.setattr(tiles, "_pieces", lambda *a: boxes.extend(inner(*a)) or inner(*a))
    by_tiles(monkeypatch, 1)
    BoundedModule(model, x).compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.05)))
    assert len(boxes) > 10
    assert all(b.stop - b.start == 1 for _, box in boxes for b in box)


def test_optimised_bounds_are_the_same(monkeypatch):
    model, x = network("merging")
    bounded = BoundedModule(model, x, {"steps": 4, "seconds": math.inf})
    found = []
    for side in (None, 2):
        with monkeypatch.context() as patch:
            by_tiles(patch, side)
            found.append(bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.05)), "alpha-CROWN"))
    for a, b in zip(*found, strict=True):  # Adam takes gradients of rounding alone for whole steps
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_little_memory_gives_the_same_bounds(name):
    model, x = network(name)
    ball = BoundedTensor(x, PerturbationLpNorm(0.05))
    found = [BoundedModule(model, x, {"memory": m}).compute_bounds(ball) for m in (1.0, 1e9)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_reached_in_single_precision_lies_between_the_bounds(name, side, monkeypatch):
    by_tiles(monkeypatch, side)
    model, x = network(name, dtype=torch.float32)
    for eps in (0.0, 1e-6, 0.05):
        with torch.no_grad():
            lower, upper = BoundedModule(model, x).compute_bounds(BoundedTensor(x, PerturbationLpNorm(eps)))
            for one, low, high in zip(x, lower, upper, strict=True):
                moves = torch.rand(200, *one.shape) * 2 - 1
                moves[::2] = moves[::2].sign()
                points = torch.minimum(torch.maximum(one + eps * moves, one - eps), one + eps)
                reached = model(points)
                exact = model.double()(points.double())
                model.float()
                assert (low <= reached).all()
                assert (reached <= high).all()
                assert (low <= exact).all()
                assert (exact <= high).all()


def test_products_are_those_of_matrices_and_have_gradients():
    rows, matrix = torch.randn(3, 1, 4, 5), torch.randn(5, 6, requires_grad=True)
    product(rows, matrix).sum().backward()
    torch.testing.assert_close(matrix.grad, rows.flatten(0, 2).sum(0)[:, None].expand(5, 6))
    with torch.no_grad():
        torch.testing.assert_close(product(rows, matrix), rows @ matrix)
        assert product(rows[:0], matrix).shape == (0, 1, 4, 6)


def test_parts_of_sums_pass_no_more_roundings_than_the_whole():
    for whole in (5, 256, 257, 1000, 1024, 3072, 8192):
        for n in (1, 2, 17, 31, 97, 255, 256, 257, 263, 512, 997, 1023, 3001, 3071):
            if n <= whole:
                part = split(n, whole)
                assert part + -(-n // part) <= depth(whole)


@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize(("n", "whole"), [(13, 13), (257, 1024), (997, 3072), (300, 300)])
def test_inner_products_in_parts(n, whole, lead):
    generator = torch.Generator().manual_seed(n)
    rows, values = (torch.randn(s, n, dtype=torch.float64, generator=generator) for s in (4 * lead, 2))
    rows = rows.reshape(4, lead, n)
    expected = (rows * values).sum(-1)
    torch.testing.assert_close(row_dot(rows, values, whole), expected)
    torch.testing.assert_close(row_dot(rows, values[:1], whole), (rows * values[:1]).sum(-1))
