"""Where a measurement came from: sources, versions, machine, code revision."""

import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1]
_PACKAGES = ("torch", "numpy", "scipy", "paperworks")
_MACHINERY = ("evidence", "cli", "feed", "web")


def checkout() -> Path | None:
    """Return the checkout that the package runs from, or None where it was installed."""
    root = PACKAGE.parents[1]
    try:
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return root if 'name = "paperworks"' in project else None


def loaded_sources(modules: Mapping[str, ModuleType]) -> list[str]:
    """List the source files, relative to the package, of the methods, testbeds and core modules among `modules`.

    The package itself and its first-level packages are left out: they only re-export, and would
    make every paper's evidence stale when a method is added beside the one it measures.
    """
    found = set()
    for name, module in modules.items():
        parts = name.split(".")
        if parts[0] != "paperworks" or len(parts) < 3 or parts[1] in _MACHINERY:
            continue
        if file := getattr(module, "__file__", None):
            found.add(Path(file).relative_to(PACKAGE).as_posix())
    return sorted(found)


def digest_of(folder: Path, sources: Iterable[str]) -> str:
    """Digest the paper's `claims.py` and the sources; empty where one of them can't be read."""
    digest = hashlib.sha256()
    for path in [folder / "claims.py", *(PACKAGE / source for source in sorted(sources))]:
        try:
            content = path.read_bytes()
        except OSError:
            return ""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def revision_of(folder: Path, sources: Iterable[str]) -> str:
    """Return the commit of the checkout, marked `+dirty` where `claims.py` or one of the sources differs from it."""
    root = checkout()
    if root is None:
        return ""
    paths = [folder / "claims.py", *(PACKAGE / source for source in sources)]
    inside = [str(path) for path in paths if path.resolve().is_relative_to(root.resolve())]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+dirty" if inside and _git(root, "status", "--porcelain", "--", *inside) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def versions_of(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of the packages that every measurement stands on, and of `packages`, as far as installed."""
    found = {}
    for package in (*_PACKAGES, *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    return found


@functools.cache
def machine() -> dict[str, str | int]:
    """Describe this machine: the model of its processor, its cores, its system."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def without_paths(text: str, *folders: Path) -> str:
    """Shorten the paths of an error to what says something on another machine."""
    for folder in (*folders, PACKAGE.parent, Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))):
        text = text.replace(f"{folder}{os.sep}", "")
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()
