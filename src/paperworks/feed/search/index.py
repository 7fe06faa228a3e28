"""The index of words: one row a paper, of its words as `plain` gives them, in either database."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, text

from paperworks.feed.search.normal import plain

COLUMNS = ("title", "authors", "abstract", "summary", "categories")
PLAIN = "paperworks_plain"
"""What SQLite calls `plain`; its triggers and the view of all words use it, so that every connection needs it."""
_PUT = text(
    """
    INSERT INTO paper_words (id, words) VALUES (
        :id,
        setweight(to_tsvector('paperworks', :title), 'A')
        || setweight(to_tsvector('paperworks', :authors), 'B')
        || setweight(to_tsvector('paperworks', :abstract), 'C')
        || setweight(to_tsvector('paperworks', :summary), 'C')
        || setweight(to_tsvector('paperworks', :categories), 'D')
    ) ON CONFLICT (id) DO UPDATE SET words = excluded.words
    """
)


def teach_plain(connection: Any) -> None:
    """Let a connection of sqlite3 call `plain`."""
    connection.create_function(PLAIN, 1, plain, deterministic=True)


def index_after(connection: Connection, last: int) -> None:
    """Take in the papers with higher numbers than one."""
    columns = ", ".join(COLUMNS)
    if connection.dialect.name == "sqlite":
        # One statement for all: a trigger for each row would write a piece of the index for each, four times as slow.
        statement = f"INSERT INTO paper_words(rowid, {columns}) SELECT id, {columns} FROM plain_papers WHERE id > :last"
        connection.execute(text(statement), {"last": last})
    else:
        _put(connection, connection.execute(text(f"SELECT id, {columns} FROM papers WHERE id > :last"), {"last": last}))


def index_changed(connection: Connection, ids: Iterable[int]) -> None:
    """Take in what papers say now; SQLite's triggers did so already."""
    if connection.dialect.name != "sqlite":
        statement = text(f"SELECT id, {', '.join(COLUMNS)} FROM papers WHERE id IN :ids")
        _put(connection, connection.execute(statement.bindparams(bindparam("ids", list(ids), expanding=True))))


def _put(connection: Connection, rows: Any) -> None:
    values = [{"id": row[0], **dict(zip(COLUMNS, map(plain, row[1:]), strict=True))} for row in rows]
    if values:
        connection.execute(_PUT, values)
