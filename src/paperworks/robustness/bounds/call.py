"""What one computation of bounds knows: values, ends and linear bounds of the nodes met so far."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from paperworks.robustness.bounds.freedom import Freedom
from paperworks.robustness.bounds.graph import Graph, Node
from paperworks.robustness.bounds.options import Options
from paperworks.robustness.bounds.perturbations import Perturbation
from paperworks.robustness.bounds.rounding import gap, quantum
from paperworks.robustness.bounds.splits import Splits
from paperworks.robustness.bounds.values import Interval, LinearBounds

_HELD = ("clean_mean", "clean_var")  # taken from the clean batch and held constant


def minus_infinity(dtype: torch.dtype) -> float:
    """Return what stands for the minus infinity of attention masks: its exponential is 0 too, and 0 times it is 0."""
    return max(-1e300, torch.finfo(dtype).min / 4)


class Call:
    """One computation of bounds.

    Parameters
    ----------
    graph
        What is bounded.
    leaves
        Clean values of inputs, parameters and constants, the batch (or 1) in front.
    perturbations
        Over what the perturbed leaves range.
    batch
        Number of samples.
    options
        Choices of relaxations.
    partial
        Whether a node's operator is not defined everywhere: `registry.is_partial`.
    evaluate
        Gives the value of a node's operator at arguments with the batch (or 1) in front: `registry.evaluate`.

    Attributes
    ----------
    perturbed
        Nodes whose values can move.
    ends
        Intermediate bounds, node by node, as good as the method makes them.
    linear
        Linear bounds of the forward mode.
    state
        What a rule has to remember within the computation, by node.
    offsets
        Constant parts of affine operators.
    kernels
        Weights of convolutions as their adjoints take them.
    boxes
        What a root's coefficients are multiplied by, and their sizes, with the ends they were made for.
    lines
        Lines of elementwise functions with the ends they were made for.
    bends
        What coefficients are multiplied by at elementwise functions, with the lines it was made of.
    exact
        Nodes whose intervals are exact though they depend on a ball.
    columns
        Which coordinates of each root the forward mode's columns stand for, and which columns.
    freedom
        Parameters of the relaxations that α-CROWN optimises, if it is at work.
    splits
        What is known of parts of the set besides their boxes, if it is bounded by parts.
    fixed, first
        Intermediate bounds to be taken as they are, and ones to keep where they are better.
    refined
        Which flat elements of a node a backward pass improves: the same in every step of an optimisation.
    start, part
        Where the backward pass under way began, and which part of its rows it carries.
    dtype
        Of all computations: the widest type in the graph, and at least float32.
    sound
        Whether bounds give way by what rounding may have done.
    margins, carried
        How far rounding may move the value of each node, and nodes whose only consumer gives way for them.
    summed
        Nodes whose margins hold the rounding of the last sum of coefficients that arrive from several consumers.
    local
        Whether the rule of a node takes patches.
    reach
        In the forward mode, the greatest size of a node's linear bounds, all terms taken positive.
    """

    def __init__(
        self,
        graph: Graph,
        leaves: Mapping[Node, Tensor],
        perturbations: Mapping[Node, Perturbation],
        batch: int,
        options: Options,
        evaluate: Callable[[Node, tuple[Any, ...], dict[str, Any]], Any],
        partial: Callable[[Node], bool],
    ) -> None:
        self._partial = partial
        self._operate = evaluate
        self.graph, self.perturbations, self.batch, self.options = graph, perturbations, batch, options
        types = [torch.float32, *(n.dtype for n in graph if n.dtype is not None and n.dtype.is_floating_point)]
        self.dtype = functools.reduce(torch.promote_types, types)
        self._values: dict[Node, Any] = {node: self._cast(value) for node, value in leaves.items()}
        self.perturbed: set[Node] = set()
        for node in graph:
            if node in perturbations or (node.op not in _HELD and any(n in self.perturbed for n in node.inputs)):
                self.perturbed.add(node)
        rounded = [n.dtype.itemsize for n in self.perturbed if n.dtype is not None and n.dtype.is_floating_point]
        self.sound = options.sound if options.sound is not None else min(rounded, default=8) < 8
        self.roots = [node for node in graph if node in perturbations]
        self.ends: dict[Node, Interval] = {}
        self.linear: dict[Node, LinearBounds] = {}
        self.state: dict[Node, Any] = {}
        self.offsets: dict[Node, Tensor] = {}
        self.boxes: dict[Node, tuple[Any, Any, Any]] = {}
        self.lines: dict[Node, Any] = {}
        self.kernels: dict[Node, Tensor] = {}
        self.bends: dict[Node, Any] = {}
        self.columns: dict[Node, tuple[Tensor, slice]] = {}
        self.freedom: Freedom | None = None
        self.splits: Splits | None = None
        self.fixed: dict[Node, Interval] = {}
        self.first: dict[Node, Interval] = {}
        self.refined: dict[Node, Tensor | None] = {}
        self.start: Node | None = None
        self.part = 0
        self._relevant: dict[Node, list[Node]] = {}
        self.affine: dict[Node, bool] = {}
        self.sums: dict[Node, int] = {}
        self.exact: set[Node] = set()
        self.margins: dict[Node, Tensor] = {}
        self.carried: set[Node] = set()
        self.summed: set[Node] = set()
        self.local: dict[Node, bool] = {}
        self.reach: dict[Node, Tensor] = {}
        self._lost: dict[Node, Tensor] = {}
        self._sizes: dict[Node, tuple[Interval, Tensor]] = {}

    def _cast(self, value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self.dtype) if floating and value.dtype != self.dtype else value

    def gap(self, node: Node, terms: int) -> float:
        """Return the error of sums of `terms` at a node, to the sum of the sizes of what is added up."""
        return gap(terms, self.dtype, self.type_of(node))

    def type_of(self, node: Node) -> torch.dtype:
        """Return the type that the module rounds a node's value to."""
        floating = node.dtype is not None and node.dtype.is_floating_point
        return node.dtype if floating else self.dtype  # type: ignore[return-value]

    def lost(self, target: Node) -> Tensor:
        """Return what coefficients too small for the type may add up to between a node and the roots, (batch)."""
        if target not in self._lost:
            path = [n for n in self.relevant(target) if n in self.ends]
            total = sum((self.size(n).flatten(1).double().sum(1) for n in path), torch.zeros((), dtype=torch.float64))
            self._lost[target] = quantum(self.dtype) * max(n.shape.numel() for n in path) * total
        return self._lost[target]

    @functools.cached_property
    def delicate(self) -> bool:
        """Whether an operator is not defined for all numbers, so that ends must keep their sign if they can."""
        return any(self._partial(node) for node in self.graph if node in self.perturbed)

    def size(self, node: Node) -> Tensor:
        """Return the greatest size that each element of a node can have."""
        if node not in self.perturbed:
            return self.constant(node).detach().abs()
        ends = self.ends[node]
        kept = self._sizes.get(node)
        if kept is None or kept[0] is not ends:
            size = torch.maximum(-ends.lower.detach(), ends.upper.detach())  # the other signs are less
            kept = self._sizes[node] = (ends, size)
        return kept[1]

    def value(self, node: Node) -> Tensor:
        """Return a node's clean value, (batch or 1, *shape)."""
        if node not in self._values:
            waiting = [node]
            while waiting:  # no recursion: graphs can be deeper than Python's stack
                top = waiting[-1]
                missing = [n for n in top.inputs if n not in self._values]
                if missing:
                    waiting += missing
                    continue
                waiting.pop()
                if top not in self._values:
                    self._values[top] = self._cast(self._evaluate(top))
        return self._values[node]

    def _evaluate(self, node: Node) -> Any:
        args, kwargs = node.resolve(self._values.__getitem__), node.resolve_kwargs(self._values.__getitem__)
        if node.op == "getitem":
            return args[0][args[1]]
        return self._operate(node, args, kwargs)

    def constant(self, node: Node) -> Tensor:
        """Return the value of what is not perturbed, as a term of a sum: finite."""
        value = self.value(node)
        if not value.is_floating_point():
            return value.to(self.dtype)
        return torch.where(value.isneginf(), minus_infinity(value.dtype), value)

    def bounds(self, node: Node) -> Interval:
        """Return the ends of a node."""
        if node not in self.perturbed:
            value = self.constant(node)
            return Interval(value, value)
        return self.ends[node]

    def relevant(self, target: Node) -> list[Node]:
        """Return the perturbed nodes on the way to a node, itself last, in topological order."""
        if target not in self._relevant:
            needed = {target}
            for node in reversed(self.graph.nodes[: target.index + 1]):
                if node in needed:
                    needed.update(n for n in node.inputs if n in self.perturbed)
            self._relevant[target] = [n for n in self.graph.nodes[: target.index + 1] if n in needed]
        return self._relevant[target]

    def bytes_per_row(self, start: Node) -> float:
        """Return what a row of coefficients takes at its widest, with room for the intermediate results of a rule."""
        widest = max(node.shape.numel() for node in self.relevant(start))
        item = torch.finfo(self.value(self.roots[0]).dtype).bits / 8
        return 4 * item * self.batch * widest
