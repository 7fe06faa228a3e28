import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import uvicorn

from mail_server import free_port
from paperworks.feed import Entry
from paperworks.web import Settings, create_app, protection, server
from paperworks.web.cache import MomentCache, remembering
from paperworks.web.work import Busy, Work
from site_visitor import HOME, embed


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Serve the site as the command does, with time limits that a test can wait for, and give where."""
    for module, name, seconds in (
        (server, "REQUEST_SECONDS", 1.0),
        (server, "_LOOK", 0.1),
        (protection, "BODY_SECONDS", 0.5),
    ):
        monkeypatch.setattr(module, name, seconds)
    app = create_app(Settings(base_url=HOME, feed=str(tmp_path / "feed.db"), meaning=False), embed=embed)
    port = free_port()
    running = uvicorn.Server(server.config(app, "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield "127.0.0.1", port
    running.should_exit = True
    thread.join(20)


def ask(address, head, body=b"", *, timeout=10.0):
    """Send a request as it is, and return all that comes until the server closes."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(head.replace(b"\n", b"\r\n") + body)
        return rest_of(connection)


def rest_of(connection):
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


GET = b"GET /about HTTP/1.1\nHost: localhost\nConnection: close\n"
POST = b"POST /sign-in HTTP/1.1\nHost: localhost\nContent-Length: 1000\n"


class TestPatience:
    def test_a_body_that_does_not_come_is_not_waited_for(self, address):
        assert b" 408 " in ask(address, POST + b"\n", b"email=")[:20]

    @pytest.mark.parametrize("head", [b"", b"GET /about HTTP/1.1\nHost: local"])
    def test_a_head_that_does_not_come_is_not_waited_for(self, address, head):
        begin = time.monotonic()
        assert ask(address, head) == b""
        assert time.monotonic() - begin < 8

    def test_a_request_that_comes_drop_by_drop_is_not_waited_for(self, address):
        with socket.create_connection(address, timeout=10) as connection, pytest.raises(OSError):  # noqa: PT011, PT012
            for _ in range(100):
                connection.sendall(b"G")
                time.sleep(0.1)

    def test_a_second_request_has_its_time_as_the_first(self, address):
        with socket.create_connection(address, timeout=10) as connection:
            for _ in range(2):
                connection.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 200 " in connection.recv(65536)[:20]
                time.sleep(0.8)
            connection.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: ")
            assert rest_of(connection) == b""

    @pytest.mark.parametrize(
        "head",
        [
            GET + b"X: " + b"x" * 40_000 + b"\n\n",
            GET + b"X: y\n" * 8_000 + b"\n",
            b"GET /" + b"x" * 40_000 + b" HTTP/1.1\nHost: localhost\n\n",
            GET + b"X: " + b"x" * 10_000_000,
        ],
    )
    def test_a_head_that_is_too_long_is_refused(self, address, head):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # where it hung up before it had all of it
            assert ask(address, head)[:12] in (b"HTTP/1.1 400", b"")

    def test_stalled_writers_keep_nobody_from_reading(self, address):
        stalled = [socket.create_connection(address, timeout=10) for _ in range(400)]
        try:
            for connection in stalled:
                connection.sendall(POST.replace(b"\n", b"\r\n") + b"\r\nemail=")
            assert b" 200 " in ask(address, GET + b"\n")[:20]
            assert all(rest_of(connection)[:12] in (b"HTTP/1.1 408", b"") for connection in stalled)
        finally:
            for connection in stalled:
                connection.close()

    @pytest.mark.parametrize(
        "head",
        [
            b"POST /sign-in HTTP/1.1\nHost: localhost\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n",
            b"POST /sign-in HTTP/1.1\nHost: localhost\nContent-Length: -5\n\n",
            b"GET /about HTTP/1.1\nHost: evil.example\nConnection: close\n\n",
            b"GET http://evil.example/about HTTP/1.1\nHost: localhost\r\rX: y\n\n",
            b"nonsense\n\n",
        ],
    )
    def test_requests_that_are_none_are_refused(self, address, head):
        assert ask(address, head)[:12] == b"HTTP/1.1 400"


PATHS = ("/", "/newest.atom", "/trending/week.rss", "/search.atom?q=noise", "/search?q=noise", "/paper/dpm-solver")
PATHS += ("/paper/dpm-solver.bib", "/api/papers", "/api/search?q=noise", "/api/papers/dpm-solver", "/api/results")


