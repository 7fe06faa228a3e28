"""Tokens by which scripts act for someone: random, shown once, kept as hashes, and ended one by one."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from paperworks.feed.schema import ApiToken
from paperworks.feed.store import FeedStore

MOST = 20
"""Tokens of one person."""
_PREFIX = "pw_"  # by which scanners of leaked secrets know it
_OFTEN = timedelta(minutes=10)


@dataclass(frozen=True)
class Known:
    """What is known of a token.

    Parameters
    ----------
    id
        Its number.
    name
        What its owner calls it.
    created, used
        When it was made, and about when it was last used; None where it never was.
    """

    id: int
    name: str
    created: datetime
    used: datetime | None


class ApiTokens:
    """The tokens of scripts.

    Parameters
    ----------
    store
        The feed.

    Examples
    --------
    >>> from paperworks.feed.people import People
    >>> store = FeedStore("sqlite://")
    >>> tokens, ann = ApiTokens(store), People(store).of_email("ann@example.org")
    >>> token = tokens.make(ann, "my laptop")
    >>> tokens.person(token) == ann, tokens.person("pw_a-guess")
    (True, None)
    >>> tokens.end(ann, tokens.of(ann)[0].id)
    >>> tokens.person(token)
    """

    def __init__(self, store: FeedStore) -> None:
        self.store = store

    def make(self, person: int, name: str, *, now: datetime | None = None) -> str:
        """Return a new token of someone, which nobody can be shown again.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        name
            What it is for, in at most 60 characters.
        now
            The time; by default the clock's.

        Returns
        -------
        str
            The token.

        Raises
        ------
        ValueError
            For no name, a long one or one that can't be shown, and where someone has twenty tokens.
        LookupError
            For nobody.
        """
        name = " ".join(name.split())
        if not 1 <= len(name) <= 60:
            raise ValueError(f"name has {len(name)} characters; it takes 1 to 60")
        if not name.isprintable():
            raise ValueError(f"name is {name!r}, which holds characters that can't be shown")
        token = _PREFIX + secrets.token_urlsafe(32)
        try:
            with self.store.session() as session:
                mine = select(func.count()).select_from(ApiToken).where(ApiToken.person_id == person)
                if (session.scalar(mine) or 0) >= MOST:
                    raise ValueError(f"there are {MOST} tokens; end one of them first")
                created = now or datetime.now(UTC)
                session.add(ApiToken(digest=_digest(token), person_id=person, name=name, created=created))
        except IntegrityError:
            raise LookupError(f"there is no person {person}") from None
        return token

    def person(self, token: str, *, now: datetime | None = None) -> int | None:
        """Return whom a token is of; None where it is unknown or ended.

        Parameters
        ----------
        token
            What a script sent.
        now
            The time; by default the clock's.

        Returns
        -------
        int | None
            Number of the person, or None.
        """
        if not token.startswith(_PREFIX):
            return None
        now = now or datetime.now(UTC)
        with self.store.session() as session:
            found = session.scalar(select(ApiToken).where(ApiToken.digest == _digest(token)))
            if found is None:
                return None
            if found.used is None or now - found.used > _OFTEN:  # a write for each request would cost more than it
                session.execute(update(ApiToken).where(ApiToken.id == found.id).values(used=now))
            return found.person_id

    def of(self, person: int) -> list[Known]:
        """Return someone's tokens.

        Parameters
        ----------
        person
            Number of the person.

        Returns
        -------
        list[Known]
            What is known of each, the oldest first.
        """
        columns = (ApiToken.id, ApiToken.name, ApiToken.created, ApiToken.used)
        with self.store.session() as session:
            rows = session.execute(select(*columns).where(ApiToken.person_id == person).order_by(ApiToken.id))
            return [Known(*row) for row in rows]

    def end(self, person: int, id: int) -> None:
        """End one of someone's tokens; where there is none, nothing changes.

        Parameters
        ----------
        person
            Number of the person.
        id
            Number of the token.
        """
        with self.store.session() as session:
            session.execute(delete(ApiToken).where(ApiToken.id == id, ApiToken.person_id == person))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
