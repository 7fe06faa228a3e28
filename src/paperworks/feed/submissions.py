"""What readers measured on machines of their own: files that are checked, kept as data and never executed."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from paperworks.core.validation import check_choice
from paperworks.evidence.digests import reached, unchanging
from paperworks.evidence.entry import KINDS, Entry, Kind, Value
from paperworks.evidence.record import SCALES, Paper
from paperworks.evidence.store import Evidence
from paperworks.evidence.verdicts import EACH, items_of, judge
from paperworks.evidence.views import ClaimView, view
from paperworks.feed.schema import Person, Submission
from paperworks.feed.store import FeedStore
from paperworks.papers import RecordError, UnknownPaper, load

SCHEMA = 1
MAX_BYTES = 256 * 1024
MOST_ENTRIES, MOST_OF_ONE = 100, 1000
"""Entries of one file, and of one person."""
_SHOWN, _OF_ONE = 50, 5
"""Machines shown of a claim, and of these one person's: whoever names many machines doesn't outvote the others."""
_DECIDED = ("holds", "falls short", "known shortfall", "undecided")


def _printable(text: str) -> str:
    if not text.isprintable():  # neither control characters nor marks that turn the direction of what follows
        raise ValueError("it holds characters that can't be shown")
    return text


_Short = Annotated[str, StringConstraints(max_length=120), AfterValidator(_printable)]
_NAME, _VERSION = r"^[A-Za-z0-9_.-]{0,80}$", r"^[A-Za-z0-9_.+!-]{0,80}$"
_Name = Annotated[str, StringConstraints(pattern=_NAME)]
_Version = Annotated[str, StringConstraints(pattern=_VERSION)]
_Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]


class BadSubmission(ValueError):
    """A file that isn't taken; the message says why in one sentence."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class _Value(_Strict):
    value: bool | _Finite
    low: _Finite | None = None
    high: _Finite | None = None
    method: _Short = ""
    samples: Annotated[list[_Finite], Field(max_length=1000)] = []

    @field_validator("high")
    @classmethod
    def _ordered(cls, high: float | None, info: Any) -> float | None:
        low, value = info.data.get("low"), info.data.get("value")
        if (low is None) != (high is None):
            raise ValueError("an interval has two ends")
        if value is None:  # it was refused itself
            return high
        if low is not None and high is not None and not low <= float(value) <= high:
            raise ValueError("the value lies outside of its interval")
        return high

    @field_validator("samples")
    @classmethod
    def _inside(cls, samples: list[float], info: Any) -> list[float]:
        low, high = info.data.get("low"), info.data.get("high")
        if info.data.get("method", "").startswith(EACH) and not samples:
            raise ValueError("a range takes its samples, each of which is judged")
        if samples and (low is None or high is None or min(samples) < low or max(samples) > high):
            raise ValueError("the samples lie outside of their interval")
        return samples


class _Machine(_Strict):
    cpu: _Short = ""
    cores: Annotated[int, Field(ge=1, le=100_000)] = 1
    system: _Short = ""


class _Entry(_Strict):
    kind: Literal["claim", "peer"]
    id: _Name
    scale: Literal["smoke", "desk", "full"]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(max_length=256)]
    values: Annotated[dict[_Name, _Value], Field(min_length=1, max_length=40)]
    unit: Annotated[str, StringConstraints(max_length=40), AfterValidator(_printable)] = ""
    level: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,128}$")]
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,64}(\+dirty)?$")] = ""
    date: AwareDatetime
    versions: Annotated[dict[_Name, _Version], Field(max_length=300)]
    machine: _Machine
    python: _Short = ""

    @field_validator("date")
    @classmethod
    def _past(cls, date: datetime) -> datetime:
        if date > datetime.now(UTC) + timedelta(days=1):
            raise ValueError("the date is to come")
        if date.year < 2020:  # before there was any of it
            raise ValueError("the date is too early")
        return date


class _File(_Strict):
    format: Literal["paperworks evidence"]
    schema_: Annotated[int, Field(alias="schema")]
    paper: _Name
    entries: Annotated[list[_Entry], Field(min_length=1, max_length=MOST_ENTRIES)]


@dataclass(frozen=True)
class Elsewhere:
    """What readers measured of one claim or race.

    Parameters
    ----------
    views
        Views of the newest measurement at the largest scale of each machine, the newest first.
    held, machines
        On how many machines it held, and on how many it was decided with the code at hand, ours among them.
    """

    views: tuple[ClaimView, ...]
    held: int
    machines: int


