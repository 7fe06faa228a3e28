"""What the feed forgets by itself: what was kept for a time that is over."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, CursorResult, delete
from sqlalchemy.orm import Session

from paperworks.feed.schema import Base, Hit, Send, SignIn, SpentToken
from paperworks.feed.store import FeedStore

SENDS_KEPT = timedelta(days=90)
"""How long the feed knows which digests it sent to whom."""


def forget(store: FeedStore, *, now: datetime | None = None) -> dict[str, int]:
    """Delete ended sessions, links and limits that expired, and what is known of digests of long ago.

    Parameters
    ----------
    store
        The feed.
    now
        The time; by default the clock's.

    Returns
    -------
    dict[str, int]
        How many rows of each table were deleted.

    Examples
    --------
    >>> forget(FeedStore("sqlite://"))
    {'hits': 0, 'sign_ins': 0, 'spent_tokens': 0, 'sends': 0}
    """
    now = now or datetime.now(UTC)
    over: list[tuple[type[Base], ColumnElement[bool]]] = [
        *((table, table.expires < now) for table in (Hit, SignIn, SpentToken)),
        (Send, Send.changed < now - SENDS_KEPT),
    ]
    with store.session() as session:
        return {table.__tablename__: _deleted(session, table, ended) for table, ended in over}


def _deleted(session: Session, table: type[Base], ended: ColumnElement[bool]) -> int:
    result = session.execute(delete(table).where(ended))
    assert isinstance(result, CursorResult)
    return result.rowcount
