"""Correlation functions of smooth stationary Gaussian processes, with exact derivatives."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import gamma, kv

from paperworks.core.validation import check_number

if TYPE_CHECKING:
    Array = Float[np.ndarray, "*t"]
else:  # an operation on an array without axes gives a scalar
    Array = Float[np.ndarray | np.float64, "*t"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


class StationaryCovariance(ABC):
    r"""Correlation function $r$ of a stationary Gaussian process that is once differentiable in mean square.

    It is called with times, in the unit of time of the process, and gives $r(t)$ with $r(0) = 1$. Sums with weights
    that add up to 1 and products are correlation functions again: ``a.mix(b, 0.3)`` and ``a * b``.

    Examples
    --------
    >>> r = SquaredExponential(length=2.0) * Matern(2.5)
    >>> float(r(0.0)), round(r.lambda2, 4)
    (1.0, 1.9167)
    """

    def __call__(self, t: ArrayLike) -> Array:
        """Return the correlation at distances in time.

        Parameters
        ----------
        t
            Distances, of either sign.

        Returns
        -------
        ndarray
            The correlations, of the shape of `t`.
        """
        return self._value(np.abs(np.asarray(t, dtype=np.float64)))

    def d1(self, t: ArrayLike) -> Array:
        """Return the first derivative.

        Parameters
        ----------
        t
            Distances, of either sign.

        Returns
        -------
        ndarray
            The derivatives, of the shape of `t`.
        """
        times = np.asarray(t, dtype=np.float64)
        return np.sign(times) * self._slope(np.abs(times))

    def d2(self, t: ArrayLike) -> Array:
        """Return the second derivative.

        Parameters
        ----------
        t
            Distances, of either sign.

        Returns
        -------
        ndarray
            The derivatives, of the shape of `t`.
        """
        return self._bend(np.abs(np.asarray(t, dtype=np.float64)))

    def complement(self, t: ArrayLike) -> Array:
        """Return 1 - r, to rounding also where that is near 0.

        Parameters
        ----------
        t
            Distances, of either sign.

        Returns
        -------
        ndarray
            The complements, of the shape of `t`.
        """
        return self._complement(np.abs(np.asarray(t, dtype=np.float64)))

    @property
    @abstractmethod
    def lambda2(self) -> float:
        """The second spectral moment, -r''(0), in 1 / time squared: zeros come at a rate of its root / pi."""

    @cached_property
    def tail_rate(self) -> float:
        """The rate at which r' falls off exponentially, in 1 / time; infinite where faster, 0 where slower."""
        return _tail_rate(self)

    def mix(self, other: "StationaryCovariance", weight: float) -> "StationaryCovariance":
        """Return the correlation of a sum of independent processes.

        Parameters
        ----------
        other
            The other correlation.
        weight
            The share of the variance that the other has, between 0 and 1.

        Returns
        -------
        StationaryCovariance
            The weighted sum.
        """
        return _Mixture(self, other, check_number("weight", weight, gt=0, lt=1))

    def __mul__(self, other: "StationaryCovariance") -> "StationaryCovariance":
        return _Product(self, other) if isinstance(other, StationaryCovariance) else NotImplemented

    @abstractmethod
    def _value(self, t: Array) -> Array: ...

    @abstractmethod
    def _slope(self, t: Array) -> Array: ...

    @abstractmethod
    def _bend(self, t: Array) -> Array: ...

    def _complement(self, t: Array) -> Array:
        """Integrate the slope where the difference would lose digits."""
        r = self._value(t)
        near = r > 0.5
        out = 1 - r
        if near.any():
            # Times are cubed, which makes nodes denser at 0, where the slope of a rough process bends.
            half = (_NODES + 1) / 2
            start = np.asarray(t)[near][..., None]
            slopes = self._slope(start * half**3)
            out = np.array(out)
            out[near] = -(slopes * (3 * half**2 * _WEIGHTS / 2)).sum(-1) * start[..., 0]
        return out


