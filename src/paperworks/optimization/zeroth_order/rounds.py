"""What all machines sent in a round, and the digest that it goes into."""

import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_HEAD, _ENTRY = struct.Struct("<IhB"), struct.Struct("<HH")
START = bytes(8)
"""The digest before the first round."""


@dataclass(frozen=True)
class Round:
    """What all machines sent in a round.

    Parameters
    ----------
    t
        Number of the round, from 0.
    lrs
        Step size of each group of parameters.
    shift
        The codec's shift in this round.
    messages
        From each machine its identity, the number of its samples and their bytes, by rising identity.

    Examples
    --------
    >>> found = Round(3, (0.1,), 0, ((0, 2, b"ab"), (5, 1, b"c")))
    >>> Round.from_bytes(found.to_bytes()) == found
    True
    """

    t: int
    lrs: tuple[float, ...]
    shift: int
    messages: tuple[tuple[int, int, bytes], ...]

    def to_bytes(self) -> bytes:
        """Return the round as it is sent and kept.

        Returns
        -------
        bytes
            Seven bytes, eight for each group, two, and for each machine four and its payload's length and content.
        """
        head = _HEAD.pack(self.t, self.shift, len(self.lrs)) + struct.pack(f"<{len(self.lrs)}d", *self.lrs)
        parts = [_ENTRY.pack(machine, count) + data for machine, count, data in self.messages]
        sizes = [struct.pack("<H", len(data)) for _, _, data in self.messages]
        return b"".join([head, struct.pack("<H", len(parts)), *(s + p for s, p in zip(sizes, parts, strict=True))])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Round":
        """Read what `to_bytes` wrote.

        Parameters
        ----------
        data
            The bytes of one round.

        Returns
        -------
        Round
            The round, its messages in order and no machine twice.

        Raises
        ------
        ValueError
            Where it isn't one.
        """
        try:
            t, shift, groups = _HEAD.unpack_from(data)
            lrs = struct.unpack_from(f"<{groups}d", data, at := _HEAD.size)
            (machines,) = struct.unpack_from("<H", data, at := at + 8 * groups)
            at, messages = at + 2, []
            for _ in range(machines):
                (size,) = struct.unpack_from("<H", data, at)
                machine, count = _ENTRY.unpack_from(data, at + 2)
                messages.append((machine, count, data[at + 6 : at + 6 + size]))
                at += 6 + size
        except struct.error as error:
            raise ValueError(f"data is no round: {error}") from None
        order = [machine for machine, _, _ in messages]
        if at != len(data) or order != sorted(set(order)) or not all(map(math.isfinite, lrs)):
            raise ValueError(f"data is no round: {len(data)} bytes for {at}, machines {order}, step sizes {lrs}")
        return cls(t, lrs, shift, tuple(messages))

    @classmethod
    def merged(cls, rounds: Iterable["Round"]) -> "Round":
        """Join what several machines sent in one round; the step sizes are those of the least identity.

        Parameters
        ----------
        rounds
            One round of each machine.

        Returns
        -------
        Round
            The round of all of them.
        """
        ordered = sorted(rounds, key=lambda r: r.messages[0][0])
        first = ordered[0]
        for other in ordered:
            if (other.t, other.shift, len(other.lrs)) != (first.t, first.shift, len(first.lrs)):
                raise ValueError(f"rounds are those of {[r.t for r in ordered]}; they take one round and one shift")
        return cls(first.t, first.lrs, first.shift, tuple(m for r in ordered for m in r.messages))


def chained(digest: bytes, found: Round) -> bytes:
    """Return the digest of a training after one more round."""
    return hashlib.blake2b(digest + found.to_bytes(), digest_size=8).digest()
