"""Runs real tasks in real processes: whatever becomes of one, the others are kept."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy
import psutil
import pytest

from paperworks.evidence import UsageError, paper_views, read_evidence, read_paper, run_papers, runner
from paperworks.evidence.spool import Progress
from paperworks.evidence.store import HISTORY

BADLY = """
@measures("ok")
def ok(run):
    import numpy.linalg
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
    return Measurement({"first": exact(1.0), "second": exact(2.0)})

@measures("misnamed")
def misnamed(run):
    return Measurement({"first": exact(1.0), "third": exact(2.0)})

@measures("nan")
def nan(run):
    return Measurement(exact(float("nan")))

@measures("known")
def known(run):
    return Measurement(exact(0.5))

@measures("small")
def small(run):
    return Measurement(exact(0.5))

@measures("elsewhere")
def elsewhere(run):
    raise NotAtThisScale("needs the whole data set")

@races("numpy")
def against_numpy(run):
    return Measurement(exact(0.5))

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
    return Measurement(exact(2.0))

@measures("c2")
def c2(run):
    return Measurement(exact(3.0))
"""


def verdicts(report):
    return {view.id: view.verdict for view in report.views}


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
    return replace(report, views=report.views + hung.views), events, tmp


def test_every_task_gets_its_own_verdict(bad_run):
    report, _, _ = bad_run
    assert verdicts(report) == {
        "ok": "undecided",
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
        ("hangs", "hangs: it did no work for 4 s", 'claims.py", line'),
        ("eats", "ran out of memory", ""),
        ("killed", "killed by SIGKILL", ""),
        ("exits", "ended with exit code 3 and no result", "leaving early"),
        ("vanishes", "ended with no result", ""),
        ("segfaults", "killed by SIGSEGV", "Segmentation fault"),
    ],
)
def test_an_error_keeps_its_reason(bad_run, id, reason, trace):
    entry = read_evidence("bad", bad_run[2] / "evidence").newest("claim", id)
    assert entry.outcome == "error"
    assert reason in entry.reason
    assert trace in entry.traceback


def test_the_evidence_of_all_tasks_is_written(bad_run):
    report, _, tmp = bad_run
    stored = read_evidence("bad", tmp / "evidence")
    for found in report.views:
        entry = stored.newest(found.kind, found.id)
        told = {v.name: repr(v.value) for v in found.values if v.text}
        assert {name: repr(v.value) for name, v in entry.values.items()} == told
        assert entry.provenance.date == found.date
    ok = stored.newest("claim", "ok", "smoke")
    assert ok.seeds == (0, 1, 2)
    assert ok.values[""].samples == (1.0, 2.0, 3.0)
    assert ok.values[""].value == 2.0
    assert ok.values[""].method == "Student's t over 3 seeds"
    assert (ok.values[""].low, ok.values[""].high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert sorted(path.read_bytes()[:5] for path in stored.figure_paths(ok)) == [b"<?xml", b"\x89PNG\r"]
    assert ok.seconds > 0
    assert ok.memory > 10_000_000
    assert str(tmp) not in (tmp / "evidence" / "bad" / HISTORY).read_text()


def test_provenance_says_what_a_sceptic_asks(bad_run):
    origin = read_evidence("bad", bad_run[2] / "evidence").newest("claim", "ok").provenance
    assert origin.versions.keys() >= {"numpy", "matplotlib", "paperworks"}
    assert "diffusers" not in origin.versions, "only what was imported"
    assert origin.python.startswith("CPython 3.")
    assert origin.blas
    assert len(origin.lock) == 16
    assert origin.threads == 1
    assert origin.machine.keys() == {"cpu", "cores", "system"}
    assert len(origin.digest) == 64


def test_memory_is_stopped_near_its_limit(bad_run):
    entry = read_evidence("bad", bad_run[2] / "evidence").newest("claim", "eats")
    assert 0.1 * 2**30 < entry.memory < 0.9 * 2**30


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
            return Measurement(exact(1.0))
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
            return Measurement({"start": exact(start), "end": exact(time.time())})

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
    spans = {view.id: tuple(v.value for v in view.values) for view in report.views}
    assert max(spans["c"][1], spans["d"][1]) <= spans["a"][0]
    assert spans["a"][1] <= spans["b"][0]


def test_threads_are_budgeted(make_paper, tmp_path):
    paper = make_paper(
        """
        import torch
        @measures("c1")
        def c1(run):
            blas = int(os.environ["OPENBLAS_NUM_THREADS"])
            return Measurement({"torch": exact(torch.get_num_threads()), "blas": exact(blas)})
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
    return Measurement(exact(1.0))

@measures("before")
def before(run):
    return Measurement(exact(1.0))

