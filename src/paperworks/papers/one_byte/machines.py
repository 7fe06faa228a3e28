"""Machines that train on a quadratic, in threads or in processes of their own, none of which is waited for forever."""

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from paperworks.optimization import OneByteSPSA, Peer, TCPTransport

MODULES = ["torch", "torch._dynamo", "paperworks.papers.one_byte.machines"]  # the second by all optimisers of torch
ANSWER = 120.0  # seconds within which a process answers


def quadratic_peer(machine: int, peers: list[Any], machines: int) -> Peer:
    """Return a machine whose loss is least at a place of its own."""
    w = torch.zeros(1000)
    transport = TCPTransport(peers=peers, machines=machines, timeout=60.0)
    return Peer(OneByteSPSA([w], lr=1e-3, machine_id=machine, transport=transport))


def run_peer(peer: Peer, steps: int) -> None:
    """Take a machine some rounds further."""
    (w,) = peer.optimiser.tensors
    target = torch.linspace(-1, 1, len(w)) + 0.1 * peer.optimiser.machine_id
    peer.run(lambda: (w - target).square().mean(), steps)


def at_once(*calls: Callable[[], Any], within: float = 600.0) -> None:
    """Make calls at once, each in a thread, and raise what one raised, or TimeoutError."""
    failures: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    end = time.monotonic() + within
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"{sum(t.is_alive() for t in threads)} of {len(threads)} didn't end within {within:g} s")


def fresh_processes() -> Any:
    """Return a context whose processes have none of this one's threads and locks."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)  # imported once, for all processes that are ever started
    return context


def peer_process(machine: int, peers: list[Any], machines: int, pipe: Connection) -> None:
    """Run a machine that is told over a pipe what to do, and answers with its weights, digest and log."""
    torch.set_num_threads(1)
    with quadratic_peer(machine, peers, machines) as peer:
        pipe.send(peer.address)
        while True:
            task, value = pipe.recv()
            if task == "run":
                run_peer(peer, value - peer.optimiser.round)
            elif task == "join":
                peer.join(value)
            else:
                peer.transport.wait(value)
            optimiser = peer.optimiser
            pipe.send((optimiser.tensors[0].numpy().tobytes(), optimiser.digest, optimiser.log.to_bytes()))


class Machine:
    """A process that takes part."""

    def __init__(self, machine: int, peers: list[Any], machines: int) -> None:
        context = fresh_processes()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=peer_process, args=(machine, peers, machines, theirs), daemon=True)
        self.process.start()
        theirs.close()  # lest this end outlives the process
        self.address = self.answer()

    def answer(self) -> Any:
        """Return what the process sends next; it is killed where it doesn't in time."""
        limit = threading.Timer(ANSWER, self.process.kill)
        limit.start()
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"a machine died, or did not answer within {ANSWER:g} s") from None
        finally:
            limit.cancel()

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self.process.kill()
        self.process.join(10)


def told(machines: list[Machine], task: str, value: Any) -> list[Any]:
    """Let machines do something at once, and return what they answer."""
    for machine in machines:
        machine.pipe.send((task, value))
    return [machine.answer() for machine in machines]
