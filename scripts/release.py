"""Makes a release: wheel, source distribution, bills of materials and their digests, into dist/.

    python scripts/release.py

A tag of git such as v0.2.0 decides the version. Before anything is built for a tag, what goes with a release is
checked: its section in CHANGELOG.md, a clean checkout, CITATION.cff, and the version that goes on from it.
"""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import hatchling.build

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SBOM, CITATION = (runpy.run_path(str(ROOT / "scripts" / f"{name}.py")) for name in ("sbom", "citation"))


def version() -> str:
    """Return the version that git gives the checkout."""
    command = [sys.executable, "-m", "hatchling", "version"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def problems(version: str) -> list[str]:
    """Say what is not yet as a release needs it; nothing of a version between releases."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return []
    found = []
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`")
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    if dirty.returncode or dirty.stdout.strip():
        found.append("the checkout has changes that aren't committed")
    if (ROOT / "CITATION.cff").read_text(encoding="utf-8") != CITATION["written"]():
        found.append("CITATION.cff is out of date: make citation")
    fallback = re.search(r'^fallback-version = "([\d.]+)\.dev0"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if fallback is None or tuple(map(int, fallback[1].split("."))) <= tuple(map(int, version.split(".")))[:2]:
        found.append("fallback-version of pyproject.toml has to go on to the version after it, such as 0.3.dev0")
    return found


def main() -> None:
    """Check, build, and write the digests."""
    told = version()
    if found := problems(told):
        sys.exit(f"{told} can't be released:\n" + "\n".join(f"* {problem}" for problem in found))
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    os.chdir(ROOT)
    for build in (hatchling.build.build_sdist, hatchling.build.build_wheel):
        build(str(DIST))
    SBOM["write"](DIST, told)
    files = sorted(DIST.iterdir())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (DIST / "SHA256SUMS").write_text(sums, encoding="utf-8")
    for path in files:
        print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
