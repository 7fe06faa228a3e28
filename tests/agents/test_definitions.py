import importlib
import inspect
import re
import subprocess
import sys

import pytest

from paperworks.agents.definitions import definition_of
from paperworks.papers import load_all

METHODS = sorted({method for paper in load_all() if not paper.origin for method in paper.methods})


def test_every_method_of_every_paper_is_found_with_what_it_takes():
    wrong = []
    for method in METHODS:
        package, _, name = method.rpartition(".")
        thing, found = getattr(importlib.import_module(package), name), definition_of(method)
        docstring = inspect.cleandoc(thing.__doc__ or "")
        if found is None or found.module != thing.__module__ or found.docstring != docstring:
            wrong.append(method)
            continue
        if found.signature.endswith("(...)"):  # of a class of another package, or of none that takes anything
            continue
        takes = [p for p in inspect.signature(thing).parameters if not p.startswith("_")]
        if missing := [p for p in takes if not re.search(rf"\b{p}\b", found.signature)]:
            wrong.append(f"{method}: {missing}")
    assert wrong == []


def test_nothing_is_imported_for_it():
    code = (
        "import sys; from paperworks.agents.definitions import definition_of as of; "
        "print(of('paperworks.diffusion.DPMSolver').kind, {'torch', 'paperworks.diffusion'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "class set()\n"


@pytest.mark.parametrize(
    "name", ["paperworks.diffusion.Nothing", "no_such_package.Name", "Name", "json.decoder.nothing"]
)
def test_what_is_not_there_is_none(name):
    assert definition_of(name) is None


def test_a_name_that_a_package_hands_on_is_followed():
    found = definition_of("json.JSONDecoder")
    assert (found.module, found.kind) == ("json.decoder", "class")
    assert found.signature.startswith("JSONDecoder(*, object_hook=None")
    assert [member.name for member in found.members] == ["decode", "raw_decode"]
