"""Small networks for images of a few hundred pixels: a U-Net that predicts, and a classifier that judges."""

import itertools
import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 8
Condition = Int64[Tensor, " batch"] | Float[Tensor, "batch embedding"]  # labels, or embeddings of one's own


class ResidualBlock(nn.Module):
    """Two convolutions whose second one is scaled and shifted by what an embedding says."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(_GROUPS, inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm_2 = nn.GroupNorm(_GROUPS, outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], embedding: Float[Tensor, "batch embedding"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """Return the block's output."""
        h = self.conv_1(functional.silu(self.norm_1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.shortcut(x) + self.conv_2(functional.silu(h))


class SelfAttention(nn.Module):
    """Attention between all places of a feature map."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Return the layer's output."""
        batch, channels, height, width = x.shape
        split = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = split.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        return x + self.out(mixed.reshape(batch, channels, height, width))


class UNet(nn.Module):
    """A residual U-Net for one number of conditioning per image (a noise level) and, if wanted, a class.

    Parameters
    ----------
    widths
        Channels of each resolution, the finest first; each is a multiple of 8.
    patch
        Side of the squares of pixels that the first layer sees as one: 2 halves the resolution of all that follows.
    classes
        Number of classes, for a conditional network: it then takes labels, `classes` itself meaning no class.
    channels
        Channels of the images.
    embedding
        Size of the embedding of level and class.

    Examples
    --------
    >>> network = UNet(widths=(8, 16), classes=10)
    >>> network(torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.tensor([3, 10])).shape
    torch.Size([2, 1, 28, 28])
    """

    frequencies: Tensor

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128),
        patch: int = 2,
        classes: int = 0,
        channels: int = 1,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.classes = classes
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.1), math.log(4.0), 32)))
        self.embed_level = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_class = nn.Embedding(classes + 1, embedding) if classes else None
        pixels = channels * patch**2
        self.first = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w, w, embedding) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.attention = SelfAttention(widths[-1])
        self.bottom = ResidualBlock(widths[-1], widths[-1], embedding)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(ResidualBlock(2 * w, w, embedding) for w in widths[:-1])
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.last = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def embedding(
        self,
        noise_level: Float[Tensor, " batch"],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch e"]:
        """Return the embedding of levels and of conditions: labels, or embeddings of one's own.

        Parameters
        ----------
        noise_level
            One number for each image.
        condition
            Class labels, or embeddings of one's own; without one, images are of no class.

        Returns
        -------
        Tensor
            One row for each image.
        """
        angles = noise_level[:, None] * self.frequencies
        embedded = self.embed_level(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.embed_class is None:
            if condition is not None:
                raise ValueError("condition is given; this network was made without classes")
        else:
            if condition is None:
                condition = torch.full((len(noise_level),), self.classes, device=noise_level.device)
            embedded = embedded + (condition if condition.is_floating_point() else self.embed_class(condition))
        return functional.silu(embedded)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        noise_level: Float[Tensor, " batch"],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return an image for each image, its noise level and its condition.

        Parameters
        ----------
        x
            Images whose sides `patch` and the number of stages divide.
        noise_level, condition
            As in `embedding`.

        Returns
        -------
        Tensor
            Shaped as `x`.
        """
        embedded = self.embedding(noise_level, condition)
        h = self.first(functional.pixel_unshuffle(x, self.patch))
        kept = []
        for block, shrink in zip(self.down, self.shrink):  # noqa: B905 - the last block is below the last shrinking
            h = block(h, embedded)
            kept.append(h)
            h = shrink(h)
        h = self.bottom(self.attention(self.down[-1](h, embedded)), embedded)
        for grow, block in zip(reversed(self.grow), reversed(self.up), strict=True):
            skip = kept.pop()
            h = functional.interpolate(grow(h), size=skip.shape[-2:])
            h = block(torch.cat([h, skip], dim=1), embedded)
        return functional.pixel_shuffle(self.last(functional.silu(self.norm(h))), self.patch)


class Classifier(nn.Module):
    """A small convolutional classifier of grey images whose last hidden layer serves as features.

    Parameters
    ----------
    side
        Height and width of the images.
    classes
        Number of classes.
    width
        Channels of the first layer; the features are four times as many.

    Examples
    --------
    >>> network = Classifier(side=8, classes=10, width=8)
    >>> network(torch.zeros(2, 1, 8, 8)).shape, network.features(torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([2, 32]))
    """

    def __init__(self, side: int, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, outputs = 1, width
        while side > 4:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(_GROUPS, outputs), nn.SiLU()]
            layers += [nn.MaxPool2d(2)]
            inputs, outputs, side = outputs, 2 * outputs, side // 2
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(inputs * side**2, 4 * width)
        self.out = nn.Linear(4 * width, classes)

    def features(self, x: Float[Tensor, "batch 1 side side"]) -> Float[Tensor, "batch features"]:
        """Return the last hidden layer.

        Parameters
        ----------
        x
            Images, (batch, channels, height, width).

        Returns
        -------
        Tensor
            One row of features for each image.
        """
        return functional.silu(self.hidden(self.convolutions(x).flatten(1)))

    def forward(self, x: Float[Tensor, "batch 1 side side"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classes.

        Parameters
        ----------
        x
            Images, (batch, channels, height, width).

        Returns
        -------
        Tensor
            Logits, (batch, classes).
        """
        return self.out(self.features(x))
