"""How far generated images are from real ones: Fréchet distance in features that are cheap and always the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from paperworks.core.cache import trained
from paperworks.core.validation import check_choice, check_count, check_finite
from paperworks.numerics.random import seeded
from paperworks.numerics.training import Progress, silent
from paperworks.testbeds.data import DATASETS, SIZES, Dataset, Images, Size, digits, fashion_mnist
from paperworks.testbeds.networks import Classifier
from paperworks.testbeds.training import fit

Features = Callable[[Tensor], Tensor]


def frechet_distance(x: Float[Tensor, "n features"], y: Float[Tensor, "m features"]) -> float:
    """Return the squared 2-Wasserstein distance of the normal distributions with the moments of two sets of features.

    ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^{1/2})``, the FID for Inception features (arXiv 1706.08500). It
    overestimates by about (features)^2 / n for n samples, so it compares sets of one size.

    Parameters
    ----------
    x, y
        Features in rows, two rows or more each.

    Returns
    -------
    float
        0 for equal moments.

    Raises
    ------
    ValueError
        Where a set has fewer than two samples, isn't finite, or the two have different features.

    Examples
    --------
    >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x, x + 2.0), 4)
    12.0
    """
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they take the same features, n >= 2")
    (mean_x, cov_x), (mean_y, cov_y) = (
        (f.mean(0), torch.atleast_2d(torch.cov(f.T)))
        for f in (check_finite("x", x).double(), check_finite("y", y).double())
    )
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp_min(0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def pseudo_values(statistic: Callable[..., float], *samples: Tensor, groups: int = 16) -> list[float]:
    """Return the jackknife's pseudo-values of a statistic: nearly independent, and their mean without its bias.

    They are ``g s - (g - 1) s_j``, where ``s_j`` is the statistic without the j-th of g groups of rows. That takes away
    the part of the bias that falls like 1/n, most of a Fréchet distance's, and their mean has a standard error where
    resampling with repetition would itself add to the distance. Source: B. Efron and R. Tibshirani, "An Introduction
    to the Bootstrap" (1993), chapter 11.

    Parameters
    ----------
    statistic
        Takes the samples and returns one number.
    samples
        Their rows belong together and are left out together; they are in random order.
    groups
        How many groups the rows are dealt into.

    Returns
    -------
    list of float
        One value for each group.

    Raises
    ------
    ValueError
        Where samples have different lengths, or fewer rows than groups.

    Examples
    --------
    >>> pseudo_values(lambda x: float(x.mean()), torch.tensor([1.0, 2.0, 6.0]), groups=3)
    [1.0, 2.0, 6.0]
    """
    lengths = {len(sample) for sample in samples}
    check_count("groups", groups, at_least=2)
    if len(lengths) != 1 or min(lengths) < groups:
        raise ValueError(f"samples have {sorted(lengths)} rows; they take one number of rows, at least {groups}")
    whole, group = statistic(*samples), torch.arange(lengths.pop()) % groups
    without = [statistic(*(sample[group != j] for sample in samples)) for j in range(groups)]
    return [groups * whole - (groups - 1) * part for part in without]


def block_means(values: Float[Tensor, " n"], at_most: int = 512) -> Float[Tensor, " blocks"]:
    """Return the means of blocks of values, one after another, which are fewer to resample and have the same mean.

    Parameters
    ----------
    values
        Independent values in a row.
    at_most
        How many blocks to make of them; with fewer values, each is a block.

    Returns
    -------
    Tensor
        One mean for each block; blocks differ by one value at most in length.

    Examples
    --------
    >>> block_means(torch.arange(6.0), at_most=3)
    tensor([0.5000, 2.5000, 4.5000])
    """
    return torch.stack([part.mean() for part in values.tensor_split(min(len(values), check_count("at_most", at_most)))])


@dataclass(frozen=True)
class PrincipalComponents:
    """Coordinates of images in the directions of greatest variance of a data set.

    Parameters
    ----------
    mean
        Mean image, of shape (pixels,).
    directions
        Orthonormal directions in columns, of shape (pixels, n).

    Examples
    --------
    >>> components = PrincipalComponents.of(digits(), 16)
    >>> components(digits()[:3]).shape
    torch.Size([3, 16])
    """

    mean: Float[Tensor, " pixels"]
    directions: Float[Tensor, "pixels n"]

    @classmethod
    def of(cls, images: Images, n: int = 64) -> "PrincipalComponents":
        """Find the first `n` components of a set of images.

        Parameters
        ----------
        images
            The data set.
        n
            Number of components, at most that of the pixels.

        Returns
        -------
        PrincipalComponents
            Mean and directions, that of greatest variance first.
        """
        check_count("n", n, at_most=(pixels := images.pixels[0].numel()))
        total, products = torch.zeros(pixels, dtype=torch.float64), torch.zeros(pixels, pixels, dtype=torch.float64)
        for start in range(0, len(images), 5000):
            rows = images[start : start + 5000].flatten(1)
            total += rows.sum(0)
            products += rows.T @ rows
        mean = total / len(images)
        covariance = products / len(images) - torch.outer(mean, mean)
        vectors = torch.linalg.eigh(covariance).eigenvectors
        return cls(mean.float(), vectors[:, -n:].flip(1).float())

    def __call__(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch n"]:
        """Return the coordinates of images."""
        return (images.flatten(1).to(self.mean) - self.mean) @ self.directions


def trained_classifier(
    dataset: Dataset = "fashion-mnist",
    *,
    size: Size = "desk",
    random_state: int = 0,
    root: Path | None = None,
    progress: Progress = silent,
) -> Classifier:
    """Return a trained and frozen classifier, from the cache or else training it now, in well under a minute.

    Its `features` are an alternative to principal components, and it tells which class a generated image shows. Of
    the digits it learns from the first 1500; the other 297 are for testing it.

    Parameters
    ----------
    dataset, size, random_state, root, progress
        As in `trained_denoiser`.

    Returns
    -------
    Classifier
        Frozen, in evaluation mode.

    Raises
    ------
    DatasetMissing
        Where the images aren't on this machine.

    Examples
    --------
    >>> network = trained_classifier("digits", size="smoke")
    >>> network(digits()[:3]).shape
    torch.Size([3, 10])
    """
    check_choice("dataset", dataset, DATASETS)
    check_choice("size", size, SIZES)
    if dataset == "digits":
        images, steps = Images(digits().pixels[:1500], digits().labels[:1500], digits().white), 400
    else:
        images, steps = fashion_mnist("train" if size == "desk" else "test"), 600
    steps = steps if size == "desk" else 10
    with seeded(random_state):
        network = Classifier(images.shape[-1], images.classes)

    train = partial(_train, images=images, steps=steps, random_state=random_state, progress=progress)
    inputs = {"steps": steps, "size": size, "seed": random_state}
    trained(f"classifier-{dataset}", network, train, inputs, root)
    return network


def _train(network: Classifier, images: Images, steps: int, random_state: int, progress: Progress) -> Classifier:
    return fit(network, _cross_entropy, images, steps=steps, random_state=random_state, progress=progress)


def _cross_entropy(network: Classifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return functional.cross_entropy(network(images), labels, label_smoothing=0.05)
