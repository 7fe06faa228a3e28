"""Papers of a bibliography: BibTeX or RIS."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paperworks.feed.entry import Entry, MalformedEntry
from paperworks.feed.ingest.source import Batch, in_batches

MAX_BYTES = 64 * 2**20
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass
class Bibliography:
    """A file of BibTeX (``.bib``) or RIS (``.ris``).

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        From the ingest, for a file of another kind, one that is huge, or one that isn't text.
    OSError
        From the ingest, where it can't be read.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.name = f"bibliography:{self.path.name}"[:200]

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give all papers of the file."""
        if self.path.stat().st_size > MAX_BYTES:
            raise ValueError(f"path is {self.path} with more than {MAX_BYTES >> 20} MiB; split it")
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"path is {self.path}, which isn't UTF-8 text: {error}") from None
        readers = {".bib": read_bibtex, ".ris": read_ris}
        if self.path.suffix.lower() not in readers:
            raise ValueError(f"path is {self.path}; it takes a file that ends in .bib or .ris")
        return readers[self.path.suffix.lower()](text)


def read_bibtex(text: str) -> Iterator[Batch]:
    r"""Give the papers of BibTeX; what can't be parsed is refused, block by block.

    Examples
    --------
    >>> [batch] = read_bibtex("@article{a, title={On {S}ampling}, author={Author, Ann and B. Writer}, year=2022}")
    >>> batch.entries[0].title, batch.entries[0].authors
    ('On Sampling', ('Ann Author', 'B. Writer'))
    """
    import bibtexparser
    from bibtexparser import middlewares

    library = bibtexparser.parse_string(
        text, append_middleware=[middlewares.LatexDecodingMiddleware(keep_math_mode=True)]
    )
    yield from in_batches(((entry.key, entry) for entry in library.entries), _bibtex_entry)
    failed = [f"line {(block.start_line or 0) + 1}: not BibTeX: {block.error}" for block in library.failed_blocks]
    if failed:
        yield Batch(refused=failed)


def _bibtex_entry(entry: Any) -> Entry:
    fields = {name.lower(): str(item.value) for name, item in entry.fields_dict.items()}
    fields = {name: re.sub(r"[{}]", "", value) for name, value in fields.items()}
    eprint = fields.get("eprint", "")
    is_arxiv = fields.get("archiveprefix", fields.get("eprinttype", "")).lower() == "arxiv" or "arxiv" in eprint.lower()
    published = _date(fields.get("year") or fields.get("date", ""), fields.get("month", ""))
    return Entry(
        title=fields.get("title", ""),
        arxiv_id=eprint if is_arxiv else _arxiv_of(fields.get("url", ""), fields.get("journal", "")),
        doi=_doi_of(fields.get("doi", "")),
        authors=tuple(_name(name) for name in re.split(r"\s+and\s+", fields.get("author", ""))),
        abstract=fields.get("abstract", ""),
        published=published,
        updated=published,
        links={"page": fields["url"]} if fields.get("url") else {},
    )


def read_ris(text: str) -> Iterator[Batch]:
    r"""Give the papers of RIS.

    Examples
    --------
    >>> [batch] = read_ris("TY  - JOUR\nTI  - On Sampling\nAU  - Author, Ann\nPY  - 2022\nER  - \n")
    >>> batch.entries[0].title, batch.entries[0].authors
    ('On Sampling', ('Ann Author',))
    """
    import rispy

    try:
        records = rispy.loads(text, skip_unknown_tags=True)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise ValueError(f"RIS can't be parsed: {error}") from None
    return in_batches(((f"record {i}", record) for i, record in enumerate(records, 1)), _ris_record)


def _ris_record(record: dict[str, Any]) -> Entry:
    urls = record.get("urls") or []
    published = _date(str(record.get("year") or record.get("publication_year") or record.get("date") or ""), "")
    return Entry(
        title=record.get("title") or record.get("primary_title") or "",
        arxiv_id=_arxiv_of(*urls, record.get("number", ""), record.get("journal_name", "")),
        doi=_doi_of(record.get("doi", "")),
        authors=tuple(_name(name) for name in record.get("authors") or record.get("first_authors") or ()),
        abstract=record.get("abstract") or record.get("notes_abstract") or "",
        published=published,
        updated=published,
        links={"page": urls[0]} if urls else {},
    )


def _name(name: str) -> str:
    """Write `Author, Ann` as `Ann Author`."""
    last, comma, first = name.partition(",")
    return f"{first} {last}" if comma else name


def _arxiv_of(*texts: str) -> str:
    for text in texts:
        found = re.search(r"arxiv(?:\.org/(?:abs|pdf)/|:|\.)\s*(\d{4}\.\d{4,5}(?:v\d+)?)", text, re.IGNORECASE)
        if found:
            return found[1]
    return ""


def _doi_of(text: str) -> str:
    found = re.search(r"10\.\d{4,9}/\S+", text)
    return found[0] if found else ""


def _date(year: str, month: str) -> datetime | None:
    found = re.match(r"\s*(\d{4})(?:[-/](\d{1,2}))?", year)
    if not found:
        return None
    number = int(found[2] or 0) or (int(month) if month.strip().isdecimal() else 0)
    if not number and month.strip()[:3].lower() in _MONTHS:
        number = _MONTHS.index(month.strip()[:3].lower()) + 1
    try:
        return datetime(int(found[1]), number or 1, 1, tzinfo=UTC)
    except ValueError:
        raise MalformedEntry(f"date is {year!r} {month!r}; it takes a year and a month") from None
