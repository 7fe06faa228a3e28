"""Writes CITATION.cff: how Paperworks is cited, and the papers whose methods it has, from their records.

python scripts/citation.py
"""

import json
import re
from pathlib import Path

from paperworks.evidence.record import Paper
from paperworks.feed.bibtex import parted
from paperworks.papers import load_all

ROOT = Path(__file__).resolve().parents[1]
CITATION = ROOT / "CITATION.cff"
HEAD = """\
# Made by scripts/citation.py (`make citation`) from the records of the papers.
cff-version: 1.2.0
title: "Paperworks: daily papers you can run"
message: "Please cite Paperworks, and the paper whose method you use: `paperworks cite PAPER` gives its BibTeX."
type: software
authors:
  - name: "The Paperworks maintainers"
license: [Apache-2.0]
keywords:
  - reproducibility
  - machine learning
  - scientific computing
"""


def person(name: str) -> str:
    """Write an author by given and family names; as an entity, where there is one name alone."""
    given, family = parted(name)
    if not given:
        return f"      - name: {json.dumps(name, ensure_ascii=False)}"
    names = (json.dumps(part, ensure_ascii=False) for part in (given, family))
    return "      - given-names: {}\n        family-names: {}".format(*names)


def reference(paper: Paper) -> str:
    """Write a paper as a reference."""
    lines = [f"  - type: article\n    title: {json.dumps(paper.title, ensure_ascii=False)}", f"    year: {paper.year}"]
    if paper.arxiv:
        lines += [f"    url: https://arxiv.org/abs/{paper.arxiv}", f"    doi: 10.48550/arXiv.{paper.arxiv}"]
    else:
        lines.append(f"    doi: {paper.doi}")
    return "\n".join([*lines, "    authors:", *map(person, paper.authors)])


def released() -> str:
    """Return the lines of the newest release of the changelog; empty before the first."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## \[?(\d+\.\d+\.\d+)\]? - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    return f'version: {found[1]}\ndate-released: "{found[2]}"\n' if found else ""


def written() -> str:
    """Return what the file should hold."""
    ours = [paper for paper in load_all() if not paper.origin]
    return f"{HEAD}{released()}references:\n" + "\n".join(map(reference, ours)) + "\n"


if __name__ == "__main__":
    CITATION.write_text(written(), encoding="utf-8")
