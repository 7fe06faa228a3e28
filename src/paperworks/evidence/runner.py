"""Runs claims and races: each a task of its own, each entry of evidence written as its task ends."""

import difflib
import math
import tempfile
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.evidence import notebook
from paperworks.evidence.digests import reached
from paperworks.evidence.engines import Engine, open_engine
from paperworks.evidence.entry import KINDS, Carried, Entry, Kind
from paperworks.evidence.errors import EvidenceError, UsageError
from paperworks.evidence.events import Event, Happening, TaskName
from paperworks.evidence.provenance import checkout, code_changed, package_digest, revision_of
from paperworks.evidence.record import SCALES, Claim, Paper, Peer, Scale
from paperworks.evidence.run import exclusive_tasks
from paperworks.evidence.same import same_smoke
from paperworks.evidence.spec import TaskSpec, portable_folder
from paperworks.evidence.spool import Progress, read_progress
from paperworks.evidence.store import (
    Evidence,
    add_entry,
    check_writable,
    committed_folder,
    own_folder,
    read_evidence,
)
from paperworks.evidence.supervisor import entry_of
from paperworks.evidence.verdicts import items_of, outdated
from paperworks.evidence.views import COLUMNS, ClaimView, rows_html, view

DEFAULT_SEEDS: dict[Scale, int] = {"smoke": 1, "desk": 3, "full": 5}
MOST_SEEDS = 1000
# Guards against a task that never ends; a claim whose network is trained on first use takes longest.
DEFAULT_TIME_LIMIT: dict[Scale, float | None] = {"smoke": 120.0, "desk": 900.0, "full": None}
DEFAULT_BUDGET: dict[Scale, float] = {"smoke": 0.0, "desk": 120.0, "full": math.inf}
DEFAULT_MEMORY_LIMIT = 8.0  # GiB
_WALL = 4.0  # by the clock a task may take this many times its processor time
_IDLE = 120.0  # seconds
_SHARE_OF_MEMORY = 0.9
_SPOOL_SECONDS = 0.2


@dataclass(frozen=True)
class RunReport:
    """What a run found, in the order of the papers and their records.

    `resumed` and `carried` count what was measured before. `unwritten` says of what was measured why it could not be
    written. `interrupted` tells that the run was stopped; what had finished by then is in `views`.

    Parameters
    ----------
    views
        What was found, in the order of the papers and their records.
    scale
        Scale of the run.
    folder
        Where the evidence was written.
    resumed
        How many tasks were measured before.
    carried
        How many measurements were taken over from equal code.
    unwritten
        Why what was measured could not be written, in one line each.
    interrupted
        Whether the run was stopped; what had finished by then is in `views`.
    """

    views: tuple[ClaimView, ...]
    scale: Scale
    folder: Path
    resumed: int = 0
    carried: int = 0
    unwritten: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """Return 0 where everything holds that must, 1 where something doesn't or erred, 130 when interrupted.

        2 means that nothing but this machine is to blame: data or every peer are missing, it was too slow, or what
        was measured could not be written.
        """
        if self.interrupted:
            return 130
        failed = {found.verdict for found in self.views if found.fails}
        if failed - {"missing data", "stopped"}:
            return 1
        nothing_ran = bool(self.views) and all(found.verdict == "not run" for found in self.views)
        return 2 if failed or nothing_ran or self.unwritten else 0

    def _repr_html_(self) -> str:
        caption = f"Run at {self.scale} scale" + (", interrupted" if self.interrupted else "")
        found = notebook.table(caption, COLUMNS, rows_html(self.views))
        return notebook.lines(found, *self.unwritten, f"Evidence is in {self.folder}")


