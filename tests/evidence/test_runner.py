"""Runs real tasks in real processes: whatever becomes of one, the others are kept."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from paperworks.evidence import EvidenceError, UsageError, read_evidence, read_paper, run_papers
from paperworks.evidence.spool import Progress

BADLY = """
@measures("ok")
def ok(run):
    figure, axes = run.figure()
    axes.plot([1, 2])
    return Measurement.over_seeds([1.0 + seed for seed in run.seeds], figure=figure)

@measures("raises")
def raises(run):
    raise RuntimeError("no luck")

@measures("hangs")
def hangs(run):
    time.sleep(600)

@measures("eats")
def eats(run):
    eaten = []
    while True:
        eaten.append(b"x" * 20_000_000)
        time.sleep(0.02)

@measures("killed")
def killed(run):
    os.kill(os.getpid(), signal.SIGKILL)

@measures("exits")
def exits(run):
    print("leaving early")
    sys.exit(3)

@measures("vanishes")
def vanishes(run):
    os._exit(0)

@measures("segfaults")
def segfaults(run):
    import ctypes
    ctypes.string_at(0)

@measures("leaves-children")
def leaves_children(run):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with open("CHILD_PID", "w") as file:
        file.write(str(child.pid))
    time.sleep(600)

@measures("named")
def named(run):
    return Measurement({"first": 1.0, "second": 2.0})

@measures("misnamed")
def misnamed(run):
    return Measurement({"first": 1.0, "third": 2.0})

@measures("nan")
def nan(run):
    return Measurement(float("nan"))

@measures("known")
def known(run):
    return Measurement(0.5)

@measures("small")
def small(run):
    return Measurement(0.5)

@measures("elsewhere")
def elsewhere(run):
    raise NotAtThisScale("needs the whole data set")

@races("numpy")
def against_numpy(run):
    return Measurement(0.5)

@races("absent")
def against_absent(run):
    import no_such_package
"""
CLAIMS = {
    "ok": {"headline": True},
    "named": {"bar": {"first": "== 1", "second": ">= 2"}},
    "misnamed": {"bar": {"first": "== 1", "second": ">= 2"}},
    "known": {"note": "for a reason"},
    "small": {"scale": "desk"},
}
ALL = re.findall(r'@measures\("(.+?)"\)', BADLY)
WELL = """
@measures("c1")
def c1(run):
    return Measurement(2.0)

@measures("c2")
def c2(run):
    return Measurement(3.0)
