"""What happens in a run, as those who watch it are told."""

from dataclasses import dataclass
from typing import Literal

from paperworks.evidence.entry import Kind
from paperworks.evidence.spool import Progress
from paperworks.evidence.views import ClaimView

Happening = Literal["planned", "started", "progress", "finished"]
NOTHING_DONE = Progress()


@dataclass(frozen=True)
class TaskName:
    """A claim or peer of a paper.

    Parameters
    ----------
    slug
        Name of the paper.
    kind
        Whether it is a claim or a race.
    id
        Name of the claim or peer within its paper.
    """

    slug: str
    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.slug} {self.id}" if self.kind == "claim" else f"{self.slug} race {self.id}"


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    `what` is "planned" (once for each task, before the first starts), "started", "progress" or
    "finished"; `view` comes with "finished", and `resumed` tells that it was measured before. `expected` is how many
    seconds the task took when it was last measured, 0 where that isn't known.

    Parameters
    ----------
    what
        "planned" (once for each task, before the first starts), "started", "progress" or "finished".
    task
        The claim or race that it happened to.
    progress
        How far the task got, and what it is at.
    view
        The claim as a reader sees it; None but with "finished".
    resumed
        Whether it was measured before this run.
    expected
        Seconds that the task took when it was last measured, 0 where that isn't known.
    """

    what: Happening
    task: TaskName
    progress: Progress = NOTHING_DONE
    view: ClaimView | None = None
    resumed: bool = False
    expected: float = 0.0
