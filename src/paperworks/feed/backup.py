"""Back-up and restore of a feed in SQLite, also while a site uses it."""

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import make_url

from paperworks.feed.search.index import teach_plain
from paperworks.feed.store import FeedStore, revisions

_PAGES = 2000  # at a time, so that whoever writes waits for no more than these


class BadBackup(ValueError):
    """A file is no back-up that can be restored."""


def database_file(store: FeedStore) -> Path:
    """Return the file of a feed in SQLite.

    Parameters
    ----------
    store
        The feed.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        For a feed in PostgreSQL, whose own tools do this, or in memory.
    """
    database = make_url(store.url).database
    if not store.on_sqlite:
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
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f".{into.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        _copy(source, part)
        _check(part)
        _sync(part)
        os.replace(part, into)
    except sqlite3.Error as error:
        raise OSError(f"{into} could not be written: {error}") from None
    finally:
        _remove(part)
    return into


def restore(store: FeedStore, file: Path) -> Path:
    """Put a feed back to what it was at a back-up, in one step; what was there is backed up beside it first.

    A site that runs sees the feed of the back-up from its next request on. It should be started anew all the same,
    since it keeps an index of meanings in memory.

    Parameters
    ----------
    store
        The feed that is overwritten.
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
    target, file = database_file(store), Path(file)
    if not file.is_file():
        raise BadBackup(f"file is {file}, which is no file; it takes a back-up")
    if file.resolve() == target:
        raise BadBackup(f"file is {file}, the feed itself; it takes a back-up of it")
    _check(file)
    before = back_up(store, target.with_name(f"{target.stem}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db"))
    for index in target.parent.glob("meaning.*.faiss"):
        index.unlink(missing_ok=True)  # of the numbers that vectors have in the other feed
    try:
        _copy(file, target, pages=-1)
    except sqlite3.Error as error:
        raise OSError(f"{target} could not be written: {error}; what was there is in {before}") from None
    store.close()
    FeedStore(store.url).close()  # which brings an older schema up to date
    return before


def _copy(source: Path, target: Path, *, pages: int = _PAGES) -> None:
    with _open(source) as read, _open(target) as write:
        read.backup(write, pages=pages, sleep=0.005)
        if target.name.endswith(".part"):  # a copy is one file, and needs none beside it
            write.execute("PRAGMA journal_mode=DELETE")


def _check(path: Path) -> None:
    try:
        with _open(path, readonly=True) as connection:
            wrong = [row[0] for row in connection.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
    except sqlite3.Error as error:
        raise BadBackup(f"{path} is no feed: {error}") from None
    if wrong:
        raise BadBackup(f"{path} is damaged: {'; '.join(wrong)[:300]}")
    if found is None or "papers" not in tables:
        raise BadBackup(f"{path} is no feed: it has no papers")
    if found[0] not in revisions():
        raise BadBackup(f"{path} has schema {found[0]!r}, which this version doesn't know; update Paperworks")


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


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove(part: Path) -> None:
    for path in (part, *(part.with_name(part.name + end) for end in ("-journal", "-wal", "-shm"))):
        path.unlink(missing_ok=True)
