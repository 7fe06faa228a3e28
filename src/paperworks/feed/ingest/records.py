"""The papers that Paperworks itself has: their records, and when their claims were last run."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import select

from paperworks.evidence.record import Paper
from paperworks.evidence.store import read_evidence
from paperworks.feed.entry import Entry
from paperworks.feed.ingest.source import Batch, in_batches
from paperworks.feed.schema import Activity, FeedPaper
from paperworks.feed.store import FeedStore
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


def record_runs(store: FeedStore) -> int:
    """Take in on which days claims of our papers were run, from the evidence, and return how many runs there are.

    Examples
    --------
    >>> from paperworks.feed.ingest import ingest
    >>> store = FeedStore("sqlite://")
    >>> _ = ingest(store, Records())
    >>> record_runs(store) == record_runs(store) > 0
    True
    """
    with store.session() as session:
        rows = session.execute(select(FeedPaper.id, FeedPaper.slug).where(FeedPaper.slug.is_not(None)))
        ids = {row.slug: row.id for row in rows}
        runs: Counter[tuple[int, date]] = Counter()
        for paper in load_all():
            if paper.slug in ids and not paper.planned:
                for entry in read_evidence(paper.slug).entries:
                    runs[ids[paper.slug], date.fromisoformat(entry.provenance.date[:10])] += 1
        for (paper_id, day), count in runs.items():
            session.merge(Activity(paper_id=paper_id, kind="run", day=day, count=count))
    return runs.total()
