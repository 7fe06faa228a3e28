"""The same tasks on this machine, on a real Dask cluster and on a real Ray cluster."""

import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from paperworks.evidence import UsageError, engines, read_evidence, run_papers
from paperworks.papers import load

SOURCE = """
import numpy as np

@measures("random")
def random(run):
    figure, axes = run.figure()
    axes.plot([1, 2])
    per_seed = [float(run.rng(seed).normal()) for seed in run.seeds]
    return Measurement.over_seeds(per_seed, figure=figure)

@measures("waits")
def waits(run):
    # For the result of another task to have reached whoever started the run.
    for _ in range(600):
        if os.path.exists("ARRIVED"):
            return Measurement(exact(2.0))
        time.sleep(0.05)
    return Measurement(exact(0.0))

@measures("raises")
def raises(run):
    raise RuntimeError("no luck")

@measures("dies")
def dies(run):
    os.kill(os.getpid(), signal.SIGKILL)

@measures("short")
def short(run):
    return Measurement(exact(0.5))

@races("numpy")
def against_numpy(run):
    return Measurement(exact(0.5))
"""
KILLS_ITS_WORKER = """
@measures("culprit")
def culprit(run):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)

@measures("c1")
def c1(run):
    time.sleep(0.5)
    return Measurement(exact(1.0))
"""
EXPECTED = {
    "random": "holds",
    "waits": "holds",
    "raises": "error",
    "dies": "error",
    "short": "falls short",
    "numpy": "holds",
}


def start(*command, **more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **more}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def stop(*processes):
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory):
    """Start a scheduler and two workers, each a process of its own."""
    distributed = pytest.importorskip("distributed")
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    work = str(file.parent)
    dask = (sys.executable, "-m", "distributed.cli.dask_scheduler")
    worker = (sys.executable, "-m", "distributed.cli.dask_worker")
    scheduler = start(*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    options = ("--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--local-directory", work)
    workers = [start(*worker, *options) for _ in range(2)]
    try:
        with distributed.Client(scheduler_file=str(file), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        stop(*workers, scheduler)


@pytest.fixture(scope="module")
def ray_cluster(wait_until):
    """Start the head of a cluster with two cores."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block")
    options = ("--port", str(port), "--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats")
    # Paths of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = start(*command, *options, "--temp-dir", folder)
        try:
            wait_until(lambda: answers("127.0.0.1", port), 60)
            yield f"127.0.0.1:{port}"
        finally:
            stop(head)


def answers(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def paper(make_paper, tmp_path):
    claims = {id: {} for id in EXPECTED if id != "numpy"}
    source = SOURCE.replace("ARRIVED", str(tmp_path / "arrived"))
    return make_paper(source, {**claims, "random": {"bar": "> -10"}}, {"numpy": {}})


def run(paper, folder, **how):
    report = run_papers([paper], kinds=("claim", "peer"), scale="smoke", seeds=2, folder=folder, **how)
    return {view.id: view for view in report.views}


def assert_same(here, there):
    """Hold verdicts and every number of two runs against each other."""
    for id in here.keys() | there.keys():
        assert (here[id].verdict, here[id].detail) == (there[id].verdict, there[id].detail)
        assert here[id].values == there[id].values
        assert here[id].seeds == there[id].seeds


def check_cluster(paper, tmp_path, engine, address):
    arrived = tmp_path / "arrived"
    order = []

    def tell(event):
        if event.what == "finished":
            arrived.touch()
            order.append(event.task.id)

    here = run(paper, tmp_path / "here", n_jobs=2, on_event=tell)
    arrived.unlink()
    order.clear()
    there = run(paper, tmp_path / "there", engine=engine, address=address, on_event=tell)
    assert {id: view.verdict for id, view in there.items()} == EXPECTED
    assert_same(here, there)
    origins = [
        read_evidence("fixture", tmp_path / place).newest("claim", "random").provenance for place in ("here", "there")
    ]
    assert [origin.engine for origin in origins] == ["local", engine]
    assert origins[0].digest == origins[1].digest
    figures = [(tmp_path / place / "fixture" / "random.smoke.svg").read_bytes() for place in ("here", "there")]
    assert figures[0] == figures[1]
    assert order[-1] == "numpy", "tasks that measure time come last"


def check_loss(make_paper, tmp_path, engine, address):
    paper = make_paper(KILLS_ITS_WORKER, {"c1": {}, "culprit": {}})
    found = run(paper, tmp_path / "e", engine=engine, address=address)
    assert {id: view.verdict for id, view in found.items()} == {"c1": "holds", "culprit": "error"}
    assert "died twice" in found["culprit"].detail


@pytest.mark.dask
def test_dask_gives_what_this_machine_gives(dask_cluster, paper, tmp_path):
    check_cluster(paper, tmp_path, "dask", dask_cluster)


@pytest.mark.dask
def test_a_worker_of_another_version_is_refused_before_it_measures(dask_cluster, paper, tmp_path, monkeypatch):
    monkeypatch.setattr("paperworks.evidence.runner.package_digest", lambda: "of other sources")
    with pytest.raises(UsageError, match="is not the one that this run was started with"):
        run(paper, tmp_path / "e", engine="dask", address=dask_cluster)
    assert read_evidence("fixture", tmp_path / "e").entries == ()


@pytest.mark.dask
def test_a_dask_worker_that_dies_takes_only_its_task_with_it(dask_cluster, make_paper, tmp_path):
    check_loss(make_paper, tmp_path, "dask", dask_cluster)


@pytest.mark.dask
def test_ctrl_c_ends_tasks_on_dask_too(dask_cluster, start_endless_run, wait_until, gone):
    run, task, evidence, _ = start_endless_run(engine="dask", address=dask_cluster)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out.splitlines()[-1] == "['quick'] True"
    wait_until(lambda: gone(task))
    assert {entry.id for entry in read_evidence("fixture", evidence).entries} == {"quick"}


@pytest.mark.dask
@pytest.mark.parametrize(("slug", "id"), [("dpm-solver", "c5-exact-linear-part"), ("pndm", "p2-order")])
def test_dask_gives_what_this_machine_gives_for_real_papers(dask_cluster, tmp_path, slug, id):
    where = {"here": {"n_jobs": 2}, "there": {"engine": "dask", "address": dask_cluster}}
    here, there = (
        {
            view.id: view
            for view in run_papers([load(slug)], ids=[id], scale="smoke", folder=tmp_path / place, **how).views
        }
        for place, how in where.items()
    )
    assert here[id].measured
    assert_same(here, there)


@pytest.mark.ray
def test_ray_gives_what_this_machine_gives(ray_cluster, paper, tmp_path):
    check_cluster(paper, tmp_path, "ray", ray_cluster)


@pytest.mark.ray
def test_a_ray_worker_that_dies_takes_only_its_task_with_it(ray_cluster, make_paper, tmp_path):
    check_loss(make_paper, tmp_path, "ray", ray_cluster)


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_unreachable_cluster_is_an_error_of_use(engine, paper, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_CONNECT_SECONDS", 1)
    pytest.importorskip("distributed" if engine == "dask" else "ray")
    with pytest.raises(UsageError, match=r"answers at 127\.0\.0\.1:9"):
        run(paper, tmp_path / "e", engine=engine, address="127.0.0.1:9")


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_engine_is_an_error_of_use(engine, package, paper, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install 'paperworks\[cluster\]'"):
        run(paper, tmp_path / "e", engine=engine, address="127.0.0.1:9")
