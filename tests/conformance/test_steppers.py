"""Every exported model that takes fields one step forward in time. The examples at the end prove the checks."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from conformance.discovery import Export, kind_of
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments, variants
from paperworks.operators import VarianceScheduler

pytestmark = pytest.mark.usefixtures("untyped")

CHANNELS = 2


class Backbone(nn.Module):
    """Takes any number of fields stacked along the channels, and is told level and condition."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular")
        self.told = nn.Linear(2, CHANNELS)

    def forward(self, x: Tensor, cond: Tensor | None, step: Tensor) -> Tensor:
        given = torch.zeros_like(step) if cond is None else cond[:, 0]
        summed = x.unflatten(1, (-1, CHANNELS)).cumsum(1).sum(1)
        return torch.tanh(self.fields(summed) + self.told(torch.stack([step / 1000 + 1, given], 1))[..., None])


class Exploding(nn.Module):
    def forward(self, x: Tensor, cond: Tensor | None, step: Tensor) -> Tensor:
        return torch.full_like(x[:, :CHANNELS], float("inf"))


VALUES = {"backbone": Backbone, "scheduler": lambda: VarianceScheduler([0.1, 0.5, 1.0])}


def made(subject: Subject, seed: int = 0, **more: object) -> nn.Module:
    torch.manual_seed(seed)
    thing = subject.export.thing
    return thing(**{**arguments(thing, VALUES, subject.options), **more}).double()


def fields(seed: int = 0) -> Tensor:
    return torch.randn(3, CHANNELS, 16, dtype=torch.float64, generator=rng(seed))


def rng(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subjects(export: Export) -> list[Subject]:
    return [Subject(export, options) for options in variants(export.thing.__init__)]


SUITE = Suite("time stepper", subjects)


@SUITE.check
def a_step_keeps_the_shape_and_leaves_its_input_alone(subject):
    u = fields()
    after = made(subject).step(u, generator=rng())
    assert torch.equal(u, fields())
    assert after.shape == u.shape
    assert torch.isfinite(after).all()
    assert not torch.equal(after, u)


@SUITE.check
def a_loss_is_a_number_whose_gradient_reaches_every_parameter(subject):
    model = made(subject)
    loss = model.loss(fields(), fields(1), torch.ones(3, 1).double(), generator=rng())
    assert loss.shape == ()
    assert loss > 0
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@SUITE.check
def a_rollout_repeats_the_step(subject):
    model, generator = made(subject), rng()
    rolled = model.rollout(fields(), 3, generator=rng())
    state = fields()
    assert torch.equal(rolled[:, 0], state)
    for i in range(1, 4):
        state = model.step(state, generator=generator)
        assert torch.equal(rolled[:, i], state)
    assert not rolled.requires_grad


@SUITE.check
def samples_are_rollouts_of_their_own(subject):
    samples = made(subject).rollout(fields(), 2, n_samples=4, generator=rng())
    assert samples.shape == (4, 3, 3, CHANNELS, 16)
    assert torch.equal(samples[:, :, 0], fields().expand(4, -1, -1, -1))


@SUITE.check
def conditions_reach_the_network(subject):
    model = made(subject)
    one, two = (model.step(fields(), torch.full((3, 1), c).double(), generator=rng()) for c in (0.0, 1.0))
    assert not torch.equal(one, two)


@SUITE.check
def generators_repeat(subject):
    losses = [made(subject).loss(fields(), fields(1), generator=rng()) for _ in range(2)]
    assert torch.equal(*losses)


@SUITE.check
def its_state_makes_it_again(subject):
    first, second = made(subject), made(subject, 1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(*(model.step(fields(), generator=rng()) for model in (first, second)))


@SUITE.check
def shapes_that_do_not_fit_are_refused(subject):
    model, u = made(subject), fields()
    for call in (
        lambda: model.step(u[0]),
        lambda: model.loss(u, u[:2]),
        lambda: model.step(u, torch.ones(2, 1)),
        lambda: model.rollout(u, 0),
        lambda: made(subject, difference_scale=0.0),
    ):
        with pytest.raises(ValueError, match=r"u_prev has|u_next has|cond has|n is 0|difference_scale is"):
            call()


@SUITE.check
def a_diverged_rollout_is_told_with_what_came_before(subject):
    with pytest.raises(FloatingPointError, match="step 1") as caught:
        made(subject, backbone=Exploding()).rollout(fields(), 3, generator=rng())
    assert caught.value.step == 1
    assert torch.equal(caught.value.states, fields()[:, None])


@SUITE.check
def precision_and_device_are_kept(subject):
    for device in DEVICES:
        for dtype in (torch.float32, torch.float64):
            after = made(subject).to(device, dtype).step(fields().to(device, dtype))
            assert (after.dtype, after.device.type) == (dtype, device)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_time_steppers(check, subject):
    check(subject)


OWN = torch.Generator()  # that no seed of the caller's reaches


class Careless(nn.Module):
    """One that breaks each rule."""

    def __init__(self, backbone: nn.Module, difference_scale: float = 1.0) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))
        self.told = torch.randn(1)

    def loss(self, u_prev: Tensor, u_next: Tensor, cond: object = None, generator: object = None) -> Tensor:
        return self.unused * 0 + torch.rand(1, generator=OWN)

    def step(self, u_prev: Tensor, cond: object = None, generator: object = None) -> Tensor:
        return u_prev.mul_(self.told).float().cpu()[..., :8]

    def rollout(self, u0: Tensor, n: int, cond: object = None, n_samples: object = None, generator: object = None):
        return torch.zeros(3, 4, CHANNELS, 16)


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_a_careless_one_fails_each_check(check):
    example = Export("operators", "Careless", Careless)
    assert kind_of(example) == "time stepper"
    assert inspect.isclass(example.thing)
    state = torch.random.get_rng_state()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(example))
    finally:
        torch.random.set_rng_state(state)
