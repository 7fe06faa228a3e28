"""`paperworks compare`, `verify` and `outdated`: evidence beside other evidence, and beside the code at hand."""

import json
import random
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from paperworks.cli.app import JsonOption, app, complete_slug, console_for_output, errors_of_use, fail
from paperworks.cli.running import measure
from paperworks.evidence.record import Paper

_COLOURS = {"equal": "green", "different": "bold red", "not comparable": "dim"}


@app.command()
def compare(
    slugs: Annotated[list[str], typer.Argument(metavar="PAPER...", help="Short names.", autocompletion=complete_slug)],
    evidence: Annotated[Path | None, typer.Option("--evidence", help="Folder of the evidence to compare.")] = None,
    submit: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write your evidence of one paper to a file that a Daily Papers site takes."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set your own evidence beside the committed one: equal within intervals, different, or not comparable.

    Exit code 0: all that can be compared is equal; 1: something is different; 2: nothing can be compared.
    """
    from paperworks.papers import load

    with errors_of_use():
        papers = [load(slug) for slug in dict.fromkeys(slugs)]
        if submit:
            _write_submission(papers, evidence, submit)
    _report([row for paper in papers for row in _compared(paper, evidence)], as_json)


@app.command()
def verify(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[PAPER]...", help="Short names.", autocompletion=complete_slug)
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many claims to measure again.")] = 5,
    longest: Annotated[float, typer.Option(min=0, help="Only claims that took at most so many seconds.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Of the choice; by default another one each time.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a random sample of claims again and compare them with the committed evidence.

    Races are left out, and so is what is outdated: other code may give other values. Exit code as of `compare`.
    """
    from paperworks.evidence.results import results_of
    from paperworks.papers import load, load_all

    with errors_of_use():
        papers = [load(slug) for slug in dict.fromkeys(slugs)] if slugs else load_all()
    there = [
        (found.paper, view.id)
        for found in results_of(papers)
        for view in found.claims
        if view.measured and view.scale == "desk" and not view.outdated and view.seconds <= longest
    ]
    if not there:
        fail("no committed claim is up to date and short enough; take a larger --longest")
    chosen = random.Random(seed).sample(there, min(sample, len(there)))
    console = console_for_output()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="paperworks-verify-") as name:
        for paper in {paper.slug: paper for paper, _ in chosen}.values():
            ids = [id for other, id in chosen if other is paper]
            report = measure(console, [paper], silent=as_json, ids=ids, folder=Path(name))
            rows += [row for row in _compared(paper, Path(name)) if row["id"] in ids and row["kind"] == "claim"]
            if report.interrupted:
                break
    _report(rows, as_json)


@app.command()
def outdated(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[PAPER]...", help="Short names.", autocompletion=complete_slug)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which claims and races are outdated, or were never measured; `paperworks renew` measures them.

    Exit code 0: none; 1: some.
    """
    from paperworks.evidence.results import results_of
    from paperworks.papers import load, load_all

    with errors_of_use():
        papers = [load(slug) for slug in dict.fromkeys(slugs)] if slugs else load_all()
        found = [view for results in results_of(papers) for view in results.all]
    rows = [
        {"paper": view.paper, "kind": view.kind, "id": view.id, "why": view.outdated or "not measured"}
        for view in found
        if view.outdated or not view.date
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        for row in rows:
            typer.echo(f"{row['paper']} {'race ' if row['kind'] == 'peer' else ''}{row['id']}: {row['why']}")
        typer.echo(f"{len(rows)} of {len(found)} are outdated or not measured")
    raise typer.Exit(int(bool(rows)))


def _write_submission(papers: list[Paper], folder: Path | None, file: Path) -> None:
    """Write what a person measured of a paper, without anything of the machine but what a reader must know."""
    from paperworks.cli.feed import needs_site
    from paperworks.evidence.files import write_atomically
    from paperworks.evidence.store import own_folder, read_evidence

    if len(papers) != 1:
        fail(f"--submit takes one paper, there are {len(papers)}")
    with needs_site():
        from paperworks.feed.submissions import submission

        slug = papers[0].slug
        write_atomically(file, submission(slug, read_evidence(slug, folder or own_folder())))
    typer.echo(f"Wrote {file}; look into it, then send it from the paper's page of a Daily Papers site", err=True)


def _compared(paper: Paper, folder: Path | None) -> list[dict[str, Any]]:
    from paperworks.evidence.comparison import compare_paper

    found = compare_paper(paper, folder)
    for problem in found.problems:
        typer.echo(problem, err=True)
    return [
        {"paper": paper.slug, "kind": kind, "id": id, "result": compared.result, "detail": compared.detail}
        for (kind, id), compared in found.items.items()
    ]


def _report(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        from rich.markup import escape

        console = console_for_output()
        for row in rows:
            name = f"{row['paper']} {'race ' if row['kind'] == 'peer' else ''}{row['id']}"
            colour = _COLOURS[row["result"]]
            detail = f": {escape(row['detail'])}" if row["detail"] else ""
            console.print(f"{name}: [{colour}]{row['result']}[/{colour}]{detail}", highlight=False, soft_wrap=True)
    results = {row["result"] for row in rows}
    if results == {"not comparable"} and not as_json:
        typer.echo("`paperworks run PAPER`, or `race`, measures at the scale of the committed evidence", err=True)
    raise typer.Exit(1 if "different" in results else 0 if "equal" in results else 2)
