"""What a feed's owner should know: whether schema, indices, disk, mail and clock are as they should be."""

import shutil
import smtplib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, func, select, text
from sqlalchemy.engine import make_url

from paperworks.feed.mail import Mailer, NotSent, Uncertain
from paperworks.feed.schema import Embedding, FeedPaper, Harvest, Person, Send
from paperworks.feed.search.normal import plain
from paperworks.feed.store import HEAD, FeedStore

State = Literal["well", "look", "wrong"]
_LEAST_FREE = 1 << 30  # bytes
_LOOKED_UP = 100
_AGO = timedelta(days=7)
_BUILT = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock that goes right shows less."""


@dataclass(frozen=True)
class Finding:
    """What was found of one part.

    Parameters
    ----------
    part
        What was looked at.
    state
        "well", "look" where its owner should look at it, "wrong" where it can't work so.
    says
        What was found, in one line.
    """

    part: str
    state: State
    says: str


def examine(store: FeedStore, *, mailer: Mailer | None = None, now: datetime | None = None) -> Iterator[Finding]:
    """Look at a feed and change nothing; no mail is sent.

    Parameters
    ----------
    store
        The feed.
    mailer
        The connection that digests go by; by default mail isn't looked at.
    now
        The time; by default the clock's.

    Returns
    -------
    Iterator[Finding]
        What was found, part by part.

    Examples
    --------
    >>> [finding.part for finding in examine(FeedStore("sqlite://"))]
    ['schema', 'database', 'index of words', 'index of meanings', 'disk', 'clock', 'ingest', 'digests', 'mail']
    """
    now = now or datetime.now(UTC)
    parts: dict[str, Callable[[], tuple[State, str]]] = {
        "schema": lambda: _schema(store),
        "database": lambda: _database(store),
        "index of words": lambda: _words(store),
        "index of meanings": lambda: _meanings(store),
        "disk": lambda: _disk(store),
        "clock": lambda: _clock(store, now),
        "ingest": lambda: _ingest(store, now),
        "digests": lambda: _digests(store, now),
        "mail": lambda: _mail(mailer),
    }
    for part, look in parts.items():
        try:
            yield Finding(part, *look())
        except Exception as error:  # what can't be looked at is wrong, and the other parts are looked at all the same
            yield Finding(part, "wrong", f"can't be looked at: {' '.join(str(error).split())[:200]}")


def _schema(store: FeedStore) -> tuple[State, str]:
    with store.engine.connect() as connection:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return ("well", f"revision {found}") if found == HEAD else ("wrong", f"revision {found}; this version takes {HEAD}")


def _database(store: FeedStore) -> tuple[State, str]:
    with store.engine.connect() as connection:
        papers = connection.scalar(select(func.count()).select_from(FeedPaper))
        people = connection.scalar(select(func.count()).select_from(Person))
        says = f"{papers:,} papers, {people:,} people"
        if store.on_sqlite:
            damage = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check(3)") if row[0] != "ok"]
            damage += [f"{row[0]} refers to {row[2]} that isn't there" for row in _orphans(connection)]
            if damage:
                return "wrong", f"damaged: {'; '.join(damage)[:300]}; restore a back-up"
    return "well", says


def _orphans(connection: Connection) -> list[Any]:
    return list(connection.exec_driver_sql("PRAGMA foreign_key_check"))[:3]


def _words(store: FeedStore) -> tuple[State, str]:
    """Look for some papers by the words of their titles: to count SQLite's index is to read all of it."""
    with store.engine.connect() as connection:
        ids = list(connection.scalars(select(FeedPaper.id).order_by(func.random()).limit(_LOOKED_UP)))
        ids += connection.scalars(select(func.max(FeedPaper.id))).all()
        papers = connection.execute(select(FeedPaper.id, FeedPaper.title).where(FeedPaper.id.in_(ids))).all()
        lost = [row.id for row in papers if not _is_indexed(connection, store.on_sqlite, row.id, row.title)]
    if lost:
        return "wrong", f"paper {lost[0]} and {len(lost) - 1} more of {len(papers)} aren't in it; restore a back-up"
    return "well", f"{len(papers)} papers looked up"


