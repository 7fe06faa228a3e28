from datetime import UTC, date, datetime

import pytest

from feed_papers import papers
from http_reply import query_of, reply
from paperworks.feed.ingest import ArxivApi, ArxivFile, ArxivOai, Incomplete, SourceError, ingest
from paperworks.feed.ingest.arxiv import is_withdrawn
from paperworks.feed.schema import Harvest

NOW = datetime(2022, 7, 1, tzinfo=UTC)


def change(day, number, version=1, title="", comment=""):
    """Give an Atom entry of a paper that was submitted on the first of June, and changed on a day of it."""
    return (
        day,
        f"""<entry><id>http://arxiv.org/abs/2206.{number:05d}v{version}</id><title>{title or f"Paper {number}"}
        </title><summary> What it
        says. </summary><author><name>Ann Author</name></author><author><name>:</name></author>
        <published>2022-06-01T01:00:00Z</published><updated>2022-06-{day:02d}T00:00:00Z</updated>
        <arxiv:doi>10.1000/{number}</arxiv:doi><arxiv:comment>{comment}</arxiv:comment>
        <arxiv:journal_ref>J. Noise 3 (2022)</arxiv:journal_ref><arxiv:primary_category term="stat.ML"/>
        <category term="cs.LG"/><category term="stat.ML"/></entry>""",
    )


