"""What users give invariant prediction that nobody meant: other graphs, shapes, units and names."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError

from paperworks.inference import (
    CausalGraph,
    DiscreteSCM,
    SmoothRegressor,
    StablePredictor,
    WorstCaseRisk,
    parse_mutable,
    stable_equivalence_classes,
)

EDGES = [("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")]
GRAPH = CausalGraph.from_edges(EDGES)
Y, U, V = np.random.default_rng(0).normal(size=(3, 100))
X = {"M": Y + U, "S": 2 * Y + U + V}
ALONE = CausalGraph.from_edges([("S", "Y")], nodes=["E"])
TABLES = {"Y": [0.5, 0.5], "M": 2, "S": np.full((2, 2, 2), 0.5)}


@pytest.mark.parametrize("unit", [2.0**-600, 2.0**600])
def test_no_unit_makes_another_prediction(unit):
    plain = StablePredictor(GRAPH).fit(X, Y).predict(X)
    scaled = {name: column * unit for name, column in X.items()}
    np.testing.assert_array_equal(StablePredictor(GRAPH).fit(scaled, Y * unit).predict(scaled) / unit, plain)


@pytest.mark.parametrize("value", [0.0, 0.1, 7e9])
def test_other_values_of_a_constant_count_for_nothing(value):
    x = np.linspace(0, 1, 50)
    model = SmoothRegressor().fit(np.column_stack([np.full(50, value), x]), np.sin(5 * x))
    points = np.array([[value, 0.5], [value + 0.1, 0.5], [value * 2 + 1, 0.5]])
    np.testing.assert_allclose(model.predict(points), np.sin(2.5), atol=1e-3)
    found = model.torch_function()(torch.from_numpy(points))
    np.testing.assert_allclose(found.numpy(), model.predict(points), rtol=1e-12)


def test_without_inputs_the_mean_is_predicted_for_each_sample():
    for data in ({"S": X["S"][:3]}, pd.DataFrame({"S": X["S"][:3]}), X["S"][:3, None]):
        np.testing.assert_allclose(StablePredictor(ALONE, []).fit({"S": X["S"]}, Y).predict(data), [Y.mean()] * 3)
    nothing = CausalGraph.from_edges([], nodes=["Y", "E"])
    found = StablePredictor(nothing).fit(np.empty((100, 0)), Y).predict(np.empty((2, 0)))
    np.testing.assert_allclose(found, [Y.mean()] * 2)


def test_sparse_columns_are_columns():
    table = np.column_stack([X["M"], X["S"]])
    theirs = StablePredictor(GRAPH).fit(table, Y).predict(table)
    ours = StablePredictor(GRAPH).fit(sparse.csr_matrix(table), Y).predict(sparse.csr_matrix(table))
    np.testing.assert_array_equal(ours, theirs)


def test_no_predictors_have_no_worst_case():
    assert WorstCaseRisk().evaluate_all([]) == []


BAD = [
    (lambda: CausalGraph.from_edges([("A", "A")]), r"edges has \('A', 'A'\)"),
    (lambda: CausalGraph.from_edges([("A", "B", "C")]), r"edges has \('A', 'B', 'C'\)"),
    (lambda: CausalGraph.from_edges(["AB"]), "edges has 'AB'"),
    (lambda: CausalGraph.from_edges(EDGES, extend="cpdag"), "extend is 'cpdag'"),
    (lambda: parse_mutable(GRAPH, "Y", "Y"), "env and target are both 'Y'"),
    (lambda: StablePredictor(GRAPH).fit(X, Y[:, None]), r"column 'Y' of shape \(100, 1\)"),
    (lambda: StablePredictor(GRAPH).fit(X, 3.0), r"column 'Y' of shape \(\)"),
    (lambda: StablePredictor(GRAPH).fit(X, np.full(100, "a")), "else than numbers in column 'Y'"),
    (lambda: StablePredictor(GRAPH).fit(pd.DataFrame(X | {"M": "a"}), Y), "else than numbers in column 'M'"),
    (lambda: StablePredictor(GRAPH).fit(pd.DataFrame(X)[["M", "M", "S"]], Y), r"column 'M' of shape \(100, 2\)"),
    (lambda: StablePredictor(GRAPH).fit(X, Y).predict(X | {"S": [1.0]}), "1 of 'S', 100 of 'M'"),
    (lambda: StablePredictor(GRAPH, "S").fit(X, Y), "subset is the text 'S'"),
    (lambda: WorstCaseRisk({"M": (0, np.inf)}), r"bounds has \(0, inf\) for 'M'"),
    (lambda: WorstCaseRisk({"M": 3}), "bounds has 3 for 'M'"),
    (lambda: DiscreteSCM(GRAPH, TABLES | {"M": 2.7}), "tables has 2.7 for 'M'"),
    (lambda: DiscreteSCM(GRAPH, TABLES | {"M": [0.5, 0.5]}), r"tables has \[0.5, 0.5\] for 'M'"),
    (lambda: DiscreteSCM(GRAPH, TABLES | {"Y": 2}), "tables has 2 for 'Y'"),
    (lambda: DiscreteSCM(GRAPH, TABLES, values=[0, np.nan]), "values has NaN"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("graph", [nx.DiGraph(EDGES), EDGES, dict(EDGES)], ids=["networkx", "edges", "dict"])
def test_graphs_of_another_kind_are_refused_with_the_way_to_make_one(graph, untyped):
    for call in (
        lambda: parse_mutable(graph),
        lambda: StablePredictor(graph).fit(X, Y),
        lambda: list(stable_equivalence_classes(graph)),
    ):
        with pytest.raises(TypeError, match="from_edges and from_networkx"):
            call()


def test_a_predictor_that_is_not_fitted_has_no_worst_case():
    with pytest.raises(NotFittedError):
        WorstCaseRisk().evaluate(StablePredictor(GRAPH))
