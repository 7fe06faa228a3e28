import json
import math
import sys

import pytest
from scipy import stats

from paperworks.evidence.bars import Bar
from paperworks.evidence.spec import TaskSpec, claims_module, paper_folder, portable_folder
from paperworks.evidence.spool import Progress, ProgressWriter, read_progress
from paperworks.evidence.task import perform
from paperworks.papers import ROOT


def spec_of(paper, id, kind="claim", **changes) -> TaskSpec:
    defaults = TaskSpec(
        number=0,
        slug=paper.slug,
        folder=portable_folder(paper.folder),
        kind=kind,
        id=id,
        bars={"": ">= 1"},
        exclusive=False,
        scale="smoke",
        seeds=[0, 1],
        engine="local",
        threads=1,
        budget=0.0,
        time_limit=None,
        wall_limit=None,
        idle_limit=60.0,
        memory_limit=None,
        smoke=False,
        code="",
        spool="",
    )
    return {**defaults, **changes}


@pytest.fixture
def result_of(make_paper, tmp_path, untyped):  # a task runs without the type checks of the tests
    def run(source, id="c1", kind="claim", **changes):
        folder = tmp_path / "out"
        folder.mkdir()
        paper = make_paper(source, {id: {}} if kind == "claim" else {}, {id: {}} if kind == "peer" else {})
        return json.loads(json.dumps(perform(spec_of(paper, id, kind, **changes), folder)))

    return run


def test_a_measurement_is_told_whole(result_of, tmp_path):
    result = result_of("""
        import numpy as np
        @measures("c1")
        def c1(run):
            figure, axes = run.figure()
            axes.plot(run.seeds)
            return Measurement.over_seeds(
                [np.float32(s + 1) for s in run.seeds], unit="s", remark="so",
                table=Table(["a", "b", "c"], [[np.int64(1), None, np.bool_(True)], ["x", (1, 2), np.ones(2)]]),
                figure=figure,
            )
    """)
    assert result["outcome"] == "measured"
    found = result["values"][""]
    assert (found["value"], found["samples"], found["method"]) == (1.5, [1.0, 2.0], "Student's t over 2 seeds")
    assert [found["low"], found["high"]] == pytest.approx(stats.t.interval(0.95, 1, loc=1.5, scale=0.5))
    assert result["level"] == 0.95
    assert (result["unit"], result["remark"]) == ("s", "so")
    assert result["table"] == {"columns": ["a", "b", "c"], "rows": [[1, None, True], ["x", "(1, 2)", "[1. 1.]"]]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figure.png", "figure.svg"]
    assert len(result["digest"]) == 64
    assert {"numpy", "matplotlib"} <= set(result["modules"])


def test_named_values_and_numbers_of_other_libraries_are_taken(result_of):
    result = result_of("""
        import numpy as np, torch
        @measures("c1")
        def c1(run):
            values = {"a": np.float64(1.5), "b": np.bool_(True), "c": torch.tensor(2.0), "d": 3}
            return Measurement({name: exact(value) for name, value in values.items()})
    """)
    values = {name: value["value"] for name, value in result["values"].items()}
    assert values == {"a": 1.5, "b": True, "c": 2.0, "d": 3.0}
    assert values["b"] is True


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('went\\n  wrong')", "RuntimeError: went wrong"),
        ("return 3.0", "TypeError: the function returned float; it has to return a Measurement"),
        ("return Measurement(3.0)", "TypeError: value is 3.0; it takes an Estimate, such as exact(…)"),
        ("return Measurement({'a': None})", "TypeError: value 'a' is None"),
        ("return Measurement(exact('three'))", "TypeError: value is 'three'"),
        ("return Measurement(exact(3.0), remark=None)", "TypeError: remark of the Measurement is None; it takes words"),
        ("return Measurement(exact(3.0), settings={'a': 1})", "TypeError: settings of the Measurement is {'a': 1}"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_goes_wrong_is_an_error_with_its_traceback(result_of, body, reason):
    result = result_of(f"@measures('c1')\ndef c1(run):\n    {body}\n")
    assert result["outcome"] == "error"
    assert result["reason"].startswith(reason)
    assert "Traceback" in result["traceback"]


@pytest.mark.parametrize(
    "estimate",
    [
        "exact(nan)",
        "median([5.0, nan, 3.0, 4.0, 7.0, 9.0, 8.0, 2.0, 1.0, 6.0])",
        "every([1.0, nan])",
        "mean([1.0, nan, 2.0])",
        "bootstrap(lambda x: x.mean(), [1.0, 2.0, 3.0, nan, 5.0, 6.0, 7.0, 8.0])",
        "bootstrap(lambda x, y: (x + y).mean(), [1.0, 2.0, 3.0, nan, 5.0, 6.0, 7.0], [1.0] * 7)",
    ],
)
def test_what_is_not_a_number_has_no_interval_to_hold_by(result_of, estimate):
    result = result_of(f"nan = float('nan')\n@measures('c1')\ndef c1(run):\n    return Measurement({estimate})\n")
    found = result["values"][""]
    assert all(map(math.isnan, (found["value"], found["low"], found["high"])))
    assert Bar.parse(">= 0").decide(found["low"], found["high"]) is False


def test_a_floor_may_be_a_number_of_another_library(result_of):
    result = result_of("""
        import numpy as np
        @measures("c1")
        def c1(run):
            return Measurement(exact(1.0), floor=np.float32(0.5))
    """)
    assert result["floor"] == 0.5


def test_a_traceback_shows_the_claim_first_and_no_path_of_this_machine(result_of, tmp_path):
    result = result_of("@measures('c1')\ndef c1(run):\n    raise RuntimeError('no')\n")
    assert 'File "claims.py", line' in result["traceback"]
    assert str(tmp_path) not in result["traceback"]
    assert "evidence/task.py" not in result["traceback"]


def test_claims_that_do_not_import_are_an_error(result_of):
    result = result_of("def broken(:")
    assert result["outcome"] == "error"
    assert result["reason"].startswith("SyntaxError")


def test_a_claim_without_a_function_is_an_error(result_of):
    result = result_of("")
    assert result["reason"] == 'claims.py has no function @measures("c1")'


def test_a_peer_without_a_function_is_an_error(result_of):
    assert result_of("", "numpy", "peer")["reason"] == 'claims.py has no function @races("numpy")'


def test_not_at_this_scale_is_no_error(result_of):
    result = result_of("@measures('c1')\ndef c1(run):\n    raise NotAtThisScale('needs a GPU')\n")
    assert (result["outcome"], result["reason"]) == ("not at this scale", "needs a GPU")


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("import no_such_peer", "not run"),
        ("from numpy import no_such_name", "not run"),
        ("raise ImportError('needs a compiler')", "not run"),
        ("import paperworks.no_such_module", "error"),
        ("from paperworks.core.cache import no_such_name", "error"),
        ("raise RuntimeError", "error"),
    ],
)
def test_a_race_whose_peer_does_not_import_is_not_run(result_of, body, outcome):
    result = result_of(f"@races('p')\ndef p(run):\n    {body}\n", "p", "peer", exclusive=True)
    assert result["outcome"] == outcome
    assert sys.prefix not in result["reason"]  # evidence says nothing of where this machine keeps its packages


