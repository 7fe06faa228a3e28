"""`paperworks list`, `search` and `show`: what needs no torch."""

import json
from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any

import typer

from paperworks.cli.app import JsonOption, app, complete_slug, errors_of_use, fail
from paperworks.evidence.record import Paper
from paperworks.evidence.store import read_evidence
from paperworks.evidence.verdicts import Judgement, judgements
from paperworks.papers import FIELDS, broken, fields, load, load_all


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
    as_json: JsonOption = False,
) -> None:
    """List the papers, with how many of their claims hold."""
    if field and field not in (known := fields()):
        fail(f"--field is {field!r}; it takes one of {', '.join(known)}")
    with errors_of_use():
        papers = _find(search) if search else load_all()
    rows = [_row(paper) for paper in papers if field in ("", paper.field)]
    if not search and not field:
        rows += [_broken_row(slug, str(error)) for slug, error in broken().items()]
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
    with errors_of_use():
        rows = [_row(paper) for paper in _find(" ".join(words))[:limit]]
    _print_rows(rows, as_json)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(help="The paper's short name.", autocompletion=complete_slug)],
    as_json: JsonOption = False,
) -> None:
    """Show a paper: summary, methods to import, claims with their last evidence, usage."""
    with errors_of_use():
        paper = load(slug)
        found = list(judgements(paper, read_evidence(slug)))
    if as_json:
        _print_json(_details(paper, found))
    else:
        _print_paper(paper, found)


def _find(words: str) -> list[Paper]:
    from paperworks.papers.search import search

    return search(load_all(), words)


def _row(paper: Paper) -> dict[str, Any]:
    try:
        claims = [j for j in judgements(paper, read_evidence(paper.slug)) if j.kind == "claim"]
    except (ValueError, LookupError, OSError) as error:
        row = _broken_row(paper.slug, str(error))
        return {**row, "field": paper.field, "year": paper.year, "origin": paper.origin or "paperworks"}
    measured = any(claim.entry for claim in claims)
    status = Status.planned if paper.planned else Status.measured if measured else Status.unmeasured
    return {
        "slug": paper.slug,
        "title": paper.title,
        "field": paper.field,
        "year": paper.year,
        "origin": paper.origin or "paperworks",
        "status": status.value,
        "claims": len(claims),
        "holds": sum(claim.verdict.name == "holds" for claim in claims),
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
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("paper", style="cyan", no_wrap=True)
    table.add_column("field", no_wrap=True)
    table.add_column("claims that hold", no_wrap=True)
    table.add_column("title", overflow="fold")
    for row in rows:
        held = f"{row['holds']} of {row['claims']}" if row["status"] == "measured" else row["status"]
        whose = "" if row["origin"] == "paperworks" else f" [dim](from {escape(row['origin'])})[/dim]"
        table.add_row(row["slug"], row["field"], held, escape(row["title"]) + whose)
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} papers; `paperworks show PAPER` tells more", style="dim", highlight=False)


def _print_paper(paper: Paper, found: list[Judgement]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.syntax import Syntax

    from paperworks.evidence.tables import judgements_table

    console = Console()

    def section(title: str, *blocks: Any) -> None:
        console.print(f"\n[bold]{title}[/bold]")
        for block in blocks:
            console.print(Padding(block, (0, 0, 0, 2)))

    console.print(f"[bold cyan]{paper.slug}[/bold cyan]  [bold]{escape(paper.title)}[/bold]", highlight=False)
    console.print(f"{escape(', '.join(paper.authors))} · {paper.year} · {paper.field}", style="dim", highlight=False)
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
            section(title, judgements_table(of_kind))
    if paper.questions:
        section("Answers", *map(escape, paper.questions))
    if paper.usage:
        section("Usage", Syntax(paper.usage.strip(), "python", theme="ansi_dark"))


def import_lines(methods: Iterable[str]) -> list[str]:
    """Write the import line of each method."""
    return [f"from {package} import {name}" for package, _, name in (method.rpartition(".") for method in methods)]


def _details(paper: Paper, found: list[Judgement]) -> dict[str, Any]:
    from paperworks.evidence.tables import judgements_data

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
        "claims": judgements_data([j for j in found if j.kind == "claim"]),
        "peers": judgements_data([j for j in found if j.kind == "peer"]),
        "usage": paper.usage,
    }


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
