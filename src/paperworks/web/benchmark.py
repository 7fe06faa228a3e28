"""The site under load: many readers at once, each asking for the next page as soon as it has one."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paperworks.core.validation import check_count
from paperworks.evidence.benchmark import Benchmark, Figure

PAGES = ("/", "/?page=2", "/trending/week", "/fields/diffusion", "/paper/dpm-solver", "/paper/ptq4dm", "/paper/pndm")


@dataclass
class Readers:
    """What some readers got: the seconds of each answer, and what went wrong."""

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def benchmark_site(readers: int = 200, seconds: float = 60.0) -> Benchmark:
    """Measure how long readers wait for list and paper pages of a site on this machine, beside which they run.

    Parameters
    ----------
    readers
        How many, each with a connection of its own and without pause.
    seconds
        How long.

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
        finally:
            server.terminate()
            server.wait()
    p50, p95 = np.percentile(got.times, [50, 95]) * 1e3
    return Benchmark(
        "site",
        "The site under load",
        f"{readers} readers at once for {seconds:g} s, without pause, of lists and papers; both on one machine.",
        (
            Figure("first start", start, "s", "< 2"),
            Figure("answers", len(got.times) / seconds, "1/s"),
            Figure("wait for a page, p50", float(p50), "ms"),
            Figure("wait for a page, p95", float(p95), "ms", "< 250"),
            Figure("errors", len(got.errors), "", "== 0"),
        ),
        note="; ".join(sorted(set(got.errors))[:5]),
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
    await asyncio.gather(*(_read(port, i, until, got) for i in range(readers)))
    return got


async def _read(port: int, number: int, until: float, got: Readers) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            number += 1
            begin = time.perf_counter()
            writer.write(f"GET {PAGES[number % len(PAGES)]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            got.times.append(time.perf_counter() - begin)
            if b" 200 " not in head[:20]:
                got.errors.append(head[:40].decode(errors="replace").splitlines()[0])
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        got.errors.append(f"{type(error).__name__}: {error}"[:200])