@measures("later")
def later(run):
    return Measurement(exact(1.0))
"""


def test_a_killed_worker_takes_only_its_own_task_with_it(make_paper, tmp_path):
    paper = make_paper(KILLS_ITS_SUPERVISOR, {id: {} for id in ("before", "beside", "culprit", "later")})
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=2)
    assert verdicts(report) == {"before": "holds", "beside": "holds", "culprit": "error", "later": "holds"}
    assert "died twice" in report.views[2].detail
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
    assert {entry.id for entry in read_evidence("fixture", evidence).entries} == {"quick"}
    assert not list(scratch.glob("paperworks-*"))


def test_sigterm_ends_a_run_as_cleanly_as_ctrl_c(start_endless_run, wait_until, gone):
    run, task, evidence, scratch = start_endless_run(command=True)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    wait_until(lambda: gone(task))
    assert {entry.id for entry in read_evidence("fixture", evidence).entries} == {"quick"}
    assert not list(scratch.glob("paperworks-*"))


def test_a_killed_run_leaves_no_task_behind(endless_run, wait_until, gone):
    run, task, evidence, _ = endless_run
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: gone(task))
    run.communicate(timeout=10)  # ends when no worker holds the output open any more
    assert {entry.id for entry in read_evidence("fixture", evidence).entries} == {"quick"}


def measured_again(paper, folder, **how):
    """Run with resume and return the ids that were measured, not taken from before."""
    events = []
    report = run_papers([read_paper(paper.folder)], folder=folder, resume=True, n_jobs=1, on_event=events.append, **how)
    again = {event.task.id for event in events if event.what == "finished" and not event.resumed}
    assert report.resumed + report.carried == len(report.views) - len(again)
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
    claims.write_text(f"# A comment\n{claims.read_text()}".replace("def c1(run):", 'def c1(run):\n    """Measure."""'))
    assert measured_again(paper, folder, scale="smoke", seeds=2) == set(), "comments and docstrings don't count"
    claims.write_text(claims.read_text().replace("exact(2.0)", "exact(1.0 + 1.0)"))
    assert measured_again(paper, folder, scale="smoke", seeds=2) == {"c1"}, "a line of one claim ages no other"


def test_resume_notices_a_change_of_what_a_claim_reaches(make_paper, tmp_path):
    source = """
        from fixture.helper import used, unused
        @measures("c1")
        def c1(run): return Measurement(exact(used()))
        @measures("c2")
        def c2(run): return Measurement(exact(3.0))
    """
    paper = make_paper(source, {"c1": {}, "c2": {}})
    (paper.folder / "__init__.py").touch()
    helper = paper.folder / "helper.py"
    helper.write_text("def used(): return 2.0\ndef unused(): return 1.0\n")
    folder, how = tmp_path / "e", {"scale": "smoke", "seeds": 1}
    assert measured_again(paper, folder, **how) == {"c1", "c2"}
    helper.write_text("def used(): return 2.0\ndef unused(): return 1.5\n")
    assert measured_again(paper, folder, **how) == set()
    helper.write_text("def used(): return 2.5\ndef unused(): return 1.5\n")
    assert measured_again(paper, folder, **how) == {"c1"}


def test_resume_notices_another_version_of_an_imported_library(make_paper, tmp_path):
    source = """
        import numpy
        @measures("c1")
        def c1(run): return Measurement(exact(2.0))
    """
    paper, folder = make_paper(source, {"c1": {}}), tmp_path / "e"
    run_papers([paper], scale="smoke", folder=folder, n_jobs=1)
    history = folder / "fixture" / HISTORY
    entry = json.loads(history.read_text())
    for version, again in (("0.1.9", {"c1"}), (numpy.__version__.rpartition(".")[0] + ".99", set())):
        entry["provenance"]["versions"]["numpy"] = version
        history.write_text(json.dumps(entry) + "\n")
        assert measured_again(paper, folder, scale="smoke") == again, version


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
    (found,) = lacks.views
    assert found.verdict == "missing data"
    assert found.detail == "no images; `apt install dataset-fashion-mnist` brings them"
    assert found.traceback == ""
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
    before = read_evidence("fixture", tmp_path / "e").newest("claim", "c1", "desk")
    run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert read_evidence("fixture", tmp_path / "e").newest("claim", "c1", "desk") == before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ids": ["c22"]}, "no claim 'c22' in fixture; did you mean c2?"),
        ({"ids": ["zzz"]}, "no claim 'zzz' in fixture; there are c1, c2"),
        ({"kinds": ["peer"]}, "no peer in fixture"),
        ({"kinds": ["method"]}, "kinds is 'method'"),
        ({"scale": "tiny"}, "scale is 'tiny'; it takes one of 'smoke', 'desk', 'full'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 100_000_000}, "seeds is 100000000; it takes a whole number >= 1 and <= 1000"),
        ({"n_jobs": 4, "memory_limit": 10_000.0}, "take more than the machine has"),
        ({"commit": True}, "either commit or another folder"),
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
    history = tmp_path / "e" / "fixture" / HISTORY
    history.parent.mkdir(parents=True)
    history.write_text('{"schema": 99}\n')
    with pytest.raises(UsageError, match="newer paperworks"):
        run_papers([paper], folder=tmp_path / "e", on_event=events.append)
    assert events == []


def test_evidence_that_is_spoilt_during_a_run_is_not_overwritten(make_paper, tmp_path):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    path = tmp_path / "e" / "fixture" / HISTORY

    def spoil(event):
        if event.what == "finished" and event.task.id == "c1":
            path.write_text("spoilt")

    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1, on_event=spoil)
    assert path.read_text() == "spoilt"
    assert verdicts(report) == {"c1": "holds", "c2": "holds"}, "what was measured is shown"
    assert "c2 could not be written" in report.unwritten[0]
    assert report.exit_code == 2


def test_a_full_disk_keeps_what_was_just_measured(make_paper, tmp_path, monkeypatch):
    paper = make_paper(WELL, {"c1": {}, "c2": {}})
    run_papers([paper], ids=["c1"], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    before = (tmp_path / "e" / "fixture" / HISTORY).read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paperworks.evidence.store.write_atomically", full)
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert verdicts(report) == {"c1": "holds", "c2": "holds"}
    assert [view.values[0].value for view in report.views] == [2.0, 3.0]
    assert len(report.unwritten) == 2
    assert "No space left on device" in report.unwritten[0]
    assert str(tmp_path / "e") in report.unwritten[0]
    assert (tmp_path / "e" / "fixture" / HISTORY).read_bytes() == before


def test_code_edited_during_a_run_makes_its_entry_outdated(make_paper, tmp_path):
    source = """
        @measures("c1")
        def c1(run):
            from pathlib import Path
            path = Path(__file__)
            path.write_text(path.read_text().replace("exact(1.0 + 1.0)", "exact(5.0)"))
            return Measurement(exact(1.0 + 1.0))
    """
    paper = make_paper(source, {"c1": {}})
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=1)
    assert report.views[0].values[0].value == 2.0
    assert report.views[0].outdated == "the code has changed since"


def test_an_error_never_displaces_a_measurement(make_paper, tmp_path):
    source = """
        @measures("c1")
        def c1(run):
            figure, axes = run.figure()
            return Measurement(exact(2.0), figure=figure)
    """
    paper, folder = make_paper(source, {"c1": {}}), tmp_path / "e"
    run_papers([paper], scale="smoke", folder=folder, n_jobs=1)
    claims = paper.folder / "claims.py"
    claims.write_text(claims.read_text().replace("figure, axes = run.figure()", "raise RuntimeError('no luck')"))
    report = run_papers([paper], scale="smoke", folder=folder, n_jobs=1)
    assert verdicts(report) == {"c1": "error"}
    (found,) = paper_views(paper, read_evidence("fixture", folder))
    assert found.verdict == "holds"
    assert found.outdated
    assert "no luck" in found.failure
    assert found.figure(".svg").exists()


def test_what_is_too_slow_here_is_no_defect(make_paper, tmp_path):
    source = """
        @measures("busy")
        def busy(run):
            while True: pass
        @measures("waits")
        def waits(run):
            while True: time.sleep(0.005)
    """
    paper = make_paper(source, {"busy": {}, "waits": {}})
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=2, time_limit=3)
    assert verdicts(report)["busy"] == "stopped"
    assert "too slow here: not done within 3 s of processor time" in report.views[0].detail
    assert report.exit_code in (1, 2)  # 1 where the one that waits got so little time that it seemed to hang


def test_a_network_that_another_task_trains_is_waited_for(make_paper, tmp_path, monkeypatch):
    """Waiting for the lock of a cache uses no processor time, and is no hanging for all that."""
    source = """
        def made():
            time.sleep(9)
            return 2.0
        def asked(run):
            return Measurement(exact(run.cached("slow", made)))
        @measures("first")
        def first(run): return asked(run)
        @measures("second")
        def second(run): return asked(run)
    """
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path / "cache"))
    paper = make_paper(
        source.replace("time.sleep(9)", "end = time.time() + 9\n            while time.time() < end: pass"),
        {"first": {}, "second": {}},
    )
    report = run_papers([paper], scale="smoke", folder=tmp_path / "e", n_jobs=2, time_limit=7)
    assert "hangs" not in " ".join(view.detail for view in report.views)


UNDECIDED = """
@measures("c1")
def c1(run):
    work()
    return Measurement.over_seeds([1.2 + (-1) ** seed * 0.3 for seed in run.seeds])

