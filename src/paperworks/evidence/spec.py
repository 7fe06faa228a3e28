"""The order for one task: plain data, so that it travels to any process or machine."""

from pathlib import Path
from typing import TypedDict

from paperworks.core.code import PACKAGE
from paperworks.evidence.entry import Kind
from paperworks.evidence.record import Scale


class TaskSpec(TypedDict):
    """What to measure, how, and within which limits.

    `number` tells the tasks of a run apart. `folder` is the paper's, relative to the package where it
    lies inside, so that another machine's installation finds its own. `bars` are by the names of the values.
    `budget` is how many seconds of processor time may go into deciding what is undecided; the limits are of
    processor time, of time by the clock and of time without any work, in seconds, and of memory in bytes, None where
    there is none. `smoke` asks for the values at smoke scale, too. `code` is the digest of the package that the run
    itself stands on, empty where the task runs from the same files. `spool` is a folder to report progress in, empty
    where the task runs on another machine.
    """

    number: int
    slug: str
    folder: str
    kind: Kind
    id: str
    bars: dict[str, str]
    exclusive: bool
    scale: Scale
    seeds: list[int]
    engine: str
    threads: int
    budget: float
    time_limit: float | None
    wall_limit: float | None
    idle_limit: float
    memory_limit: int | None
    smoke: bool
    code: str
    spool: str


def portable_folder(folder: Path) -> str:
    """Give a paper's folder relative to the package where it lies inside, else absolute."""
    folder = folder.resolve()
    root = PACKAGE.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


def paper_folder(spec: TaskSpec) -> Path:
    """Return the paper's folder on this machine."""
    return PACKAGE / spec["folder"]


def claims_module(folder: str) -> str:
    """Return the name of the module of claims of a paper, from its folder as `portable_folder` gives it.

    Examples
    --------
    >>> claims_module("papers/dpm_solver")
    'paperworks.papers.dpm_solver.claims'
    """
    path = Path(folder)
    if not path.is_absolute():
        return ".".join(("paperworks", *path.parts, "claims"))
    parts = [path.name]
    while (path / "__init__.py").exists() and (path.parent / "__init__.py").exists():
        path = path.parent
        parts.insert(0, path.name)
    return ".".join((*parts, "claims"))
