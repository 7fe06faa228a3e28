"""One entry of the evidence: what a run of one claim or race gave, and where it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

from paperworks.core.validation import check_choice
from paperworks.evidence.record import SCALES, Scale

Kind = Literal["claim", "peer"]
Outcome = Literal["measured", "not at this scale", "not run", "missing data", "error"]
KINDS: tuple[Kind, ...] = ("claim", "peer")
OUTCOMES: tuple[Outcome, ...] = ("measured", "not at this scale", "not run", "missing data", "error")


class EntryKey(NamedTuple):
    """What an entry is of; a paper's evidence holds one entry for each."""

    kind: Kind
    id: str
    scale: Scale


@dataclass(frozen=True)
class Provenance:
    """Where an entry came from: enough to tell whether it still speaks of the code at hand.

    `sources` are the files, relative to the package, that the measurement had loaded besides the
    paper's `claims.py`; `digest` is taken over all of them. `revision` is the commit of the checkout,
    with `+dirty` where a file that was loaded differs from it, and empty outside a checkout.
    """

    date: str
    revision: str
    digest: str
    sources: tuple[str, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, str | int]
    engine: str
    threads: int


@dataclass(frozen=True)
class Entry:
    """What a run of one claim or race gave.

    Parameters
    ----------
    values, unit, per_seed, table, remark
        As in `Measurement`; a table is a mapping of `columns` and `rows`.
    interval
        For values with two seeds or more, both ends of the 95 % confidence interval of their mean.
    figures
        Paths relative to the folder of the evidence.
    seconds
        How long the measurement took; for an error, how long until it was lost.
    memory
        The largest memory seen, in bytes.
    reason, traceback
        Why there is no measurement, where there is none.
    """

    kind: Kind
    id: str
    scale: Scale
    seeds: tuple[int, ...]
    outcome: Outcome
    provenance: Provenance
    values: Mapping[str, float | bool] = field(default_factory=dict)
    unit: str = ""
    per_seed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    table: Mapping[str, Any] | None = None
    remark: str = ""
    figures: tuple[str, ...] = ()
    seconds: float = 0.0
    memory: int = 0
    reason: str = ""
    traceback: str = ""

    @property
    def key(self) -> EntryKey:
        """What this entry is of."""
        return EntryKey(self.kind, self.id, self.scale)

    def to_json(self) -> dict[str, Any]:
        """Give the entry as strict JSON: fields at their defaults are left out, NaN and infinities are text."""
        defaults = {"unit": "", "remark": "", "reason": "", "traceback": "", "memory": 0, "seconds": 0.0, "table": None}
        return {
            name: plain(value)
            for name, value in asdict(self).items()
            if value != defaults.get(name, ...) and value not in ({}, ())
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Entry":
        """Read what `to_json` gave.

        Raises
        ------
        ValueError, TypeError, KeyError
            Where the data is not of this form.
        """
        if unknown := sorted(data.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"an entry has an unknown key '{unknown[0]}'")
        for name, known in (("kind", KINDS), ("scale", SCALES), ("outcome", OUTCOMES)):
            check_choice(name, data[name], known)
        texts = dict(data)
        texts["seeds"] = tuple(data["seeds"])
        texts["provenance"] = Provenance(**{**data["provenance"], "sources": tuple(data["provenance"]["sources"])})
        texts["figures"] = tuple(data.get("figures", ()))
        texts["values"] = {name: _number(value) for name, value in data.get("values", {}).items()}
        for name in ("per_seed", "interval"):
            texts[name] = {key: tuple(float(v) for v in values) for key, values in data.get(name, {}).items()}
        return cls(**texts)


def plain(value: Any) -> Any:
    """Make strict JSON of mappings, sequences and scalars: NaN and infinities become text.

    Examples
    --------
    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, 'nan']}
    """
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _number(value: Any) -> float | bool:
    return value if isinstance(value, bool) else float(value)
