"""Masks of weights: the best of all layers together, and the parametrisation that keeps what they prune at zero."""

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import prune

from paperworks.core.validation import check_finite, check_number

Masks = Mapping[str, Bool[Tensor, "..."]]
PRUNABLE: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.Embedding)
Network = TypeVar("Network", bound=nn.Module)


def prunable(model: nn.Module, include: tuple[type[nn.Module], ...] = PRUNABLE) -> dict[str, nn.Module]:
    """Return the layers whose weights are pruned, by name: of the kinds, with a trainable weight, tied ones once.

    Attention computes with its output projection's weight without calling that layer, so that no mask would hold there.
    """
    uncalled = {id(part.out_proj) for part in model.modules() if isinstance(part, nn.MultiheadAttention)}
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        weight = original(layer)
        if id(layer) in uncalled or not isinstance(layer, include) or weight is None or not weight.requires_grad:
            continue
        if weight.is_meta:
            raise ValueError(f"model has the weight of {name!r} on the meta device; move it to a real one first")
        if id(weight) not in seen:
            seen.add(id(weight))
            found[name] = layer
    if not found:
        raise ValueError("model has no layer to prune: none of the kinds in `include` with a trainable weight")
    return found


def kept(count: int, density: float) -> int:
    """Return how many of so many weights are kept, one at least."""
    share = check_number("density", density, gt=0, le=1)
    return max(1, int(count * share * (1 + 1e-12)))  # the share may be a little below the one that was meant


def best(scores: Mapping[str, Float[Tensor, "..."]], count: int) -> dict[str, Bool[Tensor, "..."]]:
    """Return masks of the weights with the highest scores of all layers together, exactly `count` of them."""
    flat = torch.cat([check_finite("scores", s.detach()).flatten() for s in scores.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[flat.topk(count, sorted=False).indices] = True
    parts = mask.split([s.numel() for s in scores.values()])
    return {name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


def apply_masks(model: nn.Module, masks: Masks) -> nn.Module:
    """Set pruned weights to zero and keep them there, by the parametrisation of `torch.nn.utils.prune`.

    The layer's parameter becomes `weight_orig` and its mask the buffer `weight_mask`, as `prune.custom_from_mask` does
    it; `prune.remove(layer, "weight")` makes pruning permanent. Masks of a layer that has one already replace it, and
    those of a weight that several layers use are of all of them.

    Parameters
    ----------
    model
        The network, which is changed.
    masks
        For each layer's name, which weights stay.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    ValueError
        For a name that no layer with a weight has, as parametrised ones haven't, or a mask of another shape or with
        other numbers than 0 and 1.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> _ = apply_masks(model, {"0": torch.eye(2, dtype=torch.bool)})
    >>> int(model[0].weight.count_nonzero())
    2
    """
    layers = dict(model.named_modules())
    for name, mask in masks.items():
        layer = layers.get(name)
        weight = None if layer is None else original(layer)
        if weight is None:
            raise ValueError(f"masks have {name!r}, which is no layer of the model with a weight")
        if mask.shape != weight.shape:
            raise ValueError(f"masks have shape {tuple(mask.shape)} for {name!r}; it takes {tuple(weight.shape)}")
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"masks have other numbers than 0 and 1 for {name!r}")
    for name, mask in masks.items():
        weight = original(layers[name])
        assert weight is not None
        for layer in [part for part in model.modules() if original(part) is weight]:
            _mask(layer, weight, mask)
    return model


def copied(model: Network) -> Network:
    """Return a deep copy, also of layers whose weight a hook makes again at each call, which torch refuses to copy."""
    made = [v for part in model.modules() for v in vars(part).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in made})


def original(layer: nn.Module) -> nn.Parameter | None:
    """Return the parameter that a layer's weight is, before masks; None where it is made otherwise."""
    return layer._parameters.get("weight_orig" if "weight_mask" in layer._buffers else "weight")


def weights_of(layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of layers, before masks."""
    for name, layer in layers.items():
        yield name, original(layer)  # type: ignore[misc]


def _mask(layer: nn.Module, weight: nn.Parameter, mask: Tensor) -> None:
    if "weight_mask" in layer._buffers:
        layer.weight_mask = mask.to(weight)
        layer.weight = weight * layer.weight_mask  # a hook makes it again at each call
    else:
        prune.custom_from_mask(layer, "weight", mask.to(weight.device))
