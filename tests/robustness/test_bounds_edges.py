"""Where domains begin and end, what is counted and chosen, and modules that hold a part twice."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bound_checks import METHODS, check_bounds
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm

DTYPES = (torch.float32, torch.float64)


class Lambda(nn.Module):
    """A function of any inputs as a module."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *inputs):
        """Return its value."""
        return self.f(*inputs)


def spanned(f, low, high, dtype=torch.float64, other=()):
    """Bound a function of a sample between two ends, and return what `compute_bounds` takes by method."""
    low, high = (torch.tensor([end], dtype=dtype) for end in (low, high))
    bounded = BoundedModule(Lambda(f), (low / 2 + high / 2, *other))
    x = BoundedTensor(low, PerturbationLpNorm(x_L=low, x_U=high))
    return lambda method: bounded.compute_bounds((x, *other), method)


EDGES = {
    "arcsine of a clamp": (lambda x: x.clamp(-1, 1).asin(), math.pi / -2, math.pi / 2),
    "arccosine of a clamp": (lambda x: x.clamp(-1, 1).acos(), 0.0, math.pi),
    "root of a clamp": (lambda x: x.clamp(min=0).sqrt(), 0.0, math.sqrt(2)),
    "root of what a clamp leaves": (lambda x: (1 - x.clamp(max=1)).sqrt(), 0.0, math.sqrt(3)),
    "root of a square": (lambda x: (x * x).sqrt(), 0.0, 2.0),
    "norm": (lambda x: x.norm(dim=1, keepdim=True), 0.0, math.sqrt(8)),
    "standard deviation": (lambda x: x.std(1, keepdim=True), 0.0, math.sqrt(8)),
    "hypotenuse": (lambda x: torch.hypot(x, x.flip(1)), 0.0, math.sqrt(8)),
    "real power": (lambda x: x.relu() ** 0.3, 0.0, 2**0.3),
    "root of a mean of sizes": (lambda x: x.abs().mean(1, keepdim=True).sqrt(), 0.0, math.sqrt(2)),
}


@pytest.mark.parametrize("method", ["IBP", "forward", "CROWN", "alpha-CROWN"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EDGES)
def test_rounding_and_search_do_not_leave_a_domain_that_begins_at_its_edge(name, dtype, method):
    f, least, greatest = EDGES[name]
    lower, upper = spanned(f, [-2.0, -2.0], [2.0, 2.0], dtype)(method)
    assert least - 1e-5 <= float(lower.min()) <= least + 1e-9
    assert float(upper.max()) >= greatest * (1 - 1e-9)


def test_what_is_lost_at_0_stays_on_its_side_of_it():
    lower, upper = spanned(lambda x: (x.log() * 3).exp().sqrt(), [1e-30], [1e-29], torch.float32)("IBP")
    assert lower <= 1e-45
    assert upper > 3.2e-44


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_search_that_starts_at_the_edge_of_a_domain_stays_in_it(dtype):
    for f, low, high in ((torch.asin, -1.0, 1.0), (torch.acosh, 1.0, 7.0), (lambda x: x**1.3, 0.0, 3.0)):
        bounds = spanned(f, [low], [high], dtype)
        crown, alpha = bounds("CROWN"), bounds("alpha-CROWN")
        assert alpha[0] >= crown[0]
        assert alpha[1] <= crown[1]
        ends = f(torch.tensor([low, high], dtype=dtype))
        assert alpha[0] <= ends[0]
        assert alpha[1] >= ends[1]


@pytest.mark.parametrize("method", ["IBP", "CROWN", "alpha-CROWN"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_that_overflows_is_an_error_in_a_search_too(dtype, method):
    far = 800.0 if dtype == torch.float64 else 100.0
    with pytest.raises(ValueError, match="not finite"):
        spanned(torch.cosh, [-far], [far], dtype)(method)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: x**math.inf, "exponent inf"),
        (lambda x: x**math.nan, "exponent nan"),
        (lambda x: 0.0**x, "powers of 0.0"),
        (lambda x: (-2.0) ** x, "powers of -2.0"),
    ],
)
def test_powers_without_a_rule_are_named(f, says):
    with pytest.raises(NotImplementedError, match=says):
        BoundedModule(Lambda(f), torch.full((1, 2), 0.5))


