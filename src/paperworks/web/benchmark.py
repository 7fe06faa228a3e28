"""The site under load: many readers at once, each asking for the next page as soon as it has one."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np

from paperworks.core.validation import check_count
from paperworks.evidence.benchmark import Benchmark, Figure

LISTS = ("/", "/?page=2", "/trending/week", "/fields/diffusion")
PAGES = ("/", "/?page=2", "/trending/week", "/fields/diffusion", "/paper/dpm-solver", "/paper/ptq4dm", "/paper/pndm")


@dataclass
class Readers:
    """What some readers got: the seconds of each answer, and what went wrong."""

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def benchmark_site(readers: int = 200, seconds: float = 60.0, searching: int = 100) -> Benchmark:
    """Measure how long readers wait for list and paper pages of a site on this machine, beside which they run.

    First all of them read. Then ten read lists, alone and beside others who search for something else each time.

    Parameters
    ----------
    readers
        How many, each with a connection of its own and without pause.
    seconds
        How long each part takes.
    searching
        How many search.

    Raises
    ------
    ValueError
        For no readers.
    RuntimeError
        Where the site doesn't start.
    """
    check_count("readers", readers)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "paperworks", "serve", "--port", str(port), "--no-meaning"]
        environment = {**os.environ, "PAPERWORKS_FEED": str(Path(folder) / "feed.db")}
        begin = time.perf_counter()
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port, server)
            start = time.perf_counter() - begin
            got = asyncio.run(_read_all(port, readers, seconds))
            alone, _ = asyncio.run(_beside(port, 0, seconds))
            lists, searches = asyncio.run(_beside(port, searching, seconds))
        finally:
            server.terminate()
            server.wait()
    p50, p95 = np.percentile(got.times, [50, 95]) * 1e3
    unloaded, loaded, found = (float(np.percentile(part.times, 95)) * 1e3 for part in (alone, lists, searches))
    errors = [*got.errors, *alone.errors, *lists.errors, *searches.errors]
    return Benchmark(
        "site",
        "The site under load",
        f"{readers} readers at once for {seconds:g} s, without pause, of lists and papers; both on one machine.",
        (
            Figure("first start", start, "s", "< 2"),
            Figure("answers", len(got.times) / seconds, "1/s"),
            Figure("wait for a page, p50", float(p50), "ms"),
            Figure("wait for a page, p95", float(p95), "ms", "< 250"),
            Figure("wait of ten for a list, p95", unloaded, "ms"),
            Figure(f"beside {searching} who search, p95", loaded, "ms"),
            Figure("the latter / the former", loaded / unloaded, "", "< 5"),
            Figure("searches", len(searches.times) / seconds, "1/s"),
            Figure("wait for a search, p95", found, "ms"),
            Figure("errors", len(errors), "", "== 0"),
        ),
        note="; ".join(sorted(set(errors))[:5]),
    )


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the site didn't start")


async def _read_all(port: int, readers: int, seconds: float) -> Readers:
    got = Readers()
    until = time.perf_counter() + seconds
    await asyncio.gather(
        *(_read(port, (PAGES[(i + k) % len(PAGES)] for k in count()), until, got) for i in range(readers))
    )
    return got


async def _beside(port: int, searching: int, seconds: float) -> tuple[Readers, Readers]:
    """Return what ten readers of lists got, and those who search beside them."""
    lists, searches = Readers(), Readers([0.0] if not searching else [])
    until = time.perf_counter() + seconds
    read = (_read(port, _turns(LISTS, i), until, lists) for i in range(10))
    asked = (map(f"/search?q=noise+{i}+sampling+{{}}".format, count()) for i in range(searching))
    await asyncio.gather(*read, *(_read(port, paths, until, searches) for paths in asked))
    return lists, searches


def _turns(paths: Sequence[str], start: int) -> Iterator[str]:
    return islice(cycle(paths), start % len(paths), None)


async def _read(port: int, paths: Iterator[str], until: float, got: Readers) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            begin = time.perf_counter()
            writer.write(f"GET {next(paths)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            got.times.append(time.perf_counter() - begin)
            if b" 200 " not in head[:20]:
                got.errors.append(head[:40].decode(errors="replace").splitlines()[0])
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        got.errors.append(f"{type(error).__name__}: {error}"[:200])
