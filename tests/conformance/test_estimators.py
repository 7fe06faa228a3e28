"""Every exported scikit-learn estimator: scikit-learn's own checks, and those for one that needs to be told more."""

import inspect
import pickle
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import BaggingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.utils.estimator_checks import check_estimator

from conformance.discovery import Export
from conformance.suite import CAUGHT, Subject, Suite, arguments
from paperworks.inference import CausalGraph, WorstCaseRisk
from paperworks.reduction import LocalReducedBases

pytestmark = pytest.mark.usefixtures("untyped")

RNG = np.random.default_rng(0)
Y, U, V = RNG.normal(size=(3, 60))
X = np.column_stack([Y + U, 2 * Y + U + V])  # the variables of the graph but its target, in their order
VALUES = {
    "graph": lambda: CausalGraph.from_edges([("Y", "M"), ("Y", "S"), ("M", "S"), ("E", "M")]),
    "local_bases": lambda: LocalReducedBases(2, 1, random_state=0),
}
# What makes a fit quick; it is no part of any contract.
QUICK = {
    "max_iter": 3,
    "worst_case": WorstCaseRisk(steps=2, restarts=1),
    "regressor": LinearRegression(),
    "mechanism": LinearRegression(),
    "k": 1,
    "n_features": 8,
    "n_clusters": 2,
}
# What of scikit-learn's checks an estimator can't pass, and why.
REFUSES = {"LocalReducedBases": {"check_estimators_dtypes": "a simulation that is zero has no direction"}}
PREDICTIONS = ("predict", "transform", "score_samples")


def made(subject: Subject, **options: Any) -> BaseEstimator:
    thing = subject.export.thing
    names = inspect.signature(thing).parameters
    quick = {name: value for name, value in {**QUICK, **options}.items() if name in names}
    return thing(**arguments(thing, VALUES, {**quick, **subject.options}))


def target(subject: Subject) -> np.ndarray:
    """Classes for one that selects or classifies, simulations for one that reduces them, numbers for others."""
    thing = subject.export.thing
    if list(inspect.signature(thing.fit).parameters)[1:3] == ["inputs", "U"]:
        return np.column_stack([X, Y])
    return (Y > 0).astype(int) if hasattr(thing, "get_support") or issubclass(thing, ClassifierMixin) else Y


def predictions(model: BaseEstimator, X: np.ndarray) -> np.ndarray:
    method = next((name for name in PREDICTIONS if hasattr(model, name)), None)
    if method is None:
        pytest.fail(f"{model} has none of {PREDICTIONS}: tell this suite what it predicts by")
    return np.asarray(getattr(model, method)(X))


def subjects(export: Export) -> list[Subject]:
    """The estimator as it is, and with regressors in it that depend on the order of samples, or are its own."""
    inner = {"regressor", "mechanism"} & set(inspect.signature(export.thing).parameters)
    others = (None, BaggingRegressor(n_estimators=3, random_state=0)) if inner else ()
    return [Subject(export), *(Subject(export, dict.fromkeys(sorted(inner), other)) for other in others)]


SUITE = Suite("estimator", subjects)


@SUITE.check
def scikit_learns_checks_pass(subject):
    try:
        model = subject.export.thing()
    except TypeError:
        return  # needs to be told more, which those checks can't
    names = set(inspect.signature(subject.export.thing).parameters)
    model.set_params(**{name: value for name, value in QUICK.items() if name in names & {"max_iter"}})
    check_estimator(model, expected_failed_checks=REFUSES.get(subject.export.name))


@SUITE.check
def parameters_are_kept_and_cloned(subject):
    model = made(subject)
    again = clone(model)
    assert {name: type(value) for name, value in again.get_params().items()} == {
        name: type(value) for name, value in model.get_params().items()
    }
    assert again.get_params(deep=False).keys() == inspect.signature(subject.export.thing).parameters.keys()


