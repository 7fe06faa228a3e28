"""The folder that a new paper starts from."""

import keyword
import re
from pathlib import Path

from paperworks import papers

_ARXIV = re.compile(r"(\d{2})(\d{2})\.\d{4,5}")

_RECORD = '''title   = "{title}"
arxiv   = "{arxiv}"
year    = {year}
authors = []
field   = "{field}"
summary = """\\
In your own words, three sentences: the problem, the idea, and when to use it. \\
This one is a placeholder."""
methods = []
tags    = []

[links]
paper = "https://arxiv.org/abs/{arxiv}"

# One [[claims]] for each thing the paper reports. `paperworks show` lists them as planned until
# claims.py holds a function for each:
#
# [[claims]]
# id       = "c1-order"
# says     = "What the paper says, in one sentence"
# reported = "its figure, and where it stands"
# measure  = "how it is measured here"
# bar      = ">= 2.8"
#
# [[peers]]
# id      = "package"
# package = "package"
# says    = "wall time for the same job, ours / package"
# bar     = "<= 0.8"
'''


def scaffold(arxiv: str, field: str, *, slug: str = "", title: str = "", root: Path | None = None) -> Path:
    """Make the folder of a planned paper and return it.

    Raises
    ------
    ValueError
        Where the arXiv id, field or slug is not one.
    FileExistsError
        Where the slug is taken.
    """
    match = _ARXIV.fullmatch(arxiv)
    if not match or not 1 <= int(match[2]) <= 12:
        raise ValueError(f"arxiv id is {arxiv!r}; it takes the form 2206.00927, without a version")
    if field not in papers.FIELDS:
        raise ValueError(f"field is {field!r}; it takes one of {', '.join(papers.FIELDS)}")
    slug = slug or f"arxiv-{arxiv.replace('.', '-')}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or keyword.iskeyword(slug):
        raise ValueError(f"slug is {slug!r}; it takes lower-case words joined by hyphens, such as dpm-solver")
    folder = (root or papers.ROOT) / slug.replace("-", "_")
    if folder.exists() or folder.with_suffix(".py").exists():
        raise FileExistsError(f"paper '{slug}' is there already: {folder}")
    if any(ord(c) < 32 or c in '"\\' for c in title):
        raise ValueError(f"title is {title!r}; it takes one line without quotation marks or backslashes")
    record = _RECORD.format(title=title or f"arXiv:{arxiv}", arxiv=arxiv, year=2000 + int(match[1]), field=field)
    folder.mkdir(parents=True)
    (folder / "paper.toml").write_text(record, encoding="utf-8")
    (folder / "__init__.py").write_text(f'"""{title or f"arXiv:{arxiv}"}."""\n', encoding="utf-8")
    return folder
