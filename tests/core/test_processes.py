import subprocess
import sys
import time

import psutil
import pytest

from paperworks.core.processes import ProcessTree, peak_memory

SLEEP = "import time; time.sleep(600)"
# A process that starts another one, which leaves its group, tells its number, and works until it is stopped.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(child.pid, flush=True)
while True: pass
"""


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started(code):
    """Start `code`; return its tree and the number that it prints first."""
    tree = ProcessTree([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return tree, int(tree.process.stdout.readline())


def test_a_tree_ends_with_children_that_left_its_group():
    tree, child = started(PARENT)
    tree.memory()
    tree.kill()
    assert tree.process.returncode == -9
    wait_until(lambda: gone(child))


def test_an_orphan_that_was_seen_ends_too():
    tree, child = started(PARENT)
    tree.memory()
    tree.process.kill()
    tree.process.wait()
    tree.kill()
    wait_until(lambda: gone(child))


def test_memory_and_processor_time_are_those_of_the_whole_tree():
    worker = "held = bytearray(80 * 2**20)\nwhile True: pass"
    tree, _ = started(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {worker!r}])\n"
        "print(1, flush=True)\nimport time; time.sleep(600)"
    )
    try:
        wait_until(lambda: tree.memory() > 80 * 2**20)
        first = tree.processor_seconds()
        wait_until(lambda: tree.processor_seconds() > first + 0.05)
    finally:
        tree.kill()
    assert tree.processor_seconds() > first
    assert tree.memory() == 0


def test_processor_time_of_children_that_ended_is_counted():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    tree, _ = started(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
        "print(1, flush=True)\nimport time; time.sleep(600)"
    )
    try:
        assert tree.processor_seconds() >= 0.25  # the system counts whole ticks, of user and system time each
    finally:
        tree.kill()


@pytest.mark.parametrize("follow", ["follow_parent", "_follow_by_thread"])
def test_a_process_ends_when_its_parent_is_gone(follow):
    child = f"from paperworks.core import processes\nprocesses.{follow}()\n{SLEEP}"
    tree, pid = started(
        "import sys\nfrom paperworks.core.processes import ProcessTree\n"
        f"tree = ProcessTree([sys.executable, '-c', {child!r}])\n"
        "print(tree.process.pid, flush=True)\nimport time; time.sleep(600)"
    )
    time.sleep(0.5)  # also where it has not yet begun to follow
    tree.process.kill()
    wait_until(lambda: gone(pid))
    tree.kill()


def hanging(follow):
    """Start a process that follows its parent and hangs in its third line."""
    code = f"from paperworks.core import processes\nprocesses.{follow}()\nprint(1, flush=True); {SLEEP}"
    return started(code)[0]


def test_a_process_shows_where_it_hangs():
    tree = hanging("follow_parent")
    tree.ask_for_traceback(grace=0.2)
    tree.kill()
    assert 'File "<string>", line 3 in <module>' in tree.process.stderr.read().decode()


def test_the_thread_that_follows_shows_where_the_process_hangs():
    tree = hanging("_follow_by_thread")
    tree.process.stdin.write(b"t")
    tree.process.stdin.flush()
    while 'File "<string>", line 3 in <module>' not in (line := tree.process.stderr.readline().decode()):
        assert line, "the process ended and did not show it"
    tree.kill()


def test_a_tree_that_has_ended_is_killed_again_without_harm():
    tree = ProcessTree([sys.executable, "-c", "pass"])
    tree.process.wait()
    tree.ask_for_traceback()
    tree.kill()
    tree.kill()
    assert tree.process.returncode == 0


def test_peak_memory_is_in_bytes():
    held = bytearray(2**20)
    assert psutil.Process().memory_info().rss * 0.5 < peak_memory() < psutil.virtual_memory().total
    del held
