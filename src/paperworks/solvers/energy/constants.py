"""Step sizes and rates of preconditioned descent on an elliptic energy: sharp ones, and the paper's."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_count, check_number


class DescentConstants(NamedTuple):
    """What is known of a descent before it runs.

    Parameters
    ----------
    mu, smoothness
        The energy lies between quadratics of these curvatures, in H¹.
    step
        Step size that the rate is of.
    rate
        The energy's gap to its least value falls by this factor in each step at least.
    optimal_step, optimal_factor
        Step size whose errors in H¹ fall fastest, and the factor by which they do.

    Examples
    --------
    >>> constants = sharp_constants((0.0, 6.75), (1.0, 1.0), lambda1=2 * math.pi**2)
    >>> round(constants.rate, 3), round(constants.optimal_factor, 3)
    (0.255, 0.146)
    """

    mu: float
    smoothness: float
    step: float
    rate: float
    optimal_step: float
    optimal_factor: float


def sharp_constants(c_bounds: tuple[float, float], p_bounds: tuple[float, float], lambda1: float) -> DescentConstants:
    """Return the constants of gradient descent in the inner product of H¹, which the preconditioned one is.

    Parameters
    ----------
    c_bounds
        Bounds of the second derivative of the integrand by u.
    p_bounds
        Bounds of the eigenvalues of its Hessian by the gradient.
    lambda1
        Least eigenvalue of the negative Laplacian: d pi² on the unit cube with zero boundary values, 0 on the torus.

    Returns
    -------
    DescentConstants
        With step 1 / smoothness: ``E_t - E* <= (1 - mu / smoothness)^t (E_0 - E*)``.

    Raises
    ------
    ValueError
        Unless 0 < p_bounds[0] <= p_bounds[1] and c_bounds are in order, or where the energy isn't strongly convex.

    Notes
    -----
    With |grad u|² >= lambda1 u² in the mean, the second variation c u² + p |grad u|² is between
    ``min(p, (c + p lambda1) / (1 + lambda1))`` and the same with max, times the squared norm in H¹.

    Examples
    --------
    >>> sharp_constants((1.0, 1.0), (1.0, 1.0), lambda1=0.0).rate
    0.0
    """
    (c_low, c_high), (p_low, p_high) = check_bounds(c_bounds, p_bounds)
    check_number("lambda1", lambda1, ge=0)
    mu = min(p_low, (c_low + p_low * lambda1) / (1 + lambda1))
    smoothness = max(p_high, (c_high + p_high * lambda1) / (1 + lambda1))
    if not mu > 0:
        raise ValueError(
            f"c_bounds is {c_bounds} with least eigenvalue {lambda1:g}, so the energy isn't strongly convex: a constant"
            " is free; it takes a lower bound above 0"
        )
    return DescentConstants(
        mu,
        smoothness,
        1 / smoothness,
        1 - mu / smoothness,
        2 / (mu + smoothness),
        (smoothness - mu) / (smoothness + mu),
    )


def paper_constants(lower: float, upper: float, poincare: float = 1.0) -> DescentConstants:
    """Return the paper's step size and rate, which are valid and far from sharp.

    Parameters
    ----------
    lower, upper
        Bounds lambda and Lambda of the integrand's Hessian.
    poincare
        The constant C_p, at least 1.

    Returns
    -------
    DescentConstants
        With step ``lambda³ / ((1 + C_p) Lambda³)`` and rate ``1 - lambda⁵ / ((1 + C_p) Lambda⁴)``.

    Raises
    ------
    ValueError
        Unless 0 < lower <= upper and C_p >= 1.

    Notes
    -----
    arXiv 2210.12101, the theorem on the iterates; C_p is 1 / lambda1 where that is above 1.

    Examples
    --------
    >>> round(paper_constants(1.0, 6.75).rate, 5)
    0.99976
    """
    check_number("lower", lower, gt=0)
    check_number("upper", upper, ge=lower)
    check_number("poincare", poincare, ge=1)
    step = lower**3 / ((1 + poincare) * upper**3)
    rate = 1 - lower**5 / ((1 + poincare) * upper**4)
    return DescentConstants(lower, upper, step, rate, step, math.sqrt(rate))


def perturbation_bound(
    T: int, step: float, upper: float, error: float, radius: float
) -> Float[np.ndarray, " iterates"]:
    """Bound how far the descent of an approximate integrand strays from that of the true one.

    Parameters
    ----------
    T
        Number of steps.
    step
        Step size of both.
    upper
        Upper bound Lambda of the true integrand's Hessian.
    error
        Bound of ``|grad L - grad of its approximation|`` at p, as a share of ``|p|``.
    radius
        Bound of the norms of the true iterates, such as ``|u*| + E(u_0) / lambda``.

    Returns
    -------
    ndarray of shape (T + 1,)
        Bounds of the distance in H¹ of iterates 0 to T; infinity where they are beyond all numbers.

    Raises
    ------
    ValueError
        For numbers out of range.

    Notes
    -----
    arXiv 2210.12101, the lemma on approximate integrands: a step multiplies the distance by ``1 + step (Lambda +
    error)`` at most and adds ``step error radius``, which sums to ``error radius / (Lambda + error)`` times
    ``(1 + step (Lambda + error))^t - 1``.

    Examples
    --------
    >>> perturbation_bound(2, step=0.5, upper=1.0, error=0.0, radius=3.0)
    array([0., 0., 0.])
    """
    check_count("T", T, at_least=0)
    check_number("step", step, gt=0)
    check_number("upper", upper, gt=0)
    check_number("error", error, ge=0)
    check_number("radius", radius, ge=0)
    if error * radius == 0:
        return np.zeros(T + 1)
    with np.errstate(over="ignore"):
        growth = np.expm1(np.arange(T + 1) * math.log1p(step * (upper + error)))
    return error * radius / (upper + error) * growth


def check_bounds(
    c_bounds: tuple[float, float], p_bounds: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return bounds of a Hessian if they are in order, else raise ValueError."""
    (c_low, c_high), (p_low, p_high) = c_bounds, p_bounds
    check_number("c_bounds", c_low, ge=0)
    check_number("c_bounds", c_high, ge=c_low)
    check_number("p_bounds", p_low, gt=0)
    check_number("p_bounds", p_high, ge=p_low)
    return (float(c_low), float(c_high)), (float(p_low), float(p_high))
