"""How templates write dates, links and counts."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from paperworks.feed.entry import web_link
from paperworks.papers import fields
from paperworks.web.mathematics import mathematics, plain

STATIC = Path(__file__).parent / "static"


def day(moment: datetime | None) -> str:
    """Write a date; the first instant of a month stands for a paper of which only the month is known.

    Examples
    --------
    >>> day(datetime(2026, 11, 6, 9, 30)), day(datetime(2022, 6, 1))
    ('6 November 2026', 'June 2022')
    >>> day(None)
    'undated'
    """
    if moment is None:
        return "undated"
    if (moment.day, moment.hour, moment.minute, moment.second) == (1, 0, 0, 0):
        return f"{moment:%B %Y}"
    return f"{moment.day} {moment:%B %Y}"


def plural(count: int, noun: str) -> str:
    """Write a count of things.

    Examples
    --------
    >>> plural(1, "paper"), plural(2, "paper")
    ('1 paper', '2 papers')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clip(text: str, length: int = 320) -> str:
    """Return the beginning of a text, cut between words and not within a formula.

    Examples
    --------
    >>> clip("one two three", 8), clip("the bound $x + y$ holds", 13)
    ('one two …', 'the bound …')
    """
    if len(text) <= length:
        return text
    begin = text[: length + 1]
    if begin.count("$") % 2 and text.count("$") % 2 == 0:
        begin = begin[: begin.rindex("$")]
    return begin.rpartition(" ")[0].rstrip(",.;: ") + " …"


def query(path: str, **values: object) -> str:
    """Return an address with a query.

    Examples
    --------
    >>> query("/search", q="a b", page=2)
    '/search?q=a+b&page=2'
    """
    return f"{path}?{urlencode(values)}"


def static(name: str) -> str:
    """Return the address of a file of the site's own, which changes when the file does."""
    return f"/static/{name}?v={_digests()[name]}"


def _digests(kept: dict[str, str] = {}) -> dict[str, str]:  # noqa: B006 - kept on purpose
    if not kept:
        files = (path for path in STATIC.rglob("*") if path.is_file())
        kept |= {str(p.relative_to(STATIC)): hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in files}
    return kept


def safe_links(links: Mapping[str, str]) -> dict[str, str]:
    """Return the links that lead to the web.

    Examples
    --------
    >>> safe_links({"code": "https://example.org", "evil": "javascript:alert(1)"})
    {'code': 'https://example.org'}
    """
    return {name: link for name, url in links.items() if (link := web_link(url))}


def versions(kept: Mapping[str, str]) -> list[tuple[int, datetime]]:
    """Return the versions of a paper in their order, and when they came.

    Examples
    --------
    >>> versions({"2": "2022-10-13T00:00:00+00:00", "1": "2022-06-02T00:00:00+00:00"})[0][0]
    1
    """
    return sorted((int(number), datetime.fromisoformat(moment)) for number, moment in kept.items())


FILTERS: dict[str, Callable[..., Any]] = {
    "day": day,
    "plural": plural,
    "safe_links": safe_links,
    "quote": quote,
    "clip": clip,
    "math": mathematics,
    "plain": plain,
    "versions": versions,
}
GLOBALS: dict[str, Any] = {"static": static, "query": query, "fields": fields}
