"""`paperworks list`, `search` and `show`: what needs no torch."""

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from paperworks.cli.app import JsonOption, app, complete_slug, console_for_output, errors_of_use, fail
from paperworks.evidence.digests import unchanging
from paperworks.evidence.record import Paper
from paperworks.evidence.store import evidence_of
from paperworks.evidence.views import ClaimView, paper_views
from paperworks.papers import FIELDS, fields, load, load_all, read_all

Folder = Annotated[
    Path | None, typer.Option("--evidence", help="Show the evidence of this folder, not the committed one.")
]


class Status(Enum):
    """How far a paper is."""

    planned = "planned"
    unmeasured = "unmeasured"
    measured = "measured"
    broken = "broken"


class Sort(Enum):
    """What papers are listed by."""

    slug = "slug"
    title = "title"
    field = "field"
    year = "year"
    status = "status"


@app.command("list")
def list_papers(
    field: Annotated[str, typer.Option("--field", "-f", help=f"Only papers of this field: {', '.join(FIELDS)}.")] = "",
    status: Annotated[Status | None, typer.Option(help="Only papers that are this far.")] = None,
    search: Annotated[str, typer.Option("--search", "-s", help="Only papers that these words find.")] = "",
    sort: Annotated[Sort, typer.Option(help="The order of the list.")] = Sort.slug,
    evidence: Folder = None,
    as_json: JsonOption = False,
) -> None:
    """List the papers, with how many of their claims hold."""
    if field and field not in (known := fields()):
        fail(f"--field is {field!r}; it takes one of {', '.join(known)}")
    with errors_of_use(), unchanging():
        papers, problems = (_find(search), {}) if search else read_all()
        rows = [_row(paper, evidence) for paper in papers if field in ("", paper.field)]
    if not field:
        rows += [_broken_row(slug, str(error)) for slug, error in problems.items()]
    rows = [row for row in rows if status is None or status.value == row["status"]]
    if not search or sort is not Sort.slug:  # found papers come best first
        rows.sort(key=lambda row: (row[sort.value], row["slug"]))
    _print_rows(rows, as_json)


