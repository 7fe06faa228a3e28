"""The language of searches: words, phrases, what to leave out, and where to look."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MAX_LENGTH, MAX_CLAUSES = 300, 20
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "can", "do", "for", "from", "how", "i", "in", "is", "it", "my"}
    | {"of", "on", "or", "that", "the", "to", "what", "with"}
)
_COLUMNS = {"title": "title", "author": "authors", "abstract": "abstract", "field": "categories"}
_PART = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S+))')


class BadQuery(ValueError):
    """A search that can't be read; the message says why.

    Examples
    --------
    >>> parse_query("-noise")
    Traceback (most recent call last):
    ...
    paperworks.feed.search.query.BadQuery: the search has only words to leave out; it takes one to look for
    """


_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_SPELLINGS = _DIGITS | {digits: word for word, digits in _DIGITS.items()}


@dataclass(frozen=True)
class Clause:
    """Words that stand next to each other, in one column or in any, wanted or not; the last may be a beginning."""

    words: tuple[str, ...]
    column: str = ""
    negated: bool = False
    prefix: bool = False

    @property
    def spellings(self) -> tuple[tuple[str, ...], ...]:
        """The words, and a small number as digits or as a word.

        Examples
        --------
        >>> Clause(("ten", "steps")).spellings
        (('ten', 'steps'), ('10', 'steps'))
        """
        other = tuple(_SPELLINGS.get(word, word) for word in self.words)
        return (self.words,) if other == self.words else (self.words, other)


@dataclass(frozen=True)
class Query:
    """A search as it was understood. `text` is what it says in words, for the search by meaning."""

    clauses: tuple[Clause, ...]
    since: datetime | None = None
    text: str = ""

    @property
    def wanted(self) -> tuple[Clause, ...]:
        """What is looked for."""
        return tuple(clause for clause in self.clauses if not clause.negated)

    @property
    def unwanted(self) -> tuple[Clause, ...]:
        """What is left out."""
        return tuple(clause for clause in self.clauses if clause.negated)


def parse_query(text: str, *, as_typed: bool = False, now: datetime | None = None) -> Query:
    """Read a search.

    ``two words`` looks for both, ``"a phrase"`` for words that follow one another, ``-word`` leaves papers out,
    ``title:``, ``author:`` and ``abstract:`` look there only, ``field:`` among arXiv's categories and our fields, and
    ``since:`` takes a date, a month, a year, or a number of days such as ``7d``.

    Parameters
    ----------
    text
        At most 300 characters.
    as_typed
        Take the last word for a beginning, as someone is still typing it.
    now
        What ``since:7d`` counts from.

    Raises
    ------
    BadQuery
        For a search that is too long, has too many parts, only leaves papers out, or has a ``since:`` that is no date.

    Examples
    --------
    >>> query = parse_query('"score model" -audio author:Song since:2023-05')
    >>> [(clause.words, clause.column, clause.negated) for clause in query.clauses]
    [(('score', 'model'), '', False), (('audio',), '', True), (('song',), 'authors', False)]
    >>> query.since.date().isoformat()
    '2023-05-01'
    """
    if len(text) > MAX_LENGTH:
        raise BadQuery(f"the search has {len(text)} characters; it takes at most {MAX_LENGTH}")
    clauses, since, spoken = [], None, []
    for minus, name, phrase, word in _PART.findall(text):
        body = phrase or word
        if name == "since" and not minus:
            since = _since(body, now or datetime.now(UTC))
            continue
        column = _COLUMNS.get(name, "")
        words = words_of(body if column or not name else f"{name} {body}")
        if words:
            clauses.append(Clause(words, column, bool(minus)))
            if not minus and column in ("", "title", "abstract"):
                spoken.append(body if column or not name else f"{name} {body}")
    meant = [c for c in clauses if c.column or c.negated or len(c.words) > 1 or c.words[0] not in _STOP_WORDS]
    if any(not clause.negated for clause in meant):
        clauses = meant
    if len(clauses) > MAX_CLAUSES:
        raise BadQuery(f"the search has {len(clauses)} parts; it takes at most {MAX_CLAUSES}")
    if as_typed and clauses and re.search(r"\w$", text) and not clauses[-1].negated:
        last = clauses[-1]
        clauses[-1] = Clause(last.words, last.column, prefix=True)
    if clauses and all(clause.negated for clause in clauses):
        raise BadQuery("the search has only words to leave out; it takes one to look for")
    return Query(tuple(clauses), since, " ".join(spoken))


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text as the index has them, in lower case and without accents.

    Examples
    --------
    >>> words_of("PDE-Refiner à la carte")
    ('pde', 'refiner', 'a', 'la', 'carte')
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return tuple(re.findall(r"[^\W_]+", plain))


def _since(text: str, now: datetime) -> datetime:
    if found := re.fullmatch(r"(\d{1,5})d", text):
        return now - timedelta(days=int(found[1]))
    found = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", text)
    try:
        if found:
            return datetime(int(found[1]), int(found[2] or 1), int(found[3] or 1), tzinfo=UTC)
    except ValueError:
        pass
    raise BadQuery(f"since is {text[:30]!r}; it takes a date such as 2023-05-01, a month, a year, or days such as 7d")
