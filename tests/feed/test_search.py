from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.feed import Entry
from paperworks.feed.search import BadQuery, Clause, MeaningIndex, fuse, parse_query, search
from paperworks.feed.search import words as words_module
from paperworks.feed.search.fused import LEAST_COSINE

WORDS = ["noise", "sample", "bound", "graph", "audio", "proof", "kernel", "robot"]


def embed(texts):
    """Give each text the unit vector of its words, so that texts of the same words mean the same."""
    vectors = np.zeros((len(texts), 384), dtype=np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for k, word in enumerate(WORDS):
            row[k] = text.lower().count(word)
        row[-1] = 1e-3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def filled(store):
    day, late = datetime(2023, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC)
    store.add(
        [
            Entry(title="Sampling in ten steps", abstract="Noise is removed.", authors=["Ann Lee"], published=day),
            Entry(
                title="Bounds of networks",
                abstract="We sample points.",
                authors=["Bo Lee"],
                categories=["cs.LG"],
                published=late,
            ),
            Entry(title="Audio of robots", abstract="A kernel method, a proof.", authors=["Céline Dûr"], published=day),
            Entry(
                title="Graph kernels",
                abstract="Noise, noise and score models.",
                authors=["Kernel Jones"],
                published=late,
            ),
        ]
    )
    return store


def found(store, text, meaning=None, **options):
    return search(store, text, meaning, **options).ids


class TestWords:
    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("sampling", [1, 2]),  # the title counts more; another form of the word
            ("SAMPLES points", [2, 1]),
            ("noise", [4, 1]),  # twice
            ('"ten steps"', [1]),
            ('"steps ten"', []),
            ("noise -score", [1]),
            ('noise -"score models"', [1]),
            ("author:lee", [2, 1]),
            ('author:"ann lee"', [1]),
            ("author:dur", [3]),
            ("title:kernel", [4]),
            ("abstract:kernel", [3]),
            ("field:cs.LG", [2]),
            ("robots since:2023-05", [3]),
            ("noise since:2024", [4]),
            ("zebra", []),
        ],
    )
    def test_it_finds(self, filled, text, ids):
        assert found(filled, text) == ids

    def test_a_word_that_is_being_typed(self, filled):
        assert found(filled, "robo", as_typed=True) == [3]
        assert found(filled, "robo") == []

    def test_no_words_give_the_newest(self, filled):
        assert found(filled, "")[-2:] == [3, 1]
        assert set(found(filled, "since:2024")) == {2, 4}

    def test_papers_with_every_word_come_before_those_with_some(self, filled):
        assert found(filled, "noise kernels")[0] == 4
        assert set(found(filled, "noise kernels")) == {1, 3, 4}

    def test_what_changes_is_found_by_what_it_says_now(self, filled):
        filled.add([Entry(title="Audio of robots", abstract="Zebras only.")])
        assert found(filled, "zebra") == [3]
        assert found(filled, "kernel") == [4]

    def test_of_very_many_matches_the_newest_and_those_with_it_in_the_title_are_ranked(self, store, monkeypatch):
        monkeypatch.setattr(words_module, "CANDIDATES", 20)
        store.add([Entry(title="A zebra")] + [Entry(title=f"T {i}", abstract="A zebra.") for i in range(60)])
        ids = found(store, "zebra")
        assert ids[0] == 1
        assert set(ids[1:]) == set(range(42, 62))

    @given(text=st.text(max_size=40))
    def test_any_text_is_a_search_or_a_bad_one(self, text):
        try:
            query = parse_query(text)
        except BadQuery:
            return
        assert all(clause.words for clause in query.clauses)

    @pytest.mark.parametrize(
        "text", ["'; DROP TABLE papers", 'a"b', "a AND b OR NOT c", "(((", "NEAR(a b)", "*", "a:b", "\\"]
    )
    def test_signs_of_other_languages_are_harmless(self, filled, text):
        found(filled, text)
        found(filled, text, as_typed=True)
        assert filled.count() == 4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x" * 301, "at most 300"),
            (" ".join(chr(0x100 + 2 * i) for i in range(120)), "at most 50"),
            ("-noise", "only words to leave out"),
            ("since:tomorrow", "since is 'tomorrow'"),
            ("since:2023-13", "since is '2023-13'"),
        ],
    )
    def test_a_search_that_cannot_be_read_says_why(self, text, message):
        with pytest.raises(BadQuery, match=message):
            parse_query(text)

    def test_days_count_from_now(self):
        now = datetime(2023, 5, 8, tzinfo=UTC)
        assert parse_query("x since:7d", now=now).since == now - timedelta(days=7)
        assert parse_query("the").clauses == (Clause(("the",)),)


