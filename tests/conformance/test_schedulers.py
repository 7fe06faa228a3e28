"""Every exported scheduler, driven as a pipeline drives it."""

import copy
import json
import pickle
from typing import Any, NamedTuple

import pytest
import torch

from conformance.discovery import Export
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments, variants

pytestmark = pytest.mark.usefixtures("untyped")

X = torch.linspace(-1.5, 1.5, 16, dtype=torch.float64).reshape(4, 1, 2, 2)
STEPS = 5


def subjects(export: Export) -> list[Subject]:
    found = []
    kinds = [{"prediction_type": kind} for kind in ("sample", "v_prediction", "flow_prediction", "raw")]
    for options in (*variants(export.thing), *kinds):
        try:
            made(Subject(export, options))
        except ValueError:  # an option that alone doesn't go with the others, or another word for a prediction
            if not options:
                raise
            continue
        found.append(Subject(export, options))
    return list({subject.id: subject for subject in found}.values())


def made(subject: Subject, device: str = "cpu") -> Any:
    scheduler = subject.export.thing(**arguments(subject.export.thing, {}, subject.options))
    scheduler.set_timesteps(STEPS, device=device)
    return scheduler


def network(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(x)


def seeded(subject: Subject, x: torch.Tensor, seed: int = 0) -> dict[str, Any]:
    draws = "sde" in str(subject.options.get("algorithm_type"))
    return {"generator": torch.Generator(x.device).manual_seed(seed)} if draws else {}


def drive(subject: Subject, x: torch.Tensor, scheduler: Any = None, network: Any = network) -> torch.Tensor:
    """Sample as a pipeline does."""
    scheduler = scheduler or made(subject, x.device.type)
    options = seeded(subject, x)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
    return x


SUITE = Suite("scheduler", subjects)


@SUITE.check
def timesteps_are_laid_out(subject):
    scheduler = made(subject)
    assert scheduler.timesteps.ndim == 1
    assert len(scheduler.timesteps) >= STEPS
    signs = scheduler.timesteps.double().diff().sign().unique().tolist()
    assert {-1.0, 1.0} - set(signs)
    assert float(scheduler.init_noise_sigma) > 0
    assert isinstance(scheduler.order, int)
    with pytest.raises((ValueError, TypeError), match="num_inference_steps"):
        scheduler.set_timesteps(0)


@SUITE.check
def what_it_gets_is_left_alone(subject):
    scheduler, x = made(subject), X.clone()
    options = seeded(subject, X)
    for t in scheduler.timesteps:
        before, output = x.clone(), network(x, t)
        kept = output.clone()
        following = scheduler.step(output, t, x, **options).prev_sample
        assert torch.equal(x, before)
        assert torch.equal(output, kept)
        assert following.data_ptr() not in (x.data_ptr(), output.data_ptr())
        x = following


@SUITE.check
def a_network_may_return_its_input(subject):
    own, copied = (drive(subject, X, network=f) for f in (lambda x, t: x, lambda x, t: x.clone()))
    assert torch.equal(own, copied)


@SUITE.check
def bad_answers_are_refused(subject):
    scheduler = made(subject)
    with pytest.raises(ValueError, match=r"model_output has shape \(4, 1, 2, 1\); it takes that of sample"):
        scheduler.step(X[..., :1], scheduler.timesteps[0], X, **seeded(subject, X))

    def late(x, t):
        output = torch.tanh(x)
        if t == scheduler.timesteps[2]:
            output[-1, -1, -1, -1] = float("nan")
        return output

    with pytest.raises(ValueError, match="model_output"):
        drive(subject, X, network=late)


@SUITE.check
def steps_out_of_turn_are_refused(subject):
    scheduler = subject.export.thing(**arguments(subject.export.thing, {}, subject.options))
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(X, 10, X, **seeded(subject, X))
    scheduler = made(subject)
    drive(subject, X, scheduler)
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(X, scheduler.timesteps[-1], X, **seeded(subject, X))


@SUITE.check
def precision_and_device_are_kept(subject):
    exact = drive(subject, X)
    for device in DEVICES:
        for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 0.5), (torch.float16, 0.2)):
            found = drive(subject, X.to(device, dtype))
            assert (found.dtype, found.device.type) == (dtype, device)
            if not seeded(subject, X):
                assert (found.cpu().double() - exact).abs().max() < tolerance * exact.abs().max()


