"""Papers as BibTeX."""

import re

from paperworks.feed.entry import is_field
from paperworks.feed.latex import to_latex
from paperworks.feed.schema import FeedPaper
from paperworks.feed.search.normal import plain


def to_bibtex(paper: FeedPaper) -> str:
    r"""Return the BibTeX of a paper; mathematics stays as it is, and what else is special in LaTeX is escaped.

    Examples
    --------
    >>> from datetime import UTC, datetime
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
    authors = paper.authors.split("\n") if paper.authors else []
    year = str(paper.published.year) if paper.published else ""
    last = re.sub(r"[^a-z]", "", plain(authors[0].rpartition(" ")[2])) if authors else ""
    word = next((w for w in re.findall(r"[a-z]+", plain(paper.title)) if len(w) > 3), "paper")
    category = next((name for name in paper.categories.split() if not is_field(name)), "")
    fields = {
        "title": f"{{{to_latex(paper.title)}}}",
        "author": " and ".join(map(_name, authors)),
        "year": year,
        "month": str(paper.published.month) if paper.published else "",
        "eprint": paper.arxiv_id or "",
        "archivePrefix": "arXiv" if paper.arxiv_id else "",
        "primaryClass": category if paper.arxiv_id else "",
        "doi": to_latex(paper.doi or ""),
        "howpublished": to_latex(paper.journal_ref or ""),
        "url": f"https://arxiv.org/abs/{paper.arxiv_id}" if paper.arxiv_id else "",
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{last or 'paper'}{year}{word},\n{body}\n}}\n"


def _name(name: str) -> str:
    """Return a name so that BibTeX takes it for one: in braces where it is no first and last name."""
    latex = to_latex(name)
    return f"{{{latex}}}" if re.search(r"(?i),|\band\b|^others$|collaboration|\b(?:jr|sr)\b", name) else latex
