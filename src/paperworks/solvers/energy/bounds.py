"""Certified bounds of Barron norms, and the sizes of networks that they give.

All of it is in logarithms, as the paper's are huge.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.solvers.energy.constants import DescentConstants, paper_constants, sharp_constants
from paperworks.solvers.energy.problems import EllipticEnergy
from paperworks.solvers.energy.series import SineSeries
from paperworks.solvers.energy.sums import TrigSum

_LOG10 = math.log(10)


class NormBound:
    """A bound of the Barron norm of some function and of its band, which sums and products of functions carry on.

    Parameters
    ----------
    log_norm
        Natural logarithm of the bound of the norm.
    log_band
        Natural logarithm of the greatest angular frequency.

    Notes
    -----
    The norm is the sum of (1 + |omega|) |c|, for which ``|g + h| <= |g| + |h|``, ``|g h| <= |g| |h|`` and
    ``|dg/dx_i| <= band |g|``.
    """

    def __init__(self, log_norm: float, log_band: float) -> None:
        self.log_norm, self.log_band = log_norm, log_band

    def derivative(self) -> "NormBound":
        """Return the bound of any partial derivative."""
        return NormBound(self.log_norm + self.log_band, self.log_band)

    def __add__(self, other: Any) -> "NormBound":
        if isinstance(other, NormBound):
            return NormBound(float(np.logaddexp(self.log_norm, other.log_norm)), max(self.log_band, other.log_band))
        return self + NormBound(_log(other), -math.inf)

    __radd__ = __add__

    def __mul__(self, other: Any) -> "NormBound":
        if isinstance(other, NormBound):
            return NormBound(self.log_norm + other.log_norm, float(np.logaddexp(self.log_band, other.log_band)))
        # 0 times a norm beyond all numbers is 0.
        return NormBound(_log(other) + self.log_norm, self.log_band) if other else NormBound(-math.inf, -math.inf)

    __rmul__ = __mul__


class NetworkSize(NamedTuple):
    """How large a two-layer network has to be, by a bound.

    Parameters
    ----------
    iterations
        Number of descent steps behind the bound.
    log10_norm
        Logarithm, base 10, of the bound of the Barron norm.
    log10_width
        That of the number of hidden units.
    log10_parameters
        That of the number of weights.

    Examples
    --------
    >>> NetworkSize(3, 1.0, 4.0, 4.5).iterations
    3
    """

    iterations: int
    log10_norm: float
    log10_width: float
    log10_parameters: float


def barron_bound(problem: EllipticEnergy, T: int, step: float) -> Float[np.ndarray, " iterates"]:
    """Bound the Barron norms of the first iterates of a descent from 0, step by step.

    Parameters
    ----------
    problem
        A problem with a polynomial integrand, whose source is a series or a sum.
    T
        Number of steps.
    step
        Step size of the descent.

    Returns
    -------
    ndarray of shape (T + 1,)
        Logarithms, base 10, of the bounds for iterates 0 to T.

    Raises
    ------
    ValueError
        For an integrand that is no polynomial or, with sines, mixes the axes; or a source given as a function or as
        values.

    Notes
    -----
    With w = |omega|², ``b' = max |1 - step w / (1 + w)| b + step (|dL/du| + ½ sum_i |q_i| + |f|)``, where q is what
    dL/dp has beyond p: the operator (1 - Laplacian)⁻¹ d/dx_i multiplies by omega_i / (1 + w), at most one half.
    For -Δu + c u + gamma u³ = f it is ``b' = m b + step (c b + gamma b³ + |f|)``.

    Examples
    --------
    >>> from paperworks.solvers import linear
    >>> problem = EllipticEnergy(linear(), SineSeries(np.ones((1, 1))), dim=2)
    >>> barron_bound(problem, T=1, step=1.0).round(3)  # log10 of 0 and of the source's norm 1 + pi sqrt 2
    array([ -inf,  0.736])
    """
    L, f = problem.L, _spectral(problem)
    check_count("T", T, at_least=0)
    check_number("step", step, gt=0)
    if L.degree is None:
        raise ValueError("L is no polynomial in u and grad u; the bound takes linear, semilinear or p4")
    if isinstance(f, SineSeries) and L.mixes_axes:
        raise ValueError("L has a matrix A that mixes the axes, which leaves sines; the bound takes a diagonal one")
    least = problem.dim * np.pi**2 if isinstance(f, SineSeries) else 0.0
    shrinks = max(abs(1 - step * least / (1 + least)), abs(1 - step))
    source = NormBound(_log(f.barron_norm()), _log(f.band))
    u, found = NormBound(-math.inf, -math.inf), [-math.inf]
    for _ in range(T):
        p = [u.derivative()] * problem.dim
        moved = L.du(None, u, p) + source
        for flux in L.dp_rest(None, u, p):
            moved = moved + 0.5 * flux
        u = shrinks * u + step * moved
        found.append(u.log_norm / _LOG10)
    return np.array(found)


def paper_barron_bound(problem: EllipticEnergy, T: int, poincare: float = 1.0) -> Float[np.ndarray, " iterates"]:
    """Bound the Barron norms of the iterates by the paper's closed form, for the paper's step size.

    Parameters
    ----------
    problem
        A problem with a polynomial integrand, whose source is a series or a sum.
    T
        Number of steps.
    poincare
        The constant C_p, at least 1.

    Returns
    -------
    ndarray of shape (T + 1,)
        Logarithms, base 10, of the bounds for iterates 0 to T; infinity where even they are too large.

    Notes
    -----
    arXiv 2210.12101: ``(1 + step d k² W² B)^(p t + 1) b^(p^t)`` with degree p, growth k = p of the band in a step, band
    W and b the norm of the source, 1 at least. B is the sum of the polynomial's absolute coefficients and 1.

    Examples
    --------
    >>> from paperworks.solvers import semilinear
    >>> problem = EllipticEnergy(semilinear(), SineSeries(np.ones((1, 1))), dim=2, c_bounds=(0.0, 3.0))
    >>> paper_barron_bound(problem, T=2).round(1)
    array([0.9, 2.9, 9.3])
    """
    f = _spectral(problem)
    check_count("T", T, at_least=0)
    if problem.L.degree is None:
        raise ValueError("L is no polynomial in u and grad u; the bound takes linear, semilinear or p4")
    degree = problem.L.degree
    upper = max(problem.c_bounds[1], problem.p_bounds[1])
    step = paper_constants(problem.p_bounds[0], upper, poincare).step
    growth = math.log10(1 + step * problem.dim * degree**2 * f.band**2 * (1 + problem.L.mass))
    first = math.log10(max(1.0, f.barron_norm()))
    with np.errstate(over="ignore"):
        powers = np.power(float(degree), np.arange(T + 1))
        return (degree * np.arange(T + 1) + 1) * growth + powers * first


def iterations_for(eps: float, gap: float, constants: DescentConstants) -> int:
    """Return how many steps bring the error in H¹ down to `eps`.

    Parameters
    ----------
    eps
        The error asked for.
    gap
        The energy of the start less the least one, or a bound of it.
    constants
        What `sharp_constants` or `paper_constants` returned.

    Returns
    -------
    int
        The least t with ``2 rate^t gap / mu <= eps²``.

    Raises
    ------
    ValueError
        For numbers that aren't positive, or a rate of 1.

    Examples
    --------
    >>> iterations_for(1e-3, 1.0, sharp_constants((0.0, 6.75), (1.0, 1.0), 2 * math.pi**2))
    11
    """
    check_number("eps", eps, gt=0)
    check_number("gap", gap, ge=0)
    if not constants.rate < 1:
        raise ValueError(f"constants has rate {constants.rate}; it takes one below 1")
    log_ratio = math.log(2) + _log(gap) - math.log(constants.mu) - 2 * math.log(eps)
    if log_ratio <= 0:
        return 0
    return 1 if constants.rate == 0 else math.ceil(log_ratio / -math.log(constants.rate))


def width_for(eps: float, u: SineSeries | TrigSum | float, kind: str = "sigmoid") -> int:
    """Return a width with which some two-layer network is within `eps` in L² of a function on the unit cube.

    Parameters
    ----------
    eps
        The error asked for.
    u
        The function, or its constant: for sigmoids the Barron norm times the radius of the domain, sqrt(dim) / 2 for
        the cube; for cosines the mass, the sum of |c|.
    kind
        Hidden units: "sigmoid" or "cos".

    Returns
    -------
    int
        ``4 C² / eps²`` for sigmoids and ``M² / eps²`` for cosines, rounded up. With C the Barron norm times the
        radius, that is ``dim |u|² / eps²``.

    Raises
    ------
    ValueError
        For an error that isn't positive or another kind, or a width beyond all numbers: `network_size` has logarithms.

    Notes
    -----
    Barron, IEEE Transactions on Information Theory 39 (1993), for sigmoids.

    Examples
    --------
    >>> width_for(0.1, SineSeries(np.ones((1, 1))), "cos")
    100
    """
    check_number("eps", eps, gt=0)
    check_choice("kind", kind, ("sigmoid", "cos"))
    if isinstance(u, (SineSeries, TrigSum)):
        norm = _radius(u.dim) * u.barron_norm() if kind == "sigmoid" else u.mass
    else:
        norm = check_number("u", u, ge=0)
    if not norm / eps < 1e150:
        raise ValueError(f"eps is {eps:g} for a constant of {norm:.3g}, which takes a width of more than 1e300")
    return max(1, math.ceil((4 if kind == "sigmoid" else 1) * (norm / eps) ** 2))


def network_size(
    problem: EllipticEnergy, eps: float, solution: SineSeries | TrigSum | None = None, *, bound: str = "sharp"
) -> NetworkSize:
    """Return how large a network is that represents the solution within `eps`, before or after solving.

    Parameters
    ----------
    problem
        A problem with a polynomial integrand, whose source is a series or a sum.
    eps
        Error of the network in L². Half of it is spent on the iteration, half on the width.
    solution
        A computed solution, whose own norm then counts: by far the smallest answer.
    bound
        "sharp", of our constants and step-by-step bounds; or "paper".

    Returns
    -------
    NetworkSize
        Steps, and the logarithms of norm, width and number of parameters.

    Raises
    ------
    ValueError
        For another bound, or an error that isn't positive.

    Notes
    -----
    The start's gap is at most ``|f|² / (2 mu)`` in the dual of H¹.

    Examples
    --------
    >>> from paperworks.solvers import semilinear
    >>> u = SineSeries(np.array([[1.0]]))
    >>> problem = EllipticEnergy.with_solution(semilinear(), u, c_bounds=(0.0, 3.0))
    >>> round(10 ** network_size(problem, 0.1, u).log10_width)  # half the error is the width's: 4 width_for(0.1, u)
    23640
    """
    check_number("eps", eps, gt=0)
    check_choice("bound", bound, ("sharp", "paper"))
    f = _spectral(problem)
    if solution is not None:
        iterations, log10_norm = 0, _log(solution.barron_norm()) / _LOG10
    else:
        lambda1 = problem.dim * np.pi**2 if isinstance(f, SineSeries) else 0.0
        sharp = sharp_constants(problem.c_bounds, problem.p_bounds, lambda1)
        gap = _dual_square(f) / (2 * sharp.mu)
        if bound == "sharp":
            iterations = iterations_for(eps / 2, gap, sharp)
            log10_norm = float(barron_bound(problem, iterations, sharp.step)[-1])
        else:
            paper = paper_constants(problem.p_bounds[0], max(problem.c_bounds[1], problem.p_bounds[1]))
            iterations = iterations_for(eps / 2, gap, paper)
            log10_norm = float(paper_barron_bound(problem, iterations)[-1])
    log10_width = max(0.0, 2 * (math.log10(4 * _radius(problem.dim)) + log10_norm - math.log10(eps)))
    return NetworkSize(iterations, log10_norm, log10_width, log10_width + math.log10(problem.dim + 2))


def _spectral(problem: EllipticEnergy) -> SineSeries | TrigSum:
    if not isinstance(problem.f, (SineSeries, TrigSum)):
        raise ValueError(f"f is {type(problem.f).__name__}; bounds take a source that is a SineSeries or a TrigSum")
    return problem.f


def _radius(dim: int) -> float:
    """Return half the diagonal of the unit cube: a ridge of frequency omega turns by 2 radius |omega| at most."""
    return math.sqrt(dim) / 2


def _dual_square(f: SineSeries | TrigSum) -> float:
    if isinstance(f, SineSeries):
        return float((f.coefficients**2 / (1 + f.eigenvalues)).sum() / 2**f.dim)
    return f.inner(f.precondition())


def _log(value: float) -> float:
    return math.log(abs(value)) if value else -math.inf
