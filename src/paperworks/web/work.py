"""What costs time, bounded: so much at once in all and for each client, and whoever waits gets their turn."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")
MOST_WAITING = 400
LONGEST_WAIT = 20.0


class Busy(RuntimeError):
    """The site has more to do than it can do soon; `seconds` is how long to wait."""

    def __init__(self, seconds: int = 5) -> None:
        super().__init__("the site is busy; try again in a moment")
        self.seconds = seconds


class Work:
    """Runs functions in threads, some at once in all and fewer for each client; clients that wait take turns.

    Parameters
    ----------
    at_once
        How many functions run at once.
    each
        How many of them for one client.

    Examples
    --------
    >>> work = Work(at_once=2, each=1)
    >>> async def three():
    ...     return await asyncio.gather(*(work.run(who, lambda who=who: who) for who in "aab"))
    >>> asyncio.run(three())
    ['a', 'a', 'b']
    """

    def __init__(self, at_once: int, each: int) -> None:
        self.at_once, self.each = at_once, each
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, who: str, function: Callable[[], T]) -> T:
        """Return what a function returns, once it is the client's turn.

        Raises
        ------
        Busy
            Where too many wait already, or the turn doesn't come in time.
        """
        await self._turn(who)
        try:
            return await run_in_threadpool(function)
        finally:
            self._end(who)

    async def _turn(self, who: str) -> None:
        if who not in self._waiting and self._may(who):
            self._running[who] += 1
            return
        if sum(map(len, self._waiting.values())) >= MOST_WAITING:
            raise Busy
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), LONGEST_WAIT)
        except BaseException as error:
            if turn.done():
                self._end(who)  # it came as the client went
            else:
                turn.cancel()
            raise Busy from None if isinstance(error, TimeoutError) else error

    def _may(self, who: str) -> bool:
        return self._running.total() < self.at_once and self._running[who] < self.each

    def _end(self, who: str) -> None:
        self._running[who] -= 1
        if not self._running[who]:
            del self._running[who]
        for other in list(self._waiting):
            turns = self._waiting[other]
            while turns and turns[0].cancelled():
                turns.popleft()
            if turns and self._may(other):
                self._running[other] += 1
                turns.popleft().set_result(None)
                self._waiting.move_to_end(other)
            if not turns:
                del self._waiting[other]
