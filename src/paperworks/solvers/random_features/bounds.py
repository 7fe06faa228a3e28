"""Errors that no network with hidden weights from a band and bounded coefficients can fall below."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft
from scipy.integrate import cumulative_simpson, quad
from scipy.optimize import minimize_scalar
from scipy.special import exp1, gamma

from paperworks.core.validation import check_count, check_number
from paperworks.solvers.random_features.activations import Name, activation_named
from paperworks.solvers.random_features.ridgelets import admissibility_constant, ridgelet_spectrum

Spectrum = Callable[[np.ndarray], np.ndarray] | Float[np.ndarray, "*grid"]
_POINTS = 4001  # of the table of a spectrum
_DYNAMIC = 1e-9  # of a spectrum's largest value, where the table ends


class SpectralBound(NamedTuple):
    """A lower bound of an error in L², over all of space.

    Parameters
    ----------
    bound
        The error is at least this.
    frequency
        Frequency from which on the target's spectrum proves it.
    relative
        The bound divided by the norm of the target.

    Examples
    --------
    >>> SpectralBound(0.5, 3.0, 0.25).bound
    0.5
    """

    bound: float
    frequency: float
    relative: float


class SpectrumShare(NamedTuple):
    """How much of a target's ridgelet spectrum a band of weights misses: an indicator, and no bound by itself.

    Parameters
    ----------
    share
        Share of the energy of the ridgelet transform that lies at weights outside the band.
    truncation_error
        Error in L², relative to the target, of the reconstruction from the weights within the band: what a network in
        the band reaches without search.

    Examples
    --------
    >>> SpectrumShare(0.1, 0.2).share
    0.1
    """

    share: float
    truncation_error: float


class _Tail:
    """The norm of a function's part above each frequency."""

    def __init__(self, spectrum: Spectrum, dim: int, spacing: float | None) -> None:
        if callable(spectrum):
            self.frequencies, energy = _radial(spectrum, dim)
        else:
            self.frequencies, energy = _sampled(spectrum, dim, spacing)
        total = energy[::-1].cumsum()[::-1]
        self.squares = np.append(total, 0.0)
        self.norm = math.sqrt(total[0])

    def __call__(self, frequency: Any) -> Any:
        # Of a table the entries at higher frequencies alone count, so that a bound stays one.
        return np.sqrt(self.squares[np.searchsorted(self.frequencies, frequency, side="right")])


def spectral_lower_bound(
    f: Spectrum,
    lam: float,
    budget: float,
    activation: Name = "tanh",
    *,
    dim: int = 1,
    spacing: float | None = None,
) -> SpectralBound:
    """Bound the error of a network from below whose hidden weights are in a ball and whose coefficients are bounded.

    The network is the integral of gamma(a, b) sigma(a·x - b), with gamma 0 for |a| above `lam` and a norm in L² of at
    most `budget`. A finite network with n weights drawn evenly from a set of volume V and coefficients c counts as one
    of norm sqrt(n / V) |c|.

    Parameters
    ----------
    f
        The target: the size of its Fourier transform, the integral of f(x) exp(-i xi·x), as a function of |xi| above 0;
        or its values on a uniform grid of `dim` axes that holds all of it: what is cut off at the edge is a jump.
    lam
        Radius of the ball of hidden weights. Weights from a cube of half side s have the radius s sqrt(dim).
    budget
        Norm of the coefficients.
    activation
        Name of the activation.
    dim
        Number of dimensions.
    spacing
        Distance between neighbours of the grid, for values.

    Returns
    -------
    SpectralBound
        The largest bound over all frequencies, and where.

    Raises
    ------
    ValueError
        For a radius that isn't positive, a negative budget, an unknown activation, or values without their spacing.

    Notes
    -----
    For every W the error is at least ``|P_W f| - budget kappa(W)``, where P_W cuts off frequencies below W and
    ``kappa(W)² = (2 pi)^(m - 1)`` times the integral of ``|sigma^(w)|² |w|^-m`` over |w| >= W / lam. Derived from
    Plancherel's formula for ridgelets, arXiv 2008.08427; the paper's own theorem is about `spectrum_share`. Sines have
    kappa = 0 beyond `lam`, whatever the coefficients.

    Examples
    --------
    >>> transform = lambda w: np.sqrt(np.pi / 2) * (np.exp(-((w - 12) ** 2) / 2) + np.exp(-((w + 12) ** 2) / 2))
    >>> found = spectral_lower_bound(transform, lam=4.0, budget=9.3, activation="gauss")
    >>> round(found.bound, 2), round(found.relative, 2)  # exp(-x²/2) cos 12x
    (0.72, 0.76)
    """
    check_number("budget", budget, ge=0)
    tail, kappa = _tail_and_kappa(f, lam, activation, dim, spacing)
    grid = _grid(tail, lam)
    if budget == 0:  # at low frequencies kappa may be infinite
        return SpectralBound(tail.norm, 0.0, 1.0)
    values = tail(grid) - budget * kappa(grid)
    best = int(values.argmax())
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    refined = minimize_scalar(
        lambda w: -float(tail(w) - budget * kappa(np.array([w]))[0]), bounds=(low, high), method="bounded"
    )
    frequency, value = max((-refined.fun, refined.x), (float(values[best]), float(grid[best])))[::-1]
    bound = max(0.0, float(value))
    return SpectralBound(bound, float(frequency), bound / tail.norm)


