import json
import os
import re
import signal
import subprocess
import sys

import anyio
import httpx
import pytest
from mcp import Client

from paperworks.agents.transports import loopback

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
FIRST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def address():
    """Serve by HTTP on a free port, and give the address."""
    command = [sys.executable, "-m", "paperworks", "mcp", "--http", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        line = server.stderr.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/mcp", line)[0]
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=30)
    assert out == ""
    assert "Traceback" not in err


def test_clients_are_served_by_http(address):
    async def main():
        async with Client(address) as client:
            found = await client.call_tool("search_papers", {"words": "diffusion", "limit": 1})
            wrong = await client.call_tool("show_paper", {"paper": "../x"})
            return found, wrong

    found, wrong = anyio.run(main)
    assert found.structured_content["papers"]
    assert wrong.is_error


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{here}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:{port}"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
def test_only_requests_of_this_machine_s_own_name_are_answered(address, headers, status):
    here = address.removesuffix("/mcp")
    given = {name: text.format(here=here, port=here.rpartition(":")[2]) for name, text in headers.items()}
    content = json.dumps(FIRST)
    answer = httpx.post(address, content=content, headers={"Content-Type": "application/json", **ACCEPT, **given})
    assert answer.status_code == status


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b'{"jsonrpc": "2.0"}', b"\xff", b" " * 300_000])
def test_what_is_no_request_is_refused(address, content):
    answer = httpx.post(address, content=content, headers={"Content-Type": "application/json", **ACCEPT})
    assert 400 <= answer.status_code < 500
    assert "Traceback" not in answer.text
    assert httpx.post(address, json=FIRST, headers=ACCEPT).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "localhost.evil.example", "", "127.1"])
def test_other_machines_are_never_served(host):
    with pytest.raises(ValueError, match="it takes a loopback address"):
        loopback(host)
    command = [sys.executable, "-m", "paperworks", "mcp", "--http", "--port", "0", f"--host={host}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60) if host == "0.0.0.0" else None
    assert run is None or (run.returncode, run.stderr.startswith("Error: host is '0.0.0.0'")) == (2, True)


def test_nothing_but_messages_is_on_standard_output():
    lines = [FIRST, {"jsonrpc": "2.0", "method": "notifications/initialized"}, "no JSON", {**CALL, "id": 2}]
    run = subprocess.run(
        [sys.executable, "-m", "paperworks", "mcp"],
        input="".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "always"},
    )
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0
    assert said[0]["result"]["serverInfo"]["name"] == "paperworks"
    assert all(message["jsonrpc"] == "2.0" for message in said)


@pytest.mark.skipif(sys.platform != "linux", reason="others have but one such address until told so")
def test_another_loopback_address_answers_to_its_own_name():
    command = [sys.executable, "-m", "paperworks", "mcp", "--http", "--port", "0", "--host", "127.0.0.2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://127\.0\.0\.2:\d+/mcp", server.stderr.readline())[0]
        assert httpx.post(address, json=FIRST, headers=ACCEPT).status_code == 200
        assert httpx.post(address, json=FIRST, headers={**ACCEPT, "Host": "evil.example"}).status_code == 421
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
