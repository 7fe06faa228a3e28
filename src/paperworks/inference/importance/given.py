"""Sobol' indices from samples that are there already, by expansions in a few of the inputs."""

import warnings
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_number
from paperworks.inference.importance.polynomials import Polynomials
from paperworks.inference.importance.sobol import SobolResult, check_orders, factors_of

_HIGHEST, _POINTS_PER_TERM = 12, 8


def sobol_from_samples(
    X: ArrayLike,
    Y: ArrayLike,
    order: str | Sequence[str] = ("first",),
    conf_level: float = 0.95,
    *,
    groups: Sequence[Hashable] | None = None,
) -> SobolResult:
    """Estimate Sobol' indices from given inputs and outputs of a model, without any further call of it.

    The inputs are to be independent of each other, drawn in any way that makes rows independent; their laws needn't be
    known, and may be of a few values only. An index is the variance of the model's expansion in Legendre polynomials of
    the inputs' ranks, without the bias that chance adds to it. Up to degree 12 are taken, fewer where rows are few;
    what a rougher model has beyond is missed.

    Parameters
    ----------
    X
        Inputs, of shape (n, d).
    Y
        Outputs, of shape (n,), or (n, q) for q outputs.
    order
        ``first``, ``second``, or both in a sequence. Totals take points that share inputs, as `sobol_indices` makes.
    conf_level
        Confidence level of the intervals.
    groups
        A label for each input: inputs of one label are one factor, and indices are those of factors.

    Returns
    -------
    SobolResult
        The indices with their intervals, as from `sobol_indices`.

    Raises
    ------
    ValueError
        For shapes that don't match, fewer than 50 rows or too few for a group, or numbers that aren't finite.

    Warns
    -----
    RuntimeWarning
        Where an output is constant: its indices are 0.

    References
    ----------
    The quadratic functional of Da Veiga and Gamboa (2013), with polynomials for kernels.

    Examples
    --------
    >>> X = np.random.default_rng(0).uniform(size=(2000, 3))
    >>> sobol_from_samples(X, 2 * X[:, 0] + X[:, 1]).S1.round(1)
    array([0.8, 0.2, 0. ])
    """
    orders = check_orders(order, ("first", "second"))
    check_number("conf_level", conf_level, gt=0, lt=1)
    for name, given in {"X": X, "Y": Y}.items():
        if np.iscomplexobj(given):
            raise ValueError(f"{name} has complex numbers; it takes real ones")
    inputs, outputs = np.asarray(X, dtype=float), np.asarray(Y, dtype=float)
    if inputs.ndim != 2 or outputs.ndim not in (1, 2) or len(outputs) != len(inputs):
        raise ValueError(f"Y has shape {outputs.shape} and X {inputs.shape}; they take (n,) or (n, q), and (n, d)")
    if len(inputs) < 50:
        raise ValueError(f"X has {len(inputs)} rows; it takes at least 50")
    for name, array in {"X": inputs, "Y": outputs}.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} has NaN or infinite elements; it takes finite numbers")
    scalar, outputs = outputs.ndim == 1, outputs.reshape(len(outputs), -1)
    n, d = inputs.shape
    names, factors = factors_of(groups, d)
    centred = outputs - outputs.mean(axis=0)
    spread = np.abs(centred).max(axis=0)
    constant = spread <= 1e3 * np.finfo(float).eps * np.abs(outputs).max(axis=0)
    centred = centred / np.where(constant, 1.0, spread)  # as squares of large and small numbers have no numbers
    variance = centred.var(axis=0, ddof=1)
    if constant.any():
        warnings.warn(f"Y's column {np.flatnonzero(constant).tolist()} is constant: indices are 0", RuntimeWarning, 2)
    y = np.where(constant, 0.0, centred / np.sqrt(np.where(constant, 1.0, variance)))
    U = (stats.rankdata(inputs, axis=0) - 0.5) / n
    quantile = stats.norm.ppf((1 + conf_level) / 2)

    def found(sets: list[list[Int[np.ndarray, " _"]]]) -> tuple[Float[np.ndarray, "I q"], Float[np.ndarray, "I q"]]:
        rows = [_explained(U, y, some) for some in sets]
        shape = (len(rows), y.shape[1])
        index, errors = (np.array([row[k] for row in rows]).reshape(shape) for k in range(2))
        return np.where(constant, 0.0, index), np.where(constant, 0.0, quantile * errors)

    sets = {
        "first": [[factor] for factor in factors],
        "second": [[factors[i], factors[j]] for i, j in zip(*np.triu_indices(len(factors), 1), strict=True)],
    }
    return SobolResult.of({k: found(sets[k]) for k in orders}, names=names, scalar=scalar, n_calls=0)


def _orthonormal(single: Float[np.ndarray, "powers n"], distinct: int) -> Float[np.ndarray, "powers n"]:
    """Return polynomials of an input with ties as orthonormal ones over its own values, 0 beyond their number."""
    kept = min(distinct, len(single))
    Q = np.linalg.qr(single[:kept].T)[0].T * np.sqrt(single.shape[1])
    found = np.zeros_like(single)
    found[:kept] = Q * np.sign(Q[0, 0])
    return found


def _explained(
    U: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n q"], some: list[Int[np.ndarray, " _"]]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return the share of the variance by polynomials that involve each of one or two factors, and its error."""
    inputs, n = np.concatenate(some), len(U)
    degree = 1
    while degree < _HIGHEST and comb(len(inputs) + degree + 1, len(inputs)) <= n // _POINTS_PER_TERM:
        degree += 1
    basis = Polynomials(np.ones(len(inputs), dtype=bool), degree)
    ends = np.cumsum([len(part) for part in some])[:-1]
    involved = np.all([part.sum(axis=1) > 0 for part in np.split(basis.exponents, ends, axis=1)], axis=0)
    single = basis.single(U[:, inputs])
    for i, column in enumerate(U[:, inputs].T):
        distinct = len(np.unique(column))
        if distinct < n:
            single[:, i] = _orthonormal(single[:, i], distinct)
    T = basis.products(single)[:, involved]
    T = T[:, T.any(axis=0)]
    if len(some) == 1:
        if n < 2 * (T.shape[1] + 1):
            raise ValueError(f"X has {n} rows; a group of {len(inputs)} inputs takes {2 * (T.shape[1] + 1)} at least")
        # The variance of what least squares fit, less what chance adds to it, which is what residuals tell.
        T = T - T.mean(axis=0)
        inverse = np.linalg.pinv(T.T @ T, rcond=1e-10, hermitian=True)
        m = T @ (inverse @ (T.T @ y))
        noise = (y - m) ** 2 * n / (n - 1 - T.shape[1])
        share = ((m**2).sum(axis=0) - ((T @ inverse) * T).sum(axis=1) @ noise) / (n - 1)
    else:
        # Squares of coefficients, less what chance adds to them: the pairs of a row with itself.
        sums = T.T @ y
        share = ((sums**2).sum(axis=0) - (T**2).sum(axis=1) @ y**2) / (n * (n - 1))
        m = T @ (sums / n)
    influence = 2 * y * m - m**2 - share * y**2
    chance = 2 * T.shape[1] / n**2 * np.maximum(1 - share, 0) ** 2
    return share, np.sqrt(influence.var(axis=0, ddof=1) / n + chance)
