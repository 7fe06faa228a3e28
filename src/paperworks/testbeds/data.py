"""Loaders of real data that are already on the machine: nothing here downloads."""

import functools
import gzip
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from paperworks.core.validation import check_choice

Dataset = Literal["fashion-mnist", "digits"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
Size = Literal["smoke", "desk"]  # of what is trained: in a second, to try code; in minutes, to measure
SIZES: tuple[Size, ...] = get_args(Size)


class DatasetMissing(RuntimeError):
    """A data set isn't on this machine; the message says what to install and where it was looked for."""


@dataclass(frozen=True)
class Images:
    """Grey images with their classes, kept as bytes until they are used.

    Parameters
    ----------
    pixels
        Bytes of grey, of shape (n, 1, height, width).
    labels
        Class of each image, of shape (n,).
    white
        The byte that stands for white.

    Examples
    --------
    >>> digits()[:5].shape, digits().classes
    (torch.Size([5, 1, 8, 8]), 10)
    """

    pixels: UInt8[Tensor, "n 1 height width"]
    labels: Int64[Tensor, " n"]
    white: int  # the byte that is white

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Int64[Tensor, " m"]) -> Float[Tensor, "m 1 height width"]:
        """Return some of the images, scaled to [-1, 1]."""
        return self.pixels[index].float().mul_(2 / self.white).sub_(1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self.pixels.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


@functools.cache
def digits() -> Images:
    """Load scikit-learn's 1797 handwritten digits of 8x8 pixels.

    Examples
    --------
    >>> len(digits())
    1797
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    return Images(pixels, torch.from_numpy(bunch.target).long(), white=16)


@functools.cache
def fashion_mnist(split: Literal["train", "test"] = "train") -> Images:
    """Load Fashion-MNIST: 60 000 training or 10 000 test images of 28x28 pixels in ten classes.

    The files are those of the Debian package `dataset-fashion-mnist`; a folder `fashion-mnist` with the same files in
    `$PAPERWORKS_DATA` goes first.

    Raises
    ------
    DatasetMissing
        Where no such folder is found, or a file in it isn't whole.
    ValueError
        For an unknown split.

    Examples
    --------
    >>> fashion_mnist("test")[:2].shape  # doctest: +SKIP
    torch.Size([2, 1, 28, 28])
    """
    check_choice("split", split, ("train", "test"))
    prefix = {"train": "train", "test": "t10k"}[split]
    pixels = _read_idx(_find("fashion-mnist", f"{prefix}-images-idx3-ubyte.gz"))
    labels = _read_idx(_find("fashion-mnist", f"{prefix}-labels-idx1-ubyte.gz"))
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long(), white=255)


_PACKAGES = {"fashion-mnist": "dataset-fashion-mnist"}
_SYSTEM = Path("/usr/share/datasets")  # where Debian puts data sets


def _find(folder: str, name: str) -> Path:
    own = os.environ.get("PAPERWORKS_DATA")
    places = ([Path(own)] if own else []) + [_SYSTEM]
    for place in places:
        if (path := place / folder / name).is_file():
            return path
    looked = " or ".join(str(place / folder) for place in places)
    raise DatasetMissing(
        f"{name} is not in {looked}; `make data` or `apt install {_PACKAGES[folder]}` brings it, "
        "or put the files elsewhere and set PAPERWORKS_DATA to the folder above"
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in the IDX format: two zeros, the type, the number of axes, their lengths, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, offset=4)
        if zeros or kind != 0x08:
            raise ValueError(f"starts with {content[:4]!r}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DatasetMissing(f"{path} is not a whole IDX file of bytes ({error}); install it again") from None
