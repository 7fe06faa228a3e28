"""The log-likelihood of a generator with Gaussian noise, exactly or by bounds."""

import math
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number

Decoder = Callable[[Tensor], Tensor]
Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]
Latent = Literal["normal", "uniform"]
Method = Literal["quadrature", "elbo", "iwae", "importance"]

_CHUNK = 1 << 22  # entries of a block of data x nodes
_REACH = 6.0  # standard deviations of a normal latent that the grid covers: all but 2e-9 of its mass
_TAIL = 8.0  # log-density below the largest from where on gaps don't matter: 4 standard deviations


def log_marginal(
    x: Float[Tensor, "n dim"],
    decoder: Decoder,
    sigma: float | Float[Tensor, ""],
    method: Method = "iwae",
    *,
    latent_dim: int,
    encoder: Encoder | None = None,
    K: int = 8,
    latent: Latent = "normal",
    nodes: int = 256,
    most_nodes: int = 1 << 16,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """Return ``log p(x)`` of ``x = f(Z) + sigma N(0, I)`` for each sample, or a lower bound of it in expectation.

    Parameters
    ----------
    x
        Data in rows, of shape (n, dim).
    decoder
        The generator f, from (m, latent_dim) to (m, dim).
    sigma
        Standard deviation of the noise.
    method
        ``quadrature``: exact, for up to two latent dimensions; ``elbo``: the mean of the log-weights of `K` draws from
        the encoder; ``iwae``: the log of the mean of the weights, which tightens with `K` (arXiv 1509.00519);
        ``importance``: the same with at least 1000 draws that all rows share, for evaluation.
    latent_dim
        Dimension of Z.
    encoder
        Returns mean and log-variance of a normal proposal for z given x, for all but ``quadrature``.
    K
        Number of draws.
    latent
        Law of Z: standard ``normal``, or ``uniform`` on the unit cube. The encoder of a uniform one proposes normal
        scores, which the normal distribution function takes to the cube.
    nodes
        First number of nodes per latent dimension; it is doubled until neighbouring nodes are mapped at most `sigma`
        apart, or `most_nodes` in all are reached, which is warned of.
    generator
        Source of the draws.
    most_nodes
        Nodes of the quadrature in all at which its refinement stops, with a warning.

    Returns
    -------
    Tensor of shape (n,)
        One number for each sample, in nats.

    Raises
    ------
    ValueError
        For an unknown choice, a `sigma` that isn't positive, ``quadrature`` in more than two latent dimensions, or a
        missing encoder or generator.

    Examples
    --------
    A generator that is linear makes the data normal:

    >>> x = torch.zeros(1, 1, dtype=torch.float64)
    >>> value = log_marginal(x, lambda z: 2 * z, 1.0, "quadrature", latent_dim=1)
    >>> round(float(value + 0.5 * math.log(2 * math.pi * 5)), 4)
    0.0
    """
    check_choice("method", method, get_args(Method))
    check_choice("latent", latent, get_args(Latent))
    check_count("latent_dim", latent_dim)
    if not isinstance(sigma, Tensor):
        check_number("sigma", sigma, gt=0)
    if method == "quadrature":
        return _quadrature(x, decoder, sigma, latent_dim, latent, nodes, most_nodes)
    if encoder is None or generator is None:
        raise ValueError(f"encoder or generator is None; method {method!r} takes both")
    K = check_count("K", K) if method != "importance" else max(K, 1000)
    weights = log_weights(x, decoder, encoder, sigma, K, latent, generator, common=method == "importance")
    return weights.mean(0) if method == "elbo" else torch.logsumexp(weights, dim=0) - math.log(K)


def log_weights(
    x: Tensor,
    decoder: Decoder,
    encoder: Encoder,
    sigma: float | Tensor,
    K: int,
    latent: Latent,
    generator: torch.Generator,
    *,
    doubly: bool = False,
    common: bool = False,
) -> Float[Tensor, "K n"]:
    """Return ``log p(x|z) + log p(z) - log q(z|x)`` for `K` draws each, all in one pass of the decoder.

    With `doubly` the gradient of the encoder goes through the draws only, each weighted anew by its importance: the
    doubly reparameterised estimator (arXiv 1810.04152), whose variance does not grow with `K`. With `common` all rows
    share their normal draws, so that what is found of a row doesn't depend on the others.
    """
    mean, log_variance = encoder(x)
    std = torch.exp(0.5 * log_variance)
    shape = (K, 1 if common else len(mean), mean.shape[1])
    noise = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device).expand(K, *mean.shape)
    z = mean + std * noise
    if doubly:
        score = (z - mean.detach()) / std.detach()
        log_q = -0.5 * (score.square() + log_variance.detach()).sum(-1)
    else:
        log_q = -0.5 * (noise.square() + log_variance).sum(-1)
    log_prior = -0.5 * z.square().sum(-1)  # the same constant as in log_q
    mapped = decoder(to_latent(z, latent).flatten(0, 1)).reshape(K, *x.shape)
    weights = _log_normal((x - mapped).square().sum(-1), sigma, x.shape[-1]) + log_prior - log_q
    if doubly and z.requires_grad:
        share = torch.softmax(weights.detach(), dim=0)
        z.register_hook(lambda gradient: gradient * share[..., None])
    return weights


