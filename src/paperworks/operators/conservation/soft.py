"""The law in differential form, as a penalty in training: the soft constraint that the update is compared with."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def law_residual(
    predict: Callable[[Tensor], Tensor], points: Float[Tensor, "*batch 2"], flux: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "*batch"]:
    """Return by how much a field fails u_t + F(u, u_x)_x = 0 at points, differentiably.

    The mean of its square, added to the loss with weight 1, is the paper's SoftC; it lowers the error of the integral
    on average and makes it zero nowhere.

    Parameters
    ----------
    predict
        Returns u, one value for each point, from the points; each value must depend on its own point alone.
    points
        Times and places, (..., 2).
    flux
        Returns F from u and u_x.

    Returns
    -------
    Tensor of shape (...)
        One residual for each point, through which gradients reach what `predict` depends on.

    Raises
    ------
    ValueError
        For points that aren't pairs, or values that aren't one for each point.

    Notes
    -----
    arXiv 2302.11002, the baseline SoftC; its weight of the penalty is 1. Derivatives are made by automatic
    differentiation.

    Examples
    --------
    >>> points = torch.tensor([[0.5, 0.2], [0.5, 0.4]])
    >>> law_residual(lambda p: p[..., 1] - 2 * p[..., 0], points, lambda u, u_x: 2 * u)  # u moves at speed 2
    tensor([0., 0.])
    """
    if points.shape[-1:] != (2,):
        raise ValueError(f"points has shape {tuple(points.shape)}; it takes (…, 2), of time and place")
    places = points.detach().requires_grad_()

    def derivatives(values: Tensor) -> tuple[Tensor, Tensor]:
        if values.shape != points.shape[:-1]:
            raise ValueError(
                f"predict or flux returns shape {tuple(values.shape)}; it takes {tuple(points.shape[:-1])}"
            )
        if not values.requires_grad:  # a constant
            return torch.zeros_like(values), torch.zeros_like(values)
        (found,) = torch.autograd.grad(values.sum(), places, create_graph=True, materialize_grads=True)
        return found[..., 0], found[..., 1]

    # The fused kernels of attention have no second derivatives.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        u = predict(places)
        u_t, u_x = derivatives(u)
        return u_t + derivatives(flux(u, u_x))[1]
