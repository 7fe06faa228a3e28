"""Reading lists as reference managers write and read them: BibTeX, RIS and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from paperworks.feed.bibtex import to_bibtex
from paperworks.feed.entry import Entry, MalformedEntry
from paperworks.feed.identity import Known
from paperworks.feed.ingest.bibliography import kind_of, read_bibtex, read_ris
from paperworks.feed.ingest.names import arxiv_of, date_of, doi_of, people, ris_name
from paperworks.feed.ingest.text import decode
from paperworks.feed.people import People
from paperworks.feed.schema import FeedPaper, ReadingItem
from paperworks.feed.store import row_of

MOST = 5000
"""Papers of one file."""
_COLUMNS = {  # of our CSV, which are Zotero's, and what others call them
    "Title": ("title", "article title", "document title"),
    "Author": ("author", "authors", "author full names"),
    "Publication Year": ("publication year", "year", "date", "published"),
    "DOI": ("doi", "di"),
    "Url": ("url", "link", "links", "urls"),
    "Extra": ("extra", "notes", "arxiv", "arxiv id", "archive id", "arxivid", "number", "report number"),
}
_FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # the last ones of full width, as East Asian keyboards type


@dataclass(frozen=True)
class Imported:
    """What became of a file of references.

    Parameters
    ----------
    kept
        How many papers are new on the reading list.
    known
        How many were on it already.
    missing
        Titles of those that the feed doesn't have.
    refused
        Why others could not be read.
    """

    kept: int
    known: int
    missing: tuple[str, ...]
    refused: tuple[str, ...]


def read_references(data: bytes) -> tuple[list[Entry], list[str]]:
    r"""Read the papers of a BibTeX, RIS or CSV file, and why some can't be read.

    Parameters
    ----------
    data
        Content of the file, in UTF-8, UTF-16, GBK or Latin-1.

    Returns
    -------
    tuple[list[Entry], list[str]]
        The papers, and one line for each that can't be read.

    Raises
    ------
    ValueError
        For a file of another kind, or of more than 5000 papers.

    Examples
    --------
    >>> entries, _ = read_references(b"Title,Author,DOI\nOn Sampling,\"Lee, Ann; Ray, Bo\",10.1000/1\n")
    >>> entries[0].title, entries[0].authors, entries[0].doi
    ('On Sampling', ('Ann Lee', 'Bo Ray'), '10.1000/1')
    """
    try:
        text = decode(data)[0]
    except ValueError as error:
        raise ValueError(f"the file isn't text: {error}") from None
    kind = kind_of(text)
    if kind in ("BibTeX", "RIS"):
        batches = list(read_bibtex(text) if kind == "BibTeX" else read_ris(text))
        entries = [entry for batch in batches for entry in batch.entries]
        refused = [reason for batch in batches for reason in batch.refused]
    else:
        entries, refused = _read_csv(text, kind)
    if len(entries) + len(refused) > MOST:
        raise ValueError(f"the file has {len(entries) + len(refused):,} papers; it takes at most {MOST:,}")
    return entries, refused


def import_reading_list(people: People, person: int, data: bytes) -> Imported:
    """Put the papers of a file on someone's reading list, those that the feed has.

    The feed itself takes in none: what it shows to all doesn't come from what one reader sends.

    Parameters
    ----------
    people
        The people of the feed.
    person
        Number of the person, as `People.of_email` returns it.
    data
        Content of a BibTeX, RIS or CSV file.

    Returns
    -------
    Imported
        What is on the list now, and what isn't.

    Raises
    ------
    ValueError
        As `read_references`.
    """
    entries, refused = read_references(data)
    now = datetime.now(UTC)
    found: list[int] = []
    missing: list[str] = []
    for start in range(0, len(entries), 500):  # a statement takes only so many names
        some = entries[start : start + 500]
        with people.store.engine.connect() as connection:
            known = Known(connection, some)
        for entry in some:
            row = known.find(row_of(entry, now))
            if row is None:
                missing.append(entry.title)
            else:
                found.append(row["id"])
    before = set(people.reading_list(person))
    fresh = [paper for paper in dict.fromkeys(found) if paper not in before]
    for paper in reversed(fresh):  # the last that is kept comes first
        people.keep(person, paper, True)
    return Imported(len(fresh), len(set(found)) - len(fresh), tuple(missing), tuple(refused))


def export_reading_list(people: People, person: int, kind: str) -> str:
    """Write someone's reading list as a file that reference managers take.

    Parameters
    ----------
    people
        The people of the feed.
    person
        Number of the person, as `People.of_email` returns it.
    kind
        ``bib``, ``ris`` or ``csv``.

    Returns
    -------
    str
        Content of the file.

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind not in ("bib", "ris", "csv"):
        raise ValueError(f"kind is {kind!r}; it takes bib, ris or csv")
    kept = select(FeedPaper).join(ReadingItem, ReadingItem.paper_id == FeedPaper.id)
    kept = kept.where(ReadingItem.person_id == person).order_by(ReadingItem.at.desc(), ReadingItem.paper_id.desc())
    with people.store.session() as session:
        session.expire_on_commit = False
        papers = list(session.scalars(kept))
    if kind == "csv":
        return to_csv(papers)
    return "\n".join(map(to_bibtex if kind == "bib" else to_ris, papers))


