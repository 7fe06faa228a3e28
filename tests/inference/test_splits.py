import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from paperworks.inference import (
    BootstrapOutOfBag,
    SampleLoss,
    bootstrap_score,
    compare_algorithms,
    compare_scores,
    ftest_5x2cv,
    refit_predictions,
    repeated_holdout,
    split_scores,
    ttest_5x2cv,
    ttest_kfold,
    ttest_resampled,
)
from paperworks.papers.model_eval import claims as model_eval

X, Y = make_classification(60, 5, n_informative=4, n_redundant=0, n_classes=3, class_sep=0.7, random_state=0)
GROUPS = np.repeat(np.arange(20), 3)
WEIGHTS = np.random.default_rng(1).integers(0, 4, 60)
MODELS = GaussianNB(), RidgeClassifier()
TESTS = [ttest_resampled, ttest_kfold, ttest_5x2cv, ftest_5x2cv]
TWO_FOLDS = RepeatedStratifiedKFold(n_splits=2, n_repeats=5, random_state=1)
CORRECTED = {ttest_resampled: {"corrected": True}, ttest_kfold: {"corrected": True}}


def run(test, *models, **options):
    return test(*(models or MODELS), X, Y, random_state=0, **CORRECTED.get(test, {}), **options)


@pytest.mark.parametrize("test", TESTS)
def test_splits_and_the_splitter_that_makes_them_give_one_result(test):
    by_splits = run(test, splits=list(TWO_FOLDS.split(X, Y)))
    assert run(test, cv=TWO_FOLDS) == by_splits
    assert run(test) != by_splits
    scores = [split_scores(model, X, Y, TWO_FOLDS.split(X, Y)) for model in MODELS]
    assert np.isclose(by_splits.difference, np.mean(scores[0] - scores[1]))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_groups_stay_together(test):
    seen = []

    class Watching(GaussianNB):
        def fit(self, X, y):
            seen.append(set(X[:, 0]))
            return super().fit(X[:, 1:], y)

        def predict(self, X):
            return super().predict(X[:, 1:])

    with_group = np.column_stack([GROUPS, X])
    test(Watching(), Watching(), with_group, Y, groups=GROUPS, random_state=0, **CORRECTED.get(test, {}))
    assert seen
    for trained in seen:  # a fold's training samples have whole groups of three, none of which the test has
        assert len(trained) < 20
    with pytest.raises(ValueError, match="groups on both sides"):
        run(test, cv=TWO_FOLDS, groups=GROUPS)


def test_groups_give_the_splits_of_scikit_learns_splitters():
    rng = np.random.RandomState(0)
    folds = [s for _ in range(2) for s in StratifiedGroupKFold(4, shuffle=True, random_state=rng).split(X, Y, GROUPS)]
    options = {"n_splits": 4, "n_repeats": 2}
    assert run(ttest_kfold, groups=GROUPS, **options) == run(ttest_kfold, splits=folds)
    y = X @ np.arange(5.0)
    rng = np.random.RandomState(0)
    folds = list(GroupKFold(4, shuffle=True, random_state=rng).split(X, y, GROUPS))
    models = Ridge(), Ridge(50.0)
    ours = ttest_kfold(*models, X, y, groups=GROUPS, n_splits=4, random_state=0)
    assert ours == ttest_kfold(*models, X, y, splits=folds)
    assert run(ttest_kfold, cv=GroupKFold(4), groups=GROUPS) == run(
        ttest_kfold, splits=GroupKFold(4).split(X, Y, GROUPS)
    )


def test_a_number_of_folds_is_scikit_learns():
    assert run(ttest_kfold, cv=4) == run(ttest_kfold, splits=StratifiedKFold(4).split(X, Y))


def test_the_correction_of_any_splits_is_the_ratio_of_test_to_training_samples():
    splits = list(ShuffleSplit(6, test_size=15, train_size=30, random_state=0).split(X))
    plain, corrected = (ttest_kfold(*MODELS, X, Y, splits=splits, corrected=c) for c in (False, True))
    assert np.isclose((plain.statistic / corrected.statistic) ** 2, (1 / 6 + 15 / 30) / (1 / 6))


@pytest.mark.parametrize("model", [RidgeClassifier(), GaussianNB(), LogisticRegression(), KNeighborsClassifier(3)])
def test_whole_weights_are_repeated_samples_in_the_score(model):
    splits = list(KFold(4, shuffle=True, random_state=0).split(X))
    pipeline = make_pipeline(StandardScaler().set_output(), model) if isinstance(model, LogisticRegression) else model
    weights = WEIGHTS.astype(float)
    name = {LogisticRegression: "logisticregression__sample_weight"}.get(type(model), "sample_weight")
    for i, (train, test) in enumerate(splits):
        given = {} if isinstance(model, KNeighborsClassifier) else {name: weights[train]}
        fitted = clone(pipeline).fit(X[train], Y[train], **given)
        repeated = np.repeat(test, WEIGHTS[test])
        expected = np.mean(fitted.predict(X[repeated]) == Y[repeated])
        assert np.isclose(split_scores(pipeline, X, Y, splits, sample_weight=weights)[i], expected)
    with_weights = split_scores(model, X, Y, splits, "f1_macro", sample_weight=weights)
    assert np.all(np.isfinite(with_weights))


