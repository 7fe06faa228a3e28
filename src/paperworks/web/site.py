"""The site's parts put together, and what it does beside answering."""

import functools
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from paperworks.feed.digest import DigestRunning, Frequency, send_digest
from paperworks.feed.housekeeping import forget
from paperworks.feed.ingest.records import Records, record_runs
from paperworks.feed.ingest.source import ingest
from paperworks.feed.limits import client_of
from paperworks.feed.mail import Mailer
from paperworks.feed.people import People
from paperworks.feed.search.meaning import Embed, MeaningIndex, SentenceModel
from paperworks.feed.sessions import SESSION_LIFE, Sessions
from paperworks.feed.store import FeedStore
from paperworks.feed.tokens import Tokens, site_secret
from paperworks.feed.trending import record
from paperworks.feed.webhook import Webhook, post_digest
from paperworks.web import display
from paperworks.web.cache import MomentCache, remembering
from paperworks.web.protection import Forms, cookie_name, set_cookie
from paperworks.web.settings import Settings
from paperworks.web.work import Work

log = logging.getLogger("paperworks.web")
HTML = "text/html; charset=utf-8"
PUBLIC = {"Cache-Control": "public, max-age=60"}
DIGEST_HOUR = 6
"""From this hour on, UTC, the digests of the day are due; the weekly one on Mondays."""


@dataclass(frozen=True)
class Page:
    """What a page shows: its template, the values in it, and the paper that whoever sees it reads."""

    template: str
    values: dict[str, Any] = field(default_factory=dict)
    reads: int | None = None
    status: int = 200


