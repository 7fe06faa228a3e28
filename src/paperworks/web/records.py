"""Our own papers as the site shows them: records with their verdicts, kept until the evidence changes."""

import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from paperworks.evidence.record import Paper
from paperworks.evidence.store import HISTORY, committed_folder, evidence_of, own_folder
from paperworks.evidence.verdict_card import verdict_sentence
from paperworks.evidence.views import ClaimView, paper_views
from paperworks.papers import RecordError, UnknownPaper, load


@dataclass(frozen=True)
class Figure:
    """A figure of a claim: its name, what it shows, and its size in pixels."""

    name: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Sound:
    """A recording of a claim: its name, what is heard, and what the claim says."""

    name: str
    says: str
    claim: str


@dataclass(frozen=True, eq=False)
class Record:
    """A paper of ours with all that its page shows; `main` is the figure of what it is known for."""

    paper: Paper
    claims: tuple[ClaimView, ...]
    peers: tuple[ClaimView, ...]
    main: Figure | None
    figures: tuple[Figure, ...]
    sounds: tuple[Sound, ...]
    paths: dict[str, Path]
    origin: str

    @property
    def sentence(self) -> str:
        """What was found of it, in words for everybody."""
        return verdict_sentence(self.claims)

    @property
    def held(self) -> int:
        """How many claims hold."""
        return sum(view.verdict == "holds" for view in self.claims)

    @property
    def measured(self) -> bool:
        """Whether any claim was measured."""
        return any(view.measured for view in self.claims)

    @property
    def verdicts(self) -> list[tuple[str, int]]:
        """How many claims and races have each verdict."""
        return sorted(Counter(view.verdict for view in (*self.claims, *self.peers)).items())

    @property
    def outdated(self) -> int:
        """How many claims and races were measured before the code that they stand on was changed."""
        return sum(bool(view.outdated) for view in (*self.claims, *self.peers))

    @property
    def imports(self) -> str:
        """The lines that import its methods, as HTML."""
        lines = (method.rpartition(".") for method in self.paper.methods)
        return _python("\n".join(f"from {package} import {name}" for package, _, name in lines))

    @property
    def usage(self) -> str:
        """Its usage, as HTML."""
        return _python(self.paper.usage) if self.paper.usage else ""


def record_of(slug: str | None) -> Record | None:
    """Return the record of a paper of ours, None where it isn't one.

    Examples
    --------
    >>> record_of("dpm-solver").paper.field, record_of("nothing-of-ours")
    ('diffusion', None)
    """
    if not slug:
        return None
    try:
        load(slug)
    except (UnknownPaper, RecordError):
        return None
    return _record(slug, tuple(_stamp(folder / slug / HISTORY) for folder in (own_folder(), committed_folder())))


@functools.lru_cache(maxsize=200)
def _record(slug: str, _stamps: tuple[int, ...]) -> Record:
    paper = load(slug)
    evidence, own = evidence_of(paper)
    found = paper_views(paper, evidence, own)
    drawn = [(view, path) for view in found if (path := view.figure(".svg"))]
    drawn.sort(key=lambda pair: not pair[0].headline)
    heard = [(view, path, says) for view in found for path, says in view.sounds()]
    figures = tuple(Figure(path.name, view.says, *_svg_size(path)) for view, path in drawn)
    newest = max(found, key=lambda view: view.date, default=None)
    return Record(
        paper,
        tuple(view for view in found if view.kind == "claim"),
        tuple(view for view in found if view.kind == "peer"),
        figures[0] if figures else None,
        figures[1:],
        tuple(Sound(path.name, says, view.says) for view, path, says in heard),
        {path.name: path for path in (*(path for _, path in drawn), *(path for _, path, _ in heard))},
        newest.origin if newest else "",
    )


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _svg_size(path: Path) -> tuple[int, int]:
    """Return width and height, which stand at the beginning of an SVG file in points, in pixels of the page."""
    with path.open(encoding="utf-8") as file:
        head = file.read(2000)
    found = [re.search(rf'<svg[^>]*\s{side}="([0-9.]+)pt"', head) for side in ("width", "height")]
    if not all(found):
        return 640, 480
    width, height = (round(float(match[1]) * 4 / 3) for match in found if match)
    return width, height


def _python(code: str) -> str:
    return str(highlight(code.strip(), PythonLexer(), HtmlFormatter(cssclass="code", wrapcode=True)))
