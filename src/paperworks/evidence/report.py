"""The results in Markdown: a page of all papers, a line each, and a page for each paper beside its evidence."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paperworks.evidence import formatting
from paperworks.evidence.benchmark import Benchmark, read_benchmarks
from paperworks.evidence.digests import unchanging
from paperworks.evidence.files import write_atomically
from paperworks.evidence.record import Paper
from paperworks.evidence.store import committed_folder, evidence_of
from paperworks.evidence.verdicts import count_verdicts
from paperworks.evidence.views import ClaimView, paper_views

INTRODUCTION = (
    "What each paper reports, and what its claims measured when they were run here. Every value has an interval, in "
    "brackets where it is more than a point: a claim holds when the whole interval is on the right side of its bar, "
    "falls short when it is on the wrong side, and is undecided else. A known shortfall is one whose reason was found; "
    "outdated is what was measured before the code that it stands on was changed. ★ marks what a paper is known for."
)


@dataclass(frozen=True)
class PaperResults:
    """A paper with the views of its claims and races."""

    paper: Paper
    claims: tuple[ClaimView, ...]
    races: tuple[ClaimView, ...]
    problem: str = ""

    @property
    def all(self) -> tuple[ClaimView, ...]:
        """Claims, then races."""
        return self.claims + self.races

    @property
    def outdated(self) -> int:
        """How many claims and races are outdated."""
        return sum(bool(found.outdated) for found in self.all)


def results_of(papers: Sequence[Paper], folder: Path | None = None) -> list[PaperResults]:
    """Return the results of the papers that have claims to measure, by the committed evidence or that of `folder`."""
    found = []
    with unchanging():
        for paper in papers:
            if paper.planned:
                continue
            evidence, _ = evidence_of(paper, folder)
            all_views = paper_views(paper, evidence)
            claims, races = (tuple(v for v in all_views if v.kind == kind) for kind in ("claim", "peer"))
            found.append(PaperResults(paper, claims, races, evidence.problem))
    return found


def write_reports(
    papers: Sequence[Paper], *, folder: Path | None = None, markdown: Path | None = None, html: Path | None = None
) -> list[Path]:
    """Write the results page to `markdown` with a page for each paper beside its evidence, and to `html`.

    Returns
    -------
    list of Path
        What was written.
    """
    results, written = results_of(papers, folder), []
    home = folder or committed_folder()
    if markdown is not None:
        for found in results:
            written.append(home / found.paper.slug / "README.md")
            write_atomically(written[-1], paper_page(found).encode())
        written.append(markdown)
        write_atomically(markdown, results_page(papers, results, markdown.parent, home).encode())
    if html is not None:
        from paperworks.evidence.report_html import html_report

        written.append(html)
        write_atomically(html, html_report(papers, results, html.parent, home).encode())
    return written


def results_page(papers: Sequence[Paper], results: Sequence[PaperResults], beside: Path, home: Path) -> str:
    """Write the page of all papers as Markdown; links lead from the folder `beside` to the evidence in `home`."""
    lines = ["# Results", "", INTRODUCTION, "", f"**{summary(results)}**", ""]
    lines += ["| paper | field | claims | races | measured |", "|---|---|---|---|---|"]
    for found in results:
        page = Path(os.path.relpath(home / found.paper.slug / "README.md", beside)).as_posix()
        counts = [count_verdicts(v.verdict for v in group) for group in (found.claims, found.races)]
        dates = sorted({v.date[:10] for v in found.all if v.date})
        state = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
        state += f", {found.outdated} outdated" if found.outdated else ""
        state += f", {found.problem}" if found.problem else ""
        whose = f" (from {escape(found.paper.origin)})" if found.paper.origin else ""
        name = f"[{found.paper.slug}]({page}): {escape(found.paper.title)}{whose}"
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


def paper_page(found: PaperResults) -> str:
    """Write the page of one paper as Markdown, for the folder of its evidence."""
    paper = found.paper
    name, address = source(paper)
    lines = [f"# {paper.slug}", "", f"{escape(paper.title)} ([{escape(name)}]({address}))", ""]
    lines += [escape(paper.summary), "", f"`paperworks run {paper.slug}` measures it again.", ""]
    if paper.note:
        lines += [escape(paper.note), ""]
    if found.problem:
        lines += [f"**{escape(found.problem)}**", ""]
    for title, group in (("Claims", found.claims), ("Races", found.races)):
        if group:
            lines += [f"## {title}", ""]
            for view in group:
                lines += _claim(view)
    return "\n".join(lines)


def summary(results: Sequence[PaperResults]) -> str:
    """Count papers, claims, races and their verdicts, in one line."""
    claims = [view for found in results for view in found.claims]
    races = [view for found in results for view in found.races]
    old = sum(found.outdated for found in results)
    return (
        f"{len(results)} papers. {len(claims)} claims: {count_verdicts(v.verdict for v in claims)}. "
        f"{len(races)} races: {count_verdicts(v.verdict for v in races)}. {old} of all are outdated."
    )


def source(paper: Paper) -> tuple[str, str]:
    """Return the name and address of where the paper itself is."""
    if paper.arxiv:
        return f"arXiv {paper.arxiv}", f"https://arxiv.org/abs/{paper.arxiv}"
    return f"doi {paper.doi}", f"https://doi.org/{paper.doi}"


def told_of(view: ClaimView) -> list[str]:
    """Say what else a reader has to know of a claim, a sentence or two each."""
    facts = [
        view.note,
        view.remark,
        f"Peer's settings: {view.settings}" if view.settings else "",
        f"Floor: {formatting.number(view.floor)}, what the shared kernel alone costs."
        if view.floor is not None
        else "",
        f"Outdated: {view.outdated}." if view.outdated else "",
        f"A newer run gave no value: {view.failure}" if view.failure else "",
    ]
    return [fact for fact in facts if fact]


def provenance_of(view: ClaimView) -> str:
    """Say how a claim was measured, in one line; empty where it wasn't."""
    if not view.date:
        return ""
    seeds = f"{len(view.seeds)} seeds" if len(view.seeds) > 1 else f"seed {view.seeds[0]}"
    methods = ", ".join(dict.fromkeys(value.method for value in view.values if value.method))
    time = f"{formatting.duration(view.processor_seconds or view.seconds)} of processor time"
    versions = ", ".join(f"{name} {version}" for name, version in sorted((view.versions or {}).items()) if version)
    return " · ".join(filter(None, [view.origin, seeds, methods, time, versions]))


def escape(text: str) -> str:
    """Take from characters that Markdown gives a meaning to that meaning."""
    return re.sub(r"([\\`*_\[\]|<>#$~])", r"\\\1", " ".join(text.split()))


def _claim(view: ClaimView) -> list[str]:
    where = f", {view.where}" if view.where else ""
    lines = [f"### {'★ ' if view.headline else ''}`{view.id}` {escape(view.says)}", ""]
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
        lines += [f"![Figure of {view.id}]({figure.name})", ""]
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