@dataclass(frozen=True)
class Made:
    """An answer as it is kept: `reads` is the paper that whoever gets it reads, `since` when it came to be so."""

    body: bytes
    media_type: str
    status: int = 200
    reads: int | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @functools.cached_property
    def etag(self) -> str:
        """What tells one body from another."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:24]}"'


class Site:
    """The feed with what its pages need.

    Parameters
    ----------
    settings
        Of the site.
    embed
        The sentence model; by default MiniLM's.
    """

    def __init__(self, settings: Settings, embed: Embed | None = None) -> None:
        self.settings = settings
        self.store = FeedStore(settings.feed)
        self.people = People(self.store)
        self.sessions = Sessions(self.store)
        self.session_cookie = cookie_name("session", secure=settings.secure)
        self.tokens = Tokens(site_secret(self.store))
        self.forms = Forms(self.tokens, settings)
        self._meaning = MeaningIndex(self.store, remembering(embed or SentenceModel()))
        self._meaning_ready = False
        self._pages: MomentCache[Made] = MomentCache()
        self._found: MomentCache[Made] = MomentCache(size=200)
        self._work, self._search = Work(at_once=8, each=4), Work(at_once=2, each=1)
        self._reads = Reads(self.store)
        self._stop = threading.Event()
        self._no_digest_before = datetime.min.replace(tzinfo=UTC)
        self._templates = Environment(
            loader=PackageLoader("paperworks.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= display.FILTERS
        self._templates.globals |= display.GLOBALS

    @property
    def meaning(self) -> MeaningIndex | None:
        """The index of meanings, None until the model is loaded."""
        return self._meaning if self._meaning_ready else None

    def start(self) -> None:
        """Take in our own papers, and begin what is done in the background."""
        ingest(self.store, Records())
        self._every(5, self._reads.flush)
        self._every(300, lambda: record_runs(self.store))
        self._every(600, lambda: forget(self.store))
        if self.settings.meaning:
            self._every(30, self._embed)
        if self.settings.smtp and self.settings.digests:
            self._every(60, lambda: self.send_digests(datetime.now(UTC)))
        if self.settings.webhook and self.settings.digests:
            self._every(60, lambda: self.post_digest(datetime.now(UTC)))

    def stop(self) -> None:
        """End what is done in the background, and write what is not written yet."""
        self._stop.set()
        self._reads.flush()
        self.store.close()

    # Pages

    async def page(self, request: Request, make: Callable[[int | None], Page], *, searching: bool = False) -> Response:
        """Answer with a page; for those who aren't signed in it is made once in a moment, and not for each of them.

        Parameters
        ----------
        request
            The request.
        make
            Makes the page for a person, or for None.
        searching
            Whether that takes a search.

        Raises
        ------
        Busy
            Where there is too much to do.
        """
        private = {"Cache-Control": "private, no-cache", "Vary": "Accept, Cookie, HX-Request"}
        person = await run_in_threadpool(self.person, request) if self.session_cookie in request.cookies else None
        if person is None:
            return await self.alike(request, lambda: self._body(request, make, None), private, searching=searching)
        work = self._search if searching else self._work
        made = await work.run(client(request), lambda: self._body(request, make, person))
        self._read(request, made)
        response = Response(made.body, made.status, private, made.media_type)
        self.forms.remember(request, response)
        return response

    async def alike(
        self,
        request: Request,
        make: Callable[[], "Made"],
        headers: Mapping[str, str] = PUBLIC,
        *,
        searching: bool = False,
    ) -> Response:
        """Answer with what is alike for all who ask, or say that it is as the asker has it.

        Parameters
        ----------
        request
            The request.
        make
            Makes the answer, once in a moment.
        headers
            Of the answer.
        searching
            Whether it takes a search, of which fewer run at once.

        Raises
        ------
        Busy
            Where there is too much to do.
        """
        work, cache = (self._search, self._found) if searching else (self._work, self._pages)

        async def renew(old: Made | None) -> Made:
            made = await work.run(client(request), make)
            return old if old is not None and old.etag == made.etag else made

        made = await cache.get((request.url.path, request.url.query, by_script(request)), renew)
        self._read(request, made)
        if made.status != 200:
            return Response(made.body, made.status, headers, made.media_type)
        dated = {**headers, "ETag": made.etag, "Last-Modified": format_datetime(made.since, usegmt=True)}
        if _is_known(request, made):
            return Response(status_code=304, headers=dated)
        return Response(made.body, headers=dated, media_type=made.media_type)

    def _read(self, request: Request, made: "Made") -> None:
        if made.reads is not None:
            self._reads.count(made.reads, client(request))

    def render(self, request: Request, page: Page) -> Response:
        """Answer with a page that is this browser's only, such as one with a form."""
        made = self._body(request, lambda _: page, self.person(request))
        response = Response(made.body, made.status, {"Cache-Control": "no-store"}, made.media_type)
        self.forms.remember(request, response)
        return response

    def _body(self, request: Request, make: Callable[[int | None], Page], person: int | None) -> "Made":
        page = make(person)
        text = self._templates.get_template(page.template).render(
            {
                "request": request,
                "path": request.url.path,
                "base_url": self.settings.base_url,
                "signed_in": person is not None,
                "form_token": lambda: self.forms.token(request),
                **page.values,
            }
        )
        return Made(text.encode(errors="replace"), HTML, page.status, page.reads)

    # People

    def person(self, request: Request) -> int | None:
        """Return who is signed in, None for nobody."""
        token = request.cookies.get(self.session_cookie)
        return self.sessions.person(token) if token else None

    def sign_in(self, request: Request, response: Response, person: int) -> None:
        """Sign someone in, by a session that begins here and a form token that nobody knew before."""
        token = self.sessions.open(person)
        age = int(SESSION_LIFE.total_seconds())
        set_cookie(response, self.session_cookie, token, secure=self.settings.secure, max_age=age)
        self.forms.renew(request)
        self.forms.remember(request, response)

    def sign_out(self, response: Response, person: int) -> None:
        """End all sessions of someone, and take the cookie back."""
        self.sessions.end(person)
        response.delete_cookie(
            self.session_cookie, path="/", secure=self.settings.secure, httponly=True, samesite="lax"
        )

    def mail(self, to: str, subject: str, text: str) -> None:
        """Send a mail, or write it to the log where there is no mail server.

        Raises
        ------
        NotSent, Uncertain
            As `Mailer.send`.
        """
        if not self.settings.smtp:
            log.warning("No mail server is set up. To: %s\nSubject: %s\n\n%s", to, subject, text)
            return
        with self.mailer() as mailer:
            mailer.send(_automatic(mailer.message(to, subject, text)))

    def mailer(self) -> Mailer:
        """Return a connection to the mail server."""
        return Mailer(self.settings.smtp, self.settings.sender)

    # Background

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        def run() -> None:
            while not self._stop.is_set():
                try:
                    work()
                except Exception:
                    log.exception("A task in the background failed; it is tried again in %s s", seconds)
                self._stop.wait(seconds)

        threading.Thread(target=run, daemon=True).start()

    def _embed(self) -> None:
        self._meaning.embed_new()
        self._meaning.nearest("warm up", 1)
        self._meaning_ready = True
        self._meaning.save()

    def post_digest(self, now: datetime) -> None:
        """Post the digest that is due at a moment to the webhook."""
        settings = self.settings
        if settings.webhook_frequency not in _due(now):
            return
        hook = Webhook(settings.webhook, settings.webhook_secret)
        with suppress(DigestRunning):
            state = post_digest(self.store, hook, settings.base_url, settings.webhook_frequency, now=now)
            if state == "failed":
                log.error("The %s digest could not be posted to the webhook", settings.webhook_frequency)

    def send_digests(self, now: datetime) -> None:
        """Send the digests that are due at a moment; after a run that was stopped not before a quarter of an hour."""
        if now < self._no_digest_before:
            return
        due = _due(now)
        try:
            with self.mailer() as mailer:
                for frequency in due:
                    sent = send_digest(self.store, mailer, self.tokens, self.settings.base_url, frequency, now=now)
                    if sent.stopped:
                        log.error("The %s digest: %s", frequency, sent)
                        self._no_digest_before = now + timedelta(minutes=15)
                        return
        except DigestRunning:
            pass  # another process of this site is at it


