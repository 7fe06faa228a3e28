"""The directive `methods`, a table of what a field has with what was measured of it, and the role `paper`."""

from collections import Counter
from typing import Any

from docutils import nodes
from figures import plain, results
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from paperworks.evidence import ClaimView, PaperResults
from paperworks.papers import FIELDS, UnknownPaper, load


class Methods(SphinxDirective):
    """Shows in a Markdown page the methods of a field, their papers, verdicts of claims, and ratios to peers."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        field = self.arguments[0]
        if field not in FIELDS:
            raise self.error(f"methods takes a field, one of {', '.join(FIELDS)}; got {field!r}")
        lines = [row("Methods", "Paper", "Claims", "Peers: what was measured"), row(*["---"] * 4)]
        for found in results(field):
            methods = ", ".join(f"{{py:obj}}`~{method}`" for method in found.paper.methods)
            races = "; ".join(map(race, found.races)) or "none"
            lines.append(row(methods, f"{{paper}}`{found.paper.slug}`", counts(found), races))
        return [nodes.container("", *self.parse_text_to_nodes("\n".join(lines)), classes=["methods-table"])]


def row(*cells: str) -> str:
    """Write a row of a table."""
    return f"| {' | '.join(cells)} |"


def counts(found: PaperResults) -> str:
    """Count the verdicts of a paper's claims."""
    number = Counter(view.verdict for view in found.claims)
    return ", ".join(f"{count} {{verdict}}`{name}`" for name, count in sorted(number.items()))


def race(view: ClaimView) -> str:
    """Write what was measured against a peer, which the verdict judges."""
    measured = ", ".join(" ".join(filter(None, [value.label, value.text])) for value in view.values if value.text)
    old = " (outdated)" if view.outdated else ""
    says = plain(f"{view.says}: {measured}".strip(": "))
    return f"**{plain(view.reported)}** – {says} {{verdict}}`{view.verdict}`{old}"


def paper_role(name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Show a paper's title, and lead to what was measured of it."""
    try:
        paper = load(text)
    except UnknownPaper as error:
        message = inliner.reporter.error(str(error), line=line)
        return [inliner.problematic(raw, raw, message)], [message]
    env = inliner.document.settings.env
    target = {"refdomain": "std", "reftype": "ref", "reftarget": f"paper-{paper.slug}", "refdoc": env.docname}
    inner = nodes.inline(raw, paper.title, classes=["paper"])
    return [pending_xref(raw, inner, refexplicit=True, refwarn=True, **target)], []


def verdict_role(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> Any:
    """Show a verdict in its colour."""
    return [nodes.inline(raw, text, classes=["verdict", f"verdict-{text.replace(' ', '-')}"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_directive("methods", Methods)
    app.add_role("paper", paper_role)
    app.add_role("verdict", verdict_role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