def atom(entries, total):
    return f"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
        xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/"><opensearch:totalResults>{total}</opensearch:totalResults>
        {"".join(entry for _, entry in entries)}</feed>"""


class Arxiv:
    """An API that gives what has changed, the last first, but nothing of the pages in `empty`."""

    def __init__(self, changes):
        self.changes, self.asked, self.empty = changes, [], set()

    def __call__(self, request):
        query = query_of(request)
        self.asked.append(query)
        start = int(query["start"])
        listed = sorted(self.changes, key=lambda each: -each[0])
        page = [] if start in self.empty else listed[start : start + int(query["max_results"])]
        reply(request, atom(page, len(listed)))


class TestArxivApi:
    def source(self, serve, quick, api, page=2):
        return ArxivApi("cs.LG", since=date(2022, 6, 1), url=serve(api), page=page, client=quick)

    def test_the_list_of_changes_is_read_to_its_end_with_all_that_it_says(self, store, serve, quick):
        api = Arxiv([change(day, day, version=2, comment="9 pages") for day in range(2, 7)])
        assert str(ingest(store, self.source(serve, quick, api))) == "5 new, 0 changed, 0 known, 0 refused"
        assert [q["start"] for q in api.asked] == ["0", "2", "4"]
        assert {(q["search_query"], q["sortBy"], q["sortOrder"]) for q in api.asked} == {
            ("cat:cs.LG", "lastUpdatedDate", "descending")
        }
        paper = papers(store)[-1]
        assert (paper.title, paper.version, paper.doi, paper.abstract) == ("Paper 2", 2, "10.1000/2", "What it says.")
        assert (paper.categories, paper.authors) == ("stat.ML cs.LG", "Ann Author")
        assert (paper.comment, paper.journal_ref) == ("9 pages", "J. Noise 3 (2022)")
        assert paper.published == datetime(2022, 6, 1, 1, tzinfo=UTC)
        assert paper.versions == {"1": "2022-06-01T01:00:00+00:00", "2": "2022-06-02T00:00:00+00:00"}

    def test_changes_withdrawals_and_late_announcements_arrive(self, store, serve, quick):
        api = Arxiv([change(10, 1), change(12, 2)])
        source = self.source(serve, quick, api)
        ingest(store, source)
        withdrawn = "This paper has been withdrawn by the author due to an error"
        api.changes = [change(14, 1, 2, "New title"), change(15, 2, 2, comment=withdrawn), change(5, 3)]
        assert str(ingest(store, source)) == "1 new, 2 changed, 0 known, 0 refused"
        first, second, late = sorted(papers(store), key=lambda paper: paper.arxiv_id)
        assert (first.title, first.version, first.withdrawn) == ("New title", 2, False)
        assert (second.withdrawn, second.comment) == (True, withdrawn)
        assert late.arxiv_id == "2206.00003"

    def test_the_next_ingest_reads_no_farther_back_than_two_weeks(self, memory, serve, quick):
        api = Arxiv([change(day, day) for day in range(2, 29)])
        source = self.source(serve, quick, api, page=3)
        ingest(memory, source)
        api.asked.clear()
        api.changes.append(change(29, 29))
        assert str(ingest(memory, source)) == "1 new, 0 changed, 17 known, 0 refused"
        assert len(api.asked) == 6

    def test_a_list_that_breaks_off_says_so_and_goes_on_where_it_did(self, store, serve, quick):
        api = Arxiv([change(day, day) for day in range(2, 12)])
        api.empty = {4}
        source = self.source(serve, quick, api)
        with pytest.raises(Incomplete, match=r"4 new.*gives nothing after 4 of 10 papers"):
            ingest(store, source)
        assert [q["start"] for q in api.asked] == ["0", "2", "4", "4", "4"]
        assert store.count() == 4
        api.empty, api.asked = set(), []
        api.changes = [*api.changes[1:], change(12, 12), change(13, 13), change(14, 2, 2)]  # the first one moved
        assert ingest(store, source).new == 8
        assert store.count() == 12
        assert [q["start"] for q in api.asked] == ["0", "2", "4", "6", "8", "10"]
        with store.session() as session:
            assert session.get(Harvest, source.name).state == {"until": "2022-06-14T00:00:00+00:00"}

    def test_one_that_broke_off_does_not_read_all_of_it_again(self, memory, serve, quick):
        api = Arxiv([change(day, day) for day in range(2, 26)])
        api.empty = {16}
        source = self.source(serve, quick, api)
        with pytest.raises(Incomplete):
            ingest(memory, source)
        api.empty, api.asked = set(), []
        assert ingest(memory, source).new == 8
        assert [q["start"] for q in api.asked] == ["0", "14", "16", "18", "20", "22"]

    def test_an_empty_page_that_is_filled_when_asked_again_is_no_break(self, memory, serve, quick):
        api = Arxiv([change(day, day) for day in range(2, 6)])
        api.empty = {2}
        original = quick.get

        def get(url, parameters):
            answer = original(url, parameters)
            api.empty.discard(parameters["start"])
            return answer

        quick.get = get
        assert ingest(memory, self.source(serve, quick, api)).new == 4

    def test_a_list_in_another_order_is_not_taken_for_the_whole(self, memory, serve, quick):
        entries = [change(2, 1), change(20, 2)]
        url = serve(lambda request: reply(request, atom(entries, 2)))
        with pytest.raises(SourceError, match="order of their changes"):
            ingest(memory, ArxivApi("cs.LG", url=url, client=quick))

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
        document = atom([change(2, 1), change(2, 2)], 2).replace("2206.00001v1", "nonsense")
        done = ingest(memory, ArxivApi("cs.LG", url=serve(lambda request: reply(request, document)), client=quick))
        assert (done.new, done.refused) == (1, 1)
        assert "arXiv id is" in done.reasons[0]

    @pytest.mark.parametrize(
        "date", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "0999-01-01T00:00:00Z", "2999-01-01", "x"]
    )
    def test_a_date_at_the_edge_of_the_calendar_is_skipped_and_reported(self, store, serve, quick, date):
        document = atom([change(3, 1), change(2, 2)], 2).replace("2022-06-03T00:00:00Z", date)
        done = ingest(store, ArxivApi("cs.LG", url=serve(lambda request: reply(request, document)), client=quick))
        assert (done.new, done.refused) == (1, 1)
        assert "date is" in done.reasons[0]

    def test_something_else_than_a_category_is_refused(self):
        with pytest.raises(ValueError, match="category is 'cs OR all:x'"):
            ArxivApi("cs OR all:x")


@pytest.mark.parametrize(
    ("comment", "abstract", "withdrawn"),
    [
        ("This paper has been withdrawn", "", True),
        ("Withdrawn by the author, as Lemma 3 is wrong", "", True),
        ("This submission was withdrawn by arXiv administrators", "", True),
        ("The manuscript has been temporarily withdrawn.", "", True),
        ("", "This paper has been withdrawn by the author.", True),
        ("12 pages", "We study when drugs are withdrawn.", False),
        ("withdrawn from ICML 2022", "", False),
        ("this paper was withdrawn from the conference", "", False),
        ("", "", False),
    ],
)
def test_a_withdrawal_is_what_is_said_of_the_paper(comment, abstract, withdrawn):
    assert is_withdrawn(comment, abstract) is withdrawn


def oai(numbers, token="", size="", versions=1, flags="", form="raw"):
    """Give an answer in the format arXivRaw or arXiv."""
    dates = "".join(
        f"<version version='v{v}'><date>Wed, 0{v} Jun 2022 08:43:32 GMT</date><size>9kb</size>"
        f"<source_type>{flags if v == versions else ''}</source_type></version>"
        for v in range(1, versions + 1)
    )
    same = """<title>Paper {n} of Poincar\\'e</title><categories>cs.LG stat.ML</categories><comments>9 pages</comments>
        <doi>10.1000/{n} 10.1000/other</doi><journal-ref>J. Noise</journal-ref><abstract>What it says.</abstract>"""
    raw = f"""<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>2206.{{n:05d}}</id>{dates}
        <authors>ATLAS Collaboration: Ann Author (CERN), B\\"o Ito, and C. Roe, Jr.</authors>{same}</arXivRaw>"""
    names = """<author><keyname>ATLAS Collaboration</keyname></author><author><keyname>:</keyname></author>
        <author><keyname>Author</keyname><forenames>Ann</forenames></author>
        <author><keyname>Roe</keyname><forenames>C.</forenames><suffix>Jr.</suffix></author>"""
    plain = f"""<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>2206.{{n:05d}}</id><created>2022-06-01</created>
        <updated>2022-06-03</updated><authors>{names}</authors>{same}</arXiv>"""
    records = "".join(
        f"<record><header><identifier>oai:arXiv.org:2206.{n:05d}</identifier></header>"
        f"<metadata>{(raw if form == 'raw' else plain).format(n=n)}</metadata></record>"
        for n in numbers
    )
    deleted = '<record><header status="deleted"><identifier>x</identifier></header></record>'
    return f"""<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords>{records}{deleted}
        <resumptionToken{size}>{token}</resumptionToken></ListRecords></OAI-PMH>"""


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
        with pytest.raises(Incomplete, match=r"2 new.*400"):
            ingest(memory, source)
        assert memory.count() == 2
        broken[0] = False
        assert str(ingest(memory, source)) == "1 new, 0 changed, 0 known, 0 refused"
        assert asked[-1] == {"verb": "ListRecords", "resumptionToken": "page-2"}
        ingest(memory, source)
        assert asked[-2]["from"] == datetime.now(UTC).date().isoformat()
        assert papers(memory)[0].doi == "10.1000/1"

    def test_versions_withdrawals_comments_and_collaborations_arrive(self, store, serve, quick):
        answers = [oai([1]), oai([1], versions=2), oai([1], versions=3, flags="I"), oai([1], form="arXiv")]
        source = ArxivOai("cs", url=serve(lambda request: reply(request, answers.pop(0))), client=quick)
        for version, withdrawn in ((1, False), (2, False), (3, True), (3, True)):
            ingest(store, source)
            [paper] = papers(store)
            assert (paper.version, paper.withdrawn, len(paper.versions)) == (version, withdrawn, version)
        assert paper.title == "Paper 1 of Poincaré"
        assert paper.authors == "ATLAS Collaboration\nAnn Author\nBö Ito\nC. Roe Jr."
        assert (paper.comment, paper.journal_ref, paper.doi) == ("9 pages", "J. Noise", "10.1000/1")
        assert paper.published == datetime(2022, 6, 1, 8, 43, 32, tzinfo=UTC)

    def test_a_list_that_ends_before_its_size_is_incomplete_and_asked_for_again(self, store, serve, quick):
        size = ' cursor="{}" completeListSize="5"'
        whole = [False]

        def answer(request):
            if not query_of(request).get("resumptionToken"):
                reply(request, oai([1, 2], "page-2", size.format(0)))
            else:
                reply(request, oai([3, 4, 5] if whole[0] else [], "", size.format(1)))

        source = ArxivOai("cs", url=serve(answer), client=quick)
        with pytest.raises(Incomplete, match="ends after 2 of 5"):
            ingest(store, source)
        whole[0] = True
        assert ingest(store, source).new == 3

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


