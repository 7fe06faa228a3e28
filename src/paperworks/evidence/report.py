"""The results in Markdown: a page of all papers, a line each, and a page for each paper beside its evidence."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from paperworks.evidence.benchmark import Benchmark, read_benchmarks
from paperworks.evidence.files import write_atomically
from paperworks.evidence.provenance import checkout
from paperworks.evidence.record import Paper
from paperworks.evidence.report_html import html_report
from paperworks.evidence.results import (
    INTRODUCTION,
    PaperResults,
    provenance_of,
    results_of,
    source,
    summary,
    told_of,
)
from paperworks.evidence.store import committed_folder
from paperworks.evidence.verdicts import count_verdicts
from paperworks.evidence.views import ClaimView

_KEPT = "%/:?#@!$&'*+,;=~"  # what an address in Markdown may hold as it is: no bracket and no space


def write_reports(
    papers: Sequence[Paper], *, folder: Path | None = None, markdown: Path | None = None, html: Path | None = None
) -> list[Path]:
    """Write the results page to `markdown` with a page for each paper beside its evidence, and to `html`.

    Beside evidence that came with an installed package no pages are written.

    Parameters
    ----------
    papers
        The papers to report on, in this order.
    folder
        Folder of the evidence, by default the committed one.
    markdown
        File of the results page, not written by default.
    html
        File of the page in HTML, not written by default.

    Returns
    -------
    list of Path
        What was written.
    """
    results, written = results_of(papers, folder), []
    home = folder or committed_folder()
    if markdown is not None:
        for found in results:
            if not _has_pages(home) or (found.paper.origin and folder is None):
                continue  # somebody else's paper has no page among the committed evidence
            written.append(home / found.paper.slug / "README.md")
            write_atomically(written[-1], paper_page(found).encode())
        written.append(markdown)
        write_atomically(markdown, results_page(papers, results, markdown.parent, home).encode())
    if html is not None:
        written.append(html)
        write_atomically(html, html_report(papers, results, html.parent, home).encode())
    return written


def results_page(papers: Sequence[Paper], results: Sequence[PaperResults], beside: Path, home: Path) -> str:
    """Write the page of all papers as Markdown; links lead from the folder `beside` to the evidence in `home`."""
    lines = ["# Results", "", INTRODUCTION, "", f"**{summary(results)}**", ""]
    lines += ["| paper | field | claims | races | measured |", "|---|---|---|---|---|"]
    for found in results:
        page = home / found.paper.slug / "README.md"
        counts = [count_verdicts(v.verdict for v in group) for group in (found.claims, found.races)]
        dates = sorted({v.date[:10] for v in found.all if v.date})
        state = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
        state += f", {found.outdated} outdated" if found.outdated else ""
        state += f", {found.problem}" if found.problem else ""
        whose = f" (from {escape(found.paper.origin)})" if found.paper.origin else ""
        slug = found.paper.slug
        if _has_pages(home):
            slug = f"[{slug}]({Path(os.path.relpath(page, beside)).as_posix()})"
        name = f"{slug}: {escape(found.paper.title)}{whose}"
        lines.append(f"| {' | '.join([name, found.paper.field, *counts, escape(state)])} |")
    lines.append("")
    for benchmark in read_benchmarks(home):
        lines += _benchmark(benchmark)
    planned: dict[str, list[str]] = {}
    for paper in papers:
        if paper.planned:
            planned.setdefault(paper.field, []).append(paper.slug)
    if planned:
        lines += [
            "## Planned",
            "",
            *(f"- **{field}**: {', '.join(slugs)}" for field, slugs in sorted(planned.items())),
            "",
        ]
    return "\n".join(lines)


def _has_pages(home: Path) -> bool:
    """Say whether pages stand beside this evidence: not beside what came with an installed package."""
    return checkout() is not None or home != committed_folder()


def paper_page(found: PaperResults) -> str:
    """Write the page of one paper as Markdown, for the folder of its evidence."""
    paper = found.paper
    name, address = source(paper)
    lines = [f"# {paper.slug}", "", f"{escape(paper.title)} ([{escape(name)}]({address}))", ""]
    lines += [escape(paper.summary), "", f"`paperworks run {paper.slug}` measures it again.", ""]
    if paper.note:
        lines += [escape(paper.note), ""]
    return "\n".join(lines + _evidence(found, ""))


def paper_document(paper: Paper, found: PaperResults | None = None, figures: str = "") -> str:
    """Write all of a paper as Markdown: its record, its methods, its usage, and what was measured.

    Parameters
    ----------
    paper
        The paper to write of.
    found
        Its results; None for a planned paper, which has none.
    figures
        What the names of figures and recordings come after, such as the address of their folder.
    """
    by = f"{escape(', '.join(paper.authors))} · {paper.year} · {escape(paper.field)}"
    lines = [f"# {escape(paper.title)}", "", by, ""]
    lines += [escape(paper.summary), ""]
    if paper.origin:
        lines += [f"This record comes from {escape(paper.origin)}, not from Paperworks itself.", ""]
    if paper.note:
        lines += [escape(paper.note), ""]
    name, address = source(paper)
    links = {name: address, **{what: link for what, link in paper.links.items() if link != address}}
    lines += [*(link_line(what, link) for what, link in links.items() if _leads(link)), ""]
    if paper.questions:
        lines += ["## Answers", "", *(f"- {escape(question)}" for question in paper.questions), ""]
    if paper.planned:
        return "\n".join([*lines, "Planned: nothing of this paper can be imported or measured yet.", ""])
    imports = [f"from {package} import {last}" for package, _, last in (m.rpartition(".") for m in paper.methods)]
    for title, code in (("Methods", "\n".join(imports)), ("Usage", paper.usage.strip())):
        if code:
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
            lines += [f"## {title}", "", f"{fence}python", code, fence, ""]
    run = f"`paperworks run {paper.slug}` measures the claims again, `paperworks race {paper.slug}` runs the races."
    return "\n".join([*lines, run, "", *(_evidence(found, figures) if found else ())])


def escape(text: str) -> str:
    """Take from characters that Markdown gives a meaning to that meaning."""
    return re.sub(r"([\\`*_\[\]|<>#$~]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Write a text as code, which stands between more backticks than it has anywhere."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _evidence(found: PaperResults, figures: str) -> list[str]:
    lines = [f"**{escape(found.problem)}**", ""] if found.problem else []
    for title, group in (("Claims", found.claims), ("Races", found.races)):
        if group:
            lines += [f"## {title}", ""]
            for view in group:
                lines += _claim(view, figures)
    return lines


def link_line(name: str, address: str) -> str:
    """Write an item of a list that leads to an address."""
    return f"- [{escape(name)}]({quote(address, _KEPT)})"


def _leads(link: str) -> bool:
    return link.startswith(("https://", "http://"))


def _claim(view: ClaimView, figures: str) -> list[str]:
    where = f", {view.where}" if view.where else ""
    lines = [f"### {'★ ' if view.headline else ''}{_code(view.id)} {escape(view.says)}", ""]
    lines += [f"*{'Peer' if view.kind == 'peer' else 'Reported'}*: {escape(view.reported + where)}", ""]
    if view.measure:
        lines += [f"*Measured*: {escape(view.measure)}", ""]
    old = ", outdated" if view.outdated else ""
    detail = f" ({escape(view.detail)})" if view.detail else ""
    lines += [f"**{view.verdict}{old}**{detail}", "", "| value | measured | bar |", "|---|---|---|"]
    for value in view.values:
        mark = {True: " ✓", False: " ✗", None: " ?" if view.measured and value.bar else ""}[value.holds]
        bar = f"`{value.bar}`{mark}" if value.bar else ""
        lines.append(f"| {escape(value.label or 'value')} | {escape(value.text or '–')} | {bar} |")
    lines.append("")
    if figure := view.figure(".svg"):
        lines += [f"![Figure of {escape(view.id)}]({quote(figures + figure.name, _KEPT)})", ""]
    if sounds := view.sounds():
        lines += [
            "Listen: " + " · ".join(f"[{escape(says)}]({quote(figures + path.name, _KEPT)})" for path, says in sounds),
            "",
        ]
    lines += [f"- {escape(fact)}" for fact in told_of(view)]
    lines += ["", f"<sub>{escape(provenance_of(view))}</sub>", ""] if view.date else [""]
    return lines


def _benchmark(benchmark: Benchmark) -> list[str]:
    rows = [
        f"| {escape(f.name)} | {escape(f.text)} | {f'`{f.bar}`' if f.bar else ''} | {f.verdict} |"
        for f in benchmark.figures
    ]
    note = [escape(benchmark.note), ""] if benchmark.note else []
    origin = f"<sub>{escape(benchmark.origin)} · `paperworks benchmark {benchmark.id}`</sub>"
    head = ["| figure | measured | bar | verdict |", "|---|---|---|---|"]
    return [f"## {escape(benchmark.title)}", "", escape(benchmark.says), "", origin, "", *head, *rows, "", *note]
