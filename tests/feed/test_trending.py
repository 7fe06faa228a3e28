import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from paperworks.feed import Entry, FeedStore
from paperworks.feed.people import People
from paperworks.feed.schema import Activity, FeedPaper, Vote
from paperworks.feed.trending import record, trending, votes_of

NOW = datetime(2023, 5, 8, 15, tzinfo=UTC)


def feed(n=3):
    store = FeedStore("sqlite://")
    store.add([Entry(title=f"T {i}", published=NOW - timedelta(days=400)) for i in range(n)])
    return store


def vote(store, paper, age, email):
    person = People(store).of_email(email)
    with store.session() as session:
        session.add(Vote(person_id=person, paper_id=paper, at=NOW - timedelta(days=age)))


def test_the_formula():
    store = feed()
    vote(store, 2, 3.5, "a@example.org")
    with store.session() as session:
        session.add(Activity(paper_id=3, kind="read", day=(NOW - timedelta(days=7)).date(), count=5))
        session.add(Activity(paper_id=3, kind="run", day=NOW.date(), count=1))
    heat = dict(trending(store, "week", now=NOW))
    assert heat[2] == pytest.approx(4 / 2)
    assert heat[3] == pytest.approx(5 * 2 ** -((7 + 3 / 24) / 3.5) + 2 * 2 ** -(3 / 24 / 3.5))
    assert heat[1] == 0


@settings(max_examples=10, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(1, 3), st.floats(0, 20)), max_size=6),
    paper=st.integers(1, 3),
    age=st.floats(0, 20),
    period=st.sampled_from(["day", "week", "month"]),
)
def test_one_more_vote_never_lowers_a_paper_and_an_older_one_lifts_it_no_more(events, paper, age, period):
    def heat(votes):
        store = feed()
        for k, (voted, old) in enumerate(votes):
            vote(store, voted, old, f"p{k}@example.org")
        ranked = trending(store, period, now=NOW)
        return [p for p, _ in ranked], dict(ranked)

    order, before = heat(events)
    newer_order, newer = heat([*events, (paper, age)])
    _, older = heat([*events, (paper, age + 5)])
    assert newer_order.index(paper) <= order.index(paper)
    assert newer[paper] >= older[paper] >= before[paper]


def test_ties_go_to_the_later_published_and_then_the_later_added():
    store = FeedStore("sqlite://")
    days = (3, 1, 1)
    store.add([Entry(title=f"T {i}", published=NOW - timedelta(days=400 + d)) for i, d in enumerate(days)])
    assert [p for p, _ in trending(store, now=NOW)] == [3, 2, 1]


def test_the_shipped_catalogue_does_not_fill_trending_above_the_papers_of_this_week(store):
    store.add(
        [Entry(title=f"Shipped {i}", slug=f"shipped-{i}", published=NOW - timedelta(days=400)) for i in range(20)]
    )
    with store.session() as session:
        session.execute(update(FeedPaper).values(added=NOW - timedelta(days=90)))
        session.add_all(Activity(paper_id=i, kind="run", day=NOW.date(), count=9) for i in range(1, 21))
        session.add(Activity(paper_id=7, kind="read", day=NOW.date(), count=99))
    lab = [Entry(title=f"Of the lab {i}", published=NOW - timedelta(hours=i / 2)) for i in range(300)]
    store.add([Entry(title="Old", published=NOW - timedelta(days=99))])
    with store.session() as session:
        session.execute(update(FeedPaper).where(FeedPaper.slug.is_(None)).values(added=NOW - timedelta(days=90)))
    store.add(lab)
    for period in ("day", "week", "month"):
        ranked = [paper for paper, _ in trending(store, period, limit=322, now=NOW)]
        assert ranked[:300] == list(range(22, 322))
        assert ranked[300] == 7
        assert sorted(ranked[301:320]) == [i for i in range(1, 21) if i != 7]
        assert ranked[320:] == [21]
    People(store).vote(People(store).of_email("a@example.org"), 3, True)
    record(store, "read", 60)
    assert [paper for paper, _ in trending(store, limit=3)] == [3, 60, 22]


def test_reads_are_counted_by_the_day(store):
    store.add([Entry(title="T", upvotes=2)])
    record(store, "read", 1)
    record(store, "read", 1, count=2)
    with store.session() as session:
        assert session.query(Activity).one().count == 3
    People(store).vote(People(store).of_email("a@example.org"), 1, True)
    assert votes_of(store, [1]) == {1: 3}


@pytest.mark.usefixtures("untyped")
def test_another_period_is_refused():
    with pytest.raises(ValueError, match="period is 'year'"):
        trending(feed(), "year")


def test_a_field_is_found_among_more_papers_than_a_statement_takes(memory, monkeypatch):
    monkeypatch.setattr("paperworks.feed.trending._AT_ONCE", 100)
    memory.add(Entry(title=f"Paper {n}", categories=["cs.LG" if n % 2 else "math.ST"]) for n in range(600))
    for paper in range(1, 601):
        record(memory, "read", paper, count=paper)
    with memory.engine.connect() as connection:
        connection.connection.driver_connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 300)
    found = [paper for paper, _ in trending(memory, "week", field="cs.LG", limit=3)]
    assert found == [600, 598, 596]
