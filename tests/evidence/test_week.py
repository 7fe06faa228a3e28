from datetime import date

import pytest

from paperworks.evidence.results import PaperResults
from paperworks.evidence.views import view
from paperworks.evidence.week import week_of


@pytest.fixture
def results(make_paper, make_entry, value):
    paper = make_paper("", {name: {} for name in ("new", "short", "open", "old", "carried", "none")})
    items = {claim.id: claim for claim in paper.claims}
    entries = {
        "new": make_entry("new", values={"": value(2.0)}, origin={"date": "2026-11-29T23:59:00+00:00"}),
        "short": make_entry("short", values={"": value(0.5)}, origin={"date": "2026-11-23T00:00:00+00:00"}),
        "open": make_entry("open", values={"": value(1.0, 0.5)}, origin={"date": "2026-11-25T00:00:00+00:00"}),
        "old": make_entry("old", values={"": value(2.0)}, origin={"date": "2026-11-22T23:59:00+00:00"}),
        "none": make_entry("none", outcome="stopped", origin={"date": "2026-11-25T00:00:00+00:00"}),
    }
    views = tuple(view(paper, "claim", items[id], entry) for id, entry in entries.items())
    return [PaperResults(paper, views, ())]


def test_a_week_has_what_was_measured_in_its_seven_days(results):
    week = week_of(results, date(2026, 11, 29))
    assert (week.first, week.last) == (date(2026, 11, 23), date(2026, 11, 29))
    assert [found.id for found in week.holding] == ["new"]
    assert [found.id for found in week.short] == ["short"]
    assert [found.id for found in week.undecided] == ["open"]
    assert {found.id for found in week.outdated} == {"new", "short", "open", "old"}, "their digests are of no code"
    says = "3 claims and races were measured: 1 hold, 1 fall short, 1 are undecided; 4 of all are outdated."
    assert week.sentence == says


def test_a_week_without_any(results):
    assert week_of(results, date(2026, 12, 31)).measured == ()
