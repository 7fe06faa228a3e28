"""The papers that Paperworks itself has: their records, and when their claims were last run."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paperworks.evidence.record import Paper
from paperworks.feed.entry import Entry
from paperworks.feed.ingest.source import Batch, in_batches
from paperworks.papers import load_all


@dataclass
class Records:
    """All records of `paperworks.papers`, so that the feed shows them when nothing else is ingested."""

    name: str = "records"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give all records."""
        return in_batches(((paper.slug, paper) for paper in load_all()), read_record)


def read_record(paper: Paper) -> Entry:
    """Return the entry of a record; the field stands with the categories, the month is the arXiv id's.

    Examples
    --------
    >>> from paperworks.papers import load
    >>> entry = read_record(load("dpm-solver"))
    >>> entry.slug, entry.categories, entry.published.date().isoformat()
    ('dpm-solver', ('diffusion',), '2022-06-01')
    """
    published = datetime(paper.year, 1, 1, tzinfo=UTC)
    if paper.arxiv[:4].isdecimal() and paper.arxiv[4:5] == ".":
        published = datetime(2000 + int(paper.arxiv[:2]), int(paper.arxiv[2:4]), 1, tzinfo=UTC)
    return Entry(
        title=paper.title,
        arxiv_id=paper.arxiv,
        doi=paper.doi,
        slug=paper.slug,
        authors=paper.authors,
        summary=paper.summary,
        categories=(paper.field,),
        published=published,
        updated=published,
        links=paper.links,
    )
