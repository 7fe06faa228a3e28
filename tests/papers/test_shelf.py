import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from paperworks import papers
from paperworks.papers import recordcache
from paperworks.papers.shelf import find_places, make_importable

THIRD_PARTY = Path(__file__).parent / "third_party" / "median-of-means"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the records of these tests apart."""
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path / "cache"))
    papers.load.cache_clear()
    yield
    papers.load.cache_clear()


@pytest.fixture
def announced(tmp_path, monkeypatch):
    """Make a package with the third party's paper look installed: importable, and with an entry point."""
    site = tmp_path / "site"
    shutil.copytree(THIRD_PARTY / "src", site)
    info = site / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paperworks.papers]\nany = median_of_means.papers\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "median_of_means", raising=False)
    return site


@pytest.mark.parametrize("inside", ["", "src/median_of_means/papers", "src/median_of_means/papers/median_of_means"])
def test_a_folder_is_a_project_papers_or_one_paper(monkeypatch, inside):
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(THIRD_PARTY / inside))
    assert papers.load("median-of-means").origin == "median_of_means"
    assert len(papers.load_all()) == len(papers.slugs()) == 52
    assert papers.fields() == [*papers.FIELDS, "statistics"]
    assert papers.broken() == {}


def test_an_installed_package_announces_its_papers_without_being_imported(announced):
    assert papers.load("median-of-means").origin == "their-package"
    assert "median_of_means" not in sys.modules
    shutil.rmtree(announced / "their_package-1.0.dist-info")
    assert "median-of-means" not in papers.slugs()


def test_an_entry_point_that_leads_nowhere_is_a_problem_of_its_own(announced):
    (announced / "their_package-1.0.dist-info" / "entry_points.txt").write_text(
        "[paperworks.papers]\nany = not_there.papers\n"
    )
    places, problems = find_places()
    assert "median-of-means" not in places
    assert "the entry point 'not_there.papers' of their-package: holds no paper" in str(problems["their-package"])


def test_paperworks_own_paper_comes_first_and_the_other_is_said(tmp_path, monkeypatch):
    shutil.copytree(THIRD_PARTY / "src/median_of_means/papers/median_of_means", tmp_path / "dpm_solver")
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(tmp_path))
    assert papers.load("dpm-solver").origin == ""
    ((name, error),) = papers.broken().items()
    assert name.startswith("dpm-solver of ")
    assert "the name 'dpm-solver' is taken by" in str(error)


def test_a_folder_without_papers_is_said_and_costs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_PAPERS", os.pathsep.join([str(tmp_path / "none"), str(THIRD_PARTY)]))
    assert len(papers.load_all()) == 52
    ((name, error),) = papers.broken().items()
    assert name == "none"
    assert "holds no paper" in str(error)


def test_the_home_of_nobody_is_a_folder_without_papers(monkeypatch):
    monkeypatch.setenv("PAPERWORKS_PAPERS", "~nobody-of-this-name/papers")
    assert any("~nobody-of-this-name/papers: holds no paper" in str(error) for error in find_places()[1].values())


def test_packages_of_named_folders_can_be_imported_here_and_in_tasks(monkeypatch):
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(THIRD_PARTY))
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_importable()
    make_importable()
    root = str(THIRD_PARTY / "src")
    assert sys.path.count(root) == 1
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["before", root]


# The cache of records


def test_a_record_that_changes_is_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    shutil.copytree(THIRD_PARTY / "src/median_of_means/papers", folder)
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(folder))
    record = folder / "median_of_means" / "paper.toml"
    titles = set()
    for title in ("Sub-Gaussian mean estimators", "Sub-Gaussian mode estimators"):  # of the same length
        record.write_text(record.read_text().replace("Sub-Gaussian mean estimators", title))
        titles.add(next(p.title for p in papers.load_all() if p.slug == "median-of-means"))
    assert len(titles) == 2


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04pickle", b"[]", b'{"form": 1, "records": [], "entry points": {}}', b'{"form": 99}']
)
def test_a_cache_that_is_none_is_made_again(tmp_path, monkeypatch, content):
    before = papers.load_all()
    file = tmp_path / "cache" / "records.json"
    assert len(json.loads(file.read_bytes())["records"]) == 51
    file.write_bytes(content)
    monkeypatch.setattr(recordcache, "_CACHE", recordcache._Cache())
    monkeypatch.setattr(recordcache, "save", recordcache._CACHE.save)
    assert papers.load_all() == before
    assert len(json.loads(file.read_bytes())["records"]) == 51


def test_a_folder_that_takes_no_cache_is_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path / "file" / "cache"))
    assert len(papers.load_all()) == 51
