import re
import threading
import time
from datetime import UTC, datetime
from urllib.parse import quote

import defusedxml.ElementTree as ET
import pytest
from starlette.testclient import TestClient

from paperworks.feed import Entry
from paperworks.feed.schema import Activity
from paperworks.feed.trending import trending
from paperworks.web import Settings, create_app
from paperworks.web.mathematics import mathematics
from paperworks.web.protection import MAX_BODY
from site_visitor import EVIL, HOME, embed


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class TestLists:
    def test_a_fresh_site_has_our_papers_and_the_evidence_of_one(self, client):
        pages = [client.get("/", params={"page": page}).text for page in (1, 2, 3)]
        assert sum(page.count('<article class="card') for page in pages) == 52
        page = client.get("/paper/dpm-solver").text
        assert "claims" in page
        assert 'class="verdict holds"' in page
        assert "/figures/dpm-solver/c1-orders.desk.svg" in page
        places = [page.index(f'id="{part}"') for part in ("verdict", "figure-0", "claims", "usage", "peers")]
        assert places == sorted(places)
        assert 'from</span><span class="w"> </span><span class="nn">paperworks.diffusion' in page

    def test_searching_for_what_a_paper_does_finds_it_first(self, client):
        page = client.get("/search", params={"q": "sample in ten steps"}).text
        assert re.search(r'<h2><a href="([^"]+)"', page)[1] == "/paper/dpm-solver"

    def test_what_was_found_is_shared_as_pictures(self, client):
        card, drawn, badge = (client.get(path) for path in ("/cards/pndm.png", "/cards/pndm.svg", "/badges/pndm.svg"))
        assert card.headers["content-type"] == "image/png"
        assert (drawn.headers["content-type"], badge.headers["content-type"]) == ("image/svg+xml", "image/svg+xml")
        assert "sandbox" in drawn.headers["content-security-policy"]
        assert badge.headers["cross-origin-resource-policy"] == "cross-origin", "pages elsewhere show it"
        assert "claims hold" in badge.text
        assert '/cards/pndm.png"' in client.get("/paper/pndm").text
        again = client.get("/badges/pndm.svg", headers={"If-None-Match": badge.headers["etag"]})
        assert again.status_code == 304

    def test_what_can_be_heard_is_played(self, client):
        page = client.get("/paper/signaltrain").text
        player = re.search(
            r'<span id="(sound-1)">(.+?)</span><audio controls [^>]*src="([^"]+)" aria-labelledby="\1">', page
        )
        assert player[2] == "Plucked strings, dry"
        answer = client.get(player[3])
        assert answer.headers["content-type"].startswith("audio/")
        assert answer.content.startswith(b"RIFF")
        assert "media-src 'self'" in client.get("/").headers["content-security-policy"]

    def test_lists_show_the_figure_of_what_a_paper_is_known_for(self, client):
        page = client.get("/search", params={"q": "sample in ten steps"}).text
        assert 'src="/figures/dpm-solver/c1-orders.desk.svg" alt=""' in page

    @pytest.mark.parametrize("path", ["/day/2026-11-25", "/week/2026-W48", "/month/2026-11", "/fields/cs.LG"])
    def test_a_paper_is_in_the_lists_of_its_time_and_field(self, client, path):
        page = client.get(path).text
        assert page.count('<article class="card') == 1
        assert "/paper/2611.00001" in page

    def test_lists_lead_to_those_before_and_after(self, client):
        page = client.get("/month/2026-10").text
        assert 'rel="next" href="/month/2026-11"' in page
        assert 'rel="prev" href="/month/2025-01"' in page

    @pytest.mark.parametrize(
        "path",
        [
            "/day/2026-02-30",
            "/day/x",
            "/week/2026-W60",
            "/month/2026-13",
            "/trending/year",
            "/fields/none",
            "/fields/a%00",
            "/paper/none",
            "/paper/999999999999999999",
            "/paper/a%00b",
            "/figures/dpm-solver/..%2f..%2fREADME.md",
            "/cards/none.png",
            "/badges/none.svg",
            "/nowhere",
        ],
    )
    def test_what_is_not_there_is_said_to_be_so(self, client, path):
        answer = client.get(path)
        assert answer.status_code == 404
        assert 'role="alert"' in answer.text

    def test_versions_withdrawals_and_undated_papers_show(self, client, site):
        first, second = datetime(2026, 10, 1, 8, tzinfo=UTC), datetime(2026, 11, 20, 8, tzinfo=UTC)
        site.store.add(
            [
                Entry(
                    title="Taken back",
                    arxiv_id="2610.00009v2",
                    published=first,
                    withdrawn=True,
                    versions={1: first, 2: second},
                    comment="Withdrawn: <b>wrong</b>",
                    journal_ref="J. Noise 3",
                ),
                Entry(title="Sine die", doi="10.1000/undated"),
            ]
        )
        assert "Sine die" in client.get("/paper/10.1000/undated").text
        page = client.get("/paper/2610.00009").text
        for text in ("withdrawn", "v1 1 October 2026", "v2 20 November 2026", "&lt;b&gt;wrong", "In J. Noise 3"):
            assert text in page
        assert "withdrawn" in client.get("/month/2026-10").text
        assert client.get("/api/papers/2610.00009").json()["versions"].keys() == {"1", "2"}
        found = client.get("/search", params={"q": "sine die"}).text
        assert "undated" in found
        assert "Sine die" in client.get("/search.atom", params={"q": "sine die"}).text
        assert "undated" in client.get(re.search(r'<h2><a href="([^"]+)"', found)[1]).text
        assert client.get("/api/search", params={"q": "sine die"}).json()["papers"][0]["published"] is None

    def test_a_search_that_cannot_be_read_says_why(self, client):
        answer = client.get("/search", params={"q": "-noise"})
        assert answer.status_code == 400
        assert "only words to leave out" in answer.text
        assert client.get("/search", params={"q": "x" * 301}).status_code == 400

    def test_pages_of_a_list_and_of_a_search_turn(self, client, site):
        now = datetime(2026, 11, 26, tzinfo=UTC)
        site.store.add([Entry(title=f"Lattice study {i}", published=now) for i in range(60)])
        seen = []
        for page in (1, 2, 3):
            text = client.get("/search", params={"q": "lattice", "page": page}).text
            seen += [part.split('"')[0] for part in text.split('<h2><a href="')[1:]]
            assert ('rel="next"' in text) == (page < 3)
        assert len(seen) == len(set(seen)) == 60

    def test_filters_narrow_a_search(self, client):
        assert "/paper/2611.00001" in client.get("/search", params={"q": "noise", "since": "366d"}).text
        page = client.get("/search", params={"q": "noise", "field": "diffusion"}).text
        assert "/paper/2611.00001" not in page
        assert "/paper/ptq4dm" in page


