"""What gradients of samples are good for: adversarial noise and optimised conditions (arXiv 2307.10711, section 5)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.diffusion.adjoint.sampler import AdjointSampler, Condition
from paperworks.diffusion.sampling import check_state

Direction = Literal["sign", "gradient"]
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class AdversarialResult:
    """What `adversarial_noise` found.

    Parameters
    ----------
    x_T
        For each sample, the noise with the greatest objective that was seen.
    sample
        What the sampler makes of it.
    objective
        Its objective, one number per sample.
    history
        Mean objective over the batch before each step, and after the last.
    """

    x_T: Tensor = field(repr=False)
    sample: Tensor = field(repr=False)
    objective: Tensor
    history: list[float]


def adversarial_noise(
    sampler: AdjointSampler,
    x_T: Float[Tensor, " batch *shape"],
    objective: Callable[[Tensor], Tensor],
    cond: Condition | None = None,
    *,
    steps: int = 30,
    lr: float = 0.01,
    box: float = 0.1,
    direction: Direction = "sign",
    callback: Progress | None = None,
) -> AdversarialResult:
    """Change noise a little so that what is sampled from it does something else, by projected gradient ascent.

    Each step is ``x_T <- clip(x_T + lr d, x_T^0 - box, x_T^0 + box)``, and each sample keeps its best noise.

    Parameters
    ----------
    sampler
        The sampler to differentiate through; parameters of its model get no gradient.
    x_T
        Noise to start from.
    objective
        What to raise: one number per sample from the samples, such as a classifier's loss.
    cond
        Condition of the sampler.
    steps, lr, box
        Number of steps, their length, and the largest change of an element; 30, 0.01 and 0.1 as in the paper's code.
    direction
        What d is: the ``sign`` of the gradient (arXiv 1706.06083), which needs no scale and is the default, or the
        ``gradient`` itself, as in the paper.
    callback
        Called with the number of the step and the mean objective before it.

    Returns
    -------
    AdversarialResult
        The changed noise, its samples, and what the objective gives for them.

    Raises
    ------
    ValueError
        Where an option is unknown or out of range, or the objective isn't one number per sample.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> sampler = AdjointSampler(lambda x, t: torch.tanh(x), NoiseScheduleVP.linear(), steps=5)
    >>> result = adversarial_noise(sampler, torch.zeros(2, 3), lambda x_0: x_0.sum(1), steps=5)
    >>> result.x_T.max().item() <= 0.1, result.history[-1] > result.history[0]
    (True, True)
    """
    check_state("x_T", x_T)
    check_count("steps", steps)
    check_number("lr", lr, gt=0)
    check_number("box", box, gt=0)
    check_choice("direction", direction, get_args(Direction))
    sampler = sampler.without_params()
    low, high = x_T.detach() - box, x_T.detach() + box
    noise = x_T.detach().clone()
    best: list[Tensor] = []
    history: list[float] = []
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            leaf = noise.requires_grad_(step < steps)
            sample = sampler(leaf, cond)
            value = objective(sample)
            if value.shape != (len(x_T),):
                raise ValueError(f"objective has shape {tuple(value.shape)}; it takes one number per sample")
        now = [leaf.detach(), sample.detach(), value.detach()]
        history.append(now[2].mean().item())
        if best:
            better = now[2] > best[2]
            best = [torch.where(_rows(better, new), new, old) for new, old in zip(now, best, strict=True)]
        else:
            best = now
        if step < steps:
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            ascent = gradient.sign() if direction == "sign" else gradient
            noise = torch.clamp(torch.add(now[0], ascent, alpha=lr), low, high)
            if callback is not None:
                callback(step, history[-1])
    return AdversarialResult(best[0], best[1], best[2], history)


@dataclass(frozen=True)
class ConditioningResult:
    """What `optimize_conditioning` found.

    Parameters
    ----------
    cond
        The condition with the least loss that was seen, of the kind that was given.
    sample
        What the sampler makes of it.
    loss
        Its loss, one number.
    history
        Loss before each step, and after the last.
    """

    cond: Condition = field(repr=False)
    sample: Tensor = field(repr=False)
    loss: float
    history: list[float]


def optimize_conditioning(
    sampler: AdjointSampler,
    x_T: Float[Tensor, " batch *shape"],
    cond: Condition,
    loss_fn: Callable[[Tensor], Tensor],
    *,
    steps: int = 50,
    lr: float = 0.1,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    callback: Progress | None = None,
) -> ConditioningResult:
    """Find the condition under which the samples have the least loss, such as a text embedding of a visual effect.

    Parameters
    ----------
    sampler
        The sampler to differentiate through; parameters of its model get no gradient.
    x_T
        Noise, the same in all steps.
    cond
        Condition to start from; its tensors of floating point are optimised.
    loss_fn
        One number from the samples.
    steps, lr, optimizer
        Number of steps and what makes them, called as ``optimizer(tensors, lr=lr)``; 50 of Adam's by default.
    callback
        Called with the number of the step and the loss before it.

    Returns
    -------
    ConditioningResult
        The condition found, its samples and its loss.

    Raises
    ------
    ValueError
        Where an option is out of range, nothing in `cond` is of floating point, or the loss isn't one number.

    Examples
    --------
    A model all of whose samples are its condition:

    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> vp = NoiseScheduleVP.linear()
    >>> sampler = AdjointSampler(lambda x, t, cond: (x - vp.alpha(t) * cond) / vp.sigma(t), vp, steps=5)
    >>> result = optimize_conditioning(sampler, torch.randn(2, 1), torch.zeros(2, 1), lambda x: (x - 1).pow(2).sum())
    >>> torch.allclose(result.cond, torch.ones(2, 1), atol=0.05)
    True
    """
    check_count("steps", steps)
    check_number("lr", lr, gt=0)
    named = dict(cond) if isinstance(cond, Mapping) else {"cond": cond}
    leaves = {
        name: value.detach().clone().requires_grad_() if value.is_floating_point() else value
        for name, value in named.items()
    }
    free = [value for value in leaves.values() if value.requires_grad]
    if not free:
        raise ValueError("cond has no tensor of floating point; there is nothing to optimise")

    def current(tensors: Mapping[str, Tensor]) -> Condition:
        return dict(tensors) if isinstance(cond, Mapping) else tensors["cond"]

    sampler = sampler.without_params()
    rule = optimizer(free, lr=lr)
    best: tuple[Condition, Tensor, float] | None = None
    history: list[float] = []
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            sample = sampler(x_T.detach(), current(leaves))
            loss = loss_fn(sample)
        if loss.numel() != 1:
            raise ValueError(f"loss_fn returned shape {tuple(loss.shape)}; it takes one number")
        history.append(loss.item())
        if best is None or history[-1] < best[2]:
            kept = {name: value.detach().clone() for name, value in leaves.items()}
            best = (current(kept), sample.detach(), history[-1])
        if step < steps:
            for leaf, gradient in zip(free, torch.autograd.grad(loss.sum(), free), strict=True):
                leaf.grad = gradient
            rule.step()
            if callback is not None:
                callback(step, history[-1])
    assert best is not None  # there is at least one step
    return ConditioningResult(*best, history)


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
