"""Tells the writer of the Markdown pages what the tutorials' own kinds of nodes are."""

from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri


def visit_image(self: Any, node: nodes.Element) -> None:
    """Write an image where the HTML pages have it."""
    name = PurePosixPath(node["uri"]).name
    page = self.builder.get_target_uri(self.builder.current_docname)
    address = relative_uri(page, f"{self.builder.imagedir}/{name}")
    self.add(f"![{node.get('alt', '')}]({address})", prefix_eol=2, suffix_eol=2)
    raise nodes.SkipNode


def visit_code(self: Any, node: nodes.Element) -> None:
    """Write code without its links."""
    self.add(f"```{node['lang'].lower()}\n{node.astext().rstrip()}\n```", prefix_eol=2, suffix_eol=2)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    kinds = {"imgsgnode": (visit_image, None), "code_links_block": (visit_code, None)}  # of sphinx-gallery
    app.registry.translation_handlers.setdefault("llm_markdown", {}).update(kinds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
