"""What networks are trained and fine-tuned with: the loss, and the groups of parameters with rates of their own."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.operators.scot.norms import ConditionalLayerNorm


def split_channels(groups: Sequence[int] | None, *fields: Tensor) -> list[tuple[Tensor, ...]]:
    """Split fields into groups of channels.

    Parameters
    ----------
    groups
        How many channels each group has; None for one of all.
    *fields
        Of one shape, channels in the second axis.

    Returns
    -------
    list of tuple of Tensor
        For each group its part of each of `fields`, in single precision at least.

    Raises
    ------
    ValueError
        For fields of different shapes, and for groups that don't add up to the channels.
    """
    shapes = [tuple(f.shape) for f in fields]
    if len(set(shapes)) > 1 or len(shapes[0]) < 2 or 0 in shapes[0]:
        raise ValueError(
            f"prediction and target have shapes {shapes}; they take one shape, (batch, channels, ...), without zeros"
        )
    fields = tuple(f if f.dtype in (torch.float32, torch.float64) else f.float() for f in fields)
    if groups is None:
        return [fields]
    sizes = [check_count("groups", n) for n in groups]
    if sum(sizes) != shapes[0][1]:
        raise ValueError(f"groups is {tuple(groups)} for {shapes[0][1]} channels; it takes groups that add up to them")
    return list(zip(*(f.split(sizes, dim=1) for f in fields), strict=True))


class GroupedRelativeLoss:
    """The mean over groups of channels of error / size, each taken over the whole batch (arXiv 2405.19101).

    It is a ratio of means over the batch and not a mean of ratios, so samples with small fields don't weigh more.

    Parameters
    ----------
    groups
        How many channels each term takes together, such as (1, 2, 1) for density, velocity and pressure; None for one
        term of all.
    p
        1 for absolute values, 2 for squares.

    Raises
    ------
    ValueError
        For another exponent, and for groups that don't fit the fields.

    Examples
    --------
    >>> loss = GroupedRelativeLoss((1, 1))
    >>> target = torch.ones(2, 2, 4, 4)
    >>> round(loss(target * torch.tensor([1.0, 1.5])[:, None, None], target).item(), 4)
    0.25
    """

    def __init__(self, groups: Sequence[int] | None = None, p: int = 1) -> None:
        self.groups = None if groups is None else tuple(check_count("groups", n) for n in groups)
        self.p = check_choice("p", p, (1, 2))

    def __call__(
        self,
        prediction: Float[Tensor, "batch channels *grid"],
        target: Float[Tensor, "batch channels *grid"],
        unknown: Bool[Tensor, "batch channels *grid"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss.

        Parameters
        ----------
        prediction
            Fields of the network.
        target
            What they should be.
        unknown
            Where the target isn't known and no error counts; numbers that fill it there count to the fields' size, but
            for NaN.

        Returns
        -------
        Tensor
            One number, with its graph.
        """
        if unknown is not None:
            target = target.masked_fill(unknown & target.isnan(), 0)
            prediction = torch.where(unknown, target.detach(), prediction)
        power = (lambda t: t.abs().mean()) if self.p == 1 else (lambda t: t.square().mean())
        terms = [power(a - b) / (power(b) + 1e-10) for a, b in split_channels(self.groups, prediction, target)]
        return torch.stack(terms).mean()


def finetune_param_groups(
    model: nn.Module,
    lr: float = 5e-5,
    lr_embed: float = 5e-4,
    lr_time: float = 5e-4,
    weight_decay: float = 1e-6,
) -> list[dict[str, Any]]:
    """Return what an optimiser takes to fine-tune a network: what is new learns faster, what conditions on time too.

    Rates and decay are those of the published fine-tuning, which takes AdamW with them, a cosine decay without warm-up
    over 200 epochs, batches of 40 and gradients of norm 5 at most.

    Parameters
    ----------
    model
        A `ScOT`; parameters that take no gradient are left out.
    lr
        Rate of the backbone.
    lr_embed
        Rate of embedding and recovery.
    lr_time
        Rate of the norms that are conditioned on time.
    weight_decay
        Decay of matrices and kernels; biases and norms have none.

    Returns
    -------
    list of dict
        Groups that are not empty, each with its "name", "lr" and "weight_decay".

    Raises
    ------
    ValueError
        For negative numbers, and a network without parameters to train.

    Examples
    --------
    >>> from paperworks.operators import ScOT, ScOTConfig
    >>> config = ScOTConfig(16, 2, 1, 1, embed_dim=8, depths=(1,), num_heads=(2,), skip_blocks=(0,), window_size=4)
    >>> optimizer = torch.optim.AdamW(finetune_param_groups(ScOT(config)))
    >>> {group["name"]: group["lr"] for group in optimizer.param_groups}["backbone"]
    5e-05
    """
    for name, value in {"lr": lr, "lr_embed": lr_embed, "lr_time": lr_time, "weight_decay": weight_decay}.items():
        check_number(name, value, ge=0)
    norms = [m for m in model.modules() if isinstance(m, (ConditionalLayerNorm, nn.LayerNorm))]
    of_norms = {id(p) for m in norms for p in m.parameters()}
    of_time = {id(p) for m in norms if isinstance(m, ConditionalLayerNorm) for p in m.parameters()}
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if re.search(r"(^|\.)(embeddings|patch_recovery)\.", name):  # in a wrapper, too
            group, rate = "embedding and recovery", lr_embed
        elif id(parameter) in of_time:
            group, rate = "conditioned norms", lr_time
        else:
            group, rate = "backbone", lr
        decayed = not name.endswith("bias") and id(parameter) not in of_norms
        if not decayed and group != "conditioned norms":
            group += ", not decayed"
        settings = {"name": group, "lr": rate, "weight_decay": weight_decay if decayed else 0.0, "params": []}
        found.setdefault(group, settings)["params"].append(parameter)
    if not found:
        raise ValueError("model has no parameters that take a gradient; it takes one to be trained")
    return list(found.values())
