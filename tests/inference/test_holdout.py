"""Adaptive data analysis: mechanisms against their definitions, bounds against their formulas, and bad input."""

import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from paperworks.inference import (
    BudgetExhausted,
    EffectiveRounds,
    EmpiricalAnswers,
    Ladder,
    MaxInformation,
    NoisyAnswers,
    PrivateMultiplicativeWeights,
    ReusableHoldout,
    ReusableHoldoutSelector,
    SampleSplit,
    SparseValidate,
    SparseVector,
    agreeing_features,
    approx_dp_from_zcdp,
    freedman_regression,
    generalization_bound,
    max_information,
    required_n,
    sign_vote,
    sign_vote_accuracy,
    thresholdout_scorer,
)
from paperworks.inference.holdout.sparse import scan


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_empirical_and_split_answers_are_means():
    data = rng_of().random(10)
    values = rng_of(1).random((4, 10))
    np.testing.assert_allclose(EmpiricalAnswers(data).answer_all(values), values.mean(axis=1))
    split = SampleSplit(data, m=3)
    cuts = [0, 3, 6, 10]
    expected = [values[i, cuts[i] : cuts[i + 1]].mean() for i in range(3)]
    np.testing.assert_allclose(split.answer_all(values[:3]), expected)
    with pytest.raises(BudgetExhausted, match="m = 3"):
        split.answer(lambda x: x)


@pytest.mark.parametrize(("noise", "deviation"), [("gaussian", 0.2), ("laplace", 0.2 * math.sqrt(2))])
def test_noisy_answers_have_their_noise(noise, deviation):
    oracle = NoisyAnswers(np.zeros(50), 0.2, noise=noise, random_state=rng_of())
    answers = oracle.answer_all(np.zeros((20_000, 50)))
    assert np.std(answers) == pytest.approx(deviation, rel=0.03)
    assert oracle.answered == 20_000


def test_noise_composes():
    gaussian = NoisyAnswers(np.zeros(100), 0.1, random_state=rng_of())
    gaussian.answer_all(np.zeros((8, 100)))
    assert gaussian.privacy()["rho"] == pytest.approx(8 * (0.01 / 0.1) ** 2 / 2)
    laplace = NoisyAnswers(np.zeros(100), 0.1, noise="laplace", random_state=rng_of())
    laplace.answer_all(np.zeros((8, 100)))
    assert laplace.privacy() == {"rho": pytest.approx(0.04), "epsilon": pytest.approx(0.8), "delta": 0.0}
    laplace.answer_all(np.zeros((2000, 100)))
    assert laplace.privacy()["epsilon"] < 2008 * 0.1


def one_by_one(values, thresholds, budget):
    """Compare each value with the threshold that is current, the plain way."""
    exceeded, drawn = [], iter(thresholds)
    current = next(drawn)
    for value in values:
        if budget < 1:
            break
        exceeded.append(value > current)
        if exceeded[-1]:
            budget, current = budget - 1, next(drawn)
    return exceeded, current


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 200), budget=st.integers(0, 30))
def test_scanning_in_blocks_is_scanning_one_by_one(seed, m, budget):
    rng = rng_of(seed)
    values, thresholds = rng.random(m), rng.uniform(0.6, 1.1, size=m + 2)
    drawn = iter(thresholds)
    found = scan(values, next(drawn), lambda: next(drawn), budget)
    exceeded, current = one_by_one(values, thresholds, budget)
    assert found.looked_at == len(exceeded)
    np.testing.assert_array_equal(found.exceeded[: found.looked_at], exceeded)
    assert not found.exceeded[found.looked_at :].any()
    assert found.threshold == current


def test_thresholdout_answers_from_training_until_the_samples_differ():
    reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-6, budget=2, value_range=None, random_state=rng_of())
    answers = reusable.query_means([0.5, 0.9, 0.4], [0.55, 0.6, 0.41])
    np.testing.assert_allclose(answers, [0.5, 0.6, 0.4], atol=1e-4)
    np.testing.assert_array_equal(reusable.transcript.exceeded, [False, True, False])
    assert answers[0] == 0.5
    assert reusable.remaining_budget == 1
    assert reusable.query_means([0.0], [1.0])[0] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(BudgetExhausted, match="budget of 2"):
        reusable.query_means([0.5], [0.5])
    assert len(reusable.transcript.answers) == 4


