"""Papers as the lists show them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from paperworks.feed.entry import MalformedEntry, parse_arxiv_id, parse_doi
from paperworks.feed.schema import FeedPaper
from paperworks.feed.store import FeedStore
from paperworks.feed.trending import votes_of
from paperworks.web.display import clip
from paperworks.web.records import record_of


@dataclass(frozen=True)
class Card:
    """A paper in a list. `claims` is how many of its claims hold, and of how many, None where it isn't ours.

    `thumbnail` is the address of its main figure, empty where it has none.
    """

    id: int
    href: str
    title: str
    authors: str
    text: str
    published: datetime | None
    added: datetime
    categories: tuple[str, ...]
    votes: int
    claims: tuple[int, int] | None
    measured: bool
    thumbnail: str
    links: dict[str, str]
    withdrawn: bool


def cards(store: FeedStore, ids: Sequence[int]) -> list[Card]:
    """Return the cards of papers, in their order; those that are gone are left out."""
    with store.session() as session:
        session.expire_on_commit = False
        rows = session.scalars(select(FeedPaper).where(FeedPaper.id.in_(ids))).all()
    votes = votes_of(store, list(ids))
    found = {paper.id: _card(paper, votes.get(paper.id, 0)) for paper in rows}
    return [found[i] for i in ids if i in found]


def href(paper: FeedPaper) -> str:
    """Return the address of a paper's page: by its short name, else its arXiv id, else its number."""
    return f"/paper/{paper.slug or paper.arxiv_id or paper.id}"


def short(names: Iterable[str], most: int = 4) -> str:
    """Return names on one line, the rest of many as a count.

    Examples
    --------
    >>> short(["A. One", "B. Two", "C. Three", "D. Four"], 2)
    'A. One, B. Two and 2 more'
    """
    names = list(names)
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return ", ".join(names)


def _card(paper: FeedPaper, votes: int) -> Card:
    record = record_of(paper.slug)
    return Card(
        id=paper.id,
        href=href(paper),
        title=paper.title,
        authors=short(paper.authors.split("\n")),
        text=clip(paper.summary or paper.abstract),
        published=paper.published,
        added=paper.added,
        categories=tuple(paper.categories.split()),
        votes=votes,
        claims=(record.held, len(record.claims)) if record else None,
        measured=bool(record and record.measured),
        thumbnail=f"/figures/{paper.slug}/{record.main.name}" if record and record.main else "",
        links=paper.links,
        withdrawn=paper.withdrawn,
    )


def find_paper(store: FeedStore, key: str) -> FeedPaper:
    """Return a paper by its short name, its arXiv id with or without a version, its DOI, or its number.

    Raises
    ------
    LookupError
        Where there is none.
    """
    if re.fullmatch(r"[0-9]{1,9}", key, re.ASCII):
        found = FeedPaper.id == int(key)
    elif re.fullmatch(r"[\w-]{1,80}", key):
        found = FeedPaper.slug == key
    else:
        try:
            found = (
                FeedPaper.doi == parse_doi(key)
                if key.startswith("10.")
                else FeedPaper.arxiv_id == parse_arxiv_id(key)[0]
            )
        except MalformedEntry:
            raise LookupError(f"there is no paper {key[:60]!r}") from None
    with store.session() as session:
        session.expire_on_commit = False
        paper = session.scalar(select(FeedPaper).where(found).order_by(FeedPaper.id).limit(1))
    if paper is None:
        raise LookupError(f"there is no paper {key!r}")
    return paper
