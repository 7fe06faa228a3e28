"""Processes that are started, watched and ended together with all that they start, on Linux, macOS and Windows.

What only some systems have stands here and nowhere else: process groups, signals, the kernel's own watch over a pipe.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

_TRACEBACK = b"t"  # asks a process that reads its standard input to show where it is


class ProcessTree:
    """A process with all its descendants: their memory, their processor time, their end.

    The process runs outside the caller's group, so that Ctrl-C reaches the caller alone. Its standard input is a
    pipe that stays open as long as the caller lives; a process that calls `follow_parent` ends when it closes.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    **options
        What `subprocess.Popen` takes, except `stdin` and what makes the group.

    Attributes
    ----------
    process : subprocess.Popen
        The process itself: `poll`, `wait`, `returncode`.

    Examples
    --------
    >>> import sys
    >>> tree = ProcessTree([sys.executable, "-c", "import time; time.sleep(60)"])
    >>> tree.memory() > 0
    True
    >>> tree.kill()
    >>> tree.process.poll() is None
    False
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        if sys.platform == "win32":
            options["creationflags"] = options.get("creationflags", 0) | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["start_new_session"] = True
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, **options)
        self._root = psutil.Process(self.process.pid)
        self._seen: dict[int, psutil.Process] = {self._root.pid: self._root}
        self._processor_seconds = 0.0

    def memory(self) -> int:
        """Return the resident memory of the process and its descendants, in bytes; 0 when they have ended."""
        total = 0
        for process in self._living():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def processor_seconds(self) -> float:
        """Return the processor time that the process and its descendants have used so far, in seconds.

        What descendants used that have ended is counted on Linux and macOS, not on Windows. It never decreases,
        and after the end it stays at what was seen last.
        """
        total = 0.0
        for process in self._living():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
                total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        self._processor_seconds = max(self._processor_seconds, total)
        return self._processor_seconds

    def ask_for_traceback(self, grace: float = 0.5) -> None:
        """Have the process write where it is to its standard error, if it has called `follow_parent`.

        Parameters
        ----------
        grace : float, optional
            Seconds to wait for that, 0.5 by default.
        """
        if sys.platform == "win32":
            with suppress(OSError, ValueError):
                assert self.process.stdin is not None
                self.process.stdin.write(_TRACEBACK)
                self.process.stdin.flush()
        else:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)

    def kill(self) -> None:
        """End the process and all its descendants at once, those too that left its group, and wait for its end."""
        living = self._living()
        if sys.platform != "win32":
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
                os.killpg(self.process.pid, signal.SIGKILL)
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        self.process.wait()

    def _living(self) -> list[psutil.Process]:
        """Return the processes of the tree that run, orphans that were seen before they became so included."""
        for process in list(self._seen.values()):
            try:
                for child in process.children(recursive=True):
                    self._seen.setdefault(child.pid, child)
            except psutil.Error:
                del self._seen[process.pid]
        return list(self._seen.values())


def follow_parent() -> None:
    """Tie this process, which a `ProcessTree` started, to the one that started it.

    It ends, with all of its group, when the parent is gone, and it writes a traceback when the parent asks for it.
    Call it once, at the start, from the main thread.
    """
    faulthandler.enable()
    if sys.platform != "win32":
        faulthandler.register(signal.SIGUSR1, all_threads=False)
    if sys.platform == "linux":
        _follow_by_kernel()
    else:
        _follow_by_thread()


def peak_memory() -> int:
    """Return the largest resident memory that this process has had so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _follow_by_kernel() -> None:
    """Have the kernel end this process group when the other end of our standard input closes.

    A thread does the same elsewhere, but it waits as long as foreign code holds the interpreter's lock. Only Linux
    ends a process on SIGIO that doesn't handle it; the BSDs ignore the signal.
    """
    if sys.platform == "linux":
        import fcntl
        import select

        fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([0], [], [], 0)[0]:  # it was gone before
            os._exit(1)


def _follow_by_thread() -> None:
    """Read standard input in a thread: a byte asks for a traceback, and its end is the parent's."""

    def read() -> None:
        while os.read(0, 1) == _TRACEBACK:
            faulthandler.dump_traceback(all_threads=True)
        if sys.platform == "win32":
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        elif os.getpgrp() == os.getpid():  # never the group of whoever started us otherwise
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=read, name="follow-parent", daemon=True).start()
