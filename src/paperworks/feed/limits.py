"""Limits on how often something is done, counted in the database so that they hold across processes."""

import hashlib
import ipaddress
import time
from datetime import UTC, datetime

from sqlalchemy import select

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
        What is done, and by whom: an address, kept as a hash only, until the window ends.
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
    end = (window + 1) * seconds
    key = f"{action}:{hashlib.sha256(who.encode(errors='replace')).hexdigest()[:32]}"
    if store.on_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    expires = datetime.fromtimestamp(end, UTC)
    statement = insert(Hit).values(key=key, window=window, count=1, expires=expires)
    with store.session() as session:
        session.execute(
            statement.on_conflict_do_update(index_elements=["key", "window"], set_={"count": Hit.count + 1})
        )
        count = session.scalar(select(Hit.count).where(Hit.key == key, Hit.window == window)) or 0
    if count > times:
        raise TooOften(max(1, round(end - moment)))


def client_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 one, of which a client has many.

    Examples
    --------
    >>> client_of("192.0.2.1"), client_of("2001:db8:1:2:3:4:5:6"), client_of("::ffff:192.0.2.1")
    ('192.0.2.1', '2001:db8:1:2::/64', '192.0.2.1')
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
