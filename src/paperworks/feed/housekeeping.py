"""What the feed forgets by itself: what was kept for a time that is over."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete

from paperworks.feed.schema import Hit, Send, SignIn, SpentToken
from paperworks.feed.store import FeedStore

SENDS_KEPT = timedelta(days=90)
"""How long the feed knows which digests it sent to whom."""


def forget(store: FeedStore, *, now: datetime | None = None) -> None:
    """Delete ended sessions, links and limits that expired, and what is known of digests of long ago.

    Examples
    --------
    >>> store = FeedStore("sqlite://")
    >>> forget(store)
    """
    now = now or datetime.now(UTC)
    with store.session() as session:
        for table in (Hit, SignIn, SpentToken):
            session.execute(delete(table).where(table.expires < now))
        session.execute(delete(Send).where(Send.changed < now - SENDS_KEPT))
