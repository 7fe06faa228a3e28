import itertools

import numpy as np
import pytest
from scipy import stats

from paperworks.inference import (
    accuracy_interval,
    adjust_pvalues,
    cochrans_q,
    compare_models,
    looney_f_test,
    mcnemar,
    paired_permutation_test,
    unpaired_permutation_test,
)

RNG = np.random.default_rng(0)
RIGHT = RNG.random((60, 3)) < [0.6, 0.75, 0.9]
ONES, GROUPS, WEIGHTS = np.ones(60), np.repeat(np.arange(20), 3), RNG.integers(1, 4, 60)
TESTS = [
    lambda *p, **o: mcnemar(ONES, *p[:2], exact=False, correction=False, **o),
    lambda *p, **o: cochrans_q(ONES, *p, **o),
    lambda *p, **o: looney_f_test(ONES, *p, **o),
]


# Groups and weights


@pytest.mark.parametrize("test", TESTS)
def test_each_sample_a_group_and_weights_of_one_are_the_plain_test(test):
    plain = test(*RIGHT.T)
    shuffled = np.random.default_rng(1).permutation(60)
    for options in ({"groups": np.arange(60)}, {"sample_weight": ONES}, {"groups": shuffled, "sample_weight": ONES}):
        found = test(*RIGHT.T, **options)
        np.testing.assert_allclose(found[:2], plain[:2])


@pytest.mark.parametrize("test", TESTS)
def test_copies_of_samples_add_nothing_if_they_are_one_group(test):
    copies, names = np.repeat(RIGHT, 5, axis=0), np.repeat(np.arange(60), 5)
    y = np.ones(300)
    functions = {
        "mcnemar": lambda **o: mcnemar(y, *copies.T[:2], exact=False, correction=False, **o),
        "cochrans_q": lambda **o: cochrans_q(y, *copies.T, **o),
        "looney": lambda **o: looney_f_test(y, *copies.T, **o),
    }
    ours = list(functions.values())[TESTS.index(test)]
    np.testing.assert_allclose(ours(groups=names)[:2], test(*RIGHT.T)[:2])
    assert ours().pvalue < ours(groups=names).pvalue
    np.testing.assert_allclose(ours(groups=names, sample_weight=np.full(300, 0.2))[:2], test(*RIGHT.T)[:2])


def test_the_test_of_groups_keeps_its_level_where_that_of_samples_does_not():
    rng = np.random.default_rng(2)
    plain, grouped, repeats = 0, 0, 300
    names = np.repeat(np.arange(40), 8)
    for _ in range(repeats):
        # Either model is right on whole groups, and as often as the other.
        better = np.repeat(rng.integers(0, 2, 40), 8).astype(bool)
        pair = (better | (rng.random(320) < 0.3), ~better | (rng.random(320) < 0.3))
        plain += mcnemar(np.ones(320), *pair).pvalue <= 0.05
        grouped += mcnemar(np.ones(320), *pair, groups=names).pvalue <= 0.05
    assert plain > 0.3 * repeats
    assert stats.binomtest(grouped, repeats).proportion_ci(0.999).low < 0.05


def test_few_groups_are_exact():
    y, names = np.ones(12), np.repeat(np.arange(6), 2)
    a, b = np.ones(12), np.r_[np.zeros(7), np.ones(5)]
    found = mcnemar(y, a, b, groups=names)
    assert (found.df, found.pvalue) == (0, 2 / 2**4)  # four groups differ, all to the same side
    assert found.pvalue == paired_permutation_test(a, b, groups=names).pvalue
    assert found.statistic == 7**2 / (2**2 * 3 + 1)


def test_cochrans_q_of_weights_is_that_of_its_definition():
    c = (RIGHT - RIGHT.mean(axis=1, keepdims=True)) * WEIGHTS[:, None]
    sums = np.array([c[g == GROUPS].sum(axis=0) for g in range(20)])
    expected = 2 * np.sum(sums.sum(axis=0) ** 2) / np.sum(sums**2)
    found = cochrans_q(ONES, *RIGHT.T, groups=GROUPS, sample_weight=WEIGHTS)
    assert np.isclose(found.statistic, expected)
    pair = mcnemar(ONES, *RIGHT.T[:2], exact=False, groups=GROUPS, sample_weight=WEIGHTS)
    assert np.isclose(pair.statistic, cochrans_q(ONES, *RIGHT.T[:2], groups=GROUPS, sample_weight=WEIGHTS).statistic)


def test_reports_take_groups_and_weights_and_usual_names_of_corrections():
    predictions = dict(zip("abc", RIGHT.T, strict=True))
    report = compare_models(ONES, predictions, groups=GROUPS, sample_weight=WEIGHTS, correction="FDR_BH")
    assert report.correction == "bh"
    assert report.omnibus["Cochran's Q"] == cochrans_q(ONES, *RIGHT.T, groups=GROUPS, sample_weight=WEIGHTS)
    assert np.isclose(report.scores["a"], np.average(RIGHT[:, 0], weights=WEIGHTS))
    pair = mcnemar(ONES, *RIGHT.T[:2], groups=GROUPS, sample_weight=WEIGHTS)
    assert report.pairs[0].pvalue == pair.pvalue


