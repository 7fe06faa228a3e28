"""Closed forms do what refits do, or leave it to them, on data that costs digits."""

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paperworks.inference import loo_predict, refit_predictions, split_scores

A = np.random.default_rng(0).normal(size=(18, 3))
COUNTS = np.stack([np.bincount(np.random.default_rng(i).integers(0, 18, 18), minlength=18) for i in range(5)])


def with_outlier(size):
    return np.where(np.arange(54).reshape(18, 3) == 14, size, A)


DATA = {
    "outlier 1e6": with_outlier(1e6),
    "outlier 1e9": with_outlier(1e9),
    "other units": A * [1.0, 1e7, 1e-2],
    "collinear": np.column_stack([A[:, :2], A[:, 1] + 1e-6 * A[:, 2]]),
    "nearly collinear": np.column_stack([A[:, :2], A[:, 1] + 1e-4 * A[:, 2]]),
    "fewer samples": np.random.default_rng(1).normal(size=(10, 14)),
    "huge": A * 1e160,
    "tiny": A * 1e-160,
    "constant": np.where([True, False, False], 0.1, A),
}
MODELS = [
    LinearRegression(),
    LinearRegression(tol=0.1),
    Ridge(),
    Ridge(1e-6),
    LinearDiscriminantAnalysis(),
    LinearDiscriminantAnalysis(tol=0.3),
    LinearDiscriminantAnalysis("lsqr"),
    GaussianNB(),
]


def targets(model, X):
    scale = X.std(axis=0, where=np.abs(X) < 1e150) if np.abs(X).max() < 1e150 else np.full(X.shape[1], 1e160)
    y = (X / np.where(scale > 0, scale, 1)).sum(axis=1) + np.random.default_rng(2).normal(size=len(X))
    return np.array(list("abc"))[y.argsort().argsort() * 3 // len(y)] if is_classifier(model) else y


def outcome(call):
    """Return what a call returns or, where it raises, that it does."""
    try:
        return call()
    except (ValueError, IndexError) as error:
        return type(error)


def same(ours, theirs):
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs
    elif theirs.dtype.kind == "U":
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_each_fold_and_resample_is_predicted_as_refits_do(model, name):
    X = DATA[name]
    y = targets(model, X)
    for estimator in (model, make_pipeline(StandardScaler(), model)):
        theirs = outcome(lambda e=estimator: cross_val_predict(e, X, y, cv=LeaveOneOut()))
        same(outcome(lambda e=estimator: loo_predict(e, X, y)), theirs)
    counts = COUNTS[:, : len(X)]
    rows = [np.repeat(np.arange(len(X)), row) for row in counts]
    theirs = outcome(lambda: np.array([clone(model).fit(X[r], y[r]).predict(X) for r in rows]))
    same(outcome(lambda: refit_predictions(model, X, y, counts)), theirs)


def test_distances_that_are_not_numbers_end():
    found = refit_predictions(KNeighborsClassifier(3), A * 1e160, np.arange(18) % 2, COUNTS)
    assert found.shape == (5, 18)


def test_neighbours_take_distances_and_gaps():
    y = np.arange(18) % 2
    gaps = np.where(np.arange(54).reshape(18, 3) % 7 == 0, np.nan, A)
    model = KNeighborsClassifier(3, metric="nan_euclidean")
    splits = list(KFold(4).split(A))
    np.testing.assert_allclose(split_scores(model, gaps, y, splits), cross_val_score(model, gaps, y, cv=splits))
    np.testing.assert_array_equal(loo_predict(model, gaps, y), cross_val_predict(model, gaps, y, cv=LeaveOneOut()))
    distances = np.linalg.norm(A[:, None] - A, axis=-1)
    model = KNeighborsClassifier(3, metric="precomputed")
    theirs = cross_val_score(model, distances, y, cv=splits)
    np.testing.assert_allclose(split_scores(model, distances, y, splits), theirs)
    theirs = cross_val_predict(model, distances, y, cv=LeaveOneOut())
    np.testing.assert_array_equal(loo_predict(model, distances, y), theirs)


BAD = [
    Ridge(alpha=-0.1),
    GaussianNB(var_smoothing=-1e-3),
    KNeighborsClassifier(n_neighbors=0),
    LinearDiscriminantAnalysis(tol=-1.0),
    LinearDiscriminantAnalysis(n_components=9),
]


@pytest.mark.parametrize("model", BAD, ids=repr)
def test_parameters_that_no_fit_takes_are_refused(model, untyped):
    y = np.arange(18) % 2
    with pytest.raises(ValueError, match=r"alpha|var_smoothing|n_neighbors|tol|n_components"):
        loo_predict(model, A, y)
    with pytest.raises(ValueError, match=r"alpha|var_smoothing|n_neighbors|tol|n_components"):
        refit_predictions(model, A, y, COUNTS)
