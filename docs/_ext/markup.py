"""How docstrings and pages are marked up: names between backticks, arXiv ids that lead there, typeset mathematics."""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

from paperworks.web.mathematics import plain

ARXIV = re.compile(r"(?:\barXiv[:\s]\s*)?\b(\d{4}\.\d{5}|(?<=arXiv.)(?:\d{4}\.\d{4}|[a-z-]+/\d{7}))\b")
NAME = re.compile(r"[A-Za-z_][\w.]*\w")


def name_role(name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Show what stands between single backticks as code, which leads to the reference where it is a name of it."""
    code = raw.removeprefix(":name:").strip("`")
    literal = nodes.literal(raw, code, classes=["name"])
    if not NAME.fullmatch(code):
        return [literal], []
    env = inliner.document.settings.env
    context = {key: env.ref_context.get(key) for key in ("py:module", "py:class")}
    known = {"refdomain": "py", "reftype": "obj", "reftarget": code, "refdoc": env.docname, "refwarn": False}
    return [pending_xref(raw, literal, refexplicit=True, **known, **context)], []


class ArxivLinks(SphinxPostTransform):
    """Makes a link of each arXiv id in the text."""

    default_priority = 900

    def run(self, **_: Any) -> None:
        """Replace the texts that name one."""
        for text in list(self.document.findall(nodes.Text)):
            if "arXiv" not in text or isinstance(text.parent, (nodes.reference, nodes.literal, nodes.literal_block)):
                continue
            made: list[nodes.Node] = []
            end = 0
            for found in ARXIV.finditer(text):
                made.append(nodes.Text(text[end : found.start()]))
                address = f"https://arxiv.org/abs/{found[1]}"
                made.append(nodes.reference("", " ".join(found[0].split()), refuri=address, internal=False))
                end = found.end()
            text.parent.replace(text, [*made, nodes.Text(text[end:])])


def visit_math(self: HTML5Translator, node: nodes.Element) -> None:
    """Write a formula in Unicode with its TeX, which a script typesets."""
    tex = node.astext()
    block = isinstance(node, nodes.math_block)
    tag, mark = ("div", " data-block") if block else ("span", "")
    self.body.append(f'<{tag} class="math" data-tex="{escape(tex)}"{mark}>{escape(plain(f"${tex}$"))}</{tag}>')
    raise nodes.SkipNode


def without_copy_button(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Leave out a button that fetches the page's Markdown, which fails from a file; there is a link to it instead."""
    button = "scrapy-copy-as-markdown"
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if button not in (getattr(s, "attributes", {}).get("body") or "")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_role("name", name_role)
    app.add_post_transform(ArxivLinks)
    app.connect("html-page-context", without_copy_button)
    app.add_html_math_renderer("katex", (visit_math, None), (visit_math, None))
    app.config.html_math_renderer = "katex"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
