"""Pages kept for a moment: what many strangers read at once is made once."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

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
        self._making: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return the value of a key, made where there is none or it is too old."""
        made, value = self._kept.get(key, (-math.inf, None))
        age = time.monotonic() - made
        if age > self.seconds and key not in self._making:
            self._making[key] = asyncio.ensure_future(self._make(key, make))
        if value is not None and age <= 2 * self.seconds:
            return value
        return await asyncio.shield(self._making[key])

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await make()
            self._kept[key] = (time.monotonic(), value)
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            return value
        finally:
            del self._making[key]
