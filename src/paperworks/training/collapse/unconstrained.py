"""The model of unconstrained features: a last layer and free features, fitted to labels by penalised least squares."""

import math

import numpy as np
from jaxtyping import Float, Shaped
from scipy.linalg import cho_factor, cho_solve

from paperworks.core.validation import check_count, check_number

Labels = Shaped[np.ndarray, " N"]
Matrix = Float[np.ndarray, "_ _"]


def targets(labels: Labels | Float[np.ndarray, "K N"], H: Float[np.ndarray, "d N"]) -> Float[np.ndarray, "K N"]:
    """Return the one-hot rows Y of labels of any kind, or the rows that are given, for the columns of H."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        Y = finite("labels", labels)
    elif labels.ndim == 1:
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("labels has NaN or infinite entries; it takes classes")
        classes, codes = np.unique(labels, return_inverse=True)
        Y = (np.arange(len(classes))[:, None] == codes).astype(float)
    else:
        raise ValueError(f"labels has shape {labels.shape}; it takes (N,) labels, or rows of targets (K, N)")
    if Y.shape[1] != H.shape[1]:
        raise ValueError(f"labels are of {Y.shape[1]} samples and H has {H.shape[1]} columns; they take as many")
    if len(H) < len(Y):
        raise ValueError(f"H has d = {len(H)} rows for {len(Y)} classes; it takes d >= K")
    return Y


def finite(name: str, array: Matrix) -> Matrix:
    """Return a matrix in double precision, if all its entries are finite."""
    if np.iscomplexobj(array):
        raise TypeError(f"{name} is complex; it takes real numbers")
    array = np.asarray(array, dtype=float)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; it takes a matrix with entries")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} has {bad} NaN or infinite entries of {array.size}; it takes finite numbers")
    if (largest := float(np.abs(array).max())) > 1e140:
        raise ValueError(f"{name} has entries up to {largest:.1e}, whose squares overflow; it takes them up to 1e140")
    return array


def head_of(gram: Float[np.ndarray, "d d"], cross: Float[np.ndarray, "K d"], ridge: float) -> Float[np.ndarray, "K d"]:
    """Return `cross (gram + ridge I)^-1`: the best last layer for features with these products."""
    return cho_solve(cho_factor(gram + ridge * np.eye(len(gram))), cross.T).T


def optimal_head(
    H: Float[np.ndarray, "d N"], labels: Labels | Float[np.ndarray, "K N"], lam_W: float
) -> Float[np.ndarray, "K d"]:
    r"""Return the last layer that fits features best, `W = Y H^T (H H^T + n lam_W I)^{-1}`.

    It minimises `|W H - Y|^2 / 2N + lam_W |W|^2 / 2K`; n is N / K, the number of samples of a class where classes are
    balanced. Whichever of the systems of size d and N is smaller is solved. Source: Section 3 of arXiv 2210.16658.

    Parameters
    ----------
    H
        Features, one column a sample; d >= K.
    labels
        Class of each column, of any kind of value, classes in sorted order; or rows Y of targets.
    lam_W
        Penalty of the last layer, positive.

    Returns
    -------
    np.ndarray
        The last layer, a row for each class.

    Raises
    ------
    ValueError
        For entries that aren't finite, d < K, other numbers of labels than of columns, or `lam_W <= 0`.

    Examples
    --------
    >>> optimal_head(np.eye(2), np.array([0, 1]), 1.0)
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    H = finite("H", H)
    Y, lam_W = targets(labels, H), check_number("lam_W", lam_W, gt=0)
    ridge = lam_W * H.shape[1] / len(Y)
    if len(H) <= H.shape[1]:
        return head_of(H @ H.T, Y @ H.T, ridge)
    return head_of(H.T @ H, Y, ridge) @ H.T


def reduced_loss_grad(
    H: Float[np.ndarray, "d N"], labels: Labels | Float[np.ndarray, "K N"], lam_W: float, lam_H: float
) -> tuple[float, Float[np.ndarray, "d N"]]:
    r"""Return the loss of features under their best last layer, and its gradient.

    `L(H) = min_W |W H - Y|^2 / 2N + lam_W |W|^2 / 2K + lam_H |H|^2 / 2N` has the gradient
    `(lam_H H + W^T (W H - Y)) / N` at the best W: nothing has to be differentiated through W. Both together are what
    `scipy.optimize.minimize` takes with `jac=True`. Source: Section 3 of arXiv 2210.16658.

    Parameters
    ----------
    H
        Features, one column a sample; d >= K.
    labels
        Class of each column, or rows Y of targets, as `optimal_head` takes them.
    lam_W, lam_H
        Penalties of the last layer, positive, and of the features, 0 or more.

    Returns
    -------
    tuple[float, np.ndarray]
        The loss, and its gradient shaped as H.

    Raises
    ------
    ValueError
        As `optimal_head` does, and for `lam_H < 0`.

    Examples
    --------
    >>> W, H = ufm_minimizer(2, 3, 4, 0.1, 0.1)
    >>> loss, gradient = reduced_loss_grad(H, np.repeat([0, 1], 3), 0.1, 0.1)
    >>> round(loss, 12) == round(ufm_optimal_value(0.1, 0.1), 12), bool(abs(gradient).max() < 1e-14)
    (True, True)
    """
    H = finite("H", H)
    Y, lam_H = targets(labels, H), check_number("lam_H", lam_H, ge=0)
    W = optimal_head(H, Y, lam_W)
    (K, N), residual = Y.shape, W @ H - Y
    loss = (np.vdot(residual, residual) + lam_H * np.vdot(H, H)) / (2 * N) + lam_W * np.vdot(W, W) / (2 * K)
    return float(loss), (lam_H * H + W.T @ residual) / N


