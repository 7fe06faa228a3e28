"""The vision transformer of rRCM, with the noise level as a token of its own."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count
from paperworks.robustness.smoothing.encoder import NoiseConditionedEncoder

ViTSize = Literal["tiny", "small", "base"]
SIZES: dict[ViTSize, dict[str, int]] = {
    "tiny": {"width": 64, "depth": 4, "heads": 4, "hidden": 256},
    "small": {"width": 512, "depth": 6, "heads": 8, "hidden": 2048},
    "base": {"width": 768, "depth": 12, "heads": 12, "hidden": 2048},
}


class RRCMViT(NoiseConditionedEncoder):
    """A vision transformer whose tokens are a class token, one for the noise level, and one for each patch.

    Parameters
    ----------
    image_size, channels, patch_size
        Height and width of the images, their channels, and the side of a patch. The paper's patches have 4 pixels for
        images of 32, and 16 for images of 224.
    width, depth, heads
        Size of a token, number of blocks, and attention heads in each. Defaults of the paper's rRCM-B: 768, 12, 12.
    hidden, out
        Sizes of the hidden layers of the projector (paper: 2048, or 4096 for ImageNet) and of the projection (256).
    frozen_patches
        Leave the embedding of patches at its random initialisation, which keeps training stable (MoCo v3, arXiv
        2104.02057); the paper does so for ImageNet.

    Raises
    ------
    ValueError
        For images that aren't a whole number of patches, or a width that the heads don't divide.

    Examples
    --------
    >>> encoder = RRCMViT.of_size("tiny", image_size=28, channels=1)
    >>> projection, feature = encoder(torch.zeros(2, 1, 28, 28), 1.0)
    >>> projection.shape, feature.shape
    (torch.Size([2, 256]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        patch_size: int = 4,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        hidden: int = 2048,
        out: int = 256,
        frozen_patches: bool = False,
    ) -> None:
        super().__init__(check_count("width", width), hidden, out)
        if check_count("image_size", image_size) % check_count("patch_size", patch_size):
            raise ValueError(f"image_size is {image_size}; it takes a multiple of patch_size = {patch_size}")
        if width % check_count("heads", heads):
            raise ValueError(f"width is {width}; it takes a multiple of heads = {heads}")
        self.patches = nn.Conv2d(check_count("channels", channels), width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(1e-6 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 2 + (image_size // patch_size) ** 2, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(_TransformerBlock(width, heads) for _ in range(check_count("depth", depth)))
        # MoCo v3's initialisation; the three matrices of attention count as three
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                rows = width if layer.out_features == 3 * width else layer.out_features
                _uniform(layer.weight, rows + layer.in_features)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        _uniform(self.patches.weight, channels * patch_size**2 + width)
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        self.patches.requires_grad_(not frozen_patches)

    @classmethod
    def of_size(cls, size: ViTSize, **kwargs: Any) -> "RRCMViT":
        """Make one of a size with a name: ``tiny`` for tests, the paper's ``small`` (rRCM-S) or ``base`` (rRCM-B).

        Returns
        -------
        RRCMViT
            An untrained network of that size.
        """
        check_choice("size", size, SIZES)
        return cls(**{**SIZES[size], **kwargs})

    def encode(
        self, x: Float[Tensor, "batch channels height width"], embedding: Float[Tensor, "levels features"]
    ) -> Float[Tensor, "batch features"]:
        """Return the class token after the last block.

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
        patches = self.patches(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(x), -1, -1)
        level = embedding[:, None].expand(len(x), -1, -1)
        tokens = torch.cat([first, level, patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the tokens, then those of each block.

        Returns
        -------
        list[list[nn.Parameter]]
            One list of parameters for each part, the tokens' first.
        """
        return [
            [self.class_token, self.positions, *self.patches.parameters()],
            *(list(block.parameters()) for block in self.blocks),
        ]


class _TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        batch, tokens, width = x.shape
        split = self.qkv(self.norm_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm_2(x))


def _uniform(weight: Tensor, fan: int) -> None:
    bound = math.sqrt(6 / fan)
    nn.init.uniform_(weight, -bound, bound)
