"""The scalable operator transformer."""

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.operators.scot import checkpoints
from paperworks.operators.scot.blocks import Block, PatchMerging, PatchUnmerging, SkipBlock, Time, Tokens, norm
from paperworks.operators.scot.config import ScOTConfig
from paperworks.operators.scot.norms import ConditionalLayerNorm
from paperworks.operators.scot.resampling import fourier_resample


class ScOT(nn.Module):
    """A U-shaped transformer from fields to the fields after a lead time (arXiv 2405.19101, the section on the model).

    Patches of the fields become tokens. Each stage of the encoder attends within windows, every second time shifted by
    half a window, and merges four tokens to one; the decoder goes the same way back and adds what the encoder had there
    after some convolutions. All norms depend on the lead time, so that one network gives the solution at any time.

    Parameters
    ----------
    config
        Sizes and options.

    Raises
    ------
    ValueError
        On a call with other channels, other proportions of the grid, or lead times that are missing, negative or not
        one for each sample.

    Examples
    --------
    >>> config = ScOTConfig(image_size=16, patch_size=2, in_channels=1, out_channels=1, embed_dim=8, depths=(2, 2),
    ...                     num_heads=(2, 4), skip_blocks=(1, 0), window_size=4)
    >>> network = ScOT(config)
    >>> network(torch.zeros(3, 1, 16, 16), torch.tensor([0.1, 0.5, 1.0])).shape
    torch.Size([3, 1, 16, 16])
    """

    def __init__(self, config: ScOTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.patch_recovery = PatchRecovery(config)
        self.residual_blocks = nn.ModuleList(
            nn.ModuleList(SkipBlock(config, width) for _ in range(count))
            for count, width in zip(config.skip_blocks, config.widths, strict=True)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of all linear maps and convolutions anew, and set biases to 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                module.reset_parameters()
        for module in self.modules():  # after the linear maps inside of them
            if isinstance(module, ConditionalLayerNorm):
                module.reset_parameters(self.config.initializer_range)

    @classmethod
    def from_size(cls, size: str, in_channels: int = 4, out_channels: int = 4, **options: Any) -> "ScOT":
        """Return a network of a published size, with new weights.

        Parameters
        ----------
        size
            "T", "B" or "L", or "S".
        in_channels, out_channels
            Fields at the start and at the lead time.
        **options
            Other fields of `ScOTConfig`.

        Returns
        -------
        ScOT
            The network of 21, 158 or 629 million parameters, or of the size of the ablation.
        """
        return cls(ScOTConfig.of_size(size, in_channels, out_channels, **options))

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], in_channels: int | None = None, out_channels: int | None = None
    ) -> "ScOT":
        """Return the network of a folder with a published checkpoint, or with what `save_pretrained` wrote.

        Parameters
        ----------
        path
            Folder with ``config.json`` and ``model.safetensors``, or ``pytorch_model.bin`` as older ones have.
        in_channels, out_channels
            Fields of the problem to fine-tune on, by default those of the file. Where they are others, the embedding or
            the recovery begins anew, and a warning says so.

        Returns
        -------
        ScOT
            In evaluation mode.

        Raises
        ------
        FileNotFoundError
            Where the folder has no configuration or no weights.
        ValueError
            For weights that are missing, unknown or of another shape, which it names.
        """
        return checkpoints.load(cls, ScOTConfig.from_official, path, in_channels, out_channels)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write configuration and weights as published checkpoints have them.

        Parameters
        ----------
        path
            Folder, which is made where it doesn't exist.
        """
        checkpoints.save(path, self.config.to_official(), self.state_dict())

    def forward(
        self, x: Float[Tensor, "batch channels height width"], lead_time: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch out height width"]:
        """Return the fields after the lead time.

        Parameters
        ----------
        x
            Fields, normalised as in training.
        lead_time
            Time from `x` to the output in each sample, in the unit of training; without conditioning on time, None.

        Returns
        -------
        Tensor
            Fields on the grid of `x`.
        """
        time = self._checked(x, lead_time)
        config, grid = self.config, (x.shape[2], x.shape[3])
        resampled = config.resample and grid != config.grid
        fields = fourier_resample(x, config.grid) if resampled else x
        states = self.encoder(self.embeddings(fields, time), time)
        for i, blocks in enumerate(self.residual_blocks):
            for block in blocks:  # type: ignore[attr-defined]
                states[i] = block(states[i], time)
        out = self.patch_recovery(self.decoder(states, time), fields.shape[2:])
        if config.learn_residual:
            out = out + fields[:, : config.out_channels]
        return fourier_resample(out, grid) if resampled else out

    def _checked(self, x: Tensor, lead_time: Tensor | None) -> Time:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels or not x.shape[2] * x.shape[3]:
            raise ValueError(f"x has shape {tuple(x.shape)}; it takes (batch, {config.in_channels}, height, width)")
        h, w = config.grid
        if config.resample and x.shape[2] * w != x.shape[3] * h:
            raise ValueError(
                f"x has a grid of {x.shape[2]} by {x.shape[3]}; it takes the proportions of image_size, {h} by {w}"
            )
        if not config.time_conditioning:
            if lead_time is not None:
                raise ValueError("lead_time is given; this network was made without time_conditioning")
            return None
        if not isinstance(lead_time, Tensor) or lead_time.shape != (len(x),):
            got = f"of shape {tuple(lead_time.shape)}" if isinstance(lead_time, Tensor) else lead_time
            raise ValueError(f"lead_time is {got}; it takes a tensor with one number for each of {len(x)} samples")
        right = (lead_time >= 0) & (lead_time < torch.inf)
        if not (right.is_meta or torch.compiler.is_compiling() or right.all()):
            raise ValueError(f"lead_time has {lead_time[~right][0].item():g}; it takes finite numbers >= 0")
        return lead_time.to(x)


class Embeddings(nn.Module):
    """Patches as tokens; what a grid lacks to whole patches is zero."""

    def __init__(self, config: ScOTConfig) -> None:
        super().__init__()
        self.patch_size = p = config.patch_size
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(config.in_channels, config.embed_dim, p, stride=p)}
        )
        self.norm = norm(config, config.embed_dim)
        self.position_embeddings = None
        if config.absolute_positions:
            self.patches = (-(-config.grid[0] // p), -(-config.grid[1] // p))
            self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(self.patches), config.embed_dim))

    def forward(self, x: Float[Tensor, "b c height width"], time: Time) -> Tokens:
        """Return the tokens."""
        x = functional.pad(x, (0, -x.shape[3] % self.patch_size, 0, -x.shape[2] % self.patch_size))
        tokens = self.norm(self.patch_embeddings["projection"](x).permute(0, 2, 3, 1), time)
        if self.position_embeddings is None:
            return tokens
        if tokens.shape[1:3] != self.patches:
            raise ValueError(
                f"x makes {tokens.shape[1]} by {tokens.shape[2]} patches; with absolute_positions it takes "
                f"{self.patches[0]} by {self.patches[1]}"
            )
        return tokens + self.position_embeddings.view(1, *tokens.shape[1:])


class Stage(nn.Module):
    """Blocks of one resolution, and the way to the next one under the name that checkpoints have for it."""

    downsample: PatchMerging | None
    upsample: PatchUnmerging | None

    def __init__(self, config: ScOTConfig, stage: int, shifted: list[bool], rates: Iterator[float]) -> None:
        super().__init__()
        width, heads = config.widths[stage], config.num_heads[stage]
        self.blocks = nn.ModuleList(Block(config, width, heads, shift, next(rates)) for shift in shifted)
        self.downsample = self.upsample = None

    def forward(self, x: Tokens, time: Time) -> Tokens:
        """Return what leaves the blocks."""
        for block in self.blocks:
            x = block(x, time)
        return x


class Encoder(nn.Module):
    """Stages from fine to coarse; every second block is shifted."""

    def __init__(self, config: ScOTConfig) -> None:
        super().__init__()
        rates = iter(drop_rates(config)[: sum(config.depths)])
        self.layers = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stage = Stage(config, i, [bool(j % 2) for j in range(depth)], rates)
            if i + 1 < len(config.depths):
                stage.downsample = PatchMerging(config, width)
            self.layers.append(stage)

    def forward(self, x: Tokens, time: Time) -> list[Tokens]:
        """Return what leaves the blocks of each stage."""
        states: list[Tensor] = []
        for stage in self.layers:
            states.append(stage(x, time))
            if stage.downsample is not None:
                x = stage.downsample(states[-1] + x, time)  # type: ignore[operator]
        return states


class Decoder(nn.Module):
    """Stages from coarse to fine, whose blocks are in the opposite order, too."""

    def __init__(self, config: ScOTConfig) -> None:
        super().__init__()
        rates = iter(drop_rates(config)[sum(config.depths) :])
        self.layers = nn.ModuleList()
        for i in reversed(range(len(config.depths))):
            stage = Stage(config, i, [bool(j % 2) for j in reversed(range(config.depths[i]))], rates)
            if i > 0:
                stage.upsample = PatchUnmerging(config, config.widths[i])
            self.layers.append(stage)

    def forward(self, states: list[Tokens], time: Time) -> Tokens:
        """Return tokens of the finest stage, from the encoder's states, the finest first."""
        *skips, x = states
        for stage in self.layers:
            x = stage(x, time)
            if stage.upsample is not None:
                skip = skips.pop()
                x = skip + stage.upsample(x, time, skip.shape[1:3])  # type: ignore[operator]
        return x


def drop_rates(config: ScOTConfig) -> list[float]:
    """Return the chance of each block's branches to be left out, the encoder's first.

    Parameters
    ----------
    config
        Says the greatest one.

    Returns
    -------
    list of float
        Rising evenly from 0.
    """
    return torch.linspace(0, config.drop_path, 2 * sum(config.depths), device="cpu").tolist()


class PatchRecovery(nn.Module):
    """Tokens as patches of the fields, and a convolution that smooths their seams."""

    def __init__(self, config: ScOTConfig) -> None:
        super().__init__()
        c, p = config.out_channels, config.patch_size
        self.projection = nn.ConvTranspose2d(config.embed_dim, c, p, stride=p)
        self.mixup = nn.Conv2d(c, c, 5, padding=2, bias=False)

    def forward(self, x: Tokens, size: torch.Size) -> Float[Tensor, "b c height width"]:
        """Return fields on a grid of `size`."""
        return self.mixup(self.projection(x.permute(0, 3, 1, 2))[:, :, : size[0], : size[1]])
