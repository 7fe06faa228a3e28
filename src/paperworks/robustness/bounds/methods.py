"""The methods: which intermediate bounds are made, and how the output's follow from them."""

from collections.abc import Container
from typing import Literal, get_args

import torch
from torch import Tensor

from paperworks.robustness.bounds import backward, forward
from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.linear import LinearRule
from paperworks.robustness.bounds.registry import rule_of
from paperworks.robustness.bounds.rounding import double, least, unit
from paperworks.robustness.bounds.values import Interval

Method = Literal["IBP", "forward", "forward+backward", "CROWN-IBP", "CROWN", "alpha-CROWN"]
METHODS: tuple[Method, ...] = get_args(Method)
_MERGE_UP_TO = 64  # classes, where a fused loss merges the rows of the last layer by default


def intermediate(call: Call, target: Node, method: Method) -> None:
    """Make the ends of every node on the way to `target`, and of it, in `call.ends`."""
    if method.startswith("forward"):
        forward.prepare(call)
    path = call.relevant(target)
    on_path = set(path)
    merged = _merged(call, target)
    for node in path:
        if node in call.perturbations:
            call.ends[node] = _box(call, node)
            continue
        if node in call.fixed:
            call.ends[node] = call.fixed[node]
            continue
        call.ends[node] = interval(call, node)
        if call.splits is not None and node in call.splits.ends:
            call.ends[node] = meet(call.ends[node], call.splits.ends[node])
        if method.startswith("forward"):
            forward.propagate(call, node)
            ends = forward.concretize(call, call.linear[node], node)
            call.ends[node] = meet(call.ends[node], ends) if call.options.intersect else ends
            continue
        consumers = [n for n in call.graph.consumers[node] if n in on_path and n is not node]
        if _linear_in_ball(call, node) and (node is target or _wanted(call, node, consumers)):
            _improve(call, node, None)  # of decided neurons too: their ends are what the next layer's are made of
        elif node is merged:
            index = torch.arange(node.shape.numel(), device=call.ends[node].lower.device)
            call.ends[node] = backward.refine(call, node, index, nonlinear(call, node))
        elif method in ("CROWN", "alpha-CROWN") and node is not target and not _exact(call, node):
            _improve(call, node, consumers)


def interval(call: Call, node: Node) -> Interval:
    """Return the ends of a node from those of its inputs, by its own rule and that of the operator it came from.

    They give way for what rounding may have done to the node's value, which is kept as its margin.
    """
    ends = rule_of(node).interval(node, call)
    margin = None
    if call.sound:
        margin = _margin(call, node, ends)
        with torch.no_grad():
            away = rule_of(node).rounding_of_ends(node, call, ends, margin)
        if away is not None:
            ends = _apart(call, node, ends, away)
    if node in call.graph.intervals:
        rule, sources, terms, relative = call.graph.intervals[node]
        tight = rule(*(end for n in sources for end in double(*call.bounds(n))))
        if call.sound:
            size = torch.maximum(*(end.detach().abs() for end in tight))
            rest = 0 if margin is None or relative else 4 * margin + call.gap(node, terms)
            tight = widened(Interval(*tight), call.gap(node, terms) * size + least(call.type_of(node)) + rest)
        ends = meet(ends, Interval(*(end.to(call.dtype) for end in tight)))
    return ends


def _apart(call: Call, node: Node, ends: Interval, away: tuple[Tensor, Tensor]) -> Interval:
    """Return ends moved apart, and not past 0 where the operator's rounding can't and a domain may begin there."""
    lower, upper = ends.lower - away[0], ends.upper + away[1]
    below, above = rule_of(node).signs_kept(node, call) if call.delicate else (False, False)
    return Interval(  # by the sign of a 0 as well, which tells on what side of it a result was lost
        torch.where(ends.lower.signbit(), lower, lower.clamp(min=0)) if below else lower,
        torch.where(ends.upper.signbit(), upper.clamp(max=0), upper) if above else upper,
    )


def widened(ends: Interval, margin: Tensor) -> Interval:
    """Return ends moved apart."""
    return Interval(ends.lower - margin, ends.upper + margin)


def _box(call: Call, root: Node) -> Interval:
    """Return the box around a root, and around points of it that are rounded to its type."""
    ends = Interval(*call.perturbations[root].box(call.value(root)))
    if not call.sound:
        return ends
    distance, _ = call.perturbations[root].rounding(call.value(root), call.type_of(root))
    return widened(ends, distance) if isinstance(distance, Tensor) else ends


