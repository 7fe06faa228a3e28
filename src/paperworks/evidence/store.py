"""The evidence of a paper on disk: a history of entries, one JSON object a line, and the figures of the newest."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from paperworks.core.code import PACKAGE
from paperworks.evidence import notebook
from paperworks.evidence.entry import Entry, Kind, plain
from paperworks.evidence.errors import EvidenceError, UsageError
from paperworks.evidence.files import write_atomically
from paperworks.evidence.provenance import checkout
from paperworks.evidence.record import SCALES, Paper, Scale

SCHEMA = 2
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Evidence:
    """The stored entries of one paper, oldest first, and the folder that its figures are in.

    `problem` says in one line why the history, or a part of it, can't be read; it is empty where all is well.

    Parameters
    ----------
    slug
        Name of the paper.
    entries
        What is stored, the oldest first.
    folder
        Folder that the figures are in.
    problem
        Why the history, or a part of it, can't be read, in one line; empty where all is well.
    """

    slug: str
    entries: tuple[Entry, ...] = ()
    folder: Path = field(default_factory=Path)
    problem: str = ""

    def newest(self, kind: Kind, id: str, scale: Scale | None = None) -> Entry | None:
        """Return the newest entry with values, at `scale` or else the largest there is; without any, the newest.

        Parameters
        ----------
        kind
            Whether a claim or a race is asked for.
        id
            Name of the claim or peer.
        scale
            Scale of the entry, by default the largest there is.

        Returns
        -------
        Entry | None
            The entry, or None where there is none of that claim or race.
        """
        of_item = self._of(kind, id, scale)
        measured = [entry for entry in of_item if entry.measured]
        if scale is None and measured:
            largest = max(measured, key=lambda entry: SCALES.index(entry.scale)).scale
            measured = [entry for entry in measured if entry.scale == largest]
        found = measured or of_item
        return found[-1] if found else None

    def newest_failure(self, kind: Kind, id: str, scale: Scale | None = None) -> Entry | None:
        """Return the newest entry without values, where it is newer than what `newest` returns.

        Parameters
        ----------
        kind
            Whether a claim or a race is asked for.
        id
            Name of the claim or peer.
        scale
            Scale of the entry, by default any.

        Returns
        -------
        Entry | None
            The failed entry, or None where nothing failed since.
        """
        shown, of_item = self.newest(kind, id, scale), self._of(kind, id, scale)
        if shown is None or not shown.measured:
            return None
        later = of_item[next(i for i, entry in enumerate(of_item) if entry is shown) + 1 :]
        failures = [entry for entry in later if not entry.measured]
        return failures[-1] if failures else None

    def _repr_html_(self) -> str:
        rows = [
            (e.id, e.kind, e.scale, e.outcome, e.provenance.date, e.provenance.revision, len(e.seeds))
            for e in reversed(self.entries)
        ]
        columns = ("id", "kind", "scale", "outcome", "date", "revision", "seeds")
        return notebook.lines(self.problem, notebook.table(f"Evidence of {self.slug}", columns, rows))

    def figure_paths(self, entry: Entry) -> list[Path]:
        """Return where the entry's figures are.

        Returns
        -------
        list[Path]
            Paths of the entry's figures in the evidence's folder.
        """
        return [self.folder / figure for figure in entry.figures]

    def _of(self, kind: Kind, id: str, scale: Scale | None) -> list[Entry]:
        return [e for e in self.entries if e.kind == kind and e.id == id and scale in (None, e.scale)]


def committed_folder() -> Path:
    """Return where the evidence is that the project vouches for: the checkout's, else what came with the package.

    Returns
    -------
    Path
        Folder with one subfolder for each paper.
    """
    root = checkout()
    return root / "evidence" if root else PACKAGE / "_evidence"


def own_folder() -> Path:
    """Return where a person's own evidence is kept: `$PAPERWORKS_EVIDENCE`, or a folder of their data.

    Returns
    -------
    Path
        Folder with one subfolder for each paper, which need not exist yet.
    """
    if chosen := os.environ.get("PAPERWORKS_EVIDENCE"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("paperworks")) / "evidence"


def read_evidence(slug: str, folder: Path | None = None) -> Evidence:
    """Read a paper's history, the committed one by default; empty where there is none.

    What can't be read is left out, and `problem` of what is returned says why.

    Parameters
    ----------
    slug
        Name of the paper.
    folder
        Folder with one subfolder for each paper, by default the committed one.

    Returns
    -------
    Evidence
        The entries that could be read, and what could not.
    """
    folder = committed_folder() if folder is None else folder
    path = folder / slug / HISTORY
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return Evidence(slug, folder=folder)
    except (OSError, UnicodeDecodeError) as error:
        return Evidence(slug, folder=folder, problem=f"{path}: can't be read: {error}")
    entries, problem = [], ""
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_entry(line))
        except EvidenceError as error:
            problem = f"{path}, line {number}: {error}"
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"{path}, line {number}: malformed, left out: {' '.join(repr(error).split())[:200]}"
    return Evidence(slug, tuple(entries), folder, problem)


def evidence_of(paper: Paper, folder: Path | None = None) -> tuple[Evidence, Evidence | None]:
    """Return the evidence that a paper is shown by, and a person's own to show beside it.

    That is the committed evidence; for a paper of somebody else's, which none is committed of here, one's own.
    With `folder` it is the evidence there, and nothing beside it.
    """
    if folder is not None:
        return read_evidence(paper.slug, folder), None
    own = read_evidence(paper.slug, own_folder())
    return (own, None) if paper.origin else (read_evidence(paper.slug), own)


def check_writable(folder: Path) -> None:
    """Raise UsageError unless evidence can be written to `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"evidence can't be written to {folder}: {error.strerror}; choose another folder") from None


def add_entry(slug: str, folder: Path, entry: Entry, figures: Mapping[str, bytes] | None = None) -> Entry:
    """Add an entry to a paper's history, with its figure's content by suffix; any number of processes may do so.

    An earlier entry goes if it has the same key, or if it has no values and this one has none either. Figures are
    kept of the newest measurement of each claim and scale. Nothing that was measured goes for an entry without values.

    Returns
    -------
    Entry
        With the paths of its figures.

    Raises
    ------
    EvidenceError
        Where the history that is there can't be read; it is left as it is.
    OSError
        Where the disk is full or the folder can't be written; the history is as it was.
    """
    from filelock import FileLock

    home = folder / slug
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        before = read_evidence(slug, folder)
        if before.problem:
            raise EvidenceError(f"{before.problem}; move the file away or restore it")
        stem = f"{'race-' if entry.kind == 'peer' else ''}{entry.id}.{entry.scale}"
        names = {f"{slug}/{stem}{suffix}": content for suffix, content in sorted((figures or {}).items())}
        for name, content in names.items():
            write_atomically(folder / name, content)
        entry = replace(entry, figures=entry.figures or tuple(names))
        kept = [_without_figures(old, entry) for old in before.entries if not _replaced(old, entry)]
        write_atomically(home / HISTORY, b"".join(map(_line, [*kept, entry])))
        still_shown = {figure for e in [*kept, entry] for figure in e.figures}
        for figure in {figure for e in before.entries for figure in e.figures} - still_shown:
            (folder / figure).unlink(missing_ok=True)
    return entry


def _replaced(old: Entry, new: Entry) -> bool:
    if old.key == new.key:
        return True
    return not old.measured and not new.measured and (old.kind, old.id, old.scale) == (new.kind, new.id, new.scale)


def _without_figures(old: Entry, new: Entry) -> Entry:
    same = (old.kind, old.id, old.scale) == (new.kind, new.id, new.scale)
    return replace(old, figures=(), recordings=()) if same and new.measured and old.figures else old


def _line(entry: Entry) -> bytes:
    data = {"schema": SCHEMA, **plain(entry.to_json())}
    return (json.dumps(data, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _entry(line: str) -> Entry:
    data = json.loads(line)
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise EvidenceError(f"written by a newer paperworks (schema {schema}, this one reads {SCHEMA})")
    if schema != SCHEMA:
        raise EvidenceError(f"not evidence of schema {SCHEMA}")
    return Entry.from_json(data)
