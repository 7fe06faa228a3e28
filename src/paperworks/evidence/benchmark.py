"""Benchmarks of the software itself, kept beside the evidence of the papers and shown on the results page."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paperworks.evidence.bars import Bar
from paperworks.evidence.files import write_atomically
from paperworks.evidence.formatting import number
from paperworks.evidence.provenance import machine, now
from paperworks.evidence.store import committed_folder, own_folder

FOLDER = "benchmarks"


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark; `bar` is empty where it is for comparison only.

    Examples
    --------
    >>> Figure("p95 of a search by words", 41.2, "ms", "< 60").verdict
    'holds'
    """

    name: str
    value: float
    unit: str = ""
    bar: str = ""

    @property
    def verdict(self) -> str:
        """Whether the bar holds, computed from the value."""
        if not self.bar:
            return ""
        return "holds" if Bar.parse(self.bar).holds(self.value) else "falls short"

    @property
    def text(self) -> str:
        """The value with its unit."""
        return f"{number(self.value)} {self.unit}".strip()


@dataclass(frozen=True)
class Benchmark:
    """What one run of a benchmark measured, on which machine and when."""

    id: str
    title: str
    says: str
    figures: tuple[Figure, ...]
    note: str = ""
    date: str = field(default_factory=now)
    machine: Mapping[str, Any] = field(default_factory=machine)

    @property
    def origin(self) -> str:
        """The date and the machine, in one line."""
        return f"{self.date[:10]} · {self.machine['cpu']}, {self.machine['cores']} cores"


def write_benchmark(benchmark: Benchmark, folder: Path | None = None) -> Path:
    """Write a benchmark in the place of its last run, and return where."""
    path = (folder or own_folder()) / FOLDER / f"{benchmark.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(asdict(benchmark), indent=1, ensure_ascii=False) + "\n").encode())
    return path


def read_benchmarks(folder: Path | None = None) -> list[Benchmark]:
    """Return all benchmarks that were run, by their ids."""
    found: dict[str, Path] = {}
    for place in [folder] if folder else [committed_folder(), own_folder()]:
        found |= {path.name: path for path in sorted((place / FOLDER).glob("*.json"))}
    benchmarks = []
    for _, path in sorted(found.items()):
        data = json.loads(path.read_text(encoding="utf-8"))
        benchmarks.append(Benchmark(**{**data, "figures": tuple(Figure(**figure) for figure in data["figures"])}))
    return benchmarks
