"""Papers from arXiv: its search API (Atom), its OAI-PMH interface, and its snapshot of all metadata (JSON lines)."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from paperworks.feed.entry import Entry, MalformedEntry, moment
from paperworks.feed.ingest.http import PoliteClient, SourceError
from paperworks.feed.ingest.source import BATCH, Batch

_ATOM = "{http://www.w3.org/2005/Atom}"
_API = "{http://arxiv.org/schemas/atom}"
_OPENSEARCH = "{http://a9.com/-/spec/opensearch/1.1/}"
_OAI = "{http://www.openarchives.org/OAI/2.0/}"
_META = "{http://arxiv.org/OAI/arXiv/}"
_CATEGORY = re.compile(r"[a-z-]+(\.[A-Za-z-]{2,})?")


def parse_xml(document: bytes, url: str) -> Element:
    """Return the root of an XML document, which may not declare entities.

    Raises
    ------
    SourceError
        For anything else.
    """
    try:
        return ElementTree.fromstring(document, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise SourceError(f"{url}: not the XML it should be: {error or type(error).__name__}") from None


def _check_category(category: str) -> str:
    if not _CATEGORY.fullmatch(category):
        raise ValueError(f"category is {category[:40]!r}; it takes one such as 'cs' or 'cs.LG'")
    return category


@dataclass
class ArxivApi:
    """New papers of a category from arXiv's search API, newest first, until what the last ingest saw.

    Parameters
    ----------
    category
        Such as ``cs.LG``.
    since
        The day of submission to begin with at the first ingest; by default a week ago.
    url, page, client
        Where, how many papers a request, and with which client.

    Raises
    ------
    ValueError
        For something else than a category.
    """

    category: str
    since: date | None = None
    url: str = "https://export.arxiv.org/api/query"
    page: int = 200
    client: PoliteClient = field(default_factory=PoliteClient)

    def __post_init__(self) -> None:
        _check_category(self.category)
        self.name = f"arxiv-api:{self.category}"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give the papers since the last ingest, oldest first, so that one that is stopped leaves no gap."""
        since = self.since or datetime.now(UTC).date() - timedelta(days=7)
        begin = state.get("until") or since.strftime("%Y%m%d0000")
        end = datetime.now(UTC).strftime("%Y%m%d%H%M")
        start, last = 0, begin
        while True:
            parameters = {
                "search_query": f"cat:{self.category} AND submittedDate:[{begin} TO {end}]",
                "sortBy": "submittedDate",
                "sortOrder": "ascending",
                "start": start,
                "max_results": self.page,
            }
            document, _ = self.client.get(self.url, parameters)
            root = parse_xml(document or b"", self.url)
            found = root.findall(f"{_ATOM}entry")
            batch = Batch()
            for number, element in enumerate(found, start):
                batch.take(f"{self.name} {number}", element, read_atom)
            start += len(found)
            published = [entry.published for entry in batch.entries if entry.published]
            last = max([last, *(day.strftime("%Y%m%d%H%M") for day in published)])
            total = int(root.findtext(f"{_OPENSEARCH}totalResults") or 0)
            finished = not found or start >= total
            batch.state = {"until": last if not finished else max(last, begin)}
            yield batch
            if finished:
                return


def read_atom(element: Element) -> Entry:
    """Return the paper of an entry of arXiv's search API.

    Raises
    ------
    MalformedEntry
        For one that isn't a paper, such as the API's report of an error.
    """
    address = element.findtext(f"{_ATOM}id") or ""
    if "/api/errors" in address:
        raise MalformedEntry(element.findtext(f"{_ATOM}summary") or "an error without a message")
    names = (author.findtext(f"{_ATOM}name") or "" for author in element.findall(f"{_ATOM}author"))
    return Entry(
        title=element.findtext(f"{_ATOM}title") or "",
        arxiv_id=address,
        doi=_first_doi(element.findtext(f"{_API}doi") or ""),
        authors=tuple(names),
        abstract=element.findtext(f"{_ATOM}summary") or "",
        categories=tuple(c.get("term", "") for c in element.findall(f"{_ATOM}category")),
        published=moment(element.findtext(f"{_ATOM}published") or ""),
        updated=moment(element.findtext(f"{_ATOM}updated") or ""),
    )


@dataclass
class ArxivOai:
    """All papers of a set from arXiv's OAI-PMH interface that changed since the last ingest.

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
                parameters |= {"metadataPrefix": "arXiv", "set": self.set, **({"from": begin} if begin else {})}
            document, _ = self.client.get(self.url, parameters)
            root = parse_xml(document or b"", self.url)
            problem = root.find(f"{_OAI}error")
            if problem is not None:
                if problem.get("code") == "badResumptionToken" and token:  # it expired: this part begins anew
                    token = ""
                    continue
                if problem.get("code") != "noRecordsMatch":
                    raise SourceError(f"{self.url}: {problem.get('code')}: {problem.text}")
            batch = Batch()
            for record in root.iter(f"{_OAI}record"):
                header = record.find(f"{_OAI}header")
                if header is None or header.get("status") != "deleted":
                    batch.take(record.findtext(f"{_OAI}header/{_OAI}identifier") or self.name, record, read_oai)
            token = (root.findtext(f".//{_OAI}resumptionToken") or "").strip()
            batch.state = {"token": token, "from": begin, "started": started} if token else {"from": started}
            yield batch
            if not token:
                return


def read_oai(record: Element) -> Entry:
    """Return the paper of an OAI-PMH record in the format arXiv.

    Raises
    ------
    MalformedEntry
        For a record without it.
    """
    meta = record.find(f".//{_META}arXiv")
    if meta is None:
        raise MalformedEntry("metadata in the format arXiv are missing")
    names = (
        f"{author.findtext(f'{_META}forenames') or ''} {author.findtext(f'{_META}keyname') or ''}"
        for author in meta.iter(f"{_META}author")
    )
    created = moment(meta.findtext(f"{_META}created") or "")
    updated = meta.findtext(f"{_META}updated")
    return Entry(
        title=meta.findtext(f"{_META}title") or "",
        arxiv_id=meta.findtext(f"{_META}id") or "",
        doi=_first_doi(meta.findtext(f"{_META}doi") or ""),
        authors=tuple(names),
        abstract=meta.findtext(f"{_META}abstract") or "",
        categories=tuple((meta.findtext(f"{_META}categories") or "").split()),
        published=created,
        updated=moment(updated) if updated else created,
    )


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
    versions = data.get("versions") or []
    if parsed := data.get("authors_parsed"):
        names = [" ".join(part for part in (*name[1:2], *name[:1], *name[2:3]) if part) for name in parsed]
    else:
        names = re.split(r",\s+(?:and\s+)?|\s+and\s+", data.get("authors") or "")
    published = parsedate_to_datetime(versions[0]["created"]) if versions else moment(data["update_date"])
    return Entry(
        title=data["title"],
        arxiv_id=data["id"],
        version=len(versions),
        doi=_first_doi(data.get("doi") or ""),
        authors=tuple(names),
        abstract=data.get("abstract") or "",
        categories=tuple((data.get("categories") or "").split()),
        published=published,
        updated=moment(data["update_date"]) if data.get("update_date") else published,
    )


def _first_doi(text: str) -> str:
    """Return the first DOI of a field that authors fill as they like, or nothing."""
    found = re.search(r"10\.\d{4,9}/[^\s,;]+", text)
    return found[0] if found else ""
