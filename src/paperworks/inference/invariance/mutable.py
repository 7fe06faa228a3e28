"""What a causal graph says about mutable mechanisms: which nodes they reach, and whether all stable ones are safe."""

from dataclasses import dataclass

from paperworks.inference.invariance.graph import CausalGraph, Node, check_graph


@dataclass(frozen=True)
class GraphComponents:
    """The parts of a graph that decide which stable variables to use, named as in the paper.

    Parameters
    ----------
    graph
        The whole graph.
    target
        Name of the variable to predict.
    env
        Name of the environment's node, None where nothing is mutable.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])
    >>> parts = parse_mutable(graph)
    >>> sorted(parts.X_M), sorted(parts.K), parts.is_full_set
    (['M'], ['S'], False)
    """

    graph: CausalGraph
    target: Node
    env: Node | None
    X_M: tuple[Node, ...]
    """Mutable variables: those whose mechanism the environment changes."""
    X_S: tuple[Node, ...]
    """Stable variables: all others but the target."""
    X_M0: frozenset[Node]
    """Mutable effects of the target."""
    K: frozenset[Node]
    """What the mutable effects of the target reach."""
    X_do: frozenset[Node]
    """Mutable effects of the target, and what they reach that the target doesn't cause directly."""
    De_do: frozenset[Node]
    """What `X_do` reaches once the edges into it are cut."""
    De_M: frozenset[Node]
    """What the mutable variables reach, without themselves."""

    @property
    def is_full_set(self) -> bool:
        """Whether the full set of stable variables is minimax optimal: the target causes nothing in `K` directly."""
        return self.K.isdisjoint(self.graph.children(self.target))

    @property
    def stable_graph(self) -> CausalGraph:
        """The graph of the target and the stable variables, which decides which subsets are equivalent."""
        return self.graph.restricted([self.target, *self.X_S])


def parse_mutable(graph: CausalGraph, target: Node = "Y", env: Node | None = "E") -> GraphComponents:
    """Find the parts of a graph that matter where mechanisms change between environments.

    Parameters
    ----------
    graph
        Over the variables, the target and a node for the environment, whose children are the mutable variables.
    target, env
        Names of the target and of the environment's node; None for `env` says that nothing is mutable.

    Returns
    -------
    GraphComponents
        The parts, named as in the paper.

    Raises
    ------
    ValueError
        Where the target or the environment's node isn't in the graph (a mistyped one would make every variable stable),
        the two are one or the target is mutable itself, or something causes the environment.
    TypeError
        For a graph of another kind than `CausalGraph`.

    References
    ----------
    arXiv 2107.01876, section 4.

    Examples
    --------
    >>> graph = CausalGraph.from_edges([("X", "Y"), ("Y", "M"), ("E", "M")])
    >>> parse_mutable(graph).is_full_set
    True
    """
    check_graph(graph)
    graph.index(target)
    if env is not None and env == target:
        raise ValueError(f"env and target are both {env!r}; it takes two nodes")
    if env is not None and env not in graph:
        nodes = ", ".join(map(repr, graph.nodes))
        raise ValueError(f"env {env!r} is not in the graph, which has {nodes}; it takes one of its nodes, or None")
    if env is not None and graph.parents(env):
        raise ValueError(f"env {env!r} has causes {graph.parents(env)!r}; it takes a node without")
    mutable = () if env is None else graph.children(env)
    if target in mutable:
        raise ValueError(f"target {target!r} is an effect of env {env!r}; its own mechanism has to be stable")
    caused = set(graph.children(target))
    first = frozenset(mutable) & caused
    reached = graph.descendants(first)
    cut = first | (reached - caused)
    return GraphComponents(
        graph=graph,
        target=target,
        env=env,
        X_M=mutable,
        X_S=tuple(node for node in graph.nodes if node not in {*mutable, target} and (env is None or node != env)),
        X_M0=first,
        K=reached - first,
        X_do=cut,
        De_do=graph.without_causes(cut).descendants(cut) - cut,
        De_M=graph.descendants(mutable) - set(mutable),
    )
