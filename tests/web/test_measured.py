import json

import pytest

from paperworks.evidence import read_evidence
from paperworks.feed.submissions import submission
from site_visitor import form_token, sign_in


@pytest.fixture
def ann(client, post):
    sign_in(client, post)
    return client


@pytest.fixture
def data():
    return json.loads(submission("dpm-solver", read_evidence("dpm-solver")))


def send(client, data):
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    token = form_token(client, "/account")
    files = {"file": ("evidence.json", body)}
    return client.post("/evidence", data={"form_token": token}, files=files, follow_redirects=False)


def test_what_a_reader_measured_is_shown_beside_ours(ann, data):
    for entry in data["entries"]:
        entry["machine"]["cpu"] = "A <script>alert(1)</script> machine"
    answer = send(ann, data)
    assert (answer.status_code, answer.headers["location"]) == (303, "/paper/dpm-solver#claims")
    page = ann.get("/paper/dpm-solver").text
    assert "Holds on 2 of 2 machines" in page
    assert "A &lt;script&gt;alert(1)&lt;/script&gt; machine" in page
    assert "<script>alert" not in page
    assert "ann@example.org" not in page
    assert "torch 2.13" in page
    assert json.loads(ann.get("/account/export.json").text)["measured"][0]["paper"] == "dpm-solver"
    ann.post("/evidence/dpm-solver/delete", data={"form_token": form_token(ann, "/account")})
    assert "a reader" not in ann.get("/paper/dpm-solver").text


@pytest.mark.parametrize("bad", [b"{", b'{"schema": 99}', b"x" * 270_000, b"[" * 50_000])
def test_other_files_are_refused_in_a_sentence(ann, bad):
    answer = send(ann, bad)
    assert answer.status_code in (400, 413)
    if answer.status_code == 400:
        assert "Nothing was kept:" in answer.text
    assert send(ann, b" " * 290_000).status_code == 413


def test_it_takes_someone_who_signed_in_by_mail(client, data):
    assert "Sign in by mail to send it" in client.get("/paper/dpm-solver").text
    files = {"file": ("evidence.json", json.dumps(data).encode())}
    answer = client.post("/evidence", data={"form_token": "x"}, files=files, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


def test_the_evidence_of_the_week_has_a_page(client):
    page = client.get("/results/week").text
    assert "claims and races were measured" in page
    assert 'href="/results/week"' in client.get("/results").text
