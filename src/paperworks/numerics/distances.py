"""Distances between two samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_finite


def energy_distance(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> float:
    """Return the energy distance of two distributions, from samples of them.

    It is ``2 E|a - b| - E|a - a'| - E|b - b'|`` over different points, without bias, so it may be slightly negative.

    Parameters
    ----------
    a, b
        Two points or more each, in the same space; computed in double precision.

    Returns
    -------
    float
        The estimated distance, in the unit of the samples.

    Raises
    ------
    ValueError
        For fewer than two points, other shapes, or NaN or infinity among them.

    References
    ----------
    Székely and Rizzo, Energy statistics (2013).

    Examples
    --------
    >>> energy_distance(torch.zeros(2, 1), torch.ones(2, 1))
    2.0
    """
    for name, x in (("a", a), ("b", b)):
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it takes (n, dim) with n of at least 2")
        check_finite(name, x)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has {a.shape[1]} columns and b {b.shape[1]}; they take equally many")
    a, b = a.double(), b.double()
    within = [torch.cdist(c, c).sum() / (len(c) * (len(c) - 1)) for c in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - within[0] - within[1])
