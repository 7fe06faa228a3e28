"""What was read from many small files, kept in one file, so that listing papers costs little.

Everything in it is plain JSON and stands with the time and size of the file that it came from; what doesn't fit, or
can't be read, is read from the files again.
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

_FORM = 1  # of the file; of another one nothing is taken


class _Cache:
    def __init__(self) -> None:
        self.path: Path | None = None
        self.data: dict[str, Any] = {}
        self.changed = False

    def open(self) -> dict[str, Any]:
        from paperworks.core.cache import cache_root

        path = cache_root() / "records.json"
        if path != self.path:
            try:
                data = json.loads(path.read_bytes())
            except (OSError, ValueError):
                data = {}
            fits = isinstance(data, dict) and data.get("form") == _FORM
            sound = fits and all(isinstance(data.get(key), dict) for key in ("records", "entry points"))
            self.data = data if sound else {"form": _FORM, "records": {}, "entry points": {}}
            self.path = path  # last, as other threads then take the data
        return self.data

    def save(self) -> None:
        """Write the file where something in it changed; a cache that can't be written is none."""
        if not self.changed or self.path is None:
            return
        from paperworks.evidence.files import write_atomically

        self.changed = False
        records = self.data["records"]
        self.data["records"] = {path: kept for path, kept in list(records.items()) if os.path.exists(path)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(self.data).encode())
        except (OSError, TypeError):
            return


_CACHE = _Cache()
save = _CACHE.save


def toml(path: Path) -> dict[str, Any]:
    """Return what stands in a file of TOML.

    Raises
    ------
    OSError
        Where it can't be read.
    tomllib.TOMLDecodeError, UnicodeDecodeError
        Where it isn't TOML.
    """
    records = _CACHE.open()["records"]
    now = path.stat()
    stamp = [now.st_mtime_ns, now.st_size]
    known = records.get(str(path))
    if isinstance(known, list) and len(known) == 2 and known[0] == stamp and isinstance(known[1], dict):
        return known[1]
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    records[str(path)] = [stamp, data]
    _CACHE.changed = True
    return data


def entry_points(group: str) -> list[tuple[str, str]]:
    """Return the package and the value of each installed entry point of a group, in order of the packages.

    Looking through hundreds of installed packages costs more than all else that `list` does.
    """
    known = _CACHE.open()["entry points"]
    places = [[place, os.stat(place).st_mtime_ns] for place in sys.path if place and os.path.isdir(place)]
    if known.get("places") != places or not isinstance(known.get(group), list):
        import importlib.metadata

        found = importlib.metadata.entry_points(group=group)
        pairs = {(point.dist.name if point.dist else point.name, point.value) for point in found}
        _CACHE.data["entry points"] = known = {"places": places, group: [list(pair) for pair in sorted(pairs)]}
        _CACHE.changed = True
    return [(package, value) for package, value in known[group]]
