"""Papers from arXiv's search API (Atom)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from paperworks.feed.entry import Entry, MalformedEntry, moment, parse_arxiv_id
from paperworks.feed.ingest.http import PoliteClient, SourceError
from paperworks.feed.ingest.names import doi_of
from paperworks.feed.ingest.source import Batch
from paperworks.feed.latex import without_accents

ATOM = "{http://www.w3.org/2005/Atom}"
_API = "{http://arxiv.org/schemas/atom}"
_OPENSEARCH = "{http://a9.com/-/spec/opensearch/1.1/}"
_CATEGORY = re.compile(r"[a-z-]+(\.[A-Za-z-]{2,})?")
LATE = timedelta(days=14)
"""Papers are announced up to so long after the date that they bear, so that these days are asked for again."""
_DISORDER = timedelta(days=1)
_WITHDRAWN = re.compile(
    r"^\W*withdrawn\b(?!\s+from\s+(?!arxiv))"
    r"|\b(?:article|draft|e-?print|letter|manuscript|note|paper|preprint|report|submission|thesis|version|work)\s+"
    r"(?:is|was|has\s+been|have\s+been)\s+(?:\w+\s+)?withdrawn\b(?!\s+from\s+(?!arxiv))",
    re.IGNORECASE,
)


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


def is_withdrawn(comment: str, abstract: str) -> bool:
    """Return whether a paper's authors or arXiv say that it is withdrawn.

    Examples
    --------
    >>> is_withdrawn("This paper has been withdrawn by the author due to an error", "")
    True
    >>> is_withdrawn("12 pages; the paper was withdrawn from ICML", "We study withdrawn drugs.")
    False
    """
    begins = abstract[:200].strip()
    if "withdrawn" not in (comment + begins).lower():
        return False
    return bool(_WITHDRAWN.search(comment) or _WITHDRAWN.match(re.sub(r"(?i)^\W*(?:this|the)\s+", "", begins)))


@dataclass
class ArxivApi:
    """Papers of a category that are new or changed, from arXiv's search API.

    The list is read from the last change back to where the last ingest began, and two weeks farther, as papers are
    announced after the date that they bear. A list that breaks off goes on from there the next time. The API gives a
    list's first ten thousands only: for more, there is `ArxivOai`.

    Parameters
    ----------
    category
        Such as ``cs.LG``.
    since
        The day of the last change to begin with at the first ingest; by default a week ago.
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
        if not _CATEGORY.fullmatch(self.category):
            raise ValueError(f"category is {self.category[:40]!r}; it takes one such as 'cs' or 'cs.LG'")
        self.name = f"arxiv-api:{self.category}"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give the papers that changed, the last first.

        The state has the last change that an ingest saw to the end (`until`). While one is under way, it has the change
        that it began with (`top`) and how many papers it read (`read`), besides.
        """
        until = state.get("until", "")
        since = datetime.combine(self.since or datetime.now(UTC).date() - timedelta(days=7), datetime.min.time(), UTC)
        end = moment(until) - LATE if until else since
        read, old_top = state.get("read", 0), state.get("top", "")
        start, top = 0, ""
        while True:
            found, total = self._page(start)
            batch = Batch()
            for number, element in enumerate(found, start):
                batch.take(f"{self.name} {number}", element, read_atom)
            start += len(found)
            changes = [entry.updated for entry in batch.entries if entry.updated]
            if any(later - earlier > _DISORDER for earlier, later in pairwise(changes)):
                raise SourceError(f"{self.url}: papers aren't in the order of their changes, as was asked for")
            top = top or (changes[0].isoformat() if changes else "")
            finished = start >= total or bool(changes and changes[-1] < end)
            if not finished and old_top and changes and changes[-1] <= moment(old_top):
                start, old_top = max(start, read - self.page), ""  # what follows was read before it broke off
            kept = {"until": until} if until else {}
            if finished:
                batch.state = {"until": max(top, until)} if top or until else {}
            elif old_top:  # still among what is newer than what was read then
                batch.state = state
            else:
                batch.state = {**kept, "top": top, "read": start}
            yield batch
            if finished:
                return

    def _page(self, start: int) -> tuple[list[Element], int]:
        """Return the entries from one on, and how many there are in all; a page that is empty too early is asked anew.

        arXiv's API is known to give empty pages in the middle of a list.
        """
        parameters = {
            "search_query": f"cat:{self.category}",
            "sortBy": "lastUpdatedDate",
            "sortOrder": "descending",
            "start": start,
            "max_results": self.page,
        }
        for _ in range(self.client.attempts):
            document, _ = self.client.get(self.url, parameters)
            root = parse_xml(document or b"", self.url)
            said = (root.findtext(f"{_OPENSEARCH}totalResults") or "0").strip()
            total = int(said) if said.isdecimal() else 0
            found = root.findall(f"{ATOM}entry")
            if found or start >= total:
                return found, total
        raise SourceError(f"{self.url}: it gives nothing after {start} of {total} papers")


def read_atom(element: Element) -> Entry:
    """Return the paper of an entry of arXiv's search API.

    Raises
    ------
    MalformedEntry
        For one that isn't a paper, such as the API's report of an error.
    """
    get = lambda name: element.findtext(name) or ""  # noqa: E731
    address = get(f"{ATOM}id")
    if "/api/errors" in address:
        raise MalformedEntry(get(f"{ATOM}summary") or "an error without a message")
    _, version = parse_arxiv_id(address)
    published, updated = moment(get(f"{ATOM}published")), moment(get(f"{ATOM}updated"))
    names = (author.findtext(f"{ATOM}name") or "" for author in element.findall(f"{ATOM}author"))
    first = [primary.get("term", "") for primary in element.findall(f"{_API}primary_category")]
    comment, abstract = get(f"{_API}comment"), get(f"{ATOM}summary")
    return Entry(
        title=without_accents(get(f"{ATOM}title")),
        arxiv_id=address,
        doi=doi_of(get(f"{_API}doi")),
        authors=tuple(map(without_accents, names)),
        abstract=without_accents(abstract),
        categories=tuple(dict.fromkeys([*first, *(c.get("term", "") for c in element.findall(f"{ATOM}category"))])),
        published=published,
        updated=updated,
        comment=comment,
        journal_ref=get(f"{_API}journal_ref"),
        withdrawn=is_withdrawn(comment, abstract),
        versions={1: published} | ({version: updated} if version > 1 else {}),
    )
