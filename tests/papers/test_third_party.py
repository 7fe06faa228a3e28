"""A paper of another package, made from docs/adding-a-paper.md, with Paperworks as it is installed from its wheel."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "third_party" / "median-of-means"
SITE = """
from fastapi.testclient import TestClient
from paperworks.web import create_app, settings_from_environment

here = "http://127.0.0.1:8000"
settings = settings_from_environment(feed="sqlite://", base_url=here, meaning=False)
with TestClient(create_app(settings), base_url=here) as client:
    for page in ("/paper/median-of-means", "/fields", "/results"):
        print(client.get(page).text)
"""


def build(project, out, kind):
    """Build a wheel or a source distribution, and return it."""
    code = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, out], cwd=project, capture_output=True, text=True, check=True)
    return out / run.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def installed(tmp_path_factory, sdist):
    """Install Paperworks from its source distribution's wheel, beside the packages that are there, and the project."""
    folder = tmp_path_factory.mktemp("installed")
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, Debian's, has no filters yet; the archive is our own.
        archive.extractall(folder / "source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = (folder / "source").iterdir()
    shutil.copytree(PROJECT, folder / "project", ignore=shutil.ignore_patterns("__pycache__"))
    wheels = [build(source, folder, "wheel"), build(folder / "project", folder, "wheel")]
    venv.create(folder / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    for wheel in wheels:  # which is all that pip does with one of pure Python
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    # The packages alone: the .pth files there would bring what is installed to be edited, Paperworks itself too.
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def python(installed, tmp_path):
    """Run a command in the fresh environment."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERWORKS_", "PYTHON"))}
    mine = {"PAPERWORKS_EVIDENCE": str(tmp_path / "evidence"), "PAPERWORKS_CACHE": str(tmp_path / "cache")}

    def run(*arguments, code=0):
        command = [str(installed / "venv/bin/python"), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**keep, **mine}, timeout=250
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


MAIN = ("-c", "from paperworks.cli import main; main()")


def test_the_installed_package_is_the_one_that_is_tested(python, installed):
    file = python("-c", "import paperworks; print(paperworks.__file__)")
    assert Path(file.strip()).is_relative_to(installed)


def test_a_paper_of_another_package_is_listed_run_raced_and_shown(python, tmp_path):
    (row,) = json.loads(python(*MAIN, "list", "--field", "statistics", "--json"))
    assert (row["slug"], row["origin"], row["status"]) == ("median-of-means", "median-of-means", "unmeasured")
    found = json.loads(python(*MAIN, "search", "average with outliers", "--json"))
    assert found[0]["slug"] == "median-of-means"
    assert python(*MAIN, "check", "median-of-means") == "1 paper: nothing to mend\n"
    for command, ids in (("run", {"c1-deviation", "c2-one-block"}), ("race", {"trim-mean"})):
        entries = json.loads(python(*MAIN, command, "median-of-means", "--scale", "smoke", "--json"))
        assert {entry["id"]: entry["verdict"] for entry in entries} == dict.fromkeys(ids, "holds")
    shown = json.loads(python(*MAIN, "show", "median-of-means", "--json"))
    assert {claim["verdict"] for claim in shown["claims"] + shown["peers"]} == {"holds"}
    assert "average of blocks, their median: 33.1" in python("-c", shown["usage"])
    python(*MAIN, "report", "--markdown", "results.md")
    assert "(from median-of-means)" in (tmp_path / "results.md").read_text(encoding="utf-8")
    pages = python("-c", SITE)
    for text in ("This record comes from median-of-means", "(from median-of-means)", "2 of 2", "c1-deviation"):
        assert text in pages


def test_a_package_is_started_from_the_wheel_and_found_by_its_folder(python, tmp_path):
    python(*MAIN, "new", "2206.00927", "--field", "sampling", "--slug", "fresh-paper")
    folder = ("--papers", "fresh-paper")
    (row,) = json.loads(python(*MAIN, *folder, "list", "--field", "sampling", "--json"))
    assert (row["slug"], row["origin"]) == ("fresh-paper", "fresh_paper")
    told = python(*MAIN, "run", "fresh-paper", *folder, "--scale", "smoke", code=1)
    assert "claim 'c1-first' of fresh-paper is a stub: measure it in claims.py" in " ".join(told.split())
    assert "this line is still to be filled" in python(*MAIN, "check", "fresh-paper", code=1)


def test_the_source_distribution_holds_all_that_make_needs(sdist):
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Makefile", "pyproject.toml", "locks/core.txt", "locks/test.txt", "locks/no-deps.txt", ".ci/run"}
    needed |= {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    needed |= {"README.md", "LICENSE", "docs/adding-a-paper.md", "tests/conftest.py"}
    assert needed <= there
    assert any(name.startswith("evidence/dpm-solver/") for name in there)
