"""Stable predictors, their worst cases and the choice among them, against closed forms and brute force."""

import math
import pickle

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

from paperworks.inference import (
    CausalGraph,
    MinimaxInvariantRegressor,
    SmoothRegressor,
    StablePredictor,
    WorstCaseRisk,
    equivalent,
)
from paperworks.inference.invariance.interventions import StructuralModel
from paperworks.inference.invariance.mutable import parse_mutable
from paperworks.inference.invariance.regression import _PENALTIES, _RidgePath, torch_function

LINEAR = (LinearRegression(), LinearRegression())  # predictor and mechanisms
COLLIDER = CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")])


def collider(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The target and its mutable effect M both cause S."""
    Y, u, v = np.random.default_rng(seed).normal(size=(3, n))
    M = Y + u
    return {"M": M, "S": Y + 2 * M + v}, Y


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(0, 20))
def test_leave_one_out_errors_are_those_of_refitting_without_each_sample(seed, k):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3))
    y = X[:, 0] + rng.normal(size=12)
    y -= y.mean()
    path = _RidgePath(X, y)
    features = X - path.offset

    def ridge(kept):
        # The intercept is not penalised.
        Z = np.column_stack([np.ones(12), features])[kept]
        return np.linalg.solve(Z.T @ Z + 12 * _PENALTIES[k] * np.diag([0, 1, 1, 1]), Z.T @ y[kept])

    np.testing.assert_allclose(path.coef(k), ridge(np.arange(12))[1:], rtol=1e-8, atol=1e-12)
    for i in range(12):
        w = ridge(np.delete(np.arange(12), i))
        assert path.errors[i, k] == pytest.approx((y[i] - w[0] - features[i] @ w[1:]) ** 2, rel=1e-8, abs=1e-12)


def test_the_smooth_regressor_bends_where_it_has_to_and_is_constant_where_nothing_can_be_known():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(600, 2))
    curve = np.sin(2 * X[:, 0]) + X[:, 1]
    model = SmoothRegressor().fit(X, curve + 0.1 * rng.normal(size=600))
    assert np.mean((model.predict(X) - curve) ** 2) < 0.002
    noise = SmoothRegressor().fit(X, rng.normal(size=600))
    assert np.std(noise.predict(X)) < 0.01


@pytest.mark.parametrize(
    "make",
    [
        SmoothRegressor,
        LinearRegression,
        lambda: MLPRegressor(hidden_layer_sizes=(4, 3), max_iter=5),
        lambda: MLPRegressor(hidden_layer_sizes=(5,), activation="logistic", max_iter=5),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_functions_of_tensors_are_the_predictions(make):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * [1, 10, 0.1]
    fitted = make().fit(X, np.tanh(X[:, 0]) + X[:, 1])
    function = torch_function(fitted, X)
    np.testing.assert_allclose(function(torch.from_numpy(X).view(5, 10, 3)).numpy().ravel(), fitted.predict(X))


def test_other_regressors_have_a_smooth_stand_in():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    forest = RandomForestRegressor(20, min_samples_leaf=10, random_state=0).fit(X, np.tanh(3 * X[:, 0]))
    function = torch_function(forest, X)
    assert np.mean((function(torch.from_numpy(X)).numpy() - forest.predict(X)) ** 2) < 0.02


def test_regenerated_variables_follow_their_mechanisms():
    X, Y = collider(4000)
    parts = parse_mutable(COLLIDER)
    model = StructuralModel(parts, {"Y": Y, **X})
    values = model.regenerate(lambda _, parents: torch.full(parents.shape[:-1], 1.0))
    assert torch.equal(values["Y"], torch.from_numpy(Y))
    residual = values["S"].numpy() - Y - 2
    assert abs(residual.mean()) < 0.05
    assert residual.std() == pytest.approx(1, abs=0.05)
    means = StructuralModel(parts, {"Y": Y, **X}, add_noise=False).regenerate(lambda _, p: torch.ones(p.shape[:-1]))
    np.testing.assert_allclose(means["S"].numpy(), Y + 2, atol=0.15)
    shuffled = model.intervened()
    assert abs(np.corrcoef(shuffled["M"], shuffled["Y"])[0, 1]) < 0.05
    assert sorted(shuffled["M"]) == sorted(X["M"])


def test_stable_predictors_are_regressions_under_the_intervention():
    X, Y = collider(20_000)
    full = StablePredictor(COLLIDER, None, *LINEAR).fit(X, Y)
    assert full.inputs_ == ("S", "M")
    np.testing.assert_allclose(full.regressor_.coef_, [0.5, -1.0], atol=0.02)  # (S - 2 M) / 2
    np.testing.assert_allclose(StablePredictor(COLLIDER, [], *LINEAR).fit(X, Y).predict(X), Y.mean(), atol=0.1)
    # Ordinary regression uses what the mutable mechanism gives away: E[Y | S, M] = (S - M) / 3.
    pooled = LinearRegression().fit(np.stack([X["S"], X["M"]], 1), Y)
    np.testing.assert_allclose(pooled.coef_, [1 / 3, -1 / 3], atol=0.02)


def test_a_subset_learns_from_what_a_mutable_effect_reaches():
    # S2 is an effect of S1 alone. Without S1 it says what S1 would, with more noise.
    graph = CausalGraph.from_edges([*COLLIDER.edges, ("S", "S2")])
    X, Y = collider(20_000)
    X["S2"] = X["S"] + np.random.default_rng(1).normal(size=len(Y))
    model = StablePredictor(graph, ["S2"], *LINEAR).fit(X, Y)
    np.testing.assert_allclose(model.regressor_.coef_, [1 / 3, -2 / 3], atol=0.02)
    # The paper's shuffle has S2 too, which leaves nothing to learn from; with S it makes no difference.
    paper = StablePredictor(graph, ["S2"], *LINEAR, cut="X_do").fit(X, Y)
    np.testing.assert_allclose(paper.regressor_.coef_, 0, atol=0.02)
    full = StablePredictor(graph, None, *LINEAR, cut="X_do").fit(X, Y)
    np.testing.assert_allclose(full.regressor_.coef_, [0.5, 0, -1.0], atol=0.02)


def test_a_target_that_mutable_variables_cause_follows_them():
    graph = CausalGraph.from_edges([("X", "M"), ("M", "Y"), ("E", "M")])
    X, u, v = np.random.default_rng(0).normal(size=(3, 4000))
    M = X + u
    model = StablePredictor(graph, ["X"]).fit({"X": X, "M": M}, M + v)
    assert WorstCaseRisk().evaluate(model).risk == pytest.approx(1, abs=0.08)
    np.testing.assert_allclose(model.predict({"X": [-2.0, 2.0], "M": [1.0, 1.0]}), 1, atol=0.15)


class Identity:
    """A regressor that returns its one input."""

    coef_, intercept_ = np.ones(1), 0.0

    def predict(self, X):
        return X[:, 0]


@pytest.mark.parametrize("bounds", [None, (-0.5, 1.0)])
def test_ascent_reaches_the_worst_case_that_is_known_pointwise(bounds):
    graph = CausalGraph.from_edges([("Y", "M"), ("E", "M")])
    Y, u = np.random.default_rng(0).normal(size=(2, 1000))
    predictor = StablePredictor(graph).fit({"M": u}, Y)
    predictor.regressor_ = Identity()
    low, high = bounds or (u.min(), u.max())
    exact = np.mean(np.maximum((Y - low) ** 2, (Y - high) ** 2))
    found = WorstCaseRisk({} if bounds is None else {"M": bounds}).evaluate(predictor)
    assert 0.98 * exact <= found.risk <= exact
    J = found.J["M"](Y[:, None])
    assert np.mean((Y - J) ** 2) == pytest.approx(found.risk)
    assert J.min() >= low
    assert J.max() <= high
    assert found.trace.shape == (100,)
    wider = WorstCaseRisk(widen=0.5).evaluate(predictor).risk
    assert wider > found.risk


def test_predictors_climb_together_as_they_do_alone():
    X, Y = collider(300)
    first = StablePredictor(COLLIDER, []).fit(X, Y)
    second = StablePredictor(COLLIDER, ["S"]).fit_to(first.model_, first.model_.intervened())
    search = WorstCaseRisk(steps=20, restarts=2)
    together = search.evaluate_all([first, second])
    assert [worst.risk for worst in together] == pytest.approx([search.evaluate(p).risk for p in (first, second)])


LARGER = CausalGraph.from_edges([*COLLIDER.edges, ("S", "A"), ("A", "B"), ("C", "S")])


def larger(n: int = 400) -> tuple[dict[str, np.ndarray], np.ndarray]:
    Y, C, u, v, a, b = np.random.default_rng(0).normal(size=(6, n))
    M = Y + u
    S = 2 * Y + M + C + v
    A = S + a / 2
    return {"M": M, "S": S, "A": A, "B": A + b, "C": C}, Y


def test_a_search_over_classes_finds_what_all_subsets_do():
    X, Y = larger()
    quick = WorstCaseRisk(steps=30, restarts=2)
    classes = MinimaxInvariantRegressor(LARGER, worst_case=quick).fit(X, Y)
    exhaustive = MinimaxInvariantRegressor(LARGER, "exhaustive", quick).fit(X, Y)
    greedy = MinimaxInvariantRegressor(LARGER, "greedy", quick).fit(X, Y)
    assert len(exhaustive.risks_) == 16
    assert len(classes.risks_) < 16
    assert set(classes.risks_) <= set(exhaustive.risks_)
    assert equivalent(LARGER, "Y", classes.subset_, exhaustive.subset_, list("SABC"))
    assert set(greedy.risks_) <= set(classes.risks_)
    assert greedy.risks_[0].risk < dict(greedy.risks_)[()]
    risks = [risk.risk for risk in classes.risks_]
    assert risks == sorted(risks)
    assert classes.worst_case_.risk == risks[0]
    assert [predictor.subset_ for predictor in classes.predictors_] == [risk.subset for risk in classes.risks_]
    np.testing.assert_array_equal(classes.predict(X), classes.predictor_.predict(X))
    assert clone(classes).get_params()["search"] == "classes"


def test_no_search_where_the_graph_settles_it():
    rng = np.random.default_rng(0)
    S, u, v = rng.normal(size=(3, 300))
    Y = S + u
    graph = CausalGraph.from_edges([("S", "Y"), ("Y", "M"), ("E", "M")])
    settled = MinimaxInvariantRegressor(graph).fit({"S": S, "M": 3 * Y + v}, Y)
    assert settled.subset_ == ("S",)
    assert settled.risks_ == []
    nothing = CausalGraph.from_edges([], ["Y", "S"])
    constant = StablePredictor(nothing, [], env=None).fit({"S": S}, Y)
    assert WorstCaseRisk().evaluate(constant).risk == pytest.approx(np.var(Y))
    for graph, env in (
        (CausalGraph.from_edges([("S", "Y")]), None),
        (CausalGraph.from_edges([("S", "Y")], ["E"]), "E"),
    ):
        unchanged = MinimaxInvariantRegressor(graph, regressor=LinearRegression(), env=env).fit(S[:, None], Y)
        theirs = LinearRegression().fit(S[:, None], Y).predict(S[:, None])
        np.testing.assert_allclose(unchanged.predict(S[:, None]), theirs)


def test_a_mistyped_environment_is_refused_where_it_would_make_every_variable_stable():
    X, Y = collider(200)
    right, mistyped = (MinimaxInvariantRegressor(COLLIDER, env=env, search="full") for env in ("E", "Env"))
    assert right.fit(X, Y).subset_ == ("S",)
    with pytest.raises(ValueError, match="env 'Env' is not in the graph, which has 'Y', 'M', 'S', 'E'"):
        mistyped.fit(X, Y)
    without = CausalGraph.from_edges([edge for edge in COLLIDER.edges if edge[0] != "E"])
    with pytest.raises(ValueError, match="env 'E' is not in the graph"):
        StablePredictor(without).fit(X, Y)


def test_a_use_leaves_the_graph_as_it_was():
    graph = CausalGraph.from_edges(COLLIDER.edges)
    before = joblib.hash(graph)
    X, Y = collider(100)
    MinimaxInvariantRegressor(graph, worst_case=WorstCaseRisk(steps=2)).fit(X, Y).predict(X)
    assert graph.order == ("Y", "E", "M", "S")
    assert joblib.hash(graph) == before


@pytest.mark.parametrize(
    "regressor", [None, BaggingRegressor(n_estimators=3, random_state=0)], ids=["smooth", "bagging"]
)
def test_the_order_of_rows_changes_no_fit(regressor):
    X, Y = collider(150)
    order = np.random.default_rng(1).permutation(150)
    model = MinimaxInvariantRegressor(COLLIDER, regressor=regressor, worst_case=WorstCaseRisk(steps=3))
    first = clone(model).fit(X, Y)
    second = clone(model).fit({name: column[order] for name, column in X.items()}, Y[order])
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    assert first.risks_ == second.risks_


@pytest.mark.parametrize("mechanism", [None, LinearRegression(), MLPRegressor(max_iter=20), BaggingRegressor()])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_with_effects_of_mutable_variables_are_pickled_with_what_they_found(mechanism):
    X, Y = collider(60)
    for model in (
        StablePredictor(COLLIDER, mechanism=mechanism),
        MinimaxInvariantRegressor(COLLIDER, mechanism=mechanism, worst_case=WorstCaseRisk(steps=2)),
    ):
        again = pickle.loads(pickle.dumps(model.fit(X, Y)))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
    parents = np.zeros((3, 1))
    np.testing.assert_array_equal(again.worst_case_.J["M"](parents), model.worst_case_.J["M"](parents))


def test_features_are_counted_and_named():
    pandas = pytest.importorskip("pandas")
    X, Y = collider(60)
    frame = pandas.DataFrame({"S": X["S"], "other": 0.0, "M": X["M"]})
    model = MinimaxInvariantRegressor(COLLIDER, worst_case=WorstCaseRisk(steps=2)).fit(frame, Y)
    for fitted in (model, *model.predictors_, StablePredictor(COLLIDER).fit(X, Y)):
        assert fitted.n_features_in_ == 2
        assert fitted.feature_names_in_.tolist() == ["M", "S"]
    model.fit(np.stack([X["M"], X["S"]], 1), Y)
    assert model.n_features_in_ == 2
    assert not hasattr(model, "feature_names_in_")
    numbered = CausalGraph.from_edges([(0, 1), (0, 2), (1, 2), (3, 1)])
    one = StablePredictor(numbered, target=0, env=3).fit({1: X["M"], 2: X["S"]}, Y)
    assert one.n_features_in_ == 2
    assert not hasattr(one, "feature_names_in_")


def test_columns_come_by_name_or_in_the_order_of_the_graph():
    pandas = pytest.importorskip("pandas")
    X, Y = collider(200)
    frame = pandas.DataFrame(X)
    by_name = StablePredictor(COLLIDER).fit(frame, Y)
    by_place = StablePredictor(COLLIDER).fit(np.stack([X["M"], X["S"]], 1), Y)
    np.testing.assert_array_equal(by_name.predict(frame), by_place.predict(np.stack([X["M"], X["S"]], 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, Y: StablePredictor(COLLIDER).fit({"M": X["M"]}, Y), "no column 'S'"),
        (lambda X, Y: StablePredictor(COLLIDER).fit(X["M"][:, None], Y), r"shape \(20, 1\)"),
        (lambda X, Y: StablePredictor(COLLIDER).fit(X, Y[:-1]), "different lengths"),
        (lambda X, Y: StablePredictor(COLLIDER).fit(X, Y * math.nan), "y has NaN or infinite elements in column 'Y'"),
        (lambda X, Y: StablePredictor(COLLIDER).fit(X, Y * 1j), "y has complex numbers in column 'Y'"),
        (lambda X, Y: StablePredictor(COLLIDER).fit(X | {"M": X["M"] + 0j}, Y), "X has complex numbers in column 'M'"),
        (
            lambda X, Y: StablePredictor(COLLIDER).fit(X, Y).predict(np.ones((2, 2)) * 1j),
            "X has complex numbers in column 'M'",
        ),
        (lambda X, Y: StablePredictor(COLLIDER, ["M"]).fit(X, Y), "'M', which is mutable"),
        (lambda X, Y: StablePredictor(COLLIDER, ["Z"]).fit(X, Y), "'Z', which is not a stable variable"),
        (lambda X, Y: StablePredictor(COLLIDER, target="Z").fit(X, Y), "'Z' is not in the graph"),
        (lambda X, Y: MinimaxInvariantRegressor(COLLIDER, env="M").fit(X, Y), "env 'M' has causes"),
        (lambda X, Y: WorstCaseRisk({"M": (1.0, 0.0)}), "least value first"),
        (lambda X, Y: WorstCaseRisk({"S": (0, 1)}).evaluate(StablePredictor(COLLIDER).fit(X, Y)), "bounds has 'S'"),
        (lambda X, Y: WorstCaseRisk(widen=-1), "widen"),
        (
            lambda X, Y: WorstCaseRisk().evaluate_all([StablePredictor(COLLIDER).fit(X, Y) for _ in range(2)]),
            "different structural models",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    X, Y = collider(20)
    with pytest.raises(ValueError, match=message):
        call(X, Y)
