"""Increments of the process that is a martingale at the true value function, and what is made of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import chi2

from paperworks.core.validation import check_choice, check_number
from paperworks.dynamics.martingales.trajectories import Trajectories
from paperworks.dynamics.martingales.values import Value

Array = Float[np.ndarray, "..."]
Test = Callable[[Any, Any], Any]


def martingale_increments(
    value: Value | Callable[[Any, Any], Any],
    paths: Trajectories,
    scheme: Literal["exact", "euler"] = "exact",
    *,
    discounted: bool = True,
) -> Float[np.ndarray, "m k"]:
    r"""Return the increments of $M_t = e^{-\beta t} J(t, X_t) + \int_0^t e^{-\beta s} r_s ds$ along paths.

    Parameters
    ----------
    value
        The candidate value function, of times and states.
    paths
        The paths; what is paid at the end stands for the candidate's values there.
    scheme
        ``exact`` discounts by the exponential of a step, ``euler`` to first order; both agree to first order.
    discounted
        Whether increments are discounted to time 0, as M is, or to the left end of each step.

    Returns
    -------
    ndarray
        Increments, (M, K); their mean given the past is 0 at the true value function, to first order in the step.

    Examples
    --------
    >>> paths = Trajectories([0.0, 1.0], [[0.0, 1.0], [0.0, -1.0]], [[0.0], [0.0]], terminal=[1.0, -1.0])
    >>> martingale_increments(lambda t, x: x, paths).ravel().tolist()
    [1.0, -1.0]
    """
    check_choice("scheme", scheme, ("exact", "euler"))
    values = paths.at_end(_along(value, paths))
    if scheme == "exact":
        found = paths.factors * values[:, 1:] - values[:, :-1] + paths.income
    else:
        found = values[:, 1:] - values[:, :-1] * (1 + paths.discount * paths.dt) + paths.income
    return found * np.exp(-paths.discount * paths.t[:, :-1]) if discounted else found


def martingale_loss(
    value: Value | Callable[[Any, Any], Any],
    paths: Trajectories,
    weighting: Literal["uniform", "discounted"] = "uniform",
) -> float:
    r"""Return the martingale loss, $\frac12 E \int_0^T |M_T - M_t|^2 dt$, of which the minimiser is the best fit of J.

    Parameters
    ----------
    value
        The candidate value function.
    paths
        Paths with what is paid at the end.
    weighting
        ``uniform`` weighs all times alike, as the mean-square error of the value does; ``discounted`` as M does.

    Returns
    -------
    float
        The mean over paths.

    Examples
    --------
    >>> paths = Trajectories([0.0, 1.0], [[0.0, 1.0], [0.0, -1.0]], [[0.0], [0.0]], terminal=[1.0, -1.0])
    >>> martingale_loss(lambda t, x: x, paths)
    0.5
    """
    values = _along(value, paths)
    misses = (targets(paths) - values)[:, :-1]
    return float((misses**2 * time_weights(paths, weighting)).sum(1).mean() / 2)


def _along(value: Value | Callable[[Any, Any], Any], paths: Trajectories) -> Float[np.ndarray, "m n"]:
    """Return a candidate's values at all times of all paths, as an array of its own."""
    shape = paths.x.shape[:2]
    found = np.array(value(np.broadcast_to(paths.t, shape), paths.x), dtype=np.float64)
    if found.shape not in (shape, ()):
        raise ValueError(f"value gave shape {found.shape} for times of {shape}; it takes the same")
    if not np.isfinite(found).all():
        raise ValueError("value gave NaN or infinite values; it takes a function that is finite along the paths")
    return found if found.shape == shape else np.full(shape, found)


def targets(paths: Trajectories) -> Float[np.ndarray, "m n"]:
    """Return what the value is regressed on, where paths have an end.

    Parameters
    ----------
    paths
        Paths with what is paid at the end, or discounted ones that are long enough to do without.

    Returns
    -------
    ndarray
        Discounted rewards from each time on.
    """
    if paths.terminal is None and paths.discount == 0:
        raise ValueError("terminal isn't given; without a discount it takes what is paid at the end")
    return paths.returns()


