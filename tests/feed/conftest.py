import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paperworks.feed import FeedStore
from paperworks.feed.ingest import PoliteClient

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedStore]:
    """Give an empty store on each of both databases."""
    url = f"sqlite:///{tmp_path / 'feed.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgresql")
    store = FeedStore(url)
    yield store
    store.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], str]]:
    """Start servers on this machine that answer by a function of the request, and give their URLs."""
    servers = []

    def start(answer: Handler) -> str:
        class Answering(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *args: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def memory() -> FeedStore:
    """Give an empty store that is kept nowhere."""
    return FeedStore("sqlite://")


@pytest.fixture
def quick() -> Iterator[PoliteClient]:
    """Give a client that doesn't wait."""
    with PoliteClient(interval=0.0, attempts=3, timeout=5.0) as client:
        yield client
