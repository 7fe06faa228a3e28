import re

import pytest
from starlette.testclient import TestClient

from paperworks.feed import Entry
from paperworks.web import Settings, create_app
from site_visitor import HOME, embed, form_token, sign_in

DPM_SOLVER = b"@misc{a, title={x}, eprint={2206.00927}, archiveprefix={arXiv}}"


@pytest.fixture
def ann(client, post):
    sign_in(client, post)
    return client


def send(client, data, name="list.bib"):
    token = form_token(client, "/reading-list")
    return client.post("/reading-list/import", data={"form_token": token}, files={"file": (name, data)})


def test_a_file_of_a_reference_manager_is_taken_in(ann):
    data = DPM_SOLVER + b"\n@misc{b, title={<script>alert(1)</script>}}"
    answer = send(ann, data)
    assert "1 paper of the file is new on the list, 0 were on it" in answer.text
    assert "1 paper that the feed doesn't have" in answer.text.replace("&#39;", "'")
    assert "<script>alert" not in answer.text
    assert "DPM-Solver" in ann.get("/reading-list").text
    assert "Lu, Cheng" in ann.get("/account/reading-list.csv").text
    assert ann.get("/account/reading-list.ris").text.startswith("TY  - JOUR\nTI  - DPM-Solver")
    assert ann.get("/account/reading-list.docx").status_code == 404


def test_what_is_no_list_is_refused_in_a_sentence(ann):
    answer = send(ann, b"<html>", "list.html")
    assert answer.status_code == 400
    assert "it looks like HTML" in answer.text
    assert send(ann, b"x" * (2 << 20)).status_code == 413
    large = b"Title\n" + b"some title\n" * 6000  # more than a form has, and too many papers
    assert "at most 5,000" in send(ann, large).text


def test_a_file_takes_a_form_of_ours(ann):
    files = {"file": ("list.bib", b"@misc{a, title={x}}")}
    assert ann.post("/reading-list/import", data={"form_token": "x"}, files=files).status_code == 400
    ann.cookies.clear()
    assert ann.post("/reading-list/import", files=files, follow_redirects=False).status_code in (303, 400)


def test_what_a_paper_shows_can_be_followed(ann):
    page = ann.get("/paper/dpm-solver").text
    follow = dict(re.findall(r'name="q" value="([^"]+)".*?<button[^>]*>([^<]+)</button>', page, re.DOTALL))
    assert follow["author:&#34;Cheng Lu&#34;"] == "Cheng Lu"
    assert follow["field:diffusion"] == "diffusion"
    assert "/search?q=author%3A%22Cheng+Lu%22" in page
    token = form_token(ann, "/account")
    for query in ('author:"Cheng Lu"', "field:diffusion"):
        answer = ann.post("/searches", data={"q": query, "form_token": token, "next": "/paper/dpm-solver"})
        assert answer.status_code == 200
    account = ann.get("/account").text
    assert "author:&#34;Cheng Lu&#34;" in account
    assert "Follow this field" in ann.get("/fields/diffusion").text
    assert "Follow this search" in ann.get("/search", params={"q": "noise"}).text


def test_a_stranger_is_asked_to_sign_in_before_following(client):
    assert 'href="/sign-in?next=%2Fpaper%2Fdpm-solver"' in client.get("/paper/dpm-solver").text


def test_trending_of_one_field(client):
    page = client.get("/trending/week", params={"field": "diffusion"}).text
    assert "Trending this week in diffusion" in page
    assert "DPM-Solver" in page
    assert set(re.findall(r'href="/fields/([a-z]+)"', page)) == {"diffusion"}
    assert client.get("/trending/week", params={"field": "cs.LG"}).text.count('<article class="card') == 1
    assert client.get("/trending/week", params={"field": "<script>"}).status_code == 404
    feed = client.get("/trending/week.atom", params={"field": "diffusion"})
    assert "in diffusion" in feed.text
    assert "trending/week?field=diffusion" in feed.text


def test_more_like_the_list_by_meaning(tmp_path, post):
    settings = Settings(base_url=HOME, feed=str(tmp_path / "feed.db"), smtp=post.url, digests=False)
    with TestClient(create_app(settings, embed=embed), base_url=HOME) as client:
        sign_in(client, post)
        for _ in range(200):
            if client.app.state.site.meaning:
                break
            client.app.state.site._embed()
        send(client, DPM_SOLVER)
        page = client.get("/reading-list").text
        kept, more = page.split("More like these")
        assert "DPM-Solver" in kept
        assert more.count('<article class="card') == 5
        assert "DPM-Solver: A Fast" not in more


def test_a_long_list_has_pages_and_one_file(ann, site):
    site.store.add(Entry(title=f"Paper {n}", arxiv_id=f"2612.{n:05}") for n in range(60))
    ids = [card["id"] for page in (1, 2, 3) for card in ann.get(f"/api/papers?page={page}").json()["papers"]]
    for paper in ids[:60]:
        site.people.keep(1, paper, True)
    pages = [ann.get(f"/reading-list?page={page}").text for page in (1, 2, 3)]
    assert [page.count('<article class="card') for page in pages] == [25, 25, 10]
    assert 'rel="next" href="/reading-list?page=2"' in pages[0]
    assert 'rel="next"' not in pages[2]
    assert len(ann.get("/account/reading-list.csv").text.splitlines()) == 61