class TestSafety:
    @pytest.mark.parametrize("path", ["/", "/search?q=noise", "/paper/2611.00001", "/fields/cs.LG", "/newest.atom"])
    def test_what_papers_say_is_never_markup(self, client, path):
        text = client.get(path).text
        assert "alert(1)" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text

    def test_what_is_asked_for_is_never_markup(self, client):
        evil = "<script>alert(1)</script>"
        for path in (
            f"/search?q={quote(evil)}",
            f"/day/{quote(evil)}",
            f"/paper/{quote(evil)}",
            f"/sign-in/{quote(evil)}",
        ):
            assert "<script>alert" not in client.get(path).text

    def test_links_that_run_something_are_left_out(self, client, site):
        site.store.add(
            [Entry(title="Evil links", slug="evil", links={"code": "javascript:alert(1)", "data": "https://a.b"})]
        )
        with site.store.engine.begin() as connection:  # as if it had come in before links were checked
            connection.exec_driver_sql(
                """UPDATE papers SET links='{"code": "javascript:alert(1)"}' WHERE slug='evil'"""
            )
        assert "javascript:" not in client.get("/paper/evil").text
        assert "javascript:" not in client.get("/api/papers/evil").text

    @pytest.mark.parametrize("path", ["/", "/static/style.css", "/nowhere", "/api/papers", "/sign-in"])
    def test_every_answer_is_protected(self, client, path):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"

    def test_pages_for_strangers_set_no_cookie_and_carry_no_token(self, client):
        for path in ("/", "/paper/dpm-solver", "/search?q=noise"):
            answer = client.get(path)
            assert "set-cookie" not in answer.headers
            assert "form_token" not in answer.text

    def test_a_name_that_points_here_from_elsewhere_is_refused(self, client):
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400

    def test_huge_bodies_are_refused(self, client):
        assert client.post("/sign-in", content=b"x" * (MAX_BODY + 1)).status_code == 413

    @pytest.mark.parametrize(
        "body", [b"\xff\xfe=%ff&email=%00", b"{", b"email=a&email=b", b"form_token=" + b"a" * 2000]
    )
    def test_bodies_that_are_no_forms_are_errors_of_use(self, client, body):
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "application/json"):
            assert 400 <= client.post("/sign-in", content=body, headers={"Content-Type": kind}).status_code < 500

    def test_a_failure_of_ours_tells_nothing_and_is_protected(self, app, monkeypatch):
        with TestClient(app, base_url=HOME, raise_server_exceptions=False) as client:
            monkeypatch.setattr(app.state.site.store, "count", lambda: 1 / 0)
            answer = client.get("/about")
        assert answer.status_code == 500
        assert "division" not in answer.text
        assert "Content-Security-Policy" in answer.headers


