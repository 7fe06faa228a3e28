"""A Gaussian conditioned on linear observations, and what is made of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number

_LEAST_VARIANCE = 1e-8  # of a moment-matched mixture, as the official code has it
_RANK = 1e-10  # eigenvalues below this share of the largest are taken as zero


@dataclass(frozen=True)
class Conditioned:
    """A Gaussian after observations: its mean, and its covariance as the one before less a product of low rank.

    Parameters
    ----------
    mean
        The mean, (..., n).
    prior
        Variances (..., n) or covariance (..., n, n) before.
    factor
        W of shape (..., n, m), for which the covariance is the one before less W Wᵀ.

    Examples
    --------
    >>> after = condition_linear(torch.zeros(2), torch.ones(2), torch.tensor([[1.0, 1.0]]), torch.tensor([1.0]))
    >>> after.mean, after.covariance
    (tensor([0.5000, 0.5000]), tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]]))
    """

    mean: Any
    prior: Any
    factor: Any

    @property
    def variance(self) -> Any:
        """Variances, (..., n), never below zero."""
        before = self.prior if _is_diagonal(self.prior, self.mean) else _diagonal(self.prior)
        left = before - (self.factor**2).sum(-1)
        return left.clip(0) if isinstance(left, np.ndarray) else left.clamp_min(0)

    @property
    def covariance(self) -> Any:
        """The covariance, (..., n, n), made when it is asked for."""
        transposed = self.factor.swapaxes(-1, -2)
        if not _is_diagonal(self.prior, self.mean):
            return self.prior - self.factor @ transposed
        if isinstance(self.prior, np.ndarray):
            return self.prior[..., None] * np.eye(self.prior.shape[-1]) - self.factor @ transposed
        return torch.diag_embed(self.prior) - self.factor @ transposed


def condition_linear(
    mean: Float[Tensor, "*batch n"] | Float[np.ndarray, "*batch n"],
    cov: Float[Tensor, "*shape"] | Float[np.ndarray, "*shape"],
    G: Float[Tensor, "*rows n"] | Float[np.ndarray, "*rows n"],
    b: Float[Tensor, "*values"] | Float[np.ndarray, "*values"],
    noise: float | Float[Tensor, ""] = 0.0,
    *,
    pseudo_inverse: bool = False,
) -> Conditioned:
    """Condition a Gaussian on G u = b, seen exactly or with noise.

    Parameters
    ----------
    mean
        Means, one row for each slice, (..., n).
    cov
        Variances (..., n), for which it takes O(n m), or covariances (..., n, n).
    G
        Observations, (m, n) for all slices or (..., m, n); a row (n,) is one observation.
    b
        Their values, (m,) or (..., m).
    noise
        Variance of the noise of the observations; 0, the default, makes them hold exactly.
    pseudo_inverse
        Whether observations may depend on each other, as long as they agree.

    Returns
    -------
    Conditioned
        Mean, variances and covariance after, of the kind and precision of `mean`.

    Raises
    ------
    ValueError
        For shapes that don't fit, negative variances or noise, or numbers that aren't finite.
    numpy.linalg.LinAlgError
        Where observations depend on each other, or contradict each other or what is known for certain.

    Notes
    -----
    arXiv 2302.11002, equation 5: ``K = S Gᵀ (noise + G S Gᵀ)⁻¹``, ``mean - K (G mean - b)`` and ``S - K G S``. Computed
    in float64: in float32 an integral is off by 1e-4.

    Examples
    --------
    >>> row = torch.tensor([[0.5, 1.0, 0.5]])
    >>> after = condition_linear(torch.ones(3), torch.tensor([0.0, 1.0, 1.0]), row, torch.tensor([3.0]))
    >>> after.mean, (row @ after.mean).item()
    (tensor([1.0000, 1.8000, 1.4000]), 3.0)
    """
    if isinstance(mean, np.ndarray):
        mu, s, rows, values = (torch.from_numpy(np.array(part, dtype=float)) for part in (mean, cov, G, b))
        found = condition_linear(mu, s, rows, values, float(noise), pseudo_inverse=pseudo_inverse)
        return Conditioned(*(part.numpy() for part in (found.mean, found.prior, found.factor)))
    mean64, S, G, b = (torch.as_tensor(part).to(mean.device, torch.float64) for part in (mean, cov, G, b))
    G = G[None] if G.ndim == 1 else G
    b = b[..., None] if b.ndim == G.ndim - 2 else b
    n, m = mean64.shape[-1], G.shape[-2]
    if G.shape[-1] != n or b.shape[-1] != m:
        raise ValueError(f"G has shape {tuple(G.shape)} and b {tuple(b.shape)}; they take (…, m, {n}) and (…, m)")
    diagonal = _is_diagonal(S, mean64)
    if not diagonal and S.shape[-2:] != (n, n):
        raise ValueError(f"cov has shape {tuple(S.shape)}; it takes (…, {n}) or (…, {n}, {n}), as mean has {n} values")
    for name, part in (("mean", mean64), ("cov", S), ("G", G), ("b", b)):
        if not bool(part.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite elements; it takes finite ones")
    variances = S if diagonal else _diagonal(S)
    if not bool((variances >= 0).all()):
        raise ValueError(f"cov has {int((variances < 0).sum())} negative variances; it takes none below 0")
    noise64 = torch.as_tensor(noise, dtype=torch.float64, device=mean.device)
    if not bool(noise64 >= 0):
        raise ValueError(f"noise is {float(noise64):g}; it takes a variance >= 0")
    SG = S[..., None] * G.mT if diagonal else S @ G.mT
    inner = G @ SG + noise64 * torch.eye(m, dtype=torch.float64, device=mean.device)
    residual = (G @ mean64[..., None])[..., 0] - b
    root = _inverse_root(inner, residual, pseudo_inverse)
    factor = SG @ root
    shifted = mean64 - (factor @ (root.mT @ residual[..., None]))[..., 0]
    return Conditioned(shifted.to(mean.dtype), S.to(mean.dtype), factor.to(mean.dtype))


def second_difference_update(
    mean: Float[Tensor, "*batch n"], variance: Float[Tensor, "*batch n"], alpha: float = 0.9
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
    """Condition a field on small second differences, which takes oscillations off near shocks.

    Parameters
    ----------
    mean
        Means on a grid, (..., n) with three points or more.
    variance
        Their variances, (..., n).
    alpha
        Correlation of neighbours that the noise of a second difference is computed from, between 0 and 1. The paper's
        is 0.9.

    Returns
    -------
    tuple of Tensor
        Mean (..., n) and full covariance (..., n, n), for `condition_linear` to go on with.

    Raises
    ------
    ValueError
        For fewer than three points, shapes that don't fit, or a correlation out of range.

    Notes
    -----
    arXiv 2302.11002, appendix: the noise is the variance of ``u_0 - 2 u_1 + u_2`` for an autoregressive field,
    ``s0 + 4 s1 + s2 - 4 a sqrt(s0 s1) + 2 a² sqrt(s0 s2) - 4 a sqrt(s1 s2)``.

    Examples
    --------
    >>> mean, _ = second_difference_update(torch.tensor([0.0, 1.0, 0.0]), torch.ones(3))
    >>> mean
    tensor([0.1592, 0.6816, 0.1592])
    """
    check_number("alpha", alpha, gt=0, lt=1)
    n = mean.shape[-1]
    if n < 3 or variance.shape != mean.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and variance {tuple(variance.shape)}; they take (…, n) with n >= 3"
        )
    s = variance.double()
    s0, s1, s2 = s[..., :-2], s[..., 1:-1], s[..., 2:]
    spread = s0 + 4 * s1 + s2 - 4 * alpha * ((s0 * s1).sqrt() + (s1 * s2).sqrt()) + 2 * alpha**2 * (s0 * s2).sqrt()
    D = torch.zeros(n - 2, n, dtype=torch.float64, device=mean.device)
    rows = torch.arange(n - 2, device=mean.device)
    D[rows, rows], D[rows, rows + 1], D[rows, rows + 2] = 1.0, -2.0, 1.0
    SG = s[..., None] * D.mT
    inner = D @ SG + torch.diag_embed(spread)
    if not bool((_diagonal(inner) > 0).all()):
        raise ValueError("variance is 0 at three neighbours; second differences take some of them to be uncertain")
    L = torch.linalg.cholesky(inner)
    factor = torch.linalg.solve_triangular(L, SG.mT, upper=False).mT
    y = torch.linalg.solve_triangular(L, D @ mean.double()[..., None], upper=False)
    shifted = mean.double() - (factor @ y)[..., 0]
    return shifted.to(mean.dtype), (torch.diag_embed(s) - factor @ factor.mT).to(mean.dtype)


def moment_match(
    means: Float[Tensor, " samples *shape"], variances: Float[Tensor, " samples *shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return mean and variances of a mixture of Gaussians with equal weights.

    Condition each part first, then match: what each keeps, the mean keeps.

    Parameters
    ----------
    means, variances
        Those of the parts, along the first axis.

    Returns
    -------
    tuple of Tensor
        Mean and variances, the latter 1e-8 at least, as the official code has it.

    Raises
    ------
    ValueError
        For shapes that differ.

    Examples
    --------
    >>> moment_match(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1))
    (tensor([1.]), tensor([2.]))
    """
    if means.shape != variances.shape:
        raise ValueError(f"means has shape {tuple(means.shape)} and variances {tuple(variances.shape)}; they take one")
    spread = means.var(0, correction=0)
    return means.mean(0), (variances.mean(0) + spread).clamp_min(_LEAST_VARIANCE)


