"""Every exported sampler: inputs, models, shapes, precisions, rows, seeds, callbacks and trajectories."""

import copy
import dataclasses
import inspect
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.discovery import Export, parameters, returned
from conformance.suite import CAUGHT, DEVICES, Subject, Suite, arguments, variants
from paperworks.diffusion import (
    EDMSchedule,
    Fields,
    Interpolant,
    LearnablePath,
    NoiseScheduleVP,
    SampleResult,
    SamplingStep,
    ddim_invert,
)

pytestmark = pytest.mark.usefixtures("untyped")

STEPS = 6
STATES = ("x", "x_T", "z0")
X = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).reshape(4, 3)


def answer(x: Tensor, t: Any) -> Tensor:
    return torch.tanh(x)


class Model(nn.Module):
    """A trainable network that answers row by row; `answer` changes what it answers."""

    def __init__(self, answer: Callable[[Tensor, Any], Tensor] = answer) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.answer = answer

    def forward(self, x: Tensor, t: Any, *others: Any) -> Tensor:
        return self.answer(x, t) * self.scale.to(x) if self.answer is answer else self.answer(x, t)


class Run:
    """A sampler that is built round a model, and called with a state."""

    def __init__(self, subject: Subject, model: nn.Module | None = None) -> None:
        self.thing, self.options = subject.export.thing, dict(subject.options)
        calls = self.options.pop("calls", "sample")
        self.model = model or Model()
        if inspect.isclass(self.thing):
            self.object = self.thing(**arguments(self.thing, self.values(), self.options))
            self.function = self.object.forward if isinstance(self.object, nn.Module) else getattr(self.object, calls)
        else:
            self.object, self.function = None, self.thing
        self.state = next(name for name in parameters(self.function) if name in STATES)
        # A module that stands for a function takes its options when it is made.
        self.returns_result = inspect.isclass(returned(self.function)) and issubclass(
            returned(self.function), SampleResult
        )
        self.takes = parameters(self.function)
        self.draws = self.takes_generator()

    def values(self) -> dict[str, Callable[[], Any]]:
        """What required arguments get, by their names."""
        return {
            "model_fn": lambda: self.model,
            "schedule": lambda: EDMSchedule() if self.options.get("base") == "edm" else NoiseScheduleVP.linear(),
            "fields": lambda: Fields(Interpolant("linear"), b=self.model, s=self.model),
            "path": lambda: LearnablePath(3),
            "drift": lambda: self.model,
            "eps": lambda: 0.5,
            "steps": lambda: STEPS,
            "generator": lambda: torch.Generator().manual_seed(0),
        }

    def takes_generator(self) -> bool:
        return "generator" in self.takes and (
            inspect.signature(self.function).parameters["generator"].default is inspect.Parameter.empty
            or "sde" in str(self.options.get("algorithm_type", ""))
            or self.thing.__name__.startswith("SDE")
        )

    def __call__(self, x: Tensor, **options: Any) -> Any:
        given = {self.state: x, **self.options, **options}
        if "steps" in self.takes:
            given.setdefault("steps", STEPS)
        if self.draws:
            given.setdefault("generator", torch.Generator(x.device).manual_seed(0))
        given = {name: value for name, value in given.items() if name in self.takes or name in options}
        return self.function(**arguments(self.function, self.values(), given) | given)

    def sample(self, x: Tensor, **options: Any) -> Tensor:
        result = self(x, **options)
        return result.sample if self.returns_result else result

    @property
    def adapts(self) -> bool:
        """Whether it chooses its steps, for the whole batch."""
        return bool({"adaptive", "PF", "dopri5"} & set(map(str, self.options.values())))


def subjects(export: Export) -> list[Subject]:
    thing = export.thing
    functions = [thing, thing.sample] if hasattr(thing, "sample") else [thing]
    found = []
    inverses = [{"calls": name} for name in ("invert", "inverse") if hasattr(thing, name)]
    for options in (*variants(*functions), *inverses):
        try:
            Run(Subject(export, options)).sample(X)
        except ValueError:  # an option that alone doesn't go with the others
            if not options:
                raise
            continue
        except Exception:
            pass  # for the checks to tell
        found.append(Subject(export, options))
    return found


