"""Least squares for features that are nearly dependent: truncated, ridged, left one out, and within a budget."""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg
from scipy.optimize import brentq

from paperworks.core.validation import check_choice, check_count, check_number

RCOND = 1e-12
"""Singular values below this share of the largest are taken as rounding."""


class Decomposition(NamedTuple):
    """The singular values and vectors of a feature matrix that are more than rounding.

    Parameters
    ----------
    u
        Left singular vectors, one column each.
    s
        Singular values, the largest first.
    vt
        Right singular vectors, one row each.
    """

    u: Float[np.ndarray, "samples rank"]
    s: Float[np.ndarray, " rank"]
    vt: Float[np.ndarray, "rank features"]

    def solve(self, y: Float[np.ndarray, " samples *outputs"], ridge: float = 0.0) -> np.ndarray:
        """Return the coefficients of least norm that fit best, or those of ridge regression."""
        z = self.u.T @ y
        factor = 1 / self.s if ridge == 0 else self.s / (self.s**2 + ridge)
        return self.vt.T @ (factor.reshape(-1, *[1] * (z.ndim - 1)) * z)

    def left_out(self, y: Float[np.ndarray, " samples *outputs"], ridge: float = 0.0) -> np.ndarray:
        """Return the error at each sample of the fit to all others.

        With as many independent features as samples, the fit without a ridge goes through all of them; the errors are
        then the limit for a ridge that goes to 0.
        """
        rows = self.u
        if ridge == 0 and len(self.s) == len(rows):
            weights = 1 / self.s**2
        else:
            shares = np.ones_like(self.s) if ridge == 0 else self.s**2 / (self.s**2 + ridge)
            residual = y - (rows * shares) @ (rows.T @ y)
            left = 1 - np.einsum("ik,k,ik->i", rows, shares, rows)
            return residual / left.clip(np.finfo(float).eps).reshape(-1, *[1] * (y.ndim - 1))
        inverse = (rows * weights) @ (rows.T @ y)
        return inverse / np.einsum("ik,k,ik->i", rows, weights, rows).reshape(-1, *[1] * (y.ndim - 1))


def decompose(H: Float[np.ndarray, "samples features"], rcond: float = RCOND) -> Decomposition:
    """Decompose a feature matrix, without what is rounding."""
    u, s, vt = linalg.svd(H, full_matrices=False, lapack_driver="gesdd", check_finite=False)
    rank = int((s > rcond * s[:1].sum()).sum())
    return Decomposition(u[:, :rank], s[:rank], vt[:rank])


def within_budget(
    parts: Decomposition, y: Float[np.ndarray, " samples"], budget: float
) -> Float[np.ndarray, " features"]:
    """Return the best coefficients whose 2-norm is at most a budget.

    They are those of ridge regression whose ridge solves the secular equation: the sum of (s z / (s² + mu))² is the
    square of the budget.
    """
    z = parts.u.T @ y
    free = float(np.linalg.norm(z / parts.s))
    if free <= budget:
        return parts.solve(y)
    if budget <= 1e-100 * free:
        return np.zeros(parts.vt.shape[1])

    def excess(log_ridge: float) -> float:
        # The reciprocal of the norm is nearly linear in the ridge, so that few steps are needed.
        return 1 / float(np.linalg.norm(parts.s * z / (parts.s**2 + math.exp(log_ridge)))) - 1 / budget

    most = 2 * float(np.linalg.norm(parts.s * z)) / budget
    least = float(parts.s[-1]) ** 2 * 1e-16
    if excess(math.log(least)) >= 0:  # so close to the free solution that no ridge tells them apart
        return parts.solve(y) * (budget / free)
    return parts.solve(y, math.exp(brentq(excess, math.log(least), math.log(most), xtol=1e-13)))


class BudgetCertificate(NamedTuple):
    """The least error that coefficients within a budget reach, from both sides.

    Parameters
    ----------
    lower
        No coefficients within the budget have a smaller error.
    attained
        Error of the best coefficients that were found.
    coefficients
        The best coefficients that were found.
    direction
        The unit vector that proves the lower bound.

    Examples
    --------
    >>> certificate = dual_certificate(np.eye(2), np.array([3.0, 4.0]), 2.0)
    >>> round(float(certificate.lower), 6), round(float(certificate.attained), 6)
    (3.0, 3.0)
    """

    lower: float
    attained: float
    coefficients: np.ndarray
    direction: np.ndarray


