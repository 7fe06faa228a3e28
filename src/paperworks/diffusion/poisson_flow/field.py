"""Fields of a finite data set in closed form: the ideal denoiser, the Poisson field, and PFGM's batch target."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.diffusion.sampling import per_sample

_GAUSSIAN_FROM = 1e8  # D beyond which the weights are Gaussian to the last digit


def empirical_denoiser(
    data: Float[Tensor, " n *shape"], D: float = math.inf, batch_size: int = 4096
) -> Callable[[Tensor, float | Tensor], Tensor]:
    """Return ``denoise(x, sigma)``, the posterior mean of a finite data set: what an ideal network would learn.

    Parameters
    ----------
    data
        The data set.
    D
        Additional dimensions of PFGM++; infinity for diffusion.
    batch_size
        Data points weighed at a time: memory is batch x batch_size.

    Returns
    -------
    Callable[[Tensor, float | Tensor], Tensor]
        Maps states and noise levels to the posterior mean, of the states' shape.

    Raises
    ------
    ValueError
        Where the data are not finite or `D` is not positive.

    Examples
    --------
    >>> denoise = empirical_denoiser(torch.tensor([[-1.0], [1.0]]), D=1)
    >>> denoise(torch.tensor([[0.0]]), 0.5)
    tensor([[0.]])
    """
    _check(data, D)
    check_count("batch_size", batch_size)
    centre = data.reshape(len(data), -1).double().mean(0)
    rows = data.reshape(len(data), -1).double() - centre
    norms = rows.square().sum(1)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        at = x.reshape(len(x), -1).double() - centre.to(x.device)
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1, 1)
        total = torch.zeros_like(at)
        largest = torch.full((len(at), 1), -math.inf, dtype=torch.float64, device=x.device)
        mass = torch.zeros_like(largest)
        for begin in range(0, len(rows), batch_size):
            part, norm = rows[begin : begin + batch_size].to(x.device), norms[begin : begin + batch_size].to(x.device)
            square = torch.addmm(norm, at, part.T, alpha=-2).add_(at.square().sum(1, keepdim=True)).clamp_(min=0)
            weights = log_weights(square, level, D, at.shape[1])
            # Running softmax: rescale what was summed when a larger weight turns up.
            new_largest = torch.maximum(largest, weights.max(dim=1, keepdim=True).values)
            shrink = torch.exp(largest - new_largest)
            weights = weights.sub_(new_largest).exp_()
            total = total * shrink + weights @ part
            mass = mass * shrink + weights.sum(dim=1, keepdim=True)
            largest = new_largest
        return (total / mass + centre.to(x.device)).to(x.dtype).reshape(x.shape)

    return denoise


def log_weights(square: Tensor, sigma: Tensor, D: float, n_dims: int) -> Tensor:
    """Return the log of the kernel at squared distances, up to a constant, with r = sigma sqrt(D)."""
    if D > _GAUSSIAN_FROM:
        return square / (-2 * sigma.square())
    return torch.log1p(square / (D * sigma.square())) * (-0.5 * (n_dims + D))


def poisson_field(
    x: Float[Tensor, " batch *shape"], r: float | Float[Tensor, " batch"], data: Float[Tensor, " n *shape"], D: float
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
    """Return the direction of the field in the augmented space: its part in x, and its part in r (unit norm together).

    ``E(x, r)`` is proportional to the sum of ``((x, r) - (y, 0)) / (|x - y|^2 + r^2)^((N + D)/2)`` over the data
    (arXiv 2302.04265, equation 4); the generative ODE is ``dx/dr = E_x / E_r``.

    Parameters
    ----------
    x
        States of shape (batch, ...).
    r
        Norm of the additional coordinates, one for all or one for each.
    data
        Data set, of shape (n, ...).
    D
        Additional dimensions of the space.

    Returns
    -------
    tuple[Tensor of shape (batch, ...), Tensor of shape (batch,)]
        The direction's part in `x`, of its shape, and in r, of shape (batch,).

    Examples
    --------
    >>> e_x, e_r = poisson_field(torch.tensor([[3.0]]), 4.0, torch.tensor([[0.0]]), D=1)
    >>> [round(float(v), 6) for v in (e_x, e_r)]
    [0.6, 0.8]
    """
    _check(data, D)
    if math.inf == D:
        raise ValueError("D is inf; poisson_field takes a finite number of additional dimensions")
    check_finite("x", x)
    radius = torch.as_tensor(r, dtype=torch.float64, device=x.device)
    mean = empirical_denoiser(data, D)(x.double(), radius / math.sqrt(D))
    e_x = x.double() - mean
    norm = (e_x.flatten(1).square().sum(1) + radius.square()).sqrt()
    return (e_x / per_sample(norm, e_x)).to(x.dtype), (radius / norm).to(x.dtype)


def pfgm_field(
    x: Float[Tensor, " batch *shape"],
    r: float | Float[Tensor, " batch"],
    data: Float[Tensor, " n *shape"],
    gamma: float = 5.0,
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
    """Return the normalised target of PFGM (D = 1) from a batch of data: ``sqrt(N + 1) E / (|E| + gamma)``, outward.

    E is the batch mean, scaled so that the weights sum to one (arXiv 2209.11178, equation 6). It is here for
    comparison: being normalised, its mean over batches is not the field.

    Parameters
    ----------
    x
        States of shape (batch, ...).
    r
        Norm of the additional coordinates, one for all or one for each.
    data
        Data set, of shape (n, ...).
    gamma
        What keeps the division from 0, at least 0.

    Returns
    -------
    tuple[Tensor of shape (batch, ...), Tensor of shape (batch,)]
        The target's part in `x`, of its shape, and in r, of shape (batch,).

    Examples
    --------
    >>> v_x, v_r = pfgm_field(torch.tensor([[3.0]]), 4.0, torch.tensor([[0.0]]))
    >>> v_x.shape, v_r.shape
    (torch.Size([1, 1]), torch.Size([1]))
    """
    check_number("gamma", gamma, ge=0)
    e_x, e_r = poisson_field(x, r, data, D=1)
    radius = torch.as_tensor(r, dtype=x.dtype, device=x.device)
    norm = radius / e_r  # of the weighted mean of (x - y, r)
    scale = math.sqrt(x[0].numel() + 1) * norm / (norm + gamma)
    return e_x * per_sample(scale, e_x), e_r * scale


def _check(data: Tensor, D: float) -> None:
    check_finite("data", data)
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(f"data has shape {tuple(data.shape)}; it takes (n, *shape) with n > 0")
    if math.inf != D:
        check_number("D", D, gt=0)