def submission(slug: str, evidence: Evidence) -> bytes:
    """Write a person's own evidence of a paper as the file that a site takes: no paths, no traces.

    Samples are in it where each of them is judged.

    Parameters
    ----------
    slug
        Name of the paper.
    evidence
        What the person measured.

    Returns
    -------
    bytes
        Content of the file.

    Raises
    ------
    ValueError
        Where nothing was measured.
    """
    there = (entry for entry in evidence.entries if entry.measured and all(map(_finite, entry.values.values())))
    newest = {(entry.kind, entry.id, entry.scale): entry for entry in there}
    if not newest:
        raise ValueError(f"you have measured nothing of {slug}; paperworks run {slug} does")
    entries = [_plain(entry) for entry in list(newest.values())[-MOST_ENTRIES:]]
    data = {"format": "paperworks evidence", "schema": SCHEMA, "paper": slug, "entries": entries}
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def read_submission(data: bytes) -> tuple[Paper, list[dict[str, Any]]]:
    """Check a file that a stranger sent.

    Parameters
    ----------
    data
        Content of the file.

    Returns
    -------
    tuple[Paper, list[dict[str, Any]]]
        The paper that it is of, and its entries as JSON values.

    Raises
    ------
    BadSubmission
        For anything that `submission` doesn't write: other or larger content, a newer schema, numbers that aren't
        finite, a paper or claim that we don't have, values that the claim doesn't have.

    Examples
    --------
    >>> read_submission(b'{"format": "paperworks evidence", "schema": 2}')
    Traceback (most recent call last):
    ...
    paperworks.feed.submissions.BadSubmission: the file was written by a newer Paperworks: schema 2, this one reads 1
    """
    if len(data) > MAX_BYTES:
        raise BadSubmission(f"the file has more than {MAX_BYTES // 1024} KiB")
    try:
        head = json.loads(data)
    except (ValueError, RecursionError):
        raise BadSubmission("the file isn't JSON; it takes what paperworks compare --submit FILE writes") from None
    schema = head.get("schema") if isinstance(head, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        newer = f"schema {str(schema)[:20]}, this one reads {SCHEMA}"
        raise BadSubmission(f"the file was written by a newer Paperworks: {newer}")
    if schema != SCHEMA or isinstance(schema, bool):
        raise BadSubmission("the file isn't evidence; it takes what paperworks compare --submit FILE writes")
    try:
        file = _File.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise BadSubmission(f"the file isn't evidence: {where or 'it'}: {first['msg'][:120]}") from None
    try:
        paper = load(file.paper)
    except (UnknownPaper, RecordError):
        raise BadSubmission(f"there is no paper {file.paper!r} of ours") from None
    entries = [entry.model_dump(mode="json") for entry in file.entries]
    for entry in entries:
        item = {item.id: item for item in items_of(paper, entry["kind"])}.get(entry["id"])
        if item is None:
            raise BadSubmission(f"{paper.slug} has no {entry['kind']} {entry['id']!r}")
        if (verdict := judge(item, _entry(entry))).name == "error":
            raise BadSubmission(f"{entry['id']}: {verdict.detail}")
    return paper, entries


class Submissions:
    """What readers sent.

    Parameters
    ----------
    store
        The feed.
    """

    def __init__(self, store: FeedStore) -> None:
        self.store = store

    def add(self, person: int, data: bytes, *, now: datetime | None = None) -> tuple[str, int]:
        """Keep what is in a file, all or nothing; of the same measurement the last one stays.

        Parameters
        ----------
        person
            Who measured it: their address was confirmed when they signed in.
        data
            Content of the file.
        now
            The time; by default the clock's.

        Returns
        -------
        tuple[str, int]
            Name of the paper, and how many entries were kept.

        Raises
        ------
        BadSubmission
            As `read_submission`, and where someone has sent a thousand.
        LookupError
            For nobody.
        """
        paper, entries = read_submission(data)
        now = now or datetime.now(UTC)
        try:
            with self.store.session() as session:
                if session.get(Person, person, with_for_update=True) is None:  # two files of one person take turns
                    raise LookupError(f"there is no person {person}")
                for entry in entries:
                    machine = _hash(person, sorted(entry["machine"].items()))
                    key = _hash(paper.slug, entry["kind"], entry["id"], entry["scale"], machine)
                    session.execute(delete(Submission).where(Submission.person_id == person, Submission.key == key))
                    kept = {"person_id": person, "slug": paper.slug, "key": key, "machine": machine}
                    session.add(Submission(**kept, entry=entry, created=now))
                    session.flush()
                mine = select(func.count()).select_from(Submission).where(Submission.person_id == person)
                if (session.scalar(mine) or 0) > MOST_OF_ONE:
                    raise BadSubmission(f"you have sent {MOST_OF_ONE} measurements, which is all that is kept")
        except IntegrityError:  # deleted in between
            raise LookupError(f"there is no person {person}") from None
        return paper.slug, len(entries)

    def of(self, paper: Paper, committed: Sequence[ClaimView]) -> Mapping[tuple[Kind, str], Elsewhere]:
        """Return what readers measured of a paper, claim by claim.

        Parameters
        ----------
        paper
            The paper.
        committed
            Views of what we measured, which count as one machine each.

        Returns
        -------
        Mapping[tuple[Kind, str], Elsewhere]
            What was measured elsewhere, by kind and id; those of which nothing was are left out.
        """
        best = self._best(paper.slug)
        items = {(kind, item.id): item for kind in KINDS for item in items_of(paper, kind)}
        ours = {(v.kind, v.id): v for v in committed if v.measured and not v.outdated}
        found = {}
        with unchanging():
            for name in best.keys() & items.keys():
                views = [(entry, view(paper, name[0], items[name], entry)) for entry in best[name]]
                digest = reached(paper.folder, *name).digest
                counted = [seen for entry, seen in views if entry.provenance.digest == digest]
                counted = [seen for seen in (*counted, *([ours[name]] if name in ours else [])) if _decides(seen)]
                held = sum(seen.verdict == "holds" for seen in counted)
                found[name] = Elsewhere(tuple(seen for _, seen in views), held, len(counted))
        return found

    def _best(self, slug: str) -> dict[tuple[Kind, str], list[Entry]]:
        """Return one entry of each machine, the newest at the largest scale, from the last of each person."""
        turn = func.row_number().over(partition_by=Submission.person_id, order_by=Submission.id.desc())
        columns = select(Submission.id, Submission.person_id, Submission.machine, Submission.entry)
        last = columns.where(Submission.slug == slug).order_by(turn, Submission.id.desc()).limit(20 * _SHOWN)
        with self.store.session() as session:
            rows = session.execute(last).all()
        kept: dict[tuple[Kind, str], dict[str, tuple[int, int, Entry]]] = {}
        people: dict[tuple[Kind, str, int], set[str]] = {}
        for number, person, machine, data in rows:
            entry = _entry(data)
            machines = kept.setdefault((entry.kind, entry.id), {})
            theirs = people.setdefault((entry.kind, entry.id, person), set())
            if machine not in machines and (len(machines) >= _SHOWN or len(theirs) >= _OF_ONE):
                continue
            theirs.add(machine)
            fresh = (SCALES.index(entry.scale), number, entry)
            if machine not in machines or fresh[:2] > machines[machine][:2]:
                machines[machine] = fresh
        newest = {name: sorted(of.values(), key=lambda one: -one[1]) for name, of in kept.items()}
        return {name: [entry for _, _, entry in of] for name, of in newest.items()}

    def papers(self, person: int) -> list[str]:
        """Return the names of the papers of which someone sent measurements.

        Parameters
        ----------
        person
            Number of the person.

        Returns
        -------
        list[str]
            Names of papers in alphabetical order.
        """
        with self.store.session() as session:
            mine = select(Submission.slug).where(Submission.person_id == person)
            return list(session.scalars(mine.distinct().order_by(Submission.slug)))

    def overview(self) -> list[tuple[str, str, int, datetime]]:
        """Return who sent measurements of which paper, for whoever runs the site.

        Returns
        -------
        list[tuple[str, str, int, datetime]]
            Address, name of the paper, number of entries and when the last came, the last ones first.
        """
        last = func.max(Submission.created)
        columns = select(Person.email, Submission.slug, func.count(), last).join(
            Person, Person.id == Submission.person_id
        )
        with self.store.session() as session:
            rows = session.execute(columns.group_by(Person.email, Submission.slug).order_by(last.desc()))
            return [(row[0], row[1], row[2], row[3]) for row in rows]

    def drop(self, person: int, slug: str) -> None:
        """Delete what someone sent of a paper.

        Parameters
        ----------
        person
            Number of the person.
        slug
            Name of the paper.
        """
        with self.store.session() as session:
            session.execute(delete(Submission).where(Submission.person_id == person, Submission.slug == slug))


def _plain(entry: Entry) -> dict[str, Any]:
    origin = entry.provenance
    machine = {name: origin.machine[name] for name in ("cpu", "cores", "system") if name in origin.machine}
    machine = {name: _short(value) if isinstance(value, str) else value for name, value in machine.items()}
    versions = {n: v for n, v in origin.versions.items() if re.fullmatch(_NAME, n) and re.fullmatch(_VERSION, v)}
    values = {
        name: {"value": v.value, "low": v.low, "high": v.high, "method": v.method[:120]}
        | ({"samples": list(v.samples)} if v.method.startswith(EACH) else {})
        for name, v in entry.values.items()
    }
    return {
        "kind": check_choice("kind", entry.kind, KINDS),
        "id": entry.id,
        "scale": entry.scale,
        "seeds": list(entry.seeds)[:256],
        "values": values,
        "unit": entry.unit,
        "level": entry.level,
        "digest": origin.digest,
        "revision": origin.revision,
        "date": origin.date,
        "versions": dict(list(versions.items())[:300]),
        "machine": machine,
        "python": _short(origin.python),
    }


def _decides(view: ClaimView) -> bool:
    return view.verdict in _DECIDED


def _short(text: str) -> str:
    """Return what a site takes of a text that the system said of itself."""
    return "".join(filter(str.isprintable, text))[:120]


def _finite(value: Value) -> bool:
    return all(math.isfinite(number) for number in (value.value, value.low, value.high) if number is not None)


def _entry(data: Mapping[str, Any]) -> Entry:
    """Return a checked entry as the rest of the house knows it."""
    origin = {name: data[name] for name in ("digest", "revision", "date", "versions", "machine", "python")}
    kept = {name: data[name] for name in ("kind", "id", "scale", "seeds", "values", "unit", "level")}
    provenance = {**origin, "engine": "", "threads": 0}
    return Entry.from_json({**kept, "outcome": "measured", "provenance": provenance})


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