def _due(now: datetime) -> list[Frequency]:
    """Return the digests that are due at a moment: in the morning, the weekly one from Monday on."""
    due: list[Frequency] = ["daily"] if now.hour >= DIGEST_HOUR else []
    if now.weekday() or now.hour >= DIGEST_HOUR:
        due.append("weekly")
    return due


def client(request: Request) -> str:
    """Return whom a request is from: what limits count by."""
    return client_of(request.client.host) if request.client else ""


def _is_known(request: Request, made: Made) -> bool:
    """Return whether the asker has an answer already, by its tag or else by its time (RFC 9110, 13.2.2)."""
    if tags := request.headers.get("if-none-match"):
        return tags.strip() == "*" or made.etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))
    try:
        return made.since <= parsedate_to_datetime(request.headers.get("if-modified-since", ""))
    except (ValueError, TypeError):  # no date, or one without a zone
        return False


def by_script(request: Request) -> bool:
    """Return whether a script on one of our pages asks, to swap a part of the page."""
    return "hx-request" in request.headers


class Reads:
    """Counts who reads what, once for each reader, paper and day, and writes the counts now and then.

    Parameters
    ----------
    store
        The feed.
    """

    MOST = 100_000

    def __init__(self, store: FeedStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: set[int] = set()
        self._day = 0
        self._counts: Counter[int] = Counter()

    def count(self, paper_id: int, reader: str) -> None:
        """Count a read."""
        day = datetime.now(UTC).toordinal()
        with self._lock:
            if day != self._day or len(self._seen) >= self.MOST:
                self._day, self._seen = day, set()
            key = hash((paper_id, reader))  # salted anew in each process: the address is not kept
            if key not in self._seen:
                self._seen.add(key)
                self._counts[paper_id] += 1

    def flush(self) -> None:
        """Write the counts."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for paper_id, count in counts.items():
            record(self._store, "read", paper_id, count=count)


def _automatic(message: EmailMessage) -> EmailMessage:
    message["Auto-Submitted"] = "auto-generated"
    return message
