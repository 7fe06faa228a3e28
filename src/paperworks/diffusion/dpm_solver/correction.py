"""Corrections of the predicted data before a sampler uses them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number


def dynamic_thresholding(
    x0: Float[Tensor, " batch *shape"], ratio: float = 0.995, c_max: float = 1.0, bound_max: float = math.inf
) -> Float[Tensor, " batch *shape"]:
    """Clamp each sample to the quantile `ratio` of its magnitudes, at least `c_max`, and scale it back to 1.

    It keeps strong guidance from saturating pixels, and means nothing in a latent space
    (arXiv 2205.11487, section 2.3; the defaults are those of DPM-Solver++).

    Parameters
    ----------
    x0
        Predictions of clean data, of shape (batch, ...).
    ratio
        Quantile of the magnitudes, 0 to 1.
    c_max
        Least bound to clamp at.
    bound_max
        Greatest bound to clamp at.

    Returns
    -------
    Tensor of shape (batch, ...)
        Data within [-1, 1], of the shape of `x0`.

    Raises
    ------
    ValueError
        Unless ``0 < ratio <= 1`` and ``0 < c_max <= bound_max``.

    Examples
    --------
    >>> dynamic_thresholding(torch.tensor([[0.5, -1.0], [4.0, -2.0]]), ratio=1.0)
    tensor([[ 0.5000, -1.0000],
            [ 1.0000, -0.5000]])
    """
    check_number("ratio", ratio, gt=0, le=1)
    check_number("c_max", c_max, gt=0)
    if not bound_max >= c_max:
        raise ValueError(f"bound_max is {bound_max!r}; it takes {c_max!r} (c_max) or more")
    magnitudes = x0.abs().flatten(1)
    position = ratio * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    # The few largest are enough, and are found much faster than all are sorted.
    top = magnitudes.topk(magnitudes.shape[1] - below).values
    low, high = top[:, -1], top[:, -2] if top.shape[1] > 1 else top[:, -1]
    bound = torch.lerp(low, high, position - below).clamp(c_max, bound_max)
    bound = bound.reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-bound, bound) / bound
