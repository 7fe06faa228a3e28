"""A small noise-conditioned convolutional encoder: trains and certifies in minutes on a CPU."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count
from paperworks.robustness.smoothing.encoder import NoiseConditionedEncoder


class RRCMConvNet(NoiseConditionedEncoder):
    """A residual network on patches whose every block is scaled and shifted by the noise level.

    Parameters
    ----------
    image_size, channels
        Height and width of the images, and their channels.
    patch_size
        Side of the squares of pixels that the first layer sees as one place.
    widths
        Channels of the stages, each of half the resolution of the one before; the last one is the feature's size.
    blocks
        Residual blocks of a stage.
    hidden, out
        Sizes of the hidden layers of the projector and of the projection. Defaults 256 and 128.

    Raises
    ------
    ValueError
        For images that aren't a whole number of patches, or no stage.

    Examples
    --------
    >>> encoder = RRCMConvNet(image_size=28, patch_size=4, widths=(16, 32))
    >>> projection, feature = encoder(torch.zeros(2, 1, 28, 28), 1.0)
    >>> projection.shape, feature.shape
    (torch.Size([2, 128]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        patch_size: int = 4,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        *,
        hidden: int = 256,
        out: int = 128,
    ) -> None:
        if not widths:
            raise ValueError("widths is empty; it takes the channels of one stage or more")
        super().__init__(widths[-1], hidden, out)
        if check_count("image_size", image_size) % check_count("patch_size", patch_size):
            raise ValueError(f"image_size is {image_size}; it takes a multiple of patch_size = {patch_size}")
        check_count("blocks", blocks)
        self.first = nn.Conv2d(check_count("channels", channels), widths[0], patch_size, stride=patch_size)
        self.parts = nn.ModuleList(_Block(widths[0], self.width) for _ in range(blocks))
        for narrow, wide in itertools.pairwise(widths):
            self.parts.append(nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
            self.parts.extend(_Block(wide, self.width) for _ in range(blocks))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(
        self, x: Float[Tensor, "batch channels height width"], embedding: Float[Tensor, "levels features"]
    ) -> Float[Tensor, "batch features"]:
        """Return the means over places of the last stage.

        Parameters
        ----------
        x
            Images of shape (batch, channels, height, width).
        embedding
            Embedded noise levels: one row for all images, or one for each.

        Returns
        -------
        Tensor of shape (batch, features)
            One row of features for each image.
        """
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for part in self.parts:
            h = part(h, embedding) if isinstance(part, _Block) else part(h)
        return h.mean((2, 3))

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the first layer, then those of each block or halving.

        Returns
        -------
        list[list[nn.Parameter]]
            One list of parameters for each part, the first layer's first.
        """
        return [list(part.parameters()) for part in (self.first, *self.parts)]


class _Block(nn.Module):
    """Two convolutions about a modulation by the embedded level; at first the identity."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.conv_1(functional.relu(x)), 1 + scale)
        return x + self.conv_2(functional.relu(h))
