"""Causal graphs with sets of nodes as bits of whole numbers, which makes d-separation a few operations a node."""

import functools
from collections.abc import Hashable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import networkx as nx

Node = Hashable
Extend = Literal["consistent_dag"] | None


class CausalGraph:
    """A directed acyclic graph whose nodes have any names.

    An edge that is given in both directions is undirected, as those that causal discovery can't orient.

    Parameters
    ----------
    nodes
        The nodes, in the order in which sets of them are reported.
    edges
        Pairs (cause, effect); nodes not named before are added.
    extend
        What to do with undirected edges: None refuses them, ``consistent_dag`` directs them so that no cycle and no
        new v-structure arises.

    Raises
    ------
    ValueError
        For a cycle, edges that aren't pairs of two nodes, undirected ones where `extend` is None, or such that have no
        consistent extension.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("rain", "wet"), ("sprinkler", "wet"), ("wet", "slippery")])
    >>> graph.d_separated("rain", "sprinkler"), graph.d_separated("rain", "sprinkler", {"slippery"})
    (True, False)
    """

    def __init__(self, nodes: Iterable[Node], edges: Iterable[tuple[Node, Node]], extend: Extend = None) -> None:
        if extend not in (None, "consistent_dag"):
            raise ValueError(f"extend is {extend!r}; it takes None or 'consistent_dag'")
        pairs = list(dict.fromkeys(_pair(edge) for edge in edges))
        self.nodes = tuple(dict.fromkeys([*nodes, *(node for pair in pairs for node in pair)]))
        self._index = {node: i for i, node in enumerate(self.nodes)}
        undirected = [pair for pair in pairs if pair[::-1] in set(pairs)]
        if undirected:
            if extend != "consistent_dag":
                raise ValueError(
                    f"edges has the undirected {undirected[0]!r}; direct it, or pass extend='consistent_dag'"
                )
            pairs = _consistent_extension(self.nodes, [p for p in pairs if p not in set(undirected)], undirected)
        self.edges = tuple(pairs)
        self._parents, self._children = [0] * len(self.nodes), [0] * len(self.nodes)
        for cause, effect in self.edges:
            i, j = self._index[cause], self._index[effect]
            self._parents[j] |= 1 << i
            self._children[i] |= 1 << j
        self._ancestors = self._close()
        # Made here and not when first asked for: a graph that an estimator is given doesn't change by use.
        depth = [ancestors.bit_count() for ancestors in self._ancestors]
        self._order = tuple(sorted(self.nodes, key=lambda node: depth[self._index[node]]))

    @classmethod
    def from_edges(
        cls, edges: Iterable[tuple[Node, Node]], nodes: Iterable[Node] = (), extend: Extend = None
    ) -> "CausalGraph":
        """Make a graph from pairs (cause, effect), and `nodes` that may have none.

        Parameters
        ----------
        edges
            Pairs (cause, effect); two opposite pairs are an edge without direction.
        nodes
            Nodes to have besides those of the edges.
        extend
            What to do with undirected edges: None refuses them, ``consistent_dag`` directs them.

        Returns
        -------
        CausalGraph
            A graph from pairs (cause, effect), and `nodes` that may have none.
        """
        return cls(nodes, edges, extend)

    @classmethod
    def from_networkx(cls, graph: "nx.DiGraph", extend: Extend = None) -> "CausalGraph":
        """Make a graph from one of networkx.

        Parameters
        ----------
        graph
            A directed graph of networkx.
        extend
            What to do with undirected edges: None refuses them, ``consistent_dag`` directs them.

        Returns
        -------
        CausalGraph
            The same nodes and edges, in the same order.

        Raises
        ------
        TypeError
            Where its edges have no direction.
        """
        if not graph.is_directed():
            raise TypeError(f"graph is a {type(graph).__name__}; it takes a directed one")
        return cls(graph.nodes, graph.edges(), extend)

    @classmethod
    def from_gml(cls, path: str | PathLike[str], extend: Extend = None) -> "CausalGraph":
        """Read a graph from a file in the Graph Modelling Language.

        Parameters
        ----------
        path
            Path of the file.
        extend
            What to do with undirected edges: None refuses them, ``consistent_dag`` directs them.

        Returns
        -------
        CausalGraph
            The graph that the file describes.
        """
        import networkx as nx

        return cls.from_networkx(nx.read_gml(path), extend)

    @classmethod
    def from_cdnod(
        cls,
        data: Any,
        c_indx: Any,
        names: Iterable[Node] | None = None,
        env: Node = "E",
        extend: Extend = "consistent_dag",
        **options: Any,
    ) -> "CausalGraph":
        """Discover a graph from several environments by causal-learn's CD-NOD.

        Edges of the environment's node are directed away from it, which CD-NOD may leave undone.

        Parameters
        ----------
        data, c_indx
            Samples, of shape (n, d), and the index of each one's environment, of shape (n,) or (n, 1).
        names
            Names of the d variables; X1, X2, … by default.
        env
            Name of the environment's node.
        extend
            As in `CausalGraph`.
        options
            Further arguments of ``cdnod``, such as ``alpha`` or ``indep_test``.

        Returns
        -------
        CausalGraph
            The discovered graph, with a direction on every edge.

        Raises
        ------
        ImportError
            Where causal-learn isn't installed.
        """
        from causallearn.search.ConstraintBased.CDNOD import cdnod

        samples = np.asarray(data, dtype=float)
        found = cdnod(samples, np.asarray(c_indx).reshape(-1, 1), show_progress=False, **options).G.graph
        labels = [*(names or [f"X{i + 1}" for i in range(samples.shape[1])]), env]
        last, edges = len(labels) - 1, []
        for i, j in zip(*np.triu_indices(len(labels), 1), strict=True):
            if not found[i, j]:
                continue
            # Entry [i, j] is the mark at i: -1 a tail, 1 an arrowhead.
            if j == last or found[i, j] == 1 != found[j, i]:
                edges.append((labels[j], labels[i]))
            elif found[j, i] == 1 != found[i, j]:
                edges.append((labels[i], labels[j]))
            else:
                edges += [(labels[i], labels[j]), (labels[j], labels[i])]
        return cls(labels, edges, extend)

    def to_networkx(self) -> "nx.DiGraph":
        """Return the graph as one of networkx.

        Returns
        -------
        nx.DiGraph
            The graph as one of networkx.
        """
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from(self.edges)
        return graph

    def __contains__(self, node: Node) -> bool:
        return node in self._index

    def __repr__(self) -> str:
        return f"CausalGraph({len(self.nodes)} nodes, {len(self.edges)} edges)"

    @property
    def order(self) -> tuple[Node, ...]:
        """The nodes with every cause before its effects."""
        return self._order

    def parents(self, node: Node) -> tuple[Node, ...]:
        """Return the direct causes of a node, in the order of the graph's nodes.

        Returns
        -------
        tuple[Node, ...]
            The direct causes of a node, in the order of the graph's nodes.
        """
        return self.names(self._parents[self.index(node)])

    def children(self, node: Node) -> tuple[Node, ...]:
        """Return the direct effects of a node.

        Returns
        -------
        tuple[Node, ...]
            The direct effects of a node.
        """
        return self.names(self._children[self.index(node)])

    def ancestors(self, nodes: Iterable[Node]) -> frozenset[Node]:
        """Return all causes of some nodes, and those nodes themselves.

        Returns
        -------
        frozenset[Node]
            All causes of some nodes, and those nodes themselves.
        """
        return frozenset(self.names(self.ancestor_bits(self.bits(nodes))))

    def descendants(self, nodes: Iterable[Node]) -> frozenset[Node]:
        """Return all effects of some nodes, without those nodes unless one is an effect of another.

        Returns
        -------
        frozenset[Node]
            All effects of some nodes, without those nodes unless one is an effect of another.
        """
        start = self.bits(nodes)
        return frozenset(node for i, node in enumerate(self.nodes) if self._ancestors[i] & ~(1 << i) & start)

    def without_causes(self, nodes: Iterable[Node]) -> "CausalGraph":
        """Return the graph of an intervention on some nodes: without the edges into them.

        Returns
        -------
        CausalGraph
            A new graph with the same nodes.
        """
        cut = set(self.names(self.bits(nodes)))
        return CausalGraph(self.nodes, [edge for edge in self.edges if edge[1] not in cut])

    def restricted(self, nodes: Iterable[Node]) -> "CausalGraph":
        """Return the graph of some of the nodes and the edges between them.

        Returns
        -------
        CausalGraph
            A new graph with these nodes in the order of this one.
        """
        kept = set(self.names(self.bits(nodes)))
        return CausalGraph(
            [node for node in self.nodes if node in kept], [edge for edge in self.edges if kept.issuperset(edge)]
        )

    def d_separated(self, x: Node, y: Node, given: Iterable[Node] = ()) -> bool:
        """Tell whether two nodes are d-separated by the nodes `given`.

        Parameters
        ----------
        x, y
            The two nodes by their names.
        given
            The nodes conditioned on, none by default.

        Returns
        -------
        bool
            Whether every path between the two is blocked.

        Raises
        ------
        ValueError
            For an unknown node, or where x and y are the same or `given` has one of them.
        """
        i, j, bits = self.index(x), self.index(y), self.bits(given)
        if i == j or bits >> i & 1 or bits >> j & 1:
            raise ValueError(f"x = {x!r}, y = {y!r} and given = {given!r} overlap; they take different nodes")
        return not self.connected_bits(i, bits) >> j & 1

    # What follows has sets of nodes as bits: node number i is in the set if bit i is one.

    def index(self, node: Node) -> int:
        """Return the number of a node, else raise ValueError.

        Returns
        -------
        int
            Place of the node in the graph's nodes, from 0.
        """
        try:
            return self._index[node]
        except KeyError:
            raise ValueError(f"node {node!r} is not in the graph; it has {', '.join(map(repr, self.nodes))}") from None

    def bits(self, nodes: Iterable[Node]) -> int:
        """Return a set of nodes as bits.

        Returns
        -------
        int
            A number whose bit i is set where the set holds node number i.
        """
        return functools.reduce(lambda bits, node: bits | 1 << self.index(node), nodes, 0)

    def names(self, bits: int) -> tuple[Node, ...]:
        """Return the nodes of a set of bits, in the order of the graph's nodes.

        Returns
        -------
        tuple[Node, ...]
            The nodes of a set of bits, in the order of the graph's nodes.
        """
        return tuple(self.nodes[i] for i in each_bit(bits))

    def ancestor_bits(self, bits: int) -> int:
        """Return the causes of some nodes, and those nodes themselves.

        Parameters
        ----------
        bits
            A set of nodes, as `CausalGraph.bits` gives it.

        Returns
        -------
        int
            The set as bits, one for each node.
        """
        return functools.reduce(lambda found, i: found | self._ancestors[i], each_bit(bits), 0)

    def connected_bits(self, start: int, given: int) -> int:
        """Return the nodes that the node number `start` is d-connected to, by the Bayes ball.

        A ball that arrives from a child goes on to parents and children unless the node is given; one that arrives
        from a parent goes on to children unless it is given, and back to parents if it or an effect of it is given.

        Parameters
        ----------
        start
            Number of the node to begin at.
        given
            The nodes conditioned on, as bits.

        Returns
        -------
        int
            The set as bits, one for each node.
        """
        opened = self.ancestor_bits(given)
        rising, falling = 1 << start, 0
        risen = fallen = 0
        while rising or falling:
            if rising:
                bit = rising & -rising
                risen |= bit
                i = bit.bit_length() - 1
                passes, bounces = not given & bit, not given & bit
            else:
                bit = falling & -falling
                fallen |= bit
                i = bit.bit_length() - 1
                passes, bounces = not given & bit, bool(opened & bit)
            if bounces:
                rising |= self._parents[i]
            if passes:
                falling |= self._children[i]
            rising &= ~risen
            falling &= ~fallen
        return (risen | fallen) & ~given & ~(1 << start)

    def _close(self) -> list[int]:
        """Return the ancestors of each node with itself; raise ValueError for a cycle."""
        ancestors: list[int] = [0] * len(self.nodes)
        done, left = 0, (1 << len(self.nodes)) - 1
        while left:
            ready = [i for i in each_bit(left) if not self._parents[i] & ~done]
            if not ready:
                raise ValueError(f"edges has a cycle among {', '.join(map(repr, self.names(left)))}")
            for i in ready:
                ancestors[i] = functools.reduce(
                    lambda found, j: found | ancestors[j], each_bit(self._parents[i]), 1 << i
                )
                done |= 1 << i
            left &= ~done
        return ancestors


