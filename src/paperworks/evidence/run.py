"""The run that a claim's function gets, and the decorators that tie functions to claims and peers."""

import ast
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paperworks.core.cache import cached, trained
from paperworks.evidence.measurement import Measurement
from paperworks.evidence.record import Scale

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

T = TypeVar("T")


def _silent(done: float, total: float | None, label: str) -> None: ...


@dataclass(frozen=True)
class Run:
    """One run of one claim or race: how much to do, from which seeds, and where to report.

    Where a verdict is still undecided, the function runs again with twice the `seeds` and twice the `effort`.

    Parameters
    ----------
    scale
        "smoke", "desk" or "full".
    seeds
        What is random is measured once for each of them.
    effort
        By what the repetitions are multiplied that `repeats` gives.
    report
        Told how far the function got.
    log
        For what only a developer wants to see.
    cache_folder
        Where `cached` and `trained` keep things; the user's cache folder by default.

    Examples
    --------
    >>> run = Run(scale="smoke", seeds=(0,))
    >>> run.at(smoke=10, desk=1000, full=50_000)
    10
    >>> sum(run.progress(range(4)))
    6
    """

    scale: Scale = "desk"
    seeds: tuple[int, ...] = (0,)
    effort: int = 1
    report: Callable[[float, float | None, str], None] = _silent
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("paperworks.run"))
    cache_folder: Path | None = None

    @property
    def seed(self) -> int:
        """The first seed: the one for what is done once."""
        return self.seeds[0]

    def at(self, *, smoke: T, desk: T, full: T) -> T:
        """Return the setting of the run's scale.

        Parameters
        ----------
        smoke, desk, full
            The settings of the three scales.

        Returns
        -------
        T
            The one of the three that the run's scale picks.
        """
        return {"smoke": smoke, "desk": desk, "full": full}[self.scale]

    def repeats(self, *, smoke: int, desk: int, full: int) -> int:
        """Return how many repetitions or rounds to take: those of the run's scale, times its effort.

        Parameters
        ----------
        smoke, desk, full
            Repetitions or rounds at the three scales.

        Returns
        -------
        int
            The number of the run's scale times the effort.
        """
        return self.effort * self.at(smoke=smoke, desk=desk, full=full)

    def rng(self, seed: int | None = None) -> "np.random.Generator":
        """Return a NumPy generator from `seed`, by default the run's first.

        Returns
        -------
        np.random.Generator
            A NumPy generator from `seed`, by default the run's first.
        """
        import numpy as np

        return np.random.default_rng(self.seed if seed is None else seed)

    def torch_rng(self, seed: int | None = None, device: str = "cpu") -> "torch.Generator":
        """Return a torch generator from `seed`, by default the run's first.

        Parameters
        ----------
        seed
            Seed of the generator, by default the run's first.
        device
            Device that the generator draws on.

        Returns
        -------
        torch.Generator
            A torch generator from `seed`, by default the run's first.
        """
        import torch

        return torch.Generator(device).manual_seed(self.seed if seed is None else seed)

    def progress(self, items: Iterable[T], total: int | None = None, label: str = "") -> Iterator[T]:
        """Iterate over `items` and report how far it got.

        Parameters
        ----------
        items
            What is gone through, an iterable of any length.
        total
            How many items there are, by default the length of `items` where it has one.
        label
            What the steps are, for whoever watches.

        Returns
        -------
        Iterator[T]
            The items one after the other.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.report(0, total, label)
        for done, item in enumerate(items, start=1):
            yield item
            self.report(done, total, label)

    def figure(self, nrows: int = 1, ncols: int = 1, **kwargs: Any) -> tuple["Figure", Any]:
        """Return a figure and its axes in the house style; `kwargs` go to `Figure.subplots`.

        Parameters
        ----------
        nrows, ncols
            Rows and columns of axes.

        Returns
        -------
        tuple[Figure, Any]
            The figure and its axes: one, or an array of them.
        """
        from paperworks.evidence.figures import new_figure

        return new_figure(nrows, ncols, **kwargs)

    def cached(self, name: str, make: Callable[[], T], **inputs: Any) -> T:
        """Return what `make` returns, made once for these inputs and this code: see `paperworks.core.cache.cached`.

        Parameters
        ----------
        name
            Name of what is made, which its file begins with.

        Returns
        -------
        T
            What `make` returned, from the cache where it was made before.
        """
        return cached(name, make, inputs, root=self.cache_folder)

    def trained(
        self, name: str, network: "torch.nn.Module", train: "Callable[[torch.nn.Module], Any]", **inputs: Any
    ) -> "torch.nn.Module":
        """Return a network trained once for these inputs and this code: see `paperworks.core.cache.trained`.

        Parameters
        ----------
        name
            Name of the network, which its file begins with.
        network
            The untrained network, which is trained or loaded in place.
        train
            Trains the network that it is called with.

        Returns
        -------
        torch.nn.Module
            The network itself with trained weights.
        """
        return trained(name, network, train, inputs, root=self.cache_folder)


Measure = Callable[[Run], Measurement]
"""A function that measures a claim or runs a race."""


@dataclass(frozen=True)
class Task:
    """A claim's or a race's function with what the runner must know of it."""

    id: str
    kind: str  # "claim" or "peer"
    function: Measure
    exclusive: bool


_ATTRIBUTE = "__paperworks_task__"


def measures(claim_id: str, *, exclusive: bool = False) -> Callable[[Measure], Measure]:
    """Tie a function to the claim it measures; an `exclusive` one (it measures time) runs alone.

    Parameters
    ----------
    claim_id
        The claim's `id` in the record.
    exclusive
        Whether nothing else may run beside it.

    Returns
    -------
    Callable[[Measure], Measure]
        Decorator that gives the function back as it is.

    Examples
    --------
    >>> @measures("c1-order")
    ... def order(run: Run) -> Measurement:
    ...     return Measurement(3.0)
    """
    return _tie("claim", claim_id, exclusive)


def races(peer_id: str, *, exclusive: bool = True) -> Callable[[Measure], Measure]:
    """Tie a function to the peer it races against; it runs alone unless told otherwise.

    Parameters
    ----------
    peer_id
        The peer's `id` in the record.
    exclusive
        Whether nothing else may run beside it.

    Returns
    -------
    Callable[[Measure], Measure]
        Decorator that gives the function back as it is.
    """
    return _tie("peer", peer_id, exclusive)


def _tie(kind: str, id: str, exclusive: bool) -> Callable[[Measure], Measure]:
    def decorate(function: Measure) -> Measure:
        setattr(function, _ATTRIBUTE, Task(id, kind, function, exclusive))
        return function

    return decorate


def tasks_of(namespace: Mapping[str, Any]) -> dict[tuple[str, str], Task]:
    """Collect the tasks of a module's namespace by (kind, id).

    Raises
    ------
    ValueError
        Where two functions are tied to the same claim or peer.
    """
    found: dict[tuple[str, str], Task] = {}
    for value in namespace.values():
        task = getattr(value, _ATTRIBUTE, None)
        if not isinstance(task, Task):
            continue
        if (task.kind, task.id) in found:
            raise ValueError(f"{task.kind} '{task.id}' has two functions")
        found[task.kind, task.id] = task
    return found


def exclusive_tasks(source: str) -> set[tuple[str, str]]:
    r"""Find in a module's source, without importing what it imports, the tasks that run alone, by (kind, id).

    Decorators are found whose arguments are literals; a source that doesn't parse has none.

    Examples
    --------
    >>> sorted(exclusive_tasks("@measures('c1', exclusive=True)\ndef c1(run): ...\n@races('scipy')\ndef r(run): ..."))
    [('claim', 'c1'), ('peer', 'scipy')]
    """
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError):
        return set()
    found = set()
    for call in calls:
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        if name not in ("measures", "races") or not call.args or not isinstance(call.args[0], ast.Constant):
            continue
        stated = [k.value.value for k in call.keywords if k.arg == "exclusive" and isinstance(k.value, ast.Constant)]
        if stated[0] if stated else name == "races":
            found.add(("claim" if name == "measures" else "peer", str(call.args[0].value)))
    return found
