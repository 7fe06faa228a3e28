"""The feed under load: a million papers, recombined from the titles and texts of real ones."""

import importlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select

from paperworks.core.validation import check_count
from paperworks.evidence.benchmark import Benchmark, Figure
from paperworks.feed.ingest.page import SavedPage
from paperworks.feed.ingest.records import Records
from paperworks.feed.ingest.snapshot import ArxivSnapshot
from paperworks.feed.ingest.source import Source, ingest
from paperworks.feed.schema import Embedding, FeedPaper
from paperworks.feed.search.fused import search
from paperworks.feed.search.meaning import DIMENSION, MeaningIndex, SentenceModel, pack
from paperworks.feed.store import FeedStore

CATEGORIES = ("cs.LG", "cs.CV", "cs.CL", "stat.ML", "math.NA", "physics.comp-ph", "eess.AS", "cs.RO")
SENTENCES = 5
_ROWS = 5000


class Recombined:
    """Papers made of the parts of real ones: each title of two halves, each abstract of five sentences.

    Parameters
    ----------
    sources
        Where the real ones come from.
    seed
        Of the choice of parts.

    Raises
    ------
    ValueError
        Where the sources have fewer than ten papers.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0) -> None:
        entries = [entry for source in sources for batch in source.batches({}) for entry in batch.entries]
        if len(entries) < 10:
            raise ValueError(f"sources have {len(entries)} papers; it takes at least 10")
        titles = [entry.title.split() for entry in entries]
        self.heads = [" ".join(title[: len(title) // 2]) for title in titles]
        self.tails = [" ".join(title[len(title) // 2 :]) for title in titles]
        texts = [text for entry in entries for text in (entry.abstract, entry.summary) if text]
        self.sentences = [part for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if len(part) > 40]
        self.authors = sorted({name for entry in entries for name in entry.authors}) or ["Ann Lee", "Bo Ito"]
        self._seed = seed

    def parts(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Give which parts each paper is made of, some thousands of papers at a time."""
        random = np.random.default_rng(self._seed)
        for start in range(0, count, _ROWS):
            n = min(_ROWS, count - start)
            yield {
                "number": np.arange(start, start + n),
                "head": random.integers(len(self.heads), size=n),
                "tail": random.integers(len(self.tails), size=n),
                "sentences": random.integers(len(self.sentences), size=(n, SENTENCES)),
                "authors": random.integers(len(self.authors), size=(n, 3)),
                "category": random.integers(len(CATEGORIES), size=n),
            }

    def papers(self, count: int) -> Iterator[dict[str, Any]]:
        """Give papers as arXiv's snapshot has them, the oldest first."""
        first = datetime(2007, 4, 1, tzinfo=UTC)
        for parts in self.parts(count):
            for i, number in enumerate(parts["number"].tolist()):
                day = first + timedelta(days=7000 * number / count)
                yield {
                    "id": f"{day:%y%m}.{number % 100_000:05d}",
                    "title": f"{self.heads[parts['head'][i]]} {self.tails[parts['tail'][i]]} {number}",
                    "authors_parsed": [self.authors[j].rpartition(" ")[::-2] for j in parts["authors"][i]],
                    "abstract": " ".join(self.sentences[j] for j in parts["sentences"][i]),
                    "categories": CATEGORIES[parts["category"][i]],
                    "versions": [{"version": "v1", "created": f"{day:%a, %d %b %Y %H:%M:%S} GMT"}],
                }

    def vectors(self, count: int, embed: Callable[[Sequence[str]], np.ndarray]) -> Iterator[np.ndarray]:
        """Give the meanings of papers (n, 384): the sums of their sentences' with a little noise, as unit vectors."""
        meanings = embed(self.sentences)
        random = np.random.default_rng(self._seed + 1)
        for parts in self.parts(count):
            vectors = meanings[parts["sentences"]].sum(1)
            vectors += 0.3 * random.standard_normal(vectors.shape) / np.sqrt(DIMENSION) * SENTENCES**0.5
            yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def queries(self, count: int) -> list[str]:
        """Give searches: one to four words that follow one another in a title or a sentence."""
        random = np.random.default_rng(self._seed + 2)
        texts = [text.split() for text in [*self.heads, *self.tails, *self.sentences] if text]
        found: list[str] = []
        while len(found) < count:
            words = texts[random.integers(len(texts))]
            start, length = random.integers(len(words)), random.integers(1, 5)
            query = " ".join(re.sub(r"[^\w\s]", " ", " ".join(words[start : start + length])).split())
            if len(query) > 2:
                found.append(query[:200])
        return found


