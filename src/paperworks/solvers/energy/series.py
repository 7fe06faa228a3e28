"""Sine series on the unit cube, and the transforms between their coefficients and values on a grid."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft

from paperworks.core.validation import check_count
from paperworks.solvers.energy.sums import TrigSum


class SineSeries:
    """A function on the unit cube that is 0 on its boundary: the sum of c_k sin(pi k_1 x_1) ... sin(pi k_d x_d).

    Parameters
    ----------
    coefficients
        Array with n entries along each of d axes; entry (0, ...) is that of k = (1, ...).

    Raises
    ------
    ValueError
        For another shape or coefficients that aren't finite.

    Examples
    --------
    >>> u = SineSeries(np.array([[1.0, 0.0], [0.0, 0.5]]))
    >>> u(np.array([[0.5, 0.5], [0.25, 0.25]])).round(6)
    array([1. , 1. ])
    >>> round(u.barron_norm(), 6)  # sum of |c| (1 + pi |k|)
    10.385766
    """

    def __init__(self, coefficients: Float[np.ndarray, "*modes"]) -> None:
        if np.iscomplexobj(coefficients):
            raise ValueError("coefficients is complex; it takes real ones")
        c = np.asarray(coefficients, dtype=float)
        if c.ndim < 1 or len(set(c.shape)) != 1 or not c.size:
            raise ValueError(f"coefficients has shape {c.shape}; it takes n entries along each axis")
        if not np.isfinite(c).all():
            raise ValueError("coefficients has NaN or infinite elements; it takes finite ones")
        self.coefficients = c

    @classmethod
    def interpolating(cls, function: Callable[..., Any], dim: int, n_modes: int) -> "SineSeries":
        """Make the series that has a function's values at the nodes j / (n + 1).

        Parameters
        ----------
        function
            A function of d arrays of coordinates, which it is called with at once.
        dim
            Number of dimensions.
        n_modes
            Number of modes along each axis.

        Returns
        -------
        SineSeries
            The interpolating series.
        """
        check_count("dim", dim)
        nodes = np.arange(1, check_count("n_modes", n_modes) + 1) / (n_modes + 1)
        grid = np.meshgrid(*[nodes] * dim, indexing="ij", sparse=True)
        values = np.broadcast_to(np.asarray(function(*grid)), (n_modes,) * dim)
        if np.iscomplexobj(values) or not np.isfinite(values).all():
            raise ValueError("function returns complex, NaN or infinite values; it takes finite real ones")
        return cls(fft.dstn(values, 1) / (n_modes + 1) ** dim)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.coefficients.ndim

    @property
    def n_modes(self) -> int:
        """Number of modes along each axis."""
        return self.coefficients.shape[0]

    @property
    def eigenvalues(self) -> Float[np.ndarray, "*modes"]:
        """Those of the negative Laplacian, pi² |k|², for each coefficient."""
        return laplace_eigenvalues(self.n_modes, self.dim)

    @property
    def mass(self) -> float:
        """Sum of the absolute coefficients, which no value exceeds."""
        return float(np.abs(self.coefficients).sum())

    @property
    def band(self) -> float:
        """Greatest angular frequency with a coefficient other than 0."""
        return float(np.sqrt(self.eigenvalues[self.coefficients != 0].max(initial=0.0)))

    @property
    def norm(self) -> float:
        """The norm in L²."""
        return float(np.sqrt((self.coefficients**2).sum() / 2**self.dim))

    @property
    def h1_norm(self) -> float:
        """The norm in H¹, of the function and its gradient."""
        return float(np.sqrt(((1 + self.eigenvalues) * self.coefficients**2).sum() / 2**self.dim))

    def barron_norm(self, order: float = 1.0) -> float:
        """Return the sum of (1 + pi |k|)^order |c_k|, a bound of the Barron norm: the least one over all extensions.

        Parameters
        ----------
        order
            Power of 1 + |omega|.

        Returns
        -------
        float
            The sum over all modes.
        """
        return float(((1 + np.sqrt(self.eigenvalues)) ** order * np.abs(self.coefficients)).sum())

    def __call__(self, x: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"]:
        """Return the values at points."""
        points = np.asarray(x, dtype=float)
        if points.shape[-1:] != (self.dim,):
            raise ValueError(f"x has shape {points.shape}; it takes points of {self.dim} dimensions")
        rows = points.reshape(-1, self.dim)
        k = np.pi * np.arange(1, self.n_modes + 1)
        values = np.sin(rows[:, :1] * k) @ self.coefficients.reshape(self.n_modes, -1)
        for axis in range(1, self.dim):
            sines = np.sin(rows[:, axis : axis + 1] * k)
            rest = self.n_modes ** (self.dim - 1 - axis)
            values = np.einsum("pkr,pk->pr", values.reshape(len(rows), self.n_modes, rest), sines)
        return values.reshape(points.shape[:-1])

    def on_grid(self, m: int) -> Float[np.ndarray, "*grid"]:
        """Return the values at the points j / m, j = 0 to m, of each axis.

        Parameters
        ----------
        m
            Number of cells along each axis, above the number of modes.

        Returns
        -------
        ndarray of shape (m + 1, ...)
            Values, zeros at the boundary.
        """
        return values_on_grid(self.coefficients, check_count("m", m, at_least=self.n_modes + 1))

    def grad(self) -> list[TrigSum]:
        """Return the derivative along each axis, as sums of exponentials of period 2.

        Returns
        -------
        list[TrigSum]
            One sum for each dimension.
        """
        return self.to_trig().grad()

    def laplacian(self) -> "SineSeries":
        """Return the Laplacian.

        Returns
        -------
        SineSeries
            Each coefficient times -pi² |k|².
        """
        return SineSeries(-self.eigenvalues * self.coefficients)

    def precondition(self) -> "SineSeries":
        """Return (1 - Laplacian)⁻¹ of it, with value 0 on the boundary.

        Returns
        -------
        SineSeries
            Each coefficient divided by 1 + pi² |k|².
        """
        return SineSeries(self.coefficients / (1 + self.eigenvalues))

    def resized(self, n_modes: int) -> "SineSeries":
        """Return it with more modes, or with fewer where those beyond are zero.

        Parameters
        ----------
        n_modes
            Number of modes along each axis.

        Returns
        -------
        SineSeries
            The same function.

        Raises
        ------
        ValueError
            Where modes beyond aren't zero.
        """
        n = check_count("n_modes", n_modes)
        inner = (slice(0, n),) * self.dim
        if np.abs(self.coefficients).sum() > np.abs(self.coefficients[inner]).sum():
            raise ValueError(f"n_modes is {n}; it takes {self.n_modes} or more, or what is beyond is lost")
        return SineSeries(_resized(self.coefficients, n))

    def to_trig(self) -> TrigSum:
        """Return it as a sum of exponentials of period 2, two for each sine.

        Returns
        -------
        TrigSum
            The same function, odd and of period 2 along each axis.
        """
        places = np.argwhere(self.coefficients != 0)
        signs = np.stack(np.meshgrid(*[[1, -1]] * self.dim, indexing="ij"), axis=-1).reshape(-1, self.dim)
        frequencies = (signs * (places + 1)[:, None]).reshape(-1, self.dim)
        factors = signs.prod(1) / (2j) ** self.dim
        values = (self.coefficients[tuple(places.T)][:, None] * factors).ravel()
        return TrigSum(frequencies.reshape(-1, self.dim), values, period=2.0)

    def to_network(self, kind: Any = "cos", width: int = 100, random_state: Any = None, **options: Any) -> Any:
        """Draw a two-layer network that approximates it; see `RidgeNetwork.of`.

        Parameters
        ----------
        kind
            Activation of the hidden units: "cos", "sigmoid" or "relu".
        width
            Number of hidden units.
        random_state
            Seed, or NumPy's generator.
        options
            What `RidgeNetwork.of` takes beside.

        Returns
        -------
        Any
            A `RidgeNetwork` in float64.
        """
        return self.to_trig().to_network(kind, width, random_state, **options)

    def __add__(self, other: "SineSeries") -> "SineSeries":
        if not isinstance(other, SineSeries):
            return NotImplemented
        if other.dim != self.dim:
            raise ValueError(f"other has {other.dim} dimensions; it takes {self.dim}")
        n = max(self.n_modes, other.n_modes)
        return SineSeries(_resized(self.coefficients, n) + _resized(other.coefficients, n))

    def __sub__(self, other: "SineSeries") -> "SineSeries":
        return self + (-1.0) * other if isinstance(other, SineSeries) else NotImplemented

    def __mul__(self, factor: float) -> "SineSeries":
        return SineSeries(float(factor) * self.coefficients) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SineSeries":
        return SineSeries(self.coefficients / float(divisor)) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> "SineSeries":
        return SineSeries(-self.coefficients)

    def __repr__(self) -> str:
        return f"SineSeries({self.n_modes} modes in {self.dim} dimensions, Barron norm {self.barron_norm():.4g})"


def laplace_eigenvalues(n: int, dim: int) -> Float[np.ndarray, "*modes"]:
    """Return pi² |k|² for k from 1 to n along each axis."""
    squares = (np.pi * np.arange(1, n + 1)) ** 2
    return sum((squares.reshape([-1 if i == axis else 1 for i in range(dim)]) for axis in range(dim)), np.zeros(1))


def values_on_grid(coefficients: np.ndarray, m: int, cosine_axis: int | None = None) -> np.ndarray:
    """Return values at the points j / m, with cosines instead of sines along one axis."""
    values = coefficients
    for axis in range(coefficients.ndim):
        values = _synthesis(values, axis, m, cosine=axis == cosine_axis)
    return values


def of_grid_values(values: np.ndarray, n: int, cosine_axis: int | None = None) -> np.ndarray:
    """Return the first n coefficients along each axis of values at j / m, the inverse of `values_on_grid`."""
    for axis in range(values.ndim):
        values = _analysis(values, axis, n, cosine=axis == cosine_axis)
    return values


def _synthesis(c: np.ndarray, axis: int, m: int, cosine: bool) -> np.ndarray:
    c = np.moveaxis(c, axis, -1)
    padded = np.zeros((*c.shape[:-1], m + 1))
    padded[..., 1 : c.shape[-1] + 1] = c
    if cosine:
        values = fft.dct(padded, 1, axis=-1, overwrite_x=True) / 2
    else:
        values = padded
        values[..., 1:-1] = fft.dst(padded[..., 1:-1], 1, axis=-1) / 2
    return np.moveaxis(values, -1, axis)


def _analysis(values: np.ndarray, axis: int, n: int, cosine: bool) -> np.ndarray:
    values = np.moveaxis(values, axis, -1)
    m = values.shape[-1] - 1
    if cosine:
        found = fft.dct(values, 1, axis=-1)[..., 1 : n + 1] / m
    else:
        found = fft.dst(values[..., 1:-1], 1, axis=-1)[..., :n] / m
    return np.moveaxis(found, -1, axis)


def _resized(c: np.ndarray, n: int) -> np.ndarray:
    kept = min(n, c.shape[0])
    found = np.zeros((n,) * c.ndim)
    found[(slice(0, kept),) * c.ndim] = c[(slice(0, kept),) * c.ndim]
    return found
