"""Which rule bounds which operator."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.graph import Node
from paperworks.robustness.bounds.values import Backward, Interval, LinearBounds, batched


class Rule(ABC):
    """How bounds pass through one operator.

    Values, ends and coefficients are those of one sample with axes in front: the batch (or 1, where all samples have
    the same), and before it, for coefficients, the rows of the specification. All coefficients belong to *lower*
    bounds: an upper bound is the lower bound of the negative.
    """

    def value(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the operator's value; arguments have the batch (or 1) in front."""
        return batched(node.op, 1, args, kwargs)

    def is_local(self, node: Node, call: Call) -> bool:
        """Return whether `backward` takes patches: coefficients in a box of places, as a convolution's are."""
        return False

    def needs(self, node: Node, call: Call) -> tuple[Node, ...]:
        """Return the inputs whose ends the linear rules use."""
        return tuple(n for n in node.inputs if n in call.perturbed)

    def undecided(self, node: Node, bounds: Interval, call: Call) -> Tensor | None:
        """Return where tighter ends of an input can change the linear rules; None for everywhere."""
        return None

    def is_affine(self, node: Node, call: Call) -> bool:
        """Return whether the operator is affine in its perturbed inputs, taken together."""
        return False

    outward = False
    """Whether the linear rules themselves give way for rounding at the node and at inputs that it carries."""

    def partial(self, node: Node) -> bool:
        """Return whether the operator is not defined everywhere, so that ends should not move past 0 by rounding."""
        return False

    def handed(self, node: Node, margin: Tensor, call: Call) -> Tensor | None:
        """Return what the margin of an input, of as many elements, is for coefficients of the node; None if unknown.

        The margin can then be added to the node's own, and needs no pass over the input's coefficients.
        """
        return None

    def rounding(self, node: Node, call: Call, size: Callable[[Node], Tensor], ends: Interval) -> Tensor | None:
        """Return how far rounding can move the node's value, given the sizes of its inputs; None for not at all.

        By default a few units in the last place of the greatest end: a rule that adds up much says more.
        """
        return call.gap(node, 16) * torch.maximum(ends.lower.detach().abs(), ends.upper.detach().abs())

    def rounding_of_ends(self, node: Node, call: Call, ends: Interval, most: Tensor | None) -> Any:
        """Return how far rounding can move each of the two ends, which is `most` or less; None for not at all."""
        return None if most is None else (most, most)

    def signs_kept(self, node: Node, call: Call) -> tuple[bool, bool]:
        """Return whether rounding leaves a value no less than 0 so, and one no greater, for ends of domains."""
        return False, False

    def rounding_of_lines(self, node: Node, call: Call) -> Tensor | None:
        """Return how far rounding can move the linear bounds of the forward mode; `rounding` by default."""
        return self.rounding(node, call, lambda n: call.reach[n] if n in call.reach else call.size(n), call.ends[node])

    @abstractmethod
    def interval(self, node: Node, call: Call) -> Interval:
        """Return ends from the ends of the inputs."""

    @abstractmethod
    def backward(self, node: Node, rows: Any, call: Call) -> Backward:
        """Return coefficients of the inputs under which each row's lower bound still holds."""

    @abstractmethod
    def forward(self, node: Node, call: Call) -> LinearBounds:
        """Return linear bounds from those of the inputs."""


_rules: dict[Any, Rule] = {}


def register_bound(op: Any, handler: Rule) -> None:
    """Tell how to bound an operator: an ATen overload, or one of your own made with `torch.library`.

    Parameters
    ----------
    op
        The overload that shows in the captured graph, such as `torch.ops.aten.relu.default`.
    handler
        Its rule: a `Rule` written out, or an `ElementwiseRule`, `LinearRule` or `BilinearRule` told what to do.
        It replaces a rule that the operator has.

    Raises
    ------
    TypeError
        Where `op` is not an overload, or `handler` no rule.

    Examples
    --------
    A function that rises everywhere and is convex, with the inverse of its derivative:

    >>> from paperworks.robustness.bounds import Curve, ElementwiseRule, Piece
    >>> curve = Curve(torch.expm1, torch.exp, [Piece(convex=True, critical=torch.log)], increasing=True)
    >>> register_bound(torch.ops.aten.expm1.default, ElementwiseRule(lambda: curve))
    """
    if not isinstance(op, (torch._ops.OpOverload, str)):
        raise TypeError(f"op is {op!r}; it takes an operator overload such as torch.ops.aten.relu.default")
    if not isinstance(handler, Rule):
        raise TypeError(f"handler is {type(handler).__name__}; it takes a Rule")
    _rules[op] = handler


def registered() -> tuple[Any, ...]:
    """Return all operators that have a rule."""
    return tuple(_rules)


def find_rule(op: Any) -> Rule | None:
    """Return the rule of an operator, if there is one."""
    return _rules.get(op)


def rule_of(node: Node) -> Rule:
    """Return a node's rule.

    Raises
    ------
    NotImplementedError
        Where its operator has none.
    """
    if (rule := _rules.get(node.op)) is None:
        raise NotImplementedError(
            f"operator {node.op} (node {node.name!r}) has no rule to bound it; `register_bound` can add one"
        )
    return rule


def takes_patches(node: Node, call: Call) -> bool:
    """Return whether a node's rule takes patches of coefficients."""
    if node not in call.local:
        call.local[node] = rule_of(node).is_local(node, call)
    return call.local[node]


def is_partial(node: Node) -> bool:
    """Return whether a node's operator has a rule and is not defined everywhere."""
    rule = find_rule(node.op)
    return rule is not None and rule.partial(node)


def evaluate(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a node's operator returns, by its rule where it has one; arguments have the batch (or 1) in front."""
    rule = find_rule(node.op)
    if rule is not None:
        return rule.value(node, args, kwargs)
    try:
        return batched(node.op, 1, args, kwargs)
    except RuntimeError as error:  # what has no batching rule, such as shapes that depend on values
        raise NotImplementedError(f"operator {node.op} (node {node.name!r}) has no rule ({error})") from error
