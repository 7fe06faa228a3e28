"""Paperworks as its wheel installs it, outside the checkout, beside what it declares and nothing else."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

VIEWS = """
import json, sys
from paperworks.evidence import paper_views, read_evidence
from paperworks.papers import load_all
print(json.dumps([[v.to_json() for v in paper_views(p, read_evidence(p.slug))] for p in load_all()]))
"""
IMPORTS = """
import importlib, json, pkgutil, paperworks
missing = {}
for module in pkgutil.walk_packages(paperworks.__path__, "paperworks.", onerror=lambda name: None):
    if module.name.split(".")[-1] in ("usage", "__main__"):  # they run
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""
EXTRA = ("paperworks.web", "paperworks.feed", "paperworks.agents")
RL = ("paperworks.robustness.attacks.", "paperworks.papers.bifurcation_attack.")


def test_everything_that_it_asks_for_is_there_and_pip_agrees(core, site):
    assert core.pip("check").stdout.startswith("No broken requirements")
    assert site.pip("check").stdout.startswith("No broken requirements")
    assert core.run("-c", "import fastapi", command="python").returncode != 0


def test_the_version_is_one_everywhere(core, wheel):
    said = core.run("--version").stdout.split()[-1]
    assert wheel.name.split("-")[1] == said == core.ours.version
    code = "import paperworks; from paperworks.evidence.provenance import version_of"
    told = core.run("-c", f"{code}; print(paperworks.__version__, version_of('paperworks'))", command="python")
    assert told.stdout.split() == [said, said]


def test_commands_that_read(core):
    assert core.listed.returncode == 0, core.listed.stderr
    assert "51 papers" in core.listed.stdout
    shown = core.run("show", "dpm-solver")
    assert "from paperworks.diffusion import DPMSolver" in shown.stdout
    assert "k-th order solver" in shown.stdout


def test_it_shows_the_verdicts_and_figures_of_the_checkout(core):
    run = core.run("-c", VIEWS, command="python")
    assert run.returncode == 0, run.stderr
    installed = json.loads(run.stdout)
    here = json.loads(subprocess.run([sys.executable, "-c", VIEWS], capture_output=True, check=True).stdout)
    for theirs, ours in zip(installed, here, strict=True):
        for a, b in zip(theirs, ours, strict=True):
            for view in (a, b):  # peers' libraries aren't here, and pictures of points are made for the terminal alone
                view["outdated"] = view["outdated"] if view["outdated"].startswith("the code") else ""
                view["figures"] = [name for name in view["figures"] if not name.endswith(".png")]
                view["age"] = ""
            assert a == b


def test_it_measures(core):
    run = core.run("run", "dpm-solver", "--claim", "c1-orders", "--scale", "smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    (history,) = core.home.rglob("dpm-solver/history.jsonl")
    entry = json.loads(history.read_text())
    assert entry["outcome"] == "measured"
    assert entry["provenance"]["versions"]["paperworks"] == core.ours.version
    assert entry["provenance"]["revision"] == ""


def test_the_core_imports_what_it_declares(core):
    run = core.run("-W", "ignore", "-c", IMPORTS, command="python")
    assert run.returncode == 0, run.stderr
    missing = json.loads(run.stdout.splitlines()[-1])
    others = {module: name for module, name in missing.items() if not module.startswith(EXTRA)}
    assert {module: n for module, n in others.items() if not module.startswith(RL)} == {}
    assert set(others.values()) <= {"gymnasium", "stable_baselines3"}, "the extra `rl` says so of environments"


@pytest.mark.parametrize("command", [["serve"], ["ingest", "arxiv", "cs.LG"], ["feed", "doctor"]])
def test_what_needs_the_site_says_so_in_a_sentence(core, command):
    run = core.run(*command)
    assert run.returncode == 2
    assert re.fullmatch(
        r"Error: this needs the package \w+; install it:  pip install 'paperworks\[site\]'\n", run.stderr
    )


def test_what_serves_agents_says_so_in_a_sentence(core):
    run = core.run("mcp")
    assert run.returncode == 2
    assert re.fullmatch(
        r"Error: agents need the package \w+; install what serves them:  pip install 'paperworks\[agents\]'\n",
        run.stderr,
    )


@contextmanager
def serving(environment, port):
    words = [environment.python.parent / "python", "-m", "paperworks", "serve", "--port", str(port), "--no-meaning"]
    process = subprocess.Popen(
        words, env=environment.environment, cwd=environment.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def get(address):
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.read(), answer.headers


def test_the_site(site):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with serving(site, port) as process:
        while True:
            try:
                healthy = json.loads(get(f"{base}/health")[0])
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, process.stdout.read().decode()
                time.sleep(0.2)
        assert healthy == {"status": "ok"}
        front = get(f"{base}/")[0].decode()
        assert "Daily Papers" in front
        paper = get(f"{base}/paper/dpm-solver")[0].decode()
        assert "DPM-Solver" in paper
        assert "holds" in paper
        used = sorted(set(re.findall(r'(?:src|href)="(/[^"]+\.(?:css|js|svg)[^"]*)"', front + paper)))
        assert {address.partition("?")[0].rpartition(".")[2] for address in used} == {"css", "js", "svg"}
        for address in used:
            assert get(base + address.replace("&amp;", "&"))[0]
        figures = [address for address in used if "c1-orders" in address]
        assert figures
        styles = get(f"{base}/static/katex-0.19.1/katex.min.css")[0].decode()
        font = re.search(r"fonts/[\w-]+\.woff2", styles)[0]
        assert get(f"{base}/static/katex-0.19.1/{font}")[0].startswith(b"wOF2")


def test_a_type_checker_sees_the_types(core, tmp_path):
    (tmp_path / "consumer.py").write_text(
        "from paperworks.evidence import Bar, read_evidence\n"
        "reveal_type(Bar.parse('>= 2').decide(1.0, 3.0))\n"
        "read_evidence(3)\n"
    )
    (tmp_path / "mypy.ini").write_text(  # others' types take long to read and say nothing of ours
        "[mypy]\n[mypy-numpy.*,scipy.*,torch.*,sklearn.*,matplotlib.*,joblib.*,rich.*,PIL.*]\nfollow_imports = skip\n"
    )
    options = ["--python-executable", core.python, "--cache-dir", tmp_path / "cache"]
    words = [sys.executable, "-m", "mypy", *options, "consumer.py"]
    run = subprocess.run(words, cwd=tmp_path, env=core.environment, capture_output=True, text=True)
    seen, refused, total = run.stdout.splitlines()
    assert re.search(r'2: note: Revealed type is ".*bool.*None', seen), run.stdout
    assert re.search(r'3: error: Argument 1 to "read_evidence" has incompatible type "int"', refused)
    assert total.startswith("Found 1 error in 1 file")
