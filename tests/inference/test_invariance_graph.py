"""Causal graphs, classes of subsets and exact discrete models, against networkx, brute force and known answers."""

import itertools
import random

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.inference import (
    CausalGraph,
    DiscreteSCM,
    core,
    equivalent,
    full_set_counterexample,
    parse_mutable,
    stable_equivalence_classes,
)


def random_graph(seed: int, most: int = 7) -> CausalGraph:
    """A sparse random graph whose node names are of different types."""
    rng = random.Random(seed)
    others = [f"v{i}" if i % 2 else i for i in range(rng.randint(1, most))]
    order = rng.sample(["Y", *others], len(others) + 1)
    edges = [pair for pair in itertools.combinations(order, 2) if rng.random() < 1.6 / len(others)]
    return CausalGraph.from_edges(edges, ["Y", *others])


def powerset(nodes):
    return [frozenset(s) for size in range(len(nodes) + 1) for s in itertools.combinations(nodes, size)]


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_d_separation_and_kinship_are_those_of_networkx(seed):
    graph, rng = random_graph(seed), random.Random(seed)
    reference = graph.to_networkx()
    x, y = rng.sample(graph.nodes, 2)
    between = {node for node in graph.nodes if node not in (x, y) and rng.random() < 0.4}
    assert graph.d_separated(x, y, between) == nx.is_d_separator(reference, {x}, {y}, between)
    assert graph.descendants([x]) == nx.descendants(reference, x)
    assert graph.ancestors([x]) == nx.ancestors(reference, x) | {x}
    place = {node: i for i, node in enumerate(graph.order)}
    assert all(place[cause] < place[effect] for cause, effect in graph.edges)
    assert CausalGraph.from_networkx(reference).to_networkx().edges == reference.edges