def test_an_exhausted_budget_answers_nan_where_asked_to():
    reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-6, budget=1, exhausted="nan", random_state=rng_of())
    answers = reusable.query_means([0.0, 0.0, 0.5], [0.0, 1.0, 0.5])
    np.testing.assert_array_equal(np.isnan(answers), [False, False, True])


def useless_models(rng: np.random.Generator, n: int, m: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples (m, n) of training and holdout useless models get right; they know the training data."""
    return rng.random((m, n)) < 0.8, rng.random((m, n)) < 0.5


@pytest.mark.parametrize("n", [190, 300, 5000])
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_the_default_is_no_further_from_the_holdout_than_a_union_bound(n, noise):
    union = generalization_bound("hoeffding", n=n, m=200)
    train, holdout = useless_models(rng_of(n), n)
    with warnings.catch_warnings(action="error"):
        reusable = ReusableHoldout(np.zeros(n), np.zeros(n), m=200, noise=noise)
    answers = reusable.query_values(train, holdout)
    assert reusable.threshold == pytest.approx(union / 2)
    assert np.abs(answers - holdout.mean(axis=1)).max() <= union
    assert answers.max() <= holdout.mean(axis=1).max() + union / 4  # of 200 useless models, .80 in training


def test_settings_that_are_looser_than_a_union_bound_are_warned_of():
    sample = np.zeros(200)
    with pytest.warns(UserWarning, match=r"plain union bound over m = 100 questions .* is 0.144"):
        ReusableHoldout(sample, sample, threshold=4 / math.sqrt(200), noise_scale=1 / math.sqrt(200))
    with warnings.catch_warnings(action="error"):
        ReusableHoldout(sample, sample, threshold=0.05, noise_scale=1e-4)
        ReusableHoldout(threshold=0.9, noise_scale=0.9)  # nothing is known of the holdout
        ReusableHoldout.from_tolerance(0.2, 0.05, m=100, n=10**7, train=sample, holdout=sample)


def test_the_ladder_moves_for_improvements_only():
    right = np.zeros((5, 100))
    for row, count in zip(right, (50, 55, 53, 80, 80), strict=True):
        row[:count] = 1  # each of these is right where those with fewer are
    ladder = Ladder(np.zeros(100))
    np.testing.assert_allclose(ladder.answer_all(right), [0.5, 0.55, 0.55, 0.8, 0.8])
    coarse = Ladder(np.zeros(100), step=0.1)
    np.testing.assert_allclose(coarse.answer_all(right), [0.5, 0.5, 0.5, 0.8, 0.8])
    shifted = np.roll(right[1], 50)  # better by 5, right on other samples: no more than one standard error
    assert Ladder(np.zeros(100)).answer_all(np.stack([right[0], shifted]))[1] == 0.5


def test_the_ladder_overfits_less_than_the_plain_holdout():
    rng, plain, shown = rng_of(), [], []
    for _ in range(30):
        holdout = useless_models(rng, 200)[1]
        plain.append(holdout.mean(axis=1).max() - 0.5)
        shown.append(Ladder(np.zeros(200)).answer_all(holdout)[-1] - 0.5)
    assert np.mean(shown) < 0.9 * np.mean(plain)


@pytest.mark.parametrize(("noise", "rate"), [("laplace", None), ("gaussian", 0.3085)])
def test_comparison_noise_decides_near_the_threshold(noise, rate):
    reusable = ReusableHoldout(threshold=0.1, noise_scale=0.02, noise=noise, random_state=rng_of())
    reusable.query_means(np.zeros(20_000), np.full(20_000, 0.09))
    share = reusable.transcript.exceeded.mean()
    if rate is None:  # Laplace noise of scales 0.08 and, drawn anew after each exceedance only, 0.04
        quantiles = (np.arange(100_000) + 0.5) / 100_000
        chances = stats.laplace.cdf(0.09 - 0.1 - stats.laplace.ppf(quantiles, scale=0.04), scale=0.08)
        rate = 1 / np.mean(1 / chances)  # a threshold stays for as long as it takes to exceed it
    assert share == pytest.approx(rate, abs=0.025)


def test_queries_and_values_agree():
    train, holdout = rng_of().random(100), rng_of(1).random(100)
    by_query = ReusableHoldout(train, holdout, random_state=rng_of(2)).query(lambda x: x**2)
    by_values = ReusableHoldout(train, holdout, random_state=rng_of(2)).query_values([train**2], [holdout**2])[0]
    assert by_query == by_values == np.mean(train**2)


def test_privacy_of_thresholdout():
    reusable = ReusableHoldout(threshold=0.1, noise_scale=0.01, budget=1000)
    assert reusable.privacy(10_000) == pytest.approx(20.0)
    assert reusable.privacy(10_000, 1e-6) == pytest.approx(approx_dp_from_zcdp(0.2, 1e-6))


def test_sparse_vector_finds_what_is_above_and_stops():
    data = np.arange(2000) / 2000
    oracle = SparseVector(data, 0.3, epsilon=20.0, c=2, numeric=True, random_state=rng_of())
    values = np.stack([data > 0.9, data > 0.5, data > 0.8, data > 0.1]).astype(float)
    answers = oracle.answer_all(values)
    np.testing.assert_array_equal(np.isnan(answers), [True, False, True, False])
    np.testing.assert_allclose(answers[[1, 3]], values.mean(axis=1)[[1, 3]], atol=0.05)
    with pytest.raises(BudgetExhausted, match="c = 2"):
        oracle.answer(lambda x: x)


def test_sparse_validate_stops_after_its_budget():
    validate = SparseValidate(np.arange(10), m=5, budget=2)
    assert [validate.ask(lambda x, k=k: x.max() > k) for k in (10, 8, 9, 3)] == [False, True, False, True]
    with pytest.raises(BudgetExhausted, match="4 of m = 5"):
        validate.ask(lambda x: True)
    assert SparseValidate([0], m=10, budget=2).failure_bound(1e-6) == pytest.approx(10 * 1e-6 * 11**2)


def test_effective_rounds_move_on_where_a_part_is_overfitted():
    data = np.arange(100)
    oracle = EffectiveRounds(data, r=2, tau=0.1)
    overfitted = (data < 25).astype(float)  # 1 on the first part, 0 elsewhere
    assert oracle.answer(np.full(100, 0.5)) == 0.5
    assert oracle.answer(overfitted) == 0.0
    assert oracle.round == 1
    with pytest.raises(BudgetExhausted, match="r = 2"):
        oracle.answer((data < 50).astype(float))


def test_multiplicative_weights_learn_the_distribution():
    rng = rng_of()
    samples = rng.binomial(15, 0.3, size=20_000)
    pmw = PrivateMultiplicativeWeights(
        samples, 16, threshold=0.03, comparison_scale=1e-3, noise_scale=1e-3, lr=0.05, random_state=rng
    )
    queries = rng.integers(0, 2, (3000, 16)).astype(float)
    exact = queries @ (np.bincount(samples, minlength=16) / 20_000)
    errors = np.abs(pmw.answer_all(queries) - exact)
    assert errors.max() < 0.05
    assert 0 < pmw.updates <= pmw.max_updates
    assert pmw.hypothesis.sum() == pytest.approx(1)
    assert np.abs(queries @ pmw.hypothesis - exact).mean() < np.abs(queries.mean(axis=1) - exact).mean() / 3


def test_one_update_is_multiplicative():
    pmw = PrivateMultiplicativeWeights(
        np.zeros(1000, dtype=int), 4, threshold=0.1, comparison_scale=1e-9, noise_scale=1e-9, lr=0.5
    )
    pmw.answer([1.0, 0.0, 0.0, 0.5])
    expected = np.exp(-0.5 * np.array([0.0, 1.0, 1.0, 0.5]))
    np.testing.assert_allclose(pmw.hypothesis, expected / expected.sum())


def test_multiplicative_weights_stop_after_their_updates():
    pmw = PrivateMultiplicativeWeights(
        np.zeros(100, dtype=int), 4, threshold=0.1, comparison_scale=1e-9, noise_scale=1e-9, max_updates=1
    )
    pmw.answer([1.0, 0, 0, 0])
    with pytest.raises(BudgetExhausted, match="max_updates = 1"):
        pmw.answer([1.0, 0, 0, 0])


def test_multiplicative_weights_for_a_budget_spend_it_and_keep_their_promise():
    samples = rng_of().integers(0, 4, 200_000)
    pmw = PrivateMultiplicativeWeights.for_privacy(samples, 16, alpha=0.3, rho=0.5, m=500, random_state=rng_of())
    assert pmw.privacy()["rho"] == pytest.approx(0.5)
    queries = rng_of(1).integers(0, 2, (500, 16)).astype(float)
    exact = queries @ (np.bincount(samples, minlength=16) / len(samples))
    assert np.abs(pmw.answer_all(queries) - exact).max() <= 0.3
    with pytest.raises(ValueError, match="samples are 100"):
        PrivateMultiplicativeWeights.for_privacy(samples[:100], 16, alpha=0.3, rho=0.5, m=500)


@pytest.mark.parametrize("method", ["hoeffding", "splitting", "pure", "approximate", "sparse-validate"])
def test_sample_sizes_invert_the_bounds(method):
    n = required_n(method, 0.05, m=7, beta=0.01, budget=3)
    options = {"m": 7, "beta": 0.01, "budget": 3, "epsilon": 1e-12}
    assert generalization_bound(method, n=n, **options) <= 0.05 < generalization_bound(method, n=n - 1, **options)


def test_known_bounds():
    assert generalization_bound("expectation", epsilon=0.1, delta=0.01) == pytest.approx(math.expm1(0.1) + 0.01)
    assert generalization_bound("pure", epsilon=0.2, n=10**9) == 0.4
    tau = generalization_bound("approximate", epsilon=1e-9, delta=1e-30, n=10**9)
    assert pytest.approx(math.exp(-4 * math.log(8 / 0.05) / tau), rel=1e-6) == 1e-30
    assert generalization_bound("monitor", epsilon=0.05, delta=1e-4, n=10**5) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="takes 3041 or more"):
        generalization_bound("monitor", epsilon=0.05, delta=1e-4, n=100)


def test_max_information():
    assert max_information("description", bits=3) == MaxInformation(3)
    assert max_information("description", bits=3, beta=0.25) == MaxInformation(5, 0.25)
    assert max_information("pure", epsilon=0.1, n=10).bits == pytest.approx(math.log2(math.e))
    assert (MaxInformation(1, 0.1) + MaxInformation(2, 0.2)).failure(0.01) == pytest.approx(8 * 0.01 + 0.3)


def test_the_sign_vote_overfits_as_much_as_it_should():
    rng, found = rng_of(), []
    for _ in range(20):
        X, y = rng.standard_normal((400, 200)), rng.choice([-1.0, 1.0], 400)
        found.append(np.mean(sign_vote(X.T @ y, X) == y))
    assert np.mean(found) == pytest.approx(sign_vote_accuracy(200, 400), abs=0.02)


def test_screening_makes_noise_look_significant():
    rng = rng_of()
    results = [freedman_regression(rng.normal(size=(100, 50)), rng.normal(size=100)) for _ in range(20)]
    assert np.mean([found.pvalue < 0.05 for found in results]) > 0.5
    assert np.mean([found.significant for found in results]) > 2


def test_regression_statistics_are_those_of_one_feature():
    x, y = rng_of().normal(size=(2, 30))
    found = freedman_regression(x[:, None], y, alpha=0.999999)
    known = stats.linregress(x, y)
    assert found.r_squared == pytest.approx(known.rvalue**2)
    assert found.pvalue == pytest.approx(known.pvalue)


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc", None])
def test_a_search_is_scored_through_the_reusable_holdout(scoring):
    rng = rng_of()
    X, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
    folds = PredefinedSplit(np.repeat([-1, 0], 150))
    reusable = ReusableHoldout(X[:150], X[150:], random_state=rng)
    scorer = thresholdout_scorer(reusable, X[:150], y[:150], scoring)
    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0, 10.0]}, scoring=scorer, cv=folds, refit=False)
    search.fit(X, y)
    np.testing.assert_array_equal(reusable.transcript.answers, search.cv_results_["mean_test_score"])


def test_the_selector_finds_features_with_a_signal():
    rng = rng_of()
    X, y = rng.normal(size=(2000, 40)), rng.choice(["no", "yes"], 2000)
    X[:, :3] += 0.4 * (y == "yes")[:, None]
    found = ReusableHoldoutSelector(k=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(found.get_support(indices=True), [0, 1, 2])
    assert found.transform(X).shape == (2000, 3)


def test_a_selector_is_pickled_without_its_holdout():
    rng = rng_of()
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 2, 200)
    fitted = ReusableHoldoutSelector(k=2).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    assert not hasattr(again, "reusable_holdout_")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmpiricalAnswers([]), "data"),
        (lambda: EmpiricalAnswers([0.5]).answer(lambda x: x + 1), "go from 1.5 to 1.5"),
        (lambda: EmpiricalAnswers([0.5]).answer([math.nan]), "finite values"),
        (lambda: EmpiricalAnswers([0.5]).answer([0.1, 0.2]), "shape"),
        (lambda: EmpiricalAnswers([0.5], value_range=(1.0, 0.0)), "value_range"),
        (lambda: SampleSplit([0.5], m=2), "m is 2"),
        (lambda: NoisyAnswers([0.5]), "noise_scale is None"),
        (lambda: NoisyAnswers([0.5], 0.0), "noise_scale"),
        (lambda: NoisyAnswers([0.5], 0.1, value_range=None).privacy(), "value_range"),
        (lambda: SparseVector([0.5], 0.1, epsilon=0.0, c=1), "epsilon"),
        (lambda: ReusableHoldout(), "without a holdout"),
        (lambda: ReusableHoldout(threshold=0.0, noise_scale=0.1), "threshold"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=-1.0), "noise_scale"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=0.1, budget=-1), "budget"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=0.1).query(lambda x: x), "not given"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=0.1).query_means([0.1], [0.1, 0.2]), "shapes"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=0.1).query_means([math.nan], [0.1]), "finite"),
        (lambda: ReusableHoldout(threshold=0.1, noise_scale=0.1).privacy(10), "budget"),
        (lambda: ReusableHoldout.from_tolerance(0.1, 0.05, 100, 1000), "n is 1000"),
        (lambda: EffectiveRounds(np.zeros(4), r=3, tau=0.1), "r is 3"),
        (lambda: NoisyAnswers(np.zeros(9), 0.1, granularity=0.0), "granularity"),
        (lambda: NoisyAnswers(np.zeros(9), 0.1, granularity=1e-17), "granularity is 1e-17"),
        (lambda: NoisyAnswers([0.0], 0.1, value_range=None).answer([1e12]), "granularity"),
        (lambda: ReusableHoldout(threshold=1, noise_scale=1e-9, value_range=None).query_means([0.0], [1e9]), "granul"),
        (lambda: ReusableHoldout(np.zeros(9), np.zeros(9), m=0), "m is 0"),
        (lambda: Ladder([0.5], step=0.0), "step"),
        (lambda: SparseValidate([0.5], m=3, budget=1).differs(lambda x: x, 0.1, -1.0), "tau"),
        (lambda: generalization_bound("pure", n=10), "epsilon is None"),
        (lambda: generalization_bound("hoeffding"), "n is None"),
        (lambda: required_n("hoeffding", 0.0), "tau"),
        (lambda: max_information("product", epsilon=0.1, n=10), "beta"),
        (lambda: agreeing_features([0.1], [0.1, 0.2], 1, 0.0), "shapes"),
        (lambda: sign_vote([0.1], [[0.1, 0.2]]), "shapes"),
        (lambda: freedman_regression(np.zeros((3, 3)), np.zeros(3)), "shapes"),
        (
            lambda: PrivateMultiplicativeWeights([4], 4, threshold=0.1, comparison_scale=0.1, noise_scale=0.1),
            "from 0 to 3",
        ),
        (
            lambda: PrivateMultiplicativeWeights([0.5], 4, threshold=0.1, comparison_scale=0.1, noise_scale=0.1),
            "indices",
        ),
        (lambda: ReusableHoldoutSelector(threshold=0.0).fit(np.eye(4), [0, 1, 0, 1]), "threshold"),
        (lambda: ReusableHoldoutSelector().fit(np.eye(4), ["a", "b", "c", "a"]), "3 classes"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
