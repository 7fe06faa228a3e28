import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from feed_papers import papers
from http_reply import reply
from paperworks.feed.ingest import PoliteClient, Records, SavedPage, SourceError, ingest
from paperworks.feed.ingest.page import parse_html


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

    def test_requests_keep_their_distance(self, serve, monkeypatch):
        clock, pauses = [100.0], []
        time = SimpleNamespace(monotonic=lambda: clock[0], sleep=pauses.append)
        monkeypatch.setattr("paperworks.feed.ingest.http.time", time)
        url = serve(lambda request: reply(request, "x"))
        with PoliteClient(interval=3.0) as client:
            client.get(url)
            clock[0] += 1.0
            client.get(url)
        assert pauses == [2.0]


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
        with pytest.raises(ValueError, match=r"no paper was found|isn't text"):
            ingest(memory, SavedPage(tmp_path / "page"))


def test_the_records_and_a_page_of_their_titles_are_the_same_papers(memory, tmp_path):
    assert ingest(memory, Records()).new == 51
    page = tmp_path / "page.txt"
    page.write_text("\n\n".join(f"{p.title.upper()}\n\n{ABSTRACT}" for p in papers(memory)), encoding="utf-8")
    assert ingest(memory, SavedPage(Path(page))).changed == 51
    assert ingest(memory, Records()).same == ingest(memory, SavedPage(Path(page))).same == 51
    assert memory.count() == 51
    assert all(p.slug and p.abstract for p in papers(memory))
