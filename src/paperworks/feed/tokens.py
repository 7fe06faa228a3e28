"""Links that prove something: signed, short-lived, and, where they sign someone in, good for one use."""

import hashlib
import os
import secrets
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError

from paperworks.feed.schema import SpentToken
from paperworks.feed.store import FeedStore

LIVES = {
    "sign-in": timedelta(minutes=15),
    "confirm": timedelta(days=2),
    "unsubscribe": timedelta(days=365),
    "session": timedelta(days=30),
    "form": timedelta(hours=12),
}
"""How long a token of each purpose is good."""
MAX_LENGTH = 1000


class BadToken(ValueError):
    """A token that is forged, for another purpose, too old or used up; the message says which without detail."""


class Tokens:
    """Makes and reads signed tokens.

    Parameters
    ----------
    secret
        At least 32 characters; whoever knows it can forge tokens.

    Raises
    ------
    ValueError
        For a shorter one.

    Examples
    --------
    >>> tokens = Tokens("x" * 32)
    >>> tokens.read("confirm", tokens.make("confirm", {"person": 1}))
    {'person': 1}
    >>> tokens.read("sign-in", tokens.make("confirm", {"person": 1}))
    Traceback (most recent call last):
    ...
    paperworks.feed.tokens.BadToken: this link is not valid
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < 32:
            raise ValueError(f"secret has {len(secret)} characters; it takes at least 32")
        self._secret = secret

    def make(self, purpose: str, data: dict[str, Any]) -> str:
        """Return a token of a purpose."""
        return self._serializer(purpose).dumps({**data, "nonce": secrets.token_urlsafe(8)})

    def read(self, purpose: str, token: str) -> dict[str, Any]:
        """Return what a token says; signatures are compared in constant time.

        Raises
        ------
        BadToken
            For one that isn't good.
        """
        data = self._load(purpose, token)
        data.pop("nonce", None)
        return data

    def _load(self, purpose: str, token: str) -> dict[str, Any]:
        try:
            if len(token) > MAX_LENGTH:
                raise BadSignature("too long")
            data: dict[str, Any] = self._serializer(purpose).loads(token, max_age=int(LIVES[purpose].total_seconds()))
        except SignatureExpired:
            raise BadToken("this link is too old; ask for a new one") from None
        except BadSignature:
            raise BadToken("this link is not valid") from None
        return data

    def spend(self, store: FeedStore, purpose: str, token: str) -> dict[str, Any]:
        """Return what a token says, once: a second time it is refused.

        Raises
        ------
        BadToken
            For one that isn't good, or was used.
        """
        data, now = self._load(purpose, token), datetime.now(UTC)
        # What was signed, not how it is spelt: the last character of a signature has bits that nobody reads.
        digest = hashlib.sha256(f"{purpose}:{data.pop('nonce')}".encode()).hexdigest()
        try:
            with store.session() as session:
                session.execute(delete(SpentToken).where(SpentToken.expires < now))
                session.execute(insert(SpentToken).values(digest=digest, expires=now + LIVES[purpose]))
        except IntegrityError:
            raise BadToken("this link was used already; ask for a new one") from None
        return data

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self._secret, salt=f"paperworks:{purpose}", signer_kwargs={"digest_method": hashlib.sha256}
        )


def site_secret(store: FeedStore) -> str:
    """Return the site's secret: ``$PAPERWORKS_SECRET``, or one made once and kept beside the database for its owner.

    Raises
    ------
    ValueError
        For one of less than 32 characters.
    """
    if given := os.environ.get("PAPERWORKS_SECRET"):
        return Tokens(given)._secret
    path = store.folder / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        return _written(path)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(48))
    return _written(path)


def _written(path: Path) -> str:
    return Tokens(path.read_text(encoding="ascii").strip())._secret
