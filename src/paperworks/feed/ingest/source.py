"""What every source of papers is, and how one is read into the store: in steps that each are whole."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from paperworks.feed.entry import Entry, MalformedEntry
from paperworks.feed.ingest.http import SourceError
from paperworks.feed.schema import Harvest
from paperworks.feed.store import Added, FeedStore

T = TypeVar("T")
BATCH = 4000
SHOWN = 20
"""How many of the records that were refused are kept with their reasons."""


@dataclass
class Batch:
    """Some papers of a source, what was refused, what else to say, and the state from which to go on after them."""

    entries: list[Entry] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    def take(self, where: str, record: T, read: Callable[[T], Entry]) -> None:
        """Add a record, or the reason why it can't be one."""
        try:
            self.entries.append(read(record))
        except (MalformedEntry, KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            self.refused.append(f"{where}: {reason}")
        except RecursionError:
            self.refused.append(f"{where}: it is nested too deeply")


@runtime_checkable
class Source(Protocol):
    """A place that papers come from. `name` is what its state is kept under."""

    name: str

    def batches(self, state: dict[str, Any]) -> Iterator[Batch]:
        """Give the papers after `state`, which is empty at first."""
        ...


@dataclass
class Ingested:
    """What an ingest did: papers new, changed and known as they are, how many records were refused, why, and notes."""

    new: int = 0
    changed: int = 0
    same: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.new} new, {self.changed} changed, {self.same} known, {self.refused} refused"


class Incomplete(SourceError):
    """An ingest that broke off after a part; `done` is that part, and the next ingest goes on after it."""

    def __init__(self, done: Ingested, error: SourceError) -> None:
        super().__init__(f"{done}; then it broke off, and the next ingest goes on there: {error}")
        self.done = done


def ingest(
    store: FeedStore, source: Source, *, restart: bool = False, progress: Callable[[Ingested], None] = lambda done: None
) -> Ingested:
    """Read a source into the store, from where its last ingest ended.

    A batch and the state after it are written in one transaction: wherever an ingest is stopped, the next one goes on
    from a whole batch, and nothing is there twice. A record that can't be read is counted, and the rest goes on.

    Parameters
    ----------
    store, source
        Where to, and where from.
    restart
        Read from the beginning, whatever was read before.
    progress
        Called after each batch.

    Raises
    ------
    SourceError
        Where the source can't be read.
    Incomplete
        Where that happens after some batches; what was read is kept.

    Examples
    --------
    >>> class One:
    ...     name = "one"
    ...     def batches(self, state):
    ...         yield Batch([Entry(title="On Sampling")], ["record 2: title is empty"])
    >>> print(ingest(FeedStore("sqlite://"), One()))
    1 new, 0 changed, 0 known, 1 refused
    """
    done = Ingested()
    with store.session() as session:
        kept = session.get(Harvest, source.name)
        state = dict(kept.state) if kept and not restart else {}
    some = False
    try:
        for batch in source.batches(state):
            added = store.add(batch.entries, state=(source.name, batch.state) if batch.state else None)
            _count(done, added, batch)
            some = True
            progress(done)
    except SourceError as error:
        if some:
            raise Incomplete(done, error) from error
        raise
    return done


def _count(done: Ingested, added: Added, batch: Batch) -> None:
    done.new += added.new
    done.changed += added.changed
    done.same += added.same
    done.refused += len(batch.refused)
    done.reasons += batch.refused[: max(0, SHOWN - len(done.reasons))]
    done.notes += batch.notes[: max(0, SHOWN - len(done.notes))]


def in_batches(records: Iterable[tuple[str, T]], read: Callable[[T], Entry], size: int = BATCH) -> Iterator[Batch]:
    """Give records, each with where it stands, as batches."""
    batch = Batch()
    for count, (where, record) in enumerate(records, 1):
        batch.take(where, record, read)
        if count % size == 0:
            yield batch
            batch = Batch()
    yield batch
