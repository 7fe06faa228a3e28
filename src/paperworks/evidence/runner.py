"""Runs claims and races: each a task of its own, each entry of evidence written as its task ends."""

import difflib
import math
import tempfile
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.evidence.engines import Engine, open_engine
from paperworks.evidence.entry import KINDS, Entry, Kind
from paperworks.evidence.errors import EvidenceError, UsageError
from paperworks.evidence.events import Event, Happening, TaskName
from paperworks.evidence.provenance import digest_of
from paperworks.evidence.record import SCALES, Claim, Paper, Peer, Scale
from paperworks.evidence.run import exclusive_tasks
from paperworks.evidence.spec import TaskSpec, portable_folder
from paperworks.evidence.spool import Progress, read_progress
from paperworks.evidence.store import add_entry, check_writable, default_evidence_folder, read_evidence
from paperworks.evidence.supervisor import entry_of
from paperworks.evidence.verdicts import Judgement, items_of, judge

DEFAULT_SEEDS: dict[Scale, int] = {"smoke": 1, "desk": 3, "full": 5}
# Guards against a task that hangs; a claim whose network is trained on first use takes longest.
DEFAULT_TIME_LIMIT: dict[Scale, float | None] = {"smoke": 120.0, "desk": 900.0, "full": None}
DEFAULT_MEMORY_LIMIT = 8.0  # GiB
_SPOOL_SECONDS = 0.2


