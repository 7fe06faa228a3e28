"""The papers: one folder each, with its record, its claims and its usage."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from paperworks.evidence.record import Paper, RecordError, read_paper

if TYPE_CHECKING:
    from paperworks.evidence.results import PaperResults
    from paperworks.papers.shelf import Place

ROOT = Path(__file__).parent
"""The folder that holds those of Paperworks' own papers."""
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
"""Paperworks' own fields, each a package of methods."""


class UnknownPaper(LookupError):
    """No paper has that slug; the message offers the nearest ones."""


def slugs() -> list[str]:
    """List the slugs of all papers, in order: Paperworks' own, those of other packages, those in the user's folders.

    Returns
    -------
    list[str]
        Short names, which `load` takes.

    Examples
    --------
    >>> "dpm-solver" in slugs()
    True
    """
    return list(_shelf()[0])


@functools.cache
def load(slug: str) -> Paper:
    """Load one paper.

    Parameters
    ----------
    slug
        Its short name.

    Returns
    -------
    Paper
        Its record, without what was measured of it.

    Raises
    ------
    UnknownPaper
        Where no paper has that slug.
    RecordError
        Where its record can't be read.

    Examples
    --------
    >>> load("dpm-solver").year
    2022
    """
    from paperworks.papers import recordcache

    places, _ = _shelf()
    if slug not in places:
        import difflib

        near = difflib.get_close_matches(slug, places, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`paperworks list` shows them all"
        raise UnknownPaper(f"no paper '{slug}'; {hint}")
    paper = _read(places[slug])
    recordcache.save()
    return paper


def paper(slug: str) -> "PaperResults":
    """Return a paper with what was measured of it, for a notebook to show; `paperworks` itself has it too.

    Parameters
    ----------
    slug
        Its short name.

    Returns
    -------
    PaperResults
        Its record in `paper`, its `claims` and `races` with their verdicts, one's own evidence beside them.

    Raises
    ------
    UnknownPaper
        Where no paper has that slug.

    Examples
    --------
    >>> import paperworks
    >>> found = paperworks.paper("dpm-solver")
    >>> found.claims[0].id, found.paper.field
    ('c1-orders', 'diffusion')
    """
    from paperworks.evidence.results import PaperResults
    from paperworks.evidence.store import evidence_of
    from paperworks.evidence.views import paper_views

    found = load(slug)
    evidence, own = evidence_of(found)
    views = paper_views(found, evidence, own)
    claims, races = (tuple(view for view in views if view.kind == kind) for kind in ("claim", "peer"))
    return PaperResults(found, claims, races, evidence.problem)


def load_all() -> list[Paper]:
    """Load all papers whose records can be read, in order of their slugs; `broken` tells of the others.

    Returns
    -------
    list[Paper]
        Their records.

    Examples
    --------
    >>> {paper.year for paper in load_all() if paper.slug == "dpm-solver"}
    {2022}
    """
    return read_all()[0]


def broken() -> dict[str, RecordError]:
    """Tell for each paper that can't be loaded, by its slug or where it was looked for, what is wrong with it.

    Returns
    -------
    dict[str, RecordError]
        What is wrong, one error a paper.
    """
    return read_all()[1]


def fields() -> list[str]:
    """List the fields: Paperworks' own, then those that only papers of other packages and folders have.

    Returns
    -------
    list[str]
        Names of fields.

    Examples
    --------
    >>> fields()[:2]
    ['diffusion', 'robustness']
    """
    return list(dict.fromkeys([*FIELDS, *sorted({paper.field for paper in load_all()})]))


def read_all() -> tuple[list[Paper], dict[str, RecordError]]:
    """Return what `load_all` and `broken` do, read once.

    Returns
    -------
    tuple[list[Paper], dict[str, RecordError]]
        The papers that can be read, and what is wrong with the others.
    """
    from paperworks.papers import recordcache

    places, problems = _shelf()
    papers = []
    for slug, place in places.items():
        try:
            papers.append(_read(place))
        except RecordError as error:
            problems[slug] = error
    recordcache.save()
    return papers, problems


def _read(place: "Place") -> Paper:
    from paperworks.papers import recordcache

    return read_paper(place.folder, parse=recordcache.toml, origin=place.origin)


def _shelf() -> "tuple[dict[str, Place], dict[str, RecordError]]":
    from paperworks.papers.shelf import find_places

    return find_places(ROOT)


__all__ = [
    "FIELDS",
    "ROOT",
    "Paper",
    "RecordError",
    "UnknownPaper",
    "broken",
    "fields",
    "load",
    "load_all",
    "paper",
    "read_all",
    "slugs",
]
