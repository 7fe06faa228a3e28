"""Attacks that halve their steps by themselves, and then go on from the best place found."""

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.robustness.attacks.attack import Attack, Observations, Problem, better
from paperworks.robustness.attacks.losses import AttackLoss

_LEAST_IMPROVING = 0.75  # share of the steps between two checkpoints


def checkpoints(steps: int) -> list[int]:
    """Return the numbers of steps after which the length of steps is reviewed.

    ``ceil(p_j steps)`` with ``p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``.

    Examples
    --------
    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares, found = [0.0, 0.22], []
    while shares[-1] <= 1:
        found.append(math.ceil(round(shares[-1] * steps, 9)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted(set(found))


class _AutoStep(Attack):
    def __init__(
        self,
        loss: AttackLoss,
        eps: float,
        norm: float = math.inf,
        steps: int = 100,
        *args: Any,
        step_size: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(loss, eps, norm, steps, *args, **options)
        self.step_size = step_size if step_size is None else check_number("step_size", step_size, gt=0)

    def _search(self, problem: Problem, x: Observations) -> tuple[Observations, Float[Tensor, " batch"]]:
        region = problem.region
        length = 2 * region.eps if self.step_size is None else torch.full_like(region.eps, self.step_size)
        losses, gradient = problem.gradient(x)
        best: tuple[Tensor, ...] = (losses, x, gradient)
        before, direction = x, gradient
        improved = torch.zeros_like(losses)
        last, best_then, halved_then = 0, losses, torch.ones_like(losses, dtype=torch.bool)
        reviews = set(checkpoints(self.steps))
        for step in range(1, self.steps + 1):
            before, x = x, self._moved(problem, x, before, direction, length, first=step == 1)
            if step == self.steps:
                best = better(best, problem.value(x), x, gradient)
                break
            old_losses, old_gradient = losses, gradient
            losses, gradient = problem.gradient(x)
            direction = self._direction(gradient, old_gradient, direction)
            improved += losses > old_losses
            best = better(best, losses, x, gradient)
            if step in reviews:
                slow = improved < _LEAST_IMPROVING * (step - last)
                stuck = ~halved_then & (best[0] <= best_then)
                halved_then = slow | stuck
                again = halved_then[:, None]
                length = torch.where(again, length / 2, length)
                losses = torch.where(halved_then, best[0], losses)
                x, gradient = torch.where(again, best[1], x), torch.where(again, best[2], gradient)
                direction = torch.where(again, gradient, direction)
                last, best_then = step, best[0]
                improved = torch.zeros_like(improved)
        return best[1], best[0]

    @abstractmethod
    def _moved(
        self, problem: Problem, x: Tensor, before: Tensor, direction: Tensor, length: Tensor, first: bool
    ) -> Tensor:
        """Return the next points."""

    def _direction(self, gradient: Tensor, old_gradient: Tensor, direction: Tensor) -> Tensor:
        """Return the next directions."""
        return gradient


class APGD(_AutoStep):
    """Projected gradient ascent with momentum and steps that start at ``2 eps`` and are halved where progress is slow.

    Parameters
    ----------
    step_size
        Length of the first steps.
    loss, eps, norm, steps, restarts, mask, bounds, options
        As in every attack; see `ACG`.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Croce and Hein, arXiv 2003.01690, algorithm 1: ``z = P(x + eta s)``, then ``P(x + 0.75 (z - x) + 0.25 (x - x'))``
    with the point before, x'. At `checkpoints` steps are halved, and the search goes on from the best point, where
    less than 3 in 4 steps raised the loss, or neither length nor best loss changed since the last one.

    Examples
    --------
    >>> from paperworks.robustness import CrossEntropyLoss
    >>> APGD(CrossEntropyLoss(), eps=0.1, steps=5)(torch.nn.Identity(), torch.tensor([[0.6, 0.5]])).adv
    tensor([[0.5000, 0.6000]])
    """

    def _moved(
        self, problem: Problem, x: Tensor, before: Tensor, direction: Tensor, length: Tensor, first: bool
    ) -> Tensor:
        region = problem.region
        z = region.project(x + length * region.steepest(direction, x))
        return z if first else region.project(x + 0.75 * (z - x) + 0.25 * (x - before))


class ACG(_AutoStep):
    """Projected ascent along conjugate gradients, with the same review of steps as `APGD`: the paper's main attack.

    Parameters
    ----------
    loss
        What to raise.
    eps
        Greatest distance from the true observation.
    norm
        Norm of the distance: infinity, 2 or 1.
    steps
        Number of gradients in each search.
    restarts
        Number of searches, all but the first from random places; the best result of all is kept.
    mask
        Ones or True where features may change; everywhere by default. Calendar features are best left alone.
    bounds
        Least and greatest value of features: two numbers, or tensors with a number for each.
    step_size
        Length of the first steps; ``2 eps`` by default.
    options
        ``drift``: if given, features stay within this distance of the previous observation too, or of the true one if
        that is farther away. ``random_start``: whether the first search starts at random as well, which losses need
        that are flat at the true observation. ``random_state``: seed of the starts.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Yamamura and others, arXiv 2206.09628: directions ``s_k = g_k + beta_k s_{k-1}`` with Hestenes and Stiefel's
    ``beta_k = -<g_k, d> / <s_{k-1}, d>``, ``d = g_{k-1} - g_k``, or 0 where the denominator is about 0.

    Examples
    --------
    >>> from paperworks.robustness import BifurcationLayer, GroupDifferenceLogitsLoss
    >>> torch.manual_seed(0) and None
    >>> policy = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 6))
    >>> attack = ACG(GroupDifferenceLogitsLoss(), eps=0.5, mask=torch.tensor([0, 1, 1, 1]))
    >>> result = attack(BifurcationLayer(policy), torch.full((1, 4), 0.5))
    >>> result.success, result.adv[0, 0], result.n_grad
    (tensor([True]), tensor(0.5000), tensor([100]))
    """

    def _moved(
        self, problem: Problem, x: Tensor, before: Tensor, direction: Tensor, length: Tensor, first: bool
    ) -> Tensor:
        return problem.region.project(x + length * problem.region.steepest(direction, x))

    def _direction(self, gradient: Tensor, old_gradient: Tensor, direction: Tensor) -> Tensor:
        change = old_gradient - gradient
        above, below = -(gradient * change).sum(1, keepdim=True), (direction * change).sum(1, keepdim=True)
        scale = direction.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        safe = below.abs() > 1e-6 * scale
        return gradient + torch.where(safe, above / torch.where(safe, below, 1), 0) * direction
