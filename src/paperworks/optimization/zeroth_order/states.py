"""Where a training is, for a machine that joins it: the log, and the weights where the log alone doesn't lead there."""

import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from paperworks.optimization.zeroth_order.log import TrainingLog

_HEAD = struct.Struct("<QIh8s")


def packed(optimiser: Any, t: int, digest: bytes, then: bytes | None) -> bytes:
    """Return the rounds since `t` for one that was at the same weights then, and all with the weights for another.

    `digest` is that machine's in round t, and `then` this machine's, where it saw that round.
    """
    log, weights = optimiser.log, b""
    knows = digest == (optimiser.digest if t == optimiser.round else then)
    if knows and (t == optimiser.round or log.get(t)):
        log = TrainingLog(log.recipe, [r for r in log.rounds if r.t >= t])
    else:
        optimiser.restore()
        weights = weights_to_bytes(optimiser.tensors)
    rounds = log.to_bytes()
    return _HEAD.pack(len(rounds), optimiser.round, optimiser.shift, optimiser.digest) + rounds + weights


def take_over(optimiser: Any, content: bytes, digests: dict[int, bytes]) -> bytes:
    """Bring an optimiser to a state, noting the digests of the rounds between, and return the digest to be reached."""
    size, t, shift, digest = _HEAD.unpack_from(content)
    log, weights = content[_HEAD.size : _HEAD.size + size], content[_HEAD.size + size :]
    history = TrainingLog.from_bytes(log)
    recipe = replace(optimiser.recipe, factors=history.recipe.factors)
    if recipe != history.recipe or (history.rounds and history.t != t):
        raise ValueError(f"a state of round {t} whose log ends at {history.t}")
    if len(recipe.factors) > len(optimiser.tensors):
        raise ValueError(f"{len(recipe.factors)} factors for {len(optimiser.tensors)} tensors")
    if weights:
        memory = history.memory([group["params"] for group in optimiser.param_groups])
        overwrite(optimiser.tensors, weights)
        optimiser._go_to(recipe, t, shift, digest, memory)
        optimiser.log = history
    else:
        for found in history.rounds:
            digests[optimiser.round] = optimiser.digest
            optimiser.apply(found)
    return digest


def weights_to_bytes(params: Iterable[Tensor]) -> bytes:
    """Return all entries of tensors as they are in memory."""
    return b"".join(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for p in params)


@torch.no_grad()
def overwrite(params: list[Tensor], data: bytes) -> None:
    """Set tensors to what `weights_to_bytes` returned."""
    sizes = [p.numel() * p.element_size() for p in params]
    if len(data) != sum(sizes):
        raise ValueError(f"weights of {len(data)} bytes; they take {sum(sizes)}")
    parts = torch.frombuffer(bytearray(data), dtype=torch.uint8).split(sizes)
    for p, part in zip(params, parts, strict=True):
        p.copy_(part.clone().view(p.dtype).view(p.shape))
