"""Search by words: the database's own index finds, BM25 ranks.

A word that is in a large share of a million papers matches far more than anyone reads, and ranking them all takes a
second. So the index gives the newest matches of each kind, and those are ranked: all of them where they are few.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from paperworks.feed.search.query import Clause, Query

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
_TO_SPACES = bytes(c if c >= 128 or chr(c).isalnum() else 32 for c in range(256))
"""Of UTF-8, what is no letter, digit or part of one: words begin after a space."""
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
        With at least one clause.
    """
    finder = _Sqlite(connection) if connection.dialect.name == "sqlite" else _Postgresql(connection)
    ranker = _Ranker(finder, query.wanted)
    found = set(finder.find(query.wanted, query, CANDIDATES))
    if len(found) == CANDIDATES:  # there may be better ones among the older: those that say it in their titles
        anywhere = [c for c in query.wanted if not c.column]
        rest = [c for c in query.wanted if c.column]
        found |= set(finder.find([*(Clause(c.words, "title") for c in anywhere), *rest], query, CANDIDATES // 2))
    every = ranker.rank(finder.texts(found))
    plain = [clause for clause in query.wanted if not clause.column and len(clause.words) == 1]
    if len(plain) == 1 or len(every) >= CANDIDATES // 10:
        return every
    conditions = [clause for clause in query.wanted if clause not in plain]
    some: set[int] = set()
    for clause in sorted(plain, key=ranker.frequency)[:4]:  # the rarest say most
        some |= set(finder.find([clause, *conditions], query, CANDIDATES // 4))
    return every + ranker.rank(finder.texts(some - found))


class _Finder(ABC):
    """What the two databases do alike."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @abstractmethod
    def find(self, wanted: Sequence[Clause], query: Query, limit: int) -> list[int]:
        """Return the newest papers that have all that is wanted and nothing that isn't."""

    def texts(self, ids: Iterable[int]) -> list[tuple[Any, ...]]:
        """Return what is ranked of some papers: the id, then the columns."""
        numbers = sorted(ids)
        if not numbers:
            return []
        listed = ",".join(map(str, map(int, numbers)))
        statement = f"SELECT id, {', '.join(_COLUMNS)} FROM papers WHERE id IN ({listed})"
        return [tuple(row) for row in self.connection.exec_driver_sql(statement).all()]

    def newest(self) -> int:
        """Return the greatest id."""
        return int(self.connection.scalar(text("SELECT max(id) FROM papers")) or 0)


class _Sqlite(_Finder):
    def find(self, wanted: Sequence[Clause], query: Query, limit: int) -> list[int]:
        match = " AND ".join(map(self._clause, wanted))
        if query.unwanted:
            match = f"({match})" + "".join(f" NOT ({self._clause(clause)})" for clause in query.unwanted)
        since = " AND rowid IN (SELECT id FROM papers WHERE published >= :since)" if query.since else ""
        statement = text(
            f"SELECT rowid FROM paper_words WHERE paper_words MATCH :match{since} ORDER BY rowid DESC LIMIT :limit"
        )
        values: dict[str, Any] = {"match": match, "limit": limit}
        if query.since:
            values["since"] = query.since.strftime("%Y-%m-%d %H:%M:%S.%f")
        return list(self.connection.scalars(statement, values))

    @staticmethod
    def _clause(clause: Clause) -> str:
        columns = (clause.column,) if clause.column else _ANYWHERE
        star = "*" if clause.prefix else ""
        either = " OR ".join(f'"{" ".join(words)}"{star}' for words in clause.spellings)
        return f"{{{' '.join(columns)}}} : ({either})"


class _Postgresql(_Finder):
    def find(self, wanted: Sequence[Clause], query: Query, limit: int) -> list[int]:
        parts = [self._clause(clause) for clause in wanted]
        parts += [f"!({self._clause(clause)})" for clause in query.unwanted]
        since = " AND published >= :since" if query.since else ""
        statement = text(
            f"SELECT id FROM papers WHERE words @@ to_tsquery('english', :match){since} ORDER BY id DESC LIMIT :limit"
        )
        values: dict[str, Any] = {"match": " & ".join(parts), "limit": limit}
        if query.since:
            values["since"] = query.since
        return list(self.connection.scalars(statement, values))

    @staticmethod
    def _clause(clause: Clause) -> str:
        letters = _LETTERS[clause.column] if clause.column else "ABC"
        star = "*" if clause.prefix else ""
        phrases = (
            " <-> ".join([*(f"{word}:{letters}" for word in words[:-1]), f"{words[-1]}:{letters}{star}"])
            for words in clause.spellings
        )
        return "(" + " | ".join(f"({phrase})" for phrase in phrases) + ")"


class _Ranker:
    """BM25 over columns of different weight (BM25F), with counts taken from the texts themselves."""

    def __init__(self, finder: _Finder, clauses: Sequence[Clause]) -> None:
        self._frequency: dict[Clause, float] = {}
        self._terms: list[tuple[tuple[bytes, ...], tuple[str, ...], float]] = []
        newest = max(1, finder.newest())
        for clause in clauses:
            sample = finder.find([clause], Query((clause,)), _SAMPLE)
            share = len(sample) / newest
            if len(sample) == _SAMPLE:  # as dense among all as among the newest
                share = _SAMPLE / (newest - sample[-1] + 1)
            count = share * newest
            self._frequency[clause] = count
            rarity = math.log1p((newest - count + 0.5) / (count + 0.5))
            columns = (clause.column,) if clause.column else _ANYWHERE
            spelt = tuple(f" {' '.join((*words[:-1], _root(words[-1])))}".encode() for words in clause.spellings)
            self._terms.append((spelt, columns, rarity))

    def frequency(self, clause: Clause) -> float:
        """Return about how many papers have it."""
        return self._frequency[clause]

    def rank(self, rows: list[tuple[Any, ...]]) -> list[Scored]:
        """Return papers by their scores, the newer first where they tie."""
        scored = [Scored(row[0], self._score(row)) for row in rows]
        return sorted(scored, key=lambda one: (-one.score, -one.id))

    def _score(self, row: tuple[Any, ...]) -> float:
        texts = {
            name: b" " + value.lower().encode().translate(_TO_SPACES)
            for name, value in zip(_COLUMNS, row[1:], strict=True)
            if value
        }
        total = 0.0
        for spelt, columns, rarity in self._terms:
            count = 0.0
            for column in columns:
                if (body := texts.get(column)) and (times := sum(map(body.count, spelt))):
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