class _LogCovariance(StationaryCovariance):
    """One that is positive, given by its logarithm."""

    @abstractmethod
    def _log(self, t: Array) -> Array: ...

    def _value(self, t: Array) -> Array:
        return np.exp(self._log(t))

    def _complement(self, t: Array) -> Array:
        return -np.expm1(self._log(t))


class Diffusion(_LogCovariance):
    r"""Diffusion from random initial conditions, in logarithmic time: $r(t) = \operatorname{sech}(t / 2)^{d / 2}$.

    Parameters
    ----------
    d
        Dimensions of space, which need not be whole.

    Examples
    --------
    >>> Diffusion(2).lambda2
    0.25
    """

    def __init__(self, d: float) -> None:
        self.d = check_number("d", d, gt=0)

    def __repr__(self) -> str:
        return f"Diffusion(d={self.d:g})"

    @property
    def lambda2(self) -> float:
        """The second spectral moment, d / 8."""
        return self.d / 8

    @cached_property
    def tail_rate(self) -> float:
        """The rate of the exponential tail, d / 4."""
        return self.d / 4

    def _log(self, t: Array) -> Array:
        x = t / 2
        near = np.log1p(np.sinh(np.minimum(x, 1)) ** 2) / 2
        return -self.d / 2 * np.where(x < 1, near, x + np.log1p(np.exp(-2 * x)) - math.log(2))

    def _slope(self, t: Array) -> Array:
        return -self.d / 4 * np.tanh(t / 2) * self._value(t)

    def _bend(self, t: Array) -> Array:
        tanh2 = np.tanh(t / 2) ** 2
        return self._value(t) * (self.d**2 / 16 * tanh2 - self.d / 8 * (1 - tanh2))


class RandomAcceleration(StationaryCovariance):
    r"""Integral of a Brownian motion, in logarithmic time: $r(t) = \frac32 e^{-t/2} - \frac12 e^{-3t/2}$.

    Examples
    --------
    >>> RandomAcceleration().lambda2
    0.75
    """

    tail_rate = 0.5

    def __repr__(self) -> str:
        return "RandomAcceleration()"

    @property
    def lambda2(self) -> float:
        """The second spectral moment, 3 / 4."""
        return 0.75

    def _value(self, t: Array) -> Array:
        return 1.5 * np.exp(-t / 2) - 0.5 * np.exp(-1.5 * t)

    def _slope(self, t: Array) -> Array:
        return 0.75 * np.exp(-t / 2) * np.expm1(-t)

    def _bend(self, t: Array) -> Array:
        return 0.375 * np.exp(-t / 2) - 1.125 * np.exp(-1.5 * t)

    def _complement(self, t: Array) -> Array:
        y = -np.expm1(-t / 2)
        return y**2 * (1.5 - 0.5 * y)


class SquaredExponential(_LogCovariance):
    r"""The Gaussian correlation $r(t) = e^{-t^2 / 2 \ell^2}$.

    Parameters
    ----------
    length
        The length scale, in the unit of time.

    Examples
    --------
    >>> SquaredExponential(2.0).lambda2
    0.25
    """

    tail_rate = math.inf

    def __init__(self, length: float = 1.0) -> None:
        self.length = check_number("length", length, gt=0)

    def __repr__(self) -> str:
        return f"SquaredExponential(length={self.length:g})"

    @property
    def lambda2(self) -> float:
        """The second spectral moment, 1 / length squared."""
        return self.length**-2

    def _log(self, t: Array) -> Array:
        return -((t / self.length) ** 2) / 2

    def _slope(self, t: Array) -> Array:
        return -t / self.length**2 * self._value(t)

    def _bend(self, t: Array) -> Array:
        return ((t / self.length) ** 2 - 1) / self.length**2 * self._value(t)


