"""The kept part of feature maps: how it grows through a network, and the means of neighbours that fill its border.

All of it depends on the mask alone, so a region remembers what was worked out for it, and networks, images and layers
that share a mask share the work.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-5  # in the mean of neighbours: the official code's, which makes a fill smaller by that factor


@dataclass(frozen=True, eq=False)
class Band:
    """The places next to a region, and the kept neighbours of each."""

    rows: Int64[Tensor, " n"]
    neighbours: Int64[Tensor, " m"]
    starts: Int64[Tensor, " n"]  # of each place's neighbours
    weights: Float[Tensor, " m"]

    def mean(self, values: Float[Tensor, "places channels"]) -> Float[Tensor, "n channels"]:
        """Return the means of the neighbours' values."""
        return functional.embedding_bag(
            self.neighbours, values, self.starts, mode="sum", per_sample_weights=self.weights.to(values.dtype)
        )


@dataclass(frozen=True, eq=False)
class Region:
    """The kept places of a batch of feature maps.

    Parameters
    ----------
    kept
        True where kept.
    inside
        False where an explicit padding was laid around the image: neither kept nor hidden, nor ever filled.
    """

    kept: Bool[Tensor, "batch height width"]
    inside: Bool[Tensor, "height width"] | None = None
    _grown: dict[Any, "Region"] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.kept.shape[1], self.kept.shape[2]

    @functools.cached_property
    def hidden(self) -> Bool[Tensor, "batch height width"]:
        """True where the image is hidden."""
        return ~self.kept if self.inside is None else self.inside & ~self.kept

    @functools.cached_property
    def hidden_rows(self) -> Int64[Tensor, " n"]:
        """Indices of the hidden places in the batch's list of places."""
        return self.hidden.flatten().nonzero()[:, 0]

    @property
    def full(self) -> bool:
        """Whether nothing is hidden."""
        return not len(self.hidden_rows)

    @functools.cached_property
    def image(self) -> Bool[Tensor, "height width"]:
        """True where there is image at all."""
        return torch.ones_like(self.kept[0]) if self.inside is None else self.inside

    @functools.cached_property
    def fraction(self) -> Float[Tensor, " batch"]:
        """Share of each image that is kept."""
        return self.kept.flatten(1).sum(1).double() / self.image.sum()

    # What layers make of it

    def through(self, pool: Callable[[Tensor], Tensor], key: Any) -> "Region":
        """Return the region that sees any of this one, by a pooling of its mask; `key` names the pooling."""
        if key not in self._grown:
            kept, image = (pool(m.float())[:, 0] > 0 for m in (self.kept[:, None], self.image[None, None]))
            self._grown[key] = self._or_itself(kept) if image.all() else Region(kept, image[0])
        return self._grown[key]

    def convolved(self, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any) -> "Region":
        """Return the region of a convolution's output: kept where any of its window is."""
        geometry = (kernel, stride, padding, dilation)
        return self.through(lambda m: _count(m, *geometry), ("conv", *map(str, geometry)))

    def share(self, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any) -> Float[Tensor, "batch 1 h w"]:
        """Return which share of the image in each window of a convolution is kept."""
        kept, image = (
            _count(m, kernel, stride, padding, dilation) for m in (self.kept[:, None], self.image[None, None])
        )
        return kept.double() / image.clamp_min(1)

    def padded(self, amounts: tuple[int, int, int, int], mode: str) -> "Region":
        """Return the region within a larger map: of constants around the image, else of its own places."""
        kept = self.kept[:, None].float()
        if mode != "constant":
            return Region(functional.pad(kept, amounts, mode)[:, 0] > 0)
        return Region(functional.pad(self.kept, amounts), functional.pad(self.image, amounts))

    def intersection(self, other: "Region") -> "Region":
        """Return what both keep."""
        return self if self is other else self._or_itself(self.kept & other.kept)

    def union(self, other: "Region") -> "Region":
        """Return what either keeps."""
        return self if self is other else self._or_itself(self.kept | other.kept)

    def _or_itself(self, kept: Bool[Tensor, "batch h w"]) -> "Region":
        # The same mask in the same object keeps what was worked out for it.
        return self if self.inside is None and torch.equal(kept, self.kept) else Region(kept)

    # How its border is filled

    def bands(self, n: int) -> "list[Band]":
        """Return the first `n` bands around the region, each of places that touch it or the bands before."""
        bands, frontier = self._growth
        while len(bands) < n and frontier:
            kept = frontier.pop()
            band, grown = _band(kept, self.hidden)
            if band is not None:
                bands.append(band)
                frontier.append(grown)
        return bands[:n]

    @functools.cached_property
    def _growth(self) -> "tuple[list[Band], list[Tensor]]":
        return [], [self.kept]

    def fill(self, rows: Float[Tensor, "places channels"], n: int) -> Float[Tensor, "places channels"]:
        """Return values with zeros for hidden places, save those in the first `n` bands, which get means of neighbours.

        Values go by place, over batch, height and width.
        """
        # A copy with rows written into it is several times faster than a `where` over all channels.
        filled = rows.clone().index_fill_(0, self.hidden_rows, 0)
        for band in self.bands(n):
            filled.index_copy_(0, band.rows, band.mean(filled))
        return filled


Concat = Literal["union", "majority"]


def joined(regions: list[Region], rule: Concat) -> Region:
    """Return the region of a concatenation: kept by any, or by more than half."""
    if rule == "union":
        return functools.reduce(Region.union, regions)
    votes = torch.stack([r.kept for r in regions]).sum(0)
    return regions[0]._or_itself(2 * votes > len(regions))


def _count(kept: Tensor, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any) -> Tensor:
    """Return how many kept places each window of a convolution holds."""
    with torch.autocast(kept.device.type, enabled=False):
        ones = torch.ones(1, 1, *kernel, device=kept.device)
        return functional.conv2d(kept.float(), ones, None, stride, padding, dilation).round()


def _band(
    kept: Bool[Tensor, "batch h w"], hidden: Bool[Tensor, "batch h w"]
) -> "tuple[Band | None, Bool[Tensor, 'batch h w']]":
    near = functional.max_pool2d(kept.float(), 3, 1, 1) > 0
    new = near & hidden & ~kept
    rows = new.flatten().nonzero()[:, 0]
    if not len(rows):
        return None, kept
    places = torch.arange(kept.numel(), device=kept.device).view(kept.shape)
    around = functional.pad(torch.where(kept, places, -1), (1, 1, 1, 1), value=-1)
    candidates = around.unfold(1, 3, 1).unfold(2, 3, 1)[new].flatten(1)
    valid = candidates >= 0
    counts = valid.sum(1)
    weights = torch.repeat_interleave(1 / (counts.double() + _EPSILON), counts)
    return Band(rows, candidates[valid], counts.cumsum(0) - counts, weights), kept | new
