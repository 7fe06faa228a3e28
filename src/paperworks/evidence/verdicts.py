"""The verdict on a claim or a race: computed on reading from the stored entry and the record's bars."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paperworks.evidence import formatting, notebook
from paperworks.evidence.bars import Bar
from paperworks.evidence.digests import reached
from paperworks.evidence.entry import Entry, Kind, Value
from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.provenance import changed_versions
from paperworks.evidence.record import SCALES, Claim, Paper, Peer

EACH = "range of "  # how the method of `estimates.every` begins
VerdictName = Literal[
    "holds",
    "falls short",
    "known shortfall",
    "undecided",
    "not at this scale",
    "not run",
    "not measured",
    "missing data",
    "stopped",
    "error",
]


@dataclass(frozen=True)
class Decision:
    """One bar and the value it decides on; `holds` is None where the interval stands on both sides of the bar.

    Parameters
    ----------
    name
        Name of the value within its claim, empty where there is one.
    bar
        The condition on the value.
    value
        The measured value with its interval.
    holds
        Whether the bar holds; None where the interval stands on both sides of it.
    """

    name: str
    bar: Bar
    value: Value
    holds: bool | None


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds.

    `name` is the verdict, `detail` says in one line why it is not "holds", `decisions` go bar by bar; `explained`
    tells that the record has a note on it.

    Parameters
    ----------
    name
        The verdict in one or two words.
    detail
        Why it is not "holds", in one line.
    decisions
        What was decided on each bar, in the record's order.
    explained
        Whether the record has a note on it.
    """

    name: VerdictName
    detail: str = ""
    decisions: tuple[Decision, ...] = ()
    explained: bool = False

    @property
    def fails(self) -> bool:
        """Whether a run with this verdict fails: something doesn't hold that no note explains, or wasn't measured."""
        if self.name == "undecided":
            return not self.explained
        return self.name in ("falls short", "missing data", "stopped", "error")

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name

    def _repr_html_(self) -> str:
        rows = [
            (d.name or "value", formatting.value(d.value), f"{d.bar} {notebook.MARKS[d.holds]}") for d in self.decisions
        ]
        return notebook.table(str(self), ("value", "measured", "bar"), rows) if rows else notebook.lines(str(self))


def judge(item: Claim | Peer, entry: Entry | None) -> Verdict:
    """Give the verdict on a claim or a race.

    A bar holds when the whole interval is on its right side, falls short when it is on the wrong side, and is
    undecided else; a value without an interval is undecided.

    Parameters
    ----------
    item
        The claim or peer of the record.
    entry
        What was measured, None where nothing was.

    Returns
    -------
    Verdict
        The verdict on a claim or a race.

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
    if item.bars.keys() != entry.values.keys():
        detail = f"the bars are on {_names(item.bars)}, the measurement gave {_names(entry.values)}"
        return Verdict("error", detail)
    decisions = tuple(_decide(name, bar, entry.values[name]) for name, bar in item.bars.items())
    if SCALES.index(entry.scale) < SCALES.index(item.scale):
        return Verdict("not at this scale", f"decided at {item.scale} scale", decisions)
    explained = bool(item.note)
    if short := [decision for decision in decisions if decision.holds is False]:
        name: VerdictName = "known shortfall" if explained else "falls short"
        return Verdict(name, "; ".join(map(_shortfall, short)), decisions, explained)
    if still_open := [decision for decision in decisions if decision.holds is None]:
        return Verdict("undecided", "; ".join(map(_open, still_open)), decisions, explained)
    return Verdict("holds", "", decisions)


def outdated(paper: Paper, entry: Entry | None) -> str:
    """Say why an entry no longer speaks of the code and the libraries at hand, empty where it does.

    Parameters
    ----------
    paper
        The paper whose code and libraries are at hand.
    entry
        The stored entry, None where there is none.

    Returns
    -------
    str
        The reason in one line, or an empty string.
    """
    if entry is None or not entry.measured:
        return ""
    if entry.provenance.digest != reached(paper.folder, entry.kind, entry.id).digest:
        return "the code has changed since"
    changed = changed_versions(entry.provenance.versions)
    return f"measured with other versions: {', '.join(changed)}" if changed else ""


def count_verdicts(names: Iterable[str]) -> str:
    """Count verdicts, in one line.

    Examples
    --------
    >>> count_verdicts([]), count_verdicts(["holds", "undecided", "holds"])
    ('none', '2 holds, 1 undecided')
    """
    found = Counter(names)
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "none"


def items_of(paper: Paper, kind: Kind) -> tuple[Claim, ...] | tuple[Peer, ...]:
    """Return the paper's claims or its peers."""
    return paper.claims if kind == "claim" else paper.peers


def _decide(name: str, bar: Bar, value: Value) -> Decision:
    if value.low is None or value.high is None:
        return Decision(name, bar, value, None)
    if value.method.startswith(EACH):
        return Decision(name, bar, value, bar.decide_each(value.samples))
    return Decision(name, bar, value, bar.decide(value.low, value.high))


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) if name != SINGLE else "a single value" for name in names) or "nothing"


def _shortfall(decision: Decision) -> str:
    value = formatting.number(decision.value.value)
    if not isinstance(decision.value.value, bool) and decision.bar.holds(float(value)):
        value = repr(decision.value.value)  # rounded it would look as if it held
    return _named(decision, f"{value}, bar {decision.bar}")


def _open(decision: Decision) -> str:
    interval = formatting.interval(decision.value)
    return _named(decision, f"{interval}, bar {decision.bar}" if interval else "measured without an interval")


def _named(decision: Decision, text: str) -> str:
    return f"{decision.name} is {text}" if decision.name else text
