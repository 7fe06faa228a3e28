import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from paperworks.evidence.entry import Entry, Provenance, Value
from paperworks.evidence.record import Paper, read_paper

PREAMBLE = (
    "import os, signal, sys, time\nfrom paperworks.evidence import *\nfrom paperworks.evidence.estimates import *\n"
)


def _hear_interrupts():
    """Undo what a shell does to whatever it starts in the background: it would not hear Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def make_paper(tmp_path: Path) -> Callable[..., Paper]:
    """Make a paper in a folder of its own: its claims' source, and for each id the keys that matter."""

    return lambda *what: write(tmp_path / "fixture", *what)


@pytest.fixture(scope="session")
def write_paper() -> Callable[..., Paper]:
    """Make a paper in the folder given."""
    return write


def write(
    folder: Path,
    source: str,
    claims: Mapping[str, Mapping[str, Any]],
    peers: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Paper:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.py").write_text(PREAMBLE + textwrap.dedent(source))
    lines = ['title="A <b>title</b>"', 'arxiv="2401.00001"', "year=2024", 'authors=["A. Author"]', 'field="diffusion"']
    lines.append('summary="A | summary."')
    for id, keys in claims.items():
        defaults = {"id": id, "says": f"says {id}", "reported": "3", "measure": "m", "bar": ">= 1", "scale": "smoke"}
        lines += ["[[claims]]", *_toml({**defaults, **keys})]
    for id, keys in peers.items():
        defaults = {"id": id, "package": "numpy", "says": f"races {id}", "bar": "<= 1", "scale": "smoke"}
        lines += ["[[peers]]", *_toml({**defaults, **keys})]
    (folder / "paper.toml").write_text("\n".join(lines))
    return read_paper(folder)


def _toml(keys: Mapping[str, Any]) -> list[str]:
    def value(v: Any) -> str:
        if isinstance(v, Mapping):
            return "{" + ", ".join(f"{json.dumps(name)} = {value(item)}" for name, item in v.items()) + "}"
        return json.dumps(v)

    return [f"{name} = {value(v)}" for name, v in keys.items()]


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Make an entry as a run would have made it."""
    return entry


def entry(id: str = "c1", **changes: Any) -> Entry:
    origin = Provenance(
        date="2024-05-01T12:00:00Z",
        revision="0123456789abcdef",
        digest="d",
        versions={"torch": "2.6"},
        machine={"cpu": "A CPU", "cores": 2, "system": "Linux"},
        engine="local",
        threads=1,
    )
    defaults: dict[str, Any] = {"kind": "claim", "scale": "desk", "seeds": (0,), "outcome": "measured"}
    return Entry(**{**defaults, "provenance": replace(origin, **changes.pop("origin", {})), "id": id, **changes})


@pytest.fixture
def value() -> Callable[..., Value]:
    """Make a stored value: a number with an interval around it, a point by default."""
    return stored


def stored(number: float | bool, half: float = 0.0) -> Value:
    return Value(number, float(number) - half, float(number) + half, "exact")


SCRIPT = """
import json, sys
from pathlib import Path
from paperworks.evidence import read_paper, run_papers

report = run_papers([read_paper(Path(sys.argv[1]))], scale="smoke", folder=Path(sys.argv[2]), **json.loads(sys.argv[3]))
print([v.id for v in report.views], report.interrupted, flush=True)
sys.exit(report.exit_code)
"""
ENDLESS = """
@measures("quick")
def quick(run):
    return Measurement(exact(1.0))

@measures("endless")
def endless(run):
    with open({pid!r}, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def start_endless_run(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Callable[..., tuple[Any, ...]]]:
    """Start a run, or the command that runs; wait until one of its tasks has finished and one runs without end."""
    runs = []

    def start(command: bool = False, **how: Any) -> tuple[Any, ...]:
        pid, evidence, scratch = tmp_path / "pid", tmp_path / "evidence", tmp_path / "scratch"
        scratch.mkdir()
        paper = write(tmp_path / "fixture", ENDLESS.format(pid=str(pid)), {"quick": {}, "endless": {}})
        script = ["-c", SCRIPT, str(paper.folder), str(evidence), json.dumps(how)]
        typed = ["-m", "paperworks", "run", "fixture", "--papers", str(paper.folder), "--scale", "smoke"]
        run = subprocess.Popen(
            [sys.executable, *([*typed, "--evidence", str(evidence)] if command else script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
        runs.append(run)
        wait_until(lambda: pid.exists() and pid.read_text() and (evidence / "fixture" / "history.jsonl").exists())
        return run, int(pid.read_text()), evidence, scratch

    yield start
    for run in runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for a condition, and fail where it never comes."""

    def wait(condition: Callable[[], Any], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    """Tell whether a process has ended; nobody may have waited for it yet."""
    return lambda pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
