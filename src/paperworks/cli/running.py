"""`paperworks run`, `race`, `renew` and `report`."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paperworks.cli.app import JsonOption, app, complete_slug, console_for_output, errors_of_use, fail
from paperworks.evidence.entry import Kind
from paperworks.evidence.record import Paper

if TYPE_CHECKING:
    from rich.console import Console

    from paperworks.evidence.runner import RunReport
    from paperworks.evidence.views import ClaimView

_TERMINATED = 128 + signal.SIGTERM
_TYPICAL, _MOST, _PAPER = 60.0, 300.0, 600.0  # budgets at desk scale, in seconds of processor time


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
Seeds = Annotated[
    int | None,
    typer.Option(min=1, max=1000, help="How many seeds to begin with; by default 1, 3 or 5 by scale."),
]
EngineOption = Annotated[EngineName, typer.Option(help="Where tasks run.")]
Address = Annotated[str | None, typer.Option(help="Address of the Dask or Ray cluster.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Skip what is measured for the same code, versions, scale and seeds.")
]
Commit = Annotated[
    bool, typer.Option("--commit", help="Write to the checkout's evidence, from committed code, not to your own.")
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Tasks at once; by default one a core.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each task.")]
Budget = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds of processor time for deciding a claim by more seeds; by default 120 (desk)."),
]
TimeLimit = Annotated[
    float | None, typer.Option(help="Seconds of processor time for each task; by default 120 (smoke), 900 (desk).")
]
MemoryLimit = Annotated[float | None, typer.Option(help="GiB for each task; by default 8, or what the machine has.")]
Folder = Annotated[Path | None, typer.Option("--evidence", help="Folder of the evidence.")]


def _complete_id(kind: Kind) -> Callable[[typer.Context, str], list[str]]:
    """Return what offers the ids of the claims or peers of the papers that are named, or of all."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from paperworks.evidence.verdicts import items_of
        from paperworks.papers import load, load_all, slugs

        named = [slug for slug in ctx.params.get("slugs") or () if slug in slugs()]
        papers = [load(slug) for slug in named] or load_all()
        ids = {item.id for paper in papers if not paper.planned for item in items_of(paper, kind)}
        return sorted(id for id in ids if id.startswith(incomplete))

    return complete


def _add_command(name: str, kind: Kind, summary: str) -> None:
    """Add the command that measures what is of one kind: claims or races."""
    ids_option = typer.Option(
        f"--{kind}", help=f"Only this {kind}; repeat for more.", autocompletion=_complete_id(kind)
    )

    @app.command(name, help=summary)
    def command(
        slugs: Slugs = None,
        every: All = False,
        ids: Annotated[list[str] | None, ids_option] = None,
        scale: ScaleOption = ScaleName.desk,
        seeds: Seeds = None,
        engine: EngineOption = EngineName.local,
        address: Address = None,
        resume: Resume = False,
        commit: Commit = False,
        jobs: Jobs = None,
        threads: Threads = 1,
        budget: Budget = None,
        time_limit: TimeLimit = None,
        memory_limit: MemoryLimit = None,
        evidence: Folder = None,
        as_json: JsonOption = False,
    ) -> None:
        papers = _papers(slugs, every)
        console = console_for_output()
        report = measure(
            console,
            papers,
            silent=as_json,
            kinds=[kind],
            ids=ids or (),
            scale=scale.value,
            seeds=seeds,
            engine=engine.value,
            address=address,
            resume=resume,
            commit=commit,
            folder=evidence,
            n_jobs=jobs,
            threads=threads,
            budget=budget,
            time_limit=time_limit,
            memory_limit=memory_limit,
        )
        if as_json:
            from paperworks.evidence.tables import claims_json

            typer.echo(claims_json(report.views))
        else:
            _print_report(console, report, papers, kind)
        _say_unwritten(report)
        if any(found.verdict == "not run" for found in report.views):
            typer.echo("What was not run lacks its peer; most come with:  pip install 'paperworks[peers]'", err=True)
        raise typer.Exit(report.exit_code)


_EXIT_CODES = (
    "Exit code 0: every bar that was measured holds, or a note in the record explains why not; 1: one doesn't, or a "
    "task erred; 2: what was asked for can't be done, data or every peer are missing, or the machine was too slow."
)
_add_command(
    "run", "claim", f"Re-measure the claims of papers on this machine into your own evidence.\n\n{_EXIT_CODES}"
)
_add_command(
    "race", "peer", f"Race the methods of papers against their peers, in one run on this machine.\n\n{_EXIT_CODES}"
)


