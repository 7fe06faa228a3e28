"""Trajectories from a network that takes a lead time."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_number


def rollout(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "batch channels height width"],
    times: Float[Tensor, " n"] | Sequence[float],
    strategy: Literal["direct", "ar"] = "direct",
    steps: int | Sequence[float] = 1,
) -> Float[Tensor, "batch n channels height width"]:
    """Return the fields at several times, each asked for directly or reached by steps.

    Which is better depends on the problem: small errors add up over steps, and long lead times are harder to learn; the
    paper takes the better of both on validation data.

    Parameters
    ----------
    model
        Called with fields and a lead time for each, such as a `ScOT`.
    x
        Fields at time 0.
    times
        Rising times after 0, in the network's unit.
    strategy
        "direct": each from `x`; "ar": each from the one before, autoregressively.
    steps
        In the second case, of how many equal steps the way from one time to the next is made, or the shares of it that
        the steps have, such as (0.5, 0.25, 0.25).

    Returns
    -------
    Tensor
        Fields of each sample at each time.

    Raises
    ------
    ValueError
        For times that don't rise from 0, shares that don't add up to 1, fields of whole numbers, or steps of a model
        that gives other fields than it takes.

    Examples
    --------
    >>> decay = lambda x, t: x * torch.exp(-t)[:, None, None, None]
    >>> fields = rollout(decay, torch.ones(1, 1, 2, 2), [0.5, 1.0], "ar", steps=2)
    >>> fields.shape, bool((fields[0, :, 0, 0, 0] - torch.tensor([-0.5, -1.0]).exp()).abs().max() < 1e-6)
    (torch.Size([1, 2, 1, 2, 2]), True)
    """
    check_choice("strategy", strategy, ("direct", "ar"))
    points = [0.0, *map(float, times)]
    if len(points) < 2 or not all(a < b < math.inf for a, b in itertools.pairwise(points)):
        raise ValueError(f"times is {points[1:]}; it takes rising finite times after 0")
    if not x.is_floating_point():
        raise ValueError(f"x has the type {x.dtype}; it takes floating-point fields, whose type lead times have too")
    shares = [check_number("steps", s, gt=0) for s in steps] if isinstance(steps, Sequence) else _equal(steps)
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"steps is {steps!r}; it takes shares that add up to 1")
    if strategy == "direct":
        return torch.stack([_step(model, x, t) for t in points[1:]], dim=1)
    found = []
    for a, b in itertools.pairwise(points):
        for share in shares:
            x = _step(model, x, share * (b - a), like=x)
        found.append(x)
    return torch.stack(found, dim=1)


def _equal(steps: int) -> list[float]:
    return [1 / check_count("steps", steps)] * steps


def _step(model: Callable[[Tensor, Tensor], Tensor], x: Tensor, lead_time: float, like: Tensor | None = None) -> Tensor:
    y = model(x, x.new_full((len(x),), lead_time))
    if like is not None and y.shape != like.shape:
        raise ValueError(
            f"model gives fields of shape {tuple(y.shape)} from {tuple(like.shape)}; steps take one that gives as many"
        )
    return y