def time_weights(paths: Trajectories, weighting: Literal["uniform", "discounted"] = "uniform") -> Array:
    """Return the weight of each step in integrals over time.

    Parameters
    ----------
    paths
        Paths; where nothing is known of the end, steps from which more than a thousandth of it is left weigh nothing.
    weighting
        ``uniform`` or ``discounted``.

    Returns
    -------
    ndarray
        Weights, (1, K) or (M, K), in time.
    """
    check_choice("weighting", weighting, ("uniform", "discounted"))
    weights = paths.dt
    if weighting == "discounted":
        weights = weights * np.exp(-2 * paths.discount * paths.t[:, :-1])
    if paths.terminal is None:
        left = np.exp(-paths.discount * (paths.t[:, -1:] - paths.t[:, :-1]))
        weights = np.where(left <= 1e-3, weights, 0.0)
        if not weights.any():
            raise ValueError(f"terminal isn't given, and paths end before a discount of {paths.discount:g} hides that")
    return weights


def mstde_loss(value: Value | Callable[[Any, Any], Any], paths: Trajectories) -> float:
    r"""Return the mean-square TD error, $\frac12 E \sum_i (\delta_i / \Delta_i)^2 \Delta_i$.

    Don't minimise it: times the step it tends to half the quadratic variation of M, whose minimiser is not the value
    function. It is here to show that.

    Parameters
    ----------
    value
        The candidate value function.
    paths
        The paths along which it is taken.

    Returns
    -------
    float
        The mean over paths, which grows as 1 / step.

    Examples
    --------
    >>> paths = Trajectories([0.0, 0.5], [[0.0, 1.0], [0.0, -1.0]], [[0.0], [0.0]], terminal=[1.0, -1.0])
    >>> mstde_loss(lambda t, x: x, paths)
    1.0
    """
    errors = martingale_increments(value, paths, discounted=False)
    steps = np.broadcast_to(paths.dt, errors.shape)
    squares = np.divide(errors**2, steps, out=np.zeros_like(errors), where=steps > 0)
    return float(squares.sum(1).mean() / 2)


def traces(
    gradients: Float[np.ndarray, "m k p"], dt: Float[np.ndarray, "#m k"], lam: float
) -> Float[np.ndarray, "m k p"]:
    r"""Return test processes of CTD: $\xi_t = \int_0^t \lambda^{t - s} \partial_\theta J_s ds$, or the gradient for 0.

    Parameters
    ----------
    gradients
        Derivatives of the values at the left ends of steps.
    dt
        Steps, (1, K) or (M, K).
    lam
        The decay in a unit of time, between 0 and 1.

    Returns
    -------
    ndarray
        Test processes at the left ends.
    """
    if lam == 0:
        return gradients
    found = gradients * dt[:, :, None]
    fades = lam**dt
    if lam == 1:
        return np.cumsum(found, axis=1)
    for i in range(1, found.shape[1]):
        found[:, i] += fades[:, i - 1, None] * found[:, i - 1]
    return found


@dataclass(frozen=True)
class OrthogonalityResidual:
    r"""How far $E \int \xi_t dM_t$ is from 0, and how likely chance is to bring it there.

    Parameters
    ----------
    residual
        Means over paths, one for each test function.
    covariance
        Covariances of one path's integrals.
    chi2, dof
        The quadratic form of the means and its degrees of freedom: the rank of the covariances.
    p_value
        The probability of as large a form at the true value function.

    Examples
    --------
    >>> found = OrthogonalityResidual(np.zeros(2), np.eye(2), chi2=0.0, dof=2, p_value=1.0)
    >>> found.p_value > 0.05
    True
    """

    residual: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]
    chi2: float
    dof: int
    p_value: float


