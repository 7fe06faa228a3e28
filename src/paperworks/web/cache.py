"""Pages kept for a moment: what many strangers read at once is made once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class MomentCache(Generic[T]):
    """Keeps values for a few seconds, and makes each but once at a time.

    Parameters
    ----------
    seconds
        How long a value is good.
    size
        How many values are kept.

    Examples
    --------
    >>> cache = MomentCache(seconds=60)
    >>> async def make():
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
        self._making: dict[Hashable, asyncio.Lock] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return the value of a key, made where there is none or it is too old."""
        if kept := self._fresh(key):
            return kept[1]
        lock = self._making.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if kept := self._fresh(key):
                    return kept[1]
                value = await make()
                self._kept[key] = (time.monotonic() + self.seconds, value)
                self._kept.move_to_end(key)
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
                return value
        finally:
            self._making.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def _fresh(self, key: Hashable) -> tuple[float, T] | None:
        kept = self._kept.get(key)
        return kept if kept and kept[0] > time.monotonic() else None
