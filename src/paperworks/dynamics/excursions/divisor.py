"""The law whose geometric sums are excursion times."""

import math
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from paperworks.core.validation import check_count
from paperworks.dynamics.excursions.covariances import Array, StationaryCovariance, clipped_mean
from paperworks.dynamics.excursions.quadrature import TimeGrid

_TABLE = 2**15
_DEEPEST = 41.0  # of -log(survival): nothing that is drawn from 64 bits lies deeper


class Divisor:
    r"""The law with survival function $E_0$, of which excursion times are sums of a geometric number (Eq. 3).

    `SlepianIIA.divisor` makes it. Its methods are those of a frozen distribution of `scipy.stats`; times are in the
    unit of the process.

    Parameters
    ----------
    covariance
        The correlation of the process, whose clipped mean must be a survival function.
    grid
        Nodes for integrals over time.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion, SlepianIIA
    >>> law = SlepianIIA(Diffusion(2)).divisor
    >>> round(float(law.sf(law.ppf(0.25))), 12)
    0.75
    """

    def __init__(self, covariance: StationaryCovariance, grid: TimeGrid) -> None:
        self.covariance, self._grid = covariance, grid

    def sf(self, t: ArrayLike) -> Array:
        """Return the probability to exceed t.

        Parameters
        ----------
        t
            Times; before 0 the probability is 1.

        Returns
        -------
        ndarray
            Probabilities, of the shape of `t`.
        """
        times = np.asarray(t, dtype=np.float64)
        return np.where(times > 0, clipped_mean(self.covariance, np.maximum(times, 0)), 1.0)

    def cdf(self, t: ArrayLike) -> Array:
        """Return the distribution function.

        Parameters
        ----------
        t
            Times since the crossing.

        Returns
        -------
        ndarray
            Probabilities, of the shape of `t`.
        """
        return 1 - self.sf(t)

    def pdf(self, t: ArrayLike) -> Array:
        """Return the density, in 1 / time; infinite at 0 for processes rougher than Matérn's with nu = 3 / 2.

        Parameters
        ----------
        t
            Times; before 0 the density is 0.

        Returns
        -------
        ndarray
            Densities, of the shape of `t`.
        """
        times = np.asarray(t, dtype=np.float64)
        scale = 1 / math.sqrt(self.covariance.lambda2)
        # At 0 the formula is 0 / 0, and it loses its digits as the survival function comes near 1.
        exact = (times > 0) & (self.cdf(times) > 1e-8)
        safe = np.where(exact, times, np.maximum(times, 1e-4 * scale))
        r, slope, bend = self.covariance(safe), self.covariance.d1(safe), self.covariance.d2(safe)
        rest = self.covariance.complement(safe)
        rest = rest * (2 - rest)
        found = (bend * rest + r * slope**2) / rest**1.5 * scale
        return np.where(times < 0, 0.0, np.maximum(found, 0.0))

    def mean(self) -> float:
        """Return the mean, half of that of excursions.

        Returns
        -------
        float
            The integral of the survival function.
        """
        return self._grid.transform(0.0)

    def isf(self, p: ArrayLike) -> Array:
        """Return the times that are exceeded with probability p.

        Parameters
        ----------
        p
            Probabilities; what lies outside [0, 1] gives NaN.

        Returns
        -------
        ndarray
            Times, of the shape of `p`.
        """
        share = np.asarray(p, dtype=np.float64)
        inside = (share > 0) & (share < 1)
        goal = np.where(inside, share, 0.5)
        depth = np.sqrt(-np.log(goal))
        deepest = self._inverse.x[-1]
        t = self._inverse(np.minimum(depth, deepest))
        # Newton's steps from an interpolant, in the logarithm; those beyond its end have to walk on from there.
        for _ in range(3 if (depth <= deepest).all() else 200):
            value, density = self.sf(t), self.pdf(t)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.log(value / goal) * value / density
            t = np.where(np.isfinite(step), np.clip(t + step, 0.5 * t, 2 * t), t)
        edges = np.where(share == 0, np.inf, np.where(share == 1, 0.0, np.nan))
        return np.where(inside, t, edges)

    def ppf(self, q: ArrayLike) -> Array:
        """Return quantiles.

        Parameters
        ----------
        q
            Probabilities; what lies outside [0, 1] gives NaN.

        Returns
        -------
        ndarray
            Times, of the shape of `q`.
        """
        return self.isf(1 - np.asarray(q, dtype=np.float64))

    def rvs(self, size: int = 1, random_state: int | np.random.Generator | None = None) -> Float[np.ndarray, " n"]:
        """Draw from the law.

        Parameters
        ----------
        size
            How many to draw.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        ndarray
            Independent draws, `size` of them.
        """
        return self._drawn(check_count("size", size, at_least=0), np.random.default_rng(random_state))

    def _drawn(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
        # The root of -log(survival) is linear in time near 0, and its square far out: a table in it is even.
        places = np.sqrt(np.minimum(rng.standard_exponential(n), _DEEPEST)) * (_TABLE / math.sqrt(_DEEPEST))
        lower = np.minimum(places.astype(np.int64), _TABLE - 1)
        found = self._table[lower]
        found += (places - lower) * self._steps[lower]
        return found

    @cached_property
    def _inverse(self) -> PchipInterpolator:
        scale = 1 / math.sqrt(self.covariance.lambda2)
        start = np.geomspace(1e-60 * scale, self._grid.t[-1], 4096)
        t = np.unique(np.concatenate([start, self._grid.t]))
        with np.errstate(divide="ignore"):
            depth = -np.log(clipped_mean(self.covariance, t))
        keep = np.isfinite(depth) & (depth > np.maximum.accumulate(np.append(1e-13, depth[:-1])) * (1 + 1e-14))
        root = np.sqrt(np.append(0.0, depth[keep]))
        return PchipInterpolator(root, np.append(0.0, t[keep]), extrapolate=True)

    @cached_property
    def _table(self) -> Float[np.ndarray, " m"]:
        return np.asarray(self._inverse(np.linspace(0, math.sqrt(_DEEPEST), _TABLE + 1)))

    @cached_property
    def _steps(self) -> Float[np.ndarray, " n"]:
        return np.diff(self._table)
