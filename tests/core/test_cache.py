import threading
import time

import pytest

from paperworks.core.cache import cache_root, cached_folder


def test_one_builds_while_the_others_wait(tmp_path):
    builds = []

    def build(folder):
        builds.append(folder)
        time.sleep(0.1)
        (folder / "file").write_text("content")

    threads = [threading.Thread(target=cached_folder, args=("a", {"n": 1}, build, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_other_inputs_are_another_folder(tmp_path):
    folders = {cached_folder("a", {"n": n}, lambda folder: None, tmp_path) for n in (1, 2, 1)}
    assert len(folders) == 2


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("written")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached_folder("a", {}, fail, tmp_path)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_the_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
