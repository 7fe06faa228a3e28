"""Lottery tickets by rewinding: train, prune by magnitude, go back to an early point of training, and again."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from paperworks.core.validation import check_count
from paperworks.training.pruning.masks import PRUNABLE, apply_masks, best, kept, prunable, weights_of

State = Any
Train = Callable[[nn.Module, int, int, State], State]


class LotteryTicket(NamedTuple):
    """What rewinding found.

    Parameters
    ----------
    masks
        For each layer's name, which weights stayed.
    densities
        Share of the weights that was left after each level.

    Examples
    --------
    >>> LotteryTicket({}, (0.5, 0.25)).densities[-1]
    0.25
    """

    masks: dict[str, Bool[Tensor, "..."]]
    densities: tuple[float, ...]


def lottery_ticket_rewind(
    model: nn.Module,
    train: Train,
    density: float,
    *,
    steps: int,
    rewind: int,
    levels: int = 10,
    include: tuple[type[nn.Module], ...] = PRUNABLE,
    callback: Callable[[int, nn.Module], object] | None = None,
) -> LotteryTicket:
    r"""Prune a network level by level, each time from an early point of its training, and train what is left.

    At each of L levels the network is trained to the end, the weights of least magnitude of all layers together are
    pruned to ``density^(l / L)``, and everything else, with the optimiser's state, goes back to what it was at step
    `rewind`; at last it is trained once more. Masks are those of `apply_masks`; they hold from the beginning, so
    that an optimiser's state fits its parameters at every level.

    Parameters
    ----------
    model
        The network, which is trained and pruned.
    train
        ``train(model, start, stop, state)`` trains from step `start` to before step `stop` with an optimiser of its
        own in `state`, None for a new one, and returns the state that it ends with, such as ``optimizer.state_dict()``.
    density
        Share of the weights that stay.
    steps
        Number of steps of a whole training.
    rewind
        The step to go back to.
    levels
        L; 10 by default.
    include
        Kinds of layers whose weights are pruned.
    callback
        ``callback(level, model)`` after each level's training, before it is pruned; the last is after all.

    Returns
    -------
    LotteryTicket
        Masks, and the density after each level; the network is trained with them.

    Raises
    ------
    ValueError
        For a density outside (0, 1], a step to go back to that isn't before the last, no level, or a network without
        such layers.

    References
    ----------
    arXiv 1912.05671, iterative magnitude pruning with rewinding.

    Examples
    --------
    >>> def train(model, start, stop, state):
    ...     return state
    >>> lottery_ticket_rewind(nn.Linear(4, 4), train, 0.25, steps=10, rewind=1, levels=2).densities
    (0.5, 0.25)
    """
    check_count("steps", steps)
    check_count("rewind", rewind, at_least=0, at_most=steps - 1)
    check_count("levels", levels)
    layers = prunable(model, include)
    count = sum(weight.numel() for _, weight in weights_of(layers))
    targets = [kept(count, density ** (level / levels)) for level in range(1, levels + 1)]
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights_of(layers)}
    apply_masks(model, masks)
    early = train(model, 0, rewind, None) if rewind else None
    point = copy.deepcopy(model.state_dict())
    for level, target in enumerate(targets):
        train(model, rewind, steps, copy.deepcopy(early))
        if callback is not None:
            callback(level, model)
        # What was pruned before is below every weight that was not.
        masks = best({n: torch.where(masks[n], w.detach().abs(), -1.0) for n, w in weights_of(layers)}, target)
        model.load_state_dict(point)
        apply_masks(model, masks)
    train(model, rewind, steps, copy.deepcopy(early))
    if callback is not None:
        callback(levels, model)
    return LotteryTicket(masks, tuple(target / count for target in targets))
