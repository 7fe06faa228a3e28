"""One search of both kinds: their ranks fused, so that neither's scores need mean anything to the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from paperworks.feed.entry import title_key
from paperworks.feed.schema import NEWEST, FeedPaper
from paperworks.feed.search.meaning import MeaningIndex
from paperworks.feed.search.query import Query, parse_query
from paperworks.feed.search.words import allowed, search_words
from paperworks.feed.store import FeedStore

K = 60
"""Of reciprocal rank fusion, as in Cormack, Clarke and Büttcher (2009)."""

LEAST_COSINE, LEAST_COSINE_OF_UNKNOWN = 0.3, 0.4
"""Papers whose meaning is farther from a search's than this don't fit it; the second where none has any of its words.

Measured with MiniLM: for 280 searches of random keys, the nearest of our 51 papers had 0.30 at most (95 % of them
below 0.27), the nearest of 100,000 papers 0.38 (0.34). For 50 searches for methods and fields the nearest had 0.48 in
the median with 51 papers, 0.51 with 100,000 (95 % above 0.33); for 15 for recipes, flights and the like, 0.26 at most.
"""


@dataclass(frozen=True)
class Found:
    """The ids of the papers found, best first, and the query as it was understood."""

    ids: list[int]
    query: Query


def fuse(rankings: Iterable[Sequence[int]], k: int = K) -> list[int]:
    """Return items by the sum of ``1 / (k + rank)`` over rankings; ties by the first ranking that has them.

    Examples
    --------
    >>> fuse([[1, 2, 3], [3, 1, 4]])
    [1, 3, 2, 4]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda item: -scores[item])


def search(
    store: FeedStore, text: str, meaning: MeaningIndex | None = None, *, limit: int = 200, as_typed: bool = False
) -> Found:
    """Search papers by words and, where an index of meanings is given, by meaning.

    What a search leaves out, phrases, ``since:``, ``author:``, ``field:`` and the like are decided by the index of
    words for all papers, whatever found them. A search with an arXiv id, a DOI or a link finds that paper and no
    other, if it is there; a paper whose whole title is given comes first.

    Parameters
    ----------
    store, meaning
        The feed, and the index of its meanings.
    text
        As `parse_query` takes it.
    limit
        Greatest number of papers.
    as_typed
        The last word may be unfinished.

    Raises
    ------
    BadQuery
        As `parse_query`.

    Examples
    --------
    >>> from paperworks.feed import Entry
    >>> store = FeedStore("sqlite://")
    >>> _ = store.add([Entry(title="On sampling"), Entry(title="On bounds", arxiv_id="2206.00927")])
    >>> search(store, "samples").ids, search(store, "https://arxiv.org/pdf/2206.00927v3").ids
    ([1], [2])
    """
    query = parse_query(text, as_typed=as_typed)
    with store.session() as session:
        if query.names and ((named := _named(session, query)) or not query.wanted):
            return Found(named[:limit], query)
        if not query.clauses:
            return Found(_newest(session, query, limit), query)
        by_words = [found.id for found in search_words(session.connection(), query)]
        titled = [] if query.since or query.unwanted else _titled(session, text)
    rankings = [by_words[:limit]]
    if meaning is not None and query.text:
        least = LEAST_COSINE if by_words else LEAST_COSINE_OF_UNKNOWN
        near = [i for i, cosine in meaning.nearest(query.text, k=limit) if cosine >= least]
        with store.session() as session:
            rankings.append(allowed(session.connection(), query, near))
    return Found(list(dict.fromkeys(titled + fuse(rankings)))[:limit], query)


def _named(session: Session, query: Query) -> list[int]:
    names = (getattr(FeedPaper, name) == value for name, value in query.names)
    return list(session.scalars(select(FeedPaper.id).where(or_(*names)).order_by(*NEWEST)))


def _titled(session: Session, text: str) -> list[int]:
    """Return the papers whose title a text is, but for signs and spaces."""
    key = title_key(text)
    return (
        list(session.scalars(select(FeedPaper.id).where(FeedPaper.title_key == key).order_by(*NEWEST))) if key else []
    )


def _newest(session: Session, query: Query, limit: int) -> list[int]:
    statement = select(FeedPaper.id).order_by(*NEWEST).limit(limit)
    if query.since:
        statement = statement.where(FeedPaper.published >= query.since)
    return list(session.scalars(statement))
