"""The digest posted to a webhook: JSON that Slack and what is compatible with it show, signed, and tried again."""

import hashlib
import hmac
import ipaddress
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import select

from paperworks.core.validation import check_choice
from paperworks.feed.digest import Frequency, Section, alone, digest_of, sections_for_all
from paperworks.feed.schema import Digest, Post
from paperworks.feed.store import FeedStore

MAX_ATTEMPTS = 5
LEAST_SECRET = 16
_FIRST_PAUSE = timedelta(minutes=5)
_BLOCK, _TITLE = 2700, 200  # characters; Slack takes 3000 in a block, in which there is a link to the rest


@dataclass(frozen=True)
class Webhook:
    """Where digests are posted to.

    Parameters
    ----------
    url
        An address with ``https``, or ``http`` on this machine.
    secret
        What requests are signed with, of at least 16 characters.

    Raises
    ------
    ValueError
        For another kind of address, or a short secret.

    Examples
    --------
    >>> Webhook("http://example.org/hook", "s" * 32)
    Traceback (most recent call last):
    ...
    ValueError: url is 'http://example.org'; it takes an address with https, since posts hold a signature
    """

    url: str = field(repr=False)
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port, httpx.URL(self.url)
        except (ValueError, httpx.InvalidURL) as error:
            raise ValueError(f"url is no address: {error}") from None
        shown = f"{parts.scheme}://{parts.hostname}"  # the path of a hook is a secret itself
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {shown!r}; it takes an address such as https://hooks.example.org/...")
        if parts.scheme == "http" and not _is_local(parts.hostname):
            raise ValueError(f"url is {shown!r}; it takes an address with https, since posts hold a signature")
        if len(self.secret) < LEAST_SECRET:
            raise ValueError(f"secret has {len(self.secret)} characters; it takes at least {LEAST_SECRET}")

    @property
    def name(self) -> str:
        """What its deliveries are kept under: a hash."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def headers(self, body: bytes, delivery: str, now: float) -> dict[str, str]:
        """Return the headers of a request with a body.

        `verify_signature` is what the other side computes.

        Parameters
        ----------
        body
            Of the request.
        delivery
            The digest that it is, by which whoever gets a post twice knows it.
        now
            The time in seconds.

        Returns
        -------
        dict[str, str]
            Content type, delivery and signature.
        """
        moment = str(int(now))
        return {
            "Content-Type": "application/json",
            "X-Paperworks-Delivery": delivery,
            "X-Paperworks-Signature": f"t={moment},v1={_signature(self.secret, moment, body)}",
        }


def verify_signature(secret: str, body: bytes, header: str, *, now: float | None = None, seconds: int = 300) -> bool:
    """Tell whether a post is from whoever knows the secret, and not an old one that is sent again.

    Parameters
    ----------
    secret
        The webhook's secret.
    body
        The body as it came.
    header
        The header ``X-Paperworks-Signature``: ``t=`` a time, ``v1=`` HMAC-SHA256 of ``<time>.<body>`` in hex.
    now
        The time in seconds; by default the clock's.
    seconds
        How old it may be.

    Returns
    -------
    bool
        Whether it is genuine.

    Examples
    --------
    >>> hook = Webhook("https://hooks.example.org/x", "0123456789abcdef")
    >>> header = hook.headers(b"{}", "weekly-2026-W48", 1000.0)["X-Paperworks-Signature"]
    >>> verify_signature(hook.secret, b"{}", header, now=1010.0), verify_signature(hook.secret, b"{}", header, now=9e9)
    (True, False)
    """
    found = re.fullmatch(r"t=(\d{1,12}),v1=([0-9a-f]{64})", header)
    if not found or abs((time.time() if now is None else now) - int(found[1])) > seconds:
        return False
    return hmac.compare_digest(_signature(secret, found[1], body), found[2])


def post_digest(
    store: FeedStore,
    webhook: Webhook,
    base_url: str,
    frequency: Frequency = "weekly",
    *,
    now: datetime | None = None,
    client: httpx.Client | None = None,
) -> str:
    """Post the digest of the day or week, unless that was done; what fails for now is tried again by later calls.

    A server that is down, too busy or slow is asked again after 5 minutes, 10, 20, ..., five times in all, or later
    where it says so; what it refuses for good isn't. A post whose answer was lost is sent again with the same
    ``X-Paperworks-Delivery``.

    Parameters
    ----------
    store
        The feed.
    webhook
        Where to.
    base_url
        The site's address, for links.
    frequency
        ``daily`` or ``weekly``.
    now
        The moment; by default the clock's.
    client
        What sends; by default one that follows no redirects.

    Returns
    -------
    str
        ``sent``, ``retry``, ``failed``, or ``nothing due``.

    Raises
    ------
    ValueError
        For another frequency.
    DigestRunning
        Where another process sends digests.
    """
    check_choice("frequency", frequency, ("daily", "weekly"))
    now = now or datetime.now(UTC)
    with alone(store):
        digest = digest_of(store, frequency, now)
        with store.session() as session:
            found = session.scalar(select(Post).where(Post.digest_id == digest, Post.hook == webhook.name))
            attempts = found.attempts if found else 0
            due = found is None or (found.state == "retry" and (found.next_attempt or now) <= now)
            issue = session.get_one(Digest, digest)
            period = issue.period
        if not due:
            return "nothing due"
        body = json.dumps(message(f"Daily Papers, {period}", sections_for_all(store, digest, base_url))).encode()
        state, error, pause = _post(webhook, body, f"{frequency}-{period}", client)
        if state == "retry" and attempts + 1 >= MAX_ATTEMPTS:
            state = "failed"
        with store.session() as session:
            kept = session.scalar(select(Post).where(Post.digest_id == digest, Post.hook == webhook.name))
            if kept is None:
                kept = Post(digest_id=digest, hook=webhook.name, attempts=0)
                session.add(kept)
            kept.attempts, kept.state, kept.error, kept.changed = attempts + 1, state, error[:500], now
            kept.next_attempt = now + max(_FIRST_PAUSE * 2**attempts, pause) if state == "retry" else None
    return state


def message(title: str, sections: list[Section]) -> dict[str, Any]:
    """Return the JSON of a post, as Slack's incoming webhooks take it.

    Parameters
    ----------
    title
        Of the digest.
    sections
        Its parts.

    Returns
    -------
    dict[str, Any]
        ``text`` for those who show no blocks, and ``blocks``.
    """
    blocks: list[dict[str, Any]] = [{"type": "header", "text": {"type": "plain_text", "text": title[:150]}}]
    for section in sections:
        lines = [f"*{_escape(section.title)}*"]
        lines += [f"• <{link}|{_escape(text)}>" if link else f"• {_escape(text)}" for text, link in section.lines]
        more = section.more
        while len("\n".join(lines)) > _BLOCK:
            lines.pop()
            more += 1
        if more:
            lines.append(f"<{section.link}|and {more} more>")
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(lines)}})
    return {"text": f"{title}: {sections[0].link}" if sections else title, "blocks": blocks}


def _post(webhook: Webhook, body: bytes, delivery: str, client: httpx.Client | None) -> tuple[str, str, timedelta]:
    """Return what became of a post, what went wrong, and how long its server wants to be left alone."""
    headers = webhook.headers(body, delivery, time.time())
    own = client or httpx.Client(timeout=10, follow_redirects=False)
    try:
        with own.stream("POST", webhook.url, content=body, headers=headers) as answer:
            status, later = answer.status_code, answer.headers.get("retry-after", "")
    except httpx.HTTPError as error:
        return "retry", type(error).__name__, timedelta()  # its words may hold the address
    finally:
        if client is None:
            own.close()
    if 200 <= status < 300:
        return "sent", "", timedelta()
    pause = min(_pause(later), timedelta(days=1))
    return ("retry" if status in (408, 425, 429) or status >= 500 else "failed"), f"status {status}", pause


def _pause(later: str) -> timedelta:
    """Return how long a server wants to be left alone, which it says in seconds or as a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"[0-9]{1,6}", later):
        return timedelta(seconds=int(later))
    try:
        return max(timedelta(), parsedate_to_datetime(later) - datetime.now(UTC))
    except (ValueError, TypeError):  # no date, or one without a zone
        return timedelta()


def _signature(secret: str, moment: str, body: bytes) -> str:
    return hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()


def _escape(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= _TITLE else f"{text[:_TITLE]} …"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\u00a6")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
