"""Every exported class and function has a kind, or is a helper by one of a few stated rules."""

import inspect

import pytest
import torch
from sklearn.base import BaseEstimator

from conformance.deviations import DEVIATIONS
from conformance.discovery import KINDS, Export, exports, helper_rule, kind_of, of_kind
from conformance.suite import Suite

# A name says what a thing is: one that is named for a kind is of it, where the field has that kind.
NAMED = {
    ("diffusion", "Sampler"): "sampler",
    ("diffusion", "Scheduler"): "scheduler",
    ("robustness", "_test"): "hypothesis test",
    ("inference", "_test"): "hypothesis test",
    ("inference", "Regressor"): "estimator",
    ("inference", "Classifier"): "estimator",
    ("inference", "Predictor"): "estimator",
    ("inference", "Counter"): "private mechanism",
}
CALLABLE = [e for e in exports() if inspect.isclass(e.thing) or inspect.isroutine(inspect.unwrap(e.thing))]


@pytest.mark.parametrize("export", CALLABLE, ids=lambda e: e.where)
def test_it_has_a_kind_or_is_a_helper_by_a_rule(export):
    kind, rule = kind_of(export), helper_rule(export)
    assert kind or rule, f"{export.where} is of no kind: make it one of {', '.join(KINDS)}, or state a rule"
    for (field, word), named in NAMED.items():
        if export.field == field and export.name.endswith(word) and not inspect.isabstract(export.thing):
            assert kind == named, f"{export.where} is named as a {named}, and isn't built as one"


@pytest.mark.parametrize(
    "kind", ["sampler", "scheduler", "estimator", "attack", "private mechanism", "hypothesis test"]
)
def test_kinds_that_exist_are_found(kind):
    assert len(of_kind(kind)) >= 5


class Optimiser(torch.optim.Optimizer):
    pass


class Network(torch.nn.Module):
    pass


class OfPoints(torch.nn.Module):
    def forward(self, points, values):
        pass


class Estimator(BaseEstimator):
    pass


class Mechanism:
    def privacy(self):
        pass


class Attack:
    def __call__(self, model, obs):
        pass


class Scheduler:
    def set_timesteps(self): ...
    def step(self): ...
    def add_noise(self): ...


class Bandit:
    def predict(self): ...
    def update(self): ...
    def probabilities(self): ...
    def state_dict(self): ...


class Nothing:
    def swim(self):
        pass


def solve(A, b, x0=None, *, rtol=1e-5, maxiter=None, callback=None):
    pass


def integrate(func, u0, t_span, *, atol=1e-6, rtol=1e-6):
    pass


def integrate_noisy(drift, diffusion, u0, t_span, *, atol=1e-6, rtol=1e-6):
    pass


@pytest.mark.parametrize(
    ("field", "thing", "kind"),
    [
        ("training", Optimiser, "optimiser"),
        ("operators", Network, "operator network"),
        ("operators", OfPoints, None),
        ("diffusion", Network, None),
        ("reduction", Estimator, "estimator"),
        ("inference", Mechanism, "private mechanism"),
        ("robustness", Attack, "attack"),
        ("diffusion", Scheduler, "scheduler"),
        ("solvers", solve, "solver"),
        ("dynamics", integrate, "ODE solver"),
        ("dynamics", integrate_noisy, "SDE solver"),
        ("solvers", Bandit, "bandit"),
        ("inference", Nothing, None),
    ],
)
def test_structure_tells_the_kind(field, thing, kind):
    assert kind_of(Export(field, thing.__name__, thing)) == kind


def test_what_is_of_no_kind_is_no_helper_either():
    assert helper_rule(Export("inference", "Nothing", Nothing)) is None


def test_the_deviations_are_of_things_that_exist():
    wheres = {e.where for e in exports()}
    assert {subject.partition(",")[0] for subject, _ in DEVIATIONS} <= wheres
    assert all(len(reason) > 20 for reason in DEVIATIONS.values())


def test_a_suite_makes_a_case_of_each_check():
    suite = Suite("attack")
    suite.check(lambda subject: None)
    assert len(suite.cases()) == len(of_kind("attack"))
