"""Machines that talk over TCP, and may come and go: frames, identities, rounds that close without a coordinator.

Each two machines hold one connection. The one that opens it says who it is, which recipe and which parameters it has;
the other answers the same, or why it refuses. In a round each machine sends its bytes to the live one of least
identity, which closes the round when it has those of all, or at its deadline, and announces the closed set with the
bytes in it. If it dies, the next one takes over, and asks those who are ahead for the rounds that it lacks.
"""

import asyncio
import concurrent.futures
import json
import logging
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.zeroth_order import states, wire
from paperworks.optimization.zeroth_order.greetings import PROTOCOL, greeting, misfit, parsed
from paperworks.optimization.zeroth_order.rounds import Round
from paperworks.optimization.zeroth_order.transports import ReplicaDivergence, Transport
from paperworks.optimization.zeroth_order.wire import Address, Garbage, Link

T = TypeVar("T")
_HERE = struct.Struct("<I8s")
_ATTEMPT = 5.0  # seconds that a host may take to accept a connection
_PATIENCE = 120  # seconds that the loop may not answer at all
_AHEAD = 1024  # rounds that are kept for a machine that is late; it gets what comes after one by one
_CLOSED = "the transport is closed; it takes a new one to join again"
_log = logging.getLogger("paperworks.one_byte")


