import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paperworks.evidence import EvidenceError, UsageError, committed_folder, own_folder, read_evidence, store
from paperworks.evidence.store import HISTORY, SCHEMA, add_entry, check_writable


def test_no_file_is_no_evidence(tmp_path):
    assert read_evidence("slug", tmp_path).entries == ()
    assert read_evidence("slug", tmp_path).problem == ""


def test_what_is_added_is_read(tmp_path, make_entry, value):
    kept = add_entry("slug", tmp_path, make_entry(values={"": value(1.0)}), {".svg": b"<svg/>", ".png": b"png"})
    evidence = read_evidence("slug", tmp_path)
    assert evidence.newest("claim", "c1") == kept
    assert kept.figures == ("slug/c1.desk.png", "slug/c1.desk.svg")
    assert [path.read_bytes() for path in evidence.figure_paths(kept)] == [b"png", b"<svg/>"]


def test_history_keeps_what_other_code_seeds_and_machines_measured(tmp_path, make_entry, value):
    entries = [
        make_entry(values={"": value(1.0)}),
        make_entry(values={"": value(2.0)}, origin={"digest": "other"}),
        make_entry(values={"": value(3.0)}, origin={"machine": {"cpu": "B", "cores": 4, "system": "Linux"}}),
        make_entry(values={"": value(4.0)}, seeds=(0, 1)),
        make_entry(values={"": value(5.0)}, scale="smoke"),
        make_entry(values={"": value(6.0)}),  # the same as the first, measured again
    ]
    for entry in entries:
        add_entry("slug", tmp_path, entry)
    evidence = read_evidence("slug", tmp_path)
    assert [entry.values[""].value for entry in evidence.entries] == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert evidence.newest("claim", "c1").values[""].value == 6.0, "the newest at the largest scale"
    assert evidence.newest("claim", "c1", "smoke").values[""].value == 5.0
    assert evidence.newest("claim", "c1", "full") is None
    assert evidence.newest("peer", "c1") is None


def test_an_entry_without_values_displaces_no_measurement(tmp_path, make_entry, value):
    kept = add_entry("slug", tmp_path, make_entry(values={"": value(1.0)}), {".svg": b"figure"})
    for reason in ("first", "second"):
        add_entry("slug", tmp_path, make_entry(outcome="stopped", reason=reason, origin={"digest": reason}))
    evidence = read_evidence("slug", tmp_path)
    assert evidence.newest("claim", "c1") == kept
    assert evidence.newest_failure("claim", "c1").reason == "second"
    assert len(evidence.entries) == 2, "of those without values the newest is enough"
    assert evidence.figure_paths(kept)[0].read_bytes() == b"figure"
    add_entry("slug", tmp_path, make_entry(values={"": value(2.0)}, origin={"digest": "new"}))
    assert read_evidence("slug", tmp_path).newest_failure("claim", "c1") is None, "it is newer than the failure"


def test_without_any_measurement_the_newest_failure_is_shown(tmp_path, make_entry):
    for outcome in ("error", "not run"):
        add_entry("slug", tmp_path, make_entry(outcome=outcome))
    assert read_evidence("slug", tmp_path).newest("claim", "c1").outcome == "not run"
    assert read_evidence("slug", tmp_path).newest_failure("claim", "c1") is None


def test_a_claim_and_a_peer_of_the_same_id_keep_apart(tmp_path, make_entry):
    for kind in ("claim", "peer"):
        add_entry("slug", tmp_path, make_entry(kind=kind), {".svg": kind.encode()})
    evidence = read_evidence("slug", tmp_path)
    for kind in ("claim", "peer"):
        assert evidence.figure_paths(evidence.newest(kind, "c1"))[0].read_bytes() == kind.encode()


def test_figures_are_those_of_the_newest_measurement(tmp_path, make_entry):
    add_entry("slug", tmp_path, make_entry(origin={"digest": "1"}), {".svg": b"1", ".png": b"1"})
    newest = add_entry("slug", tmp_path, make_entry(origin={"digest": "2"}), {".svg": b"2"})
    evidence = read_evidence("slug", tmp_path)
    assert sorted(path.name for path in (tmp_path / "slug").iterdir()) == ["c1.desk.svg", HISTORY]
    assert evidence.figure_paths(newest)[0].read_bytes() == b"2"
    assert evidence.entries[0].figures == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "malformed"),
        ("[]", "not evidence of schema"),
        ('{"entries": []}', "not evidence of schema"),
        ('{"schema": 1, "entries": []}', "not evidence of schema 2"),
        ('{"schema": 99, "kind": "claim"}', "written by a newer paperworks (schema 99"),
        ('{"schema": 2, "kind": "claim"}', "malformed"),
        ('{"schema": 2, "kind": "tale", "id": "c1"}', "malformed"),
    ],
)
def test_a_line_that_can_not_be_read_costs_that_line_alone_and_is_never_overwritten(
    tmp_path, make_entry, content, message
):
    add_entry("slug", tmp_path, make_entry())
    path = tmp_path / "slug" / HISTORY
    path.write_text(path.read_text() + content + "\n")
    before = path.read_text()
    evidence = read_evidence("slug", tmp_path)
    assert len(evidence.entries) == 1
    assert message in evidence.problem
    assert f"{path}, line 2" in evidence.problem
    assert "\n" not in evidence.problem
    with pytest.raises(EvidenceError, match="move the file away or restore it"):
        add_entry("slug", tmp_path, make_entry(), {".svg": b"new"})
    assert path.read_text() == before


def test_a_file_that_is_no_text_is_reported(tmp_path):
    (tmp_path / "slug").mkdir()
    (tmp_path / "slug" / HISTORY).write_bytes(b"\xff\xfe")
    assert "can't be read" in read_evidence("slug", tmp_path).problem


def test_a_write_that_fails_leaves_the_history_as_it_was(tmp_path, make_entry, value, monkeypatch):
    add_entry("slug", tmp_path, make_entry(values={"": value(1.0)}))
    before = (tmp_path / "slug" / HISTORY).read_bytes()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        add_entry("slug", tmp_path, make_entry(values={"": value(2.0)}))
    monkeypatch.setattr(os, "fsync", real)
    assert (tmp_path / "slug" / HISTORY).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "slug").iterdir()) == [HISTORY]


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


def test_committed_evidence_and_ones_own_are_two_places(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_EVIDENCE", str(tmp_path))
    assert own_folder() == tmp_path
    monkeypatch.delenv("PAPERWORKS_EVIDENCE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert own_folder().parts[-2:] == ("paperworks", "evidence")
    monkeypatch.setattr(store, "checkout", lambda: tmp_path / "checkout")
    assert committed_folder() == tmp_path / "checkout" / "evidence"
    monkeypatch.setattr(store, "checkout", lambda: None)
    assert committed_folder().name == "_evidence"


def test_every_line_says_its_schema(tmp_path, make_entry):
    add_entry("slug", tmp_path, make_entry())
    assert json.loads((tmp_path / "slug" / HISTORY).read_text())["schema"] == SCHEMA


def test_a_folder_that_can_not_be_written_to_is_an_error_of_use(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written to"):
        check_writable(tmp_path / "file" / "folder")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="can't be written to"):
            check_writable(tmp_path / "locked")
