"""Subsets of stable variables that predict the same: their classes, found without a look at each subset."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from paperworks.inference.invariance.graph import CausalGraph, Node, check_graph, each_bit


@dataclass(frozen=True)
class EquivalenceClass:
    """All subsets that consist of a core and any of some free nodes, which then add nothing to a prediction.

    Iterating over it yields its subsets, the core first.

    Examples
    --------
    >>> one = EquivalenceClass(frozenset("a"), frozenset("bc"))
    >>> one.size, {"a", "c"} in one, {"b"} in one
    (4, True, False)
    """

    core: frozenset[Node]
    free: frozenset[Node]

    @property
    def size(self) -> int:
        """Number of subsets."""
        return 2 ** len(self.free)

    def __contains__(self, subset: Iterable[Node]) -> bool:
        return self.core <= (nodes := frozenset(subset)) and nodes <= self.core | self.free

    def __iter__(self) -> Iterator[frozenset[Node]]:
        free = sorted(self.free, key=repr)
        for size in range(len(free) + 1):
            yield from (self.core.union(added) for added in combinations(free, size))


def stable_equivalence_classes(
    graph: CausalGraph, target: Node = "Y", stable: Iterable[Node] | None = None
) -> Iterator[EquivalenceClass]:
    """Yield the classes of subsets of stable variables with the same prediction, each subset in one of them.

    Two subsets are equivalent where a common part of them d-separates the target from the rest of both, so that both
    give the same ``E[Y | x, do(x_M)]`` and the same worst case. The search splits on the nodes that nothing separates
    from the target, so that its work grows with the number of classes instead of subsets: d + 1 classes on a chain of d
    nodes, and all 2^d subsets only where the target has d neighbours.

    Parameters
    ----------
    graph
        May hold further nodes, such as mutable ones, which are removed first.
    target
        The variable to predict.
    stable
        The stable variables; by default all nodes but the target.

    Returns
    -------
    Iterator[EquivalenceClass]
        The classes one by one, each by its smallest subset and what may be added.

    Raises
    ------
    ValueError
        For nodes that aren't in the graph, or a target among the stable variables.

    References
    ----------
    arXiv 2107.01876, algorithm 2, with d-separation in the directed graph instead of maximal ancestral graphs.

    Examples
    --------
    >>> chain = CausalGraph.from_edges([("Y", "A"), ("A", "B"), ("B", "C")])
    >>> [sorted(one.core) for one in stable_equivalence_classes(chain)]
    [[], ['C'], ['B'], ['A']]
    """
    graph = _stable_graph(graph, target, stable)
    y = graph.index(target)
    # Marginalised nodes L and nodes C that were selected; all others are observed.
    waiting = [(0, 0)]
    while waiting:
        L, C = waiting.pop()
        observed = (1 << len(graph.nodes)) - 1 & ~(L | C | 1 << y)
        adjacent = [x for x in each_bit(observed) if _inseparable(graph, x, y, observed, C)]
        if not adjacent:
            yield EquivalenceClass(frozenset(graph.names(C)), frozenset(graph.names(observed)))
            continue
        for choice in reversed(range(1 << len(adjacent))):
            chosen = sum(1 << x for i, x in enumerate(adjacent) if choice >> i & 1)
            waiting.append((L | sum(1 << x for x in adjacent) ^ chosen, C | chosen))


def core(
    graph: CausalGraph, target: Node, subset: Iterable[Node], stable: Iterable[Node] | None = None
) -> frozenset[Node]:
    """Return the smallest subset that predicts the same: what is left once nodes that add nothing are dropped.

    Parameters and errors are those of `stable_equivalence_classes`; `subset` is a set of stable variables.

    Parameters
    ----------
    graph
        The causal graph with the target in it.
    target
        Name of the variable to predict.
    subset
        Some of the stable variables.
    stable
        The stable variables, by default all but the target.

    Returns
    -------
    frozenset[Node]
        The smallest subset that predicts the same as `subset`.

    Examples
    --------
    >>> chain = CausalGraph.from_edges([("Y", "A"), ("A", "B"), ("B", "C")])
    >>> core(chain, "Y", {"B", "C"})
    frozenset({'B'})
    """
    graph = _stable_graph(graph, target, stable)
    kept, y = graph.bits(subset), graph.index(target)
    if kept >> y & 1:
        raise ValueError(f"subset has the target {target!r}; it takes stable variables")
    changed = True
    while changed:
        changed = False
        for x in each_bit(kept):
            if not graph.connected_bits(x, kept & ~(1 << x)) >> y & 1:
                kept &= ~(1 << x)
                changed = True
    return frozenset(graph.names(kept))


def equivalent(
    graph: CausalGraph,
    target: Node,
    subset1: Iterable[Node],
    subset2: Iterable[Node],
    stable: Iterable[Node] | None = None,
) -> bool:
    """Tell whether two subsets predict the same: a common part d-separates the target from the rest of both.

    Parameters and errors are those of `core`.

    Parameters
    ----------
    graph
        The causal graph with the target in it.
    target
        Name of the variable to predict.
    subset1, subset2
        The two sets of stable variables.
    stable
        The stable variables, by default all but the target.

    Returns
    -------
    bool
        Whether both give the same prediction.

    Examples
    --------
    >>> chain = CausalGraph.from_edges([("Y", "A"), ("A", "B"), ("B", "C")])
    >>> equivalent(chain, "Y", {"A"}, {"A", "C"}), equivalent(chain, "Y", {"A"}, {"B"})
    (True, False)
    """
    stable = None if stable is None else list(stable)
    return core(graph, target, subset1, stable) == core(graph, target, subset2, stable)


def _stable_graph(graph: CausalGraph, target: Node, stable: Iterable[Node] | None) -> CausalGraph:
    check_graph(graph)
    graph.index(target)
    if stable is None:
        return graph
    nodes = list(stable)
    if target in nodes:
        raise ValueError(f"stable has the target {target!r}; it takes other nodes")
    return graph.restricted([target, *nodes])


def _inseparable(graph: CausalGraph, x: int, y: int, observed: int, C: int) -> bool:
    """Tell whether no set of observed nodes separates x from y given C: the two are adjacent in the ancestral graph.

    If any set does, the observed causes of x, y and C do.
    """
    ends = 1 << x | 1 << y
    given = graph.ancestor_bits(ends | C) & observed & ~ends | C
    return bool(graph.connected_bits(x, given) >> y & 1)
