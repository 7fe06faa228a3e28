"""What every noise-conditioned encoder of rRCM shares: how it is told the noise level, its feature, its projection."""

import itertools
import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_count, check_number

Level = float | Float[Tensor, ""] | Float[Tensor, " batch"]


class NoiseConditionedEncoder(nn.Module, ABC):
    """A network that represents images at any noise level: a feature, and a projection of it that is contrasted.

    A subclass defines `encode` and `stages`. Images have pixels from -1 to 1 and then noise of level `t`.

    Parameters
    ----------
    width
        Size of the feature.
    hidden, out
        Sizes of the hidden layers of the projector, and of the projection.
    sigma_data
        Standard deviation of the data, which the scale of the input takes into account. Default 0.5, of the paper.
    """

    def __init__(self, width: int, hidden: int, out: int, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.sigma_data = check_number("sigma_data", sigma_data, gt=0)
        self.norm = nn.LayerNorm(width)
        self.projector = projector(width, hidden, out)

    @abstractmethod
    def encode(
        self, x: Float[Tensor, "batch channels height width"], embedding: Float[Tensor, "levels features"]
    ) -> Float[Tensor, "batch features"]:
        """Return features before the last normalisation, of scaled images and one embedded level or one for each.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        embedding
            Embedded noise levels: one row for all images, or one for each.

        Returns
        -------
        Tensor of shape (batch, features)
            Features before the last normalisation, one row for each image.
        """

    @abstractmethod
    def stages(self) -> list[list[nn.Parameter]]:
        """Return the parameters of its parts in order of depth, for rates of learning that differ.

        Returns
        -------
        list[list[nn.Parameter]]
            One list of parameters for each part, the first layer's first.
        """

    def raw_features(
        self, x: Float[Tensor, "batch channels height width"], t: Level
    ) -> Float[Tensor, "batch features"]:
        """Return features before the last normalisation.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        t
            Noise level, one number or one for each image.

        Returns
        -------
        Tensor of shape (batch, features)
            Features before the last normalisation, one row for each image.
        """
        level = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)
        if len(level) not in (1, len(x)) or not (level > 0).all():
            raise ValueError(f"t is {t!r}; it takes a noise level above 0, or one for each of the {len(x)} images")
        scale = torch.rsqrt(level.square() + self.sigma_data**2)
        return self.encode(x * scale[:, None, None, None], sinusoidal_embedding(level, self.width))

    def features(self, x: Float[Tensor, "batch channels height width"], t: Level) -> Float[Tensor, "batch features"]:
        """Return the normalised features of images at noise level `t`.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        Tensor of shape (batch, features)
            Normalised features, one row for each image.
        """
        return self.norm(self.raw_features(x, t))

    def forward(
        self, x: Float[Tensor, "batch channels height width"], t: Level
    ) -> tuple[Float[Tensor, "batch out"], Float[Tensor, "batch features"]]:
        """Return projection and feature of images at noise level `t`, one number or one for each image.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).

        Returns
        -------
        tuple[Tensor of shape (batch, out), Tensor of shape (batch, features)]
            Projections, of shape (batch, out), and features, of shape (batch, features).
        """
        feature = self.features(x, t)
        return self.projector(feature), feature


def projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """Make a perceptron of three layers without biases, with batch normalisation between them."""
    sizes = [check_count("width", width), check_count("hidden", hidden), hidden, check_count("out", out)]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(hidden, out, bias=False))


def sinusoidal_embedding(t: Float[Tensor, " levels"], width: int) -> Float[Tensor, "levels features"]:
    """Embed noise levels by cosines and sines of ``250 log t``, with wavelengths from ``2 pi`` to ``20000 pi``."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float64, device=t.device))
    angles = 250 * t.double().log()[:, None] * frequencies
    return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, width % 2)).to(t)
