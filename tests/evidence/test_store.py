import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paperworks.evidence import EvidenceError, UsageError, default_evidence_folder, read_evidence, store
from paperworks.evidence.store import add_entry, check_writable


def test_no_file_is_no_evidence(tmp_path):
    assert read_evidence("slug", tmp_path).entries == {}


def test_what_is_added_is_read(tmp_path, make_entry):
    kept = add_entry("slug", tmp_path, make_entry(values={"": 1.0}), {".svg": b"<svg/>", ".png": b"png"})
    evidence = read_evidence("slug", tmp_path)
    assert evidence.entry("claim", "c1") == kept
    assert kept.figures == ("slug/c1.desk.png", "slug/c1.desk.svg")
    assert [path.read_bytes() for path in evidence.figure_paths(kept)] == [b"png", b"<svg/>"]


def test_one_entry_for_each_claim_and_scale(tmp_path, make_entry):
    for scale, value in (("desk", 1.0), ("smoke", 2.0), ("desk", 3.0)):
        add_entry("slug", tmp_path, make_entry(scale=scale, values={"": value}), {".svg": scale.encode()})
    evidence = read_evidence("slug", tmp_path)
    assert {key.scale: entry.values[""] for key, entry in evidence.entries.items()} == {"desk": 3.0, "smoke": 2.0}
    assert evidence.entry("claim", "c1").scale == "desk"
    assert evidence.entry("claim", "c1", "smoke").values == {"": 2.0}
    assert evidence.entry("claim", "c1", "full") is None
    assert evidence.entry("peer", "c1") is None
    assert (tmp_path / "slug/c1.desk.svg").read_bytes() == b"desk"


def test_a_claim_and_a_peer_of_the_same_id_keep_apart(tmp_path, make_entry):
    for kind in ("claim", "peer"):
        add_entry("slug", tmp_path, make_entry(kind=kind), {".svg": kind.encode()})
    evidence = read_evidence("slug", tmp_path)
    for kind in ("claim", "peer"):
        assert evidence.figure_paths(evidence.entry(kind, "c1"))[0].read_bytes() == kind.encode()


def test_figures_that_nothing_shows_any_more_go(tmp_path, make_entry):
    add_entry("slug", tmp_path, make_entry(), {".svg": b"1", ".png": b"1"})
    add_entry("slug", tmp_path, make_entry(), {".svg": b"2"})
    assert sorted(path.name for path in (tmp_path / "slug").iterdir()) == ["c1.desk.svg"]


def test_the_file_does_not_depend_on_the_order_of_writing(tmp_path, make_entry):
    entries = [make_entry(id) for id in ("c2", "c1", "c10")]
    for folder, order in ((tmp_path / "a", entries), (tmp_path / "b", entries[::-1])):
        for entry in order:
            add_entry("slug", folder, entry)
    assert (tmp_path / "a/slug.json").read_bytes() == (tmp_path / "b/slug.json").read_bytes()
    assert json.loads((tmp_path / "a/slug.json").read_text())["schema"] == store.SCHEMA


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not evidence of schema"),
        ('{"entries": []}', "not evidence of schema"),
        ('{"schema": 99, "entries": []}', "written by a newer paperworks"),
        ('{"schema": 1, "entries": {}}', "not evidence of schema"),
        ('{"schema": 1, "entries": [3]}', "malformed"),
        ('{"schema": 1, "entries": [{"kind": "claim"}]}', "malformed"),
    ],
)
def test_a_file_that_can_not_be_read_is_never_overwritten(tmp_path, make_entry, content, message):
    path = tmp_path / "slug.json"
    path.write_text(content)
    with pytest.raises(EvidenceError, match=message) as caught:
        read_evidence("slug", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(EvidenceError, match=message):
        add_entry("slug", tmp_path, make_entry(), {".svg": b"new"})
    assert path.read_text() == content


def test_many_processes_write_at_once(tmp_path):
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import entry
from paperworks.evidence.store import add_entry
for number in range(15):
    add_entry("slug", Path(sys.argv[2]), entry(f"c{sys.argv[3]}-{number}"), {".svg": sys.argv[3].encode()})
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    writers = [subprocess.Popen([*command, str(writer)]) for writer in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read_evidence("slug", tmp_path).entries) == 45


def test_without_a_folder_shipped_evidence_fills_what_is_not_there(tmp_path, make_entry, monkeypatch):
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(own))
    monkeypatch.setattr(store, "SHIPPED", shipped)
    add_entry("slug", shipped, make_entry("c1", values={"": 1.0}), {".svg": b"shipped"})
    add_entry("slug", shipped, make_entry("c2", values={"": 2.0}), {".svg": b"shipped"})
    add_entry("slug", own, make_entry("c1", values={"": 3.0}), {".svg": b"own"})
    evidence = read_evidence("slug")
    assert {key.id: entry.values[""] for key, entry in evidence.entries.items()} == {"c1": 3.0, "c2": 2.0}
    figures = [evidence.figure_paths(evidence.entry("claim", id))[0].read_bytes() for id in ("c1", "c2")]
    assert figures == [b"own", b"shipped"]


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path))
    assert default_evidence_folder() == tmp_path
    monkeypatch.delenv("PAPERWORKS_EVIDENCE")
    monkeypatch.setattr(store, "checkout", lambda: tmp_path / "checkout")
    assert default_evidence_folder() == tmp_path / "checkout" / "evidence"
    monkeypatch.setattr(store, "checkout", lambda: None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_evidence_folder().name == "evidence"
    assert "paperworks" in default_evidence_folder().parts


def test_a_folder_that_can_not_be_written_to_is_an_error_of_use(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written to"):
        check_writable(tmp_path / "file" / "folder")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="can't be written to"):
            check_writable(tmp_path / "locked")