def to_latent(scores: Tensor, latent: Latent) -> Tensor:
    """Turn normal scores into draws of the latent law."""
    return scores if latent == "normal" else torch.special.ndtr(scores)


def _quadrature(
    x: Tensor, decoder: Decoder, sigma: float | Tensor, latent_dim: int, latent: Latent, nodes: int, most: int
) -> Tensor:
    """Sum over a grid of nodes by the midpoint rule."""
    if latent_dim > 2:
        raise ValueError(f"latent_dim is {latent_dim}; method 'quadrature' takes 1 or 2")
    level = sigma.item() if isinstance(sigma, Tensor) else sigma
    while True:
        z, log_mass = quadrature_nodes(nodes, latent_dim, latent, x)
        mapped = decoder(z)
        spread = _widest_gap(mapped.detach(), log_mass, nodes, latent_dim)
        if spread <= level:
            break
        if (2 * nodes) ** latent_dim > most:
            warnings.warn(
                f"neighbouring nodes are up to {spread:.3g} apart, more than sigma {level:.3g}: the likelihood is "
                "rough; raise most_nodes",
                RuntimeWarning,
                stacklevel=3,
            )
            break
        nodes *= 2
    rows = max(1, _CHUNK // len(mapped))
    squares = mapped.square().sum(1)
    found = []
    for part in x.split(rows):
        square = torch.addmm(squares, part, mapped.T, alpha=-2) + part.square().sum(1, keepdim=True)
        found.append(torch.logsumexp(_log_normal(square.clamp(min=0), sigma, x.shape[1]) + log_mass, dim=1))
    return torch.cat(found)


def quadrature_nodes(nodes: int, latent_dim: int, latent: Latent, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the midpoints of a uniform grid over (almost) all of the latent law, and the log of their masses."""
    u = (torch.arange(nodes, dtype=like.dtype, device=like.device) + 0.5) / nodes
    if latent == "normal":
        u = _REACH * (2 * u - 1)
        log_mass = torch.log_softmax(-0.5 * u.square(), dim=0)
    else:
        log_mass = torch.full_like(u, -math.log(nodes))
    z = torch.cartesian_prod(*[u] * latent_dim).reshape(-1, latent_dim)
    return z, torch.cartesian_prod(*[log_mass] * latent_dim).reshape(-1, latent_dim).sum(1)


def _widest_gap(mapped: Tensor, log_mass: Tensor, nodes: int, latent_dim: int) -> float:
    """Return the widest gap between the images of neighbouring nodes of which neither is far out in the tails."""
    axes = [nodes] * latent_dim
    grid = mapped.reshape(*axes, -1)
    near = (log_mass > log_mass.max() - _TAIL).reshape(axes)
    widest = 0.0
    for axis in range(latent_dim):
        gaps = grid.diff(dim=axis).norm(dim=-1)
        both = near.narrow(axis, 0, nodes - 1) & near.narrow(axis, 1, nodes - 1)
        widest = max(widest, float(gaps[both].max()))
    return widest


def _log_normal(square: Tensor, sigma: float | Tensor, dim: int) -> Tensor:
    log_sigma = sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)
    return square * (-0.5 / sigma**2) - dim * (log_sigma + 0.5 * math.log(2 * math.pi))
