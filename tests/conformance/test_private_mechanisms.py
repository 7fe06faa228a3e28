"""Every exported private mechanism: records or queries in, answers and a guarantee out."""

import copy
import inspect
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.discovery import Export
from conformance.suite import CAUGHT, Subject, Suite, arguments, variants
from paperworks.inference.continual import ContinualMechanism
from paperworks.inference.privacy import BudgetExhausted, PrivateMechanism

pytestmark = pytest.mark.usefixtures("untyped")

T, D, N = 16, 3, 40
RECORDS = np.random.default_rng(0).integers(0, 2, (T, D))
QUERIES = np.random.default_rng(1).random((5, N))

VALUES = {
    "problem": lambda: "maxsum",
    "T": lambda: T,
    "d": lambda: D,
    "data": lambda: np.arange(N),
    "samples": lambda: np.arange(N),
    "universe_size": lambda: N,
    "threshold": lambda: 0.1,
    "epsilon": lambda: 1.0,
    "c": lambda: 10,
    "comparison_scale": lambda: 0.05,
}
# What is no matter of choice here, though it has a default.
ALWAYS = {"d": D, "noise_scale": 0.1, "threshold": 0.1, "budget": 10, "train": np.arange(N), "holdout": np.arange(N)}


class Case:
    """A mechanism, and how it is asked."""

    def __init__(self, subject: Subject, **options: Any) -> None:
        thing = subject.export.thing
        names = inspect.signature(thing).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in names.values())
        is_stream = not inspect.isclass(thing) or issubclass(thing, ContinualMechanism) or hasattr(thing, "update")
        given = {"random_state": np.random.default_rng(0), **options}
        if is_stream and not {"epsilon"} & options.keys():
            given.setdefault("rho", 0.5)
        defaults = {name: value for name, value in ALWAYS.items() if name in names and name not in given}
        given = {**defaults, **{n: v for n, v in given.items() if n in names or open_ended}, **subject.options}
        if "d" in given and not is_stream:
            del given["d"]
        if not is_stream:
            given.pop("rho", None)
        self.mechanism = thing(**arguments(thing, VALUES, given), **{n: v for n, v in given.items() if n not in names})
        if hasattr(self.mechanism, "update"):
            self.ask, self.inputs, self.name = self.mechanism.update_batch, (RECORDS,), "x"
        elif hasattr(self.mechanism, "answer_all"):
            self.ask, self.inputs, self.name = self.mechanism.answer_all, (QUERIES,), "values"
        elif hasattr(self.mechanism, "query_values"):
            self.ask, self.inputs, self.name = self.mechanism.query_values, (QUERIES, QUERIES[::-1]), "values"
        else:
            pytest.fail(f"{subject.id} is asked in a way that this suite doesn't know: give it a builder")

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self.ask(*(inputs or self.inputs)))

    def privacy(self) -> Any:
        needs_n = "n" in inspect.signature(self.mechanism.privacy).parameters
        return self.mechanism.privacy(N) if needs_n else self.mechanism.privacy()

    @property
    def answers_without_noise(self) -> bool:
        return type(self.mechanism).__name__ == "ConstantAnswer"


def subjects(export: Export) -> list[Subject]:
    found = []
    for options in variants(export.thing):
        try:
            Case(Subject(export, options))
        except ValueError:  # an option that alone doesn't go with the others
            if not options:
                raise
            continue
        found.append(Subject(export, options))
    return found


SUITE = Suite("private mechanism", subjects)


@SUITE.check
def its_input_is_left_alone(subject):
    case = Case(subject)
    inputs = [array.copy() for array in case.inputs]
    case(*inputs)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, case.inputs, strict=True))


@SUITE.check
def it_answers_once_for_each_input(subject):
    case = Case(subject)
    answers = case()
    assert len(answers) == len(case.inputs[0])
    assert np.isfinite(answers.astype(float)).all()


