"""What all attacks on observations share: what they take and return, and the search from several starts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.robustness.attacks.losses import AttackLoss, Reference
from paperworks.robustness.attacks.region import Region, inside

Observations = Float[Tensor, "batch *features"]


@dataclass(frozen=True)
class AttackResult:
    """Observations that an attack found.

    Parameters
    ----------
    adv
        The observations to show the policy, or the images to show the classifier, of the shape of the true ones.
    success
        Whether the loss counts the model's outputs there as a success, such as another class, of shape (batch,).
    norm
        Distance from the true observations in the attack's norm, of shape (batch,).
    n_grad
        Number of gradients taken for each, of shape (batch,).
    loss
        What the attack raised, of shape (batch,).

    Examples
    --------
    >>> result = AttackResult(torch.zeros(1, 2), torch.tensor([True]), torch.zeros(1), torch.tensor([3]), torch.ones(1))
    >>> result.success.float().mean()
    tensor(1.)
    """

    adv: Observations
    success: Bool[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    n_grad: Int64[Tensor, " batch"]
    loss: Float[Tensor, " batch"]


@dataclass
class Problem:
    """A model, a loss, what it refers to, and where observations may be, for each row of a batch."""

    model: Callable[[Tensor], Any]
    loss: AttackLoss
    reference: Reference
    region: Region

    def gradient(self, x: Observations) -> tuple[Float[Tensor, " batch"], Observations]:
        """Return losses and their gradients where features may change.

        Raises
        ------
        ValueError
            For a model through which no gradient flows.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            losses = self.loss(self.model(leaf), self.reference)
            if not losses.requires_grad:
                raise ValueError("model has outputs without a gradient; it takes a differentiable policy")
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient.nan_to_num() * self.region.allowed

    def value(self, x: Observations) -> Float[Tensor, " batch"]:
        """Return losses."""
        with torch.no_grad():
            return self.loss(self.model(x), self.reference)

    def succeeds(self, x: Observations) -> Bool[Tensor, " batch"]:
        """Say where an attack has succeeded."""
        with torch.no_grad():
            return self.loss.success(self.model(x), self.reference)

    def __getitem__(self, rows: Tensor) -> "Problem":
        """Return the problem of some rows."""
        return Problem(self.model, self.loss, self.reference[rows], self.region[rows])


