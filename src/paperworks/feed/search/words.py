"""Search by words: the database's own index finds and decides, BM25 ranks.

A word that is in a large share of a million papers matches far more than anyone reads, and ranking them all takes a
second. So the index gives the newest matches of each kind, and those are ranked: all of them where they are few.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, text

from paperworks.feed.search.normal import counted
from paperworks.feed.search.query import Clause, Phrase, Query

CANDIDATES = 1000
"""How many of the newest matches are ranked."""
K1, B = 1.2, 0.75
"""Of BM25, at their customary values."""
_COLUMNS = ("title", "authors", "abstract", "summary", "categories")
_WEIGHTS = {"title": 4.0, "authors": 3.0, "abstract": 1.0, "summary": 2.0, "categories": 2.0}
_LENGTHS = {"title": 80.0, "authors": 60.0, "abstract": 1200.0, "summary": 400.0, "categories": 15.0}
"""Usual numbers of characters, which BM25 compares a text's with."""
_ANYWHERE = ("title", "authors", "abstract", "summary")
_LETTERS = {"title": "A", "authors": "B", "abstract": "C", "categories": "D"}
_SAMPLE = 200
"""How many of a word's newest matches tell how frequent it is."""


@dataclass(frozen=True)
class Scored:
    """A paper and how well it fits."""

    id: int
    score: float


