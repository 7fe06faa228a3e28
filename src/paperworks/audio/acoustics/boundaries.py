"""Walls: rigid, with an impedance, or with an admittance that depends on frequency, and fits of the latter."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import ArrayLike

from paperworks.audio.acoustics.sources import DENSITY, SPEED_OF_SOUND
from paperworks.core.validation import check_count, check_number

# Hz, where a wall must not make sound: a solver's trapezoidal rule moves its highest frequencies to infinity.
_GRID = np.concatenate([[0.0], np.geomspace(1e-3, 1e8, 1100)])
_DAMPING = 1e-3  # least decay rate of a fitted pole / its angular frequency
_SLACK = 1e-9  # of the greatest admittance
_POOR = 0.5  # relative error of a fit that warns


@dataclass(frozen=True)
class ImpedanceBoundary:
    """A wall of local reaction: the velocity into it is ``Y(omega) p``, with sign convention ``exp(-i omega t)``.

    ``Y = Y_inf + sum_k A_k / (lambda_k - i omega) + sum_k 1/2 [(B_k + i C_k) / (alpha_k + i beta_k - i omega)
    + (B_k - i C_k) / (alpha_k - i beta_k - i omega)]``.

    Parameters
    ----------
    xi
        Normalised impedance ``Z / (rho c)``, instead of an admittance; infinite for a rigid wall, the default.
    Y_inf
        Admittance at high frequencies in m/(s Pa).
    real_poles
        Pairs ``(A, lambda)``.
    complex_poles
        Quadruples ``(B, C, alpha, beta)``.
    c, rho
        Speed of sound in m/s and density in kg/m^3.

    Raises
    ------
    ValueError
        For decay rates that aren't positive, an impedance that isn't positive beside an admittance, or an admittance
        with a negative real part at some frequency: such a wall would make sound.

    References
    ----------
    arXiv:2308.05141, boundary conditions; Pind et al., J. Acoust. Soc. Am. 145 (2019) for the auxiliary equations.

    Examples
    --------
    >>> wall = ImpedanceBoundary(xi=5.83)
    >>> round(float(wall.reflection([100.0])[0].real), 4), round(float(wall.absorption([100.0])[0]), 4)
    (0.7072, 0.4999)
    """

    xi: float | None = None
    Y_inf: float | None = None
    real_poles: Sequence[tuple[float, float]] = ()
    complex_poles: Sequence[tuple[float, float, float, float]] = ()
    c: float = SPEED_OF_SOUND
    rho: float = DENSITY

    def __post_init__(self) -> None:
        check_number("c", self.c, gt=0)
        check_number("rho", self.rho, gt=0)
        frequency_dependent = self.Y_inf is not None or len(self.real_poles) or len(self.complex_poles)
        if self.xi is not None and frequency_dependent:
            raise ValueError(f"xi is {self.xi!r} beside an admittance; it takes one of the two")
        if self.xi is not None:
            object.__setattr__(self, "xi", check_impedance(self.xi))
        for name, poles, size in (("real_poles", self.real_poles, 2), ("complex_poles", self.complex_poles, 4)):
            kept = tuple(tuple(check_number(name, value) for value in pole) for pole in poles)
            if any(len(pole) != size or pole[-1 if size == 2 else 2] <= 0 for pole in kept):
                raise ValueError(f"{name} is {poles!r}; it takes tuples of {size} numbers with decay rates > 0")
            object.__setattr__(self, name, kept)
        constant = 0.0 if self.xi is None else 1 / (self.xi * self.rho * self.c)
        limit = constant if self.Y_inf is None else check_number("Y_inf", self.Y_inf)
        object.__setattr__(self, "Y_inf", limit)
        f, least, greatest = _least_real_part(limit, self.real_poles, self.complex_poles)
        if least < -_SLACK * greatest or limit < 0:
            raise ValueError(
                f"the admittance has real part {least:.3g} at {f:.4g} Hz and {limit:.3g} in the limit; it takes 0 or "
                "more at all frequencies"
            )

    @property
    def is_rigid(self) -> bool:
        """Whether the wall lets nothing in."""
        return self.Y_inf == 0 and not self.real_poles and not self.complex_poles

    def admittance(self, f: ArrayLike) -> Complex[np.ndarray, " n"]:
        """Return the admittance.

        Parameters
        ----------
        f
            Frequencies in Hz.

        Returns
        -------
        ndarray
            Complex admittance in m/(s Pa).
        """
        return _admittance(
            np.asarray(f, np.float64).reshape(-1), self.Y_inf or 0.0, self.real_poles, self.complex_poles
        )

    def reflection(self, f: ArrayLike) -> Complex[np.ndarray, " n"]:
        """Return what a plane wave of normal incidence comes back with: ``(1 - rho c Y) / (1 + rho c Y)``.

        Parameters
        ----------
        f
            Frequencies in Hz.

        Returns
        -------
        ndarray
            Complex factors, one for each frequency.
        """
        y = self.rho * self.c * self.admittance(f)
        return np.asarray((1 - y) / (1 + y))

    def absorption(self, f: ArrayLike) -> Float[np.ndarray, " n"]:
        """Return the share of energy that a wave of normal incidence loses.

        Parameters
        ----------
        f
            Frequencies in Hz.

        Returns
        -------
        ndarray
            Shares from 0 to 1.
        """
        return np.asarray(1 - np.abs(self.reflection(f)) ** 2)

    def filter(self, dt: float) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Return the accumulators' step by the trapezoidal rule, which keeps a passive wall passive.

        The accumulators are ``phi_k`` of real poles, then ``psi^0_k`` and ``psi^1_k`` of pairs, with
        ``phi' + lambda phi = p``, ``psi0' + alpha psi0 + beta psi1 = p`` and ``psi1' + alpha psi1 - beta psi0 = 0``.

        Parameters
        ----------
        dt
            Time step in seconds.

        Returns
        -------
        tuple of ndarray
            P, q and C of ``x_next = P x + q (p_next + p)`` and ``v = Y_inf p + C x``.
        """
        m = len(self.real_poles) + 2 * len(self.complex_poles)
        rates, inputs, outputs = np.zeros((m, m)), np.zeros(m), np.zeros(m)
        for i, (a, rate) in enumerate(self.real_poles):
            rates[i, i], inputs[i], outputs[i] = -rate, 1.0, a
        for k, (b, c, alpha, beta) in enumerate(self.complex_poles):
            i = len(self.real_poles) + 2 * k
            rates[i : i + 2, i : i + 2] = [[-alpha, -beta], [beta, -alpha]]
            inputs[i], outputs[i : i + 2] = 1.0, [b, c]
        implicit = np.eye(m) - dt / 2 * rates
        return (
            np.linalg.solve(implicit, np.eye(m) + dt / 2 * rates),
            np.linalg.solve(implicit, dt / 2 * inputs),
            outputs,
        )