def run_papers(
    papers: Sequence[Paper],
    *,
    kinds: Collection[str] = ("claim",),
    ids: Collection[str] = (),
    scale: Scale = "desk",
    seeds: int | None = None,
    engine: str = "local",
    address: str | None = None,
    resume: bool = False,
    commit: bool = False,
    folder: Path | None = None,
    n_jobs: int | None = None,
    threads: int = 1,
    budget: float | None = None,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> RunReport:
    """Measure claims, run races, and write the evidence.

    Parameters
    ----------
    papers
        Whose claims to measure; planned ones are left out.
    kinds
        "claim" to measure claims, "peer" to run races.
    ids
        Only the claims or peers with these ids; all by default.
    scale
        "smoke", "desk" or "full".
    seeds
        How many seeds to begin with; 1, 3 and 5 by default for the three scales. More are taken while a bar is
        undecided, as far as the budget allows.
    engine, address
        "local", or "dask" or "ray" with the address of the cluster.
    resume
        Skip what was measured before from the same code and versions, at the same scale, from the same seeds; carry
        over what changed code gives the same smoke-scale values for.
    commit
        Write to the evidence of the checkout, which takes committed code.
    folder
        Where the evidence goes; `own_folder()` by default.
    n_jobs
        How many tasks run at once; by default the cores divided by `threads`, and no more than there is memory for.
        Tasks that measure time run alone, after the others.
    threads
        How many threads each task may use.
    budget
        Seconds of processor time that a claim may use to decide its bars; by default 120 at desk scale.
    time_limit
        Seconds of processor time for each task, `math.inf` for none; by default 120 and 900 at smoke and desk scale.
        By the clock a task may take four times as long.
    memory_limit
        GiB for each task, with its children; `math.inf` for none, by default 8, or less where the machine has less.
    on_event
        Called with each `Event`, from one thread at a time.

    Returns
    -------
    RunReport
        What was found.

    Raises
    ------
    UsageError
        Where what is asked for can't be done.
    """
    try:
        for name in kinds:
            check_choice("kinds", name, KINDS)
        check_choice("scale", scale, SCALES)
        count = DEFAULT_SEEDS[scale] if seeds is None else check_count("seeds", seeds, at_most=MOST_SEEDS)
        limit = DEFAULT_TIME_LIMIT[scale] if time_limit is None else _limit("time_limit", time_limit)
        if budget is None:
            budget = DEFAULT_BUDGET[scale]
        jobs, memory = _share_machine(engine, n_jobs, check_count("threads", threads), memory_limit)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    chosen = _choose(papers, kinds, ids)
    if commit:
        folder = _committed(chosen, folder)
    folder = own_folder() if folder is None else folder
    check_writable(folder)
    specs = [
        TaskSpec(
            number=number,
            slug=paper.slug,
            folder=portable_folder(paper.folder),
            kind=kind,
            id=item.id,
            bars={name: str(bar) for name, bar in item.bars.items()},
            exclusive=(kind, item.id) in _exclusive_tasks(paper),
            scale=scale,
            seeds=list(range(count)),
            engine=engine,
            threads=threads,
            budget=budget,
            time_limit=limit,
            wall_limit=None if limit is None else _WALL * limit,
            idle_limit=_IDLE if limit is None else min(_IDLE, limit),
            memory_limit=memory,
            smoke=commit or resume,
            code="" if engine == "local" else package_digest(),
            spool="",
        )
        for number, (paper, kind, item) in enumerate(chosen)
    ]
    with open_engine(engine, jobs, address) as opened:
        return _Work(chosen, specs, folder, opened, on_event or _ignore).run(resume)


Chosen = tuple[Paper, Kind, Claim | Peer]


class _Work:
    """The tasks of one run, and what became of them."""

    def __init__(
        self,
        chosen: Sequence[Chosen],
        specs: Sequence[TaskSpec],
        folder: Path,
        engine: Engine,
        on_event: Callable[[Event], None],
    ) -> None:
        self.chosen = chosen
        self.specs = specs
        self.folder = folder
        self.engine = engine
        self.views: dict[int, ClaimView] = {}
        self.resumed = 0
        self.carried = 0
        self.unwritten: list[str] = []
        self._on_event = on_event
        self._one_at_a_time = threading.Lock()
        self._ended: set[int] = set()
        self._before: dict[int, Entry] = {}
        self._expected: dict[int, float] = {}

    def run(self, resume: bool) -> RunReport:
        """Run all tasks; what falls to a crash or to Ctrl-C falls alone."""
        self._read_before()
        for spec in self.specs:
            self._emit("planned", spec)
        todo = []
        for spec in self.specs:
            entry = self._before.get(spec["number"])
            if resume and entry is not None and _still_stands(entry, spec, self.chosen[spec["number"]][0]):
                self.resumed += 1
                self._show(spec, self._view(spec, entry), resumed=True)
            else:
                todo.append(spec)
        interrupted = False
        try:
            with self._progress() as spool:
                if spool:
                    todo = [{**spec, "spool": str(spool)} for spec in todo]
                if resume:
                    todo = self._carry_over(todo)
                self._execute([spec for spec in todo if not spec["exclusive"]], spool)
                for spec in todo:
                    if spec["exclusive"]:
                        self._execute([spec], spool)
        except KeyboardInterrupt:
            interrupted = True
        scale = self.specs[0]["scale"]
        found = tuple(self.views[number] for number in sorted(self.views))
        return RunReport(found, scale, self.folder, self.resumed, self.carried, tuple(self.unwritten), interrupted)

    def _carry_over(self, specs: Sequence[TaskSpec]) -> list[TaskSpec]:
        """Carry over the entries that changed code gives the same smoke-scale values for; return what is left to do."""
        tried: list[TaskSpec] = []
        for spec in specs:
            entry = self._before.get(spec["number"])
            whole = entry is not None and list(entry.seeds[: len(spec["seeds"])]) == spec["seeds"]
            # What the paper's own modules do at this scale shows in no smoke value: other epochs, another data set.
            own = entry is None or code_changed(self.chosen[spec["number"]][0].folder, entry.provenance.revision)
            if entry and entry.measured and entry.smoke and whole and not own and not spec["exclusive"]:
                tried.append({**spec, "scale": "smoke", "seeds": [0], "budget": 0.0, "smoke": False, "spool": ""})
        if tried:
            try:
                for result in self.engine.run(tried):
                    self._carry(self.specs[result["number"]], result)
            except KeyboardInterrupt:
                raise
            except Exception:
                pass  # what the engine broke with shows when it is measured
        return [spec for spec in specs if spec["number"] not in self.views]

    def _carry(self, spec: TaskSpec, result: dict[str, Any]) -> None:
        if "entry" not in result:
            return
        entry, now = self._before[spec["number"]], Entry.from_json(result["entry"])
        if entry.smoke is None or not now.measured or not same_smoke(entry.smoke, now):
            return
        first = entry.carried or Carried(entry.provenance.revision, entry.provenance.date)
        origin = replace(now.provenance, machine=entry.provenance.machine, engine=entry.provenance.engine)
        carried = replace(entry, provenance=origin, carried=first)
        self.carried += 1
        self._keep(spec, carried, resumed=True)

    def _execute(self, specs: Sequence[TaskSpec], spool: Path | None, *, apart: bool = False) -> None:
        """Run tasks together; where the engine breaks, those in flight then run one by one, and then the rest."""
        if not specs:
            return
        if spool is None:
            for spec in specs:
                self._emit("started", spec)
        crash = self._keep_results(self.engine.run(specs, apart=apart))
        lost = [spec for spec in specs if spec["number"] not in self.views]
        if crash is None or not lost:
            return
        if len(specs) == 1 and apart:
            reason = f"the process that supervised this died twice: {type(crash).__name__}"
            result = {"outcome": "error", "reason": reason, "traceback": str(crash)}
            self._keep(specs[0], Entry.from_json(entry_of(specs[0], result)))
            return
        started = read_progress(spool) if spool else {}
        suspects = [spec for spec in lost if spec["number"] in started] or lost
        for spec in suspects:
            self._execute([spec], spool, apart=True)
        self._execute([spec for spec in lost if spec not in suspects], spool)

    def _keep_results(self, results: Generator[dict[str, Any], None, None]) -> Exception | None:
        """Keep results as they come; return what the engine broke with, if it did."""
        with closing(results):  # stops what runs, where this is left by an exception
            while True:
                try:
                    result = next(results, None)
                except Exception as error:
                    return error
                if result is None:
                    return None
                if "refused" in result:
                    raise UsageError(result["refused"])
                self._keep(self.specs[result["number"]], Entry.from_json(result["entry"]), result["figures"])

    def _keep(
        self, spec: TaskSpec, entry: Entry, figures: dict[str, bytes] | None = None, *, resumed: bool = False
    ) -> None:
        found = self._view(spec, entry)  # before writing: an interrupt between the two would lose it from the report
        try:
            entry = add_entry(spec["slug"], self.folder, entry, figures)
        except (OSError, EvidenceError) as error:  # a full disk costs the file, not what was measured
            self.unwritten.append(f"{spec['slug']} {spec['id']} could not be written to {self.folder}: {error}")
        self._show(spec, replace(found, figures=self._paths(entry)), resumed=resumed)

    def _view(self, spec: TaskSpec, entry: Entry) -> ClaimView:
        return view(*self.chosen[spec["number"]], entry, figures=self._paths(entry))

    def _paths(self, entry: Entry) -> tuple[Path, ...]:
        return tuple(self.folder / figure for figure in entry.figures)

    def _show(self, spec: TaskSpec, found: ClaimView, *, resumed: bool = False) -> None:
        self.views[spec["number"]] = found
        self._emit("finished", spec, view=found, resumed=resumed)

    def _emit(self, what: Happening, spec: TaskSpec, **more: Any) -> None:
        with self._one_at_a_time:
            if spec["number"] in self._ended:  # the watcher may be late
                return
            if what == "finished":
                self._ended.add(spec["number"])
            name = TaskName(spec["slug"], spec["kind"], spec["id"])
            self._on_event(Event(what, name, expected=self._expected.get(spec["number"], 0.0), **more))

    def _read_before(self) -> None:
        """Read the evidence before anything runs, so that a file that can't be extended is found at once."""
        own: dict[str, Evidence] = {}
        for slug in {spec["slug"] for spec in self.specs}:
            own[slug] = read_evidence(slug, self.folder)
            if own[slug].problem:
                raise UsageError(f"{own[slug].problem}; move the file away or restore it")
        committed = {slug: read_evidence(slug) for slug in own}
        for spec, (paper, kind, item) in zip(self.specs, self.chosen, strict=True):
            reached(paper.folder, kind, item.id)  # takes a second where sources changed: not when results come in
            wanted = spec["kind"], spec["id"], spec["scale"]
            if entry := own[spec["slug"]].newest(*wanted):
                self._before[spec["number"]] = entry
            for known in (entry, committed[spec["slug"]].newest(*wanted)):
                if known is not None and known.measured:
                    self._expected[spec["number"]] = known.seconds
                    break

    @contextmanager
    def _progress(self) -> Iterator[Path | None]:
        """Pass on the progress of tasks that can report it in a folder of this machine."""
        if not self.engine.shares_disk:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="paperworks-run-", ignore_cleanup_errors=True) as name:
            stop = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(Path(name), stop), daemon=True)
            watcher.start()
            try:
                yield Path(name)
            finally:
                stop.set()
                watcher.join()

    def _watch(self, spool: Path, stop: threading.Event) -> None:
        seen: dict[int, Progress] = {}
        while not stop.wait(_SPOOL_SECONDS):
            for number, progress in read_progress(spool).items():
                if seen.get(number) != progress:
                    self._emit("progress" if number in seen else "started", self.specs[number], progress=progress)
                    seen[number] = progress


