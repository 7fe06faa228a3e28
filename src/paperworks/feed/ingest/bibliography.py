"""Papers of a bibliography: BibTeX or RIS."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperworks.feed.entry import Entry, MalformedEntry
from paperworks.feed.ingest.names import arxiv_of, bibtex_names, date_of, doi_of, people, ris_name
from paperworks.feed.ingest.source import Batch, in_batches
from paperworks.feed.ingest.text import read_text
from paperworks.feed.latex import to_text

_LONGEST = 50_000
"""Characters of a field: an abstract of a book has fewer, and LaTeX that is made to be slow has more."""
_KINDS = {
    "a PDF": r"%PDF",
    "HTML": r"\s*<(?:!doctype html|html|head|body)\b",
    "XML": r"\s*<",
    "JSON": r"\s*[\[{]",
    "RIS": r"(?s:.*?)^TY  ?- ",
    "BibTeX": r"(?s:.*?)^\s*@\w+\s*[{(]",
    "an EndNote file": r"(?s:.*?)^%[0A-Z] ",
    "a MEDLINE file": r"(?s:.*?)^PMID- ",
}


@dataclass
class Bibliography:
    """A file of BibTeX (``.bib``) or RIS (``.ris``), in UTF-8, UTF-16, GBK or Latin-1.

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
        wanted = {".bib": "BibTeX", ".ris": "RIS"}.get(self.path.suffix.lower())
        if wanted is None:
            raise ValueError(f"path is {self.path}; it takes a file that ends in .bib or .ris")
        text, encoding = read_text(self.path)
        kind = kind_of(text)
        if kind != wanted:
            raise ValueError(f"path is {self.path}, in which there is no {wanted}; it looks like {kind}")
        if not encoding.startswith("utf"):
            yield Batch(notes=[f"{self.path.name} isn't UTF-8; it was read as {encoding}"])
        yield from read_bibtex(text) if wanted == "BibTeX" else read_ris(text)


def kind_of(text: str) -> str:
    r"""Return what a file seems to be.

    Examples
    --------
    >>> kind_of("<html>"), kind_of("% my papers\n@article{a,"), kind_of("hello")
    ('HTML', 'BibTeX', 'some other text')
    """
    if not text.strip():
        return "an empty file"
    for kind, begins in _KINDS.items():
        if re.match(begins, text, re.IGNORECASE | re.MULTILINE):
            return kind
    return "some other text"


def read_bibtex(text: str) -> Iterator[Batch]:
    r"""Give the papers of BibTeX; what can't be parsed is refused, block by block.

    Two entries of one key are two papers, and it is reported.

    Examples
    --------
    >>> [batch] = read_bibtex("@article{a, title={On {S}ampling}, author={Author, Ann and B. Writer}, year=2022}")
    >>> batch.entries[0].title, batch.entries[0].authors
    ('On Sampling', ('Ann Author', 'B. Writer'))
    """
    import bibtexparser
    from bibtexparser.library import Library
    from bibtexparser.model import DuplicateBlockKeyBlock, DuplicateFieldKeyBlock, ParsingFailedBlock
    from bibtexparser.model import Entry as BibtexEntry

    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # what it says is in the reasons
    raw = bibtexparser.parse_string(text, parse_stack=[])
    entries: list[tuple[str, BibtexEntry]] = []
    refused, notes = [], []
    keys: set[str] = set()
    for block in raw.blocks:
        where = f"line {(block.start_line or 0) + 1}"
        if isinstance(block, DuplicateFieldKeyBlock):
            notes.append(f"{where}: {', '.join(sorted(block.duplicate_keys))} stands twice; the first one counts")
        elif isinstance(block, ParsingFailedBlock) and not isinstance(block, DuplicateBlockKeyBlock):
            reason = getattr(block.error, "abort_reason", "") or str(block.error)
            refused.append(f"{where}: not BibTeX: {' '.join(reason.split())}")
        entry = block.ignore_error_block if isinstance(block, ParsingFailedBlock) else block
        if isinstance(entry, BibtexEntry):
            if entry.key in keys:
                notes.append(f"{where}: the key {entry.key!r} stands twice; each is a paper of its own")
            keys.add(entry.key)
            entry.fields = list({field.key.lower(): field for field in reversed(entry.fields)}.values())
            entries.append((f"{where}: {entry.key}", entry))
    for number, (_, entry) in enumerate(entries):
        entry.key = str(number)  # unlike, so that all are kept
    library = Library([*raw.strings, *(entry for _, entry in entries)])
    for middleware in bibtexparser.entrypoint.default_parse_stack():
        library = middleware.transform(library)
    labels = [where for where, _ in entries]
    yield from in_batches(((labels[int(entry.key)], entry) for entry in library.entries), _bibtex_entry)
    if refused or notes:
        yield Batch(refused=refused, notes=notes)


