"""The feed's database: opened, brought up to date, and filled with papers without doubling any."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from paperworks.feed.entry import Entry, is_field
from paperworks.feed.identity import Known, begins_with
from paperworks.feed.schema import Embedding, FeedPaper, Harvest
from paperworks.feed.search.index import COLUMNS, index_after, index_changed, teach_plain

HEAD = "0004"
"""The newest revision of the schema; a database of another one is brought up to it, or refused."""
_BATCH = 4000


def revisions() -> list[str]:
    """Return the revisions of the schema that this version knows, the oldest first."""
    return [f"{number:04}" for number in range(1, int(HEAD) + 1)]


class FutureSchema(RuntimeError):
    """The database was made by a newer version than this one, and is left alone."""


class Added(NamedTuple):
    """How many papers were new, changed, and known as they are.

    Parameters
    ----------
    new
        How many were not known before.
    changed
        How many were known otherwise.
    same
        How many were known as they are.
    """

    new: int
    changed: int
    same: int

    def __add__(self, other: tuple[Any, ...]) -> "Added":
        return Added(*(a + b for a, b in zip(self, other, strict=True)))


class FeedStore:
    """The database of the feed.

    Parameters
    ----------
    url
        A path to an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL. By default
        ``$PAPERWORKS_FEED``, or ``feed.db`` in the user's data folder.
    upgrade
        Whether to make what is missing and to bring an older schema up to date, the default; else the database is taken
        as it is.

    Raises
    ------
    ValueError
        For a URL of another kind, and a file that isn't there where nothing is to be made.
    FutureSchema
        Where a newer version made the database.

    Examples
    --------
    >>> store = FeedStore("sqlite://")
    >>> store.add([Entry(title="On Sampling", arxiv_id="2206.00927")])
    Added(new=1, changed=0, same=0)
    >>> store.add([Entry(title="On sampling.", arxiv_id="2206.00927v2")])
    Added(new=0, changed=1, same=0)
    """

    def __init__(self, url: str | Path | None = None, *, upgrade: bool = True) -> None:
        self.url = database_url(url)
        file = make_url(self.url).database if self.url.startswith("sqlite") else None
        if not upgrade and file and file != ":memory:" and not Path(file).exists():
            raise ValueError(f"url is {file}, where there is no feed; it takes that of one that was made")
        self.engine = _engine(self.url)
        if upgrade:
            _bring_up_to_date(self.engine)

    @property
    def on_sqlite(self) -> bool:
        """Whether this is an SQLite file, else PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @property
    def folder(self) -> Path:
        """Where files that belong to the database are kept, such as the index of meanings."""
        database = make_url(self.url).database
        if self.on_sqlite and database and database != ":memory:":
            return Path(database).resolve().parent
        return Path(platformdirs.user_data_dir("paperworks"))

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session whose changes are committed at the end, or rolled back where it fails.

        Returns
        -------
        context manager
            Enters with a session of SQLAlchemy.
        """
        with Session(self.engine) as session, session.begin():
            yield session

    def add(self, entries: Iterable[Entry], *, state: tuple[str, dict[str, Any]] | None = None) -> Added:
        """Add papers, or bring those that are known up to date; some thousands are one transaction.

        Papers are the same if an arXiv id or a slug is; else if a DOI is; else if title, authors and year are, as far
        as both are known. Papers of different arXiv ids are never the same. What an entry leaves empty is kept, and an
        entry of an older version only fills what is empty.

        Parameters
        ----------
        entries
            The papers to add.
        state
            A source and where its ingest stands, written with the last of them.

        Returns
        -------
        Added
            How many papers were new, changed and the same.
        """
        total = Added(0, 0, 0)
        rest = iter(entries)
        batch = list(islice(rest, _BATCH))
        while batch or state:
            following = list(islice(rest, _BATCH))
            with self.engine.begin() as connection:
                _one_writer(connection)
                if batch:
                    total += _merge(connection, batch)
                if state and not following:
                    _keep(connection, *state)
                    state = None
            batch = following
        return total

    def count(self) -> int:
        """Return how many papers there are.

        Returns
        -------
        int
            Number of papers in the feed.
        """
        with self.session() as session:
            return session.scalar(select(func.count()).select_from(FeedPaper)) or 0

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def database_url(url: str | Path | None) -> str:
    """Return the URL of a feed as SQLAlchemy takes it, from what `FeedStore` takes."""
    given = str(url or os.environ.get("PAPERWORKS_FEED") or Path(platformdirs.user_data_dir("paperworks"), "feed.db"))
    if "://" not in given:
        given = f"sqlite:///{given}"
    given = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", given)
    try:
        kind = make_url(given).get_backend_name()
    except ArgumentError:
        kind = ""
    if kind not in ("sqlite", "postgresql"):
        raise ValueError(f"url is {given.split('://')[0]!r}; it takes a file, or a URL of sqlite or postgresql")
    return given


def _engine(url: str) -> Engine:
    database = make_url(url).database
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    if database and database != ":memory:":
        path = Path(database)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not database.startswith("file:") and not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # it will hold people's addresses
        engine = create_engine(url, pool_size=20, max_overflow=40)
    else:
        from sqlalchemy.pool import StaticPool  # one connection, or each would be a database of its own

        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA cache_size=-65536")
        connection.execute("PRAGMA mmap_size=2147483648")
        teach_plain(connection)

    return engine


def _bring_up_to_date(engine: Engine) -> None:
    with engine.connect() as connection:
        known = inspect(connection).has_table("alembic_version")
        found = connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
    if found == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":  # two servers that start at once take turns
            connection.execute(text("SELECT pg_advisory_xact_lock(782203)"))
        else:  # all of it or nothing; a table that is made anew must not take with it what refers to its rows
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, HEAD)
        except CommandError as error:
            raise FutureSchema(
                f"the feed's database has schema {found!r}, this version knows up to {HEAD!r}; update Paperworks"
            ) from error
        connection.commit()
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _keep(connection: Connection, source: str, state: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    changed = connection.execute(update(Harvest).where(Harvest.source == source).values(state=state, changed=now))
    if not changed.rowcount:
        connection.execute(insert(Harvest).values(source=source, state=state, changed=now))


_KEPT = ("title", "authors", "abstract", "summary", "published", "updated", "comment", "journal_ref")
"""What a newer version of a paper replaces."""
_MEANT = {"title", "abstract", "summary"}
"""What a paper's meaning is made of."""