def orthogonality_residual(
    value: Value, paths: Trajectories, test: Test | None = None, lam: float = 0.0
) -> OrthogonalityResidual:
    r"""Test whether a candidate is the value function: $E \int \xi_t dM_t = 0$ for all adapted test processes.

    Parameters
    ----------
    value
        The candidate value function.
    paths
        Paths that it was not fitted on.
    test
        Gives (..., p) test functions of times and states at the left ends of steps; the candidate's own gradient
        where it isn't given.
    lam
        Decay of traces in a unit of time, 0 for none.

    Returns
    -------
    OrthogonalityResidual
        Means, their covariances, and the test of them all at once.

    Examples
    --------
    >>> from paperworks.testbeds import OUQuadratic
    >>> from paperworks.dynamics import LinearValue
    >>> problem = OUQuadratic()
    >>> family = LinearValue(problem.features, problem.offset)
    >>> family.theta = problem.theta
    >>> orthogonality_residual(family, problem.sample(2000, 200, random_state=0)).p_value > 0.01
    True
    """
    check_number("lam", lam, ge=0, le=1)
    xi = processes_of(value, paths, test, lam)
    integrals = np.einsum("mkp,mk->mp", xi, martingale_increments(value, paths))
    means, count = integrals.mean(0), len(integrals)
    if count <= max(1, len(means)):
        raise ValueError(
            f"paths has {count} of them; it takes more than the {len(means)} test functions, and two at least"
        )
    covariance = np.atleast_2d(np.cov(integrals.T))
    units = np.sqrt(np.diagonal(covariance))  # functions of any scale count alike
    units = np.where(units > 0, units, 1.0)
    sizes, axes = np.linalg.eigh(covariance / units[:, None] / units)
    keep = sizes > 1e-10 * max(sizes[-1], np.finfo(float).tiny)
    form = float(count * ((((means / units) @ axes[:, keep]) ** 2) / sizes[keep]).sum())
    dof = int(keep.sum())
    return OrthogonalityResidual(means, covariance, form, dof, float(chi2.sf(form, dof)) if dof else math.nan)


def processes_of(value: Value, paths: Trajectories, test: Test | None, lam: float) -> Float[np.ndarray, "m k p"]:
    """Return the test processes at the left ends of all steps.

    Parameters
    ----------
    value
        The candidate, whose gradient is taken where there is no `test`.
    paths
        The paths along which it is taken.
    test
        Test functions of times and states.
    lam
        Decay of traces in a unit of time.

    Returns
    -------
    ndarray
        Test processes, (M, K, p).
    """
    left = np.broadcast_to(paths.t[:, :-1], (len(paths), paths.steps)), paths.x[:, :-1]
    functions = np.asarray((test or value.gradient)(*left), dtype=np.float64)
    if not np.isfinite(functions).all():
        raise ValueError("test gave NaN or infinite values; it takes finite ones")
    if functions.shape[:2] != left[0].shape or functions.ndim != 3:
        raise ValueError(f"test gave shape {functions.shape}; it takes {left[0].shape} and one more axis, of functions")
    return traces(functions, paths.dt, lam)


@dataclass(frozen=True)
class MeshStudy:
    """Parameters fitted on coarser and coarser grids of the same paths.

    Parameters
    ----------
    dt
        Mean steps, the finest first.
    theta
        Parameters, a row for each step.
    extrapolated
        Parameters for a step of 0, by the two finest grids and an error of first order.

    Examples
    --------
    >>> MeshStudy(np.array([0.1, 0.2]), np.array([[1.1], [1.2]]), np.array([1.0])).extrapolated
    array([1.])
    """

    dt: Float[np.ndarray, " n"]
    theta: Float[np.ndarray, "n p"]
    extrapolated: Float[np.ndarray, " p"]


def mesh_study(estimator: Any, paths: Trajectories, strides: Sequence[int] = (1, 2, 4)) -> MeshStudy:
    """Fit an estimator on grids of several steps, and extrapolate to a step of 0.

    Parameters
    ----------
    estimator
        A martingale estimator.
    paths
        Paths on one grid.
    strides
        Steps of the given grid that become one, each a divisor of all steps, the least first.

    Returns
    -------
    MeshStudy
        Steps, parameters and their extrapolation.

    Examples
    --------
    >>> from paperworks.dynamics import CLSTD, LinearValue
    >>> from paperworks.testbeds import OUQuadratic
    >>> problem = OUQuadratic()
    >>> family = LinearValue(problem.features, problem.offset)
    >>> study = mesh_study(CLSTD(family), problem.sample(2000, 40, random_state=0))
    >>> study.dt.tolist(), study.theta.shape
    ([0.025, 0.05, 0.1], (3, 3))
    """
    if len(strides) < 2 or sorted(set(strides)) != list(strides):
        raise ValueError(f"strides is {strides!r}; it takes two or more that increase")
    grids = [paths.coarsened(k) for k in strides]
    theta = np.array([estimator.fit(grid).theta_ for grid in grids])
    dt = np.array([float(grid.dt.mean()) for grid in grids])
    slope = (theta[1] - theta[0]) / (dt[1] - dt[0])
    return MeshStudy(dt, theta, theta[0] - slope * dt[0])
