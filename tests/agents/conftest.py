import json

import anyio
import psutil
import pytest
from mcp import Client

from paperworks.agents import create_server
from paperworks.papers import load

RECORD = """
title = "A Paper of <b>Tests</b>"
arxiv = "2401.00001"
year = 2024
authors = ["Ann Author"]
field = "testing"
summary = "It is measured quickly."
methods = ["paperworks.diffusion.DPMSolver"]
tags = ["testing"]
"""
CLAIM = """
[[claims]]
id = "{id}"
says = "says {id}"
reported = "1"
measure = "by counting"
bar = "== 1"
scale = "smoke"
"""
PEER = """
[[peers]]
id = "numpy"
package = "numpy"
says = "time, ours / numpy's"
bar = "<= 1"
scale = "smoke"
"""
CLAIMS = """
import os, time
from pathlib import Path

from paperworks.evidence import Measurement, exact, measures, races


@measures("c1-quick")
def quick(run):
    print("a line that no client may see")
    figure, axes = run.figure()
    axes.plot([1, 2])
    return Measurement(exact(1.0), figure=figure)


@measures("c2-endless")
def endless(run):
    Path(os.environ["ENDLESS_PID"]).write_text(str(os.getpid()))
    for _ in run.progress(range(10**6), label="counting"):
        time.sleep(0.05)


@measures("c3-greedy")
def greedy(run):
    while True:
        pass


@measures("c4-broken")
def broken(run):
    raise RuntimeError("a message of its own")


@measures("c5-apart")
def apart(run):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(os.environ["ENDLESS_PID"]).write_text(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    endless_sleep()


def endless_sleep():
    while True:
        time.sleep(0.01)


@measures("c6-large-file")
def large_file(run):
    with open("large", "wb") as file:
        file.truncate(2**31)
    return Measurement(exact(1.0))


@measures("c7-many-values")
def many_values(run):
    return Measurement({f"v{number}": exact(1.0) for number in range(5000)})


@races("numpy")
def race(run):
    return Measurement(exact(0.5), settings="as it comes")
"""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Make a paper of a folder, `tested-paper`, beside all others; and a folder for the user's evidence."""
    folder = tmp_path / "shelf" / "tested_paper"
    folder.mkdir(parents=True)
    ids = ("c1-quick", "c2-endless", "c3-greedy", "c4-broken", "c5-apart", "c6-large-file", "c7-many-values")
    (folder / "paper.toml").write_text(RECORD + "".join(CLAIM.format(id=id) for id in ids) + PEER)
    (folder / "claims.py").write_text(CLAIMS)
    (folder / "usage.py").write_text("print('used')\n")
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(folder.parent))
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path / "evidence"))
    monkeypatch.setenv("ENDLESS_PID", str(tmp_path / "pid"))
    load.cache_clear()
    yield tmp_path
    load.cache_clear()


class Asked:
    """A client that a test asks without waiting on its own."""

    def __init__(self, make):
        self.make = make

    def __call__(self, *calls):
        """Call tools one after the other, each as (name, arguments); return the results."""

        async def main():
            async with self.make() as client:
                return [await client.call_tool(name, arguments) for name, arguments in calls]

        return anyio.run(main)

    def do(self, action):
        """Return what an asynchronous function of the client does."""

        async def main():
            async with self.make() as client:
                return await action(client)

        return anyio.run(main)


@pytest.fixture
def ask():
    """Ask a server in this process."""
    return Asked(lambda: Client(create_server()))


@pytest.fixture(scope="session")
def told():
    """Read the one sentence of an error."""

    def read(result):
        assert result.is_error
        (content,) = result.content
        assert "\n" not in content.text
        assert "Traceback" not in content.text
        assert len(content.text) <= 500
        return content.text

    return read


@pytest.fixture(scope="session")
def ended():
    """Wait until a process is gone, which another one kills."""

    async def wait(pid):
        with anyio.fail_after(120):
            while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await anyio.sleep(0.05)

    return wait


@pytest.fixture
def history(paper):
    """Read the ids that the user's evidence of the paper has measured."""

    def read():
        path = paper / "evidence" / "tested-paper" / "history.jsonl"
        return [json.loads(line)["id"] for line in path.read_text().splitlines()] if path.exists() else []

    return read
