import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from paperworks.core.code import PACKAGE
from paperworks.evidence import provenance
from paperworks.evidence.provenance import changed_versions, imported_distributions, revision_of, without_paths


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Make a checkout with two committed files."""
    root = tmp_path / "checkout"
    package = root / "src" / "paperworks"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1")
    (package / "claims.py").write_text("c = 1")
    (root / "pyproject.toml").write_text('[project]\nname = "paperworks"\n')
    monkeypatch.setattr(provenance, "PACKAGE", package)
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    return package


def test_the_revision_is_the_commit_and_tells_changes_of_what_was_used(checkout):
    commit = revision_of([checkout / "a.py"])
    assert len(commit) == 40
    (checkout / "unrelated.py").write_text("")
    assert revision_of([checkout / "a.py"]) == commit
    assert revision_of([checkout / "unrelated.py"]) == f"{commit}+dirty"
    (checkout / "a.py").write_text("a = 2")
    assert revision_of([checkout / "a.py"]) == f"{commit}+dirty"


def test_outside_a_checkout_there_is_no_revision(checkout):
    (checkout.parents[1] / "pyproject.toml").write_text('name = "something-else"')
    assert provenance.checkout() is None
    assert revision_of([]) == ""


def test_a_checkout_without_git_has_no_revision(tmp_path, monkeypatch):
    package = tmp_path / "src" / "paperworks"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('name = "paperworks"')
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.checkout() == tmp_path
    assert revision_of([]) == ""


def test_versions_are_of_what_was_imported():
    found = imported_distributions(["numpy", "sklearn", "no_such_module"])
    assert found.keys() == {"numpy", "paperworks", "scikit-learn"}
    assert found["numpy"] == numpy.__version__


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        (numpy.__version__, 0),
        (".".join(numpy.__version__.split(".")[:2]) + ".99", 0),
        (f"{numpy.__version__}+local", 0),
        ("1.0.0", 1),
    ],
)
def test_major_and_minor_versions_count(before, changed):
    assert len(changed_versions({"numpy": before})) == changed
    assert changed_versions({"not-installed-here": before}) == []


def test_versions_of_what_installs_packages_do_not_count(monkeypatch):
    monkeypatch.setattr(provenance, "version_of", lambda name: "65.5")
    before = {"numpy": "1.0", "pip": "1.0", "setuptools": "84.2", "wheel": "1.0"}
    assert changed_versions(before) == ["numpy 1.0 → 65.5"]


def test_the_machine_is_described_without_its_name():
    found = provenance.machine()
    assert set(found) == {"cpu", "cores", "system"}
    assert found["cores"] >= 1


def test_tracebacks_lose_what_only_this_machine_has(tmp_path):
    text = f'"{tmp_path}/claims.py" "{PACKAGE}/core/x.py" "{subprocess.__file__}" "{Path.home()}/data"'
    assert without_paths(text, tmp_path) == '"claims.py" "paperworks/core/x.py" "subprocess.py" "~/data"'


def test_reading_evidence_imports_nothing_heavy():
    script = """
import sys
from paperworks.evidence import claims_table, compare, paper_views, read_evidence, read_paper, results_of
from paperworks.papers import load_all
assert results_of(load_all())
heavy = {"torch", "scipy", "numpy", "matplotlib", "joblib"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_folder_has_changed_where_code_of_its_own_is_other_than_at_a_commit(checkout):
    commit = revision_of([checkout / "a.py"])
    assert not provenance.code_changed(checkout, commit)
    (checkout / "a.py").write_text('"""What it holds."""\n\na = 1  # the first\n')
    (checkout / "usage.py").write_text("print(1)")
    assert not provenance.code_changed(checkout, commit)
    assert not provenance.code_changed(checkout, "")
    (checkout / "a.py").write_text("a = 2")
    assert provenance.code_changed(checkout, commit)
    (checkout / "a.py").write_text("a = 1")
    assert provenance.code_changed(checkout, "0" * 40)
    (checkout / "b.py").write_text("b = 1")
    assert provenance.code_changed(checkout, commit)
    assert not provenance.code_changed(checkout.parents[2], commit), "outside the checkout nothing is known"
