"""The digest: what is trending, new, and new for saved searches, sent to each subscriber once."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any, Literal
from urllib.parse import urlencode

from filelock import FileLock, Timeout
from jinja2 import Environment, PackageLoader, select_autoescape
from sqlalchemy import ColumnElement, and_, delete, func, not_, select, text, update

from paperworks.core.validation import check_choice
from paperworks.evidence.results import results_of
from paperworks.evidence.week import week_of
from paperworks.feed.mail import Mailer, NotSent, Uncertain
from paperworks.feed.schema import NEWEST, Digest, FeedPaper, Person, SavedSearch, Send, Subscription
from paperworks.feed.search.fused import search
from paperworks.feed.search.query import BadQuery
from paperworks.feed.store import FeedStore
from paperworks.feed.tokens import Tokens
from paperworks.feed.trending import trending
from paperworks.papers import load_all

Frequency = Literal["daily", "weekly"]
TRENDING, NEW, PER_SEARCH, PER_WEEK = 10, 20, 5, 15
MAX_ATTEMPTS = 5
MAX_BOUNCES = 3
"""Someone whose address refuses this many digests in a row for good is unsubscribed."""
NEARLY_ALL = 0.9
"""Where this share of recipients is refused, the fault is not the recipients'."""
_LAST, _ENOUGH = 20, 10
"""Of how many of the last recipients it is the share, and how few are too few to tell."""
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
    """What sending did: how many copies were sent, put off, refused for good, or are of unknown fate.

    `stopped` says why the run ended before its time, where it did.

    Parameters
    ----------
    sent
        Copies that a server took.
    retry
        Copies put off until later.
    failed
        Copies refused for good.
    uncertain
        Copies of which nobody knows whether they arrived.
    problems
        What went wrong, in one line each.
    stopped
        Why the run ended before its time, empty where it didn't.
    """

    sent: int = 0
    retry: int = 0
    failed: int = 0
    uncertain: int = 0
    problems: list[str] = field(default_factory=list)
    stopped: str = ""

    def __str__(self) -> str:
        counts = f"{self.sent} sent, {self.retry} put off, {self.failed} refused, {self.uncertain} uncertain"
        return f"{counts}; {self.stopped}" if self.stopped else counts


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
    tried again by a later call, after 5 minutes, 10, 20, ...; what it refuses for good is recorded. Each copy tells of
    the papers that came in since the last one that was delivered to its subscriber, however long ago that was.

    An address that refuses three digests in a row as one that doesn't exist is unsubscribed. A run in which nearly all
    recipients are refused stops, says so, puts their copies off and counts against nobody.

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

    Returns
    -------
    Sent
        How many copies were sent, put off, refused or are uncertain.

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
    with alone(store):
        digest = digest_of(store, frequency, now)
        done.uncertain += _give_up_claims(store, digest, now)
        run = _Run(store, mailer, tokens, base_url, digest, now, done)
        while not done.stopped and (person := _claim(store, digest, frequency, now)) is not None:
            run.send_to(person)
            progress(done)
        run.end()
    return done


@contextmanager
def alone(store: FeedStore) -> Iterator[None]:
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


def digest_of(store: FeedStore, frequency: Frequency, now: datetime) -> int:
    """Return the digest of the period, made where there is none; what is trending in it stays the same for all."""
    year, week, _ = now.isocalendar()
    period = now.date().isoformat() if frequency == "daily" else f"{year}-W{week:02d}"
    with store.session() as session:
        if found := session.scalar(select(Digest.id).where(Digest.frequency == frequency, Digest.period == period)):
            return found
        hot = [paper_id for paper_id, _ in trending(store, _PERIODS[frequency][0], limit=TRENDING, now=now)]
        last = session.scalar(select(func.max(FeedPaper.id))) or 0
        told: dict[str, Any] = {"papers": hot}
        if frequency == "weekly":
            told["evidence"] = _evidence(now)
        digest = Digest(frequency=frequency, period=period, until=now, last_paper=last, trending=told)
        session.add(digest)
        session.flush()
        return digest.id


def _evidence(now: datetime) -> dict[str, Any]:
    """Return what the committed evidence of our papers says of the seven days before, as JSON."""
    week = week_of(results_of(load_all()), now.date() - timedelta(days=1))
    told = [(view.paper, view.says, view.verdict) for view in (*week.short, *week.undecided)]
    return {"sentence": week.sentence, "told": told[:PER_WEEK], "more": max(0, len(told) - PER_WEEK)}


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
        due = (
            select(Send)
            .join(Subscription, Subscription.person_id == Send.person_id)  # who unsubscribed meanwhile gets no more
            .where(Send.digest_id == digest, Send.state == "retry", Send.next_attempt <= now)
        )
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


