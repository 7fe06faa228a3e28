"""Excursions of simulated paths, and exact probabilities on grids, to hold approximations against."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import toeplitz
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.excursions.covariances import StationaryCovariance, check_covariance

Matrix = Float[np.ndarray, "n n"]
Draw = Callable[[int, np.random.Generator], Float[np.ndarray, " n"]]
_BLOCK = 4096  # paths that are simulated at once


def slepian_model(
    covariance: StationaryCovariance, t: ArrayLike
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    r"""Return the parts of the process as seen from an up-crossing of 0: $X_0(t) = R a(t) + \Delta(t)$.

    Parameters
    ----------
    covariance
        The correlation of the process.
    t
        Times > 0 after the crossing.

    Returns
    -------
    slope : ndarray
        $a(t) = -r'(t) / \sqrt{\lambda_2}$, which a Rayleigh variable R multiplies.
    covariance : ndarray
        The covariances of the Gaussian part, which is independent of R.

    Examples
    --------
    >>> from paperworks.dynamics import SquaredExponential
    >>> slope, rest = slepian_model(SquaredExponential(), [0.5, 1.0])
    >>> slope.round(4), rest.diagonal().round(4)
    (array([0.4412, 0.6065]), array([0.0265, 0.2642]))
    """
    r = check_covariance(covariance)
    times = np.asarray(t, dtype=np.float64)
    if times.ndim != 1 or not (times > 0).all() or not np.isfinite(times).all():
        raise ValueError(f"t has shape {times.shape}; it takes a list of finite times > 0")
    slope = -r.d1(times) / math.sqrt(r.lambda2)
    values = r(times)
    return slope, r(times[:, None] - times) - np.outer(values, values) - np.outer(slope, slope)


def simulate_excursions(
    covariance: StationaryCovariance,
    n: int,
    dt: float,
    t_max: float,
    method: Literal["slepian", "circulant"] = "slepian",
    random_state: int | np.random.Generator | None = None,
) -> Float[np.ndarray, " n"]:
    """Simulate how long paths stay above 0 after an up-crossing.

    Crossings between two points of the grid are interpolated. Excursions that begin and end between two points are
    missed, which is an error of second order in `dt` for processes with two derivatives and of first order else.

    Parameters
    ----------
    covariance
        The correlation of the process.
    n
        How many excursions to simulate.
    dt
        Step of the grid, in the unit of time.
    t_max
        Longest time that is followed.
    method
        ``slepian`` draws paths as seen from an up-crossing, by Cholesky's factor; ``circulant`` takes all up-crossings
        of long stationary paths, drawn by fast Fourier transforms, so that its excursions are weakly dependent.
    random_state
        A seed, or NumPy's generator.

    Returns
    -------
    ndarray
        Durations; infinite where an excursion outlasts `t_max`.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion
    >>> times = simulate_excursions(Diffusion(2), n=2000, dt=0.1, t_max=20.0, random_state=0)
    >>> bool(0.35 < (times > 6).mean() < 0.43)
    True
    """
    r = check_covariance(covariance)
    count = check_count("n", n)
    step = check_number("dt", dt, gt=0)
    last = check_number("t_max", t_max, ge=2 * step)
    check_choice("method", method, ("slepian", "circulant"))
    rng = np.random.default_rng(random_state)
    grid = step * np.arange(1, math.ceil(last / step * (1 - 1e-12)) + 1)
    found, total = [], 0
    draw = _slepian_paths(r, grid) if method == "slepian" else _stationary_paths(r, step, len(grid))
    while total < count:
        durations = draw(min(_BLOCK, count - total), rng)
        found.append(durations)
        total += len(durations)
    times = np.concatenate(found)[:count]
    return np.where(times <= last, times, np.inf)


def _slepian_paths(r: StationaryCovariance, grid: Float[np.ndarray, " m"]) -> Draw:
    slope, cov = slepian_model(r, grid)
    factor = _root(cov)
    step, speed = grid[0], math.sqrt(r.lambda2)

    def draw(n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
        rayleigh = np.sqrt(-2 * np.log1p(-rng.random(n)))
        durations = np.full(n, np.inf)
        alive, normals = np.arange(n), np.empty((n, 0))
        last = np.zeros(n)
        # Column blocks of the factor, so that paths that have ended cost nothing more.
        for start in range(0, len(grid), 64):
            stop = min(start + 64, len(grid))
            normals = np.hstack([normals, rng.standard_normal((len(alive), stop - start))])
            paths = normals @ factor[start:stop, :stop].T + rayleigh[alive, None] * slope[start:stop]
            paths = np.hstack([last[:, None], paths])
            below = paths[:, 1:] < 0
            ended = below.any(1)
            place = below[ended].argmax(1)
            before = paths[ended, place]
            after = paths[ended, place + 1]
            with np.errstate(invalid="ignore"):
                share = before / (before - after)
            # In the first step the path starts at 0 and is a parabola with the crossing's own speed.
            first = rayleigh[alive[ended]] * speed * step
            share = np.where((place == 0) & (start == 0), first / (first - after), share)
            durations[alive[ended]] = (start + place + share) * step
            alive, normals, last = alive[~ended], normals[~ended], paths[~ended, -1]
            if not len(alive):
                break
        return durations

    return draw


def _stationary_paths(r: StationaryCovariance, step: float, m: int) -> Draw:
    """Return a function that draws a stationary path and gives the durations of its excursions."""
    size = 1 << math.ceil(math.log2(max(16 * m, 4096)))
    lags = np.minimum(np.arange(2 * size), 2 * size - np.arange(2 * size)) * step
    spectrum = np.fft.rfft(r(lags)).real
    if spectrum.min() < -1e-6 * spectrum.max():
        raise ValueError(f"covariance is {r!r}, which doesn't fall off within {size * step:g}; it takes a longer t_max")
    amplitude = np.sqrt(np.maximum(spectrum, 0))

    def draw(n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
        path = np.fft.irfft(amplitude * np.fft.rfft(rng.standard_normal(2 * size)))[:size]
        places = np.flatnonzero((path[:-1] < 0) != (path[1:] < 0))
        crossings = places + path[places] / (path[places] - path[places + 1])
        durations = np.append(np.diff(crossings) * step, np.inf)
        # Only those that could be followed to the end, so that long ones are as frequent as they are.
        taken = (path[places] < 0) & (places < size - m - 1)
        return np.where(durations[taken] <= m * step, durations[taken], np.inf)

    return draw


def _root(covariance: Matrix) -> Matrix:
    """Return a lower triangular root, of the nearest matrix that has one where rounding is in the way."""
    jitter = 0.0
    for _ in range(12):
        try:
            return np.linalg.cholesky(covariance + jitter * np.eye(len(covariance)))
        except np.linalg.LinAlgError:
            jitter = max(10 * jitter, 1e-15 * float(covariance.diagonal().max()))
    raise ValueError("covariance has a matrix that is far from positive definite; it takes a correlation function")


@dataclass(frozen=True)
class PersistenceProbability:
    """Probabilities to stay above 0 up to each time of a grid.

    Parameters
    ----------
    t
        The times, from 0.
    probability
        Probabilities that the process is above 0 at all times of the grid so far.
    standard_error
        Their standard errors, from randomised points.

    Examples
    --------
    >>> found = PersistenceProbability(np.arange(2.0), np.array([0.5, 0.4]), np.array([0.0, 1e-4]))
    >>> float(found.probability[found.t == 1][0])
    0.4
    """

    t: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    standard_error: Float[np.ndarray, " n"]


def persistence_probability(
    covariance: StationaryCovariance,
    t: float,
    n_grid: int,
    method: Literal["genz"] = "genz",
    n_qmc: int = 2**15,
    *,
    seen_from: Literal["anywhere", "up-crossing"] = "anywhere",
    random_state: int | np.random.Generator | None = None,
) -> PersistenceProbability:
    """Compute the probability that the process is above 0 at all times of a grid up to t.

    Genz's separation of variables on scrambled Sobol' points, in the order of time, so that one run gives the
    probabilities of all shorter intervals too. On a grid crossings in pairs are missed: let it become finer.

    Parameters
    ----------
    covariance
        The correlation of the process.
    t
        The last time.
    n_grid
        Steps of the grid, up to about 100.
    method
        Genz's, ``genz``, is the one there is.
    n_qmc
        Points in all, in eight independent randomisations; 2^15 by default.
    seen_from
        ``anywhere`` for the stationary process on [0, t]; ``up-crossing`` for Slepian's model, of which this is the
        survival function of the excursion.
    random_state
        A seed, or NumPy's generator.

    Returns
    -------
    PersistenceProbability
        Times, probabilities and standard errors.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion
    >>> found = persistence_probability(Diffusion(2), t=1.0, n_grid=1, n_qmc=2**10, random_state=0)
    >>> exact = 0.25 + np.arcsin(Diffusion(2)(1.0)) / (2 * np.pi)
    >>> bool(abs(found.probability[1] - exact) < 1e-4)
    True
    """
    r = check_covariance(covariance)
    last, steps = check_number("t", t, gt=0), check_count("n_grid", n_grid)
    check_choice("method", method, ("genz",))
    check_choice("seen_from", seen_from, ("anywhere", "up-crossing"))
    points = check_count("n_qmc", n_qmc, at_least=64)
    rng = np.random.default_rng(random_state)
    times = np.linspace(0, last, steps + 1)
    stationary = seen_from == "anywhere"
    if stationary:
        slope, factor = np.zeros(steps + 1), _root(toeplitz(r(times)))
    else:
        slope, cov = slepian_model(r, times[1:])
        factor = _root(cov)
    rounds = 8
    curves = []
    for _ in range(rounds):
        dimensions = len(factor) + (not stationary)
        sobol = qmc.Sobol(dimensions, rng=rng).random_base2(max(3, round(math.log2(points / rounds))))
        uniform = np.clip(sobol, 1e-16, 1 - 1e-16)
        level = np.zeros(len(uniform))
        if not stationary:
            level, uniform = np.sqrt(-2 * np.log(uniform[:, 0])), uniform[:, 1:]
        curves.append(_orthant(factor, slope, level, uniform))
    found = np.array(curves)
    if not stationary:
        found = np.hstack([np.ones((rounds, 1)), found])
    return PersistenceProbability(times, found.mean(0), found.std(0, ddof=1) / math.sqrt(rounds))


def _orthant(
    factor: Matrix, slope: Float[np.ndarray, " n"], level: Float[np.ndarray, " q"], uniform: Float[np.ndarray, "q n"]
) -> Float[np.ndarray, " n"]:
    """Return for each k the probability that the first k variables, of means `level * slope`, are above 0."""
    normals = np.empty_like(uniform)
    weight = np.ones(len(uniform))
    found = np.empty(len(factor))
    for k, row in enumerate(factor):
        # The k-th normal has to be above this, given those before it; its upper tail keeps small probabilities exact.
        limit = -(level * slope[k] + normals[:, :k] @ row[:k]) / row[k]
        above = ndtr(-limit)
        weight = weight * above
        found[k] = weight.mean()
        normals[:, k] = -ndtri(np.maximum(uniform[:, k] * above, 1e-300))
    return found