def test_weights_go_into_closed_forms_and_refits_alike():
    counts = np.stack([np.bincount(np.random.default_rng(i).integers(0, 60, 60), minlength=60) for i in range(5)])
    weights = WEIGHTS + 0.5
    y = X @ np.arange(5.0) + np.random.default_rng(0).normal(size=60)
    for model, target in ((Ridge(), y), (RidgeClassifier(), Y)):
        rows = [np.repeat(np.arange(60), c) for c in counts]
        theirs = [clone(model).fit(X[r], target[r], sample_weight=weights[r]).predict(X) for r in rows]
        np.testing.assert_allclose(refit_predictions(model, X, target, counts, sample_weight=weights), theirs)


@pytest.mark.parametrize("test", TESTS)
def test_weights_of_one_are_none_and_others_change_the_result(test):
    assert run(test, sample_weight=np.ones(60))[:2] == pytest.approx(run(test)[:2])
    assert run(test, sample_weight=WEIGHTS + 1.0).difference != run(test).difference


def test_training_samples_keep_their_order_on_which_bagging_depends():
    model = BaggingClassifier(DecisionTreeClassifier(random_state=0), n_estimators=3, random_state=0)
    splits = list(ShuffleSplit(5, test_size=0.5, random_state=0).split(X))
    np.testing.assert_array_equal(split_scores(model, X, Y, splits), cross_val_score(model, X, Y, cv=splits))
    ordered = [(np.sort(train), test) for train, test in splits]
    assert not np.array_equal(split_scores(model, X, Y, ordered), split_scores(model, X, Y, splits))


def test_algorithms_are_compared_on_one_set_of_splits():
    models = {"NB": GaussianNB(), "ridge": RidgeClassifier(), "3-NN": KNeighborsClassifier(3)}
    report = compare_algorithms(models, X, Y, test="kfold-t", cv=GroupKFold(5), groups=GROUPS, correction="fdr_bh")
    alone = ttest_kfold(GaussianNB(), RidgeClassifier(), X, Y, cv=GroupKFold(5), groups=GROUPS, corrected=True)
    assert (report.pairs[0].statistic, report.pairs[0].pvalue) == (alone.statistic, alone.pvalue)
    assert report.correction == "bh"
    assert report.scores["NB"] - report.scores["ridge"] == pytest.approx(alone.difference)
    assert "NB: mean score" in str(report)
    holdout = repeated_holdout(GaussianNB(), X, Y, n_splits=4, groups=GROUPS, sample_weight=WEIGHTS, random_state=0)
    assert holdout.shape == (4,)


