import numpy as np
import pytest
from scipy import stats

from paperworks.robustness import (
    change_test,
    daily_samples,
    detection_rate,
    holm,
    ks_test,
    ljung_box,
    mmd_test,
    zscore_outliers,
)


def normal(n=60, f=3, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, f)) + shift


def test_features_are_tested_as_by_scipy():
    x, y = normal(), normal(80, seed=1, shift=[0, 0.4, 2])
    result = ks_test(x, y)
    for k in range(3):
        expected = stats.ks_2samp(x[:, k], y[:, k])
        assert (result.statistic[k], result.pvalue[k]) == (expected.statistic, expected.pvalue)
    changes = change_test(x, y)
    expected = stats.ks_2samp(np.abs(np.diff(x[:, 1])), np.abs(np.diff(y[:, 1])))
    assert changes.pvalue[1] == expected.pvalue


def test_holms_correction_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(20):
        pvalues = np.random.default_rng(seed).uniform(0, 0.3, 9)
        np.testing.assert_allclose(holm(pvalues), multitest.multipletests(pvalues, method="holm")[1])


def test_the_discrepancy_by_its_definition():
    x, y = normal(7), normal(9, seed=1, shift=1.0)
    h = 1.3

    def kernel(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * h * h))

    within = [np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    result = mmd_test(x, y, 50, bandwidth=h)
    assert result.statistic == pytest.approx(sum(within) - 2 * across)
    assert len(result.null) == 50
    assert result.pvalue == (1 + (result.null >= result.statistic).sum()) / 51
    both = np.vstack([x, y])
    distances = np.sqrt(((both[:, None] - both) ** 2).sum(2))[np.triu_indices(16, 1)]
    assert mmd_test(x, y, 50).statistic == mmd_test(x, y, 50, float(np.sqrt(np.median(distances**2)))).statistic


def test_permutations_keep_the_level_and_find_a_shift():
    p = [mmd_test(normal(25, seed=k), normal(25, seed=1000 + k), 99, random_state=k).pvalue for k in range(300)]
    assert 0.02 <= detection_rate(p) <= 0.085  # three standard deviations around 0.05
    assert stats.kstest(p, "uniform").pvalue > 0.001
    power = [
        detection_rate(
            lambda k, s=shift: mmd_test(normal(25, seed=k), normal(25, seed=999 + k, shift=s), 99).pvalue, n_repeats=40
        )
        for shift in (0.2, 0.5, 1.0)
    ]
    assert power[0] < power[1] < power[2]
    assert power[2] > 0.9


def test_permuted_statistics_have_mean_zero():
    null = mmd_test(normal(20), normal(30, seed=1), 4000).null
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(4000)


def test_days_are_rows_and_none_is_taken_twice():
    series = np.arange(24 * 10 * 2.0 + 6).reshape(-1, 2)
    assert daily_samples(series).shape == (10, 48)
    assert daily_samples(series)[3, 0] == series[72, 0]
    some = daily_samples(series, 6, random_state=2)
    assert len(np.unique(some[:, 0])) == 6
    assert np.isin(some[:, 0], daily_samples(series)[:, 0]).all()


@pytest.mark.parametrize("window", [None, 10])
def test_outliers_by_their_definition(window):
    series = normal(80, 2) + 50
    series[40, 1] += 8
    found = zscore_outliers(series, window, threshold=2.0, warm_up=5)
    for t in range(5, 80):
        before = series[max(0, t - (window or t)) : t]
        expected = np.abs(series[t] - before.mean(0)) > 2 * before.std(0)
        assert np.array_equal(found[t], expected), t
    assert found[40, 1]
    assert not found[:5].any()


def test_portmanteau_is_statsmodels():
    diagnostic = pytest.importorskip("statsmodels.stats.diagnostic")
    x = normal(200, 2).cumsum(0) * [0.01, 1] + normal(200, 2, seed=1)
    result = ljung_box(x, 10)
    for k in range(2):
        table = diagnostic.acorr_ljungbox(x[:, k], lags=[10])
        assert result.statistic[k] == pytest.approx(float(table["lb_stat"].iloc[0]))
        assert result.pvalue[k] == pytest.approx(float(table["lb_pvalue"].iloc[0]))
    assert np.isfinite(ljung_box(np.ones((50, 1))).statistic).all()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ks_test(normal(), normal(f=2)), "x has shape"),
        (lambda: mmd_test(normal(1), normal()), "x has shape"),
        (lambda: mmd_test(normal(), normal(), 0), "permutations is 0"),
        (lambda: mmd_test(normal(), normal(), 9, bandwidth=0), "bandwidth is 0"),
        (lambda: daily_samples(normal(48), 3), "days is 3"),
        (lambda: zscore_outliers(normal(), threshold=0), "threshold is 0"),
        (lambda: zscore_outliers(normal(), window=1), "window is 1"),
        (lambda: ljung_box(normal(10), 10), "lags is 10"),
        (lambda: detection_rate([]), "pvalues is empty"),
        (lambda: detection_rate([0.1], alpha=0), "alpha is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
