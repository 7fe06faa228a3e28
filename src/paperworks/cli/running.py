"""`paperworks run`, `race` and `report`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paperworks.cli.app import JsonOption, app, complete_slug, errors_of_use, fail
from paperworks.evidence.entry import Kind
from paperworks.evidence.record import Paper

if TYPE_CHECKING:
    from rich.console import Console

    from paperworks.evidence.runner import RunReport


class ScaleName(StrEnum):
    """How much of a claim to measure."""

    smoke = "smoke"
    desk = "desk"
    full = "full"


class EngineName(StrEnum):
    """Where tasks run."""

    local = "local"
    dask = "dask"
    ray = "ray"


Slugs = Annotated[
    list[str] | None, typer.Argument(metavar="[PAPER]...", help="Short names.", autocompletion=complete_slug)
]
All = Annotated[bool, typer.Option("--all", help="Every paper that has claims to measure.")]
ScaleOption = Annotated[ScaleName, typer.Option(help="smoke: seconds; desk: two cores; full: the paper's own size.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="How many seeds; by default 1, 3 or 5 by scale.")]
EngineOption = Annotated[EngineName, typer.Option(help="Where tasks run.")]
Address = Annotated[str | None, typer.Option(help="Address of the Dask or Ray cluster.")]
Resume = Annotated[bool, typer.Option("--resume", help="Skip what is measured for the same code, scale and seeds.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Tasks at once; by default one a core.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each task.")]
TimeLimit = Annotated[float | None, typer.Option(help="Seconds for each task; by default 120 (smoke), 900 (desk).")]
MemoryLimit = Annotated[float, typer.Option(help="GiB for each task.")]
Folder = Annotated[Path | None, typer.Option("--evidence", help="Folder of the evidence.")]


def _add_command(name: str, kind: Kind, summary: str) -> None:
    """Add the command that measures what is of one kind: claims or races."""

    @app.command(name, help=summary)
    def command(
        slugs: Slugs = None,
        every: All = False,
        ids: Annotated[list[str] | None, typer.Option(f"--{kind}", help=f"Only this {kind}; repeat for more.")] = None,
        scale: ScaleOption = ScaleName.desk,
        seeds: Seeds = None,
        engine: EngineOption = EngineName.local,
        address: Address = None,
        resume: Resume = False,
        jobs: Jobs = None,
        threads: Threads = 1,
        time_limit: TimeLimit = None,
        memory_limit: MemoryLimit = 8.0,
        evidence: Folder = None,
        as_json: JsonOption = False,
    ) -> None:
        from rich.console import Console

        from paperworks.evidence.display import open_display
        from paperworks.evidence.runner import run_papers
        from paperworks.evidence.tables import judgements_json

        console = Console()
        with errors_of_use():
            papers = _papers(slugs, every)
            with open_display(console, silent=as_json) as display:
                report = run_papers(
                    papers,
                    kinds=[kind],
                    ids=ids or (),
                    scale=scale.value,
                    seeds=seeds,
                    engine=engine.value,
                    address=address,
                    resume=resume,
                    folder=evidence,
                    n_jobs=jobs,
                    threads=threads,
                    time_limit=time_limit,
                    memory_limit=memory_limit,
                    on_event=display,
                )
        if as_json:
            typer.echo(judgements_json(report.judgements))
        else:
            _print_report(console, report, papers)
        raise typer.Exit(report.exit_code)


_EXIT_CODES = (
    "Exit code 0: every bar that was measured holds, or its shortfall is explained in the record; "
    "1: one falls short unexplained, or a task erred; 2: what was asked for can't be done, or its data are missing."
)
_add_command(
    "run", "claim", f"Re-measure the claims of papers on this machine and write the evidence.\n\n{_EXIT_CODES}"
)
_add_command(
    "race", "peer", f"Race the methods of papers against their peers, in one run on this machine.\n\n{_EXIT_CODES}"
)


@app.command()
def report(
    markdown: Annotated[Path, typer.Option(help="Where the Markdown page goes.")] = Path("RESULTS.md"),
    html: Annotated[Path | None, typer.Option(help="Where the static HTML page goes, if it is wanted.")] = None,
    evidence: Folder = None,
) -> None:
    """Write the results page of all papers from their evidence."""
    from paperworks.evidence.report import write_reports
    from paperworks.papers import load_all

    with errors_of_use():
        write_reports(load_all(), folder=evidence, markdown=markdown, html=html)
    for path in filter(None, (markdown, html)):
        typer.echo(f"Wrote {path}")


def _print_report(console: "Console", report: "RunReport", papers: Sequence[Paper]) -> None:
    from paperworks.evidence.tables import judgements_table

    for paper in papers:
        of_paper = [judgement for judgement in report.judgements if judgement.paper.slug == paper.slug]
        if not of_paper:
            continue
        console.print()
        console.print(judgements_table(of_paper, title=f"{paper.slug} – {paper.title}"))
        for judgement in of_paper:
            for figure in judgement.entry.figures if judgement.entry else ():
                if figure.endswith(".png"):
                    console.print(f"  figure  {report.folder / figure}", highlight=False, soft_wrap=True)
    slug = papers[0].slug
    console.print(f"\nEvidence is in {report.folder}", highlight=False, soft_wrap=True)
    console.print(f"Next: paperworks show {slug} · paperworks race {slug} · paperworks report", highlight=False)


def _papers(slugs: Sequence[str] | None, every: bool) -> list[Paper]:
    from paperworks.papers import load, load_all

    if every == bool(slugs):
        fail("name the papers, or take --all; `paperworks list` shows them")
    if every:
        return [paper for paper in load_all() if not paper.planned]
    return [load(slug) for slug in dict.fromkeys(slugs or ())]
