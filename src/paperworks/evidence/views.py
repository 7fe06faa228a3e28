"""One view of a claim or a race, made once and shown alike by terminal, site, JSON and results page."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paperworks.evidence import formatting, notebook
from paperworks.evidence.digests import unchanging
from paperworks.evidence.entry import KINDS, Entry, Kind
from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.record import Claim, Paper, Peer, Scale
from paperworks.evidence.store import Evidence
from paperworks.evidence.verdicts import VerdictName, items_of, judge, outdated

COLUMNS = ("claim", "reported", "value", "measured", "bar", "verdict")
"""Of a table of claims in a notebook."""


@dataclass(frozen=True)
class ValueView:
    """One value of a claim beside its bar.

    `label` is for people; `text` is the value with unit and interval, empty where there is none; `holds` is None
    where the bar is undecided or nothing was measured.

    Parameters
    ----------
    name
        Name of the value within its claim, empty where there is one.
    label
        The name in words for people.
    bar
        The condition as the record writes it.
    value
        What was measured, None where nothing was.
    low, high
        Ends of the interval, None where there is none.
    method
        How the interval was found, in words.
    samples
        The values one by one, seed by seed or round by round.
    text
        The value with unit and interval, empty where there is none.
    holds
        Whether the bar holds; None where it is undecided or nothing was measured.
    """

    name: str
    label: str
    bar: str
    value: float | bool | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    samples: tuple[float, ...] = ()
    text: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class ClaimView:
    """A claim or race of a paper with what was measured of it.

    Parameters
    ----------
    paper, kind, id, says, reported, where, measure, headline, note
        Fields of the record; `reported` of a race is its package.
    verdict, detail, fails
        The verdict, why it is not "holds", and whether a run with it fails.
    outdated
        Why the measurement no longer speaks of the code at hand, empty where it does.
    values, unit, table, remark, settings, floor
        What was measured; a table is a mapping of `columns` and `rows`.
    figures
        Where its figures are, and the files of its recordings.
    recordings
        What is heard in each recording.
    scale, seeds, date, age, machine, revision, versions, seconds, processor_seconds
        How it was measured, empty or 0 where nothing was.
    carried
        That the values were measured with earlier code, which gave the same at smoke scale; empty where not.
    failure
        What became of a newer run that gave no value, empty where there was none.
    traceback
        Traceback of an error.
    own
        The same claim by a person's own evidence, where there is any.
    """

    paper: str
    kind: Kind
    id: str
    says: str
    reported: str
    where: str
    measure: str
    headline: bool
    note: str
    verdict: VerdictName
    detail: str
    fails: bool
    values: tuple[ValueView, ...]
    outdated: str = ""
    unit: str = ""
    table: Mapping[str, Any] | None = None
    remark: str = ""
    settings: str = ""
    floor: float | None = None
    figures: tuple[Path, ...] = ()
    recordings: tuple[str, ...] = ()
    scale: str = ""
    seeds: tuple[int, ...] = ()
    date: str = ""
    age: str = ""
    machine: str = ""
    revision: str = ""
    versions: Mapping[str, str] | None = None
    seconds: float = 0.0
    processor_seconds: float = 0.0
    carried: str = ""
    failure: str = ""
    traceback: str = ""
    own: "ClaimView | None" = None

    @property
    def measured(self) -> bool:
        """Whether there is a value."""
        return any(value.text for value in self.values)

    @property
    def origin(self) -> str:
        """How it was measured, in one line; empty where nothing was."""
        if not self.date:
            return ""
        parts = [
            f"{self.scale} scale",
            self.date[:10],
            self.revision and f"revision {_short(self.revision)}",
            self.machine,
        ]
        return " · ".join(filter(None, [*parts, self.carried]))

    def figure(self, suffix: str) -> Path | None:
        """Return the figure with a suffix such as ".svg".

        Returns
        -------
        Path | None
            Path of the figure, or None where there is no such one.
        """
        return next((path for path in self.figures if path.suffix == suffix), None)

    def sounds(self) -> list[tuple[Path, str]]:
        """Return the recordings that are there.

        Returns
        -------
        list[tuple[Path, str]]
            Path of each recording, and what is heard in it.
        """
        paths = {path.name.split(".")[-2]: path for path in self.figures if path.suffix == ".wav"}
        named = ((paths.get(str(number)), says) for number, says in enumerate(self.recordings, start=1))
        return [(path, says) for path, says in named if path]

    def _repr_html_(self) -> str:
        return notebook.lines(
            notebook.table(f"{self.paper} {self.id}: {self.says}", COLUMNS, rows_html([self])),
            f"{self.verdict}: {self.detail}" if self.detail else "",
            self.note,
            self.remark,
            self.origin,
            notebook.picture(self.figure(".png") or self.figure(".svg"), f"Figure of {self.id}: {self.says}"),
            notebook.folded("Table", _table_html(self.table)) if self.table else "",
            notebook.folded("Traceback", notebook.code(self.traceback)) if self.traceback else "",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the view as strict JSON values: figures by name, infinite numbers and NaN as null.

        Returns
        -------
        dict[str, Any]
            Strict JSON values by the names of the fields.
        """
        data: dict[str, Any] = _finite(asdict(self))
        data["figures"] = [path.name for path in self.figures]
        data["own"] = self.own.to_json() if self.own else None
        return data


