"""Transformer layers that are normalised behind each branch, with what decoding remembers of earlier tokens."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.numerics import mlp

Features = Float[Tensor, "batch length width"]
Mask = Bool[Tensor, "batch length"]
Seen = Float[Tensor, "batch seen width"]
Pair = tuple[Tensor, Tensor]  # keys and values, (batch, heads, length, width of a head)


class Attention(nn.Module):
    """Attention of several heads, whose keys and values can be made once and used again."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def remembered(self, memory: Seen) -> Pair:
        """Return keys and values."""
        keys, values = self.key_value(memory).chunk(2, -1)
        return self._parted(keys), self._parted(values)

    def forward(self, x: Features, pair: Pair, mask: Tensor | None = None, causal: bool = False) -> Features:
        """Attend from `x` to what `mask`, which broadcasts to (batch, heads, queries, keys), leaves."""
        queries = self._parted(self.query(x))
        found = functional.scaled_dot_product_attention(queries, *pair, attn_mask=mask, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))

    def _parted(self, x: Seen) -> Float[Tensor, "batch heads seen part"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Self-attention, cross-attention, or both, and a perceptron; a norm follows each sum (post-norm)."""

    def __init__(
        self, width: int, heads: int, hidden: int, eps: float, itself: bool = True, cross: bool = False
    ) -> None:
        super().__init__()
        self.itself = Attention(width, heads) if itself else None
        self.cross = Attention(width, heads) if cross else None
        self.perceptron = mlp([width, hidden, width], nn.GELU)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(1 + itself + cross))

    def forward(
        self,
        x: Features,
        mask: Tensor | None = None,
        memory: Seen | None = None,
        memory_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Features:
        """Return the features after the layer."""
        own = None if self.itself is None else self.itself.remembered(x)
        other = None if self.cross is None or memory is None else self.cross.remembered(memory)
        return self.step(x, own, other, mask, memory_mask, causal)

    def step(
        self,
        x: Features,
        own: Pair | None,
        other: Pair | None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Features:
        """Return the features after the layer, with keys and values that were made before."""
        norms = iter(self.norms)
        if self.itself is not None and own is not None:
            x = next(norms)(x + self.itself(x, own, mask, causal))
        if self.cross is not None and other is not None:
            x = next(norms)(x + self.cross(x, other, memory_mask))
        return next(norms)(x + self.perceptron(x))


def shown(mask: Mask | None) -> Bool[Tensor, "batch 1 1 length"] | None:
    """Return a mask of keys in the shape that attention takes; None where all are there, which is faster."""
    return None if mask is None or (not mask.is_meta and bool(mask.all())) else mask[:, None, None]


def positions(length: int, like: Float[Tensor, "*places width"]) -> Float[Tensor, "length width"]:
    """Return sines and cosines of places, from the first on."""
    width = like.shape[-1]
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].to(like)


class ResNetAdapter(nn.Module):
    """Residual perceptrons on features of the data."""

    def __init__(self, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp([width, hidden, width], nn.GELU) for _ in range(blocks))

    def forward(self, x: Features) -> Features:
        """Return the features after all blocks."""
        for block in self.blocks:
            x = x + block(x)
        return x
