"""Measures what median-of-means reports."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean, quantiles

from median_of_means import MedianOfMeans
from paperworks.evidence import Measurement, Run, measures, races

MEAN = 2.5 / 1.5  # of a Pareto law with index 2.5: its variance is finite, its third moment is not


def pareto(seed: int, repetitions: int, n: int = 200) -> list[list[float]]:
    """Draw samples of a Pareto law."""
    random = Random(seed)
    return [[random.paretovariate(2.5) for _ in range(n)] for _ in range(repetitions)]


def deviation(estimate: Callable[[Sequence[float]], float], samples: list[list[float]]) -> float:
    """Return the 99 % quantile of the error."""
    return quantiles([abs(estimate(sample) - MEAN) for sample in samples], n=100)[-1]


@measures("c1-deviation")
def first(run: Run) -> Measurement:
    """Compare the rare large errors of both."""
    repetitions = run.at(smoke=2000, desk=10_000, full=100_000)
    ratios = []
    for seed in run.seeds:
        samples = pareto(seed, repetitions)
        ratios.append(deviation(MedianOfMeans(8), samples) / deviation(fmean, samples))
    return Measurement.over_seeds(ratios)


@measures("c2-one-block")
def second(run: Run) -> Measurement:
    """Compare with the average."""
    return Measurement(max(abs(MedianOfMeans(1)(sample) - fmean(sample)) for sample in pareto(0, 20)))


@races("trim-mean")
def against_trim_mean(run: Run) -> Measurement:
    """Compare the rare large errors of both."""
    from scipy.stats import trim_mean

    samples = pareto(run.seeds[0], 2000)
    ours = deviation(MedianOfMeans(8), samples)
    return Measurement(ours / deviation(lambda sample: float(trim_mean(sample, 0.05)), samples))
