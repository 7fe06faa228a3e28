"""Papers of the day with their votes and code, from Hugging Face's daily-papers API."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from paperworks.feed.entry import Entry, moment
from paperworks.feed.ingest.http import PoliteClient, SourceError
from paperworks.feed.ingest.source import Batch


@dataclass
class HuggingFaceDaily:
    """The daily papers of each day since the last ingest; the last two days are asked for again, as votes still come.

    Parameters
    ----------
    since
        The day to begin with at the first ingest; by default yesterday.
    url, client
        Where, and with which client.
    """

    since: date | None = None
    url: str = "https://huggingface.co/api/daily_papers"
    client: PoliteClient = field(default_factory=lambda: PoliteClient(interval=1.0))
    name: str = "huggingface-daily"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give one day a batch."""
        today = datetime.now(UTC).date()
        seen: dict[str, dict[str, str]] = state.get("seen", {})
        if state.get("day"):
            day = min(date.fromisoformat(state["day"]) - timedelta(days=1), today)
        else:
            day = self.since or today - timedelta(days=1)
        while day <= today:
            document, validators = self.client.get(self.url, {"date": day.isoformat()}, seen=seen.get(day.isoformat()))
            batch = _read_day(document, f"{self.url} {day}") if document is not None else Batch()
            seen = {name: kept for name, kept in seen.items() if date.fromisoformat(name) >= day - timedelta(days=2)}
            seen[day.isoformat()] = validators
            batch.state = {"day": day.isoformat(), "seen": seen}
            yield batch
            day += timedelta(days=1)


def _read_day(document: bytes, where: str) -> Batch:
    try:
        items = json.loads(document)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{where}: not the JSON it should be: {error}") from None
    if not isinstance(items, list):
        raise SourceError(f"{where}: not the list it should be")
    batch = Batch()
    for number, item in enumerate(items):
        batch.take(f"{where} {number}", item, read_daily_paper)
    return batch


def read_daily_paper(item: dict[str, Any]) -> Entry:
    """Return the paper of one item of the daily papers.

    Raises
    ------
    MalformedEntry
        For ids or dates that aren't.
    KeyError, TypeError, AttributeError
        For an item of another form.
    """
    paper = item["paper"]
    published = moment(paper.get("publishedAt") or item.get("publishedAt") or "")
    links = {"code": paper.get("githubRepo") or "", "project": paper.get("projectPage") or ""}
    return Entry(
        title=paper.get("title") or item["title"],
        arxiv_id=paper["id"],
        authors=tuple(author["name"] for author in paper.get("authors") or () if not author.get("hidden")),
        abstract=paper.get("summary") or item.get("summary") or "",
        published=published,
        updated=published,
        upvotes=max(0, int(paper.get("upvotes") or 0)),
        links={name: url for name, url in links.items() if url},
    )
