import json
from datetime import UTC, datetime

import pytest

from feed_papers import papers
from http_reply import query_of, reply
from paperworks.feed.ingest import HuggingFaceDaily, SourceError, ingest


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
            reply(
                request, "" if same else json.dumps([item, {"paper": 5}]), answers[-1], ETag='"v1"'
            )  # whatever page is asked for

        source = HuggingFaceDaily(url=serve(answer), client=quick)
        done = ingest(memory, source)
        assert (done.new, done.refused, answers) == (1, 2, [200] * 4)
        [paper] = papers(memory)
        assert (paper.upvotes, paper.authors, paper.links) == (7, "Ann Author", {"code": "https://github.com/a/b"})
        ingest(memory, source)
        assert answers[4:] == [304, 200] * 2

    def test_an_answer_that_is_no_list_is_an_error(self, memory, serve, quick):
        with pytest.raises(SourceError, match="not the list"):
            ingest(memory, HuggingFaceDaily(url=serve(lambda r: reply(r, "{}")), client=quick))

    @pytest.mark.parametrize("most", [100, 30])
    def test_all_pages_of_a_day_are_read_however_many_papers_a_page_has(self, store, serve, quick, most):
        day = datetime.now(UTC).date()
        items = [{"paper": {"id": f"2206.{n:05d}", "title": f"P {n}", "publishedAt": "2022-06-01"}} for n in range(130)]
        asked = []

        def answer(request):
            query = query_of(request)
            asked.append(query)
            start, size = int(query["p"]) * most, min(int(query["limit"]), most)
            reply(request, json.dumps(items[start : start + size] if query["date"] == day.isoformat() else []))

        source = HuggingFaceDaily(since=day, url=serve(answer), client=quick)
        assert ingest(store, source).new == 130
        assert [query["p"] for query in asked] == [str(p) for p in range(len(asked))]
        assert ingest(store, source).same == 130

    @pytest.mark.parametrize(
        "upvotes", ["1e999", "-1e999", "NaN", "1e30", "99999999999", "1.5", '"many"', "[]", "1" * 5000]
    )
    def test_votes_that_are_no_count_are_skipped_and_reported(self, store, serve, quick, upvotes):
        paper = {"id": "2206.00001", "title": "Paper", "publishedAt": "2022-06-01"}
        good = {"paper": {**paper, "id": "2206.00002", "upvotes": 3}}
        document = json.dumps([{"paper": {**paper, "upvotes": "X"}}, good]).replace('"X"', upvotes)
        source = HuggingFaceDaily(since=datetime.now(UTC).date(), url=serve(lambda r: reply(r, document)), client=quick)
        if len(upvotes) > 4300:  # more digits than the parser takes
            with pytest.raises(SourceError, match="not the JSON"):
                ingest(store, source)
            return
        done = ingest(store, source)
        assert (done.new, done.refused) == (1, 1)

    @pytest.mark.parametrize("date", ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "10000-01-01", ""])
    def test_dates_at_the_edge_of_the_calendar_are_skipped_and_reported(self, store, serve, quick, date):
        items = [
            {"paper": {"id": f"2206.0000{n}", "title": "P", "publishedAt": d}} for n, d in enumerate((date, "2022"))
        ]
        items[1]["paper"]["publishedAt"] = "2022-06-01"
        source = HuggingFaceDaily(
            since=datetime.now(UTC).date(), url=serve(lambda r: reply(r, json.dumps(items))), client=quick
        )
        done = ingest(store, source)
        assert (done.new, done.refused) == (1, 1)