def minimal_budget(
    f: Spectrum,
    lam: float,
    eps: float,
    activation: Name = "tanh",
    *,
    dim: int = 1,
    spacing: float | None = None,
) -> float:
    """Return a size of coefficients that any network in a band needs for an error, at least.

    Parameters
    ----------
    f
        The target, as in `spectral_lower_bound`.
    lam
        Radius of the ball of hidden weights.
    eps
        Error in L² that is to be reached.
    activation
        Name of the activation.
    dim
        Number of dimensions.
    spacing
        Distance between neighbours of the grid, for values.

    Returns
    -------
    float
        The largest ``(|P_W f| - eps) / kappa(W)`` over all frequencies W; infinity where no coefficients are enough.

    Raises
    ------
    ValueError
        As `spectral_lower_bound`, and for a negative error.

    Examples
    --------
    >>> transform = lambda w: np.sqrt(np.pi / 2) * (np.exp(-((w - 12) ** 2) / 2) + np.exp(-((w + 12) ** 2) / 2))
    >>> [round(math.log10(minimal_budget(transform, lam, 0.1, "gauss")), 1) for lam in (2.0, 4.0, 8.0)]
    [7.3, 1.8, 0.4]
    """
    check_number("eps", eps, ge=0)
    tail, kappa = _tail_and_kappa(f, lam, activation, dim, spacing)
    grid = _grid(tail, lam)
    missing = tail(grid) - eps
    if not (missing > 0).any():
        return 0.0
    with np.errstate(divide="ignore"):
        return float((missing[missing > 0] / kappa(grid[missing > 0])).max())


def coefficient_tail(frequency: float, lam: float, activation: Name = "tanh", dim: int = 1) -> float:
    """Return kappa: the norm that a network in a band has above a frequency for coefficients of norm 1, at most.

    Parameters
    ----------
    frequency
        Frequency above which the norm is taken.
    lam
        Radius of the ball of hidden weights.
    activation
        Name of the activation.
    dim
        Number of dimensions.

    Returns
    -------
    float
        The bound, 0 where the activation has no frequencies beyond 1 and the band ends below.

    Raises
    ------
    ValueError
        For numbers that aren't positive or an unknown activation.

    Examples
    --------
    >>> coefficient_tail(5.0, 4.0, "cos")
    0.0
    """
    check_number("frequency", frequency, gt=0)
    return float(_kappa(check_number("lam", lam, gt=0), activation, check_count("dim", dim))(np.array([frequency]))[0])


def spectrum_share(
    f: Spectrum,
    lam: float,
    activation: Name = "tanh",
    *,
    order: int | None = None,
    dim: int = 1,
    spacing: float | None = None,
) -> SpectrumShare:
    """Return the share of a target's ridgelet spectrum outside a band, and the error of leaving it out.

    Parameters
    ----------
    f
        The target, as in `spectral_lower_bound`.
    lam
        Radius of the ball of hidden weights.
    activation
        Name of the activation.
    order
        The ridgelet is the derivative of a Gaussian of this order. Default: the lowest that is admissible.
    dim
        Number of dimensions.
    spacing
        Distance between neighbours of the grid, for values.

    Returns
    -------
    SpectrumShare
        Share of the energy, and error of the truncated reconstruction.

    Raises
    ------
    ValueError
        As `spectral_lower_bound`, and for a pair that isn't admissible.

    Notes
    -----
    arXiv 2008.08427: the paper's lower bound is positive where this share is.

    Examples
    --------
    >>> transform = lambda w: np.sqrt(2 * np.pi) * np.exp(-(w**2) / 2)
    >>> [round(spectrum_share(transform, lam).share, 2) for lam in (0.3, 1.0, 10.0)]
    [0.87, 0.34, 0.0]
    """
    check_number("lam", lam, gt=0)
    tail = _Tail(f, check_count("dim", dim), spacing)
    sigma = activation_named(activation)
    if sigma.transform is None:
        raise ValueError(f"activation is {activation!r}, which has no ridgelets; it takes another")
    order = (dim + 1 if (-1) ** (dim + 1) == sigma.parity else dim + 2) if order is None else order
    pair = admissibility_constant(activation, order, dim)
    transform = sigma.transform
    scale = 2 * (2 * math.pi) ** (dim - 1)

    def energy(w: float) -> float:
        return abs(complex(ridgelet_spectrum(np.array(w), order))) ** 2 * w**-dim

    def product(w: float) -> float:
        at = np.array(w)
        return (complex(transform(at)) * complex(ridgelet_spectrum(at, order)).conjugate()).real * w**-dim

    # Of a frequency xi of the target, the weights within the band give back what has |w| >= xi / lam.
    table = np.linspace(0, 40, _POINTS)[1:]
    energies_of = np.array([energy(w) for w in table])
    own = np.trapezoid(energies_of, table)
    outside = np.trapezoid(energies_of * tail(lam * table) ** 2, table)
    parts = np.array([product(w) for w in table])
    kept = scale * (np.trapezoid(parts, table) - cumulative_simpson(parts, x=table, initial=0.0)) / pair
    missing = 1 - np.interp(tail.frequencies / lam, table, kept, left=1.0, right=0.0)
    energies = -np.diff(tail.squares)
    return SpectrumShare(outside / (own * tail.norm**2), math.sqrt(float((missing**2 * energies).sum())) / tail.norm)