def benchmark_feed(
    folder: Path,
    papers: int = 1_000_000,
    *,
    page: Path | None = None,
    peer: Path | None = None,
    queries: int = 300,
    progress: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Measure ingest and search with many papers, and the memory they take.

    Parameters
    ----------
    folder
        Where the papers' file and the database go; a few GB for a million papers. What is there already is used again.
    papers
        How many.
    page
        A saved Daily Papers page with more real titles and abstracts to recombine.
    peer
        A checkout of arxiv-sanity-lite, whose search is measured on the same papers; it takes its own packages.
    queries
        How many searches of each kind.
    progress
        Told what is done at the moment.

    Raises
    ------
    ValueError
        For no papers or queries.
    """
    check_count("papers", papers)
    check_count("queries", queries)
    folder.mkdir(parents=True, exist_ok=True)
    made = Recombined([Records(), *([SavedPage(page)] if page else [])])
    snapshot = folder / f"snapshot-{papers}.json"
    if not snapshot.exists():
        progress("writing the papers")
        part = snapshot.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(paper) + "\n" for paper in made.papers(papers))
        part.replace(snapshot)
    store = FeedStore(folder / f"feed-{papers}.db")
    figures = [Figure("papers", papers)]
    figures += _ingest(store, snapshot, papers, progress)
    meaning = _embed(store, made, papers, progress)
    asked = made.queries(queries)
    progress("searching by words")
    figures.append(_p95("search by words, p95", asked, lambda query: search(store, query), "< 60"))
    progress("searching by meaning")
    figures.append(_p95("search by meaning, p95", asked, lambda query: meaning.nearest(query, 50), "< 80"))
    progress("searching by both")
    figures.append(_p95("search by both, p95", asked, lambda query: search(store, query, meaning), ""))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures.append(Figure("memory at its peak", peak, "GiB", "< 4"))
    store.close()
    note = ""
    if peer:
        progress("searching with arxiv-sanity-lite")
        try:
            figures.append(_peer(peer, folder, made, papers, asked))
        except Exception as error:  # whatever befalls a peer, our own figures are kept
            note = f"arxiv-sanity-lite did not run: {type(error).__name__}: {error}"
    return Benchmark(
        "feed",
        "The feed under load",
        "Papers recombined from real titles and texts, in SQLite; searches of one to four words; all on one machine.",
        tuple(figures),
        note,
    )


def _ingest(store: FeedStore, snapshot: Path, papers: int, progress: Callable[[str], None]) -> list[Figure]:
    if store.count() >= papers:
        raise ValueError("folder has a database already; an ingest is measured into an empty one: choose another")
    begin = time.perf_counter()
    done = ingest(store, ArxivSnapshot(snapshot), progress=lambda done: progress(f"ingesting: {done}"))
    rate = done.new / (time.perf_counter() - begin)
    return [Figure("ingest without embeddings", rate, "papers/s", ">= 5000")]


def _embed(store: FeedStore, made: Recombined, papers: int, progress: Callable[[str], None]) -> MeaningIndex:
    model = SentenceModel()
    with store.session() as session:
        ids = iter(session.scalars(select(FeedPaper.id).order_by(FeedPaper.id)).all())
    for count, vectors in enumerate(made.vectors(papers, model)):
        progress(f"storing vectors: {count * _ROWS}")
        with store.session() as session:
            values = [{"paper_id": next(ids), "vector": pack(vector)} for vector in vectors]
            session.execute(insert(Embedding), values)
    progress("building the index of meanings")
    meaning = MeaningIndex(store, model)
    meaning.refresh()
    meaning.nearest("warm up", 1)
    return meaning


def _p95(name: str, queries: Sequence[str], ask: Callable[[str], object], bar: str) -> Figure:
    times = []
    for query in queries:
        begin = time.perf_counter()
        ask(query)
        times.append(time.perf_counter() - begin)
    return Figure(name, float(np.percentile(times, 95)) * 1e3, "ms", bar)


def _peer(checkout: Path, folder: Path, made: Recombined, papers: int, queries: Sequence[str]) -> Figure:
    """Measure arxiv-sanity-lite's own search function, on its own kind of database with the same papers."""
    before = Path.cwd()
    sys.path.insert(0, str(checkout))
    work = folder / f"peer-{papers}"
    (work / "data").mkdir(parents=True, exist_ok=True)
    os.chdir(work)  # it looks for its data below the working directory
    try:
        database: Any = importlib.import_module("aslite.db")
        server: Any = importlib.import_module("serve")
        with database.get_papers_db(flag="c", autocommit=False) as rows:
            for paper in made.papers(papers):
                authors = [{"name": " ".join(reversed(name))} for name in paper["authors_parsed"]]
                row = {"title": paper["title"], "summary": paper["abstract"], "authors": authors}
                rows[f"{paper['id']}-{paper['title'].rpartition(' ')[2]}"] = row
            rows.commit()

        def ask(query: str) -> object:
            with server.app.app_context():
                return server.search_rank(query)

        return _p95("arxiv-sanity-lite's search by words, p95 of 5", queries[:5], ask, "")
    finally:
        os.chdir(before)
        sys.path.remove(str(checkout))
