"""The privacy core: laws that are exact, a ledger that can't be fooled, and the attacks on both, with secure noise."""

import contextlib
import copy
import math
import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paperworks.inference import (
    AdaptivePrivacyGame,
    BudgetExhausted,
    EffectiveRounds,
    FactorizationCounter,
    NoisyAnswers,
    PrivateMultiplicativeWeights,
    RecomputeMaxSum,
    RecomputeSumSelect,
    ReusableHoldout,
    SampleSplit,
    SparseValidate,
    SparseVector,
    TreeCounter,
    TreeMaxSum,
    approx_dp_from_zcdp,
    auto_mechanism,
    zcdp_from_approx_dp,
)
from paperworks.inference.privacy import sampling
from paperworks.inference.privacy.noise import Noise
from paperworks.inference.privacy.sampling import Law, choose

LAWS = [Law(kind, scale) for kind in ("laplace", "gaussian") for scale in (0.3, 2.0, 7.9, 8.0, 77.7, 25_001.0)]


def words_of(seed: int):
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 2**64, n, dtype=np.uint64)


def secure(law: Law, count: int) -> np.ndarray:
    return getattr(Noise(), law.kind)(law.scale, count)


# The laws


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_secure_draws_have_their_law(law):
    draws = secure(law, 40_000)
    assert draws.dtype == np.int64
    reach = int((40 if law.kind == "laplace" else 9) * law.scale) + 2
    k = np.arange(-reach, reach + 1)
    weights = np.exp(-np.abs(k) / law.scale if law.kind == "laplace" else -((k / law.scale) ** 2) / 2)
    chances = weights / weights.sum()
    # Cells of about equal chance, so that each counts.
    cells = np.minimum((np.cumsum(chances) * 40).astype(int), 39)
    expected = np.bincount(cells, chances, 40)
    found = np.bincount(cells[np.clip(draws, -reach, reach) + reach], minlength=40)
    used = expected > 0
    assert stats.chisquare(found[used], expected[used] / expected.sum() * len(draws)).pvalue > 1e-6


@pytest.mark.parametrize("scale", [1e6, 1e12, 2.0**50])
def test_wide_noise_stays_whole_and_has_its_law(scale):
    assert stats.kstest(Noise().gaussian(scale, 4000) / scale, "norm").pvalue > 1e-6
    draws = Noise().laplace(scale, 4000)
    assert stats.kstest(draws / scale, "laplace").pvalue > 1e-6
    assert len(np.unique(draws % 1024)) > 500  # down to the last bits


def test_noise_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match=r"2\^50"):
        Noise().gaussian(2.0**51, 1)
    with pytest.raises(ValueError, match="scale is nan"):
        Noise().laplace(math.nan, 1)


@pytest.mark.parametrize("law", [*LAWS, Law("laplace", 1e13), Law("gaussian", 1e-300)], ids=str)
def test_draws_that_floating_point_decides_are_those_that_exact_arithmetic_decides(law, monkeypatch):
    def drawn():
        words = words_of(1)
        v = sampling._blocks(law, words(3), words)
        r = sampling._whole_numbers(law.block, 3, words)
        return v, sampling._accepted(law, v, r, words(3), words)

    quick = drawn()
    monkeypatch.setattr(sampling, "_MARGIN", 2.0)  # nothing is far enough from any probability
    sampling._table.cache_clear()
    exact = drawn()
    sampling._table.cache_clear()
    np.testing.assert_array_equal(quick, exact)


def test_choices_that_floating_point_decides_are_those_that_exact_arithmetic_decides(monkeypatch):
    gaps = np.random.default_rng(0).integers(0, 9, (100, 5))
    gaps -= gaps.min(axis=1, keepdims=True)
    quick = choose(0.3, gaps, words_of(1))
    monkeypatch.setattr(sampling, "_MARGIN", 2.0)
    np.testing.assert_array_equal(quick, choose(0.3, gaps, words_of(1)))


