"""Every exported optimiser: torch's protocol, its state and its groups. The examples at the end prove the checks."""

import copy
import pickle
from typing import Any

import pytest
import torch

from conformance.discovery import Export, parameters
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments

pytestmark = pytest.mark.usefixtures("untyped")

TARGET = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
VALUES = {
    "lr": lambda: 0.05,
    "eta": lambda: 0.05,
    "lower_module": lambda: torch.nn.Linear(1, 1),  # of which the descent of the upper level knows nothing
    "upper_loss": lambda: lambda module, batch: module.weight.square().sum(),
    "lower_loss": lambda: lambda module, batch: module.weight.square().sum(),
}


class Descent:
    """A convex problem, its parameters and an optimiser of them."""

    def __init__(self, subject: Subject, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.used = torch.nn.Parameter(torch.full((2, 3), 0.5, dtype=dtype, device=device))
        self.unused = torch.nn.Parameter(torch.ones(2, dtype=dtype, device=device))
        thing = subject.export.thing
        params = dict.fromkeys(("params", "upper_params", "base_optimizer"), lambda: [self.used, self.unused])
        given = arguments(thing, {**VALUES, **params}, subject.options)
        if "base_cls" in parameters(thing):  # one that wraps another, whose options it hands on
            given |= {"base_cls": torch.optim.SGD, "lr": VALUES["lr"](), **subject.options}
        self.optimiser: torch.optim.Optimizer = thing(**given)

    def loss(self) -> torch.Tensor:
        self.optimiser.zero_grad()
        loss = (self.used - TARGET.to(self.used)).square().sum()
        if loss.requires_grad:  # not where a method asks for losses alone
            loss.backward()
        return loss

    def run(self, steps: int) -> torch.Tensor:
        for _ in range(steps):
            self.optimiser.step(closure=self.loss)
        return self.used.detach().clone()


SUITE = Suite("optimiser")


@SUITE.check
def it_descends(subject):
    descent = Descent(subject)
    before = descent.loss().item()
    descent.run(50)
    assert descent.loss().item() < 0.9 * before


@SUITE.check
def a_step_returns_the_loss_of_its_closure(subject):
    descent = Descent(subject)
    expected = descent.loss().item()
    assert float(descent.optimiser.step(closure=descent.loss)) == pytest.approx(expected)


@SUITE.check
def parameters_without_a_gradient_stay(subject):
    descent = Descent(subject)
    descent.run(3)
    assert torch.equal(descent.unused, torch.ones_like(descent.unused))


@SUITE.check
def gradients_are_left_alone(subject):
    descent = Descent(subject)
    descent.loss()
    before = descent.used.grad.clone()
    descent.optimiser.step(closure=lambda: (descent.used.detach() ** 2).sum())
    assert torch.equal(descent.used.grad, before)


@SUITE.check
def the_learning_rate_of_a_group_counts(subject):
    descent = Descent(subject)
    for group in descent.optimiser.param_groups:
        group["lr"] = 0.0
    before = descent.used.detach().clone()
    assert torch.equal(descent.run(3), before)


@SUITE.check
def bad_options_are_refused_by_name(subject):
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="lr"):
            Descent(subject._replace(options={**subject.options, "lr": bad}))


@SUITE.check
def runs_repeat(subject):
    assert torch.equal(Descent(subject).run(5), Descent(subject).run(5))


@SUITE.check
def its_state_goes_on_where_it_was(subject):
    first, second = Descent(subject), Descent(subject)
    first.run(3)
    state = pickle.loads(pickle.dumps(first.optimiser.state_dict()))
    second.used.data.copy_(first.used)
    second.optimiser.load_state_dict(copy.deepcopy(state))
    torch.manual_seed(1)
    ahead = first.run(3)
    torch.manual_seed(1)
    assert torch.equal(ahead, second.run(3))


@SUITE.check
def groups_can_be_added(subject):
    descent = Descent(subject)
    other = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    descent.optimiser.add_param_group({"params": [other]})
    descent.loss()
    other.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)  # not along the parameter: some drop that part
    descent.optimiser.step(closure=lambda: descent.used.detach().sum())
    assert not torch.equal(other, torch.ones_like(other))


@SUITE.check
def precision_and_device_are_kept(subject):
    for device in DEVICES:
        for dtype in (torch.float32, torch.bfloat16):
            found = Descent(subject, dtype, device).run(2)
            assert (found.dtype, found.device.type) == (dtype, device)
            assert torch.isfinite(found).all()


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_optimisers(check, subject):
    check(subject)


class Right(torch.optim.Optimizer):
    """Gradient descent with heavy-ball momentum."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.5) -> None:
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it takes a number >= 0")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                        velocity.mul_(group["momentum"]).add_(p.grad)
                        p.sub_(velocity, alpha=group["lr"])
        return loss


class Careless(Right):
    """One that breaks each rule."""

    def __init__(self, params, lr):
        super().__init__(params, max(lr, 0) if lr == lr else 1.0)
        self.steps = 0

    def add_param_group(self, group):
        if not self.param_groups:
            super().add_param_group(group)

    def step(self, closure=None):
        closure()
        for p in self.param_groups[0]["params"]:
            p.data = (p.data + torch.rand(())).double()
            self.steps += 1
            if p.grad is not None:
                p.grad.add_(self.steps)
                p.data = p.data + self.steps
        torch.seed()


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_a_right_one_passes_each_check_and_a_careless_one_none(check):
    check(Subject(Export("optimization", "Right", Right)))
    with pytest.raises(CAUGHT):
        check(Subject(Export("optimization", "Careless", Careless)))