def row_of(entry: Entry, now: datetime) -> dict[str, Any]:
    """Return the columns of the paper that an entry is about, added at a moment."""
    published = entry.published or entry.updated
    return {
        "arxiv_id": entry.arxiv_id or None,
        "version": entry.version,
        "doi": entry.doi or None,
        "slug": entry.slug or None,
        "title": entry.title,
        "title_key": entry.title_key,
        "authors": "\n".join(entry.authors),
        "abstract": entry.abstract,
        "summary": entry.summary,
        "categories": " ".join(entry.categories),
        "published": published,
        "updated": entry.updated or published,
        "added": now,
        "upvotes": entry.upvotes,
        "links": dict(entry.links),
        "comment": entry.comment,
        "journal_ref": entry.journal_ref,
        "withdrawn": entry.withdrawn,
        "versions": {str(number): moment.isoformat() for number, moment in entry.versions.items()},
    }


def _merge(connection: Connection, entries: Sequence[Entry]) -> Added:
    now = datetime.now(UTC)
    known = Known(connection, entries)
    fresh: list[dict[str, Any]] = []
    changes: dict[int, dict[str, Any]] = {}
    meant: set[int] = set()
    said: set[int] = set()
    for entry in entries:
        row = row_of(entry, now)
        old = known.find(row)
        if old is None:
            row["withdrawn"] = bool(row["withdrawn"])
            fresh.append(row)
            known.learn(row)
            continue
        difference = _difference(old, row, known)
        old.update(difference)
        known.learn(old)
        if difference and "id" in old:
            meant |= {old["id"]} if difference.keys() & _MEANT else set()
            said |= {old["id"]} if difference.keys() & set(COLUMNS) else set()
            changes[old["id"]] = {"row_id": old["id"], **{name: old[name] for name in row if name != "added"}}
    if fresh:
        last = connection.scalar(select(func.max(FeedPaper.id))) or 0
        connection.execute(insert(FeedPaper), fresh)
        index_after(connection, last)
    if changes:
        columns = [name for name in next(iter(changes.values())) if name != "row_id"]
        statement = update(FeedPaper).where(FeedPaper.id == bindparam("row_id"))
        connection.execute(statement.values({name: bindparam(name) for name in columns}), list(changes.values()))
        index_changed(connection, said)
    if meant:
        connection.execute(delete(Embedding).where(Embedding.paper_id.in_(meant)))
    return Added(len(fresh), len(changes), len(entries) - len(fresh) - len(changes))


def _one_writer(connection: Connection) -> None:
    """Let one process add papers at a time: what it finds to be new stays so until it is written."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(782205)"))


def _difference(old: dict[str, Any], row: dict[str, Any], known: Known) -> dict[str, Any]:
    """Return what an entry changes in a paper that is known."""
    change: dict[str, Any] = {}
    newer = row["version"] >= old["version"]
    known_by_title = not (row["arxiv_id"] or row["doi"] or row["slug"])
    for name in _KEPT:
        if name == "title" and known_by_title:
            continue  # spelt otherwise, no more
        same_version = row["version"] == old["version"]
        if (
            name == "authors"
            and same_version
            and len(row[name]) <= len(old[name])
            and begins_with(old[name], row[name])
        ):
            continue  # the same, cut short or abbreviated
        if row[name] and row[name] != old[name] and (newer or not old[name]):
            change[name] = row[name]
    if "title" in change:
        change["title_key"] = row["title_key"]
    if row["withdrawn"] is not None and row["withdrawn"] != old["withdrawn"] and newer:
        change["withdrawn"] = row["withdrawn"]
    if (categories := _categories(old, row, newer)) != old["categories"]:
        change["categories"] = categories
    for name in ("arxiv_id", "doi", "slug"):
        if row[name] and not old[name] and (name == "doi" or not known.has(name, row[name])):
            change[name] = row[name]
    for name in ("version", "upvotes"):
        if row[name] > old[name]:
            change[name] = row[name]
    links = row["links"] | old["links"] if known_by_title else old["links"] | row["links"]
    for name, joined in (("links", links), ("versions", row["versions"] | old["versions"])):
        if joined != old[name]:
            change[name] = joined
    return change


def _says_less(authors: str, others: str) -> bool:
    """Return whether a list of authors is another one, cut short or abbreviated."""
    return len(authors) <= len(others) and begins_with(others, authors)


def _categories(old: dict[str, Any], row: dict[str, Any], newer: bool) -> str:
    """Return arXiv's categories of the newer one, then our fields of both."""
    before, after = old["categories"].split(), row["categories"].split()
    theirs = [[name for name in names if not is_field(name)] for names in (before, after)]
    chosen = theirs[1] if theirs[1] and (newer or not theirs[0]) else theirs[0]
    return " ".join([*chosen, *dict.fromkeys(name for name in before + after if is_field(name))])
