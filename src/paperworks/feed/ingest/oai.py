"""Papers from arXiv's OAI-PMH interface, and from files that it or the search API gave."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from paperworks.feed.entry import Entry, MalformedEntry, moment
from paperworks.feed.ingest.arxiv import ATOM, is_withdrawn, parse_xml, read_atom
from paperworks.feed.ingest.http import PoliteClient, SourceError
from paperworks.feed.ingest.names import doi_of, people, split_authors
from paperworks.feed.ingest.source import Batch, in_batches
from paperworks.feed.latex import without_accents

_OAI = "{http://www.openarchives.org/OAI/2.0/}"
_META = "{http://arxiv.org/OAI/arXiv/}"
_RAW = "{http://arxiv.org/OAI/arXivRaw/}"


@dataclass
class ArxivOai:
    """All papers of a set from arXiv's OAI-PMH interface that changed since the last ingest, with their versions.

    Parameters
    ----------
    set
        Such as ``cs`` or ``physics:hep-th``.
    since
        The day of change to begin with at the first ingest; by default the beginning.
    url, client
        Where, and with which client.

    Raises
    ------
    ValueError
        For something else than a set.
    """

    set: str
    since: date | None = None
    url: str = "https://oaipmh.arxiv.org/oai"
    client: PoliteClient = field(default_factory=PoliteClient)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z:.-]{1,60}", self.set):
            raise ValueError(f"set is {self.set[:40]!r}; it takes one such as 'cs' or 'physics:hep-th'")
        self.name = f"arxiv-oai:{self.set}"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give the changes page by page. A page's token is kept, so that a long harvest goes on where it stopped."""
        started = state.get("started") or datetime.now(UTC).date().isoformat()
        token = state.get("token", "")
        begin = state.get("from") or (self.since.isoformat() if self.since else "")
        while True:
            parameters = {"verb": "ListRecords"}
            if token:
                parameters["resumptionToken"] = token
            else:
                parameters |= {"metadataPrefix": "arXivRaw", "set": self.set, **({"from": begin} if begin else {})}
            root = self._page(parameters)
            problem = root.find(f"{_OAI}error")
            if problem is not None:
                if problem.get("code") == "badResumptionToken" and token:  # it expired: this part begins anew
                    token = ""
                    continue
                if problem.get("code") != "noRecordsMatch":
                    raise SourceError(f"{self.url}: {problem.get('code')}: {problem.text}")
            batch = Batch()
            for where, record in _records(root):
                batch.take(where or self.name, record, read_oai)
            token = (root.findtext(f".//{_OAI}resumptionToken") or "").strip()
            batch.state = {"token": token, "from": begin, "started": started} if token else {"from": started}
            yield batch
            if not token:
                return

    def _page(self, parameters: dict[str, str]) -> Element:
        """Return an answer; a list that ends before its size is asked for anew."""
        for _ in range(self.client.attempts):
            document, _ = self.client.get(self.url, parameters)
            root = parse_xml(document or b"", self.url)
            token = root.find(f".//{_OAI}resumptionToken")
            if token is None or (token.text or "").strip():
                return root
            size, cursor = token.get("completeListSize", ""), token.get("cursor", "")
            count = len(root.findall(f".//{_OAI}record"))
            if not (size.isdecimal() and cursor.isdecimal()) or int(cursor) + count >= int(size):
                return root
        raise SourceError(f"{self.url}: the list ends after {int(cursor) + count} of {size} papers")


@dataclass
class ArxivFile:
    """A file that arXiv's search API (Atom) or its OAI-PMH interface (formats arXiv and arXivRaw) gave.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    SourceError
        From the ingest, for a file of another kind.
    OSError
        From the ingest, where it can't be read.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.name = f"arxiv-file:{self.path.name}"[:200]

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give all papers of the file."""
        root = parse_xml(self.path.read_bytes(), str(self.path))
        if root.tag == f"{ATOM}feed":
            yield from in_batches(((f"entry {i}", e) for i, e in enumerate(root.findall(f"{ATOM}entry"), 1)), read_atom)
        elif root.tag == f"{_OAI}OAI-PMH":
            yield from in_batches(_records(root), read_oai)
        else:
            raise SourceError(f"{self.path}: its root is {root.tag!r}; it takes Atom or OAI-PMH of arXiv's")


def _records(root: Element) -> Iterator[tuple[str, Element]]:
    """Give the records that aren't deleted, each with its identifier."""
    for record in root.iter(f"{_OAI}record"):
        header = record.find(f"{_OAI}header")
        if header is None or header.get("status") != "deleted":
            yield record.findtext(f"{_OAI}header/{_OAI}identifier") or "record", record


def read_oai(record: Element) -> Entry:
    """Return the paper of an OAI-PMH record in the format arXiv or arXivRaw.

    Raises
    ------
    MalformedEntry
        For a record without them.
    """
    for space, name, read in ((_RAW, "arXivRaw", _read_raw), (_META, "arXiv", _read_structured)):
        if (meta := record.find(f".//{space}{name}")) is not None:
            return read(meta)
    raise MalformedEntry("metadata in the formats arXiv and arXivRaw are missing")


def _read_raw(meta: Element) -> Entry:
    get = lambda name: meta.findtext(f"{_RAW}{name}") or ""  # noqa: E731
    versions, last = {}, None
    for version in meta.findall(f"{_RAW}version"):
        number = int((version.get("version") or "").lstrip("v"))
        versions[number] = parsedate_to_datetime(version.findtext(f"{_RAW}date") or "").astimezone(UTC)
        last = version if number == max(versions) else last
    if last is None:
        raise MalformedEntry("it has no version")
    flags = last.findtext(f"{_RAW}source_type") or ""  # arXiv's "I": ignore, no paper is available
    return Entry(
        **_common(get),
        version=max(versions),
        authors=split_authors(get("authors")),
        published=versions[min(versions)],
        updated=versions[max(versions)],
        withdrawn="I" in flags or is_withdrawn(get("comments"), get("abstract")),
        versions=versions,
    )


def _read_structured(meta: Element) -> Entry:
    get = lambda name: meta.findtext(f"{_META}{name}") or ""  # noqa: E731
    parts = ("forenames", "keyname", "suffix")
    names = [
        " ".join(filter(None, (author.findtext(f"{_META}{part}") for part in parts)))
        for author in meta.iter(f"{_META}author")
    ]
    created = moment(get("created"))
    return Entry(
        **_common(get),
        authors=people(map(without_accents, names)),
        published=created,
        updated=moment(get("updated")) if get("updated") else created,
        withdrawn=is_withdrawn(get("comments"), get("abstract")),
    )


def _common(get: Any) -> dict[str, Any]:
    return {
        "title": without_accents(get("title")),
        "arxiv_id": get("id"),
        "doi": doi_of(get("doi")),
        "abstract": without_accents(get("abstract")),
        "categories": tuple(get("categories").split()),
        "comment": get("comments"),
        "journal_ref": get("journal-ref"),
    }