class TCPTransport(Transport):
    """Machines that are processes anywhere, joined by TCP connections; they may join and leave at any round.

    A machine that is late for a round doesn't take part in it, but applies it. One that sends what is no valid message
    is cut off; the others go on. The weights stay the same to the bit on all; what comes over the wire is never
    unpickled. There is no encryption and no proof of identity: use it in a trusted network or through a tunnel. What
    is sent tells something about the data.

    Parameters
    ----------
    bind
        Host and port to listen at; port 0 takes a free one, see `address`.
    peers
        Addresses of machines that are already there, one of which suffices; none for the first machine.
    machines
        How many machines the first round waits for, this one included, also where a training goes on from a state.
    deadline
        Seconds after which a round closes without those who are late.
    timeout
        Seconds to wait for a connection, for the first machines, for a state, or beyond the deadline for the machine
        that closes a round; the others go on without it, and tell it so.

    Raises
    ------
    ValueError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import OneByteSPSA
    >>> transport = TCPTransport()
    >>> w = torch.ones(3)
    >>> optimiser = OneByteSPSA([w], lr=0.1, transport=transport)
    >>> transport.address[0]
    '127.0.0.1'
    >>> loss = optimiser.step(lambda: w.sum())
    >>> transport.close()
    """

    def __init__(
        self,
        bind: Address = ("127.0.0.1", 0),
        peers: Iterable[Address] = (),
        machines: int = 1,
        deadline: float = 30.0,
        timeout: float = 60.0,
    ) -> None:
        self.bind, self.peers = bind, [(str(host), int(port)) for host, port in peers]
        self.machines = check_count("machines", machines)
        self.deadline = check_number("deadline", deadline, gt=0)
        self.timeout = check_number("timeout", timeout, gt=0)
        self.links: dict[int, Link] = {}
        self.address: Address = bind
        """Where this machine listens."""
        self.traffic: Counter[str] = Counter()
        """Bytes sent in all, and those of messages and of closed rounds, which training takes."""
        self._closed: dict[int, Round] = {}
        self._failure: Exception | None = None
        self._asked: list[tuple[Link, int, bytes]] = []  # who wants the state, which is only sent between evaluations
        self._digests: dict[int, bytes] = {}  # of the training before each round, as far as this machine saw it
        self._idle = True  # the weights are at rest, and others may have them
        self._open = self._connected = self._ready = False
        self._server: asyncio.Server | None = None
        self._calling: set[Address] = set()
        self._met: dict[Address, None] = {}  # where those listen whom this machine ever knew
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what the machine's own thread calls

    def attach(self, optimiser: Any) -> None:
        """Begin to listen for an optimiser.

        Parameters
        ----------
        optimiser
            Whose weights and log others may ask for.
        """
        if hasattr(self, "optimiser"):
            raise ValueError("transport serves another optimiser; it takes one of its own")
        self.optimiser, self._open = optimiser, True
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="one-byte", daemon=True)
        self._thread.start()
        try:
            self._event = self._call(_made(asyncio.Event))
            server = asyncio.start_server(self._accept, *self.bind)
            self._server = self._call(asyncio.wait_for(server, self.timeout))
        except BaseException:
            self.close()
            del self.optimiser
            raise
        self.address = self._server.sockets[0].getsockname()[:2]

    def poll(self, t: int) -> Round | None:
        """Return a round that was closed without this machine, and connect before the first one.

        Parameters
        ----------
        t
            Number of the round.

        Returns
        -------
        Round or None
            The round, None where it is still open.
        """
        if not self._connected:
            self.join()
            if self.optimiser.round == t:  # nobody has gone further yet
                self.wait(self.machines)
            t = self.optimiser.round
        self._call(_made(lambda: setattr(self, "_idle", False)))
        return self._announced(t)

    def settle(self) -> None:
        """Hear that the weights are at rest again, and send them to those who asked."""
        if self._open and self._thread.is_alive():
            self._call(_made(self._rest))

    def exchange(self, mine: Round, digest: bytes) -> Round:
        """Send this machine's bytes and return the closed round, as `Transport.exchange` says.

        Parameters
        ----------
        mine, digest
            As in `Transport.exchange`.

        Returns
        -------
        Round
            The closed round, with or without this machine.
        """
        self._digests[mine.t] = digest

        async def rested() -> Round:
            self._rest()
            closed = await self._exchange(mine, digest)
            self._idle = False
            return closed

        return self._call(rested())

    def join(self, address: Address | None = None) -> None:
        """Connect to all machines of a run, and take over what they have: its log, and its weights where they differ.

        Parameters
        ----------
        address
            Where any of them listens, besides `peers`.

        Raises
        ------
        ConnectionError
            Where nobody answers within the timeout.
        ValueError
            Where they refuse, since parameters or recipe differ or the identity is taken.
        """
        known = [*([address] if address else []), *self.peers]
        found = self._call(self._join(known))
        self._connected = True
        if found is not None:
            self._take_over(*found)
        self._ready = True
        self._call(_made(self._announce))

    def rejoin(self) -> None:
        """Leave, and join again with whatever this machine lacks, its weights too where they differ."""
        self._call(self._end_links())
        self._closed.clear()
        self._failure, self._ready, self.peers = None, False, list(dict.fromkeys([*self._met, *self.peers]))
        self.join()

    def wait(self, machines: int) -> None:
        """Wait until a number of machines take part, this one included.

        Parameters
        ----------
        machines
            How many there have to be.

        Raises
        ------
        TimeoutError
            Where they aren't there within the timeout.
        """

        async def enough() -> None:
            end = time.monotonic() + self.timeout
            while 1 + sum(link.ready for link in self.links.values()) < machines:
                if not await self._news(end):
                    raise TimeoutError(f"{len(self.links) + 1} of {machines} machines came within {self.timeout:g} s")

        self._call(enough())

    def close(self) -> None:
        """Say goodbye, and end all connections; what another thread waits for ends with a ConnectionError."""
        if not self._open:
            return
        self._open = False
        try:
            self._result(self._end())
        except (ConnectionError, TimeoutError) as error:
            _log.warning("the connections were not ended: %s", error)
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(self.timeout)
        if not self.loop.is_running():  # in a forked process it is the parent's that runs, on the same descriptors
            self.loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._open:
            work.close()
            raise ConnectionError(_CLOSED)
        return self._result(work)

    def _result(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop do what ends by itself; nobody waits for a loop that is closed, dead or stuck."""
        missed = 0

        def answered() -> None:
            nonlocal missed
            missed = 0

        if not self._thread.is_alive():
            work.close()
            raise ConnectionError(_CLOSED)
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            while not concurrent.futures.wait([future], 1.0).done:
                missed += 1
                if not self._thread.is_alive():
                    raise ConnectionError(_CLOSED)
                if missed > _PATIENCE:
                    raise TimeoutError(f"the transport's thread has not answered for {_PATIENCE} s")
                self.loop.call_soon_threadsafe(answered)
            return future.result()
        except concurrent.futures.CancelledError:
            raise ConnectionError(_CLOSED) from None
        finally:
            future.cancel()

    def _take_over(self, link: Link, content: bytes) -> None:
        """Bring the optimiser to where a machine is."""
        optimiser = self.optimiser
        try:
            digest = states.take_over(optimiser, content, self._digests)
        except (ValueError, struct.error) as error:
            raise ValueError(f"machine {link.machine} sent no valid state: {error}") from None
        for old in [t for t in self._closed if t < optimiser.round]:
            del self._closed[old]
        if optimiser.digest != digest:
            raise ReplicaDivergence(
                f"the log of machine {link.machine} does not lead to its weights in round {optimiser.round}"
            )

    # --- what the loop's thread runs

    def _announce(self) -> None:
        for link in self.links.values():
            link.send(wire.READY)

    def _rest(self) -> None:
        self._idle = True
        for link, t, digest in self._asked:
            self._send_state(link, t, digest)
        self._asked.clear()

    def _check(self) -> None:
        """Raise what another machine said is wrong."""
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    async def _news(self, end: float) -> bool:
        """Wait until something came, or return False at the end of the time."""
        self._check()
        self._event.clear()
        try:
            await asyncio.wait_for(self._event.wait(), max(0.0, end - time.monotonic()))
        except TimeoutError:
            return False
        return True

    async def _exchange(self, mine: Round, digest: bytes) -> Round:
        began, me = time.monotonic(), self.optimiser.machine_id
        sent_to: Link | None = None
        since: dict[int, float] = {}  # when each was first asked, lest one that calls again and again is waited for
        given_up: set[int] = set()
        patience = self.deadline + self.timeout
        while (announced := self._announced(mine.t)) is None:
            self._check()
            leader = min([me, *(m for m, link in self.links.items() if link.ready and m not in given_up)])
            if leader == me:
                late = time.monotonic() > began + self.deadline
                if closed := self._gathered(mine, digest, late):
                    for link in self.links.values():
                        link.send(wire.CLOSED, closed.to_bytes())
                    self.traffic["closed"] += len(closed.to_bytes()) * len(self.links)
                    self._count()
                    return closed
                await self._news(began + self.deadline)
                continue
            if sent_to is not (link := self.links[leader]):
                link.send(wire.MESSAGE, digest + mine.to_bytes())
                sent_to = link
                since.setdefault(leader, time.monotonic())
            if not await self._news(since[leader] + patience):
                given_up.add(leader)
                link.send(wire.DIVERGED)
                self._drop(link, f"has not closed round {mine.t} within {patience:g} s")
        self._count()
        return announced

    def _announced(self, t: int) -> Round | None:
        """Return a round that another machine has closed."""
        found = self._closed.pop(t, None)
        if found and found.shift != self.optimiser.shift:
            _log.warning("round %d was announced at shift %d, not %d", t, found.shift, self.optimiser.shift)
            return None
        return found

    def _gathered(self, mine: Round, digest: bytes, late: bool) -> Round | None:
        """Return the round where it can be closed: all bytes are there, or it is late."""
        parts = {self.optimiser.machine_id: (digest, mine)}
        for link in list(self.links.values()):
            if link.latest and link.latest.t == mine.t:
                if (link.latest.shift, len(link.latest.lrs)) != (mine.shift, len(mine.lrs)):
                    self._drop(link, f"sent {len(link.latest.lrs)} step sizes at shift {link.latest.shift} for round "
                               f"{mine.t}, which has {len(mine.lrs)} at {mine.shift}")  # fmt: skip
                    continue
                parts[link.machine] = link.digest, link.latest
            elif link.latest and link.latest.t > mine.t and link.fetched != mine.t:
                link.fetched = mine.t
                link.send(wire.FETCH, struct.pack("<I", mine.t))
            if link.ready and link.machine not in parts:
                if not late:
                    return None
                link.ready = False  # until it sends the bytes of a round that is open
        votes = Counter(digest for digest, _ in parts.values())
        chosen = max(votes, key=lambda d: (votes[d], d == digest))
        if chosen != digest:
            raise ReplicaDivergence(f"this machine's weights differ from those of most before round {mine.t}")
        for machine, (other, _) in list(parts.items()):
            if other != digest:
                self.links[machine].send(wire.DIVERGED)
                self._drop(self.links[machine], f"has other weights or another log before round {mine.t}")
                del parts[machine]
        return Round.merged([mine, *(found for m, (_, found) in parts.items() if m != self.optimiser.machine_id)])

    def _count(self) -> None:
        for link in self.links.values():
            self.traffic.update(link.counts)
            link.counts.clear()

    @property
    def _run(self) -> int:
        return zlib.crc32(json.dumps([PROTOCOL, self.optimiser.recipe.run_seed]).encode())

    def _hello(self) -> dict[str, Any]:
        return greeting(self.optimiser, self.address, self._ready, [link.address for link in self.links.values()])

    def _fits(self, theirs: dict[str, Any]) -> str | None:
        """Say why another machine doesn't fit."""
        if theirs["machine"] == self.optimiser.machine_id or theirs["machine"] in self.links:
            taken = f"machine_id {theirs['machine']} is taken; it takes one of its own"
        else:
            taken = None
        return misfit(self._hello(), theirs) or taken

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear who calls, and keep the connection where it fits."""
        link = Link(reader, writer)
        try:
            kind, content = await asyncio.wait_for(link.receive(), self.timeout)
            theirs = parsed(kind, content)
            end = time.monotonic() + min(1.0, self.timeout)
            while theirs["machine"] in self.links and time.monotonic() < end:
                await asyncio.sleep(0.02)  # it may have left, and its goodbye on the other connection be late
            crossed = tuple(theirs["address"]) in self._calling and self.optimiser.machine_id < theirs["machine"]
            reason = "crossed" if crossed else self._fits(theirs)
            if reason:
                link.send(wire.REFUSE, reason[:1000].encode())
                writer.close()
                return
            link.send(wire.HELLO, json.dumps(self._hello()).encode())
            self._keep(link, theirs)
        except (Garbage, ValueError, OSError, EOFError) as error:
            _log.warning("a caller from %s was cut off: %s", writer.get_extra_info("peername"), error)
            writer.close()
        except asyncio.CancelledError:  # this machine leaves
            writer.close()

    async def _connect(self, address: Address, end: float) -> Link:
        """Call a machine."""
        left = max(min(1.0, self.timeout), end - time.monotonic())
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), min(_ATTEMPT, left))
        except (OSError, ValueError) as error:
            raise _NobodyThere(f"no machine answers at {address[0]}:{address[1]}: {str(error) or 'too late'}") from None
        link = Link(reader, writer)
        link.send(wire.HELLO, json.dumps(self._hello()).encode())
        try:
            kind, content = await asyncio.wait_for(link.receive(), left)
            if kind == wire.REFUSE:
                writer.close()
                # Two that call each other at once keep the call of the lesser identity.
                while content == b"crossed" and self._link_to(address) is None and await self._news(end):
                    pass
                if other := self._link_to(address):
                    return other
                raise ValueError(content[:1000].decode(errors="replace"))
            theirs = parsed(kind, content)
            reason = self._fits(theirs)
            if reason:
                raise ValueError(reason)
        except (Garbage, OSError, EOFError) as error:
            writer.close()
            raise ConnectionError(f"{address[0]}:{address[1]} is no machine of this run: {error!r}") from None
        except BaseException:
            writer.close()
            raise
        self._keep(link, theirs)
        return link

    def _keep(self, link: Link, theirs: dict[str, Any]) -> None:
        host, port = theirs["address"]
        if host in ("0.0.0.0", "::"):  # it listens everywhere: so it does where it called from
            host = link.writer.get_extra_info("peername")[0]
        link.machine, link.address, link.run = theirs["machine"], (host, port), self._run
        link.ready = theirs["ready"]
        link.others = [(host, port) for host, port in theirs["others"]]
        self.links[link.machine] = link
        self._met[link.address] = None
        self._event.set()
        task = self.loop.create_task(self._listen(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _link_to(self, address: Address) -> Link | None:
        return next((link for link in self.links.values() if link.address == address), None)

    async def _join(self, known: list[Address]) -> tuple[Link, bytes] | None:
        """Call those who are known again and again until they listen, and once whom these know.

        Where this machine was connected before, some may be gone, and one that listens is enough.
        """
        waiting, end = list(known), time.monotonic() + self.timeout
        found: list[Link] = []
        last_error: ConnectionError | None = None
        while waiting:
            address = waiting.pop(0)
            if address == self.address or self._link_to(address):
                continue
            late = time.monotonic() > end
            if late and address not in known:
                continue
            self._calling.add(address)
            try:
                link = await self._connect(address, end)
            except ConnectionError as error:
                last_error = error
                enough = bool(found) and self._connected
                if isinstance(error, _NobodyThere) and address in known and not late and not enough:
                    waiting.append(address)
                    await asyncio.sleep(0.05)
                continue
            finally:
                self._calling.discard(address)
            found.append(link)
            waiting += link.others
        ready = [link for link in found if link.ready]
        for link in ready:
            link.state = self.loop.create_future()
            link.send(wire.ASK, _HERE.pack(self.optimiser.round, self.optimiser.digest))
            try:
                return link, await asyncio.wait_for(link.state, self.timeout)
            except TimeoutError:
                last_error = ConnectionError(f"machine {link.machine} sent no state within {self.timeout:g} s")
                self._drop(link, "sent no state in time")
            except ConnectionError as error:
                last_error = error
        if last_error and (ready or not found):
            raise last_error
        return None

    async def _listen(self, link: Link) -> None:
        """Take what a machine sends, until it ends or is no longer of the protocol."""
        reason = "is gone"
        try:
            while True:
                self._take(link, *await link.receive())
                self._event.set()
        except (Garbage, ValueError) as error:
            reason = f"sent garbage and was cut off: {error}"
        except (OSError, EOFError):
            pass
        self._drop(link, reason)

    def _take(self, link: Link, kind: int, content: bytes) -> None:
        optimiser = self.optimiser
        if kind == wire.MESSAGE:
            found = Round.from_bytes(content[8:])
            if len(found.messages) != 1 or found.messages[0][0] != link.machine:
                raise Garbage(f"a message of machines {[m for m, _, _ in found.messages]}, not {link.machine}")
            optimiser.recipe.check(found, len(optimiser.param_groups))
            if old := optimiser.log.get(found.t):
                link.send(wire.CLOSED, old.to_bytes())  # it missed the announcement
            elif found.t == optimiser.round and found.shift != optimiser.shift:
                raise Garbage(f"a message at shift {found.shift}, not {optimiser.shift}")
            else:
                link.latest, link.digest, link.ready = found, content[:8], True
        elif kind == wire.CLOSED:
            found = Round.from_bytes(content)
            optimiser.recipe.check(found, len(optimiser.param_groups))
            old = optimiser.log.get(found.t) or self._closed.get(found.t)
            if old is None and 0 <= found.t - optimiser.round < _AHEAD:
                self._closed[found.t] = found
            elif old is not None and old != found:
                self._failure = ReplicaDivergence(f"machine {link.machine} has closed round {found.t} otherwise")
        elif kind == wire.FETCH and len(content) == 4:
            found_ = optimiser.log.get(struct.unpack("<I", content)[0])
            if found_:
                link.send(wire.CLOSED, found_.to_bytes())
        elif kind == wire.ASK and len(content) == _HERE.size and not link.has_asked:
            link.has_asked = True  # a state is large
            if self._idle:
                self._send_state(link, *_HERE.unpack(content))
            else:
                self._asked.append((link, *_HERE.unpack(content)))
        elif kind == wire.STATE and link.state and not link.state.done():
            link.state.set_result(content)
        elif kind == wire.READY:
            link.ready = True
        elif kind == wire.LEAVE:
            raise EOFError
        elif kind == wire.DIVERGED:
            self._failure = ReplicaDivergence(f"machine {link.machine} says that most have other weights or went on")
        else:
            raise Garbage(f"an unexpected frame of kind {kind}")

    def _send_state(self, link: Link, t: int, digest: bytes) -> None:
        link.send(wire.STATE, states.packed(self.optimiser, t, digest, self._digests.get(t)))

    async def _end_links(self) -> None:
        for link in list(self.links.values()):
            link.send(wire.LEAVE)
            self._drop(link, "")
        await self._cancel(self._tasks)

    async def _end(self) -> None:
        if self._server:
            self._server.close()
        await self._end_links()
        await self._cancel(asyncio.all_tasks() - {asyncio.current_task()})

    async def _cancel(self, tasks: Iterable[asyncio.Task[Any] | None]) -> None:
        ending = [task for task in tasks if task]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=self.timeout)

    def _drop(self, link: Link, reason: str) -> None:
        if self.links.get(link.machine) is link:
            self.traffic.update(link.counts)
            del self.links[link.machine]
            if reason:
                _log.warning("machine %d %s", link.machine, reason)
        if link.state and not link.state.done():
            link.state.set_exception(ConnectionError(f"machine {link.machine} {reason or 'is gone'}"))
        link.writer.close()
        self._event.set()


class _NobodyThere(ConnectionError):
    """No machine listens at an address, so far."""


async def _made(make: Any) -> Any:
    return make()
