"""A paper on its way into the feed, and the names by which two sources' papers are known to be the same."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

_ARXIV = re.compile(
    r"(?:arxiv:\s*|(?:https?://)?(?:[a-z]+\.)?arxiv\.org/(?:abs|pdf|html|format|ps)/|oai:arxiv\.org:"
    r"|(?:https?://)?(?:www\.)?(?:huggingface\.co/papers|alphaxiv\.org/abs)/"
    r"|(?:doi:\s*|(?:https?://)?(?:dx\.)?doi\.org/)?10\.48550/arxiv\.)?"
    r"(?:(\d{4}\.\d{4,5})|([a-z-]+)(?:\.[a-z]{2})?(/\d{7}))(?:v(\d{1,3}))?(?:\.pdf)?(?:[?#]\S*)?",
    re.IGNORECASE,
)
_DOI = re.compile(r"(?:doi:\s*|(?:https?://)?(?:dx\.|www\.)?doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
MAX_TITLE, MAX_AUTHORS, MAX_ABSTRACT, MAX_DOI, MAX_UPVOTES = 1000, 200_000, 20_000, 200, 2**31 - 1
_LETTER = re.compile(r"[^\W\d_]")
FIRST_YEAR = 1000
"""Dates before that year, or after the next one, are mistakes."""


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
    >>> parse_arxiv_id("math.GT/0309136"), parse_arxiv_id("doi:10.48550/arXiv.2206.00927")
    (('math/0309136', 0), ('2206.00927', 0))
    """
    found = _ARXIV.fullmatch(text.strip())
    if not found or not text.isascii():
        raise MalformedEntry(f"arXiv id is {text[:80]!r}; it takes one such as 2206.00927v3 or hep-th/9901001")
    return (found[1] or found[2] + found[3]).lower(), int(found[4] or 0)


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
    if not found or len(found[1]) > MAX_DOI or not found[1].isprintable():
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


def is_field(category: str) -> bool:
    """Return whether a category is a field of our papers, which is one word; arXiv's have a dot or a hyphen.

    Examples
    --------
    >>> is_field("diffusion"), is_field("cs.LG"), is_field("hep-th")
    (True, False, False)
    """
    return "." not in category and "-" not in category


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
        Moments with a time zone. A paper without them is undated.
    upvotes
        Upvotes of the source.
    comment, journal_ref
        What the authors say of the paper, and where it appeared.
    withdrawn
        Whether the version was withdrawn; None where the source doesn't know.
    versions
        When versions came, by their numbers.

    Raises
    ------
    MalformedEntry
        For an empty or huge title, an id that isn't one, votes that are no count, or a moment without a time zone,
        before the year 1000 or after the next year.

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
    comment: str = ""
    journal_ref: str = ""
    withdrawn: bool | None = None
    versions: Mapping[int, datetime] = field(default_factory=dict)
    title_key: str = field(init=False)

    def __post_init__(self) -> None:
        put = self.__dict__.__setitem__  # the class is frozen from here on
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
            if self.doi.startswith("10.48550/arxiv."):  # no other name than the arXiv id
                put("arxiv_id", self.arxiv_id or parse_arxiv_id(self.doi)[0])
                put("doi", "")
        put("authors", tuple(name for name in map(one_line, self.authors) if _LETTER.search(name)))
        if sum(map(len, self.authors)) > MAX_AUTHORS:
            raise MalformedEntry(f"authors have more than {MAX_AUTHORS} characters")
        for name in ("abstract", "summary", "comment", "journal_ref"):
            if text := getattr(self, name):
                put(name, one_line(text)[:MAX_ABSTRACT])
        put("categories", tuple(c for c in map(one_line, self.categories) if c and " " not in c))
        put("links", {one_line(name)[:40]: link for name, url in self.links.items() if (link := web_link(url))})
        if not 0 <= self.upvotes <= MAX_UPVOTES:
            raise MalformedEntry(f"upvotes are {self.upvotes}; it takes 0 to {MAX_UPVOTES}")
        for moment in {self.published, self.updated, *self.versions.values()}:
            if moment is not None:
                _check_moment(moment)


def _check_moment(moment: datetime) -> None:
    if moment.tzinfo is None:
        raise MalformedEntry(f"date is {moment}; it takes a moment with a time zone")
    if not FIRST_YEAR <= moment.year <= date.today().year + 1:
        raise MalformedEntry(
            f"date is {moment.isoformat()}; it takes one from the year {FIRST_YEAR} to a year from now"
        )


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
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedEntry(f"date is {text[:40]!r}; it takes ISO 8601, such as 2022-06-02T08:43:32Z") from None
