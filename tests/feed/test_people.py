import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, select

from paperworks.feed import Entry
from paperworks.feed.housekeeping import forget
from paperworks.feed.limits import TooOften, limit
from paperworks.feed.people import BadAddress, People, clean_email
from paperworks.feed.reading_files import export_reading_list
from paperworks.feed.schema import Digest, FeedPaper, Hit, Send, SignIn, Subscription
from paperworks.feed.sessions import SESSION_LIFE, Sessions
from paperworks.feed.tokens import LIVES, BadToken, Tokens, site_secret


@pytest.fixture
def people(store):
    store.add([Entry(title="On Sampling & more", arxiv_id="2206.00927", authors=["Ann Lee"]), Entry(title="On Noise")])
    return People(store)


class TestPeople:
    def test_an_address_is_one_person(self, people):
        assert people.of_email("Ann@Example.org") == people.of_email(" ann@example.org")
        assert people.of_email("bo@example.org") != people.of_email("ann@example.org")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a",
            "a@b",
            "a@@b.org",
            "a b@c.org",
            "a@b.org\nBcc: x@y.org",
            "a@-b.org",
            "a..b@c.org",
            "a" * 300 + "@b.org",
        ],
    )
    def test_something_else_is_refused(self, people, text):
        with pytest.raises(BadAddress, match="not an e-mail address"):
            clean_email(text)

    def test_votes_and_list_hold_each_paper_once(self, people):
        ann = people.of_email("ann@example.org")
        for mark, marked in ((people.vote, people.votes), (people.keep, people.reading_list)):
            mark(ann, 1, True)
            mark(ann, 1, True)
            mark(ann, 2, True)
            assert marked(ann) == [2, 1]
            mark(ann, 2, False)
            mark(ann, 2, False)
            assert marked(ann) == [1]
        with pytest.raises(LookupError, match="no paper 99"):
            people.vote(ann, 99, True)

    def test_searches(self, people):
        ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
        first = people.save_search(ann, "noise  -audio")
        assert people.save_search(ann, "noise -audio") == first
        people.drop_search(bo, first)
        assert people.searches(ann) == [(first, "noise -audio")]
        people.drop_search(ann, first)
        assert people.searches(ann) == []
        with pytest.raises(ValueError, match="empty"):
            people.save_search(ann, "  ")
        for k in range(50):
            people.save_search(ann, f"word{k}")
        with pytest.raises(ValueError, match="at most 50"):
            people.save_search(ann, "more")

    def test_a_subscription_counts_when_confirmed(self, people):
        ann = people.of_email("ann@example.org")
        assert people.confirm(ann) is False
        assert people.subscribe(ann, "daily") is False
        assert people.subscription(ann) == ("daily", False)
        assert people.confirm(ann) is True
        assert people.subscribe(ann, "weekly") is True
        assert people.subscription(ann) == ("weekly", True)
        people.unsubscribe(ann)
        assert people.subscription(ann) is None
        with pytest.raises(ValueError, match="frequency is 'hourly'"):
            people.subscribe(ann, "hourly")

    def test_the_export_has_all_and_the_deletion_removes_all(self, people):
        ann = people.of_email("ann@example.org")
        people.vote(ann, 1, True)
        people.keep(ann, 1, True)
        people.save_search(ann, "noise")
        people.subscribe(ann, "daily")
        out = people.export(ann)
        assert out["email"] == "ann@example.org"
        assert [p["arxiv"] for p in out["votes"]] == ["2206.00927"] == [p["arxiv"] for p in out["reading_list"]]
        assert out["saved_searches"] == ["noise"]
        assert out["subscription"] == {"frequency": "daily", "confirmed": False}
        assert r"On Sampling \& more" in export_reading_list(people, ann, "bib")
        people.delete(ann)
        with pytest.raises(LookupError):
            people.export(ann)
        with people.store.engine.connect() as connection:
            for table in ("people", "votes", "reading_list", "saved_searches", "subscriptions"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0

    def test_a_link_ends_the_subscription_that_it_was_made_for(self, people):
        ann = people.of_email("ann@example.org")
        people.subscribe(ann, "daily")
        people.save_search(ann, "noise")
        [first] = keys(people)
        assert people.unsubscribe_by_key(first) is True
        people.subscribe(ann, "daily")
        assert people.unsubscribe_by_key(first) is False
        assert people.subscription(ann) == ("daily", False)
        assert keys(people) != [first]

    def test_who_came_for_the_digest_alone_is_forgotten_with_it(self, people):
        ann = people.of_email("ann@example.org")
        people.subscribe(ann, "daily")
        people.unsubscribe_by_key(*keys(people))
        assert people.email(ann) is None

    def test_no_number_is_given_twice(self, people):
        store = people.store
        with store.session() as session:
            session.execute(delete(FeedPaper))
        numbers = []
        for _ in range(3):
            ann = people.of_email("ann@example.org")
            search = people.save_search(ann, "noise")
            people.subscribe(ann, "daily")
            store.add([Entry(title="Another")])
            now = datetime.now(UTC)
            with store.session() as session:
                paper = session.scalar(select(FeedPaper.id))
                digest = Digest(frequency="daily", period="d", until=now, last_paper=paper, trending={})
                session.add(digest)
                session.flush()
                send = Send(digest_id=digest.id, person_id=ann, state="sent", changed=now)
                session.add(send)
                session.flush()
                subscription = session.scalar(select(Subscription.id))
                numbers.append((ann, search, subscription, paper, digest.id, send.id))
                for table in (FeedPaper, Digest):
                    session.execute(delete(table))
            people.delete(ann)
        assert numbers[0][3] == 3  # after the two that were deleted
        for column in zip(*numbers, strict=True):
            assert len(set(column)) == 3


class TestSessions:
    @pytest.fixture
    def sessions(self, people):
        return Sessions(people.store)

    def test_only_the_hash_of_a_token_is_kept(self, people, sessions):
        token = sessions.open(people.of_email("ann@example.org"))
        with people.store.session() as session:
            assert token not in session.scalars(select(SignIn.digest)).all()

    def test_each_ends_in_time_and_all_end_at_once(self, people, sessions):
        ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
        now = datetime.now(UTC)
        old = sessions.open(ann, now=now - SESSION_LIFE)
        here, there, others = sessions.open(ann), sessions.open(ann), sessions.open(bo)
        assert [sessions.person(token) for token in (old, here, there, others)] == [None, ann, ann, bo]
        forget(people.store)
        with people.store.session() as session:
            assert session.query(SignIn).count() == 3
        sessions.end(ann)
        assert [sessions.person(token) for token in (here, there, others)] == [None, None, bo]

    def test_a_session_ends_with_its_person(self, people, sessions):
        ann = people.of_email("ann@example.org")
        token = sessions.open(ann)
        people.delete(ann)
        assert people.of_email("eve@example.org") != ann
        assert sessions.person(token) is None
        with pytest.raises(LookupError, match="no person"):
            sessions.open(ann)


def keys(people):
    with people.store.session() as session:
        return list(session.scalars(select(Subscription.key)))


class TestTokens:
    def test_a_token_is_good_once_for_one_purpose(self, store):
        tokens = Tokens("x" * 40)
        token = tokens.make("sign-in", {"email": "ann@example.org"})
        with pytest.raises(BadToken, match="not valid"):
            tokens.read("confirm", token)
        assert tokens.spend(store, "sign-in", token) == {"email": "ann@example.org"}
        with pytest.raises(BadToken, match="used already"):
            tokens.spend(store, "sign-in", token)
        assert tokens.make("sign-in", {}) != tokens.make("sign-in", {})

    @pytest.mark.parametrize(
        "change", [lambda t: "", lambda t: t[:-1], lambda t: t + "x", lambda t: "x" * 5000, lambda t: "é"]
    )
    def test_a_forged_one_is_refused(self, change):
        tokens = Tokens("x" * 40)
        with pytest.raises(BadToken, match="not valid"):
            tokens.read("sign-in", change(tokens.make("sign-in", {"email": "a"})))
        with pytest.raises(BadToken, match="not valid"):
            tokens.read("sign-in", Tokens("y" * 40).make("sign-in", {}))

    def test_an_old_one_is_refused(self, monkeypatch):
        tokens = Tokens("x" * 40)
        token = tokens.make("sign-in", {})
        monkeypatch.setitem(LIVES, "sign-in", -LIVES["sign-in"])
        with pytest.raises(BadToken, match="too old"):
            tokens.read("sign-in", token)

    def test_the_secret_is_made_once_for_its_owner_alone(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(type(store), "folder", tmp_path / "site")
        assert site_secret(store) == site_secret(store)
        assert stat.S_IMODE(os.stat(tmp_path / "site" / "secret").st_mode) == 0o600
        monkeypatch.setenv("PAPERWORKS_SECRET", "short")
        with pytest.raises(ValueError, match="at least 32"):
            site_secret(store)

    def test_a_secret_that_a_full_disk_cut_short_is_none(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(type(store), "folder", tmp_path / "site")

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                site_secret(store)
        assert [path.name for path in (tmp_path / "site").iterdir() if path.name != "secret.lock"] == []
        assert len(site_secret(store)) >= 32

    def test_servers_that_start_at_once_share_one_secret(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(type(store), "folder", tmp_path / "site")
        made = []
        threads = [threading.Thread(target=lambda: made.append(site_secret(store))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 8
        assert len(set(made)) == 1

    def test_a_file_that_holds_no_secret_is_named(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(type(store), "folder", tmp_path)
        (tmp_path / "secret").write_text("")
        with pytest.raises(ValueError, match=r"secret has 0 characters.*delete the file"):
            site_secret(store)


def test_a_limit_holds_for_each_and_ends_with_its_window(store):
    for _ in range(2):
        limit(store, "mail", "a", times=2, seconds=60, now=600.0)
    with pytest.raises(TooOften, match="60 seconds"):
        limit(store, "mail", "a", times=2, seconds=60, now=600.0)
    limit(store, "mail", "b", times=2, seconds=60, now=600.0)
    limit(store, "mail", "a", times=2, seconds=60, now=660.0)
    forget(store, now=datetime.fromtimestamp(661, UTC))
    with store.session() as session:
        assert [(hit.window, hit.count) for hit in session.query(Hit)] == [(11, 1)]


def test_a_search_that_is_followed_by_two_clicks_is_kept_once(store):
    people = People(store)
    ann = people.of_email("ann@example.org")
    for n in range(5):
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(lambda _, n=n: people.save_search(ann, f"noise {n}"), range(4)))
        assert len(found) == 1
    assert len(people.searches(ann)) == 5
    with pytest.raises(LookupError, match="no person 99"):
        people.save_search(99, "noise")
