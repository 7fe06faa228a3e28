"""Projections of parameters of which each process holds a part, as `torch.distributed.fsdp.fully_shard` leaves them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(p: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`."""
    return hasattr(p, "placements") and hasattr(p, "device_mesh")


def local(p: Tensor, like: Any = None) -> Tensor:
    """Return this process's part of a tensor, laid out as another where that is asked for."""
    part: Any = p.detach()
    if not is_sharded(p):
        return part
    if like is not None and part.placements != like.placements:
        part = part.redistribute(like.device_mesh, like.placements)
    return part.to_local()


def whole_rows(p: Any) -> bool:
    """Return whether each process has all of a row."""
    return all(placement.is_replicate() or placement.is_shard(0) for placement in p.placements)


def whole(part: Tensor, like: Any) -> Tensor:
    """Return the tensor of which the processes have the parts."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def _groups(p: Any) -> list[Any]:
    """Return the groups of processes that share a tensor among them."""
    if not is_sharded(p):
        return []
    return [p.device_mesh.get_group(axis) for axis, at in enumerate(p.placements) if not at.is_replicate()]


def sums(params: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """Return <w, g>, <w, w> and <g, g> of each parameter over all processes, in double precision, and max |g|.

    Gradients are divided by the last, so that their squares don't underflow.
    """
    import torch.distributed as dist

    rows = []
    for p, grad in zip(params, grads, strict=True):
        w, g = local(p).reshape(-1).double(), local(grad, p).reshape(-1).double()
        top = g.abs().max() if len(g) else g.sum()
        groups = _groups(p)
        for group in groups:
            dist.all_reduce(top, dist.ReduceOp.MAX, group)
        g = g / torch.where(top > 0, top, 1.0)
        row = torch.stack([torch.dot(w, g), torch.dot(w, w), torch.dot(g, g)])
        for group in groups:
            dist.all_reduce(row, group=group)
        rows.append(torch.cat([row, top[None]]))
    return torch.stack([row.to(rows[0].device) for row in rows])
