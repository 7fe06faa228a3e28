"""What travels between machines that talk over TCP: frames with checksums.

A frame is a length, a kind, the content, and a checksum that the run's identity goes into.
"""

import asyncio
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field

from paperworks.optimization.zeroth_order.rounds import Round

Address = tuple[str, int]
HELLO, REFUSE, MESSAGE, CLOSED, FETCH, ASK, STATE, READY, LEAVE, DIVERGED = range(1, 11)
_FRAME, _CHECK = struct.Struct("<IB"), struct.Struct("<I")
_SMALL, _LARGE = 1 << 20, 1 << 31  # greatest frames; large ones are states, and only where one was asked for


class Garbage(Exception):
    """What came over a connection is not of this protocol."""


@dataclass
class Link:
    """A connection to one machine."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    run: int = 0  # goes into the checksums, once both know that it is the same
    machine: int = -1
    address: Address = ("", 0)
    ready: bool = False  # whether rounds wait for it
    latest: Round | None = None
    digest: bytes = b""
    fetched: int = -1
    others: list[Address] = field(default_factory=list)  # whom it knows
    has_asked: bool = False
    state: asyncio.Future[bytes] | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def send(self, kind: int, content: bytes = b"") -> None:
        """Write a frame."""
        frame = _FRAME.pack(len(content), kind) + content
        frame += _CHECK.pack(zlib.crc32(frame, self.run))
        self.counts["bytes"] += len(frame)
        self.counts[str(kind)] += len(frame)
        if not self.writer.is_closing():
            self.writer.write(frame)

    async def receive(self) -> tuple[int, bytes]:
        """Read a frame, checked for its length and its checksum."""
        head = await self.reader.readexactly(_FRAME.size)
        length, kind = _FRAME.unpack(head)
        most = _LARGE if self.state and not self.state.done() and kind == STATE else _SMALL
        if length > most or not HELLO <= kind <= DIVERGED:
            raise Garbage(f"a frame of kind {kind} and {length} bytes")
        content = await self.reader.readexactly(length)
        (check,) = _CHECK.unpack(await self.reader.readexactly(_CHECK.size))
        if check != zlib.crc32(content, zlib.crc32(head, self.run)):
            raise Garbage(f"a wrong checksum of a frame of kind {kind} and {length} bytes")
        return kind, content