@app.command("search")
def search_papers(
    words: Annotated[list[str], typer.Argument(help="Your problem, or what the paper is about; a typo is forgiven.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many papers.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Find papers by words of your problem, or of their title, summary, tags and methods, best first."""
    from paperworks.papers.search import replaced

    with errors_of_use(), unchanging():
        rows = [_row(paper) for paper in _find(" ".join(words))[:limit]]
        for word, taken in replaced(load_all(), " ".join(words)).items():
            typer.echo(f"No paper has {word!r}; searched for {' or '.join(map(repr, taken))}", err=True)
    _print_rows(rows, as_json)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(help="The paper's short name.", autocompletion=complete_slug)],
    evidence: Folder = None,
    as_json: JsonOption = False,
) -> None:
    """Show a paper: summary, methods to import, claims with their last evidence, usage."""
    with errors_of_use():
        paper = load(slug)
        stored, own = evidence_of(paper, evidence)
        found = paper_views(paper, stored, own)
    for history in filter(None, (stored, own)):
        if history.problem:
            typer.echo(history.problem, err=True)
    if as_json:
        _print_json(_details(paper, found))
    else:
        _print_paper(paper, found)


def _find(words: str) -> list[Paper]:
    from paperworks.papers.search import search

    return search(load_all(), words)


def _row(paper: Paper, folder: Path | None = None) -> dict[str, Any]:
    evidence, _ = evidence_of(paper, folder)
    if evidence.problem:
        typer.echo(evidence.problem, err=True)
    found = [] if paper.planned else paper_views(paper, evidence)
    claims = [view for view in found if view.kind == "claim"]
    measured = any(view.date for view in claims)
    status = Status.planned if paper.planned else Status.measured if measured else Status.unmeasured
    return {
        "slug": paper.slug,
        "title": paper.title,
        "field": paper.field,
        "year": paper.year,
        "origin": paper.origin or "paperworks",
        "status": status.value,
        "claims": len(paper.claims),
        "holds": sum(view.verdict == "holds" for view in claims),
        "undecided": sum(view.verdict == "undecided" for view in claims),
        "outdated": sum(bool(view.outdated) for view in found),
        "tags": list(paper.tags),
    }


def _broken_row(slug: str, reason: str) -> dict[str, Any]:
    """Make the row of a paper whose record or evidence can't be read: what is wrong stands where its title would."""
    row = {"slug": slug, "title": reason, "field": "", "year": 0, "origin": "paperworks"}
    return {**row, "status": Status.broken.value, "claims": 0, "holds": 0, "tags": []}


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        typer.echo("No paper matches.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("paper", style="cyan", no_wrap=True)
    table.add_column("field", no_wrap=True)
    table.add_column("claims that hold")
    table.add_column("title", overflow="fold", min_width=16)
    for row in rows:
        held = f"{row['holds']} of {row['claims']}" if row["status"] == "measured" else row["status"]
        held += f", {row['outdated']} outdated" if row.get("outdated") else ""
        whose = "" if row["origin"] == "paperworks" else f" [dim](from {escape(row['origin'])})[/dim]"
        table.add_row(row["slug"], row["field"], held, escape(row["title"]) + whose)
    console = console_for_output()
    console.print(table)
    count = f"{len(rows)} {'paper' if len(rows) == 1 else 'papers'}"
    console.print(f"{count}; `paperworks show PAPER` tells more", style="dim", highlight=False)


def _print_paper(paper: Paper, found: list[ClaimView]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.syntax import Syntax

    from paperworks.evidence.tables import claims_table

    console = console_for_output()

    def section(title: str, *blocks: Any) -> None:
        console.print(f"\n[bold]{title}[/bold]")
        for block in blocks:
            console.print(Padding(block, (0, 0, 0, 2)))

    console.print(f"[bold cyan]{paper.slug}[/bold cyan]  [bold]{escape(paper.title)}[/bold]", highlight=False)
    facts = [escape(", ".join(paper.authors)), str(paper.year), paper.field]
    console.print(" · ".join(filter(None, facts)), style="dim", highlight=False)
    if paper.origin:
        place = f"from {escape(paper.origin)}: {escape(str(paper.folder))}"
        console.print(place, style="dim", highlight=False, soft_wrap=True)
    for link in paper.links.values():
        console.print(link, style="blue", highlight=False)
    console.print()
    console.print(escape(paper.summary), highlight=False)
    if paper.note:
        console.print(f"\n[bold]Note:[/bold] {escape(paper.note)}", highlight=False)
    if paper.planned:
        section("Planned: nothing of it can be imported or measured yet")
    section("Methods", *(Syntax(line, "python", theme="ansi_dark") for line in import_lines(paper.methods)))
    for title, kind in (("Claims", "claim"), ("Peers", "peer")):
        if of_kind := [j for j in found if j.kind == kind]:
            section(title, claims_table(of_kind))
    if paper.questions:
        section("Answers", *map(escape, paper.questions))
    if paper.usage:
        section("Usage", Syntax(paper.usage.strip(), "python", theme="ansi_dark"))


def import_lines(methods: Iterable[str]) -> list[str]:
    """Write the import line of each method."""
    return [f"from {package} import {name}" for package, _, name in (method.rpartition(".") for method in methods)]


def _details(paper: Paper, found: list[ClaimView]) -> dict[str, Any]:
    from paperworks.evidence.tables import claims_data

    return {
        "slug": paper.slug,
        "title": paper.title,
        "arxiv": paper.arxiv,
        "doi": paper.doi,
        "year": paper.year,
        "authors": list(paper.authors),
        "field": paper.field,
        "summary": paper.summary,
        "note": paper.note,
        "tags": list(paper.tags),
        "questions": list(paper.questions),
        "origin": paper.origin or "paperworks",
        "links": dict(paper.links),
        "methods": list(paper.methods),
        "planned": paper.planned,
        "claims": claims_data([j for j in found if j.kind == "claim"]),
        "peers": claims_data([j for j in found if j.kind == "peer"]),
        "usage": paper.usage,
    }


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
