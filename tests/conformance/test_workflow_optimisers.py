"""Every exported optimiser of workflows: the loop of torch, any feedback, a status, and a state that is kept."""

import inspect
import json
from typing import Any

import pytest

from conformance.discovery import Export
from conformance.suite import Subject, Suite, arguments
from paperworks.optimization import CallableLLM, node

pytestmark = pytest.mark.usefixtures("untyped")


def told(messages: list[dict[str, str]]) -> str:
    return json.dumps({"suggestion": {"conform": 1.5}})


def made(export: Export, **options: Any) -> tuple[Any, Any]:
    """Return an optimiser, and the one number that it may change."""
    x = node(2.0, trainable=True, name="conform", bounds=(0.0, 10.0))
    values = {"parameters": lambda: [x], "llm": lambda: CallableLLM(told)}
    return export.thing(**arguments(export.thing, values, options)), x


def feed(optimizer: Any, x: Any, feedback: Any = (-1.0, "too high: the output should be 3.0; gradient: 1.0")) -> None:
    optimizer.zero_feedback()
    optimizer.backward(x * 2.0, feedback if optimizer.__class__.__name__ != "TraceAutodiff" else 1.0)


SUITE = Suite("workflow optimiser", lambda export: [] if inspect.isabstract(export.thing) else [Subject(export)])


@SUITE.check
def a_step_keeps_types_and_bounds(subject: Subject) -> None:
    optimizer, x = made(subject.export)
    for _ in range(6):
        feed(optimizer, x)
        changed = optimizer.step()
        assert set(changed) <= {x.name}
        assert type(x.data) is float
        assert 0.0 <= x.data <= 10.0


@SUITE.check
def a_step_without_feedback_is_an_error(subject: Subject) -> None:
    optimizer, _ = made(subject.export)
    with pytest.raises(ValueError, match="no feedback"):
        optimizer.step()


@SUITE.check
def what_is_no_parameter_is_refused(subject: Subject) -> None:
    for wrong, error in (([3.0], TypeError), ([node(1.0)], TypeError), ([], ValueError)):
        with pytest.raises(error, match="parameters"):
            made(subject.export, parameters=wrong)
    optimizer, x = made(subject.export)
    with pytest.raises(TypeError, match="output"):
        optimizer.backward(3.0, 1.0)
    with pytest.raises(ValueError, match="feedback"):
        optimizer.backward(x * 1.0, None)


@SUITE.check
def parameters_off_the_trace_stay(subject: Subject) -> None:
    optimizer, x = made(subject.export)
    other = node(5.0, trainable=True, name="other", bounds=(0.0, 10.0))
    both = type(optimizer)(**arguments(type(optimizer), {"parameters": lambda: [x, other], "llm": lambda: told}, {}))
    if type(optimizer).__name__ == "BayesOptimizer":
        return  # it moves all that it was given
    for _ in range(4):
        feed(both, x)
        both.step()
    assert other.data == 5.0


@SUITE.check
def the_state_goes_on_elsewhere(subject: Subject) -> None:
    first, x = made(subject.export)
    for _ in range(3):
        feed(first, x)
        first.step()
    state = json.loads(json.dumps(first.state_dict()))
    second, y = made(subject.export)
    second.load_state_dict(state)
    assert (y.data, second.status, second.llm_calls) == (x.data, first.status, first.llm_calls)
    for optimizer, value in ((first, x), (second, y)):
        feed(optimizer, value)
        optimizer.step()
    if not first.llm_calls:  # names differ in prompts
        assert x.data == y.data


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
def test_it_conforms(check, subject):
    check(subject)


def test_optimisers_are_found():
    assert len(SUITE.cases()) >= 9 * 5
