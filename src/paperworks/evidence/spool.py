"""How far running tasks got: one small file per task, written by the task, read by the run."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a task got; `total` is None where the task doesn't know."""

    done: float = 0
    total: float | None = None
    label: str = ""


def write_progress(folder: Path, number: int, progress: Progress) -> None:
    """Tell the run how far task `number` got; readers see the file whole or not at all."""
    path = folder / f"{number}.json"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps([progress.done, progress.total, progress.label]), encoding="utf-8")
    os.replace(partial, path)


def read_progress(folder: Path) -> dict[int, Progress]:
    """Read how far every task got that has started."""
    return {int(path.stem): Progress(*json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")}


class ProgressWriter:
    """The `report` of a run, at most ten times a second."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._next = 0.0

    def __call__(self, done: float, total: float | None, label: str) -> None:
        """Report `done` of `total`."""
        now = time.monotonic()
        if now < self._next and done != total:
            return
        self._next = now + 0.1
        number = float if isinstance(done, float) else int
        write_progress(self.folder, self.number, Progress(number(done), None if total is None else float(total), label))
