"""Times that can be compared: every job in turn, many times, on the same machine in the same minute."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from paperworks.evidence.run import Run


def interleaved(run: Run, jobs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Run the jobs in turn, `repeats` times after one round to warm up, and return each one's median in seconds.

    Whatever slows the machine down for a while then slows all of them, and their ratio keeps its meaning.

    Examples
    --------
    >>> sorted(interleaved(Run("smoke"), {"ours": lambda: None, "theirs": lambda: None}, 3))
    ['ours', 'theirs']
    """
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in run.progress(range(repeats), label="timing"):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}
