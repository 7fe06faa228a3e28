"""The lists of papers that have a page and a feed: newest, by day, week and month, trending, a field, a search."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast, get_args

from sqlalchemy import func, select

from paperworks.feed.schema import NEWEST, FeedPaper
from paperworks.feed.search.fused import search
from paperworks.feed.search.meaning import MeaningIndex
from paperworks.feed.store import FeedStore
from paperworks.feed.trending import Period, trending

PER_PAGE = 25
MAX_PAGE = 400


@dataclass(frozen=True)
class Listing:
    """One page of a list: its title, the papers, whether there are more, and the lists before and after in time."""

    title: str
    ids: list[int]
    page: int = 1
    more: bool = False
    earlier: str = ""
    later: str = ""


class UnknownList(LookupError):
    """There is no such list."""


def newest(store: FeedStore, page: int = 1) -> Listing:
    """Return the newest papers."""
    now = datetime.now(UTC)
    ids, more = _between(store, None, None, page)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    some = page == 1 and bool(_between(store, today, today + timedelta(days=1), 1)[0])
    return Listing("Today" if some else "Newest papers", ids, page, more)


def span(store: FeedStore, kind: str, name: str, page: int = 1) -> Listing:
    """Return the papers of a day (2026-11-26), a week (2026-W48) or a month (2026-11).

    Raises
    ------
    UnknownList
        For something that is none.
    """
    start, end, title = _span(kind, name)
    ids, more = _between(store, start, end, page)
    with store.session() as session:
        before = session.scalar(select(func.max(FeedPaper.published)).where(FeedPaper.published < start))
        after = session.scalar(select(func.min(FeedPaper.published)).where(FeedPaper.published >= end))
    return Listing(
        title,
        ids,
        page,
        more,
        earlier=span_path(kind, before) if before else "",
        later=span_path(kind, after) if after else "",
    )


def span_path(kind: str, moment: datetime) -> str:
    """Return the address of the day, week or month of a moment.

    Examples
    --------
    >>> span_path("week", datetime(2026, 11, 26, tzinfo=UTC))
    '/week/2026-W48'
    """
    year, week, _ = moment.isocalendar()
    name = {"day": f"{moment:%Y-%m-%d}", "week": f"{year}-W{week:02d}", "month": f"{moment:%Y-%m}"}[kind]
    return f"/{kind}/{name}"


def hot(store: FeedStore, period: str, page: int = 1, field: str = "") -> Listing:
    """Return what is trending, in all fields or in one.

    Raises
    ------
    UnknownList
        For a period other than ``day``, ``week`` and ``month``, and a name that no field can have.
    """
    if period not in get_args(Period):
        raise UnknownList(f"there is no trending of the {period!r}; there are day, week and month")
    if field:
        _check_field(field)
    hottest = trending(store, cast(Period, period), field=field, limit=page * PER_PAGE + 1)
    title = f"Trending this {period}" if period != "day" else "Trending today"
    return page_of(f"{title} in {field}" if field else title, [paper_id for paper_id, _ in hottest], page)


def found(
    store: FeedStore, text: str, meaning: MeaningIndex | None, page: int = 1, *, as_typed: bool = False
) -> Listing:
    """Return what a search finds.

    Raises
    ------
    BadQuery
        As `parse_query`.
    """
    return page_of(f"Search: {text}", search(store, text, meaning, as_typed=as_typed).ids, page)


def of_field(store: FeedStore, field: str, page: int = 1) -> Listing:
    """Return the papers of one of our fields, or of a category of arXiv, the newest first.

    Raises
    ------
    UnknownList
        For a name that can't be one.
    """
    _check_field(field)
    ids = search(store, f"field:{field}", limit=1000).ids
    with store.session() as session:
        columns = select(FeedPaper.id).where(FeedPaper.id.in_(ids))
        ids = list(session.scalars(columns.order_by(*NEWEST)))
    if not ids:
        raise UnknownList(f"there is no paper of a field {field!r}")
    return page_of(field[:1].upper() + field[1:] if "." not in field else field, ids, page)


def _check_field(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]{0,30}", name):
        raise UnknownList(f"there is no field {name[:40]!r}")


def page_of(title: str, ids: list[int], page: int) -> Listing:
    """Return one page of a list that is known as a whole."""
    start = (page - 1) * PER_PAGE
    return Listing(title, ids[start : start + PER_PAGE], page, len(ids) > start + PER_PAGE)


def _between(store: FeedStore, start: datetime | None, end: datetime | None, page: int) -> tuple[list[int], bool]:
    statement = select(FeedPaper.id).order_by(*NEWEST)
    if start is not None and end is not None:
        statement = statement.where(FeedPaper.published >= start, FeedPaper.published < end)
    with store.session() as session:
        ids = list(session.scalars(statement.offset((page - 1) * PER_PAGE).limit(PER_PAGE + 1)))
    return ids[:PER_PAGE], len(ids) > PER_PAGE


def _span(kind: str, name: str) -> tuple[datetime, datetime, str]:
    try:
        if kind == "day" and re.fullmatch(r"\d{4}-\d{2}-\d{2}", name):
            start = datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC)
            return start, start + timedelta(days=1), f"{start:%A}, {start.day} {start:%B %Y}"
        if kind == "week" and (parts := re.fullmatch(r"(\d{4})-W(\d{2})", name)):
            start = datetime.fromisocalendar(int(parts[1]), int(parts[2]), 1).replace(tzinfo=UTC)
            return start, start + timedelta(days=7), f"Week {int(parts[2])} of {parts[1]}"
        if kind == "month" and (parts := re.fullmatch(r"(\d{4})-(\d{2})", name)):
            start = datetime(int(parts[1]), int(parts[2]), 1, tzinfo=UTC)
            return start, (start + timedelta(days=32)).replace(day=1), f"{start:%B %Y}"
    except (ValueError, OverflowError):
        pass
    raise UnknownList(f"there is no {kind} {name[:20]!r}")
