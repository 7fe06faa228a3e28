"""The feed's first schema: papers and their index of words, people, votes, searches, digests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SQLITE_WORDS = (
    """
    CREATE VIRTUAL TABLE paper_words USING fts5(
        title, authors, abstract, summary, categories, content='papers', content_rowid='id', tokenize='porter unicode61'
    )
    """,
    """
    CREATE TRIGGER paper_words_delete AFTER DELETE ON papers BEGIN
        INSERT INTO paper_words(paper_words, rowid, title, authors, abstract, summary, categories)
        VALUES ('delete', old.id, old.title, old.authors, old.abstract, old.summary, old.categories);
    END
    """,
    """
    CREATE TRIGGER paper_words_update AFTER UPDATE OF title, authors, abstract, summary, categories ON papers BEGIN
        INSERT INTO paper_words(paper_words, rowid, title, authors, abstract, summary, categories)
        VALUES ('delete', old.id, old.title, old.authors, old.abstract, old.summary, old.categories);
        INSERT INTO paper_words(rowid, title, authors, abstract, summary, categories)
        VALUES (new.id, new.title, new.authors, new.abstract, new.summary, new.categories);
    END
    """,
)
_PLAIN = "regexp_replace(normalize({}, NFKD), U&'[\\0300-\\036f]', '', 'g')"  # without accents, as SQLite has it
_POSTGRESQL_WORDS = (
    f"""
    ALTER TABLE papers ADD COLUMN words tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('english', {_PLAIN.format("title")}), 'A')
        || setweight(to_tsvector('english', {_PLAIN.format("authors")}), 'B')
        || setweight(to_tsvector('english', {_PLAIN.format("abstract || ' ' || summary")}), 'C')
        || setweight(to_tsvector('english', translate(categories, '.-', '  ')), 'D')
    ) STORED
    """,
    "CREATE INDEX papers_words ON papers USING gin (words)",
)


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "digests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frequency", sa.String(length=8), nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trending", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("one_digest_a_period", "digests", ["frequency", "period"], unique=True)
    op.create_table(
        "harvests",
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("changed", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source"),
    )
    op.create_table(
        "hits",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", "window"),
    )
    op.create_table(
        "papers",
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
        sa.Column("published", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("upvotes", sa.Integer(), nullable=False),
        sa.Column("links", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("arxiv_id"),
        sa.UniqueConstraint("doi"),
        sa.UniqueConstraint("slug"),
    )
    op.create_index(op.f("ix_papers_published"), "papers", ["published"], unique=False)
    op.create_index(op.f("ix_papers_title_key"), "papers", ["title_key"], unique=False)
    op.create_table(
        "people",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email"),
    )
    op.create_table(
        "spent_tokens",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "activity",
        sa.Column("paper_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('read', 'run')", name="activity_kind"),
        sa.ForeignKeyConstraint(["paper_id"], ["papers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("paper_id", "kind", "day"),
    )
    op.create_index(op.f("ix_activity_day"), "activity", ["day"], unique=False)
    op.create_table(
        "embeddings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("paper_id", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["paper_id"], ["papers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("paper_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reading_list",
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("paper_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["paper_id"], ["papers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("person_id", "paper_id"),
    )
    op.create_index(op.f("ix_reading_list_paper_id"), "reading_list", ["paper_id"], unique=False)
    op.create_table(
        "saved_searches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("query", sa.String(length=300), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("one_of_each_search", "saved_searches", ["person_id", "query"], unique=True)
    op.create_table(
        "sends",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("changed", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('claimed', 'sent', 'uncertain', 'retry', 'failed')", name="send_state"),
        sa.ForeignKeyConstraint(["digest_id"], ["digests.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_sends_person_id"), "sends", ["person_id"], unique=False)
    op.create_index("one_copy_each", "sends", ["digest_id", "person_id"], unique=True)
    op.create_table(
        "subscriptions",
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("frequency", sa.String(length=8), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bounces", sa.Integer(), nullable=False),
        sa.CheckConstraint("frequency IN ('daily', 'weekly')", name="subscription_frequency"),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("person_id"),
    )
    op.create_table(
        "votes",
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("paper_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["paper_id"], ["papers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("person_id", "paper_id"),
    )
    op.create_index(op.f("ix_votes_at"), "votes", ["at"], unique=False)
    op.create_index(op.f("ix_votes_paper_id"), "votes", ["paper_id"], unique=False)
    for statement in _POSTGRESQL_WORDS if op.get_bind().dialect.name == "postgresql" else _SQLITE_WORDS:
        op.execute(statement)
