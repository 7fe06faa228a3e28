"""The adjoint of a convolution, on coefficients that lie in a box of places.

With strides, the coefficients of pixels that are a stride apart come from the same rows by different elements of the
kernel. All these phases together are one plain convolution, which fast kernels exist for, and one selection, which
brings the pixels in order and cuts them to those that exist.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.robustness.bounds.patches import Box

aten = torch.ops.aten


class Geometry(NamedTuple):
    """A convolution's kernel and how it is laid over places, each by axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Sequence[int], *sizes: Sequence[int]) -> "Geometry":
        """Return a geometry from sizes for all axes, or one for each."""
        every = (tuple(s) * (len(kernel) if len(s) == 1 else 1) for s in sizes)
        return cls(tuple(kernel), *every)

    @property
    def is_strided(self) -> bool:
        """Whether there are phases, which is where places are skipped and none of the kernel's own are."""
        return max(self.stride) > 1 and max(self.dilation) == 1

    def reach(self, box: Box) -> list[tuple[int, int]]:
        """Return the first place that a box takes on each axis, which may not exist, and how many."""
        return [
            (b.start * s - p, (b.stop - b.start - 1) * s + d * (k - 1) + 1)
            for b, k, s, p, d in zip(box, *self, strict=True)
        ]


def phases(weight: Tensor, geometry: Geometry, groups: int) -> Tensor:
    """Return the kernel that gives all phases: the output's channels times strides, and a stride-th of the sizes.

    Without strides, it is the weight itself.
    """
    if not geometry.is_strided:
        return weight
    rank, stride = len(geometry.kernel), geometry.stride
    steps = [-(-k // s) for k, s in zip(geometry.kernel, stride, strict=True)]
    missing = [q * s - k for q, s, k in zip(steps, stride, geometry.kernel, strict=True)]
    weight = F.pad(weight, [n for m in reversed(missing) for n in (0, m)])
    many, each = weight.shape[0] // groups, weight.shape[1]
    split = [n for pair in zip(steps, stride, strict=True) for n in pair]
    weight = weight.reshape(groups, many, each, *split)
    at_step, at_phase = range(3, 3 + 2 * rank, 2), range(4, 4 + 2 * rank, 2)
    weight = weight.permute(0, 2, *at_phase, 1, *at_step)
    return weight.reshape(groups * each * math.prod(stride), many, *steps).flip(list(range(2, 2 + rank)))


@functools.lru_cache(maxsize=256)
def _order(
    channels: int, blocks: tuple[int, ...], stride: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]
) -> Tensor:
    """Return where the pixels from `start` to `stop` of all channels are among phases, flat."""
    rank = len(blocks)
    place, phase = torch.zeros((1,) * rank, dtype=torch.long), torch.zeros((1,) * rank, dtype=torch.long)
    for axis, (n, s, first, last) in enumerate(zip(blocks, stride, start, stop, strict=True)):
        at = torch.arange(first, last).reshape([-1 if i == axis else 1 for i in range(rank)])
        place, phase = place * n + at // s, phase * s + at % s
    inside = phase * math.prod(blocks) + place
    channel = torch.arange(channels).reshape(-1, *(1,) * rank) * math.prod(stride) * math.prod(blocks)
    return (channel + inside).flatten()


def pulled(
    rows: Tensor, box: Box, geometry: Geometry, groups: int, weight: Tensor, kernel: Tensor, places: Sequence[int]
) -> tuple[Tensor, Box]:
    """Return coefficients of a convolution's input from those of its output, and the box they lie in.

    Parameters
    ----------
    rows
        (many, channels, *sides of the box).
    weight, kernel
        The convolution's weight, and its `phases`.
    places
        How many places the input has on each axis.
    """
    reach = geometry.reach(box)
    left = [max(0, -first) for first, _ in reach]
    right = [max(0, first + length - n) for (first, length), n in zip(reach, places, strict=True)]
    length = [m for _, m in reach]
    if any(a + b >= m for a, b, m in zip(left, right, length, strict=True)):  # of padding alone
        rank = len(box)
        return rows.new_zeros(len(rows), weight.shape[1] * groups, *(1,) * rank), (slice(0, 1),) * rank
    target = tuple(slice(f + a, f + m - b) for (f, m), a, b in zip(reach, left, right, strict=True))
    if geometry.is_strided:
        steps = kernel.shape[2:]
        found = aten.convolution(
            rows, kernel, None, [1] * len(box), [q - 1 for q in steps], [1] * len(box), False, [0] * len(box), groups
        )
        channels = weight.shape[1] * groups
        stop = tuple(m - b for m, b in zip(length, right, strict=True))
        order = _order(channels, tuple(found.shape[2:]), geometry.stride, tuple(left), stop).to(rows.device)
        shape = (len(rows), channels, *(t.stop - t.start for t in target))
        return found.flatten(1).index_select(1, order).reshape(shape), target
    both = [min(a, b) for a, b in zip(left, right, strict=True)]
    found = aten.convolution(rows, weight, None, geometry.stride, both, geometry.dilation, True, [0] * len(box), groups)
    inner = [slice(a - c, m - b - c) for a, b, c, m in zip(left, right, both, length, strict=True)]
    return found[(..., *inner)], target
