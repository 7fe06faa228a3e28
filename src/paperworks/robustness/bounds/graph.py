"""The computational graph that bounds are propagated on: operators on values of one sample."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

IntervalRule = Callable[..., tuple[Tensor, Tensor]]
Kind = Literal["input", "parameter", "constant", "operator"]


@dataclass(eq=False)
class Node:
    """One value of the graph.

    Attributes
    ----------
    index
        Place in topological order.
    name
        Unique name: that of the parameter, or of the operator with a number.
    kind
        Where the value comes from.
    shape
        Shape of the value for one sample, as traced with a batch of one (so that its first axis is often 1).
    dtype
        Its type; None for an operator that returns several values.
    op
        The ATen overload (or an operator of our own), for operators.
    args, kwargs
        Its arguments, nodes among them.
    tensor
        The value of a constant.
    """

    index: int
    name: str
    kind: Kind
    shape: torch.Size
    dtype: torch.dtype | None
    op: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tensor: Tensor | None = None
    inputs: tuple["Node", ...] = ()

    def __repr__(self) -> str:
        return f"{self.name}{list(self.shape)}"

    def resolve(self, value: Callable[["Node"], Any]) -> tuple[Any, ...]:
        """Return the arguments with every node replaced by its value."""
        return tuple(_replace(a, value) for a in self.args)

    def resolve_kwargs(self, value: Callable[["Node"], Any]) -> dict[str, Any]:
        """Return the keyword arguments with every node replaced by its value."""
        return {k: _replace(a, value) for k, a in self.kwargs.items()}


def _replace(argument: Any, value: Callable[[Node], Any]) -> Any:
    if isinstance(argument, Node):
        return value(argument)
    if isinstance(argument, (list, tuple)) and any(isinstance(a, Node) for a in argument):
        return [_replace(a, value) for a in argument]
    return argument


def nodes_in(arguments: Iterable[Any]) -> tuple[Node, ...]:
    """Return the distinct nodes among arguments and in lists of them, in order."""
    found: dict[Node, None] = {}
    for argument in arguments:
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(item, Node):
                found[item] = None
    return tuple(found)


@dataclass(eq=False)
class Graph:
    """Nodes in topological order, the inputs among them, and the output."""

    nodes: list[Node]
    inputs: list[Node]
    output: Node
    intervals: dict[Node, tuple[IntervalRule, tuple[Node, ...], int, bool]]
    """For the last node of an operator recorded as simpler ones: a tighter interval rule, what it takes, and how many
    terms the operator adds up, and whether rounding is relative to what it gives."""

    plans: dict[Any, Any] = field(default_factory=dict)
    """What is known of passes by where they begin and which nodes are perturbed, whatever the values are."""

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __post_init__(self) -> None:
        self.consumers: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                self.consumers[source].append(node)
