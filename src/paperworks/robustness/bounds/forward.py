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
    if node not in call.linear:
        call.linear[node] = rule_of(node).forward(node, call)


def concretize(call: Call, bounds: LinearBounds) -> Interval:
    """Return the ends of what lies between linear bounds."""
    lower = _minimum(call, bounds.lower_weight) + bounds.lower_bias
    return Interval(lower, bounds.upper_bias - _minimum(call, -bounds.upper_weight))


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
