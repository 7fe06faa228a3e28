"""What users do that nobody meant: other types, units, scorers and sizes than those of the examples."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, make_scorer, mean_squared_error
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from paperworks.inference import (
    bias_variance,
    bootstrap_score,
    bootstrap_test_set,
    cochrans_q,
    compare_algorithms,
    compare_models,
    compare_scores,
    ftest_5x2cv,
    loo_predict,
    looney_f_test,
    loss_interval,
    mcnemar,
    nested_cv,
    paired_permutation_test,
    split_scores,
    ttest_5x2cv,
    ttest_kfold,
    unpaired_permutation_test,
)

X, Y = load_iris(return_X_y=True)
SPLITS = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, Y))
HALVES = [pair for i in range(5) for pair in KFold(2, shuffle=True, random_state=i).split(np.arange(20))]


# Scores


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool])
@pytest.mark.parametrize(
    "scoring",
    [
        "neg_mean_squared_error",
        "neg_mean_absolute_error",
        "neg_mean_absolute_percentage_error",
        "neg_mean_squared_log_error",
    ],
)
def test_losses_of_small_integers_dont_wrap_round(dtype, scoring):
    model, y = DecisionTreeClassifier(max_depth=1), Y.astype(dtype)
    theirs = cross_val_score(model, X, Y.astype(dtype).astype(float), cv=SPLITS, scoring=scoring)
    np.testing.assert_allclose(split_scores(model, X, y, SPLITS, scoring), theirs)


def test_squares_of_small_integers_dont_wrap_round():
    y = np.where(Y == 2, 200, Y).astype(np.uint8)
    ours, theirs = (
        bias_variance(GaussianNB(), X, labels, X, labels, loss="squared", n_rounds=5, random_state=0)
        for labels in (y, y.astype(float))
    )
    assert ours == theirs
    assert np.isclose(ours.loss, ours.bias + ours.variance)


@pytest.mark.parametrize(
    ("metric", "greater"), list(itertools.product([accuracy_score, mean_squared_error], [False, True]))
)
def test_a_scorer_keeps_the_sign_it_was_made_with(metric, greater):
    scorer = make_scorer(metric, greater_is_better=greater)
    model = GaussianNB()
    theirs = cross_val_score(model, X, Y, cv=SPLITS, scoring=scorer)
    np.testing.assert_allclose(split_scores(model, X, Y, SPLITS, scorer), theirs)
    assert np.all((theirs > 0) == greater)


# Units


def test_no_unit_of_the_scores_makes_another_test_of_it():
    first, second = np.arange(10.0) ** 0.5, np.ones(10)
    for test, scale in itertools.product(
        ("corrected-t", "paired-t", "5x2cv-t", "5x2cv-f"), (2.0**-1000, 2.0**-60, 2.0**700)
    ):
        plain = compare_scores(first, second, HALVES, test=test)
        scaled = compare_scores(scale * first, scale * second, HALVES, test=test)
        assert scaled[:3] == plain[:3]
        assert scaled.difference == scale * plain.difference


@pytest.mark.parametrize("test", [ttest_kfold, ttest_5x2cv, ftest_5x2cv])
def test_errors_of_targets_in_nanometres_are_compared(test):
    models = Ridge(100.0), LinearRegression()
    tiny, plain = (test(*models, X[:, 1:], X[:, 0] * unit, random_state=0) for unit in (2.0**-30, 1.0))
    assert tiny.pvalue == pytest.approx(plain.pvalue, rel=1e-6)
    assert tiny.pvalue < 0.5


def test_differences_that_are_rounding_are_none():
    splits = list(KFold(5).split(np.arange(10)))
    scores = 1e6 * np.array([0.3, 0.7, 0.9, 0.2, 0.5])
    assert compare_scores(scores * (1 + 2e-16), scores, splits).pvalue == 1
    with pytest.warns(UserWarning, match="don't vary"):
        assert compare_scores(scores + 0.1, scores, splits).pvalue == 0


@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**1000])
def test_intervals_and_permutations_take_losses_of_any_size(scale):
    losses = np.arange(1.0, 11)
    half = stats.t.isf(0.025, 9) * losses.std(ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(np.array(loss_interval(losses * scale)) / scale, [5.5 - half, 5.5 + half], rtol=1e-4)
    ours, plain = (np.array(bootstrap_test_set(losses * s, n_resamples=99, random_state=0)) for s in (scale, 1.0))
    np.testing.assert_allclose(ours / scale, plain, rtol=1e-4)
    other = losses[::-1] ** 0.5
    for n in (4, 30):
        pair = np.resize(losses, n), np.resize(other, n)
        for test in (paired_permutation_test, unpaired_permutation_test):
            ours, plain = (
                test(*(s * losses for losses in pair), n_permutations=500, random_state=0) for s in (scale, 1.0)
            )
            assert ours.pvalue == plain.pvalue
            assert ours.statistic / scale == pytest.approx(plain.statistic, rel=1e-4)


def test_the_largest_losses_dont_overflow():
    found = paired_permutation_test(np.full(6, 1.7e308), np.full(6, -1.7e308))
    assert found.pvalue == 2 / 2**6


def test_what_all_losses_have_in_common_hides_no_difference():
    apart = unpaired_permutation_test(1e9 + 1e-3 * np.arange(6), 1e9 + 1e-3 * np.arange(6, 12))
    assert apart.pvalue == 2 / 924
    assert apart.statistic == pytest.approx(-6e-3, rel=1e-3)


# Weights


def test_samples_without_weight_are_as_if_they_were_not_there():
    right = np.random.default_rng(1).random((30, 3)) < [0.5, 0.8, 0.9]
    weights = np.r_[np.ones(20), np.zeros(10)]
    found = looney_f_test(np.ones(30), *right.T, sample_weight=weights)
    np.testing.assert_allclose(found[:2], looney_f_test(np.ones(20), *right[:20].T)[:2])
    assert found.df == (2, 38)
    names = np.repeat(np.arange(10), 3)
    grouped = looney_f_test(np.ones(30), *right.T, groups=names, sample_weight=names < 7)
    np.testing.assert_allclose(grouped[:2], looney_f_test(np.ones(21), *right[:21].T, groups=names[:21])[:2])


@pytest.mark.parametrize("unit", [2.0**-700, 2.0**700])
def test_weights_count_by_their_ratios(unit):
    right = np.random.default_rng(1).random((60, 3)) < [0.5, 0.8, 0.9]
    weights = np.random.default_rng(2).random(60)
    for groups in (None, np.repeat(np.arange(30), 2)):
        for test in (cochrans_q, looney_f_test, lambda y, a, b, _, **o: mcnemar(y, a, b, exact=False, **o)):
            plain, scaled = (test(np.ones(60), *right.T, groups=groups, sample_weight=weights * s) for s in (1.0, unit))
            assert scaled == plain


# Groups


def test_a_number_of_folds_keeps_groups_together():
    order = np.random.default_rng(0).permutation(150)
    names = np.arange(150)[order] // 5
    models, data = (GaussianNB(), DecisionTreeClassifier(max_depth=1)), (X[order], Y[order])
    theirs = ttest_kfold(*models, *data, cv=StratifiedGroupKFold(5), groups=names)
    assert ttest_kfold(*models, *data, cv=5, groups=names) == theirs
    trained = []

    class Watching(GaussianNB):
        def fit(self, X, y):
            trained.append(set(X[:, 0]))
            return super().fit(X, y)

    with_group = np.column_stack([names, X[order]])
    nested_cv(Watching(), with_group, Y[order], {"var_smoothing": [1e-9, 1e-3]}, groups=names, random_state=0)
    assert trained
    sizes = {len(seen) for seen in trained}
    assert sizes <= {12, 15, 24, 30}  # of 30 groups: all, four fifths of them, and halves of either
    assert max(size for size in sizes if size < 30) == 24


def test_one_class_is_left_to_the_estimator():
    theirs = cross_val_score(RidgeClassifier(), X, Y * 0, cv=3, scoring="accuracy")
    ours = split_scores(RidgeClassifier(), X, Y * 0, list(KFold(3).split(X)))
    np.testing.assert_array_equal(ours, theirs)


# Bad input


class Nan:
    def __call__(self, model, X, y):
        return np.nan


HALF = [(np.arange(25), np.arange(30, 70))]
MIXED = np.array(["a", 1] * 75, dtype=object)
BAD = [
    (lambda: split_scores(GaussianNB(), X, Y, SPLITS, "roc_auc"), "y has 3 classes"),
    (lambda: split_scores(DecisionTreeClassifier(), X[50:], Y[50:], HALF, "roc_auc"), "trained on one class"),
    (lambda: split_scores(GaussianNB(), X, Y, SPLITS, accuracy_score), "metric function rather than a scorer"),
    (
        lambda: split_scores(GaussianNB(), X, np.array(["a", "b", "c"])[Y], SPLITS, "neg_mean_squared_error"),
        "of numbers",
    ),
    (lambda: split_scores(GaussianNB(), X, Y, SPLITS, sample_weight=Y > 2), "zeros alone"),
    (
        lambda: split_scores(GaussianNB(), X, Y, [(range(100), range(100, 150))], sample_weight=Y < 2),
        "zero on all test",
    ),
    (lambda: ttest_kfold(GaussianNB(), GaussianNB(), X, Y, scoring=Nan()), "10 NaN"),
    (lambda: ttest_kfold(GaussianNB(), GaussianNB(), X, Y[:, None]), r"y has shape \(150, 1\)"),
    (lambda: ttest_kfold(GaussianNB(), GaussianNB(), X, MIXED), "y mixes numbers and text"),
    (lambda: split_scores(GaussianNB(), X, MIXED, SPLITS), "y mixes numbers and text"),
    (lambda: bootstrap_score(GaussianNB(), X, MIXED), "y mixes numbers and text"),
    (lambda: loo_predict(GaussianNB(), X, MIXED), "y mixes numbers and text"),
    (lambda: compare_scores([0.5, 0.6], [0.5, 0.4], [([0], [1]), 3]), "no pairs"),
    (lambda: mcnemar(np.array([1, np.nan, 0], dtype=object), [1, 0, 0], [1, 1, 0]), "y_true has 1 NaN"),
    (lambda: mcnemar([1, 1], [1, 0], [0, 1], groups=np.array([1, np.nan], dtype=object)), "groups has 1 NaN"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()


WRONG = [
    (lambda: compare_models([1, 0], [[1, 0], [0, 0]]), "predictions is a list"),
    (lambda: compare_algorithms([GaussianNB(), GaussianNB()], X, Y), "estimators is a list"),
    (lambda: split_scores(GaussianNB(), X, Y, SPLITS, ["accuracy", "f1_macro"]), "takes one name"),
    (lambda: split_scores(Ridge(), X[50:], Y[50:], [(np.arange(70), np.arange(70, 100))], "roc_auc"), "has none"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_things_of_another_kind_are_named(call, message, untyped):
    with pytest.raises(TypeError, match=message):
        call()
