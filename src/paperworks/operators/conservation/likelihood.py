"""Log-likelihoods of fields with error bars, plain and with a conservation law in them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite


def gaussian_log_likelihood(
    y: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return the log-density of values under independent Gaussians.

    Parameters
    ----------
    y
        Values that were seen.
    mean, variance
        Means and variances, above 0.

    Returns
    -------
    Tensor of the shape of `y`
        One logarithm for each value, in nats.

    Raises
    ------
    ValueError
        For variances that aren't above 0, another shape than that of `y`, or numbers that aren't finite.

    Examples
    --------
    >>> gaussian_log_likelihood(torch.zeros(1), torch.zeros(1), torch.ones(1)).round(decimals=4)
    tensor([-0.9189])
    """
    if torch.broadcast_shapes(y.shape, mean.shape, variance.shape) != y.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and variance {tuple(variance.shape)}; they take that of y,"
            f" {tuple(y.shape)}"
        )
    for name, part in (("y", y), ("mean", mean), ("variance", variance)):
        check_finite(name, part)
    if not bool((variance > 0).all()):
        raise ValueError(
            f"variance has {int((variance <= 0).sum())} elements that aren't above 0; it takes positive ones"
        )
    return -0.5 * ((y - mean).square() / variance + variance.log() + math.log(2 * math.pi))


def constrained_log_likelihood(
    y: Float[Tensor, "*batch n"],
    mean: Float[Tensor, "*batch n"],
    variance: Float[Tensor, "*batch n"],
    g: Float[Tensor, "*grid n"],
    noise: float | Float[Tensor, ""],
) -> Float[Tensor, "*batch"]:
    """Return the log-density of a field under a Gaussian that was conditioned on the field's own integral.

    Parameters
    ----------
    y
        The field that was seen, (..., n).
    mean, variance
        Means and variances of the model before the update.
    g
        Weights of the integral, (n,) or (..., n).
    noise
        Variance of the integral's noise, above 0.

    Returns
    -------
    Tensor of shape (...)
        ``log N(y | mean, variance) + log N(g·y | g·y, noise) - log N(g·y | g·mean, g·variance·g + noise)``, in nats.

    Raises
    ------
    ValueError
        For a noise that isn't above 0, with which the density is infinite; other shapes; or numbers that aren't
        finite.

    Notes
    -----
    arXiv 2302.11002, appendix on training with the constraint.

    Examples
    --------
    >>> y = torch.zeros(2, dtype=torch.float64)
    >>> constrained_log_likelihood(y, y, y + 1, y + 0.5, noise=0.01).round(decimals=4)
    tensor(0.1280, dtype=torch.float64)
    """
    level = torch.as_tensor(noise, dtype=y.dtype, device=y.device)
    if g.shape not in (y.shape[-1:], y.shape):
        raise ValueError(f"g has shape {tuple(g.shape)}; it takes {tuple(y.shape[-1:])} or {tuple(y.shape)}")
    check_finite("g", g)
    if level.ndim or not bool((level > 0) & level.isfinite()):
        raise ValueError(f"noise is {noise}; it takes a variance above 0")
    total, expected = (g * y).sum(-1), (g * mean).sum(-1)
    spread = (g.square() * variance).sum(-1) + level
    own = gaussian_log_likelihood(y, mean, variance).sum(-1)
    return own - 0.5 * (level.log() + math.log(2 * math.pi)) - gaussian_log_likelihood(total, expected, spread)