TRUTHS = {
    "cast": lambda x: x.relu().bool() * x,
    "and of numbers": lambda x: torch.logical_and(x.relu(), (x - 1).relu()) * x,
    "or of numbers": lambda x: torch.logical_or(x.relu(), (x + 1).relu()) * x,
    "not of numbers": lambda x: torch.logical_not(x.relu()) * x,
    "any of numbers": lambda x: torch.where(x.relu().any(1, keepdim=True), x, -x),
    "all of numbers": lambda x: torch.where(x.relu().all(1, keepdim=True), x, -x),
    "any over axes": lambda x: torch.where((x > 1)[:, None].any((1, 2), keepdim=True)[:, 0], x, -x),
    "unsigned": lambda x: x.relu().to(torch.uint8).to(x.dtype) + 0 * x,
    "empty product": lambda x: x + x[:, :0].prod(1, keepdim=True),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_numbers_stand_for_truths(name):
    f = TRUTHS[name]
    x = torch.tensor([[-1.2, 0.2, 2.5], [0.5, 1.5, 3.2]], dtype=torch.float64)
    ptb = PerturbationLpNorm(0.4)
    bounded = BoundedModule(Lambda(f), x)
    check_bounds(bounded, f, ptb, x, ("IBP", "forward", "CROWN"))
    lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(1e-9)), "CROWN")
    torch.testing.assert_close(lower, f(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(upper, f(x), atol=1e-6, rtol=0)


CHOICES = {
    "topk": lambda s: s.topk(2, 1).indices,
    "sort": lambda s: s.sort(1, descending=True).indices,
    "stable sort": lambda s: s.sort(dim=1, stable=True).indices,
    "kthvalue": lambda s: s.kthvalue(2, 1, keepdim=True).indices,
    "median": lambda s: s.median(1, keepdim=True).indices,
    "max": lambda s: s.max(1, keepdim=True).indices,
    "min": lambda s: s.min(1, keepdim=True).indices,
    "cummax": lambda s: s.cummax(1).indices,
    "max_pool": lambda s: F.max_pool1d(s[:, None], 2, 1, return_indices=True)[1][:, 0],
}


@pytest.mark.parametrize("name", CHOICES)
def test_of_equal_elements_of_a_clean_input_the_operator_chooses(name):
    scores = torch.tensor([[1.0, 1, 1, 1, 1], [0, 1, 2, 2, 0], [3, 1, 1, 0, 3]])
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    def f(x, s):
        return x.gather(1, CHOICES[name](s))

    bounded = BoundedModule(Lambda(f), (x, torch.arange(15.0).reshape(3, 5)))
    lower, upper = bounded.compute_bounds((BoundedTensor(x, PerturbationLpNorm(0.0)), scores), "CROWN")
    torch.testing.assert_close(lower, f(x, scores))
    torch.testing.assert_close(upper, f(x, scores))
    with pytest.raises(NotImplementedError, match="index"):
        bounded.compute_bounds((x, BoundedTensor(scores, PerturbationLpNorm(0.1))), "IBP")


def test_clean_truths_multiply():
    x, s = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[1.0, -1, 0], [2, 0, -1]])
    bounded = BoundedModule(Lambda(lambda x, s: x * (s > 0) * (s != 2)), (x, s))
    lower, upper = bounded.compute_bounds((BoundedTensor(x, PerturbationLpNorm(0.5)), s))
    mask = (s == 1).float()
    torch.testing.assert_close(lower, (x - 0.5) * mask)
    torch.testing.assert_close(upper, (x + 0.5) * mask)


def test_writing_by_a_perturbed_mask_names_the_operator():
    def f(x):
        y = x.clone()
        y[y > 0] = 0.0
        return y

    with pytest.raises(NotImplementedError, match="index_put"):
        BoundedModule(Lambda(f), torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))


