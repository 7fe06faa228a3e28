"""No number is given twice; the server keeps sessions; subscriptions have random keys and know what they cover."""

import re
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBERED = ("papers", "people", "saved_searches", "digests", "sends")


def upgrade() -> None:
    """Change all tables whose rows are numbered, and what identifies people."""
    connection = op.get_bind()
    op.drop_column("people", "sessions")
    op.create_table(
        "sign_ins",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_sign_ins_person_id"), "sign_ins", ["person_id"])
    op.create_index(op.f("ix_sign_ins_expires"), "sign_ins", ["expires"])
    _digests()
    _subscriptions(connection)
    _hits()
    op.create_index(op.f("ix_papers_added"), "papers", ["added"])
    op.create_index(op.f("ix_spent_tokens_expires"), "spent_tokens", ["expires"])
    if connection.dialect.name == "sqlite":
        for table in _NUMBERED:
            _number_once(connection, table)


def _digests() -> None:
    """An issue ends with a paper as well as at a moment; what it begins with is each subscriber's."""
    op.add_column("digests", sa.Column("last_paper", sa.Integer(), nullable=False, server_default="0"))
    before = "SELECT coalesce(max(id), 0) FROM papers WHERE added <= digests.until"
    op.execute(f"UPDATE digests SET last_paper = ({before})")
    op.drop_column("digests", "since")


def _subscriptions(connection: sa.Connection) -> None:
    """Give each subscription a number and a key, and let it go on from the last copy that was delivered."""
    rows = connection.execute(sa.text("SELECT * FROM subscriptions ORDER BY created, person_id")).mappings().all()
    covered = {
        row.person_id: row
        for row in connection.execute(
            sa.text(
                "SELECT sends.person_id, digests.until, digests.last_paper FROM sends "
                "JOIN digests ON digests.id = sends.digest_id WHERE sends.state = 'sent' ORDER BY digests.until"
            )
        )
    }
    op.drop_table("subscriptions")
    table = op.create_table(
        "subscriptions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("frequency", sa.String(length=8), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bounces", sa.Integer(), nullable=False),
        sa.Column("covered_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("covered_paper", sa.Integer(), nullable=False),
        sa.CheckConstraint("frequency IN ('daily', 'weekly')", name="subscription_frequency"),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sa.UniqueConstraint("person_id"),
        sqlite_autoincrement=True,
    )
    columns = ", ".join(column.name for column in table.columns if column.name != "id")
    values = columns.replace(", ", ", :")
    for row in rows:
        last = covered.get(row["person_id"])
        connection.execute(
            sa.text(f"INSERT INTO subscriptions ({columns}) VALUES (:{values})"),
            {
                **row,
                "key": secrets.token_urlsafe(18),
                "bounces": 0,  # they were counted by another rule
                "covered_until": last.until if last else None,
                "covered_paper": last.last_paper if last else 0,
            },
        )


def _hits() -> None:
    """Count anew: what was counted is of no use after an hour."""
    op.drop_table("hits")
    op.create_table(
        "hits",
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", "window"),
    )
    op.create_index(op.f("ix_hits_expires"), "hits", ["expires"])


def _number_once(connection: sa.Connection, table: str) -> None:
    """Make an SQLite table anew as one that numbers each row once; the caller has foreign keys switched off."""
    made = "SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type {} AND sql IS NOT NULL"
    [sql] = connection.scalars(sa.text(made.format("= 'table'")), {"table": table})
    rest = connection.scalars(sa.text(made.format("IN ('index', 'trigger')")), {"table": table}).all()
    new = sql.replace("id INTEGER NOT NULL", "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", 1)
    new = re.sub(r",\s*PRIMARY KEY \(id\)", "", new).replace(table, f"{table}_new", 1)
    if new.count("PRIMARY KEY") != 1:
        raise RuntimeError(f"the table {table} is not as the first version made it")
    for statement in (
        new,
        f"INSERT INTO {table}_new SELECT * FROM {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE {table}_new RENAME TO {table}",
        *rest,
    ):
        connection.exec_driver_sql(statement)