def _is_diagonal(cov: Any, mean: Any) -> bool:
    """Say whether it holds variances: an axis less than covariances have."""
    return bool(cov.ndim <= 1 or (cov.ndim == mean.ndim and cov.shape[-2:] == mean.shape[-2:]))


def _diagonal(cov: Any) -> Any:
    return np.diagonal(cov, axis1=-2, axis2=-1) if isinstance(cov, np.ndarray) else cov.diagonal(dim1=-2, dim2=-1)


def _inverse_root(inner: Tensor, residual: Tensor, pseudo_inverse: bool) -> Tensor:
    """Return R with R Rᵀ the inverse of the covariance of the observations."""
    if not pseudo_inverse:
        L, failed = torch.linalg.cholesky_ex(inner)
        smallest = _diagonal(L).amin(-1) ** 2
        singular = (failed > 0) | (smallest <= _RANK * _diagonal(inner).amax(-1))
        if bool(singular.any()):
            rank = int(torch.linalg.matrix_rank(inner, rtol=_RANK, hermitian=True).min())
            raise np.linalg.LinAlgError(
                f"the {inner.shape[-1]} observations have rank {rank} where the field is uncertain; rows that agree are"
                " accepted with pseudo_inverse=True"
            )
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device).expand_as(inner)
        return torch.linalg.solve_triangular(L, eye, upper=False).mT
    sizes, vectors = torch.linalg.eigh(inner)
    kept = sizes > _RANK * sizes.amax(-1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)
    along = (vectors.mT @ residual[..., None])[..., 0]
    conflict = torch.where(kept, 0.0, along).abs().amax(-1)
    scale = residual.abs().amax(-1)
    if bool((conflict > 1e-8 * scale.clamp_min(1e-300)).any()) and bool((conflict > 1e-10).any()):
        raise np.linalg.LinAlgError(
            f"observations of rank {int(kept.sum(-1).min())} of {inner.shape[-1]} contradict each other by"
            f" {float(conflict.max()):.3g}, or what is known for certain"
        )
    return vectors * torch.where(kept, sizes.clamp_min(1e-300).rsqrt(), 0.0)[..., None, :]
