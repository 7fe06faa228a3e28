"""One entry of the evidence: what a run of one claim or race gave, and where it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

from paperworks.core.validation import check_choice
from paperworks.evidence import notebook
from paperworks.evidence.record import SCALES, Scale

Kind = Literal["claim", "peer"]
Outcome = Literal["measured", "not at this scale", "not run", "missing data", "stopped", "error"]
KINDS: tuple[Kind, ...] = ("claim", "peer")
OUTCOMES: tuple[Outcome, ...] = ("measured", "not at this scale", "not run", "missing data", "stopped", "error")


class EntryKey(NamedTuple):
    """What tells entries apart: of those with the same key the history of a paper keeps the newest."""

    kind: Kind
    id: str
    scale: Scale
    seeds: tuple[int, ...]
    digest: str
    machine: tuple[str, ...]
    measured: bool


@dataclass(frozen=True)
class Value:
    """A measured value as it is stored.

    Parameters
    ----------
    value
        The number or truth value.
    low, high
        The ends of its interval; None where it was measured without one.
    method
        How the interval was found.
    samples
        The values one by one (seeds, repetitions, rounds), where they were kept.
    """

    value: float | bool
    low: float | None = None
    high: float | None = None
    method: str = ""
    samples: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Value":
        """Read a value that `dataclasses.asdict` gave.

        Parameters
        ----------
        data
            Fields of the value by their names.

        Returns
        -------
        Value
            The value that was written.
        """
        low, high = (None if data.get(name) is None else float(data[name]) for name in ("low", "high"))
        samples = tuple(float(v) for v in data.get("samples", ()))
        return cls(_number(data["value"]), low, high, str(data.get("method", "")), samples)


@dataclass(frozen=True)
class Provenance:
    """Where an entry came from: enough to tell whether it still speaks of the code at hand.

    Parameters
    ----------
    date
        When it was measured, in UTC.
    revision
        The commit of the checkout, taken before measuring; `+dirty` where a file that the measurement can reach
        differed from it, empty outside a checkout.
    digest
        Digest of all code that the measurement can reach, taken before measuring.
    versions
        Versions of every installed distribution that the measurement imported.
    machine
        Processor, cores and system.
    python, blas
        The interpreter, and the libraries of linear algebra that were loaded.
    engine, threads
        Where it ran, with how many threads.
    lock
        A digest of the lock that the environment was installed from, empty outside a checkout.
    """

    date: str
    revision: str
    digest: str
    versions: Mapping[str, str]
    machine: Mapping[str, str | int]
    engine: str
    threads: int
    python: str = ""
    blas: tuple[str, ...] = ()
    lock: str = ""


@dataclass(frozen=True)
class Smoke:
    """What a claim gives at smoke scale, by which changed code is told in seconds from code that gives other values."""

    values: Mapping[str, float | bool]
    rows: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Carried:
    """That an entry was not measured again for changed code, since the smoke-scale values came out the same."""

    revision: str  # of the code that the values were measured with
    date: str  # when they were measured


@dataclass(frozen=True)
class Entry:
    """What a run of one claim or race gave.

    Parameters
    ----------
    values
        By name, as in `Measurement`.
    unit, table, remark, settings, floor
        As in `Measurement`; a table is a mapping of `columns` and `rows`.
    level
        The level of confidence of the intervals.
    figures
        Paths of the figure's and the recordings' files, relative to the folder of the evidence.
    recordings
        What is heard in each recording, in the order of their numbers.
    seconds, processor_seconds
        How long it took by the clock, and in processor time; for an error, until it was lost.
    memory
        The largest memory seen, in bytes.
    reason, traceback
        Why there is no measurement, where there is none.
    smoke
        The values at smoke scale of the same code, for entries of larger scales.
    carried
        Set where the values were measured with earlier code.
    kind
        Whether it is of a claim or of a race.
    id
        Name of the claim or peer within its paper.
    scale
        Scale of the run.
    seeds
        Seeds that the run used.
    outcome
        Whether it was measured, or what kept it from being so.
    provenance
        Code, versions, machine and date that it comes from.
    """

    kind: Kind
    id: str
    scale: Scale
    seeds: tuple[int, ...]
    outcome: Outcome
    provenance: Provenance
    values: Mapping[str, Value] = field(default_factory=dict)
    unit: str = ""
    level: float = 0.95
    table: Mapping[str, Any] | None = None
    remark: str = ""
    settings: str = ""
    floor: float | None = None
    figures: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()
    seconds: float = 0.0
    processor_seconds: float = 0.0
    memory: int = 0
    reason: str = ""
    traceback: str = ""
    smoke: Smoke | None = None
    carried: Carried | None = None

    @property
    def measured(self) -> bool:
        """Whether there are values."""
        return self.outcome == "measured"

    @property
    def key(self) -> EntryKey:
        """What tells this entry from others."""
        machine = tuple(str(self.provenance.machine.get(name, "")) for name in ("cpu", "cores", "system"))
        return EntryKey(self.kind, self.id, self.scale, self.seeds, self.provenance.digest, machine, self.measured)

    def _repr_html_(self) -> str:
        rows = []
        for name, value in self.values.items():
            low, high = ("–" if end is None else f"{end:.4g}" for end in (value.low, value.high))
            rows.append((name or "value", f"{value.value:.4g} {self.unit}".strip(), low, high, value.method))
        caption = f"{self.kind} {self.id}, {self.scale} scale: {self.outcome}"
        origin = f"{self.provenance.date} · {self.provenance.revision} · {len(self.seeds)} seeds"
        values = notebook.table(caption, ("value", "measured", "low", "high", "interval by"), rows)
        return notebook.lines(values if rows else caption, self.reason, self.remark, origin)

    def to_json(self) -> dict[str, Any]:
        """Give the entry as JSON values, without what is empty; infinite numbers become text.

        Returns
        -------
        dict[str, Any]
            JSON values by the names of the fields.
        """
        data = asdict(self)
        kept = {f.name for f in fields(self) if f.name in ("kind", "id", "scale", "seeds", "outcome", "provenance")}
        return {
            name: plain(value)
            for name, value in data.items()
            if name in kept or value not in (None, "", 0, 0.0, (), {}) or (name == "floor" and value is not None)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Entry":
        """Read an entry.

        Parameters
        ----------
        data
            What `to_json` gave, read from a file.

        Returns
        -------
        Entry
            The entry that was written.

        Raises
        ------
        ValueError, TypeError, KeyError
            Where it is malformed.
        """
        for name, known in (("kind", KINDS), ("scale", SCALES), ("outcome", OUTCOMES)):
            check_choice(name, data[name], known)
        found: dict[str, Any] = dict(data)
        origin = dict(data["provenance"])
        origin["blas"] = tuple(origin.get("blas", ()))
        found["seeds"] = tuple(int(seed) for seed in data["seeds"])
        found["provenance"] = Provenance(**origin)
        found["values"] = {str(name): Value.from_json(value) for name, value in data.get("values", {}).items()}
        for name in ("figures", "recordings"):
            found[name] = tuple(data.get(name, ()))
        if data.get("smoke"):
            values, rows = data["smoke"]["values"], data["smoke"].get("rows", ())
            found["smoke"] = Smoke({n: _number(v) for n, v in values.items()}, tuple(tuple(row) for row in rows))
        if data.get("carried"):
            found["carried"] = Carried(**data["carried"])
        return cls(**found)


def plain(value: Any) -> Any:
    """Make strict JSON of mappings, sequences and scalars: NaN, infinities and what is no Unicode become text.

    Examples
    --------
    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, 'nan']}
    """
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, str):  # a lone surrogate, as of a file's name, can be neither written nor printed
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _number(value: Any) -> float | bool:
    return value if isinstance(value, bool) else float(value)
