"""Sessions: who a browser is signed in as, kept by the server, so that each of them can be ended."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from paperworks.feed.schema import SignIn
from paperworks.feed.store import FeedStore

SESSION_LIFE = timedelta(days=30)
"""How long a session is good, from signing in."""


class Sessions:
    """Opens, reads and ends sessions. A session is a random token, of which the database has only the hash.

    Parameters
    ----------
    store
        The feed.

    Examples
    --------
    >>> from paperworks.feed.people import People
    >>> store = FeedStore("sqlite://")
    >>> sessions, ann = Sessions(store), People(store).of_email("ann@example.org")
    >>> token = sessions.open(ann)
    >>> sessions.person(token) == ann, sessions.person("a guess")
    (True, None)
    >>> sessions.end(ann)
    >>> sessions.person(token)
    """

    def __init__(self, store: FeedStore) -> None:
        self.store = store

    def open(self, person: int, *, now: datetime | None = None) -> str:
        """Return the token of a new session of someone.

        Raises
        ------
        LookupError
            For nobody.
        """
        now = now or datetime.now(UTC)
        token = secrets.token_urlsafe(32)
        try:
            with self.store.session() as session:
                expires = now + SESSION_LIFE
                session.add(SignIn(digest=_digest(token), person_id=person, created=now, expires=expires))
        except IntegrityError:
            raise LookupError(f"there is no person {person}") from None
        return token

    def person(self, token: str, *, now: datetime | None = None) -> int | None:
        """Return whose session a token is of; None where it is unknown, too old or ended."""
        now = now or datetime.now(UTC)
        with self.store.session() as session:
            return session.scalar(select(SignIn.person_id).where(SignIn.digest == _digest(token), SignIn.expires > now))

    def end(self, person: int) -> None:
        """End all sessions of someone, on whatever device."""
        with self.store.session() as session:
            session.execute(delete(SignIn).where(SignIn.person_id == person))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
