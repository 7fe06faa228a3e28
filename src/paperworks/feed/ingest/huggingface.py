"""Papers of the day with their votes and code, from Hugging Face's daily-papers API."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from paperworks.feed.entry import Entry, MalformedEntry, moment
from paperworks.feed.ingest.http import PoliteClient, SourceError
from paperworks.feed.ingest.source import Batch


@dataclass
class HuggingFaceDaily:
    """The daily papers of each day since the last ingest; the last two days are asked for again, as votes still come.

    Parameters
    ----------
    since
        The day to begin with at the first ingest; by default yesterday.
    url, page, client
        Where, how many papers a request, and with which client.
    """

    since: date | None = None
    url: str = "https://huggingface.co/api/daily_papers"
    page: int = 100
    client: PoliteClient = field(default_factory=lambda: PoliteClient(interval=1.0))
    name: str = "huggingface-daily"

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give one day a batch, of all its pages."""
        today = datetime.now(UTC).date()
        seen: dict[str, list[dict[str, Any]]] = state.get("seen", {})
        if state.get("day"):
            day = min(date.fromisoformat(state["day"]) - timedelta(days=1), today)
        else:
            day = self.since or today - timedelta(days=1)
        while day <= today:
            batch = Batch()
            kept = self._day(day, seen.get(day.isoformat(), []), batch)
            seen = {name: pages for name, pages in seen.items() if date.fromisoformat(name) >= day - timedelta(days=2)}
            seen[day.isoformat()] = kept
            batch.state = {"day": day.isoformat(), "seen": seen}
            yield batch
            day += timedelta(days=1)

    def _day(self, day: date, seen: list[dict[str, Any]], batch: Batch) -> list[dict[str, Any]]:
        """Read the pages of a day until an empty one, and return for each its validators and its papers' ids.

        How many a page has is the server's choice, whatever it is asked for; one that ignores the page's number gives
        the same papers again.
        """
        pages: list[dict[str, Any]] = []
        ids: set[str] = set()
        while True:
            number = len(pages)
            before = seen[number] if number < len(seen) else {}
            parameters = {"date": day.isoformat(), "p": number, "limit": self.page}
            known = {name: value for name, value in before.items() if name != "ids"}
            document, validators = self.client.get(self.url, parameters, seen=known)
            where = f"{self.url} {day} page {number}"
            items = _items(document, where) if document is not None else []
            found = [_id(item) for item in items] if document is not None else before["ids"]
            if not found or ids.issuperset(found):
                return pages
            for place, item in enumerate(items):
                batch.take(f"{where}, {place}", item, read_daily_paper)
            ids.update(found)
            pages.append({**validators, "ids": found})


def _items(document: bytes, where: str) -> list[Any]:
    try:
        items = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not the JSON it should be: {error}") from None
    if not isinstance(items, list):
        raise SourceError(f"{where}: not the list it should be")
    return items


def _id(item: Any) -> str:
    paper = item.get("paper") if isinstance(item, dict) else None
    return str(paper.get("id"))[:40] if isinstance(paper, dict) else str(item)[:40]


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
        upvotes=_count(paper.get("upvotes")),
        links={name: url for name, url in links.items() if url},
    )


def _count(number: Any) -> int:
    """Return a count of votes; one below zero is none."""
    if number is None:
        return 0
    if not isinstance(number, int | float) or number != number // 1:
        raise MalformedEntry(f"upvotes are {str(number)[:40]}; it takes a whole number")
    return max(0, int(number))
