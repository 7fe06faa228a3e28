import math

import pytest

from paperworks.evidence.bars import Bar
from paperworks.evidence.record import Claim, Peer
from paperworks.evidence.store import Evidence
from paperworks.evidence.verdicts import Judgement, count_verdicts, judge, judgements


def claim(scale="smoke", note="", id="c1", **bars):
    bars = bars or {"": ">= 2.8"}
    return Claim(id, "says", "3", "measure", {name: Bar.parse(bar) for name, bar in bars.items()}, scale, note=note)


def test_a_value_that_clears_its_bar_holds(make_entry):
    verdict = judge(claim(), make_entry(values={"": 3.0}))
    assert (verdict.name, verdict.detail, verdict.fails) == ("holds", "", False)
    assert [(d.value, d.holds) for d in verdict.decisions] == [(3.0, True)]


def test_a_shortfall_tells_the_number(make_entry):
    verdict = judge(claim(), make_entry(values={"": 2.5}))
    assert str(verdict) == "falls short: 2.5, bar >= 2.8"
    assert verdict.fails


def test_a_near_miss_is_not_rounded_away(make_entry):
    assert judge(claim(), make_entry(values={"": 2.7999999})).detail == "2.7999999, bar >= 2.8"


def test_a_note_explains_a_shortfall_and_nothing_else(make_entry):
    noted = claim(note="for this reason")
    assert judge(noted, make_entry(values={"": 2.5})).name == "known shortfall"
    assert not judge(noted, make_entry(values={"": 2.5})).fails
    assert judge(noted, make_entry(values={"": 3.0})).name == "holds"
    assert judge(noted, make_entry(outcome="error", reason="why")).name == "error"
    assert judge(noted, make_entry(values={"other": 3.0})).name == "error"


def test_nan_falls_short(make_entry):
    assert judge(claim(), make_entry(values={"": math.nan})).name == "falls short"


def test_all_named_bars_have_to_hold(make_entry):
    both = claim(a=">= 1", b="between 0 and 1")
    assert judge(both, make_entry(values={"a": 1.0, "b": 1.0})).name == "holds"
    short = judge(both, make_entry(values={"a": 1.0, "b": 1.5}))
    assert str(short) == "falls short: b is 1.5, bar between 0 and 1"
    assert [d.holds for d in short.decisions] == [True, False]


@pytest.mark.parametrize("values", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"": 1.0}, {}])
def test_values_that_are_not_the_bars_are_an_error(make_entry, values):
    verdict = judge(claim(a=">= 1", b=">= 1"), make_entry(values=values))
    assert verdict.name == "error"
    assert "'a', 'b'" in verdict.detail
    assert verdict.fails


@pytest.mark.parametrize(("scale", "decided"), [("smoke", False), ("desk", True), ("full", True)])
def test_bars_decide_from_the_scale_of_the_claim_on(make_entry, scale, decided):
    verdict = judge(claim("desk"), make_entry(scale=scale, values={"": 1.0}))
    assert verdict.name == ("falls short" if decided else "not at this scale")
    assert verdict.fails == decided
    assert verdict.decisions[0].value == 1.0


@pytest.mark.parametrize(("outcome", "fails"), [("error", True), ("not run", False), ("not at this scale", False)])
def test_without_a_measurement_the_outcome_is_the_verdict(make_entry, outcome, fails):
    verdict = judge(claim(), make_entry(outcome=outcome, reason="the reason"))
    assert (verdict.name, verdict.detail, verdict.fails) == (outcome, "the reason", fails)


def test_no_entry_is_not_measured():
    assert judge(claim(), None).name == "not measured"
    assert not judge(claim(), None).fails


def test_judgements_go_through_claims_then_peers(make_paper, make_entry):
    paper = make_paper("", {"c1": {"headline": True}, "c2": {}}, {"numpy": {}})
    evidence = Evidence(paper.slug, {e.key: e for e in (make_entry("c1", values={"": 1.0}),)})
    found = list(judgements(paper, evidence))
    assert [(j.kind, j.item.id, j.verdict.name) for j in found] == [
        ("claim", "c1", "holds"),
        ("claim", "c2", "not measured"),
        ("peer", "numpy", "not measured"),
    ]
    assert [j.headline for j in found] == [True, False, False]
    assert [j.reported for j in found] == ["3", "3", "numpy"]
    assert count_verdicts(found) == "1 holds, 2 not measured"


def test_a_peer_is_judged_like_a_claim(make_paper, make_entry):
    peer = Peer("numpy", "numpy", "says", {"": Bar.parse("<= 1")}, "smoke", note="known")
    entry = make_entry("numpy", kind="peer", values={"": 2.0})
    assert judge(peer, entry).name == "known shortfall"
    assert Judgement(make_paper("", {}), "peer", peer, entry, judge(peer, entry)).headline is False
