"""Operators that write into places of a tensor, recorded as choices between both or as sums."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.capture import Decomposition, is_moving

aten = torch.ops.aten
_quietly = torch.utils._python_dispatch._disable_current_modes


def _chosen(x: Tensor, source: Tensor, places: Tensor) -> Tensor:
    """Return x, with elements of a source where `places` names one and not -1."""
    return torch.where((places >= 0).to(x.device), source.reshape(-1)[places.clamp(min=0).to(x.device)], x)


def _copy_into(into: Callable[..., Tensor]) -> Decomposition:
    """Write a slice or a selection into a tensor."""

    def decomposed(x: Tensor, source: Tensor, *where: Any) -> Tensor:
        with _quietly():
            numbers = torch.arange(source.numel()).reshape(source.shape)
            places = into(torch.full(x.shape, -1), numbers, *where)
        return _chosen(x, source, places)

    return decomposed


def _scatter(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    if is_moving(index):
        return NotImplemented
    with _quietly():
        numbers = torch.arange(source.numel()).reshape(source.shape)
        numbers = numbers[tuple(slice(n) for n in index.shape)]
        places = torch.full(x.shape, -1).scatter(dim, index.cpu(), numbers)
    return _chosen(x, source, places)


def _scatter_number(x: Tensor, dim: int, index: Tensor, number: float) -> Any:
    if is_moving(index):
        return NotImplemented
    with _quietly():
        mask = torch.zeros(x.shape, dtype=torch.bool).scatter(dim, index.cpu(), True).to(x.device)
    return torch.where(mask, torch.full_like(x, number), x)


def _scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    if is_moving(index):
        return NotImplemented
    with _quietly():
        places = torch.arange(x.numel()).reshape(x.shape)
        # Along other axes the index may be shorter than x, and never longer.
        places = places.gather(dim, index.cpu()).reshape(-1).to(x.device)
    part = source[tuple(slice(n) for n in index.shape)].reshape(-1)
    return x.reshape(-1).index_add(0, places, part).reshape(x.shape)


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Any:
    return NotImplemented if alpha == 1 else aten.index_add(x, dim, index, source * alpha)


PLACING: dict[Any, Decomposition] = {
    aten.select_scatter.default: _copy_into(aten.select_scatter.default),
    aten.slice_scatter.default: _copy_into(aten.slice_scatter.default),
    aten.index_add.default: _index_add,
    aten.scatter.src: _scatter,
    aten.scatter.value: _scatter_number,
    aten.scatter_add.default: _scatter_add,
}
