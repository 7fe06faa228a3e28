"""Garments pasted on textures: pictures whose object is known to the pixel, and classifiers of them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from scipy.ndimage import binary_fill_holes
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from paperworks.core.cache import trained
from paperworks.core.validation import check_choice, check_count
from paperworks.numerics.random import seeded
from paperworks.numerics.training import Progress, silent
from paperworks.testbeds.data import SIZES, Images, Size, fashion_mnist
from paperworks.testbeds.training import fit

SIDE = 56
_JITTER = 6  # of a garment's place about the middle, in pixels
_GREY = 0.449  # what is erased becomes: the mean of ImageNet's mean colour


@dataclass(frozen=True)
class PastedGarments(Images):
    """Garments pasted on textures, with what is garment and what lies behind it.

    Parameters
    ----------
    pixels
        Bytes of grey, of shape (n, 1, height, width).
    labels
        Class of each garment, of shape (n,).
    white
        The byte that stands for white.
    objects
        Which places are garment, of shape (n, 1, height, width).
    behind
        The pictures without the garment, of shape (n, 1, height, width).

    Examples
    --------
    >>> garments = pasted_garments("test", n=8)  # doctest: +SKIP
    >>> garments[:2].shape, garments.objects[:2].dtype  # doctest: +SKIP
    (torch.Size([2, 1, 56, 56]), torch.bool)
    """

    objects: Bool[Tensor, "n 1 height width"]
    behind: UInt8[Tensor, "n 1 height width"]

    def __getitem__(self, index: slice | Int64[Tensor, " m"]) -> Float[Tensor, "m 1 height width"]:
        """Return some of the pictures, scaled to [0, 1]."""
        return self.pixels[index].float().div_(self.white)

    def backgrounds(self, index: slice | Int64[Tensor, " m"]) -> Float[Tensor, "m 1 height width"]:
        """Return the same pictures without their garments, scaled to [0, 1].

        Parameters
        ----------
        index
            Which of the pictures: a slice, or numbers.

        Returns
        -------
        Tensor
            Pictures, (m, 1, height, width).
        """
        return self.behind[index].float().div_(self.white)


@functools.cache
def pasted_garments(split: Literal["train", "test"] = "test", n: int = 2000, random_state: int = 0) -> PastedGarments:
    """Paste the first `n` garments of Fashion-MNIST near the middle of textures of 56x56 pixels.

    A garment is what isn't black, with its holes filled. The texture is smooth noise of four scales whose brightness
    and contrast vary, and tells nothing of the class.

    Parameters
    ----------
    split
        Garments of the ``train`` or of the ``test`` images.
    n
        How many.
    random_state
        Seed of places and textures.

    Returns
    -------
    PastedGarments
        Pictures with labels, masks of the garments, and textures alone.

    Raises
    ------
    DatasetMissing
        Where Fashion-MNIST isn't on this machine.
    ValueError
        For an unknown split, or more garments than there are.

    Examples
    --------
    >>> garments = pasted_garments("test", n=4)  # doctest: +SKIP
    >>> hidden = garments[:] * ~garments.objects  # doctest: +SKIP
    """
    images = fashion_mnist(split)
    check_count("n", n, at_most=len(images))
    generator = torch.Generator().manual_seed(random_state)
    small = images.pixels[:n]
    shape = torch.from_numpy(_filled(small[:, 0].numpy() > 10))[:, None]
    offset = (SIDE - small.shape[2]) // 2 + torch.randint(-_JITTER, _JITTER + 1, (n, 2), generator=generator)
    garment, objects = _placed(small, offset), _placed(shape, offset)
    behind = _textures(n, generator)
    pixels = torch.where(objects, garment, behind)
    return PastedGarments(pixels, images.labels[:n], 255, objects, behind)


def _filled(shapes: Bool[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n h w"]:
    padded = np.pad(shapes, ((0, 0), (1, 1), (1, 1)))
    within = np.zeros((3, 3, 3), dtype=bool)
    within[1, 1, :] = within[1, :, 1] = True  # holes are filled image by image
    return binary_fill_holes(padded, within)[:, 1:-1, 1:-1]


def _placed(small: Tensor, offset: Int64[Tensor, "n 2"]) -> Tensor:
    """Lay small pictures at given places of empty canvases."""
    n, side = len(small), small.shape[2]
    places = offset[:, :, None] + torch.arange(side)
    canvas = small.new_zeros(n, 1, SIDE, SIDE)
    canvas[torch.arange(n)[:, None, None], 0, places[:, 0, :, None], places[:, 1, None, :]] = small[:, 0]
    return canvas


def _textures(n: int, generator: torch.Generator) -> UInt8[Tensor, "n 1 side side"]:
    noise = torch.zeros(n, 1, SIDE, SIDE)
    for cells in (4, 8, 16, 28):
        coarse = torch.randn(n, 1, cells, cells, generator=generator)
        noise += functional.interpolate(coarse, SIDE, mode="bicubic") / 2
    brightness, contrast = torch.rand(2, n, 1, 1, 1, generator=generator)
    return (255 * (0.25 + 0.5 * brightness + (0.05 + 0.2 * contrast) * noise)).clamp(0, 255).round().to(torch.uint8)


class SmallResNet(nn.Module):
    """A residual network with batch norm and a global mean, of three stages that each halve the resolution.

    Parameters
    ----------
    classes
        Number of classes.
    widths
        Channels of the stages.

    Examples
    --------
    >>> network = SmallResNet(classes=10, widths=(8, 16)).eval()
    >>> network(torch.zeros(2, 1, 56, 56)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(_Residual(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip(inputs, widths, strict=True)))
        )
        self.out = nn.Linear(widths[-1], classes)

    def features(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch features"]:
        """Return the means over places of the last stage.

        Parameters
        ----------
        x
            Pictures in [0, 1], (batch, 1, height, width).

        Returns
        -------
        Tensor
            One row of features for each picture.
        """
        return self.stages(self.first((x - 0.5) / 0.25)).mean((2, 3))

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of pictures in [0, 1].

        Parameters
        ----------
        x
            Pictures in [0, 1], (batch, 1, height, width).

        Returns
        -------
        Tensor
            Logits, (batch, classes).
        """
        return self.out(self.features(x))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if (inputs, stride) != (outputs, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm_1(self.conv_1(x)))
        return functional.relu(self.norm_2(self.conv_2(h)) + self.shortcut(x))


def trained_garment_classifier(
    *,
    erasing: bool = False,
    size: Size = "desk",
    random_state: int = 0,
    root: Path | None = None,
    progress: Progress = silent,
) -> SmallResNet:
    """Return a trained and frozen classifier of pasted garments, from the cache or else training it now, in a minute.

    Parameters
    ----------
    erasing
        Whether a grey rectangle hides a random part of three in four training pictures (random erasing, arXiv
        1708.04896, with its areas of 2 to 33 % and ratios of 0.3 to 3.3).
    size, random_state, root, progress
        As in `trained_denoiser`.

    Returns
    -------
    SmallResNet
        Frozen, in evaluation mode.

    Raises
    ------
    DatasetMissing
        Where Fashion-MNIST isn't on this machine.

    Examples
    --------
    >>> network = trained_garment_classifier(size="smoke")  # doctest: +SKIP
    >>> network(pasted_garments("test", n=3)[:]).shape  # doctest: +SKIP
    torch.Size([3, 10])
    """
    check_choice("size", size, SIZES)
    steps, n, split = (500, 30_000, "train") if size == "desk" else (10, 500, "test")
    widths = (16, 32, 64) if size == "desk" else (8, 16)
    with seeded(random_state):
        network = SmallResNet(widths=widths).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def shown(images: Tensor, generator: torch.Generator) -> Tensor:
        return erased(images, generator) if erasing else images

    def loss(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return functional.cross_entropy(network(shown(images, generator)), labels)

    def train(network: nn.Module) -> nn.Module:
        garments = pasted_garments(split, n)
        average = fit(network, loss, garments, steps=steps, random_state=random_state, progress=progress)

        def batches() -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(random_state)
            for start in range(0, min(n, 4000), 500):
                yield shown(garments[start : start + 500], generator)

        update_bn(batches(), average)  # the average of weights has seen no data yet
        return average

    inputs = {"erasing": erasing, "size": size, "steps": steps, "n": n, "seed": random_state}
    trained("garment-classifier", network, train, inputs, root)
    return network


def erased(
    images: Float[Tensor, "batch 1 height width"], generator: torch.Generator
) -> Float[Tensor, "batch 1 height width"]:
    """Return pictures of which three in four have a grey rectangle somewhere (random erasing, arXiv 1708.04896).

    Parameters
    ----------
    images
        From -1 to 1.
    generator
        Draws which, where, how large and of which proportions.

    Returns
    -------
    Tensor
        As many pictures, new ones.

    Examples
    --------
    >>> erased(torch.ones(4, 1, 28, 28), torch.Generator().manual_seed(0)).amin() < 1
    tensor(True)
    """
    n, height, width = len(images), *images.shape[2:]
    area, ratio, down, right, chance = torch.rand(5, n, 1, generator=generator)
    area, ratio = (0.02 + 0.31 * area) * height * width, torch.exp((2 * ratio - 1) * np.log(1 / 0.3))
    h, w = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top, left = down * (height - h), right * (width - w)
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    vertical, horizontal = (rows > top) & (rows < top + h), (columns > left) & (columns < left + w)
    hole = (vertical[:, :, None] & horizontal[:, None, :] & (chance < 0.75)[:, :, None])[:, None]
    return torch.where(hole, _GREY, images)
