"""Runs the conformance suites with each Python, and with the oldest and newest version of each library, one job each.

    python scripts/matrix.py [JOB ...] [--suites estimators,solvers] [--minutes 60]

`python-3.12` takes the versions of the lock; `oldest-numpy` the lower bound of pyproject.toml, with torch as the lock
has it and the others as they go with that; `newest-numpy` what the package index has, with the others as the lock has
them. Every job makes an environment of its own from wheels alone, installs Paperworks' wheel into it, and removes it
again. What this machine can't have, an interpreter or a wheel, is *not run*, with the reason; an environment that can
be had, and in which the suites don't even begin, has failed. Results go to docs/matrix.json as each job ends, and from
there into the table of docs/releases.md.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "matrix.json"
PAGE = ROOT / "docs" / "releases.md"
BEGIN, END = "<!-- matrix: written by scripts/matrix.py -->", "<!-- end of matrix -->"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "diffusers")
EXTRAS = "site,mechanics,rl,verification"  # what exported methods are built upon
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "beartype", "diffusers")
PRINT_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name).partition("+")[0] for name in sys.argv[1:]}))
"""


def jobs() -> list[str]:
    """Name all jobs, in the order in which they run."""
    return [*(f"python-{p}" for p in PYTHONS), *(f"{age}-{name}" for name in LIBRARIES for age in ("oldest", "newest"))]


def lower_bounds() -> dict[str, str]:
    """Return the oldest version of each library that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["peers"]]
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match and match[1] in LIBRARIES}


def locked() -> dict[str, str]:
    """Return the version that the locks give each package."""
    text = "".join((ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8") for name in ("core", "test"))
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def constraints(job: str) -> list[str]:
    """Return what pip is held to: the lock for a Python; for a library its bound, and torch, whose build is large."""
    kind, _, name = job.partition("-")
    lock = locked()
    if kind == "python":
        return [f"{n}=={v}" for n, v in lock.items()]
    if kind == "oldest":
        return [f"{name}=={lower_bounds()[name]}", *([] if name == "torch" else [f"torch=={lock['torch']}"])]
    return [f"{n}=={lock[n]}" for n in LIBRARIES if n != name]


def interpreter(version: str) -> str | None:
    """Find the interpreter of a version: this one, one on the path, or one of pyenv."""
    if platform.python_version().startswith(f"{version}."):
        return sys.executable
    candidates = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    for candidate in filter(None, candidates):
        run = subprocess.run([candidate, "-V"], capture_output=True, text=True)
        if run.returncode == 0 and run.stdout.startswith(f"Python {version}."):
            return str(candidate)
    return None


class NotRunError(Exception):
    """A job takes what this machine can't have; the message says what."""