"""


def verdicts(report):
    return {judgement.item.id: judgement.verdict.name for judgement in report.judgements}


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory, write_paper):
    """Run everything that can go wrong at once."""
    tmp = tmp_path_factory.mktemp("bad")
    peers = {"numpy": {}, "absent": {"package": "no-such-package"}}
    source = BADLY.replace("CHILD_PID", str(tmp / "pid"))
    paper = write_paper(tmp / "bad", source, {id: CLAIMS.get(id, {}) for id in ALL}, peers)
    how = {"kinds": ("claim", "peer"), "scale": "smoke", "seeds": 3, "folder": tmp / "evidence", "n_jobs": 3}
    endless = ["hangs", "leaves-children"]
    events = []
    others = [id for id in [*ALL, *peers] if id not in endless]
    report = run_papers([paper], ids=others, time_limit=60, memory_limit=0.3, on_event=events.append, **how)
    hung = run_papers([paper], ids=endless, time_limit=4, **how)
    return replace(report, judgements=report.judgements + hung.judgements), events, tmp


def test_every_task_gets_its_own_verdict(bad_run):
    report, _, _ = bad_run
    assert verdicts(report) == {
        "ok": "holds",
        "raises": "error",
        "hangs": "error",
        "eats": "error",
        "killed": "error",
        "exits": "error",
        "vanishes": "error",
        "segfaults": "error",
        "leaves-children": "error",
        "named": "holds",
        "misnamed": "error",
        "nan": "falls short",
        "known": "known shortfall",
        "small": "not at this scale",
        "elsewhere": "not at this scale",
        "numpy": "holds",
        "absent": "not run",
    }
    assert report.exit_code == 1
    assert not report.interrupted


@pytest.mark.parametrize(
    ("id", "reason", "trace"),
    [
        ("raises", "RuntimeError: no luck", "raise RuntimeError"),
        ("hangs", "still running at its time limit of 4 s", 'claims.py", line'),
        ("eats", "more than its memory limit of 0.3 GiB", ""),
        ("killed", "killed by SIGKILL", ""),
        ("exits", "ended with exit code 3 and no result", "leaving early"),
        ("vanishes", "ended with no result", ""),
        ("segfaults", "killed by SIGSEGV", "Segmentation fault"),
    ],
)
def test_an_error_keeps_its_reason(bad_run, id, reason, trace):
    entry = read_evidence("bad", bad_run[2] / "evidence").entry("claim", id)
    assert entry.outcome == "error"
    assert reason in entry.reason
    assert trace in entry.traceback


def test_the_evidence_of_all_tasks_is_written(bad_run):
    report, _, tmp = bad_run
    stored = read_evidence("bad", tmp / "evidence")
    for judgement in report.judgements:
        assert stored.entry(judgement.kind, judgement.item.id).to_json() == judgement.entry.to_json()
    ok = stored.entry("claim", "ok", "smoke")
    assert ok.seeds == (0, 1, 2)
    assert ok.per_seed == {"": (1.0, 2.0, 3.0)}
    assert ok.values == {"": 2.0}
    assert ok.interval[""] == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert [path.read_bytes()[:5] for path in stored.figure_paths(ok)] == [b"\x89PNG\r", b"<?xml"]
    assert ok.seconds > 0
    assert ok.memory > 10_000_000
    assert stored.entry("peer", "numpy").provenance.versions.keys() >= {"numpy", "torch", "paperworks"}
    assert "core/lazy.py" in ok.provenance.sources
    assert str(tmp) not in (tmp / "evidence" / "bad.json").read_text()


def test_memory_is_stopped_near_its_limit(bad_run):
    entry = read_evidence("bad", bad_run[2] / "evidence").entry("claim", "eats")
    assert 0.3 * 2**30 < entry.memory < 0.9 * 2**30


def test_no_process_is_left(bad_run, gone):
    tmp = bad_run[2]
    assert gone(int((tmp / "pid").read_text()))
    assert not [p for p in psutil.Process().children(recursive=True) if "paperworks.evidence.task" in p.cmdline()]


def test_those_who_watch_are_told_in_order(bad_run):
    _, events, _ = bad_run
    assert {event.what for event in events[: len(ALL)]} == {"planned"}
    finished = [event.task.id for event in events if event.what == "finished"]
    assert sorted([*finished, "hangs", "leaves-children"]) == sorted([*ALL, "numpy", "absent"])
    assert finished[-2:] == ["numpy", "absent"], "tasks that measure time come last"
    for id in finished:
        of_task = [event.what for event in events if event.task.id == id]
        assert of_task.count("finished") == 1
        assert of_task[-1] == "finished"


def test_progress_is_passed_on(make_paper, tmp_path):
    paper = make_paper(
        """
        @measures("c1")
        def c1(run):
            for _ in run.progress(range(4), label="steps"):
                time.sleep(0.3)
            return Measurement(1.0)
        """,
        {"c1": {}},
    )
    events = []
    run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1, on_event=events.append)
    told = [event.progress for event in events if event.what == "progress"]
    assert set(told) <= {Progress(done, 4, "steps") for done in range(5)}
    assert [p.done for p in told] == sorted({p.done for p in told})
    assert len(told) >= 2


def test_exclusive_tasks_run_alone_after_the_others(make_paper, tmp_path):
    source = """
        def span(wait):
            start = time.time()
            wait()
            return Measurement({"start": start, "end": time.time()})

        def meet(mine, other):
            open(f"FOLDER/{mine}", "w").close()
            for _ in range(600):
                if os.path.exists(f"FOLDER/{other}"):
                    return
                time.sleep(0.05)
            raise RuntimeError(f"{other} never came")

        @measures("a", exclusive=True)
        def a(run): return span(lambda: time.sleep(0.2))
        @measures("b", exclusive=True)
        def b(run): return span(lambda: time.sleep(0.2))
        @measures("c")
        def c(run): return span(lambda: meet("c", "d"))
        @measures("d")
        def d(run): return span(lambda: meet("d", "c"))
    """.replace("FOLDER", str(tmp_path))
    paper = make_paper(source, {id: {"bar": {"start": "> 0", "end": "> 0"}} for id in "abcd"})
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=2)
    assert set(verdicts(report).values()) == {"holds"}, "c and d have to run side by side to meet"
    spans = {j.item.id: (j.entry.values["start"], j.entry.values["end"]) for j in report.judgements}
    assert max(spans["c"][1], spans["d"][1]) <= spans["a"][0]
    assert spans["a"][1] <= spans["b"][0]


def test_threads_are_budgeted(make_paper, tmp_path):
    paper = make_paper(
        """
        import torch
        @measures("c1")
        def c1(run):
            return Measurement({"torch": torch.get_num_threads(), "blas": int(os.environ["OPENBLAS_NUM_THREADS"])})
        """,
        {"c1": {"bar": {"torch": "== 2", "blas": "== 2"}}},
    )
    assert verdicts(run_papers([paper], scale="smoke", folder=tmp_path / "e", threads=2)) == {"c1": "holds"}


KILLS_ITS_SUPERVISOR = """
@measures("culprit")
def culprit(run):
    time.sleep(0.4)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)

