import time

import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from paperworks.inference import loo_predict
from paperworks.inference.evaluation import refits

MODELS = [
    Ridge(30.0),
    Ridge(0.5, fit_intercept=False),
    LinearRegression(),
    LinearRegression(fit_intercept=False),
    RidgeClassifier(3.0),
    LinearDiscriminantAnalysis(),
    GaussianNB(var_smoothing=0.1),
    KNeighborsClassifier(3),
    KNeighborsRegressor(4),
]
SCALERS = [StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False)]


def problem(estimator, n=50, constant=False):
    rng = np.random.default_rng(0)
    X = rng.standard_t(3, (n, 4)) * [0.1, 1.0, 10.0, 100.0] + [0.0, 5.0, -1.0, 300.0]
    y = X @ (1 / X.std(axis=0)) + rng.standard_normal(n)
    if constant:
        X[:, 2] = 0.1
    return X, np.digitize(y, np.quantile(y, [0.3, 0.6])) if is_classifier(estimator) else y


def refuse(*_):
    pytest.fail("it was refitted")


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_scaler_inside_the_fold_predicts_what_refits_do_without_one(model, scaler, monkeypatch):
    X, y = problem(model)
    pipeline = make_pipeline(FunctionTransformer(), scaler, model)
    theirs = cross_val_predict(pipeline, X, y, cv=LeaveOneOut())
    monkeypatch.setattr(refits, "fitted", refuse)
    np.testing.assert_allclose(loo_predict(pipeline, X, y), theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", [Ridge(), GaussianNB(), KNeighborsClassifier(3)], ids=repr)
def test_a_constant_feature_is_not_scaled(model):
    X, y = problem(model, constant=True)
    pipeline = make_pipeline(StandardScaler(), model)
    theirs = cross_val_predict(pipeline, X, y, cv=LeaveOneOut())
    np.testing.assert_allclose(loo_predict(pipeline, X, y), theirs, rtol=1e-8, atol=1e-8)


def test_a_feature_that_one_sample_alone_varies_is_left_to_refits():
    X, y = problem(Ridge())
    X[:, 1] = np.arange(len(X)) == 7  # a constant in the fold without it
    pipeline = make_pipeline(StandardScaler(), Ridge())
    np.testing.assert_allclose(loo_predict(pipeline, X, y), cross_val_predict(pipeline, X, y, cv=LeaveOneOut()))


def test_it_is_twenty_times_refitting():
    X, y = problem(Ridge(), 300)
    pipeline = make_pipeline(StandardScaler(), Ridge())
    loo_predict(pipeline, X, y)

    def seconds(job):
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    ours = min(seconds(lambda: loo_predict(pipeline, X, y)) for _ in range(5))
    assert seconds(lambda: cross_val_predict(pipeline, X, y, cv=LeaveOneOut())) > 20 * ours
