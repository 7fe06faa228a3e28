"""Write ARCHITECTURE's table of rooms: which methods live where, and which papers they are of."""

import importlib
import inspect
from pathlib import Path

from paperworks.papers import FIELDS, load_all

ARCHITECTURE = Path(__file__).parents[1] / "ARCHITECTURE.md"
BEGIN, END = "<!-- rooms: written by scripts/rooms.py -->\n", "<!-- end of rooms -->\n"


def table() -> str:
    """Return a row for each paper and room in which it has methods, in the order of fields and rooms."""
    rows: dict[tuple[int, str, str], list[str]] = {}
    for paper in load_all():
        for method in paper.methods if not paper.planned else ():
            package, _, name = method.rpartition(".")
            home = inspect.unwrap(getattr(importlib.import_module(package), name)).__module__.split(".")
            rows.setdefault((FIELDS.index(paper.field), ".".join(home[1:3]), paper.slug), []).append(f"`{name}`")
    lines = [f"| `{room}` | {slug} | {', '.join(sorted(names))} |" for (_, room, slug), names in sorted(rows.items())]
    return "\n".join(["| room | paper | methods |", "|---|---|---|", *lines, ""])


def written(text: str) -> str:
    """Return the text with its table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    ARCHITECTURE.write_text(written(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