class TestSharing:
    def test_a_link_to_a_paper_looks_like_something(self, client):
        text = client.get("/paper/dpm-solver").text
        for line in (
            '<meta property="og:title" content="DPM-Solver: A Fast ODE Solver',
            '<meta property="og:type" content="article">',
            f'<meta property="og:url" content="{HOME}/paper/dpm-solver">',
            f'<meta property="og:image" content="{HOME}/cards/dpm-solver.png">',
            '<meta property="og:description" content="',
            f'<link rel="canonical" href="{HOME}/paper/dpm-solver">',
            '<meta name="citation_title" content="DPM-Solver',
            '<meta name="citation_author" content="Cheng Lu">',
            '<meta name="citation_publication_date" content="2022/06/01">',
            '<meta name="citation_arxiv_id" content="2206.00927">',
            '<meta name="citation_pdf_url" content="https://arxiv.org/pdf/2206.00927">',
        ):
            assert line in text, line
        image = re.search(f'og:image" content="{HOME}([^"]+)', text)[1]
        assert client.get(image).headers["content-type"] == "image/png"

    def test_what_papers_say_is_no_markup_of_a_head_either(self, client, site):
        site.store.add([Entry(title='A "quoted" <b>title</b>', arxiv_id="2611.00009", abstract='"><script>alert(1)')])
        text = client.get("/paper/2611.00009").text
        assert 'content="A &#34;quoted&#34; &lt;b&gt;title&lt;/b&gt;"' in text
        assert "<script>alert" not in text

    def test_robots_find_every_paper(self, client, site, monkeypatch):
        monkeypatch.setattr("paperworks.web.sitemap.PER_PART", 30)
        assert f"Sitemap: {HOME}/sitemap.xml" in client.get("/robots.txt").text
        name = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
        parts = [found.text for found in ET.fromstring(client.get("/sitemap.xml").content).iter(name)]
        assert parts == [f"{HOME}/sitemap-0.xml", f"{HOME}/sitemap-1.xml"]
        pages = [page.text for part in parts for page in ET.fromstring(client.get(part).content).iter(name)]
        assert f"{HOME}/paper/2611.00001" in pages
        assert sum("/paper/" in page for page in pages) == site.store.count() == len(set(pages)) - 8
        for page in pages:
            assert client.get(page.removeprefix(HOME)).status_code == 200
        assert client.get("/sitemap-9.xml").status_code == 200
        assert client.get("/favicon.ico").headers["content-type"] in ("image/x-icon", "image/vnd.microsoft.icon")

    @pytest.mark.parametrize("path", ["/abs/2206.00927", "/abs/2206.00927v3", "/abs/arXiv:2206.00927"])
    def test_arxiv_s_own_addresses_lead_to_a_paper(self, client, path):
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/paper/dpm-solver")
        assert client.get("/paper/2206.00927v3").status_code == 200
        assert client.get("/abs/2206.99999").status_code == client.get("/abs/%2f%2fevil.example").status_code == 404


class TestText:
    def test_mathematics_can_be_read_and_typeset(self, client, site):
        site.store.add([Entry(title=r"An $\mathcal{O}(n)$ <b>method</b>", arxiv_id="2611.00009", abstract="$5 to $10")])
        text = client.get("/paper/2611.00009").text
        assert r'An <span class="math" data-tex="\mathcal{O}(n)">𝒪(n)</span> &lt;b&gt;method&lt;/b&gt;</h1>' in text
        assert "<title>An 𝒪(n) &lt;b&gt;method&lt;/b&gt; – Daily Papers</title>" in text
        assert '<p dir="auto">$5 to $10</p>' in text

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (r"a $x$, $y$", ["x", "y"]),
            (r"\(x\) and \[y\] and $$z$$", ["x", "y", "z"]),
            (r"costs $5, or $ 6 $", []),
            (r"\$5 and \$6", []),
            ("$" * 9, []),
            ("$x", []),
            ("$" + "x" * 600 + "$", []),
            (r'$"onmouseover=alert(1)$', ["&#34;onmouseover=alert(1)"]),
            (r"$\frac{$", [r"\frac{"]),
            ("$" + "{" * 400 + "$", ["{" * 400]),
        ],
    )
    def test_what_is_mathematics(self, text, shown):
        assert re.findall('data-tex="([^"]*)"', mathematics(text)) == shown

    def test_thousands_of_authors_fold(self, client, site):
        site.store.add([Entry(title="Big", arxiv_id="2611.00009", authors=[f"Author {i}" for i in range(3000)])])
        text = client.get("/paper/2611.00009").text
        assert "Author 9 and 2,990 more authors" in re.sub("<.*?>", "", text)
        assert "</summary>Author 10, Author 11" in text
        assert text.count('name="citation_author"') == 200


