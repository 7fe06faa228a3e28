"""Papers as BibTeX."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paperworks.evidence.record import Paper
from paperworks.feed.entry import is_field
from paperworks.feed.latex import to_latex
from paperworks.feed.search.normal import plain

if TYPE_CHECKING:  # records are cited without the packages of the site
    from paperworks.feed.schema import FeedPaper

_PARTICLES = {"van", "von", "de", "der", "den", "di", "da", "dos", "du", "del", "della", "la", "le", "ter", "ten", "zu"}


def to_bibtex(paper: "FeedPaper") -> str:
    r"""Return the BibTeX of a paper; mathematics stays as it is, and what else is special in LaTeX is escaped.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from paperworks.feed.schema import FeedPaper
    >>> day = datetime(2022, 6, 1, tzinfo=UTC)
    >>> paper = FeedPaper(
    ...     title="Cost & $L_{2}$ noise", authors="Ann Lee", arxiv_id="2206.00927", published=day, categories="cs.LG"
    ... )
    >>> print(to_bibtex(paper))
    @misc{lee2022cost,
      title = {{Cost \& $L_{2}$ noise}},
      author = {Ann Lee},
      year = {2022},
      month = {6},
      eprint = {2206.00927},
      archivePrefix = {arXiv},
      primaryClass = {cs.LG},
      url = {https://arxiv.org/abs/2206.00927}
    }
    <BLANKLINE>
    """
    return _entry(
        title=paper.title,
        authors=paper.authors.split("\n") if paper.authors else [],
        year=str(paper.published.year) if paper.published else "",
        month=str(paper.published.month) if paper.published else "",
        arxiv=paper.arxiv_id or "",
        category=next((name for name in paper.categories.split() if not is_field(name)), ""),
        doi=paper.doi or "",
        journal=paper.journal_ref or "",
    )


def record_to_bibtex(paper: Paper) -> str:
    r"""Return the BibTeX of a paper from its record.

    Examples
    --------
    >>> from paperworks.papers import load
    >>> print(record_to_bibtex(load("dpm-solver")).splitlines()[0])
    @misc{lu2022solver,
    """
    return _entry(title=paper.title, authors=paper.authors, year=str(paper.year), arxiv=paper.arxiv, doi=paper.doi)


def _entry(
    *,
    title: str,
    authors: Sequence[str],
    year: str,
    month: str = "",
    arxiv: str = "",
    category: str = "",
    doi: str = "",
    journal: str = "",
) -> str:
    last = re.sub(r"[^a-z]", "", plain(authors[0].rpartition(" ")[2])) if authors else ""
    word = next((w for w in re.findall(r"[a-z]+", plain(title)) if len(w) > 3), "paper")
    fields = {
        "title": f"{{{to_latex(title)}}}",
        "author": " and ".join(map(_name, authors)),
        "year": year,
        "month": month,
        "eprint": arxiv,
        "archivePrefix": "arXiv" if arxiv else "",
        "primaryClass": category if arxiv else "",
        "doi": to_latex(doi),
        "howpublished": to_latex(journal),
        "url": f"https://arxiv.org/abs/{arxiv}" if arxiv else "",
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{last or 'paper'}{year}{word},\n{body}\n}}\n"


def parted(name: str) -> tuple[str, str]:
    """Return the given and the family names of a person: the last word, and the particles before it.

    Examples
    --------
    >>> parted("Laurens van der Maaten"), parted("Nicolas Le Roux"), parted("Da Long"), parted("DeepMind")
    (('Laurens', 'van der Maaten'), ('Nicolas', 'Le Roux'), ('Da', 'Long'), ('', 'DeepMind'))
    """
    words = name.split()
    start = max(len(words) - 1, 0)
    while start > 1 and words[start - 1].lower() in _PARTICLES:
        start -= 1
    return " ".join(words[:start]), " ".join(words[start:])


def _name(name: str) -> str:
    """Return a name so that BibTeX takes it for one: in braces where it is no first and last name."""
    if re.search(r"(?i),|\band\b|^others$|collaboration|\b(?:jr|sr)\b", name):
        return f"{{{to_latex(name)}}}"
    given, family = parted(name)
    told = " " in family and family[0].isupper()  # of a particle with a small letter BibTeX knows
    return to_latex(f"{family}, {given}" if told else name)
