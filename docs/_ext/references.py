"""Leads references to Python's names to where they are public.

Sphinx would search all names for the end of each one that it doesn't know, which takes minutes for the types of a
thousand signatures; here each is looked up, and what belongs to other packages stays text.
"""

import functools
import importlib
import re
from typing import Any

from docutils import nodes
from exports import public_names
from sphinx.addnodes import literal_emphasis, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

SHAPES = ("api/index", "shapes-in-types")


class PythonReferences(SphinxPostTransform):
    """Resolves what it can before Sphinx does; a name of Paperworks that there isn't is left for it to warn of."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        """Replace the references of this page."""
        for node in list(self.document.findall(pending_xref)):
            if node.get("refdomain") != "py":
                continue
            target = node["reftarget"]
            full = self.full_name(target, node)
            if full:
                found = self.env.domains.python_domain.objects[full]
                to: tuple[str, str] | None = (found.docname, found.node_id)
            else:
                to = SHAPES if target.startswith("jaxtyping.") else None
            if to:
                node.replace_self(make_refnode(self.app.builder, self.env.docname, *to, node.children, full or ""))
            elif not target.startswith("paperworks") or exists(target):
                node.replace_self(node.children)
        for part in list(self.document.findall(literal_emphasis)):  # of the type of a parameter
            text = re.sub(r"~(?:\w+\.)*", "", part.astext())
            plain = part.children if list(part.findall(nodes.reference)) else [nodes.Text(text)]
            part.replace_self(nodes.inline("", "", *plain, classes=["type"]))

    def full_name(self, target: str, node: pending_xref) -> str:
        """Return the documented name that a target means where it stands, empty where there is none."""
        objects = self.env.domains.python_domain.objects
        inside = [node.get("py:module"), node.get("py:class")]
        places = [[], inside[:1], inside, inside[1:]]
        public = public_names().get(target, target)
        candidates = (".".join([*filter(None, place), public]) for place in places)
        if found := next((name for name in candidates if name in objects), ""):
            return found
        alike = by_last_part().get(target, [])
        return alike[0] if len(alike) == 1 and alike[0] in objects and node.get("reftype") != "obj" else ""


@functools.cache
def by_last_part() -> dict[str, list[str]]:
    """Sort the public names by what comes after the last dot."""
    found: dict[str, list[str]] = {}
    for name in public_names().values():
        found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


@functools.cache
def exists(target: str) -> bool:
    """Tell whether a dotted name leads to something, exported or not."""
    found: Any = importlib.import_module("paperworks")
    for part in target.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(f"{getattr(found, '__name__', '')}.{part}")
            except ImportError:
                return False
    return True


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_post_transform(PythonReferences)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
