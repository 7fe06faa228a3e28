"""The server: uvicorn, with a limit on everything that a client could draw out."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_OPEN, MOST_OPEN_EACH = 700, 250
"""Connections in all, and from one address: a process has 1,024 files by default."""
REQUEST_SECONDS, ANSWER_SECONDS, READ_SECONDS = 15.0, 60.0, 30.0
"""How long a request may take to come, its answer to be made, and the client to read the rest of it."""
MAX_HEAD = 32 * 1024
"""Bytes of the first line and the headers of a request."""
_LOOK = 2.5


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ends a connection whose client takes too long, says too much before the body, or has too many."""

    def connection_made(self, transport: Any) -> None:
        """Begin to watch a connection."""
        super().connection_made(transport)
        now = self.loop.time()
        self._begun: float | None = now
        self._asked = self._answered = now
        self._head = self._head_read = 0
        self._in_head = True
        if self._is_one_of_too_many():
            transport.abort()
            return
        self._next_look = self.loop.call_later(_LOOK, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if hasattr(self, "_next_look"):
            self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        self._head_read = self._head_read + len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_read > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._begun = self.loop.time()
        self._head, self._in_head = 0, True

    def on_url(self, url: bytes) -> None:
        """Take in the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head of a request, and begin its answer."""
        self._in_head = False
        self._asked = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        self._begun = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer."""
        self._answered = self.loop.time()
        super().on_response_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise ValueError("the head of the request is too long")  # the parser stops, and the answer is a 400

    def _is_one_of_too_many(self) -> bool:
        host = self.client[0] if self.client else ""
        if self.each is None or host in ("", "127.0.0.1", "::1"):  # a proxy has the connections of all its clients
            return False
        others = (other.client for other in self.connections if isinstance(other, PatientProtocol))
        return sum(client is not None and client[0] == host for client in others) > self.each

    each: int | None = MOST_OPEN_EACH

    def _look(self) -> None:
        now = self.loop.time()
        slow = self._begun is not None and now - self._begun > REQUEST_SECONDS
        if self.cycle is not None and not self.cycle.response_complete:
            slow = slow or now - self._asked > ANSWER_SECONDS
        elif self.transport.get_write_buffer_size():
            slow = slow or now - self._answered > READ_SECONDS
        if slow:
            self.pipeline.clear()
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(_LOOK, self._look)


class _BehindProxy(PatientProtocol):
    each = None


def config(app: FastAPI, host: str, port: int, **more: Any) -> uvicorn.Config:
    """Return how uvicorn serves the site.

    Parameters
    ----------
    app
        As `create_app` makes it; it looks at ``X-Forwarded-For`` itself, so that uvicorn doesn't.
    host, port
        Where to listen.
    more
        Further options of uvicorn.
    """
    behind_proxy = bool(app.state.settings.trusted_proxies)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_BehindProxy if behind_proxy else PatientProtocol,
        ws="none",
        proxy_headers=False,
        limit_concurrency=MOST_OPEN,
        backlog=512,
        timeout_keep_alive=15,
        server_header=False,
        access_log=False,
        **{"log_level": "warning", **more},
    )


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve the site until it is told to stop."""
    sys.setswitchinterval(0.001)  # a search in a thread doesn't hold up the pages that are made already
    uvicorn.Server(config(app, host, port)).run()