def _is_indexed(connection: Connection, on_sqlite: bool, id: int, title: str) -> bool:
    # The index itself splits what stands in quotes, by rules of its own for each script.
    said = [word for word in plain(title).replace('"', " ").split() if any(map(str.isalnum, word))]
    words = " ".join(f'"{word}"' for word in said[:5])
    if not on_sqlite:
        return bool(connection.scalar(text("SELECT 1 FROM paper_words WHERE id = :id"), {"id": id}))
    found = text("SELECT 1 FROM paper_words WHERE paper_words MATCH :words AND rowid = :id")
    return not words or bool(connection.scalar(found, {"words": words, "id": id}))


def _meanings(store: FeedStore) -> tuple[State, str]:
    with store.engine.connect() as connection:
        papers = connection.scalar(select(func.count()).select_from(FeedPaper)) or 0
        embedded = connection.scalar(select(func.count()).select_from(Embedding)) or 0
    if embedded == papers:
        return "well", f"{embedded:,} papers"
    return "look", f"{embedded:,} of {papers:,} papers; a site that runs embeds the others"


def _disk(store: FeedStore) -> tuple[State, str]:
    folder = store.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    database = make_url(store.url).database or ""
    used = sum(path.stat().st_size for path in folder.glob(f"{Path(database).name}*")) if store.on_sqlite else 0
    says = f"{free / 1e9:.1f} GB free in {folder}"
    if free < _LEAST_FREE or free < 2 * used:
        return "look", f"{says}; a back-up takes {used / 1e9:.1f} GB, so make room"
    return "well", says


def _clock(store: FeedStore, now: datetime) -> tuple[State, str]:
    with store.engine.connect() as connection:
        newest = connection.scalar(select(func.max(FeedPaper.added)))
    if now < _BUILT:
        return "wrong", f"it shows {now:%Y-%m-%d %H:%M} UTC, which is over; set it"
    if newest and newest > now + timedelta(minutes=5):
        return "wrong", f"a paper was added at {newest:%Y-%m-%d %H:%M} UTC, which is to come; set the clock"
    return "well", f"{now:%Y-%m-%d %H:%M} UTC"


def _ingest(store: FeedStore, now: datetime) -> tuple[State, str]:
    with store.engine.connect() as connection:
        newest = connection.scalar(select(func.max(Harvest.changed)))
    if newest is None:
        return "look", "no source was read yet that goes on, such as arxiv; paperworks ingest --help lists them"
    says = f"papers were last taken in on {newest:%Y-%m-%d %H:%M} UTC"
    return ("well", says) if now - newest < _AGO else ("look", f"{says}; a timer should call paperworks ingest")


def _digests(store: FeedStore, now: datetime) -> tuple[State, str]:
    with store.engine.connect() as connection:
        since = select(Send.state, func.count()).where(Send.changed > now - _AGO).group_by(Send.state)
        states = {row[0]: row[1] for row in connection.execute(since)}
    says = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "none"
    bad = sum(states.get(state, 0) for state in ("uncertain", "failed"))
    more = "; paperworks digest uncertain shows them" if states.get("uncertain") else ""
    return "look" if bad else "well", f"copies of the last week: {says}{more}"


def _mail(mailer: Mailer | None) -> tuple[State, str]:
    if mailer is None:
        return "look", "no mail server is named, so that nobody can sign in from outside or get a digest"
    try:
        mailer.greet()
    except (NotSent, Uncertain, OSError, smtplib.SMTPException) as error:
        return "wrong", f"{mailer}: {' '.join(str(error).split())[:200]}"
    finally:
        mailer.close()
    return ("well", str(mailer)) if mailer.encrypted else ("look", str(mailer))
