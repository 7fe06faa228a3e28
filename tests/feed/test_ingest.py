import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select

from http_reply import reply
from paperworks.feed import FeedStore
from paperworks.feed.ingest import (
    ArxivApi,
    ArxivOai,
    ArxivSnapshot,
    Bibliography,
    HuggingFaceDaily,
    PoliteClient,
    Records,
    SavedPage,
    SourceError,
    ingest,
)
from paperworks.feed.ingest.page import parse_html
from paperworks.feed.schema import FeedPaper


@pytest.fixture
def quick():
    with PoliteClient(interval=0.0, attempts=3, timeout=5.0) as client:
        yield client


@pytest.fixture
def memory():
    return FeedStore("sqlite://")


def papers(store):
    with store.session() as session:
        session.expire_on_commit = False
        return list(session.scalars(select(FeedPaper).order_by(FeedPaper.id)))


def query_of(request):
    return {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}


def atom(numbers, total):
    entries = "".join(
        f"""<entry><id>http://arxiv.org/abs/2206.{n:05d}v2</id><title>Paper
        number {n}</title><summary> What it says. </summary><author><name>Ann Author</name></author>
        <published>2022-06-0{n}T01:00:00Z</published><updated>2022-06-09T00:00:00Z</updated>
        <arxiv:doi>10.1000/{n}</arxiv:doi><category term="cs.LG"/><category term="stat.ML"/></entry>"""
        for n in numbers
    )
    return f"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
        xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/"><opensearch:totalResults>{total}</opensearch:totalResults>
        {entries}</feed>"""


class TestArxivApi:
    def test_pages_are_read_to_the_end_and_the_next_ingest_begins_there(self, memory, serve, quick):
        asked = []

        def answer(request):
            query = query_of(request)
            asked.append(query)
            start = int(query["start"])
            reply(request, atom(list(range(1, 6))[start : start + int(query["max_results"])], 5))

        source = ArxivApi("cs.LG", since=date(2022, 6, 1), url=serve(answer), page=2, client=quick)
        assert str(ingest(memory, source)) == "5 new, 0 changed, 0 known, 0 refused"
        assert [q["start"] for q in asked] == ["0", "2", "4"]
        [paper, *_] = papers(memory)
        assert (paper.title, paper.version, paper.doi) == ("Paper number 1", 2, "10.1000/1")
        assert (paper.categories, paper.authors) == ("cs.LG stat.ML", "Ann Author")
        assert paper.published == datetime(2022, 6, 1, 1, tzinfo=UTC)
        assert str(ingest(memory, source)) == "0 new, 0 changed, 5 known, 0 refused"
        assert "submittedDate:[202206050100 TO" in asked[-1]["search_query"]

    @pytest.mark.parametrize(
        "document",
        [
            "not xml",
            '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><feed>&b;</feed>',
            '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><feed>&f;</feed>',
        ],
    )
    def test_xml_that_is_broken_or_hostile_is_an_error(self, memory, serve, quick, document):
        with pytest.raises(SourceError, match="not the XML it should be"):
            ingest(memory, ArxivApi("cs.LG", url=serve(lambda request: reply(request, document)), client=quick))

    def test_a_malformed_entry_is_skipped_and_reported(self, memory, serve, quick):
        document = atom([1, 2], 2).replace("2206.00001v2", "nonsense")
        done = ingest(memory, ArxivApi("cs.LG", url=serve(lambda request: reply(request, document)), client=quick))
        assert (done.new, done.refused) == (1, 1)
        assert "arXiv id is" in done.reasons[0]

    def test_something_else_than_a_category_is_refused(self):
        with pytest.raises(ValueError, match="category is 'cs OR all:x'"):
            ArxivApi("cs OR all:x")


def oai(numbers, token=""):
    records = "".join(
        f"""<record><header><identifier>oai:arXiv.org:2206.{n:05d}</identifier></header><metadata>
        <arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>2206.{n:05d}</id><created>2022-06-01</created>
        <authors><author><keyname>Author</keyname><forenames>Ann</forenames></author></authors>
        <title>Paper {n}</title><categories>cs.LG</categories><doi>10.1000/{n} 10.1000/other</doi>
        <abstract>What it says.</abstract></arXiv></metadata></record>"""
        for n in numbers
    )
    deleted = '<record><header status="deleted"><identifier>x</identifier></header></record>'
    return f"""<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords>{records}{deleted}
        <resumptionToken>{token}</resumptionToken></ListRecords></OAI-PMH>"""


class TestArxivOai:
    def test_a_harvest_that_broke_off_goes_on_at_its_token(self, memory, serve, quick):
        asked, broken = [], [True]

        def answer(request):
            query = query_of(request)
            asked.append(query)
            if query.get("resumptionToken") == "page-2" and broken[0]:
                reply(request, status=400)
            elif query.get("resumptionToken") == "page-2":
                reply(request, oai([3]))
            else:
                reply(request, oai([1, 2], "page-2"))

        source = ArxivOai("cs", url=serve(answer), client=quick)
        with pytest.raises(SourceError, match="400"):
            ingest(memory, source)
        assert memory.count() == 2
        broken[0] = False
        assert str(ingest(memory, source)) == "1 new, 0 changed, 0 known, 0 refused"
        assert asked[-1] == {"verb": "ListRecords", "resumptionToken": "page-2"}
        ingest(memory, source)
        assert asked[-2]["from"] == datetime.now(UTC).date().isoformat()
        assert papers(memory)[0].doi == "10.1000/1"

    def test_a_token_that_expired_begins_this_part_anew(self, memory, serve, quick):
        error = '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><error code="{}">gone</error></OAI-PMH>'
        memory.add([], state=("arxiv-oai:cs", {"token": "old", "from": "2022-06-01", "started": "2022-06-02"}))

        def answer(request):
            old = query_of(request).get("resumptionToken") == "old"
            reply(request, error.format("badResumptionToken") if old else oai([1]))

        assert ingest(memory, ArxivOai("cs", url=serve(answer), client=quick)).new == 1
        url = serve(lambda request: reply(request, error.format("noRecordsMatch")))
        assert ingest(memory, ArxivOai("math", url=url, client=quick)).new == 0
        url = serve(lambda request: reply(request, error.format("badArgument")))
        with pytest.raises(SourceError, match="badArgument: gone"):
            ingest(memory, ArxivOai("stat", url=url, client=quick))


class TestHuggingFaceDaily:
    def test_votes_and_code_come_with_the_papers_and_what_has_not_changed_is_not_sent_again(self, memory, serve, quick):
        item = {
            "paper": {
                "id": "2206.00001",
                "title": "Paper 1",
                "summary": "What it says.",
                "authors": [{"name": "Ann Author"}, {"name": "Secret", "hidden": True}],
                "publishedAt": "2022-06-01T00:00:00.000Z",
                "upvotes": 7,
                "githubRepo": "https://github.com/a/b",
            }
        }
        answers = []

        def answer(request):
            same = request.headers.get("If-None-Match") == '"v1"'
            answers.append(304 if same else 200)
            reply(request, "" if same else json.dumps([item, {"paper": 5}]), answers[-1], ETag='"v1"')

        source = HuggingFaceDaily(url=serve(answer), client=quick)
        done = ingest(memory, source)
        assert (done.new, done.refused, answers) == (1, 2, [200, 200])
        [paper] = papers(memory)
        assert (paper.upvotes, paper.authors, paper.links) == (7, "Ann Author", {"code": "https://github.com/a/b"})
        ingest(memory, source)
        assert answers[2:] == [304, 304]

    def test_an_answer_that_is_no_list_is_an_error(self, memory, serve, quick):
        with pytest.raises(SourceError, match="not the list"):
            ingest(memory, HuggingFaceDaily(url=serve(lambda r: reply(r, "{}")), client=quick))


class TestPoliteClient:
    def test_it_says_who_it_is_and_tries_again_when_asked_to(self, serve):
        agents = []

        def answer(request):
            agents.append(request.headers["User-Agent"])
            if len(agents) < 3:
                reply(request, status=503, Retry_After="0")
            else:
                reply(request, "here")

        with PoliteClient(interval=0.0, attempts=3) as client:
            assert client.get(serve(answer))[0] == b"here"
        assert len(agents) == 3
        assert agents[0].startswith("paperworks/")

    def test_it_gives_up_where_it_is_asked_to_come_back_much_later(self, serve, quick):
        with pytest.raises(SourceError, match="come back in 86400 seconds"):
            quick.get(serve(lambda request: reply(request, status=429, Retry_After="86400")))

    def test_a_host_that_does_not_answer_is_an_error(self, quick):
        with pytest.raises(SourceError, match="3 times"):
            quick.get("http://127.0.0.1:9/")

    def test_requests_keep_their_distance(self, serve):
        moments = []
        url = serve(lambda request: (moments.append(datetime.now(UTC)), reply(request, "x")))
        with PoliteClient(interval=0.2) as client:
            client.get(url)
            client.get(url)
        assert moments[1] - moments[0] > timedelta(seconds=0.19)


def snapshot_line(n, **changes):
    return json.dumps(
        {
            "id": f"2206.{n:05d}",
            "title": f"Paper\n  {n}",
            "abstract": "  What it says.\n",
            "authors_parsed": [["Author", "Ann", ""], ["Writer", "B.", "Jr."]],
            "categories": "cs.LG stat.ML",
            "doi": None,
            "versions": [{"version": "v1", "created": "Thu, 02 Jun 2022 08:43:32 GMT"}],
            "update_date": "2022-06-03",
            **changes,
        }
    )


class TestArxivSnapshot:
    @pytest.fixture(autouse=True)
    def small_batches(self, monkeypatch):
        monkeypatch.setattr("paperworks.feed.ingest.arxiv.BATCH", 100)

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_lines_are_read_as_a_stream_and_malformed_ones_skipped(self, memory, tmp_path, suffix):
        lines = [snapshot_line(n) for n in range(1, 252)]
        lines[7] = '{"title": "no id"}'
        lines[9] = "{broken"
        lines[11] = snapshot_line(1, id="x")
        path = tmp_path / f"snapshot.json{suffix}"
        path.write_bytes((gzip.compress if suffix else bytes)("\n".join(lines).encode()))
        steps = []
        done = ingest(memory, ArxivSnapshot(path), progress=lambda d: steps.append(d.new))
        assert (done.new, done.refused) == (248, 3)
        assert done.reasons[0] == "line 8: 'update_date' is missing"
        assert steps == [97, 197, 248]
        assert str(ingest(memory, ArxivSnapshot(path))) == "0 new, 0 changed, 0 known, 0 refused"
        assert ingest(memory, ArxivSnapshot(path), restart=True).same == 248
        [paper, *_] = papers(memory)
        assert (paper.title, paper.authors) == ("Paper 1", "Ann Author\nB. Writer Jr.")
        assert paper.published == datetime(2022, 6, 2, 8, 43, 32, tzinfo=UTC)

    def test_one_that_was_stopped_goes_on_after_its_last_whole_batch(self, memory, tmp_path):
        path = tmp_path / "snapshot.json"
        path.write_text("\n".join(snapshot_line(n) for n in range(1, 301)), encoding="utf-8")

        def stop(done):
            if done.new == 200:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ingest(memory, ArxivSnapshot(path), progress=stop)
        assert memory.count() == 200
        assert str(ingest(memory, ArxivSnapshot(path))) == "100 new, 0 changed, 0 known, 0 refused"


class TestFiles:
    def test_bibtex(self, memory, tmp_path):
        path = tmp_path / "refs.bib"
        path.write_text(
            "@article{a, title={{D}PM-{S}olver: a {\\'e}tude}, author={Lu, Cheng and Yuhao Zhou}, year={2022},\n"
            "  month=jun, eprint={2206.00927}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2206.00927}}\n"
            "@article{b, title={}, author={X}}\n@article{broken, title={never closed\n",
            encoding="utf-8",
        )
        done = ingest(memory, Bibliography(path))
        assert (done.new, done.refused) == (1, 2)
        [paper] = papers(memory)
        assert (paper.title, paper.arxiv_id) == ("DPM-Solver: a étude", "2206.00927")
        assert (paper.authors, paper.published) == ("Cheng Lu\nYuhao Zhou", datetime(2022, 6, 1, tzinfo=UTC))

    def test_ris(self, memory, tmp_path):
        path = tmp_path / "refs.ris"
        path.write_text(
            "TY  - JOUR\nTI  - A paper\nAU  - Lu, Cheng\nPY  - 2022/06/02\nDO  - 10.1000/X\n"
            "AB  - What it says.\nER  - \n"
            "TY  - JOUR\nAU  - Nobody\nER  - \n",
            encoding="utf-8",
        )
        done = ingest(memory, Bibliography(path))
        assert (done.new, done.refused) == (1, 1)
        [paper] = papers(memory)
        assert (paper.title, paper.authors, paper.doi) == ("A paper", "Cheng Lu", "10.1000/x")

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("refs.doc", b"x", "ends in .bib or .ris"),
            ("refs.bib", b"\xff\xfe\x00", "isn't UTF-8"),
        ],
    )
    def test_a_file_of_another_kind_is_refused(self, memory, tmp_path, name, data, message):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            ingest(memory, Bibliography(tmp_path / name))


ABSTRACT = "We sample from a model and find that it does what it should, as theory says. " * 5


class TestSavedPage:
    def test_text(self, memory, tmp_path):
        path = tmp_path / "page.txt"
        path.write_text(
            f"new\n\nDaily Papers\n\nOn Sampling\n\n{ABSTRACT}Code: https://github.com/a/b.\n\n"
            f"On Noise\n\n{ABSTRACT.strip()}107",
            encoding="utf-8",
        )
        assert ingest(memory, SavedPage(path)).new == 2
        assert ingest(memory, SavedPage(path)).same == 2
        first, second = papers(memory)
        assert (first.title, first.links) == ("On Sampling", {"code": "https://github.com/a/b"})
        assert second.abstract == ABSTRACT.strip()

    def test_html_in_each_of_its_forms(self):
        props = json.dumps(
            {"dailyPapers": [{"paper": {"id": "2206.00001", "title": "A & B", "publishedAt": "2022-06-01"}}]}
        )
        escaped = props.replace("&", "&amp;").replace('"', "&quot;")
        [batch] = parse_html(f'<html><div data-props="{escaped}"></div></html>')
        assert batch.entries[0].title == "A & B"
        [batch] = parse_html('<html><h3><a href="/papers/2206.00001"> A &amp;\n B</a></h3><h3>Other</h3></html>')
        assert (batch.entries[0].title, batch.entries[0].arxiv_id) == ("A & B", "2206.00001")
        [batch] = parse_html(f"<html><script>x</script><h3>On Sampling</h3><p>{ABSTRACT}</p></html>")
        assert batch.entries[0].title == "On Sampling"

    @pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"<html></html>", b"\x00" * 1000])
    def test_a_page_without_papers_is_refused(self, memory, tmp_path, data):
        (tmp_path / "page").write_bytes(data)
        with pytest.raises(ValueError, match=r"no paper was found|isn't UTF-8"):
            ingest(memory, SavedPage(tmp_path / "page"))


def test_the_records_and_a_page_of_their_titles_are_the_same_papers(memory, tmp_path):
    assert ingest(memory, Records()).new == 51
    page = tmp_path / "page.txt"
    page.write_text("\n\n".join(f"{p.title.upper()}\n\n{ABSTRACT}" for p in papers(memory)), encoding="utf-8")
    assert ingest(memory, SavedPage(Path(page))).changed == 51
    assert ingest(memory, Records()).same == ingest(memory, SavedPage(Path(page))).same == 51
    assert memory.count() == 51
    assert all(p.slug and p.abstract for p in papers(memory))
