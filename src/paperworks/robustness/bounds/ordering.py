"""Order statistics, recorded as networks of maxima and minima, and what runs along an axis."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.capture import Decomposition, emit, tighten

aten = torch.ops.aten
_MOST = 256  # elements along an axis that is sorted: a network of them has 36 layers


def _layers(n: int) -> Iterator[tuple[list[int], list[int]]]:
    """Give the pairs that each layer of Batcher's merge exchange compares, for n elements (Knuth, 5.2.2, M)."""
    top = 1 << max(0, math.ceil(math.log2(n)) - 1) if n > 1 else 0
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            first = [i for i in range(n - d) if i & p == r]
            yield first, [i + d for i in first]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def _sorted(x: Tensor, dim: int, descending: bool = False) -> Tensor:
    """Sort along an axis; the ends of what comes out are the ends of what goes in, sorted."""
    axis = dim % x.ndim - x.ndim
    n = x.shape[axis]
    if n > _MOST:
        raise NotImplementedError(f"to sort {n} elements has no rule to bound it; up to {_MOST} have")
    out = x
    for first, second in _layers(n):
        if not first:
            continue
        a, b = (out.index_select(axis, torch.tensor(at, device=x.device)) for at in (first, second))
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        rest = [i for i in range(n) if i not in {*first, *second}]
        parts = [low, high, *([out.index_select(axis, torch.tensor(rest, device=x.device))] if rest else [])]
        order = torch.tensor([*first, *second, *rest], device=x.device).argsort()
        out = torch.cat(parts, axis).index_select(axis, order)
    if descending:
        out = out.flip(axis)

    def ends(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.sort(axis, descending=descending).values, upper.sort(axis, descending=descending).values

    return out if n < 2 else tighten(out, ends, x, terms=1)


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    return _sorted(x, dim, descending), index(x, lambda x: aten.sort(x, dim, descending)[1])


def _stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    at = index(x, lambda x: aten.sort(x, stable=stable, dim=dim, descending=descending)[1])
    return _sorted(x, dim, descending), at


def _top(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    return _sorted(x, dim, largest).narrow(dim, 0, k), index(x, lambda x: aten.topk(x, k, dim, largest, sorted)[1])


def _nth(x: Tensor, k: int, dim: int, keepdim: bool) -> Tensor:
    found = _sorted(x, dim).narrow(dim, k - 1, 1)
    return found if keepdim else found.squeeze(dim)


def _kth(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _nth(x, k, dim, keepdim), index(x, lambda x: aten.kthvalue(x, k, dim, keepdim)[1])


def _median(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    found = _nth(x, (x.shape[dim] + 1) // 2, dim, keepdim)  # torch takes the lower one of two
    return found, index(x, lambda x: aten.median(x, dim, keepdim)[1])


def index(x: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
    """Record what finds places in a sample, which are known where x is a clean input."""
    return emit("index", lambda: find(x), x, find)


def _running(combine: Any) -> Any:
    """Return what combines all elements up to each along an axis."""

    def decomposed(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        x = x if dtype is None else x.to(dtype)
        return torch.cat(list(itertools.accumulate(x.split(1, dim), combine)), dim)

    return decomposed


def _running_extreme(op: Any, combine: Any) -> Decomposition:
    run = _running(combine)
    return lambda x, dim: (run(x, dim), index(x, lambda x: op(x, dim)[1]))


def _adaptive_max_pool(x: Tensor, size: Any) -> tuple[Tensor, Tensor]:
    """Greatest elements of windows that share a space out, whether or not it divides."""
    rank = len(size)
    space = x.shape[-rank:]
    size = [n if s is None else s for s, n in zip(size, space, strict=True)]
    whole = aten.adaptive_max_pool2d if rank == 2 else aten.adaptive_max_pool3d
    at = index(x, lambda x: whole(x, size)[1])
    if all(n % s == 0 for s, n in zip(size, space, strict=True)):
        kernel = [n // s for s, n in zip(size, space, strict=True)]
        pool = aten.max_pool2d_with_indices if rank == 2 else aten.max_pool3d_with_indices
        return pool(x, kernel, kernel)[0], at
    for axis, (s, n) in enumerate(zip(size, space, strict=True), start=-rank):
        windows = [(i * n // s, -((i + 1) * n // -s)) for i in range(s)]
        x = torch.cat([x.narrow(axis, a, b - a).amax(axis, keepdim=True) for a, b in windows], axis)
    return x, at


ORDERING: dict[Any, Decomposition] = {
    aten.sort.default: _sort,
    aten.sort.stable: _stable_sort,
    aten.topk.default: _top,
    aten.kthvalue.default: _kth,
    aten.median.dim: _median,
    aten.cumprod.default: _running(torch.mul),
    aten.cummax.default: _running_extreme(aten.cummax.default, torch.maximum),
    aten.cummin.default: _running_extreme(aten.cummin.default, torch.minimum),
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.adaptive_max_pool3d.default: _adaptive_max_pool,
}