class _Run:
    """One run of sending an issue."""

    def __init__(
        self, store: FeedStore, mailer: Mailer, tokens: Tokens, base_url: str, digest: int, now: datetime, done: Sent
    ) -> None:
        self._store, self._mailer, self._tokens, self._base_url = store, mailer, tokens, base_url
        self._digest, self._now, self._done = digest, now, done
        self._last: deque[bool] = deque(maxlen=_LAST)
        self._refused: list[int] = []
        self._gone: list[int] = []

    def send_to(self, person: int) -> None:
        """Send someone's copy, and record what became of it."""
        done, refused = self._done, None
        try:
            message = compose(self._store, self._mailer, self._tokens, self._base_url, self._digest, person)
        except LookupError:  # unsubscribed since the claim
            with self._store.session() as session:
                session.execute(delete(Send).where(Send.digest_id == self._digest, Send.person_id == person))
            return
        state, problem = "sent", ""
        try:
            self._mailer.send(message)
        except Uncertain as error:
            state, problem = "uncertain", str(error)
        except NotSent as error:
            refused, problem = error, str(error)
        with self._store.session() as session:
            send = session.scalar(select(Send).where(Send.digest_id == self._digest, Send.person_id == person))
            subscription = session.scalar(select(Subscription).where(Subscription.person_id == person))
            if refused:
                last = send is None or refused.permanent or send.attempts >= MAX_ATTEMPTS
                state = "failed" if last else "retry"
            if send is not None:
                send.state, send.error, send.changed = state, problem[:500], self._now
                send.next_attempt = self._now + _FIRST_PAUSE * 2 ** (send.attempts - 1) if state == "retry" else None
            if state == "sent" and subscription is not None:
                issue = session.get_one(Digest, self._digest)
                subscription.bounces = 0
                subscription.covered_until, subscription.covered_paper = issue.until, issue.last_paper
        setattr(done, state, getattr(done, state) + 1)
        if problem:
            done.problems.append(problem)
        if refused:
            self._refused.append(person)
            if refused.no_such_address:
                self._gone.append(person)
        if state != "uncertain":
            self._watch(refused is not None, problem)

    def _watch(self, refused: bool, problem: str) -> None:
        """Stop the run where nearly all of the last recipients were refused."""
        self._last.append(refused)
        if len(self._last) >= _ENOUGH and sum(self._last) >= NEARLY_ALL * len(self._last):
            self._done.stopped = (
                f"stopped, since {sum(self._last)} of the last {len(self._last)} recipients were refused, which is not "
                f"their fault ({problem}); none was counted, and they are tried again"
            )

    def end(self) -> None:
        """Count what addresses refused, unless nearly all did."""
        with self._store.session() as session:
            if self._done.stopped:
                again = update(Send).where(Send.digest_id == self._digest, Send.person_id.in_(self._refused))
                pause = self._now + _FIRST_PAUSE
                session.execute(again.where(Send.state == "failed").values(state="retry", next_attempt=pause))
                return
            sent = select(func.count()).where(Send.digest_id == self._digest, Send.state == "sent")
            if len(self._gone) >= NEARLY_ALL * (len(self._gone) + (session.scalar(sent) or 0)):
                if self._gone:
                    self._done.stopped = "nearly all recipients were refused, so that none was counted"
                return
            bounced = select(Subscription).where(Subscription.person_id.in_(self._gone))
            for subscription in session.scalars(bounced):
                subscription.bounces += 1
                if subscription.bounces >= MAX_BOUNCES:
                    session.delete(subscription)


