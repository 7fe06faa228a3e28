"""The mu law, by which quiet samples get more of a range."""

import math

from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number


def mu_compress(y: Float[Tensor, "*shape"], mu: float = 32.0) -> Float[Tensor, "*shape"]:
    """Compress samples by ``sgn(y) ln(1 + mu |y|) / ln(1 + mu)``.

    Parameters
    ----------
    y
        Samples, usually from -1 to 1, which are kept.
    mu
        How much more range quiet samples get; 32 by default, the paper's.

    Returns
    -------
    Tensor
        Compressed samples, of the shape and type of `y`.

    Raises
    ------
    ValueError
        For `mu` that isn't positive.

    Examples
    --------
    >>> import torch
    >>> [round(v, 3) for v in mu_compress(torch.tensor([0.0, 0.1, -1.0]), mu=32).tolist()]
    [0.0, 0.41, -1.0]
    """
    return y.sign() * (check_number("mu", mu, gt=0) * y.abs()).log1p() / math.log1p(mu)


def mu_expand(z: Float[Tensor, "*shape"], mu: float = 32.0) -> Float[Tensor, "*shape"]:
    """Undo `mu_compress`.

    Parameters
    ----------
    z
        Compressed samples, usually from -1 to 1.
    mu
        As it was for compression; 32 by default, the paper's.

    Returns
    -------
    Tensor
        Samples, of the shape and type of `z`.

    Raises
    ------
    ValueError
        For `mu` that isn't positive.

    Examples
    --------
    >>> import torch
    >>> mu_expand(mu_compress(torch.tensor([0.25, -0.5]))).round(decimals=4).tolist()
    [0.25, -0.5]
    """
    return z.sign() * (z.abs() * math.log1p(check_number("mu", mu, gt=0))).expm1() / mu
