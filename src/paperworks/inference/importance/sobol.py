"""Sobol' indices from one adaptive sample: shares of a model's variance that its inputs explain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_count, check_number
from paperworks.inference.importance.adaptive import ExpectationsResult, Signed, multiple_expectations
from paperworks.inference.importance.components import Family, GaussianComponents


@dataclass(frozen=True)
class SobolResult:
    """Sobol' indices with the half-widths of their confidence intervals, named as in SALib.

    Parameters
    ----------
    S1_conf
        Half-widths of the intervals of `S1`, of shape (d,); None where that is.
    ST_conf
        Half-widths of the intervals of `ST`, of shape (d,); None where that is.

    Examples
    --------
    >>> result = sobol_indices(lambda x: 3 + x[:, 0] + x[:, 1], 2, n_max=2000, signed="abs", random_state=0)
    >>> bool(np.all(np.abs(result.S1 - 0.5) < 3 * result.S1_conf))
    True
    """

    S1: Float[np.ndarray, " d"] | None
    """First-order indices; None where they weren't asked for."""
    S1_conf: Float[np.ndarray, " d"] | None
    ST: Float[np.ndarray, " d"] | None
    """Total-order indices; None where they weren't asked for."""
    ST_conf: Float[np.ndarray, " d"] | None
    n_calls: int
    """Calls of the model."""
    expectations: ExpectationsResult
    """The expectations behind the indices: products for each index, the mean and the mean square."""


def sobol_indices(
    func: Callable[[Float[np.ndarray, "n d"]], ArrayLike],
    inputs: int | Sequence[Any],
    n_max: int = 10_000,
    order: str | Sequence[str] = ("first",),
    conf_level: float = 0.95,
    family: Family = "sg",
    signed: Signed = None,
    random_state: np.random.Generator | int | None = None,
    **options: Any,
) -> SobolResult:
    """Estimate Sobol' indices of a model with independent inputs, pick-freeze products by adaptive importance sampling.

    A sample point is two points of inputs, of which the second lends the coordinates that are not frozen. All products,
    the mean and the mean square are expectations that one sample estimates; intervals come from their covariance.

    Parameters
    ----------
    func
        Maps inputs (n, d) to values (n,).
    inputs
        Marginal distributions with SciPy's ``ppf`` and ``isf``; or d, for standard normal inputs.
    n_max
        Sample points; each costs one call of the model and d more for each order.
    order
        ``first``, ``total``, or both in a sequence.
    conf_level
        Confidence level of the intervals.
    family, signed, random_state, options
        As in `multiple_expectations`, with its errors. A model with negative values needs `signed`.

    Returns
    -------
    SobolResult
        The indices with their intervals, one for each input.

    Raises
    ------
    ValueError
        For another order, or values of the model of another shape than (n,).

    References
    ----------
    arXiv 2212.00568, section 5.3; intervals are by the delta method.

    Examples
    --------
    >>> result = sobol_indices(lambda x: np.exp(x[:, 0] + x[:, 1] / 2), 2, n_max=4000, random_state=0)
    >>> result.S1.round(1)
    array([0.7, 0.1])
    """
    orders = (order,) if isinstance(order, str) else tuple(order)
    if not orders or not set(orders) <= {"first", "total"}:
        raise ValueError(f"order is {order!r}; it takes 'first', 'total' or both")
    check_number("conf_level", conf_level, gt=0, lt=1)
    products = _PickFreeze(func, inputs, orders)
    d = products.d
    doubled = GaussianComponents(np.zeros((1, 2 * d)), np.eye(2 * d)[None])
    found = multiple_expectations(
        products, doubled, n_max, family=family, signed=signed, random_state=random_state, **options
    )
    *moments, mean, square = found.estimate
    variance = square - mean**2
    closed = (np.array(moments) - mean**2) / variance  # the share of the frozen inputs
    gradient = np.zeros((len(moments), len(found.estimate)))
    np.fill_diagonal(gradient, 1 / variance)
    gradient[:, -2] = -2 * mean * (1 - closed) / variance
    gradient[:, -1] = -closed / variance
    errors = np.sqrt(np.einsum("ij,jk,ik->i", gradient, found.covariance, gradient))
    half = stats.norm.ppf((1 + conf_level) / 2) * errors
    part = {kind: slice(k * d, (k + 1) * d) for k, kind in enumerate(orders)}
    return SobolResult(
        S1=closed[part["first"]] if "first" in part else None,
        S1_conf=half[part["first"]] if "first" in part else None,
        ST=1 - closed[part["total"]] if "total" in part else None,
        ST_conf=half[part["total"]] if "total" in part else None,
        n_calls=products.calls,
        expectations=found,
    )


class _PickFreeze:
    """The model's products with itself where some inputs are frozen, on pairs of standard normal points."""

    def __init__(self, func: Callable[..., ArrayLike], inputs: int | Sequence[Any], orders: tuple[str, ...]) -> None:
        self._func, self._orders, self.calls = func, orders, 0
        self._marginals = None if isinstance(inputs, int) else list(inputs)
        self.d = check_count("inputs", inputs if isinstance(inputs, int) else len(inputs))

    def __call__(self, Z: Float[np.ndarray, "n twice_d"]) -> Float[np.ndarray, "n J"]:
        X, other = self._inputs(Z[:, : self.d]), self._inputs(Z[:, self.d :])
        pairs = []
        for kind in self._orders:
            for i in range(self.d):
                mixed = other.copy() if kind == "first" else X.copy()
                mixed[:, i] = X[:, i] if kind == "first" else other[:, i]
                pairs.append(mixed)
        values = self._model(np.concatenate([X, *pairs])).reshape(-1, len(X))
        return np.stack([*(values[0] * values[1:]), values[0], values[0] ** 2], axis=1)

    def _model(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        values = np.asarray(self._func(X), dtype=float)
        if values.shape not in ((len(X),), (len(X), 1)):
            raise ValueError(f"func returned shape {values.shape} for {len(X)} points; it takes ({len(X)},)")
        self.calls += len(X)
        return values.ravel()

    def _inputs(self, Z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Map standard normal coordinates to the inputs, with all digits in both tails."""
        if self._marginals is None:
            return Z.copy()
        lower, upper = stats.norm.cdf(Z), stats.norm.sf(Z)
        columns = [
            np.where(Z[:, i] < 0, marginal.ppf(lower[:, i]), marginal.isf(upper[:, i]))
            for i, marginal in enumerate(self._marginals)
        ]
        return np.stack(columns, axis=1)