def ufm_minimizer(
    K: int,
    n: int,
    d: int,
    lam_W: float,
    lam_H: float,
    R: Float[np.ndarray, "d K"] | None = None,
    random_state: int | np.random.Generator | None = None,
) -> tuple[Float[np.ndarray, "K d"], Float[np.ndarray, "d N"]]:
    r"""Return an exact minimiser of the model of unconstrained features, which is collapsed.

    With `c = sqrt(lam_H lam_W) < 1` and `rho = (1 - c) sqrt(lam_W / lam_H)` all features of a class are the same column
    of `sqrt(rho) R`, and `W = sqrt(lam_H / lam_W) sqrt(rho) R^T`, for any R with orthonormal columns. For c >= 1 both
    are zero. Source: Section 3 of arXiv 2210.16658.

    Parameters
    ----------
    K, n, d
        Classes, samples of each, and dimension of features, at least K.
    lam_W, lam_H
        Penalties of the last layer and of the features, both positive.
    R
        Directions of the classes, orthonormal columns; by default the first K axes, or random ones from `random_state`.
    random_state
        Seed or generator of random directions; without one they are axes.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        The last layer W, and the features H with the n columns of the first class first.

    Raises
    ------
    ValueError
        For d < K, penalties that aren't positive, or an R whose columns aren't orthonormal.

    Examples
    --------
    >>> W, H = ufm_minimizer(2, 2, 3, 0.25, 0.25)
    >>> (W @ H).round(6)
    array([[0.75, 0.75, 0.  , 0.  ],
           [0.  , 0.  , 0.75, 0.75]])
    """
    K, n, d = check_count("K", K, at_least=2), check_count("n", n), check_count("d", d)
    lam_W, lam_H = check_number("lam_W", lam_W, gt=0), check_number("lam_H", lam_H, gt=0)
    if d < K:
        raise ValueError(f"d is {d} for {K} classes; it takes d >= K")
    if R is None:
        R = np.eye(d, K) if random_state is None else random_directions(d, K, random_state)
    else:
        R = finite("R", R)
        if R.shape != (d, K) or np.abs(R.T @ R - np.eye(K)).max() > 1e-8:
            raise ValueError(f"R has shape {R.shape}; it takes {K} orthonormal columns with {d} entries")
    rho = max(0.0, 1 - math.sqrt(lam_W * lam_H)) * math.sqrt(lam_W / lam_H)
    return math.sqrt(lam_H / lam_W * rho) * R.T, np.repeat(math.sqrt(rho) * R, n, axis=1)


def random_directions(d: int, K: int, random_state: int | np.random.Generator) -> Float[np.ndarray, "d K"]:
    """Return orthonormal columns drawn uniformly."""
    Q, triangle = np.linalg.qr(np.random.default_rng(random_state).normal(size=(d, K)))
    return Q * np.sign(np.diag(triangle))


def ufm_optimal_value(lam_W: float, lam_H: float) -> float:
    """Return the least value of the model of unconstrained features.

    It is `c - c^2 / 2` with `c = sqrt(lam_H lam_W)`, and 1/2 for c >= 1, whatever the numbers of classes, samples and
    dimensions. Source: Section 3 of arXiv 2210.16658.

    Parameters
    ----------
    lam_W, lam_H
        Penalties of the last layer and of the features, both positive.

    Returns
    -------
    float
        The least loss, from 0 to 1/2.

    Raises
    ------
    ValueError
        For penalties that aren't positive.

    Examples
    --------
    >>> ufm_optimal_value(0.1, 0.4), ufm_optimal_value(2.0, 2.0)
    (0.18, 0.5)
    """
    c = math.sqrt(check_number("lam_W", lam_W, gt=0) * check_number("lam_H", lam_H, gt=0))
    return c - c * c / 2 if c < 1 else 0.5
