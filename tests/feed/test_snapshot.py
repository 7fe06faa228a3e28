import gzip
import json
from datetime import UTC, datetime

import pytest

from feed_papers import papers
from paperworks.feed.ingest import ArxivSnapshot, ingest


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
        monkeypatch.setattr("paperworks.feed.ingest.snapshot.BATCH", 100)

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

    def test_versions_withdrawals_and_names_in_latex_arrive(self, store, tmp_path):
        versions = [{"version": f"v{v}", "created": f"Thu, 0{v} Jun 2022 08:43:32 GMT"} for v in (1, 2)]
        said = {"comments": "This paper has been withdrawn", "journal-ref": "J. Noise"}
        parsed = [["ATLAS Collaboration", "", ""], [":", "", ""], ["Bal\\'azs", "Zolt\\'an", "Jr."]]
        line = snapshot_line(1, versions=versions, authors_parsed=parsed, **said)
        (tmp_path / "s.json").write_text(line, encoding="utf-8")
        ingest(store, ArxivSnapshot(tmp_path / "s.json"))
        [paper] = papers(store)
        assert paper.authors == "ATLAS Collaboration\nZoltán Balázs Jr."
        assert (paper.version, paper.withdrawn, paper.journal_ref) == (2, True, "J. Noise")
        assert paper.versions == {"1": "2022-06-01T08:43:32+00:00", "2": "2022-06-02T08:43:32+00:00"}