@SUITE.check
def a_fit_leaves_its_input_and_parameters_alone(subject):
    x, y = X.copy(), target(subject).copy()
    model = made(subject)
    before, hashes = repr(model.get_params()), joblib.hash(model.get_params())
    assert model.fit(x, y) is model
    predictions(model, x)
    assert np.array_equal(x, X)
    assert np.array_equal(y, target(subject))
    assert repr(model.get_params()) == before
    assert joblib.hash(model.get_params()) == hashes  # of the things in them, such as graphs, too
    fitted = [name for name in vars(model) if name.endswith("_") and not name.startswith("_")]
    assert fitted


@SUITE.check
def bad_data_are_refused(subject):
    broken = X.copy()
    broken[0, 0] = np.nan
    for bad in (broken, X[0], X[:0]):
        with pytest.raises(ValueError):  # noqa: PT011 - in scikit-learn's words or ours
            made(subject).fit(bad, target(subject))
    model = made(subject).fit(X, target(subject))
    for bad in (broken, np.column_stack([X, X])):
        with pytest.raises(ValueError, match=r"NaN|feature|column|variable"):
            predictions(model, bad)


@SUITE.check
def it_has_to_be_fitted_first(subject):
    with pytest.raises(Exception, match="not fitted"):
        predictions(made(subject), X)


@SUITE.check
def seeds_repeat(subject):
    first, second = (predictions(made(subject, random_state=0).fit(X, target(subject)), X) for _ in range(2))
    assert np.array_equal(first, second)


@SUITE.check
def a_batch_is_its_rows(subject):
    model = made(subject, random_state=0).fit(X, target(subject))
    rows = np.concatenate([predictions(model, row[None]) for row in X[:8]])
    np.testing.assert_allclose(predictions(model, X[:8]), rows, rtol=1e-9, atol=1e-9)


@SUITE.check
def it_can_be_pickled(subject):
    model = made(subject, random_state=0).fit(X, target(subject))
    assert np.array_equal(predictions(pickle.loads(pickle.dumps(model)), X), predictions(model, X))


@SUITE.check
def features_are_counted_and_named(subject):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["M", "S"])
    model = made(subject, random_state=0).fit(frame, target(subject))
    assert model.n_features_in_ == 2
    assert list(model.feature_names_in_) == ["M", "S"]
    by_place = made(subject, random_state=0).fit(X, target(subject))
    np.testing.assert_allclose(predictions(model, frame), predictions(by_place, X), rtol=1e-6, atol=1e-6)
    model.fit(X, target(subject))
    assert model.n_features_in_ == 2
    assert not hasattr(model, "feature_names_in_")


@SUITE.check
def rows_in_another_order_fit_the_same(subject):
    order = np.random.default_rng(1).permutation(len(X))
    y = target(subject)
    first, second = (made(subject, random_state=0).fit(X[rows], y[rows]) for rows in (np.arange(len(X)), order))
    np.testing.assert_allclose(predictions(first, X), predictions(second, X), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predictions(first, X[order]), predictions(first, X)[order], rtol=1e-6, atol=1e-6)


@SUITE.check
def complex_data_are_refused(subject):
    model, y = made(subject), target(subject)
    for x in (X * 1j, X + 0j):
        with pytest.raises(ValueError, match=r"(?i)complex"):
            made(subject).fit(x, y)
    with pytest.raises(ValueError, match=r"(?i)complex"):
        predictions(model.fit(X, y), X + 0j)


@pytest.mark.parametrize(("check", "subject"), SUITE.cases())
@pytest.mark.filterwarnings("ignore")
def test_it_keeps_the_contract_of_estimators(check, subject):
    check(subject)


class Careless(BaseEstimator):
    """An estimator that breaks each rule."""

    def __init__(self, lr=1.0):
        self.rate = lr

    def fit(self, X, y):
        X += np.random.random()  # noqa: NPY002
        self.forget = lambda: None

    def predict(self, X):
        return X.mean() + np.random.random(len(X))  # noqa: NPY002


@pytest.mark.parametrize("check", SUITE.checks, ids=lambda check: check.__name__)
@pytest.mark.filterwarnings("ignore")
def test_each_check_catches_a_careless_estimator(check):
    before = X.copy()
    try:
        with pytest.raises(CAUGHT):
            check(Subject(Export("inference", "Careless", Careless)))
    finally:
        X[:] = before
