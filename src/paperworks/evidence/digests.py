"""The digests of what each claim can reach, kept between processes as long as no source changes."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from paperworks.core.cache import cache_root
from paperworks.core.code import PACKAGE, Code
from paperworks.evidence.files import write_atomically
from paperworks.evidence.spec import claims_module, portable_folder

_KEPT = 8  # states of the sources whose digests are kept


class Reached(NamedTuple):
    """What a claim's function can reach: the digest, and the files; both empty where there is no such function."""

    digest: str = ""
    files: tuple[Path, ...] = ()


Digests = dict[tuple[str, str, str], Reached]  # by folder of the paper, kind and id


def reached(folder: Path, kind: str, id: str) -> Reached:
    """Return what the function of a claim or peer of the paper in `folder` can reach, as the sources are now."""
    ours = folder.is_relative_to(_PAPERS)
    if not ours:
        folder = folder.resolve()
        ours = folder.is_relative_to(_PAPERS)
    place = _PAPERS if ours else folder
    seen = _seen.get()
    digests = seen.get(place) if seen is not None else None
    if digests is None:
        digests = _digests(place)
        if seen is not None:
            seen[place] = digests
    return digests.get((str(folder), kind, id), Reached())


def _digests(place: Path) -> Digests:
    """Return the digests of all papers of this package, or of one of somebody else's."""
    packages: tuple[tuple[str, Path], ...] = (("paperworks", _ROOT),)
    if place == _PAPERS:
        folders = tuple(sorted(path.parent for path in _PAPERS.glob("*/claims.py")))
    else:
        top = _outermost(place)
        packages, folders = (*packages, (top.name, top)), (place,)
    stamps = [stamp for _, root in packages for stamp in _stamps(root)]
    key = hashlib.sha256("\n".join([*map(str, folders), *stamps]).encode()).hexdigest()[:24]
    return _kept(packages, folders, key)


@functools.lru_cache(maxsize=32)
def _kept(packages: tuple[tuple[str, Path], ...], folders: tuple[Path, ...], key: str) -> Digests:
    path = cache_root() / "digests" / f"{packages[-1][0]}-{key}.json"
    try:
        files, rows = json.loads(path.read_text(encoding="utf-8"))
        paths = [Path(name) for name in files]
        return {(f, kind, id): Reached(digest, tuple(paths[i] for i in at)) for f, kind, id, digest, at in rows}
    except (OSError, ValueError, TypeError, IndexError):
        pass
    found = _analyse(Code(dict(packages)), folders)
    places = {path: number for number, path in enumerate(sorted({p for r in found.values() for p in r.files}))}
    rows = [[*name, r.digest, [places[p] for p in r.files]] for name, r in found.items()]
    try:
        write_atomically(path, json.dumps([[str(p) for p in places], rows]).encode())
        older = sorted(path.parent.glob(f"{packages[-1][0]}-*.json"), key=lambda p: p.stat().st_mtime)
        for old in older[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass  # a full disk, or a folder that can't be written, costs time and nothing else
    return found


def _analyse(code: Code, folders: tuple[Path, ...]) -> Digests:
    found: Digests = {}
    for folder in folders:
        module = claims_module(portable_folder(folder))
        for kind, id in code.tasks(module):
            if reach := code.reach_task(module, kind, id):
                found[str(folder), kind, id] = Reached(reach.digest, reach.files)
    return found


def _outermost(folder: Path) -> Path:
    """Return the package that somebody else's paper stands in: the outermost folder around it that is one."""
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


@contextmanager
def unchanging() -> Iterator[None]:
    """Look at the sources once for all digests that are asked for within, however many they are."""
    token = _seen.set({} if _seen.get() is None else _seen.get())
    try:
        yield
    finally:
        _seen.reset(token)


_ROOT = PACKAGE.resolve()
_PAPERS = _ROOT / "papers"
_seen: ContextVar[dict[Path, Digests] | None] = ContextVar("seen", default=None)


def _stamps(root: Path) -> list[str]:
    """Describe the state of all sources below a folder by their sizes and times."""
    found: list[str] = []
    todo = [str(root)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.name.endswith(".py"):
                    state = entry.stat()
                    found.append(f"{entry.path} {state.st_size} {state.st_mtime_ns}")
    return sorted(found)
