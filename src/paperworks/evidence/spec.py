"""The order for one task: plain data, so that it travels to any process or machine."""

from pathlib import Path
from typing import TypedDict

from paperworks.evidence.entry import Kind
from paperworks.evidence.provenance import PACKAGE
from paperworks.evidence.record import Scale


class TaskSpec(TypedDict):
    """What to measure, how, and within which limits.

    `number` tells the tasks of a run apart. `folder` is the paper's, relative to the package where it
    lies inside, so that another machine's installation finds its own. `package` is the peer's, empty
    for a claim. `time_limit` is in seconds, `memory_limit` in bytes, None where there is none.
    `spool` is a folder to report progress in, empty where the task runs on another machine.
    """

    number: int
    slug: str
    folder: str
    kind: Kind
    id: str
    package: str
    exclusive: bool
    scale: Scale
    seeds: list[int]
    engine: str
    threads: int
    time_limit: float | None
    memory_limit: int | None
    spool: str


def portable_folder(folder: Path) -> str:
    """Give a paper's folder relative to the package where it lies inside, else absolute."""
    folder = folder.resolve()
    root = PACKAGE.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


def paper_folder(spec: TaskSpec) -> Path:
    """Return the paper's folder on this machine."""
    return PACKAGE / spec["folder"]


def claims_module(spec: TaskSpec) -> str:
    """Return the name of the paper's module of claims."""
    folder = Path(spec["folder"])
    parts = (folder.name,) if folder.is_absolute() else ("paperworks", *folder.parts)
    return ".".join((*parts, "claims"))
