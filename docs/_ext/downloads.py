"""What of a tutorial can be downloaded: where the link to it leads, and names as a notebook shows them."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_gallery import notebook

ROLE = re.compile(r":(?:py:)?(?:class|func|meth|mod|obj|attr|data):`~?([\w.]+)`")


def label_downloads(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the downloads of a tutorial the name that its label has, which Sphinx loses before them."""
    place = nodes.make_id(f"sphx_glr_download_{docname.replace('/', '_')}.py")
    for found in doctree.findall(nodes.container):
        if "sphx-glr-footer" in found["classes"] and place not in found["ids"]:
            found["ids"].append(place)


def in_markdown(text: str, *others: Any, converted: Any = notebook.rst2md) -> str:
    """Convert a text for a notebook, whose Markdown has no roles: a name stands there as code."""
    return str(converted(ROLE.sub(r"``\1``", text), *others))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, and put the conversion of names before the gallery's own."""
    notebook.rst2md = in_markdown
    app.connect("doctree-resolved", label_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