# Permutations


def test_signs_of_groups_flip_together():
    rng = np.random.default_rng(3)
    a, b, weights = rng.normal(size=12), rng.normal(size=12), rng.random(12)
    names = np.repeat(["x", "y", "z", "u"], 3)
    sums = [np.sum((weights * (a - b))[names == name]) for name in np.unique(names)]
    flips = np.array([np.dot(signs, sums) for signs in itertools.product([1, -1], repeat=4)])
    found = paired_permutation_test(a, b, groups=names, sample_weight=weights)
    assert found.n_permutations == 16
    assert found.pvalue == np.mean(np.abs(flips) >= abs(sum(sums)) - 1e-12)
    assert np.isclose(found.statistic, np.average(a - b, weights=weights))


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_the_unpaired_test_is_scipys(alternative):
    rng = np.random.default_rng(0)
    a, b = rng.random(5), rng.random(7) + 0.2
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), alternative=alternative, n_resamples=np.inf
    )
    ours = unpaired_permutation_test(a, b, alternative=alternative)
    assert np.isclose(ours.pvalue, theirs.pvalue)
    assert np.isclose(ours.statistic, theirs.statistic)
    assert ours.n_permutations == 792


def test_random_exchanges_come_near_the_normal_p():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60) + 0.35, rng.normal(size=80)
    found = unpaired_permutation_test(a, b, random_state=0)
    assert found == unpaired_permutation_test(a, b, random_state=0)
    both = np.concatenate([a, b])
    deviation = both.std(ddof=1) * np.sqrt(1 / 60 + 1 / 80)
    assert abs(found.pvalue - 2 * stats.norm.sf(abs(a.mean() - b.mean()) / deviation)) < 0.01
    assert found.n_permutations == 10_000


def test_groups_and_weights_are_exchanged_whole():
    rng = np.random.default_rng(4)
    a, b, weights = rng.normal(size=4), rng.normal(size=6) + 1, rng.random(10)
    names = np.array([0, 0, 1, 2, 3, 3, 4, 4, 5, 5])
    losses = np.concatenate([a, b])

    def difference(chosen):
        inside = np.isin(names, chosen)
        return np.average(losses[inside], weights=weights[inside]) - np.average(
            losses[~inside], weights=weights[~inside]
        )

    everything = [difference(chosen) for chosen in itertools.combinations(range(6), 3)]
    found = unpaired_permutation_test(a, b, groups=names, sample_weight=weights)
    assert found.n_permutations == 20
    assert found.pvalue == np.mean(np.abs(everything) >= abs(difference([0, 1, 2])) - 1e-12)
    assert np.isclose(found.statistic, difference([0, 1, 2]))


# Corrections


@pytest.mark.parametrize(
    ("spelling", "own"),
    [
        ("fdr_bh", "bh"),
        ("BH", "bh"),
        ("fdr", "bh"),
        ("Benjamini-Hochberg", "bh"),
        ("fdr_by", "by"),
        ("BY", "by"),
        ("simes-hochberg", "hochberg"),
        ("Holm", "holm"),
        ("h", "holm"),
        ("b", "bonferroni"),
        ("Bonferroni", "bonferroni"),
        ("s", "sidak"),
        ("Šidák", "sidak"),
    ],
)
def test_corrections_go_by_their_usual_names(spelling, own):
    p = [0.01, 0.2, 0.03, 0.04]
    np.testing.assert_array_equal(adjust_pvalues(p, spelling), adjust_pvalues(p, own))


def test_spellings_are_those_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = [0.01, 0.2, 0.03, 0.04]
    for name in ("bonferroni", "sidak", "holm", "simes-hochberg", "fdr_bh", "fdr_by"):
        np.testing.assert_allclose(adjust_pvalues(p, name), multitest.multipletests(p, method=name)[1])


@pytest.mark.parametrize("method", ["bonferroni", "sidak", "holm", "hochberg", "bh", "by"])
def test_nothing_and_nan_are_adjusted_as_asked(method):
    assert adjust_pvalues([], method).shape == (0,)
    p = np.array([0.01, np.nan, 0.03])
    with pytest.raises(ValueError, match="1 NaN"):
        adjust_pvalues(p, method)
    omitted = adjust_pvalues(p, method, nan_policy="omit")
    assert np.isnan(omitted[1])
    np.testing.assert_array_equal(omitted[[0, 2]], adjust_pvalues(p[[0, 2]], method))
    assert np.all(np.isnan(adjust_pvalues(p, method, nan_policy="propagate")))
    assert np.all(np.isnan(adjust_pvalues([np.nan] * 2, method, nan_policy="omit")))
    np.testing.assert_array_equal(adjust_pvalues([0.5], method, nan_policy="propagate"), [0.5])


