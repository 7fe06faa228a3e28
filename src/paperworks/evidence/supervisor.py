"""What stands between a run and the process of a task: limits, death, and what is left afterwards."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from paperworks.core.code import PACKAGE
from paperworks.core.processes import ALIVE, ProcessTree
from paperworks.evidence import provenance
from paperworks.evidence.entry import Entry
from paperworks.evidence.spec import TaskSpec, paper_folder
from paperworks.evidence.spool import Progress, write_progress

_POLL = 0.2
_TAIL = 6000  # characters of a lost process's output that are kept
_WORK = 0.5  # seconds of processor time; a process that uses less within its idle limit hangs
_MARK = "PAPERWORKS_TASK"  # an environment variable by which whatever a task started is found again
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def supervise(spec: TaskSpec) -> dict[str, Any]:
    """Run one task in its own process; return its entry and its figure's files; never raise for what the task does.

    Returns
    -------
    dict
        `number` of the task, `entry` as JSON, `figures`: content by suffix; or `number` and `refused`, why nothing
        was measured on a worker that isn't the run's like.
    """
    if spec["code"] and spec["code"] != provenance.package_digest():
        from paperworks import __version__

        return {
            "number": spec["number"],
            "refused": f"a worker's Paperworks (version {__version__}) is not the one that this run was started with; "
            "install the same one there and start the worker again",
        }
    started = time.perf_counter()
    result: dict[str, Any]
    figures: dict[str, bytes] = {}
    memory = 0
    try:
        if spec["spool"]:
            write_progress(Path(spec["spool"]), spec["number"], Progress())
        # In the spool, where there is one, so that nothing stays behind when this process is killed.
        with tempfile.TemporaryDirectory(
            prefix="paperworks-", dir=spec["spool"] or None, ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            lost, memory = _run_process(spec, folder)
            if lost is None and not (folder / "result.json").exists():
                lost = {"outcome": "error", "reason": "the process ended with no result"}
            if lost is not None:
                result = {**lost, "traceback": _tail(folder / "output.txt", spec)}
            else:
                result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
                figures = {p.name.removeprefix("figure"): p.read_bytes() for p in sorted(folder.glob("figure.*"))}
    except Exception as error:
        result = {
            "outcome": "error",
            "reason": f"the task's process could not be run: {error}",
            "traceback": provenance.without_paths(traceback.format_exc()),
        }
    result.setdefault("seconds", time.perf_counter() - started)
    return {"number": spec["number"], "entry": entry_of(spec, result, memory), "figures": figures}


def entry_of(spec: TaskSpec, result: dict[str, Any], memory: int = 0) -> dict[str, Any]:
    """Make the entry of a task, as JSON, from what its process told, or from why it told nothing."""
    from paperworks.evidence.digests import reached

    result = dict(result)
    if "digest" not in result:  # the process was lost before it could say
        code = reached(paper_folder(spec), spec["kind"], spec["id"])
        result |= {"digest": code.digest, "revision": provenance.revision_of(code.files)}
    origin = {
        "date": provenance.now(),
        "revision": result.pop("revision"),
        "digest": result.pop("digest"),
        "versions": provenance.imported_distributions(result.pop("modules", ["paperworks"])),
        "machine": provenance.machine(),
        "python": provenance.python(),
        "blas": result.pop("blas", []),
        "lock": provenance.lock(),
        "engine": spec["engine"],
        "threads": spec["threads"],
    }
    for name in ("seconds", "processor_seconds"):
        result[name] = round(result.get(name, 0.0), 3)
    known = {"kind": spec["kind"], "id": spec["id"], "scale": spec["scale"], "seeds": spec["seeds"]}
    return Entry.from_json({**known, "provenance": origin, "memory": memory, **result}).to_json()


def _run_process(spec: TaskSpec, folder: Path) -> tuple[dict[str, str] | None, int]:
    """Run the process to its end or to its limits; return why it was lost (None if it was not) and its memory."""
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "paperworks.evidence.task", str(folder)]
    mark, alive = uuid.uuid4().hex, folder / "alive"
    with open(folder / "output.txt", "wb") as output:
        environment = {**_environment(spec["threads"]), _MARK: mark, ALIVE: str(alive)}
        tree = ProcessTree(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    watch = _Watch(spec, tree, alive)
    try:
        while tree.process.poll() is None:
            if lost := watch.look():
                return lost, watch.memory
            if _cancelled():
                return {"outcome": "stopped", "reason": "the run was stopped"}, watch.memory
            with suppress(subprocess.TimeoutExpired):
                tree.process.wait(_POLL)
        return _exit_reason(tree.process.returncode), watch.memory
    finally:
        tree.kill()
        _kill_marked(mark)


class _Watch:
    """Looks at a process again and again, and says when it has gone over a limit."""

    def __init__(self, spec: TaskSpec, tree: ProcessTree, alive: Path) -> None:
        self.spec = spec
        self.tree = tree
        self.alive = alive
        self.memory = 0
        self._started = self._worked = time.monotonic()
        self._used_then = 0.0

    def look(self) -> dict[str, str] | None:
        spec, now = self.spec, time.monotonic()
        memory, used = self.tree.memory(), self.tree.processor_seconds()
        self.memory = max(self.memory, memory)
        if used - self._used_then >= _WORK or self.alive.exists():
            self._worked, self._used_then = now, used
            self.alive.unlink(missing_ok=True)
        if spec["memory_limit"] and memory > spec["memory_limit"]:
            reason = f"ran out of memory: it used more than its limit of {spec['memory_limit'] / 2**30:.3g} GiB"
            return {"outcome": "error", "reason": reason}
        if now - self._worked > spec["idle_limit"]:
            self.tree.ask_for_traceback()
            return {"outcome": "error", "reason": f"hangs: it did no work for {spec['idle_limit']:g} s"}
        # A machine that is slow or busy is no defect of the paper, and of the two only the machine is known to be so.
        if used > (spec["time_limit"] or math.inf):
            self.tree.ask_for_traceback()
            reason = f"too slow here: not done within {spec['time_limit']:g} s of processor time"
            return {"outcome": "stopped", "reason": reason}
        if now - self._started > (spec["wall_limit"] or math.inf):
            self.tree.ask_for_traceback()
            share = used / (now - self._started)
            reason = f"too slow here: not done within {spec['wall_limit']:g} s, of which it got {share:.0%} of one core"
            return {"outcome": "stopped", "reason": reason}
        return None


def _environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONPATH": path, "MPLBACKEND": "agg"}


def _kill_marked(mark: str) -> None:
    """End what the task started and what left its process tree before it was seen."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                process.kill()


def _cancelled() -> bool:
    """Tell whether this runs on a Dask worker for a run that is gone; other engines end the process."""
    if distributed := sys.modules.get("distributed"):
        try:
            worker = distributed.get_worker()
            return bool(worker.state.tasks[worker.get_current_task()].state == "cancelled")
        except (ValueError, KeyError, AttributeError):  # not on a Dask worker
            pass
    return False


def _exit_reason(code: int) -> dict[str, str] | None:
    if code == 0:
        return None
    if code > 0:
        return {"outcome": "error", "reason": f"the process ended with exit code {code} and no result"}
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return {"outcome": "error", "reason": f"the process was killed by {name}{hint}"}


def _tail(output: Path, spec: TaskSpec) -> str:
    with output.open("rb") as file:
        file.seek(max(output.stat().st_size - 8 * _TAIL, 0))  # a task may have printed more than there is memory for
        text = file.read().decode("utf-8", errors="replace")
    return provenance.without_paths(text, output.parent, paper_folder(spec))[-_TAIL:].strip()