def test_an_exclusive_claim_never_runs_among_others(result_of):
    result = result_of(
        "alone = True\n@measures('c1', exclusive=alone)\ndef c1(run):\n    return Measurement(exact(1.0))\n"
    )
    assert result["outcome"] == "error"
    assert "literals" in result["reason"]


def test_threads_are_as_many_as_were_given(result_of):
    source = "import torch\n@measures('c1')\ndef c1(run):\n    return Measurement(exact(torch.get_num_threads()))\n"
    assert result_of(source, threads=1)["values"][""]["value"] == 1.0


def test_progress_reaches_the_spool(result_of, tmp_path):
    result_of(
        "@measures('c1')\ndef c1(run):\n    return Measurement(exact(sum(run.progress(range(4), label='steps'))))\n",
        spool=str(tmp_path),
        number=7,
    )
    assert read_progress(tmp_path) == {7: Progress(4, 4, "steps")}


def test_progress_is_not_written_at_every_step(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("paperworks.evidence.spool.write_progress", lambda *what: written.append(what))
    report = ProgressWriter(tmp_path, 0)
    for step in range(1001):
        report(step, 1000, "")
    assert written[-1][2] == Progress(1000, 1000, "")
    assert len(written) < 200


def test_running_out_of_memory_is_told(result_of):
    result = result_of("@measures('c1')\ndef c1(run):\n    raise MemoryError\n")
    assert (result["outcome"], result["reason"]) == ("error", "ran out of memory: MemoryError")


def test_smoke_values_are_kept_beside_those_of_a_larger_scale(result_of):
    source = """
        @measures('c1')
        def c1(run):
            value = run.at(smoke=1.0, desk=2.0, full=3.0)
            return Measurement(exact(value), table=Table(["x"], [[value]]))
    """
    result = result_of(source, scale="desk", smoke=True)
    assert result["values"][""]["value"] == 2.0
    assert result["smoke"] == {"values": {"": 1.0}, "rows": [[1.0]]}


def test_what_measures_time_has_no_smoke_values(result_of):
    result = result_of(
        "@measures('c1', exclusive=True)\ndef c1(run):\n    return Measurement(exact(1.0))\n",
        scale="desk",
        smoke=True,
        exclusive=True,
    )
    assert "smoke" not in result


def test_a_paper_inside_the_package_is_found_on_any_machine(make_paper):
    inside = {"folder": portable_folder(ROOT / "dpm_solver")}
    assert inside["folder"] == "papers/dpm_solver"
    assert paper_folder(inside) == ROOT / "dpm_solver"
    assert claims_module(inside["folder"]) == "paperworks.papers.dpm_solver.claims"
    outside = {"folder": portable_folder(make_paper("", {}).folder)}
    assert claims_module(outside["folder"]) == "fixture.claims"