class Attack(ABC):
    """Finds observations near the true ones that raise a loss.

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
    drift
        If given, features stay within this distance of the previous observation too, or of the true one if that is
        farther away.
    random_start
        Whether the first search starts at random as well, which losses need that are flat at the true observation.
    random_state
        Seed of the starts; every call draws the same.

    Raises
    ------
    ValueError
        For options out of range.
    """

    def __init__(
        self,
        loss: AttackLoss,
        eps: float,
        norm: float = math.inf,
        steps: int = 100,
        restarts: int = 1,
        mask: Tensor | None = None,
        bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
        *,
        drift: float | None = None,
        random_start: bool = False,
        random_state: int = 0,
    ) -> None:
        self.loss = loss
        self.eps = eps if eps == math.inf else check_number("eps", eps, ge=0)
        self.norm = check_choice("norm", norm, (math.inf, 2, 1))
        self.steps = check_count("steps", steps)
        self.restarts = check_count("restarts", restarts)
        self.mask = mask
        self.bounds = bounds
        self.drift = drift if drift is None else check_number("drift", drift, ge=0)
        self.random_start = random_start
        self.random_state = random_state

    def __call__(
        self,
        model: Callable[[Tensor], Any],
        obs: Observations,
        y: Reference | None = None,
        *,
        eps: float | Float[Tensor, " batch"] | None = None,
        previous: Observations | None = None,
        start: Observations | None = None,
    ) -> AttackResult:
        """Attack a policy.

        Parameters
        ----------
        model
            From observations to what the loss takes; differentiable.
        obs
            True observations: rows of features, images or anything else with a batch first.
        y
            What the loss refers to: by default what the policy says of the true observations, such as its group; for a
            targeted loss the target, which has to be given.
        eps
            Instead of the attack's own, for all or for each.
        previous
            The previous observations, for an attack with `drift`.
        start
            Where the first search starts.

        Raises
        ------
        ValueError
            For observations that are out of bounds, a mask or bounds of another shape, a model without a gradient, a
            targeted loss without a target, or drift without a previous observation.
        """
        if obs.ndim > 2:
            others = {"previous": previous, "start": start}
            flat = {name: None if other is None else other.flatten(1) for name, other in others.items()}
            return unflattened(self(on_flat(model, obs), obs.flatten(1), y, eps=eps, **flat), obs)
        region = self.region(obs, eps, previous)
        if start is not None:
            _like("start", start, obs)
        if y is not None:
            if len(y) != len(obs):
                raise ValueError(f"y has {len(y)} rows; it takes one for each of the {len(obs)} observations")
            y = y.long() if y.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) else y
        if y is None:
            if self.loss.targeted:
                raise ValueError("y is None; it takes the target of each observation where the loss is targeted")
            with torch.no_grad():
                y = self.loss.reference(model(obs))
        problem = Problem(model, self.loss, y, region)
        adv, count = self._find(problem, start)
        # What counts is the observation that is returned, judged alone, as the policy will see it.
        return AttackResult(adv, problem.succeeds(adv), region.size(adv), count, problem.value(adv))

    def region(
        self, obs: Observations, eps: float | Tensor | None = None, previous: Observations | None = None
    ) -> Region:
        """Return where observations may be.

        Parameters
        ----------
        obs
            Observations before the attack, of shape (batch, features).
        eps
            Distances allowed, by default the attack's own.
        previous
            Observations of the step before, None where there are none.

        Returns
        -------
        Region
            The set that the attack stays in, as lower and upper ends and distances.
        """
        if obs.ndim != 2 or not obs.is_floating_point():
            raise ValueError(f"obs has shape {tuple(obs.shape)} and {obs.dtype}; it takes floats (batch, features)")
        features = obs.shape[1]
        allowed = obs.new_ones(features) if self.mask is None else _flat(torch.as_tensor(self.mask).to(obs))
        if allowed.shape != (features,):
            raise ValueError(f"mask has shape {tuple(allowed.shape)}; it takes ({features},), one for each feature")
        if not bool(((allowed == 0) | (allowed == 1)).all()):
            raise ValueError("mask has values other than 0 and 1; it takes 1 where a feature may change, else 0")
        if not features:
            raise ValueError(f"obs has shape {tuple(obs.shape)}; it takes one feature or more")
        low, high = (_flat(torch.as_tensor(bound, dtype=obs.dtype, device=obs.device)) for bound in self.bounds)
        if any(bound.ndim > 0 and bound.shape != (features,) for bound in (low, high)):
            raise ValueError(f"bounds have shapes {tuple(low.shape)} and {tuple(high.shape)}; they take ({features},)")
        low, high = low.expand_as(obs), high.expand_as(obs)
        if not inside(obs, low, high):
            raise ValueError(f"obs has values from {float(obs.min()):g} to {float(obs.max()):g}, out of bounds")
        if self.drift is not None:
            if previous is None:
                raise ValueError("previous is None; an attack with drift takes the previous observations")
            _like("previous", previous, obs)
            low = torch.maximum(low, torch.minimum(previous - self.drift, obs))
            high = torch.minimum(high, torch.maximum(previous + self.drift, obs))
        radius = torch.as_tensor(self.eps if eps is None else eps, dtype=obs.dtype, device=obs.device)
        radius = radius.expand(len(obs))[:, None]
        if not bool((radius >= 0).all()):
            raise ValueError(f"eps is {eps}; it takes numbers >= 0")
        return Region(obs, radius, self.norm, allowed, low, high)

    def _find(self, problem: Problem, start: Observations | None) -> tuple[Observations, Int64[Tensor, " batch"]]:
        """Search from all starts at once, and keep the best of each observation and the true one."""
        center = problem.region.center
        first = center if start is None else problem.region.project(start)
        generator = torch.Generator().manual_seed(self.random_state)
        starts = [
            problem.region.random(generator) for _ in range(self.restarts if self.random_start else self.restarts - 1)
        ]
        starts = starts if self.random_start else [first, *starts]
        rows = torch.arange(len(center), device=center.device).repeat(self.restarts)
        found, losses = self._search(problem[rows], torch.cat(starts))
        candidates = torch.cat([center[None], found.view(self.restarts, *center.shape)])
        values = torch.cat([problem.value(center)[None], losses.view(self.restarts, len(center))])
        best = values.nan_to_num(-torch.inf).argmax(0)
        chosen = candidates[best, torch.arange(len(center), device=center.device)]
        return chosen, torch.full_like(best, self.steps * self.restarts)

    @abstractmethod
    def _search(self, problem: Problem, x: Observations) -> tuple[Observations, Float[Tensor, " batch"]]:
        """Search from given points, and return the best point of each search with its loss."""


def on_flat(model: Callable[[Tensor], Any], obs: Observations) -> Callable[[Tensor], Any]:
    """Return the model of flattened observations, given ones of the shape that it takes."""
    shape = obs.shape[1:]
    return lambda flat: model(flat.reshape(len(flat), *shape))


def unflattened(result: AttackResult, obs: Observations) -> AttackResult:
    """Return a result with observations of the shape of the true ones."""
    return replace(result, adv=result.adv.view_as(obs))


def _like(name: str, given: Observations, obs: Observations) -> None:
    if given.shape != obs.shape:
        raise ValueError(f"{name} has shape {tuple(given.shape)}; it takes that of obs, {tuple(obs.shape)}")
    check_finite(name, given)


def _flat(values: Tensor) -> Tensor:
    return values.flatten() if values.ndim else values


def better(best: tuple[Tensor, ...], losses: Float[Tensor, " batch"], *others: Tensor) -> tuple[Tensor, ...]:
    """Return, of (losses, tensors) kept and new ones, row by row those of the higher loss."""
    wins = losses > best[0]
    columns = zip((losses, *others), best, strict=True)
    return tuple(torch.where(wins.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in columns)
