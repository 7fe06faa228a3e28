"""What can be written down as a graph is bounded, and all else is refused with its name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bound_checks import METHODS, check_bounds
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm, register_bound
from paperworks.robustness.bounds import Curve, ElementwiseRule, Piece

BALL = PerturbationLpNorm(0.02)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SEQUENCES = {
    "LSTM": lambda: First(nn.LSTM(4, 2, batch_first=True)),
    "GRU in both directions": lambda: First(nn.GRU(4, 2, batch_first=True, bidirectional=True)),
    "RNN of two layers": lambda: First(nn.RNN(4, 2, 2, batch_first=True)),
    "multi-head attention": SelfAttention,
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
    "transformer, norms first": lambda: nn.TransformerEncoderLayer(
        4, 2, 6, batch_first=True, norm_first=True, activation="gelu"
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_modules_of_torch_are_captured(name):
    torch.manual_seed(0)
    module, x = SEQUENCES[name]().double().eval(), normal(1, 2, 4)
    widths = check_bounds(BoundedModule(module, x), module, BALL, x, ("CROWN-IBP", "CROWN"), n=10, steps=3)
    assert widths["CROWN"] < 2 * widths["reached"]


def test_the_samples_may_be_folded_into_other_axes():
    torch.manual_seed(0)
    inner = nn.Linear(4, 3).double()

    def folded(x):
        batch, words, width = x.shape
        h = inner(x.reshape(batch * words, width)).relu()
        h = h.reshape(batch, words, 3).transpose(0, 1)  # sequence first
        return (h * h.sum(0)).permute(1, 0, 2)

    x = normal(3, 2, 4)
    check_bounds(BoundedModule(Lambda(folded), x), folded, BALL, x, ("IBP", "CROWN"), n=20, steps=3)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: x - x.mean(0),
        lambda x: x.softmax(0),
        lambda x: x @ x.T @ x,
        lambda x: x.reshape(-1, 2, 2).flip(0).reshape(len(x), 4),
        lambda x: x + torch.arange(len(x))[:, None],
        lambda x: x.reshape(1, -1),
    ],
)
def test_a_module_that_mixes_samples_is_refused(mixing):
    with pytest.raises(ValueError, match="batch"):
        BoundedModule(Lambda(mixing), normal(2, 4))


def test_an_operator_without_a_rule_is_named():
    x = normal(2, 4)
    for function, name in ((torch.erfinv, "erfinv"), (torch.lgamma, "lgamma")):
        bounded = BoundedModule(Lambda(lambda x, f=function: f(x.tanh())), x)
        for method in ("IBP", "CROWN", "forward"):
            with pytest.raises(NotImplementedError, match=rf"operator aten\.{name}\.default \(node '{name}"):
                bounded.compute_bounds(BoundedTensor(x, BALL), method)


def test_an_operator_without_a_rule_is_no_trouble_where_nothing_moves():
    x, mask = normal(2, 4), normal(2, 4, seed=1)

    def function(x, mask):
        return torch.where(torch.lgamma(mask) > 0.5, x, 2 * x)

    bounded = BoundedModule(Lambda(function), [x, mask])
    lower, upper = bounded.compute_bounds([BoundedTensor(x, BALL), mask])
    torch.testing.assert_close((lower + upper) / 2, function(x, mask))
    with pytest.raises(NotImplementedError, match=r"operator aten\.lgamma\.default"):
        bounded.compute_bounds([x, BoundedTensor(mask, BALL)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x, other: x.gather(1, other.argsort(1)),
        lambda x, other: torch.take_along_dim(x, other.argsort(1), 1),
        lambda x, other: x.masked_fill(other > 0, 2.0),
        lambda x, other: x.tanh() * other + x.sigmoid() / other,
        lambda x, other: F.conv1d(x[None], other[:, None, :2], groups=len(x))[0],
        lambda x, other: x[:, None] @ other[:, :, None],
        lambda x, other: torch.where(other > 0, x, x.flip(1)),
        lambda x, other: torch.addcmul(other, x, other) - torch.maximum(x, other),
    ],
)
def test_another_input_is_a_constant_of_each_sample(function):
    x, other = normal(3, 4), normal(3, 4, seed=1)
    bounded = BoundedModule(Lambda(function), [x, other])
    points = x + 0.02 * (2 * torch.rand(200, 3, 4, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) - 1)
    values = torch.stack([function(p, other) for p in points])
    for method in METHODS:
        lower, upper = bounded.compute_bounds([BoundedTensor(x, BALL), other], method)
        assert (lower <= values + 1e-12).all()
        assert (upper >= values - 1e-12).all()
        if method in ("CROWN", "forward"):
            assert ((upper - lower) <= 0.16 * (1 + other.abs().max() + 1 / other.abs().min())).all()


def test_a_rule_can_be_registered():
    op = torch.ops.aten.erfinv.default
    right = Piece(True, start=0.0)
    left = Piece(False, end=0.0)
    slope = torch.pi**0.5 / 2
    curve = Curve(
        torch.erfinv,
        lambda x: slope * torch.erfinv(x).square().exp(),
        [left, right],
        increasing=True,
        domain=(-1.0, 1.0),
    )
    function = lambda x: torch.erfinv(x.tanh())  # noqa: E731
    x = normal(2, 4)
    register_bound(op, ElementwiseRule(lambda: curve))
    try:
        check_bounds(BoundedModule(Lambda(function), x), function, BALL, x)
    finally:
        from paperworks.robustness.bounds import registry

        del registry._rules[op]


def test_registering_nonsense_is_refused(untyped):
    with pytest.raises(TypeError, match="handler is function; it takes a Rule"):
        register_bound(torch.ops.aten.relu.default, lambda: None)
    with pytest.raises(TypeError, match="it takes an operator overload"):
        register_bound(torch.relu, ElementwiseRule(lambda: None))


def test_a_path_that_depends_on_the_value_is_refused():
    with pytest.raises(NotImplementedError, match="its path depends on the perturbed value"):
        BoundedModule(Lambda(lambda x: x if x.sum() > 0 else -x), normal(2, 4))


def test_randomness_is_refused():
    x = normal(2, 4)
    with pytest.raises(NotImplementedError, match="module draws random numbers"):
        BoundedModule(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).double().train(), x)
    with pytest.raises(NotImplementedError, match="module draws random numbers"):
        BoundedModule(Lambda(lambda x: x + torch.randn_like(x)), x)


def test_changes_in_place_are_followed_or_refused():
    x = normal(2, 4)

    def followed(x):
        y = x * 2
        y += 1
        y[:, 0] = 0.5
        y[:, 1:3] *= x[:, :2]
        y.clamp_(min=-1.0)
        return y.t_().mT

    check_bounds(BoundedModule(Lambda(followed), x), followed, BALL, x, ("IBP", "CROWN"))


def test_one_that_returns_no_tensor_or_a_constant_is_refused():
    x = normal(2, 4)
    with pytest.raises(TypeError, match="module returns a dict"):
        BoundedModule(Lambda(lambda x: {"x": 3}), x)
    with pytest.raises(ValueError, match="does not depend on its inputs"):
        BoundedModule(Lambda(lambda x: torch.ones(len(x), 2)), x)


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda x: x.log(), r"an interval inside \(0, inf\)"),
        (lambda x: x.sqrt(), r"an interval inside \[0, inf\)"),
        (lambda x: 1 / x, "an interval of positive or of negative numbers"),
        (lambda x: x.rsqrt(), r"an interval inside \(0, inf\)"),
    ],
)
def test_leaving_the_domain_is_an_error(function, takes):
    x = torch.tensor([[0.01, 1.0]])
    bounded = BoundedModule(Lambda(function), x)
    for method in ("IBP", "CROWN", "forward"):
        with pytest.raises(ValueError, match=rf"is bounded by \[-0.01, 1.02\]; it takes {takes}"):
            bounded.compute_bounds(BoundedTensor(x, BALL), method)


def test_batch_norm_in_training_keeps_the_statistics_of_the_clean_batch():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    module = module.double().train()
    x = normal(4, 1, 3, 3)
    bounded = BoundedModule(module, x)
    before = module[1].running_mean.clone()
    lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.0)))
    torch.testing.assert_close(module[1].running_mean, before, msg="bounds leave the running statistics alone")
    torch.testing.assert_close(lower, module(x))
    torch.testing.assert_close(upper, module(x))
    hidden = module[0](x)
    frozen = nn.BatchNorm2d(3).double().eval()
    frozen.running_mean = hidden.mean((0, 2, 3)).detach()
    frozen.running_var = hidden.var((0, 2, 3), correction=0).detach()
    clean = nn.Sequential(module[0], frozen, *module[2:])
    lower, upper = bounded.compute_bounds(BoundedTensor(x, BALL))
    expected = BoundedModule(clean, x).compute_bounds(BoundedTensor(x, BALL))
    torch.testing.assert_close(lower, expected[0])
    torch.testing.assert_close(upper, expected[1])
    module.eval()
    assert not torch.allclose(bounded.compute_bounds(BoundedTensor(x, BALL))[0], lower)


def test_batch_norm_of_features_is_bounded_in_training():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)]
    module, x = nn.Sequential(*layers).double().requires_grad_(False).train(), torch.randn(6, 3).double()
    bounded = BoundedModule(module, x)
    assert int(module[1].num_batches_tracked) == 0, "capturing changes no statistics"
    lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.0)))
    torch.testing.assert_close(lower, module(x))
    torch.testing.assert_close(upper, lower)


def test_present_weights_are_bounded():
    module, x = nn.Linear(4, 2).double(), normal(2, 4)
    bounded = BoundedModule(module, x)
    with torch.no_grad():
        module.weight.mul_(2)
        module.bias.add_(1)
    lower, upper = bounded.compute_bounds(BoundedTensor(x, BALL))
    torch.testing.assert_close((lower + upper) / 2, module(x))


def test_single_precision_is_kept():
    module, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), normal(2, 4).float()
    for method in ("IBP", "forward", "CROWN", "alpha-CROWN"):
        for bound in BoundedModule(module, x).compute_bounds(BoundedTensor(x, BALL), method):
            assert bound.dtype == torch.float32
