"""What all suites share: variants of a thing from its signature, values for its arguments, and the checks' cases."""

import contextlib
import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import jaxtyping
import pytest
import torch

from conformance.deviations import DEVIATIONS
from conformance.discovery import Export, of_kind
from paperworks.diffusion import SkipType

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Subject(NamedTuple):
    """A thing of a kind with the options in which it differs from its defaults."""

    export: Export
    options: Mapping[str, Any] = {}

    @property
    def id(self) -> str:
        return ",".join([self.export.where, *(f"{name}={value}" for name, value in self.options.items())])


def arguments(
    function: Callable, values: Mapping[str, Callable[[], Any]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Give each required parameter of a function its value, and those that are in `options` theirs."""
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if name in options:
            found[name] = options[name]
        elif name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        elif parameter.default is parameter.empty:
            if name not in values:
                pytest.fail(f"{function} takes {name!r}, of which this suite knows no value: give it a builder")
            found[name] = values[name]()
    return found


def variants(*functions: Callable) -> Iterator[dict[str, Any]]:
    """Yield no options, then each other choice of each parameter that says what it chooses from, but for grids."""
    yield {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            annotation = parameter.annotation
            if get_origin(annotation) is Literal and annotation != SkipType:
                for choice in get_args(annotation):
                    if choice != parameter.default:
                        yield {parameter.name: choice}


class Suite:
    """The checks of a kind; `cases` makes a test of each check of each subject."""

    def __init__(
        self, kind: str, subjects: Callable[[Export], list[Subject]] = lambda export: [Subject(export)]
    ) -> None:
        self.kind = kind
        self.subjects = subjects
        self.checks: list[Callable[[Any], None]] = []

    def check(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        self.checks.append(function)
        return function

    def cases(self) -> list[Any]:
        with untyped():
            subjects = [subject for export in of_kind(self.kind) for subject in self.subjects(export)]
        return [
            pytest.param(
                check, subject, id=f"{subject.id}-{check.__name__}", marks=expected(subject.id, check.__name__)
            )
            for subject in subjects
            for check in self.checks
        ]


@contextlib.contextmanager
def untyped() -> Iterator[None]:
    """Switch the runtime type checks off: what is refused, the code itself has to refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# What a check raises where its subject breaks the contract.
CAUGHT = (
    AssertionError,
    AttributeError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PicklingError,
    pytest.fail.Exception,
)


def expected(subject: str, check: str) -> list[Any]:
    reason = DEVIATIONS.get((subject, check))
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
