"""One search of both kinds: their ranks fused, so that neither's scores need mean anything to the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from paperworks.feed.schema import FeedPaper
from paperworks.feed.search.meaning import MeaningIndex
from paperworks.feed.search.query import Clause, Query, parse_query, words_of
from paperworks.feed.search.words import search_words
from paperworks.feed.store import FeedStore

K = 60
"""Of reciprocal rank fusion, as in Cormack, Clarke and Büttcher (2009)."""


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

    Papers that meaning finds are subject to what the search leaves out and to ``since:``, ``author:`` and ``field:``.

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
    >>> _ = store.add([Entry(title="On sampling"), Entry(title="On bounds")])
    >>> search(store, "samples").ids
    [1]
    """
    query = parse_query(text, as_typed=as_typed)
    if not query.clauses:
        return Found(_newest(store, query, limit), query)
    with store.engine.connect() as connection:
        by_words = [found.id for found in search_words(connection, query)]
    rankings = [by_words[:limit]]
    if meaning is not None and query.text:
        rankings.append(_allowed(store, query, [i for i, _ in meaning.nearest(query.text, k=limit)]))
    return Found(fuse(rankings)[:limit], query)


def _newest(store: FeedStore, query: Query, limit: int) -> list[int]:
    statement = select(FeedPaper.id).order_by(FeedPaper.published.desc(), FeedPaper.id.desc()).limit(limit)
    if query.since:
        statement = statement.where(FeedPaper.published >= query.since)
    with store.session() as session:
        return list(session.scalars(statement))


def _allowed(store: FeedStore, query: Query, ids: list[int]) -> list[int]:
    """Return the papers that the query's conditions other than plain words allow, in their order."""
    conditions = tuple(clause for clause in query.wanted if clause.column or len(clause.words) > 1)
    if not (conditions or query.unwanted or query.since) or not ids:
        return ids
    with store.session() as session:
        rows = session.scalars(select(FeedPaper).where(FeedPaper.id.in_(ids))).all()
        allowed = set()
        for paper in rows:
            texts = {
                name: f" {' '.join(words_of(getattr(paper, name)))} "
                for name in ("title", "authors", "abstract", "summary", "categories")
            }

            def has(clause: Clause, texts: dict[str, str] = texts) -> bool:
                columns = (clause.column,) if clause.column else ("title", "authors", "abstract", "summary")
                return any(f" {' '.join(words)} " in texts[name] for words in clause.spellings for name in columns)

            if (
                all(has(clause) for clause in conditions)
                and not any(has(clause) for clause in query.unwanted)
                and (query.since is None or paper.published >= query.since)
            ):
                allowed.add(paper.id)
    return [i for i in ids if i in allowed]
