"""What rules exchange: ends, linear bounds, coefficients; and how an operator of one sample takes many."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.robustness.bounds.graph import Node


class Interval(NamedTuple):
    """Elementwise ends of a value."""

    lower: Tensor
    upper: Tensor


class LinearBounds(NamedTuple):
    """Linear functions of the perturbed coordinates around a value: weights (d, batch, *shape), biases without d."""

    lower_weight: Tensor
    lower_bias: Tensor
    upper_weight: Tensor
    upper_bias: Tensor


class Backward(NamedTuple):
    """What a node hands to its inputs: coefficients for each, and what falls out as a constant (rows, batch)."""

    coefficients: list[tuple[Node, Any]]
    constant: Tensor | float = 0.0


def batched(op: Any, lead: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an operator of one sample to arguments with `lead` axes in front, of equal lengths or 1."""
    tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    shape = torch.broadcast_shapes(*(t.shape[:lead] for t in tensors))
    if shape.numel() == 1:
        args, kwargs = torch.utils._pytree.tree_map_only(Tensor, lambda t: t[(0,) * lead], (args, kwargs))
        return torch.utils._pytree.tree_map_only(Tensor, lambda t: t[(None,) * lead], op(*args, **kwargs))
    alone = (1,) * lead

    def flat(t: Tensor) -> Tensor:
        return t[(0,) * lead] if t.shape[:lead] == alone else t.expand(*shape, *t.shape[lead:]).flatten(0, lead - 1)

    flat_args, spec = torch.utils._pytree.tree_flatten((args, kwargs))
    dims = tuple(0 if isinstance(t, Tensor) and t.shape[:lead] != alone else None for t in flat_args)
    flat_args = [flat(t) if isinstance(t, Tensor) else t for t in flat_args]

    def run(*values: Any) -> Any:
        args, kwargs = torch.utils._pytree.tree_unflatten(list(values), spec)
        return op(*args, **kwargs)

    out = torch.vmap(run, in_dims=dims)(*flat_args)
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.unflatten(0, shape), out)