class RationalQuadratic(_LogCovariance):
    r"""A mixture of Gaussian correlations over scales: $r(t) = (1 + t^2 / 2 \alpha \ell^2)^{-\alpha}$.

    Parameters
    ----------
    shape
        The exponent alpha; correlations fall off as time to the power of -2 alpha.
    length
        The length scale, in the unit of time.

    Examples
    --------
    >>> RationalQuadratic(1.0).tail_rate
    0.0
    """

    tail_rate = 0.0

    def __init__(self, shape: float, length: float = 1.0) -> None:
        self.shape = check_number("shape", shape, gt=0)
        self.length = check_number("length", length, gt=0)

    def __repr__(self) -> str:
        return f"RationalQuadratic(shape={self.shape:g}, length={self.length:g})"

    @property
    def lambda2(self) -> float:
        """The second spectral moment, 1 / length squared."""
        return self.length**-2

    def _part(self, t: Array) -> Array:
        return (t / self.length) ** 2 / (2 * self.shape)

    def _log(self, t: Array) -> Array:
        return -self.shape * np.log1p(self._part(t))

    def _slope(self, t: Array) -> Array:
        return -t / self.length**2 * np.exp(-(self.shape + 1) * np.log1p(self._part(t)))

    def _bend(self, t: Array) -> Array:
        part = self._part(t)
        fall = np.exp(-(self.shape + 2) * np.log1p(part))
        return -fall * (1 + part - 2 * (self.shape + 1) * part) / self.length**2


class Matern(StationaryCovariance):
    r"""The Matérn correlation $\frac{2^{1-\nu}}{\Gamma(\nu)} z^\nu K_\nu(z)$ with $z = \sqrt{2 \nu} t / \ell$.

    Parameters
    ----------
    nu
        The smoothness, above 1: at 1 and below the process has infinitely many zeros in any interval around one.
        Up to 100; beyond, `SquaredExponential`, which is the limit, is within a hundredth.
    length
        The length scale, in the unit of time.

    Examples
    --------
    >>> Matern(1.5).lambda2
    3.0
    >>> Matern(0.5)
    Traceback (most recent call last):
    ...
    ValueError: nu is 0.5; it takes a finite number > 1, since r''(0) must be finite
    """

    def __init__(self, nu: float, length: float = 1.0) -> None:
        try:
            self.nu = check_number("nu", nu, gt=1)
        except ValueError as error:
            raise ValueError(f"{error}, since r''(0) must be finite") from None
        check_number("nu", nu, le=100)
        self.length = check_number("length", length, gt=0)
        self._rate = math.sqrt(2 * self.nu) / self.length
        half = self.nu - 0.5
        self._order = int(half) if half == int(half) and half < 20 else None

    def __repr__(self) -> str:
        return f"Matern(nu={self.nu:g}, length={self.length:g})"

    @property
    def lambda2(self) -> float:
        """The second spectral moment, nu / (nu - 1) / length squared."""
        return self.nu / (self.nu - 1) / self.length**2

    @cached_property
    def tail_rate(self) -> float:
        """The rate of the tail, which has a power of time besides."""
        return self._rate

    def _bessel(self, z: Array, order: float) -> Array:
        """Return z^order K_order(z) for an order that may be negative, with its limit at 0."""
        with np.errstate(all="ignore"):
            found = z**order * kv(order, z)
            limit = 2 ** (order - 1) * gamma(order) if order > 0 else np.inf
            if order > 4:  # near 0 its factors are no numbers, and three terms of its series are exact
                part = z**2 / 4 / (order - 1)
                series = limit * (1 - part + part**2 / 2 * (order - 1) / (order - 2))
                found = np.where(z < (0.1 if order > 20 else 0.01), series, found)
        return np.where(z > 0, np.where(z < 700, found, 0.0), limit)

    def _value(self, t: Array) -> Array:
        return np.where(t > 0, self._scale * self._bessel(self._rate * t, self.nu), 1.0)

    @property
    def _scale(self) -> float:
        return float(2 ** (1 - self.nu) / gamma(self.nu))

    def _slope(self, t: Array) -> Array:
        z = self._rate * t
        return -self._scale * self._rate * z * self._bessel(z, self.nu - 1)

    def _bend(self, t: Array) -> Array:
        z = self._rate * t
        with np.errstate(invalid="ignore"):  # at 0 the second term is 0 times infinity where nu is below 2
            second = np.where(z > 0, z**2 * self._bessel(z, self.nu - 2), 0.0)
        return -self._scale * self._rate**2 * (self._bessel(z, self.nu - 1) - second)


