import subprocess
import sys
from pathlib import Path

import pytest

from paperworks.evidence.record import read_paper
from paperworks.papers.scaffold import parse_identifier, scaffold, scaffold_package

THIRD_PARTY = Path(__file__).parent / "third_party" / "median-of-means"


def test_a_new_paper_has_a_record_that_can_be_read(tmp_path):
    folder = scaffold("2206.00927", "diffusion", slug="fast-sampler", title="A Fast Sampler", root=tmp_path)
    paper = read_paper(folder)
    assert (paper.slug, paper.title, paper.year, paper.planned) == ("fast-sampler", "A Fast Sampler", 2022, False)
    assert paper.methods == ("paperworks.diffusion.FastSampler",)


@pytest.mark.parametrize(
    ("text", "identifier", "is_arxiv", "year", "slug"),
    [
        ("2206.00927", "2206.00927", True, 2022, "arxiv-2206-00927"),
        ("arXiv:0704.0001", "0704.0001", True, 2007, "arxiv-0704-0001"),
        ("https://arxiv.org/abs/math/0309285", "math/0309285", True, 2003, "arxiv-math-0309285"),
        ("hep-th/9901001", "hep-th/9901001", True, 1999, "arxiv-hep-th-9901001"),
        ("math.PR/0309285", "math.PR/0309285", True, 2003, "arxiv-math-pr-0309285"),
        ("10.3390/MCA24020041", "10.3390/mca24020041", False, 0, "doi-10-3390-mca24020041"),
        ("https://doi.org/10.3390/mca24020041", "10.3390/mca24020041", False, 0, "doi-10-3390-mca24020041"),
    ],
)
def test_identifiers_old_and_new(text, identifier, is_arxiv, year, slug):
    found = parse_identifier(text)
    assert (found.text, found.is_arxiv, found.year, found.slug) == (identifier, is_arxiv, year, slug)


def test_the_slug_is_the_identifier_by_default_and_a_doi_takes_its_year_from_elsewhere(tmp_path):
    paper = read_paper(scaffold("10.3390/mca24020041", "audio", year=2019, root=tmp_path))
    assert (paper.slug, paper.doi, paper.year) == ("doi-10-3390-mca24020041", "10.3390/mca24020041", 2019)
    assert paper.links["paper"] == "https://doi.org/10.3390/mca24020041"


@pytest.mark.parametrize("title", ['Of "Quotes" and \\Backslashes', "Ends with a quote: '\"", "über $x$ {y}"])
def test_any_title_is_written_so_that_it_can_be_read(tmp_path, title):
    folder = scaffold("2206.00927", "audio", title=title, authors=['Ann "A" Author'], root=tmp_path)
    paper = read_paper(folder)
    assert (paper.title, paper.authors) == (title, ('Ann "A" Author',))
    compile((folder / "__init__.py").read_text(encoding="utf-8"), "__init__.py", "exec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identifier": "2206.00927v1"}, "id is '2206.00927v1'"),
        ({"identifier": "2213.00927"}, "id is"),
        ({"identifier": "https://example.org/2206.00927"}, "id is"),
        ({"field": "biology"}, "field is 'biology'; it takes one of diffusion"),
        ({"slug": "../x"}, "slug is '../x'"),
        ({"slug": "class"}, "slug is 'class'"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        scaffold(**{"identifier": "2206.00927", "field": "audio", "root": tmp_path, **arguments})


def test_a_taken_slug_is_refused(tmp_path):
    scaffold("2206.00927", "audio", root=tmp_path)
    with pytest.raises(FileExistsError, match="arxiv-2206-00927"):
        scaffold("2206.00927", "audio", root=tmp_path)
    scaffold_package("2206.00927", "audio", root=tmp_path, slug="other")
    with pytest.raises(FileExistsError, match="other is there already"):
        scaffold_package("2206.00927", "audio", root=tmp_path, slug="other")
    with pytest.raises(FileExistsError, match="a paper 'dpm-solver' is there already"):
        scaffold_package("2206.00927", "audio", root=tmp_path, slug="dpm-solver")


def test_a_package_of_ones_own_may_have_a_field_of_its_own(tmp_path):
    scaffold_package("2206.00927", "biology", root=tmp_path)
    with pytest.raises(ValueError, match="field is 'Bio logy'; it takes one lower-case word"):
        scaffold_package("2206.00927", "Bio logy", root=tmp_path)


def test_a_package_has_the_files_of_the_one_that_the_tests_keep(tmp_path):
    project = scaffold_package("1509.05845", "statistics", slug="median-of-means", root=tmp_path)
    there = {path.relative_to(THIRD_PARTY) for path in THIRD_PARTY.rglob("*") if path.suffix in (".py", ".toml")}
    made = {path.relative_to(project) for path in project.rglob("*") if path.is_file()}
    assert made == there


@pytest.mark.parametrize("file", ["usage.py", "method", "test"])
def test_a_stub_fails_with_a_sentence_that_says_what_to_write(tmp_path, file):
    project = scaffold_package("2206.00927", "sampling", slug="fresh", root=tmp_path)
    command = {
        "usage.py": [project / "src/fresh/papers/fresh/usage.py"],
        "method": ["-c", "import fresh; fresh.Fresh()"],
        "test": ["-c", "from test_fresh import *; test_it_does_what_the_paper_says()"],
    }[file]
    path = {"PYTHONPATH": f"{project / 'src'}:{project / 'tests'}"}
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=path)
    assert run.returncode == 1
    assert "Fresh is a stub: write the method of fresh in src/fresh/method.py" in run.stderr
