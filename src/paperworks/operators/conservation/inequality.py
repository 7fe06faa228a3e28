"""The nearest field that is nowhere negative, or never rises, in the metric of a covariance."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from paperworks.core.validation import check_choice, check_finite

Kind = Literal["nonneg", "monotone"]
_JITTER = 1e-10  # of the largest variance, which makes a covariance after an exact constraint invertible


def project_inequality(
    mean: Float[Tensor, "*batch n"], cov: Float[Tensor, "*shape"], kind: Kind = "nonneg"
) -> Float[Tensor, "*batch n"]:
    """Return the field v that is nearest to a mean, by (v - mean)ᵀ S⁻¹ (v - mean), under an inequality.

    Parameters
    ----------
    mean
        Means, (..., n).
    cov
        Variances (..., n), or covariances (..., n, n) with an axis more than `mean`.
    kind
        "nonneg": v >= 0; "monotone": v falls from each point to the next and ends at 0 at least.

    Returns
    -------
    Tensor of shape (..., n)
        The nearest fields that fulfil the inequality; no gradients go through.

    Raises
    ------
    ValueError
        For shapes that don't fit, an unknown kind, numbers that aren't finite, or a covariance that isn't symmetric and
        positive semidefinite.

    Notes
    -----
    arXiv 2302.11002, appendix on inequality constraints: non-negative least squares with the inverse of the Cholesky
    factor, for "monotone" in the steps of v.

    Examples
    --------
    >>> project_inequality(torch.tensor([1.0, -0.5]), torch.ones(2))
    tensor([1., 0.])
    >>> project_inequality(torch.tensor([1.0, 2.0, 0.0]), torch.ones(3), "monotone")
    tensor([1.5000, 1.5000, 0.0000])
    """
    check_choice("kind", kind, get_args(Kind))
    if not mean.shape[-1:].numel() or not mean.ndim:
        raise ValueError(f"mean has shape {tuple(mean.shape)}; it takes (…, n) with a value at least")
    n = mean.shape[-1]
    shape = mean.shape if cov.ndim <= mean.ndim else (*mean.shape, n)
    try:
        S = cov.detach().double().cpu().expand(shape)
    except RuntimeError:
        raise ValueError(
            f"cov has shape {tuple(cov.shape)}; it takes {tuple(mean.shape)}, or {(*mean.shape, n)} for covariances"
        ) from None
    check_finite("mean", mean)
    check_finite("cov", S)
    if S.ndim > mean.ndim and bool(((S - S.mT).abs() > 1e-5 * S.abs().amax((-2, -1), keepdim=True)).any()):
        raise ValueError("cov isn't symmetric; it takes a covariance")
    S = (torch.diag_embed(S) if S.ndim == mean.ndim else S).reshape(mean.shape[:-1].numel(), n, n)
    rows = mean.detach().double().cpu().reshape(len(S), n)
    found = [torch.from_numpy(_nearest(*pair, kind)) for pair in zip(rows.numpy(), S.numpy(), strict=True)]
    return torch.cat([*found, rows.new_empty(0)]).to(mean).reshape(mean.shape)


def truncate_monotone(u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Make a field fall and stay at 0 at least, cheaply: its running minimum, cut off at 0.

    Parameters
    ----------
    u
        Fields, (..., n).

    Returns
    -------
    Tensor of shape (..., n)
        The truncated fields.

    Examples
    --------
    >>> truncate_monotone(torch.tensor([1.0, 2.0, -1.0]))
    tensor([1., 1., 0.])
    """
    return u.cummin(-1).values.clamp_min(0)


def _nearest(mean: np.ndarray, S: np.ndarray, kind: Kind) -> np.ndarray:
    # Neither the unit of the field nor that of its covariance matters.
    unit = float(np.abs(mean).max()) or 1.0
    S, mean = S / (float(np.abs(S).max()) or 1.0), mean / unit
    try:
        L = np.linalg.cholesky(S + _JITTER * np.eye(len(S)))
    except np.linalg.LinAlgError:
        raise ValueError("cov isn't positive semidefinite; it takes a covariance") from None
    A = solve_triangular(L, np.eye(len(S)), lower=True)
    if kind == "monotone":  # v is the sum of non-negative steps from the right
        steps = A @ np.triu(np.ones_like(S))
        return unit * np.cumsum(nnls(steps, A @ mean)[0][::-1])[::-1].copy()
    return unit * nnls(A, A @ mean)[0]
