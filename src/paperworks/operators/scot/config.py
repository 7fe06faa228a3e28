"""What a network is made of, and the same in the words of published checkpoints."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from paperworks.core.validation import check_choice, check_count, check_number

SIZES = {"T": (48, 4), "S": (48, 8), "B": (96, 8), "L": (192, 8)}
"""Width and blocks a stage of the published sizes; S is one of the ablations."""


@dataclass(frozen=True)
class ScOTConfig:
    """Shape of a scalable operator transformer; the defaults are those of the size T on grids of 128 by 128.

    Parameters
    ----------
    image_size
        Points of the grid that the network works on, one number for a square or (height, width).
    patch_size
        Side of the squares of points that become a token.
    in_channels, out_channels
        Fields at the start and at the lead time.
    embed_dim
        Width of the finest stage; each coarser one is twice as wide.
    depths
        Attention blocks of each stage, the finest first; the decoder has as many.
    num_heads
        Heads of attention in each stage.
    skip_blocks
        Convolutional blocks that each stage's output passes on its way to the decoder.
    window_size
        Side of the windows of tokens within which attention acts; a smaller grid is one window.
    mlp_ratio
        Hidden width of the blocks' perceptrons / their width.
    drop_path
        Greatest chance of a residual branch to be left out of a training step, from 0 at the first block.
    time_conditioning
        Whether norms depend on the lead time, or are plain ones for problems without time.
    learn_residual
        Whether the first fields are added to the output; only with conditioning on time.
    absolute_positions
        Whether tokens get a learned vector for their place, which ties the network to its grid.
    resample
        Whether fields on another grid are brought to `image_size` and back, as the published models do; else the
        network works on the grid that it gets.
    cln_init
        "small", as published: norms scale by about 0.02 t at first, which leaves residual branches nearly off;
        "identity": they begin as plain norms do.
    initializer_range
        Standard deviation of initial weights.
    layer_norm_eps
        Added to variances, in blocks; all other norms add 1e-5.
    p
        Exponent of the loss, 1 or 2, that a checkpoint was trained with.
    channel_groups
        How many channels each term of that loss takes together, such as (1, 2, 1) for density, velocity and pressure;
        None for one absolute error of all.

    Raises
    ------
    ValueError, TypeError
        For sizes that don't fit each other, and for what is no count or no number.

    Examples
    --------
    >>> ScOTConfig.of_size("B", in_channels=1).embed_dim
    96
    """

    image_size: int | tuple[int, int] = 128
    patch_size: int = 4
    in_channels: int = 4
    out_channels: int = 4
    embed_dim: int = 48
    depths: tuple[int, ...] = (4, 4, 4, 4)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    skip_blocks: tuple[int, ...] = (2, 2, 2, 0)
    window_size: int = 16
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    time_conditioning: bool = True
    learn_residual: bool = False
    absolute_positions: bool = False
    resample: bool = True
    cln_init: Literal["small", "identity"] = "small"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    p: int = 1
    channel_groups: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "skip_blocks", "channel_groups"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(tuple(self.grid)) != 2:
                raise ValueError(f"image_size is {self.image_size}; it takes a number, or height and width")
        for name in ("patch_size", "in_channels", "out_channels", "embed_dim", "window_size"):
            check_count(name, getattr(self, name))
        for side in self.grid:
            check_count("image_size", side)
        if not self.depths or not len(self.depths) == len(self.num_heads) == len(self.skip_blocks):
            raise ValueError(
                f"depths, num_heads and skip_blocks are {self.depths}, {self.num_heads} and {self.skip_blocks}; "
                "they take one number for each stage"
            )
        for depth, heads, skips, width in zip(self.depths, self.num_heads, self.skip_blocks, self.widths, strict=True):
            check_count("depths", depth)
            check_count("skip_blocks", skips, at_least=0)
            if width % check_count("num_heads", heads):
                raise ValueError(f"num_heads has {heads} for a stage of width {width}; it takes a divisor")
        if len(self.depths) > 1 and self.embed_dim % 2:
            raise ValueError(f"embed_dim is {self.embed_dim}; with several stages it takes an even number")
        check_number("mlp_ratio", self.mlp_ratio, ge=1 / self.embed_dim)
        check_number("drop_path", self.drop_path, ge=0, lt=1)
        check_number("initializer_range", self.initializer_range, ge=0)
        check_number("layer_norm_eps", self.layer_norm_eps, gt=0)
        check_choice("cln_init", self.cln_init, ("small", "identity"))
        check_choice("p", self.p, (1, 2))
        if self.learn_residual and not self.time_conditioning:
            raise ValueError("learn_residual is True; it takes a network with time_conditioning")
        if self.learn_residual and self.in_channels < self.out_channels:
            raise ValueError(
                f"learn_residual is True with {self.in_channels} in_channels and {self.out_channels} out_channels; "
                "it takes as many or more in_channels"
            )
        if self.channel_groups is not None and sum(check_count("channel_groups", n) for n in self.channel_groups) != (
            self.out_channels
        ):
            raise ValueError(f"channel_groups is {self.channel_groups}; it takes {self.out_channels} channels in all")

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid.

        Returns
        -------
        tuple of int
            Their numbers of points.
        """
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @property
    def widths(self) -> list[int]:
        """Widths of the stages, the finest first.

        Returns
        -------
        list of int
            Each twice the one before.
        """
        return [self.embed_dim * 2**i for i in range(len(self.depths))]

    @classmethod
    def of_size(cls, size: str, in_channels: int = 4, out_channels: int = 4, **options: Any) -> "ScOTConfig":
        """Return the configuration of a published size.

        Parameters
        ----------
        size
            "T", "B" or "L" for the published models of 21, 158 and 629 million parameters, or "S".
        in_channels, out_channels
            Fields at the start and at the lead time.
        **options
            Other fields that differ from the defaults.

        Returns
        -------
        ScOTConfig
            The configuration of four stages, on grids of 128 by 128.
        """
        width, depth = SIZES[check_choice("size", size, SIZES)]
        return cls(in_channels=in_channels, out_channels=out_channels, embed_dim=width, depths=(depth,) * 4, **options)

    @classmethod
    def from_official(cls, values: Mapping[str, Any]) -> "ScOTConfig":
        """Return what a published `config.json` says.

        Parameters
        ----------
        values
            The file's content, whose keys are those of ``transformers`` and the authors' code.

        Returns
        -------
        ScOTConfig
            The same network.

        Raises
        ------
        ValueError
            For settings that change outputs and that this network doesn't have.
        """
        for name, takes in _ONLY.items():
            if values.get(name, takes) != takes:
                raise ValueError(f"{name} is {values[name]!r} in the file's configuration; it takes {takes!r}")
        found = {ours: values[theirs] for ours, theirs in _NAMES.items() if theirs in values}
        if (ends := values.get(_SLICES)) is not None:
            found["channel_groups"] = [b - a for a, b in itertools.pairwise(ends)]
        if (skips := found.get("skip_blocks")) is not None:
            found["skip_blocks"] = [*map(int, skips), *[0] * (len(found.get("depths", cls.depths)) - len(skips))]
        # The authors' code ignores the setting where norms don't depend on time.
        found["learn_residual"] = bool(found.get("learn_residual")) and bool(found.get("time_conditioning"))
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}  # type: ignore[arg-type]
        )

    def to_official(self) -> dict[str, Any]:
        """Return the content of a `config.json` that the authors' code reads.

        Returns
        -------
        dict
            Values of JSON by the keys of the authors' code; what it doesn't know has keys of ours.
        """
        ours = asdict(self)
        values = {theirs: ours.pop(name) for name, theirs in _NAMES.items()}
        groups = ours.pop("channel_groups")
        values[_SLICES] = None if groups is None else [0, *itertools.accumulate(groups)]
        stages = len(self.depths)
        return {
            "architectures": ["ScOT"],
            "model_type": "swinv2",
            **values,
            **_ONLY,
            "num_layers": stages,
            "hidden_size": self.widths[-1],
            "pretrained_window_sizes": [0] * stages,
        }


_SLICES = "channel_slice_list_normalized_loss"
_OFFICIAL = {  # fields that published files have under another name
    "in_channels": "num_channels",
    "out_channels": "num_out_channels",
    "skip_blocks": "skip_connections",
    "drop_path": "drop_path_rate",
    "time_conditioning": "use_conditioning",
    "absolute_positions": "use_absolute_embeddings",
}
_NAMES = {f.name: _OFFICIAL.get(f.name, f.name) for f in fields(ScOTConfig) if f.name != "channel_groups"}
_ONLY = {
    "residual_model": "convnext",
    "hidden_act": "gelu",
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