@torch.no_grad()
def _margin(call: Call, node: Node, ends: Interval) -> Tensor | None:
    """Return a node's own margin, and keep what linear bounds give way by: with those of inputs it carries."""
    rule = rule_of(node)
    own = total = rule.rounding(node, call, call.size, ends)
    for source in node.inputs:
        only = call.graph.consumers[source] == [node] and source not in call.perturbations
        if source not in call.perturbed or not only:
            continue
        if rule.outward:
            call.carried.add(source)
        elif source.shape.numel() == node.shape.numel() and source in call.margins:
            handed = rule.handed(node, call.margins[source], call)
            if handed is not None:
                call.carried.add(source)
                total = handed if total is None else total + handed
    if len(call.graph.consumers[node]) > 1 and (total is not None or rule.outward):
        size = torch.maximum(-ends.lower.detach(), ends.upper.detach())
        merging = 2 * unit(call.dtype) * (size if own is None else size + own)
        total = merging if total is None else total + merging
        call.summed.add(node)
    if total is not None:
        call.margins[node] = total
    return own


def meet(a: Interval, b: Interval) -> Interval:
    """Return the intersection of two intervals that hold the same values."""
    lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _wanted(call: Call, node: Node, consumers: list[Node]) -> bool:
    return any(node in rule_of(c).needs(c, call) for c in consumers)


def _improve(call: Call, node: Node, consumers: list[Node] | None) -> None:
    """Improve the ends of a node by a backward pass where its consumers (or, without any, all) depend on them."""
    if node not in call.refined:
        if consumers is None:
            call.refined[node] = torch.arange(node.shape.numel(), device=call.ends[node].lower.device)
        else:
            call.refined[node] = backward.undecided(call, node, consumers)
    index = call.refined[node]
    if index is not None:
        call.ends[node] = backward.refine(call, node, index)
    if node in call.first:
        call.ends[node] = meet(call.ends[node], call.first[node])


def keep_undecided(call: Call, target: Node) -> None:
    """Refine, from now on, only what is still undecided with the ends there are: of unstable neurons."""
    on_path = set(call.relevant(target))
    for node, index in call.refined.items():
        if index is not None and node is not target and not _linear_in_ball(call, node):
            consumers = [n for n in call.graph.consumers[node] if n in on_path]
            call.refined[node] = backward.undecided(call, node, consumers)


def work(call: Call) -> int:
    """Return how many coefficients the passes that refine intermediate bounds carry back, both sides."""
    counts = ((node, len(index)) for node, index in call.refined.items() if index is not None)
    return sum(2 * n * call.batch * sum(m.shape.numel() for m in call.relevant(node)) for node, n in counts)


def nonlinear(call: Call, target: Node) -> Container[Node]:
    """Return the nodes before `target` whose rules are not affine: where a linear merge ends."""
    return {n for n in call.relevant(target) if n not in call.perturbations and not rule_of(n).is_affine(n, call)}


def _affine_from_roots(call: Call, node: Node) -> bool:
    if node not in call.affine:
        call.affine[node] = node in call.perturbations or (
            rule_of(node).is_affine(node, call)
            and all(_affine_from_roots(call, n) for n in node.inputs if n in call.perturbed)
        )
    return call.affine[node]


def _linear_in_ball(call: Call, node: Node) -> bool:
    """Return whether a node is affine in roots that are no boxes: its exact bound then takes their dual norm."""
    if all(p.is_box for p in call.perturbations.values()) or not _affine_from_roots(call, node):
        return False
    # The box around a root is exact element by element, and a bias or a change of shape keeps an exact interval exact.
    while node not in call.exact and node not in call.perturbations:
        moving = [n for n in node.inputs if n in call.perturbed]
        if len(moving) != 1 or node.shape.numel() > moving[0].shape.numel():
            return True
        rule = rule_of(node)
        if not isinstance(rule, LinearRule) or not rule.diagonal:
            return True
        node = moving[0]
    return False


def _exact(call: Call, node: Node) -> bool:
    """Return whether interval arithmetic is exact at a node: at most one sum lies between it and a box."""
    return _sums_to_box(call, node) <= 1


def _sums_to_box(call: Call, node: Node) -> int:
    if node not in call.sums:
        moving = [n for n in node.inputs if n in call.perturbed]
        if node in call.perturbations:
            depth = 0 if call.perturbations[node].is_box else 2
        elif len(moving) != 1 or not rule_of(node).is_affine(node, call):
            depth = 2
        else:
            depth = _sums_to_box(call, moving[0])
            rule = rule_of(node)
            keeps = isinstance(rule, LinearRule) and rule.diagonal and node.shape.numel() <= moving[0].shape.numel()
            depth += 0 if keeps else 1
        call.sums[node] = depth
    return call.sums[node]


def _merged(call: Call, target: Node) -> Node | None:
    """Return the node of a fused loss whose interval is made by merging rows of the last layer, if any."""
    fused = next((n for n in reversed(call.relevant(target)) if n.op == "shift"), None)
    if fused is None or call.graph.output.op != "unshift" or call.graph.output.args[1] is not fused:
        return None
    source: Node = fused.args[0]
    classes = source.shape[-1]
    choice = call.options.fusion
    return source if choice == "merged" or (choice == "auto" and classes <= _MERGE_UP_TO) else None
