"""Our own papers as the site shows them: records with their verdicts, kept until the evidence changes."""

import functools
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from paperworks.evidence import formatting
from paperworks.evidence.errors import EvidenceError
from paperworks.evidence.record import Paper
from paperworks.evidence.store import SHIPPED, default_evidence_folder, read_evidence
from paperworks.evidence.verdicts import Judgement, judgements
from paperworks.papers import RecordError, UnknownPaper, load


@dataclass(frozen=True)
class Figure:
    """A figure of a claim: its name, what it shows, and its size in pixels."""

    name: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A claim or race as a row of a table."""

    id: str
    says: str
    reported: str
    measured: str
    bars: str
    verdict: str
    detail: str
    notes: tuple[str, ...]
    headline: bool


@dataclass(frozen=True)
class Record:
    """A paper of ours with all that its page shows."""

    paper: Paper
    claims: tuple[Row, ...]
    peers: tuple[Row, ...]
    figures: tuple[Figure, ...]
    paths: dict[str, Path]
    origin: str

    @property
    def held(self) -> int:
        """How many claims hold."""
        return sum(row.verdict == "holds" for row in self.claims)

    @property
    def measured(self) -> bool:
        """Whether any claim was measured."""
        return any(row.measured for row in self.claims)

    @property
    def verdicts(self) -> list[tuple[str, int]]:
        """How many claims and races have each verdict."""
        return sorted(Counter(row.verdict for row in (*self.claims, *self.peers)).items())

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
    return _record(slug, tuple(_stamp(folder / f"{slug}.json") for folder in (default_evidence_folder(), SHIPPED)))


@functools.lru_cache(maxsize=200)
def _record(slug: str, _stamps: tuple[int, ...]) -> Record:
    paper = load(slug)
    try:
        evidence = read_evidence(slug)
    except EvidenceError:  # half-written, or of a newer version: the page is there all the same
        from paperworks.evidence.store import Evidence

        evidence = Evidence(slug)
    found = list(judgements(paper, evidence))
    figures: list[Figure] = []
    paths: dict[str, Path] = {}
    for judgement in found:
        files = evidence.figure_paths(judgement.entry) if judgement.entry else []
        files = [path for path in files if path.is_file()]
        paths |= {path.name: path for path in files}
        size = next((_png_size(path) for path in files if path.suffix == ".png"), (640, 480))
        figures += [Figure(p.name, judgement.item.says, *size) for p in files if p.suffix == ".svg"][:1]
    entries = [judgement.entry for judgement in found if judgement.entry]
    newest = max(entries, key=lambda entry: entry.provenance.date, default=None)
    origin = ""
    if newest:
        machine = newest.provenance.machine
        origin = f"{newest.scale} scale, {newest.provenance.date[:10]}, {machine['cpu']}, {machine['cores']} cores"
    rows = [(judgement.kind, _row(judgement)) for judgement in found]
    return Record(
        paper,
        tuple(row for kind, row in rows if kind == "claim"),
        tuple(row for kind, row in rows if kind == "peer"),
        tuple(figures),
        paths,
        origin,
    )


def _row(judgement: Judgement) -> Row:
    entry, verdict = judgement.entry, judgement.verdict
    return Row(
        id=judgement.item.id,
        says=judgement.item.says,
        reported=judgement.reported,
        measured="\n".join(formatting.measured(entry)),
        bars="\n".join(formatting.bars(judgement.item.bars)),
        verdict=verdict.name,
        detail=verdict.detail,
        notes=tuple(text for text in (judgement.item.note, entry.remark if entry else "") if text),
        headline=judgement.headline,
    )


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _png_size(path: Path) -> tuple[int, int]:
    """Return width and height, which stand at the beginning of a PNG file, in pixels of the page."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return 640, 480
    width, height = struct.unpack(">II", head[16:24])
    return max(1, width // 2), max(1, height // 2)


def _python(code: str) -> str:
    return str(highlight(code.strip(), PythonLexer(), HtmlFormatter(cssclass="code", wrapcode=True)))
