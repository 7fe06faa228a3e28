"""How long a stationary Gaussian process stays above 0, by the approximation of independent intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from paperworks.core.validation import check_count, check_number
from paperworks.dynamics.excursions.covariances import Array, StationaryCovariance, check_covariance, clipped_mean
from paperworks.dynamics.excursions.divisor import Divisor
from paperworks.dynamics.excursions.quadrature import TimeGrid, extrapolated, renewal

Status = Literal["valid", "valid numerically", "invalid"]

_POINTS = 2048  # of the coarser grid of the renewal equation
_PER_SCALE = 40
_ROUNDING = 1e-7  # what the renewal equation's solution is known to, with a margin


@dataclass(frozen=True)
class ValidityReport:
    """Whether the approximation gives a distribution.

    Parameters
    ----------
    status
        ``valid``: the clipped mean is a survival function, which suffices; ``valid numerically``: it isn't, but the
        solution of the renewal equation is one as far as it was followed; ``invalid``.
    monotone_covariance
        Whether correlations never rise.
    monotone_mean
        Whether the clipped mean never rises and is never negative.
    rises_at, negative_at
        Times at which the survival function first rises and first is negative; None where it doesn't.
    least
        The least value of the survival function.
    horizon
        The time up to which the equation was followed.

    Examples
    --------
    >>> from paperworks.dynamics import Matern
    >>> report = SlepianIIA(Matern(2.5)).validity()
    >>> report.valid, report.rises_at
    (True, None)
    """

    status: Status
    monotone_covariance: bool
    monotone_mean: bool
    rises_at: float | None
    negative_at: float | None
    least: float
    horizon: float

    @property
    def valid(self) -> bool:
        """Whether it is a distribution, as far as is known."""
        return self.status != "invalid"


@dataclass(frozen=True)
class PersistencyExponent:
    """The rate at which long excursions become rare.

    Parameters
    ----------
    theta
        The exponent, in 1 / time: P(T > t) goes as ``constant * exp(-theta t)``, and so does the stationary process'
        probability to have no zero in [0, t].
    constant
        The factor before the exponential.
    valid
        Whether the approximation gives a distribution at all.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion
    >>> exponent = SlepianIIA(Diffusion(2)).persistency_exponent()
    >>> round(float(exponent), 6), round(exponent.constant, 5)
    (0.186211, 1.19543)
    """

    theta: float
    constant: float
    valid: bool

    def __float__(self) -> float:
        return self.theta


class SlepianIIA:
    r"""Law of the time that a process spends above 0 between an up-crossing and the next down-crossing.

    The mean sign of the process after an up-crossing, which Slepian's model gives in closed form, is matched by that of
    a process that switches after independent intervals (arXiv 2401.01805). All times are in the unit of the process.

    Parameters
    ----------
    covariance
        The correlation of the process.

    Raises
    ------
    TypeError
        For what is no `StationaryCovariance`.

    References
    ----------
    Bengtsson, Podgórski, arXiv 2401.01805, equations 1 to 5.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion
    >>> law = SlepianIIA(Diffusion(2))
    >>> round(law.persistency_exponent().theta, 12), round(law.mean(), 6)
    (0.186210712979, 6.283185)
    >>> [round(float(p), 4) for p in law.sf([1.0, 6.0, 20.0])]
    [0.9428, 0.3911, 0.0288]
    >>> law.validity().status
    'valid'
    """

    def __init__(self, covariance: StationaryCovariance) -> None:
        self.covariance = check_covariance(covariance)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.covariance!r})"

    def clipped_mean(self, t: ArrayLike) -> Array:
        """Return the mean sign of the process at times after an up-crossing (Eq. 1).

        Parameters
        ----------
        t
            Times >= 0.

        Returns
        -------
        ndarray
            Means between -1 and 1, of the shape of `t`.
        """
        return clipped_mean(self.covariance, _times(t))

    def laplace(self, s: ArrayLike) -> Array:
        r"""Return the Laplace transform of the law, $(1 - s L E_0(s)) / (1 + s L E_0(s))$ (Eq. 2).

        Parameters
        ----------
        s
            Real arguments in 1 / time, above minus the persistency exponent.

        Returns
        -------
        ndarray
            The transform, of the shape of `s`; 1 at 0.
        """
        return self._transformed(s, lambda x: x * self._grid.transform(x))

    def _transformed(self, s: ArrayLike, half: Callable[[float], float]) -> Array:
        if np.iscomplexobj(s):
            raise TypeError("s is complex; it takes real numbers")
        points = np.asarray(s, dtype=np.float64)
        if not np.isfinite(points).all():
            raise ValueError("s has NaN or infinite elements; it takes finite numbers")
        matched = np.vectorize(half, otypes=[np.float64])(points)
        if (matched <= -1).any():
            raise ValueError(f"s is down to {points.min():g}; it takes numbers above minus the persistency exponent")
        return (1 - matched) / (1 + matched)

    @property
    def divisor(self) -> Divisor:
        """The law of the variables whose geometric sums are excursions (Eq. 3); ValueError where it is none."""
        if not self._mean_is_survival:
            raise ValueError(f"covariance is {self.covariance!r}, whose clipped mean is no survival function")
        return self._divisor

    def mean(self) -> float:
        r"""Return the mean, twice the integral of the clipped mean.

        Returns
        -------
        float
            Rice's $\pi / \sqrt{\lambda_2}$, where correlations fall to 0.
        """
        return 2 * self._grid.transform(0.0)

    def sf(self, t: ArrayLike) -> Array:
        """Return the probability that an excursion lasts longer than t (Eq. 4).

        The renewal equation is solved on an even grid by the trapezoid rule, extrapolated; errors are about 1e-8 for
        processes no rougher than Matérn's with nu = 3 / 2. Beyond the grid the tail is the exponential one, or where
        correlations fall off more slowly the clipped mean's.

        Parameters
        ----------
        t
            Times; before 0 the probability is 1.

        Returns
        -------
        ndarray
            Probabilities, of the shape of `t`. Where the approximation is invalid, what stands in their place.
        """
        times = _times(t, below=True)
        inside = self._spline(np.clip(times, 0.0, self.horizon))
        if self._start is not None:
            first = np.clip(times, 0.0, self._begin)
            inside = np.where(times < self._begin, self._start(1 - self.clipped_mean(first)), inside)
        return np.where(times > self.horizon, self._tail(np.maximum(times, self.horizon)), inside)

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
        """Return the density, in 1 / time, to about 1e-6.

        Parameters
        ----------
        t
            Times; before 0 the density is 0.

        Returns
        -------
        ndarray
            Densities, of the shape of `t`.
        """
        times = _times(t, below=True)
        inside = -self._spline(np.clip(times, 0.0, self.horizon), 1)
        if self._start is not None:
            first = np.clip(times, 0.0, self._begin)
            rise = -self._start(1 - self.clipped_mean(first), 1) * self._divisor.pdf(first)
            inside = np.where(times < self._begin, rise, inside)
        last = self.horizon
        step = 1e-4 * last
        beyond = np.maximum(times, last)
        outside = (self._tail(beyond) - self._tail(beyond + step)) / step
        found = np.where(times < 0, 0.0, np.where(times > last, outside, inside))
        return np.maximum(found, 0.0) if self._mean_is_survival else found

    def persistence(self, t: ArrayLike) -> Array:
        """Return the probability that the stationary process is above 0 all through [0, t].

        Parameters
        ----------
        t
            Lengths of the interval, >= 0.

        Returns
        -------
        ndarray
            Probabilities, 1 / 2 at 0, of the shape of `t`.
        """
        times = _times(t)
        integral = self._spline.antiderivative()
        whole = self.mean()
        found = (whole - integral(np.minimum(times, self.horizon))) / (2 * whole)
        if self._theta is not None:
            far = self._tail(np.maximum(times, self.horizon)) / self._theta / (2 * whole)
            return np.where(times > self.horizon, far, np.maximum(found, 0.0))
        if (times > self.horizon).any():
            raise ValueError(f"t is up to {times.max():g}; without an exponent it takes times up to {self.horizon:g}")
        return np.maximum(found, 0.0)

    def rvs(self, size: int = 1, random_state: int | np.random.Generator | None = None) -> Float[np.ndarray, " n"]:
        """Draw excursion times: sums of a geometric number of the divisor's draws (Eq. 3).

        Parameters
        ----------
        size
            How many to draw.
        random_state
            A seed, or NumPy's generator.

        Returns
        -------
        ndarray
            Independent times, `size` of them.

        Raises
        ------
        ValueError
            Where the clipped mean is no survival function, so that there is no such sum.
        """
        n, rng = check_count("size", size, at_least=0), np.random.default_rng(random_state)
        law = self.divisor
        if n == 0:
            return np.zeros(0)
        terms = rng.geometric(0.5, n)
        starts = np.cumsum(terms) - terms
        return np.add.reduceat(law._drawn(int(terms.sum()), rng), starts)

    def persistency_exponent(self, rtol: float = 1e-12) -> PersistencyExponent:
        """Return the rate at which the probability of long excursions falls off (Eq. 5).

        Parameters
        ----------
        rtol
            Relative tolerance of the exponent, 1e-12 by default.

        Returns
        -------
        PersistencyExponent
            The exponent, the constant before it, and whether the approximation is valid.

        Raises
        ------
        ValueError
            Where correlations fall off so slowly that there is none.
        """
        check_number("rtol", rtol, gt=0, lt=1)
        theta = self._root(max(rtol, 4 * np.finfo(float).eps))
        if theta is None:
            raise ValueError(f"covariance is {self.covariance!r}, which has no exponent: correlations fall too slowly")
        constant = float(2 / (1 + theta**2 * self._grid.transform(-theta, power=1)))
        return PersistencyExponent(theta, constant, self._mean_is_survival or self.validity().valid)

    def validity(self) -> ValidityReport:
        """Say whether this is a distribution: whether the clipped mean is one's survival function, or `sf` itself.

        Returns
        -------
        ValidityReport
            The verdict and what it rests on.
        """
        return self._validity

    @cached_property
    def horizon(self) -> float:
        """The time up to which the renewal equation is solved: 51 time scales, or 400 where tails are heavy."""
        return self._steps / _PER_SCALE / math.sqrt(self.covariance.lambda2)

    @property
    def _steps(self) -> int:
        return _POINTS if self._theta is not None else 8 * _POINTS

    @cached_property
    def _grid(self) -> TimeGrid:
        return TimeGrid(self.covariance)

    @cached_property
    def _divisor(self) -> Divisor:
        return Divisor(self.covariance, self._grid)

    @cached_property
    def _mean_is_survival(self) -> bool:
        values = self._grid.values
        return bool(values.min() >= 0 and (np.diff(values) <= 1e-9).all())  # automatic derivatives have rounding

    @cached_property
    def _validity(self) -> ValidityReport:
        values = self._solution
        t = np.linspace(0, self.horizon, len(values))
        first = lambda bad: float(t[np.argmax(bad)]) if bad.any() else None  # noqa: E731
        rises, negative = first(np.append(False, np.diff(values) > _ROUNDING)), first(values < -_ROUNDING)
        if self._mean_is_survival:
            status: Status = "valid"
        else:
            status = "valid numerically" if rises is None and negative is None else "invalid"
        return ValidityReport(
            status,
            bool((self.covariance.d1(self._grid.t) <= 0).all()),
            self._mean_is_survival,
            rises if status != "valid" else None,
            negative if status != "valid" else None,
            float(values.min()),
            self.horizon,
        )

    @cached_property
    def _solution(self) -> Float[np.ndarray, " n"]:
        fine = self.clipped_mean(np.linspace(0, self.horizon, 2 * self._steps + 1))
        coarse = fine[::2]
        return extrapolated(renewal(fine, 1 - fine), renewal(coarse, 1 - coarse))

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(np.linspace(0, self.horizon, self._steps + 1), self._solution)

    @cached_property
    def _begin(self) -> float:
        """Half a time scale."""
        return 0.5 / math.sqrt(self.covariance.lambda2)

    @cached_property
    def _start(self) -> CubicSpline | None:
        """S of a rough process near 0, where it bends in time, but not in the divisor's distribution function."""
        t = np.linspace(0, self.horizon, self._steps + 1)[: _PER_SCALE // 2 + 1]
        law = 1 - self.clipped_mean(t)
        rough = law[1] > 0.02 and self._mean_is_survival
        return CubicSpline(law, self._solution[: len(t)]) if rough else None

    def _tail(self, t: Array) -> Array:
        last = self._solution[-1]
        if self._theta is not None:
            return last * np.exp(-self._theta * (t - self.horizon))
        return last * self.clipped_mean(t) / float(self.clipped_mean(self.horizon))

    @cached_property
    def _theta(self) -> float | None:
        return self._root(1e-13)

    def _root(self, rtol: float) -> float | None:
        """Return the least theta at which theta times the transform at -theta is 1."""
        rate, scale = self._grid.rate, math.sqrt(self.covariance.lambda2)
        if rate == 0:
            return None

        def excess(theta: float) -> float:
            return min(theta * self._grid.transform(-theta), 1e12) - 1

        top = rate * (1 - 1e-9)
        if math.isinf(rate):
            top = scale
            while excess(top) <= 0 and top < 1e6 * scale:
                top *= 2
        low = 0.0
        if not self._mean_is_survival:  # it need not increase: look for the first crossing
            points = np.linspace(0, min(top, 4 * scale), 129)[1:]
            above = [excess(p) > 0 for p in points]
            if any(above):
                place = above.index(True)
                low, top = (points[place - 1] if place else 0.0), points[place]
        if excess(top) <= 0:
            return None
        return float(brentq(excess, low, top, xtol=1e-300, rtol=rtol))


class IIA(SlepianIIA):
    r"""The ordinary approximation of independent intervals, by the correlation of the sign, $\frac2\pi \arcsin r$.

    It is the same law as `SlepianIIA`'s by another way, and is here to see that.

    Parameters
    ----------
    covariance
        The correlation of the process.

    Examples
    --------
    >>> from paperworks.dynamics import Diffusion
    >>> bool(abs(IIA(Diffusion(2)).laplace(0.5) - SlepianIIA(Diffusion(2)).laplace(0.5)) < 1e-12)
    True
    """

    def sign_covariance(self, t: ArrayLike) -> Array:
        """Return the correlation of the sign of the process.

        Parameters
        ----------
        t
            Distances in time.

        Returns
        -------
        ndarray
            Correlations, 1 at 0, of the shape of `t`.
        """
        return 1 - self._sign_complement(np.asarray(t, dtype=np.float64))

    def _sign_complement(self, t: Array) -> Array:
        rest = np.clip(self.covariance.complement(t), 0, 2)
        return 4 / math.pi * np.arcsin(np.sqrt(rest / 2))  # 1 - 2 / pi arcsin(1 - rest), exact near 0 too

    def clipped_mean(self, t: ArrayLike) -> Array:
        """Return minus the derivative of the sign's correlation times half of Rice's mean.

        Parameters
        ----------
        t
            Times >= 0.

        Returns
        -------
        ndarray
            Means between -1 and 1, of the shape of `t`.
        """
        times = _times(t)
        rice = math.pi / math.sqrt(self.covariance.lambda2)
        # Six-point differences of the correlation itself, so that this rests on nothing of the other way.
        step = np.minimum(0.004 * rice, times / 8)
        safe = np.where(times > 0, step, 1.0)
        taps = ((1, 45), (2, -9), (3, 1))
        falls = sum(
            w * (self._sign_complement(times + k * safe) - self._sign_complement(np.abs(times - k * safe)))
            for k, w in taps
        )
        return np.where(times > 0, rice / 2 * np.asarray(falls) / (60 * safe), 1.0)

    def laplace(self, s: ArrayLike) -> Array:
        r"""Return the transform of the law by that of the sign's correlation.

        Parameters
        ----------
        s
            Real arguments in 1 / time, above minus the persistency exponent.

        Returns
        -------
        ndarray
            The transform, of the shape of `s`.
        """
        grid, half = self._grid, math.pi / math.sqrt(self.covariance.lambda2) / 2
        signs = self.sign_covariance(grid.t)

        def matched(x: float) -> float:
            return half * x * (1 - x * float((grid.weights * np.exp(-x * grid.t)) @ signs))

        return self._transformed(s, matched)


def _times(t: ArrayLike, below: bool = False) -> Array:
    if np.iscomplexobj(t):
        raise TypeError("t is complex; it takes real times")
    times = np.asarray(t, dtype=np.float64)
    if np.isnan(times).any() or (not below and (times < 0).any()):
        raise ValueError(
            f"t is {times.min():g} at its least; it takes times{'' if below else ' >= 0'}, none of them NaN"
        )
    return times
