"""What Paperworks exports: its packages, their rooms and names, and under which name a thing is public."""

import ast
import functools
import importlib
import inspect
from pathlib import Path

import paperworks
from paperworks.papers import FIELDS

SOURCES = Path(paperworks.__file__).parent
PACKAGES = (*FIELDS, "papers", "evidence", "testbeds", "numerics", "feed", "web", "agents")


@functools.cache
def rooms(package: str) -> dict[str, list[str]]:
    """Return the public names of each room of a package, read from its table of lazy exports.

    Where it has none, they are those of `__all__` that it defines itself.
    """
    tree = ast.parse((SOURCES / package / "__init__.py").read_text(encoding="utf-8"))
    tables = (
        node.args[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_exports"
    )
    found: dict[str, list[str]] = {}
    table = next(tables, None)
    for module, names in (ast.literal_eval(table) if table else {"__init__": own_names(package)}).items():
        found.setdefault(module.partition(".")[0], []).extend(names)
    return {room: sorted(names, key=str.casefold) for room, names in sorted(found.items())}


def own_names(package: str) -> list[str]:
    """List what a package exports, without the classes and functions that it has from others."""
    home = f"paperworks.{package}"
    things = {name: thing_of(package, name) for name in importlib.import_module(home).__all__}
    defined = {name: getattr(thing, "__module__", "") for name, thing in things.items() if callable(thing)}
    return [name for name in things if defined.get(name, home).startswith(home)]


@functools.cache
def public_names() -> dict[str, str]:
    """Return for each exported thing, by the name under which it is defined, the one under which it is public."""
    return {
        f"{thing.__module__}.{thing.__qualname__}": f"paperworks.{package}.{name}"
        for package in PACKAGES
        for names in rooms(package).values()
        for name in names
        if inspect.isclass(thing := thing_of(package, name)) or inspect.isfunction(thing)
    }


def thing_of(package: str, name: str) -> object:
    """Import what a package exports under a name."""
    return getattr(importlib.import_module(f"paperworks.{package}"), name)