@dataclass(frozen=True)
class RunReport:
    """What a run found, in the order of the papers and their records.

    `interrupted` tells that it was stopped with Ctrl-C; what had finished by then is in `judgements`.
    """

    judgements: tuple[Judgement, ...]
    scale: Scale
    folder: Path
    resumed: int = 0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """Return 0 where everything holds that must, 1 where something falls short or erred, 130 when interrupted.

        2 means that all that failed is for want of data, which the user can install.
        """
        if self.interrupted:
            return 130
        failed = {judgement.verdict.name for judgement in self.judgements if judgement.verdict.fails}
        return 2 if failed == {"missing data"} else int(bool(failed))


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
    folder: Path | None = None,
    n_jobs: int | None = None,
    threads: int = 1,
    time_limit: float | None = None,
    memory_limit: float = DEFAULT_MEMORY_LIMIT,
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
        How many seeds; 1, 3 and 5 by default for the three scales.
    engine, address
        "local", or "dask" or "ray" with the address of the cluster.
    resume
        Skip what was measured before without error from the same sources, at the same scale, from the same seeds.
    folder
        Where the evidence goes; `default_evidence_folder()` by default.
    n_jobs
        How many tasks run at once; by default the cores divided by `threads`. Tasks that measure
        time run alone, after the others.
    threads
        How many threads each task may use.
    time_limit
        Seconds for each task, `math.inf` for none; by default 120 and 900 at smoke and desk scale.
    memory_limit
        GiB for each task, with its children; `math.inf` for none.
    on_event
        Called with each `Event`, from one thread at a time.

    Raises
    ------
    UsageError
        Where what is asked for can't be done.
    """
    try:
        for name in kinds:
            check_choice("kinds", name, KINDS)
        check_choice("scale", scale, SCALES)
        count = DEFAULT_SEEDS[scale] if seeds is None else check_count("seeds", seeds)
        limit = DEFAULT_TIME_LIMIT[scale] if time_limit is None else _limit("time_limit", time_limit)
        memory = _limit("memory_limit", memory_limit)
        jobs = max(_cores() // check_count("threads", threads), 1) if n_jobs is None else check_count("n_jobs", n_jobs)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    chosen = _choose(papers, kinds, ids)
    folder = default_evidence_folder() if folder is None else folder
    check_writable(folder)
    specs = [
        TaskSpec(
            number=number,
            slug=paper.slug,
            folder=portable_folder(paper.folder),
            kind=kind,
            id=item.id,
            package=item.package if isinstance(item, Peer) else "",
            exclusive=(kind, item.id) in _exclusive_tasks(paper),
            scale=scale,
            seeds=list(range(count)),
            engine=engine,
            threads=threads,
            time_limit=limit,
            memory_limit=None if memory is None else int(memory * 2**30),
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
        self.judgements: dict[int, Judgement] = {}
        self.resumed = 0
        self._on_event = on_event
        self._one_at_a_time = threading.Lock()
        self._ended: set[int] = set()

    def run(self, resume: bool) -> RunReport:
        """Run all tasks; what falls to a crash or to Ctrl-C falls alone."""
        before = self._stored_before()
        for spec in self.specs:
            self._emit("planned", spec)
        todo = []
        for spec in self.specs:
            entry = before.get(spec["number"])
            if resume and entry is not None and _still_stands(entry, spec, self.chosen[spec["number"]][0]):
                self.resumed += 1
                self._judge(spec, entry, resumed=True)
            else:
                todo.append(spec)
        interrupted = False
        try:
            with self._progress() as spool:
                if spool:
                    todo = [{**spec, "spool": str(spool)} for spec in todo]
                self._execute([spec for spec in todo if not spec["exclusive"]], spool)
                for spec in todo:
                    if spec["exclusive"]:
                        self._execute([spec], spool)
        except KeyboardInterrupt:
            interrupted = True
        scale = self.specs[0]["scale"]
        found = tuple(self.judgements[number] for number in sorted(self.judgements))
        return RunReport(found, scale, self.folder, self.resumed, interrupted)

    def _execute(self, specs: Sequence[TaskSpec], spool: Path | None, *, apart: bool = False) -> None:
        """Run tasks together; where the engine breaks, those in flight then run one by one, and then the rest."""
        if not specs:
            return
        if spool is None:
            for spec in specs:
                self._emit("started", spec)
        crash = self._keep_results(self.engine.run(specs, apart=apart))
        lost = [spec for spec in specs if spec["number"] not in self.judgements]
        if crash is None or not lost:
            return
        if len(specs) == 1 and apart:
            reason = f"the process that supervised this died twice: {type(crash).__name__}"
            self._keep(specs[0], entry_of(specs[0], {"outcome": "error", "reason": reason, "traceback": str(crash)}))
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
                self._keep(self.specs[result["number"]], Entry.from_json(result["entry"]), result["figures"])

    def _keep(self, spec: TaskSpec, entry: Entry, figures: dict[str, bytes] | None = None) -> None:
        try:
            kept = add_entry(spec["slug"], self.folder, entry, figures)
        except OSError as error:
            raise UsageError(f"evidence can't be written to {self.folder}: {error}") from None
        self._judge(spec, kept)

    def _judge(self, spec: TaskSpec, entry: Entry, *, resumed: bool = False) -> None:
        paper, kind, item = self.chosen[spec["number"]]
        judgement = Judgement(paper, kind, item, entry, judge(item, entry))
        self.judgements[spec["number"]] = judgement
        self._emit("finished", spec, judgement=judgement, resumed=resumed)

    def _emit(self, what: Happening, spec: TaskSpec, **more: Any) -> None:
        with self._one_at_a_time:
            if spec["number"] in self._ended:  # the watcher may be late
                return
            if what == "finished":
                self._ended.add(spec["number"])
            self._on_event(Event(what, TaskName(spec["slug"], spec["kind"], spec["id"]), **more))

    def _stored_before(self) -> dict[int, Entry]:
        """Read the evidence before anything runs, so that a file that can't be extended is found at once."""
        try:
            stored = {spec["slug"]: read_evidence(spec["slug"], self.folder) for spec in self.specs}
        except EvidenceError as error:
            raise UsageError(str(error)) from None
        found = {s["number"]: stored[s["slug"]].entry(s["kind"], s["id"], s["scale"]) for s in self.specs}
        return {number: entry for number, entry in found.items() if entry is not None}

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
    if entry.outcome not in ("measured", "not at this scale") or list(entry.seeds) != spec["seeds"]:
        return False
    digest = digest_of(paper.folder, entry.provenance.sources)
    return bool(digest) and digest == entry.provenance.digest


def _limit(name: str, value: float) -> float | None:
    return None if value == math.inf else check_number(name, value, gt=0)


def _cores() -> int:
    import joblib

    return int(joblib.cpu_count())


def _ignore(event: Event) -> None: ...
