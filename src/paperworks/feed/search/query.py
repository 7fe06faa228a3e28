"""The language of searches: names of papers, words, phrases, what to leave out, and where to look."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from paperworks.feed.entry import MalformedEntry, parse_arxiv_id, parse_doi
from paperworks.feed.search.normal import is_cjk, words_of

MAX_LENGTH, MAX_CLAUSES = 300, 50
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "can", "do", "for", "from", "how", "i", "in", "is", "it", "my"}
    | {"of", "on", "or", "that", "the", "to", "what", "with"}
)
_COLUMNS = {"title": "title", "author": "authors", "abstract": "abstract", "field": "categories"}
_PART = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S+))')
_HYPHEN = re.compile(r"\w[-\u2013'\u2019]\w")
_QUOTES, _MINUSES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02", "\u2010\u2011\u2212"
_SIGNS = str.maketrans(dict.fromkeys(_QUOTES, '"') | dict.fromkeys(_MINUSES, "-") | {"\uff1a": ":", "\u3000": " "})
"""Signs of the language as word processors and other keyboards write them."""


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


Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Clause:
    """Words to look for, in one column or in any, wanted or not; the last may be a beginning.

    `joined` is what hyphens join to one word. Words that were quoted, are looked for in a column or are to be left out
    stand next to each other; others need not.
    """

    words: Phrase
    column: str = ""
    negated: bool = False
    prefix: bool = False
    quoted: bool = False
    joined: str = ""

    @property
    def needed(self) -> bool:
        """Whether a paper without it is not found, however well the rest fits."""
        return self.quoted or bool(self.column)

    @property
    def spellings(self) -> tuple[Phrase, ...]:
        """The words, a small number as digits or as a word, and what hyphens join.

        Examples
        --------
        >>> Clause(("ten", "steps")).spellings
        (('ten', 'steps'), ('10', 'steps'))
        """
        other = tuple(_SPELLINGS.get(word, word) for word in self.words)
        return tuple(dict.fromkeys((self.words, other, *([(self.joined,)] if self.joined else []))))

    @property
    def alternatives(self) -> tuple[tuple[Phrase, ...], ...]:
        """What there may be in a paper: each is phrases that all are.

        Examples
        --------
        >>> Clause(("few", "step"), joined="fewstep").alternatives
        ((('few',), ('step',)), (('fewstep',),))
        >>> Clause(("few", "step"), joined="fewstep", negated=True).alternatives
        ((('few', 'step'),), (('fewstep',),))
        """
        apart = not (self.quoted or self.negated or self.column or any(map(is_cjk, self.words)))
        return tuple(tuple((word,) for word in phrase) if apart else (phrase,) for phrase in self.spellings)


@dataclass(frozen=True)
class Query:
    """A search as it was understood. `text` is what it says in words, for the search by meaning.

    `names` are the ids of arXiv and DOIs in it: if it has any, it asks for those papers.
    """

    clauses: tuple[Clause, ...]
    since: datetime | None = None
    text: str = ""
    names: tuple[tuple[str, str], ...] = ()

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
    ``since:`` takes a date, a month, a year, or a number of days such as ``7d``. An arXiv id, a DOI or a link to a
    paper looks for that paper.

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
    >>> parse_query("see arXiv:2206.00927v3 [cs.LG]").names
    (('arxiv_id', '2206.00927'),)
    """
    text = text.translate(_SIGNS)
    if len(text) > MAX_LENGTH:
        raise BadQuery(f"the search has {len(text)} characters; it takes at most {MAX_LENGTH}")
    names, text = _names(text)
    clauses, since, spoken = [], None, []
    for minus, name, phrase, word in _PART.findall(text):
        body = phrase or word
        if name == "since" and not minus:
            since = _since(body, now or datetime.now(UTC))
            continue
        column = _COLUMNS.get(name, "")
        if name and not column:
            body = f"{name} {body}"
        if words := words_of(body):
            joined = "".join(words) if not phrase and len(words) > 1 and _HYPHEN.search(body) else ""
            quoted = len(words) > 1 and (bool(phrase) or column == "categories")
            begins = len(words[-1]) == 1 and is_cjk(words[-1])  # every two signs of Chinese are a word of the index
            clauses.append(Clause(words, column, bool(minus), begins, quoted, joined))
            if not minus and column in ("", "title", "abstract"):
                spoken.append(body)
    meant = [c for c in clauses if c.needed or c.negated or len(c.words) > 1 or c.words[0] not in _STOP_WORDS]
    if any(not clause.negated for clause in meant):
        clauses = meant
    clauses = list(dict.fromkeys(clauses))
    if len(clauses) > MAX_CLAUSES:
        raise BadQuery(f"the search has {len(clauses)} parts; it takes at most {MAX_CLAUSES}")
    if as_typed and clauses and re.search(r"\w$", text) and not clauses[-1].negated:
        clauses[-1] = replace(clauses[-1], prefix=True)
    if clauses and all(clause.negated for clause in clauses) and not names:
        raise BadQuery("the search has only words to leave out; it takes one to look for")
    return Query(tuple(clauses), since, " ".join(spoken), names)


def _names(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the arXiv ids and DOIs in a search, and the rest of it."""
    found: dict[tuple[str, str], None] = {}

    def take(said: re.Match[str]) -> str:
        part = said[0].strip("\"'<>()[]{},;.")
        if "://" in part and (inside := re.search(r"/(10\.\d{4,9}/[^\s?#]+)", part)):  # a publisher's page
            part = inside[1]
        try:
            if not part.lower().startswith(("10.", "doi:")) or "10.48550/arxiv" in part.lower():
                found["arxiv_id", parse_arxiv_id(part)[0]] = None
                return ""
        except MalformedEntry:
            pass
        try:
            found["doi", parse_doi(part)] = None
            return ""
        except MalformedEntry:
            return said[0]

    rest = re.sub(r"(?:arxiv|doi):\s*\S+|\S+", take, text, flags=re.IGNORECASE)
    return tuple(found), rest


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
