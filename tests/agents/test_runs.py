import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import httpx
import pytest
from filelock import FileLock
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from paperworks.agents import create_server
from paperworks.evidence import store, supervisor

ROOT = Path(__file__).parents[2]
RUN = {"paper": "tested-paper", "scale": "smoke"}
FIRST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
TRANSPORTS = ("memory", "stdio")


@pytest.fixture
def connect(paper):
    """Connect to a server, in this process or in one of its own."""

    def client(transport):
        if transport == "memory":
            return Client(create_server(), mode="legacy")
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "paperworks", "mcp"], env=dict(os.environ), cwd=paper
        )
        return Client(stdio_client(command))

    return client


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_claim_is_measured_with_progress_into_the_own_evidence(connect, paper, history, transport):
    told = []
    before = [snapshot(ROOT / name) for name in ("src", "evidence", "docs", "tests")]

    async def progress(done, total, message):
        told.append((done, message))

    async def main():
        async with connect(transport) as client:
            found = await client.call_tool("run_claim", {**RUN, "claim": "c1-quick"}, progress_callback=progress)
            raced = await client.call_tool("run_claim", {**RUN, "claim": "numpy"})
            seen = {"paper": "tested-paper", "claim": "c1-quick", "whose": "own", "figure": True}
            return found, raced, await client.call_tool("read_evidence", seen)

    found, raced, read = anyio.run(main)
    result = found.structured_content
    assert result["claim"]["verdict"] == "holds", result["traceback"]
    assert result["numbers"][0]["value"] == 1.0
    assert result["evidence"] == str(paper / "evidence")
    assert [number for number, _ in told] == sorted({number for number, _ in told})
    assert told[0][1] == "starting"
    assert (raced.structured_content["claim"]["kind"], raced.structured_content["claim"]["verdict"]) == (
        "race",
        "holds",
    )
    assert history() == ["c1-quick", "numpy"]
    assert [content.type for content in read.content] == ["text", "image"]
    assert read.structured_content["history"][0]["outcome"] == "measured"
    assert [snapshot(ROOT / name) for name in ("src", "evidence", "docs", "tests")] == before
    assert {path.name for path in (paper / "evidence").iterdir()} == {".agents.lock", ".lock", "tested-paper"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cancelled_run_ends_with_its_processes_and_loses_nothing(connect, paper, history, ended, transport):
    pid = paper / "pid"

    async def main():
        async with connect(transport) as client:
            await client.call_tool("run_claim", {**RUN, "claim": "c1-quick"})
            heard = anyio.Event()

            async def progress(done, total, message):
                if "counting" in message:
                    heard.set()

            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "run_claim", {**RUN, "claim": "c2-endless"}, None, progress)
                with anyio.fail_after(300):
                    await heard.wait()
                group.cancel_scope.cancel()
            await ended(int(pid.read_text()))
            with anyio.fail_after(300):  # until the server, too, is through with it
                while (again := await client.call_tool("run_claim", {**RUN, "claim": "c1-quick"})).is_error:
                    assert "one runs at a time" in again.content[0].text
                    await anyio.sleep(0.1)

    anyio.run(main)
    assert history() == ["c1-quick"]


def test_a_run_ends_with_its_server(connect, paper, ended):
    async def main():
        with anyio.move_on_after(300):
            async with connect("stdio") as client, anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "run_claim", {**RUN, "claim": "c2-endless"})
                while not ((paper / "pid").exists() and (paper / "pid").read_text()):
                    await anyio.sleep(0.05)
                group.cancel_scope.cancel()
        await ended(int((paper / "pid").read_text()))

    anyio.run(main)


def test_one_run_at_a_time_whoever_asks(ask, told, paper):
    (paper / "evidence").mkdir()
    with FileLock(paper / "evidence" / ".agents.lock"):
        (result,) = ask(("run_claim", {**RUN, "claim": "c1-quick"}))
    assert told(result) == "another run is going on, and one runs at a time; wait for it, or cancel it"


