import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import bibtexparser
import pytest
import typer
from typer.testing import CliRunner

import paperworks
from paperworks import papers
from paperworks.cli.app import app
from paperworks.evidence import store
from paperworks.evidence.record import read_paper

FAKE_CLAIMS = """
from paperworks.evidence import Measurement, Run, measures, races
from paperworks.evidence.estimates import exact


@measures("c1-answer")
def answer(run: Run) -> Measurement:
    return Measurement(exact(42.0))


@races("peer")
def race(run: Run) -> Measurement:
    return Measurement(exact(0.5))
"""
FAKE_ENTRIES = """
[[claims]]
id = "c1-answer"
says = "the answer is known"
reported = "42"
measure = "by looking"
bar = "{bar}"
note = "{note}"
scale = "smoke"

[[peers]]
id = "peer"
package = "numpy"
says = "time, ours / theirs"
bar = "<= 0.8"
scale = "smoke"
"""


def invoke(*arguments, **kwargs):
    return CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Make a shelf of papers of its own, with one paper to measure, `fake`."""
    root = tmp_path / "papers"
    root.mkdir()
    monkeypatch.setattr(papers, "ROOT", root)
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path / "evidence"))
    monkeypatch.setattr(store, "checkout", lambda: tmp_path / "checkout")
    papers.load.cache_clear()
    from paperworks.papers.scaffold import scaffold

    folder = scaffold("2401.00001", "audio", slug="fake", title="A Fake Paper", root=root)
    set_bar(folder, "== 42")
    (folder / "claims.py").write_text(FAKE_CLAIMS)
    set_bar(folder, "== 42")
    yield root
    papers.load.cache_clear()


def set_bar(folder, bar, note=""):
    record = (folder / "paper.toml").read_text().split("\n[[claims]]")[0]
    (folder / "paper.toml").write_text(record + FAKE_ENTRIES.format(bar=bar, note=note))
    papers.load.cache_clear()


def test_version():
    result = invoke("--version")
    assert result.output.strip() == f"paperworks {paperworks.__version__}"


def test_sources_that_nobody_installed_have_no_known_version(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.delitem(vars(paperworks), "__version__", raising=False)
    monkeypatch.setattr("importlib.metadata.version", version)
    assert paperworks.__version__ == "0+unknown"
    monkeypatch.delitem(vars(paperworks), "__version__")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = paperworks.nothing


def test_cite_prints_what_bibtex_reads():
    (entry,) = bibtexparser.parse_string(invoke("cite", "dpm-solver").output).entries
    assert (entry["eprint"], entry["year"]) == ("2206.00927", "2022")
    assert entry["author"].startswith("Cheng Lu and Yuhao Zhou")
    assert invoke("cite", "no-such-paper").exit_code == 2


def test_list_shows_every_paper_and_json_has_the_same():
    rows = json.loads(invoke("list", "--json").output)
    assert [row["slug"] for row in rows] == papers.slugs()
    text = invoke("list").output
    assert all(row["slug"] in text for row in rows)


def test_list_filters_and_sorts():
    rows = json.loads(invoke("list", "--json", "--field", "diffusion", "--sort", "year").output)
    assert {row["field"] for row in rows} == {"diffusion"}
    assert [row["year"] for row in rows] == sorted(row["year"] for row in rows)
    planned = json.loads(invoke("list", "--json", "--status", "planned").output)
    assert {row["status"] for row in planned} <= {"planned"}
    found = json.loads(invoke("list", "--json", "--search", "dpm-solver").output)
    assert found[0]["slug"] == "dpm-solver"


def test_search_finds_the_sampler_by_what_it_does():
    rows = json.loads(invoke("search", "--json", "sample", "a", "diffusion", "model", "in", "10", "steps").output)
    assert rows[0]["slug"] == "dpm-solver"


def test_search_that_finds_nothing_says_so():
    result = invoke("search", "qqqqqqqq")
    assert (result.exit_code, result.output.strip()) == (0, "No paper matches.")


def test_show_tells_what_there_is():
    text = invoke("show", "dpm-solver").output
    assert "from paperworks.diffusion import DPMSolver" in text
    data = json.loads(invoke("show", "dpm-solver", "--json").output)
    assert data["arxiv"] == "2206.00927"
    assert {claim["kind"] for claim in data["claims"]} == {"claim"}
    assert "DPMSolver" in data["usage"]


def test_a_planned_paper_is_never_shown_as_more(shelf):
    (shelf / "fake" / "claims.py").unlink()
    assert json.loads(invoke("list", "--json").output)[0]["status"] == "planned"
    assert "Planned" in invoke("show", "fake").output


def test_run_measures_and_race_races(shelf, tmp_path):
    result = invoke("run", "fake", "--scale", "smoke")
    assert result.exit_code == 0, result.output
    assert "holds" in result.output
    assert invoke("race", "fake", "--scale", "smoke").exit_code == 0
    own = ("--evidence", tmp_path / "evidence")
    rows = json.loads(invoke("list", "--json", *own).output)
    assert (rows[0]["status"], rows[0]["holds"], rows[0]["outdated"]) == ("measured", 1, 0)
    shown = json.loads(invoke("show", "fake", "--json", *own).output)
    assert [entry["verdict"] for entry in shown["claims"] + shown["peers"]] == ["holds", "holds"]
    both = json.loads(invoke("show", "fake", "--json").output)
    assert both["claims"][0]["verdict"] == "not measured", "one's own evidence is none that the project vouches for"
    assert both["claims"][0]["own"]["verdict"] == "holds"


def test_search_says_what_it_took_a_word_for():
    result = invoke("search", "robustnes")
    assert result.stderr == "No paper has 'robustnes'; searched for 'robustness' or 'robust'\n"
    assert invoke("search", "robustness").stderr == ""


def test_a_run_says_what_to_do_next(shelf, monkeypatch):
    assert "Next: paperworks run fake --scale desk · " in invoke("run", "fake", "--scale", "smoke").output
    assert (
        "Next: paperworks compare fake · paperworks show fake · paperworks race fake\n" in invoke("run", "fake").output
    )
    raced = invoke("race", "fake").output
    assert "Next: paperworks compare fake · paperworks show fake · paperworks run fake\n" in raced

    from paperworks.evidence import runner

    run_papers = runner.run_papers
    monkeypatch.setattr(runner, "run_papers", lambda *a, **k: replace(run_papers(*a, **k), interrupted=True))
    stopped = invoke("run", "fake").output
    assert "the same command with --resume goes on from here" in stopped
    assert "Next:" not in stopped


def test_what_can_not_be_compared_says_how_it_could(shelf):
    invoke("run", "fake", "--scale", "smoke")
    result = invoke("compare", "fake")
    assert result.exit_code == 2
    assert "`paperworks run PAPER`" in result.stderr


def test_own_evidence_is_compared_with_the_committed_one(shelf, tmp_path):
    assert invoke("compare", "fake").exit_code == 2, "nothing can be compared"
    invoke("run", "fake", "--scale", "smoke", "--evidence", tmp_path / "checkout" / "evidence")
    invoke("run", "fake", "--scale", "smoke")
    result = invoke("compare", "fake")
    assert result.exit_code == 0
    assert "fake c1-answer: equal" in result.output
    (shelf / "fake" / "claims.py").write_text(FAKE_CLAIMS.replace("42.0", "41.0"))
    invoke("run", "fake", "--scale", "smoke")
    result = invoke("compare", "fake", "--json")
    assert result.exit_code == 1
    rows = {row["id"]: row for row in json.loads(result.output)}
    assert rows["c1-answer"]["detail"] == "value: 42 committed, 41 yours"
    assert rows["peer"]["result"] == "not comparable"


def test_a_sample_of_committed_claims_is_verified(shelf, tmp_path):
    committed = ("--evidence", tmp_path / "checkout" / "evidence")
    result = invoke("verify", "fake")
    assert result.exit_code == 2
    assert "up to date and short enough" in result.stderr
    invoke("run", "fake", *committed)
    result = invoke("verify", "fake", "--json")
    assert result.exit_code == 0, result.output
    assert [(row["id"], row["result"]) for row in json.loads(result.stdout)] == [("c1-answer", "equal")]


def test_what_is_outdated_or_missing_is_counted(shelf, tmp_path):
    committed = ("--evidence", tmp_path / "checkout" / "evidence")
    assert "2 of 2 are outdated or not measured" in invoke("outdated").output
    invoke("run", "fake", *committed)
    invoke("race", "fake", *committed)
    result = invoke("outdated", "fake")
    assert (result.exit_code, result.output) == (0, "0 of 2 are outdated or not measured\n")
    (shelf / "fake" / "claims.py").write_text(FAKE_CLAIMS.replace("42.0", "41.0"))
    result = invoke("outdated", "--json")
    assert result.exit_code == 1
    assert [(row["id"], row["why"]) for row in json.loads(result.output)] == [
        ("c1-answer", "the code has changed since")
    ]


def test_a_race_whose_peers_are_all_missing_is_not_silently_fine(shelf):
    claims = shelf / "fake" / "claims.py"
    claims.write_text(
        FAKE_CLAIMS.replace(
            "-> Measurement:\n    return Measurement(exact(0.5))", "-> Measurement:\n    import no_such_peer"
        )
    )
    result = invoke("race", "fake", "--scale", "smoke")
    assert result.exit_code == 2
    assert "pip install 'paperworks[peers]'" in result.stderr


def test_a_history_that_can_not_be_read_costs_its_own_paper_a_line(shelf, tmp_path):
    history = tmp_path / "checkout" / "evidence" / "fake" / "history.jsonl"
    history.parent.mkdir(parents=True)
    history.write_text("{")
    result = invoke("list")
    assert result.exit_code == 0
    assert "line 1: malformed" in result.stderr
    assert "fake" in result.stdout


def test_ids_are_completed(shelf):
    from typer import Context

    from paperworks.cli.running import _complete_id

    context = Context(typer.main.get_command(app))
    context.params["slugs"] = ["fake"]
    assert _complete_id("claim")(context, "c") == ["c1-answer"]
    assert _complete_id("peer")(context, "") == ["peer"]


def test_what_is_piped_keeps_a_row_on_one_line_and_may_be_cut_short():
    command = [sys.executable, "-m", "paperworks", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len([line for line in lines if line.startswith("stochastic-interpolants ")]) == 1
    cut = subprocess.run(
        f"{' '.join(command)} | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (cut.returncode, cut.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_that_lacks_a_star_or_a_dash_shows_the_rest(encoding):
    command = [sys.executable, "-m", "paperworks", "show", "dpm-solver"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "c1-orders" in result.stdout.decode(encoding)


def test_an_unexplained_shortfall_is_exit_code_1_and_an_explained_one_0(shelf):
    set_bar(shelf / "fake", "<= 41")
    assert invoke("run", "fake", "--scale", "smoke").exit_code == 1
    set_bar(shelf / "fake", "<= 41", note="it is 42")
    result = invoke("run", "fake", "--scale", "smoke")
    assert result.exit_code == 0
    assert "known shortfall" in result.output
    assert "holds" not in result.output


def test_run_prints_json_alone(shelf):
    data = json.loads(invoke("run", "fake", "--scale", "smoke", "--json").stdout)
    assert [(entry["id"], entry["verdict"]) for entry in data] == [("c1-answer", "holds")]


def test_report_writes_both_pages(shelf, tmp_path):
    invoke("run", "fake", "--scale", "smoke")
    own = ("--evidence", tmp_path / "evidence")
    result = invoke("report", "--markdown", tmp_path / "RESULTS.md", "--html", tmp_path / "results.html", *own)
    assert result.exit_code == 0, result.output
    assert "A Fake Paper" in (tmp_path / "RESULTS.md").read_text()
    assert "A Fake Paper" in (tmp_path / "results.html").read_text()


BIBTEX = """@article{x, title={On {F}ast Sampling}, author={Author, Ann and B. Writer}, year=2019, doi={10.1000/x}}"""


def test_new_takes_what_a_bibtex_entry_says(tmp_path):
    (tmp_path / "x.bib").write_text(BIBTEX)
    result = invoke("new", "--bibtex", tmp_path / "x.bib", "--field", "audio", "--slug", "other", "--into", tmp_path)
    assert result.exit_code == 0, result.output
    paper = read_paper(tmp_path / "other/src/other/papers/other")
    found = (paper.title, paper.authors, paper.year, paper.doi)
    assert found == ("On Fast Sampling", ("Ann Author", "B. Writer"), 2019, "10.1000/x")


def test_new_takes_what_the_feed_knows(tmp_path, monkeypatch):
    from paperworks.feed.ingest.bibliography import read_bibtex
    from paperworks.feed.store import FeedStore

    monkeypatch.setenv("PAPERWORKS_FEED", str(tmp_path / "feed.db"))
    arguments = ("new", "10.1000/x", "--field", "audio", "--into", tmp_path, "--slug")
    assert invoke(*arguments, "before").exit_code == 0
    assert not (tmp_path / "feed.db").exists()
    store = FeedStore()
    for batch in read_bibtex(BIBTEX):
        store.add(batch.entries)
    store.close()
    assert invoke(*arguments, "other").exit_code == 0
    titles = [read_paper(tmp_path / f"{slug}/src/{slug}/papers/{slug}").title for slug in ("before", "other")]
    assert titles == ["doi:10.1000/x", "On Fast Sampling"]


def test_check_says_what_is_wrong_and_is_exit_code_1(tmp_path):
    assert invoke("check", "dpm-solver").output == "1 paper: nothing to mend\n"
    invoke("new", "2206.00927", "--field", "audio", "--slug", "other", "--into", tmp_path)
    result = invoke("check", tmp_path / "other")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert "paper.toml:10: tags has 0; it takes 2 to 5 different ones" in result.output
    assert lines[-1] == f"1 paper: {len(lines) - 1} to mend"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "dpm-slover"), "no paper 'dpm-slover'; did you mean dpm-solver?"),
        (("run", "dpm-slover"), "did you mean dpm-solver?"),
        (("run",), "name the papers, or take --all"),
        (("run", "dpm-solver", "--claim", "c1-order"), "did you mean c1-orders?"),
        (("run", "dpm-solver", "--address", "x"), "the local engine takes no address"),
        (("run", "dpm-solver", "--engine", "dask"), "needs the address"),
        (("run", "dpm-solver", "--evidence", "/proc/nowhere"), "evidence can't be written to /proc/nowhere"),
        (("search", "*"), "it takes at least one word"),
        (("new", "2206.00927v2", "--field", "audio"), "id is '2206.00927v2'"),
        (("new", "2206.00927", "--field", "x"), "field is 'x'"),
        (("new", "--field", "audio"), "say which paper it is"),
        (("new", "2206.00927"), "say which field"),
        (("check", "dpm-slover"), "dpm-slover is no paper"),
        (("new", "2206.00927", "--field", "diffusion", "--slug", "bdia"), "is there already"),
    ],
)
def test_errors_of_use_are_one_line_and_exit_code_2(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [("run", "dpm-solver", "--scale", "huge"), ("list", "--field", "x"), ("--papers", "/none", "list")]
)
def test_a_choice_that_is_none_is_exit_code_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("bar", "message"), [("about 3", "bar 'about 3' does not parse"), ("between 2 and 1", "lower end")]
)
def test_a_bar_that_does_not_parse_is_an_error_of_use(shelf, bar, message):
    set_bar(shelf / "fake", bar)
    for command in ("show", "run"):
        result = invoke(command, "fake")
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert "paper.toml" in result.stderr


def test_a_record_that_cannot_be_read_costs_the_list_one_line(shelf):
    from paperworks.papers.scaffold import scaffold

    scaffold("2402.00002", "audio", slug="sound", root=shelf)
    (shelf / "fake" / "paper.toml").write_text("title = ")
    result = invoke("list")
    assert result.exit_code == 0, result.output
    rows = {row["slug"]: row for row in json.loads(invoke("list", "--json").output)}
    assert {slug: row["status"] for slug, row in rows.items()} == {"fake": "broken", "sound": "unmeasured"}
    assert "not TOML" in rows["fake"]["title"]
    assert [row["slug"] for row in json.loads(invoke("search", "sound", "--json").output)] == ["sound"]


@pytest.mark.parametrize(("missing", "extra"), [("psycopg", "postgres"), ("faiss", "meaning"), ("alembic", "site")])
def test_a_package_that_is_missing_is_an_error_that_names_its_extra(monkeypatch, missing, extra):
    from paperworks.cli.feed import needs_site

    monkeypatch.setitem(sys.modules, missing, None)  # so that it can't be imported

    def use():
        with needs_site():
            importlib.import_module(missing)

    probe = typer.Typer()
    probe.command()(use)
    result = CliRunner().invoke(probe, [])
    assert result.exit_code == 2
    assert result.stderr == f"Error: this needs the package {missing}; install it:  pip install 'paperworks[{extra}]'\n"


@pytest.mark.parametrize("arguments", [["list"], ["search", "sampling"], ["show", "dpm-solver"], ["--version"]])
def test_reading_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom paperworks.cli.app import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "sys.exit(str([m for m in ('torch', 'scipy', 'numpy', 'matplotlib', 'joblib') if m in sys.modules] or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "", result.stderr


# The smallest command of Typer that prints a table of Rich, and what a process has imported at its end.
BARE = """
import sys, typer
from typing import Annotated
app = typer.Typer()

