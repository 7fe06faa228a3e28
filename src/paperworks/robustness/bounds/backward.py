"""Backward propagation: linear lower bounds of a node in terms of the roots (the paper's algorithm 1).

Every row of coefficients asks for a *lower* bound; an upper one is the lower bound of the negated row, so that both run
in one pass.
"""

from collections.abc import Container, Iterator

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.perturbations import row_dot
from paperworks.robustness.bounds.registry import rule_of
from paperworks.robustness.bounds.rounding import depth, quantum, unit
from paperworks.robustness.bounds.values import Interval

Coefficients = dict[Node, Tensor]


def propagate(call: Call, start: Node, rows: Tensor, stop: Container[Node] = ()) -> tuple[Coefficients, Tensor]:
    """Carry rows of coefficients from a node back to the roots.

    Parameters
    ----------
    rows
        (rows, batch or 1, *shape of the node).
    stop
        Nodes to treat as roots.

    Returns
    -------
    Coefficients of each root, and constants (rows, batch): each row's value is at least their sum on the whole set.
    """
    call.start = start
    pending: Coefficients = {start: rows}
    found: Coefficients = {}
    constant = rows.new_zeros(rows.shape[0], call.batch, dtype=torch.float64)  # few, and of very different sizes
    constant = constant - call.lost(start) if call.sound else constant
    for node in reversed(call.graph.nodes[: start.index + 1]):
        if (arrived := pending.pop(node, None)) is None:
            continue
        if node not in call.perturbed:
            constant = constant + row_dot(arrived, call.constant(node))
        elif node in call.perturbations or (node in stop and node is not start):
            found[node] = arrived
        else:
            rule = rule_of(node)
            margin = call.margins.get(node)
            if margin is not None and not rule.outward and (node is start or node not in call.carried):
                constant = constant - row_dot(arrived.abs(), margin)
            coefficients, rest = rule.backward(node, arrived, call)
            constant = constant + rest
            for source, part in coefficients:
                if source in pending:
                    part = pending[source] + part
                    if call.sound and source in call.perturbed:
                        constant = constant - 2 * unit(call.dtype) * row_dot(part.abs(), call.size(source))
                pending[source] = part
    return found, constant


def concretize(call: Call, coefficients: Coefficients, constant: Tensor) -> Tensor:
    """Return the least value of linear functions of the roots, (rows, batch)."""
    tiny = torch.finfo(call.dtype).tiny  # middles and radii of what is less lose units that coefficients multiply
    for node, rows in coefficients.items():
        terms, ptb = 2 * depth(node.shape.numel()), call.perturbations.get(node)
        if ptb is not None:
            terms = ptb.rounding(call.value(node), call.type_of(node))[1]
        margin = call.gap(node, terms) * call.size(node).clamp(min=tiny) if call.sound else None
        if ptb is not None and not ptb.is_box:
            constant = constant + ptb.minimum(rows, call.value(node))
            constant = constant if margin is None else constant - row_dot(rows.abs(), margin)
            continue
        lower, upper = call.bounds(node) if ptb is None else ptb.box(call.value(node))
        radius = upper / 2 - lower / 2
        radius = radius if margin is None else radius + margin
        constant = constant + row_dot(rows, lower / 2 + upper / 2) - row_dot(rows.abs(), radius)
    return below(call, constant)


def below(call: Call, constant: Tensor) -> Tensor:
    """Return constants, which are added up in double precision, in the type of the computation, no greater."""
    if call.sound:
        constant = constant - 2 * unit(call.dtype) * constant.detach().abs() - quantum(call.dtype)
    return constant.to(call.dtype)


def lower_bounds(call: Call, start: Node, rows: Tensor, stop: Container[Node] = ()) -> Tensor:
    """Return lower bounds of rows of a node's value, (rows, batch), in parts that fit in memory."""
    size = max(1, min(len(rows), int(call.options.memory / call.bytes_per_row(start))))
    bounds = []
    for part, chunk in enumerate(rows.split(size)):
        call.part = part
        bounds.append(concretize(call, *propagate(call, start, chunk, stop)))
    call.part = 0
    return bounds[0] if len(bounds) == 1 else torch.cat(bounds)


def one_hot_rows(node: Node, index: Tensor, like: Tensor) -> Tensor:
    """Return rows that read out single elements of a node, with opposite rows behind them."""
    rows = like.new_zeros(2 * len(index), node.shape.numel())
    place = torch.arange(len(index), device=index.device)
    rows[place, index] = 1
    rows[place + len(index), index] = -1
    return rows.reshape(-1, 1, *node.shape)


def refine(call: Call, node: Node, index: Tensor, stop: Container[Node] = ()) -> Interval:
    """Return ends (batch, *shape) of a node, those at `index` of its flat elements improved by a backward pass."""
    lower, upper = (end.expand(call.batch, *node.shape).flatten(1) for end in call.ends[node])
    count = len(index)
    size = max(1, int(call.options.memory / (2 * call.bytes_per_row(node))))
    found = []
    for part, piece in enumerate(index.split(size)):
        call.part = part
        rows = one_hot_rows(node, piece, lower)
        both = concretize(call, *propagate(call, node, rows, stop))
        found.append((both[: len(piece)].T, -both[len(piece) :].T))
    call.part = 0
    new_lower, new_upper = (torch.cat(ends, 1) for ends in zip(*found, strict=True))
    whole = count == lower.shape[1]
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