def _tail_and_kappa(
    f: Spectrum, lam: float, activation: Name, dim: int, spacing: float | None
) -> tuple[_Tail, Callable[[np.ndarray], np.ndarray]]:
    check_number("lam", lam, gt=0)
    return _Tail(f, check_count("dim", dim), spacing), _kappa(lam, activation, dim)


def _grid(tail: _Tail, lam: float) -> np.ndarray:
    top = tail.frequencies[-1]
    return np.union1d(np.geomspace(max(1e-3 * top, 1e-3 * lam), top, 200), np.minimum(lam * (1 + 1e-12), top))


def _kappa(lam: float, activation: Name, dim: int) -> Callable[[np.ndarray], np.ndarray]:
    sigma = activation_named(activation)
    scale = 2 * (2 * math.pi) ** (dim - 1)
    if sigma.transform is None:
        return lambda frequency: np.where(frequency > lam, 0.0, np.inf)
    if activation == "gauss" and dim == 1:
        return lambda frequency: np.sqrt(2 * np.pi * exp1((frequency / lam) ** 2))
    transform = sigma.transform

    def square(start: float) -> float:
        def integrand(w: float) -> float:
            return abs(complex(transform(np.array(w)))) ** 2 * w**-dim

        return scale * quad(integrand, start, np.inf, limit=200)[0]

    return lambda frequency: np.sqrt([square(w / lam) for w in np.atleast_1d(frequency)])


def _radial(spectrum: Callable[[np.ndarray], np.ndarray], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the energy of a radial spectrum in shells, from the right ends of which tails are taken."""
    probe = np.geomspace(1e-6, 1e6, 4000)
    sizes = _sizes(spectrum, probe) ** 2 * probe ** (dim - 1)
    kept = probe[sizes > _DYNAMIC**2 * sizes.max()]
    edges = np.linspace(0.0, float(kept[-1]), _POINTS)
    middle = (edges[1:] + edges[:-1]) / 2
    surface = 2 * math.pi ** (dim / 2) / gamma(dim / 2)
    density = _sizes(spectrum, middle) ** 2
    energy = density * surface * (edges[1:] ** dim - edges[:-1] ** dim) / dim / (2 * math.pi) ** dim
    return edges[:-1], energy


def _sizes(spectrum: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> np.ndarray:
    found = np.abs(np.asarray(spectrum(at)))
    if found.shape != at.shape or not np.isfinite(found).all():
        raise ValueError(
            f"f returns shape {found.shape} for {at.shape}; its transform takes finite numbers, one for each"
        )
    if not found.any():
        raise ValueError(
            f"f is 0 at all of {len(at)} frequencies from {at[0]:.2g} to {at[-1]:.2g}; its transform takes another"
            " function, or another unit of length"
        )
    return found


def _sampled(values: np.ndarray, dim: int, spacing: float | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=float)
    if spacing is None:
        raise ValueError("spacing is None; values on a grid take the distance between neighbours")
    check_number("spacing", spacing, gt=0)
    if values.ndim != dim or not np.isfinite(values).all() or not values.any():
        raise ValueError(f"f has shape {values.shape}; it takes finite values on a grid of {dim} axes, not all 0")
    padded = [fft.next_fast_len(4 * n) for n in values.shape]  # so that the table of frequencies is fine
    energy = np.abs(fft.fftn(values, padded)) ** 2 * spacing**dim / np.prod(padded)
    axes = np.meshgrid(*[2 * np.pi * fft.fftfreq(n, spacing) for n in padded], indexing="ij", sparse=True)
    radii = np.sqrt(sum((w**2 for w in axes), np.zeros(1))).ravel()
    # An entry stands for all frequencies of its cell; it counts as the lowest of them, so that a bound stays one.
    cell = math.pi * math.sqrt(sum((1 / (n * spacing)) ** 2 for n in padded))
    order = radii.argsort(kind="stable")
    return (radii[order] - cell).clip(0), energy.ravel()[order]
