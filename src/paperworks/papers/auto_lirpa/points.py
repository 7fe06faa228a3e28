"""Points of the sets that inputs range over: random ones, extreme ones, and those an attack finds."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from paperworks.robustness import Perturbation, PerturbationL0Norm, PerturbationLpNorm, PerturbationSynonym

Function = Callable[[Tensor], Tensor]


def extreme_point(ptb: Perturbation, center: Tensor, direction: Tensor) -> Tensor:
    """Return the point of each sample's set that is least along a direction; both are (batch, *shape)."""
    if isinstance(ptb, PerturbationSynonym):
        return _extreme_words(ptb, center, direction)
    d = direction.flatten(1)
    if isinstance(ptb, PerturbationL0Norm):
        far = torch.where(direction > 0, ptb.low, ptb.high).to(center)
        gains = ((center - far) * direction).flatten(1)
        place = gains.topk(min(ptb.eps, gains.shape[1]), dim=1).indices
        changed = torch.zeros_like(gains, dtype=torch.bool).scatter_(1, place, True)
        return torch.where(changed.view_as(center), far, center)
    assert isinstance(ptb, PerturbationLpNorm)
    if ptb.is_box:
        lower, upper = ptb.box(center)
        return torch.where(direction > 0, lower, upper)
    eps = torch.as_tensor(ptb.eps, dtype=center.dtype).reshape(-1, 1)
    if ptb.norm == 1:
        place = d.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(d).scatter_(1, place, d.gather(1, place).sign())
    else:
        dual = ptb.norm / (ptb.norm - 1)
        step = d.sign() * d.abs() ** (dual - 1)
        step = step / torch.linalg.vector_norm(step, ptb.norm, dim=1, keepdim=True).clamp(min=1e-30)
    return center - (eps * step).view_as(center)


def _extreme_words(ptb: PerturbationSynonym, center: Tensor, direction: Tensor) -> Tensor:
    candidates = ptb.candidates.to(center)
    scores = (candidates * direction[:, :, None]).sum(-1)
    if ptb.mask is not None:
        scores = scores.masked_fill(~ptb.mask, torch.inf)
    best, choice = scores.min(-1)
    gains = (center * direction).sum(-1) - best
    top = gains.topk(min(ptb.budget, gains.shape[1]), dim=1)
    changed = torch.zeros_like(gains, dtype=torch.bool).scatter_(1, top.indices, top.values > 0)
    swapped = candidates.gather(2, choice[..., None, None].expand(-1, -1, 1, center.shape[-1]))[:, :, 0]
    return torch.where(changed[..., None], swapped, center)


def random_points(ptb: Perturbation, center: Tensor, n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield `n` batches of points: extreme along random directions, and mixtures of two where the set is convex."""
    convex = isinstance(ptb, PerturbationLpNorm)
    for i in range(n):
        ends = [
            extreme_point(ptb, center, torch.randn(center.shape, generator=generator, dtype=center.dtype))
            for _ in range(1 + convex * (i % 2))
        ]
        share = torch.rand(len(center), generator=generator, dtype=center.dtype)
        share = share.reshape(-1, *(1,) * (center.ndim - 1))
        yield ends[0] if len(ends) == 1 else share * ends[0] + (1 - share) * ends[1]


def attacked(f: Function, ptb: Perturbation, center: Tensor, steps: int) -> Tensor:
    """Return points that are low in f (batch) -> (batch), by walking to extreme points along its gradient."""
    x = extreme_point(ptb, center, torch.zeros_like(center))  # the center may be outside of a box
    best, least = x, f(x).detach()
    convex = isinstance(ptb, PerturbationLpNorm)
    for step in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(x).sum(), x)
        target = extreme_point(ptb, center, gradient)
        with torch.no_grad():
            x = x + 2 / (step + 2) * (target - x) if convex else target
            value = f(x)
            lower = (value < least).reshape(-1, *(1,) * (x.ndim - 1))
            best, least = torch.where(lower, x, best), torch.minimum(value, least)
    return best
