import shutil
from pathlib import Path

import pytest

from paperworks.papers.check import check
from paperworks.papers.scaffold import scaffold_package

SOUND = Path(__file__).parent / "third_party" / "median-of-means"
INSIDE = Path("src/median_of_means/papers/median_of_means")


@pytest.fixture
def paper(tmp_path):
    """Copy a sound paper, and return its folder."""
    shutil.copytree(SOUND, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "project" / INSIDE


def line_of(file, text):
    """Return the number of the first line of a file that holds `text`."""
    return next(n for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if text in line)


def test_a_sound_paper_has_nothing_to_mend(paper):
    assert check(paper) == []


# What is changed in the record, what is said of it, and the text that the line named holds.
BREACHES = [
    ('arxiv   = "1509.05845"', 'arxiv   = "1509.05845v2"', "arxiv is '1509.05845v2'", "arxiv "),
    ("year    = 2015", "year    = 2016", "year is 2016; the first version", "year "),
    ('"https://arxiv.org/abs/1509.05845"', '"https://example.org"', "links.paper is 'https://example.org'", "[links]"),
    ('estimators"', 'estimators."', "title is 'Sub-Gaussian mean estimators.'", "title "),
    ('"Luc Devroye"', '"Devroye"', "authors has 'Devroye'", "authors "),
    ("rare, huge values.", "rare, huge values", "summary has", "summary "),
    ('"heavy tails"]', '"mean estimation"]', "tags has 2; it takes 2 to 5 different", "tags "),
    ("confidence?", "confidence", "it takes one question", "questions "),
    ('"median_of_means.MedianOfMeans"', '"MedianOfMeans"', "a name that can be imported", "methods "),
    ("median_of_means.MedianOfMeans", "median_of_means.Median", "can't be imported", "methods "),
    ('field   = "statistics"', 'field   = "Statistics!"', "field is 'Statistics!'", "field "),
    ('id       = "c2-one-block"', 'id       = "one-block"', "it takes the form c1-order", "one-block"),
    ("headline = true", "headline = false", "0 claims are headlines", "[[claims]]"),
    ('"by definition"', '""', "reported is empty", "c2-one-block"),
    ('bar      = "<= 1e-12"', 'bar      = "small"', "bar 'small' does not parse", "c2-one-block"),
    ("headline = true", "headlines = true", "unknown key 'headlines'", "c1-deviation"),
    ("year    = 2015", 'year    = "2015"', "year is '2015'; it takes a int", "year "),
    ('field   = "statistics"', "field   = statistics", "not TOML", "field "),
    ('id       = "c2-one-block"', 'id       = "c2-other"', 'no function @measures("c2-other")', "c2-other"),
]


@pytest.mark.parametrize(("old", "new", "message", "where"), BREACHES, ids=[message for _, _, message, _ in BREACHES])
def test_a_broken_rule_is_named_with_its_line(paper, old, new, message, where):
    record = paper / "paper.toml"
    text = record.read_text(encoding="utf-8")
    assert old in text
    record.write_text(text.replace(old, new), encoding="utf-8")
    (finding,) = [finding for finding in check(paper) if message in finding.text]
    assert (finding.path, finding.line) == (record, line_of(record, where))


def test_what_stands_beside_the_record_is_checked_too(paper):
    claims = paper / "claims.py"
    claims.write_text(claims.read_text() + '\n\n@measures("c3-none")\ndef third(run): ...\n')
    (paper / "__init__.py").write_text('"""Something else."""\n')
    (paper / "usage.py").unlink()
    found = [(finding.path.name, finding.line, finding.text) for finding in check(paper)]
    line = line_of(claims, "c3-none")
    assert found == [
        ("__init__.py", 1, "has to begin with a docstring that is the title, or its beginning where it is long"),
        ("claims.py", line, '@measures("c3-none") belongs to nothing in paper.toml'),
        ("usage.py", 1, "is missing: ten lines that a reader can paste"),
    ]


def test_a_file_that_is_not_python_is_named_with_its_line(paper):
    (paper / "usage.py").write_text("x = 1\nprint(\n")
    (finding,) = check(paper)
    assert (finding.path.name, finding.line) == ("usage.py", 2)
    assert finding.text.startswith("is not Python:")


def test_a_missing_record_is_said(tmp_path):
    (finding,) = check(tmp_path)
    assert "can't be read: No such file" in finding.text


def test_every_stub_is_to_be_filled(tmp_path):
    project = scaffold_package("2206.00927", "sampling", slug="fresh-paper", root=tmp_path)
    found = check(project / "src/fresh_paper/papers/fresh_paper")
    unfilled = {finding.path.name for finding in found if finding.text == "this line is still to be filled"}
    assert unfilled == {"paper.toml", "claims.py", "usage.py", "method.py"}
