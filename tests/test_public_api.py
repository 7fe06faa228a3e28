"""Holds what every public name owes its user: a docstring, a runnable example, an error for an unknown name."""

import importlib
import inspect
import pkgutil

import pytest

import paperworks
from paperworks.papers import FIELDS

PACKAGES = [name for _, name, is_package in pkgutil.iter_modules(paperworks.__path__) if is_package]
PUBLIC = [
    (f"paperworks.{name}", export)
    for name in PACKAGES
    for export in getattr(importlib.import_module(f"paperworks.{name}"), "__all__", [])
]
OF_FIELDS = [
    (package, name) for package, name in PUBLIC if package.rpartition(".")[2] in (*FIELDS, "numerics", "testbeds")
]


def the(package, name):
    return getattr(importlib.import_module(package), name)


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_it_has_a_docstring_of_its_own(package, name):
    thing = the(package, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__doc__
        assert thing.__doc__.strip().split("\n")[0].endswith((".", ":")), "the first line is a sentence"


@pytest.mark.parametrize(("package", "name"), OF_FIELDS)
def test_its_docstring_has_an_example(package, name):
    thing = the(package, name)
    if not inspect.isclass(thing) and not inspect.isfunction(thing):  # a type, or a table
        return
    if inspect.isclass(thing) and (
        issubclass(thing, Exception) or inspect.isabstract(thing) or name.endswith(("Result", "Step"))
    ):
        return
    assert ">>>" in inspect.getdoc(thing), f"{package}.{name} shows no example"


@pytest.mark.parametrize("package", [f"paperworks.{name}" for name in PACKAGES if name in FIELDS])
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="Nothing"):
        the(package, "Nothing")
