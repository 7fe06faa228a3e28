"""The tables of the feed."""

import secrets
from datetime import UTC, date, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Date,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Moment(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Take only moments that say their time zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a moment is {value!r}; it takes one with a time zone")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give moments in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Moment,
        date: Date,
        str: Text,
        dict[str, Any]: JSON,
        bytes: LargeBinary,
    }


NEVER_AGAIN = {"sqlite_autoincrement": True}
"""SQLite gives the number of a row that was deleted to the next one, unless told so; PostgreSQL's sequences don't."""


class FeedPaper(Base):
    """A paper as the feed knows it. `authors` stand one a line, `categories` between spaces; `summary` is ours.

    `version` is the newest that is known, and `versions` says when each that is known came, by its number. A paper
    whose source says no date is undated. Two papers may have one DOI, such as both parts of an article.
    """

    __tablename__ = "papers"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(primary_key=True)
    arxiv_id: Mapped[str | None] = mapped_column(String(40), unique=True)
    version: Mapped[int] = mapped_column(default=0)
    doi: Mapped[str | None] = mapped_column(String(200), index=True)
    slug: Mapped[str | None] = mapped_column(String(80), unique=True)
    title: Mapped[str]
    title_key: Mapped[str] = mapped_column(String(200), index=True)
    authors: Mapped[str] = mapped_column(default="")
    abstract: Mapped[str] = mapped_column(default="")
    summary: Mapped[str] = mapped_column(default="")
    categories: Mapped[str] = mapped_column(default="")
    published: Mapped[datetime | None]
    updated: Mapped[datetime | None]
    added: Mapped[datetime] = mapped_column(index=True)
    upvotes: Mapped[int] = mapped_column(default=0)
    links: Mapped[dict[str, Any]] = mapped_column(default=dict)
    comment: Mapped[str] = mapped_column(default="", server_default="")
    journal_ref: Mapped[str] = mapped_column(default="", server_default="")
    withdrawn: Mapped[bool] = mapped_column(default=False, server_default=false())
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")


NEWEST = (FeedPaper.published.desc().nulls_last(), FeedPaper.id.desc())
"""The order of lists: the newest first, the undated last."""


class Embedding(Base):
    """The meaning of a paper: a unit vector of half-precision numbers. A later one has a higher id."""

    __tablename__ = "embeddings"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(primary_key=True)
    paper_id: Mapped[int] = mapped_column(ForeignKey("papers.id", ondelete="CASCADE"), unique=True)
    vector: Mapped[bytes]