@SUITE.check
def bad_input_is_refused_by_name(subject):
    case = Case(subject)
    for broken in (case.inputs[0].astype(float), case.inputs[0][:, :-1], 7.3 + case.inputs[0]):
        if broken.shape == case.inputs[0].shape and broken.max() <= 1:
            broken[0, 0] = math.nan
        with pytest.raises(ValueError, match=case.name):
            case(broken, *case.inputs[1:])
    for bad in (0, "seed", 3.5):  # a number is no source of private noise
        with pytest.raises((ValueError, TypeError), match="random_state"):
            Case(subject, random_state=bad)


@SUITE.check
def seeds_repeat_and_differ(subject):
    first, second = (Case(subject, random_state=np.random.default_rng(seed))() for seed in (0, 0))
    assert np.array_equal(first, second)
    case = Case(subject)
    if case.answers_without_noise:
        return
    several = [Case(subject, random_state=np.random.default_rng(seed))() for seed in range(1, 8)]
    assert any(not np.array_equal(first, other) for other in several)
    secret = Case(
        subject, random_state=None
    )()  # an answer may come without noise, as from a hypothesis, but not all do
    assert any(not np.array_equal(secret, Case(subject, random_state=None)()) for _ in range(100))


@SUITE.check
def it_says_what_it_guarantees(subject):
    case = Case(subject)
    case()
    try:
        guarantee = case.privacy()
    except ValueError as error:
        assert "privacy takes" in str(error)  # noqa: PT017
        return
    numbers = list(guarantee.values()) if isinstance(guarantee, dict) else [guarantee]
    assert all(number >= 0 for number in numbers)
    assert all(math.isfinite(number) for number in numbers)


@SUITE.check
def one_by_one_is_all_at_once(subject):
    whole, single = Case(subject), Case(subject)
    if not hasattr(whole.mechanism, "update") or whole.answers_without_noise:
        return
    whole, single = (Case(subject, rho=math.inf) for _ in range(2))  # noise is drawn in another order
    assert np.array_equal(whole(), np.array([single.mechanism.update(x) for x in RECORDS]))


@SUITE.check
def a_reset_forgets(subject):
    case = Case(subject)
    if not hasattr(case.mechanism, "reset"):
        return
    case()
    with pytest.raises(ValueError, match="T = 16"):
        case()
    case.mechanism.reset()
    assert len(case()) == T


@SUITE.check
def it_can_not_be_copied(subject):
    case = Case(subject)
    assert isinstance(case.mechanism, PrivateMechanism)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="budget"):
            copied(case.mechanism)


@SUITE.check
def it_can_be_moved_in_the_midst(subject):
    stays, moves = Case(subject), Case(subject)
    half, rest = ([part(array) for array in stays.inputs] for part in (first_half, second_half))
    assert np.array_equal(stays(*half), moves(*half))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mechanism"
        moves.mechanism.save(path)
        with pytest.raises(BudgetExhausted, match="moved"):
            moves(*rest)
        again = type(moves.mechanism).load(path)
        assert not any(Path(folder).iterdir())
    assert np.array_equal(stays(*rest), getattr(again, moves.ask.__name__)(*rest))


def first_half(array):
    return array[: len(array) // 2]


def second_half(array):
    return array[len(array) // 2 :]


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_keeps_the_contract_of_private_mechanisms(check, subject):
    check(subject)


class Careless:
    """A mechanism that breaks each rule."""

    def __init__(self, T, d=1, rho=None, random_state=None):
        self.t, self.forget = 0, lambda: None

    def reset(self):
        pass

    def update(self, x):
        self.t += 1
        return self.t

    def update_batch(self, X):
        X += 1
        return np.append(X.cumsum(), np.nan)

    def privacy(self):
        return {"rho": -math.inf}


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
def test_each_check_catches_a_careless_mechanism(check):
    before = RECORDS.copy()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(Export("inference", "Careless", Careless)))
    finally:
        RECORDS[:] = before
