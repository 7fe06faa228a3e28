"""Real processes that talk by gloo, started for one function and always ended."""

import multiprocessing
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

MODULES = ["torch", "torch.distributed", "paperworks.optimization.compression.hook"]


def in_processes(
    function: Callable[..., Any], world: int, *arguments: Any, timeout: float = 120.0, may_die: bool = False
) -> list[Any]:
    """Run `function(rank, *arguments)` in processes of one group, and return what each returned.

    A process that died has None, where that may be; otherwise its death is a RuntimeError, and so is what a function
    raised, or too long a time. No process outlives the call.
    """
    context: Any
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)  # imported once, for all processes that are ever started
    else:
        context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(function, rank, world, str(Path(folder, "rendezvous")), theirs, timeout, arguments),
                daemon=True,
            )
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        try:
            return _collected(ends, time.monotonic() + timeout, may_die)
        finally:
            for process in processes:
                process.join(1.0)
                process.kill()
                process.join()


def _collected(ends: list[Connection], deadline: float, may_die: bool) -> list[Any]:
    results: dict[Any, Any] = {}
    while len(results) < len(ends):
        left = [end for end in ends if end not in results]
        ready = wait(left, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"{len(left)} of {len(ends)} processes didn't end in time")
        for end in ready:
            try:
                good, results[end] = pickle.loads(end.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                good, results[end] = may_die, None if may_die else "it died"
            if not good:
                raise RuntimeError(f"a process of the group failed: {results[end]}")
    return [results[end] for end in ends]


def _work(
    function: Callable[..., Any], rank: int, world: int, file: str, end: Connection, timeout: float, arguments: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{file}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
        )
        answer = True, function(rank, *arguments)
    except Exception:
        answer = False, traceback.format_exc()
    end.send_bytes(pickle.dumps(answer))  # by value: shared memory would go with the process
    end.close()
    if dist.is_initialized() and answer[0]:
        dist.destroy_process_group()