def test_more_bits_are_drawn_until_a_comparison_is_decided():
    given_words = iter([0, 0, 1])
    tiny = Law("laplace", 1.0).exponent(150)  # e^-150 is about 2^-216: 53 + 64 + 64 bits of zeros don't decide

    def words(n):
        return np.array([next(given_words)], dtype=np.uint64)

    assert sampling._below(tiny, 0, 53, words)
    assert next(given_words, "none left") == "none left"


def test_choices_have_the_weights_of_the_exponential_mechanism():
    scores = np.array([3, 1, 0])
    picked = np.bincount(Noise().choose(0.5, np.tile(scores, (20_000, 1))), minlength=3)
    weights = np.exp(scores / 2)
    assert stats.chisquare(picked, weights / weights.sum() * 20_000).pvalue > 1e-6
    assert Noise().choose(math.inf, scores[None])[0] == 0


def test_a_first_draw_prepares_little_at_any_scale():
    for law in [*LAWS, Law("gaussian", 2.0**50), Law("laplace", 2.0**49)]:
        cumulative, cells = sampling._table(law)
        assert len(cumulative) + len(cells) < 6000


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoisyAnswers(X, 1e12),
        lambda: SparseVector(X, 0.5, epsilon=5e-9, c=1, numeric=True),
        lambda: SparseVector(X, 0.5, epsilon=3e-9, c=1),
        lambda: PrivateMultiplicativeWeights(X, 4, threshold=0.1, comparison_scale=0.1, noise_scale=1e10),
        lambda: ReusableHoldout(threshold=0.1, noise_scale=4e8, granularity=1e-6),
        lambda: RecomputeMaxSum(8, rho=1e-31),
        lambda: RecomputeMaxSum(8, epsilon=1e-16),
        lambda: FactorizationCounter(8, rho=1e-22),
    ],
)
def test_noise_that_is_too_wide_is_refused_before_there_are_data(make):
    with pytest.raises(ValueError, match=r"2\^50"):  # later, on an answer, it would end the mechanism
        make()


def test_only_seeded_noise_repeats():
    first, second = (Noise(np.random.default_rng(3)).gaussian(9.0, (2, 5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(Noise().gaussian(9.0, 50), Noise().gaussian(9.0, 50))
    few = Noise()
    assert len({tuple(few.gaussian(1e9, 3)) for _ in range(200)}) == 200


# The budgets


@given(epsilon=st.floats(1e-3, 20), log_delta=st.floats(-30, -1), loose=st.booleans())
def test_budgets_convert_back_and_forth(epsilon, log_delta, loose):
    delta, conversion = math.exp(log_delta), "standard" if loose else "tight"
    rho = zcdp_from_approx_dp(epsilon, delta, conversion)
    assert approx_dp_from_zcdp(rho, delta, conversion) <= epsilon * (1 + 1e-9)
    if loose or log_delta < -8:
        assert approx_dp_from_zcdp(rho, delta, conversion) == pytest.approx(epsilon, rel=1e-6)
        assert approx_dp_from_zcdp(1.01 * rho, delta, conversion) > epsilon
    assert rho >= zcdp_from_approx_dp(epsilon, delta, "standard")


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.5, 4.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-6, 1e-3])
def test_the_tight_conversion_holds_for_gaussian_noise_and_is_near_it(rho, delta):
    epsilon = approx_dp_from_zcdp(rho, delta)
    mu = math.sqrt(2 * rho)  # the Gaussian mechanism of this rho, whose delta has a closed form (Balle and Wang, 2018)

    def delta_at(epsilon):
        return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)

    assert delta_at(epsilon) <= delta
    assert delta_at(0.7 * epsilon) > delta


def test_known_budgets():
    assert zcdp_from_approx_dp(1.0, 1e-6, "standard") == pytest.approx(0.017469, abs=5e-7)
    assert zcdp_from_approx_dp(1.0, 1e-6) / zcdp_from_approx_dp(1.0, 1e-6, "standard") > 1.39


# The ledger

