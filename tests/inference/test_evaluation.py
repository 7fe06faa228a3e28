import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.base import clone, is_classifier
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris, make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from paperworks.inference import (
    BootstrapOutOfBag,
    accuracy_interval,
    adjust_pvalues,
    bias_variance,
    bootstrap_score,
    bootstrap_test_set,
    cochrans_q,
    compare_algorithms,
    compare_models,
    friedman_nemenyi,
    ftest_5x2cv,
    loo_predict,
    looney_f_test,
    loss_interval,
    mcnemar,
    nested_cv,
    one_standard_error,
    paired_permutation_test,
    proportion_ztest,
    refit_predictions,
    repeated_holdout,
    split_scores,
    three_way_split,
    ttest_5x2cv,
    ttest_kfold,
    ttest_resampled,
)
from paperworks.inference.evaluation.out_of_bag import no_information_rate
from paperworks.inference.evaluation.refits import closed_form_of
from paperworks.inference.evaluation.scoring import SAMPLE_LOSSES

CLOSED = [
    Ridge(0.7),
    Ridge(2.0, fit_intercept=False),
    LinearRegression(),
    RidgeClassifier(),
    LinearDiscriminantAnalysis(),
    LinearDiscriminantAnalysis(solver="lsqr"),
    GaussianNB(),
    KNeighborsClassifier(1),
    KNeighborsClassifier(5),
    KNeighborsRegressor(7),
    make_pipeline(FunctionTransformer(np.tanh), LinearDiscriminantAnalysis()),
]


def problem(estimator, classes=3, n=60):
    X, y = make_classification(n, 5, n_informative=4, n_redundant=0, n_classes=classes, class_sep=0.7, random_state=0)
    return X + 3, y if is_classifier(estimator) else X @ np.arange(5.0) + np.random.default_rng(0).standard_normal(n)


def resamples(n, rounds=12, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(rounds)])


# Refits in closed form


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("estimator", CLOSED, ids=repr)
def test_closed_form_refits_predict_what_refits_do(estimator, classes):
    X, y = problem(estimator, classes)
    counts = resamples(len(y))
    if classes > 2:
        counts[0, y == y[0]] = 0  # a class left out altogether
    ours = refit_predictions(estimator, X, y, counts)
    chosen = [np.repeat(np.arange(len(y)), row) for row in counts]
    theirs = np.stack([clone(estimator).fit(X[rows], y[rows]).predict(X) for rows in chosen])
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("estimator", CLOSED, ids=repr)
def test_closed_form_leave_one_out_predicts_what_refits_do(estimator, classes):
    X, y = problem(estimator, classes)
    theirs = cross_val_predict(estimator, X, y, cv=LeaveOneOut())
    np.testing.assert_allclose(loo_predict(estimator, X, y), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(positive=True),
        RidgeClassifier(class_weight="balanced"),
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        LinearDiscriminantAnalysis(priors=[0.2, 0.3, 0.5]),
        GaussianNB(priors=[0.2, 0.3, 0.5]),
        KNeighborsClassifier(5, weights="distance"),
        make_pipeline(MinMaxScaler(), Ridge()),
        LogisticRegression(),
    ],
    ids=repr,
)
def test_other_settings_are_refitted_one_by_one(estimator):
    assert closed_form_of(estimator) is None
    X, y = problem(estimator)
    theirs = cross_val_predict(estimator, X[:30], y[:30], cv=LeaveOneOut())
    np.testing.assert_allclose(loo_predict(estimator, X[:30], y[:30]), theirs)


def test_singular_data_fall_back_to_refits():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 3))
    X = np.c_[X, X[:, 0]]
    y = X @ np.arange(4.0)
    for estimator, target in ((LinearRegression(), y), (LinearDiscriminantAnalysis(), (y > 0).astype(int))):
        theirs = cross_val_predict(estimator, X, target, cv=LeaveOneOut())
        np.testing.assert_allclose(loo_predict(estimator, X, target), theirs, atol=1e-9)
        counts = resamples(12, 3)
        chosen = [np.repeat(np.arange(12), row) for row in counts]
        theirs = np.stack([clone(estimator).fit(X[r], target[r]).predict(X) for r in chosen])
        np.testing.assert_allclose(refit_predictions(estimator, X, target, counts), theirs, atol=1e-9)


