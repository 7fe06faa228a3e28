"""Where a measurement came from: code, versions, machine."""

import ast
import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from paperworks.core.code import PACKAGE

_INSTALLERS = ("pip", "setuptools", "wheel")  # some libraries import them, and none computes with them


def checkout() -> Path | None:
    """Return the checkout that the package runs from, or None where it was installed."""
    root = PACKAGE.parents[1]
    try:
        project = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return root if 'name = "paperworks"' in project else None


def revision_of(files: Iterable[Path]) -> str:
    """Return the commit of the checkout, marked `+dirty` where one of the files differs from it."""
    root = checkout()
    if root is None:
        return ""
    inside = [str(path) for path in files if path.resolve().is_relative_to(root.resolve())]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+dirty" if inside and _git(root, "status", "--porcelain", "--", *inside) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def code_changed(folder: Path, revision: str) -> bool:
    """Tell whether modules in a folder have other code than at a commit, comments and docstrings apart.

    Where that can't be known – outside a checkout, or of a measurement without a commit – they count as the same.
    """
    root = checkout()
    if root is None or not revision or not folder.resolve().is_relative_to(root.resolve()):
        return False
    commit = revision.partition("+")[0]
    for path in sorted(folder.glob("*.py")):
        if path.name == "usage.py":
            continue
        try:
            then = _git(root, "show", f"{commit}:./{path.resolve().relative_to(root.resolve()).as_posix()}")
        except (OSError, subprocess.SubprocessError):
            return True  # a new module, or a commit that is gone
        if _bare(then) != _bare(path.read_text(encoding="utf-8")):
            return True
    return False


def _bare(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)


@functools.cache
def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, empty where it isn't installed."""
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def changed_versions(measured: Mapping[str, str]) -> list[str]:
    """Say which libraries have another major or minor version here than when something was measured.

    Libraries that are not installed here are left out, and so are what installs them and this package, whose code has
    a digest.

    Examples
    --------
    >>> changed_versions({"numpy": "0.9.1", "a-package-of-nobody": "1.0"})[0].startswith("numpy 0.9 → ")
    True
    """
    changed = []
    for name, before in sorted(measured.items()):
        now = version_of(name) if name.lower() not in ("paperworks", *_INSTALLERS) else ""
        if now and _minor(now) != _minor(before):
            changed.append(f"{name} {_minor(before)} → {_minor(now)}")
    return changed


def imported_distributions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package and of the distributions that hold the top-level modules of these names."""
    owners = _owners()
    names = {"paperworks", *(owner for module in modules for owner in owners.get(module, ()))}
    return {name: version for name in sorted(names, key=str.lower) if (version := version_of(name))}


def top_level_modules() -> list[str]:
    """List the top-level modules imported so far that don't belong to Python itself."""
    found = {name.partition(".")[0] for name in sys.modules}
    return sorted(name for name in found if name not in sys.stdlib_module_names and not name.startswith("__"))


def loaded_blas() -> list[str]:
    """Describe the libraries of linear algebra that are loaded."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    found = [
        f"{info['internal_api']} {info.get('version') or '?'} {info.get('architecture') or ''}".strip()
        for info in threadpool_info()
        if info.get("user_api") == "blas"
    ]
    return sorted(set(found))


def python() -> str:
    """Name the interpreter and its version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


@functools.cache
def lock() -> str:
    """Digest the files that pin the versions of the environment, empty outside a checkout."""
    root = checkout()
    files = sorted(root.glob("locks/*.txt")) if root else []
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()[:16] if files else ""


@functools.cache
def machine() -> dict[str, str | int]:
    """Describe this machine: the model of its processor, its cores, its system."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


@functools.cache
def package_digest() -> str:
    """Digest all sources of this package, by which a run and a worker on another machine compare themselves."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def without_paths(text: str, *folders: Path) -> str:
    """Shorten the paths of an error to what says something on another machine."""
    for folder in (*folders, PACKAGE.parent, Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))):
        text = text.replace(f"{folder}{os.sep}", "")
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])


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
