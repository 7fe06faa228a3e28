"""α-CROWN: the freedom that relaxations leave, optimised."""

import contextlib
import dataclasses
import math
import time
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.freedom import Freedom
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.methods import keep_undecided, work
from paperworks.robustness.bounds.outputs import bounds_of
from paperworks.robustness.bounds.values import Interval

_AFFORDABLE = 2e9  # coefficients in all steps: a few times ten seconds of one processor


def optimized(
    call: Call,
    C: Tensor | None,
    sides: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the best bounds met while the sum of lower bounds less that of upper ones is maximised by Adam.

    The first bounds are CROWN's own, and each element keeps its best, so that none is worse than CROWN's. What is
    maximised is not intersected with intervals, as it would not move where these are the better ones; the bounds of the
    best parameters are, at the end.
    """
    options, until = call.options, time.monotonic() + call.options.seconds
    start = bounds_of(call, "CROWN", C, sides)
    best: list[Any] = [None if b is None else b.detach().clone() for b in start]
    first = loose = dict(call.ends)
    if C is not None and options.stop_when_decided and _decided(best):
        return start
    if options.intersect:
        with contextlib.suppress(ValueError):  # where ends must be intersected to stay in a domain, those are kept
            _keep(best, _plain(call, C, sides))
            loose = dict(call.ends)
    if not options.optimize_decided:
        keep_undecided(call, call.graph.output)
    if options.optimize_intermediate is None:
        affordable = options.steps * work(call) <= _AFFORDABLE
        call.options = options = dataclasses.replace(options, optimize_intermediate=affordable)
    freedom = call.freedom = Freedom(options.share_alpha)
    moments: dict[int, tuple[Tensor, Tensor]] = {}
    snapshot, score = dict(freedom.parameters), -math.inf
    for step in options.progress(range(options.steps)) if options.progress is not None else range(options.steps):
        began = time.monotonic()
        with torch.enable_grad():
            bounds = _evaluate(call, C, sides, loose)
            objective = sum((sign * b).sum() for sign, b in zip((1, -1), bounds, strict=True) if b is not None)
        assert isinstance(objective, Tensor)
        _keep(best, bounds)
        if float(objective.detach()) > score:
            score = float(objective.detach())
            snapshot = {k: [t.detach().clone() for t in v] for k, v in freedom.parameters.items()}
        now = time.monotonic()
        over = now + (now - began) > until or (  # the next step takes as long
            C is not None and options.stop_when_decided and _decided(best)
        )
        if over or not freedom.parameters or not objective.requires_grad:
            break
        if step < options.steps - 1:
            _adam(freedom.leaves(), objective, moments, step, options.lr * options.decay**step)
    freedom.parameters = snapshot
    if options.intersect and options.steps:
        _keep(best, _evaluate(call, C, sides, first, intersect=True))
    if not any(b is not None and b.requires_grad for b in start):
        return tuple(best)
    final = _evaluate(call, C, sides, loose)
    return tuple(None if b is None else _with_gradient(b, f) for f, b in zip(final, best, strict=True))  # type: ignore[return-value]


def _with_gradient(best: Tensor, final: Tensor) -> Tensor:
    """Return the best bounds, to the bit, with the gradient of those of the best parameters."""
    return best + torch.where(final.detach().isfinite(), final - final.detach(), 0.0)  # nothing is added but 0


def _keep(best: list[Any], bounds: Any) -> None:
    """Put each element's best in place."""
    for i, (b, better) in enumerate(zip(bounds, (torch.maximum, torch.minimum), strict=True)):
        if b is not None:
            best[i] = better(best[i], torch.where(b.isnan(), (-math.inf, math.inf)[i], b).detach())


def _decided(best: list[Any]) -> bool:
    """Return whether the sign of every row is known."""
    lower, upper = best
    known = torch.zeros_like(lower if lower is not None else upper, dtype=torch.bool)
    known = known if lower is None else known | (lower > 0)
    return bool((known if upper is None else known | (upper < 0)).all())


def _plain(call: Call, C: Tensor | None, sides: tuple[bool, bool]) -> Any:
    """Return CROWN's bounds from linear functions alone."""
    chosen, call.options = call.options, dataclasses.replace(call.options, intersect=False)
    try:
        return bounds_of(call, "CROWN", C, sides)
    finally:
        call.options = chosen


def _evaluate(
    call: Call, C: Tensor | None, sides: tuple[bool, bool], first: dict[Node, Interval], intersect: bool = False
) -> Any:
    call.linear.clear()
    call.lines.clear()
    chosen, call.options = call.options, dataclasses.replace(call.options, intersect=intersect)
    call.first = first
    call.fixed = {} if call.options.optimize_intermediate else first
    found = bounds_of(call, "alpha-CROWN", C, sides)
    call.first = call.fixed = {}
    call.options = chosen
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