def _bibtex_entry(entry: Any) -> Entry:
    raw = {item.key.lower(): str(item.value) for item in entry.fields}
    for name, value in raw.items():
        if len(value) > _LONGEST:
            raise MalformedEntry(f"{name} has {len(value):,} characters; it takes at most {_LONGEST:,}")
    fields = {name: to_text(value) for name, value in raw.items() if name not in ("author", "url", "file")}
    get = lambda *names: next((fields[name] for name in names if fields.get(name)), "")  # noqa: E731
    url = raw.get("url", "").replace("\\", "").strip("{}")
    eprint = f"arxiv:{get('arxivid', 'eprint')}" if _says_arxiv(fields) else ""
    published = date_of(get("date", "year"), get("month"))
    journal = get("journal", "journaltitle", "booktitle")
    arxiv_id = arxiv_of(eprint, get("doi"), url, *map(get, ("journal", "number", "volume", "note", "eprint")))
    category = get("primaryclass", "eprintclass")
    return Entry(
        title=": ".join(part for part in (get("title"), get("subtitle")) if part),
        arxiv_id=arxiv_id,
        doi=doi_of(get("doi"), url),
        authors=bibtex_names(raw.get("author", "")),
        abstract=get("abstract"),
        categories=(category,) if re.fullmatch(r"[a-z-]+\.[A-Za-z-]+|[a-z]+-[a-z]+", category) else (),
        published=published,
        updated=published,
        links={"page": url} if url else {},
        journal_ref="" if re.search(r"(?i)arxiv|^corr$", journal) else journal,
    )


def _says_arxiv(fields: dict[str, str]) -> bool:
    kind = fields.get("archiveprefix") or fields.get("eprinttype") or ("arxiv" if "arxivid" in fields else "")
    return kind.lower() == "arxiv"


def read_ris(text: str) -> Iterator[Batch]:
    r"""Give the papers of RIS.

    Examples
    --------
    >>> [batch] = read_ris("TY  - JOUR\nTI  - On Sampling\nAU  - Author, Ann\nPY  - 2022\nER  - \n")
    >>> batch.entries[0].title, batch.entries[0].authors
    ('On Sampling', ('Ann Author',))
    """
    import rispy

    text = re.sub(r"(?m)^([A-Z][A-Z0-9])  ?-(?: |$)", r"\1  - ", text.replace("\r\n", "\n").lstrip("\ufeff"))
    notes = []
    if len(re.findall(r"(?m)^TY  -", text)) > len(re.findall(r"(?m)^ER  -", text)):
        notes.append("a record has no end (ER); the file may have been cut short")
        text = re.sub(r"(?m)\n(?=TY  -)", "\nER  - \n", re.sub(r"(?m)^ER  -.*\n?", "", text)) + "\nER  - \n"
    try:
        records = rispy.loads(text, skip_unknown_tags=True)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise ValueError(f"RIS can't be parsed: {error}") from None
    yield from in_batches(((f"record {i}", record) for i, record in enumerate(records, 1)), _ris_record)
    if notes:
        yield Batch(notes=notes)


def _ris_record(record: dict[str, Any]) -> Entry:
    get = lambda *names: next((str(record[name]) for name in names if record.get(name)), "")  # noqa: E731
    urls = record.get("urls") or []
    published = date_of(get("date", "year", "publication_year"))
    journal = get("journal_name", "secondary_title", "alternate_title3")
    notes = " ".join(record.get("notes") or [])
    return Entry(
        title=get("title", "primary_title"),
        arxiv_id=arxiv_of(get("doi"), *urls, get("number"), journal, notes),
        doi=doi_of(get("doi"), *urls),
        authors=people([ris_name(name) for name in record.get("authors") or record.get("first_authors") or ()]),
        abstract=get("abstract", "notes_abstract"),
        published=published,
        updated=published,
        links={"page": urls[0]} if urls else {},
        journal_ref="" if "arxiv" in journal.lower() else journal,
    )
