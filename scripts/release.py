"""Makes a release: wheel, source distribution, bills of materials and their digests, into dist/.

    python scripts/release.py

A tag of git such as v0.2.0 decides the version. Before anything is built for a tag, what goes with a release is
checked: a clean checkout, its section in CHANGELOG.md, CITATION.cff, and the version that goes on from it.
"""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import hatchling.build

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SBOM, CITATION = (runpy.run_path(str(ROOT / "scripts" / f"{name}.py")) for name in ("sbom", "citation"))


def version() -> str:
    """Return the version that git gives the checkout."""
    command = [sys.executable, "-m", "hatchling", "version"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"git gives no version:\n{run.stderr.strip().splitlines()[-1]}")
    return run.stdout.strip()


def git(*words: str) -> list[str]:
    """Return the lines that git says of the checkout; none where it isn't one."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def problems(version: str, tags: Sequence[str] = (), changed: Sequence[str] = ()) -> list[str]:
    """Say what is not yet as a release needs it; nothing between releases, where there is no tag of a version."""
    if not tags and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return []
    if changed:  # they change the version, too
        return [f"the checkout has changes that aren't committed: {', '.join(line[3:] for line in changed)}"]
    if f"v{version}" not in tags or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        told = ", ".join(tags) or "no tag"
        return [f"it takes the tag of a release, such as v0.2.0, at this commit, which has {told}"]
    found = []
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    if version not in titles[:1]:
        found.append(f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD` before those of other releases")
    if re.search(r"^## Unreleased\n+(?!## )\S", changelog, re.MULTILINE):
        found.append("CHANGELOG.md has changes under `## Unreleased`, which are in this release")
    if (ROOT / "CITATION.cff").read_text(encoding="utf-8") != CITATION["written"]():
        found.append("CITATION.cff is out of date: make citation")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    fallback = re.search(r'^fallback-version = "([\d.]+)\.dev0"', project, re.MULTILINE)
    if fallback is None or tuple(map(int, fallback[1].split("."))) <= tuple(map(int, version.split(".")))[:2]:
        found.append("fallback-version of pyproject.toml has to go on to the version after it, such as 0.3.dev0")
    return found


def main() -> None:
    """Check, build, and write the digests."""
    told = version()
    tags = git("tag", "--points-at", "HEAD", "--list", "v[0-9]*")
    if found := problems(told, tags, git("status", "--porcelain")):
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
    if not tags:
        print(f"{told} is between releases: there is no tag such as v0.2.0 at this commit.")


if __name__ == "__main__":
    main()