def view(
    paper: Paper,
    kind: Kind,
    item: Claim | Peer,
    entry: Entry | None,
    *,
    figures: tuple[Path, ...] = (),
    failure: Entry | None = None,
    own: ClaimView | None = None,
) -> ClaimView:
    """Make the view of a claim or race from its entry.

    Parameters
    ----------
    paper
        The paper that the item belongs to.
    kind
        Whether the item is a claim or a race.
    item
        The claim or peer of the record.
    entry
        What was measured, None where nothing was.
    figures
        Paths of the entry's figures.
    failure
        A newer entry without values, None where there is none.
    own
        What a person measured themselves, to be set beside it.

    Returns
    -------
    ClaimView
        The view of a claim or race from its entry.
    """
    verdict = judge(item, entry)
    known: dict[str, Any] = {
        "paper": paper.slug,
        "kind": kind,
        "id": item.id,
        "says": item.says,
        "reported": item.reported if isinstance(item, Claim) else item.package,
        "where": item.where if isinstance(item, Claim) else "",
        "measure": item.measure if isinstance(item, Claim) else "",
        "headline": isinstance(item, Claim) and item.headline,
        "note": item.note,
        "verdict": verdict.name,
        "detail": verdict.detail,
        "fails": verdict.fails,
        "values": _values(item, entry, {decision.name: decision.holds for decision in verdict.decisions}),
        "failure": f"{failure.outcome}, {failure.provenance.date[:10]}: {failure.reason}" if failure else "",
        "own": own,
    }
    if entry is None:
        return ClaimView(**known)
    origin, machine = entry.provenance, entry.provenance.machine
    return ClaimView(
        **known,
        outdated=outdated(paper, entry),
        unit=entry.unit,
        table=entry.table,
        remark=entry.remark,
        settings=entry.settings,
        floor=entry.floor,
        figures=figures,
        recordings=entry.recordings,
        scale=entry.scale,
        seeds=entry.seeds,
        date=origin.date,
        age=formatting.age(origin.date),
        machine=f"{machine.get('cpu', 'an unknown processor')}, {machine.get('cores', '?')} cores",
        revision=origin.revision,
        versions=origin.versions,
        seconds=entry.seconds,
        processor_seconds=entry.processor_seconds,
        carried=_carried(entry),
        traceback=entry.traceback,
    )


def paper_views(
    paper: Paper, evidence: Evidence, own: Evidence | None = None, scale: Scale | None = None
) -> list[ClaimView]:
    """View every claim and race of a paper by its evidence at `scale`, by default the largest there is.

    Parameters
    ----------
    paper
        The paper to view.
    evidence
        The history that is shown.
    own
        What a person measured themselves, to be set beside it.
    scale
        Scale of the entries, by default the largest there is.

    Returns
    -------
    list[ClaimView]
        Views of the claims, then of the races, in the record's order.
    """
    found = []
    with unchanging():
        for kind in KINDS:
            for item in items_of(paper, kind):
                entry = evidence.newest(kind, item.id, scale)
                mine = own.newest(kind, item.id, scale) if own else None
                found.append(
                    view(
                        paper,
                        kind,
                        item,
                        entry,
                        figures=_figures(evidence, entry),
                        failure=evidence.newest_failure(kind, item.id, scale),
                        own=view(paper, kind, item, mine, figures=_figures(own, mine)) if own and mine else None,
                    )
                )
    return found


def rows_html(views: Iterable[ClaimView]) -> list[tuple[object, ...]]:
    """Return the rows of a table of claims, with the columns of `COLUMNS`: one for each value."""
    rows: list[tuple[object, ...]] = []
    for found in views:
        name = ("★ " if found.headline else "") + found.id
        for value in found.values:
            mark = notebook.MARKS[value.holds] if found.measured and value.bar else ""
            told = (value.label, value.text or "–", f"{value.bar} {mark}".strip())
            rows.append((name, found.reported, *told, found.verdict + (", outdated" if found.outdated else "")))
        if found.own is not None:
            rows += [(f"{found.id}, yours", *row[1:]) for row in rows_html([found.own])]
    return rows


def _table_html(table: Mapping[str, Any]) -> notebook.Html:
    rows = [["–" if cell is None else _cell(cell) for cell in row] for row in table["rows"] if row]
    return notebook.table("", [str(column) for column in table["columns"]], rows)


def _cell(cell: Any) -> str:
    return formatting.number(cell) if isinstance(cell, (bool, float)) else str(cell)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _figures(evidence: Evidence, entry: Entry | None) -> tuple[Path, ...]:
    return tuple(path for path in evidence.figure_paths(entry) if path.is_file()) if entry else ()


def _values(item: Claim | Peer, entry: Entry | None, holds: Mapping[str, bool | None]) -> tuple[ValueView, ...]:
    stored = entry.values if entry else {}
    names = [*item.bars, *(name for name in stored if name not in item.bars)]
    found = []
    for name in names:
        label = item.labels.get(name) or ("" if name == SINGLE else name.replace("_", " "))
        bar = str(item.bars.get(name, ""))
        if entry and name in stored:
            v = stored[name]
            text = formatting.value(v, entry.unit)
            found.append(
                ValueView(name, label, bar, v.value, v.low, v.high, v.method, v.samples, text, holds.get(name))
            )
        else:
            found.append(ValueView(name, label, bar))
    return tuple(found)


def _carried(entry: Entry) -> str:
    if entry.carried is None:
        return ""
    before, after = _short(entry.carried.revision), _short(entry.provenance.revision)
    return f"measured at {before} on {entry.carried.date[:10]}, same smoke values at {after}"


def _short(revision: str) -> str:
    commit, _, dirty = revision.partition("+")
    return commit[:10] + (f"+{dirty}" if dirty else "")
