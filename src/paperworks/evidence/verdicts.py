"""The verdict on a claim or a race: computed on reading from the stored entry and the record's bars."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from paperworks.evidence import formatting
from paperworks.evidence.bars import Bar
from paperworks.evidence.entry import KINDS, Entry, Kind
from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.record import SCALES, Claim, Paper, Peer, Scale
from paperworks.evidence.store import Evidence

VerdictName = Literal[
    "holds", "falls short", "known shortfall", "not at this scale", "not run", "not measured", "missing data", "error"
]


@dataclass(frozen=True)
class Decision:
    """One bar and the value it decides on."""

    name: str
    bar: Bar
    value: float | bool
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds.

    `name` is the verdict, `detail` says in one line why it is not "holds", `decisions` go bar by bar.
    """

    name: VerdictName
    detail: str = ""
    decisions: tuple[Decision, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether a run with this verdict fails: an unexplained shortfall, missing data or an error."""
        return self.name in ("falls short", "missing data", "error")

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class Judgement:
    """A claim or peer of a paper, its entry where there is one, and the verdict."""

    paper: Paper
    kind: Kind
    item: Claim | Peer
    entry: Entry | None
    verdict: Verdict

    @property
    def headline(self) -> bool:
        """Whether this is the claim that the paper is known for."""
        return isinstance(self.item, Claim) and self.item.headline

    @property
    def reported(self) -> str:
        """What the paper reports; for a peer, its package."""
        return self.item.reported if isinstance(self.item, Claim) else self.item.package


def judge(item: Claim | Peer, entry: Entry | None) -> Verdict:
    """Give the verdict on a claim or a race.

    Examples
    --------
    >>> claim = Claim("c1", "says", "3", "slope", {"": Bar.parse(">= 2.8")})
    >>> judge(claim, None).name
    'not measured'
    """
    if entry is None:
        return Verdict("not measured")
    if entry.outcome != "measured":
        return Verdict(entry.outcome, entry.reason)
    if wrong := _wrong_names(item, entry):
        return Verdict("error", wrong)
    decisions = tuple(
        Decision(name, bar, entry.values[name], bar.holds(entry.values[name])) for name, bar in item.bars.items()
    )
    if SCALES.index(entry.scale) < SCALES.index(item.scale):
        return Verdict("not at this scale", f"decided at {item.scale} scale", decisions)
    if all(decision.holds for decision in decisions):
        return Verdict("holds", "", decisions)
    detail = "; ".join(_shortfall(decision) for decision in decisions if not decision.holds)
    return Verdict("known shortfall" if item.note else "falls short", detail, decisions)


def judgements(paper: Paper, evidence: Evidence, scale: Scale | None = None) -> Iterator[Judgement]:
    """Judge every claim and peer of a paper by its evidence at `scale`, by default the largest there is."""
    for kind in KINDS:
        for item in items_of(paper, kind):
            entry = evidence.entry(kind, item.id, scale)
            yield Judgement(paper, kind, item, entry, judge(item, entry))


def count_verdicts(judgements: Iterable[Judgement]) -> str:
    """Count verdicts, in one line.

    Examples
    --------
    >>> count_verdicts([])
    'none'
    """
    found = Counter(judgement.verdict.name for judgement in judgements)
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "none"


def items_of(paper: Paper, kind: Kind) -> tuple[Claim, ...] | tuple[Peer, ...]:
    """Return the paper's claims or its peers."""
    return paper.claims if kind == "claim" else paper.peers


def _wrong_names(item: Claim | Peer, entry: Entry) -> str:
    if item.bars.keys() == entry.values.keys():
        return ""
    return f"the bars are on {_names(item.bars)}, the measurement gave {_names(entry.values)}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) if name != SINGLE else "a single value" for name in names) or "nothing"


def _shortfall(decision: Decision) -> str:
    value = formatting.number(decision.value)
    if not isinstance(decision.value, bool) and decision.bar.holds(float(value)):
        value = repr(decision.value)  # rounded it would look as if it held
    return f"{decision.name} is {value}, bar {decision.bar}" if decision.name else f"{value}, bar {decision.bar}"
