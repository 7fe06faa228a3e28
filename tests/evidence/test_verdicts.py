import math

import numpy
import pytest

from paperworks.evidence.bars import Bar
from paperworks.evidence.digests import reached
from paperworks.evidence.entry import Value
from paperworks.evidence.estimates import every
from paperworks.evidence.record import Claim, Peer
from paperworks.evidence.verdicts import count_verdicts, judge, outdated


def claim(scale="smoke", note="", id="c1", **bars):
    bars = bars or {"": ">= 2.8"}
    return Claim(id, "says", "3", "measure", {name: Bar.parse(bar) for name, bar in bars.items()}, scale, note=note)


def test_a_value_that_clears_its_bar_holds(make_entry, value):
    verdict = judge(claim(), make_entry(values={"": value(3.0)}))
    assert (verdict.name, verdict.detail, verdict.fails) == ("holds", "", False)
    assert [(d.value.value, d.holds) for d in verdict.decisions] == [(3.0, True)]


def test_a_shortfall_tells_the_number(make_entry, value):
    verdict = judge(claim(), make_entry(values={"": value(2.5)}))
    assert str(verdict) == "falls short: 2.5, bar >= 2.8"
    assert verdict.fails


def test_a_near_miss_is_not_rounded_away(make_entry, value):
    assert judge(claim(), make_entry(values={"": value(2.7999999)})).detail == "2.7999999, bar >= 2.8"


def test_a_note_explains_a_shortfall_and_nothing_else(make_entry, value):
    noted = claim(note="for this reason")
    assert judge(noted, make_entry(values={"": value(2.5)})).name == "known shortfall"
    assert not judge(noted, make_entry(values={"": value(2.5)})).fails
    assert judge(noted, make_entry(values={"": value(3.0)})).name == "holds"
    assert judge(noted, make_entry(outcome="error", reason="why")).name == "error"
    assert judge(noted, make_entry(values={"other": value(3.0)})).name == "error"


def test_nan_falls_short(make_entry, value):
    assert judge(claim(), make_entry(values={"": value(math.nan)})).name == "falls short"


def test_all_named_bars_have_to_hold(make_entry, value):
    both = claim(a=">= 1", b="between 0 and 1")
    assert judge(both, make_entry(values={"a": value(1.0), "b": value(1.0)})).name == "holds"
    short = judge(both, make_entry(values={"a": value(1.0), "b": value(1.5)}))
    assert str(short) == "falls short: b is 1.5, bar between 0 and 1"
    assert [d.holds for d in short.decisions] == [True, False]


@pytest.mark.parametrize("values", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"": 1.0}, {}])
def test_values_that_are_not_the_bars_are_an_error(make_entry, value, values):
    stored = {name: value(number) for name, number in values.items()}
    verdict = judge(claim(a=">= 1", b=">= 1"), make_entry(values=stored))
    assert verdict.name == "error"
    assert "'a', 'b'" in verdict.detail
    assert verdict.fails


@pytest.mark.parametrize(("scale", "decided"), [("smoke", False), ("desk", True), ("full", True)])
def test_bars_decide_from_the_scale_of_the_claim_on(make_entry, value, scale, decided):
    verdict = judge(claim("desk"), make_entry(scale=scale, values={"": value(1.0)}))
    assert verdict.name == ("falls short" if decided else "not at this scale")
    assert verdict.fails == decided
    assert verdict.decisions[0].value.value == 1.0


@pytest.mark.parametrize(
    ("outcome", "fails"), [("error", True), ("stopped", True), ("not run", False), ("not at this scale", False)]
)
def test_without_a_measurement_the_outcome_is_the_verdict(make_entry, outcome, fails):
    verdict = judge(claim(), make_entry(outcome=outcome, reason="the reason"))
    assert (verdict.name, verdict.detail, verdict.fails) == (outcome, "the reason", fails)


def test_no_entry_is_not_measured():
    assert judge(claim(), None).name == "not measured"
    assert not judge(claim(), None).fails


def test_the_whole_interval_has_to_be_on_the_right_side(make_entry, value):
    for half, name in ((0.1, "holds"), (0.3, "undecided")):
        verdict = judge(claim(), make_entry(values={"": value(3.0, half)}))
        assert verdict.name == name
    assert verdict.detail == "[2.7, 3.3], bar >= 2.8"
    assert verdict.decisions[0].holds is None
    assert verdict.fails, "an open question is no success"
    assert not judge(claim(note="why"), make_entry(values={"": value(3.0, 0.3)})).fails
    assert judge(claim(), make_entry(values={"": value(2.0, 0.3)})).name == "falls short"


def test_one_bar_on_the_wrong_side_decides_whatever_is_open(make_entry, value):
    both = claim(a=">= 1", b=">= 1")
    entry = make_entry(values={"a": value(1.0, 0.5), "b": value(0.1, 0.2)})
    assert str(judge(both, entry)) == "falls short: b is 0.1, bar >= 1"


def test_what_has_to_hold_for_every_seed_falls_short_by_one(make_entry):
    for samples, name in (((0.0, 0.0), "holds"), ((0.0, 1.0), "falls short")):
        stored = Value(sum(samples) / 2, min(samples), max(samples), every(samples).method, samples)
        assert judge(claim(a="== 0"), make_entry(values={"a": stored})).name == name


def test_a_value_without_an_interval_is_undecided(make_entry):
    verdict = judge(claim(), make_entry(values={"": Value(5.0)}))
    assert str(verdict) == "undecided: measured without an interval"


def test_a_peer_is_judged_like_a_claim(make_entry, value):
    peer = Peer("numpy", "numpy", "says", {"": Bar.parse("<= 1")}, "smoke", note="known")
    entry = make_entry("numpy", kind="peer", values={"": value(2.0)})
    assert judge(peer, entry).name == "known shortfall"


def test_an_entry_is_outdated_where_code_or_versions_changed(make_paper, make_entry, value):
    source = "@measures('c1')\ndef c1(run): return Measurement(exact(1.0))\n"
    paper = make_paper(source, {"c1": {}})
    digest = reached(paper.folder, "claim", "c1").digest
    fresh = make_entry(values={"": value(1.0)}, origin={"digest": digest, "versions": {"numpy": numpy.__version__}})
    assert outdated(paper, fresh) == ""
    assert outdated(paper, None) == ""
    old = make_entry(values={"": value(1.0)}, origin={"digest": digest, "versions": {"numpy": "1.2.3"}})
    assert outdated(paper, old).startswith("measured with other versions: numpy 1.2 → ")
    assert outdated(paper, make_entry(values={"": value(1.0)})) == "the code has changed since"
    assert outdated(paper, make_entry(outcome="error")) == "", "there is nothing to be outdated"


def test_verdicts_are_counted():
    assert count_verdicts(["holds", "error", "holds"]) == "1 error, 2 holds"
