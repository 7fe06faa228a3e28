"""A paper on its way into the feed, and the names by which two sources' papers are known to be the same."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

_ARXIV = re.compile(
    r"(?:arxiv:|(?:https?://)?(?:www\.|export\.)?arxiv\.org/(?:abs|pdf|html)/|oai:arxiv\.org:|https?://doi\.org/10\.48550/arxiv\.)?"
    r"(\d{4}\.\d{4,5}|[a-z-]+(?:\.[a-z]{2})?/\d{7})(?:v(\d{1,3}))?(?:\.pdf)?",
    re.IGNORECASE,
)
_DOI = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
MAX_TITLE, MAX_AUTHORS, MAX_ABSTRACT = 1000, 20_000, 20_000


class MalformedEntry(ValueError):
    """A source's record that can't become a paper; the message says what is wrong with it."""


def parse_arxiv_id(text: str) -> tuple[str, int]:
    """Return an arXiv id and its version, 0 where none is given, from an id or a link.

    Raises
    ------
    MalformedEntry
        For anything else.

    Examples
    --------
    >>> parse_arxiv_id("https://arxiv.org/abs/2206.00927v3"), parse_arxiv_id("hep-th/9901001")
    (('2206.00927', 3), ('hep-th/9901001', 0))
    """
    found = _ARXIV.fullmatch(text.strip())
    if not found:
        raise MalformedEntry(f"arXiv id is {text[:80]!r}; it takes one such as 2206.00927v3 or hep-th/9901001")
    return found[1].lower(), int(found[2] or 0)


def parse_doi(text: str) -> str:
    """Return a DOI in lower case, from a DOI or a link to it.

    Raises
    ------
    MalformedEntry
        For anything else.

    Examples
    --------
    >>> parse_doi("https://doi.org/10.3390/MCA24020041")
    '10.3390/mca24020041'
    """
    found = _DOI.fullmatch(text.strip())
    if not found:
        raise MalformedEntry(f"DOI is {text[:80]!r}; it takes one such as 10.3390/mca24020041")
    return found[1].lower()


def title_key(title: str) -> str:
    """Return what is left of a title when case, accents, spaces and signs are not counted.

    Examples
    --------
    >>> title_key("PDE-Refiner: Achieving …") == title_key("pde refiner  achieving")
    True
    """
    plain = title if title.isascii() else unicodedata.normalize("NFKD", title)
    return re.sub(r"[\W_]", "", plain.casefold())[:200]


def web_link(url: str) -> str:
    """Return a link to the web, or nothing for one of another kind, such as ``javascript:``.

    Examples
    --------
    >>> web_link("https://arxiv.org/abs/2206.00927"), web_link("javascript:alert(1)")
    ('https://arxiv.org/abs/2206.00927', '')
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    safe = parts.scheme in ("http", "https") and parts.hostname and len(url) <= 2000 and url.isprintable()
    return url if safe and " " not in url else ""


@dataclass(frozen=True)
class Entry:
    r"""A paper as a source gives it. Text is cleaned and checked on the way in.

    Parameters
    ----------
    title
        Needed, as is a name: an arXiv id, a DOI, or the title itself.
    arxiv_id, version, doi, slug
        Names. A version of 0 is an unknown one.
    authors, abstract, summary, categories, links
        The summary is our own. Empty where the source doesn't know; what is empty never overwrites what is known.
    published, updated
        Moments with a time zone.
    upvotes
        Of the source.

    Raises
    ------
    MalformedEntry
        For an empty or huge title, an id that isn't one, or a moment without a time zone.

    Examples
    --------
    >>> Entry(title="On\n  Sampling", authors=["A. Author "]).title
    'On Sampling'
    """

    title: str
    arxiv_id: str = ""
    version: int = 0
    doi: str = ""
    slug: str = ""
    authors: tuple[str, ...] | list[str] = ()
    abstract: str = ""
    summary: str = ""
    categories: tuple[str, ...] | list[str] = ()
    published: datetime | None = None
    updated: datetime | None = None
    upvotes: int = 0
    links: Mapping[str, str] = field(default_factory=dict)
    title_key: str = field(init=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("title", one_line(self.title))
        put("title_key", title_key(self.title))
        if not self.title_key:
            raise MalformedEntry("title is empty")
        if len(self.title) > MAX_TITLE:
            raise MalformedEntry(f"title has {len(self.title)} characters; it takes at most {MAX_TITLE}")
        if self.arxiv_id:
            arxiv_id, version = parse_arxiv_id(self.arxiv_id)
            put("arxiv_id", arxiv_id)
            put("version", max(version, self.version))
        if self.doi:
            put("doi", parse_doi(self.doi))
        put("authors", tuple(name for name in map(one_line, self.authors) if name))
        put("abstract", one_line(self.abstract)[:MAX_ABSTRACT])
        put("summary", one_line(self.summary)[:MAX_ABSTRACT])
        put("categories", tuple(c for c in map(one_line, self.categories) if c and " " not in c))
        put("links", {one_line(name)[:40]: link for name, url in self.links.items() if (link := web_link(url))})
        for name in ("published", "updated"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise MalformedEntry(f"{name} is {moment}; it takes a moment with a time zone")


def one_line(text: str) -> str:
    r"""Return text on one line, without control characters.

    Examples
    --------
    >>> one_line("  two\n words\x00 ")
    'two words'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    text = " ".join(text.split())
    if not text.isprintable():
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text


def moment(text: str) -> datetime:
    """Return a moment from ISO 8601; a date is its midnight, and one without a zone is in UTC.

    Raises
    ------
    MalformedEntry
        For anything else.

    Examples
    --------
    >>> moment("2022-06-02T08:43:32Z").isoformat(), moment("2022-06-02").isoformat()
    ('2022-06-02T08:43:32+00:00', '2022-06-02T00:00:00+00:00')
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise MalformedEntry(f"date is {text[:40]!r}; it takes ISO 8601, such as 2022-06-02T08:43:32Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