def _admittance(
    f: Float[np.ndarray, " n"], limit: float, real_poles: Sequence[Any], complex_poles: Sequence[Any]
) -> Complex[np.ndarray, " n"]:
    s = -2j * np.pi * f
    y = np.full(s.shape, limit, dtype=np.complex128)
    for a, rate in real_poles:
        y += a / (rate + s)
    for b, c, alpha, beta in complex_poles:
        y += 0.5 * ((b + 1j * c) / (alpha + 1j * beta + s) + (b - 1j * c) / (alpha - 1j * beta + s))
    return y


def _least_real_part(
    limit: float, real_poles: Sequence[Any], complex_poles: Sequence[Any]
) -> tuple[float, float, float]:
    """Return where the real part is least, how much it is there, and the greatest absolute value."""
    f = np.unique(_frequencies([(a, b) for _, _, a, b in complex_poles]))
    y = _admittance(f, limit, real_poles, complex_poles)
    valleys = 1 + np.flatnonzero((y.real[1:-1] <= y.real[:-2]) & (y.real[1:-1] < y.real[2:]))
    fine = np.concatenate([f, *np.linspace(f[valleys - 1], f[valleys + 1], 201, axis=1)])
    real = _admittance(fine, limit, real_poles, complex_poles).real
    worst = int(np.argmin(real))
    return float(fine[worst]), float(real[worst]), float(np.abs(y).max())


