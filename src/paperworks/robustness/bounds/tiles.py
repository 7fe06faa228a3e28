"""Which rows a backward pass carries together: those that begin near each other, as many as stay in the cache."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paperworks.robustness.bounds.bilinear import ConvolutionRule, layout
from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.patches import Box
from paperworks.robustness.bounds.registry import rule_of, takes_patches

_CACHE = 16e6  # bytes of rows and of what their rules make of them
_NODE, _PRODUCT, _COEFFICIENT = 6e-5, 1e-11, 6e-10  # seconds that each takes in a pass
_SIDES = (1, 2, 4, 8, 16)  # of tiles

Piece = tuple[Tensor, Box | None]


class Effort(NamedTuple):
    """What a row of a pass takes: products, coefficients, and bytes where it is widest."""

    products: float
    coefficients: float
    bytes: float


def rows_at_once(call: Call, bytes_per_row: float) -> int:
    """Return how many rows a pass takes: all that fit in memory where they share parameters, else in the cache."""
    memory = call.options.memory if _is_shared(call) else min(call.options.memory, _CACHE)
    return max(1, int(memory / bytes_per_row))


def _is_shared(call: Call) -> bool:
    return call.freedom is not None and call.freedom.shared


def tiled(call: Call, node: Node, index: Tensor) -> list[Piece]:
    """Return flat elements of a node by the passes that read them out, and the box of places each begins with."""
    whole: list[Piece] = [(piece, None) for piece in index.split(rows_at_once(call, 2 * call.bytes_per_row(node)))]
    rank = 0 if _is_shared(call) else _spatial(call, node)
    if not rank:
        return whole
    places = node.shape[len(node.shape) - rank :]
    side, most = max(places), 0
    least = _seconds(call, node, len(index), len(whole), _effort(call, node, places))
    for candidate in _SIDES:
        if candidate >= max(places):
            break
        effort = _effort(call, node, torch.Size(min(candidate, n) for n in places))
        together, tiles = rows_at_once(call, 2 * effort.bytes), math.prod(-(-n // candidate) for n in places)
        passes = tiles * -(-len(index) // (tiles * together))
        seconds = _seconds(call, node, len(index), passes, effort)
        if seconds < least:
            side, least, most = candidate, seconds, together
    return _pieces(index, places, side, most) if most else whole


def _spatial(call: Call, node: Node) -> int:
    """Return how many axes of places a node has: those of a convolution that it is made of place by place, or 0."""
    waiting, seen = [node], set()
    while waiting:
        top = waiting.pop()
        if top in seen or top in call.perturbations:
            continue
        seen.add(top)
        if takes_patches(top, call):
            if isinstance(rule_of(top), ConvolutionRule):
                return len(top.args[1].shape) - 2
            waiting += [n for n in top.inputs if n in call.perturbed]
    return 0


def _effort(call: Call, start: Node, sides: torch.Size) -> Effort:
    """Return what a row takes that begins in a box of given sides, away from borders."""
    key = (start, sides, call.batch, call.dtype, *call.roots)
    if key not in call.graph.plans:
        call.graph.plans[key] = _planned(call, start, sides)
    return call.graph.plans[key]


def _planned(call: Call, start: Node, sides: torch.Size) -> Effort:
    rank, widest, products, total = len(sides), 0.0, 0.0, 0.0
    lengths: dict[Node, torch.Size] = {start: sides}
    for node in reversed(call.relevant(start)):
        places, length = node.shape[len(node.shape) - rank :], lengths.get(node)
        count = node.shape.numel()
        if length is not None and count:
            count = count // places.numel() * length.numel()
        widest, total = max(widest, count), total + count
        if node in call.perturbations:
            continue
        rule = rule_of(node)
        local = length is not None and takes_patches(node, call)
        if isinstance(rule, ConvolutionRule):
            products += count * node.args[1].shape[1:].numel()
            if local:
                length = _grown(node, length)
        for source in node.inputs:
            if local and source in call.perturbed:
                assert length is not None
                known = lengths.get(source, length)
                lengths[source] = torch.Size(max(a, b) for a, b in zip(length, known, strict=True))
    item = torch.finfo(call.dtype).bits / 8
    return Effort(call.batch * products, call.batch * total, 4 * item * call.batch * widest)


def _grown(node: Node, length: torch.Size | None) -> torch.Size:
    """Return the sides of the box that a convolution makes of a box."""
    assert length is not None
    reach = layout(node)[0].reach(tuple(slice(0, n) for n in length))
    return torch.Size(min(n, m) for n, (_, m) in zip(node.args[0].shape[2:], reach, strict=True))


def _seconds(call: Call, node: Node, count: int, passes: int, effort: Effort) -> float:
    by_rows = 2 * count * (effort.products * _PRODUCT + effort.coefficients * _COEFFICIENT)
    return passes * len(call.relevant(node)) * _NODE + by_rows


def _pieces(index: Tensor, places: torch.Size, side: int, most: int) -> list[Piece]:
    """Return elements by tiles of places, no more than `most` together, and the tiles' boxes."""
    counts = [math.ceil(n / side) for n in places]
    at = torch.unravel_index(index % places.numel(), tuple(places))
    tile = torch.zeros_like(index)
    for position, count in zip(at, counts, strict=True):
        tile = tile * count + position // side
    order = torch.argsort(tile, stable=True)
    kept, sizes = torch.unique_consecutive(tile[order], return_counts=True)
    found: list[Piece] = []
    for number, part in zip(kept.tolist(), index[order].split(sizes.tolist()), strict=True):
        corner: list[int] = []
        for count in reversed(counts):
            corner.insert(0, number % count * side)
            number //= count
        box = tuple(slice(c, min(c + side, n)) for c, n in zip(corner, places, strict=True))
        found += [(piece, box) for piece in part.split(most)]
    return found


def one_hot_rows(node: Node, index: Tensor, like: Tensor, box: Box | None) -> Tensor:
    """Return rows that read out single elements of a node, all in a box."""
    shape = node.shape
    if box is not None:
        places = shape[len(shape) - len(box) :]
        at = torch.unravel_index(index % places.numel(), tuple(places))
        inside = torch.Size(b.stop - b.start for b in box)
        place = index // places.numel()
        for position, b, n in zip(at, box, inside, strict=True):
            place = place * n + (position - b.start)
        index, shape = place, torch.Size((*shape[: len(shape) - len(box)], *inside))
    rows = like.new_zeros(len(index), shape.numel())
    rows[torch.arange(len(index), device=index.device), index] = 1
    return rows.reshape(-1, 1, *shape)