class CallableCovariance(StationaryCovariance):
    """A correlation function of the user's own.

    Derivatives that aren't given are torch's, where `function` takes a tensor of float64, and else those of a complex
    step, where it takes complex arrays; the second is then the difference of such firsts, to about ten digits. Within
    a thousandth of the time scale of 0, where formulas of derivatives lose their digits, slopes are interpolated.

    Parameters
    ----------
    function
        The covariance at times >= 0. One that isn't 1 at 0 is divided by what it is there, with a warning.
    d1, d2
        Its first and second derivative, of times too.
    tail_rate
        The rate at which the first derivative falls off exponentially, in 1 / time; read off the function where it
        isn't given.

    Raises
    ------
    ValueError
        Where the process isn't differentiable in mean square, or where correlations don't fall off.

    Examples
    --------
    >>> r = CallableCovariance(lambda t: (-(t**2) / 2).exp())
    >>> bool(abs(r.d2(0.7) - SquaredExponential().d2(0.7)) < 1e-15)
    True
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        d1: Callable[[Any], Any] | None = None,
        d2: Callable[[Any], Any] | None = None,
        tail_rate: float | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function is {function!r}; it takes a function of times")
        self.function, self._d1, self._d2 = function, d1, d2
        self._torch = _takes_tensors(function)
        self._at_zero = 1.0
        at_zero = float(self._value(np.zeros(1))[0])
        if not math.isfinite(at_zero) or at_zero <= 0:
            raise ValueError(f"function is {at_zero:g} at 0; it takes a covariance, which is finite and positive there")
        if abs(at_zero - 1) > 1e-12:
            warnings.warn(f"function is {at_zero:g} at 0; it is divided by that", UserWarning, stacklevel=2)
        self._at_zero = at_zero
        self._near = 1e-3
        self._near = 1e-3 * self._time_scale()
        self._lambda2 = self._second_moment()
        if tail_rate is not None:
            rate = tail_rate if tail_rate == math.inf else check_number("tail_rate", tail_rate, ge=0)
            self.__dict__["tail_rate"] = float(rate)
        far = np.abs(self._value(np.linspace(0.5e4, 1e4, 501) / math.sqrt(self._lambda2)))
        if not (np.isfinite(far).all() and far.max() < 0.05):
            raise ValueError("function doesn't fall off to 0; it takes a correlation that does, not a periodic one")

    def __repr__(self) -> str:
        return f"CallableCovariance({getattr(self.function, '__name__', self.function)!s})"

    @property
    def lambda2(self) -> float:
        """The second spectral moment."""
        return self._lambda2

    def _time_scale(self) -> float:
        """Return the time in which correlations fall by about a third, to a factor of two."""
        times = 2.0 ** np.arange(-400, 401)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fallen = self._value(times) < 0.7
        return float(times[np.argmax(fallen)]) if fallen.any() else 1.0

    def _second_moment(self) -> float:
        # r'' may be singular at 0 for all that derivatives say there: a cusp shows in quotients nearby.
        steps = self._near * np.array([1.0, 0.5, 0.25, 0.1, 0.01])
        quotients = -self._slope(steps) / steps
        with np.errstate(all="ignore"):
            spread = abs(quotients[4] / quotients[3] - 1)
            jump = abs((1 - self._value(steps[:1])[0]) / (quotients[0] * steps[0] ** 2 / 2) - 1)
        if not np.isfinite(quotients).all() or quotients[4] <= 0 or spread > 0.05:
            raise ValueError(
                "r''(0) must be finite and negative; function is of a process without a derivative, or takes no "
                "complex times, and then d1 has to be given"
            )
        if jump > 0.5:
            raise ValueError("function jumps at 0, as with a nugget; it takes the correlation of a smooth process")
        at_zero = -float(self._bend(np.zeros(1))[0]) if self._torch or self._d2 is not None else math.nan
        if math.isfinite(at_zero) and abs(at_zero / quotients[3] - 1) < 0.05:
            return at_zero
        # Where there is no derivative at 0 itself (a root, a modulus), take the limit of the quotients.
        moment = quotients[:3] @ [1 / 3, -2, 8 / 3]  # of a parabola through them
        return float(moment if abs(moment / quotients[3] - 1) < 1e-2 else quotients[4])

    def _value(self, t: Array) -> Array:
        return self._call(self.function, t) / self._at_zero

    def _slope(self, t: Array) -> Array:
        if self._d1 is not None:
            return self._call(self._d1, t) / self._at_zero
        found = self._own_slope(t)
        moment = getattr(self, "_lambda2", None)
        if moment is None:
            return found
        # Formulas of derivatives cancel near 0; the quotient by time, which hardly changes, is interpolated there.
        share = np.minimum(t / self._near, 1.0)
        quotient = moment + share * (self._edge - moment)
        return np.where(share < 1, -quotient * t, found)

    @cached_property
    def _edge(self) -> float:
        """The slope / -time where `_slope` begins to trust the function's own."""
        return -float(self._own_slope(np.array([self._near]))[0]) / self._near

    def _own_slope(self, t: Array) -> Array:
        if self._torch:
            return self._derivative(t, 1)
        step = 1e-27 * self._near
        return np.asarray(np.imag(self.function(t + 1j * step)) / step / self._at_zero)

    def _bend(self, t: Array) -> Array:
        if self._d2 is not None:
            return self._call(self._d2, t) / self._at_zero
        if self._torch:
            return self._derivative(t, 2)
        step = self._near
        one, two = ((self._odd(t + k * step) - self._odd(t - k * step)) / (2 * k * step) for k in (1, 2))
        return (4 * one - two) / 3

    def _odd(self, t: Array) -> Array:
        return np.sign(t) * self._slope(np.abs(t))

    def _call(self, function: Callable[[Any], Any], t: Array) -> Array:
        if not self._torch:
            return np.asarray(function(t), dtype=np.float64) + np.zeros_like(t)
        import torch

        found = function(torch.from_numpy(np.array(t, dtype=np.float64)))
        return np.asarray(torch.as_tensor(found).detach().numpy()) + np.zeros_like(t)

    def _derivative(self, t: Array, order: int) -> Array:
        import torch

        times = torch.from_numpy(np.array(t, dtype=np.float64)).requires_grad_()
        found = self.function(times)
        for left in range(order)[::-1]:
            (found,) = torch.autograd.grad(found.sum(), times, create_graph=bool(left))
        return np.asarray(found.numpy() / self._at_zero)


