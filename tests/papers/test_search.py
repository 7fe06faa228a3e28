import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.evidence.record import Paper
from paperworks.papers import load_all
from paperworks.papers.search import search


def paper(slug, title, summary="", methods=(), tags=()):
    return Paper(slug, Path(), title, 2024, ("A",), "diffusion", summary, "2401.00001", methods=methods, tags=tags)


PAPERS = [
    paper(
        "solver", "A fast solver for sampling", "Ten steps for a diffusion model.", ("paperworks.diffusion.DPMSolver",)
    ),
    paper(
        "bounds", "Bounds for networks", "Proves what a network does; a solver is not needed.", tags=("verification",)
    ),
    paper("tree", "Counting privately", "A tree of noisy sums over a stream."),
]


def slugs(words):
    return [p.slug for p in search(PAPERS, words)]


def test_a_title_counts_more_than_a_summary():
    assert slugs("solver") == ["solver", "bounds"]


def test_all_words_come_before_some():
    assert slugs("network solver") == ["bounds", "solver"]


@pytest.mark.parametrize("words", ["samp", "sampled", "sampler", "SAMPLING"])
def test_prefixes_and_forms_of_a_word_match(words):
    assert slugs(words)[0] == "solver"


@pytest.mark.parametrize(("words", "slug"), [("verificaton", "bounds"), ("privatly", "tree"), ("difusion", "solver")])
def test_a_typo_is_forgiven(words, slug):
    assert slugs(words)[0] == slug


@pytest.mark.parametrize("words", ["DPMSolver", "dpm"])
def test_methods_are_found_by_name_and_part(words):
    assert slugs(words) == ["solver"]


def test_nothing_found_is_an_empty_list():
    assert slugs("xylophone quartz") == []


@pytest.mark.parametrize("words", ["", "  ", '"*()'])
def test_no_words_is_an_error(words):
    with pytest.raises(ValueError, match="it takes at least one word"):
        search(PAPERS, words)


@given(st.text(max_size=40))
def test_any_text_is_safe(words):
    if not re.search(r"\w", words.casefold()):
        with pytest.raises(ValueError, match="at least one word"):
            slugs(words)
    else:
        assert len(slugs(words)) <= len(PAPERS)


# What people with a problem type, none of it a question that a record holds, and the paper that answers it.
PROBLEMS = {
    "rare event probability": "ais-cv",
    "compare two classifiers": "model-eval",
    "count events privately": "dp-continual",
    "error bars for my test accuracy": "model-eval",
    "hyperparameter search when each training run takes hours": "bayesopt",
    "my neural simulator becomes unstable after many steps": "pde-refiner",
    "stable diffusion with fewer steps": "dpm-solver",
    "image editing by inverting the sampler": "bdia",
    "train on several computers over slow internet": "one-byte",
    "verify a neural network": "auto-lirpa",
    "batch size doubled, which learning rate": "rmt-lr",
    "guitar amplifier emulation": "signaltrain",
    "echo of a room for a video game": "sound-deeponet",
    "discover governing equations from data": "prose",
    "reuse the validation set without overfitting": "adaptive-analysis",
    "sensor spoofing against an RL agent": "bifurcation-attack",
    "mass is not conserved by my surrogate": "probconserv",
    "shrink a model to fit in memory by hashing weights": "stable-rps",
    "explain an image classifier by hiding regions": "layer-masking",
    "improve prompts of an agent automatically": "trace",
    "zero-sum game equilibrium": "vr-halpern",
    "flatness of the minimum": "sgd-stability",
    "sudden generalisation long after overfitting": "grokking",
    "int8 quantization of an image generator": "ptq4dm",
    "federated learning bandwidth": "ef21-w",
    "duration of exceedances of a threshold": "slepian-iia",
    "brain cancer patient specific model": "tumor-for-loop",
    "over-relaxation factor": "sor-bandit",
}


@pytest.mark.parametrize(("words", "slug"), PROBLEMS.items())
def test_a_problem_finds_the_paper_that_answers_it(words, slug):
    papers = load_all()
    assert words.casefold() not in {question.casefold() for paper in papers for question in paper.questions}
    assert slug in [paper.slug for paper in search(papers, words)][:3]
