"""Where tasks run: on this machine, or on a Dask or Ray cluster, all through joblib."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Literal, Protocol

from paperworks.evidence.errors import UsageError
from paperworks.evidence.spec import TaskSpec
from paperworks.evidence.supervisor import supervise

EngineName = Literal["local", "dask", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "dask", "ray")
_CONNECT_SECONDS = 10


class Engine(AbstractContextManager["Engine"]):
    """Runs tasks through one joblib backend, and gives each result as its task ends.

    Parameters
    ----------
    backend
        The name of the joblib backend.
    n_jobs
        How many tasks run at once.
    shares_disk
        Whether tasks can report progress in a folder of this machine.
    options
        What the backend takes.
    """

    def __init__(self, backend: str, n_jobs: int, *, shares_disk: bool, **options: Any) -> None:
        self.backend = backend
        self.n_jobs = n_jobs
        self.shares_disk = shares_disk
        self.options = options
        self.resources = ExitStack()

    def run(self, specs: Sequence[TaskSpec], *, apart: bool = False) -> Generator[dict[str, Any], None, None]:
        """Run the tasks and yield each result as it comes; raise what the backend raises when it breaks.

        With `apart` even a task that runs alone is supervised from another process than this one.
        """
        import joblib

        n_jobs = max(self.n_jobs, 2) if apart or not self.shares_disk else min(self.n_jobs, len(specs))
        with joblib.parallel_config(self.backend, n_jobs=n_jobs, **self.options):
            parallel = joblib.Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
        yield from parallel(joblib.delayed(supervise)(spec) for spec in specs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resources.close()


class Connect(Protocol):
    """Makes an engine from the number of jobs asked for and an address."""

    def __call__(self, n_jobs: int, address: str | None) -> Engine: ...


def open_engine(name: str, n_jobs: int, address: str | None) -> Engine:
    """Connect to the engine called `name`.

    Raises
    ------
    UsageError
        Where there is no such engine, it is not installed or its cluster can't be reached.
    """
    connect: dict[str, Connect] = {"local": _local, "dask": _dask, "ray": _ray}
    if name not in connect:
        raise UsageError(f"engine is {name!r}; it takes one of {', '.join(ENGINES)}")
    return connect[name](n_jobs, address)


def _local(n_jobs: int, address: str | None) -> Engine:
    if address:
        raise UsageError("the local engine takes no address; choose --engine dask or ray")
    return Engine("loky", n_jobs, shares_disk=True, initializer=_follow_the_run)


def _dask(n_jobs: int, address: str | None) -> Engine:
    address = _with_port(address, "dask", "tcp://host:8786")
    try:
        from distributed import Client
        from joblib import register_parallel_backend
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise UsageError("the dask engine is not installed; pip install 'paperworks[cluster]'") from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at {address}: {_first_line(error)}") from None
    if not client.ncores():
        client.close()
        raise UsageError(f"the Dask scheduler at {address} has no workers; start some with `dask worker {address}`")

    class LossReportingDaskBackend(DaskDistributedBackend):
        # joblib's own one waits for ever for a task that Dask gave up because its workers died,
        # and runs tasks in this process where the cluster has a single core.
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(super().effective_n_jobs(n_jobs), 2)

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, Exception):
                raise out
            return super().retrieve_result_callback(out)

    register_parallel_backend("paperworks-dask", LossReportingDaskBackend)
    engine = Engine("paperworks-dask", n_jobs, shares_disk=False, client=client)
    engine.resources.callback(client.close)
    return engine


def _ray(n_jobs: int, address: str | None) -> Engine:
    address = _with_port(address, "ray", "host:6379")
    try:
        import ray
        from joblib import register_parallel_backend
        from ray.util.joblib.ray_backend import RayBackend
    except ImportError:
        raise UsageError("the ray engine is not installed; pip install 'paperworks[cluster]'") from None

    class UnorderedRayBackend(RayBackend):
        # Results come by callback, so they can be had as each task ends, which Ray's own backend doesn't claim.
        supports_return_generator = True

    try:
        # Ray itself tries for minutes before it gives up.
        host, _, port = address.rpartition("://")[2].rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {_first_line(error)}") from None
    register_parallel_backend("paperworks-ray", UnorderedRayBackend)
    cores = int(ray.cluster_resources().get("CPU", 1))
    actors = max(cores, 2)  # with one, joblib would run tasks in this process
    engine = Engine("paperworks-ray", actors, shares_disk=False, ray_remote_args={"num_cpus": cores / actors})
    engine.resources.callback(ray.shutdown)
    return engine


def _with_port(address: str | None, engine: str, example: str) -> str:
    if not address:
        raise UsageError(f"the {engine} engine needs the address of a cluster, such as {example}")
    if not address.rpartition(":")[2].isdecimal():
        raise UsageError(f"address is {address!r}; it takes one with a port, such as {example}")
    return address


def _follow_the_run() -> None:
    """Have a worker leave interrupts to the run, and end when the run is gone however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = os.getppid()

    def watch() -> None:
        while os.getppid() == run:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
