"""Holds every public signature to the words of CONTRIBUTING's glossary."""

import importlib
import inspect
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args

import pytest
import torch

from paperworks.papers import FIELDS

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary")[2]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
WORDS = {name: row[0] for row in ROWS if not row[1].startswith("`") for name in re.findall(r"`(\w+)`", row[2])}
EXCUSES = [(row[0].strip("`"), row[1].strip("`")) for row in ROWS if row[1].startswith("`")]
ROOMS = [room for room in (*FIELDS, "numerics", "testbeds") if importlib.util.find_spec(f"paperworks.{room}")]


def public():
    """Every function that a user calls: exported ones, constructors of exported classes, their public methods."""
    for room in ROOMS:
        package = importlib.import_module(f"paperworks.{room}")
        for export in package.__all__:
            thing = getattr(package, export)
            if inspect.isclass(thing):
                yield f"{room}.{export}", thing.__init__
                for name, method in inspect.getmembers(thing, callable):
                    if not name.startswith("_") and getattr(method, "__module__", "").startswith("paperworks"):
                        yield f"{room}.{export}.{name}", method
            elif inspect.isfunction(thing):
                yield f"{room}.{export}", thing


def parameters(function):
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in
        return {}


USED = [(where, p) for where, function in public() for p in parameters(function).values()]


def test_the_glossary_is_read():
    assert WORDS["rng"] == "`random_state`"
    assert len(USED) > 1000


def excused(where, name):
    return any(name == parameter and fnmatch(where, place) for place, parameter in EXCUSES)


def test_every_notion_has_one_word():
    named = [(where, p.name) for where, p in USED if p.name in WORDS]
    wrong = [f"{where} says {name}; it is {WORDS[name]}" for where, name in named if not excused(where, name)]
    assert wrong == []


def test_a_generator_is_always_torchs():
    annotations = {where: p.annotation for where, p in USED if p.name == "generator" and not excused(where, p.name)}
    assert {w for w, a in annotations.items() if torch.Generator not in (a, *get_args(a))} == set()


@pytest.mark.parametrize(("where", "name"), EXCUSES)
def test_no_excuse_is_out_of_date(where, name):
    assert any(fnmatch(found, where) and p.name == name for found, p in USED)
