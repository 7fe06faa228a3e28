import dataclasses
import json
import re
import string
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from paperworks.feed.digest import send_digest
from paperworks.feed.people import People
from paperworks.feed.schema import Person, Send, SignIn
from paperworks.web import Settings, create_app
from site_visitor import HOME, embed, form_token, link_in, sign_in


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request, tmp_path, post):
    """Give the site on each of both databases."""
    feed = str(tmp_path / "both.db")
    if request.param == "postgresql":
        feed = request.getfixturevalue("empty_postgresql")
    settings = Settings(base_url=HOME, feed=feed, smtp=post.url, meaning=False, digests=False)
    return create_app(settings, embed=embed)


@pytest.fixture
def ann(client, post):
    sign_in(client, post)
    return client


class TestSignIn:
    def test_a_link_signs_in_once(self, client, post, site):
        answer = sign_in(client, post, next="/paper/dpm-solver")
        assert (answer.status_code, answer.headers["location"]) == (303, "/paper/dpm-solver")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Signed in as ann@example.org" in client.get("/account").text
        link = link_in(post.got[-1][1])
        again = client.post(link, data={"form_token": form_token(client, link)})
        assert again.status_code == 400
        assert "used already" in again.text

    def test_a_used_link_spelt_otherwise_stays_used(self, client, post):
        sign_in(client, post)
        link = link_in(post.got[-1][1])
        token = form_token(client, "/sign-in")
        for last in string.ascii_letters + string.digits + "-_":
            assert client.post(link[:-1] + last, data={"form_token": token}).status_code == 400

    def test_only_opening_the_link_signs_nobody_in(self, client, post):
        client.post("/sign-in", data={"email": "ann@example.org", "form_token": form_token(client, "/sign-in")})
        assert client.get(link_in(post.got[-1][1])).status_code == 200
        assert client.get("/account", follow_redirects=False).status_code == 303

    def test_behind_tls_cookies_are_secure(self, app, post, tmp_path):
        app = create_app(Settings(base_url="https://papers.example.org", feed=str(tmp_path / "b.db"), meaning=False))
        with TestClient(app, base_url="https://papers.example.org") as client:
            answer = client.get("/sign-in")
        assert "Secure" in answer.headers["set-cookie"]
        assert "max-age" in answer.headers["Strict-Transport-Security"]

    @pytest.mark.parametrize(
        "next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"]
    )
    def test_nothing_leads_elsewhere(self, client, post, next):
        assert sign_in(client, post, next=next).headers["location"] == "/"
        assert next not in client.get("/sign-in", params={"next": next}).text

    def test_signing_out_ends_all_sessions(self, app, ann, post):
        other = TestClient(app, base_url=HOME)
        sign_in(other, post)
        cookie = ann.cookies["paperworks_session"]
        ann.post("/sign-out", data={"form_token": form_token(ann, "/account")})
        ann.cookies.set("paperworks_session", cookie)
        for client in (ann, other):
            assert client.get("/account", follow_redirects=False).status_code == 303

    def test_a_session_is_not_one_that_another_chose(self, client, app, post):
        for name, value in (("session", "x" * 43), ("visitor", "v" * 32)):
            client.cookies.set(f"paperworks_{name}", value, domain="localhost.local", path="/")
        sign_in(client, post)
        eve = TestClient(app, base_url=HOME, cookies={"paperworks_session": "x" * 43, "paperworks_visitor": "v" * 32})
        assert eve.get("/account", follow_redirects=False).status_code == 303
        stolen = form_token(eve, "/sign-in")  # good in a browser whose visitor is the one that she planted
        assert client.post("/account/delete", data={"form_token": stolen, "sure": "1"}).status_code == 400

    def test_a_session_ends_in_time(self, ann, site):
        with site.store.session() as session:
            session.execute(update(SignIn).values(expires=datetime.now(UTC)))
        assert ann.get("/account", follow_redirects=False).status_code == 303

    def test_who_takes_over_a_number_takes_over_nothing(self, both, post):
        """Go through the whole sequence in which one person once ended up in another's account."""
        with TestClient(both, base_url=HOME) as ann:
            eve = TestClient(both, base_url=HOME)
            sign_in(eve, post, "eve@example.org")
            old = dict(eve.cookies)
            eve.post("/subscription", data={"frequency": "daily", "form_token": form_token(eve, "/account")})
            site = both.state.site
            with site.mailer() as mailer:
                assert send_digest(site.store, mailer, site.tokens, HOME, "daily").sent == 1
            stop = post.got[-1][1]["List-Unsubscribe"].strip("<>").removeprefix(HOME)
            eve.post("/account/delete", data={"form_token": form_token(eve, "/account"), "sure": "1"})
            for email in ("ann@example.org", "bo@example.org"):
                sign_in(ann, post, email)
                ann.post("/subscription", data={"frequency": "daily", "form_token": form_token(ann, "/account")})
            eve.cookies.update(old)
            for path in ("/account", "/account/export.json", "/reading-list", "/account/reading-list.bib"):
                answer = eve.get(path, follow_redirects=False)
                assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={quote(path, '')}")
            data = {"form_token": form_token(eve, "/sign-in"), "sure": "1"}
            assert eve.post("/account/delete", data=data, follow_redirects=False).status_code == 303
            assert "had ended already" in eve.post(stop).text
            assert "Signed in as bo@example.org" in ann.get("/account").text
            assert "You get the daily digest" in ann.get("/account").text
            ids = [site.people.of_email(f"{name}@example.org") for name in ("ann", "bo")]
            assert [site.people.subscription(person) for person in ids] == [("daily", True)] * 2

    @pytest.mark.parametrize("email", ["", "nobody", "a@b", "a@b.org\nBcc: c@d.org", "x" * 300 + "@b.org"])
    def test_a_bad_address_is_said_to_be_one(self, client, post, email):
        answer = client.post("/sign-in", data={"email": email, "form_token": form_token(client, "/sign-in")})
        assert answer.status_code == 400
        assert not post.got

    def test_whoever_asks_for_too_many_mails_locks_nobody_out(self, client, app, post):
        token = form_token(client, "/sign-in")
        for _ in range(4):
            client.post("/sign-in", data={"email": "ann@example.org", "form_token": token})
        assert len(post.got) == 3
        for i in range(30):
            client.post("/sign-in", data={"email": f"p{i}@example.org", "form_token": token})
        for _ in range(30):
            client.post("/sign-in", data={"email": "ann@example.org", "form_token": token})
        assert len(post.got) == 5
        ann = TestClient(app, base_url=HOME, client=("192.0.2.7", 4711))
        assert sign_in(ann, post).status_code == 303

    @pytest.mark.parametrize(("trusted", "sent"), [((), 6), (("198.51.100.0/24",), 6), (("testclient",), 0)])
    def test_nobody_takes_another_address_by_a_header(self, tmp_path, post, trusted, sent):
        settings = Settings(base_url=HOME, feed=str(tmp_path / "b.db"), smtp=post.url, meaning=False, digests=False)
        if not sent:
            with pytest.raises(ValueError, match="trusted_proxies"):
                dataclasses.replace(settings, trusted_proxies=trusted)
            return
        app = create_app(dataclasses.replace(settings, trusted_proxies=trusted))
        with TestClient(app, base_url=HOME, client=("192.0.2.7", 1)) as client:
            token = form_token(client, "/sign-in")
            for i in range(9):
                data = {"email": f"p{i}@example.org", "form_token": token}
                client.post("/sign-in", data=data, headers={"X-Forwarded-For": f"203.0.113.{i}"})
        assert len(post.got) == sent

    def test_a_trusted_proxy_says_who_asks(self, tmp_path, post):
        settings = Settings(base_url=HOME, feed=str(tmp_path / "b.db"), smtp=post.url, meaning=False, digests=False)
        app = create_app(dataclasses.replace(settings, trusted_proxies=("127.0.0.1", "10.0.0.0/8")))
        with TestClient(app, base_url=HOME, client=("127.0.0.1", 1)) as client:
            token = form_token(client, "/sign-in")
            for i in range(9):  # the last that none of ours wrote is believed, what a client put before it isn't
                data = {"email": f"p{i}@example.org", "form_token": token}
                client.post("/sign-in", data=data, headers={"X-Forwarded-For": f"203.0.113.{i}, 192.0.2.7, 10.1.1.1"})
            assert len(post.got) == 6
            data = {"email": "ann@example.org", "form_token": token}
            client.post("/sign-in", data=data, headers={"X-Forwarded-For": "192.0.2.8"})
            assert len(post.got) == 7

    def test_mails_are_limited(self, client, post):
        token = form_token(client, "/sign-in")
        ask = lambda i: client.post("/sign-in", data={"email": f"p{i}@example.org", "form_token": token})  # noqa: E731
        answers = [ask(i) for i in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert len(post.got) == 6

    def test_a_mail_server_that_is_away_is_said_to_be(self, client, post, site, monkeypatch):
        gone = dataclasses.replace(site.settings, smtp="smtp://127.0.0.1:9?starttls=no")
        monkeypatch.setattr(site, "settings", gone)
        answer = client.post("/sign-in", data={"email": "a@b.org", "form_token": form_token(client, "/sign-in")})
        assert answer.status_code == 503

    def test_a_forged_session_is_nobody(self, client, site):
        for value in ("x", site.tokens.make("form", {"person": 1}), "0" * 4000):
            client.cookies.set("paperworks_session", value)
            assert client.get("/account", follow_redirects=False).status_code == 303


class TestForms:
    @pytest.mark.parametrize(
        "path",
        [
            "/sign-in",
            "/sign-out",
            "/subscribe",
            "/subscription",
            "/papers/1/vote",
            "/papers/1/keep",
            "/searches",
            "/searches/1/delete",
            "/account/delete",
        ],
    )
    def test_no_write_goes_through_without_a_token_of_this_browser(self, app, ann, path):
        stranger = TestClient(app, base_url=HOME)
        for token in ("", "x", form_token(stranger, "/sign-in")):
            answer = ann.post(path, data={"form_token": token, "email": "a@b.org", "q": "noise", "sure": "1"})
            assert answer.status_code == 400
            assert "this form is too old" in answer.text.lower()
        assert ann.get("/account").status_code == 200


class TestPapers:
    def test_a_vote_is_given_and_taken_back(self, ann, site):
        token = form_token(ann, "/account")
        number = ann.get("/api/papers/dpm-solver").json()["id"]
        data = {"form_token": token, "wanted": 1, "next": "/paper/dpm-solver"}
        answer = ann.post(f"/papers/{number}/vote", data=data, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/paper/dpm-solver")
        assert "▲ 1" in ann.get("/paper/dpm-solver").text
        part = ann.post(f"/papers/{number}/vote", data={**data, "wanted": 0}, headers={"HX-Request": "true"}).text
        assert "▲ 0" in part
        assert "<html" not in part

    def test_the_reading_list_is_kept_and_exported(self, ann):
        number = ann.get("/api/papers/dpm-solver").json()["id"]
        ann.post(f"/papers/{number}/keep", data={"form_token": form_token(ann, "/account"), "wanted": 1})
        assert "DPM-Solver" in ann.get("/reading-list").text
        assert "eprint = {2206.00927}" in ann.get("/account/reading-list.bib").text

    @pytest.mark.parametrize("path", ["/papers/999999/vote", "/papers/1/burn", f"/papers/{2**70}/vote"])
    def test_there_is_no_such_paper(self, ann, path):
        assert ann.post(path, data={"form_token": form_token(ann, "/account")}).status_code == 404


class TestSearches:
    def test_a_search_is_saved_and_forgotten(self, ann):
        ann.post("/searches", data={"q": "score model", "form_token": form_token(ann, "/account")})
        page = ann.get("/account").text
        assert "score model" in page
        assert "/search.atom?q=score+model" in page
        number = re.search(r"/searches/(\d+)/delete", page)[1]
        ann.post(f"/searches/{number}/delete", data={"form_token": form_token(ann, "/account")})
        assert "score model" not in ann.get("/account").text

    @pytest.mark.parametrize("q", ["", "-noise", "x" * 301])
    def test_what_is_no_search_is_not_saved(self, ann, q):
        assert ann.post("/searches", data={"q": q, "form_token": form_token(ann, "/account")}).status_code == 400


class TestDigest:
    def subscribe(self, client, post, frequency="weekly"):
        data = {"email": "bo@example.org", "frequency": frequency, "form_token": form_token(client, "/subscribe")}
        client.post("/subscribe", data=data)
        return link_in(post.got[-1][1])

    def test_subscribe_confirm_and_unsubscribe_at_one_click(self, client, post, site):
        link = self.subscribe(client, post)
        with site.store.session() as session:
            assert session.query(Person).count() == 0  # nothing is kept of who didn't confirm
        assert "You are subscribed" in client.post(link, data={"form_token": form_token(client, link)}).text
        people = People(site.store)
        bo = people.of_email("bo@example.org")
        assert people.subscription(bo) == ("weekly", True)
        with site.mailer() as mailer:
            assert send_digest(site.store, mailer, site.tokens, HOME, "weekly").sent == 1
        message = post.got[-1][1]
        stop = message["List-Unsubscribe"].strip("<>").removeprefix(HOME)
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        program = TestClient(client.app, base_url=HOME)  # a mail program: no cookies, no token of a form
        assert program.get(stop).status_code == 200
        assert people.subscription(bo) is not None
        assert program.post(stop, data={"List-Unsubscribe": "One-Click"}).status_code == 200
        assert people.subscription(bo) is None
        assert program.post(stop).status_code == 200
        again = client.post(link, data={"form_token": form_token(client, "/subscribe")})
        assert again.status_code == 400  # an old link in the mailbox subscribes nobody anew

    def test_wrong_links_do_nothing(self, client, site):
        token = site.tokens.make("confirm", {"email": "a@b.org", "frequency": "daily"})
        for path in ("/confirm/x", "/unsubscribe/x", f"/unsubscribe/{token}", f"/sign-in/{token}"):
            assert client.get(path).status_code == 400
            assert client.post(path, data={"form_token": form_token(client, "/sign-in")}).status_code == 400

    def test_who_is_signed_in_changes_the_digest(self, ann, site):
        for frequency in ("daily", "weekly"):
            ann.post("/subscription", data={"frequency": frequency, "form_token": form_token(ann, "/account")})
            assert f"You get the {frequency} digest" in ann.get("/account").text
        ann.post("/subscription", data={"frequency": "", "form_token": form_token(ann, "/account")})
        assert "You get no digest" in ann.get("/account").text

    def test_the_server_sends_what_is_due_by_itself(self, tmp_path, post):
        settings = Settings(base_url=HOME, feed=str(tmp_path / "feed.db"), smtp=post.url, meaning=False, digests=False)
        app = create_app(settings)
        with TestClient(app, base_url=HOME):
            site = app.state.site
            bo = site.people.of_email("bo@example.org")
            site.people.subscribe(bo, "daily")
            site.people.confirm(bo)
            for _ in range(2):
                site.send_digests(datetime.now(UTC).replace(hour=12) + timedelta(days=1))
            assert post.addresses() == ["bo@example.org"]
            site.send_digests(datetime.now(UTC).replace(hour=5) + timedelta(days=2))  # too early in the day
            assert post.addresses() == ["bo@example.org"]
            with site.store.session() as session:
                assert [send.state for send in session.query(Send)] == ["sent"]

    def test_a_frequency_that_is_none_is_refused(self, client):
        data = {"email": "a@b.org", "frequency": "hourly", "form_token": form_token(client, "/subscribe")}
        assert client.post("/subscribe", data=data).status_code == 422


class TestAccount:
    def test_all_that_is_kept_is_exported_and_deleted(self, ann, site):
        token = form_token(ann, "/account")
        for path, data in (("/papers/1/vote", {}), ("/papers/2/keep", {}), ("/searches", {"q": "noise"})):
            ann.post(path, data={**data, "form_token": token})
        ann.post("/subscription", data={"frequency": "daily", "form_token": token})
        export = json.loads(ann.get("/account/export.json").text)
        assert export["email"] == "ann@example.org"
        assert [len(export[name]) for name in ("votes", "reading_list", "saved_searches")] == [1, 1, 1]
        assert ann.post("/account/delete", data={"form_token": token}).status_code == 400
        assert "deleted" in ann.post("/account/delete", data={"form_token": token, "sure": "1"}).text
        assert ann.get("/account", follow_redirects=False).status_code == 303
        with site.store.engine.connect() as connection:
            for table in ("people", "votes", "reading_list", "saved_searches", "subscriptions", "sends"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
