"""The way from a fine field to its interleaved coarse pieces, and back."""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from paperworks.core.validation import check_count

Fields = Shaped[Tensor, "batch channels *grid"]
Pieces = Shaped[Tensor, "batch pieces channels *coarse"]


def stagger_split(u: Fields, factors: int | Sequence[int]) -> Pieces:
    r"""Split fields into interleaved coarse pieces.

    Piece :math:`(i, j)` holds the points :math:`u[h s_1 + i, w s_2 + j]`: every piece has the coarse spacing, and its
    own offset.

    Parameters
    ----------
    u
        Fields of (batch, channels, *grid), with one to three axes of the grid.
    factors
        By what each axis is divided: one number for all axes, or one for each.

    Returns
    -------
    Tensor
        (batch, pieces, channels, *coarse), pieces in the order of their offsets, the last axis' running fastest.

    Raises
    ------
    ValueError
        For a grid that the factors don't divide, or another number of axes.

    References
    ----------
    Huang and others, arXiv:2302.10255, the spatial decomposition.

    Examples
    --------
    >>> import torch
    >>> stagger_split(torch.arange(6)[None, None], 2)[0, :, 0].tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    if not 3 <= u.ndim <= 5:
        raise ValueError(
            f"u has shape {tuple(u.shape)}; it takes (batch, channels, *grid), a grid of one to three axes"
        )
    parts = check_factors(factors, u.ndim - 2)
    check_divisible("u", u.shape[2:], parts)
    both = [n for side, s in zip(u.shape[2:], parts, strict=True) for n in (side // s, s)]
    coarse, offsets = range(2, 2 + len(both), 2), range(3, 3 + len(both), 2)
    return u.reshape(*u.shape[:2], *both).permute(0, *offsets, 1, *coarse).flatten(1, len(parts))


def stagger_merge(pieces: Pieces, factors: int | Sequence[int]) -> Fields:
    """Interleave coarse pieces to the fine field: the inverse of `stagger_split`.

    Parameters
    ----------
    pieces
        (batch, pieces, channels, *coarse), as `stagger_split` returns them.
    factors
        By what each axis is multiplied: one number for all axes, or one for each.

    Returns
    -------
    Tensor
        Fields of (batch, channels, *grid).

    Raises
    ------
    ValueError
        For a number of pieces that isn't the product of the factors, or another number of axes.

    References
    ----------
    Huang and others, arXiv:2302.10255, the reconstruction of the fine field.

    Examples
    --------
    >>> import torch
    >>> u = torch.randn(2, 3, 8, 6)
    >>> torch.equal(stagger_merge(stagger_split(u, (4, 2)), (4, 2)), u)
    True
    """
    if not 4 <= pieces.ndim <= 6:
        raise ValueError(f"pieces has shape {tuple(pieces.shape)}; it takes (batch, pieces, channels, *coarse)")
    parts = check_factors(factors, pieces.ndim - 3)
    if pieces.shape[1] != math.prod(parts):
        raise ValueError(f"pieces has {pieces.shape[1]} pieces; factors {parts} take {math.prod(parts)}")
    dims = len(parts)
    apart = pieces.unflatten(1, parts)
    order = [axis for a in range(dims) for axis in (2 + dims + a, 1 + a)]
    sides = [s * n for s, n in zip(parts, pieces.shape[3:], strict=True)]
    return apart.permute(0, 1 + dims, *order).reshape(len(pieces), pieces.shape[2], *sides)


def check_factors(factors: int | Sequence[int], dims: int | None = None) -> tuple[int, ...]:
    """Return one factor for each axis, or raise ValueError; without `dims` a sequence says how many axes there are."""
    parts = list(factors) if isinstance(factors, Iterable) else [factors] * (dims or 1)
    found = tuple(check_count("factors", s) for s in parts)
    if not 1 <= len(found) <= 3 or (dims is not None and len(found) != dims):
        takes = "one to three" if dims is None else str(dims)
        raise ValueError(f"factors has {len(found)} numbers; it takes {takes}, one for each axis of the grid")
    return found


def check_divisible(name: str, grid: Sequence[int], factors: tuple[int, ...]) -> None:
    """Raise ValueError where the factors don't divide a grid."""
    if any(n % s for n, s in zip(grid, factors, strict=True)):
        raise ValueError(f"{name} has a grid of {tuple(grid)}; it takes one that the factors {factors} divide")


def check_mask(mask: Tensor) -> Tensor:
    """Return a mask, or raise TypeError or ValueError where it isn't a tensor of 0 and 1 with a 1 in it."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask is {type(mask).__name__}; it takes a tensor")
    if not ((mask == 0) | (mask == 1)).all() or not torch.any(mask == 1):
        raise ValueError("mask takes 1 in the domain and 0 in obstacles, and a domain that isn't empty")
    return mask