TITLES = {
    1: "Łukasz Straße: PDE‑Reﬁner in L² naïvely",
    2: "Few large steps: sampling of diffusion models",
    3: "A fewstep multi-grid approach",
    4: "快速扩散模型的采样",
    5: "ガウス過程と確率的推論",
    6: "확산 모델의 빠른 샘플링",
    7: "On $\\beta$-VAE and Poincar\\'e maps",
}

SAME_WORDS = {
    "lukasz": [1],
    "ŁUKASZ STRASSE": [1],
    "ｎａｉｖｅｌｙ": [1],
    "refiner": [1],
    "pderefiner": [1],
    '"pde refiner"': [1],
    "L2": [1],
    "l^2": [1],
    "few-step sampling of diffusion models": [2, 3],
    "fewstep": [3],
    "multigrid": [3],
    "multi-grid": [3],
    "multi grid": [3],
    "扩散": [4],
    "扩散模型": [4],
    "型的采样": [4],
    "样": [4],
    "过程": [],
    "過程": [5],
    "ガウス": [5],
    "ウス過": [5],
    "모델": [6],
    "샘플": [6],
    "β-VAE": [7],
    "\\beta": [7],
    "poincaré": [7],
    "sampling -fewstep": [2],
    "approach -multigrid": [],
}


class TestNormaliser:
    @pytest.fixture
    def mixed(self, store):
        store.add([Entry(title=title) for title in TITLES.values()])
        return store

    def test_index_and_search_see_the_same_words(self, mixed):
        assert {text: found(mixed, text) for text in SAME_WORDS} == SAME_WORDS

    def test_a_pasted_title_finds_its_paper(self, mixed):
        for number, title in TITLES.items():
            for text in (title, title.upper(), f"“{title}”", f'"{title}'):
                assert found(mixed, text)[0] == number

    def test_what_changes_is_found_by_its_new_words_only(self, mixed):
        mixed.add([Entry(title=TITLES[4], abstract="Łódź: 概率 β-test")])
        assert found(mixed, "概率") == found(mixed, "lodz") == found(mixed, "betatest") == [4]
        mixed.add([Entry(title=TITLES[4], abstract="Nothing.")])
        assert found(mixed, "概率") == found(mixed, "lodz") == found(mixed, "betatest") == []

    def test_hyphens_are_soft_but_what_is_left_out_is_what_is_said(self, store):
        store.add([Entry(title="Few steps"), Entry(title="Few large step sizes"), Entry(title="A few-step method")])
        assert found(store, "few-step") == [1, 3, 2]
        assert found(store, '"few-step"') == [1, 3]
        assert found(store, "few -few-step") == [2]


NAMED = {
    "2206.00927": [1],
    "arXiv:2206.00927v3": [1],
    "arxiv: 2206.00927": [1],
    "arXiv:2206.00927v3 [cs.LG] 13 Oct 2022": [1],
    "https://arxiv.org/abs/2206.00927": [1],
    "http://www.arxiv.org/pdf/2206.00927v2.pdf": [1],
    "arxiv.org/pdf/2206.00927#page=3": [1],
    "https://huggingface.co/papers/2206.00927": [1],
    "https://doi.org/10.48550/arXiv.2206.00927": [1],
    "(2206.00927),": [1],
    "math/0309136": [2],
    "https://arxiv.org/abs/math.GT/0309136v1": [2],
    "10.1016/0022-0396(87)90001-8": [3],
    "doi:10.1016/0022-0396(87)90001-8": [3],
    "https://journals.example/doi/10.1016/0022-0396(87)90001-8?x=1": [3],
    "2206.99999": [],
    "10.1000/nothing": [],
    "2206.99999 published": [3],
}


