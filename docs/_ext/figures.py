"""Writes the sources of the gallery: each figure of the evidence, what it shows, and the code that made it."""

import ast
import functools
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pages import title, write_pages
from sphinx.application import Sphinx

from paperworks.evidence import ClaimView, PaperResults, results_of
from paperworks.evidence.results import source
from paperworks.papers import FIELDS, load_all

FOLDER = "gallery"


@functools.cache
def results(field: str) -> list[PaperResults]:
    """Return the results of a field's own papers by the committed evidence."""
    return results_of([paper for paper in load_all() if paper.field == field and not paper.origin])


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of the gallery's pages; `folder` is where they lie."""
    cards = []
    for field in FIELDS:
        found = results(field)
        yield field, title(f"Figures of {field}") + "\n".join(paper_text(paper, folder) for paper in found)
        drawn = [view for paper in found for view in paper.all if view.figure(".svg")]
        drawn.sort(key=lambda view: not view.headline)
        card = f".. grid-item-card:: {field}\n   :link: {field}\n   :link-type: doc\n\n"
        picture = image(drawn[0], folder, "") if drawn else ""
        cards.append(f"{card}{textwrap.indent(picture, '   ')}\n   {len(drawn)} figures of {len(found)} papers\n")
    grid = ".. grid:: 1 2 2 3\n   :gutter: 3\n\n" + textwrap.indent("\n".join(cards), "   ")
    toctree = "\n.. toctree::\n   :hidden:\n\n" + "\n".join(f"   {field}" for field in FIELDS)
    says = "Each figure of the committed evidence, with the code that made it and the command that makes it again.\n\n"
    yield "index", f"{title('Gallery')}{says}{grid}{toctree}\n"


def paper_text(found: PaperResults, folder: Path) -> str:
    """Write the section of a paper."""
    paper, (name, address) = found.paper, source(found.paper)
    head = f".. _paper-{paper.slug}:\n\n{title(plain(paper.title), '-')}"
    methods = ", ".join(f":py:obj:`~{method}`" for method in paper.methods)
    facts = f"{plain(', '.join(paper.authors[:3]) + (' and others' if len(paper.authors) > 3 else ''))}, {paper.year}: "
    facts += f"`{name} <{address}>`__. Methods: {methods}.\n\n{plain(' '.join(paper.summary.split()))}\n\n"
    shown = [figure_text(view, paper.folder, folder) for view in found.all if view.figure(".svg") or view.sounds()]
    return head + facts + "\n".join(shown)


def figure_text(view: ClaimView, code: Path, folder: Path) -> str:
    """Write what belongs to a figure: its title, claim and verdict, itself, its sounds, its code and command."""
    name = view.id if view.kind == "claim" else f"race-{view.id}"
    words = view.id.partition("-")[2].replace("-", " ") if view.kind == "claim" else f"against {view.id}"
    shown = (words or view.id)[:1].upper() + (words or view.id)[1:]
    head = f".. _figure-{view.paper}-{name}:\n\n{title(plain(shown), '~')}"
    measured = "; ".join(" ".join(filter(None, [value.label, value.text])) for value in view.values if value.text)
    claim = plain(view.says[:1].upper() + view.says[1:])
    says = f"{claim} – {verdict(view)}. {plain(f'Measured: {measured}.') if measured else ''}\n\n"
    picture = image(view, folder, measured) if view.figure(".svg") else ""
    sounds = "".join(sound(view.paper, path, heard) for path, heard in view.sounds())
    option = f" --claim {view.id}" if view.kind == "claim" else ""
    command = f"paperworks {'run' if view.kind == 'claim' else 'race'} {view.paper}{option}"
    block = f".. code-block:: console\n\n   $ {command}\n\n"
    made = textwrap.indent(f".. code-block:: python\n\n{textwrap.indent(function(code, view), '   ')}\n", "   ")
    return f"{head}{says}{picture}{sounds}{block}.. dropdown:: The code that measures it and draws it\n\n{made}\n"


def image(view: ClaimView, folder: Path, measured: str) -> str:
    """Write a figure with what it shows for those who can't see it."""
    path = view.figure(".svg")
    assert path is not None
    alt = f"Figure of the claim that {' '.join(view.says.split())}" + (f"; measured: {measured}" if measured else "")
    return f".. image:: {os.path.relpath(path, folder)}\n   :alt: {alt}\n   :class: evidence dark-light\n\n"


def sound(paper: str, path: Path, heard: str) -> str:
    """Write a recording: what is heard, and a player."""
    player = f'<audio controls preload="none" src="../_static/sounds/{paper}/{path.name}"></audio>'
    return f"{plain(heard)}\n\n.. raw:: html\n\n   {player}\n\n"


def verdict(view: ClaimView) -> str:
    """Write a verdict in its colour."""
    return f":verdict:`{view.verdict}`" + (" (outdated)" if view.outdated else "")


def plain(text: str) -> str:
    """Escape what reStructuredText would take for markup."""
    return "".join(f"\\{sign}" if sign in "*`|_\\" else sign for sign in " ".join(text.split()))


def function(folder: Path, view: ClaimView) -> str:
    """Return the source of the function that measures a claim or races a peer."""
    decorator = "measures" if view.kind == "claim" else "races"
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            marks = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(names(mark, decorator, view.id) for mark in marks):
                first = min(mark.lineno for mark in marks)
                return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise LookupError(f"no function of {view.paper} is decorated with @{decorator}({view.id!r})")


def names(node: ast.expr, decorator: str, item: str) -> bool:
    """Tell whether a decorator is the one of a claim or race."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == decorator
        and any(isinstance(argument, ast.Constant) and argument.value == item for argument in node.args)
    )


def write(app: Sphinx) -> None:
    """Write the pages that changed."""
    folder = Path(app.srcdir, FOLDER)
    write_pages(folder, dict(pages(folder)))


def copy_sounds(app: Sphinx, error: Exception | None) -> None:
    """Put the recordings where the pages look for them."""
    for view in (view for field in FIELDS for found in results(field) for view in found.all) if not error else ():
        for path, _ in view.sounds():
            target = Path(app.outdir, "_static/sounds", view.paper, path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write)
    app.connect("build-finished", copy_sounds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
