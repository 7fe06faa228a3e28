"""The papers: one folder each, with its record, its claims and its usage."""

import difflib
import functools
from pathlib import Path

from paperworks.evidence.record import Paper, RecordError, read_paper

ROOT = Path(__file__).parent
FIELDS = (
    "diffusion",
    "robustness",
    "optimization",
    "training",
    "dynamics",
    "operators",
    "solvers",
    "reduction",
    "inference",
    "audio",
)


class UnknownPaper(LookupError):
    """No paper has that slug; the message offers the nearest ones."""


def slugs() -> list[str]:
    """List the slugs of all papers, in order."""
    return sorted(p.parent.name.replace("_", "-") for p in ROOT.glob("*/paper.toml"))


@functools.cache
def load(slug: str) -> Paper:
    """Load one paper.

    Raises
    ------
    UnknownPaper
        Where no paper has that slug.
    RecordError
        Where its record can't be read.
    """
    folder = ROOT / slug.replace("-", "_")
    if not slug or not (folder / "paper.toml").is_file() or "/" in slug:
        near = difflib.get_close_matches(slug, slugs(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`paperworks list` shows them all"
        raise UnknownPaper(f"no paper '{slug}'; {hint}")
    return read_paper(folder)


def load_all() -> list[Paper]:
    """Load all papers, in order of their slugs."""
    return [load(slug) for slug in slugs()]


__all__ = ["FIELDS", "ROOT", "Paper", "RecordError", "UnknownPaper", "load", "load_all", "slugs"]
