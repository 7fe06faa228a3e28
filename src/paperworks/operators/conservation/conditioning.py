"""A Gaussian conditioned on linear observations, and what is made of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite, check_number

_LEAST_VARIANCE = 1e-8  # of a moment-matched mixture, as the official code has it
_RANK = 1e-10  # an observation with less than this share of its variance left, given others, depends on them
_INDEFINITE = 1e-3  # share of its variance that rounding may take an observation below none, others given
_CANCELLED = 1e-12  # share of the largest variance that an observation could have, below which it is rounding
_AGREEMENT = 1e-8  # share of its size that an observation which depends on others may differ by


@dataclass(frozen=True)
class Conditioned:
    """A Gaussian after observations: its mean, and its covariance as the one before less a product of low rank.

    Parameters
    ----------
    mean
        The mean, (..., n).
    prior
        Variances (..., n) or covariance (..., n, n) before, in float64.
    factor
        W of shape (..., n, m) in float64, for which the covariance is the one before less W Wᵀ.

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
        """Variances, (..., n), never below zero, in the precision of the mean."""
        before = self.prior if self.prior.ndim == self.mean.ndim else _diagonal(self.prior)
        if isinstance(before, Tensor) and self.factor.shape[-1] == 1:  # one pass over the field
            column = self.factor[..., 0]
            return _like(self.mean, torch.addcmul(before, column, column, value=-1).clip(0))
        return _like(self.mean, (before - (self.factor**2).sum(-1)).clip(0))

    @property
    def covariance(self) -> Any:
        """The covariance, (..., n, n), made when it is asked for, in the precision of the mean."""
        low_rank = self.factor @ self.factor.swapaxes(-1, -2)
        if self.prior.ndim > self.mean.ndim:
            return _like(self.mean, self.prior - low_rank)
        if isinstance(self.prior, np.ndarray):
            return _like(self.mean, self.prior[..., None] * np.eye(self.prior.shape[-1]) - low_rank)
        return _like(self.mean, torch.diag_embed(self.prior) - low_rank)


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
        Variances (..., n), for which it takes O(n m), or covariances (..., n, n); covariances have an axis more than
        `mean`.
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
    TypeError
        Where `mean` is neither tensor nor array, or something is complex.
    ValueError
        For shapes that don't fit, negative variances or noise, covariances that aren't symmetric or show to be
        indefinite, or numbers that aren't finite.
    numpy.linalg.LinAlgError
        Where observations depend on each other, or contradict each other or what is known for certain.

    Notes
    -----
    arXiv 2302.11002, equation 5: ``K = S Gᵀ (noise + G S Gᵀ)⁻¹``, ``mean - K (G mean - b)`` and ``S - K G S``. Computed
    in float64: in float32 an integral is off by 1e-4. Observations are compared in units of their own spread, so they
    may be of very different size. Slices at several times, or a field in two dimensions, are one long vector with a row
    of G for each integral.

    Examples
    --------
    >>> row = torch.tensor([[0.5, 1.0, 0.5]])
    >>> after = condition_linear(torch.ones(3), torch.tensor([0.0, 1.0, 1.0]), row, torch.tensor([3.0]))
    >>> after.mean, (row @ after.mean).item()
    (tensor([1.0000, 1.8000, 1.4000]), 3.0)
    """
    if isinstance(mean, np.ndarray):
        if any(np.iscomplexobj(part) for part in (mean, cov, G, b)):
            raise TypeError("mean, cov, G or b is complex; they take real numbers")
        mu, s, rows, values = (torch.from_numpy(np.array(part, dtype=float)) for part in (mean, cov, G, b))
        found = condition_linear(
            mu, s, rows, values, torch.as_tensor(noise, dtype=torch.float64), pseudo_inverse=pseudo_inverse
        )
        shifted = found.mean.numpy()
        kept = shifted.astype(mean.dtype) if np.issubdtype(mean.dtype, np.floating) else shifted
        return Conditioned(kept, found.prior.numpy(), found.factor.numpy())
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        what = str(mean.dtype) if isinstance(mean, Tensor) else type(mean).__name__
        raise TypeError(f"mean is {what}; it takes an array, or a tensor of floating point numbers")
    mu, S, rows, values = _checked(mean, *(torch.as_tensor(part) for part in (cov, G, b)))
    level = torch.as_tensor(noise, dtype=torch.float64, device=mean.device)
    if level.ndim or not bool((level >= 0) & level.isfinite()):
        raise ValueError(f"noise is {noise}; it takes a variance >= 0")
    # Rows of size about 1, by powers of two, which round nothing.
    unit = torch.ldexp(torch.ones_like(rows[..., 0]), -torch.frexp(rows.detach().abs().amax(-1)).exponent.clamp(-999))
    rows, values = rows * unit[..., None], values * unit
    GS = S[..., None, :] * rows if S.ndim == mu.ndim else (S @ rows.mT).mT
    # Rows stand on the right: where all slices share them, it is one product of matrices and no batch of them.
    inner = GS @ rows.mT + torch.diag_embed(level * unit * unit)
    residual = (mu[..., None, :] @ rows.mT)[..., 0, :] - values
    if not bool(inner.isfinite().all() & residual.isfinite().all()):
        raise ValueError("G mean or G cov Gᵀ is beyond what float64 holds; they take other units")
    if S.ndim > mu.ndim:  # what correlations cancel is known up to rounding
        largest = (rows.detach().abs() * _diagonal(S.detach()).sqrt()[..., None, :]).sum(-1) ** 2
        sizes = _diagonal(inner.detach())
        if bool((sizes < -_INDEFINITE * largest).any()):
            raise ValueError("cov isn't positive semidefinite; it takes a covariance")
        known = sizes <= _CANCELLED * largest
        inner = inner.masked_fill(known[..., None] | known[..., None, :], 0.0)
    root, kept = _inverse_root(inner, pseudo_inverse)
    weights = root.mT @ residual[..., None]
    if root.shape[-1] == 1:  # without matrices, and in one pass over the field each
        factor = (root * GS).mT
        shifted = torch.addcmul(mu, factor[..., 0], weights[..., 0], value=-1)
    else:
        factor = (root.mT @ GS).mT
        shifted = mu - (factor @ weights)[..., 0]
    if kept is not None:
        _check_consistent(rows, mu, shifted, values, kept)
    return Conditioned(shifted.to(mean.dtype), S, factor)


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
        For fewer than three points, shapes that don't fit, a correlation out of range, numbers that aren't finite,
        negative variances, or no variance at three neighbours.

    Notes
    -----
    arXiv 2302.11002, appendix: the noise is the variance of ``u_0 - 2 u_1 + u_2`` for an autoregressive field,
    ``s0 + 4 s1 + s2 - 4 a sqrt(s0 s1) + 2 a² sqrt(s0 s2) - 4 a sqrt(s1 s2)``.

    Examples
    --------
    >>> mean, _ = second_difference_update(torch.tensor([0.0, 1.0, 0.0]), torch.ones(3))
    >>> mean
    tensor([0.3115, 0.3769, 0.3115])
    """
    check_number("alpha", alpha, gt=0, lt=1)
    n = mean.shape[-1]
    if n < 3 or variance.shape != mean.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and variance {tuple(variance.shape)}; they take (…, n) with n >= 3"
        )
    s = check_finite("variance", variance).double()
    check_finite("mean", mean)
    if not bool((s >= 0).all()):
        raise ValueError(f"variance has {int((s < 0).sum())} negative elements; it takes none below 0")
    s0, s1, s2 = s[..., :-2], s[..., 1:-1], s[..., 2:]
    r0, r1, r2 = s0.sqrt(), s1.sqrt(), s2.sqrt()
    spread = s0 + 4 * s1 + s2 - 4 * alpha * r1 * (r0 + r2) + 2 * alpha**2 * r0 * r2
    D = torch.eye(n, dtype=torch.float64, device=mean.device).diff(n=2, dim=0)
    SG = s[..., None] * D.mT
    inner = D @ SG + torch.diag_embed(spread)
    if not bool((spread > 0).all()):
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
        For shapes that differ, no parts, negative variances, or numbers that aren't finite.

    Examples
    --------
    >>> moment_match(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1))
    (tensor([1.]), tensor([2.]))
    """
    if means.shape != variances.shape or not means.shape[:1].numel():
        raise ValueError(
            f"means has shape {tuple(means.shape)} and variances {tuple(variances.shape)}; they take one, of a part at"
            " least"
        )
    check_finite("means", means)
    check_finite("variances", variances)
    if bool((variances < 0).any()):
        raise ValueError(f"variances has {int((variances < 0).sum())} negative elements; it takes none below 0")
    spread = means.var(0, correction=0)
    return means.mean(0), (variances.mean(0) + spread).clamp_min(_LEAST_VARIANCE)


def _checked(mean: Tensor, cov: Tensor, G: Tensor, b: Tensor) -> list[Tensor]:
    """Return all in float64 and with the same leading axes; variances have as many axes as means."""
    if any(part.is_complex() or part.layout != torch.strided for part in (cov, G, b)):
        raise TypeError("cov, G or b is complex or sparse; they take real numbers in dense arrays")
    mean, cov, G, b = (part.to(mean.device, torch.float64) for part in (mean, cov, G, b))
    G = G[None] if G.ndim == 1 else G
    b = b[..., None] if b.ndim == G.ndim - 2 else b
    if mean.ndim < 1 or mean.shape[-1] < 1:
        raise ValueError(f"mean has shape {tuple(mean.shape)}; it takes (…, n) with a value at least")
    n, m = mean.shape[-1], G.shape[-2] if G.ndim > 1 else 0
    if G.ndim < 2 or G.shape[-1] != n or b.shape[-1] != m:
        raise ValueError(f"G has shape {tuple(G.shape)} and b {tuple(b.shape)}; they take (…, m, {n}) and (…, m)")
    own = (n,) if cov.ndim <= mean.ndim else (n, n)
    if cov.shape[-len(own) :] != own:
        raise ValueError(
            f"cov has shape {tuple(cov.shape)}; it takes (…, {n}), or (…, {n}, {n}) with an axis more than mean has"
        )
    for name, part in (("mean", mean), ("cov", cov), ("G", G), ("b", b)):
        _refuse_infinite(name, part)
    variances = cov if len(own) == 1 else _diagonal(cov)
    if variances.numel() and float(variances.detach().min()) < 0:
        raise ValueError(f"cov has {int((variances < 0).sum())} negative variances; it takes none below 0")
    if len(own) == 2 and bool(((cov - cov.mT).abs() > 1e-5 * variances.abs().amax(-1)[..., None, None]).any()):
        raise ValueError("cov isn't symmetric; it takes a covariance")
    try:
        batch = torch.broadcast_shapes(mean.shape[:-1], cov.shape[: -len(own)], G.shape[:-2], b.shape[:-1])
    except RuntimeError:
        shapes = ", ".join(str(tuple(part.shape)) for part in (mean, cov, G, b))
        raise ValueError(f"mean, cov, G and b have shapes {shapes}; their leading axes don't fit") from None
    return [mean.expand(*batch, n), cov.expand(*batch, *own), G, b]


def _refuse_infinite(name: str, values: Tensor) -> None:
    if not bool(values.detach().sum().isfinite()):  # one pass, and no array; a sum may be infinite by itself
        check_finite(name, values)


def _diagonal(cov: Any) -> Any:
    return np.diagonal(cov, axis1=-2, axis2=-1) if isinstance(cov, np.ndarray) else cov.diagonal(dim1=-2, dim2=-1)


def _like(mean: Any, values: Any) -> Any:
    return values.astype(mean.dtype) if isinstance(mean, np.ndarray) else values.to(mean.dtype)


def _inverse_root(inner: Tensor, pseudo_inverse: bool) -> tuple[Tensor, Tensor | None]:
    """Return R with R Rᵀ an inverse of the covariance of the observations, and which are kept where not all are."""
    sizes = _diagonal(inner)
    if inner.shape[-1] == 1 and bool((sizes > 0).all()):
        return inner.rsqrt(), None
    unit = torch.where(sizes > 0, torch.where(sizes > 0, sizes, 1.0).rsqrt(), 0.0)
    correlations = unit[..., None] * inner * unit[..., None, :]
    L, failed = torch.linalg.cholesky_ex(correlations)
    kept = None
    if bool((failed > 0).any()) or not bool((_diagonal(L) ** 2 > _RANK).all()):
        kept = _independent(correlations.detach())
        if not pseudo_inverse:
            raise np.linalg.LinAlgError(
                f"the {inner.shape[-1]} observations have rank {int(kept.sum(-1).min())} where the field is uncertain;"
                " rows that agree are accepted with pseudo_inverse=True"
            )
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        L = torch.linalg.cholesky(torch.where(kept[..., None] & kept[..., None, :], correlations, eye))
        unit = torch.where(kept, unit, 0.0)
    return torch.linalg.solve_triangular(L, torch.diag_embed(unit), upper=False).mT, kept


def _independent(correlations: Tensor) -> Tensor:
    """Say which observations are uncertain given those before them, by elimination."""
    left, kept = correlations.clone(), []
    for k in range(left.shape[-1]):
        pivot = left[..., k, k]
        if bool((pivot < -_INDEFINITE).any()):
            raise ValueError("cov isn't positive semidefinite; it takes a covariance")
        kept.append(pivot > _RANK)
        column = left[..., k] * torch.where(kept[-1], pivot.clamp_min(_RANK).rsqrt(), 0.0)[..., None]
        left = left - column[..., None] * column[..., None, :]
    return torch.stack(kept, dim=-1)


def _check_consistent(G: Tensor, before: Tensor, after: Tensor, b: Tensor, kept: Tensor) -> None:
    off = ((G @ after[..., None])[..., 0] - b).abs()
    size = (G.abs() @ (before.abs() + after.abs())[..., None])[..., 0] + b.abs()
    conflict = ~kept & (off > _AGREEMENT * size)
    if bool(conflict.any()):
        raise np.linalg.LinAlgError(
            f"observations of rank {int(kept.sum(-1).min())} of {kept.shape[-1]} contradict each other or what is known"
            f" for certain, by {float((off / size.clamp_min(1e-300))[conflict].max()):.3g} of their size"
        )
