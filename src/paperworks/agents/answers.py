"""What the tools answer with: models whose JSON schemas clients see, each bounded in size."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, field_validator

from paperworks.evidence.views import ClaimView

if TYPE_CHECKING:
    from paperworks.evidence.runner import RunReport

WORDS, LONG = 1_000, 12_000
"""Characters of a text, and of one that an answer is about, such as a docstring."""
SAMPLES, ROWS, ENTRIES, MOST = 32, 40, 20, 200
"""How many values one by one, rows of a table, entries of a history, and items of any other list an answer gives."""


def clip(text: str, most: int = WORDS) -> str:
    """Return a text, or as much of it as an answer has room for.

    Examples
    --------
    >>> clip("a short one"), clip("abcdef", 4)
    ('a short one', 'abc…')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Answer(BaseModel):
    """What has room in an answer, whatever a record or a measurement holds."""

    @field_validator("*", mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, str):
            return clip(value, LONG)
        if isinstance(value, Mapping):
            return {key: _short(item) for key, item in islice(value.items(), MOST)}
        return [_short(item) for item in value[:MOST]] if isinstance(value, list) else value


class PaperRow(Answer):
    """A paper in a list."""

    slug: str
    title: str
    year: int
    field: str
    tags: list[str]
    status: Literal["planned", "unmeasured", "measured"]
    claims: int
    hold: int = Field(description="How many claims hold")


class PaperRows(Answer):
    """Some papers of a list, and how many there are in all."""

    papers: list[PaperRow]
    total: int


class FieldRow(Answer):
    """A field of research and how many papers are in it."""

    name: str
    papers: int


class FieldRows(Answer):
    """The fields."""

    fields: list[FieldRow]


class ValueText(Answer):
    """A measured value beside its bar."""

    label: str
    measured: str = Field(description="Value, unit and interval; empty where nothing was measured")
    bar: str
    holds: bool | None = Field(description="null where undecided or not measured")


class ClaimText(Answer):
    """A claim or race with its verdict."""

    id: str
    kind: Literal["claim", "race"]
    says: str
    reported: str = Field(description="The paper's own figure; of a race the peer's package")
    where: str
    headline: bool
    verdict: str
    detail: str
    outdated: str
    values: list[ValueText] = Field(description="At most 40")
    note: str
    measured: str = Field(description="Scale, date, revision and machine; empty where nothing was measured")
    own_verdict: str = Field(description="By the user's own evidence; empty where there is none")


class PaperText(Answer):
    """All of a paper's record, with its claims' verdicts."""

    slug: str
    title: str
    authors: list[str]
    year: int
    field: str
    summary: str
    note: str
    arxiv: str
    doi: str
    links: dict[str, str]
    tags: list[str]
    questions: list[str]
    origin: str
    planned: bool
    methods: list[str]
    peers: list[str] = Field(description="Packages that the methods are raced against; show_races has the results")
    claims: list[ClaimText]
    usage: str


class MemberText(Answer):
    """A public method or property of a class."""

    signature: str
    says: str


class MethodText(Answer):
    """A public class or function that implements a paper's idea."""

    name: str
    kind: Literal["class", "function"]
    import_line: str
    signature: str
    docstring: str
    members: list[MemberText]
    source: str
    papers: list[str]
    usage: str = Field(description="Example code of the first of the papers")


class RaceText(ClaimText):
    """A race with how it was run."""

    package: str
    settings: str = Field(description="How the peer ran")
    floor: float | None = Field(description="What the kernel that both share costs alone; no ratio goes below it")
    remark: str


class RaceTexts(Answer):
    """The races of a paper."""

    paper: str
    races: list[RaceText]


class Number(Answer):
    """A measured value with its interval."""

    name: str
    label: str
    bar: str
    holds: bool | None
    text: str
    value: float | bool | None
    low: float | None
    high: float | None
    method: str = Field(description="How the interval was found")
    samples: list[float | None] = Field(description="The values one by one, at most 32")


class TableText(Answer):
    """The beginning of a table."""

    columns: list[str]
    rows: list[list[float | bool | str | None]]
    total: int