def test_what_takes_too_long_is_stopped_and_what_breaks_is_told(ask, paper, history):
    slow, broken = ask(
        ("run_claim", {**RUN, "claim": "c3-greedy", "seconds": 5}), ("run_claim", {**RUN, "claim": "c4-broken"})
    )
    claim = slow.structured_content["claim"]
    assert claim["verdict"] == "stopped"
    assert claim["detail"].startswith(("too slow here: not done within 5 s", "too slow here: not done within 20 s"))
    claim = broken.structured_content["claim"]
    assert (claim["verdict"], claim["detail"]) == ("error", "RuntimeError: a message of its own")
    assert str(paper) not in broken.content[0].text.replace(str(paper / "evidence"), "")
    assert history() == ["c3-greedy", "c4-broken"]


def test_nothing_is_written_into_the_committed_evidence(ask, told, paper, monkeypatch):
    for folder in (store.committed_folder(), store.committed_folder() / "deeper"):
        monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(folder))
        (result,) = ask(("run_claim", {**RUN, "claim": "c1-quick"}))
        assert "$PAPERWORKS_EVIDENCE leads into the committed evidence" in told(result)
    assert not (store.committed_folder() / "deeper").exists()
    assert not (store.committed_folder() / "tested-paper").exists()


def test_a_folder_that_can_t_be_written_is_told(ask, told, paper, monkeypatch):
    (paper / "file").write_text("")
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(paper / "file"))
    (result,) = ask(("run_claim", {**RUN, "claim": "c1-quick"}))
    assert "evidence can't be written to" in told(result)


def test_a_client_that_goes_ends_its_run_over_http_too(paper, ended):
    pid, url = paper / "pid", ""
    command = [sys.executable, "-m", "paperworks", "mcp", "--http", "--port", "0"]
    call = {"name": "run_claim", "arguments": {**RUN, "claim": "c2-endless"}, "_meta": {"progressToken": 1}}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        url = re.search(r"http://\S+/mcp", server.stderr.readline())[0]
        headers = {"Accept": "application/json, text/event-stream"}
        first = httpx.post(url, json=FIRST, headers=headers)
        headers["mcp-session-id"] = first.headers["mcp-session-id"]
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        with httpx.stream("POST", url, json=message, headers=headers, timeout=300) as answer:
            next(line for line in answer.iter_lines() if "counting" in line)
        anyio.run(ended, int(pid.read_text()))
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="processes elsewhere are ended by their group alone")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
def test_what_a_task_moved_out_of_its_group_ends_with_the_server(paper, ended, end):
    call = {"name": "run_claim", "arguments": {**RUN, "claim": "c5-apart"}}
    with subprocess.Popen(
        [sys.executable, "-m", "paperworks", "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        for message in (FIRST, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}):
            print(json.dumps(message), file=server.stdin, flush=True)
        pid = paper / "pid"
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        server.send_signal(getattr(signal, end))
        anyio.run(ended, int(pid.read_text()))


def test_one_that_prints_for_ever_fills_neither_disk_nor_memory(ask, paper, monkeypatch):
    monkeypatch.setattr(supervisor, "_TAIL", 100)
    log = paper / "output.txt"
    with log.open("wb") as file:
        file.truncate(2**40)  # of which nothing is on the disk
        file.seek(0, 2)
        file.write(b"the end")
    assert supervisor._tail(log, {"folder": str(paper)}).endswith("the end")
    (result,) = ask(("run_claim", {**RUN, "claim": "c6-large-file"}))
    assert result.structured_content["claim"]["detail"].endswith("File too large")


def test_a_record_that_is_edited_is_read_anew(ask, paper):
    record = paper / "shelf" / "tested_paper" / "paper.toml"

    async def edited(client):
        before = await client.call_tool("show_paper", {"paper": "tested-paper"})
        record.write_text(record.read_text().replace("says c1-quick", "says something else"))
        return before, await client.call_tool("show_paper", {"paper": "tested-paper"})

    before, after = ask.do(edited)
    said = [result.structured_content["claims"][0]["says"] for result in (before, after)]
    assert said == ["says c1-quick", "says something else"]


def test_an_answer_has_room_for_any_number_of_values(ask, paper):
    (result,) = ask(("run_claim", {**RUN, "claim": "c7-many-values"}))
    assert len(result.structured_content["numbers"]) == 40
    assert len(result.content[0].text) < 60_000
