"""Which papers of two sources are the same: by arXiv id, else by DOI, else by title, authors and year."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, or_, select

from paperworks.feed.entry import Entry
from paperworks.feed.schema import FeedPaper
from paperworks.feed.search.normal import plain

_SUFFIXES = {"jr", "sr", "ii", "iii", "iv"}
_CUT_SHORT = 3
"""With this many authors or more, a list of authors may be the beginning of a longer one."""


class Known:
    """The papers that a batch may be about, by each of their names; a paper is a mapping of its columns.

    Parameters
    ----------
    connection
        To the feed's database.
    entries
        The batch.
    """

    def __init__(self, connection: Connection, entries: Sequence[Entry]) -> None:
        self._by: dict[str, dict[str, list[dict[str, Any]]]] = {
            "arxiv_id": {},
            "slug": {},
            "doi": {},
            "title_key": {},
        }
        wanted = {
            FeedPaper.arxiv_id: {e.arxiv_id for e in entries if e.arxiv_id},
            FeedPaper.slug: {e.slug for e in entries if e.slug},
            FeedPaper.doi: {e.doi for e in entries if e.doi},
            FeedPaper.title_key: {e.title_key for e in entries},
        }
        found = or_(*(column.in_(names) for column, names in wanted.items() if names))
        for row in connection.execute(select(FeedPaper.__table__).where(found).order_by(FeedPaper.id)).mappings():
            self.learn(dict(row))

    def learn(self, row: dict[str, Any]) -> None:
        """Know a paper by all its names from now on."""
        for name, known in self._by.items():
            if row[name]:
                rows = known.get(row[name])
                if rows is None:
                    known[row[name]] = [row]
                elif not any(other is row for other in rows):
                    rows.append(row)

    def has(self, name: str, value: str) -> bool:
        """Return whether a paper has a name."""
        return value in self._by[name]

    def find(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return the paper that a row is about, or None for a new one."""
        for name in ("arxiv_id", "slug", "doi"):
            for found in self._of(name, row):
                if name == "arxiv_id" or not _differ(found, row, "arxiv_id"):
                    return found
        for found in self._of("title_key", row):
            if not any(_differ(found, row, name) for name in ("arxiv_id", "slug", "doi")) and _agree(found, row):
                return found
        return None

    def _of(self, name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the papers that share a name, those of the same title first."""
        found = self._by[name].get(row[name], []) if row[name] else []
        return sorted(found, key=lambda other: other["title_key"] != row["title_key"]) if len(found) > 1 else found


def _differ(a: dict[str, Any], b: dict[str, Any], name: str) -> bool:
    return bool(a[name] and b[name] and a[name] != b[name])


def _agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether authors and years are the same, as far as both are known."""
    if a["published"] and b["published"] and a["published"].year != b["published"].year:
        return False
    if not (a["authors"] and b["authors"]):
        return True
    short, long = sorted((a["authors"], b["authors"]), key=lambda authors: authors.count("\n"))
    fewer, more = short.count("\n") + 1, long.count("\n") + 1
    return begins_with(long, short) and (fewer == more or fewer >= _CUT_SHORT)


def begins_with(authors: str, others: str) -> bool:
    r"""Return whether a list of authors, one a line, begins with the same people as another, however abbreviated.

    Examples
    --------
    >>> begins_with("Donald E. Knuth Jr.\nAnn Lee", "D. Knuth"), begins_with("Ann Lee", "Abe Lee")
    (True, False)
    """
    names, other_names = authors.split("\n"), others.split("\n")
    return len(names) >= len(other_names) and all(map(_same_person, names, other_names))


def _same_person(a: str, b: str) -> bool:
    """Return whether the last names of two people are equal, and one first name begins as the other."""
    (last, first), (other_last, other_first) = map(_name, (a, b))
    return last == other_last and (first.startswith(other_first) or other_first.startswith(first))


def _name(name: str) -> tuple[str, str]:
    words = [word for word in plain(name.replace("-", "")).split() if word not in _SUFFIXES] or [name]
    return words[-1], words[0] if len(words) > 1 else ""
