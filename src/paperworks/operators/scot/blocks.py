"""The parts of the network: windowed attention, its blocks, convolutions of skips, and changes of resolution.

Attributes are named as in published checkpoints, so that a state dict is a checkpoint. Tokens are (batch, rows,
columns, width) throughout.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.operators.scot.config import ScOTConfig
from paperworks.operators.scot.norms import ConditionalLayerNorm, PlainLayerNorm
from paperworks.operators.scot.windows import Pair, parted, partition, relative_places, reverse

Tokens = Float[Tensor, "b _ _ _"]  # rows, columns and width change on the way
Time = Float[Tensor, " b"] | None

# Published weights were trained with -100 added twice; with sharp attention, up to exp(100), it isn't the same as once.
_BARRIER = -200.0
_SHARPEST = math.log(100)


def norm(config: ScOTConfig, dim: int, eps: float = 1e-5) -> nn.Module:
    """Return the norm of a network's tokens.

    Parameters
    ----------
    config
        Says whether norms are conditioned on time, and how they begin.
    dim
        Width of the tokens.
    eps
        Added to the variance.

    Returns
    -------
    nn.Module
        Called with tokens and the lead time.
    """
    return ConditionalLayerNorm(dim, eps, config.cln_init) if config.time_conditioning else PlainLayerNorm(dim, eps)


class WindowAttention(nn.Module):
    """Attention by angles between queries and keys, with a bias that is a function of relative places (Swin v2)."""

    _cache: tuple[tuple[Any, ...], list[Tensor], Tensor] | None = None

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.continuous_position_bias_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)

    def bias(self, grid: Pair, window: Pair, shift: Pair) -> Float[Tensor, "n heads t t"]:
        """Return what is added to the logits of each pair in each window; one window stands for all without a shift.

        Parameters
        ----------
        grid
            Rows and columns of tokens.
        window
            Rows and columns of a window.
        shift
            By how much the grid was rolled.

        Returns
        -------
        Tensor
            Biases of relative places, with what keeps those apart that the roll brought together.
        """
        weights: list[Tensor] = list(self.continuous_position_bias_mlp.parameters())
        first = weights[0]
        trains = torch.is_grad_enabled() and any(w.requires_grad for w in weights)
        if trains or first.is_meta or torch.compiler.is_compiling():
            return self._bias(grid, window, shift)
        kind = first.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (grid, window, shift, first.device, first.dtype, autocast, torch.is_inference_mode_enabled())
        # Weights are compared by value: changes through `.data` leave no trace in their versions.
        cache = self._cache
        if cache is None or cache[0] != key or not all(map(torch.equal, cache[1], weights)):
            cache = key, [w.detach().clone() for w in weights], self._bias(grid, window, shift)
            self._cache = cache
        return cache[2]

    def _bias(self, grid: Pair, window: Pair, shift: Pair) -> Tensor:
        like = self.logit_scale
        places, number = (t.to(like.device) for t in relative_places(window))
        of_place = 16 * torch.sigmoid(self.continuous_position_bias_mlp(places.to(like.dtype)))
        of_pair = of_place.T[:, number][None]
        if shift == (0, 0):
            return of_pair
        apart = parted(grid, window, shift).to(like.device)
        return of_pair + _BARRIER * apart[:, None].to(like.dtype)

    def forward(self, x: Tokens, window: Pair, shift: Pair) -> Tokens:
        """Return mixtures of the values in each window; the grid is a multiple of it, and rolled already."""
        grid = (x.shape[1], x.shape[2])
        bias = self.bias(grid, window, shift)
        windows = partition(x, window)
        tokens, apart = windows.shape[2], len(bias)
        windows = windows.reshape(len(x) * windows.shape[1] // apart, apart, tokens, x.shape[-1])
        # Windows whose biases differ count as heads, so that one bias serves the whole batch.
        query, key, value = (
            linear(windows).unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for linear in (self.query, self.key, self.value)
        )
        query = _unit(query, self.logit_scale.clamp(max=_SHARPEST).exp()).flatten(1, 2)
        key, value, bias = _unit(key).flatten(1, 2), value.flatten(1, 2), bias.flatten(0, 1)[None]
        if (
            bias.requires_grad
        ):  # the fused kernel gives masks no gradient, and what stands in for it is slower than this
            mixed = (query @ key.mT + bias).softmax(-1) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        count = grid[0] * grid[1] // tokens
        mixed = mixed.unflatten(1, (apart, self.heads)).transpose(2, 3).reshape(len(x), count, tokens, x.shape[-1])
        return reverse(mixed, window, grid)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}


def _unit(x: Float[Tensor, "*rows d"], factor: Tensor | float = 1.0) -> Float[Tensor, "*rows d"]:
    """Return vectors of length `factor`, and 0 where they are 0."""
    least = max(1e-24, torch.finfo(x.dtype).tiny)
    return x * (factor * x.square().sum(-1, keepdim=True).clamp_min(least).rsqrt())


class Dense(nn.Module):
    """A linear map under the name that it has in published checkpoints."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Return what it maps to."""
        return self.dense(x)


