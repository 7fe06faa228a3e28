"""The two choices left once densities are fitted: how much of each is drawn, and how much of it is subtracted."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize

_LEAST = 9e-12  # lower bound of the released code: no component leaves the mixture for good


def optimal_alpha(
    num: ArrayLike, G: ArrayLike, H: ArrayLike = 1.0, alpha0: ArrayLike | None = None
) -> Float[np.ndarray, " J"]:
    """Return the mixture weights that minimise the estimated criterion ``mean(num / (G alpha H))`` on the simplex.

    The criterion is convex; sequential quadratic programming begins at `alpha0`.

    Parameters
    ----------
    num
        ``sum_j w_j (f_j phi_j - beta_j g_j)^2`` at draws from h, of shape (n,), not negative.
    G
        Densities of the components at the draws, of shape (n, J).
    H
        Density h at the draws, of shape (n,). All three may be divided by h: ``num / h^2``, ``G / h`` and 1.
    alpha0
        Where to begin; equal weights by default.

    Returns
    -------
    ndarray of shape (J,)
        Weights that are at least 0 and sum to 1.

    Raises
    ------
    ValueError
        For shapes that don't match, negative or infinite numbers, or an `alpha0` outside the simplex.

    References
    ----------
    arXiv 2212.00568, section 4.

    Examples
    --------
    >>> optimal_alpha([1.0, 4.0], [[1.0, 0.0], [0.0, 1.0]]).round(4)
    array([0.3333, 0.6667])
    """
    numerator, densities = np.asarray(num, dtype=float), np.asarray(G, dtype=float)
    if numerator.ndim != 1 or densities.ndim != 2 or len(densities) != len(numerator):
        raise ValueError(f"G has shape {densities.shape} and num {numerator.shape}; they take (n, J) and (n,)")
    numerator = numerator / np.asarray(H, dtype=float)
    for name, values in {"num": numerator, "G": densities}.items():
        if not np.all((values >= 0) & (values < np.inf)):
            raise ValueError(f"{name} has negative or infinite elements, or NaN; it takes finite numbers >= 0")
    J = densities.shape[1]
    start = np.full(J, 1 / J) if alpha0 is None else check_simplex("alpha0", alpha0, J)
    # Where no component has density nothing is ever drawn; such points can't tell how to mix.
    reached = densities.any(axis=1) & (numerator > 0)
    numerator, densities = numerator[reached], densities[reached]
    start = np.maximum(start, _LEAST) / np.maximum(start, _LEAST).sum()
    if J == 1 or not len(numerator):
        return start
    numerator = numerator / (numerator / (densities @ start)).sum()

    def criterion(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        ratio = 1 / (densities @ alpha)
        values = numerator * ratio
        return float(values.sum()), -(values * ratio) @ densities

    found = optimize.minimize(
        criterion, start, jac=True, method="SLSQP", bounds=optimize.Bounds(_LEAST, 1),
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(J)},
    ).x  # fmt: skip
    alpha = np.maximum(found, _LEAST) / np.maximum(found, _LEAST).sum()
    return alpha if criterion(alpha)[0] <= 1 else start


def optimal_beta(G_over_g: ArrayLike, FY_over_g: ArrayLike) -> Float[np.ndarray, " J"]:
    """Return the control parameters of least variance, ``Cov(g_j/g, f_j phi_j/g) / Var(g_j/g)``.

    Where the control is constant, as it is for a single component, the estimate itself is returned.

    Parameters
    ----------
    G_over_g
        Components over the mixture at draws from it, of shape (n, J).
    FY_over_g
        Integrands over the mixture at the same draws, of shape (n, J).

    Returns
    -------
    ndarray of shape (J,)
        The control parameters of least variance, ``Cov(g_j/g, f_j phi_j/g) / Var(g_j/g)``.

    Raises
    ------
    ValueError
        For shapes that don't match, or fewer than two draws.

    References
    ----------
    arXiv 2212.00568, section 3.

    Examples
    --------
    >>> optimal_beta([[0.5], [1.5]], [[1.0], [3.0]])
    array([2.])
    """
    control, values = np.asarray(G_over_g, dtype=float), np.asarray(FY_over_g, dtype=float)
    if control.shape != values.shape or control.ndim != 2 or len(control) < 2:
        raise ValueError(
            f"G_over_g has shape {control.shape} and FY_over_g {values.shape}; they take the same (n >= 2, J)"
        )
    centred = control - control.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    constant = variance <= len(control) * np.finfo(float).eps * (control**2).max(axis=0)
    covariance = (centred * values).sum(axis=0)
    return np.where(constant, values.mean(axis=0), covariance / np.where(constant, 1.0, variance))


def check_simplex(name: str, weights: ArrayLike, J: int) -> Float[np.ndarray, " J"]:
    """Return `weights` if they are J probabilities, else raise ValueError."""
    values = np.asarray(weights, dtype=float)
    if values.shape != (J,) or not np.all(values >= 0) or not np.isclose(values.sum(), 1):
        raise ValueError(f"{name} is {weights!r}; it takes {J} numbers >= 0 that sum to 1")
    return values