class Untagged:
    """A classifier with parameters, but without scikit-learn's tags."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def get_params(self, deep=True):
        return {"shift": self.shift}

    def set_params(self, **options):
        return self

    def fit(self, X, y):
        self.inner = GaussianNB().fit(X, y)

    def predict(self, X):
        return self.inner.predict(X)


class Bare:
    """An estimator that has no parameters to clone either."""

    def fit(self, X, y):
        self.mean = np.mean(y)

    def predict(self, X):
        return np.full(len(X), self.mean)


def own_scorer(model, X, y):
    return np.mean(model.predict(X) == y)


@pytest.mark.parametrize("scoring", ["accuracy", own_scorer, SampleLoss(lambda y, p: (y != p) * 1.0, 1.0)])
def test_an_estimator_without_tags_will_do_where_scoring_is_given(scoring):
    splits = list(TWO_FOLDS.split(X, Y))
    theirs = split_scores(GaussianNB(), X, Y, splits)
    np.testing.assert_allclose(split_scores(Untagged(), X, Y, splits, scoring), theirs)
    for test in TESTS:
        ours = run(test, Untagged(), RidgeClassifier(), splits=splits, scoring=scoring)
        assert ours[:2] == pytest.approx(run(test, splits=splits)[:2])
    ours, theirs = (
        bootstrap_score(m, X, Y, "oob", n_splits=9, scoring=scoring, random_state=0) for m in (Untagged(), GaussianNB())
    )
    assert ours.score == pytest.approx(theirs.score)
    with pytest.raises(ValueError, match="neither classifier nor regressor"):
        split_scores(Untagged(), X, Y, splits)
    bare = Bare()
    assert np.all(split_scores(bare, X, X[:, 0], splits, "neg_mean_squared_error") < 0)
    assert not vars(bare)


def test_the_bootstrap_splitter_takes_none_and_sparse_data():
    splitter = BootstrapOutOfBag(5, random_state=0)
    dense = [[part.tolist() for part in pair] for pair in splitter.split(X)]
    for data in ((None, Y), (sparse.csr_array(X), None), (None, None, GROUPS * 0 + np.arange(60))):
        found = [[part.tolist() for part in pair] for pair in splitter.split(*data)]
        assert found == dense
    with pytest.raises(ValueError, match="X, y and groups are None"):
        list(splitter.split())
    assert cross_val_score(LogisticRegression(), sparse.csr_array(X), Y, cv=splitter).shape == (5,)


def test_the_bootstrap_draws_and_leaves_out_whole_groups():
    for train, test in BootstrapOutOfBag(10, random_state=0).split(X, Y, GROUPS):
        assert not set(GROUPS[train]) & set(GROUPS[test])
        counts = np.bincount(train, minlength=60).reshape(20, 3)
        assert np.all(counts == counts[:, :1])
        assert counts[:, 0].sum() == 20
    # A copy of each sample makes 1-nearest neighbour look perfect, unless copies are left out together.
    rng = np.random.default_rng(0)
    noise, labels = np.repeat(rng.normal(size=(40, 3)), 3, axis=0), np.repeat(np.arange(40) % 2, 3)
    alone, together = (
        bootstrap_score(KNeighborsClassifier(1), noise, labels, "oob", n_splits=50, groups=g, random_state=0).score
        for g in (None, np.repeat(np.arange(40), 3))
    )
    assert alone > 0.8
    assert together < 0.65


OVERLAP = [(np.arange(30), np.arange(29, 60))] * 2
BAD = [
    (lambda: run(ttest_kfold, cv=3, splits=OVERLAP), "cv and splits are both given"),
    (lambda: run(ttest_kfold, splits=OVERLAP), "sample 29 for training and for the test"),
    (lambda: run(ttest_kfold, splits=[]), "splits is empty"),
    (lambda: run(ttest_kfold, splits=[(np.arange(60), np.array([]))]), "0 test samples"),
    (lambda: run(ttest_kfold, splits=[(np.arange(60), [60])]), "takes a pair of training and test indices"),
    (lambda: run(ttest_kfold, splits=[3]), "takes a pair of training and test indices"),
    (lambda: run(ttest_kfold, splits=[(np.arange(30), np.arange(30, 60))]), "at least two"),
    (lambda: run(ftest_5x2cv, cv=5), "five times two folds"),
    (lambda: run(ftest_5x2cv, cv=ShuffleSplit(10, random_state=0)), "five times two folds"),
    (lambda: run(ttest_5x2cv, sample_weight=np.ones(59)), "sample_weight is of 59 samples"),
    (lambda: run(ttest_5x2cv, sample_weight=-np.ones(60)), "negative elements"),
    (lambda: run(ttest_5x2cv, groups=np.ones(59)), "groups has shape"),
    (lambda: run(ttest_5x2cv, groups=np.full(60, np.nan)), "60 NaN"),
    (
        lambda: compare_algorithms(dict(zip("ab", MODELS, strict=True)), X, Y, correction="tukey"),
        "correction is 'tukey'",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_warning_is_given_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_algorithms({"a": GaussianNB(), "b": KNeighborsClassifier()}, *load_iris(return_X_y=True), groups=None)
        assert issubclass(GaussianNB, BaseEstimator)


def test_the_claims_tests_are_the_public_ones():
    models, (data, y) = MODELS, load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = {
            "resampled t": ttest_resampled(*models, data, y, random_state=4),
            "resampled t, Nadeau-Bengio": ttest_resampled(*models, data, y, corrected=True, random_state=4),
            "10-fold t": ttest_kfold(*models, data, y, random_state=4),
            "10-fold t, corrected": ttest_kfold(*models, data, y, corrected=True, random_state=4),
            "5x2cv t": ttest_5x2cv(*models, data, y, random_state=4),
            "5x2cv F": ftest_5x2cv(*models, data, y, random_state=4),
        }
    found = model_eval.pvalues_of([make_pipeline(model) for model in models], data, y, 4)
    assert found == {name: test.pvalue for name, test in tests.items()}


def test_scores_from_elsewhere_are_compared_as_one_s_own():
    splits = list(TWO_FOLDS.split(X, Y))
    scores = [split_scores(model, X, Y, splits) for model in MODELS]
    assert compare_scores(*scores, splits) == run(ttest_kfold, splits=splits)
    assert compare_scores(*scores, splits, test="paired-t") == ttest_kfold(*MODELS, X, Y, splits=splits)
    assert compare_scores(*scores, splits, test="5x2cv-t") == run(ttest_5x2cv, splits=splits)
    assert compare_scores(*scores, splits, test="5x2cv-f") == run(ftest_5x2cv, splits=splits)
    masks = [(np.isin(np.arange(60), train), np.isin(np.arange(60), test)) for train, test in splits]
    assert compare_scores(*scores, masks) == compare_scores(*scores, splits)
    with pytest.raises(ValueError, match="scores_2 is of 9"):
        compare_scores(scores[0], scores[1][:9], splits)
    with pytest.raises(ValueError, match="scores_1 has 1 NaN"):
        compare_scores(np.where(np.arange(10) == 2, np.nan, scores[0]), scores[1], splits)
