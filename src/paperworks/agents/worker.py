"""The process of a run that an agent asked for: `python -m paperworks.agents.worker ORDER`.

It says on its standard output what happens, a JSON object a line. SIGTERM ends the run as Ctrl-C does: what had
finished is in the evidence. When whoever started it is gone, it ends, and its tasks with it.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, TypedDict

from paperworks.agents.answers import run_text
from paperworks.core.processes import follow_parent
from paperworks.evidence.entry import Kind
from paperworks.evidence.errors import UsageError
from paperworks.evidence.events import Event
from paperworks.evidence.record import Scale
from paperworks.evidence.runner import DEFAULT_BUDGET, run_papers
from paperworks.papers import load, shelf

_FILE = 2**30  # bytes of a file that a run may write
_GRACE = 10  # seconds to end what runs when nobody waits for it


class Order(TypedDict):
    """What to measure, at which scale, and within how many seconds of processor time."""

    paper: str
    kind: Kind
    id: str
    scale: Scale
    seconds: float
    evidence: str


def main(order: Order) -> None:
    """Measure what is asked for into a person's own evidence."""
    follow_parent()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed goes to the log

    def tell(what: str, **more: Any) -> None:
        print(json.dumps({"what": what, **more}), file=told, flush=True)

    def follow(event: Event) -> None:
        got = event.progress
        tell(event.what, done=got.done, total=got.total, label=got.label, expected=event.expected)

    signal.signal(signal.SIGTERM, _interrupt)
    if sys.platform == "linux":  # where it would end at once, and leave behind what the task had moved out of its group
        signal.signal(signal.SIGIO, _orphaned)
    _limit_files()
    if os.environ.get(shelf.VARIABLE):
        shelf.make_importable()
    try:
        report = run_papers(
            [load(order["paper"])],
            kinds=[order["kind"]],
            ids=[order["id"]],
            scale=order["scale"],
            folder=Path(order["evidence"]),
            n_jobs=1,
            time_limit=order["seconds"],
            # Each look at an undecided bar may take twice as long as the one before it.
            budget=min(DEFAULT_BUDGET[order["scale"]], order["seconds"] / 4),
            on_event=follow,
        )
    except UsageError as error:
        tell("refused", reason=str(error))
    except KeyboardInterrupt:
        tell("interrupted")
    else:
        if report.views:
            tell("ended", result=run_text(report).model_dump(mode="json"))
        else:
            tell("interrupted")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _limit_files() -> None:
    """Have the system refuse files larger than any claim needs, such as the log of one that prints for ever."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE if hard == resource.RLIM_INFINITY else min(_FILE, hard), hard))


def _orphaned(number: int, frame: object) -> None:
    signal.alarm(_GRACE)  # which ends the process
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
