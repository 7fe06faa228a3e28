import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.feed.search.normal import counted, plain, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NOISE Noise", "noise noise"),
        ("ＷＩＤＥ", "wide"),
        ("Céline naïve İstanbul e\u0301tude", "celine naive istanbul etude"),
        ("Reﬁner ﬀ æther œuvre", "refiner ff aether oeuvre"),
        ("Straße STRASSE", "strasse strasse"),
        ("Łódź Øre đ þ", "lodz ore d th"),
        ("L² H₂O 10⁵", "l2 h2o 105"),
        ("L^2 $H_2$ 10^{5}", "l2 h2 105"),
        ("soft\u00adware zero\u200bwidth", "software zerowidth"),
        (r"Poincar\'e M{\"o}bius \v{S}koda \c{c}a", "poincare mobius skoda ca"),
        ("{S}ampling", "sampling"),
        ("β and $\\beta$", "beta and beta"),
        ("snake_case H_\\infty", "snake case h infty"),
        ("نَمُوذَج नमस्ते", "نموذج नमस्ते"),
        ("ガウス", "ガウ ウス ス"),
        ("か\u3099", "が"),
        ("확산 모델", "확산 산 모델 델"),
    ],
)
def test_what_does_not_count_is_folded(text, words):
    assert plain(text).split() == words.split()


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("few-step", ["fewstep"]),
        ("state-of-the-art, a-b", ["stateoftheart", "ab"]),
        ("O’Brien PDE‑Refiner Navier–Stokes", ["obrien", "pderefiner", "navierstokes"]),
        ("$k$-NN β-VAE", ["knn", "betavae"]),
        ("a - b -c d- --", []),
    ],
)
def test_words_that_hyphens_join_stand_at_the_end(text, joined):
    words = plain(text).split()
    apart = counted([text])[0].decode().split()
    assert words[: len(apart)] == apart
    assert words[len(apart) :] == joined


def test_a_run_of_chinese_is_found_in_a_longer_one():
    text = f" {plain('快速扩散模型的采样 diffusion')} "
    for query in ("扩散", "扩散模型", "散模", "采样", "采样 diffusion"):
        assert f" {' '.join(words_of(query))} " in " ".join(text.split()).join("  ")


@given(st.text(max_size=60))
def test_any_text_has_words_of_letters_digits_and_marks(text):
    for word in plain(text).split():
        assert all(c.isalnum() or unicodedata.category(c)[0] == "M" for c in word)
        assert word == word.lower()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_case_width_and_composition_change_nothing(text):
    decomposed = unicodedata.normalize("NFD", text)
    if unicodedata.normalize("NFC", decomposed) == unicodedata.normalize("NFC", text):
        assert plain(decomposed).split() == plain(text).split()