class _Mixture(StationaryCovariance):
    def __init__(self, first: StationaryCovariance, second: StationaryCovariance, weight: float) -> None:
        self.first, self.second, self.weight = first, second, weight

    def __repr__(self) -> str:
        return f"{self.first!r}.mix({self.second!r}, {self.weight:g})"

    @property
    def lambda2(self) -> float:
        return self._mixed(self.first.lambda2, self.second.lambda2)

    @cached_property
    def tail_rate(self) -> float:
        """The lesser rate of both."""
        return min(self.first.tail_rate, self.second.tail_rate)

    def _mixed(self, a: Any, b: Any) -> Any:
        return (1 - self.weight) * a + self.weight * b

    def _value(self, t: Array) -> Array:
        return self._mixed(self.first._value(t), self.second._value(t))

    def _slope(self, t: Array) -> Array:
        return self._mixed(self.first._slope(t), self.second._slope(t))

    def _bend(self, t: Array) -> Array:
        return self._mixed(self.first._bend(t), self.second._bend(t))

    def _complement(self, t: Array) -> Array:
        return self._mixed(self.first._complement(t), self.second._complement(t))


class _Product(StationaryCovariance):
    def __init__(self, first: StationaryCovariance, second: StationaryCovariance) -> None:
        self.first, self.second = first, second

    def __repr__(self) -> str:
        return f"{self.first!r} * {self.second!r}"

    @property
    def lambda2(self) -> float:
        return self.first.lambda2 + self.second.lambda2

    @cached_property
    def tail_rate(self) -> float:
        """The sum of both rates."""
        return self.first.tail_rate + self.second.tail_rate

    def _value(self, t: Array) -> Array:
        return self.first._value(t) * self.second._value(t)

    def _slope(self, t: Array) -> Array:
        a, b = self.first, self.second
        return a._slope(t) * b._value(t) + a._value(t) * b._slope(t)

    def _bend(self, t: Array) -> Array:
        a, b = self.first, self.second
        return a._bend(t) * b._value(t) + 2 * a._slope(t) * b._slope(t) + a._value(t) * b._bend(t)

    def _complement(self, t: Array) -> Array:
        one, two = self.first._complement(t), self.second._complement(t)
        return one + two - one * two


