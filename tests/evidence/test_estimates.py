"""Intervals cover the truth as often as they say, and equal those of SciPy where it has them."""

import math

import numpy as np
import pytest
from scipy import stats

from paperworks.evidence import estimates
from paperworks.evidence.estimates import (
    bootstrap,
    difference,
    every,
    exact,
    greatest,
    least,
    magnitude,
    mean,
    median,
    normal,
    proportion,
    ratio,
)


def test_the_interval_of_a_mean_is_students():
    values = [1.0, 4.0, 2.5, 3.0]
    for level in (0.9, 0.95, 0.9875):
        expected = stats.t.interval(level, 3, stats.tmean(values), stats.sem(values))
        assert mean(values).interval(level) == pytest.approx(expected)


def test_one_value_decides_nothing_that_is_random():
    for estimate in (mean([1.0]), median([1.0]), bootstrap(np.mean, [1.0])):
        assert estimate.interval(0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize("n", [6, 9, 15, 40])
@pytest.mark.parametrize("level", [0.95, 0.975])
def test_the_interval_of_a_median_is_that_of_a_quantile_test(n, level):
    values = np.random.default_rng(n).normal(size=n).tolist()
    found = median(values).interval(level)
    expected = stats.quantile_test(values, p=0.5).confidence_interval(level)
    if math.isfinite(expected.low):
        assert found == (expected.low, expected.high)
    else:
        assert found == (-math.inf, math.inf)


def test_a_proportion_has_the_exact_interval():
    for k, n in ((0, 20), (7, 20), (20, 20), (1, 1)):
        expected = stats.binomtest(k, n).proportion_ci(0.95)
        assert proportion(k, n).interval(0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_bootstrap_covers_a_mean_about_as_often_as_students_t():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(60):
        low, high = bootstrap(np.mean, rng.exponential(size=40)).interval(0.95)
        hits += low <= 1 <= high
    assert 50 <= hits <= 60


def test_a_bootstrap_draws_pairs_together_and_the_same_ones_each_time():
    a = np.random.default_rng(1).normal(5, 1, 30)
    found = bootstrap(lambda x, y: float((x / y).mean()), a, 2 * a)
    assert found.interval(0.95) == pytest.approx((0.5, 0.5))
    noisy = bootstrap(np.mean, a)
    assert noisy.interval(0.95) == noisy.interval(0.95)


def test_ratios_and_differences_are_paired():
    ours, theirs = [1.0, 20.0, 300.0] * 4, [2.0, 40.0, 600.0] * 4
    theirs[0] = 2.5  # without one other ratio the rounds could not have been timed
    assert ratio(ours, theirs).value == 0.5
    assert ratio(ours, theirs).interval(0.95) == (0.5, 0.5)
    assert difference([2.0, 3.0, 5.0], [1.0, 1.0, 1.0]).value == pytest.approx(7 / 3)
    with pytest.raises(ValueError, match="ours has 1 values and theirs 2"):
        ratio([1.0], [1.0, 2.0])


def test_what_has_to_hold_for_every_seed_ranges_over_them():
    assert every([0.1, 0.3, 0.2]).interval(0.99) == (0.1, 0.3)
    assert every([True, False]).value is False
    assert every([True, False]).interval(0.95) == (0.0, 1.0)
    assert every([0.0, 0.0]).interval(0.95) == (0.0, 0.0), "the same each time, and rightly so"


def test_the_greatest_of_several_holds_for_all_at_once():
    parts = [normal(1.0, 0.1), normal(1.05, 0.2)]
    wide = [part.interval(0.975) for part in parts]
    assert greatest(parts).interval(0.95) == pytest.approx((max(a for a, _ in wide), max(b for _, b in wide)))
    assert least(parts).interval(0.95) == pytest.approx((min(a for a, _ in wide), min(b for _, b in wide)))
    assert greatest(parts).value == 1.05
    assert greatest([exact(1.0), exact(2.0)]).method == "exact"
    with pytest.raises(ValueError, match="at least one"):
        least([])


def test_a_magnitude_turns_the_interval_up():
    assert magnitude(normal(-1.0, 0.1)).interval(0.95) == pytest.approx((0.804, 1.196), abs=1e-3)
    assert magnitude(normal(0.1, 1.0)).interval(0.95)[0] == 0.0
    assert magnitude(exact(-2.0)).value == 2.0


def test_a_known_standard_error():
    assert normal(1.0, 0.1).interval(0.9) == pytest.approx(stats.norm.interval(0.9, 1.0, 0.1))
    with pytest.raises(ValueError, match="standard_error"):
        normal(1.0, -0.1)


@pytest.mark.parametrize("make", [mean, median, lambda values: bootstrap(np.mean, values)])
def test_values_that_chance_should_make_differ_have_to(make):
    with pytest.raises(ValueError, match=r"3 times 1\.0, where chance should make them differ"):
        make([1.0, 1.0, 1.0])
    make([1.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mean([]), "at least one"),
        (lambda: proportion(3, 2), "successes is 3 of 2 trials"),
        (lambda: proportion(0, 0), "at least one trial"),
        (lambda: bootstrap(np.mean, [1.0], [1.0, 2.0]), "one length"),
        (lambda: exact("three"), "value is 'three'"),
    ],
)
def test_bad_input_is_refused_in_words(make, message, untyped):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_the_table_of_the_module_names_every_kind():
    for name in ("exact", "mean", "median", "ratio", "difference", "every", "proportion", "bootstrap", "normal"):
        assert f"`{name}`" in estimates.__doc__