def test_a_class_with_one_sample_leaves_with_it():
    X, y = problem(RidgeClassifier(), 3, 30)
    X, y = np.r_[X, [[9.0, 9, 9, 9, 9]]], np.r_[y, 7]
    for estimator in (RidgeClassifier(), LinearDiscriminantAnalysis(), GaussianNB()):
        theirs = cross_val_predict(estimator, X, y, cv=LeaveOneOut())
        np.testing.assert_array_equal(loo_predict(estimator, X, y), theirs)


def test_split_scores_are_those_of_scikit_learn_and_estimators_stay_unfitted():
    splits = list(KFold(4, shuffle=True, random_state=0).split(np.zeros(60)))
    for estimator in (*CLOSED, DecisionTreeClassifier(random_state=0)):
        X, y = problem(estimator)
        name = "accuracy" if is_classifier(estimator) else "neg_mean_squared_error"
        theirs = cross_val_score(clone(estimator), X, y, cv=splits, scoring=name)
        np.testing.assert_allclose(split_scores(estimator, X, y, splits), theirs)
        assert not hasattr(estimator, "classes_") or estimator.__class__.__name__ == "Pipeline"
    X, y = problem(GaussianNB())
    theirs = cross_val_score(GaussianNB(), X, y, cv=splits, scoring="f1_macro")
    np.testing.assert_allclose(split_scores(GaussianNB(), X, y, splits, "f1_macro"), theirs)


# Intervals


