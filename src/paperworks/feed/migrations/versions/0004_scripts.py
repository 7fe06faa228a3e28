"""Tokens of scripts, what readers measured themselves, and what was posted to a webhook."""

import sqlalchemy as sa
from alembic import op

from paperworks.feed.schema import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Column("used", Moment),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("slug", sa.String(80), nullable=False, index=True),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("machine", sa.String(64), nullable=False),
        sa.Column("entry", sa.JSON, nullable=False),
        sa.Column("created", Moment, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("one_of_each_measurement", "submissions", ["person_id", "key"], unique=True)
    op.create_table(
        "posts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest_id", sa.Integer, sa.ForeignKey("digests.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hook", sa.String(64), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt", Moment),
        sa.Column("changed", Moment, nullable=False),
        sa.Column("error", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("state IN ('sent', 'retry', 'failed')", name="post_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("one_post_each", "posts", ["digest_id", "hook"], unique=True)