class PastEntry(Answer):
    """An entry of the history."""

    date: str
    scale: str
    outcome: str
    values: str
    seeds: int
    revision: str
    reason: str


class EvidenceText(Answer):
    """What was measured of a claim or race: its newest entry, and the history."""

    paper: str
    claim: ClaimText
    whose: Literal["committed", "own"]
    scale: str
    seeds: int
    numbers: list[Number]
    table: TableText | None
    remark: str
    settings: str
    versions: dict[str, str]
    processor_seconds: float
    newer_failure: str
    traceback: str
    figure: bool = Field(description="Whether there is a figure")
    history: list[PastEntry] = Field(description="Newest first, at most 20")


class Comparison(Answer):
    """The user's own evidence of a claim or race beside the committed one."""

    id: str
    kind: Literal["claim", "race"]
    result: Literal["equal", "different", "not comparable"]
    detail: str


class Comparisons(Answer):
    """The comparisons of a paper."""

    paper: str
    comparisons: list[Comparison]
    problems: list[str]


class RunText(Answer):
    """What a run measured."""

    paper: str
    claim: ClaimText
    scale: str
    numbers: list[Number]
    remark: str
    processor_seconds: float
    traceback: str
    evidence: str = Field(description="Folder of the user's own evidence, which now has this measurement")
    problems: list[str]


def claim_text(view: ClaimView) -> ClaimText:
    """Make the answer's form of a view."""
    return ClaimText(**_claim(view))


def race_text(view: ClaimView) -> RaceText:
    """Make the answer's form of a race's view."""
    floor = view.to_json()["floor"]
    return RaceText(
        **_claim(view), package=view.reported, settings=clip(view.settings), floor=floor, remark=clip(view.remark)
    )


def run_text(report: "RunReport") -> RunText:
    """Make the answer's form of a run of one claim or race."""
    (view,) = report.views
    return RunText(
        paper=view.paper,
        claim=claim_text(view),
        scale=report.scale,
        numbers=numbers_of(view),
        remark=clip(view.remark),
        processor_seconds=view.processor_seconds,
        traceback=clip(view.traceback, 4 * WORDS),
        evidence=str(report.folder),
        problems=[clip(problem) for problem in report.unwritten],
    )


def numbers_of(view: ClaimView) -> list[Number]:
    """Make the answer's form of a view's values: what is infinite or no number is null."""
    known = Number.model_fields.keys()
    return [
        Number(
            **{name: value for name, value in data.items() if name in known}
            | {"samples": data["samples"][:SAMPLES], "holds": _holds(view, data["holds"])}
        )
        for data in view.to_json()["values"][:ROWS]
    ]


def table_of(table: Mapping[str, Any] | None) -> TableText | None:
    """Make the answer's form of a table."""
    if table is None:
        return None
    rows: Sequence[Sequence[Any]] = table["rows"]
    shown = [[clip(cell, 200) if isinstance(cell, str) else cell for cell in row[:ROWS]] for row in rows[:ROWS]]
    return TableText(
        columns=[clip(str(column), 200) for column in table["columns"][:ROWS]], rows=shown, total=len(rows)
    )


def _short(item: Any) -> Any:
    return clip(item) if isinstance(item, str) else item


def _holds(view: ClaimView, holds: bool | None) -> bool | None:
    return None if view.verdict == "not at this scale" else holds  # where the bars don't decide


def _claim(view: ClaimView) -> dict[str, Any]:
    return {
        "id": view.id,
        "kind": "race" if view.kind == "peer" else "claim",
        "says": clip(view.says),
        "reported": clip(view.reported),
        "where": view.where,
        "headline": view.headline,
        "verdict": view.verdict,
        "detail": clip(view.detail),
        "outdated": clip(view.outdated, 300),
        "values": [
            ValueText(label=v.label, measured=v.text, bar=v.bar, holds=_holds(view, v.holds))
            for v in view.values[:ROWS]
        ],
        "note": clip(view.note),
        "measured": view.origin,
        "own_verdict": view.own.verdict if view.own else "",
    }
