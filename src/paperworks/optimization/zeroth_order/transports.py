"""How machines exchange the bytes of a round: in one process, by torch.distributed; `tcp` does it over a network."""

import threading
from abc import ABC, abstractmethod
from collections import Counter

import torch

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.zeroth_order.rounds import Round


class ReplicaDivergence(RuntimeError):
    """The weights or the logs of machines differ, where they have to be the same to the bit."""


class Transport(ABC):
    """Brings together what all machines send in a round.

    Examples
    --------
    >>> issubclass(LocalTransport, Transport)
    True
    """

    def attach(self, optimiser: torch.optim.Optimizer) -> None:  # noqa: B027
        """Get to know the optimiser that it serves.

        Parameters
        ----------
        optimiser
            Whose weights and log others may ask for.
        """

    def poll(self, t: int) -> Round | None:
        """Return a round that the others have closed without this machine.

        Parameters
        ----------
        t
            Number of the round.

        Returns
        -------
        Round or None
            The round, None where it is still open.
        """
        return None

    def settle(self) -> None:  # noqa: B027
        """Hear that a step is over, and the weights are at rest."""

    @abstractmethod
    def exchange(self, mine: Round, digest: bytes) -> Round:
        """Send this machine's part of a round, and return the whole of it.

        Parameters
        ----------
        mine
            The round with this machine's message alone.
        digest
            Digest of all rounds before, eight bytes; where machines differ in it, their weights do.

        Returns
        -------
        Round
            The round with the messages of all machines that took part.

        Raises
        ------
        ReplicaDivergence
            Where the digests differ.
        """


def _join(parts: list[bytes]) -> Round:
    digests = {part[:8] for part in parts}
    rounds = [Round.from_bytes(part[8:]) for part in parts]
    for machine, often in Counter(r.messages[0][0] for r in rounds).items():
        if often > 1:
            raise ValueError(f"machine_id is {machine} on {often} machines; it takes one of its own for each")
    if len(digests) > 1 or len({r.t for r in rounds}) > 1:
        told = ", ".join(f"machine {r.messages[0][0]}: {p[:8].hex()}" for r, p in zip(rounds, parts, strict=True))
        raise ReplicaDivergence(f"digests of recipes, weights and rounds before round {rounds[0].t} differ: {told}")
    return Round.merged(rounds)


class LocalTransport(Transport):
    """Machines that are threads of one process; `LocalTransport.group(n)` makes one for each.

    Parameters
    ----------
    hub
        What the members of a group share.
    timeout
        Seconds to wait for the others.

    Examples
    --------
    >>> [type(member).__name__ for member in LocalTransport.group(2)]
    ['LocalTransport', 'LocalTransport']
    """

    def __init__(self, hub: "Hub", timeout: float = 60.0) -> None:
        self.hub = hub
        self.timeout = check_number("timeout", timeout, gt=0)

    @classmethod
    def group(cls, machines: int, timeout: float = 60.0) -> list["LocalTransport"]:
        """Return the transports of a number of machines.

        Parameters
        ----------
        machines
            How many take part in each round.
        timeout
            Seconds to wait for the others.

        Returns
        -------
        list[LocalTransport]
            One for each machine.
        """
        hub = Hub(check_count("machines", machines))
        return [cls(hub, timeout) for _ in range(machines)]

    def exchange(self, mine: Round, digest: bytes) -> Round:
        """Wait for all members of the group, as `Transport.exchange` says.

        Parameters
        ----------
        mine, digest
            As in `Transport.exchange`.

        Returns
        -------
        Round
            The round of all members.
        """
        return _join(self.hub.gather(mine.messages[0][0], digest + mine.to_bytes(), self.timeout))


class Hub:
    """Where the threads of a group meet."""

    def __init__(self, machines: int) -> None:
        self.parts: dict[int, bytes] = {}
        self.all: list[bytes] = []
        self.barrier = threading.Barrier(machines, action=self._close)

    def _close(self) -> None:
        self.all, self.parts = [self.parts[m] for m in sorted(self.parts)], {}

    def gather(self, machine: int, part: bytes, timeout: float) -> list[bytes]:
        if self.barrier.broken:
            raise TimeoutError("a machine did not send its bytes in an earlier round; it takes a new group")
        if machine in self.parts:
            self.barrier.abort()
            raise ValueError(f"machine_id is {machine} on 2 machines; it takes one of its own for each")
        self.parts[machine] = part
        try:
            self.barrier.wait(timeout)
            found = self.all
            self.barrier.wait(timeout)  # no one begins the next round before all have read this one
        except threading.BrokenBarrierError:
            raise TimeoutError(f"a machine did not send its bytes within {timeout:g} s") from None
        return found


class DistributedTransport(Transport):
    """Machines that are ranks of a `torch.distributed` group, each of which sends its bytes to all.

    Parameters
    ----------
    group
        The process group, by default the one of all ranks.

    Raises
    ------
    RuntimeError
        Where `torch.distributed` isn't initialised.

    Examples
    --------
    >>> DistributedTransport()
    Traceback (most recent call last):
    ...
    RuntimeError: torch.distributed is not initialised; call torch.distributed.init_process_group first
    """

    def __init__(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise RuntimeError("torch.distributed is not initialised; call torch.distributed.init_process_group first")
        self.group = group

    def exchange(self, mine: Round, digest: bytes) -> Round:
        """Gather the bytes of all ranks, as `Transport.exchange` says.

        Parameters
        ----------
        mine, digest
            As in `Transport.exchange`.

        Returns
        -------
        Round
            The round of all ranks.
        """
        data = torch.frombuffer(bytearray(digest + mine.to_bytes()), dtype=torch.uint8)
        if torch.distributed.get_backend(self.group) == "nccl":
            data = data.cuda()
        ranks = torch.distributed.get_world_size(self.group)
        sizes = [torch.zeros(1, dtype=torch.int64, device=data.device) for _ in range(ranks)]
        torch.distributed.all_gather(sizes, torch.tensor([len(data)], device=data.device), group=self.group)
        longest = max(int(n) for n in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8, device=data.device) for _ in range(ranks)]
        padded = torch.nn.functional.pad(data, (0, longest - len(data)))
        torch.distributed.all_gather(parts, padded, group=self.group)
        return _join([bytes(p[: int(n)].cpu().numpy()) for p, n in zip(parts, sizes, strict=True)])
