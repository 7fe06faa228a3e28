"""Back-up and restore of a feed in SQLite, also while a site uses it."""

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import make_url

from paperworks.feed.search.index import teach_plain
from paperworks.feed.store import FeedStore, database_url, revisions

Feed = FeedStore | str | Path | None


class BadBackup(ValueError):
    """A file is no back-up that can be restored."""


def database_file(feed: Feed) -> Path:
    """Return the file of a feed in SQLite.

    Parameters
    ----------
    feed
        The feed, or what `FeedStore` takes, where it need not be opened.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        For a feed in PostgreSQL, whose own tools do this, or in memory.
    """
    url = make_url(feed.url if isinstance(feed, FeedStore) else database_url(feed))
    database = url.database
    if url.get_backend_name() != "sqlite":
        raise ValueError("the feed is in PostgreSQL, whose own pg_dump and pg_restore back it up")
    if not database or database == ":memory:":
        raise ValueError("the feed is in memory alone; there is nothing to back up")
    return Path(database).resolve()


def back_up(store: FeedStore, into: Path) -> Path:
    """Copy a feed as it is at one moment, and check the copy; readers and writers go on meanwhile.

    Parameters
    ----------
    store
        The feed.
    into
        The file to write, or a folder, in which the name bears the time. It holds people's addresses, so that only
        its owner can read it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        As `database_file`, or where `into` is the feed's own file.
    BadBackup
        Where the feed is damaged.
    OSError
        Where the file can't be written; what stood there stays.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeedStore(Path(folder, "feed.db"))
    ...     back_up(store, Path(folder, "copy.db")).name
    'copy.db'
    """
    source = database_file(store)
    into = Path(into)
    if into.is_dir():
        into = into / f"{source.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    if into.resolve() == source:
        raise ValueError(f"into is {into}, the feed itself; it takes another file, or a folder")
    _save(source, into)
    return into


def restore(feed: Feed, file: Path) -> Path:
    """Put a feed back to what it was at a back-up, in one step; what was there is backed up beside it first.

    A feed that is damaged is set aside as it is. Else what people ended since the back-up stays ended: their accounts,
    subscriptions, tokens and sessions. Whoever wants these back, too, moves the feed's file away first.

    A site that runs sees the feed of the back-up from its next request on. It should be started anew all the same,
    since it keeps an index of meanings in memory, and a damaged feed open.

    Parameters
    ----------
    feed
        The feed that is overwritten, or what `FeedStore` takes.
    file
        What `back_up` wrote.

    Returns
    -------
    Path
        The back-up of what was there.

    Raises
    ------
    BadBackup
        For a file that is damaged, no feed, or of a newer version; nothing is changed.
    ValueError, OSError
        As `back_up`.
    """
    target, file = database_file(feed), Path(file)
    if not file.is_file():
        raise BadBackup(f"file is {file}, which is no file; it takes a back-up")
    if file.resolve() == target:
        raise BadBackup(f"file is {file}, the feed itself; it takes a back-up of it")
    _check(file)
    url = f"sqlite:///{target}"
    if not target.exists():
        FeedStore(url).close()
    before = target.with_name(f"{target.stem}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db")
    try:
        _save(target, before)
    except BadBackup:  # damaged: no page of it is written to
        for end in _ENDS:
            if (path := target.with_name(target.name + end)).exists():
                os.replace(path, before.with_name(before.name + end))
        _save(file, target)
    else:
        try:
            _copy(file, target)
            FeedStore(url).close()  # which brings an older schema up to date
            _end_again(target, before)
        except sqlite3.Error as error:
            raise OSError(f"{target} could not be written: {error}; what was there is in {before}") from None
    for index in target.parent.glob("meaning.*.faiss"):
        index.unlink(missing_ok=True)  # of the numbers that vectors have in the other feed
    if isinstance(feed, FeedStore):
        feed.close()
    FeedStore(url).close()
    return before


_ENDS = ("", "-journal", "-wal", "-shm")


def _save(source: Path, into: Path) -> None:
    """Write a copy that was checked, or nothing."""
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f".{into.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        _copy(source, part)
        _check(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, into)
    except sqlite3.OperationalError as error:
        raise OSError(f"{into} could not be written: {error}") from None
    except sqlite3.Error as error:
        raise BadBackup(f"{source} is damaged: {error}") from None
    finally:
        for end in _ENDS:
            part.with_name(part.name + end).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy all at once: a copy in steps begins anew after each write, and a write waits for no reader (WAL)."""
    with _open(source) as read, _open(target) as write:
        read.backup(write, pages=-1)
        if target.name.endswith(".part"):  # a copy is one file, and needs none beside it
            write.execute("PRAGMA journal_mode=DELETE")


_ENDED = (
    ("people", "id"),
    ("subscriptions", "person_id"),
    ("api_tokens", "id"),
)


def _end_again(target: Path, before: Path) -> None:
    """Delete what was ended since the back-up: what isn't there in the feed of before, which once gave out its number.

    That of another feed, such as a new one, says nothing of it: that one has another first paper.
    """
    with _open(target) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("ATTACH ? AS was", (str(before),))
        first = "SELECT id, title, added FROM {}.papers ORDER BY id LIMIT 1"
        here, there = (connection.execute(first.format(name)).fetchall() for name in ("main", "was"))
        if here != there:
            return
        for table, column in _ENDED:
            given = f"(SELECT seq FROM was.sqlite_sequence WHERE name = '{table}')"
            gone = f"{column} NOT IN (SELECT {column} FROM was.{table})"
            connection.execute(f"DELETE FROM main.{table} WHERE {gone} AND id <= {given}")
        connection.execute("DELETE FROM main.sign_ins WHERE digest NOT IN (SELECT digest FROM was.sign_ins)")
        connection.execute("INSERT OR IGNORE INTO main.spent_tokens SELECT * FROM was.spent_tokens")
        connection.commit()


def _check(path: Path) -> None:
    try:
        with _open(path, readonly=True) as connection:
            wrong = [row[0] for row in connection.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables >= {"papers", "alembic_version"}:
                raise BadBackup(f"{path} is no feed: it has no papers")
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise BadBackup(f"{path} is no feed: {error}") from None
    if wrong:
        raise BadBackup(f"{path} is damaged: {'; '.join(wrong)[:300]}")
    if found is None or found[0] not in revisions():
        known = found[0] if found else None
        raise BadBackup(f"{path} has schema {known!r}, which this version doesn't know; update Paperworks")


class _open:
    """Opens an SQLite file as it lies there and closes it, which sqlite3's own context manager doesn't."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rw'}", uri=True, timeout=30
        )

    def __enter__(self) -> sqlite3.Connection:
        teach_plain(self._connection)  # which the check of the index of words calls
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