def _frequencies(resonances: Sequence[tuple[float, float]]) -> Float[np.ndarray, " n"]:
    """Return frequencies at which a real part might be negative: many near each (decay rate, angular frequency)."""
    near = [(b + a * np.sinh(np.linspace(-5, 5, 101))) / (2 * math.pi) for a, b in resonances]
    return np.abs(np.concatenate([_GRID, *near]))


def check_impedance(xi: Any) -> float:
    """Return a normalised impedance as a float, infinite for a rigid wall, or raise."""
    if np.ndim(xi) == 0 and xi == math.inf:
        return math.inf
    try:
        return check_number("xi", xi, ge=1e-300)
    except ValueError:
        raise ValueError(f"xi is {xi!r}; it takes a number > 0, infinite for a rigid wall") from None


RIGID = ImpedanceBoundary()
"""A wall that lets nothing in."""


def porous_layer(
    f: ArrayLike,
    flow_resistivity: float = 8000.0,
    thickness: float = 0.1,
    c: float = SPEED_OF_SOUND,
    rho: float = DENSITY,
) -> Complex[np.ndarray, " n"]:
    """Return the admittance of a porous layer before a rigid wall by Miki's model, with ``exp(-i omega t)``.

    Parameters
    ----------
    f
        Frequencies in Hz, above 0.
    flow_resistivity
        In N s / m^4; 8000 by default, the paper's.
    thickness
        In metres; 0.1 by default.
    c, rho
        Speed of sound in m/s and density in kg/m^3.

    Returns
    -------
    ndarray
        Complex admittance in m/(s Pa).

    Raises
    ------
    ValueError
        For numbers that aren't positive.

    References
    ----------
    Miki, Acoustical properties of porous materials, J. Acoust. Soc. Jpn. (E) 11 (1990); arXiv:2308.05141, data.

    Examples
    --------
    >>> y = porous_layer([50.0, 1000.0])
    >>> bool((y.real > 0).all()), bool((abs(1.2 * 343 * y) < 3).all())
    (True, True)
    """
    frequency = np.asarray(f, np.float64).reshape(-1)
    if not (frequency > 0).all():
        raise ValueError(f"f has {frequency.min()}; it takes frequencies > 0")
    x = frequency / check_number("flow_resistivity", flow_resistivity, gt=0)
    z = rho * c * (1 + (0.070 + 0.107j) * x**-0.632)
    k = 2 * np.pi * frequency / c * (1 + (0.109 + 0.160j) * x**-0.618)
    return np.asarray(np.tan(k * check_number("thickness", thickness, gt=0)) / (1j * z))