def _choose(papers: Sequence[Paper], kinds: Collection[str], ids: Collection[str]) -> list[Chosen]:
    ready = [paper for paper in papers if not paper.planned]
    if not ready:
        names = ", ".join(paper.slug for paper in papers)
        raise UsageError(f"nothing to measure yet: {names} planned" if names else "no papers were given")
    there: list[Chosen] = [
        (p, kind, item) for p in ready for kind in KINDS if kind in kinds for item in items_of(p, kind)
    ]
    known = [item.id for _, _, item in there]
    what = " or ".join(kind for kind in KINDS if kind in kinds)
    where = ", ".join(paper.slug for paper in ready) if len(ready) < 4 else f"{len(ready)} papers"
    for id in ids:
        if id not in known:
            near = difflib.get_close_matches(id, known, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise UsageError(f"no {what} '{id}' in {where}; {hint}")
    if not there:
        raise UsageError(f"no {what} in {where}")
    return [entry for entry in there if not ids or entry[2].id in ids]


def _exclusive_tasks(paper: Paper) -> set[tuple[str, str]]:
    return exclusive_tasks((paper.folder / "claims.py").read_text(encoding="utf-8"))


def _still_stands(entry: Entry, spec: TaskSpec, paper: Paper) -> bool:
    """Tell whether an entry is what measuring again would give."""
    if list(entry.seeds[: len(spec["seeds"])]) != spec["seeds"]:
        return False
    if entry.outcome == "not at this scale":
        return entry.provenance.digest == reached(paper.folder, entry.kind, entry.id).digest
    return entry.measured and not outdated(paper, entry)


def _committed(chosen: Sequence[Chosen], folder: Path | None) -> Path:
    """Return the checkout's evidence, for code that is committed."""
    if folder is not None:
        raise UsageError("either commit or another folder, not both")
    if checkout() is None:
        raise UsageError(
            "there is no checkout here whose evidence could be committed; `paperworks run` measures into your own"
        )
    for paper, kind, item in chosen:
        if revision_of(reached(paper.folder, kind, item.id).files).endswith("+dirty"):
            raise UsageError(
                f"the code that {paper.slug} {item.id} reaches has changes that are not committed; evidence to be "
                "committed takes committed code"
            )
    return committed_folder()


def _share_machine(engine: str, n_jobs: int | None, threads: int, memory_limit: float | None) -> tuple[int, int | None]:
    """Return how many tasks run at once and how many bytes each may use, such that the machine has them."""
    jobs = max(_cores() // threads, 1) if n_jobs is None else check_count("n_jobs", n_jobs)
    wanted = DEFAULT_MEMORY_LIMIT if memory_limit is None else _limit("memory_limit", memory_limit)
    if wanted is None:
        return jobs, None
    limit, there = int(wanted * 2**30), int(_SHARE_OF_MEMORY * psutil.virtual_memory().total)
    if engine != "local" or jobs * limit <= there:
        return jobs, limit
    if memory_limit is None:
        limit = min(limit, max(there // (n_jobs or 1), 1))
    if n_jobs is None:
        jobs = max(there // limit, 1)
    if jobs * limit > there:
        raise UsageError(
            f"{jobs} tasks at once of {limit / 2**30:.3g} GiB take more than the machine has ({there / 2**30:.3g} GiB "
            "of it for tasks); take fewer jobs or a lower memory limit"
        )
    return jobs, limit


def _limit(name: str, value: float) -> float | None:
    return None if value == math.inf else check_number(name, value, gt=0)


def _cores() -> int:
    import joblib

    return int(joblib.cpu_count())


def _ignore(event: Event) -> None: ...
