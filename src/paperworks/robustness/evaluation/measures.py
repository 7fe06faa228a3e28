"""How far images moved, and in how many directions."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def ssim(
    a: Float[Tensor, "batch channels height width"],
    b: Float[Tensor, "batch channels height width"],
    data_range: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Return the structural similarity of pairs of images, with Gaussian windows of 11 pixels and deviation 1.5.

    The mean over windows that lie inside the image, and over channels; images narrower than a window have one of their
    own size.

    Parameters
    ----------
    a, b
        Images of shape (batch, channels, height, width).
    data_range
        Difference of the greatest and the least value that pixels may have.

    Returns
    -------
    Tensor of shape (batch,)
        One similarity for each pair, at most 1.

    Notes
    -----
    Wang and others, "Image quality assessment: from error visibility to structural similarity" (2004), with its
    constants 0.01 and 0.03.

    Examples
    --------
    >>> images = torch.rand(2, 3, 16, 16)
    >>> ssim(images, images)
    tensor([1., 1.])
    """
    channels, height, width = a.shape[1:]
    down, across = (_line(min(11, side)).to(a) for side in (height, width))

    def mean(x: Tensor) -> Tensor:
        rows = functional.conv2d(x, down.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
        return functional.conv2d(rows, across.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (light * (2 * shared + c2) / (var_a + var_b + c2)).mean((1, 2, 3))


def _line(side: int) -> Tensor:
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = torch.exp(-0.5 * (places / 1.5) ** 2)
    return line / line.sum()


def diversity(changes: Float[Tensor, " n *features"]) -> float:
    """Return the mean cosine between changes of different images: 1 where all are alike; changes of zero don't count.

    NaN for fewer than two.

    Returns
    -------
    float
        The mean cosine, -1 to 1; NaN for fewer than two changes.

    Examples
    --------
    >>> diversity(torch.eye(3)), diversity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]))
    (0.0, 1.0)
    """
    rows = changes.flatten(1).double()
    norms = rows.norm(dim=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    n = len(rows)
    # The sum over all pairs is the square of the sum, in which each is a pair with itself.
    return float((rows.sum(0).square().sum() - n) / (n * (n - 1))) if n > 1 else float("nan")