def fit_admittance(
    f: ArrayLike,
    Y: ArrayLike,
    n_real: int = 2,
    n_pairs: int = 2,
    steps: int = 30,
    c: float = SPEED_OF_SOUND,
    rho: float = DENSITY,
) -> ImpedanceBoundary:
    """Fit a passive rational admittance to a material by vector fitting.

    Poles are found in turn with residues by linear least squares; unstable ones are reflected. Where the fit would make
    sound somewhere, its residues are fitted again under the constraint that it doesn't.

    Parameters
    ----------
    f
        Frequencies in Hz.
    Y
        Complex admittance in m/(s Pa) with sign convention ``exp(-i omega t)``; of data with ``exp(+i omega t)``, as
        of most impedance tubes, the conjugate.
    n_real
        Number of real poles.
    n_pairs
        Number of pairs of conjugate poles.
    steps
        Relocations of the poles.
    c, rho
        Speed of sound in m/s and density in kg/m^3.

    Returns
    -------
    ImpedanceBoundary
        The wall with this admittance.

    Raises
    ------
    ValueError
        For too few frequencies, or a material that makes sound itself. A fit that misses half of the data warns.

    References
    ----------
    Gustavsen and Semlyen, IEEE Trans. Power Delivery 14 (1999); arXiv:2308.05141, frequency-dependent boundaries.

    Examples
    --------
    >>> f = np.geomspace(20, 2000, 100)
    >>> wall = fit_admittance(f, porous_layer(f), n_real=2, n_pairs=2)
    >>> bool(np.abs(wall.admittance(f) / porous_layer(f) - 1).max() < 0.02)
    True
    """
    try:
        frequency, wanted = np.asarray(f, np.float64).reshape(-1), np.asarray(Y, np.complex128).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"f and Y are {f!r} and {Y!r}; they take numbers") from None
    for name, count in (("n_real", n_real), ("n_pairs", n_pairs), ("steps", steps)):
        check_count(name, count, at_least=0)
    if frequency.shape != wanted.shape or 2 * len(frequency) < 2 * (n_real + 2 * n_pairs) + 1:
        raise ValueError(
            f"f and Y have {len(frequency)} and {len(wanted)} values; they take as many, and enough to fit"
        )
    if not (np.isfinite(wanted).all() and np.isfinite(frequency).all() and (frequency >= 0).all()):
        raise ValueError("f and Y have negative or infinite values; they take finite numbers and frequencies >= 0")
    if wanted.real.min() < -1e-6 * np.abs(wanted).max():
        raise ValueError(
            f"Y has real part {wanted.real.min():.3g}; it takes 0 or more, as walls don't make sound: set what noise "
            "put below to 0"
        )
    if not frequency.any():
        raise ValueError("f has zeros alone; it takes frequencies above 0 too")
    if not wanted.any():
        return ImpedanceBoundary(c=c, rho=rho)
    unit = 2 * np.pi * frequency.max()
    s = -2j * np.pi * frequency / unit
    low = max(frequency[frequency > 0].min() / frequency.max(), 1e-4)
    real = -np.geomspace(low, 1.0, n_real + 2)[1:-1].astype(complex)
    pairs = np.geomspace(low, 1.0, n_pairs + 2)[1:-1] * (-0.1 + 1j)
    weight = 1 / np.maximum(np.abs(wanted), 1e-3 * np.abs(wanted).max())  # the relative error counts
    for _ in range(steps if n_real + n_pairs else 0):
        real, pairs = _relocated(s, wanted, weight, real, pairs, n_real)
    columns = np.column_stack([np.ones_like(s), _partial_fractions(s, real, pairs)])
    grid = -2j * np.pi * _frequencies([(-a.real * unit, a.imag * unit) for a in pairs]) / unit
    everywhere = np.column_stack([np.ones_like(grid), _partial_fractions(grid, real, pairs)]).real
    found = _residues(columns * weight[:, None], wanted * weight, everywhere)
    split = 1 + len(real)
    # (r + i q)/(s - a) + its conjugate is half of (2 r + 2 i q)/(s - a) and so on; poles are -alpha - i beta.
    singles = [(float(r * unit), float(-a.real * unit)) for r, a in zip(found[1:split], real, strict=True)]
    quadruples = [
        (float(2 * r * unit), float(-2 * q * unit), float(-a.real * unit), float(a.imag * unit))
        for r, q, a in zip(found[split::2], found[split + 1 :: 2], pairs, strict=True)
    ]
    lowest = _least_real_part(float(found[0]), singles, quadruples)[1]
    off = float(np.linalg.norm((columns @ found - wanted) * weight) / np.linalg.norm(wanted * weight))
    if off > _POOR:
        warnings.warn(
            f"the fit is off by {off:.0%}; take the conjugate of data with exp(+i omega t), or more poles", stacklevel=2
        )
    return ImpedanceBoundary(
        Y_inf=float(max(found[0] - min(lowest, 0.0), 0.0)),
        real_poles=singles,
        complex_poles=quadruples,
        c=c,
        rho=rho,
    )


