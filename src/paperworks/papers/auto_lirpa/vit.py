"""A vision transformer of two layers, small enough to train in seconds."""

import torch
from torch import Tensor, nn


class VisionTransformer(nn.Module):
    """Patches, a token for the class, two layers of attention and GELU, each behind a norm, and a linear head."""

    def __init__(self, width: int = 16, patch: int = 4, size: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images (batch, 1, size, size), or of their pixels in a row."""
        x = x.reshape(len(x), 1, *2 * (round((x[0].numel()) ** 0.5),))
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])
