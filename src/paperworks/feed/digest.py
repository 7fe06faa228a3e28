"""The digest: what is trending and what saved searches found, sent to each subscriber once."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any, Literal

from filelock import FileLock, Timeout
from jinja2 import Environment, PackageLoader, select_autoescape
from sqlalchemy import select, text, update

from paperworks.core.validation import check_choice
from paperworks.feed.mail import Mailer, NotSent, Uncertain
from paperworks.feed.schema import Digest, FeedPaper, Person, SavedSearch, Send, Subscription
from paperworks.feed.search.fused import search
from paperworks.feed.search.query import BadQuery
from paperworks.feed.store import FeedStore
from paperworks.feed.tokens import Tokens
from paperworks.feed.trending import trending

Frequency = Literal["daily", "weekly"]
TRENDING, PER_SEARCH = 10, 5
MAX_ATTEMPTS = 5
MAX_BOUNCES = 3
"""An address that refuses this many digests for good is unsubscribed."""
_RANKED = 3000
"""All that a search ranks, the newest matches among them: what is new need not be what fits best."""
_FIRST_PAUSE = timedelta(minutes=5)
_PERIODS: dict[str, tuple[Any, timedelta]] = {
    "daily": ("day", timedelta(days=1)),
    "weekly": ("week", timedelta(days=7)),
}


class DigestRunning(RuntimeError):
    """Another process sends this digest at the moment."""


@dataclass
class Sent:
    """What sending did: how many copies were sent, put off, refused for good, or are of unknown fate."""

    sent: int = 0
    retry: int = 0
    failed: int = 0
    uncertain: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.sent} sent, {self.retry} put off, {self.failed} refused, {self.uncertain} uncertain"


def send_digest(
    store: FeedStore,
    mailer: Mailer,
    tokens: Tokens,
    base_url: str,
    frequency: Frequency = "daily",
    *,
    now: datetime | None = None,
    progress: Callable[[Sent], None] = lambda sent: None,
) -> Sent:
    """Send the digest of the day or week to all confirmed subscribers who haven't got it.

    The claim of a recipient is committed before the connection is used. Whoever was claimed by a run that was killed
    may have got the copy: it is recorded as uncertain and never sent again by itself. What a server refuses for now is
    tried again by a later call, after 5 minutes, 10, 20, ...; what it refuses for good is recorded.

    Parameters
    ----------
    store, mailer, tokens
        The feed, the way out, and what signs the links to unsubscribe.
    base_url
        The site's address, for links.
    frequency
        ``daily`` or ``weekly``.
    now
        The moment; by default the clock's.
    progress
        Called after each copy.

    Raises
    ------
    ValueError
        For another frequency.
    DigestRunning
        Where another process is at it.
    """
    check_choice("frequency", frequency, tuple(_PERIODS))
    now = now or datetime.now(UTC)
    done = Sent()
    with _alone(store):
        digest = _digest_of(store, frequency, now)
        done.uncertain += _give_up_claims(store, digest, now)
        while (person := _claim(store, digest, frequency, now)) is not None:
            _send_one(store, mailer, tokens, base_url, digest, person, now, done)
            progress(done)
    return done


@contextmanager
def _alone(store: FeedStore) -> Iterator[None]:
    """Let one process send at a time."""
    if not store.on_sqlite:
        with store.engine.connect() as connection:
            if not connection.scalar(text("SELECT pg_try_advisory_lock(782204)")):
                raise DigestRunning("another process sends a digest at the moment")
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(782204)"))
        return
    store.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.folder / "digest.lock", timeout=0):
            yield
    except Timeout:
        raise DigestRunning("another process sends a digest at the moment") from None


def _digest_of(store: FeedStore, frequency: Frequency, now: datetime) -> int:
    """Return the digest of the period, made where there is none; what is trending in it stays the same for all."""
    year, week, _ = now.isocalendar()
    period = now.date().isoformat() if frequency == "daily" else f"{year}-W{week:02d}"
    with store.session() as session:
        if found := session.scalar(select(Digest.id).where(Digest.frequency == frequency, Digest.period == period)):
            return found
        name, length = _PERIODS[frequency]
        hot = [paper_id for paper_id, _ in trending(store, name, limit=TRENDING, now=now)]
        digest = Digest(frequency=frequency, period=period, since=now - length, until=now, trending={"papers": hot})
        session.add(digest)
        session.flush()
        return digest.id


def _give_up_claims(store: FeedStore, digest: int, now: datetime) -> int:
    """Mark copies that a killed run had claimed as uncertain."""
    with store.session() as session:
        claimed = update(Send).where(Send.digest_id == digest, Send.state == "claimed")
        left: Any = session.execute(
            claimed.values(state="uncertain", changed=now, error="the run that sent it was stopped")
        )
        return int(left.rowcount)


def _claim(store: FeedStore, digest: int, frequency: str, now: datetime) -> int | None:
    """Claim the next recipient, and return who it is; committed before anything is sent."""
    with store.session() as session:
        due = select(Send).where(Send.digest_id == digest, Send.state == "retry", Send.next_attempt <= now)
        if again := session.scalar(due.order_by(Send.id).limit(1)):
            again.state, again.changed, again.attempts = "claimed", now, again.attempts + 1
            return again.person_id
        had = select(Send.id).where(Send.digest_id == digest, Send.person_id == Subscription.person_id).exists()
        until = select(Digest.until).where(Digest.id == digest).scalar_subquery()
        person = session.scalar(
            select(Subscription.person_id)
            .where(Subscription.frequency == frequency, Subscription.confirmed <= until, ~had)
            .order_by(Subscription.person_id)
            .limit(1)
        )
        if person is not None:
            session.add(Send(digest_id=digest, person_id=person, state="claimed", attempts=1, changed=now))
        return person


def _send_one(
    store: FeedStore, mailer: Mailer, tokens: Tokens, base_url: str, digest: int, person: int, now: datetime, done: Sent
) -> None:
    state, problem = "sent", ""
    try:
        message = compose(store, mailer, tokens, base_url, digest, person)
        mailer.send(message)
        done.sent += 1
    except Uncertain as error:
        state, problem = "uncertain", str(error)
        done.uncertain += 1
    except NotSent as error:
        problem = str(error)
        with store.session() as session:
            attempts = session.scalar(select(Send.attempts).where(Send.digest_id == digest, Send.person_id == person))
        state = "failed" if error.permanent or (attempts or 0) >= MAX_ATTEMPTS else "retry"
        done.failed += state == "failed"
        done.retry += state == "retry"
    if problem:
        done.problems.append(problem)
    with store.session() as session:
        send = session.scalars(select(Send).where(Send.digest_id == digest, Send.person_id == person)).one()
        send.state, send.error, send.changed = state, problem[:500], now
        send.next_attempt = now + _FIRST_PAUSE * 2 ** (send.attempts - 1) if state == "retry" else None
        if state == "failed":
            subscription = session.get(Subscription, person)
            if subscription is not None:
                subscription.bounces += 1
                if subscription.bounces >= MAX_BOUNCES:
                    session.delete(subscription)


def compose(store: FeedStore, mailer: Mailer, tokens: Tokens, base_url: str, digest: int, person: int) -> EmailMessage:
    """Return someone's copy of a digest, always with the same Message-ID.

    Raises
    ------
    LookupError
        For a digest or person that isn't there.
    """
    base_url = base_url.rstrip("/")
    with store.session() as session:
        session.expire_on_commit = False
        issue, who = session.get(Digest, digest), session.get(Person, person)
        if issue is None or who is None:
            raise LookupError(f"there is no digest {digest} or person {person}")
        searches = session.scalars(select(SavedSearch.query).where(SavedSearch.person_id == person)).all()
    sections = [("Trending", _papers(store, issue.trending["papers"]))]
    for query in searches:
        if papers := _found(store, query, issue):
            sections.append((f"New for “{query}”", papers))
    stop = f"{base_url}/unsubscribe/{tokens.make('unsubscribe', {'person': person})}"
    manage = f"{base_url}/subscription"
    values = {"issue": issue, "sections": sections, "base_url": base_url, "unsubscribe": stop, "manage": manage}
    domain = parseaddr(mailer.sender)[1].rpartition("@")[2]
    name = hashlib.sha256(f"{issue.frequency} {issue.period} {who.email}".encode()).hexdigest()[:32]
    return mailer.message(
        who.email,
        f"Daily Papers, {issue.period}",
        _templates().get_template("digest.txt").render(values),
        _templates().get_template("digest.html").render(values),
        Message_ID=f"<{name}@{domain}>",
        List_Unsubscribe=f"<{stop}>",
        List_Unsubscribe_Post="List-Unsubscribe=One-Click",
        List_Id=f"Daily Papers <daily-papers.{domain}>",
        Precedence="bulk",
        Auto_Submitted="auto-generated",
    )


def uncertain_sends(store: FeedStore) -> list[dict[str, Any]]:
    """Return the copies of which nobody knows whether they arrived, for whoever runs the site to look at."""
    with store.session() as session:
        rows = session.execute(
            select(Digest.frequency, Digest.period, Person.email, Send.changed, Send.error)
            .join(Digest, Digest.id == Send.digest_id)
            .join(Person, Person.id == Send.person_id)
            .where(Send.state == "uncertain")
            .order_by(Send.id)
        )
        return [dict(row) for row in rows.mappings()]


def _papers(store: FeedStore, ids: list[int]) -> list[FeedPaper]:
    with store.session() as session:
        session.expire_on_commit = False
        found = {paper.id: paper for paper in session.scalars(select(FeedPaper).where(FeedPaper.id.in_(ids)))}
    return [found[i] for i in ids if i in found]


def _found(store: FeedStore, query: str, issue: Digest) -> list[FeedPaper]:
    try:
        found = search(store, query, limit=_RANKED).ids
    except BadQuery:
        return []
    return [paper for paper in _papers(store, found) if issue.since < paper.added <= issue.until][:PER_SEARCH]


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("paperworks.feed"), autoescape=select_autoescape(["html"]), trim_blocks=True
    )
