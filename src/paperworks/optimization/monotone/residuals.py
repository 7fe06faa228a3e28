"""How far a point is from a solution, and how much a sampled operator varies."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.monotone.operators import FiniteSumOperator
from paperworks.optimization.proximal import Array, Prox

Operator = Callable[[Array], Array]
"""An operator: it takes a point and returns as many entries."""


def norm(u: Array) -> float:
    """Return the Euclidean norm of a vector of NumPy or torch."""
    return float((u * u).sum()) ** 0.5


def natural_residual(F: Operator, resolvent: Prox | None, u: Array, eta: float) -> float:
    """Return `|u - J(u - eta F(u))| / eta`, which is 0 exactly at solutions.

    Parameters
    ----------
    F
        The operator F of the inclusion.
    resolvent
        The resolvent J of G, called with a point and `eta`; None where G is 0.
    u
        The point, one vector.
    eta
        Step of the resolvent, positive.

    Returns
    -------
    float
        The residual; the norm of F where G is 0.

    Examples
    --------
    >>> from paperworks.optimization import prox_box
    >>> natural_residual(lambda u: u + 1, prox_box, np.zeros(2), 0.5)
    0.0
    """
    check_number("eta", eta, gt=0)
    value = F(u)
    return norm(value) if resolvent is None else norm(u - resolvent(u - eta * value, eta)) / eta


def operator_residual(F: Operator, resolvent: Prox | None, u: Array, eta: float) -> tuple[Array, float]:
    """Return the point after a forward-backward step with the norm of an element of F + G there.

    Parameters
    ----------
    F
        The operator F of the inclusion.
    resolvent
        The resolvent of G, called with a point and `eta`; None where G is 0.
    u
        The point that the step starts from.
    eta
        Step of the resolvent, positive.

    Returns
    -------
    tuple[array, float]
        The point and its residual `|F + g|` with g in G: what the paper bounds.

    Examples
    --------
    >>> from paperworks.optimization import prox_box
    >>> operator_residual(lambda u: u + 1, prox_box, np.ones(2), 1.0)
    (array([0., 0.]), 0.0)
    """
    check_number("eta", eta, gt=0)
    value = F(u)
    if resolvent is None:
        return u, norm(value)
    ahead = u - eta * value
    end = resolvent(ahead, eta)
    return end, norm(F(end) + (ahead - end) / eta)


def expected_cocoercivity(
    F: FiniteSumOperator,
    *,
    pairs: int = 20,
    batch_size: int = 1000,
    scale: float = 1.0,
    random_state: int | np.random.Generator | None = None,
) -> float:
    """Estimate from below the constant L of cocoercivity in expectation, between random pairs of points.

    Parameters
    ----------
    F
        The operator, with what it samples.
    pairs
        How many pairs of points, normal ones.
    batch_size
        Components drawn for each pair.
    scale
        Standard deviation of the points.
    random_state
        Seed or generator of points and components.

    Returns
    -------
    float
        The largest `E|F_xi(u) - F_xi(v)|^2 / <F(u) - F(v), u - v>` that was met.

    Examples
    --------
    >>> from paperworks.optimization import LeastSquaresOperator
    >>> F = LeastSquaresOperator(np.ones((4, 1)), np.zeros(4))
    >>> round(expected_cocoercivity(F, random_state=0), 12)
    1.0
    """
    rng, largest = np.random.default_rng(random_state), 0.0
    for _ in range(check_count("pairs", pairs)):
        u, v = scale * rng.normal(size=(2, F.size))
        drawn = [F.batch_difference(u, v, F.sample(1, rng)) for _ in range(check_count("batch_size", batch_size))]
        along = float((F(u) - F(v)) @ (u - v))
        if along > 0:
            largest = max(largest, float(np.mean(np.square(drawn).sum(1))) / along)
    return largest


def game_gap(A: Float[np.ndarray, "p d"], x: Float[np.ndarray, " d"], y: Float[np.ndarray, " p"]) -> float:
    """Return the duality gap of mixed strategies in `min_x max_y <A x, y>`.

    Parameters
    ----------
    A
        What the player of the columns pays to the player of the rows.
    x, y
        Mixed strategies over columns and over rows.

    Returns
    -------
    float
        What the best answers would gain, 0 exactly at an equilibrium.

    Examples
    --------
    >>> game_gap(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    0.0
    """
    A, x, y = np.asarray(A), np.asarray(x), np.asarray(y)
    if A.ndim != 2 or x.shape != A.shape[1:] or y.shape != A.shape[:1]:
        raise ValueError(f"A has shape {A.shape}, x {x.shape} and y {y.shape}; they take (p, d), (d,) and (p,)")
    for name, strategy in (("x", x), ("y", y)):
        if (strategy < -1e-9).any() or abs(strategy.sum() - 1) > 1e-6:
            raise ValueError(f"{name} is no mixed strategy; it takes entries >= 0 that add up to 1")
    return float((A @ x).max() - (y @ A).min())