def measure(job: str, wheel: Path, before: list[dict[str, Any]], asked: argparse.Namespace) -> dict[str, Any]:
    """Run a job, and return its row."""
    version = (
        job.removeprefix("python-") if job.startswith("python-") else ".".join(platform.python_version_tuple()[:2])
    )
    row: dict[str, Any] = {"job": job, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    try:
        python = interpreter(version)
        if python is None:
            raise NotRunError(f"there is no Python {version} on this machine")
        with tempfile.TemporaryDirectory(prefix=f"paperworks-{job}-") as folder:
            row |= conformance(job, python, wheel, Path(folder), before, asked)
    except NotRunError as why:
        row |= {"outcome": "not run", "reason": str(why)}
    return row


def conformance(
    job: str, python: str, wheel: Path, folder: Path, before: list[dict[str, Any]], asked: argparse.Namespace
) -> dict[str, Any]:
    """Make the environment and run the suites in it, unless a job before it had the same versions."""
    suites = asked.suites.split(",") if asked.suites else []
    run = subprocess.run([python, "-m", "venv", folder / "venv"], capture_output=True, text=True)
    if run.returncode:
        raise NotRunError(f"{Path(python).name} makes no environments here: its module venv or ensurepip is missing")
    inside = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (folder / "constraints.txt").write_text("\n".join(constraints(job)), encoding="utf-8")
    wanted = [f"paperworks[{EXTRAS}] @ {wheel.as_uri()}", *TOOLS]
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", folder / "constraints.txt"]
    run = subprocess.run([*pip, "--only-binary", ":all:", *wanted], capture_output=True, text=True)
    if run.returncode:
        raise NotRunError(reason_of(run.stderr))
    names = ["paperworks", *LIBRARIES]
    told = subprocess.run([inside, "-c", PRINT_VERSIONS, *names], capture_output=True, text=True, check=True)
    had = subprocess.run([inside, "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]
    versions = {"python": had, **json.loads(told.stdout)}
    for row in before:
        if row.get("versions") == versions and row.get("suites") == suites and row["outcome"] != "not run":
            return {**{k: v for k, v in row.items() if k not in ("job", "same_as")}, "same_as": row["job"]}
    report = folder / "report.xml"
    places = [f"tests/conformance/test_{suite}.py" for suite in suites] or ["tests/conformance"]
    tests = [*places, "-m", "not slow", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [inside, "-m", "pytest", *tests]
    limit = 60 * asked.minutes
    try:
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"not done within {asked.minutes:g} minutes") from None
    if not report.exists():  # what the tests import fails, or brings the interpreter down
        said = [line for line in f"{run.stdout}\n{run.stderr}".splitlines() if line.strip()] or [""]
        broken = f"pytest ended with {run.returncode} and no report: {said[-1].strip().replace(f'{ROOT}{os.sep}', '')}"
        counted = {"outcome": "failed", "tests": 1, "skipped": 0, "failures": [broken]}
        return {"versions": versions, "suites": suites, **counted}
    return {"versions": versions, "suites": suites, **summary(report)}


def reason_of(output: str) -> str:
    """Return the line of pip's output that says what can't be had."""
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    telling = ("No matching distribution", "Cannot install")  # and not where to read of it
    found = next((line for line in lines if any(t in line for t in telling)), lines[-1] if lines else output[-200:])
    return re.sub(r"\(from versions:.*?\)|https?://\S+|file://\S+", "", found).strip()


def summary(report: Path) -> dict[str, Any]:
    """Count what a report of pytest in JUnit's form says."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return {
        "outcome": "failed" if bad or not cases else "passed",
        "tests": len(cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
        "failures": sorted(f"{case.get('classname')}::{case.get('name')}" for case in bad),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Write the rows as a table in Markdown."""
    head = ["job", "outcome", "Python", *LIBRARIES, "conformance tests"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        versions = row.get("versions", {})
        if row["outcome"] == "not run":
            said = row["reason"]
        else:
            said = f"{row['tests'] - row['skipped'] - len(row['failures'])} passed, {row['skipped']} skipped"
            said += f", {len(row['failures'])} failed" if row["failures"] else ""
            said += f", of {', '.join(row['suites'])}" if row["suites"] else ""
            said += f" (the versions of `{row['same_as']}`)" if row.get("same_as") else ""
        had = [versions.get(name, "") for name in ("python", *LIBRARIES)]
        cells = [f"`{row['job']}`", row["outcome"], *had, said.replace("|", "\\|")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(page: str, rows: list[dict[str, Any]]) -> str:
    """Return the page with the table of the rows in its place."""
    start, rest = page.split(BEGIN)
    return f"{start}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Run the jobs that are named, or all, and write what came of each."""
    parser = argparse.ArgumentParser(description="Run the conformance suites across versions.")
    parser.add_argument("jobs", nargs="*", metavar="JOB", choices=[*jobs(), []], help="Names of jobs; all by default.")
    parser.add_argument("--suites", default="", help="Names of suites, with commas between; all by default.")
    parser.add_argument("--minutes", type=float, default=60, help="What one run of the suites may take.")
    asked = parser.parse_args()
    rows = {row["job"]: row for row in (json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else [])}
    with tempfile.TemporaryDirectory(prefix="paperworks-wheel-") as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        done: list[dict[str, Any]] = []  # of this code: what is in the file may be of another
        for job in asked.jobs or jobs():
            row = rows[job] = measure(job, wheel, done, asked)
            done.append(row)
            ordered = [rows[name] for name in jobs() if name in rows]
            part = RESULTS.with_suffix(".part")  # whole or not at all, whenever it is interrupted
            part.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
            part.replace(RESULTS)
            if PAGE.exists():
                PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), ordered), encoding="utf-8")
            print(f"{job}: {row['outcome']}", row.get("reason") or row.get("failures") or "", flush=True)
    sys.exit(any(row["outcome"] == "failed" for row in rows.values()))


if __name__ == "__main__":
    main()
