"""Functions that jump, choices by what is perturbed, and modules that were refused for the wrong reason."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_checks import METHODS
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


X = torch.tensor([[0.5, -1.25, 2.0, 0.05]], dtype=torch.float64)


def ends(function, x=X, eps=0.1, method="CROWN", **options):
    module = function if isinstance(function, nn.Module) else Lambda(function)
    return BoundedModule(module, x, {"steps": 2, **options}).compute_bounds(
        BoundedTensor(x, PerturbationLpNorm(eps)), method
    )


def holds(function, lower, upper, x=X, eps=0.1, n=3000):
    points = x + eps * (2 * torch.rand(n, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x) - 1)
    values = function(points)
    return bool(((lower <= values + 1e-12) & (values <= upper + 1e-12)).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("function", "least", "greatest"),
    [
        (torch.sign, [1, -1, 1, -1], [1, -1, 1, 1]),
        (torch.floor, [0, -2, 1, -1], [0, -2, 2, 0]),
        (torch.ceil, [1, -1, 2, 0], [1, -1, 3, 1]),
        (torch.round, [0, -1, 2, 0], [1, -1, 2, 0]),
        (torch.trunc, [0, -1, 1, 0], [0, -1, 2, 0]),
        (lambda x: (x > 0).double(), [1, 0, 1, 0], [1, 0, 1, 1]),
        (lambda x: (x <= 0).double() * 2, [0, 2, 0, 0], [0, 2, 0, 2]),
        (lambda x: (x == 2).double() - (x != 0).double(), [-1, -1, -1, -1], [-1, -1, 0, 0]),
        (lambda x: ((x > 0) & (x < 1)).double() + (~((x < 0) | (x > 1))).double(), [2, 0, 0, 0], [2, 0, 0, 2]),
        (lambda x: torch.where(x > 0, x, 0.1 * x), [0.4, -0.135, 1.9, -0.05], [0.6, -0.115, 2.1, 0.15]),
        (lambda x: x.masked_fill(x < 0, -3.0), [0.4, -3, 1.9, -3], [0.6, -3, 2.1, 0.15]),
        (lambda x: x.int().double() + x.long() // 2, [0, -2, 1, 0], [0, -2, 3, 0]),
        (lambda x: torch.div(x, 0.5, rounding_mode="floor"), [0, -3, 3, -1], [1, -3, 4, 0]),
    ],
)
def test_jumps_are_bounded_by_the_values_they_take(method, function, least, greatest):
    lower, upper = ends(function, method=method)
    assert holds(function, lower, upper)
    torch.testing.assert_close(lower.double(), torch.tensor([least], dtype=X.dtype))
    torch.testing.assert_close(upper.double(), torch.tensor([greatest], dtype=X.dtype))


def test_rounding_follows_wide_intervals():
    function = lambda x: torch.round(4 * x) / 4 - x  # noqa: E731 - never more than an eighth away
    lower, upper = ends(function, eps=3.0)
    assert holds(function, lower, upper, eps=3.0)
    torch.testing.assert_close(upper, torch.full_like(X, 0.125))
    torch.testing.assert_close(lower, torch.full_like(X, -0.125))


def test_quantised_and_thresholded_networks_are_bounded():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 2).double()
    for inner in (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
        lambda x: F.threshold(x, 0.1, -0.5),
        lambda x: F.hardshrink(x, 0.3),
        lambda x: x * (x > 0.2),
    ):
        function = lambda x, f=inner: second(f(first(x)))  # noqa: E731
        for method in METHODS:
            lower, upper = ends(function, method=method, eps=0.3)
            assert holds(function, lower.detach(), upper.detach(), eps=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_attention_under_a_mask_of_the_input_is_bounded(method):
    function = lambda x: x.masked_fill(x < 0, -math.inf).softmax(-1)  # noqa: E731
    lower, upper = ends(function, method=method)
    assert holds(function, lower, upper)
    assert lower[0, 1] == 0
    assert upper[0, 1] < 1e-9
    assert float(upper[0, 2]) < 0.9


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class WithSetup(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x.relu()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_functions_with_gradients_of_their_own_are_what_they_compute():
    for function, plain in ((Straight.apply, torch.round), (WithSetup.apply, lambda x: 2 * x.relu())):
        for found, expected in zip(ends(function), ends(plain), strict=True):
            torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="must override the setup_context"):
        torch.func.grad(lambda x: Straight.apply(x).sum())(X)  # as before, outside of a capture


def test_errors_say_what_is_wrong():
    bounded = BoundedModule(Lambda(lambda x: torch.nextafter(x, torch.ones(1, 4, dtype=x.dtype))), X)
    with pytest.raises(NotImplementedError, match=r"operator aten\.nextafter\.default .* has no rule"):
        bounded.compute_bounds(BoundedTensor(X, PerturbationLpNorm(0.1)))
    scripted = torch.jit.script(nn.Linear(4, 2).double())
    with pytest.raises(NotImplementedError, match="module: it is scripted"):
        BoundedModule(scripted, X)
    with pytest.raises(NotImplementedError, match="its part '1' is scripted"):
        BoundedModule(nn.Sequential(nn.Tanh(), scripted), X)
    with pytest.raises(NotImplementedError, match="draws random numbers"):
        BoundedModule(nn.RReLU(), X)


def test_operators_that_were_refused_are_bounded_exactly():
    index = torch.tensor([0, 1, 0, 2])
    cases = {
        "index_add": (lambda x: x.new_ones(len(x), 3).index_add(1, index, x), [3.3, -0.35, 0.95], [3.7, -0.15, 1.15]),
        "rrelu": (nn.RReLU(0.1, 0.3).eval(), [0.4, -0.27, 1.9, -0.01], [0.6, -0.23, 2.1, 0.15]),
        "maximum": (lambda x: torch.maximum(x, torch.tensor(-math.inf)), (X - 0.1)[0].tolist(), (X + 0.1)[0].tolist()),
        "minimum": (
            lambda x: torch.minimum(x, torch.tensor([math.inf, 0.0, math.inf, -1.0], dtype=x.dtype)),
            [0.4, -1.35, 1.9, -1.0],
            [0.6, -1.15, 2.1, -1.0],
        ),
    }
    for name, (function, least, greatest) in cases.items():
        lower, upper = ends(function, method="IBP" if name == "minimum" else "CROWN")
        torch.testing.assert_close(lower[0], torch.tensor(least, dtype=X.dtype), msg=name)
        torch.testing.assert_close(upper[0], torch.tensor(greatest, dtype=X.dtype), msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_several_outputs_are_bounded_in_their_structure(method):
    lower, upper = ends(lambda x: {"a": x.relu(), "b": (x.sum(1), 3, None), "c": x[:, :2, None]}, method=method)
    assert list(lower) == ["a", "b", "c"]
    assert lower["b"][1:] == upper["b"][1:] == (3, None)
    torch.testing.assert_close(upper["a"], (X + 0.1).relu())
    torch.testing.assert_close(lower["b"][0], X.sum(1) - 0.4)
    assert lower["c"].shape == (1, 2, 1)
    pair = ends(lambda x: (x, -x), method=method)[0]
    assert isinstance(pair, tuple)
    torch.testing.assert_close(pair[1], -X - 0.1)


def test_rows_run_over_all_outputs_in_order():
    C = torch.tensor([[[1.0, 0, 0, 0, 1.0]]], dtype=X.dtype)
    module = Lambda(lambda x: (x, x.sum(1, keepdim=True)))
    lower, upper = BoundedModule(module, X).compute_bounds(BoundedTensor(X, PerturbationLpNorm(0.1)), C=C)
    value = X[:, :1] + X.sum(1, keepdim=True)
    torch.testing.assert_close(lower, value - 0.5)
    torch.testing.assert_close(upper, value + 0.5)