def _partial_fractions(
    s: Complex[np.ndarray, " n"], real: Complex[np.ndarray, " a"], pairs: Complex[np.ndarray, " b"]
) -> Complex[np.ndarray, "n m"]:
    """Return columns whose real combinations are all functions with these poles and their conjugates."""
    columns = [1 / (s - a) for a in real]
    for a in pairs:
        first, second = 1 / (s - a), 1 / (s - a.conjugate())
        columns += [first + second, 1j * (first - second)]
    return np.column_stack(columns) if columns else np.empty((len(s), 0), complex)


def _relocated(
    s: np.ndarray, wanted: np.ndarray, weight: np.ndarray, real: np.ndarray, pairs: np.ndarray, n_real: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the zeros of the fitted denominator as new poles, reflected into the stable half, as many of each kind."""
    basis = _partial_fractions(s, real, pairs)
    m = basis.shape[1]
    system = np.column_stack([np.ones_like(s), basis, -wanted[:, None] * basis]) * weight[:, None]
    target = wanted * weight
    scale = np.linalg.norm(system, axis=0)
    solved = np.linalg.lstsq(
        np.concatenate([system.real, system.imag]) / scale, np.concatenate([target.real, target.imag]), rcond=None
    )[0]
    sigma = (solved / scale)[1 + m :]
    state, drive = np.zeros((m, m)), np.ones(m)
    for i, a in enumerate(real):
        state[i, i] = a.real
    for k, a in enumerate(pairs):
        i = len(real) + 2 * k
        state[i : i + 2, i : i + 2] = [[a.real, a.imag], [-a.imag, a.real]]
        drive[i : i + 2] = [2, 0]
    zeros = np.linalg.eigvals(state - np.outer(drive, sigma))
    zeros = -np.maximum(np.abs(zeros.real), _DAMPING * np.abs(zeros) + 1e-9) + 1j * zeros.imag
    upper = sorted(zeros[zeros.imag > 1e-9], key=lambda z: -z.imag / abs(z))
    lonely = sorted(zeros[np.abs(zeros.imag) <= 1e-9], key=abs)
    while len(lonely) < n_real:  # a pair that should be two real poles
        z = upper.pop()
        lonely += [z.real + 0j, 1.5 * z.real + 0j]
    while len(lonely) > n_real:  # two real poles that should be a pair
        b, a = lonely.pop(), lonely.pop()
        upper.append((a.real + b.real) / 2 * (1 - 0.1j))
    return np.array(lonely, complex), np.array(upper, complex)


def _residues(system: np.ndarray, target: np.ndarray, real_parts: np.ndarray) -> Float[np.ndarray, " m"]:
    """Return real coefficients by least squares, constrained where real parts or the limit would be negative."""
    from scipy.optimize import minimize

    a, b = np.concatenate([system.real, system.imag]), np.concatenate([target.real, target.imag])
    scale = np.linalg.norm(a, axis=0)
    a = a / scale
    free = np.linalg.lstsq(a, b, rcond=None)[0]
    limits = np.concatenate([real_parts, np.eye(1, real_parts.shape[1])]) / scale
    limits /= np.linalg.norm(limits, axis=1, keepdims=True)
    if (limits @ free >= 0).all():
        return np.asarray(free / scale)
    q, r = np.linalg.qr(a)
    aim = q.T @ b
    solved = minimize(
        lambda x: ((r @ x - aim) ** 2).sum(),
        np.eye(1, len(free))[0] * abs(free[0]),
        jac=lambda x: 2 * r.T @ (r @ x - aim),
        constraints={"type": "ineq", "fun": lambda x: limits @ x - 1e-9, "jac": lambda x: limits},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return np.asarray(solved.x / scale)
