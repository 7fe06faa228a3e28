"""Windows of a grid of tokens, the pairs that shifted windows part, and the places of tokens relative to each other."""

import math
from functools import cache

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

Pair = tuple[int, int]  # rows and columns


def partition(x: Shaped[Tensor, "b h w d"], window: Pair) -> Shaped[Tensor, "b n t d"]:
    """Cut grids into windows, row by row, whose tokens are in turn row by row.

    Parameters
    ----------
    x
        Grids whose height and width are multiples of the window's.
    window
        Rows and columns of a window.

    Returns
    -------
    Tensor
        Windows of each grid, tokens of each window.
    """
    b, h, w, d = x.shape
    cut = x.view(b, h // window[0], window[0], w // window[1], window[1], d)
    count = h * w // (window[0] * window[1])
    return cut.transpose(2, 3).reshape(b, count, window[0] * window[1], d)


def reverse(windows: Shaped[Tensor, "b n t d"], window: Pair, grid: Pair) -> Shaped[Tensor, "b h w d"]:
    """Put windows together again, as `partition` cut them.

    Parameters
    ----------
    windows
        What `partition` gave.
    window
        Rows and columns of a window.
    grid
        Rows and columns of the whole.

    Returns
    -------
    Tensor
        The grids.
    """
    b, d = len(windows), windows.shape[-1]
    cut = windows.view(b, grid[0] // window[0], grid[1] // window[1], *window, d)
    return cut.transpose(2, 3).reshape(b, *grid, d)


@cache
def parted(grid: Pair, window: Pair, shift: Pair) -> Bool[Tensor, "n t t"]:
    """Say of all pairs of tokens in each window of a rolled grid whether the seam of the roll lies between them.

    Parameters
    ----------
    grid
        Rows and columns.
    window
        Rows and columns of a window.
    shift
        By how much the grid was rolled up and to the left.

    Returns
    -------
    Tensor
        True for pairs that aren't neighbours but for the roll.
    """
    # After the roll the last `shift` rows are the first ones of the grid: whether a token is one of them, and likewise
    # for columns, is the number of its part. Windows but for the last ones hold one part alone.
    rows, columns = (torch.arange(n) >= n - s for n, s in zip(grid, shift, strict=True))
    part = (2 * rows[:, None] + columns).view(1, *grid, 1)
    numbers = partition(part, window)[0, :, :, 0]
    return numbers[:, :, None] != numbers[:, None, :]


@cache
def relative_places(window: Pair) -> tuple[Float[Tensor, "p 2"], Int64[Tensor, "t t"]]:
    """Return all places of one token relative to another in a window, on a logarithmic scale, and which one a pair has.

    Parameters
    ----------
    window
        Rows and columns.

    Returns
    -------
    tuple of Tensor
        Of each place the rows and columns between, from -1.06 to 1.06 (Swin v2, arXiv 2111.09883, Eq. 4, with ends at
        8), and for each pair the number of its place.
    """
    steps = [torch.arange(1 - n, n, dtype=torch.float64) * (8 / max(n - 1, 1)) for n in window]
    places = torch.cartesian_prod(*steps)
    places = places.sign() * (1 + places.abs()).log2() / math.log2(8)
    rows, columns = (t.flatten() for t in torch.meshgrid(*map(torch.arange, window), indexing="ij"))
    row, column = (t[:, None] - t[None, :] + n - 1 for t, n in zip((rows, columns), window, strict=True))
    return places, row * (2 * window[1] - 1) + column