SUITE = Suite("sampler", subjects)


@SUITE.check
def its_input_is_left_alone(subject):
    x = X.clone()
    found = Run(subject).sample(x)
    assert torch.equal(x, X)
    found.detach().add_(1)
    assert torch.equal(x, X)


@SUITE.check
def the_model_and_the_global_generator_are_left_alone(subject):
    model, before = Model().train(), torch.get_rng_state()
    Run(subject, model).sample(X)
    assert model.training
    assert model.scale.requires_grad
    assert model.scale.grad is None
    assert torch.equal(torch.get_rng_state(), before)


@SUITE.check
def a_model_may_return_its_input(subject):
    x = X.clone()
    own, copied = (Run(subject, Model(a)).sample(x) for a in (lambda x, t: x, lambda x, t: x.clone()))
    assert torch.equal(x, X)
    assert torch.equal(own, copied)


@SUITE.check
def a_bad_state_is_refused_by_name(subject):
    run = Run(subject)
    broken = X.clone()
    broken[1, 1] = float("nan")
    with pytest.raises(ValueError, match=rf"^{run.state} has 1 NaN"):
        run(broken)
    with pytest.raises(TypeError, match=rf"^{run.state} is torch.int64"):
        run(X.long())
    with pytest.raises(ValueError, match=rf"^{run.state} has no dimension"):
        run(X[0, 0])


@SUITE.check
def nan_from_the_model_is_refused(subject):
    calls = []

    def late(x, t):
        calls.append(t)
        noise = torch.tanh(x)
        if len(calls) > 2:
            noise[-1, -1] = float("nan")
        return noise

    run = Run(subject, Model(late))
    # A solver that chooses its steps meets NaN in its estimate of the error, before a step ends.
    where = r"^in step \d+, which ends at t=.*NaN or infinity came from" if run.returns_result else r"NaN|finite"
    with pytest.raises((ValueError, RuntimeError), match=rf"{where}|the error isn't a number|NaN or infinity"):
        run(X)


@SUITE.check
def another_shape_from_the_model_is_refused(subject):
    with pytest.raises(ValueError, match=r"returned shape \(4, 1\).*; it takes that of x, \(4, 3\)"):
        Run(subject, Model(lambda x, t: x[:, :1]))(X)


@SUITE.check
def a_graph_is_made_only_where_it_is_asked_for(subject):
    model = Model()
    run = Run(subject, model)
    found = run.sample(X)
    if run.returns_result:
        assert not found.requires_grad
    else:  # a sampler that returns the sample itself is one to differentiate
        (gradient,) = torch.autograd.grad(found.sum(), model.scale)
        assert torch.isfinite(gradient)
        assert gradient != 0


@SUITE.check
def precision_and_device_are_kept(subject):
    exact = Run(subject).sample(X).detach()
    for device in DEVICES:
        for dtype, tolerance in (
            (torch.float64, 1e-9),
            (torch.float32, 1e-3),
            (torch.bfloat16, 0.3),
            (torch.float16, 0.1),
        ):
            run = Run(subject, Model().to(device))
            if run.adapts and dtype.itemsize == 2:
                continue  # it would ask half precision for less error than its rounding
            found = run.sample(X.to(device, dtype))
            assert (found.dtype, found.device.type) == (dtype, device)
            if not run.draws:  # noise of another precision is other noise
                assert (found.detach().cpu().double() - exact).abs().max() < tolerance * exact.abs().max()


@SUITE.check
def a_batch_is_its_rows(subject):
    run = Run(subject)
    if run.draws:
        pytest.skip("each row has noise of its own")
    rows = torch.cat([run.sample(x[None]) for x in X])
    assert (run.sample(X) - rows).abs().max() < (0.2 if run.adapts else 1e-12)


