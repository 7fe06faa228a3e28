import os
import stat

import pytest

from paperworks.feed import Entry
from paperworks.feed.limits import TooOften, limit
from paperworks.feed.people import BadAddress, People, clean_email
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
        assert r"On Sampling \& more" in people.export_bibtex(ann)
        people.delete(ann)
        with pytest.raises(LookupError):
            people.export(ann)
        with people.store.engine.connect() as connection:
            for table in ("people", "votes", "reading_list", "saved_searches", "subscriptions"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0

    def test_signing_out_everywhere_changes_what_sessions_bear(self, people):
        ann = people.of_email("ann@example.org")
        before = people.sessions(ann)
        people.sign_out_everywhere(ann)
        assert people.sessions(ann) != before
        assert people.sessions(10**6) is None


class TestTokens:
    def test_a_token_is_good_once_for_one_purpose(self, store):
        tokens = Tokens("x" * 40)
        token = tokens.make("sign-in", {"email": "ann@example.org"})
        with pytest.raises(BadToken, match="not valid"):
            tokens.read("session", token)
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


def test_a_limit_holds_for_each_and_ends_with_its_window(store):
    for _ in range(2):
        limit(store, "mail", "a", times=2, seconds=60, now=600.0)
    with pytest.raises(TooOften, match="60 seconds"):
        limit(store, "mail", "a", times=2, seconds=60, now=600.0)
    limit(store, "mail", "b", times=2, seconds=60, now=600.0)
    limit(store, "mail", "a", times=2, seconds=60, now=660.0)