class Block(nn.Module):
    """Attention in windows, then a perceptron, each normed before it is added."""

    def __init__(self, config: ScOTConfig, dim: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window_size, self.shifted, self.drop_path = config.window_size, shifted, drop_path
        self.attention = nn.ModuleDict({"self": WindowAttention(dim, heads), "output": Dense(dim, dim)})
        hidden = int(config.mlp_ratio * dim)
        self.layernorm_before = norm(config, dim, config.layer_norm_eps)
        self.intermediate = Dense(dim, hidden)
        self.output = Dense(hidden, dim)
        self.layernorm_after = norm(config, dim, config.layer_norm_eps)

    def attend(self, x: Tokens) -> Tokens:
        """Return what attention adds, before it is normed.

        Parameters
        ----------
        x
            Tokens on a grid of any size; zeros are added below and to the right to fill the last windows.

        Returns
        -------
        Tensor
            Of the shape of `x`.
        """
        h, w = x.shape[1:3]
        window = (min(self.window_size, h), min(self.window_size, w))
        half = self.window_size // 2 if self.shifted else 0
        shift = (half if h > window[0] else 0, half if w > window[1] else 0)
        padded = functional.pad(x, (0, 0, 0, -w % window[1], 0, -h % window[0]))
        if shift != (0, 0):
            padded = padded.roll((-shift[0], -shift[1]), (1, 2))
        mixed = self.attention["self"](padded, window, shift)
        if shift != (0, 0):
            mixed = mixed.roll(shift, (1, 2))
        return self.attention["output"](mixed[:, :h, :w])

    def forward(self, x: Tokens, time: Time) -> Tokens:
        """Return the block's output."""
        x = x + self._dropped(self.layernorm_before(self.attend(x), time))
        hidden = functional.gelu(self.intermediate(x))
        return x + self._dropped(self.layernorm_after(self.output(hidden), time))

    def _dropped(self, branch: Tokens) -> Tokens:
        if not self.training or not self.drop_path:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, dtype=branch.dtype, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class SkipBlock(nn.Module):
    """A block of ConvNeXt on what the encoder hands to the decoder: a convolution by feature, then a perceptron."""

    def __init__(self, config: ScOTConfig, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = norm(config, dim, config.layer_norm_eps)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.weight = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tokens, time: Time) -> Tokens:
        """Return the block's output."""
        mixed = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden = functional.gelu(self.pwconv1(self.norm(mixed, time)))
        return torch.addcmul(x, self.weight, self.pwconv2(hidden))


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width; odd grids get a row or column of zeros."""

    def __init__(self, config: ScOTConfig, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm(config, 2 * dim)

    def forward(self, x: Tokens, time: Time) -> Tokens:
        """Return the coarser tokens."""
        h, w = x.shape[1:3]
        x = functional.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # b, rows, 2, columns, 2, d
        # Of the four, rows come first: (0, 0), (1, 0), (0, 1), (1, 1).
        return self.norm(self.reduction(x.permute(0, 1, 3, 4, 2, 5).flatten(3)), time)


class PatchUnmerging(nn.Module):
    """A token becomes four of half the width."""

    def __init__(self, config: ScOTConfig, dim: int) -> None:
        super().__init__()
        self.upsample = nn.Linear(dim, 2 * dim, bias=False)
        self.mixup = nn.Linear(dim // 2, dim // 2, bias=False)
        self.norm = norm(config, dim // 2)

    def forward(self, x: Tokens, time: Time, size: Pair) -> Tokens:
        """Return the finer tokens, as many as `size` says."""
        b, h, w, d = x.shape
        fine = self.upsample(x).view(b, h, w, 2, 2, d // 2).transpose(2, 3).reshape(b, 2 * h, 2 * w, d // 2)
        return self.mixup(self.norm(fine[:, : size[0], : size[1]], time))
