"""The penalty method as an optimiser of torch, against the functional form, and its state."""

import copy
import io
import math

import pytest
import torch

from paperworks.optimization import PenaltyBilevelOptimizer, PolynomialDecay, penalty_bilevel

pytestmark = pytest.mark.usefixtures("untyped")

b = torch.tensor([1.0, 2.0], dtype=torch.float64)


class Vector(torch.nn.Module):
    """A module that is one vector."""

    def __init__(self):
        super().__init__()
        self.y = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))


class Ridge:
    """Which ridge fits held-out data, with noise in both losses."""

    def __init__(self, **options):
        self.x = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.model = Vector()
        self.optimizer = PenaltyBilevelOptimizer(
            [self.x], self.model, self.upper, self.lower, **{"lr": 0.02, "lower_lr": 0.3, "sigma": 0.1, **options}
        )

    def upper(self, model, batch):
        return ((model.y - b / 1.5) ** 2).sum() + (batch @ model.y).mean()

    def lower(self, model, batch):
        return ((model.y - b) ** 2).sum() / 2 + self.x * (model.y**2).sum() / 2 + (batch @ model.y).mean()

    def run(self, steps, seed=0):
        generator = torch.Generator().manual_seed(seed)
        stream = iter(lambda: 0.1 * torch.randn(1, 2, generator=generator, dtype=torch.float64), None)
        for _ in range(steps):
            self.optimizer.step(upper_batch=stream, lower_batch=stream)


@pytest.mark.parametrize(
    ("options", "others"),
    [
        ({"inner_steps": 3}, {"inner_steps": 3, "prox_rho": math.inf, "averaging": 1.0, "batch_size": 1}),
        ({"inner_steps": 2, "prox_rho": 2.0, "averaging": 0.5}, {"inner_steps": 2, "prox_rho": 2.0, "batch_size": 1}),
        (
            {"inner_steps": 1, "momentum": lambda k: 0.3 if k else 1.0},
            {"method": "single_loop", "momentum": lambda k: 0.3 if k else 1.0},
        ),
    ],
)
def test_it_is_the_functional_form(options, others):
    ours = Ridge(**options)
    ours.run(8)
    generator = torch.Generator().manual_seed(0)

    def sampler(count):
        return [0.1 * torch.randn(1, 2, generator=generator, dtype=torch.float64) for _ in range(2)]

    found = penalty_bilevel(
        lambda x, y, batch: ((y - b / 1.5) ** 2).sum() + (batch @ y).mean(),
        lambda x, y, batch: ((y - b) ** 2).sum() / 2 + x * (y**2).sum() / 2 + (batch @ y).mean(),
        torch.tensor(0.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), sampler=sampler, steps=8,
        sigma=lambda k: 0.1, lr_x=lambda k: 0.02, lr_y=lambda k: 0.3, **others,
    )  # fmt: skip
    assert ours.x.item() == pytest.approx(float(found.x), rel=1e-12)
    assert torch.allclose(ours.model.y, found.y, rtol=1e-12)
    assert torch.allclose(ours.optimizer.reference.y, found.z, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inner_steps": 1, "momentum": PolynomialDecay(1.0, 0.8)},
        {"upper_opt": torch.optim.Adam, "lower_opt": torch.optim.Adam, "sigma": PolynomialDecay(0.2, 1 / 3)},
    ],
)
def test_its_state_goes_on_exactly(options):
    first, second = Ridge(**options), Ridge(**options)
    first.run(5)
    stored = io.BytesIO()
    torch.save(first.optimizer.state_dict(), stored)
    stored.seek(0)
    second.model.load_state_dict(first.model.state_dict())
    second.x.data.copy_(first.x)
    second.optimizer.load_state_dict(torch.load(stored, weights_only=True))
    first.run(5, seed=1)
    second.run(5, seed=1)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.optimizer.reference.y, second.optimizer.reference.y)


