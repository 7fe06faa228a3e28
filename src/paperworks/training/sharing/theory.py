"""How well m numbers keep inner products of vectors of n, and how much a compressed linear model can explain."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.training.sharing.maps import ShareMap

Compression = Literal["hashing", "randomfold", "pruning"]


def inner_product_variance(x: Float[Tensor, " n"], y: Float[Tensor, " n"], m: int, method: Compression) -> float:
    r"""Return the variance of the inner product of two vectors, estimated from m numbers of each without bias.

    With z = x y,

    * ``hashing``, independent entries and signs: ``(|x|^2 |y|^2 + <x, y>^2 - 2 sum z_i^2) / m``;
    * ``randomfold``: the same sum over pairs from different partitions only, ``sum (x_i^2 y_j^2 + z_i z_j) / m``, never
      larger, and 0 for m >= n;
    * ``pruning``, m coordinates at random, rescaled by n / m: ``(n^2 / m) (1 - m / n) s^2`` with z's sample variance.

    Parameters
    ----------
    x, y
        The two vectors.
    m
        Numbers kept of each.
    method
        By what the vectors are compressed.

    Returns
    -------
    float
        The variance over random maps.

    Raises
    ------
    ValueError
        For vectors of different lengths or with NaN, m below 1, more numbers pruned to than there are, or an unknown
        method.
    TypeError
        For complex numbers.

    References
    ----------
    arXiv 2310.11611, the theorems on inner products; the constants are derived here.

    Examples
    --------
    >>> x = torch.tensor([3.0, 4.0, 0.0])
    >>> inner_product_variance(x, x, 3, "randomfold"), inner_product_variance(x, x, 3, "hashing")
    (0.0, 192.0)
    """
    check_choice("method", method, get_args(Compression))
    check_count("m", m)
    if x.is_complex() or y.is_complex():
        raise TypeError(f"x and y are {x.dtype} and {y.dtype}; they take real numbers")
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}; they take one length")
    x, y = check_finite("x", x).double(), check_finite("y", y).double()
    n, z = len(x), x * y
    if method == "pruning":
        check_count("m", m, at_most=n)
        return float(n**2 / m * (1 - m / n) * z.var()) if m < n else 0.0
    if method == "hashing":
        return float((x.square().sum() * y.square().sum() + z.sum() ** 2 - 2 * z.square().sum()) / m)
    a, b, c = (_by_partition(v, m) for v in (x.square(), y.square(), z))
    return max(0.0, float((a.sum() * b.sum() - a @ b + c.sum() ** 2 - c @ c) / m))


def _by_partition(v: Tensor, m: int) -> Tensor:
    return torch.zeros(-(-len(v) // m), dtype=v.dtype, device=v.device).index_add_(
        0, torch.arange(len(v), device=v.device) // m, v
    )


def sharing_matrix(
    share: ShareMap, scales: Sequence[float] | None = None, shapes: Sequence[Sequence[int]] | None = None
) -> Float[Tensor, "n m"]:
    """Return the matrix S of a map, with weights S times the array: one signed scale in each row.

    Parameters
    ----------
    share
        The map of weights.
    scales
        One for each tensor; 1 by default.
    shapes
        Sides of the tensors, in order; one vector of all weights by default.

    Returns
    -------
    Tensor
        n by m in float64, most of it 0.

    Raises
    ------
    ValueError
        For other numbers of scales and shapes, or shapes of another number of weights.

    Examples
    --------
    >>> S = sharing_matrix(ShareMap(6, 3))
    >>> S.abs().sum(1).tolist(), S.abs().sum(0).tolist()
    ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    """
    shapes = [(share.n,)] if shapes is None else shapes
    scales = [1.0] * len(shapes) if scales is None else scales
    sizes = [torch.Size(shape).numel() for shape in shapes]
    if len(scales) != len(shapes) or sum(sizes) != share.n:
        raise ValueError(f"shapes have {sum(sizes)} weights and {len(scales)} scales; they take {share.n} and one each")
    S, offset = torch.zeros(share.n, share.m, dtype=torch.float64), 0
    for shape, size, scale in zip(shapes, sizes, scales, strict=True):
        index, sign = share.index(offset, shape).flatten(), share.sign(offset, shape).flatten()
        S[torch.arange(offset, offset + size), index] = scale * sign.double()
        offset += size
    return S


def linear_capacity(
    S: Float[Tensor, "n m"], Sigma: Float[Tensor, "n n"], b: Float[Tensor, " n"], variance: float = 0.0
) -> float:
    r"""Return the least squared error of linear regression whose weights are S times m numbers.

    ``variance - b^T S (S^T Sigma S)^+ S^T b``, with `Sigma` the second moments E x x^T of inputs and ``b = E x y``.

    Parameters
    ----------
    S
        A sharing matrix, or columns of the identity for pruning.
    Sigma
        Second moments of the inputs, symmetric and positive semidefinite.
    b
        Mixed moments with the output.
    variance
        Second moment of the output, E y^2; with 0 minus what is explained is returned.

    Returns
    -------
    float
        The expected squared error of the best such model.

    Raises
    ------
    ValueError
        For shapes that don't fit together, NaN, or a negative variance.

    References
    ----------
    arXiv 2310.11611, the section on linear models.

    Examples
    --------
    >>> eye = torch.eye(3)
    >>> linear_capacity(eye[:, :2], eye, torch.tensor([2.0, 1.0, 1.0]), 7.0)  # the third weight is pruned
    2.0
    """
    n = b.numel()
    if b.ndim != 1 or S.ndim != 2 or len(S) != n or Sigma.shape != (n, n):
        shapes = [tuple(t.shape) for t in (S, Sigma, b)]
        raise ValueError(f"S, Sigma and b have shapes {shapes}; they take (n, m), (n, n) and (n,)")
    check_number("variance", variance, ge=0)
    S, Sigma, b = (check_finite(name, t).double() for name, t in (("S", S), ("Sigma", Sigma), ("b", b)))
    seen = S.T @ b
    explained = seen @ torch.linalg.pinv(S.T @ Sigma @ S, hermitian=True) @ seen
    return float(variance - explained)
