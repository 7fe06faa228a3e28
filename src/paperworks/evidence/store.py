"""The evidence of a paper on disk: one JSON file, and its figures beside it."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paperworks.evidence.entry import Entry, EntryKey, Kind
from paperworks.evidence.errors import EvidenceError, UsageError
from paperworks.evidence.files import write_atomically
from paperworks.evidence.provenance import PACKAGE, checkout
from paperworks.evidence.record import SCALES, Scale

SCHEMA = 1
SHIPPED = PACKAGE / "_evidence"


@dataclass(frozen=True)
class Evidence:
    """The stored entries of one paper, each with the folder that its figures are in."""

    slug: str
    entries: Mapping[EntryKey, Entry] = field(default_factory=dict)
    folders: Mapping[EntryKey, Path] = field(default_factory=dict)

    def entry(self, kind: Kind, id: str, scale: Scale | None = None) -> Entry | None:
        """Return the entry at `scale`, by default at the largest scale that there is one for."""
        for candidate in [scale] if scale else reversed(SCALES):
            if found := self.entries.get(EntryKey(kind, id, candidate)):
                return found
        return None

    def figure_paths(self, entry: Entry) -> list[Path]:
        """Return where the entry's figures are."""
        return [self.folders[entry.key] / figure for figure in entry.figures]


def default_evidence_folder() -> Path:
    """Return where evidence is kept: `$PAPERWORKS_EVIDENCE`, the checkout's `evidence`, or the user's data folder."""
    if chosen := os.environ.get("PAPERWORKS_EVIDENCE"):
        return Path(chosen)
    if root := checkout():
        return root / "evidence"
    import platformdirs

    return Path(platformdirs.user_data_dir("paperworks")) / "evidence"


def read_evidence(slug: str, folder: Path | None = None) -> Evidence:
    """Read a paper's evidence; empty where there is none.

    Without `folder` it is read from the default one, and what is not there from the evidence that
    came with the package.

    Raises
    ------
    EvidenceError
        Where the file can't be read or was written by a newer version.
    """
    if folder is not None:
        return _read(slug, folder)
    own, shipped = _read(slug, default_evidence_folder()), _read(slug, SHIPPED)
    return Evidence(slug, {**shipped.entries, **own.entries}, {**shipped.folders, **own.folders})


def check_writable(folder: Path) -> None:
    """Raise UsageError unless evidence can be written to `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"evidence can't be written to {folder}: {error.strerror}; choose another folder") from None


def add_entry(slug: str, folder: Path, entry: Entry, figures: Mapping[str, bytes] | None = None) -> Entry:
    """Put an entry, with its figure's content by suffix, in the place of the one with the same key.

    Any number of processes may do so at once. Returns the entry with the paths of its figures.

    Raises
    ------
    EvidenceError
        Where the file that is there can't be read; it is left as it is.
    """
    from filelock import FileLock

    with FileLock(folder / ".lock"):
        entries = dict(_read(slug, folder).entries)
        stem = f"{'race-' if entry.kind == 'peer' else ''}{entry.id}.{entry.scale}"
        names = {f"{slug}/{stem}{suffix}": content for suffix, content in sorted((figures or {}).items())}
        for name, content in names.items():
            write_atomically(folder / name, content)
        before = entries.get(entry.key)
        entries[entry.key] = entry = replace(entry, figures=tuple(names))
        write_atomically(folder / f"{slug}.json", _dump(slug, list(entries.values())))
        for name in set(before.figures if before else ()) - set(names):
            (folder / name).unlink(missing_ok=True)
    return entry


def _read(slug: str, folder: Path) -> Evidence:
    path = folder / f"{slug}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Evidence(slug)
    except OSError as error:
        raise EvidenceError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise EvidenceError(f"{path}: not JSON: {error}; move it away or restore it") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise EvidenceError(f"{path}: written by a newer paperworks (schema {schema}, this one reads {SCHEMA})")
    if schema != SCHEMA or not isinstance(data.get("entries"), list):
        raise EvidenceError(f"{path}: not evidence of schema {SCHEMA}; move it away or restore it")
    try:
        entries = {entry.key: entry for entry in map(Entry.from_json, data["entries"])}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvidenceError(f"{path}: an entry is malformed: {error!r}; move it away or restore it") from None
    return Evidence(slug, entries, dict.fromkeys(entries, folder))


def _dump(slug: str, entries: Sequence[Entry]) -> bytes:
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "paper": slug,
        "entries": [entry.to_json() for entry in sorted(entries, key=lambda e: e.key)],
    }
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
