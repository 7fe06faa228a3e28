"""Search over the records by words, with SQLite's full-text index made in memory from what is there."""

import difflib
import re
import sqlite3
from collections.abc import Iterable

from paperworks.evidence.record import Paper

# What a match in each column counts for; the order of the columns of the index.
WEIGHTS = {"slug": 10.0, "title": 8.0, "methods": 6.0, "tags": 5.0, "questions": 4.0, "summary": 2.0, "claims": 1.0}
_STOP = """
    a about after all an and another any are as at be been between by can do does for from get has have how i if in into
    is it its me my no not of on one or our really should so some than that the their them there these this to too use
    using was we what when where which while why will with without you your
"""
_STOP_WORDS = frozenset(_STOP.split())


def search(papers: Iterable[Paper], words: str) -> list[Paper]:
    """Rank the papers that match the words, best first.

    Papers that hold every word come before those that hold some; within each, BM25 decides, with a
    match in the slug or title counting more than one in the summary. A word matches as a prefix, in
    any of its English forms; one that matches nowhere is replaced by the nearest word that does.

    Raises
    ------
    ValueError
        Where `words` holds no word to search for.
    """
    papers = list(papers)
    terms = _terms(words)
    if not terms:
        raise ValueError(f"words is {words!r}; it takes at least one word")
    connection = _index(papers)
    try:
        alternatives = [_alternatives(connection, term) for term in terms]
        found: list[int] = []
        for operator in (" AND ", " OR "):
            query = operator.join("(" + " OR ".join(f'"{a}" *' for a in group) + ")" for group in alternatives)
            found += _match(connection, query)
        return [papers[i] for i in dict.fromkeys(found)]
    finally:
        connection.close()


def replaced(papers: Iterable[Paper], words: str) -> dict[str, list[str]]:
    """Return the words that no paper holds, each with the nearest ones that `search` takes in its place."""
    connection = _index(list(papers))
    try:
        found = {term: _alternatives(connection, term) for term in _terms(words)}
    finally:
        connection.close()
    return {term: taken for term, taken in found.items() if taken != [term]}


def _index(papers: list[Paper]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    columns = ", ".join(WEIGHTS)
    connection.execute(f"CREATE VIRTUAL TABLE paper USING fts5({columns}, tokenize='porter unicode61')")
    rows = (
        (
            number,
            paper.slug,
            paper.title,
            " ".join(_spread(m.rpartition(".")[2]) for m in paper.methods),
            " ".join(paper.tags),
            " ".join(paper.questions),
            paper.summary,
            " ".join(claim.says for claim in paper.claims),
        )
        for number, paper in enumerate(papers)
    )
    connection.executemany(f"INSERT INTO paper(rowid, {columns}) VALUES ({', '.join('?' * (len(WEIGHTS) + 1))})", rows)
    return connection


def _spread(name: str) -> str:
    """Write a name such as `DPMSolver` so that it is found whole and by its parts."""
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return " ".join([name, *parts])


def _terms(words: str) -> list[str]:
    terms = _words(words)
    return [t for t in terms if t not in _STOP_WORDS] or terms


def _alternatives(connection: sqlite3.Connection, term: str) -> list[str]:
    if _match(connection, f'"{term}" *'):
        return [term]
    # The words as written: the index itself knows only their stems, too short to compare a typo with.
    known = {word for row in connection.execute("SELECT * FROM paper") for word in _words(" ".join(row))}
    return difflib.get_close_matches(term, known, n=2, cutoff=0.65) or [term]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _match(connection: sqlite3.Connection, query: str) -> list[int]:
    weights = ", ".join(str(w) for w in WEIGHTS.values())
    rows = connection.execute(
        f"SELECT rowid FROM paper WHERE paper MATCH ? ORDER BY bm25(paper, {weights}), slug", (query,)
    )
    return [row[0] for row in rows]
