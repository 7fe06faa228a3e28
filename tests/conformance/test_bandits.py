"""Every exported bandit: probabilities, one update for each choice, and a state that goes on bit by bit."""

import pickle

import numpy as np
import pytest

from conformance.discovery import of_kind
from conformance.suite import arguments

pytestmark = pytest.mark.usefixtures("untyped")
BANDITS = pytest.mark.parametrize("export", of_kind("bandit"), ids=lambda e: e.where)


def make(export, arms=(1.0, 1.3, 1.7), **options):
    ends = {"low": lambda: 0.0, "high": lambda: 1.0}
    return export.thing(list(arms), **{**arguments(export.thing, ends, {}), "random_state": 0, **options})


def play(bandit, rounds, cost=lambda arm: 10 + 40 * abs(arm - 1.3)):
    chosen = []
    for number in range(rounds):
        chosen.append(bandit.predict(number % 7 / 7))
        bandit.update(cost(chosen[-1]))
    return chosen


@BANDITS
def test_it_learns_what_costs_least(export):
    bandit = make(export)
    play(bandit, 2000)
    assert bandit.counts_.argmax() == 1
    assert bandit.counts_.sum() == len(bandit.history_) == 2000
    assert bandit.probabilities(0.5).argmax() == 1


@BANDITS
def test_its_probabilities_are_some_and_choices_follow_them(export):
    bandit = make(export)
    play(bandit, 5)
    p = bandit.probabilities(0.5)
    assert p.shape == (3,)
    assert (p > 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    drawn = [bandit.predict(0.5) for _ in range(3000)]
    shares = [np.mean(np.isclose(drawn, arm)) for arm in bandit.arms]
    np.testing.assert_allclose(shares, p, atol=0.04)


@BANDITS
def test_a_copy_goes_on_alike(export):
    one, other = make(export), make(export, random_state=5)
    play(one, 40)
    last = one.predict(0.3)
    other.load_state_dict(one.state_dict())
    for bandit in (one, other):
        bandit.update(10 * last)
    assert play(one, 40) == play(other, 40)
    np.testing.assert_array_equal(one.probabilities(0.2), other.probabilities(0.2))
    assert one.history_ == other.history_
    for state in (make(export, (1.0, 1.5)).state_dict(), make(export, (1.0, 1.3, 1.8)).state_dict(), {}, None):
        with pytest.raises(ValueError, match="state is of another bandit"):
            one.load_state_dict(state)


@BANDITS
def test_a_pickle_between_choice_and_cost_goes_on_alike(export):
    one = make(export)
    play(one, 40)
    last = one.predict(0.3)
    other = pickle.loads(pickle.dumps(one))
    for bandit in (one, other):
        bandit.update(10 * last)
    assert play(one, 40) == play(other, 40)
    np.testing.assert_array_equal(one.probabilities(0.2), other.probabilities(0.2))


@BANDITS
@pytest.mark.filterwarnings("error")
def test_costs_of_any_size_leave_probabilities(export):
    for costs in ([1e100] * 30, [1.0, 1e100] * 15, list(1e8 + np.arange(300.0))):
        bandit = make(export)
        for number, cost in enumerate(costs):
            bandit.predict(number % 7 / 7)
            bandit.update(cost)
        for context in (0.0, 0.3, 1.0):
            p = bandit.probabilities(context)
            assert np.isfinite(p).all()
            assert (p >= 0).all()
            assert p.sum() == pytest.approx(1, abs=1e-12)


@BANDITS
def test_one_arm_and_equal_costs_do_no_harm(export):
    assert play(make(export, [1.5]), 5) == [1.5] * 5
    bandit = make(export)
    play(bandit, 200, lambda arm: 1.0)
    assert np.isfinite(bandit.probabilities(0.5)).all()
    play(bandit, 50, lambda arm: 1e4)
    assert bandit.probabilities(0.5).sum() == pytest.approx(1)


@BANDITS
def test_bad_input_is_refused(export):
    bandit = make(export)
    with pytest.raises(ValueError, match="predict comes first"):
        bandit.update(1.0)
    bandit.predict(0.5)
    for cost in (0.0, -1.0, 0.5, 1e101, np.nan, np.inf):
        with pytest.raises(ValueError, match="cost"):
            bandit.update(cost)
    bandit.update(3)
    with pytest.raises(ValueError, match="predict comes first"):
        bandit.update(3)
    for arms in ([], [1.0, np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="arms"):
            make(export, arms)
    if "low" in arguments(export.thing, {"low": lambda: 0.0, "high": lambda: 1.0}, {}):
        for context in (None, 1.5, np.nan):
            with pytest.raises(ValueError, match="context"):
                bandit.predict(context)
        with pytest.raises(ValueError, match="high"):
            make(export, low=1.0)
        with pytest.raises(ValueError, match="high"):
            make(export, low=-1e308, high=1e308)
        make(export, clip=True).predict(1.5)
