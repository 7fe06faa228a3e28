"""Backward propagation: linear lower bounds of a node in terms of the roots (the paper's algorithm 1).

Every row of coefficients asks for a *lower* bound; an upper one is the lower bound of the negated row, so that both run
in one pass.
"""

from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.patches import Patch, Rows, added, dot, laid_out, magnitude, opened, opposed
from paperworks.robustness.bounds.registry import rule_of, takes_patches
from paperworks.robustness.bounds.rounding import depth, quantum, unit
from paperworks.robustness.bounds.tiles import one_hot_rows, rows_at_once, tiled
from paperworks.robustness.bounds.values import Interval

Coefficients = dict[Node, Rows]


def propagate(
    call: Call, start: Node, rows: Rows, stop: Container[Node] = (), mirrored: bool = False
) -> tuple[Coefficients, Tensor]:
    """Carry rows of coefficients from a node back to the roots.

    Parameters
    ----------
    rows
        (rows, batch or 1, *shape of the node), or a patch of these.
    stop
        Nodes to treat as roots.
    mirrored
        Whether the opposite rows are wanted behind them: up to the first rule that isn't affine, one does for both.

    Returns
    -------
    Coefficients of each root, and constants (rows, batch): each row's value is at least their sum on the whole set.
    """
    call.start = start
    pending: Coefficients = {start: rows}
    found: Coefficients = {}
    merged: set[Node] = set()
    first, _ = opened(rows)
    constant = first.new_zeros(len(first), call.batch, dtype=torch.float64)  # few, and of very different sizes
    away = constant + call.lost(start) if call.sound else constant
    for node in reversed(call.graph.nodes[: start.index + 1]):
        if (arrived := pending.pop(node, None)) is None:
            continue
        if node not in call.perturbed:
            constant = constant + dot(arrived, call.constant(node), node)
            continue
        if node in call.perturbations or (node in stop and node is not start):
            found[node] = arrived
            continue
        rule = rule_of(node)
        if mirrored and not rule.is_affine(node, call):
            mirrored, arrived = False, opposed(arrived)
            pending, found = ({n: opposed(r) for n, r in kept.items()} for kept in (pending, found))
            constant, away = torch.cat([constant, -constant]), torch.cat([away, away])
        if isinstance(arrived, Patch) and not takes_patches(node, call):
            arrived = arrived.whole(node.shape)
        margin = call.margins.get(node)
        if margin is not None and not rule.outward and (node is start or node not in call.carried):
            away = away + dot(magnitude(arrived), margin, node)
        coefficients, rest = rule.backward(node, arrived, call)
        constant = constant + rest
        for source, part in coefficients:
            if source in pending:
                before, part = pending[source], added(pending[source], part, source)
                if call.sound and source in call.perturbed and (source not in call.summed or source in merged):
                    rounded = before if source in call.summed else part  # the last sum's is in the margin
                    away = away + 2 * unit(call.dtype) * dot(magnitude(rounded), call.size(source), source)
                merged.add(source)
            pending[source] = part
    if mirrored:
        found = {n: opposed(r) for n, r in found.items()}
        constant, away = torch.cat([constant, -constant]), torch.cat([away, away])
    return found, constant - away


def concretize(call: Call, coefficients: Coefficients, constant: Tensor) -> Tensor:
    """Return the least value of linear functions of the roots, (rows, batch)."""
    for node, rows in coefficients.items():
        ptb = call.perturbations.get(node)
        middle, radius = _box(call, node)
        if ptb is None or ptb.is_box:
            constant = constant + dot(rows, middle, node) - dot(magnitude(rows), radius, node)
            continue
        constant = constant + ptb.minimum(laid_out(rows, node), call.value(node))
        constant = constant if radius is None else constant - dot(magnitude(rows), radius, node)
    return below(call, constant)


