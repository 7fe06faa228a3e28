import sys
import textwrap

import numpy as np
import pytest

from paperworks.feed import benchmark
from paperworks.feed.benchmark import Recombined, benchmark_feed
from paperworks.feed.ingest import Records
from paperworks.feed.search.meaning import DIMENSION


def embed(texts):
    return np.random.default_rng(0).standard_normal((len(texts), DIMENSION)).astype(np.float32)


def test_papers_are_recombined_the_same_each_time_and_differ():
    made = Recombined([Records()])
    papers = list(made.papers(50))
    assert papers == list(Recombined([Records()]).papers(50))
    assert len({paper["title"] for paper in papers}) == len({paper["id"] for paper in papers}) == 50
    vectors = np.concatenate(list(made.vectors(50, embed)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_it_measures_the_feed_and_a_peer(tmp_path, monkeypatch):
    for name in ("serve", "aslite", "aslite.db"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(benchmark, "SentenceModel", lambda: embed)
    (tmp_path / "peer" / "aslite").mkdir(parents=True)
    (tmp_path / "peer" / "aslite" / "db.py").write_text(
        textwrap.dedent("""
        class Rows(dict):
            def __enter__(self): return self
            def __exit__(self, *error): ...
            def commit(self): ...
        rows = Rows()
        def get_papers_db(**options): return rows
        """)
    )
    (tmp_path / "peer" / "serve.py").write_text(
        textwrap.dedent("""
        import contextlib
        from aslite.db import get_papers_db
        class app:
            app_context = contextlib.nullcontext
        def search_rank(query):
            return [row for row in get_papers_db().values() if query in row["title"]]
        """)
    )
    figures = {f.name: f for f in benchmark_feed(tmp_path / "a", 200, peer=tmp_path / "peer", queries=5).figures}
    assert figures["papers"].value == 200
    assert all(figure.value > 0 for figure in figures.values())
    assert any("arxiv-sanity-lite" in name for name in figures)
    (tmp_path / "peer" / "serve.py").write_text("search_rank = None")
    sys.modules.pop("serve")
    assert "did not run" in benchmark_feed(tmp_path / "b", 200, peer=tmp_path / "peer", queries=5).note
    with pytest.raises(ValueError, match="choose another"):
        benchmark_feed(tmp_path / "a", 200, queries=5)