def each_bit(bits: int) -> Iterator[int]:
    """Yield the places of the ones of a number.

    Examples
    --------
    >>> list(each_bit(0b1010))
    [1, 3]
    """
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def check_graph(graph: object) -> None:
    """Raise TypeError for another library's graph, or a list of edges, in place of a `CausalGraph`."""
    if not isinstance(graph, CausalGraph):
        raise TypeError(
            f"graph is a {type(graph).__name__}; it takes a CausalGraph, which from_edges and from_networkx make"
        )


def _pair(edge: Any) -> tuple[Node, Node]:
    ends = () if isinstance(edge, str) else tuple(edge)
    if len(ends) != 2 or ends[0] == ends[1]:
        raise ValueError(f"edges has {edge!r}; it takes pairs of a cause and another node, its effect")
    return ends[0], ends[1]


def _consistent_extension(
    nodes: tuple[Node, ...], directed: list[tuple[Node, Node]], undirected: list[tuple[Node, Node]]
) -> list[tuple[Node, Node]]:
    """Direct undirected edges without a new v-structure, by Dor and Tarsi's removal of sinks (1992)."""
    left, open_edges, edges = set(nodes), set(undirected), list(directed)
    neighbours = {
        node: {b for a, b in [*directed, *(e[::-1] for e in directed), *undirected] if a == node} for node in nodes
    }
    while left:
        for node in (n for n in nodes if n in left):
            beside = {b for a, b in open_edges if a == node} & left
            causes_something = any(a == node and b in left for a, b in directed)
            around = neighbours[node] & left
            if not causes_something and all(around - {b} <= neighbours[b] for b in beside):
                edges += [(b, node) for b in nodes if b in beside]
                open_edges -= {pair for b in beside for pair in ((b, node), (node, b))}
                left.remove(node)
                break
        else:
            raise ValueError("edges has undirected ones that no acyclic graph without new v-structures extends")
    return edges