# Values that other lists have otherwise


def test_mcnemars_statistic_is_zero_where_both_err_equally_often():
    # The corrected statistic stands for the two-sided binomial p, which is 1 at b = c, whatever b + c.
    for b in (1, 6, 40):
        assert mcnemar([[0, b], [b, 0]], exact=False) == (0.0, 1.0, 1)
        assert stats.binomtest(b, 2 * b).pvalue == 1


def test_looneys_p_is_looked_up_with_the_degrees_of_freedom_that_divide():
    n, between = 60, 60 * np.var(RIGHT.mean(axis=0)) * 3
    rows = RIGHT.astype(float)
    interaction = np.sum((rows - rows.mean(0) - rows.mean(1, keepdims=True) + rows.mean()) ** 2)
    for df2, m in (("interaction", 2 * (n - 1)), ("samples", 2 * n)):
        # With 2 degrees of freedom above, F's upper tail is (1 + 2 F / m)^(-m / 2), and 2 F / m is SSA / SSAB.
        found = looney_f_test(ONES, *RIGHT.T, df2=df2)
        assert np.isclose(found.pvalue, (1 + between / interaction) ** (-m / 2))
        assert found.df == (2, m)


def test_the_interval_of_an_accuracy_is_wilsons():
    assert accuracy_interval(0.96, 50) == accuracy_interval(0.96, 50, "wilson")
    assert accuracy_interval(1.0, 20).low == pytest.approx(1 / (1 + stats.norm.isf(0.025) ** 2 / 20))


# Bad input

MIXED = np.array([0, "1", 1], dtype=object)
BAD = [
    (lambda: mcnemar([0, 1, 1], ["0", "1", "1"], [0, 1, 1]), r"predictions\[0\] has text for labels, y_true numbers"),
    (lambda: cochrans_q(["a", "b"], [0, 1], ["a", "b"]), r"predictions\[0\] has numbers"),
    (lambda: looney_f_test([0, 1, 1], MIXED, [0, 1, 1]), r"predictions\[0\] mixes numbers and text"),
    (lambda: compare_models(MIXED, {"a": MIXED, "b": MIXED}), "y_true mixes numbers and text"),
    (lambda: cochrans_q(["a", "b"], [b"a", b"b"], ["a", "b"]), r"predictions\[0\] has bytes"),
    (lambda: mcnemar([[1, 2], [3, 4]], groups=[1, 2]), "labels with both predictions"),
    (lambda: mcnemar([1, 1], [1, 0], [0, 1], groups=[1, 2], exact="mid-p"), "exact is 'mid-p'"),
    (lambda: mcnemar(np.ones(30), np.ones(30), np.zeros(30), groups=range(30), exact=True), "30 groups that differ"),
    (lambda: looney_f_test([1, 1], [1, 0], [0, 1], groups=[1, 1]), "groups is of one"),
    (lambda: cochrans_q([1, 1], [1, 0], [0, 1], sample_weight=[0, 0]), "zeros alone"),
    (lambda: paired_permutation_test([1.0, 2.0], [1.0, 0.0], groups=[1]), "groups has shape"),
    (lambda: unpaired_permutation_test([1.0, 2.0], [1.0, 0.0], groups=[1, 2, 2, 3]), "1 in both sets"),
    (lambda: unpaired_permutation_test([1.0], [1.0], sample_weight=[0, 1]), "zero on all of one set"),
    (lambda: unpaired_permutation_test([], [1.0]), "sample_1 has shape"),
    (lambda: adjust_pvalues([0.5], nan_policy="drop"), "nan_policy is 'drop'"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()


def test_truth_values_are_numbers_and_text_comes_in_any_array():
    assert mcnemar([0.0, 1.0], [False, True], [0, 1]).pvalue == 1
    assert mcnemar(["a", "b"], np.array(["a", "b"], dtype=object), ["a", "a"]).pvalue == 1


def test_probabilities_in_place_of_labels_are_refused():
    y, labels, probabilities = [0, 1, 1], [0, 1, 0], [0.2, 0.9, 0.4]
    for given in ([probabilities, labels], [labels, probabilities]):
        with pytest.raises(ValueError, match="for whole labels; it takes labels, not probabilities"):
            mcnemar(y, *given)
    with pytest.raises(ValueError, match=r"predictions\[1\] has 0\.2 for whole labels"):
        cochrans_q(y, labels, probabilities)
    assert mcnemar([0.5, 1.5], [0.5, 0.5], [1.5, 1.5]).pvalue == 1.0  # labels need not be whole
    assert mcnemar(y, [0.0, 1.0, 1.0], labels).pvalue == 1.0
