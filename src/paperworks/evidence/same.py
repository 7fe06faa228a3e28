"""Whether two measurements say the same: smoke-scale values to rounding, values with intervals within them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from paperworks.evidence import formatting, notebook
from paperworks.evidence.entry import Entry, Smoke, Value

_ROUNDING = 1e-6  # other orders of summation, on the same seeds
Comparison = Literal["equal", "different", "not comparable"]


def same_smoke(before: Smoke, now: Entry) -> bool:
    """Tell whether an entry at smoke scale has the values and the table of an earlier one, to rounding."""
    values = {name: value.value for name, value in now.values.items()}
    rows = tuple(tuple(row) for row in now.table["rows"]) if now.table else ()
    return _same(before.values, values) and _same(before.rows, rows)


@dataclass(frozen=True)
class Compared:
    """How a person's own entry of a claim compares with the committed one; `detail` says why in one line.

    Parameters
    ----------
    result
        The outcome in one word: equal, different or not comparable.
    """

    result: Comparison
    detail: str = ""

    def _repr_html_(self) -> str:
        return notebook.facts("", {self.result: self.detail or "–"})


def compare(committed: Entry | None, own: Entry | None) -> Compared:
    """Compare two entries of one claim: equal where every value is, or where its intervals overlap.

    Not comparable are entries that are missing, of another scale, or of other seeds; more seeds than the other one
    has are none the less its seeds.

    Parameters
    ----------
    committed, own
        The two entries, None where there is none.

    Returns
    -------
    Compared
        The outcome and, in one line, what it rests on.
    """
    if committed is None or not committed.measured:
        return Compared("not comparable", "nothing is committed")
    if own is None or not own.measured:
        return Compared("not comparable", "you have not measured it")
    if committed.scale != own.scale:
        return Compared("not comparable", f"{committed.scale} scale against {own.scale} scale")
    least = min(len(committed.seeds), len(own.seeds))
    if committed.seeds[:least] != own.seeds[:least]:
        return Compared("not comparable", "other seeds")
    if committed.values.keys() != own.values.keys():
        return Compared("not comparable", "other values")
    different = [
        f"{name or 'value'}: {formatting.value(theirs)} committed, {formatting.value(own.values[name])} yours"
        for name, theirs in committed.values.items()
        if not _overlap(theirs, own.values[name])
    ]
    return Compared("different", "; ".join(different)) if different else Compared("equal")


def _overlap(a: Value, b: Value) -> bool:
    if _same(a.value, b.value):
        return True
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, (bool, str)) or isinstance(b, (bool, str)) or a is None or b is None:
        return bool(str(a) == str(b))
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=1e-12)
