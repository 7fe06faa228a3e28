"""Holds the records, their folders and the table of fields together."""

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter

import pytest

from paperworks.evidence.measurement import SINGLE
from paperworks.evidence.record import read_paper
from paperworks.papers import FIELDS, ROOT, load, load_all, slugs

PAPERS_OF = {
    "diffusion": [
        "dpm-solver",
        "pndm",
        "bdia",
        "adjoint-dpm",
        "pfgmpp",
        "stochastic-interpolants",
        "ptq4dm",
        "singular-likelihood",
    ],
    "robustness": ["auto-lirpa", "rrcm", "bifurcation-attack", "layer-masking", "fmr"],
    "optimization": [
        "penalty-bilevel",
        "vr-halpern",
        "target-surrogates",
        "ef21-w",
        "one-byte",
        "bayesopt",
        "trace",
    ],
    "training": ["grokking", "sgd-stability", "rmt-lr", "neural-collapse", "stable-rps"],
    "dynamics": ["s4-ptd", "lrnde", "martingale-pe", "slepian-iia"],
    "operators": ["mgno", "poseidon", "pde-refiner", "neuralstagger", "prose", "probconserv"],
    "solvers": ["sor-bandit", "dcdm", "gp-hm", "barron-pde", "bandlimited-nets"],
    "reduction": ["adaptive-rom", "rom-net", "wgan-submodel", "tumor-for-loop"],
    "inference": ["ais-cv", "adaptive-analysis", "dp-continual", "model-eval", "invariance-transfer"],
    "audio": ["signaltrain", "sound-deeponet"],
}
FIELD_OF = {slug: field for field, slugs in PAPERS_OF.items() for slug in slugs}
# A paper that is only just begun, beyond the table, may still have gaps in its record.
SLUGS = sorted(slug for slug in slugs() if slug in FIELD_OF or not load(slug).planned)

each_paper = pytest.mark.parametrize("slug", SLUGS)


def sentences(text):
    return re.findall(r"[.!?](?=\s|$)", text)


def test_every_paper_of_the_table_has_a_record_and_every_folder_is_a_paper():
    assert set(PAPERS_OF) == set(FIELDS)
    assert len(FIELD_OF) == 51
    assert set(slugs()) >= set(FIELD_OF)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {slug.replace("-", "_") for slug in slugs()}


def test_all_records_load_and_identify_different_papers():
    papers = load_all()
    assert [paper.slug for paper in papers] == slugs()
    assert {paper.field for paper in papers} <= set(FIELDS)
    for key in ("arxiv", "title", "summary"):
        twice = [value for value, count in Counter(getattr(p, key) for p in papers).items() if value and count > 1]
        assert not twice, f"{key} stands in two records: {twice}"


@each_paper
def test_the_record_says_which_paper_it_is(slug):
    paper = load(slug)
    assert paper.field == FIELD_OF.get(slug, paper.field)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    assert paper.year == 2000 + int(paper.arxiv[:2]), "the year is that of the first version on arXiv"
    assert paper.links["paper"] == f"https://arxiv.org/abs/{paper.arxiv}"
    assert all(link.startswith("https://") for link in paper.links.values())
    assert paper.authors
    assert len(set(paper.authors)) == len(paper.authors)
    assert all(" " in author and author == author.strip() for author in paper.authors)
    assert paper.title == paper.title.strip()
    assert not paper.title.endswith(".")


@each_paper
def test_the_package_of_the_paper_names_it(slug):
    paper = load(slug)
    docstring = ast.get_docstring(ast.parse((paper.folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring is not None
    name = docstring.splitlines()[0].rstrip(".")
    assert paper.title.startswith(name), "the docstring is the title, or its beginning where it is long"
    assert len(name) >= 5


@each_paper
def test_the_summary_is_short_and_whole(slug):
    summary = load(slug).summary
    assert 2 <= len(sentences(summary)) <= 4
    assert summary.endswith(".")
    assert 200 <= len(summary) <= 700
    assert "  " not in summary
    assert "\n" not in summary


@each_paper
def test_the_methods_are_public_names_of_the_field(slug):
    paper = load(slug)
    assert paper.methods
    assert len(set(paper.methods)) == len(paper.methods)
    for method in paper.methods:
        assert re.fullmatch(rf"paperworks\.{paper.field}\.[A-Za-z]\w*", method)
    assert 2 <= len(set(paper.tags)) == len(paper.tags) <= 5


@each_paper
def test_the_methods_of_a_measured_paper_can_be_imported(slug):
    paper = load(slug)
    if paper.planned:
        pytest.skip("planned: its methods are still to be written")
    for method in paper.methods:
        module, _, name = method.rpartition(".")
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@each_paper
def test_claims_and_peers_can_be_decided(slug):
    paper = load(slug)
    assert len(paper.claims) >= 2
    assert paper.peers
    for claim in paper.claims:
        assert re.fullmatch(r"[a-z]+\d+[a-z]?(-[a-z0-9]+)+", claim.id)
        assert claim.says
        assert claim.reported
        assert claim.measure
    for peer in paper.peers:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", peer.id)
        assert peer.package
        assert peer.says
    for entry in (*paper.claims, *paper.peers):
        assert all(re.fullmatch(r"[a-z]\w*", name) for name in entry.bars if name != SINGLE)


@each_paper
def test_claims_keep_the_order_of_their_numbers_and_one_or_two_are_headlines(slug):
    claims = load(slug).claims
    numbers = [re.match(r"([a-z]+)(\d+)([a-z]?)", claim.id).groups() for claim in claims]
    order = [(letters, int(number), suffix) for letters, number, suffix in numbers]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    assert 1 <= sum(claim.headline for claim in claims) <= 2


@each_paper
def test_a_measured_paper_shows_how_it_is_used(slug):
    paper = load(slug)
    assert paper.planned or paper.usage, f"{slug} has claims.py but no usage.py"


def test_a_paper_is_planned_until_it_has_claims_to_run(tmp_path):
    (tmp_path / "paper.toml").write_bytes((ROOT / "grokking" / "paper.toml").read_bytes())
    assert read_paper(tmp_path).planned
    (tmp_path / "claims.py").touch()
    assert not read_paper(tmp_path).planned


def test_reading_all_records_imports_no_numerical_package():
    code = (
        "import sys; from paperworks.papers import load_all; count = len(load_all());"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'sklearn'} & sys.modules.keys();"
        "print(count, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split(maxsplit=1) == [str(len(slugs())), "[]\n"]