@measures("beside")
def beside(run):
    time.sleep(1)
    return Measurement(1.0)

@measures("before")
def before(run):
    return Measurement(1.0)

@measures("later")
def later(run):
    return Measurement(1.0)
"""


def test_a_killed_worker_takes_only_its_own_task_with_it(make_paper, tmp_path):
    paper = make_paper(KILLS_ITS_SUPERVISOR, {id: {} for id in ("before", "beside", "culprit", "later")})
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=2)
    assert verdicts(report) == {"before": "holds", "beside": "holds", "culprit": "error", "later": "holds"}
    assert "died twice" in report.judgements[2].verdict.detail
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


@pytest.fixture(params=[1, 2])
def endless_run(request, start_endless_run):
    """Start a run in which one task has finished and one runs without end, in this process and in workers."""
    return start_endless_run(n_jobs=request.param)


def test_ctrl_c_stops_cleanly_and_keeps_what_finished(endless_run, wait_until, gone):
    run, task, evidence, scratch = endless_run
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out.splitlines()[-1] == "['quick'] True"
    assert "Traceback" not in err
    wait_until(lambda: gone(task))
    assert {key.id for key in read_evidence("fixture", evidence).entries} == {"quick"}
    assert not list(scratch.glob("paperworks-*"))


def test_a_killed_run_leaves_no_task_behind(endless_run, wait_until, gone):
    run, task, evidence, _ = endless_run
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: gone(task))
    run.communicate(timeout=10)  # ends when no worker holds the output open any more
    assert {key.id for key in read_evidence("fixture", evidence).entries} == {"quick"}


def measured_again(paper, folder, **how):
    """Run with resume and return the ids that were measured, not taken from before."""
    events = []
    report = run_papers([read_paper(paper.folder)], folder=folder, resume=True, n_jobs=1, on_event=events.append, **how)
    again = {event.task.id for event in events if event.what == "finished" and not event.resumed}
    assert report.resumed == len(report.judgements) - len(again)
    return again


def test_resume_measures_only_what_would_differ(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    folder = tmp_path / "e"
    how = {"scale": "smoke", "seeds": 1}
    assert measured_again(paper, folder, **how) == {"c1", "c2"}
    assert measured_again(paper, folder, **how) == set()
    assert measured_again(paper, folder, scale="smoke", seeds=2) == {"c1", "c2"}
    assert measured_again(paper, folder, scale="desk", seeds=2) == {"c1", "c2"}
    assert measured_again(paper, folder, scale="smoke", seeds=2) == set(), "other scales are kept"
    claims = paper.folder / "claims.py"
    claims.write_text(claims.read_text() + "\n# changed")
    assert measured_again(paper, folder, scale="smoke", seeds=2) == {"c1", "c2"}


def test_resume_notices_a_change_of_an_imported_module(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    folder = tmp_path / "e"
    run_papers([paper], scale="smoke", folder=folder, n_jobs=1)
    path = folder / "fixture.json"
    data = json.loads(path.read_text())
    data["entries"][0]["provenance"]["sources"].append("core/that_is_gone.py")
    path.write_text(json.dumps(data))
    assert measured_again(paper, folder, scale="smoke") == {"c1"}


def test_resume_tries_errors_and_absent_peers_again(make_paper, tmp_path):
    source = """
        @measures("raises")
        def raises(run): raise RuntimeError
        @measures("elsewhere")
        def elsewhere(run): raise NotAtThisScale("here")
        @races("absent")
        def absent(run): import no_such_package
    """
    paper = make_paper(source, {"raises": {}, "elsewhere": {}}, {"absent": {}})
    how = {"scale": "smoke", "kinds": ("claim", "peer")}
    assert measured_again(paper, tmp_path / "e", **how) == {"raises", "elsewhere", "absent"}
    assert measured_again(paper, tmp_path / "e", **how) == {"raises", "absent"}


def test_missing_data_is_an_error_of_use_that_says_what_to_install(make_paper, tmp_path, monkeypatch):
    source = """
        @measures("looks")
        def looks(run):
            from paperworks.testbeds import fashion_mnist
            fashion_mnist("neither")
        @measures("lacks")
        def lacks(run):
            from paperworks.testbeds import DatasetMissing
            raise DatasetMissing("no images;\\n`apt install dataset-fashion-mnist` brings them")
    """
    paper = make_paper(source, {"looks": {}, "lacks": {}})
    lacks = run_papers([paper], ids=["lacks"], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    (judgement,) = lacks.judgements
    assert judgement.verdict.name == "missing data"
    assert judgement.verdict.detail == "no images; `apt install dataset-fashion-mnist` brings them"
    assert judgement.entry.traceback == ""
    assert lacks.exit_code == 2
    both = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert both.exit_code == 1  # another one erred


def test_only_the_claims_asked_for_run(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    report = run_papers([paper], ids=["c2"], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert verdicts(report) == {"c2": "holds"}
    assert report.exit_code == 0


def test_smoke_does_not_touch_desk_evidence(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    run_papers([paper], scale="desk", seeds=1, folder=tmp_path / "e", n_jobs=1)
    before = read_evidence("fixture", tmp_path / "e").entry("claim", "c1", "desk")
    run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert read_evidence("fixture", tmp_path / "e").entry("claim", "c1", "desk") == before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ids": ["c22"]}, "no claim 'c22' in fixture; did you mean c2?"),
        ({"ids": ["zzz"]}, "no claim 'zzz' in fixture; there are c1, c2"),
        ({"kinds": ["peer"]}, "no peer in fixture"),
        ({"kinds": ["method"]}, "kinds is 'method'"),
        ({"scale": "tiny"}, "scale is 'tiny'; it takes one of 'smoke', 'desk', 'full'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"time_limit": -1.0}, "time_limit is -1.0"),
        ({"memory_limit": math.nan}, "memory_limit is nan"),
        ({"engine": "slurm"}, "engine is 'slurm'; it takes one of local, dask, ray"),
        ({"address": "tcp://host:1"}, "the local engine takes no address"),
        ({"engine": "dask"}, "the dask engine needs the address"),
        ({"engine": "ray"}, "the ray engine needs the address"),
        ({"engine": "dask", "address": "here"}, "address is 'here'; it takes one with a port"),
    ],
)
def test_errors_of_use_say_what_to_do(make_paper, tmp_path, untyped, how, message):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    with pytest.raises(UsageError) as caught:
        run_papers([paper], **{"scale": "smoke", "folder": tmp_path / "e", **how})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_planned_paper_can_not_be_run(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}})
    (paper.folder / "claims.py").unlink()
    with pytest.raises(UsageError, match="nothing to measure yet: fixture"):
        run_papers([paper], folder=tmp_path / "e")
    with pytest.raises(UsageError, match="no papers"):
        run_papers([], folder=tmp_path / "e")


def test_evidence_that_can_not_be_kept_is_found_before_anything_runs(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}})
    (tmp_path / "file").write_text("")
    events = []
    with pytest.raises(UsageError, match="can't be written"):
        run_papers([paper], folder=tmp_path / "file", on_event=events.append)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "fixture.json").write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="newer paperworks"):
        run_papers([paper], folder=tmp_path / "e", on_event=events.append)
    assert events == []


def test_evidence_that_is_spoilt_during_a_run_is_not_overwritten(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    path = tmp_path / "e" / "fixture.json"

    def spoil(event):
        if event.what == "finished":
            path.write_text("spoilt")

    with pytest.raises(EvidenceError, match="not JSON"):
        run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1, on_event=spoil)
    assert path.read_text() == "spoilt"


def test_the_command_of_a_task_needs_no_checkout_of_the_caller(make_paper, tmp_path, monkeypatch):
    """The task's process finds the package from any working folder, and files it drops there go away."""
    monkeypatch.chdir(tmp_path)
    paper = make_paper(
        '@measures("c1")\ndef c1(run):\n    open("litter", "w").close()\n    return Measurement(1.0)\n', {"c1": {}}
    )
    assert verdicts(run_papers([paper], scale="smoke", folder=Path("e"), n_jobs=1)) == {"c1": "holds"}
    assert not list(tmp_path.rglob("litter"))
