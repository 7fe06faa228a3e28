"""Papers keep their versions, comments and withdrawals, share DOIs and may be undated; one normaliser for all words."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from paperworks.feed.search.index import COLUMNS, PLAIN, index_after

revision = "0003"
down_revision = "0002"

_NEW: tuple[sa.Column[Any], ...] = (
    sa.Column("comment", sa.Text(), nullable=False, server_default=""),
    sa.Column("journal_ref", sa.Text(), nullable=False, server_default=""),
    sa.Column("withdrawn", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("versions", sa.JSON(), nullable=False, server_default="{}"),
)
_NAMES = ", ".join(COLUMNS)
_TAKE_OUT = (
    f"INSERT INTO paper_words(paper_words, rowid, {_NAMES}) "
    f"VALUES ('delete', old.id, {', '.join(f'{PLAIN}(old.{name})' for name in COLUMNS)})"
)
_SQLITE_WORDS = (
    f"CREATE VIEW plain_papers AS SELECT id, {', '.join(f'{PLAIN}({name}) AS {name}' for name in COLUMNS)} FROM papers",
    f"""
    CREATE VIRTUAL TABLE paper_words USING fts5(
        {_NAMES}, content='plain_papers', content_rowid='id', columnsize=0, tokenize='porter ascii'
    )
    """,
    f"CREATE TRIGGER paper_words_delete AFTER DELETE ON papers BEGIN {_TAKE_OUT}; END",
    f"""
    CREATE TRIGGER paper_words_update AFTER UPDATE OF {_NAMES} ON papers BEGIN
        {_TAKE_OUT};
        INSERT INTO paper_words(rowid, {_NAMES})
        VALUES (new.id, {", ".join(f"{PLAIN}(new.{name})" for name in COLUMNS)});
    END
    """,
)
_POSTGRESQL_WORDS = (
    "CREATE TEXT SEARCH DICTIONARY paperworks_porter (TEMPLATE = snowball, Language = porter)",  # as SQLite has it
    "CREATE TEXT SEARCH CONFIGURATION paperworks (COPY = simple)",
    "ALTER TEXT SEARCH CONFIGURATION paperworks ALTER MAPPING REPLACE simple WITH paperworks_porter",
    """
    CREATE TABLE paper_words (
        id INTEGER PRIMARY KEY REFERENCES papers ON DELETE CASCADE, words tsvector NOT NULL
    )
    """,
    "CREATE INDEX paper_words_words ON paper_words USING gin (words)",
)


def upgrade() -> None:
    """Change the papers, and make their index anew."""
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()
    index_after(op.get_bind(), 0)


def _postgresql() -> None:
    op.drop_column("papers", "words")
    op.drop_constraint("papers_doi_key", "papers")
    for column in _NEW:
        op.add_column("papers", column)
    for name in ("published", "updated"):
        op.alter_column("papers", name, nullable=True)
    op.create_index(op.f("ix_papers_doi"), "papers", ["doi"])
    op.drop_index("ix_papers_published", "papers")
    op.create_index("papers_newest", "papers", [sa.text("published DESC NULLS LAST"), sa.text("id DESC")])
    for statement in _POSTGRESQL_WORDS:
        op.execute(statement)


def _sqlite() -> None:
    """Make the table anew, as SQLite can't take a constraint away; the caller has foreign keys switched off."""
    connection = op.get_bind()
    made = "SELECT sql FROM sqlite_master WHERE tbl_name = 'papers' AND type = 'index' AND sql IS NOT NULL"
    indexes = [sql for sql in connection.scalars(sa.text(made)) if "ix_papers_published" not in sql]
    op.execute("DROP TABLE paper_words")
    op.create_table(
        "papers_new",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("arxiv_id", sa.String(length=40), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("doi", sa.String(length=200), nullable=True),
        sa.Column("slug", sa.String(length=80), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("title_key", sa.String(length=200), nullable=False),
        sa.Column("authors", sa.Text(), nullable=False),
        sa.Column("abstract", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("categories", sa.Text(), nullable=False),
        sa.Column("published", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=True),
        sa.Column("added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("upvotes", sa.Integer(), nullable=False),
        sa.Column("links", sa.JSON(), nullable=False),
        *_NEW,
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("arxiv_id"),
        sa.UniqueConstraint("slug"),
        sqlite_autoincrement=True,
    )
    columns = "id, arxiv_id, version, doi, slug, title, title_key, authors, abstract, summary, categories"
    columns += ", published, updated, added, upvotes, links"
    op.execute(f"INSERT INTO papers_new ({columns}) SELECT {columns} FROM papers")
    op.execute("DROP TABLE papers")  # and its triggers
    op.execute("ALTER TABLE papers_new RENAME TO papers")
    for statement in (*indexes, *_SQLITE_WORDS):
        op.execute(statement)
    op.create_index(op.f("ix_papers_doi"), "papers", ["doi"])
    op.create_index("papers_newest", "papers", [sa.text("published DESC"), sa.text("id DESC")])