class Activity(Base):
    """How often a paper was read, and how many of its claims were run, on a day."""

    __tablename__ = "activity"
    __table_args__ = (CheckConstraint("kind IN ('read', 'run')", name="activity_kind"),)

    paper_id: Mapped[int] = mapped_column(ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    count: Mapped[int] = mapped_column(default=0)


class Person(Base):
    """Someone with an e-mail address."""

    __tablename__ = "people"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    created: Mapped[datetime]
    subscription: Mapped["Subscription | None"] = relationship(back_populates="person", passive_deletes=True)


class SignIn(Base):
    """A session: that a browser which knows a random token is someone's, for a time. Only the token's hash is kept."""

    __tablename__ = "sign_ins"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    created: Mapped[datetime]
    expires: Mapped[datetime] = mapped_column(index=True)


class Vote(Base):
    """One person's vote for a paper."""

    __tablename__ = "votes"

    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    paper_id: Mapped[int] = mapped_column(ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True, index=True)
    at: Mapped[datetime] = mapped_column(index=True)


class ReadingItem(Base):
    """A paper on one person's reading list."""

    __tablename__ = "reading_list"

    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    paper_id: Mapped[int] = mapped_column(ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True, index=True)
    at: Mapped[datetime]


class SavedSearch(Base):
    """A search that someone wants to be told of."""

    __tablename__ = "saved_searches"
    __table_args__ = (Index("one_of_each_search", "person_id", "query", unique=True), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    query: Mapped[str] = mapped_column(String(300))
    created: Mapped[datetime]


class Subscription(Base):
    """That a person wants the digest; it counts once `confirmed` is set.

    `key` is random, and what the links to unsubscribe are bound to. What was delivered covers the papers up to
    `covered_paper` that were added until `covered_until`: a paper is told of where one of both doesn't cover it.
    `bounces` counts the digests in a row that the address itself refused for good.
    """

    __tablename__ = "subscriptions"
    __table_args__ = (
        CheckConstraint("frequency IN ('daily', 'weekly')", name="subscription_frequency"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(32), unique=True, default=lambda: secrets.token_urlsafe(18))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), unique=True)
    frequency: Mapped[str] = mapped_column(String(8))
    created: Mapped[datetime]
    confirmed: Mapped[datetime | None]
    bounces: Mapped[int] = mapped_column(default=0)
    covered_until: Mapped[datetime | None]
    covered_paper: Mapped[int] = mapped_column(default=0)
    person: Mapped[Person] = relationship(back_populates="subscription")


class Digest(Base):
    """One issue of the digest: what is trending, and the last of the papers that it can tell of."""

    __tablename__ = "digests"
    __table_args__ = (Index("one_digest_a_period", "frequency", "period", unique=True), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    frequency: Mapped[str] = mapped_column(String(8))
    period: Mapped[str] = mapped_column(String(16))
    until: Mapped[datetime]
    last_paper: Mapped[int]
    trending: Mapped[dict[str, Any]]


class Send(Base):
    """One copy of a digest: who it is for, and how far it came."""

    __tablename__ = "sends"
    __table_args__ = (
        CheckConstraint("state IN ('claimed', 'sent', 'uncertain', 'retry', 'failed')", name="send_state"),
        Index("one_copy_each", "digest_id", "person_id", unique=True),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    digest_id: Mapped[int] = mapped_column(ForeignKey("digests.id", ondelete="CASCADE"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(String(10))
    attempts: Mapped[int] = mapped_column(default=0)
    changed: Mapped[datetime]
    next_attempt: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")


class ApiToken(Base):
    """That a script which knows a random token acts for someone. Only the token's hash is kept."""

    __tablename__ = "api_tokens"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    created: Mapped[datetime]
    used: Mapped[datetime | None]


class Submission(Base):
    """What a reader measured of one claim on a machine of theirs.

    `entry` is an entry of evidence without what only its maker needs, `key` the hash of what tells entries apart, and
    `machine` that of the machine and who uses it.
    """

    __tablename__ = "submissions"
    __table_args__ = (Index("one_of_each_measurement", "person_id", "key", unique=True), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    slug: Mapped[str] = mapped_column(String(80), index=True)
    key: Mapped[str] = mapped_column(String(64))
    machine: Mapped[str] = mapped_column(String(64))
    entry: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class Post(Base):
    """One digest posted to a webhook, whose address is kept as a hash, and how far it came."""

    __tablename__ = "posts"
    __table_args__ = (
        CheckConstraint("state IN ('sent', 'retry', 'failed')", name="post_state"),
        Index("one_post_each", "digest_id", "hook", unique=True),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    digest_id: Mapped[int] = mapped_column(ForeignKey("digests.id", ondelete="CASCADE"))
    hook: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(10))
    attempts: Mapped[int]
    next_attempt: Mapped[datetime | None]
    changed: Mapped[datetime]
    error: Mapped[str] = mapped_column(default="", server_default="")


class SpentToken(Base):
    """A link that was used and works no more; kept until it would have expired."""

    __tablename__ = "spent_tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires: Mapped[datetime] = mapped_column(index=True)


class Harvest(Base):
    """Where the ingest of a source stands, so that the next one goes on from there."""

    __tablename__ = "harvests"

    source: Mapped[str] = mapped_column(String(200), primary_key=True)
    state: Mapped[dict[str, Any]]
    changed: Mapped[datetime]


class Hit(Base):
    """How often a key did something that is limited, in a window of time; of no use once that ended."""

    __tablename__ = "hits"

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
    expires: Mapped[datetime] = mapped_column(index=True)