def search_words(connection: Connection, query: Query) -> list[Scored]:
    """Return the papers that fit, best first: those that have every word, then those that lack some.

    Phrases and what is looked for in one column are never lacking.

    Parameters
    ----------
    connection
        To a feed's database.
    query
        With at least one clause to look for.
    """
    finder = _finder(connection)
    ranker = _Ranker(finder, query.wanted)
    found = set(finder.find(query.wanted, CANDIDATES, query))
    if len(found) == CANDIDATES:  # there may be better ones among the older: those that say it in their titles
        titles = [clause if clause.column else replace(clause, column="title") for clause in query.wanted]
        found |= set(finder.find(titles, CANDIDATES // 2, query))
    every = ranker.rank(finder.texts(found))
    plain = [clause for clause in query.wanted if not clause.needed]
    if len(query.wanted) == 1 or not plain or len(every) >= CANDIDATES // 10:
        return every
    conditions = [clause for clause in query.wanted if clause.needed]
    some: set[int] = set()
    for clause in sorted(plain, key=ranker.frequency)[:4]:  # the rarest say most
        some |= set(finder.find([clause, *conditions], CANDIDATES // 4, query))
    return every + ranker.rank(finder.texts(some - found))


def allowed(connection: Connection, query: Query, ids: Sequence[int]) -> list[int]:
    """Return those of some papers that a search doesn't rule out, whatever found them, in their order."""
    finder = _finder(connection)
    left = set(ids)
    if conditions := [clause for clause in query.wanted if clause.needed]:
        left &= set(finder.find(conditions, len(left), among=left))
    for clause in query.unwanted:
        left -= set(finder.find([clause], len(left), among=left))
    if query.since and left:
        left = finder.since(query, left)
    return [i for i in ids if i in left]


def _finder(connection: Connection) -> "_Finder":
    return _Sqlite(connection) if connection.dialect.name == "sqlite" else _Postgresql(connection)


class _Finder(ABC):
    """What the two databases do alike."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @abstractmethod
    def matches(self, wanted: Sequence[Clause], unwanted: Sequence[Clause]) -> str:
        """Return what the index takes to find papers that have all that is wanted and nothing that isn't."""

    @property
    @abstractmethod
    def statement(self) -> str:
        """The beginning of the query that takes it, as :match."""

    @property
    @abstractmethod
    def number(self) -> str:
        """What the index calls a paper's id."""

    def find(
        self, wanted: Sequence[Clause], limit: int, query: Query | None = None, *, among: Collection[int] = ()
    ) -> list[int]:
        """Return the newest papers that have all that is wanted, and that a query doesn't rule out."""
        values: dict[str, Any] = {"match": self.matches(wanted, query.unwanted if query else ()), "limit": limit}
        statement = self.statement
        if query and query.since:
            statement += f" AND {self.number} IN (SELECT id FROM papers WHERE published >= :since)"
            values["since"] = self._moment(query)
        if among:
            statement += f" AND {self.number} IN ({_listed(among)})"
        return list(self.connection.scalars(text(f"{statement} ORDER BY {self.number} DESC LIMIT :limit"), values))

    def since(self, query: Query, ids: Iterable[int]) -> set[int]:
        """Return the papers that are as new as a query wants them."""
        statement = text(f"SELECT id FROM papers WHERE published >= :since AND id IN ({_listed(ids)})")
        return set(self.connection.scalars(statement, {"since": self._moment(query)}))

    def texts(self, ids: Iterable[int]) -> list[tuple[Any, ...]]:
        """Return what is ranked of some papers: the id, then the columns."""
        numbers = sorted(ids)
        if not numbers:
            return []
        statement = f"SELECT id, {', '.join(_COLUMNS)} FROM papers WHERE id IN ({_listed(numbers)})"
        return [tuple(row) for row in self.connection.exec_driver_sql(statement).all()]

    def newest(self) -> int:
        """Return the greatest id."""
        return int(self.connection.scalar(text("SELECT max(id) FROM papers")) or 0)

    def _moment(self, query: Query) -> object:
        return query.since


def _listed(ids: Iterable[int]) -> str:
    return ",".join(map(str, map(int, ids)))


class _Sqlite(_Finder):
    statement = "SELECT rowid FROM paper_words WHERE paper_words MATCH :match"
    number = "rowid"

    def matches(self, wanted: Sequence[Clause], unwanted: Sequence[Clause]) -> str:
        match = " AND ".join(map(self._clause, wanted))
        return f"({match})" + "".join(f" NOT ({self._clause(clause)})" for clause in unwanted) if unwanted else match

    def _moment(self, query: Query) -> object:
        return query.since.strftime("%Y-%m-%d %H:%M:%S.%f") if query.since else None

    @staticmethod
    def _clause(clause: Clause) -> str:
        columns = (clause.column,) if clause.column else _ANYWHERE
        star = "*" if clause.prefix else ""

        def written(phrase: Phrase, star: str) -> str:
            return f'"{" ".join(phrase)}"{star}'

        either = (
            " AND ".join([*(written(phrase, "") for phrase in rest), written(last, star)])
            for *rest, last in clause.alternatives
        )
        return f"{{{' '.join(columns)}}} : ({' OR '.join(f'({each})' for each in either)})"


class _Postgresql(_Finder):
    statement = "SELECT id FROM paper_words WHERE words @@ to_tsquery('paperworks', :match)"
    number = "id"

    def matches(self, wanted: Sequence[Clause], unwanted: Sequence[Clause]) -> str:
        return " & ".join([*map(self._clause, wanted), *(f"!({self._clause(clause)})" for clause in unwanted)])

    @staticmethod
    def _clause(clause: Clause) -> str:
        letters = _LETTERS[clause.column] if clause.column else "ABC"
        star = "*" if clause.prefix else ""

        def written(phrase: Phrase, star: str) -> str:
            return " <-> ".join([*(f"{word}:{letters}" for word in phrase[:-1]), f"{phrase[-1]}:{letters}{star}"])

        either = (
            " & ".join([*(written(phrase, "") for phrase in rest), written(last, star)])
            for *rest, last in clause.alternatives
        )
        return f"({' | '.join(f'({each})' for each in either)})"


class _Ranker:
    """BM25 over columns of different weight (BM25F), with counts taken from the texts themselves."""

    def __init__(self, finder: _Finder, clauses: Sequence[Clause]) -> None:
        self._frequency: dict[Clause, float] = {}
        self._terms: list[tuple[tuple[bytes, ...], tuple[str, ...], float]] = []
        newest = max(1, finder.newest())
        for clause in clauses:
            sample = finder.find([clause], _SAMPLE)
            share = len(sample) / newest
            if len(sample) == _SAMPLE:  # as dense among all as among the newest
                share = _SAMPLE / (newest - sample[-1] + 1)
            count = share * newest
            self._frequency[clause] = count
            rarity = math.log1p((newest - count + 0.5) / (count + 0.5))
            columns = (clause.column,) if clause.column else _ANYWHERE
            spelt = [" ".join((*words[:-1], _root(words[-1]))) for words in clause.spellings]
            if not clause.needed and len(clause.words) > 1:  # each by itself counts, too, but less
                parts = tuple(f" {_root(word)}".encode() for word in clause.words)
                self._terms.append((parts, columns, rarity / 4))
            self._terms.append((tuple(f" {each}".encode() for each in spelt), columns, rarity))

    def frequency(self, clause: Clause) -> float:
        """Return about how many papers have it."""
        return self._frequency[clause]

    def rank(self, rows: list[tuple[Any, ...]]) -> list[Scored]:
        """Return papers by their scores, the newer first where they tie."""
        scored = [Scored(row[0], self._score(row)) for row in rows]
        return sorted(scored, key=lambda one: (-one.score, -one.id))

    def _score(self, row: tuple[Any, ...]) -> float:
        texts = dict(zip(_COLUMNS, counted(row[1:]), strict=True))
        total = 0.0
        for spelt, columns, rarity in self._terms:
            count = 0.0
            for column in columns:
                body = texts[column]
                if times := sum(map(body.count, spelt)):
                    count += _WEIGHTS[column] * times / (1 - B + B * len(body) / _LENGTHS[column])
            total += rarity * count / (K1 + count)
        return total


def _root(word: str) -> str:
    """Return what a word's forms begin with, near enough to count them.

    Examples
    --------
    >>> _root("sampling"), _root("networks"), _root("noise")
    ('sampl', 'network', 'nois')
    """
    return re.sub(r"(?<=...)(?:ing|ed|es|e|s|ion|ions)$", "", word)
