"""Writes the sources of the API reference: a page for each room of a field, and one for each other package."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from docstrings import marked_up
from exports import PACKAGES, SOURCES, rooms, thing_of
from pages import title, write_pages
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from paperworks.papers import FIELDS

FOLDER = "api"


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page of the reference, but for its front page, which is written by hand."""
    for package in PACKAGES:
        home = importlib.import_module(f"paperworks.{package}")
        intro = f".. py:module:: paperworks.{package}\n\n{marked_up(home.__doc__ or '')}\n"
        if package in FIELDS:
            listed = "\n".join(f"   {package}/{room}" for room in rooms(package))
            yield package, f"{title(f'paperworks.{package}')}{intro}\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n"
            for room, names in rooms(package).items():
                doc = marked_up(inspect.getdoc(importlib.import_module(f"paperworks.{package}.{room}")) or "")
                head = f"{title(f'{package}.{room}')}.. py:currentmodule:: paperworks.{package}\n\n{doc}\n"
                yield f"{package}/{room}", f"{head}\n{contents(package, names)}"
        else:
            names = sorted((name for found in rooms(package).values() for name in found), key=str.casefold)
            yield package, f"{title(f'paperworks.{package}')}{intro}\n{contents(package, names)}"


def contents(package: str, names: list[str]) -> str:
    """Write the list of a page's names, then each of them."""
    listed = "\n".join(f"* `{name}` – {first_line(package, name)}" for name in names)
    return f"{listed}\n\n" + "\n".join(entry(package, name) for name in names)


def first_line(package: str, name: str) -> str:
    """Return the first line of what is said of a name."""
    thing = thing_of(package, name)
    is_code = inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing))  # type: ignore[arg-type]
    doc = inspect.getdoc(thing) if is_code else said(package, name)
    return marked_up((doc or "").split("\n\n")[0].replace("\n", " "))


def entry(package: str, name: str) -> str:
    """Write the directive that documents a name."""
    full, thing = f"paperworks.{package}.{name}", thing_of(package, name)
    if inspect.isclass(thing):
        return f".. autoclass:: {full}\n" + (f"   :members: {', '.join(own)}\n" if (own := members(thing)) else "")
    if inspect.isfunction(inspect.unwrap(thing)):  # type: ignore[arg-type]
        return f".. autofunction:: {full}\n"
    told = told_of(package, name)
    return f".. py:data:: {name}\n\n" + "".join(f"   {line}\n" if line else "\n" for line in told.splitlines())


def members(kind: type) -> list[str]:
    """Name the public methods and properties of a class that are defined in Paperworks, its own or inherited."""
    return [
        found.name
        for found in inspect.classify_class_attrs(kind)
        if not found.name.startswith("_")
        and found.kind != "data"
        and found.defining_class.__module__.startswith("paperworks.")
        and (getattr(inspect.unwrap(found.object), "__module__", None) or "paperworks.").startswith("paperworks.")
        and inspect.getdoc(getattr(kind, found.name))
    ]


def told_of(package: str, name: str) -> str:
    """Return what the source says of a constant or a type, and its value where that is short."""
    value = thing_of(package, name)
    shown = repr(value).replace("typing.", "").replace("collections.abc.", "").replace("torch.Tensor", "Tensor")
    short = len(shown) <= 300 and " at 0x" not in shown and not isinstance(value, Path)  # which is of this machine
    code = f"\n\n.. code-block:: python\n\n   {name} = {shown}\n" if short else ""
    return marked_up(said(package, name)) + code


def said(package: str, name: str) -> str:
    """Return the text below the assignment of a constant or a type, which each that is exported has."""
    room = next(room for room, names in rooms(package).items() if name in names)
    place = SOURCES / package / room
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for here, after in zip(body, [*body[1:], None], strict=True):
            targets = here.targets if isinstance(here, ast.Assign) else [getattr(here, "target", None)]
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return str(after.value.value)
    raise ExtensionError(f"paperworks.{package}.{name} has no text below its assignment that says what it is")


def write(app: Sphinx) -> None:
    """Write the pages that changed."""
    write_pages(Path(app.srcdir, FOLDER), dict(pages()), keep={"index.md"})


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
