import re

import pytest
from starlette.testclient import TestClient

from paperworks.feed.api_tokens import MOST, ApiTokens
from paperworks.web import Settings, create_app
from site_visitor import HOME, embed, form_token, sign_in


@pytest.fixture
def ann(client, post):
    sign_in(client, post)
    return client


def make(client, name="my laptop"):
    answer = client.post("/account/tokens", data={"name": name, "form_token": form_token(client, "/account")})
    return answer, re.search(r"<pre>(pw_[\w-]{43})</pre>", answer.text)


def test_a_token_lets_a_script_act_until_it_is_ended(ann, site):
    answer, found = make(ann)
    assert answer.headers["cache-control"] == "no-store"
    token = found[1]
    assert token not in ann.get("/account").text, "it is shown once"
    cookies = dict(ann.cookies)
    ann.cookies.clear()
    auth = {"Authorization": f"Bearer {token}"}
    assert ann.put("/api/me/reading-list/2206.00927", headers=auth).status_code == 204
    listed = ann.get("/api/me/reading-list", headers=auth)
    assert [paper["title"][:10] for paper in listed.json()["papers"]] == ["DPM-Solver"]
    assert listed.headers["cache-control"] == "no-store"
    assert ann.delete("/api/me/reading-list/dpm-solver", headers=auth).status_code == 204
    assert ann.get("/api/me/reading-list", headers=auth).json()["papers"] == []
    assert ann.put("/api/me/votes/pndm", headers=auth).status_code == 204
    assert len(ann.get("/api/me/votes", headers=auth).json()["papers"]) == 1
    assert ann.delete("/api/me/votes/pndm", headers=auth).status_code == 204
    made = ann.post("/api/me/searches", params={"q": 'author:"Cheng  Lu"'}, headers=auth)
    assert (made.status_code, made.json()["query"]) == (201, 'author:"Cheng Lu"')
    assert ann.get("/api/me/searches", headers=auth).json() == [made.json()]
    assert ann.delete(f"/api/me/searches/{made.json()['id']}", headers=auth).status_code == 204
    assert ann.put("/api/me/votes/none", headers=auth).status_code == 404
    assert ann.post("/api/me/searches", params={"q": "-noise"}, headers=auth).status_code == 400
    assert ann.get("/account", headers=auth, follow_redirects=False).status_code == 303, "a token opens no page"

    ann.cookies.update(cookies)
    assert "last used" in ann.get("/account").text
    (known,) = ApiTokens(site.store).of(site.people.of_email("ann@example.org"))
    ann.post(f"/account/tokens/{known.id}/end", data={"form_token": form_token(ann, "/account")})
    assert ann.get("/api/me/reading-list", headers=auth).status_code == 401


def test_without_a_token_nothing_is_given(client, ann):
    for headers in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer pw_x"}, {"Authorization": "Bearer x"}):
        answer = client.get("/api/me/reading-list", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ann.put("/api/me/votes/pndm").status_code == 401, "a session is no token, or another site could use it"


def test_guesses_are_limited(client):
    codes = {client.get("/api/me/votes", headers={"Authorization": f"Bearer pw_{n}"}).status_code for n in range(25)}
    assert codes == {401, 429}


def test_tokens_are_bounded_and_end_with_their_owner_alone(ann, site):
    tokens, me = ApiTokens(site.store), site.people.of_email("ann@example.org")
    bo = site.people.of_email("bo@example.org")
    mine = [tokens.make(me, f"token {n}") for n in range(MOST)]
    answer, found = make(ann)
    assert answer.status_code == 400
    assert not found
    assert make(ann, "  ")[0].status_code == 400
    tokens.end(bo, tokens.of(me)[0].id)
    assert tokens.person(mine[0]) == me
    site.people.delete(me)
    assert tokens.person(mine[0]) is None
    with pytest.raises(LookupError, match="no person"):
        tokens.make(me, "later")


def test_the_api_s_page_tells_of_it(client):
    page = client.get("/api").text
    assert "PUT /api/me/reading-list/{key}" in page
    assert "/account#tokens" in page


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_no_column_can_hold_is_an_error_of_whoever_asks(kind, request, tmp_path, post):
    """PostgreSQL holds no NUL and smaller numbers than SQLite, which holds smaller ones than Python."""
    feed = str(tmp_path / "feed.db") if kind == "sqlite" else request.getfixturevalue("empty_postgresql")
    settings = Settings(base_url=HOME, feed=feed, smtp=post.url, sender="p@example.org", meaning=False, digests=False)
    app = create_app(settings, embed=embed)
    with TestClient(app, base_url=HOME, raise_server_exceptions=False) as client:
        sign_in(client, post)
        form = {"form_token": form_token(client, "/account"), "wanted": "1"}
        token = ApiTokens(app.state.site.store).make(1, "a script")
        script = {"Authorization": f"Bearer {token}"}
        answers = [
            client.get("/paper/999999999999999"),
            client.get("/api/papers/999999999999999"),
            client.get("/paper/10.1000/x%00y"),
            client.post("/account/tokens", data={**form, "name": "a\0b"}),
            client.post("/account/tokens", data={**form, "name": "a \u202e b"}),
            client.post("/searches", data={**form, "q": "a\0b"}),
            client.post("/evidence/a%00b/delete", data=form),
            client.post("/api/me/searches?q=a%00b", headers=script),
            *(
                answer
                for number in (2**40, 2**70, -(2**70))
                for answer in (
                    client.post(f"/searches/{number}/delete", data=form),
                    client.post(f"/account/tokens/{number}/end", data=form),
                    client.post(f"/papers/{number}/vote", data=form),
                    client.delete(f"/api/me/searches/{number}", headers=script),
                )
            ),
        ]
        assert [answer.status_code for answer in answers if answer.status_code >= 500] == []
        assert [answer.status_code for answer in answers[:5]] == [404, 404, 404, 400, 400]
        assert not [answer for answer in answers if "psycopg" in answer.text or "SELECT" in answer.text]
