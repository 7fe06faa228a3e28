"""What people look at: votes, reads and runs of claims, each counting for less the longer ago it was."""

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from sqlalchemy import ColumnElement, func, or_, select, true
from sqlalchemy.orm import Session

from paperworks.core.validation import check_choice
from paperworks.feed.schema import NEWEST, Activity, FeedPaper, Vote
from paperworks.feed.store import FeedStore

Period = Literal["day", "week", "month"]
HALF_LIVES = {"day": 0.5, "week": 3.5, "month": 15.0}
"""Days after which an event counts for half."""
WEIGHTS = {"vote": 4.0, "run": 2.0, "read": 1.0}
UPVOTE = 1.0
"""What a vote at the source counts for, from the day that the paper was published."""
_AT_ONCE = 5000
"""Numbers of papers in one statement: SQLite takes 32,766, PostgreSQL 65,535."""
_LIVES = 8
"""Events older than this many half-lives count for less than half a per cent, and are left out."""


def trending(
    store: FeedStore, period: Period = "week", *, field: str = "", limit: int = 50, now: datetime | None = None
) -> list[tuple[int, float]]:
    """Return the papers that are looked at most, with their heat.

    The heat of a paper is ``sum_e w_e 2^(-age_e / h)`` over its events: w is 4 for a vote, 2 for a run of a claim, 1
    for a read and 1 for each vote at the source it came from, whose age is the paper's; h is half of the period. One
    more event never lowers a paper, and an event never counts for more when it is older. Where heats tie, the paper
    that was published later comes first, and then the one that was added later.

    The catalogue that Paperworks ships is read and run as a manual is, on every site and at any time. So reads and runs
    of its papers order them among each other, below the papers of the time, which came in or were published in the
    last week, or month for ``month``, and above the rest; votes for them count as for all.

    Parameters
    ----------
    store
        The feed.
    period
        ``day``, ``week`` or ``month``.
    field
        One of our fields or a category of arXiv, of which all papers are; by default of any.
    limit
        How many papers.
    now
        From when ages count.

    Raises
    ------
    ValueError
        For another period.

    Examples
    --------
    >>> from paperworks.feed import Entry
    >>> store = FeedStore("sqlite://")
    >>> _ = store.add([Entry(title="Old news"), Entry(title="New", upvotes=3)])
    >>> [paper_id for paper_id, _ in trending(store)]
    [2, 1]
    """
    check_choice("period", period, tuple(HALF_LIVES))
    now = now or datetime.now(UTC)
    half_life = HALF_LIVES[period]
    since = now - timedelta(days=half_life * _LIVES)
    heat: dict[int, float] = {}
    manual: dict[int, float] = {}

    def warm(paper_id: int, weight: float, at: datetime, heat: dict[int, float] = heat) -> None:
        age = max(0.0, (now - at) / timedelta(days=1))
        heat[paper_id] = heat.get(paper_id, 0.0) + weight * float(np.exp2(-age / half_life))

    with store.session() as session:
        for paper_id, at in session.execute(select(Vote.paper_id, Vote.at).where(Vote.at >= since)):
            warm(paper_id, WEIGHTS["vote"], at)
        shipped = set(session.scalars(select(FeedPaper.id).where(FeedPaper.slug.is_not(None))))
        parts = (Activity.paper_id, Activity.kind, Activity.day, Activity.count)
        for paper_id, kind, day, count in session.execute(select(*parts).where(Activity.day >= since.date())):
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)  # a count is of a whole day
            warm(paper_id, WEIGHTS[kind] * count, min(noon, now), manual if paper_id in shipped else heat)
        upvoted = select(FeedPaper.id, FeedPaper.upvotes, FeedPaper.published).where(
            FeedPaper.published >= since, FeedPaper.upvotes > 0
        )
        for paper_id, upvotes, published in session.execute(upvoted):
            if published:
                warm(paper_id, UPVOTE * upvotes, published)
        here = _of_field(field)
        if field:
            inside: set[int] = set()
            seen = [*heat, *manual]
            for start in range(0, len(seen), _AT_ONCE):
                some = FeedPaper.id.in_(seen[start : start + _AT_ONCE])
                inside.update(session.scalars(select(FeedPaper.id).where(here, some)))
            heat, manual = ({i: h for i, h in heats.items() if i in inside} for heats in (heat, manual))
        ranked = _hottest(session, heat, limit)
        recent = now - timedelta(days=30 if period == "month" else 7)
        newest = select(FeedPaper.id).where(here).order_by(*NEWEST)
        of_the_time = newest.where(
            or_(FeedPaper.published >= recent, FeedPaper.added >= recent), FeedPaper.slug.is_(None)
        )
        for rest in (of_the_time, None, newest):
            if (missing := limit - len(ranked)) <= 0:
                break
            if rest is None:
                ranked += _hottest(session, {i: h for i, h in manual.items() if i not in heat}, missing)
            else:
                ranked += session.scalars(rest.where(FeedPaper.id.not_in(ranked)).limit(missing))
    return [(paper_id, heat.get(paper_id, 0.0)) for paper_id in ranked]


def _of_field(field: str) -> ColumnElement[bool]:
    """Return the condition that a field is among the categories, which stand between spaces."""
    if not field:
        return true()
    return (" " + func.lower(FeedPaper.categories) + " ").contains(f" {field.lower()} ", autoescape=True)


def _hottest(session: Session, heat: dict[int, float], limit: int) -> list[int]:
    hottest = sorted(heat, key=lambda i: -heat[i])[: limit * 2 + 100]
    columns = select(FeedPaper.id, FeedPaper.published).where(FeedPaper.id.in_(hottest))
    dates = {row.id: row.published for row in session.execute(columns)}
    return sorted(dates, key=lambda i: (-heat[i], -_seconds(dates[i]), -i))[:limit]


def _seconds(published: datetime | None) -> float:
    return published.timestamp() if published else -math.inf


def record(store: FeedStore, kind: Literal["read", "run"], paper_id: int, *, count: int = 1) -> None:
    """Count that a paper was read, or claims of it run, today.

    Raises
    ------
    ValueError
        For another kind.
    """
    check_choice("kind", kind, ("read", "run"))
    if store.on_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    today = datetime.now(UTC).date()
    statement = insert(Activity).values(paper_id=paper_id, kind=kind, day=today, count=count)
    with store.session() as session:
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["paper_id", "kind", "day"], set_={"count": Activity.count + count}
            )
        )


def votes_of(store: FeedStore, paper_ids: list[int]) -> dict[int, int]:
    """Return how many votes each paper has, those at its source included."""
    with store.session() as session:
        votes = select(Vote.paper_id, func.count()).where(Vote.paper_id.in_(paper_ids)).group_by(Vote.paper_id)
        counts = {row[0]: row[1] for row in session.execute(votes)}
        upvotes = select(FeedPaper.id, FeedPaper.upvotes).where(FeedPaper.id.in_(paper_ids))
        return {i: n + counts.get(i, 0) for i, n in session.execute(upvotes)}
