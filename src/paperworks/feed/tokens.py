"""Links that prove something: signed, short-lived, and, where they sign someone in, good for one use."""

import hashlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from filelock import FileLock
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from paperworks.evidence.files import write_atomically
from paperworks.feed.schema import SpentToken
from paperworks.feed.store import FeedStore

LIVES = {
    "sign-in": timedelta(minutes=15),
    "confirm": timedelta(days=2),
    "unsubscribe": timedelta(days=365),
    "form": timedelta(hours=12),
}
"""How long a token of each purpose is good."""
MAX_LENGTH = 1000
MIN_SECRET = 32


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
        if len(secret) < MIN_SECRET:
            raise ValueError(f"secret has {len(secret)} characters; it takes at least {MIN_SECRET}")
        self._secret = secret

    def make(self, purpose: str, data: dict[str, Any]) -> str:
        """Return a token of a purpose.

        Parameters
        ----------
        purpose
            What the token is for; one made for another purpose is refused.
        data
            JSON values that the token carries.

        Returns
        -------
        str
            The data, the time and a signature, safe in an address.
        """
        return self._serializer(purpose).dumps({**data, "nonce": secrets.token_urlsafe(8)})

    def read(self, purpose: str, token: str) -> dict[str, Any]:
        """Return what a token says; signatures are compared in constant time.

        Parameters
        ----------
        purpose
            What the token has to be for.
        token
            What `make` returned.

        Returns
        -------
        dict[str, Any]
            The JSON values that were given to `make`.

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

        Parameters
        ----------
        store
            Where spent tokens are kept.
        purpose
            What the token has to be for.
        token
            What `make` returned.

        Returns
        -------
        dict[str, Any]
            The JSON values that were given to `make`.

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
                session.execute(insert(SpentToken).values(digest=digest, expires=now + LIVES[purpose]))
        except IntegrityError:
            raise BadToken("this link was used already; ask for a new one") from None
        return data

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self._secret, salt=f"paperworks 2: {purpose}", signer_kwargs={"digest_method": hashlib.sha256}
        )


def site_secret(store: FeedStore) -> str:
    """Return the site's secret: ``$PAPERWORKS_SECRET``, or one made once and kept beside the database for its owner.

    It is written whole or not at all, by one process.

    Raises
    ------
    ValueError
        For one of less than 32 characters.
    OSError
        Where it can't be written.
    """
    if given := os.environ.get("PAPERWORKS_SECRET"):
        return Tokens(given)._secret
    path = store.folder / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with FileLock(path.with_name("secret.lock")):
            if not path.exists():
                write_atomically(path, secrets.token_urlsafe(48).encode(), mode=0o600)
    kept = path.read_text(encoding="ascii").strip()
    if len(kept) < MIN_SECRET:
        raise ValueError(
            f"the secret in {path} has {len(kept)} characters; it takes at least {MIN_SECRET}: delete the file, and a "
            "new one is made"
        )
    return kept
