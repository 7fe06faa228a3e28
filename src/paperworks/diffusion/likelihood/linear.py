"""The linear case, where all is in closed form, and diagnostics of singularity."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number


@dataclass(frozen=True)
class PPCA:
    """Probabilistic principal components ``X = mean + W Z + noise``: a linear generator with Gaussian noise.

    Parameters
    ----------
    mean, loadings
        Parts of the generator ``f(z) = mean + W z``.
    noise_variance
        Variance of the noise that maximises the likelihood.
    eigenvalues
        All eigenvalues of the covariance of the data, largest first.

    Examples
    --------
    >>> fit = ppca_mle(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), 1)
    >>> fit.mean.tolist(), fit.mean_log_likelihood()  # the data lie on a line: their likelihood is unbounded
    ([1.0, 0.0], inf)
    """

    mean: Tensor
    loadings: Tensor
    noise_variance: float
    eigenvalues: Tensor

    def mean_log_likelihood(self, sigma: float | None = None) -> float:
        """Return the mean log-likelihood of the data at noise level `sigma`, with the best loadings for it.

        `sigma` is by default the best one; data of lower rank make that 0 and the likelihood infinite.

        Returns
        -------
        float
            The mean over the data, in nats.
        """
        variance = self.noise_variance if sigma is None else check_number("sigma", sigma, gt=0) ** 2
        if variance <= 0:
            return math.inf
        d, dim = self.loadings.shape[1], len(self.eigenvalues)
        kept, rest = self.eigenvalues[:d].clamp(min=variance), self.eigenvalues[d:]
        own = (self.eigenvalues[:d] / kept).sum()
        log_det = kept.log().sum() + (dim - d) * math.log(variance)
        return float(-0.5 * (dim * math.log(2 * math.pi) + log_det + own + rest.sum() / variance))


def ppca_mle(X: Float[Tensor, "n dim"], latent_dim: int, perturbation: float = 0.0) -> PPCA:
    """Fit probabilistic PCA by maximum likelihood, to the data as if noise had been added to them.

    With noise of standard deviation `perturbation` the expected covariance gains its square on the diagonal, which
    moves the noise variance by just that and leaves the loadings as they are (Tipping and Bishop 1999).

    Parameters
    ----------
    X
        Data in rows, of shape (n, dim).
    latent_dim
        Number of components, less than `dim`.
    perturbation
        Standard deviation of the noise.

    Returns
    -------
    PPCA
        The fitted model, with loadings and noise.

    Examples
    --------
    >>> X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> X = torch.cat([X, torch.zeros(100, 3, dtype=torch.float64)], dim=1)
    >>> fit = ppca_mle(X, 2, perturbation=0.1)
    >>> fit.loadings.shape, round(fit.noise_variance, 6)
    (torch.Size([5, 2]), 0.01)
    """
    check_finite("X", X)
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"X has shape {tuple(X.shape)}; it takes (n, dim) with n >= 2")
    d = check_count("latent_dim", latent_dim, at_most=X.shape[1] - 1)
    check_number("perturbation", perturbation, ge=0)
    data = X.double()
    mean = data.mean(0)
    # Singular values of the data, not eigenvalues of their covariance: half the digits would be lost.
    _, singular, directions = torch.linalg.svd(data - mean, full_matrices=True)
    values = torch.zeros(X.shape[1], dtype=torch.float64, device=X.device)
    values[: len(singular)] = singular.square() / len(data)
    noise = float(values[d:].mean())
    loadings = directions[:d].T * (values[:d] - noise).clamp(min=0).sqrt()
    return PPCA(mean, loadings, noise + perturbation**2, values + perturbation**2)


def singularity_slope(mean_log_likelihood: Callable[[float], float], sigma: float, step: float = 0.1) -> float:
    """Return how fast the mean log-likelihood grows with ``-log sigma`` at a small `sigma`.

    Near 0 it is the codimension of the data: 0 for a regular density, and the likelihood of data on a set of
    dimension d grows as ``(dim - d) (-log sigma)`` without bound.

    Parameters
    ----------
    mean_log_likelihood
        Maps a noise level to the mean log-likelihood, in nats.
    sigma
        A small noise level, above 0.
    step
        Difference of ``log sigma`` between the two evaluations.

    Returns
    -------
    float
        The slope, close to the codimension of the data.

    Examples
    --------
    >>> round(singularity_slope(lambda sigma: -4 * math.log(sigma), 1e-3), 6)
    4.0
    """
    check_number("sigma", sigma, gt=0)
    check_number("step", step, gt=0)
    return (mean_log_likelihood(sigma * math.exp(-step)) - mean_log_likelihood(sigma)) / step


def intrinsic_dimension(X: Float[Tensor, "n dim"], discard: float = 0.1) -> float:
    """Estimate the dimension of the set that data lie on, from ratios of the distances to two neighbours.

    The ratio of the second to the first is Pareto with the dimension as its index (Facco and others 2017); the
    largest share `discard` of ratios, which see noise and borders, is left out of the maximum likelihood fit.

    Parameters
    ----------
    X
        Data in rows, of shape (n, dim).
    discard
        Share of the largest ratios to leave out.

    Returns
    -------
    float
        The dimension, which need not be whole.

    Examples
    --------
    >>> angle = 6.283 * torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1)
    >>> round(intrinsic_dimension(circle))
    1
    """
    check_finite("X", X)
    if X.ndim != 2 or len(X) < 10:
        raise ValueError(f"X has shape {tuple(X.shape)}; it takes (n, dim) with n >= 10")
    check_number("discard", discard, ge=0, lt=1)
    points = X.double().unique(dim=0)
    nearest = torch.cat(
        [
            torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False).values[:, 1:]
            for part in points.split(1024)
        ]
    )
    logs = (nearest[:, 1] / nearest[:, 0]).log().sort().values
    kept = logs[: max(2, round(len(logs) * (1 - discard)))]
    # Censored maximum likelihood: the ratios left out are at least as large as the last one kept.
    total = kept.sum() + (len(logs) - len(kept)) * kept[-1]
    return float(len(kept) / total)