@app.command()
def renew(
    slugs: Slugs = None,
    every: All = False,
    jobs: Jobs = None,
    budget: Budget = None,
) -> None:
    """Bring the checkout's evidence up to date: measure what is outdated or missing, and write the pages.

    What changed code gives the same smoke-scale values for is carried over; what measures time, or races, is measured
    again. It takes committed code, and tells at the end what takes longer than it should. Exit code as of `run`.
    """
    from paperworks.evidence.report import write_reports
    from paperworks.evidence.store import committed_folder
    from paperworks.papers import load_all

    papers = _papers(slugs, every)
    console = console_for_output()
    report = measure(console, papers, kinds=["claim", "peer"], resume=True, commit=True, n_jobs=jobs, budget=budget)
    with errors_of_use():
        write_reports(load_all(), markdown=committed_folder().parent / "RESULTS.md")
    new = len(report.views) - report.resumed - report.carried
    console.print(f"{report.resumed} up to date, {report.carried} carried over, {new} measured.", highlight=False)
    for line in over_budget(report.views):
        console.print(line, highlight=False)
    _say_unwritten(report)
    raise typer.Exit(report.exit_code)


@app.command()
def report(
    markdown: Annotated[Path, typer.Option(help="Where the Markdown page goes.")] = Path("RESULTS.md"),
    html: Annotated[Path | None, typer.Option(help="Where the static HTML page goes, if it is wanted.")] = None,
    evidence: Folder = None,
) -> None:
    """Write the results page of all papers, and a page for each beside its evidence.

    An installed Paperworks writes pages beside the evidence of --evidence alone; `paperworks run` says where yours is.
    """
    from paperworks.evidence.report import write_reports
    from paperworks.papers import load_all

    with errors_of_use():
        written = write_reports(load_all(), folder=evidence, markdown=markdown, html=html)
    for path in written:
        typer.echo(f"Wrote {path}")


def measure(console: "Console", papers: Sequence[Paper], *, silent: bool = False, **options: Any) -> "RunReport":
    """Run papers with a display of what goes on; a run that is told to end, ends cleanly."""
    from paperworks.evidence.display import open_display
    from paperworks.evidence.runner import run_papers

    with errors_of_use(), _termination_as_interrupt(), open_display(console, silent=silent) as display:
        return run_papers(papers, on_event=display, **options)


def over_budget(views: "Sequence[ClaimView]") -> list[str]:
    """Say which claims and papers take longer than they should at desk scale, in processor time."""
    from paperworks.evidence.formatting import duration

    lines = []
    for slug in dict.fromkeys(found.paper for found in views):
        of_paper = [found for found in views if found.paper == slug]
        if (total := sum(found.processor_seconds for found in of_paper)) > _PAPER:
            lines.append(f"{slug}: {duration(total)} of processor time in all, over {duration(_PAPER)}")
        for found in of_paper:
            if found.processor_seconds > _TYPICAL:
                most = _MOST if found.processor_seconds > _MOST else _TYPICAL
                lines.append(f"{slug} {found.id}: {duration(found.processor_seconds)}, over {duration(most)}")
    return lines


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Have SIGTERM end a run as Ctrl-C does, with an exit code of its own."""
    terminated = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if terminated:
            sys.stdout.flush()
            raise typer.Exit(_TERMINATED)


def _print_report(console: "Console", report: "RunReport", papers: Sequence[Paper], kind: Kind) -> None:
    from paperworks.evidence.tables import claims_table

    for paper in papers:
        of_paper = [found for found in report.views if found.paper == paper.slug]
        if not of_paper:
            continue
        console.print()
        console.print(claims_table(of_paper, title=f"{paper.slug} – {paper.title}"))
        for found in of_paper:
            if figure := found.figure(".png"):
                console.print(f"  figure  {figure}", highlight=False, soft_wrap=True)
            if found.traceback:
                console.print(f"\n{found.id}:\n{found.traceback}", highlight=False, markup=False, soft_wrap=True)
    first = papers[0]
    console.print(f"\nEvidence is in {report.folder}", highlight=False, soft_wrap=True)
    if report.interrupted:
        console.print("Stopped before the end; the same command with --resume goes on from here.", highlight=False)
        return
    this, other = ("run", "race") if kind == "claim" else ("race", "run")
    steps = [f"show {first.slug}", f"{other} {first.slug}"]
    if report.scale == "smoke":
        steps.insert(0, f"{this} {first.slug} --scale desk")
    elif report.scale == "desk" and not first.origin:  # nothing is committed of somebody else's paper to compare with
        steps.insert(0, f"compare {first.slug}")
    console.print(f"Next: {' · '.join(f'paperworks {step}' for step in steps)}", highlight=False, soft_wrap=True)


def _say_unwritten(report: "RunReport") -> None:
    for line in report.unwritten:
        typer.echo(line, err=True)


def _papers(slugs: Sequence[str] | None, every: bool) -> list[Paper]:
    from paperworks.papers import load, load_all

    if every == bool(slugs):
        fail("name the papers, or take --all; `paperworks list` shows them")
    with errors_of_use():
        if every:
            return [paper for paper in load_all() if not paper.planned]
        return [load(slug) for slug in dict.fromkeys(slugs or ())]