def test_a_state_is_not_tied_to_the_optimiser_that_loads_it():
    first, second = Ridge(inner_steps=1, momentum=0.5), Ridge(inner_steps=1, momentum=0.5)
    first.run(2)
    state = first.optimizer.state_dict()
    kept = copy.deepcopy(state)
    second.optimizer.load_state_dict(state)
    second.run(2)
    assert all(
        torch.equal(p, q) for p, q in zip(state["bilevel"]["momenta"][0], kept["bilevel"]["momenta"][0], strict=True)
    )


def test_a_closure_adds_a_regulariser():
    plain, regularised = Ridge(), Ridge()

    def penalty():
        regularised.optimizer.zero_grad()
        loss = 5 * (regularised.x - 1) ** 2
        loss.backward()
        return loss

    batch = torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(60):
        plain.optimizer.step(upper_batch=batch, lower_batch=batch)
        loss = regularised.optimizer.step(penalty, upper_batch=batch, lower_batch=batch)
    assert float(plain.x) == pytest.approx(0.5, abs=0.05)
    assert 0.6 < float(regularised.x) < 1.0
    assert float(loss.detach()) == pytest.approx(5 * (float(regularised.x) - 1) ** 2, rel=0.1)


def test_projections_are_in_place():
    ours = Ridge(
        project_upper=lambda params: params[0].clamp_(max=0.2), project_lower=lambda params: params[0].clamp_(max=1.0)
    )
    ours.run(50)
    assert ours.x.item() == pytest.approx(0.2)
    assert float(ours.model.y.max()) <= 1.0
    assert float(ours.optimizer.reference.y.max()) <= 1.0


def test_upper_parameters_inside_the_module_are_shared_with_the_copy():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    loss = lambda module, batch: module(torch.ones(3, 2)).square().mean()  # noqa: E731
    optimizer = PenaltyBilevelOptimizer(model[0].parameters(), model, loss, loss)
    assert optimizer.reference[0].weight is model[0].weight
    assert optimizer.reference[1].weight is not model[1].weight
    optimizer.step()


def test_the_copy_follows_the_lower_loss_alone():
    ours = Ridge(lr=0.0, inner_steps=50)
    batch = torch.zeros(1, 2, dtype=torch.float64)
    ours.optimizer.step(upper_batch=batch, lower_batch=batch)
    assert torch.allclose(ours.optimizer.reference.y, b)
    assert torch.allclose(ours.model.y, (b + 0.2 * b / 1.5) / 1.2)  # the minimiser of sigma f + g


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1"),
        ({"lower_lr": math.nan}, "lower_lr is nan"),
        ({"sigma": 0.0}, "sigma is 0"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"inner_steps": 2, "momentum": 0.5}, "inner_steps is 2"),
        ({"inner_steps": 1, "momentum": 1.5}, "momentum is 1.5"),
        ({"prox_rho": 0.0}, "prox_rho is 0"),
        ({"averaging": 0.0}, "averaging is 0"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Ridge(**options)


def test_other_bad_input_is_refused_by_name():
    x = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(TypeError, match="lower_module is list"):
        PenaltyBilevelOptimizer([x], [], print, print)
    with pytest.raises(ValueError, match="lower_module has no parameters"):
        PenaltyBilevelOptimizer([x], torch.nn.ReLU(), print, print)
    with pytest.raises(TypeError, match="upper_loss is NoneType"):
        PenaltyBilevelOptimizer([x], torch.nn.Linear(1, 1), None, print)
    with pytest.raises(ValueError, match="bilevel"):
        Ridge().optimizer.load_state_dict(torch.optim.SGD([x]).state_dict())
    rising = Ridge(sigma=lambda k: 0.1 + k)
    with pytest.raises(ValueError, match="sigma rises"):
        rising.run(2)
    constant = PenaltyBilevelOptimizer(
        [x], torch.nn.Linear(1, 1), lambda m, _: torch.ones(()), lambda m, _: m.weight.sum()
    )
    with pytest.raises(RuntimeError, match="upper_loss is not differentiable"):
        constant.step()