@SUITE.check
def shapes_are_kept(subject):
    for shape in ((12,), (3, 1, 2, 2)):
        assert Run(subject).sample(X.reshape(shape)).shape == shape


@SUITE.check
def runs_repeat(subject):
    run = Run(subject)
    assert torch.equal(run.sample(X), run.sample(X))
    if run.draws:
        other = run.sample(X, generator=torch.Generator().manual_seed(1))
        assert not torch.equal(other, run.sample(X))


@SUITE.check
def the_callback_sees_every_step(subject):
    run, seen = Run(subject), []
    if not run.returns_result:
        pytest.skip("returns the sample alone")
    result = run(X, callback=lambda step: seen.append(dataclasses.replace(step, x=step.x.clone())))
    assert [step.index for step in seen] == list(range(len(seen)))
    assert {step.total for step in seen} in ({len(seen)}, {None})
    assert seen[-1].nfe == result.nfe
    assert all(b.nfe > a.nfe for a, b in itertools.pairwise(seen))
    assert (seen[-1].x - result.sample).abs().max() < 1e-12
    times = [step.t for step in seen]
    assert times in (sorted(set(times)), sorted(set(times), reverse=True))


@SUITE.check
def the_trajectory_leads_from_the_state_to_the_sample(subject):
    run = Run(subject)
    if "return_trajectory" not in run.takes:
        pytest.skip("keeps none")
    result = run(X, return_trajectory=True)
    assert len(result.times) == len(result.trajectory) >= 2
    assert torch.equal(result.trajectory[0], X)
    assert (result.trajectory[-1] - result.sample).abs().max() < 1e-12
    assert len({state.data_ptr() for state in (X, *result.trajectory)}) == len(result.trajectory) + 1
    assert run(X).trajectory in ((), []) or "pair" in subject.export.name


@SUITE.check
def the_number_of_steps_is_checked(subject):
    run = Run(subject)
    for steps, error in ((0, ValueError), (2.5, TypeError)):
        if run.object is None or "steps" in run.takes:
            with pytest.raises(error, match=r"^steps is"):
                run(X, steps=steps)
        else:
            with pytest.raises(error, match=r"^steps is"):
                Run(subject._replace(options={**subject.options, "steps": steps}))


@SUITE.check
def it_can_be_copied_and_pickled(subject):
    run = Run(subject)
    if run.object is None:
        return
    for other in (copy.deepcopy(run.object), pickle.loads(pickle.dumps(run.object))):
        before = run.sample(X)
        run.function = getattr(other, run.function.__name__)
        assert torch.equal(run.sample(X), before)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_samplers(check, subject):
    check(subject)


class Careless:
    """A sampler that breaks each rule."""

    def __init__(self, model_fn):
        self.model_fn = model_fn
        self.forget = lambda: None

    def sample(self, x, steps, *, callback=None, return_trajectory=False) -> SampleResult:
        torch.rand(())
        state, kept = x, [x]
        for i in range(int(steps)):
            noise = self.model_fn(state, 1.0)
            state.sub_(0.1 * noise)
            state = state + 0.01 * torch.rand(()) + 0.01 * state.nan_to_num().mean()
            kept.append(state)
            if callback is not None:
                callback(SamplingStep(i + 1, steps, i % 2, state, 1))
        return SampleResult(state.float().squeeze(), steps + 1, (), kept)


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_each_check_catches_a_careless_sampler(check):
    with pytest.raises(CAUGHT):
        check(Subject(Export("diffusion", "Careless", Careless)))


def test_a_sampler_that_cannot_be_built_is_told():
    class Strange(Careless):
        def __init__(self, model_fn, wand):
            super().__init__(model_fn)

    with pytest.raises(pytest.fail.Exception, match=r"takes 'wand'.*give it a builder"):
        Run(Subject(Export("diffusion", "Strange", Strange)))


def test_a_function_is_run_as_an_object_is():
    assert Run(Subject(Export("diffusion", "ddim_invert", ddim_invert))).sample(X).shape == X.shape
