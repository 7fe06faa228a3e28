"""Uniform points for quasi-Monte Carlo: replicated scrambled Sobol' nets, and what their replicates say of errors."""

import warnings
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import qmc

Sampling = Literal["auto", "sobol", "random"]
REPLICATES = 8  # scrambles of a sample, for errors with seven degrees of freedom
PROFIT = 1 / 3  # a net profits where its variance in the pilot is below this share of that of independent draws: what
# shows no profit passes for one in 6 % of runs, as chi square with 7 degrees of freedom, and what gains tenfold in 99 %
_BITS = 30  # of SciPy's Sobol' points


class Net(NamedTuple):
    """How many scrambles of how many points: ``replicates`` times a power of two."""

    replicates: int
    size: int

    @property
    def total(self) -> int:
        """Points in all."""
        return self.replicates * self.size


def largest_net(n: int, least: int = REPLICATES) -> Net:
    """Return the largest net of at most `n` points: `least` to ``2 least - 1`` scrambles of a power of two."""
    size = 1 << max(0, (n // least).bit_length() - 1)
    return Net(n // size, size)


def smallest_net(n: int, least: int = REPLICATES) -> Net:
    """Return the smallest net of at least `n` points."""
    size = largest_net(max(n, least), least).size
    return Net(max(least, -(-n // size)), size)


def sobol_points(d: int, net: Net, random_state: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """Return points uniform in the open unit cube, one scrambled Sobol' net after the other."""
    children = streams(random_state, net.replicates)
    return np.concatenate([_open(_integers(d, net.size, child), child) for child in children])


def streams(random_state: np.random.Generator, n: int) -> list[np.random.Generator]:
    """Return independent generators that depend on the state of another alone, and advance it.

    Children by `spawn` depend on what the generator was once seeded with, which a restored state and a jump leave out.
    """
    return [np.random.default_rng(seed) for seed in random_state.integers(1 << 63, size=(n, 2))]


def stratified_points(
    shares: Float[np.ndarray, " K"], d: int, n: int, least: int, random_state: np.random.Generator
) -> tuple[Float[np.ndarray, "m more_d"], Float[np.ndarray, " m"], int]:
    """Return at most `n` points uniform in the open unit cube, what each counts, and how many replicates they make.

    The first coordinate is stratified in intervals as wide as the shares, narrow neighbours together; each replicate
    has a net of a power of two points in every one, so that a function that jumps between them is smooth within. Strata
    of a replicate share a linear scramble and are shifted apart. Replicates are consecutive rows, `least` of them, or
    more where rounding to powers of two leaves room.
    """
    size = n // least
    edges = _edges(shares, size)
    widths = np.diff(edges)
    counts = _powers(widths, size)
    factors, replicates = np.repeat(widths / counts, counts) * counts.sum(), n // int(counts.sum())
    rows = []
    for child in streams(random_state, replicates):
        net = _integers(1 + d, int(counts.max()), child)
        for edge, width, count in zip(edges, widths, counts, strict=False):
            mirrored = d == 1 and count > 1
            shifted = net[: count // 2 if mirrored else count] ^ child.integers(1 << _BITS, size=1 + d)
            U = _open(shifted, child)
            U = _mirrored(U) if mirrored else U
            U[:, 0] = edge + width * U[:, 0]
            rows.append(U)
    return np.concatenate(rows), np.tile(factors, replicates), replicates


def _mirrored(U: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "twice_n 2"]:
    """Return points of one variable with their mirror images in its n intervals, which takes away errors of slopes.

    The local antithetics of Owen (2008); with more variables they gain little.
    """
    other = U.copy()
    other[:, 1] = (2 * np.floor(U[:, 1] * len(U)) + 1) / len(U) - U[:, 1]
    return np.concatenate([U, np.clip(other, 2.0**-60, 1 - 2.0**-53)])


def _edges(shares: Float[np.ndarray, " K"], size: int) -> Float[np.ndarray, " S1"]:
    """Return the ends of the strata: those of shares that are worth two points at least."""
    ends = np.cumsum(shares / shares.sum())
    kept = [0.0]
    for end in ends[:-1]:
        if end - kept[-1] >= 2 / size and 1 - end >= 2 / size:
            kept.append(float(end))
    return np.array([*kept, 1.0])


def _powers(widths: Float[np.ndarray, " S"], size: int) -> Int[np.ndarray, " S"]:
    """Return powers of two nearly proportional to the widths, whose sum is at most `size`."""
    counts = np.ones(len(widths), dtype=int)
    while True:
        fits = counts <= size - counts.sum()
        if not fits.any():
            return counts
        counts[np.where(fits, widths / counts, -1.0).argmax()] *= 2


def _integers(d: int, n: int, random_state: np.random.Generator) -> Int[np.ndarray, "n d"]:
    """Return the first scrambled Sobol' points in units of 2^-30."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The balance properties", UserWarning)  # nets of a single point
        return (qmc.Sobol(d, seed=random_state).random(n) * 2**_BITS).astype(np.int64)


def _open(net: Int[np.ndarray, "n d"], random_state: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """Return the points, each moved within its cell: every one is exactly uniform, so that means are unbiased."""
    return np.clip((net + random_state.random(net.shape)) * 2.0**-_BITS, 2.0**-60, 1 - 2.0**-53)


def replicate_means(summands: Float[np.ndarray, "n J"], replicates: int) -> Float[np.ndarray, "R J"]:
    """Return the mean of each replicate of consecutive rows."""
    return summands.reshape(replicates, -1, summands.shape[1]).mean(axis=1)


def covariance_of_mean(means: Float[np.ndarray, "R J"]) -> Float[np.ndarray, "J J"]:
    """Return the covariance of the mean of independent rows."""
    return np.atleast_2d(np.cov(means, rowvar=False)) / len(means)


def net_variance(summands: Float[np.ndarray, "n J"], replicates: int, weights: Float[np.ndarray, " J"]) -> float:
    """Return the weighted variance of the mean as replicates tell it."""
    return float(weights @ np.diagonal(covariance_of_mean(replicate_means(summands, replicates))))
