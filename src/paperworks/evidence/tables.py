"""Judgements as a table for a terminal, and as data for a machine."""

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from paperworks.evidence import formatting
from paperworks.evidence.display import STYLES
from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.verdicts import Judgement


def judgements_table(judgements: Sequence[Judgement], title: str | None = None) -> Table:
    """Make the table *reported / measured / bar / verdict*; headline claims are marked with a star.

    A claim with several bars gets a row for each, below its own.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim", overflow="fold", ratio=4)
    table.add_column("reported", overflow="fold", ratio=3)
    table.add_column("measured", no_wrap=True)
    table.add_column("bar", overflow="fold", min_width=8)
    table.add_column("verdict", no_wrap=True)
    several = len({judgement.paper.slug for judgement in judgements}) > 1
    for judgement in judgements:
        named = SINGLE not in judgement.item.bars
        values, bars = dict(_values(judgement)), judgement.item.bars
        found = judgement.verdict
        table.add_row(
            _claim(judgement, several),
            Text(judgement.reported),
            Text("" if named else values.get(SINGLE, "–")),
            Text("" if named else str(bars[SINGLE])),
            Text(found.name, style=STYLES[found.name]),
            end_section=not named,
        )
        holds = {decision.name: decision.holds for decision in found.decisions}
        for name in bars if named else ():
            mark = {True: Text("✓", style="green"), False: Text("✗", style="red"), None: Text("")}[holds.get(name)]
            table.add_row(
                Text(f"  {name}", style="italic"),
                "",
                Text(values.get(name, "–")),
                Text(str(bars[name])),
                mark,
                end_section=name == list(bars)[-1],
            )
    return table


def _claim(judgement: Judgement, with_slug: bool) -> Text:
    text = Text("★\N{NO-BREAK SPACE}" if judgement.headline else "", style="bold" if judgement.headline else "")
    text.append(f"{judgement.paper.slug} {judgement.item.id}" if with_slug else judgement.item.id)
    text.append(f"\n{judgement.item.says}", style="not bold dim")
    found = judgement.verdict
    if found.name in ("error", "not run", "missing data"):
        text.append(f"\n{found.detail}", style=STYLES[found.name])
    if found.name == "known shortfall":
        text.append(f"\n{judgement.item.note}", style=STYLES[found.name])
    return text


def _values(judgement: Judgement) -> list[tuple[str, str]]:
    entry = judgement.entry
    return [] if entry is None else [(name, formatting.measured_value(entry, name)) for name in entry.values]


def judgements_json(judgements: Sequence[Judgement]) -> str:
    """Write judgements as strict JSON."""
    return json.dumps(judgements_data(judgements), indent=1, allow_nan=False, ensure_ascii=False)


def judgements_data(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Give judgements as JSON values: each with its verdict, its bars and its entry as stored."""
    return [
        {
            "paper": judgement.paper.slug,
            "kind": judgement.kind,
            "id": judgement.item.id,
            "says": judgement.item.says,
            "reported": judgement.reported,
            "headline": judgement.headline,
            "note": judgement.item.note,
            "verdict": judgement.verdict.name,
            "detail": judgement.verdict.detail,
            "fails": judgement.verdict.fails,
            "bars": {name: str(bar) for name, bar in judgement.item.bars.items()},
            "entry": judgement.entry.to_json() if judgement.entry else None,
        }
        for judgement in judgements
    ]
