"""Papers of arXiv's snapshot of all metadata (JSON lines)."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from paperworks.feed.entry import Entry, MalformedEntry, moment
from paperworks.feed.ingest.arxiv import is_withdrawn
from paperworks.feed.ingest.names import doi_of, people, split_authors
from paperworks.feed.ingest.source import BATCH, Batch
from paperworks.feed.latex import without_accents


@dataclass
class ArxivSnapshot:
    """All papers of arXiv's metadata snapshot, a file of JSON lines, plain or compressed by gzip.

    Parameters
    ----------
    path
        The file, which is read as a stream.

    Raises
    ------
    OSError
        From the ingest, where it can't be read.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path = Path(self.path).resolve()
        self.name = f"arxiv-snapshot:{self.path}"[:200]

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give the file's lines after the offset that the last ingest of the same file came to."""
        size = self.path.stat().st_size
        with self._open() as lines:
            line = 0
            if state.get("size") == size:
                lines.seek(state["offset"])
                line = state["line"]
            batch, count = Batch(), 0
            for text in lines:
                line += 1
                if text.strip():
                    batch.take(f"line {line}", text, read_snapshot_line)
                    count += 1
                if count == BATCH:
                    batch.state = {"size": size, "offset": lines.tell(), "line": line}
                    yield batch
                    batch, count = Batch(), 0
            batch.state = {"size": size, "offset": lines.tell(), "line": line}
            yield batch

    def _open(self) -> "_Lines":
        return _Lines(gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb"))


class _Lines:
    """A file read line by line, which knows where it is: the built-in one doesn't while it is iterated."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._offset = 0

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self._offset += len(line)
            yield line

    def seek(self, offset: int) -> None:
        self._file.seek(offset)
        self._offset = offset

    def tell(self) -> int:
        return self._offset


def read_snapshot_line(line: bytes) -> Entry:
    """Return the paper of a line of arXiv's metadata snapshot.

    Raises
    ------
    MalformedEntry
        For anything else.
    """
    try:
        data = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEntry(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise MalformedEntry("not a JSON object")
    versions = {
        int(version["version"].lstrip("v")): parsedate_to_datetime(version["created"])
        for version in data.get("versions") or ()
    }
    if parsed := data.get("authors_parsed"):
        names = [" ".join(part for part in (*name[1:2], *name[:1], *name[2:3]) if part) for name in parsed]
        authors = people(map(without_accents, names))
    else:
        authors = split_authors(data.get("authors") or "")
    published = versions[min(versions)] if versions else moment(data["update_date"])
    updated = versions[max(versions)] if versions else published
    comment, abstract = data.get("comments") or "", data.get("abstract") or ""
    return Entry(
        title=without_accents(data["title"]),
        arxiv_id=data["id"],
        version=max(versions, default=0),
        doi=doi_of(data.get("doi") or ""),
        authors=authors,
        abstract=without_accents(abstract),
        categories=tuple((data.get("categories") or "").split()),
        published=published,
        updated=updated,
        comment=comment,
        journal_ref=data.get("journal-ref") or "",
        withdrawn=is_withdrawn(comment, abstract),
        versions=versions,
    )
