"""Runs that an agent asks for: one at a time for each person, in a process that ends when nobody waits for it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream
from filelock import FileLock, Timeout

from paperworks.agents.answers import RunText
from paperworks.agents.reading import find, kind_of
from paperworks.agents.worker import Order
from paperworks.core.code import PACKAGE
from paperworks.evidence.errors import UsageError
from paperworks.evidence.store import check_writable, committed_folder, own_folder

Scale = Literal["smoke", "desk"]
Report = Callable[[float, float | None, str], Awaitable[None]]
"""Takes how many seconds a run has taken, how many it took last time, and what it is at."""
SECONDS: dict[Scale, int] = {"smoke": 120, "desk": 900}
"""Processor time that a run may take, by default and at most."""
_LOCK = ".agents.lock"
_LINE = 2**22  # bytes of the longest line that a run may say
_BEAT = 1.0  # seconds between two reports
_GRACE = 10.0  # seconds in which a run that is told to end may write what it has
_BY_THE_CLOCK = 4  # times its processor time, as the runner has it
_SPARE = 300.0  # seconds to start and to write


async def run_claim(slug: str, id: str, scale: Scale, seconds: int | None, report: Report) -> RunText:
    """Measure a claim or a race into the user's own evidence.

    Where this is cancelled, the run ends with all of its processes, and what was in the evidence stays there.

    Raises
    ------
    ValueError, LookupError
        Where there is no such paper or claim, a run is going on, or it can't be done here.
    """
    order = await anyio.to_thread.run_sync(_order, slug, id, scale, seconds)
    with _alone(Path(order["evidence"])), anyio.move_on_after(longest := _BY_THE_CLOCK * order["seconds"] + _SPARE):
        async with _started(order) as process:
            return await _followed(process, report)
    raise UsageError(f"{slug} {id} was not done within {longest:g} s and was stopped")


def _order(slug: str, id: str, scale: Scale, seconds: int | None) -> Order:
    paper = find(slug)
    if paper.planned:
        raise UsageError(f"{slug} is planned: nothing of it can be measured yet")
    kind = kind_of(paper, id)
    if not re.fullmatch(r"[\w.-]+", id):  # files of evidence are named by it
        raise UsageError(f"claim is {id[:80]!r}; one whose id is more than letters, digits, . and - is not run here")
    folder, committed = own_folder().absolute(), committed_folder()
    if folder.resolve().is_relative_to(committed.resolve()):
        raise UsageError(
            f"$PAPERWORKS_EVIDENCE leads into the committed evidence, {committed}; it takes another folder"
        )
    check_writable(folder)
    most = min(seconds or SECONDS[scale], SECONDS[scale])
    return Order(paper=slug, kind=kind, id=id, scale=scale, seconds=float(most), evidence=str(folder))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold other runs off, those of other servers too."""
    lock = FileLock(folder / _LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError("another run is going on, and one runs at a time; wait for it, or cancel it") from None
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def _started(order: Order) -> AsyncIterator[Process]:
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    process = await anyio.open_process(
        [sys.executable, "-P", "-m", "paperworks.agents.worker", json.dumps(order)],
        stdin=subprocess.PIPE,  # stays open as long as this process lives
        stdout=subprocess.PIPE,
        stderr=None,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # so that Ctrl-C reaches the server alone
    )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: Process) -> None:
    """Have a run end well, or at once where it doesn't; its tasks end with it."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(_GRACE):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()


async def _followed(process: Process, report: Report) -> RunText:
    """Report what a run says until it ends, at the latest every second."""
    assert process.stdout is not None
    started = time.monotonic()
    label, expected, last = "starting", 0.0, {"what": ""}

    async def beat() -> None:
        while True:
            elapsed = time.monotonic() - started
            await report(elapsed, expected if expected > elapsed else None, label)
            await anyio.sleep(_BEAT)

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        async for said in _lines(process.stdout):
            last = said
            if said["what"] in ("started", "progress"):
                expected, label = said["expected"], _label(said)
        group.cancel_scope.cancel()
    if last["what"] == "ended":
        return RunText.model_validate(last["result"])
    if last["what"] == "refused":
        raise UsageError(last["reason"])
    raise UsageError("the run was ended from outside before it had measured anything")


def _label(said: dict[str, Any]) -> str:
    of = f" of {said['total']:,.12g}" if said["total"] else ""
    count = f"{said['done']:,.12g}{of}" if said["done"] or of else ""
    return ": ".join(filter(None, [count, said["label"]]))[:200] or "measuring"


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[dict[str, Any]]:
    buffered = BufferedByteReceiveStream(stream)
    while True:
        try:
            yield json.loads(await buffered.receive_until(b"\n", _LINE))
        except (anyio.EndOfStream, anyio.IncompleteRead):
            return