def separated(graph: nx.DiGraph, subset1, subset2) -> bool:
    """The definition: a common part d-separates the target from the rest of both."""
    return any(
        not (rest := (subset1 | subset2) - part) or nx.is_d_separator(graph, {"Y"}, set(rest), set(part))
        for part in powerset(subset1 & subset2)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equivalence_is_its_definition(seed):
    graph, rng = random_graph(seed, most=6), random.Random(seed)
    subsets = powerset([node for node in graph.nodes if node != "Y"])
    reference = graph.to_networkx()
    for subset1, subset2 in [rng.choices(subsets, k=2) for _ in range(15)]:
        assert equivalent(graph, "Y", subset1, subset2) == separated(reference, subset1, subset2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_search_finds_each_subset_once_and_with_its_core(seed):
    graph = random_graph(seed)
    found = {}
    for one in stable_equivalence_classes(graph):
        assert one.size == sum(1 for _ in one)
        for subset in one:
            assert subset in one
            assert subset not in found
            found[subset] = one.core
    assert found == {s: core(graph, "Y", s) for s in powerset([n for n in graph.nodes if n != "Y"])}


def test_the_number_of_classes_follows_the_shape_of_the_graph():
    def count(edges):
        return sum(1 for _ in stable_equivalence_classes(CausalGraph.from_edges(edges)))

    def chain(start, length, name):
        return list(itertools.pairwise([start, *(f"{name}{i}" for i in range(length))]))

    assert [count(chain("Y", d, "X")) for d in (1, 5, 30)] == [2, 6, 31]
    assert count([*chain("Y", 4, "A"), *[(b, a) for a, b in chain("Y", 6, "B")]]) == 5 * 7
    assert count([("Y", leaf) for leaf in range(6)]) == 64


def test_classes_ignore_what_is_not_stable():
    graph = CausalGraph.from_edges([("Y", "M"), ("M", "A"), ("A", "B"), ("E", "M")])
    assert [one.core for one in stable_equivalence_classes(graph, "Y", ["A", "B"])] == [frozenset()]
    assert core(graph, "Y", {"A", "B"}, ["A", "B"]) == frozenset()
    assert core(graph, "Y", {"A", "B"}) == {"A"}


def paper_graph() -> CausalGraph:
    names = (
        "Y>X1 Y>X9 X9>X1 X6>X1 X5>X1 X6>X5 X1>X3 X3>X2 X8>X2 X2>X4 X7>X4 X8>X4 X8>X7 X3>X10 X5>X10 X8>X10 E>X9 E>X10"
    )
    return CausalGraph.from_edges([tuple(edge.split(">")) for edge in names.split()])


def test_parts_of_the_papers_graph():
    parts = parse_mutable(paper_graph())
    assert set(parts.X_M) == {"X9", "X10"}
    assert set(parts.X_S) == {f"X{i}" for i in range(1, 9)}
    assert {"X9"} == parts.X_M0
    assert {"X1", "X2", "X3", "X4", "X10"} == parts.K
    assert parts.X_do == {"X2", "X3", "X4", "X9", "X10"}
    assert parts.De_do == {"X1"}
    assert parts.De_M == {"X1", "X2", "X3", "X4"}
    assert not parts.is_full_set
    assert sum(1 for _ in stable_equivalence_classes(parts.stable_graph)) == 45


def test_no_environment_has_nothing_mutable():
    parts = parse_mutable(CausalGraph.from_edges([("X", "Y")]), env=None)
    assert parts.X_M == ()
    assert parts.is_full_set


def test_undirected_edges_take_an_extension():
    skeleton = [("A", "B"), ("B", "A"), ("B", "C"), ("C", "B"), ("D", "C")]
    with pytest.raises(ValueError, match="undirected"):
        CausalGraph.from_edges(skeleton)
    graph = CausalGraph.from_edges(skeleton, extend="consistent_dag")
    # A v-structure at C would be new, so that C causes B, and B causes A.
    assert set(graph.edges) == {("D", "C"), ("C", "B"), ("B", "A")}
    square = [("A", "B"), ("B", "C"), ("C", "D"), ("D", "A")]
    with pytest.raises(ValueError, match="no acyclic graph"):
        CausalGraph.from_edges([*square, *[pair[::-1] for pair in square]], extend="consistent_dag")


def test_graphs_are_read_from_files_and_found_in_data(tmp_path):
    graph = paper_graph()
    nx.write_gml(graph.to_networkx(), tmp_path / "graph.gml")
    assert set(CausalGraph.from_gml(tmp_path / "graph.gml").edges) == set(graph.edges)
    pytest.importorskip("causallearn")
    rng = np.random.default_rng(0)
    env = rng.integers(0, 4, 2000)
    a = rng.normal(size=2000) + 3 * env
    data = np.stack([a, a + rng.normal(size=2000)], axis=1)
    found = CausalGraph.from_cdnod(data, env, names=["A", "B"])
    assert {("E", "A"), ("A", "B")} == set(found.edges)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CausalGraph.from_edges([("A", "B"), ("B", "C"), ("C", "A")]), "cycle among 'A', 'B', 'C'"),
        (lambda: paper_graph().parents("Z"), "node 'Z' is not in the graph"),
        (lambda: paper_graph().d_separated("Y", "Y"), "overlap"),
        (lambda: parse_mutable(CausalGraph.from_edges([("E", "Y")])), "'Y' is an effect of env"),
        (lambda: parse_mutable(CausalGraph.from_edges([("Y", "E")])), "env 'E' has causes"),
        (
            lambda: parse_mutable(CausalGraph.from_edges([("X", "Y")])),
            "env 'E' is not in the graph, which has 'X', 'Y'",
        ),
        (lambda: DiscreteSCM(CausalGraph.from_edges([("Y", "S")]), {}), "env 'E' is not in the graph"),
        (lambda: list(stable_equivalence_classes(paper_graph(), "Y", ["Y"])), "stable has the target"),
        (lambda: core(paper_graph(), "Y", ["Y"]), "subset has the target"),
        (lambda: full_set_counterexample().predictor(["M"]), "'M', which is mutable"),
        (lambda: DiscreteSCM(CausalGraph.from_edges([("Y", "S")]), {"Y": [0.5, 0.5]}, env=None), "nothing for 'S'"),
        (
            lambda: DiscreteSCM(CausalGraph.from_edges([], ["Y"]), {"Y": [0.5, 0.6]}, env=None),
            "rows that are probabilities",
        ),
        (
            lambda: DiscreteSCM(CausalGraph.from_edges([], ["Y"]), {"Y": [0.5, 0.5]}, values=[1], env=None),
            "values has shape",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_undirected_networkx_graph_is_refused():
    with pytest.raises(TypeError, match="directed"):
        CausalGraph.from_networkx(nx.path_graph(3))


def test_the_full_set_is_not_always_optimal():
    model = full_set_counterexample()
    full, empty = (model.worst_case_risk(subset) for subset in (["S1"], []))
    assert full.risk == pytest.approx(0.106, abs=1e-12)
    assert empty.risk == pytest.approx(0.09, abs=1e-12)
    np.testing.assert_array_equal(full.J["M"], [1, 0])
    predictor = model.predictor(["S1"])  # by S1 and M
    assert predictor[1, 1] == pytest.approx(0.5)
    assert predictor[0, 1] == 0
    np.testing.assert_allclose(predictor[:, 0], 0.1)


def random_model(rng: np.random.Generator, three_states: bool = False) -> DiscreteSCM:
    """A model of at most five variables, one or two of them mutable."""
    names = ["Y", *[f"V{i}" for i in range(rng.integers(2, 5))]]
    order = list(rng.permutation(names))
    edges = [pair for pair in itertools.combinations(order, 2) if rng.random() < 0.6]
    mutable = list(rng.permutation(names[1:]))[: rng.integers(1, 3)]
    graph = CausalGraph.from_edges([*edges, *[("E", node) for node in mutable]], names)
    states = {node: 3 if three_states and node == "V0" else 2 for node in names}
    tables = {}
    for node in names:
        shape = [states[parent] for parent in graph.parents(node) if parent != "E"]
        tables[node] = states[node] if node in mutable else rng.dirichlet(np.ones(states[node]), shape)
    return DiscreteSCM(graph, tables)


def simulated_risk(model: DiscreteSCM, subset, J) -> float:
    """The risk of a predictor summed over all states one at a time, from the definition."""
    names, risk = [n for n in model.graph.nodes if n != "E"], 0.0
    predictor = model.predictor(subset)
    inputs = [*[n for n in model.components.X_S if n in subset], *model.components.X_M]
    for states in itertools.product(*[range(model.states[name]) for name in names]):
        state = dict(zip(names, states, strict=True))
        mass = 1.0
        for name in names:
            parents = tuple(state[parent] for parent in model.parents(name))
            if name in model.components.X_M:
                mass *= J[name][parents] == state[name]
            else:
                mass *= model._tables[name][(*parents, state[name])]
        risk += mass * (state["Y"] - predictor[tuple(state[name] for name in inputs)]) ** 2
    return risk


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_worst_cases_are_attained_and_no_intervention_exceeds_them(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng, three_states=True)
    subset = tuple(node for node in model.components.X_S if rng.random() < 0.6)
    worst = model.worst_case_risk(subset)
    assert simulated_risk(model, subset, worst.J) == pytest.approx(worst.risk, abs=1e-12)
    for _ in range(10):
        J = {
            m: rng.integers(0, model.states[m], [model.states[p] for p in model.parents(m)])
            for m in model.components.X_M
        }
        assert simulated_risk(model, subset, J) <= worst.risk + 1e-12


@pytest.mark.parametrize("seed", [1, 2])
def test_ascent_reaches_the_worst_case(seed):
    model = random_model(np.random.default_rng(seed))
    exact, climbed = (model.worst_case_risk(model.components.X_S, method).risk for method in ("exact", "ascent"))
    assert 0.99 * exact <= climbed <= exact + 1e-12


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equivalent_subsets_have_one_worst_case_and_the_condition_makes_the_full_set_optimal(seed):
    model = random_model(np.random.default_rng(seed))
    parts = model.components
    risks = {subset: model.worst_case_risk(subset).risk for subset in powerset(parts.X_S)}
    for one in stable_equivalence_classes(parts.graph, "Y", parts.X_S):
        assert np.ptp([risks[subset] for subset in one]) <= 1e-12
    if parts.is_full_set:
        assert risks[frozenset(parts.X_S)] <= min(risks.values()) + 1e-12
