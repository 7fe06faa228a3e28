"""Mixtures of two images and of their labels, on which ImageNet classifiers are fine-tuned."""

import math

import torch
from jaxtyping import Float, Int64
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_count, check_number


def mix_images(
    x: Float[Tensor, "batch channels height width"],
    labels: Int64[Tensor, " batch"],
    num_classes: int,
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """Mix each image of a batch with its partner from the other end: overlaid, or with a rectangle of it pasted in.

    Either happens to the whole batch with probability one half, and the share of an image is drawn from a symmetric
    beta distribution.

    Parameters
    ----------
    x, labels
        Images and their classes.
    num_classes
        Number of classes.
    mixup, cutmix
        Parameter of the beta distribution of overlaid images (arXiv 1710.09412) and of pasted rectangles (arXiv
        1905.04899). Defaults 0.8 and 1, of the paper for ImageNet.
    label_smoothing
        Share of each label that is spread over all classes. The paper takes 0.1 at sigma 0.25.
    generator
        Source of the draws, on the processor.

    Returns
    -------
    tuple[Tensor, Tensor]
        Images, and shares of classes for `finetune_step`.

    Raises
    ------
    ValueError
        For a parameter not above 0, a smoothing outside [0, 1), or labels that aren't one for each image.

    Examples
    --------
    >>> mixed, shares = mix_images(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), num_classes=3)
    >>> mixed.shape, shares.sum(1).allclose(torch.ones(4))
    (torch.Size([4, 3, 8, 8]), True)
    """
    check_number("mixup", mixup, gt=0)
    check_number("cutmix", cutmix, gt=0)
    check_number("label_smoothing", label_smoothing, ge=0, lt=1)
    check_count("num_classes", num_classes, at_least=2)
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels has shape {tuple(labels.shape)}; it takes one for each of the {len(x)} images")
    kind, quantile, down, across = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    alpha = mixup if kind < 0.5 else cutmix
    share = float(betaincinv(alpha, alpha, quantile))
    partners = x.flip(0)
    if kind < 0.5:
        mixed = share * x + (1 - share) * partners
    else:
        height, width = x.shape[2:]
        rows, columns = (
            _interval(math.sqrt(1 - share), centre, side) for centre, side in ((down, height), (across, width))
        )
        mixed = x.clone()
        mixed[:, :, rows, columns] = partners[:, :, rows, columns]
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    shares = functional.one_hot(labels, num_classes).to(x) * (1 - label_smoothing) + label_smoothing / num_classes
    return mixed, share * shares + (1 - share) * shares.flip(0)


def _interval(share: float, centre: float, side: int) -> slice:
    """Return a share of a side about a centre, cut off at the ends."""
    half, middle = int(share * side) // 2, int(centre * side)
    return slice(max(0, middle - half), min(side, middle + half))
