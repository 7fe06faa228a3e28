import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from paperworks.evidence import provenance
from paperworks.evidence.provenance import PACKAGE, digest_of, loaded_sources, revision_of, versions_of, without_paths


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Make a checkout with one committed source and a paper's claims."""
    root = tmp_path / "checkout"
    package = root / "src" / "paperworks"
    (package / "core").mkdir(parents=True)
    (package / "core" / "a.py").write_text("a = 1")
    (package / "claims.py").write_text("c = 1")
    (root / "pyproject.toml").write_text('[project]\nname = "paperworks"\n')
    monkeypatch.setattr(provenance, "PACKAGE", package)
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    return package


def module(file):
    made = ModuleType("m")
    made.__file__ = None if file is None else str(file)
    return made


def test_sources_are_methods_testbeds_core_and_the_papers_own():
    loaded = {
        "torch": module("/elsewhere/torch.py"),
        "paperworks": module(PACKAGE / "__init__.py"),
        "paperworks.diffusion": module(PACKAGE / "diffusion" / "__init__.py"),
        "paperworks.diffusion.pndm": module(PACKAGE / "diffusion" / "pndm.py"),
        "paperworks.robustness.bounds": module(PACKAGE / "robustness" / "bounds" / "__init__.py"),
        "paperworks.core.lazy": module(PACKAGE / "core" / "lazy.py"),
        "paperworks.evidence.run": module(PACKAGE / "evidence" / "run.py"),
        "paperworks.cli.app": module(PACKAGE / "cli" / "app.py"),
        "paperworks.papers.pndm.claims": module(PACKAGE / "papers" / "pndm" / "claims.py"),
        "paperworks.papers.pndm": module(None),
    }
    assert loaded_sources(loaded) == [
        "core/lazy.py",
        "diffusion/pndm.py",
        "papers/pndm/claims.py",
        "robustness/bounds/__init__.py",
    ]


def test_the_digest_changes_with_claims_and_sources_and_nothing_else(checkout):
    first = digest_of(checkout, ["core/a.py"])
    assert len(first) == 64
    (checkout / "core" / "b.py").write_text("b = 1")
    assert digest_of(checkout, ["core/a.py"]) == first
    assert digest_of(checkout, ["core/a.py", "core/b.py"]) != first
    (checkout / "core" / "a.py").write_text("a = 2")
    second = digest_of(checkout, ["core/a.py"])
    assert second != first
    (checkout / "claims.py").write_text("c = 2")
    assert digest_of(checkout, ["core/a.py"]) not in (first, second)


def test_a_source_that_is_gone_has_no_digest(checkout):
    assert digest_of(checkout, ["core/gone.py"]) == ""


def test_the_revision_is_the_commit_and_tells_changes_of_what_was_used(checkout):
    commit = revision_of(checkout, ["core/a.py"])
    assert len(commit) == 40
    (checkout / "core" / "unrelated.py").write_text("")
    assert revision_of(checkout, ["core/a.py"]) == commit
    assert revision_of(checkout, ["core/unrelated.py"]) == f"{commit}+dirty"
    (checkout / "core" / "a.py").write_text("a = 2")
    assert revision_of(checkout, ["core/a.py"]) == f"{commit}+dirty"


def test_outside_a_checkout_there_is_no_revision(checkout):
    (checkout.parents[1] / "pyproject.toml").write_text('name = "something-else"')
    assert provenance.checkout() is None
    assert revision_of(checkout, []) == ""


def test_a_checkout_without_git_has_no_revision(tmp_path, monkeypatch):
    package = tmp_path / "src" / "paperworks"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('name = "paperworks"')
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.checkout() == tmp_path
    assert revision_of(package, []) == ""


def test_versions_are_of_what_is_installed():
    found = versions_of(["psutil", "no-such-package", "owner/repository"])
    assert {"torch", "numpy", "scipy", "paperworks", "psutil"} == set(found)


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
from paperworks.evidence import read_paper, read_evidence, judgements, judgements_table, markdown_report, html_report
heavy = {"torch", "scipy", "numpy", "matplotlib", "joblib"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)
