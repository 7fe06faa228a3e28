"""Papers as BibTeX."""

import re

from paperworks.feed.schema import FeedPaper

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def to_bibtex(paper: FeedPaper) -> str:
    r"""Return the BibTeX of a paper, with what is special in LaTeX escaped.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> day = datetime(2022, 6, 1, tzinfo=UTC)
    >>> paper = FeedPaper(title="Cost & noise", authors="Ann Lee", arxiv_id="2206.00927", published=day, categories="")
    >>> print(to_bibtex(paper))
    @misc{lee2022cost,
      title = {{Cost \& noise}},
      author = {Ann Lee},
      year = {2022},
      eprint = {2206.00927},
      archivePrefix = {arXiv},
      url = {https://arxiv.org/abs/2206.00927}
    }
    <BLANKLINE>
    """
    authors = paper.authors.split("\n") if paper.authors else []
    last = re.sub(r"[^a-z]", "", authors[0].rpartition(" ")[2].lower()) if authors else ""
    word = next((w for w in re.findall(r"[a-z]+", paper.title.lower()) if len(w) > 3), "paper")
    fields = {
        "title": f"{{{_escape(paper.title)}}}",
        "author": " and ".join(map(_escape, authors)),
        "year": str(paper.published.year),
        "eprint": paper.arxiv_id or "",
        "archivePrefix": "arXiv" if paper.arxiv_id else "",
        "doi": _escape(paper.doi or ""),
        "url": f"https://arxiv.org/abs/{paper.arxiv_id}" if paper.arxiv_id else "",
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{last or 'paper'}{paper.published.year}{word},\n{body}\n}}\n"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)
