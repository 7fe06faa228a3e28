"""Papers of a saved Daily Papers page, as text or as HTML."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from paperworks.feed.entry import Entry, one_line
from paperworks.feed.ingest.huggingface import read_daily_paper
from paperworks.feed.ingest.source import Batch, in_batches
from paperworks.feed.ingest.text import read_text

_PARAGRAPH = 250
"""A paragraph of this many characters is an abstract; titles are shorter."""


@dataclass
class SavedPage:
    """A Daily Papers page that someone saved: text as copied from the browser, or HTML.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        From the ingest, for a file that is huge, isn't text, or has no paper.
    OSError
        From the ingest, where it can't be read.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.name = f"page:{self.path.name}"[:200]

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give all papers of the page."""
        text, _ = read_text(self.path)
        is_html = re.search(r"<(!doctype html|html|body|article)\b", text[:5000], re.IGNORECASE)
        batches = list(parse_html(text) if is_html else parse_text(text))
        if not any(batch.entries for batch in batches):
            raise ValueError(f"path is {self.path}; no paper was found in it")
        yield from batches


def parse_text(text: str) -> Iterator[Batch]:
    r"""Give the papers of a page's text: each an abstract, the paragraph before it being its title.

    Examples
    --------
    >>> [batch] = parse_text("Daily Papers\n\nOn Sampling\n\n" + "We sample. " * 30)
    >>> [entry.title for entry in batch.entries]
    ['On Sampling']
    """
    paragraphs = [one_line(part) for part in re.split(r"\n\s*\n|\r\n\s*\r\n", text)]
    paragraphs = [part for part in paragraphs if part]
    pairs = (
        (f"paragraph {i}", (paragraphs[i - 1], part))
        for i, part in enumerate(paragraphs)
        if len(part) >= _PARAGRAPH and i and len(paragraphs[i - 1]) < _PARAGRAPH
    )
    return in_batches(pairs, _read_pair)


def _read_pair(pair: tuple[str, str]) -> Entry:
    title, abstract = pair
    abstract = re.sub(r"(?<=[.!?])\d+$", "", abstract)  # a count of votes that stood at the end
    code = re.search(r"https?://(?:www\.)?github\.com/[\w.-]+/[\w-]+(?:\.[\w-]+)*", abstract)
    return Entry(title=title, abstract=abstract, links={"code": code[0]} if code else {})


def parse_html(text: str) -> Iterator[Batch]:
    """Give the papers of a page's HTML: from the data it carries for its scripts, or else from its links."""
    for props in re.findall(r'data-props="([^"]*)"', text):
        try:
            data = json.loads(html.unescape(props))
        except (ValueError, RecursionError):
            continue
        daily = data.get("dailyPapers") if isinstance(data, dict) else None
        if isinstance(daily, list):
            yield from in_batches(((f"paper {i}", item) for i, item in enumerate(daily)), read_daily_paper)
            return
    links = _Headings()
    links.feed(text)
    links.close()
    if links.found:
        yield from in_batches(((f"heading {i}", pair) for i, pair in enumerate(links.found)), _read_heading)
        return
    plain = _Paragraphs()
    plain.feed(text)
    plain.close()
    yield from parse_text("\n\n".join(plain.blocks))


def _read_heading(pair: tuple[str, str]) -> Entry:
    return Entry(title=pair[0], arxiv_id=pair[1])


class _Headings(HTMLParser):
    """Collects the headings that link to a paper."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._heading = False
        self._arxiv_id = ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h1", "h2", "h3"):
            self._heading = True
        elif tag == "a" and self._heading:
            found = re.search(r"(?:/papers/|arxiv\.org/abs/)(\d{4}\.\d{4,5})", dict(attrs).get("href") or "")
            if found:
                self._arxiv_id, self._text = found[1], []

    def handle_data(self, data: str) -> None:
        if self._arxiv_id:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._arxiv_id:
            self.found.append((" ".join(self._text), self._arxiv_id))
            self._arxiv_id = ""
        elif tag in ("h1", "h2", "h3"):
            self._heading = False


class _Paragraphs(HTMLParser):
    """Collects the text of each block, without scripts and styles."""

    _BLOCKS = frozenset(
        {"p", "div", "article", "section", "h1", "h2", "h3", "h4", "li", "br", "header", "footer", "main"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = [""]
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style", "template")
        if tag in self._BLOCKS:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "template"):
            self._hidden = max(0, self._hidden - 1)
        if tag in self._BLOCKS:
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.blocks[-1] += data