def compose(store: FeedStore, mailer: Mailer, tokens: Tokens, base_url: str, digest: int, person: int) -> EmailMessage:
    """Return someone's copy of a digest, always with the same Message-ID.

    Raises
    ------
    LookupError
        For a digest that isn't there, or someone who isn't subscribed.
    """
    base_url = base_url.rstrip("/")
    with store.session() as session:
        session.expire_on_commit = False
        issue, who = session.get(Digest, digest), session.get(Person, person)
        subscription = session.scalar(select(Subscription).where(Subscription.person_id == person))
        if issue is None or who is None or subscription is None:
            raise LookupError(f"there is no digest {digest}, or no subscription of person {person}")
        searches = session.scalars(select(SavedSearch.query).where(SavedSearch.person_id == person)).all()
    new = _new(issue, subscription)
    hot = issue.trending["papers"]
    first, *last = sections_for_all(store, digest, base_url)
    sections = [first]
    with store.session() as session:
        count = session.scalar(select(func.count()).select_from(FeedPaper).where(*new, FeedPaper.id.not_in(hot))) or 0
        order = select(FeedPaper.id).where(*new, FeedPaper.id.not_in(hot)).order_by(*NEWEST)
        ids = list(session.scalars(order.limit(NEW)))
    if ids:
        sections.append(Section("New", _papers(store, ids), count - len(ids), f"{base_url}/"))
    for query in searches:
        if found := _found(store, query, new):
            link = f"{base_url}/search?{urlencode({'q': query})}"
            papers = _papers(store, found[:PER_SEARCH])
            sections.append(Section(f"New for “{query}”", papers, len(found) - len(papers), link))
    sections += last
    stop = f"{base_url}/unsubscribe/{tokens.make('unsubscribe', {'subscription': subscription.key})}"
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


@dataclass(frozen=True)
class Section:
    """A part of a copy: its papers or other lines, how many more there are, and where they all are.

    `lines` are texts with their addresses.
    """

    title: str
    papers: list[FeedPaper]
    more: int
    link: str
    lines: tuple[tuple[str, str], ...] = ()


def sections_for_all(store: FeedStore, digest: int, base_url: str) -> list[Section]:
    """Return the parts of a digest that all get alike: what is trending, and of a week its evidence.

    Parameters
    ----------
    store
        The feed.
    digest
        Number of the digest.
    base_url
        The site's address, for links.

    Returns
    -------
    list[Section]
        The parts.
    """
    base_url = base_url.rstrip("/")
    with store.session() as session:
        session.expire_on_commit = False
        issue = session.get_one(Digest, digest)
    papers = _papers(store, issue.trending["papers"])
    lines = tuple((paper.title, f"{base_url}/paper/{paper.id}") for paper in papers)
    found = [Section("Trending", papers, 0, f"{base_url}/trending/{_PERIODS[issue.frequency][0]}", lines)]
    if evidence := issue.trending.get("evidence"):
        address = f"{base_url}/results/week"
        told = [
            (f"{slug}: {says} – {verdict}", f"{base_url}/paper/{slug}#claims")
            for slug, says, verdict in evidence["told"]
        ]
        lines = ((evidence["sentence"], address), *told)
        found.append(Section("Evidence", [], evidence["more"], address, lines))
    return found


def uncertain_sends(store: FeedStore) -> list[dict[str, Any]]:
    """Return the copies of which nobody knows whether they arrived, for whoever runs the site to look at.

    Parameters
    ----------
    store
        The feed to look in.

    Returns
    -------
    list[dict[str, Any]]
        One mapping for each copy: ``frequency`` and ``period`` of the digest, ``email``, ``changed`` (when it was last
        heard of) and ``error``.
    """
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


def _new(issue: Digest, subscription: Subscription) -> list[ColumnElement[bool]]:
    """Return what is true of the papers that an issue tells of and that nothing delivered before has covered.

    A moment alone doesn't tell: a paper that was being written as an issue was made has an earlier one, and yet the
    issue couldn't see it. A number alone doesn't, either: the first copy begins a period before the subscription.
    """
    conditions = [FeedPaper.id <= issue.last_paper, FeedPaper.added <= issue.until]
    if subscription.covered_until is None:
        begin = (subscription.confirmed or subscription.created) - _PERIODS[issue.frequency][1]
        return [*conditions, FeedPaper.added > begin]
    covered = and_(FeedPaper.added <= subscription.covered_until, FeedPaper.id <= subscription.covered_paper)
    return [*conditions, not_(covered)]


def _found(store: FeedStore, query: str, new: list[ColumnElement[bool]]) -> list[int]:
    try:
        found = search(store, query, limit=_RANKED).ids
    except BadQuery:
        return []
    with store.session() as session:
        told = set(session.scalars(select(FeedPaper.id).where(FeedPaper.id.in_(found), *new)))
    return [i for i in found if i in told]


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("paperworks.feed"), autoescape=select_autoescape(["html"]), trim_blocks=True
    )
