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
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from paperworks.evidence import provenance
from paperworks.evidence.entry import Entry, Provenance
from paperworks.evidence.spec import TaskSpec, paper_folder
from paperworks.evidence.spool import Progress, write_progress

_POLL = 0.2
_GRACE = 0.5  # seconds for a hung process to write where it hangs
_TAIL = 6000  # characters of a lost process's output that are kept
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def supervise(spec: TaskSpec) -> dict[str, Any]:
    """Run one task in its own process and return its entry and its figure's files; never raise for what the task does.

    Returns
    -------
    dict
        `number` of the task, `entry` as JSON, `figures`: content by suffix.
    """
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
            if lost or not (folder / "result.json").exists():
                reason = lost or "the process ended with no result"
                result = {"outcome": "error", "reason": reason, "traceback": _tail(folder / "output.txt", spec)}
            else:
                result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
                figures = {path.suffix: path.read_bytes() for path in sorted(folder.glob("figure.*"))}
    except Exception as error:
        result = {
            "outcome": "error",
            "reason": f"the task's process could not be run: {error}",
            "traceback": provenance.without_paths(traceback.format_exc()),
        }
    result.setdefault("seconds", time.perf_counter() - started)
    return {"number": spec["number"], "entry": entry_of(spec, result, memory).to_json(), "figures": figures}


def entry_of(spec: TaskSpec, result: dict[str, Any], memory: int = 0) -> Entry:
    """Make the entry of a task from what its process told, or from why it told nothing."""
    result = dict(result)
    sources = result.pop("sources", [])
    origin = Provenance(
        date=provenance.now(),
        revision=provenance.revision_of(paper_folder(spec), sources),
        digest=result.pop("digest", ""),
        sources=tuple(sources),
        versions=provenance.versions_of([spec["package"]] if spec["package"] else []),
        machine=provenance.machine(),
        engine=spec["engine"],
        threads=spec["threads"],
    )
    result["seconds"] = round(result.get("seconds", 0.0), 3)
    return Entry(
        kind=spec["kind"],
        id=spec["id"],
        scale=spec["scale"],
        seeds=tuple(spec["seeds"]),
        provenance=origin,
        memory=memory,
        **result,
    )


def _run_process(spec: TaskSpec, folder: Path) -> tuple[str, int]:
    """Run the process to its end or to its limits; return why it was lost (empty if it was not) and its memory."""
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "paperworks.evidence.task", str(folder)]
    with open(folder / "output.txt", "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: the task's process dies when our end closes
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(spec["threads"]),
            start_new_session=True,
        )
    tree = psutil.Process(process.pid)
    deadline = time.monotonic() + (spec["time_limit"] or math.inf)
    largest = 0
    try:
        while process.poll() is None:
            largest = max(largest, memory := _memory_of(tree))
            if spec["memory_limit"] and memory > spec["memory_limit"]:
                return f"used more than its memory limit of {spec['memory_limit'] / 2**30:.3g} GiB", largest
            if time.monotonic() > deadline:
                _ask_for_traceback(process)
                return f"was still running at its time limit of {spec['time_limit']:g} s", largest
            if _cancelled():
                return "the run was stopped", largest
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
        return _exit_reason(process.returncode), largest
    finally:
        _kill(process, tree)


def _environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(provenance.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONPATH": path, "MPLBACKEND": "agg"}


def _memory_of(tree: psutil.Process) -> int:
    total = 0
    try:
        for process in [tree, *tree.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total


def _ask_for_traceback(process: subprocess.Popen[bytes]) -> None:
    from paperworks.evidence.task import TRACEBACK_SIGNAL

    process.send_signal(TRACEBACK_SIGNAL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)


def _cancelled() -> bool:
    """Tell whether this runs on a Dask worker for a run that is gone; other engines end the process."""
    if distributed := sys.modules.get("distributed"):
        try:
            worker = distributed.get_worker()
            return bool(worker.state.tasks[worker.get_current_task()].state == "cancelled")
        except (ValueError, KeyError, AttributeError):  # not on a Dask worker
            pass
    return False


def _exit_reason(code: int) -> str:
    if code == 0:
        return ""
    if code > 0:
        return f"the process ended with exit code {code} and no result"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the process was killed by {name}{hint}"


def _kill(process: subprocess.Popen[bytes], tree: psutil.Process) -> None:
    """End the process, its group, and children of it that left the group."""
    try:
        children = tree.children(recursive=True)
    except psutil.Error:
        children = []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            continue
    if process.stdin:
        process.stdin.close()
    process.wait()


def _tail(output: Path, spec: TaskSpec) -> str:
    text = output.read_text(encoding="utf-8", errors="replace")
    return provenance.without_paths(text, output.parent, paper_folder(spec))[-_TAIL:].strip()