class TestNames:
    @pytest.fixture
    def named(self, store):
        store.add(
            [
                Entry(title="DPM-Solver", arxiv_id="2206.00927v3", slug="dpm-solver"),
                Entry(title="Old", arxiv_id="math.GT/0309136"),
                Entry(title="Published", doi="10.1016/0022-0396(87)90001-8"),
                Entry(title="We cite 2206.00928 and 10.1000/other", abstract="2206 00927"),
            ]
        )
        return store

    def test_an_id_or_a_link_finds_its_paper_and_no_other(self, named):
        assert {text: found(named, text) for text in NAMED} == NAMED
        meaning = MeaningIndex(named, lambda texts: np.eye(1, 384, dtype=np.float32).repeat(len(texts), 0))
        meaning.embed_new()
        names_only = {text: ids for text, ids in NAMED.items() if not text.endswith("published")}
        assert {text: found(named, text, meaning) for text in names_only} == names_only


class TestMeaning:
    def test_it_finds_what_words_do_not(self, filled):
        meaning = MeaningIndex(filled, embed)
        assert meaning.embed_new(batch=3) == 4
        assert meaning.embed_new() == 0
        assert meaning.nearest("robot audio", 1)[0][0] == 3
        assert found(filled, "robot", meaning)[0] == 3
        assert 4 not in found(filled, "noise -score", meaning)
        assert 1 not in found(filled, "noise -samples", meaning)  # its title says sampling
        assert 4 not in found(filled, 'noise -"scored model"', meaning)
        assert found(filled, "noise title:kernels", meaning) == [4]
        assert found(filled, 'noise "score model"', meaning) == [4]
        assert found(filled, "noise since:2024", meaning) == [4]
        assert found(filled, "noise author:ann", meaning) == [1]

    def test_similar_papers_leave_the_paper_out(self, filled):
        meaning = MeaningIndex(filled, embed)
        assert meaning.similar(1) == []
        meaning.embed_new()
        assert [i for i, _ in meaning.similar(1, 2)] == [4, 2]

    def test_a_paper_that_changes_is_embedded_again(self, filled):
        meaning = MeaningIndex(filled, embed)
        meaning.embed_new()
        meaning.refresh()
        filled.add([Entry(title="Audio of robots", abstract="Graph graph graph graph.")])
        assert meaning.embed_new() == 1
        assert meaning.nearest("graph", 1)[0][0] == 3
        assert len(meaning) == 4

    def test_very_many_vectors_are_kept_in_cells_and_saved(self, tmp_path, monkeypatch):
        from paperworks.feed import FeedStore
        from paperworks.feed.search import meaning as module

        monkeypatch.setattr(module, "EXACT_BELOW", 1000)
        monkeypatch.setattr(module, "_ROWS", 400)
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(2000, 384)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store = FeedStore(tmp_path / "feed.db")
        store.add([Entry(title=f"T {i}") for i in range(2000)])
        meaning = MeaningIndex(store, lambda texts: vectors[[int(t.split()[1]) for t in texts]])
        meaning.embed_new()
        meaning.refresh()
        assert type(meaning._index).__name__ == "IndexIVFScalarQuantizer"
        assert sum(meaning.nearest(f"T {i}", 1)[0][0] == i + 1 for i in range(50)) == 50
        assert meaning.save().exists()
        again = MeaningIndex(store, meaning.embed)
        again.refresh()
        assert len(again) == 2000
        assert again.nearest("T 7", 1)[0][0] == 8


def test_nonsense_has_no_meaning_and_what_a_paper_is_about_has():
    from paperworks.feed import FeedStore
    from paperworks.feed.ingest import Records, ingest

    store = FeedStore("sqlite://")
    ingest(store, Records())
    meaning = MeaningIndex(store)
    meaning.embed_new()
    for text in ("asdfgh qwertyuiop", "zxcvbnm", "hjkl", "xyzzy plugh", "1234567", "banana bread", "sdkjfh ksjdhf"):
        assert found(store, text, meaning) == []
    for text in (
        "provable guarantees against attackers",
        "fluids by neural nets",
        "private statistics of a data stream",
    ):
        assert meaning.nearest(text, 1)[0][1] >= LEAST_COSINE
        assert meaning.nearest(text, 1)[0][0] in found(store, text, meaning)


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=3))
def test_fusion_keeps_what_all_rankings_agree_on(rankings):
    order = fuse(rankings)
    assert sorted(order) == list(range(6))
    for a in range(6):
        for b in range(6):
            if all(r.index(a) < r.index(b) for r in rankings):
                assert order.index(a) < order.index(b)