class TestInvitation:
    def test_the_front_page_begins_with_it(self, client, post):
        page = client.get("/").text
        assert page.index("Get trending papers in your inbox") < page.index("<h1>")
        assert "form_token" not in page
        data = {"email": "bo@example.org", "frequency": "weekly"}
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": HOME}):
            assert "Look into your mail" in client.post("/subscribe", data=data, headers=headers).text
        assert post.addresses() == ["bo@example.org"] * 2
        assert "Get trending papers in your inbox" not in client.get("/?page=2").text

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "null"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Origin": HOME},
            {"Sec-Fetch-Site": "same-site"},
            {"Referer": HOME},
        ],
    )
    def test_no_other_site_sends_it_and_an_old_browser_is_asked_again(self, client, post, headers):
        answer = client.post("/subscribe", data={"email": "bo@example.org", "frequency": "weekly"}, headers=headers)
        assert answer.status_code == 400
        assert not post.got
        assert 'value="bo@example.org"' in answer.text
        assert 'value="weekly" checked' in answer.text
        token = re.search(r'name="form_token" value="([^"]+)"', answer.text)[1]
        client.post("/subscribe", data={"email": "bo@example.org", "form_token": token}, headers=headers)
        assert post.addresses() == ["bo@example.org"]


def test_the_privacy_note_is_a_click_away_and_says_how_long(client):
    assert '<a href="/privacy">Privacy</a>' in client.get("/").text
    text = client.get("/privacy").text
    for part in ("90 days", "30 days", "hash", "deletes it at once", "whoever runs this site"):
        assert part in text


class TestFeeds:
    @pytest.mark.parametrize(
        "path",
        [
            "/newest",
            "/trending/week",
            "/fields/diffusion",
            "/fields/cs.LG",
            "/day/2026-11-25",
            "/week/2026-W48",
            "/month/2026-11",
            "/search",
        ],
    )
    def test_every_list_is_a_feed(self, client, path):
        query = "?q=noise" if path == "/search" else ""
        atom, rss = client.get(f"{path}.atom{query}"), client.get(f"{path}.rss{query}")
        assert atom.headers["content-type"].startswith("application/atom+xml")
        entries = ET.fromstring(atom.text).findall("{http://www.w3.org/2005/Atom}entry")
        items = ET.fromstring(rss.text).findall("channel/item")
        assert len(entries) == len(items) > 0
        assert all(item.find("link").text.startswith(f"{HOME}/paper/") for item in items)


class TestReads:
    def test_a_reader_counts_once_a_day_whatever_is_cached(self, client, site):
        for _ in range(3):
            client.get("/paper/2611.00001")
        site._reads.flush()
        with site.store.session() as session:
            counts = [row.count for row in session.query(Activity).filter_by(kind="read")]
        assert counts == [1]

    def test_runs_of_claims_make_a_paper_trend(self, client, site):
        def run():
            with site.store.session() as session:
                return {row.paper_id for row in session.query(Activity).filter_by(kind="run")}

        wait_for(lambda: len(run()) > 3)
        [new, first, *_] = [paper for paper, _ in trending(site.store, "month")]  # what came in now, then what was run
        assert new not in run()
        assert first in run()


class TestMeaning:
    def test_similar_papers_show_once_the_model_is_there(self, tmp_path):
        app = create_app(Settings(base_url=HOME, feed=str(tmp_path / "feed.db")), embed=embed)
        with TestClient(app, base_url=HOME) as client:
            wait_for(lambda: app.state.site.meaning is not None)
            assert "Similar papers" in client.get("/paper/dpm-solver").text
            assert len(client.get("/api/papers/dpm-solver/similar").json()["papers"]) == 10


def test_a_page_that_many_ask_for_at_once_is_made_once(client, site, monkeypatch):
    made = []
    original = site._body

    def slow(*arguments):
        made.append(1)
        time.sleep(0.2)
        return original(*arguments)

    monkeypatch.setattr(site, "_body", slow)
    threads = [threading.Thread(target=client.get, args=("/about",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_the_site_runs_on_postgresql_as_well(empty_postgresql):
    app = create_app(Settings(base_url=HOME, feed=empty_postgresql, meaning=False), embed=embed)
    with TestClient(app, base_url=HOME) as client:
        app.state.site.store.add([EVIL])
        found = client.get("/search", params={"q": "sample in ten steps"}).text
        assert re.search(r'<h2><a href="([^"]+)"', found)[1] == "/paper/dpm-solver"
        for path in ("/", "/month/2026-11", "/trending/week", "/fields/cs.LG", "/paper/2611.00001", "/newest.atom"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "alert(1)" in answer.text
        assert client.get("/paper/a%00b").status_code == client.get("/fields/a%00").status_code == 404
        assert client.get("/search", params={"q": "a\x00b"}).status_code == 200
