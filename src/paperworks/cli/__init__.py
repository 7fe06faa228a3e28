"""The command line: list, search and show papers; run their claims, race their peers; report; start a new one."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Run the `paperworks` command."""
    from paperworks.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of an encoding that may lack a star or a dash
            stream.reconfigure(errors="replace")
    sys.stdout = _Output(sys.stdout)
    app()


class _Output:
    """Standard output whose reader may go away, as `head` does when it has seen enough: then the command ends well."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        return self._guarded(lambda: self._stream.write(text))

    def flush(self) -> Any:
        return self._guarded(self._stream.flush)

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is flushed at exit
            raise SystemExit(0) from None