def to_ris(paper: FeedPaper) -> str:
    r"""Return the RIS record of a paper.

    Examples
    --------
    >>> print(to_ris(FeedPaper(title="On Sampling", authors="Ann Lee", arxiv_id="2206.00927", abstract="")))
    TY  - JOUR
    TI  - On Sampling
    AU  - Lee, Ann
    M1  - arXiv:2206.00927
    UR  - https://arxiv.org/abs/2206.00927
    ER  -
    <BLANKLINE>
    """
    lines = [("TY", "JOUR"), ("TI", paper.title)]
    lines += [("AU", _last_first(name)) for name in (paper.authors or "").split("\n") if name]
    if paper.published:
        lines += [("PY", str(paper.published.year)), ("DA", f"{paper.published:%Y/%m/%d}/")]
    lines += [
        ("JO", paper.journal_ref or ""),
        ("DO", paper.doi or ""),
        ("M1", f"arXiv:{paper.arxiv_id}" if paper.arxiv_id else ""),
        ("UR", _url(paper)),
        ("AB", paper.abstract or ""),
    ]
    text = "\n".join(f"{tag}  - {' '.join(value.split())}" for tag, value in lines if value)
    return f"{text}\nER  - \n"


def to_csv(papers: Sequence[FeedPaper]) -> str:
    r"""Return papers as CSV with Zotero's columns.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.

    Examples
    --------
    >>> print(to_csv([FeedPaper(title="=1+1", authors="Ann Lee\nBo Ray", doi="10.1000/1")]).splitlines()[1])
    preprint,,"Lee, Ann; Ray, Bo",'=1+1,10.1000/1,https://doi.org/10.1000/1,
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["Item Type", "Publication Year", "Author", "Title", "DOI", "Url", "Extra"])
    for paper in papers:
        authors = "; ".join(_last_first(name) for name in (paper.authors or "").split("\n") if name)
        year = str(paper.published.year) if paper.published else ""
        extra = f"arXiv:{paper.arxiv_id}" if paper.arxiv_id else ""
        cells = ["preprint", year, authors, paper.title, paper.doi or "", _url(paper), extra]
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return buffer.getvalue()


def _read_csv(text: str, kind: str) -> tuple[list[Entry], list[str]]:
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter)
    entries: list[Entry] = []
    refused: list[str] = []
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        places = {column: [names.index(name) for name in known if name in names] for column, known in _COLUMNS.items()}
        if not places["Title"]:
            what = f"looks like {kind}" if kind != "some other text" else "is none of them"
            raise ValueError(f"the file takes BibTeX, RIS, or CSV with a column Title; it {what}")
        for row in rows:
            if not any(row):
                continue
            cells = {
                column: " ".join(_clean(row[place]) for place in at if place < len(row)).strip()
                for column, at in places.items()
            }
            try:
                entries.append(_entry(cells))
            except (MalformedEntry, ValueError) as error:
                refused.append(f"line {rows.line_num}: {error}")
            if len(entries) > MOST:
                break
    except csv.Error as error:
        raise ValueError(f"the file can't be read as CSV: {error}") from None
    return entries, refused


def _entry(cells: dict[str, str]) -> Entry:
    published = date_of(re.match(r"\d{0,4}", cells["Publication Year"])[0], "")  # type: ignore[index]
    return Entry(
        title=cells["Title"],
        authors=people([ris_name(name) for name in _names(cells["Author"])]),
        doi=doi_of(cells["DOI"], cells["Url"]),
        arxiv_id=arxiv_of(cells["Url"], cells["Extra"], cells["DOI"]),
        published=published,
    )


def _names(text: str) -> Iterable[str]:
    if ";" in text:
        return text.split(";")
    return [text] if text.count(",") <= 1 else text.split(",")


def _clean(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _last_first(name: str) -> str:
    first, _, last = name.rpartition(" ")
    return f"{last}, {first}" if first and not re.search(r"(?i)collaboration|team|,", name) else name


def _url(paper: FeedPaper) -> str:
    if paper.arxiv_id:
        return f"https://arxiv.org/abs/{paper.arxiv_id}"
    return f"https://doi.org/{paper.doi}" if paper.doi else ""
