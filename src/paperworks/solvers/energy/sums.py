"""Real trigonometric sums with few terms, in any dimension."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int

from paperworks.core.validation import check_number

_PAIRS = 1 << 22  # products of terms that are formed at once
_MOST = 1 << 40  # of a frequency, so that those of products are exact


class TrigSum:
    """A real function on a torus, the sum of c exp(2 pi i k·x / period) over few integer vectors k.

    Sums, products and derivatives are exact. Terms that `pruned` drops are remembered in `slack`, a bound of what they
    add up to at any point; products drop terms up to the share `tolerance` of their mass, by default none.

    Parameters
    ----------
    frequencies
        Integer vectors k, one row for each term; equal ones are added up.
    coefficients
        Complex coefficients c. That of -k has to be the conjugate of that of k, as the function is real.
    period
        Length of the torus along each axis.

    Raises
    ------
    ValueError
        For shapes that don't fit, coefficients that aren't finite, or a function that isn't real.

    Notes
    -----
    Section 3 of arXiv 2210.12101 for the Barron norm.

    Examples
    --------
    >>> u = TrigSum.cosines([[1, 0], [0, 2]], [1.0, 0.5])  # cos 2 pi x + cos(4 pi y) / 2
    >>> u(np.array([[0.0, 0.0], [0.5, 0.25]])).round(12)
    array([ 1.5, -1.5])
    >>> (u * u).terms, u.mass
    (9, 1.5)
    """

    def __init__(
        self,
        frequencies: Int[np.ndarray, "terms dim"] | Sequence[Sequence[int]],
        coefficients: Complex[np.ndarray, " terms"] | Sequence[complex],
        period: float = 1.0,
    ) -> None:
        k, c = np.asarray(frequencies), np.asarray(coefficients, dtype=complex)
        if k.ndim != 2 or not k.shape[1] or c.shape != k.shape[:1]:
            raise ValueError(f"frequencies has shape {k.shape} and coefficients {c.shape}; they take (n, dim) and (n,)")
        if k.size and k.dtype.kind not in "iu":
            raise TypeError(f"frequencies has dtype {k.dtype}; it takes whole numbers")
        if k.size and max(int(k.max()), -int(k.min())) > _MOST:
            raise ValueError(f"frequencies has {k.min()} to {k.max()}; it takes numbers up to 2**40 either way")
        if not np.isfinite(c).all():
            raise ValueError("coefficients has NaN or infinite elements; it takes finite ones")
        self.period = check_number("period", period, gt=0)
        self.frequencies, self.coefficients = _merged(k.astype(np.int64), c)
        self.slack, self.tolerance = 0.0, 0.0
        mirrored = self._combined(-self.frequencies, self.coefficients.conj())
        if (self - mirrored).mass > 1e-9 * max(self.mass, 1e-300):
            raise ValueError("coefficients of k and -k aren't conjugate; they are, of a real function")

    @classmethod
    def cosines(
        cls,
        frequencies: Int[np.ndarray, "terms dim"] | Sequence[Sequence[int]],
        amplitudes: Float[np.ndarray, " terms"] | Sequence[float],
        phases: Float[np.ndarray, " terms"] | Sequence[float] | float = 0.0,
        period: float = 1.0,
    ) -> "TrigSum":
        """Make a sum of a cos(2 pi k·x / period + phase).

        Parameters
        ----------
        frequencies
            Integer vectors k, one row for each term.
        amplitudes
            Factors a of the cosines.
        phases
            Phases in radians, one for all or one for each.
        period
            Length of the torus along each axis.

        Returns
        -------
        TrigSum
            The sum, with two exponentials for each cosine.
        """
        k = np.asarray(frequencies)
        half = 0.5 * np.asarray(amplitudes, dtype=float) * np.exp(1j * np.asarray(phases, dtype=float))
        return cls(np.concatenate([k, -k]), np.concatenate([half, half.conj()]), period)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.frequencies.shape[1]

    @property
    def terms(self) -> int:
        """Number of exponentials."""
        return len(self.coefficients)

    @property
    def mass(self) -> float:
        """Sum of the absolute coefficients, which no value exceeds."""
        return float(np.abs(self.coefficients).sum())

    @property
    def band(self) -> float:
        """Greatest angular frequency."""
        return float(self.lengths.max(initial=0.0))

    @property
    def lengths(self) -> Float[np.ndarray, " terms"]:
        """Length of the angular frequency of each term."""
        return 2 * np.pi / self.period * np.linalg.norm(self.frequencies, axis=1)

    def barron_norm(self, order: float = 1.0) -> float:
        """Return the sum of (1 + |omega|)^order |c|, a bound of the Barron norm on any domain.

        Parameters
        ----------
        order
            Power of 1 + |omega|.

        Returns
        -------
        float
            The sum over all terms.
        """
        return float(((1 + self.lengths) ** order * np.abs(self.coefficients)).sum())

    def __call__(self, x: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"]:
        """Return the values at points."""
        points = np.asarray(x, dtype=float)
        if points.shape[-1:] != (self.dim,):
            raise ValueError(f"x has shape {points.shape}; it takes points of {self.dim} dimensions")
        phases = (2 * np.pi / self.period) * (points @ self.frequencies.T)
        return np.cos(phases) @ self.coefficients.real - np.sin(phases) @ self.coefficients.imag

    def inner(self, other: "TrigSum") -> float:
        """Return the mean of the product over the torus.

        Parameters
        ----------
        other
            Another sum on the same torus.

        Returns
        -------
        float
            The inner product in L², for a period of 1.
        """
        return float(self._product(other, at_zero=True).real)

    def grad(self) -> list["TrigSum"]:
        """Return the derivative along each axis.

        Returns
        -------
        list[TrigSum]
            One sum for each dimension.
        """
        factor = 2j * np.pi / self.period
        return [self._multiplied(factor * self.frequencies[:, i]) for i in range(self.dim)]

    def laplacian(self) -> "TrigSum":
        """Return the Laplacian.

        Returns
        -------
        TrigSum
            Each term times -|omega|².
        """
        return self._multiplied(-(self.lengths**2))

    def precondition(self) -> "TrigSum":
        """Return (1 - Laplacian)⁻¹ of it.

        Returns
        -------
        TrigSum
            Each term divided by 1 + |omega|².
        """
        return self._multiplied(1 / (1 + self.lengths**2))

    def pruned(self, tolerance_mass: float = 0.0, most: int | None = None) -> "TrigSum":
        """Drop the terms of the smallest coefficients.

        Parameters
        ----------
        tolerance_mass
            What the dropped coefficients may add up to.
        most
            Most terms that are kept, whatever they add up to.

        Returns
        -------
        TrigSum
            The sum of the others, with what was dropped added to `slack`.
        """
        if not self.terms:
            return self._combined(self.frequencies, self.coefficients, merge=False)
        sizes = np.abs(self.coefficients)
        order = np.argsort(sizes, kind="stable")
        sizes_up = sizes[order]
        # A term and its mirror image, of the same size, go together, or the rest would not be real.
        ends = np.flatnonzero(np.append(sizes_up[1:] > sizes_up[:-1] * (1 + 1e-9), True)) + 1
        total = np.cumsum(sizes_up)
        dropped = int(max([0, *ends[total[ends - 1] <= tolerance_mass]]))
        if most is not None and self.terms - dropped > most:
            dropped = int(ends[np.searchsorted(ends, self.terms - most)])
        kept = np.sort(order[dropped:])
        found = self._combined(self.frequencies[kept], self.coefficients[kept], merge=False)
        found.slack = self.slack + float(sizes[order[:dropped]].sum())
        return found

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
        from paperworks.solvers.energy.networks import RidgeNetwork

        return RidgeNetwork.of(self, kind, width, random_state, **options)

    def __add__(self, other: Any) -> "TrigSum":
        if isinstance(other, Real):
            added = check_number("other", other)
            other = self._combined(np.zeros((1, self.dim), np.int64), np.array([complex(added)]))
        if not isinstance(other, TrigSum):
            return NotImplemented
        self._check_fits(other)
        found = self._combined(
            np.concatenate([self.frequencies, other.frequencies]),
            np.concatenate([self.coefficients, other.coefficients]),
        )
        found.slack = self.slack + other.slack
        return found

    __radd__ = __add__

    def __neg__(self) -> "TrigSum":
        return -1.0 * self

    def __sub__(self, other: Any) -> "TrigSum":
        return self + (-1.0) * other if isinstance(other, (TrigSum, Real)) else NotImplemented

    def __rsub__(self, other: Any) -> "TrigSum":
        return (-1.0) * self + other

    def __mul__(self, other: Any) -> "TrigSum":
        if isinstance(other, Real):
            factor = check_number("other", other)
            found = self._combined(self.frequencies, factor * self.coefficients, merge=False)
            found.slack = abs(factor) * self.slack
            return found
        return self._product(other) if isinstance(other, TrigSum) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "TrigSum":
        return self * (1 / divisor) if isinstance(divisor, Real) else NotImplemented

    def __repr__(self) -> str:
        return f"TrigSum({self.terms} terms in {self.dim} dimensions, Barron norm {self.barron_norm():.4g})"

    def _multiplied(self, factors: np.ndarray) -> "TrigSum":
        kept = factors != 0
        found = self._combined(self.frequencies[kept], (factors * self.coefficients)[kept], merge=False)
        found.slack = self.slack * float(np.abs(factors).max(initial=0.0)) if self.slack else 0.0
        return found

    def _product(self, other: "TrigSum", at_zero: bool = False) -> Any:
        self._check_fits(other)
        # A linear hash of the frequencies is the hash of their sum, so terms meet as numbers, not as vectors. Two
        # different frequencies of a million share one with a chance of 1e-8.
        weights = np.random.default_rng(20221012).integers(-(2**62), 2**62, self.dim)
        with np.errstate(over="ignore"):
            ours, theirs = self.frequencies @ weights, other.frequencies @ weights
        if at_zero:
            order = np.argsort(theirs)
            place = np.minimum(np.searchsorted(theirs, -ours, sorter=order), max(len(theirs) - 1, 0))
            if not self.terms or not other.terms:
                return complex(0)
            met = theirs[order[place]] == -ours
            return (self.coefficients[met] * other.coefficients[order[place][met]]).sum()
        rows = max(1, _PAIRS // max(other.terms, 1))
        hashes, values, pairs = [np.zeros(0, np.int64)], [np.zeros(0, complex)], [np.zeros(0, np.int64)]
        for start in range(0, self.terms, rows):
            part = slice(start, start + rows)
            found, first, where = np.unique((ours[part, None] + theirs).ravel(), return_index=True, return_inverse=True)
            products = (self.coefficients[part, None] * other.coefficients).ravel()
            hashes.append(found)
            values.append(np.bincount(where, products.real) + 1j * np.bincount(where, products.imag))
            pairs.append(first + start * other.terms)
        joined, first, where = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
        total = np.concatenate(values)
        merged = np.bincount(where, total.real, len(joined)) + 1j * np.bincount(where, total.imag, len(joined))
        left, right = np.divmod(np.concatenate(pairs)[first], max(other.terms, 1))
        product = self._combined(self.frequencies[left] + other.frequencies[right], merged, merge=False)
        product.slack = self.slack * other.mass + other.slack * self.mass + self.slack * other.slack
        return product.pruned(self.tolerance * product.mass) if self.tolerance else product

    def _combined(self, frequencies: np.ndarray, coefficients: np.ndarray, merge: bool = True) -> "TrigSum":
        """Make a sum of the same period without checks."""
        found = object.__new__(TrigSum)
        found.period, found.slack, found.tolerance = self.period, 0.0, self.tolerance
        found.frequencies, found.coefficients = (
            _merged(frequencies, coefficients) if merge else (frequencies, coefficients)
        )
        return found

    def _check_fits(self, other: "TrigSum") -> None:
        if other.dim != self.dim or not math.isclose(other.period, self.period):
            raise ValueError(
                f"other has {other.dim} dimensions and the period {other.period:g}; it takes {self.dim} and"
                f" {self.period:g}"
            )


def _merged(frequencies: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, where = np.unique(frequencies, axis=0, return_inverse=True)
    where = where.reshape(-1)
    total = np.bincount(where, coefficients.real, len(unique)) + 1j * np.bincount(where, coefficients.imag, len(unique))
    kept = total != 0
    return unique[kept], total[kept]
