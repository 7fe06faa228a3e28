"""Times that can be compared: every job in turn, many times, on the same machine in the same minute."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paperworks.evidence import estimates
from paperworks.evidence.estimates import Estimate
from paperworks.evidence.run import Run


@dataclass(frozen=True)
class Times:
    """Seconds of jobs that ran in turn, round by round.

    Parameters
    ----------
    seconds
        One duration for each round, by the name of the job.

    Examples
    --------
    >>> times = Times({"ours": [1.0, 2.0, 1.5], "theirs": [2.0, 4.0, 2.5]})
    >>> times.median("ours"), times.ratio("ours", "theirs").value
    (1.5, 0.5)
    """

    seconds: Mapping[str, list[float]]

    def median(self, job: str) -> float:
        """Return the median seconds of a job.

        Returns
        -------
        float
            Median duration over the rounds, in seconds.
        """
        return statistics.median(self.seconds[job])

    def medians(self) -> dict[str, float]:
        """Return the median seconds of every job.

        Returns
        -------
        dict[str, float]
            Median duration in seconds by the name of the job.
        """
        return {job: self.median(job) for job in self.seconds}

    def ratio(self, ours: str, theirs: str) -> Estimate:
        """Return the median over rounds of one job's seconds / another's in the same round, with its interval.

        Parameters
        ----------
        ours, theirs
            Names of the two jobs.

        Returns
        -------
        Estimate
            The median ratio, without unit, and its interval.
        """
        return estimates.ratio(self.seconds[ours], self.seconds[theirs])


def interleaved(run: Run, jobs: Mapping[str, Callable[[], Any]], repeats: int) -> Times:
    """Run the jobs in turn, after one round to warm up, and return the seconds of each.

    Whatever slows the machine down for a while then slows all of them, and their ratio keeps its meaning. The order
    turns round from one round to the next, so that no job always follows the same other one.

    Parameters
    ----------
    run
        Whose effort multiplies the repeats, and which is told how far it got.
    jobs
        By name, functions without arguments.
    repeats
        How many rounds; six or more have an interval at 95 %.

    Returns
    -------
    Times
        Seconds of each job, one duration for each round.

    Examples
    --------
    >>> times = interleaved(Run("smoke"), {"ours": lambda: None, "theirs": lambda: None}, 3)
    >>> len(times.seconds["ours"])
    3
    """
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in run.progress(range(repeats * run.effort), label="timing"):
        for name in list(jobs) if number % 2 == 0 else reversed(list(jobs)):
            started = time.perf_counter()
            jobs[name]()
            seconds[name].append(time.perf_counter() - started)
    return Times(seconds)
