"""Holds the records, their folders and the table of fields together."""

import subprocess
import sys
from collections import Counter

import pytest

from paperworks.evidence.record import read_paper
from paperworks.papers import FIELDS, ROOT, load, load_all, slugs
from paperworks.papers.check import check

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
    for key in ("arxiv", "doi", "title", "summary"):
        twice = [value for value, count in Counter(getattr(p, key) for p in papers).items() if value and count > 1]
        assert not twice, f"{key} stands in two records: {twice}"


@pytest.mark.parametrize("slug", slugs())
def test_the_record_meets_every_rule(slug):
    paper = load(slug)
    assert paper.field == FIELD_OF.get(slug, paper.field)
    assert [str(finding) for finding in check(paper.folder)] == []


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
