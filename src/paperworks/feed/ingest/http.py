"""An HTTP client that is polite: it says who it is, waits between requests, asks for news only, and backs off."""

import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from paperworks import __version__

USER_AGENT = f"paperworks/{__version__} (daily papers)"
MAX_BYTES = 64 * 2**20
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class SourceError(OSError):
    """A source that doesn't answer, or answers with what can't be read."""


class PoliteClient:
    """Gets documents from one host.

    Parameters
    ----------
    interval
        Least seconds between two requests. arXiv asks for 3.
    attempts
        How often a request is tried. Between two tries it waits for what ``Retry-After`` says, or ``2^k`` seconds.
    timeout
        Seconds for each step of a request.
    longest_wait
        Where ``Retry-After`` says more than these seconds, the source is given up for now.
    """

    def __init__(
        self, *, interval: float = 3.0, attempts: int = 5, timeout: float = 30.0, longest_wait: float = 300.0
    ) -> None:
        self.interval, self.attempts, self.longest_wait = interval, attempts, longest_wait
        self._client = httpx.Client(
            headers={"User-Agent": USER_AGENT}, timeout=timeout, follow_redirects=True, max_redirects=5
        )
        self._last = -float("inf")

    def __enter__(self) -> "PoliteClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(
        self, url: str, params: Mapping[str, Any] | None = None, *, seen: Mapping[str, str] | None = None
    ) -> tuple[bytes | None, dict[str, str]]:
        """Return a document and its validators, or None for one that hasn't changed since `seen`, its old validators.

        Raises
        ------
        SourceError
            Where the source refuses, doesn't answer after all tries, or sends too much.
        """
        headers = {
            header: seen[name]
            for name, header in (("etag", "If-None-Match"), ("modified", "If-Modified-Since"))
            if seen and seen.get(name)
        }
        for attempt in range(1, self.attempts + 1):
            self._wait()
            try:
                with self._client.stream("GET", url, params=params, headers=headers) as response:
                    if response.status_code == httpx.codes.NOT_MODIFIED:
                        return None, dict(seen or {})
                    if response.status_code == httpx.codes.OK:
                        return self._read(response), _validators(response)
                    problem: str = f"it answered {response.status_code}"
                    if response.status_code not in _RETRIED:
                        raise SourceError(f"{response.url}: {problem}")
                    pause = _seconds(response.headers.get("Retry-After", ""))
            except httpx.TransportError as error:
                problem, pause = f"{type(error).__name__}: {error}", None
            except httpx.HTTPError as error:
                raise SourceError(f"{url}: {error}") from None
            if pause is not None and pause > self.longest_wait:
                raise SourceError(f"{url}: it asks to come back in {pause:.0f} seconds")
            if attempt < self.attempts:
                self._sleep(pause if pause is not None else self.interval * 2**attempt * random.uniform(0.75, 1.25))
        raise SourceError(f"{url}: {problem}, {self.attempts} times")

    def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > MAX_BYTES:
                raise SourceError(f"{response.url}: it sends more than {MAX_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)

    def _wait(self) -> None:
        self._sleep(self._last + self.interval - time.monotonic())
        self._last = time.monotonic()

    @staticmethod
    def _sleep(seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


def _seconds(text: str) -> float | None:
    return float(text) if text.strip().isdecimal() else None


def _validators(response: httpx.Response) -> dict[str, str]:
    found = {"etag": response.headers.get("ETag", ""), "modified": response.headers.get("Last-Modified", "")}
    return {name: value for name, value in found.items() if value}