@pytest.mark.parametrize(("ours", "theirs"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
def test_intervals_are_those_of_scipy(ours, theirs):
    for k in (0, 1, 17, 49, 50):
        expected = stats.binomtest(k, 50).proportion_ci(0.9, theirs)
        np.testing.assert_allclose(accuracy_interval(k / 50, 50, ours, 0.1), expected, atol=1e-12)


def test_intervals_take_arrays_and_stay_in_the_unit_interval():
    low, high = accuracy_interval(np.array([0.0, 0.5, 1.0]), 10, "normal-corrected")
    assert np.all((low >= 0) & (high <= 1))
    assert np.isclose(high[1] - low[1], 2 * (1.959964 * np.sqrt(0.025) + 0.05), atol=1e-5)


def test_the_interval_of_losses_is_students():
    losses = np.random.default_rng(0).exponential(size=40)
    expected = stats.ttest_1samp(losses, 0).confidence_interval(0.9)
    np.testing.assert_allclose(loss_interval(losses, 0.1), expected)
    low, high = bootstrap_test_set(losses, random_state=0)
    assert low < losses.mean() < high
    assert bootstrap_test_set([1, 1, 1]) == (1, 1)


# Bootstrap


def test_the_splitter_trains_on_a_resample_and_tests_on_the_rest():
    splitter = BootstrapOutOfBag(20, random_state=0)
    splits = list(splitter.split(np.zeros(6)))
    assert len(splits) == splitter.get_n_splits() == 20
    for train, test in splits:
        assert len(train) == 6
        assert len(test)
        assert set(train).isdisjoint(test)
        assert set(train) | set(test) == set(range(6))
    assert cross_val_score(GaussianNB(), *load_iris(return_X_y=True), cv=splitter).shape == (20,)


def reference(estimator, X, y, counts):
    """Return err, e1 by sample, mean error by rounds and gamma by their definitions, one loop after the other."""
    n = len(y)
    wrong = np.full((len(counts), n), np.nan)
    for j, row in enumerate(counts):
        rows = np.repeat(np.arange(n), row)
        left = np.flatnonzero(row == 0)
        wrong[j, left] = clone(estimator).fit(X[rows], y[rows]).predict(X[left]) != y[left]
    fitted = clone(estimator).fit(X, y).predict(X)
    gamma = np.mean([[a != b for b in fitted] for a in y])
    return np.mean(fitted != y), np.nanmean(np.nanmean(wrong, axis=0)), np.nanmean(wrong, axis=1), gamma


@pytest.mark.parametrize("estimator", [KNeighborsClassifier(1), DecisionTreeClassifier(max_depth=2, random_state=0)])
def test_the_estimates_are_those_of_the_definitions(estimator, monkeypatch):
    X, y = problem(estimator, n=40)
    y = np.random.default_rng(1).permutation(y)
    counts = resamples(40, 25)
    monkeypatch.setattr("paperworks.inference.evaluation.bootstrap.draw_resamples", lambda *_: counts)
    err, e1, rounds, gamma = reference(estimator, X, y, counts)
    overfit = np.clip((min(e1, gamma) - err) / (gamma - err), 0, 1)
    weight = 0.632 / (1 - 0.368 * overfit)
    expected = {
        ("oob", "round"): rounds.mean(),
        ("oob", "sample"): e1,
        (".632", "round"): 0.368 * err + 0.632 * rounds.mean(),
        (".632", "sample"): 0.368 * err + 0.632 * e1,
        (".632+", None): (1 - weight) * err + weight * min(e1, gamma),
    }
    for (method, aggregate), error in expected.items():
        found = bootstrap_score(estimator, X, y, method, n_splits=25, aggregate=aggregate)
        assert np.isclose(found.score, 1 - error), (method, aggregate)
        np.testing.assert_array_equal(found.oob_counts, (counts == 0).sum(axis=1))
    np.testing.assert_allclose(bootstrap_score(estimator, X, y, "oob", n_splits=25).scores, 1 - rounds)


def test_the_training_error_may_be_that_of_the_rounds(monkeypatch):
    X, y = problem(Ridge(), n=40)
    counts = resamples(40, 10)
    monkeypatch.setattr("paperworks.inference.evaluation.bootstrap.draw_resamples", lambda *_: counts)
    losses = (refit_predictions(Ridge(), X, y, counts) - y) ** 2
    oob = np.sum(losses * (counts == 0), axis=1) / (counts == 0).sum(axis=1)
    for option, train in (("bootstrap_full", losses.mean(1)), ("bootstrap_train", (losses * counts).sum(1) / 40)):
        found = bootstrap_score(Ridge(), X, y, ".632", n_splits=10, train_error=option)
        np.testing.assert_allclose(found.scores, -(0.368 * train + 0.632 * oob))
    r2 = bootstrap_score(Ridge(), X, y, "oob", n_splits=10, scoring="r2")
    left = [np.flatnonzero(row == 0) for row in counts]
    expected = [1 - np.sum(losses[j, o]) / np.sum((y[o] - y[o].mean()) ** 2) for j, o in enumerate(left)]
    np.testing.assert_allclose(r2.scores, expected)


@pytest.mark.parametrize("ci", ["percentile", "t", "bca"])
def test_the_interval_surrounds_the_score_and_grows_with_confidence(ci):
    X, y = problem(GaussianNB())
    for method in ("oob", ".632", ".632+"):
        wide, narrow = (
            bootstrap_score(GaussianNB(), X, y, method, ci=ci, alpha=a, random_state=0) for a in (0.01, 0.2)
        )
        assert wide.interval.low < narrow.interval.low < wide.score < narrow.interval.high < wide.interval.high


def test_the_no_information_rate_is_a_mean_over_pairs():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    for score in (SAMPLE_LOSSES["accuracy"], SAMPLE_LOSSES["neg_mean_squared_error"]):
        assert np.isclose(no_information_rate(y, p, score), score.loss(y[:, None], p[None, :]).mean())


def test_degenerate_resamples_are_drawn_again_or_refused():
    X, y = np.arange(8.0)[:, None], np.r_[np.zeros(7), 1].astype(int)
    found = bootstrap_score(GaussianNB(), X, y, "oob", n_splits=30, random_state=0)
    assert np.isfinite(found.score)
    with pytest.raises(ValueError, match="resamples hold one class"):
        bootstrap_score(GaussianNB(), X, y, on_degenerate="raise", n_splits=30, random_state=0)
    with pytest.raises(ValueError, match="one class"):
        bootstrap_score(GaussianNB(), X, np.zeros(8))


# Tests of models


@given(hnp.arrays(int, (2, 2), elements=st.integers(0, 30)))
@settings(max_examples=50, deadline=None)
def test_mcnemar_is_symmetric_and_exact_is_binomial(table):
    for exact in (True, False, "auto", "mid-p"):
        found = mcnemar(table, exact=exact)
        assert 0 <= found.pvalue <= 1
        assert np.isclose(found.pvalue, mcnemar(table.T, exact=exact).pvalue)
    b, c = int(table[0, 1]), int(table[1, 0])
    if b + c:
        assert np.isclose(mcnemar(table, exact=True).pvalue, stats.binomtest(b, b + c).pvalue)
    else:
        assert mcnemar(table, exact=False).pvalue == mcnemar(table, exact="mid-p").pvalue == 1


@given(hnp.arrays(bool, st.tuples(st.integers(2, 30), st.integers(2, 5))), st.randoms())
@settings(max_examples=50, deadline=None)
def test_omnibus_tests_do_not_depend_on_the_order(right, random):
    y = np.ones(len(right))
    shuffled = right[:, random.sample(range(right.shape[1]), right.shape[1])]
    for test in (cochrans_q, looney_f_test):
        a, b = test(y, *right.T), test(y, *shuffled.T)
        np.testing.assert_allclose([a.statistic, a.pvalue], [b.statistic, b.pvalue], rtol=1e-9, atol=1e-12)
        assert 0 <= a.pvalue <= 1


def test_cochrans_q_of_two_models_is_mcnemars():
    rng = np.random.default_rng(0)
    right = rng.random((60, 2)) < [0.6, 0.8]
    q, m = cochrans_q(np.ones(60), *right.T), mcnemar(np.ones(60), *right.T, exact=False, correction=False)
    assert np.isclose(q.statistic, m.statistic)
    assert np.isclose(q.pvalue, m.pvalue)


def test_looneys_f_is_the_analysis_of_variance_of_blocks():
    right = (np.random.default_rng(0).random((25, 3)) < 0.7).astype(float)
    residual = right - right.mean(0) - right.mean(1, keepdims=True) + right.mean()
    between = 25 * np.sum((right.mean(0) - right.mean()) ** 2)
    f = looney_f_test(np.ones(25), *right.T)
    assert np.isclose(f.statistic, (between / 2) / (np.sum(residual**2) / 48))
    assert f.df == (2, 48)
    assert looney_f_test(np.ones(25), *right.T, df2="samples").df == (2, 50)


def test_models_that_err_alike_do_not_differ():
    y, p = np.ones(20), np.r_[np.zeros(5), np.ones(15)]
    assert cochrans_q(y, p, p, p) == (0.0, 1.0, 2)
    assert looney_f_test(y, p, p).pvalue == 1
    assert mcnemar(y, p, p).pvalue == 1
    assert paired_permutation_test(p, p).pvalue == 1
    assert looney_f_test(y, y, np.zeros(20)).pvalue == 0


def test_the_test_of_proportions_has_the_known_value():
    z, p = proportion_ztest(0.84, 0.92, 100)
    pooled = 0.88
    assert np.isclose(z, -0.08 / np.sqrt(2 * pooled * (1 - pooled) / 100))
    assert np.isclose(p, 2 * stats.norm.cdf(z))
    assert np.isclose(proportion_ztest(0.84, 0.92, 100, alternative="less").pvalue, p / 2)
    assert proportion_ztest(1.0, 1.0, 10).pvalue == 1
    assert np.isclose(proportion_ztest(0.5, 0.7, 10, 1000).statistic, -0.2 / np.sqrt(0.698019802 * 0.301980198 * 0.101))


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_the_permutation_test_is_scipys(alternative):
    rng = np.random.default_rng(0)
    a, b = rng.random(9), rng.random(9) + 0.2
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", alternative=alternative, n_resamples=np.inf
    )
    ours = paired_permutation_test(a, b, alternative=alternative)
    assert np.isclose(ours.pvalue, theirs.pvalue)
    assert ours.n_permutations == 512


def test_random_permutations_come_near_the_exact_p():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(40) + 0.4, rng.standard_normal(40)
    d = a - b
    expected = 2 * stats.norm.sf(abs(d.sum()) / np.sqrt(np.sum(d**2)))
    found = paired_permutation_test(a, b, random_state=0)
    assert found == paired_permutation_test(a, b, random_state=0)
    assert abs(found.pvalue - expected) < 0.01
    assert found.pvalue > 0


# Corrections


@given(hnp.arrays(float, st.integers(1, 8), elements=st.floats(0, 1)))
@settings(max_examples=60, deadline=None)
def test_adjusted_p_values_are_ordered_as_the_methods_are(p):
    adjusted = {m: adjust_pvalues(p, m) for m in ("bonferroni", "sidak", "holm", "hochberg", "bh", "by")}
    for values in adjusted.values():
        assert np.all((values >= p - 1e-12) & (values <= 1))
        assert np.all(np.diff(values[np.argsort(p, kind="stable")]) >= -1e-12)
    for less, more in (("sidak", "bonferroni"), ("holm", "bonferroni"), ("hochberg", "holm"), ("bh", "hochberg")):
        assert np.all(adjusted[less] <= adjusted[more] + 1e-12)
    np.testing.assert_allclose(adjusted["bh"], stats.false_discovery_control(p), atol=1e-12)
    np.testing.assert_allclose(adjusted["by"], stats.false_discovery_control(p, method="by"), atol=1e-12)


# Tests of algorithms


def two():
    return LinearDiscriminantAnalysis(), GaussianNB(), *problem(GaussianNB())


def test_five_by_two_tests_follow_their_formulas():
    first, second, X, y = two()
    t = ttest_5x2cv(first, second, X, y, random_state=3)
    f = ftest_5x2cv(first, second, X, y, random_state=3)
    from sklearn.model_selection import StratifiedKFold

    rng = np.random.RandomState(3)
    p = np.array(
        [
            [
                clone(first).fit(X[a], y[a]).score(X[b], y[b]) - clone(second).fit(X[a], y[a]).score(X[b], y[b])
                for a, b in StratifiedKFold(2, shuffle=True, random_state=rng).split(X, y)
            ]
            for _ in range(5)
        ]
    )
    s2 = np.sum((p - p.mean(axis=1, keepdims=True)) ** 2, axis=1)
    assert np.isclose(t.statistic, p[0, 0] / np.sqrt(s2.sum() / 5))
    assert np.isclose(f.statistic, np.sum(p**2) / (2 * s2.sum()))
    assert np.isclose(t.pvalue, 2 * stats.t.sf(abs(t.statistic), 5))
    assert np.isclose(f.pvalue, stats.f.sf(f.statistic, 10, 5))


def test_the_corrections_widen_the_variance_by_their_factors():
    first, second, X, y = two()
    with pytest.warns(UserWarning, match="rejects true hypotheses"):
        plain = ttest_resampled(first, second, X, y, n_splits=10, random_state=0)
    corrected = ttest_resampled(first, second, X, y, n_splits=10, corrected=True, random_state=0)
    assert np.isclose((plain.statistic / corrected.statistic) ** 2, (1 / 10 + 20 / 40) / (1 / 10))
    plain = ttest_kfold(first, second, X, y, n_splits=5, n_repeats=2, random_state=0)
    corrected = ttest_kfold(first, second, X, y, n_splits=5, n_repeats=2, corrected=True, random_state=0)
    assert np.isclose((plain.statistic / corrected.statistic) ** 2, (1 / 10 + 1 / 4) / (1 / 10))
    assert plain.df == 9


def test_swapping_the_algorithms_turns_the_sign():
    first, second, X, y = two()
    for test in (ttest_5x2cv, ttest_kfold):
        a, b = test(first, second, X, y, random_state=0), test(second, first, X, y, random_state=0)
        assert np.isclose(a.statistic, -b.statistic)
        assert np.isclose(a.pvalue, b.pvalue)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = ftest_5x2cv(first, first, X, y, random_state=0)
    assert same == (0.0, 1.0, (10, 5), 0.0)


def test_differences_that_never_vary_are_infinite_with_a_warning():
    X, y = np.zeros((20, 1)), np.arange(20) % 2
    X[:, 0] = y
    from sklearn.dummy import DummyClassifier

    with pytest.warns(UserWarning, match="don't vary"):
        found = ttest_5x2cv(GaussianNB(), DummyClassifier(), X, y, random_state=0)
    assert found.pvalue == 0
    assert found.statistic == np.inf


# Selection


def test_nested_cross_validation_is_that_of_its_parts():
    X, y = problem(SVC())
    grid = {"C": [0.1, 1.0, 10.0]}
    inner, outer = KFold(2), KFold(3)
    found = nested_cv(SVC(), X, y, grid, inner_cv=inner, outer_cv=outer)
    search = GridSearchCV(SVC(), grid, cv=inner, scoring="accuracy")
    np.testing.assert_allclose(found.scores, cross_val_score(search, X, y, cv=outer))
    assert found.search.best_params_ in [{"C": c} for c in grid["C"]]
    assert np.isclose(found.mean, found.scores.mean())
    same = nested_cv(search, X, y, outer_cv=outer, refit=False)
    np.testing.assert_allclose(same.scores, found.scores)
    assert same.search is None


def test_one_standard_error_takes_a_simpler_model():
    X, y = problem(KNeighborsClassifier())
    grid = {"n_neighbors": [1, 3, 5, 9, 15]}
    rule = one_standard_error(lambda params: -params["n_neighbors"])
    best = nested_cv(KNeighborsClassifier(), X, y, grid, inner_cv=5, random_state=0)
    simple = nested_cv(KNeighborsClassifier(), X, y, grid, inner_cv=5, rule=rule, random_state=0)
    pairs = list(zip(best.best_params, simple.best_params, strict=True))
    assert all(b["n_neighbors"] <= s["n_neighbors"] for b, s in pairs)
    assert any(b != s for b, s in pairs)


def test_splits_keep_proportions():
    X, y = np.arange(100.0)[:, None], np.repeat([0, 1], [80, 20])
    parts = three_way_split(X, y, random_state=0)
    assert [len(p) for p in parts[:3]] == [60, 20, 20]
    assert [p.sum() for p in parts[3:]] == [12, 4, 4]
    assert len(np.unique(np.concatenate([p[:, 0] for p in parts[:3]]))) == 100
    assert repeated_holdout(GaussianNB(), X, y, n_splits=7, random_state=0).shape == (7,)


# Decomposition and reports


def test_bias_and_variance_add_up_for_squared_loss():
    X, y = problem(Ridge())
    found = bias_variance(KNeighborsRegressor(1), X[:40], y[:40], X[40:], y[40:], n_rounds=50, random_state=0)
    assert np.isclose(found.loss, found.bias + found.variance)
    smooth = bias_variance(KNeighborsRegressor(15), X[:40], y[:40], X[40:], y[40:], n_rounds=50, random_state=0)
    assert smooth.variance < found.variance
    X, y = problem(GaussianNB())
    zero_one = bias_variance(DecisionTreeClassifier(), X[:40], y[:40], X[40:], y[40:], n_rounds=20, random_state=0)
    assert 0 < zero_one.variance < 1


def test_reports_hold_every_pair_with_adjusted_p_values():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    predictions = {name: np.where(rng.random(80) < q, y, 1 - y) for name, q in (("a", 0.9), ("b", 0.7), ("c", 0.6))}
    report = compare_models(y, predictions, correction="bonferroni")
    assert [(p.first, p.second) for p in report.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(np.isclose(p.adjusted, min(1, 3 * p.pvalue)) for p in report.pairs)
    assert "Cochran's Q" in str(report)
    X, y = load_iris(return_X_y=True)
    models = {"LDA": LinearDiscriminantAnalysis(), "NB": GaussianNB(), "1-NN": KNeighborsClassifier(1)}
    for test in ("5x2cv-f", "5x2cv-t", "kfold-t", "resampled-t"):
        assert len(compare_algorithms(models, X, y, test=test, random_state=0).pairs) == 3


def test_friedman_is_scipys():
    scores = np.random.default_rng(0).random((8, 4)).round(1)
    found = friedman_nemenyi(scores)
    theirs = stats.friedmanchisquare(*scores.T)
    assert np.isclose(found.statistic, theirs.statistic)
    assert np.isclose(found.pvalue, theirs.pvalue)
    assert np.isclose(found.critical_difference, 2.569 * np.sqrt(4 * 5 / (6 * 8)), atol=1e-3)  # Demšar's table 5a


# Bad input

X4, Y4 = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
BAD = [
    (lambda: accuracy_interval(1.2, 10), "accuracy is 1.2"),
    (lambda: accuracy_interval(0.5, 0), "n is 0"),
    (lambda: accuracy_interval(0.5, 10, "wald"), "method is 'wald'"),
    (lambda: loss_interval([1.0]), "losses has shape"),
    (lambda: loss_interval([1.0, np.nan]), "losses has 1 NaN"),
    (lambda: mcnemar([[1, 2, 3], [4, 5, 6]]), "table has shape"),
    (lambda: mcnemar([[1, -2], [3, 4]]), "whole numbers >= 0"),
    (lambda: mcnemar([[1, 2.5], [3, 4]]), "whole numbers >= 0"),
    (lambda: mcnemar([1, 0], [1, 0]), "predictions of one model are missing"),
    (lambda: mcnemar([1, 0], [1, 0], [1, 0, 1]), r"predictions\[1\] has shape"),
    (lambda: cochrans_q([1, 0], [1, 0]), "at least 2"),
    (lambda: looney_f_test([1], [1], [0]), "one sample"),
    (lambda: proportion_ztest(-0.1, 0.5, 10), "accuracy_1 is -0.1"),
    (lambda: paired_permutation_test([1.0], [1.0, 2.0]), "losses_2 has shape"),
    (lambda: adjust_pvalues([0.5, 1.5]), r"in \[0, 1\]"),
    (lambda: adjust_pvalues([0.5], "tukey"), "method is 'tukey'"),
    (lambda: bootstrap_score(GaussianNB(), X4, Y4, n_splits=0), "n_splits is 0"),
    (lambda: bootstrap_score(GaussianNB(), X4, Y4, ".633"), "method is '.633'"),
    (lambda: bootstrap_score(GaussianNB(), X4, Y4[:3]), "y has shape"),
    (lambda: bootstrap_score(GaussianNB(), *problem(GaussianNB()), scoring="f1_macro"), "no mean over samples"),
    (lambda: bootstrap_score(KMeans(), X4, Y4), "neither classifier nor regressor"),
    (lambda: refit_predictions(GaussianNB(), X4, Y4, np.zeros((2, 4), int)), "at least one sample"),
    (lambda: refit_predictions(GaussianNB(), X4, Y4, np.ones((2, 3), int)), "counts has shape"),
    (lambda: loo_predict(Ridge(), X4[:1], [1.0]), "at least two samples"),
    (lambda: split_scores(Ridge(), X4, Y4, []), "splits is empty"),
    (lambda: nested_cv(SVC(), X4, Y4), "either a model with a grid"),
    (lambda: nested_cv(SVC(), X4, Y4, {"C": [1.0]}, rule="simplest"), "rule is 'simplest'"),
    (lambda: ttest_kfold(SVC(), SVC(), X4, Y4, n_splits=1), "n_splits is 1"),
    (lambda: three_way_split(X4, Y4, validation_size=0.6, test_size=0.5), "test_size is 0.5"),
    (lambda: compare_algorithms({"a": SVC()}, X4, Y4), "at least two"),
    (lambda: friedman_nemenyi([[1.0, 2.0]]), "two data sets"),
    (lambda: bias_variance(SVC(), X4, Y4, X4, Y4[:2]), "y_test has shape"),
    (lambda: BootstrapOutOfBag(0), "n_splits is 0"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()