class TestArxivFile:
    def test_saved_answers_are_sources_like_the_others(self, store, tmp_path):
        for name, document in {
            "atom.xml": atom([change(3, 1, 2), change(2, 2)], 2),
            "raw.xml": oai([2, 3]),
            "arxiv.xml": oai([3, 4], form="arXiv"),
        }.items():
            (tmp_path / name).write_text(document, encoding="utf-8")
            ingest(store, ArxivFile(tmp_path / name))
        assert [p.arxiv_id for p in papers(store)] == [f"2206.0000{n}" for n in (1, 2, 3, 4)]
        assert papers(store)[3].authors == "ATLAS Collaboration\nAnn Author\nC. Roe Jr."

    @pytest.mark.parametrize("document", ["", "<rss/>", "<html><body>", atom([change(3, 1)], 1)[:-200]])
    def test_a_file_of_another_kind_or_half_of_one_is_refused(self, memory, tmp_path, document):
        (tmp_path / "x.xml").write_text(document, encoding="utf-8")
        with pytest.raises(SourceError, match=r"it takes Atom or OAI-PMH|not the XML"):
            ingest(memory, ArxivFile(tmp_path / "x.xml"))

    def test_a_record_in_another_format_is_refused(self, memory, tmp_path):
        document = oai([1]).replace("arXivRaw", "dc")
        (tmp_path / "x.xml").write_text(document, encoding="utf-8")
        done = ingest(memory, ArxivFile(tmp_path / "x.xml"))
        assert done.reasons == ["oai:arXiv.org:2206.00001: metadata in the formats arXiv and arXivRaw are missing"]
