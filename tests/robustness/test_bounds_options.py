"""What options change, and that bounds hold under each."""

import pytest
import torch
from torch import nn

from bound_checks import check_bounds
from paperworks.papers.auto_lirpa.architectures import ARCHITECTURES, build
from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm

BALL = PerturbationLpNorm(0.1)


def setting(name, options):
    module = build(name)
    x = torch.randn(2, *ARCHITECTURES[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    return BoundedModule(module, x, options), module, x


@pytest.mark.parametrize("relu", ["adaptive", "same-slope", "zero-lb", "one-lb", "reversed-adaptive"])
def test_the_lower_line_of_relu(relu):
    # One undecided unit: x in [-1, 3] and y in [-3, 1].
    x = torch.tensor([[1.0, -1.0]])
    module = nn.Sequential(nn.ReLU())
    bounded = BoundedModule(module, x, {"relu": relu})
    _, _, A = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(2.0)), return_A=True)
    lA, lb, uA, ub = A["input_0"]
    lower = {
        "adaptive": (1, 0),
        "same-slope": (0.75, 0.25),
        "zero-lb": (0, 0),
        "one-lb": (1, 1),
        "reversed-adaptive": (0, 1),
    }[relu]
    torch.testing.assert_close(lA[0].diagonal(), torch.tensor(lower, dtype=torch.float32))
    torch.testing.assert_close(lb, torch.zeros(1, 2))
    torch.testing.assert_close(uA[0].diagonal(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(ub, torch.tensor([[0.75, 0.75]]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("MLP", {"relu": relu}) for relu in ("same-slope", "zero-lb", "one-lb", "reversed-adaptive")),
        ("MLP", {"intersect": False}),
        ("attention block", {"softmax": "lse"}),
        ("softmax and log-sum-exp", {"softmax": "lse"}),
        ("product gate", {"product": 0.5}),
        ("second-order pooling", {"product": 0.0}),
        ("LSTM", {"product": 0.5, "intersect": False}),
    ],
)
def test_bounds_hold_under_every_option(name, options):
    bounded, module, x = setting(name, options)
    ball = PerturbationLpNorm(0.03)
    check_bounds(bounded, module, ball, x, ("IBP", "forward", "CROWN-IBP", "CROWN"))


def test_intersection_is_never_worse():
    for name in ("1-d CNN", "decoder with group norm"):
        for method in ("CROWN-IBP", "forward+backward", "CROWN"):
            kept, _, x = setting(name, {})
            alone, _, _ = setting(name, {"intersect": False})
            ibp = kept.compute_bounds(BoundedTensor(x, BALL), "IBP")
            try:
                loose = alone.compute_bounds(BoundedTensor(x, BALL), method)
            except ValueError:  # a bound left a domain that the intervals stay in
                continue
            lower, upper = kept.compute_bounds(BoundedTensor(x, BALL), method)
            assert (lower >= ibp[0]).all()
            assert (upper <= ibp[1]).all()
            assert float((upper - lower).sum().detach()) <= float((loose[1] - loose[0]).sum().detach()) + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relu": "steep"}, "relu is 'steep'"),
        ({"softmax": "exact"}, "softmax is 'exact'"),
        ({"product": 1.5}, "product is 1.5; it takes a finite number >= 0 and <= 1"),
        ({"memory": 0}, "memory is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"lr": 0.0}, "lr is 0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"fusion": "some"}, "fusion is 'some'"),
    ],
)
def test_options_are_checked(options, message, untyped):
    with pytest.raises(ValueError, match=message):
        BoundedModule(nn.Linear(2, 2), torch.zeros(1, 2), options)
