"""Backward: the minimal subgraph that links parameters to an output, and what travels along it.

Nothing here knows how nodes are made: a node has a number `created` that grows, `args` (the nodes it was
computed from, none for a root), `arg_names` (what its operator calls them) and `trainable`.
"""

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def shorten(text: str, max_chars: int) -> str:
    """Return `text`, with its middle left out where it has more than `max_chars` characters."""
    if len(text) <= max_chars:
        return text
    half = max(max_chars // 2 - 8, 1)
    return f"{text[:half]} ...({len(text) - 2 * half} more)... {text[-half:]}"


class TraceGraph:
    """A part of a trace: its nodes in the order in which they were computed, and the feedback on its outputs.

    It is a snapshot: it keeps the values that nodes had when feedback came back, whatever is done to them later.

    Parameters
    ----------
    nodes
        Nodes in topological order, parents first.
    parents
        For each node the positions of its arguments in `nodes`; arguments outside of the graph are left out.
    outputs
        Positions of the nodes that feedback was given on.
    feedback
        One feedback for each output, anything that the optimiser understands.

    Examples
    --------
    >>> from paperworks.optimization import node, minimal_subgraph
    >>> a, unused = node(2, trainable=True, name="dose"), node(5) * 3
    >>> graph = minimal_subgraph(a * 3 + 1)
    >>> [graph.name(i) for i in graph.variables]
    ['dose0']
    >>> print(graph.code())
    mul0 = mul(x=dose0, y=int0)
    add0 = add(x=mul0, y=int1)
    """

    def __init__(
        self, nodes: Sequence[Any], parents: Sequence[tuple[int, ...]], outputs: Sequence[int], feedback: Sequence[Any]
    ) -> None:
        self.nodes, self.parents = tuple(nodes), tuple(parents)
        self.outputs, self.feedback = tuple(outputs), tuple(feedback)
        self.values = tuple(node._data for node in nodes)
        self.variables = tuple(i for i, node in enumerate(nodes) if node.trainable)
        self._names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Any:
        return iter(self.nodes)

    @property
    def others(self) -> tuple[int, ...]:
        """Positions of what was computed on the way from the variables to the outputs."""
        return tuple(i for i, p in enumerate(self.parents) if p and i not in self.outputs)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Positions of the fixed values that enter: roots, and nodes whose own arguments are outside of the graph."""
        return tuple(
            i for i, p in enumerate(self.parents) if not p and not self.nodes[i].trainable and i not in self.outputs
        )

    def name(self, position: int) -> str:
        """Return the name of a node that is an identifier and unique in this graph.

        Named roots keep theirs; what has none is numbered by its operator or type in the order of computation, so that
        the same workflow has the same names in each run.

        Parameters
        ----------
        position
            Position of the node in `nodes`.

        Returns
        -------
        str
            Identifier such as `mul0`, the same in each run.
        """
        if self._names is None:
            own: dict[int, str] = {}
            taken: set[str] = set()
            for i, node in enumerate(self.nodes):
                if node.named:  # two registries may have given the same name
                    own[i] = next(n for k in itertools.count() if (n := node.py_name + "_again" * k) not in taken)
                    taken.add(own[i])
            counts: dict[str, Any] = {}
            names: list[str] = []
            for i, node in enumerate(self.nodes):
                if i in own:
                    names.append(own[i])
                    continue
                counter = counts.setdefault(node.base, itertools.count())
                names.append(next(n for k in counter if (n := f"{node.base}{k}") not in taken))
            self._names = tuple(names)
        return self._names[position]

    def code(self) -> str:
        """Return one line for each computed node, as in `mul0 = mul(x=a, y=int0)`.

        Returns
        -------
        str
            Lines of pseudo-code in the order of computation.
        """
        lines = []
        for i, (node, parents) in enumerate(zip(self.nodes, self.parents, strict=True)):
            if parents:
                keys = node.arg_names if len(node.arg_names) == len(parents) else [f"x{k}" for k in range(len(parents))]
                arguments = ", ".join(f"{key}={self.name(p)}" for key, p in zip(keys, parents, strict=True))
                lines.append(f"{self.name(i)} = {node.op.name}({arguments})")
        return "\n".join(lines)

    def position(self, node: Any) -> int | None:
        """Return where a node stands in the graph, or None where it isn't in it.

        Parameters
        ----------
        node
            A node of this trace or of another.

        Returns
        -------
        int | None
            Position in `nodes`, or None.
        """
        return next((i for i, found in enumerate(self.nodes) if found is node), None)

    def restricted(self, parameter: Any) -> "TraceGraph":
        """Return the part of the graph on the paths from one parameter to the outputs, with the direct arguments.

        Parameters
        ----------
        parameter
            A trainable node of the graph.

        Returns
        -------
        TraceGraph
            The subgraph of this parameter alone.

        Raises
        ------
        ValueError
            Where the parameter is not in the graph.
        """
        start = self.position(parameter)
        if start is None:
            raise ValueError(f"parameter {parameter!r} is not in the graph; it takes one of its nodes")
        live = [i == start for i in range(len(self.nodes))]
        for i, parents in enumerate(self.parents):
            live[i] = live[i] or any(live[p] for p in parents)
        return self._only(live)

    def _only(self, live: Sequence[bool]) -> "TraceGraph":
        keep = sorted(
            {i for i, on in enumerate(live) if on} | {p for i, on in enumerate(live) if on for p in self.parents[i]}
        )
        where = {old: new for new, old in enumerate(keep)}
        parents = [tuple(where[p] for p in self.parents[i]) if live[i] else () for i in keep]
        kept = [(where[i], f) for i, f in zip(self.outputs, self.feedback, strict=True) if i in where]
        part = TraceGraph([self.nodes[i] for i in keep], parents, [i for i, _ in kept], [f for _, f in kept])
        part.values = tuple(self.values[i] for i in keep)
        return part

    @staticmethod
    def union(graphs: "Iterable[TraceGraph]") -> "TraceGraph":
        """Return one graph with the nodes and the feedback of all.

        Parameters
        ----------
        graphs
            Graphs of one workflow, such as those of several outputs.

        Returns
        -------
        TraceGraph
            The union; where one graph has a node's arguments and another has not, they are kept.
        """
        graphs = list(graphs)
        if len(graphs) == 1:
            return graphs[0]
        seen: dict[int, tuple[Any, Any, tuple[Any, ...]]] = {}
        for graph in graphs:
            for node, value, parents in zip(graph.nodes, graph.values, graph.parents, strict=True):
                if parents or id(node) not in seen:
                    seen[id(node)] = (node, value, tuple(graph.nodes[p] for p in parents))
        order = sorted(seen.values(), key=lambda entry: entry[0].created)
        where = {id(entry[0]): i for i, entry in enumerate(order)}
        feedback = [(where[id(g.nodes[i])], f) for g in graphs for i, f in zip(g.outputs, g.feedback, strict=True)]
        merged = TraceGraph(
            [node for node, _, _ in order],
            [tuple(where[id(p)] for p in parents) for _, _, parents in order],
            [i for i, _ in feedback],
            [f for _, f in feedback],
        )
        merged.values = tuple(value for _, value, _ in order)
        return merged

    def to_dot(self, max_chars: int = 60) -> str:
        """Return the graph in the language of Graphviz.

        Parameters
        ----------
        max_chars
            Most characters of a value that are shown.

        Returns
        -------
        str
            Text of a directed graph, for `dot -Tsvg`.
        """
        shapes = {**dict.fromkeys(self.variables, "box"), **dict.fromkeys(self.outputs, "doublecircle")}
        lines = ["digraph trace {"]
        for i, value in enumerate(self.values):
            label = json.dumps(f"{self.name(i)} = {shorten(repr(value), max_chars)}", ensure_ascii=False)
            lines.append(f"  n{i} [label={label}, shape={shapes.get(i, 'ellipse')}];")
        lines += [f"  n{p} -> n{i};" for i, parents in enumerate(self.parents) for p in dict.fromkeys(parents)]
        return "\n".join([*lines, "}"])

    def to_json(self, max_chars: int = 2000) -> str:
        """Return the graph as JSON, for other tools to read.

        Parameters
        ----------
        max_chars
            Most characters of a value that are written.

        Returns
        -------
        str
            An object with `nodes` (name, operator, value, parents), `outputs` and `feedback`.
        """
        nodes = [
            {
                "name": self.name(i),
                "operator": node.op.name if node.args else None,
                "trainable": node.trainable,
                "value": shorten(repr(value), max_chars),
                "parents": [self.name(p) for p in parents],
            }
            for i, (node, value, parents) in enumerate(zip(self.nodes, self.values, self.parents, strict=True))
        ]
        outputs = [self.name(i) for i in self.outputs]
        return json.dumps({"nodes": nodes, "outputs": outputs, "feedback": [str(f) for f in self.feedback]})


def minimal_subgraph(output: Any, feedback: Any = "", *, expand: bool = False) -> TraceGraph:
    """Return the nodes on paths from trainable nodes to an output, and the direct arguments of those.

    Two sweeps over the ancestors of the output, each linear in nodes and edges: one backward finds them, and one
    forward marks what descends from a trainable node (Cheng et al. 2024, arXiv 2406.16218, section 3: minimal subgraph
    propagation, whose sets of nodes cost O(W N^2) when each node carries its own).

    Parameters
    ----------
    output
        The node that feedback is given on.
    feedback
        What is said of the output, a number, a sentence or a stack trace.
    expand
        Whether functions bundled with `traceable_code=True` show what happened inside of them.

    Returns
    -------
    TraceGraph
        The minimal subgraph, without nodes where no trainable node leads to the output.

    Raises
    ------
    RuntimeError
        Where feedback went through a node of the trace before, which freed it.
    ValueError
        Where the trace has a cycle, which only a change by hand can make.

    Examples
    --------
    >>> from paperworks.optimization import node, minimal_subgraph
    >>> x = node(3.0, trainable=True, name="x")
    >>> len(minimal_subgraph(x * x + node(1.0)))
    4
    """
    found = {output}
    stack = [output]
    while stack:
        node = stack.pop()
        args = node.args
        if args is None:
            raise RuntimeError(
                f"feedback went through node {node.name} before, which freed its trace; backward takes "
                "retain_graph=True to go through it again"
            )
        if expand and node.inner is not None:
            args = (node.inner,)
        for parent in args:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    order = sorted(found, key=_creation)
    live = set()
    keep = set()
    for node in order:
        if node.trainable:
            live.add(node)
            keep.add(node)
            continue
        args = (node.inner,) if expand and node.inner is not None else node.args
        if not live.isdisjoint(args):
            live.add(node)
            keep.add(node)
            keep.update(args)
            if args[-1].created >= node.created or any(a.created >= node.created for a in args):
                raise ValueError(f"node {node.name} was computed before one of its arguments: the trace has a cycle")
    kept = [node for node in order if node in keep]
    where = {node: i for i, node in enumerate(kept)}
    parents = [
        tuple([where[a] for a in ((node.inner,) if expand and node.inner is not None else node.args)])
        if node in live
        else ()
        for node in kept
    ]
    return TraceGraph(kept, parents, [where[output]] if output in where else [], [feedback] if output in where else [])


def _creation(node: Any) -> int:
    return node.created


class Propagator(ABC):
    """Says what travels from an output to its parameters.

    Examples
    --------
    A propagator that counts the paths from each parameter to the output:

    >>> from paperworks.optimization import SumPropagator, node
    >>> x = node(1.0, trainable=True)
    >>> (x + x * x).backward(1.0, propagator=SumPropagator())
    >>> x.feedback
    [3.0]
    """

    @abstractmethod
    def run(self, graph: TraceGraph) -> dict[Any, Any]:
        """Return what arrives at each parameter.

        Parameters
        ----------
        graph
            The minimal subgraph, with the feedback on its outputs.

        Returns
        -------
        dict[Any, Any]
            By parameter, what is appended to its `feedback`.
        """


class GraphPropagator(Propagator):
    """Hands the minimal subgraph with the feedback to every parameter; it is what optimisers of workflows read.

    Examples
    --------
    >>> from paperworks.optimization import GraphPropagator, node
    >>> x = node(1.0, trainable=True)
    >>> (x + 1).backward("higher", propagator=GraphPropagator())
    >>> x.feedback[0].feedback
    ('higher',)
    """

    def run(self, graph: TraceGraph) -> dict[Any, Any]:
        """Return the whole graph for each parameter; `TraceGraph.restricted` gives the part of one.

        Parameters
        ----------
        graph
            The minimal subgraph, with the feedback on its outputs.

        Returns
        -------
        dict[Any, Any]
            By parameter, the graph.
        """
        return {graph.nodes[i]: graph for i in graph.variables}


Rule = Callable[[Any, Any, tuple[Any, ...]], Sequence[Any]]
"""From a node, its feedback and the values of its arguments to the feedback of each argument."""


class SumPropagator(Propagator):
    """Passes feedback on from node to node in reverse order, and adds up what meets: numbers as sums, text as lines.

    Without a rule an operator gives its own feedback to each argument. With rules for local derivatives this is
    reverse-mode differentiation.

    Examples
    --------
    >>> from paperworks.optimization import SumPropagator, node
    >>> propagator = SumPropagator()
    >>> propagator.register("mul", lambda node, feedback, values: [feedback * values[1], feedback * values[0]])
    >>> x = node(3.0, trainable=True)
    >>> (x * x).backward(1.0, propagator=propagator)
    >>> x.feedback
    [6.0]
    """

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}

    def register(self, operator: str, rule: Rule) -> None:
        """Let `rule` pass feedback through an operator.

        Parameters
        ----------
        operator
            Name of the operator or of the bundled function.
        rule
            Takes the node, its feedback and the values of its arguments, and returns one feedback for each argument.
        """
        self.rules[operator] = rule

    def propagate(self, child: Any, feedback: Any, values: tuple[Any, ...]) -> Sequence[Any]:
        """Return what each argument of a node hears of the node's feedback.

        Parameters
        ----------
        child
            The node that has the feedback.
        feedback
            What was said of it, added up over all that uses it.
        values
            Values of its arguments when it was computed.

        Returns
        -------
        Sequence[Any]
            One feedback for each argument.
        """
        rule = self.rules.get(child.op.name)
        return rule(child, feedback, values) if rule else [feedback] * len(values)

    def aggregate(self, first: Any, second: Any) -> Any:
        """Return the sum of two feedbacks on one node; different lines of text are joined.

        Parameters
        ----------
        first, second
            Two feedbacks on one node.

        Returns
        -------
        Any
            Their sum, or the lines of both.
        """
        if isinstance(first, str) or isinstance(second, str):
            lines = [*str(first).splitlines(), *str(second).splitlines()]
            return "\n".join(dict.fromkeys(lines))
        return first + second

    def run(self, graph: TraceGraph) -> dict[Any, Any]:
        """Return the feedback added up at each parameter.

        Parameters
        ----------
        graph
            The minimal subgraph, with the feedback on its outputs.

        Returns
        -------
        dict[Any, Any]
            By parameter, the sum over all paths.
        """
        held: list[Any] = [None] * len(graph)
        for i, feedback in zip(graph.outputs, graph.feedback, strict=True):
            held[i] = feedback if held[i] is None else self.aggregate(held[i], feedback)
        for i in range(len(graph) - 1, -1, -1):
            parents = graph.parents[i]
            if not parents or held[i] is None:
                continue
            passed = self.propagate(graph.nodes[i], held[i], tuple([graph.values[p] for p in parents]))
            for p, feedback in zip(parents, passed, strict=True):
                if feedback is not None:
                    held[p] = feedback if held[p] is None else self.aggregate(held[p], feedback)
        return {graph.nodes[i]: held[i] for i in graph.variables if held[i] is not None}