X = np.arange(100) % 2
MAKE = {
    "TreeCounter": lambda **o: TreeCounter(8, epsilon=1.0, **o),
    "TreeMaxSum": lambda **o: TreeMaxSum(8, 2, rho=1.0, **o),
    "SparseVector": lambda **o: SparseVector(X, 0.5, epsilon=1.0, c=1, **o),
    "NoisyAnswers": lambda **o: NoisyAnswers(X, 0.1, **o),
    "ReusableHoldout": lambda **o: ReusableHoldout(threshold=0.1, noise_scale=0.01, budget=1, **o),
    "PrivateMultiplicativeWeights": lambda **o: PrivateMultiplicativeWeights(
        X, 4, threshold=0.1, comparison_scale=0.1, noise_scale=0.1, **o
    ),
    "EffectiveRounds": lambda **o: EffectiveRounds(X, r=1, tau=0.1, **o),
    "SparseValidate": lambda **o: SparseValidate(X, m=5, budget=1, **o),
    "SampleSplit": lambda **o: SampleSplit(X, m=1, **o),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda m: copy.deepcopy([m])])
def test_no_copy_gets_the_budget_anew(make, copied):
    with pytest.raises(TypeError, match="holds a privacy budget, which a copy or a pickle would have anew; save"):
        copied(make())


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_budget_is_moved_and_not_doubled(make, tmp_path):
    mechanism, path = make(), tmp_path / "moved"
    mechanism.save(path)
    assert os.name != "posix" or path.stat().st_mode & 0o077 == 0
    with pytest.raises(BudgetExhausted, match="moved to"):
        mechanism.save(tmp_path / "again")
    loaded = type(mechanism).load(path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        type(mechanism).load(path)
    loaded.save(path)  # it is as good as the first was
    with pytest.raises(TypeError, match="path holds"):
        RecomputeMaxSum.load(path)
    assert path.exists()


def test_a_file_that_exists_is_left_alone_and_the_budget_stays(tmp_path):
    path = tmp_path / "taken"
    path.write_text("mine")
    counter = TreeCounter(4, rho=1.0)
    with pytest.raises(FileExistsError):
        counter.save(path)
    assert path.read_text() == "mine"
    assert counter.update([1]).shape == (1,)


def test_a_moved_counter_goes_on_with_its_noise_and_can_not_be_reset(tmp_path):
    here, there = (TreeCounter(9, epsilon=1.0, random_state=np.random.default_rng(0)) for _ in range(2))
    assert here.update([3]) == there.update([3])
    there.save(tmp_path / "counter")
    with pytest.raises(BudgetExhausted, match="moved"):
        there.reset()
    loaded = TreeCounter.load(tmp_path / "counter")
    np.testing.assert_array_equal(here.update_batch([1, 2, 3]), loaded.update_batch([1, 2, 3]))


def test_a_fork_has_no_budget():
    oracle = NoisyAnswers(X, 0.1)
    oracle._process += 1  # as it looks from another process
    with pytest.raises(BudgetExhausted, match="process"):
        oracle.answer(lambda x: x)


def test_an_interrupted_answer_ends_the_mechanism():
    validate = SparseValidate(X, m=5, budget=2)

    def question(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate.ask(question)
    with pytest.raises(BudgetExhausted, match="interrupted"):
        validate.ask(lambda data: False)


@pytest.mark.parametrize("first", [0, 1])  # before and after a question was answered
def test_a_question_can_not_keep_a_mechanism_open_by_what_it_raises(first):
    validate = SparseValidate(X, m=50, budget=1)
    for _ in range(first):
        validate.ask(lambda data: False)

    def raises_where_true(data):
        raise BudgetExhausted("as if it were spent")

    with pytest.raises(BudgetExhausted, match="as if"):  # tells that one bit, and is the end
        validate.ask(raises_where_true)
    for _ in range(3):
        with pytest.raises(BudgetExhausted, match="interrupted"):
            validate.ask(raises_where_true)


def test_an_answer_within_an_answer_ends_a_mechanism_without_a_limit():
    oracle = NoisyAnswers(X, 0.1)

    class Within(type(oracle)):
        def _answers(self, values):
            return self.answer_all(values)  # as a signal's handler may

    within = Within(X, 0.1)
    for _ in range(2):
        with pytest.raises(BudgetExhausted, match="interrupted"):
            within.answer_all(X[None])


def test_a_reset_that_is_interrupted_ends_the_mechanism(monkeypatch):
    counter = TreeCounter(8, epsilon=1.0)
    counter.update([1])

    def interrupted(horizon):
        raise KeyboardInterrupt

    monkeypatch.setattr(counter, "_begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        counter.reset()
    with pytest.raises(BudgetExhausted, match="interrupted"):
        counter.update([1])  # with noise of the stream before


def test_data_can_not_be_changed_by_queries_or_by_whoever_gave_them():
    for make in (
        lambda data: SampleSplit(data, m=3).answer,
        lambda data: ReusableHoldout(data, data).query,
        lambda data: SparseValidate(data, m=3, budget=3).ask,
    ):
        mine = np.ones(90)
        ask = make(mine)
        mine[:] = 0
        assert ask(lambda data: data) if "ask" not in ask.__name__ else ask(lambda data: data.all())
        with pytest.raises(ValueError, match="read-only"):
            ask(lambda data: np.multiply(data, 0, out=data))
        assert not mine.any()


def test_answers_can_be_written_to_without_changing_the_transcript():
    reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-6)
    reusable.query_means([0.5], [0.5])[0] = 7
    np.testing.assert_array_equal(reusable.transcript.answers, [0.5])


def test_a_refusal_does_not_tell_how_many_values_a_function_gave():
    secret = (np.arange(1000) < 496).astype(float)
    askers = [
        NoisyAnswers(secret, 0.1).answer,
        ReusableHoldout(secret, secret).query,
        lambda query: SparseValidate(secret, m=3, budget=3).differs(query, 0.5, 0.1),
    ]
    for ask in askers:
        with pytest.raises(ValueError, match="one value for each of the 1000 samples") as refused:
            ask(lambda data: data[data > 0])
        assert "496" not in str(refused.value)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "bad",
    [
        np.array([[1j, 0.5]]),
        np.array([["0", "1"]]),
        np.array([["2020-01-01", "2020-01-02"]], dtype="datetime64[D]"),
        np.ma.array([[1.0, 0.0]], mask=[[True, False]]),
        (x for x in [0.0, 1.0]),
        [[1.0, 0.0], [1.0]],
    ],
    ids=["complex", "text", "dates", "masked", "generator", "ragged"],
)
def test_only_real_numbers_are_taken(bad):
    takers = {
        "x": TreeCounter(4, 2, rho=1.0).update_batch,
        "values": NoisyAnswers([0.0, 1.0], 0.1).answer_all,
        "train_means": lambda means: ReusableHoldout(threshold=0.1, noise_scale=0.1).query_means(means, [0.0, 0.0]),
    }
    for name, take in takers.items():
        with pytest.raises((TypeError, ValueError), match=rf"^{name} .*real numbers"):
            take(bad)


@pytest.mark.usefixtures("untyped")
def test_whatever_is_an_array_of_numbers_is_counted():
    class Tensor:  # as torch has them: neither `reshape` nor `dtype` are NumPy's
        ndim, dtype = 1, "int64"

        def reshape(self, *shape):
            return self

        def __array__(self, dtype=None, copy=None):
            return np.array([1, 2], dtype=dtype)

    pandas = pytest.importorskip("pandas")
    for records in (Tensor(), pandas.Series([1, 2]), pandas.DataFrame({"a": [1, 2]}), range(1, 3)):
        np.testing.assert_array_equal(TreeCounter(4, rho=math.inf).update_batch(records), [[1], [3]])
    np.testing.assert_array_equal(TreeCounter(4, 2, rho=math.inf).update(Tensor()), [1, 2])


@pytest.mark.usefixtures("untyped")
def test_privacy_takes_a_range_of_values():
    with pytest.raises(ValueError, match="value_range is None"):
        SparseVector(X, 0.5, epsilon=1.0, c=1, value_range=None)  # one sample could move a sum by anything
    unbounded = ReusableHoldout(threshold=0.1, noise_scale=0.1, budget=1, value_range=None)
    with pytest.raises(ValueError, match="value_range is None"):
        unbounded.privacy(100)


@pytest.mark.parametrize(("n", "validation_size"), [(4, 0.1), (4, 0.9), (1, 0.5)])
def test_rounds_without_samples_to_validate_are_refused(n, validation_size):
    with pytest.raises(ValueError, match="validation_size"):
        EffectiveRounds(np.zeros(n), r=1, tau=0.1, validation_size=validation_size)


def test_sums_that_could_leave_64_bits_are_refused():
    counter = TreeCounter(2**24, rho=math.inf)
    with pytest.raises(ValueError, match=r"size below 1\.37439e"):  # 2^61 / 2^24
        counter.update([2**40 - 1])
    assert counter.update([2**37 - 1]) == 2**37 - 1


def test_budgets_at_the_ends_of_floating_point():
    assert TreeCounter(8, epsilon=1e200).update([3]) == 3
    with pytest.raises(ValueError, match="epsilon"):
        zcdp_from_approx_dp(1e-300, 1e-6)


def test_bad_input_costs_nothing():
    oracle = SampleSplit(X, m=2)
    for bad in (np.full((1, 100), 2.0), np.zeros((1, 99)), np.zeros((3, 100))):
        with pytest.raises((ValueError, BudgetExhausted)):
            oracle.answer_all(bad)
    assert oracle.answer_all(np.zeros((2, 100))).tolist() == [0.0, 0.0]


def asked_by_threads(ask, count=8) -> int:
    """Ask from many threads at once; return how many got an answer."""
    barrier, answers = threading.Barrier(count), []

    def run():
        barrier.wait()
        with contextlib.suppress(BudgetExhausted):
            answers.append(ask())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answers)