def _box(call: Call, node: Node) -> tuple[Any, Any]:
    """Return the middle of a root's box and its radius, or of another set nothing and what rounding may do."""
    ends, ptb = call.ends.get(node), call.perturbations.get(node)
    kept = call.boxes.get(node)
    if kept is None or kept[0] is not ends:
        tiny = torch.finfo(call.dtype).tiny  # middles and radii of what is less lose units that coefficients multiply
        terms = 2 * depth(node.shape.numel())
        if ptb is not None:
            terms = ptb.rounding(call.value(node), call.type_of(node))[1]
        margin = call.gap(node, terms) * call.size(node).clamp(min=tiny) if call.sound else None
        middle, radius = None, margin
        if ptb is None or ptb.is_box:
            lower, upper = call.bounds(node) if ptb is None else ptb.box(call.value(node))
            middle, radius = lower / 2 + upper / 2, upper / 2 - lower / 2
            radius = radius if margin is None else radius + margin
        kept = call.boxes[node] = (ends, middle, radius)
    return kept[1:]


def below(call: Call, constant: Tensor) -> Tensor:
    """Return constants, which are added up in double precision, in the type of the computation, no greater."""
    if call.sound:
        constant = constant - 2 * unit(call.dtype) * constant.detach().abs() - quantum(call.dtype)
    return constant.to(call.dtype)


def lower_bounds(call: Call, start: Node, rows: Tensor, stop: Container[Node] = ()) -> Tensor:
    """Return lower bounds of rows of a node's value, (rows, batch), in parts that fit in memory."""
    bounds = []
    for part, chunk in enumerate(rows.split(rows_at_once(call, call.bytes_per_row(start)))):
        call.part = part
        bounds.append(concretize(call, *propagate(call, start, chunk, stop)))
    call.part = 0
    return bounds[0] if len(bounds) == 1 else torch.cat(bounds)


def refine(call: Call, node: Node, index: Tensor, stop: Container[Node] = ()) -> Interval:
    """Return ends (batch, *shape) of a node, those at `index` of its flat elements improved by a backward pass."""
    lower, upper = (end.expand(call.batch, *node.shape).flatten(1) for end in call.ends[node])
    found = []
    pieces = tiled(call, node, index)
    for part, (piece, box) in enumerate(pieces):
        call.part = part
        rows = one_hot_rows(node, piece, lower, box)
        both = concretize(call, *propagate(call, node, rows if box is None else Patch(rows, box), stop, mirrored=True))
        found.append((both[: len(piece)].T, -both[len(piece) :].T))
    call.part = 0
    new_lower, new_upper = (torch.cat(ends, 1) for ends in zip(*found, strict=True))
    index = torch.cat([piece for piece, _ in pieces])
    whole = len(index) == lower.shape[1] and all(box is None for _, box in pieces)  # and in order
    if call.options.intersect:
        new_lower = torch.maximum(new_lower, lower if whole else lower[:, index])
        new_upper = torch.minimum(new_upper, upper if whole else upper[:, index])
    # Where both are exact they may cross by rounding.
    new_lower, new_upper = torch.minimum(new_lower, new_upper), torch.maximum(new_lower, new_upper)
    if not whole:
        new_lower, new_upper = (end.index_copy(1, index, new) for end, new in ((lower, new_lower), (upper, new_upper)))
    return Interval(new_lower.reshape(-1, *node.shape), new_upper.reshape(-1, *node.shape))


def undecided(call: Call, node: Node, consumers: Iterator[Node] | list[Node]) -> Tensor | None:
    """Return the flat elements of a node whose ends the linear rules of its consumers depend on, if there are any."""
    bounds = call.ends[node]
    wanted: Tensor | None = None
    for consumer in consumers:
        rule = rule_of(consumer)
        if node not in rule.needs(consumer, call):
            continue
        mask = rule.undecided(consumer, bounds, call)
        mask = torch.ones_like(bounds.lower, dtype=torch.bool) if mask is None else mask
        wanted = mask if wanted is None else wanted | mask
    if wanted is None:
        return None
    index = (wanted & (bounds.lower < bounds.upper)).flatten(1).any(0).nonzero().flatten()
    return index if len(index) else None