@SUITE.check
def a_batch_is_its_rows(subject):
    if seeded(subject, X):
        pytest.skip("each row has noise of its own")
    rows = torch.cat([drive(subject, x[None]) for x in X])
    assert (drive(subject, X) - rows).abs().max() < 1e-12 * max(1, rows.abs().max().item())


@SUITE.check
def a_new_run_starts_anew(subject):
    scheduler = made(subject)
    first = drive(subject, X, scheduler)
    scheduler.set_timesteps(STEPS)
    assert torch.equal(drive(subject, X, scheduler), first)


@SUITE.check
def its_configuration_makes_it_again(subject):
    scheduler = made(subject)
    config = dict(scheduler.config)
    assert json.loads(json.dumps(config)) == config
    again = subject.export.thing.from_config(config)
    assert dict(again.config) == config
    again.set_timesteps(STEPS)
    assert torch.equal(drive(subject, X, again), drive(subject, X))


@SUITE.check
def it_can_be_copied_and_pickled_in_the_midst(subject):
    scheduler, options = made(subject), seeded(subject, X)
    first, *others = scheduler.timesteps
    x = scheduler.step(network(X, first), first, X, **options).prev_sample
    ends = []
    for each in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), scheduler):
        state, generator = x, seeded(subject, X, 1)
        for t in others:
            state = each.step(network(state, t), t, state, **generator).prev_sample
        ends.append(state)
    assert torch.equal(ends[0], ends[2])
    assert torch.equal(ends[1], ends[2])


@SUITE.check
def gradients_flow(subject):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    found = drive(subject, X, network=lambda x, t: scale * torch.tanh(x))
    (gradient,) = torch.autograd.grad(found.square().sum(), scale)
    assert torch.isfinite(gradient)
    assert gradient != 0


@SUITE.check
def a_tuple_is_returned_where_asked_for(subject):
    found = []
    for wanted in (True, False):
        scheduler = made(subject)
        t = scheduler.timesteps[0]
        found.append(scheduler.step(network(X, t), t, X, return_dict=wanted, **seeded(subject, X)))
    assert type(found[1]) is tuple
    assert torch.equal(found[0].prev_sample, found[1][0])


@SUITE.check
def noise_is_added_row_by_row(subject):
    scheduler, noise = made(subject), X.flip(0)
    x, timesteps = X.clone(), scheduler.timesteps[[0, 1, 2, 3]]
    noisy = scheduler.add_noise(x, noise, timesteps)
    assert torch.equal(x, X)
    assert noisy.dtype == X.dtype
    rows = [scheduler.add_noise(X[i : i + 1], noise[i : i + 1], timesteps[i : i + 1]) for i in range(4)]
    assert torch.equal(noisy, torch.cat(rows))
    with pytest.raises(ValueError, match="noise has shape"):
        scheduler.add_noise(X, noise[..., :1], timesteps)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_schedulers(check, subject):
    check(subject)


class Careless:
    """A scheduler that breaks each rule."""

    order, init_noise_sigma = 1.0, 0.0

    class Output(NamedTuple):
        prev_sample: torch.Tensor

    def __init__(self):
        self.config = {"forget": lambda: None}

    @classmethod
    def from_config(cls, config):
        return cls()

    def set_timesteps(self, n, device=None):
        self.timesteps = torch.arange(max(n, 1))

    def scale_model_input(self, x, t):
        return x

    def step(self, output, t, x, return_dict=True):
        following = x.detach().sub_(0.1 * output.detach()).float() + 0.01 * torch.rand(()) + 0.01 * x.mean()
        return self.Output(following)

    def add_noise(self, x, noise, timesteps):
        return x.add_(noise.mean())


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_each_check_catches_a_careless_scheduler(check):
    with pytest.raises(CAUGHT):
        check(Subject(Export("diffusion", "Careless", Careless)))