def test_threads_share_one_budget():
    above = np.ones((1, 20_000))  # long enough for threads to take turns in the midst
    for _ in range(5):
        vector = SparseVector(np.zeros(20_000), 0.5, epsilon=50.0, c=1)
        assert asked_by_threads(lambda v=vector: v.answer_all(above)) == 1
        split = SampleSplit(np.zeros(20_000), m=3)
        assert asked_by_threads(lambda s=split: s.answer_all(above)) == 3
        reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-4, budget=1)
        assert asked_by_threads(lambda r=reusable: r.query_means(np.zeros(1), np.ones(1))) == 1


def test_threads_advance_one_counter():
    counter = TreeCounter(800, rho=math.inf)
    seen = []
    assert asked_by_threads(lambda: [seen.append(counter.update([1])[0]) for _ in range(100)]) == 8
    assert sorted(seen) == list(range(1, 801))


# The attacks


def test_refusals_of_a_sparse_vector_tell_nothing_more():
    secret = (np.arange(1000) < 600).astype(float)
    pair = np.stack([secret, np.zeros(1000)])  # refused where the first is above, with nothing charged
    for _ in range(20):
        oracle = SparseVector(secret, 0.5, epsilon=1.0, c=1)
        outcomes, messages = [], set()
        for _ in range(50):
            try:
                outcomes.append(oracle.answer_all(pair).tolist())
            except BudgetExhausted as refused:
                outcomes.append(None if refused.answers is None else refused.answers.tolist())
                messages.add(str(refused))
        ended = next(i for i, outcome in enumerate(outcomes) if outcome != [0.0, 0.0])
        # What was found is answered once, by a refusal or an answer, and all later ones are alike.
        assert 1.0 in outcomes[ended]
        assert outcomes[ended + 1 :] == [None] * (49 - ended)
        assert messages == {"c = 1 queries were above the threshold"}
        assert oracle.remaining == 0


