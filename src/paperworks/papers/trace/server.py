"""A language model's server that misbehaves, on this machine: one prepared reply after the other."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def misbehaving(replies: list[Any]) -> Iterator[str]:
    """Serve the replies in turn, the last one from then on.

    Parameters
    ----------
    replies
        `"429"`, `"401"` or another status; `"cut"` for a reply that breaks off, `"silence"` for none, `"nonsense"` for
        one that is no JSON, `"empty"` for an empty answer; any other text or object is the model's answer.
    """
    left = list(replies)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                reply = left.pop(0) if len(left) > 1 else left[0]
            if reply == "silence":
                time.sleep(0.4)
                self.close_connection = True
            elif reply == "cut":
                self._send(200, b'{"choices": [', length=1000)
                self.close_connection = True
            elif isinstance(reply, str) and reply.isdigit():
                self._send(int(reply), b'{"error": "no"}')
            elif reply == "nonsense":
                self._send(200, b"<html>Welcome!</html>")
            else:
                text = "" if reply == "empty" else reply if isinstance(reply, str) else json.dumps(reply)
                self._send(200, json.dumps({"choices": [{"message": {"content": text}}]}).encode())

        def _send(self, status: int, body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
