"""Views of claims as a table for a terminal, and as data for a machine."""

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from paperworks.evidence.display import STYLES
from paperworks.evidence.views import ClaimView, ValueView

_MARKS = {True: Text("✓", style="green"), False: Text("✗", style="red"), None: Text("?", style="yellow")}


def claims_table(views: Sequence[ClaimView], title: str | None = None) -> Table:
    """Make the table *reported / measured / bar / verdict*; headline claims are marked with a star.

    A claim with several bars gets a row for each, below its own, and so does what a person measured themselves.

    Parameters
    ----------
    views
        The claims and races to show, in this order.
    title
        Heading of the table, none by default.

    Returns
    -------
    Table
        A table of rich, for its console to print.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim", overflow="fold", ratio=4, min_width=16)  # in a narrow terminal the numbers give way
    table.add_column("reported", overflow="fold", ratio=3, min_width=8)
    table.add_column("measured", no_wrap=True)
    table.add_column("bar", overflow="fold", min_width=8)
    table.add_column("verdict", no_wrap=True)
    several = len({found.paper for found in views}) > 1
    for found in views:
        single = found.values[0] if len(found.values) == 1 and not found.values[0].name else None
        rows = [] if single else [(value, value.label) for value in found.values]
        table.add_row(
            _claim(found, several),
            Text(found.reported),
            Text((single.text or "–") if single else ""),
            Text(single.bar if single else ""),
            _verdict(found),
            end_section=not rows and found.own is None,
        )
        for value, label in rows:
            _value_row(table, label, value, found, last=value is found.values[-1] and found.own is None)
        if found.own is not None:
            _own_rows(table, found.own)
    return table


def _own_rows(table: Table, own: ClaimView) -> None:
    table.add_row(Text(f"  yours, {own.age}", style="bold italic"), "", "", "", _verdict(own))
    for value in own.values:
        _value_row(table, value.label or "value", value, own, last=value is own.values[-1])


def _value_row(table: Table, label: str, value: ValueView, found: ClaimView, *, last: bool) -> None:
    mark = _MARKS[value.holds] if found.measured and value.bar else Text("")
    table.add_row(
        Text(f"  {label}", style="italic"), "", Text(value.text or "–"), Text(value.bar), mark, end_section=last
    )


def _verdict(found: ClaimView) -> Text:
    text = Text(found.verdict, style=STYLES[found.verdict])
    return text.append("\noutdated", style="yellow") if found.outdated else text


def _claim(found: ClaimView, with_slug: bool) -> Text:
    text = Text("★\N{NO-BREAK SPACE}" if found.headline else "", style="bold" if found.headline else "")
    text.append(f"{found.paper} {found.id}" if with_slug else found.id)
    text.append(f"\n{found.says}", style="not bold dim")
    if found.where:
        text.append(f" ({found.where})", style="not bold dim")
    if found.verdict in ("error", "not run", "missing data", "stopped"):
        text.append(f"\n{found.detail}", style=STYLES[found.verdict])
    if found.verdict in ("known shortfall", "undecided") and found.note:
        text.append(f"\n{found.note}", style=STYLES[found.verdict])
    for more in (found.outdated and f"outdated: {found.outdated}", found.failure and f"newer run: {found.failure}"):
        if more:
            text.append(f"\n{more}", style="yellow")
    return text


def claims_json(views: Sequence[ClaimView]) -> str:
    """Write views of claims as strict JSON.

    Returns
    -------
    str
        One JSON list with an object for each view.
    """
    return json.dumps(claims_data(views), indent=1, allow_nan=False, ensure_ascii=False)


def claims_data(views: Sequence[ClaimView]) -> list[dict[str, Any]]:
    """Give views of claims as JSON values."""
    return [found.to_json() for found in views]