@app.command("list")
def list_papers(json: Annotated[bool, typer.Option("--json")] = False) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table("paper")
    table.add_row("Schrödinger – one")
    Console().print(table)

@app.command()
def show() -> None: ...
"""
RUN = "\napp(['list'], standalone_mode=False)\nprint(*sorted(sys.modules), file=sys.stderr)"
# The parser of e-mail reads the versions of what current evidence was measured with.
ALLOWED = {"paperworks", "json", "_json", "tomllib", "platformdirs", "email"}


def test_list_imports_little_more_than_typer_and_rich(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path))  # so that the second run is one with a cache of its own

    def imported(code):
        command = [sys.executable, "-c", code + RUN]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())

    ours = "import sys\nfrom paperworks.cli.app import app"
    imported(ours)
    more = imported(ours) - imported(BARE)
    foreign = sorted(name for name in more if name.partition(".")[0] not in ALLOWED)
    assert foreign == []
    assert len(more) <= 50, f"{len(more)} modules beyond Typer's and Rich's: {sorted(more)}"


def test_a_paper_of_ones_own_is_shown_without_what_it_lacks_yet(tmp_path, monkeypatch):
    monkeypatch.delenv("PAPERWORKS_PAPERS", raising=False)
    assert invoke("new", "1509.05845", "--field", "biology", "--slug", "own", "--into", tmp_path).exit_code == 0
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(tmp_path / "own"))
    assert "\n1 paper; " in invoke("list", "--field", "biology").output
    assert "\n2015 · biology" in invoke("show", "own").output
    ran = invoke("run", "own", "--scale", "smoke", "--evidence", tmp_path / "evidence").output
    assert "Next: paperworks run own --scale desk · paperworks show own · paperworks race own\n" in ran
    assert 'claims.py", line' in ran, "where it failed"
    ran = invoke("run", "own", "--evidence", tmp_path / "evidence").output
    assert "Next: paperworks show own · paperworks race own\n" in ran, "nothing is committed that one could compare"
