"""Traces of many nodes: chains, grids and random graphs, how long feedback takes on them, and what it should reach."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from paperworks.optimization import node
from paperworks.papers.trace.arithmetic import BINARY, Recipe


def chain(length: int) -> Any:
    """Trace a chain of sums and products."""
    a, b = node(1.0, trainable=True), node(1e-4)
    x = a
    for i in range(length):
        x = x + b if i % 2 else x * b
    return x


def grid(count: int) -> Any:
    """Trace a square grid in which each node has the one above and the one before as arguments."""
    side = max(2, round(math.sqrt(count)))
    row = [node(1.0 / side, trainable=i == 0) for i in range(side)]
    for _ in range(side - 1):
        above, row = row, [row[0] * 0.5]
        for x in above[1:]:
            row.append(row[-1] + x)
    return row[-1]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of a timed part, as `timeit` does."""
    gc.collect()
    gc.freeze()  # to look through all that is imported takes longer than what is timed: do it once
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def backward_seconds(make: Callable[[int], Any], size: int, tries: int = 3) -> float:
    found = []
    with no_collection():
        for _ in range(tries):
            output = make(size)
            started = time.perf_counter()
            output.backward("higher")
            found.append(time.perf_counter() - started)
    return min(found)


def by_definition(recipe: Recipe) -> list[bool]:
    """Return which nodes of a recipe are in the minimal subgraph by its definition: paths, then direct parents."""
    count = len(recipe.inputs) + len(recipe.steps)
    edges: list[list[int]] = [[] for _ in recipe.inputs]
    edges += [[i, j] if n in BINARY else [i] for n, i, j in recipe.steps]
    leads = np.eye(count, dtype=bool)  # leads[a, b]: there is a path from a to b
    for b in range(count):
        for a in edges[b]:
            leads[:, b] |= leads[:, a]
    on_path = np.zeros(count, dtype=bool)
    for p in range(recipe.trainable):
        on_path |= leads[p] & leads[:, -1]
    inside = on_path.copy()
    for b in np.flatnonzero(on_path).tolist():
        inside[edges[b]] = True
    return inside.tolist()


def bare(recipe: Recipe) -> list[Any]:
    """Trace a recipe with one operator for each of its steps."""
    values: list[Any] = [node(x, trainable=i < recipe.trainable) for i, x in enumerate(recipe.inputs)]
    for name, i, j in recipe.steps:
        values.append(np.hypot(values[i], values[j]) if name in BINARY else np.tanh(values[i]))
    return values
