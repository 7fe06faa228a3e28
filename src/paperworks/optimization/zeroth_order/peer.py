"""A machine that takes part in a training, from joining to leaving."""

from collections.abc import Callable
from typing import Any

from paperworks.core.validation import check_count
from paperworks.optimization.zeroth_order.optimizer import OneByteSPSA
from paperworks.optimization.zeroth_order.tcp import TCPTransport
from paperworks.optimization.zeroth_order.transports import ReplicaDivergence
from paperworks.optimization.zeroth_order.wire import Address


class Peer:
    """One machine of a training over TCP.

    Parameters
    ----------
    optimiser
        Its optimiser, whose transport is a `TCPTransport`.

    Raises
    ------
    TypeError
        Where the optimiser has no such transport.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import OneByteSPSA, TCPTransport
    >>> w = torch.ones(3)
    >>> with Peer(OneByteSPSA([w], lr=0.1, transport=TCPTransport())) as peer:
    ...     losses = peer.run(lambda: w.square().sum(), steps=5)
    >>> len(losses)
    5
    """

    def __init__(self, optimiser: OneByteSPSA) -> None:
        if not isinstance(optimiser, OneByteSPSA) or not isinstance(optimiser.transport, TCPTransport):
            raise TypeError("optimiser has no TCPTransport; it takes a OneByteSPSA with one")
        self.optimiser = optimiser
        self.transport: TCPTransport = optimiser.transport

    @property
    def address(self) -> Address:
        """Where this machine listens."""
        return self.transport.address

    def join(self, address: Address) -> None:
        """Enter a training: take over its log, replay it, and take part from the next round on.

        A machine with the weights that the training began with gets the log alone; another one gets the weights too.

        Parameters
        ----------
        address
            Host and port of any machine that takes part.

        Raises
        ------
        ConnectionError
            Where nobody answers.
        ValueError
            Where the others refuse, since parameters or recipe differ or the identity is taken.
        """
        self.transport.join(address)

    def run(
        self, closure: Callable[..., Any], steps: int, callback: Callable[[OneByteSPSA], Any] | None = None
    ) -> list[Any]:
        """Take part until the training has gone a number of rounds further; weights that differ are fetched anew.

        Parameters
        ----------
        closure
            Returns the loss, as in `OneByteSPSA.step`.
        steps
            How many rounds.
        callback
            Called after each round with the optimiser; it stops by raising StopIteration.

        Returns
        -------
        list
            Loss of each round that this machine evaluated, None for the others.
        """
        losses: list[Any] = []
        end, diverged = self.optimiser.round + check_count("steps", steps), 0
        while self.optimiser.round < end:
            try:
                losses.append(self.optimiser.step(closure))
                diverged = 0
            except ReplicaDivergence:
                diverged += 1
                if diverged == 3:
                    raise
                self.transport.rejoin()
                continue
            try:
                if callback is not None:
                    callback(self.optimiser)
            except StopIteration:
                break
        return losses

    def leave(self) -> None:
        """Say goodbye: the others don't wait for this machine any more."""
        self.transport.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.leave()
