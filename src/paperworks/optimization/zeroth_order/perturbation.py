"""Losses on both sides of the weights: ways that differ in memory, drift, and what they ask of the function."""

import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from paperworks.optimization.zeroth_order.directions import CHUNK, Stream, add_direction


class Place(NamedTuple):
    """A parameter, where it begins in a direction, and how far it is perturbed to both sides."""

    p: Tensor
    offset: int
    plus: float
    minus: float

    def side(self, sign: int) -> float:
        return self.plus if sign > 0 else -self.minus


def from_kept_copies(places: list[Place], stream: Stream, loss: Callable[[], Any]) -> tuple[Any, Any]:
    """Overwrite the weights, and put them back from a copy."""
    bases = [place.p.detach().clone() for place in places]
    try:
        found = []
        for sign in (1, -1):
            for place, base in zip(places, bases, strict=True):
                add_direction(place.p, base, place.side(sign), stream, place.offset)
            found.append(loss())
    finally:
        torch._foreach_copy_([place.p for place in places], bases)
    return found[0], found[1]


def there_and_back(places: list[Place], stream: Stream, loss: Callable[[], Any]) -> tuple[Any, Any]:
    """Move the weights there and back: nothing is kept, and what rounding leaves stays."""
    at = dict.fromkeys(range(len(places)), 0.0)

    def go(sign: int) -> None:
        for number, place in enumerate(places):
            to = place.side(sign) if sign else 0.0
            add_direction(place.p, place.p, to - at[number], stream, place.offset)
            at[number] = to

    try:
        found = []
        for sign in (1, -1):
            go(sign)
            found.append(loss())
    finally:
        go(0)
    return found[0], found[1]


def in_copies(places: list[Place], stream: Stream, loss: Callable[[], Any]) -> tuple[Any, Any]:
    """Give each function of torch perturbed copies of the weights that it takes, and no others."""
    by_id, found = {id(place.p): place for place in places}, []
    for sign in (1, -1):
        with _Replaced(by_id, stream, sign):
            found.append(loss())
    return found[0], found[1]


def stacked(places: list[Place], stream: Stream) -> list[Tensor]:
    """Return each parameter perturbed to both sides, one before the other."""
    pairs = []
    for place in places:
        pair = torch.stack([place.p.detach()] * 2)
        for row, sign in zip(pair, (1, -1), strict=True):
            add_direction(row, row, place.side(sign), stream, place.offset)
        pairs.append(pair)
    return pairs


class Backup:
    """Weights in a file, whose memory nobody needs."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.save(params)

    def save(self, params: Iterable[Tensor]) -> None:
        """Keep weights."""
        self.file.seek(0)
        for p in params:
            flat = p.detach().contiguous().view(-1)
            for start in range(0, len(flat), CHUNK):
                self.file.write(flat[start : start + CHUNK].cpu().view(torch.uint8).numpy().data)

    def restore(self, params: Iterable[Tensor]) -> None:
        """Overwrite weights with what was kept."""
        self.file.seek(0)
        for p in params:
            flat = p.detach().contiguous().view(-1)
            for start in range(0, len(flat), CHUNK):
                part = flat[start : start + CHUNK]
                data = bytearray(self.file.read(part.numel() * part.element_size()))
                part.copy_(torch.frombuffer(data, dtype=p.dtype))
            if flat.data_ptr() != p.data_ptr():
                p.copy_(flat.view(p.shape))


_PROPERTIES = {"data", "T", "mT", "H", "mH", "real", "imag"}  # those that give entries
_DESCRIBE = {
    Tensor.size, Tensor.stride, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.is_contiguous,
    Tensor.is_floating_point, Tensor.is_complex, Tensor.is_pinned, Tensor.element_size, Tensor.get_device,
    Tensor.__len__, Tensor.__hash__,
}  # fmt: skip


class _Replaced(TorchFunctionMode):
    """Gives functions of torch a perturbed copy of each parameter, for the one call."""

    def __init__(self, places: dict[int, Place], stream: Stream, sign: int) -> None:
        super().__init__()
        self.places, self.stream, self.sign = places, stream, sign

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        describes = func in _DESCRIBE or (name == "__get__" and func.__self__.__name__ not in _PROPERTIES)
        if describes:
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._perturbed, (args, kwargs))
        return func(*args, **kwargs)

    def _perturbed(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or id(x) not in self.places:
            return x
        place = self.places[id(x)]
        copy = torch.empty_like(place.p, memory_format=torch.contiguous_format)
        add_direction(copy, place.p.detach(), place.side(self.sign), self.stream, place.offset)
        return copy