def _takes_tensors(function: Callable[[Any], Any]) -> bool:
    import torch

    try:
        found = function(torch.ones(2, dtype=torch.float64, requires_grad=True))
    except Exception:  # whatever a function of arrays raises for a tensor
        return False
    return isinstance(found, torch.Tensor) and found.requires_grad


def _tail_rate(covariance: StationaryCovariance) -> float:
    """Read the rate off the largest slopes in two windows far out, each several zeros of the process long."""
    scale = 1 / math.sqrt(covariance.lambda2)
    end = 20.0 * scale
    while end < 1e5 * scale and np.abs(covariance.d1(np.linspace(end, 1.2 * end, 257))).max() > 1e-60:
        end *= 1.3
    peaks = [
        np.abs(covariance.d1(np.linspace(share * end, (share + 0.1) * end, 2049))).max() for share in (0.3, 0.6, 0.9)
    ]
    if peaks[2] == 0 or peaks[1] == 0:
        return math.inf
    early, late = (math.log(a / b) / (0.3 * end) for a, b in ((peaks[0], peaks[1]), (peaks[1], peaks[2])))
    if late > 1.2 * early:
        return math.inf
    return 0.0 if late < 0.8 * early or late * scale < 1e-3 else late


def clipped_mean(covariance: StationaryCovariance, t: ArrayLike) -> Array:
    r"""Return the mean sign of the process at times after an up-crossing of 0.

    :math:`E_0(t) = -r'(t) / \sqrt{\lambda_2 (1 - r(t)^2)}`, which is 1 at 0 (Eq. 1 of the model).

    Parameters
    ----------
    covariance
        The correlation of the process.
    t
        Times >= 0 after the crossing.

    Returns
    -------
    ndarray
        Means between -1 and 1.
    """
    times = np.asarray(t, dtype=np.float64)
    scale = 1 / math.sqrt(covariance.lambda2)
    near = times < 1e-75 * scale  # there squares of times are no numbers
    safe = np.where(near, scale, times)
    rest = covariance.complement(safe)
    found = -covariance.d1(safe) * scale / np.sqrt(rest * (2 - rest))
    return np.where(near, 1.0, np.clip(found, -1.0, 1.0))


def check_covariance(value: Any) -> StationaryCovariance:
    """Return `value` if it is a stationary covariance, else raise TypeError.

    Parameters
    ----------
    value
        What an argument `covariance` got.

    Returns
    -------
    StationaryCovariance
        The value.
    """
    if not isinstance(value, StationaryCovariance):
        raise TypeError(f"covariance is {value!r}; it takes a StationaryCovariance, such as CallableCovariance(r)")
    return value
