"""Limits on how often something is done, counted in the database so that they hold across processes."""

import hashlib
import time

from sqlalchemy import delete, select

from paperworks.core.validation import check_count
from paperworks.feed.schema import Hit
from paperworks.feed.store import FeedStore


class TooOften(RuntimeError):
    """Something was done more often than it may be; `seconds` is how long to wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"this was asked for too often; try again in {seconds} seconds")
        self.seconds = seconds


def limit(store: FeedStore, action: str, who: str, *, times: int, seconds: int, now: float | None = None) -> None:
    """Count that someone does something, and refuse where it was done `times` times in this window of time.

    Parameters
    ----------
    store
        The feed.
    action, who
        What is done, and by whom: an address, kept as a hash only.
    times, seconds
        How often, in how long.
    now
        The time; by default the clock's.

    Raises
    ------
    TooOften
        Where it is too often.

    Examples
    --------
    >>> store = FeedStore("sqlite://")
    >>> limit(store, "vote", "192.0.2.1", times=1, seconds=60, now=120.0)
    >>> limit(store, "vote", "192.0.2.1", times=1, seconds=60, now=121.0)
    Traceback (most recent call last):
    ...
    paperworks.feed.limits.TooOften: this was asked for too often; try again in 59 seconds
    """
    check_count("times", times)
    moment = time.time() if now is None else now
    window = int(moment // check_count("seconds", seconds))
    key = f"{action}:{hashlib.sha256(who.encode()).hexdigest()[:32]}"
    if store.on_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    statement = insert(Hit).values(key=key, window=window, count=1)
    with store.session() as session:
        session.execute(delete(Hit).where(Hit.key == key, Hit.window < window))
        session.execute(
            statement.on_conflict_do_update(index_elements=["key", "window"], set_={"count": Hit.count + 1})
        )
        count = session.scalar(select(Hit.count).where(Hit.key == key, Hit.window == window)) or 0
    if count > times:
        raise TooOften(max(1, round((window + 1) * seconds - moment)))
