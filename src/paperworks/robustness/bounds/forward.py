"""Forward propagation of linear bounds: every node's value between linear functions of the perturbed coordinates."""

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.registry import rule_of
from paperworks.robustness.bounds.values import Interval, LinearBounds


def prepare(call: Call) -> None:
    """Give every root its columns: one for each coordinate that can move."""
    free = {node: call.perturbations[node].free(call.value(node)).flatten() for node in call.roots}
    total = max(1, sum(int(f.sum()) for f in free.values()))
    start = 0
    for node, mask in free.items():
        value = call.value(node)
        count = int(mask.sum())
        weight = value.new_zeros(total, node.shape.numel())
        weight[torch.arange(start, start + count), mask.nonzero().flatten()] = 1
        weight = weight.reshape(total, 1, *node.shape).expand(-1, value.shape[0], *node.shape)
        fixed = call.perturbations[node].box(value)[0]  # need not be the clean value: a box may be elsewhere
        bias = torch.where(mask.reshape(node.shape), 0.0, fixed)
        call.linear[node] = LinearBounds(weight, bias, weight, bias)
        call.columns[node] = (mask, slice(start, start + count))
        start += count


def propagate(call: Call, node: Node) -> None:
    """Make the linear bounds of a node from those of its inputs."""
    if node in call.linear:
        return
    found = rule_of(node).forward(node, call)
    if call.sound:
        for source in (n for n in call.roots if n not in call.reach):
            call.reach[source] = _reach(call, call.linear[source])
        margin = rule_of(node).rounding_of_lines(node, call)
        if margin is not None:
            found = found._replace(lower_bias=found.lower_bias - margin, upper_bias=found.upper_bias + margin)
        call.reach[node] = _reach(call, found)
    call.linear[node] = found


@torch.no_grad()
def _reach(call: Call, bounds: LinearBounds) -> Tensor:
    """Return the greatest size of linear bounds, were all their terms of one sign."""
    tiny = torch.finfo(call.dtype).tiny  # less would be lost when it is multiplied by a margin
    sizes = [call.size(root).clamp(min=tiny).flatten(1)[:, mask] for root, (mask, _) in call.columns.items()]
    sizes = [s.expand(call.batch, -1) for s in sizes]
    size = torch.cat(sizes, 1) if sum(s.shape[1] for s in sizes) else sizes[0].new_zeros(call.batch, 1)
    reach = [
        torch.einsum("db...,bd->b...", weight.abs().expand(-1, call.batch, *weight.shape[2:]), size) + bias.abs()
        for weight, bias in (bounds[:2], bounds[2:])
    ]
    return torch.maximum(*reach)


def margin(call: Call, bounds: LinearBounds, node: Node) -> Tensor:
    """Return how far rounding can move the ends that linear bounds are concretised to."""
    columns = sum(c.stop - c.start for _, c in call.columns.values())
    terms = sum(call.perturbations[n].rounding(call.value(n), call.dtype)[1] for n in call.roots)
    reach = _reach(call, bounds)
    lost = call.lost(node).to(call.dtype).reshape(-1, *(1,) * (reach.ndim - 1))
    return call.gap(node, columns + terms) * reach + lost


def concretize(call: Call, bounds: LinearBounds, node: Node) -> Interval:
    """Return the ends of what lies between linear bounds of a node, or of rows of it."""
    lower = _minimum(call, bounds.lower_weight) + bounds.lower_bias
    upper = bounds.upper_bias - _minimum(call, -bounds.upper_weight)
    if call.sound:
        away = margin(call, bounds, node)
        lower, upper = lower - away, upper + away
    return Interval(lower, upper)


def _minimum(call: Call, weight: Tensor) -> Tensor:
    """Return the least value of linear functions without constant, weights (columns, batch, *shape)."""
    shape = weight.shape[1:]
    rows = weight.flatten(2).permute(2, 1, 0)  # one row an element
    total: Tensor | float = 0.0
    for node, (mask, columns) in call.columns.items():
        part = rows[:, :, columns]
        if not bool(mask.all()):
            part = part.new_zeros(*part.shape[:2], len(mask)).index_copy(2, mask.nonzero().flatten(), part)
        part = part.reshape(*part.shape[:2], *node.shape)
        total = total + call.perturbations[node].minimum(part, call.value(node))
    assert isinstance(total, Tensor)
    return total.T.reshape(total.shape[1], *shape[1:])
