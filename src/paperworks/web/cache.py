"""What is kept for a moment: pages that many strangers read at once, and the meanings of searches."""

import asyncio
import functools
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

from paperworks.feed.search.meaning import Embed

T = TypeVar("T")


class MomentCache(Generic[T]):
    """Keeps values for a few seconds, and makes each but once at a time.

    A value that is asked for within as long again is given as it is, while the next one is made.

    Parameters
    ----------
    seconds
        How long a value is good.
    size
        How many values are kept.

    Examples
    --------
    >>> cache = MomentCache(seconds=60)
    >>> async def make(old):
    ...     print("made")
    ...     return 1
    >>> async def twice():
    ...     return await cache.get("a", make), await cache.get("a", make)
    >>> asyncio.run(twice())
    made
    (1, 1)
    """

    def __init__(self, seconds: float = 2.0, size: int = 500) -> None:
        self.seconds, self.size = seconds, size
        self._kept: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._making: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[T | None], Awaitable[T]]) -> T:
        """Return the value of a key, made from the last one where there is none or it is too old."""
        made, value = self._kept.get(key, (-math.inf, None))
        age = time.monotonic() - made
        if age > self.seconds and key not in self._making:
            self._making[key] = asyncio.ensure_future(self._make(key, make, value))
            self._making[key].add_done_callback(_heard)
        if value is not None and age <= 2 * self.seconds:
            return value
        return await asyncio.shield(self._making[key])

    async def _make(self, key: Hashable, make: Callable[[T | None], Awaitable[T]], old: T | None) -> T:
        try:
            value = await make(old)
            self._kept[key] = (time.monotonic(), value)
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            return value
        finally:
            del self._making[key]


def _heard(task: asyncio.Task[T]) -> None:
    """Take note of an error that nobody waits for: whoever asks next gets it."""
    if not task.cancelled():
        task.exception()


def remembering(embed: Embed, size: int = 4000) -> Embed:
    """Return a sentence model that remembers the meanings of the last single texts, which are searches.

    Examples
    --------
    >>> def embed(texts):
    ...     print("embedding", texts)
    ...     return np.ones((len(texts), 2))
    >>> again = remembering(embed)
    >>> again(["noise"]).shape, again(["noise"]).shape
    embedding ['noise']
    ((1, 2), (1, 2))
    """

    @functools.lru_cache(maxsize=size)
    def one(text: str) -> np.ndarray:
        vectors = embed([text])
        vectors.flags.writeable = False
        return vectors

    return lambda texts: one(texts[0]) if len(texts) == 1 else embed(texts)