def test_multiplicative_weights_compare_nothing_after_their_updates():
    pmw = PrivateMultiplicativeWeights(
        np.zeros(100, dtype=int), 4, threshold=0.1, comparison_scale=0.05, noise_scale=0.05, max_updates=1
    )
    queries, refused = np.eye(4), 0
    for i in range(300):
        try:
            pmw.answer(queries[i % 4])
        except BudgetExhausted:
            refused += 1
        else:
            assert not refused
    assert refused > 250
    assert pmw.updates == 1


def test_many_weights_answers_end_where_the_updates_do():
    pmw = PrivateMultiplicativeWeights(
        np.zeros(1000, dtype=int), 4, threshold=0.1, comparison_scale=1e-6, noise_scale=1e-6, max_updates=1
    )
    with pytest.raises(BudgetExhausted, match="max_updates = 1") as refused:
        pmw.answer_all([[1.0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_allclose(refused.value.answers, [1, 1, np.nan, np.nan], atol=1e-3)


def test_effective_rounds_end_with_the_last_round():
    rng = np.random.default_rng(0)
    oracle = EffectiveRounds(np.zeros(200), r=1, tau=0.1)
    answered = []
    for _ in range(200):
        try:
            answered.append(np.isfinite(oracle.answer(rng.integers(0, 2, 200).astype(float))))
        except BudgetExhausted as refused:
            answered.append(str(refused) != "all r = 1 rounds are over")
    first = answered.index(False)
    assert not any(answered[first:])


def test_a_spent_holdout_looks_at_nothing():
    reusable = ReusableHoldout(threshold=0.1, noise_scale=1e-4, budget=1, exhausted="nan")
    assert reusable.query_means([0.0], [1.0])[0] == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(reusable.query_means([0.0, 0.5], [1.0, 0.5]), [np.nan, np.nan])


def test_values_of_a_function_out_of_range_are_cut_off_and_not_refused():
    for last in (0.5, 1e9, np.nan):  # a refusal would tell which
        data = np.append(np.zeros(99), last)
        kept = np.clip(np.nan_to_num(last), 0, 1) / 100
        assert NoisyAnswers(data, 1e-4).answer(lambda x: x) == pytest.approx(kept, abs=0.002)
        SparseVector(data, 0.5, epsilon=1.0, c=1).answer(lambda x: x)
        EffectiveRounds(data, r=1, tau=0.5).answer(lambda x: x)
        SparseValidate(data, m=3, budget=1).differs(lambda x: x, 0.0, 0.5)
        ReusableHoldout(np.zeros(9), data).query(lambda x: x)


NEIGHBOURS = [np.append(np.full(99, 1 / 3), last) for last in (0.1, 0.7)]
GRID = 2.0**-20


def on_the_grid(answers: np.ndarray, step: float) -> bool:
    return bool(np.all(answers / step == np.round(answers / step)))


@pytest.mark.parametrize("data", NEIGHBOURS)
@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_noisy_answers_lie_on_the_declared_grid(data, noise):
    oracle = NoisyAnswers(data, 0.1, noise=noise)
    sums = oracle.answer_all(np.tile(data, (200, 1))) * 100 / GRID
    np.testing.assert_allclose(sums, np.round(sums), atol=1e-5)
    # The grid is that of whole sums, so all of its places are taken alike, whichever data there are.
    assert len(np.unique(np.round(sums) % 64)) > 50


@pytest.mark.parametrize("data", NEIGHBOURS)
def test_other_answers_lie_on_the_declared_grid(data):
    vector = SparseVector(data, 0.01, epsilon=5.0, c=200, numeric=True)
    sums = vector.answer_all(np.tile(data, (100, 1))) * 100 / GRID
    sums = sums[np.isfinite(sums)]
    assert len(sums)
    np.testing.assert_allclose(sums, np.round(sums), atol=1e-4)
    reusable = ReusableHoldout(threshold=0.01, noise_scale=0.01, granularity=2.0**-12)
    reusable.query_means(np.zeros(200), np.full(200, data.mean()))
    found = reusable.transcript.answers[reusable.transcript.exceeded]
    assert len(found) > 50
    assert on_the_grid(found, 2.0**-12)


@pytest.mark.parametrize("stream", [[0, 1, 1, 0, 5], [1, 1, 1, 0, 5]])
@pytest.mark.parametrize(
    "make",
    [
        lambda: FactorizationCounter(5, rho=0.5),
        lambda: TreeMaxSum(5, rho=0.5, factorization="sqrt"),
        lambda: TreeCounter(5, rho=1e-12),
        lambda: TreeCounter(5, epsilon=1e-6),
        lambda: RecomputeMaxSum(5, epsilon=1e-6, r=1),
    ],
)
def test_answers_about_whole_numbers_are_whole(make, stream):
    assert on_the_grid(make().release(stream), 1.0)
    assert on_the_grid(np.array([counter.update([x]) for counter in [make()] for x in stream]), 1.0)


def test_real_records_are_rounded_to_the_granularity():
    for kind in (TreeCounter, FactorizationCounter):
        answers = kind(3, rho=0.5, granularity=0.25).release([0.1, 1 / 3, math.pi])
        assert on_the_grid(answers, 0.25)
        exact = kind(3, rho=math.inf, granularity=0.25).release([0.1, 1 / 3, math.pi])
        np.testing.assert_array_equal(exact[:, 0], [0.0, 0.25, 3.5])


class FirstAnswer:
    """Challenges with the first record, then sends zeros, and scores the first answer."""

    def __init__(self, left):
        self.left = left

    def choose(self, answers):
        return (self.left, [0, 1]) if not answers else [0, 0]

    def score(self, answers):
        return float(np.ravel(answers[0])[-1])


@pytest.mark.parametrize(
    ("kind", "left"), [(TreeCounter, [1, 0]), (RecomputeMaxSum, [0, 0]), (RecomputeSumSelect, [1, 0])]
)
def test_the_game_does_not_tell_the_sides_of_secure_mechanisms_apart(kind, left):
    options = {} if kind is TreeCounter else {"r": 1}
    assert AdaptivePrivacyGame(kind(2, 2, epsilon=1.0, **options), FirstAnswer(left)).run(200).epsilon <= 1
    assert AdaptivePrivacyGame(kind(2, 2, epsilon=40.0, **options), FirstAnswer(left)).run(200).epsilon > 1


# Counts that people have


def test_a_year_of_daily_counts_is_counted_to_within_what_others_reach():
    days = np.random.default_rng(0).integers(150, 245, 365)
    truth = np.cumsum(days)
    errors = []
    for _ in range(10):
        counter = TreeCounter(T=365, epsilon=1)
        answers = [counter.update(count)[0] for count in days]
        errors.append(np.abs(answers - truth).max())
    assert np.mean(errors) < 60
    assert np.mean(np.array(errors) > counter.error_bound(0.05)) < 0.3
    assert counter.privacy()["epsilon"] == 1


def test_the_number_of_answers_is_that_of_days_whatever_happened():
    for days in ([0, 0, 0], [244, 190, 7]):
        assert TreeCounter(3, epsilon=1.0).release(days).shape == (3, 1)


@pytest.mark.parametrize("kind", [TreeCounter, RecomputeMaxSum])
def test_noise_grows_with_the_sensitivity_and_not_with_the_counts(kind):
    options = {} if kind is TreeCounter else {"r": 1}

    def spread(records, **sensitivity):
        mechanism = kind(64, epsilon=1.0, random_state=np.random.default_rng(0), **options, **sensitivity)
        return np.std([np.ravel(mechanism.release(records)) - np.cumsum(records) for _ in range(60)])

    small, large, user = spread(np.ones(64)), spread(np.full(64, 10**6)), spread(np.ones(64), sensitivity=5)
    assert large == pytest.approx(small, rel=0.1)
    assert user == pytest.approx(5 * small, rel=0.1)


def test_a_selection_weighs_scores_by_the_sensitivity():
    stream = np.zeros((3000, 2), dtype=int)
    stream[0] = [8, 0]

    def share(**options):
        mechanism = RecomputeSumSelect(3000, 2, rho=3000 / 8, r=1, **options)  # an epsilon of 1 each
        return np.mean(mechanism.release(stream) == 0)

    assert share() == pytest.approx(1 / (1 + math.exp(-4)), abs=0.02)
    assert share(sensitivity=4) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.05)


@pytest.mark.parametrize("kind", [RecomputeMaxSum, TreeMaxSum])
@pytest.mark.parametrize("budget", [{"rho": 0.5}, {"epsilon": 1.0}])
def test_largest_counts_are_within_their_bound(kind, budget):
    days = np.random.default_rng(0).integers(0, 245, (200, 3))
    options = {"max_value": 244} if kind is RecomputeMaxSum else {}
    mechanism = kind(200, 3, **budget, sensitivity=2, **options)
    errors = [np.abs(mechanism.release(days) - np.cumsum(days, axis=0).max(axis=1)).max() for _ in range(10)]
    assert np.mean(errors) < mechanism.error_bound(0.05)


def test_the_choice_of_a_mechanism_reckons_with_the_size_of_counts():
    ones, counts = (auto_mechanism("maxsum", 2**14, 64, rho=0.5, max_value=size) for size in (1, 244))
    assert isinstance(ones, RecomputeMaxSum)
    assert isinstance(counts, TreeMaxSum)


def test_rounding_counts_in_each_coordinate_that_changes():
    one, many = (FactorizationCounter(2**12, d, rho=0.5) for d in (1, 100))
    exact = many._norm * 10  # of 100 coordinates
    rounding = 1.5 * math.sqrt(2**12 * 100) * many._fine
    assert many.noise_std == pytest.approx(exact + rounding, rel=1e-12)
    assert one.noise_std < many.noise_std / 9.9


def discrete(kind: str, scale: float) -> np.ndarray:
    """Chances of the sizes 0 to 400."""
    k = np.arange(401)
    weights = np.exp(-k / scale if kind == "laplace" else -((k / scale) ** 2) / 2)
    weights[1:] *= 2
    return weights / weights.sum()


@pytest.mark.parametrize("budget", [{"rho": 0.5}, {"rho": 2}, {"rho": 8}, {"epsilon": 0.5}, {"epsilon": 2}], ids=str)
@pytest.mark.parametrize("kind", [TreeCounter, RecomputeMaxSum])
def test_error_bounds_hold_for_steps_that_are_wide_beside_the_noise(kind, budget):
    counter = kind(1, **budget)  # its noise is a single draw
    if "rho" in budget:
        chances = discrete("gaussian", 1 / math.sqrt(2 * budget["rho"]))
    else:
        chances = discrete("laplace", 1 / budget["epsilon"])
    for beta in np.geomspace(1e-6, 0.9, 50):
        assert chances[np.arange(401) >= counter.error_bound(beta)].sum() <= beta


@pytest.mark.parametrize("kind", [TreeCounter, FactorizationCounter, TreeMaxSum, RecomputeMaxSum])
def test_error_bounds_reckon_with_the_rounding_of_records(kind):
    mechanism = kind(1000, rho=50.0, granularity=1.0)
    answers = mechanism.update_batch(np.full(1000, 0.49))  # which are all rounded to 0
    assert 400 < np.abs(answers.ravel() - 0.49 * np.arange(1, 1001)).max() < mechanism.error_bound(0.05) < 530


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100_003])
def test_running_sums_of_many_weights_stay_within_the_margin_of_a_choice(n):
    weights = np.random.default_rng(0).random((2, n)) * np.array([[1.0], [1e-9]]) + 0.9
    sums = sampling._running_sums(weights)
    assert sums.shape == weights.shape
    for row, found in zip(weights, sums, strict=True):
        for end in {1, n // 2 or 1, n - n // 7, n}:
            assert abs(found[end - 1] - math.fsum(row[:end])) < 2.0**-42 * found[-1]  # a plain sum is 2^-36 off
    assert sampling._running_sums(weights[:0]).shape == (0, n)


def test_error_bounds_exist_at_any_length():
    for T in [*range(1, 200), 365, 1000, 4095, 4096]:
        assert FactorizationCounter(T, rho=0.5).error_bound(0.05) > 0
    for T in (1, 2, 3, 365, 4096):
        assert 0 < TreeCounter(T, rho=0.5).error_bound() < TreeCounter(T, rho=0.5).error_bound(0.05)
        assert 0 < TreeCounter(T, epsilon=1.0).error_bound() < TreeCounter(T, epsilon=1.0).error_bound(0.05)
