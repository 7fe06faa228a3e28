"""Attacks that look for the smallest distortion that succeeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_finite, check_number
from paperworks.robustness.attacks.attack import Attack, AttackResult, Observations, Problem, on_flat, unflattened
from paperworks.robustness.attacks.losses import AttackLoss, Reference
from paperworks.robustness.attacks.region import lengths

_BISECTIONS = 10


class FMN(Attack):
    """The fast minimum-norm attack: a ball that shrinks where the attack succeeds and grows where it doesn't.

    A search may start from another observation at which the attack already succeeds, moved towards the true one by
    bisection. An observation for which nothing within `eps` succeeds stays as it is.

    Parameters
    ----------
    eps
        Greatest distance that counts; any by default.
    pool
        Observations to start from, such as others that were seen; of those that succeed the nearest is taken. Without
        one the search starts at the true observation.
    shrink
        Share by which a ball first shrinks or grows; it falls to 0 along a cosine.
    step_size
        Length of the first steps, which fall to a hundredth along a cosine.
    loss, norm, steps, restarts, mask, bounds, options
        As in every attack; see `ACG`. A loss is above 0 where it succeeds, as differences of logits are.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    Pintor and others, arXiv 2102.12827, algorithm 1; the start by bisection is that of Brendel and others, arXiv
    1907.01003.

    Examples
    --------
    >>> from paperworks.robustness import BifurcationLayer, GroupDifferenceLogitsLoss
    >>> policy = torch.nn.Linear(2, 1, bias=False)
    >>> _ = policy.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    >>> result = FMN(GroupDifferenceLogitsLoss())(BifurcationLayer(policy), torch.tensor([[0.7, 0.5]]))
    >>> result.norm.round(decimals=2)
    tensor([0.1000])
    """

    def __init__(
        self,
        loss: AttackLoss,
        eps: float = math.inf,
        norm: float = math.inf,
        steps: int = 100,
        *args: Any,
        pool: Observations | None = None,
        shrink: float = 0.05,
        step_size: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(loss, eps, norm, steps, *args, **options)
        self.pool = pool
        self.shrink = check_number("shrink", shrink, gt=0, lt=1)
        self.step_size = check_number("step_size", step_size, gt=0)

    def _find(self, problem: Problem, start: Observations | None) -> tuple[Observations, Int64[Tensor, " batch"]]:
        center = problem.region.center
        generator = torch.Generator().manual_seed(self.random_state)
        first = self._first(problem) if start is None else problem.region.project(start)
        starts = [first, *(problem.region.random(generator) for _ in range(self.restarts - 1))]
        best, distance = center, torch.where(problem.succeeds(center), 0, torch.inf).to(center)
        for x in starts:
            found, far = self._search(problem, x)
            closer = far < distance
            best, distance = torch.where(closer[:, None], found, best), torch.where(closer, far, distance)
        return best, torch.full_like(distance, self.steps * self.restarts, dtype=torch.long)

    def _search(self, problem: Problem, x: Observations) -> tuple[Observations, Float[Tensor, " batch"]]:
        """Return the nearest success of each search, with its distance."""
        region = problem.region
        dual = {math.inf: 1.0, 2: 2.0, 1: math.inf}[self.norm]
        best, distance = x, torch.full_like(x[:, 0], torch.inf)
        radius = region.size(x)
        for step in range(self.steps):
            cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
            losses, gradient = problem.gradient(x)
            uphill = region.uphill(gradient, x)  # the gradient's length promises what the box doesn't let through
            size, wins = self._judged(problem, x)
            closer = wins & (size < distance)
            best, distance = torch.where(closer[:, None], x, best), torch.where(closer, size, distance)
            # Until there is a success, a little beyond where a linear model of the loss has the nearest one.
            linear = size + losses.abs() / lengths(uphill, dual).clamp_min(1e-12)
            grown = torch.where(distance.isinf(), linear, radius) * (1 + self.shrink * cosine)
            radius = torch.where(wins, torch.minimum(radius * (1 - self.shrink * cosine), distance), grown)
            radius = torch.minimum(radius, region.eps[:, 0])
            length = self.step_size * (0.01 + 0.99 * cosine)
            # Features at their ends are still pushed there, or the projection onto the ball would take them back.
            moved = x + length * gradient / uphill.norm(dim=1, keepdim=True).clamp_min(1e-30)
            x = replace(region, eps=radius[:, None]).project(moved)
        size, wins = self._judged(problem, x)
        closer = wins & (size < distance)
        return torch.where(closer[:, None], x, best), torch.where(closer, size, distance)

    def _judged(self, problem: Problem, x: Observations) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
        size = problem.region.size(x)
        return size, problem.succeeds(x) & (size <= problem.region.eps[:, 0] * (1 + 1e-6))

    def _first(self, problem: Problem) -> Observations:
        """Return starts: on the segment to the nearest success of the pool, near the boundary, or the true one."""
        region = problem.region
        center = region.center
        if self.pool is None:
            return center
        near, distance = center, torch.full_like(center[:, 0], torch.inf)
        pool = check_finite("pool", self.pool.to(center)).flatten(1)
        if pool.shape[1] != center.shape[1]:
            raise ValueError(
                f"pool has shape {tuple(self.pool.shape)}; it takes observations of {center.shape[1]} features each"
            )
        for other in pool:
            candidate = torch.clamp(center + (other - center) * region.allowed, region.low, region.high)
            far = region.size(candidate)
            chosen = problem.succeeds(candidate) & (far < distance)
            near, distance = torch.where(chosen[:, None], candidate, near), torch.where(chosen, far, distance)
        inner, outer = torch.zeros_like(distance), torch.ones_like(distance)
        for _ in range(_BISECTIONS):
            middle = (inner + outer) / 2
            wins = problem.succeeds(torch.lerp(center, near, middle[:, None]))
            inner, outer = torch.where(wins, inner, middle), torch.where(wins, middle, outer)
        return torch.lerp(center, near, outer[:, None])


class DynamicDistortion:
    """The smallest of several distortions that succeeds, observation by observation; none where none does.

    Each search starts where the one before ended. An observation for which all fail is left as it is, so that its
    action stays, too; means over all observations and over successes differ.

    Parameters
    ----------
    attack
        An attack of a given distortion.
    eps_list
        Distortions to try.

    Raises
    ------
    ValueError
        Without distortions, or for negative ones.

    Notes
    -----
    arXiv 2407.05182, dynamic distortion.

    Examples
    --------
    >>> from paperworks.robustness import ACG, BifurcationLayer, GroupDifferenceLogitsLoss
    >>> policy = torch.nn.Linear(1, 1, bias=False)
    >>> _ = policy.weight.data.fill_(1.0)
    >>> attack = DynamicDistortion(ACG(GroupDifferenceLogitsLoss(), eps=1, steps=5), [0.05, 0.1, 0.2])
    >>> result = attack(BifurcationLayer(policy, threshold=0.5), torch.tensor([[0.52], [0.58], [0.9]]))
    >>> result.norm, result.success
    (tensor([0.0500, 0.1000, 0.0000]), tensor([ True,  True, False]))
    """

    def __init__(self, attack: Attack, eps_list: Sequence[float]) -> None:
        if not len(eps_list):
            raise ValueError("eps_list is empty; it takes one or more distortions")
        self.attack = attack
        self.eps_list = sorted(check_number("eps_list", eps, ge=0) for eps in eps_list)

    @property
    def loss(self) -> AttackLoss:
        """What the attack raises."""
        return self.attack.loss

    def __call__(
        self,
        model: Callable[[Tensor], Any],
        obs: Observations,
        y: Reference | None = None,
        *,
        previous: Observations | None = None,
    ) -> AttackResult:
        """Attack a policy; see `Attack`."""
        if obs.ndim > 2:
            flat = None if previous is None else previous.flatten(1)
            return unflattened(self(on_flat(model, obs), obs.flatten(1), y, previous=flat), obs)
        clean = self.attack.region(obs, 0, previous)
        if y is None and not self.loss.targeted:
            with torch.no_grad():
                y = self.loss.reference(model(obs))
        if y is None:
            raise ValueError("y is None; it takes the target of each observation where the loss is targeted")
        problem = Problem(model, self.loss, y, clean)
        adv, start = obs.clone(), obs.clone()
        success, norm = problem.succeeds(obs), torch.zeros_like(obs[:, 0])
        count = torch.zeros_like(success, dtype=torch.long)
        for eps in self.eps_list:
            left = (~success).nonzero()[:, 0]
            if not len(left):
                break
            before = None if previous is None else previous[left]
            found = self.attack(model, obs[left], y[left], eps=eps, previous=before, start=start[left])
            start[left], count[left] = found.adv, count[left] + found.n_grad
            won = left[found.success]
            adv[won], norm[won], success[won] = found.adv[found.success], found.norm[found.success], True
        return AttackResult(adv, success, norm, count, problem.value(adv))
