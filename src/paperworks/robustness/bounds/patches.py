"""Coefficients that are 0 outside a box of places: what a place of a convolution depends on is a small patch of pixels.

All rows of a patch share one box, which is cut to what exists; so everything that acts on each place alone acts on the
coefficients in the box and on the values there, and a convolution makes the box larger.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.perturbations import row_dot

Box = tuple[slice, ...]


class Patch(NamedTuple):
    r"""Coefficients (rows, batch or 1, \*shape) whose last axes are cut to a box, outside of which they are 0."""

    rows: Tensor
    box: Box

    def whole(self, shape: Sequence[int]) -> Tensor:
        """Return the coefficients of all places of a node of a shape."""
        rows = self.rows.new_zeros(*self.rows.shape[:2], *shape)
        inner: Any = (..., *self.box)
        rows[inner] = self.rows
        return rows

    def plus(self, other: "Patch") -> "Patch":
        """Return the sum of two patches, in the smallest box around both."""
        if self.box == other.box:
            return Patch(self.rows + other.rows, self.box)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(self.box, other.box, strict=True))
        lead = max(self.rows.shape[1], other.rows.shape[1])
        large, small = (self, other) if self.box == box else (other, self)
        rows = large.rows.expand(-1, lead, *large.rows.shape[2:])
        shape = (*rows.shape[2 : -len(box)], *(b.stop - b.start for b in box))
        rows = rows.clone() if large.box == box else Patch(rows, large.within(box)).whole(shape)
        inner: Any = (..., *small.within(box))
        rows[inner] += small.rows
        return Patch(rows, box)

    def within(self, box: Box) -> Box:
        """Return where this box lies in a larger one."""
        return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(self.box, box, strict=True))


Rows = Tensor | Patch


def cut(rows: Tensor, box: Box, shape: Sequence[int]) -> Rows:
    """Return a patch, or coefficients as they are where the box holds all places of a node of a shape."""
    places = shape[len(shape) - len(box) :]
    return rows if all(b.stop - b.start == n for b, n in zip(box, places, strict=True)) else Patch(rows, box)


def laid_out(rows: Rows, node: Node) -> Tensor:
    """Return the coefficients of all places of a node."""
    return rows.whole(node.shape) if isinstance(rows, Patch) else rows


def opened(rows: Rows) -> tuple[Tensor, Box | None]:
    """Return the coefficients that are kept, and the box they lie in where that isn't the whole."""
    return (rows.rows, rows.box) if isinstance(rows, Patch) else (rows, None)


def closed(rows: Tensor, box: Box | None) -> Rows:
    """Return coefficients in a box as a patch."""
    return rows if box is None else Patch(rows, box)


def crop(values: Tensor, box: Box | None) -> Tensor:
    """Return values at the places of a box; an axis of length 1 stands for all of its places."""
    if box is None:
        return values
    places = values.shape[values.ndim - len(box) :]
    inner: Any = (..., *(slice(None) if n == 1 else b for b, n in zip(box, places, strict=True)))
    return values[inner]


def dot(rows: Rows, values: Tensor, node: Node) -> Tensor:
    """Return the inner product of coefficients of a node with values, (rows, batch)."""
    if not isinstance(rows, Patch):
        return row_dot(rows, values)
    values = crop(values, rows.box).expand(*values.shape[:1], *rows.rows.shape[2:])
    return row_dot(rows.rows, values, node.shape.numel())


def added(a: Rows, b: Rows, node: Node) -> Rows:
    """Return the sum of two sets of coefficients of a node."""
    if isinstance(a, Patch) and isinstance(b, Patch):
        total = a.plus(b)
        return cut(*total, node.shape)
    return laid_out(a, node) + laid_out(b, node)


def opposed(rows: Rows) -> Rows:
    """Return coefficients with the opposite ones behind them."""
    tensor, box = opened(rows)
    return closed(torch.cat([tensor, -tensor]), box)


def magnitude(rows: Rows) -> Rows:
    """Return the sizes of coefficients."""
    tensor, box = opened(rows)
    return closed(tensor.abs(), box)
