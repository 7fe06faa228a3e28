"""Recovers weights from the array and sums gradients back into it: two linear maps, each other's transpose."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.training.sharing.maps import SIGNS_OF_A_WORD, ShareMap

_CHUNK = 1 << 17  # weights at once on a CPU: their signs stay in its cache
_SHORT = 64  # entries below which a gather costs less than a call for each partition
_FEW = 8  # partitions of a tensor up to which they are copied one by one, above as rows of one strided view


class Piece(NamedTuple):
    """A tensor of shared weights: where its weights begin, and by what they are scaled."""

    offset: int
    shape: tuple[int, ...]
    scale: float
    by_rows: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def kept_index(share: ShareMap, piece: Piece, device: torch.device) -> Tensor:
    """Return what `cache` keeps of a piece: its signs' bits where weights are slices, else its signed index."""
    if by_slices(share):
        return _sign_bytes(share, piece, device)
    kind = torch.int32 if 2 * share.m < 2**31 else torch.int64
    return share.signed_index(piece.offset, piece.shape, by_rows=piece.by_rows, device=device).flatten().to(kind)


def by_slices(share: ShareMap) -> bool:
    """Whether weights are copied slice by slice."""
    return share.mapping == "randomfold" and share.m >= _SHORT


def recover(values: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Tensor:
    """Return the weights of a piece."""
    kept = kept_index(share, piece, values.device) if kept is None else kept
    if not by_slices(share):
        return torch.cat([values, -values]).mul_(piece.scale).index_select(0, kept).view(piece.shape)
    first, last = piece.offset // share.m, (piece.offset + piece.numel - 1) // share.m
    if last - first < _FEW:
        weights, slices = values.new_empty(piece.numel), share.slices(piece.offset, piece.numel)
        for start, signs in _signs(piece, kept, values):
            for entry, low, length in slices:
                at, end = max(low, start), min(low + length, start + len(signs))
                if at < end:
                    part = values[entry + at - low : entry + end - low]
                    torch.mul(signs[at - start : end - start], part, out=weights[at:end])
        return weights.view(piece.shape)
    starts = share.rotations(first, last).to(values.device)
    rows = torch.cat([values, values]).unfold(0, share.m, 1)[starts]  # each is the array, rotated
    weights = rows.view(-1).narrow(0, piece.offset - first * share.m, piece.numel)
    for start, signs in _signs(piece, kept, values):
        weights[start : start + len(signs)] *= signs
    return weights.view(piece.shape)


def fold(weights: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Tensor:
    """Return, for each entry, the sum over its weights of what they are times their signs and scale."""
    kept = kept_index(share, piece, weights.device) if kept is None else kept
    flat = weights.reshape(-1)
    kind = torch.float32 if flat.dtype in (torch.float16, torch.bfloat16) else flat.dtype  # sums may have many terms
    both = torch.zeros(2 * share.m, dtype=kind, device=flat.device)
    if not by_slices(share):
        both.index_add_(0, kept, flat.to(kind))
        return (both[: share.m] - both[share.m :]).mul_(piece.scale).to(flat.dtype)
    first, last = piece.offset // share.m, (piece.offset + piece.numel - 1) // share.m
    rotations = share.rotations(first, last).tolist()
    partition = 0
    for start, signs in _signs(piece, kept, flat):
        signed, at, end = signs.mul_(flat[start : start + len(signs)]), start, start + len(signs)
        while at < end:
            skipped = piece.offset + at - (first + partition) * share.m
            length = min(end - at, share.m - skipped)
            entry = rotations[partition] + skipped
            both[entry : entry + length] += signed[at - start : at - start + length]
            at += length
            partition += skipped + length == share.m
    return (both[: share.m] + both[share.m :]).to(flat.dtype)


def _signs(piece: Piece, kept: Tensor, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield, chunk by chunk of a piece, where it begins and its signs times the scale."""
    table = _byte_signs(like.dtype, like.device) * piece.scale
    on_cpu = like.device.type == "cpu"
    step = _CHUNK if on_cpu else piece.numel
    by_numpy = on_cpu and like.dtype in (torch.float32, torch.float64)  # its `take` needs no wider index
    for start in range(0, piece.numel, step):
        count = min(step, piece.numel - start)
        first, skipped = divmod(piece.offset % SIGNS_OF_A_WORD + start, 8)
        eighths = kept[first : first - (-(skipped + count) // 8)]
        if by_numpy:
            signs = torch.from_numpy(table.numpy().take(eighths.numpy(), 0))
        else:
            signs = table.index_select(0, eighths.to(torch.int32))
        yield start, signs.view(-1)[skipped : skipped + count]


@functools.lru_cache(maxsize=8)
def _byte_signs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the eight signs of each byte."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return (1 - 2 * bits).to(dtype)


def _sign_bytes(share: ShareMap, piece: Piece, device: torch.device) -> Tensor:
    """Return the bits of the signs, eight in a byte, the first weight's the lowest, from the word of the first on."""
    first, last = piece.offset // SIGNS_OF_A_WORD, (piece.offset + piece.numel - 1) // SIGNS_OF_A_WORD
    return share.sign_bytes(first, last + 1 - first, device)


class Recover(torch.autograd.Function):
    """The weights of a piece, with nothing kept for the gradient: its map is computed again."""

    @staticmethod
    def forward(values: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Tensor:
        return recover(values, share, piece, kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, ctx.share, ctx.piece, ctx.kept = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Fold.apply(gradient, ctx.share, ctx.piece, ctx.kept), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return Recover.apply(tangent, ctx.share, ctx.piece, ctx.kept)

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Any:
        return _one_by_one(Recover, in_dims[0], values, share, piece, kept)


class Fold(torch.autograd.Function):
    """The transpose of `Recover`, and so what its gradient is."""

    @staticmethod
    def forward(weights: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Tensor:
        return fold(weights, share, piece, kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, ctx.share, ctx.piece, ctx.kept = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Recover.apply(gradient, ctx.share, ctx.piece, ctx.kept), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, weights: Tensor, share: ShareMap, piece: Piece, kept: Tensor | None) -> Any:
        return _one_by_one(Fold, in_dims[0], weights, share, piece, kept)


def _one_by_one(function: Any, dim: int | None, tensor: Tensor, *args: Any) -> tuple[Tensor, int | None]:
    if dim is None:  # functorch wraps tensors that have no dimension to map over
        return function.apply(tensor, *args), None
    return torch.stack([function.apply(row, *args) for row in tensor.movedim(dim, 0)]), 0


class Scaled(torch.autograd.Function):
    """The array itself, whose gradient is divided entry by entry."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, divisor: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (gradient / ctx.saved_tensors[0]).to(gradient.dtype), None
