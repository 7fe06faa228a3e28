"""Measures what median-of-means reports."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean, quantiles

from median_of_means import MedianOfMeans
from paperworks.evidence import Measurement, Run, exact, measures, races, ratio

MEAN = 2.5 / 1.5  # of a Pareto law with index 2.5: its variance is finite, its third moment is not
Estimator = Callable[[Sequence[float]], float]


def pareto(seed: int, repetitions: int, n: int = 200) -> list[list[float]]:
    """Draw samples of a Pareto law."""
    random = Random(seed)
    return [[random.paretovariate(2.5) for _ in range(n)] for _ in range(repetitions)]


def deviation(estimate: Estimator, samples: list[list[float]]) -> float:
    """Return the 99 % quantile of the error."""
    return quantiles([abs(estimate(sample) - MEAN) for sample in samples], n=100)[-1]


def against(other: Estimator, run: Run) -> Measurement:
    """Compare the rare large errors of both, on batches of the same samples."""
    repetitions = run.at(smoke=800, desk=4000, full=40_000)
    batches = [pareto(100 * seed + batch, repetitions) for seed in run.seeds for batch in range(10)]
    ours = [deviation(MedianOfMeans(8), batch) for batch in batches]
    return Measurement(ratio(ours, [deviation(other, batch) for batch in batches], "independent batches"))


@measures("c1-deviation")
def first(run: Run) -> Measurement:
    """Compare with the average."""
    return against(fmean, run)


@measures("c2-one-block")
def second(run: Run) -> Measurement:
    """Compare one block with the average."""
    return Measurement(exact(max(abs(MedianOfMeans(1)(sample) - fmean(sample)) for sample in pareto(0, 20))))


@races("trim-mean")
def against_trim_mean(run: Run) -> Measurement:
    """Compare with SciPy's mean without the 5 % least and greatest values."""
    from scipy.stats import trim_mean

    return against(lambda sample: float(trim_mean(sample, 0.05)), run)
