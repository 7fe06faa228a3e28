"""Convolutions that know how fields go on beyond a grid, and the way from a coarse grid back to a fine one."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_choice

PaddingMode = Literal["zeros", "reflect", "circular"]
Sides = tuple[tuple[PaddingMode, PaddingMode], ...]
"""How fields go on below and above each axis."""
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_APPLIED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_ZEROS = ("zeros", "zeros")


def sides_of(padding_mode: PaddingMode | Sequence[PaddingMode | Sequence[PaddingMode]], ndim: int) -> Sides:
    """Return the modes below and above each axis, from one word, one an axis, or two an axis."""
    modes: tuple[PaddingMode, ...] = get_args(PaddingMode)
    if not isinstance(padding_mode, Sequence) or any(not isinstance(axis, Sequence) for axis in padding_mode):
        raise TypeError(f"padding_mode is {padding_mode!r}; it takes a word, or a word or two for each of {ndim} axes")
    axes = [padding_mode] * ndim if isinstance(padding_mode, str) else list(padding_mode)
    if len(axes) != ndim:
        raise ValueError(f"padding_mode has {len(axes)} entries; it takes a word, or an entry for each of {ndim} axes")
    found = []
    for axis in axes:
        pair = (axis, axis) if isinstance(axis, str) else tuple(axis)
        if len(pair) != 2:
            raise ValueError(f"padding_mode has {axis!r} for an axis; it takes one word or two")
        low, high = (check_choice("padding_mode", word, modes) for word in pair)
        if (low == "circular") != (high == "circular"):
            raise ValueError(f"padding_mode has {axis!r} for an axis; 'circular' takes both of its sides")
        found.append((low, high))
    return tuple(found)


def padded(x: Tensor, sides: Sides, axes: Sequence[bool]) -> Tensor:
    """Add a layer of nodes on both sides of some axes."""
    for axis, (wanted, (low, high)) in enumerate(zip(axes, sides, strict=True), start=2):
        if wanted:
            last = x.shape[axis] - 1
            before = _beyond(x, low, axis, {"reflect": 1, "circular": last})
            after = _beyond(x, high, axis, {"reflect": last - 1, "circular": 0})
            x = torch.cat([before, x, after], axis)
    return x


def _beyond(x: Tensor, mode: PaddingMode, axis: int, copied: dict[str, int]) -> Tensor:
    return torch.zeros_like(x.narrow(axis, 0, 1)) if mode == "zeros" else x.narrow(axis, copied[mode], 1)


class GridConv(nn.Module):
    """A convolution of width 3 that takes nodes beyond the grid from the boundary condition, or none of them."""

    def __init__(self, inputs: int, outputs: int, sides: Sides, stride: int = 1, bias: bool = False, pad: bool = True):
        super().__init__()
        zeros = all(side == _ZEROS for side in sides)
        # Zeros are cheaper inside of the convolution.
        self.conv = CONVOLUTIONS[len(sides)](inputs, outputs, 3, stride, padding=int(pad and zeros), bias=bias)
        self.sides = sides
        self.axes = [pad and not zeros] * len(sides)

    def forward(self, x: Float[Tensor, "batch inputs *grid"]) -> Float[Tensor, "batch outputs *coarse"]:
        return self.conv(padded(x, self.sides, self.axes))


class Prolongation(nn.Module):
    """A transposed convolution of stride 2 from a coarse grid to the fine one that it was made from.

    Axes with an odd number of nodes take three taps of the kernel: coarse nodes are every other fine one, from the
    first to the last (or, without padding, from the second to the last but one). Axes with an even number take four.
    """

    def __init__(self, inputs: int, outputs: int, sides: Sides, taps: Sequence[int], pad: bool = True) -> None:
        super().__init__()
        self.conv = _TRANSPOSED[len(sides)](inputs, outputs, tuple(taps), stride=2, bias=False)  # type: ignore[arg-type]
        self.sides = sides
        self.pad = pad

    def forward(self, x: Float[Tensor, "batch inputs *coarse"], shape: Sequence[int]) -> Tensor:
        weight = self.conv.weight
        padding, extra, wrapped = [], [], []
        for axis, (n, side) in enumerate(zip(shape, self.sides, strict=True)):
            if n % 2:
                weight = weight.narrow(2 + axis, 0, 3)
            # Between the last coarse node and the boundary of an even axis lie fine ones that need what is beyond.
            wrap = self.pad and n % 2 == 0 and side != _ZEROS
            wrapped.append(wrap)
            padding.append(3 if wrap else int(self.pad))
            extra.append(4 - weight.shape[2 + axis] if n % 2 == 0 else 0)
        x = padded(x, self.sides, wrapped)
        return _APPLIED[len(self.sides)](x, weight, None, 2, tuple(padding), tuple(extra))


def coarser(shape: Sequence[int], pad: bool = True) -> tuple[int, ...]:
    """Return the nodes of the next coarser grid along each axis."""
    return tuple((n + 1) // 2 if pad else (n - 1) // 2 for n in shape)
