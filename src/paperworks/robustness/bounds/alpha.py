"""α-CROWN: the freedom that relaxations leave, optimised."""

import math
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.freedom import Freedom, Key
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.outputs import bounds_of
from paperworks.robustness.bounds.values import Interval


def optimized(
    call: Call,
    C: Tensor | None,
    sides: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the best bounds met while the sum of lower bounds less that of upper ones is maximised by Adam.

    The first bounds are CROWN's own, and each element keeps its best, so that none is worse than CROWN's.
    """
    options = call.options
    start = bounds_of(call, "CROWN", C, sides)
    best: list[Any] = [None if b is None else b.detach().clone() for b in start]
    first = dict(call.ends)
    freedom = call.freedom = Freedom(options.share_alpha)
    moments: dict[int, tuple[Tensor, Tensor]] = {}
    snapshot, score = dict(freedom.parameters), -math.inf
    for step in range(options.steps):
        with torch.enable_grad():
            bounds = _evaluate(call, C, sides, first)
            objective = sum((sign * b).sum() for sign, b in zip((1, -1), bounds, strict=True) if b is not None)
        assert isinstance(objective, Tensor)
        for i, (b, better) in enumerate(zip(bounds, (torch.maximum, torch.minimum), strict=True)):
            if b is not None:
                best[i] = better(best[i], b.detach())
        if float(objective.detach()) > score:
            score = float(objective.detach())
            snapshot = {k: [t.detach().clone() for t in v] for k, v in freedom.parameters.items()}
        if not freedom.parameters:
            break
        if step < options.steps - 1:
            _adam(freedom.leaves(), objective, moments, step, options.lr * options.decay**step)
    return _with_gradient(call, C, sides, first, start, best, snapshot)


def _evaluate(call: Call, C: Tensor | None, sides: tuple[bool, bool], first: dict[Node, Interval]) -> Any:
    call.linear.clear()
    call.lines.clear()
    call.first = first
    call.fixed = {} if call.options.optimize_intermediate else first
    found = bounds_of(call, "alpha-CROWN", C, sides)
    call.first = call.fixed = {}
    return found


def _adam(
    parameters: list[tuple[Tensor, float]],
    objective: Tensor,
    moments: dict[int, tuple[Tensor, Tensor]],
    step: int,
    rate: float,
) -> None:
    """Take a step of Adam uphill, and go back to [0, 1]."""
    gradients = torch.autograd.grad(objective, [p for p, _ in parameters], allow_unused=True)
    with torch.no_grad():
        for (p, pace), g in zip(parameters, gradients, strict=True):
            if g is None:
                continue
            g = g.nan_to_num(0.0, 0.0, 0.0)
            m, v = moments.get(id(p), (torch.zeros_like(p), torch.zeros_like(p)))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            moments[id(p)] = (m, v)
            m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            p.add_(pace * rate * m_hat / (v_hat.sqrt() + 1e-8)).clamp_(0, 1)


def _with_gradient(
    call: Call,
    C: Tensor | None,
    sides: tuple[bool, bool],
    first: dict[Node, Interval],
    start: Any,
    best: list[Any],
    snapshot: dict[Key, list[Tensor]],
) -> Any:
    """Return the best bounds with the gradient, if there is one to have, of those of the best parameters."""
    assert call.freedom is not None
    call.freedom.parameters = snapshot
    if not any(b is not None and b.requires_grad for b in start):
        return tuple(best)
    final = _evaluate(call, C, sides, first)
    return tuple(None if b is None else f + (b - f).detach() for f, b in zip(final, best, strict=True))