def dual_certificate(
    H: Float[np.ndarray, "samples features"],
    f: Float[np.ndarray, " samples"],
    C: float,
    norm: Literal["l2", "l1"] = "l2",
    *,
    steps: int = 2000,
) -> BudgetCertificate:
    """Bound the error of features with bounded coefficients from below, and say how close to the bound it comes.

    Parameters
    ----------
    H
        Features at the samples. With weights of a quadrature, multiply the rows and `f` by their square roots.
    f
        Values to approximate.
    C
        Largest norm of the coefficients.
    norm
        Norm that bounds them.
    steps
        Steps of accelerated projected descent, for "l1". For "l2" the solution is computed at once.

    Returns
    -------
    BudgetCertificate
        Lower bound, attained error, coefficients and the direction that proves the bound.

    Raises
    ------
    ValueError
        For a negative budget, or values that aren't finite or don't fit.

    Notes
    -----
    For any unit vector h, ``|f - H c| >= <f, h> - C |Hᵀh|`` in the dual norm; the residual's direction makes it tight.

    Examples
    --------
    >>> dual_certificate(np.eye(2), np.array([3.0, 4.0]), 10.0).lower
    0.0
    """
    H, f = _checked(H, f)
    check_number("C", C, ge=0)
    check_choice("norm", norm, ("l2", "l1"))
    check_count("steps", steps)
    H, unit_H = _in_units(H)
    f, unit_f = _in_units(f)
    C = check_number("C * H / f", C * (unit_H / unit_f), ge=0)
    c = within_budget(decompose(H), f, C) if norm == "l2" else _within_l1(H, f, C, steps)
    residual = f - H @ c
    attained = float(np.linalg.norm(residual))
    direction = residual / attained if attained > 0 else np.zeros_like(f)
    spread = H.T @ direction
    dual = np.linalg.norm(spread) if norm == "l2" else np.abs(spread).max(initial=0.0)
    lower = min(max(0.0, float(f @ direction - C * dual)), attained)  # above it by rounding alone
    return BudgetCertificate(unit_f * lower, unit_f * attained, c / unit_H * unit_f, direction)


class BudgetCurve(NamedTuple):
    """The size of coefficients against the error that they allow.

    Parameters
    ----------
    budgets
        2-norms of the coefficients, increasing.
    errors
        Least error with coefficients of that norm.

    Examples
    --------
    >>> BudgetCurve(np.array([1.0]), np.array([0.5])).errors
    array([0.5])
    """

    budgets: np.ndarray
    errors: np.ndarray


def budget_curve(
    H: Float[np.ndarray, "samples features"],
    f: Float[np.ndarray, " samples"],
    ridges: Float[np.ndarray, " points"] | None = None,
) -> BudgetCurve:
    """Trace the least coefficients against the error that they allow, by sweeping the ridge.

    On a bounded domain the features of any range come as close as one likes to a continuous function; what grows
    without bound is the size of the coefficients.

    Parameters
    ----------
    H
        Features at the samples.
    f
        Values to approximate.
    ridges
        Ridges, in units of the largest squared singular value. Default: 60 from 1e3 to 1e-24.

    Returns
    -------
    BudgetCurve
        Budgets, increasing, and errors.

    Raises
    ------
    ValueError
        For ridges that aren't positive, or values that aren't finite or don't fit.

    Examples
    --------
    >>> curve = budget_curve(np.eye(1), np.array([1.0]), np.array([1.0]))
    >>> curve.budgets, curve.errors
    (array([0.5]), array([0.5]))
    """
    H, f = _checked(H, f)
    mu = np.geomspace(1e3, 1e-24, 60) if ridges is None else np.sort(np.asarray(ridges, dtype=float))[::-1]
    if not (mu > 0).all():
        raise ValueError("ridges has numbers that aren't positive; it takes ones above 0")
    H, unit_H = _in_units(H)
    f, unit_f = _in_units(f)
    u, s, _ = linalg.svd(H, full_matrices=False, check_finite=False)
    z = u.T @ f
    beyond = max(0.0, float(f @ f - z @ z))
    mu = mu[:, None] * (s[0] ** 2 or 1.0)
    budgets = np.linalg.norm(s * z / (s**2 + mu), axis=1)
    errors = np.sqrt(np.square(mu * z / (s**2 + mu)).sum(1) + beyond)
    return BudgetCurve(budgets / unit_H * unit_f, unit_f * errors)


def _within_l1(H: np.ndarray, f: np.ndarray, budget: float, steps: int) -> np.ndarray:
    """Minimise by FISTA (Beck and Teboulle, 2009) with projection onto the l1 ball."""
    rate = 1 / max(float(np.linalg.norm(H, 2)) ** 2, np.finfo(float).tiny)
    c = ahead = np.zeros(H.shape[1])
    momentum = 1.0
    for _ in range(steps):
        new = _onto_l1(ahead - rate * (H.T @ (H @ ahead - f)), budget)
        faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + ((momentum - 1) / faster) * (new - c)
        c, momentum = new, faster
    return c


def _onto_l1(v: np.ndarray, budget: float) -> np.ndarray:
    """Project onto the l1 ball (Duchi and others, 2008)."""
    sizes = np.abs(v)
    if sizes.sum() <= budget:
        return v
    ordered = np.sort(sizes)[::-1]
    excess = (np.cumsum(ordered) - budget) / np.arange(1, len(v) + 1)
    taken = excess[max([0, *np.flatnonzero(ordered > excess)])]
    return np.sign(v) * np.maximum(sizes - taken, 0)


def _in_units(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return an array in units of its largest element, and that, so that squares are numbers."""
    unit = float(np.abs(values).max()) or 1.0
    return values / unit, unit


def _checked(H: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    H, f = np.asarray(H, dtype=float), np.asarray(f, dtype=float)
    if H.ndim != 2 or not H.size or f.shape != H.shape[:1]:
        raise ValueError(f"H has shape {H.shape} and f {f.shape}; they take (samples, features) and (samples,)")
    if not (np.isfinite(H).all() and np.isfinite(f).all()):
        raise ValueError("H or f has NaN or infinite elements; they take finite ones")
    return H, f