@measures("c2")
def c2(run):
    work()
    return Measurement(median([1.0 + 0.01 * n for n in range(run.repeats(smoke=1, desk=4, full=4))]))

def work():
    end = time.process_time() + 0.1
    while time.process_time() < end: pass
"""


def test_seeds_and_rounds_are_added_until_a_bar_is_decided(make_paper, tmp_path):
    paper = make_paper(UNDECIDED, {"c1": {}, "c2": {"bar": "<= 2"}})
    report = run_papers([paper], scale="desk", folder=tmp_path / "e", n_jobs=1)
    assert verdicts(report) == {"c1": "holds", "c2": "holds"}
    stored = read_evidence("fixture", tmp_path / "e")
    first, second = stored.newest("claim", "c1"), stored.newest("claim", "c2")
    assert len(first.seeds) > 3
    assert first.level > 0.975, "more looks have wider intervals"
    assert len(second.values[""].samples) > 4


def test_without_a_budget_nothing_is_added(make_paper, tmp_path):
    paper = make_paper(UNDECIDED, {"c1": {}, "c2": {"bar": "<= 2"}})
    report = run_papers([paper], scale="desk", folder=tmp_path / "e", n_jobs=1, budget=0)
    assert verdicts(report) == {"c1": "undecided", "c2": "undecided"}
    assert report.exit_code == 1


def test_values_that_should_differ_over_seeds_and_do_not_are_an_error(make_paper, tmp_path):
    paper = make_paper(
        """
        @measures("c1")
        def c1(run): return Measurement.over_seeds([1.0 for seed in run.seeds])
        """,
        {"c1": {}},
    )
    report = run_papers([paper], scale="desk", folder=tmp_path / "e", n_jobs=1)
    assert verdicts(report) == {"c1": "error"}
    assert "3 times 1.0, where chance should make them differ" in report.views[0].detail


def test_changed_code_with_the_same_smoke_values_is_carried_over(make_paper, tmp_path):
    source = """
        @measures("same")
        def same(run): return Measurement(exact(run.at(smoke=2.0, desk=3.0, full=3.0)))
        @measures("other")
        def other(run): return Measurement(exact(run.at(smoke=2.0, desk=3.0, full=3.0)))
        @measures("times", exclusive=True)
        def times(run): return Measurement(exact(2.0))
    """
    paper, folder = make_paper(source, {"same": {}, "other": {}, "times": {}}), tmp_path / "e"
    assert measured_again(paper, folder, scale="desk") == {"same", "other", "times"}
    claims = paper.folder / "claims.py"
    text = claims.read_text().replace("def same(run): return", "def same(run):\n    scale = run.scale\n    return")
    text = text.replace(
        "def other(run): return Measurement(exact(run.at(smoke=2.0,",
        "def other(run): return Measurement(exact(run.at(smoke=2.5,",
    )
    claims.write_text(text.replace("exact(2.0))", "exact(1.0 + 1.0))"))
    assert measured_again(paper, folder, scale="desk") == {"other", "times"}
    carried = read_evidence("fixture", folder).newest("claim", "same")
    assert carried.values[""].value == 3.0
    assert carried.carried is not None
    assert measured_again(paper, folder, scale="desk") == set()


def test_what_a_paper_itself_does_otherwise_is_measured_again_whatever_its_smoke_values(
    make_paper, tmp_path, monkeypatch
):
    source = """
        @measures("same")
        def same(run): return Measurement(exact(run.at(smoke=2.0, desk=3.0, full=3.0)))
    """
    paper, folder = make_paper(source, {"same": {}}), tmp_path / "e"
    assert measured_again(paper, folder, scale="desk") == {"same"}
    claims = paper.folder / "claims.py"
    claims.write_text(claims.read_text().replace("desk=3.0", "desk=4.0"))
    monkeypatch.setattr(runner, "code_changed", lambda folder, revision: True)
    assert measured_again(paper, folder, scale="desk") == {"same"}
    assert read_evidence("fixture", folder).newest("claim", "same").values[""].value == 4.0


def test_the_command_of_a_task_needs_no_checkout_of_the_caller(make_paper, tmp_path, monkeypatch):
    """The task's process finds the package from any working folder, and files it drops there go away."""
    monkeypatch.chdir(tmp_path)
    paper = make_paper(
        '@measures("c1")\ndef c1(run):\n    open("litter", "w").close()\n    return Measurement(exact(1.0))\n',
        {"c1": {}},
    )
    assert verdicts(run_papers([paper], scale="smoke", folder=Path("e"), n_jobs=1)) == {"c1": "holds"}
    assert not list(tmp_path.rglob("litter"))
