"""Superpixels: the parts of an image that explanations speak of."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_count

Segmenter = Callable[[np.ndarray], np.ndarray]
"""From an image (height, width, channels) to the number of each pixel's segment, as LIME takes it."""


def grid_segments(height: int, width: int, side: int = 16) -> Int64[Tensor, "height width"]:
    """Number the squares of a grid, row by row.

    Parameters
    ----------
    height, width
        Sides of the image, in pixels.
    side
        Side of a square; those at the right and the bottom may be cut.

    Returns
    -------
    Tensor of shape (height, width)
        Number of the square at each place, from 0.

    Raises
    ------
    ValueError
        For a size below 1.

    Examples
    --------
    >>> grid_segments(2, 4, side=2)
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]])
    """
    check_count("side", side)
    rows, columns = (torch.arange(check_count(n, v)) // side for n, v in (("height", height), ("width", width)))
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def grid_segmenter(side: int = 16) -> Segmenter:
    """Return a segmenter into squares.

    Parameters
    ----------
    side
        Side of the squares, in pixels.

    Returns
    -------
    Segmenter
        Maps an image (height, width, channels) to the numbers of its segments.

    Examples
    --------
    >>> grid_segmenter(side=8)(np.zeros((8, 16, 3)))[0, [0, 15]]
    array([0, 1])
    """
    check_count("side", side)
    return lambda image: grid_segments(image.shape[0], image.shape[1], side).numpy()


def slic_segmenter(n_segments: int = 250) -> Segmenter:
    """Return scikit-image's SLIC as a segmenter; it makes about as many segments as asked for.

    Parameters
    ----------
    n_segments
        How many segments to make, about.

    Returns
    -------
    Segmenter
        Maps an image (height, width, channels) to the numbers of its segments.

    Raises
    ------
    ImportError
        Where scikit-image isn't installed.

    Examples
    --------
    >>> slic_segmenter(n_segments=50)(np.zeros((64, 64, 3))).shape  # doctest: +SKIP
    (64, 64)
    """
    from skimage.segmentation import slic

    check_count("n_segments", n_segments)
    return lambda image: slic(image, n_segments=n_segments, start_label=0)


def quickshift_segmenter(
    kernel_size: float = 2, max_dist: float = 200, ratio: float = 0.2, random_state: int = 0
) -> Segmenter:
    """Return scikit-image's quickshift as a segmenter, by default with the paper's settings; LIME's kernel is 4.

    Parameters
    ----------
    kernel_size
        Width of the kernel that smooths the density.
    max_dist
        Greatest distance in the tree; larger gives fewer segments.
    ratio
        Weight of colour against distance in space.
    random_state
        Seed of the random numbers.

    Returns
    -------
    Segmenter
        Maps an image (height, width, channels) to the numbers of its segments.

    Raises
    ------
    ImportError
        Where scikit-image isn't installed.

    Examples
    --------
    >>> quickshift_segmenter()(np.zeros((16, 16, 3))).shape  # doctest: +SKIP
    (16, 16)
    """
    from skimage.segmentation import quickshift

    return lambda image: quickshift(image, kernel_size=kernel_size, max_dist=max_dist, ratio=ratio, rng=random_state)


def keep_segments(
    segments: Int64[Tensor, "batch height width"], kept: Bool[Tensor, "batch segments"]
) -> Bool[Tensor, "batch 1 height width"]:
    """Turn a choice of segments into a mask, by one gather.

    Parameters
    ----------
    kept
        Which segments are kept, of shape (batch, segments).

    Returns
    -------
    Tensor of shape (batch, 1, height, width)
        True at each place that is kept.

    Examples
    --------
    >>> keep_segments(torch.tensor([[[0, 1]]]), torch.tensor([[True, False]]))
    tensor([[[[ True, False]]]])
    """
    return kept.gather(1, segments.flatten(1)).view(segments.shape)[:, None]


def segment_sums(
    values: Float[Tensor, "batch height width"], segments: Int64[Tensor, "batch height width"], n: int
) -> Float[Tensor, "batch n"]:
    """Sum a map over each segment.

    Examples
    --------
    >>> segment_sums(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[0, 1, 1]]]), 2)
    tensor([[1., 6.]])
    """
    return values.new_zeros(len(values), n).scatter_add_(1, segments.flatten(1), values.flatten(1))
