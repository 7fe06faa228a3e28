"""The place at a tutorial's end, where the link at its top leads: Sphinx loses the label before the downloads."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def label_downloads(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the downloads of a tutorial the name that its label has."""
    place = nodes.make_id(f"sphx_glr_download_{docname.replace('/', '_')}.py")
    for found in doctree.findall(nodes.container):
        if "sphx-glr-footer" in found["classes"] and place not in found["ids"]:
            found["ids"].append(place)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", label_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
