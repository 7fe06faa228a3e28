"""What modules return, as one row of numbers and back."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Outputs:
    """What a module returns: a tensor, or several in tuples, lists and dictionaries, bounded as one row of numbers.

    Attributes
    ----------
    shapes
        Of the tensors for one sample, without the batch.
    single
        Whether it is one tensor, alone or in a tuple.
    """

    def __init__(self, shapes: list[tuple[int, ...]], single: bool, leaves: list[Any], spec: Any) -> None:
        self.shapes, self.single, self._spec = shapes, single, spec
        self._rest = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        self._count = len(leaves)

    @classmethod
    def of(cls, out: Any) -> "Outputs":
        """Take down the structure of an output of one sample."""
        leaves, spec = pytree.tree_flatten(out)
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        if not tensors:
            raise TypeError(f"module returns a {type(out).__name__}; it takes one that returns a tensor, or several")
        single = len(leaves) == 1 and isinstance(out, (Tensor, tuple, list))
        shapes = [tuple(t.shape[1:]) if t.ndim else () for t in tensors]
        return cls(shapes, single, leaves, spec)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output without the batch, of all elements of several."""
        return self.shapes[0] if self.single else (sum(map(_numel, self.shapes)),)

    def joined(self, out: Any) -> Tensor:
        """Return the tensors of an output as one, (batch, elements) where there are several."""
        tensors = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        if self.single:
            return tensors[0]
        if any(not t.ndim for t in tensors):
            raise ValueError("module returns a number among its outputs; axis 0 of each takes the batch")
        return torch.cat([t.reshape(len(t), -1) for t in tensors], 1)

    def parted(self, bound: Tensor) -> Any:
        """Return bounds of all elements, (batch, elements), in the structure of the output."""
        if self.single:
            return bound.reshape(len(bound), *self.shapes[0])
        pieces = iter(bound.flatten(1).split([_numel(s) for s in self.shapes], 1))
        shaped = iter([p.reshape(len(bound), *s) for p, s in zip(pieces, self.shapes, strict=True)])
        leaves = [self._rest[i] if i in self._rest else next(shaped) for i in range(self._count)]
        return pytree.tree_unflatten(leaves, self._spec)


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