class Twice(nn.Module):
    """A layer in two places, a weight in two layers, and a normalisation in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.BatchNorm1d(3)
        self.chain = nn.Sequential(self.first, nn.ReLU(), self.first)

    def forward(self, x):
        """Return what passes all of them."""
        return self.again(self.second(self.norm(self.chain(x)).relu()))


@pytest.mark.parametrize("training", [False, True])
def test_a_module_that_holds_a_part_twice_stays_as_it_is(training):
    torch.manual_seed(0)
    module, x = Twice().train(training), torch.randn(4, 3)
    before = copy.deepcopy(module.state_dict())
    parameters = [id(p) for p in module.parameters()]
    bounded = BoundedModule(module, x)
    lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)))
    assert [id(p) for p in module.parameters()] == parameters
    assert all(torch.equal(t, module.state_dict()[name]) for name, t in before.items())
    (lower.sum() + upper.sum()).backward()
    assert module.first.weight.grad is not None
    if not training:
        out = module(x)
        assert bool((lower <= out).all())
        assert bool((out <= upper).all())


def test_a_selection_along_an_axis_of_one_element_carries_its_margin():
    x, kernel = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1, 3)

    def f(x):
        return F.conv1d(x[:, None], kernel).select(1, 0)

    check_bounds(BoundedModule(Lambda(f), x), f, PerturbationLpNorm(0.1), x, tolerance=0)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_counts_where_the_output_alone_is_double(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    x = 100 * torch.randn(4, 64)
    point = PerturbationLpNorm(x_L=x, x_U=x)
    bounded = BoundedModule(nn.Sequential(net, Lambda(lambda y: y.double())), x, {"steps": 2})
    lower, upper = bounded.compute_bounds(BoundedTensor(x, point), method)
    for out in (net(x).double(), copy.deepcopy(net).double()(x.double())):
        assert bool((lower <= out).all())
        assert bool((out <= upper).all())


def test_an_exported_module_is_bounded():
    torch.manual_seed(0)
    x = torch.randn(2, 3)
    batch = torch.export.Dim("batch")
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: batch},)).module()
    ball = BoundedTensor(x, PerturbationLpNorm(0.1))
    found, expected = (BoundedModule(m, x).compute_bounds(ball) for m in (exported, net))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("f", [F.gelu, F.silu, F.mish, lambda x: F.gelu(x, approximate="tanh")])
def test_ends_of_an_image_move_with_those_of_the_interval(f):
    low, high = (torch.tensor([end], dtype=torch.float64) for end in ([0.2, 2.5, -0.3], [0.9, 3.5, 0.7]))
    low.requires_grad_(), high.requires_grad_()
    x = BoundedTensor(low.detach(), PerturbationLpNorm(x_L=low, x_U=high))
    lower, upper = BoundedModule(Lambda(f), low.detach()).compute_bounds(x, "IBP")
    for bound, end in ((lower, low), (upper, high)):
        (found,) = torch.autograd.grad(bound.sum(), end, retain_graph=True)
        (expected,) = torch.autograd.grad(f(end).sum(), end)
        torch.testing.assert_close(found, expected)


def test_complex_specifications_and_whole_numbers_that_are_perturbed_are_refused():
    ball, x = PerturbationLpNorm(0.1), torch.ones(1, 2)
    bounded = BoundedModule(nn.ReLU(), x)
    call, _ = bounded._call(BoundedTensor(x, ball))
    with pytest.raises(TypeError, match=r"C is torch\.complex64"):
        bounded._specification(1j * torch.ones(1, 1, 2), call, (2,))
    whole = torch.ones(1, 2, dtype=torch.long).as_subclass(BoundedTensor)
    whole.ptb = ball
    with pytest.raises(TypeError, match=r"input_0 is torch\.int64"):
        BoundedModule(Lambda(lambda x: x * 0.5), torch.ones(1, 2, dtype=torch.long)).compute_bounds(whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_intervals_of_the_greater_and_the_lesser_are_those_of_the_ends(dtype):
    x = torch.tensor([[-1.0, 0.3, 0.5], [2.0, 0.0, -2.0]], dtype=dtype)
    ball = BoundedTensor(x, PerturbationLpNorm(0.4))
    for f in (torch.maximum, torch.minimum):
        for other in (lambda x: x.flip(1), lambda x: torch.full_like(x, 0.2), lambda x: x[:, :1]):
            module = Lambda(lambda x, f=f, other=other: f(x, other(x)))
            lower, upper = BoundedModule(module, x).compute_bounds(ball, "IBP")
            low, high = x - 0.4, x + 0.4
            torch.testing.assert_close(lower, f(low, other(low)))
            torch.testing.assert_close(upper, f(high, other(high)))