class TestConditional:
    @pytest.mark.parametrize("path", PATHS)
    def test_what_is_known_is_not_given_again(self, client, path):
        first = client.get(path)
        assert first.status_code == 200
        tag, moment = first.headers["etag"], first.headers["last-modified"]
        for headers in (
            {"If-None-Match": tag},
            {"If-None-Match": f'"other", W/{tag}'},
            {"If-None-Match": "*"},
            {"If-Modified-Since": moment},
            {"If-Modified-Since": format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)},
        ):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.content) == (304, b""), headers
            assert answer.headers["etag"] == tag
        for headers in (
            {"If-None-Match": '"other"'},
            {"If-None-Match": '"other"', "If-Modified-Since": moment},
            {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
            {"If-Modified-Since": "yesterday"},
        ):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.headers["etag"]) == (200, tag), headers

    def test_what_changed_is_given(self, client, site):
        site._pages.seconds = 0.0
        before = client.get("/newest.atom").headers["etag"]
        site.store.add([Entry(title="Something new", published=datetime.now(UTC))])
        answer = client.get("/newest.atom", headers={"If-None-Match": before})
        assert answer.status_code == 200
        assert "Something new" in answer.text

    @pytest.mark.parametrize("path", [*PATHS, "/about", "/sign-in", "/robots.txt", "/static/style.css", "/api/fields"])
    def test_head_is_get_without_the_body(self, client, path):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "content-security-policy"):
            if name != "content-length" or path != "/sign-in":  # whose form is new each time
                assert head.headers.get(name) == get.headers.get(name), name
        assert client.head("/nowhere").status_code == 404


class TestWork:
    def test_one_client_s_work_does_not_keep_another_waiting(self):
        work = Work(at_once=2, each=1)
        order, running, most = [], [], []

        def do(who):
            running.append(who)
            most.append((len(running), max(map(running.count, running))))
            time.sleep(0.01)
            running.remove(who)
            order.append(who)

        async def all_at_once():
            await asyncio.gather(*(work.run(who, lambda who=who: do(who)) for who in ["a"] * 20 + ["b", "c"]))

        asyncio.run(all_at_once())
        assert max(most) == (2, 1)
        assert len(order) == 22
        assert set(order[:8]) == {"a", "b", "c"}
        assert not work._running
        assert not work._waiting

    def test_too_many_that_wait_are_told_so(self, monkeypatch):
        monkeypatch.setattr("paperworks.web.work.MOST_WAITING", 3)
        work = Work(at_once=1, each=1)

        async def all_at_once():
            waiting = (work.run("a", lambda: time.sleep(0.05)) for _ in range(6))
            return await asyncio.gather(*waiting, return_exceptions=True)

        assert [type(found) for found in asyncio.run(all_at_once())].count(Busy) == 2

    def test_who_goes_away_or_waits_too_long_takes_no_place(self, monkeypatch):
        monkeypatch.setattr("paperworks.web.work.LONGEST_WAIT", 0.05)
        work = Work(at_once=1, each=1)

        async def go():
            long = asyncio.ensure_future(work.run("a", lambda: time.sleep(0.3)))
            await asyncio.sleep(0.01)
            with pytest.raises(Busy):
                await work.run("b", lambda: None)
            away = asyncio.ensure_future(work.run("c", lambda: None))
            await asyncio.sleep(0.01)
            away.cancel()
            await long
            return await work.run("b", lambda: "done")

        assert asyncio.run(go()) == "done"
        assert not work._running

    def test_an_error_ends_a_turn(self):
        work = Work(at_once=1, each=1)

        async def go():
            with pytest.raises(ZeroDivisionError):
                await work.run("a", lambda: 1 / 0)
            return await work.run("a", lambda: "done")

        assert asyncio.run(go()) == "done"

    def test_a_busy_site_says_so(self, client, site, monkeypatch):
        monkeypatch.setattr("paperworks.web.work.MOST_WAITING", 0)
        site._search.at_once = 0
        answer = client.get("/search", params={"q": "noise"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/api/search", params={"q": "noise"}).json()["detail"].startswith("The site is busy")
        assert client.get("/").status_code == 200

    def test_many_unique_searches_leave_lists_as_they_are(self, client, site):
        with ThreadPoolExecutor(20) as pool:
            found = pool.map(lambda i: client.get("/search", params={"q": f"noise {i}"}).status_code, range(60))
            lists = [client.get("/").status_code for _ in range(20)]
        assert set(lists) == {200}
        assert 200 in set(found) <= {200, 503}  # a slow machine may be too busy for some of them


def test_the_meaning_of_a_search_is_made_once():
    asked = []

    def model(texts):
        asked.append(list(texts))
        return embed(texts)

    again = remembering(model, size=2)
    for text in ("a", "b", "a", "c", "a"):
        assert (again([text]) == embed([text])).all()
    again(["a", "b"])
    assert asked == [["a"], ["b"], ["c"], ["a", "b"]]


def test_an_error_that_nobody_waits_for_is_no_news(caplog):
    cache = MomentCache(seconds=0.3)

    async def good(old):
        return 1

    async def bad(old):
        raise LookupError("gone")

    async def go():
        assert await cache.get("a", good) == 1
        await asyncio.sleep(0.31)
        assert await cache.get("a", bad) == 1  # the old one, while the new one fails
        await asyncio.sleep(0.61)
        with pytest.raises(LookupError):
            await cache.get("a", bad)

    asyncio.run(go())
    assert "never retrieved" not in caplog.text
