"""Attacks whose steps all have the same length."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number
from paperworks.robustness.attacks.attack import Attack, Observations, Problem, better
from paperworks.robustness.attacks.losses import AttackLoss


class PGD(Attack):
    """Projected gradient ascent: steps along the steepest direction, back into the ball and the box after each.

    Parameters
    ----------
    step_size
        Length of a step; 2.5 ``eps / steps`` by default.
    loss, eps, norm, steps, restarts, mask, bounds, options
        As in every attack; see `ACG`.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Madry and others, arXiv 1706.06083.

    Examples
    --------
    >>> from paperworks.robustness import BifurcationLayer, GroupDifferenceLogitsLoss
    >>> policy = torch.nn.Linear(2, 1, bias=False)
    >>> _ = policy.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    >>> attack = PGD(GroupDifferenceLogitsLoss(), eps=0.1, steps=10)
    >>> result = attack(BifurcationLayer(policy), torch.tensor([[0.6, 0.5]]))
    >>> result.adv, result.success
    (tensor([[0.5000, 0.6000]]), tensor([True]))
    """

    def __init__(
        self,
        loss: AttackLoss,
        eps: float,
        norm: float = math.inf,
        steps: int = 40,
        *args: Any,
        step_size: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(loss, eps, norm, steps, *args, **options)
        self.step_size = step_size if step_size is None else check_number("step_size", step_size, gt=0)

    def _search(self, problem: Problem, x: Observations) -> tuple[Observations, Float[Tensor, " batch"]]:
        region = problem.region
        length = 2.5 * region.eps / self.steps if self.step_size is None else self.step_size
        best: tuple[Tensor, ...] = (torch.full_like(x[:, 0], -torch.inf), x)
        for _ in range(self.steps):
            losses, gradient = problem.gradient(x)
            best = better(best, losses, x)
            x = region.project(x + length * region.steepest(gradient, x))
        losses, x = better(best, problem.value(x), x)
        return x, losses


class FGSM(PGD):
    """One step, as long as the ball allows, along the steepest direction.

    Parameters
    ----------
    loss, eps, norm, mask, bounds, options
        As in every attack; see `ACG`.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Goodfellow and others, arXiv 1412.6572; with norm 2 the step is along the gradient, with norm 1 along one feature.

    Examples
    --------
    >>> from paperworks.robustness import CrossEntropyLoss
    >>> FGSM(CrossEntropyLoss(), eps=0.1)(torch.nn.Identity(), torch.tensor([[0.6, 0.5]])).adv
    tensor([[0.5000, 0.6000]])
    """

    def __init__(self, loss: AttackLoss, eps: float, norm: float = math.inf, **options: Any) -> None:
        super().__init__(loss, eps, norm, 1, step_size=max(eps, 1e-30), **options)

    def _search(self, problem: Problem, x: Observations) -> tuple[Observations, Float[Tensor, " batch"]]:
        region = problem.region
        before, gradient = problem.gradient(x)
        moved = region.project(x + region.eps * region.steepest(gradient, x))
        losses, found = better((before, x), problem.value(moved), moved)
        return found, losses
