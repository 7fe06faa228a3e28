"""Private answers over time: exactness without noise, the noise that is promised, the reductions, and the budgets."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paperworks.inference import (
    AdaptivePrivacyGame,
    ConstantAnswer,
    FactorizationCounter,
    PrivacyBudget,
    RecomputeMaxSum,
    RecomputeSumSelect,
    TreeCounter,
    TreeMaxSum,
    TreeSumSelect,
    approx_dp_from_zcdp,
    auto_mechanism,
    lower_bound_rate,
    marginals_from_maxsum,
    marginals_from_sumselect,
    tracing_scores,
    zcdp_from_approx_dp,
)
from paperworks.inference.continual.counters import _times_with_bits
from paperworks.inference.privacy.accounting import selection_epsilon

NO_NOISE = math.inf
COUNTERS = [TreeCounter, FactorizationCounter]
MAXSUMS = [TreeMaxSum, RecomputeMaxSum]
SUMSELECTS = [TreeSumSelect, RecomputeSumSelect]
ALL = [*COUNTERS, *MAXSUMS, *SUMSELECTS]


def bits(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.integers(0, 2, (n, d))


def noise_of(counter, steps: int) -> np.ndarray:
    return counter.release(np.zeros((steps, counter.d), dtype=int))


@pytest.mark.parametrize("kind", COUNTERS)
@given(T=st.integers(1, 70), d=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_counter_without_noise_is_exact(kind, T, d, seed):
    stream = bits(np.random.default_rng(seed), T, d)
    np.testing.assert_allclose(kind(T, d, rho=NO_NOISE).release(stream), np.cumsum(stream, axis=0), atol=1e-9)


@pytest.mark.parametrize("kind", MAXSUMS)
def test_maxsum_without_noise_is_exact(kind):
    stream = bits(np.random.default_rng(0), 33, 4)
    np.testing.assert_array_equal(kind(33, 4, rho=NO_NOISE).release(stream), np.cumsum(stream, axis=0).max(axis=1))


@pytest.mark.parametrize("kind", SUMSELECTS)
def test_sumselect_without_noise_selects_a_largest_sum(kind):
    stream = bits(np.random.default_rng(0), 33, 4)
    sums = np.cumsum(stream, axis=0)
    picked = kind(33, 4, rho=NO_NOISE).release(stream)
    np.testing.assert_array_equal(sums[np.arange(33), picked], sums.max(axis=1))


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_pieces_of_a_stream_give_the_answers_of_the_whole(kind, cuts):
    stream = bits(np.random.default_rng(1), sum(cuts), 2)
    options = {"r": min(5, len(stream))} if kind in (RecomputeMaxSum, RecomputeSumSelect) else {}
    whole = kind(len(stream), 2, rho=NO_NOISE, **options).release(stream)
    mechanism = kind(len(stream), 2, rho=NO_NOISE, **options)
    parts = [mechanism.update_batch(piece) for piece in np.split(stream, np.cumsum(cuts)[:-1])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-9)
    mechanism.reset()
    np.testing.assert_allclose([mechanism.update(x) for x in stream], whole, atol=1e-9)


def tree_covariance(T: int) -> np.ndarray:
    """Return the covariance of a tree's noise in units of a node's variance: the number of nodes two times share."""
    nodes = [{(level, t >> level) for level in range(T.bit_length()) if t >> level & 1} for t in range(1, T + 1)]
    return np.array([[len(a & b) for b in nodes] for a in nodes])


@pytest.mark.parametrize("path", ["release", "update", "pieces"])
def test_noise_of_the_tree_is_that_of_its_nodes(path):
    T, rng = 11, np.random.default_rng(0)
    counter = TreeCounter(T, d=4000, rho=0.5, random_state=rng)
    zero = np.zeros((T, 4000), dtype=int)
    if path == "release":
        noise = counter.release(zero)
    elif path == "update":
        noise = np.stack([counter.update(x) for x in zero])
    else:
        noise = np.concatenate([counter.update_batch(piece) for piece in np.split(zero, [3, 4, 9])])
    found = noise @ noise.T / 4000 / counter.node_scale**2
    np.testing.assert_allclose(found, tree_covariance(T), atol=6 * 4 / math.sqrt(4000))


@pytest.mark.parametrize(("T", "levels"), [(1, 1), (7, 3), (8, 4), (2**14, 15)])
def test_node_variance_is_levels_over_twice_rho(T, levels):
    counter = TreeCounter(T, d=3, rho=0.25)
    assert counter.levels == levels
    assert counter.node_scale**2 == pytest.approx(3 * levels / 0.5, rel=1e-14)


@pytest.mark.parametrize(
    ("T", "branches", "levels"), [(1, 3, 1), (16, 33, 1), (364, 27, 2), (365, 29, 2), (2**20, 19, 5)]
)
def test_a_pure_tree_takes_the_layout_of_least_noise(T, branches, levels):
    pure = TreeCounter(T, d=3, epsilon=2.0)
    assert (pure.branches, pure.levels) == (branches, levels)
    assert branches**levels >= 2 * T + 1
    assert pure.node_scale == pytest.approx(3 * levels / 2.0, rel=1e-14)

    def variance(k: int, h: int) -> float:  # of a sum on average, by the digits of all numbers around 0
        return h**2 * h * np.abs(np.arange(k) - k // 2).mean()

    others = [(k, h) for h in range(1, 9) for k in range(3, min(2 * T + 4, 300), 2) if k**h >= 2 * T + 1]
    assert not others or variance(branches, levels) <= min(variance(*other) for other in others) * 1.001


def signed_nodes(t: int, branches: int, levels: int) -> dict[tuple[int, int], int]:
    """Return the nodes of a sum with their signs, from the digits of t around 0, lowest first."""
    digits, half = [], branches // 2
    for _ in range(levels):
        digits.append((t + half) % branches - half)
        t = (t - digits[-1]) // branches
    assert t == 0
    found, reached = {}, 0
    for level in reversed(range(levels)):
        reached *= branches
        for _ in range(abs(digits[level])):
            forward = digits[level] > 0
            found[level, reached + forward] = 1 if forward else -1
            reached += 1 if forward else -1
    return found


@pytest.mark.parametrize("path", ["release", "update", "pieces"])
def test_noise_of_a_pure_tree_is_that_of_its_signed_nodes(path):
    T, d = 60, 3000
    counter = TreeCounter(T, d=d, epsilon=1.0, random_state=np.random.default_rng(0))
    zero = np.zeros((T, d), dtype=int)
    if path == "release":
        noise = counter.release(zero)
    elif path == "update":
        noise = np.stack([counter.update(x) for x in zero])
    else:
        noise = np.concatenate([counter.update_batch(piece) for piece in np.split(zero, [3, 7, 44])])
    nodes = [signed_nodes(t, counter.branches, counter.levels) for t in range(1, T + 1)]
    expected = np.array([[sum(a[n] * b[n] for n in a.keys() & b.keys()) for b in nodes] for a in nodes])
    found = noise @ noise.T / d / (2 * counter.node_scale**2)
    np.testing.assert_allclose(found, expected, atol=0.12 * expected.max())


@pytest.mark.parametrize(
    ("options", "l2", "l1"),
    [
        ({}, 2.0, 4.0),
        ({"sparsity": 1}, math.sqrt(2), 2.0),
        ({"max_norm": 1.5}, 3.0, 6.0),
        ({"sparsity": 4}, 2.0, 4.0),
        ({"sensitivity": 5}, 10.0, 20.0),
        ({"sensitivity": 2, "granularity": 0.25}, 4.5, 9.0),  # rounding adds a step
    ],
)
def test_sensitivity_follows_what_records_may_be(options, l2, l1):
    counter = TreeCounter(8, 4, rho=0.5, **options)
    assert (counter.l2_sensitivity, counter.l1_sensitivity) == (pytest.approx(l2), pytest.approx(l1))


@given(T=st.integers(1, 300))
def test_times_are_counted_by_their_bits(T):
    counted = np.bincount([t.bit_count() for t in range(1, T + 1)], minlength=T.bit_length() + 1)[1:]
    np.testing.assert_array_equal(_times_with_bits(T), counted)


def test_the_bound_of_the_tree_is_not_far_from_its_error():
    counter = TreeCounter(2**12, rho=0.5, random_state=np.random.default_rng(0))
    errors = [np.abs(noise_of(counter, 2**12)).max() for _ in range(50)]
    assert np.mean(errors) < counter.error_bound() < 1.5 * np.mean(errors)


def test_factorization_noise_squares_to_the_prefix_sums_and_is_smaller():
    T = 64
    counter = FactorizationCounter(T, rho=0.5)
    c = counter._coefficients
    root = np.array([[c[i - j] if i >= j else 0 for j in range(T)] for i in range(T)])
    np.testing.assert_allclose(root @ root, np.tril(np.ones((T, T))), atol=1e-12)
    big, tree = FactorizationCounter(2**14, rho=0.5), TreeCounter(2**14, rho=0.5)
    worst = big.noise_std * np.linalg.norm(big._coefficients)
    assert worst == pytest.approx(4.16, abs=0.01)
    assert tree.node_scale * math.sqrt(15) == pytest.approx(15.0, abs=0.01)


@pytest.mark.parametrize("path", ["release", "update"])
def test_factorization_noise_has_the_covariance_of_its_root(path):
    T = 6
    counter = FactorizationCounter(T, d=4000, rho=0.5, random_state=np.random.default_rng(0))
    zero = np.zeros((T, 4000), dtype=int)
    noise = counter.release(zero) if path == "release" else np.stack([counter.update(x) for x in zero])
    c = counter._coefficients
    root = np.array([[c[i - j] if i >= j else 0 for j in range(T)] for i in range(T)])
    np.testing.assert_allclose(noise @ noise.T / 4000 / counter.noise_std**2, root @ root.T, atol=0.2)


def test_recomputed_answers_have_the_noise_of_their_number_and_are_held():
    mechanism = RecomputeMaxSum(T=5000, rho=0.5, r=2, random_state=np.random.default_rng(0))
    answers = mechanism.release(np.ones((5000, 1), dtype=int))
    assert answers[0] == 0
    np.testing.assert_array_equal(answers[1:-1:2], answers[2::2])
    noise = answers[1::2] - np.arange(2, 5001, 2)
    assert np.std(noise) == pytest.approx(math.sqrt(2500), rel=0.05)
    assert mechanism.releases == 2500


def test_recompute_selects_by_the_exponential_mechanism():
    sums, releases = np.array([3, 1, 0]), 5000
    stream = np.zeros((5000 + 3, 3), dtype=int)
    stream[:3] = [[1, 1, 0], [1, 0, 0], [1, 0, 0]]
    mechanism = RecomputeSumSelect(
        T=5003, d=3, rho=5003 / 8, r=1, random_state=np.random.default_rng(0)
    )  # epsilon_0 = 1
    picked = np.bincount(mechanism.release(stream)[3:], minlength=3) / releases
    weights = np.exp(sums / 2)
    np.testing.assert_allclose(picked, weights / weights.sum(), atol=0.03)


@pytest.mark.parametrize("kind", [*MAXSUMS, *SUMSELECTS, TreeCounter])
@pytest.mark.parametrize("budget", [{"rho": 0.5}, {"epsilon": 1.0}, {"epsilon": 1.0, "delta": 1e-6}])
def test_error_stays_within_the_bound(kind, budget):
    rng, T, d, runs = np.random.default_rng(3), 256, 3, 60
    stream = np.ones((T, d), dtype=int)
    stream[:, 1] = 0
    sums = np.cumsum(stream, axis=0)
    mechanism = kind(T, d, **budget, random_state=rng)
    misses = 0
    for _ in range(runs):
        answers = mechanism.release(stream)
        if kind in SUMSELECTS:
            error = sums.max(axis=1) - sums[np.arange(T), answers]
        else:
            error = np.abs(answers - (sums if kind is TreeCounter else sums.max(axis=1)))
        misses += error.max() > mechanism.error_bound(1 / 3)
    assert stats.binomtest(int(misses), runs, 1 / 3, alternative="greater").pvalue > 1e-3


def test_centring_halves_the_staleness():
    ones = np.ones((100, 1), dtype=int)
    plain = RecomputeMaxSum(100, rho=NO_NOISE, r=10).release(ones)
    centred = RecomputeMaxSum(100, rho=NO_NOISE, r=10, center=True).release(ones)
    truth = np.arange(1, 101)
    assert np.abs(plain - truth).max() == 9
    assert np.abs(centred - truth).max() == 4.5


def test_default_r_has_the_least_bound():
    best = RecomputeMaxSum(T=2000, rho=0.5)
    bounds = [RecomputeMaxSum(T=2000, rho=0.5, r=r).error_bound() for r in range(1, 2001, 7)]
    assert best.error_bound() <= min(bounds) * 1.001


def test_restart_goes_on_after_the_horizon_with_new_noise():
    stream = np.ones((50, 1), dtype=int)
    counter = TreeCounter(8, rho=NO_NOISE, restart=True)
    np.testing.assert_array_equal(counter.release(stream)[:, 0], np.arange(1, 51))
    noisy = TreeCounter(8, rho=0.5, restart=True, random_state=np.random.default_rng(0))
    assert noisy.release(stream).shape == (50, 1)
    assert noisy.horizon == 32  # 8 + 16 + 26 of 32


def test_memory_of_a_streaming_tree_is_one_number_a_level():
    counter = TreeCounter(2**20, d=3, rho=0.5)
    for _ in range(5):
        counter.update([1, 0, 1])
    assert sum(v.size for v in vars(counter).values() if isinstance(v, np.ndarray)) <= 3 * (22 + 4)


def test_what_a_mechanism_says_of_its_budget():
    assert selection_epsilon(PrivacyBudget.of(rho=0.5), 4) ** 2 / 8 * 4 == pytest.approx(0.5)
    assert TreeCounter(4, epsilon=1.0).privacy() == {"epsilon": 1.0, "delta": 0.0, "rho": 0.5}
    assert TreeCounter(4, epsilon=1.0, delta=1e-5).privacy()["epsilon"] == 1.0
    report = TreeCounter(4, rho=0.5).privacy(1e-9)
    assert report["epsilon"] == approx_dp_from_zcdp(0.5, 1e-9)


def test_streams_of_the_same_people_add_up():
    pure, zcdp = TreeCounter(4, epsilon=1.0), TreeCounter(4, epsilon=1.0, delta=1e-5)
    for mechanism in (pure, zcdp):
        mechanism.reset()  # nothing was asked yet
        for _ in range(3):
            mechanism.release([1, 0, 1])
    assert pure.privacy() == {"epsilon": 3.0, "delta": 0.0, "rho": 4.5}
    rho = 3 * zcdp_from_approx_dp(1.0, 1e-5)
    assert zcdp.privacy()["rho"] == pytest.approx(rho)
    assert zcdp.privacy()["epsilon"] == pytest.approx(approx_dp_from_zcdp(rho, 1e-5))


@pytest.mark.parametrize("kind", ALL)
def test_noise_is_cryptographic_by_default_and_repeatable_on_demand(kind):
    stream = np.zeros((40, 2), dtype=int)
    kind = functools.partial(kind, r=1) if kind in (RecomputeMaxSum, RecomputeSumSelect) else kind
    answers = [kind(40, 2, rho=0.1).release(stream) for _ in range(2)]
    assert not np.array_equal(*answers)
    seeded = [kind(40, 2, rho=0.1, random_state=np.random.default_rng(5)).release(stream) for _ in range(2)]
    np.testing.assert_array_equal(*seeded)


@given(seed=st.integers(0, 50), n=st.integers(1, 5), d=st.integers(1, 4))
def test_exact_mechanisms_give_the_marginals_away(seed, n, d):
    Y = bits(np.random.default_rng(seed), n, d)
    for kind in MAXSUMS:
        np.testing.assert_array_equal(marginals_from_maxsum(lambda T, d, k=kind: k(T, d, rho=NO_NOISE), Y), Y.sum(0))
    for kind in SUMSELECTS:
        read = marginals_from_sumselect(lambda T, d, k=kind: k(T, d, rho=NO_NOISE), Y)
        assert np.all(np.abs(read - Y.sum(0)) <= 1)  # ties may go against a column


def test_tracing_finds_members_of_exact_marginals():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=400)
    members, others = ((rng.uniform(size=(20, 400)) < p).astype(int) for _ in range(2))
    scores = [tracing_scores(members.mean(0), p, rows) for rows in (members, others)]
    assert scores[0].min() > np.median(scores[1])


class OneDifference:
    """Challenges with the first record, then sends zeros, and scores the last answer."""

    def __init__(self, answer: int = -1) -> None:
        self.answer = answer

    def choose(self, answers):
        return ([0], [1]) if not answers else [0]

    def score(self, answers):
        return float(np.ravel(answers[self.answer])[0])


def test_the_game_finds_a_mechanism_without_privacy_and_clears_one_with_it():
    broken = TreeCounter(4, rho=50.0, random_state=np.random.default_rng(0))
    assert AdaptivePrivacyGame(broken, OneDifference()).run(300).epsilon > 3
    private = TreeCounter(4, epsilon=1.0, random_state=np.random.default_rng(0))
    assert AdaptivePrivacyGame(private, OneDifference()).run(300).epsilon <= 1


def test_the_game_wants_one_challenge():
    class Silent(OneDifference):
        def choose(self, answers):
            return [0]

    with pytest.raises(ValueError, match="made 0 challenges"):
        AdaptivePrivacyGame(TreeCounter(3, rho=0.5), Silent()).run(5)


def test_auto_takes_the_least_bound():
    for problem in ("maxsum", "sumselect"):
        for T, d in [(2**14, 1), (2**14, 256), (3, 5)]:
            chosen = auto_mechanism(problem, T, d, rho=0.5)
            kinds = MAXSUMS if problem == "maxsum" else SUMSELECTS
            bounds = [kind(T, d, rho=0.5).error_bound() for kind in kinds]
            assert chosen.error_bound() == min(*bounds, T)
    assert isinstance(auto_mechanism("maxsum", 3, 5, rho=0.01), ConstantAnswer)


def test_lower_bound_rates():
    assert lower_bound_rate(100, 10**6, epsilon=1.0) == 10.0
    assert lower_bound_rate(3, 10**6, rho=1e-4) == 3.0
    assert lower_bound_rate(10**9, 4, epsilon=1.0, delta=1e-9) == pytest.approx(2 / math.log(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TreeCounter(0, rho=1), "T "),
        (lambda: TreeCounter(5, 0, rho=1), "d "),
        (lambda: TreeCounter(5), "rho is None, epsilon None"),
        (lambda: TreeCounter(5, rho=1, epsilon=1), "it takes rho alone"),
        (lambda: TreeCounter(5, rho=-1), "rho"),
        (lambda: TreeCounter(5, rho=math.nan), "rho"),
        (lambda: TreeCounter(5, epsilon=1, delta=1.0), "delta"),
        (lambda: TreeCounter(5, epsilon=0.0), "epsilon"),
        (lambda: TreeCounter(5, 3, rho=1, sparsity=4), "sparsity"),
        (lambda: TreeCounter(5, rho=1, sparsity=1, max_norm=1), "takes max_norm alone"),
        (lambda: FactorizationCounter(5, epsilon=1.0), "pure"),
        (lambda: RecomputeMaxSum(5, rho=1, r=6), "r "),
        (lambda: RecomputeMaxSum(5, rho=1, r=0), "r "),
        (lambda: RecomputeSumSelect(5, rho=1, beta=1.5), "beta"),
        (lambda: TreeMaxSum(5, rho=1, factorization="cube"), "factorization"),
        (lambda: auto_mechanism("median", 5, 1, rho=1), "problem"),
        (lambda: TreeCounter(5, rho=1).update([0.5]), "whole numbers"),
        (lambda: TreeCounter(5, rho=1).update([math.nan]), "whole numbers"),
        (lambda: TreeMaxSum(5, 2, rho=1).update([1]), "1 coordinates; it takes 2"),
        (lambda: RecomputeMaxSum(5, 2, rho=1).release(np.ones((6, 2), dtype=int)), "at most T = 5"),
        (lambda: TreeCounter(5, rho=1).release(np.ones(6, dtype=int)), "at most T = 5"),
        (lambda: TreeCounter(5, rho=1).update([2**40]), "size below"),
        (lambda: TreeCounter(5, rho=1, granularity=0.1).update([math.inf]), "size below"),
        (lambda: TreeCounter(5, rho=1, sensitivity=0), "sensitivity"),
        (lambda: TreeCounter(5, rho=1, granularity=-1.0), "granularity"),
        (lambda: TreeCounter(5, epsilon=1e-20).release([1]), "2\\^50"),
        (lambda: FactorizationCounter(5, rho=1).update([2**39]), "TreeCounter"),
        (lambda: RecomputeMaxSum(5, rho=1, max_value=0), "max_value"),
        (lambda: TreeCounter(5, 2, rho=1, max_norm=1.0).update([1.0, 0.5]), "max_norm = 1"),
        (lambda: TreeCounter(5, 2, rho=1, max_norm=1.0).update([math.nan, 0]), "size below"),
        (lambda: approx_dp_from_zcdp(1.0, 1e-6, "loose"), "conversion"),
        (lambda: zcdp_from_approx_dp(1.0, 0.0), "delta"),
        (lambda: marginals_from_maxsum(lambda T, d: TreeMaxSum(T, d, rho=1), [[0, 2]]), "Y"),
        (lambda: tracing_scores([1.0], [0.5, 0.5], [[1]]), "shapes"),
        (lambda: TreeCounter(5, rho=1).error_bound(0.0), "beta"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):  # TypeError where the types are checked, as here
        make()


def test_a_seed_is_not_a_generator():
    with pytest.raises(TypeError, match="random_state"):
        TreeCounter(5, rho=1, random_state=0)


@pytest.mark.parametrize(
    "kind",
    [TreeCounter, FactorizationCounter, TreeMaxSum, TreeSumSelect, RecomputeMaxSum, RecomputeSumSelect, ConstantAnswer],
)
def test_no_records_get_no_answers_and_half_a_record_is_refused_by_name(kind):
    mechanism = kind(6, 3, rho=1.0)
    shape = (3,) if kind in (TreeCounter, FactorizationCounter) else ()
    for none in ([], np.zeros((0, 3), dtype=int)):
        assert mechanism.update_batch(none).shape == (0, *shape)
    assert mechanism.update_batch(np.ones((2, 3), dtype=int)).shape == (2, *shape)
    assert mechanism.update_batch([]).shape == (0, *shape)
    with pytest.raises(ValueError, match="x has 4 numbers; it takes records of 3"):
        mechanism.update_batch([1, 2, 3, 4])


def test_a_selection_is_held_between_its_releases():
    mechanism = RecomputeSumSelect(9, 25, rho=100.0, r=4)
    records = np.eye(25, dtype=int)[[7] * 9] * 50
    assert [mechanism.update(record) for record in records] == [0, 0, 0, 7, 7, 7, 7, 7, 7]
