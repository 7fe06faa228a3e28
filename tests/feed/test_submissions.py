import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.evidence import digests, paper_views, read_evidence
from paperworks.evidence.verdicts import judge
from paperworks.feed.people import People
from paperworks.feed.submissions import (
    MAX_BYTES,
    SCHEMA,
    BadSubmission,
    Submissions,
    _entry,
    read_submission,
    submission,
)
from paperworks.papers import load

SLUG = "dpm-solver"


@pytest.fixture(scope="module")
def evidence():
    return read_evidence(SLUG)


@pytest.fixture
def data(evidence):
    return json.loads(submission(SLUG, evidence))


def packed(data):
    return json.dumps(data).encode()


def test_what_was_measured_is_written_without_what_only_its_maker_needs(data, evidence):
    paper, entries = read_submission(packed(data))
    newest = evidence.newest("claim", "c1-orders")
    (written,) = [entry for entry in entries if entry["id"] == "c1-orders"]
    assert paper.slug == SLUG
    assert {name: value["value"] for name, value in written["values"].items()} == {
        name: value.value for name, value in newest.values.items()
    }
    assert not {"traceback", "reason", "figures", "table", "remark", "settings"} & written.keys()
    with pytest.raises(ValueError, match="measured nothing of none"):
        submission("none", read_evidence("none"))


def set_in(data, path, value):
    for name in path[:-1]:
        data = data[name]
    data[path[-1]] = value


EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["schema"], SCHEMA + 1, "newer Paperworks"),
        (["schema"], True, "isn't evidence"),
        (["schema"], "1", "isn't evidence"),
        (["format"], EVIL, "format"),
        (["paper"], EVIL, "paper"),
        (["paper"], "none", "no paper 'none'"),
        (["entries"], [], "entries"),
        (["extra"], 1, "extra"),
        (["entries", 0, "id"], EVIL, "id"),
        (["entries", 0, "id"], "c99-none", "no claim 'c99-none'"),
        (["entries", 0, "unit"], EVIL * 10, "unit"),
        (["entries", 0, "revision"], EVIL, "revision"),
        (["entries", 0, "digest"], EVIL, "digest"),
        (["entries", 0, "date"], "yesterday", "date"),
        (["entries", 0, "date"], "2126-01-01T00:00:00+00:00", "to come"),
        (["entries", 0, "date"], "2026-01-01T00:00:00", "date"),
        (["entries", 0, "date"], "0001-01-01T00:00:00+23:00", "too early"),
        (["entries", 0, "date"], 1.7e9, "date"),
        (["schema"], 10**4000, "newer Paperworks"),
        (["entries", 0, "machine", "cpu"], "Intel \u202e 99 serolc", "can't be shown"),
        (["entries", 0, "machine", "cpu"], "a\0b", "can't be shown"),
        (["entries", 0, "unit"], "s\n", "can't be shown"),
        (["entries", 0, "seeds"], [1.5], "seeds"),
        (["entries", 0, "seeds"], list(range(1000)), "seeds"),
        (["entries", 0, "versions"], {"torch": EVIL}, "versions"),
        (["entries", 0, "machine", "cpu"], "x" * 1000, "cpu"),
        (["entries", 0, "machine", "cores"], -1, "cores"),
        (["entries", 0, "values"], {"none": {"value": 1.0}}, "the bars are on"),
        (["entries", 0, "values"], {}, "values"),
        (["entries", 0, "outcome"], "error", "outcome"),
    ],
)
def test_what_is_no_evidence_is_refused_in_a_sentence_and_nothing_is_kept(memory, data, path, value, says):
    set_in(data, path, value)
    ann = People(memory).of_email("ann@example.org")
    with pytest.raises(BadSubmission, match=says) as found:
        Submissions(memory).add(ann, packed(data))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 300
    assert Submissions(memory).papers(ann) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999", "1e301"])
def test_numbers_are_finite(data, number):
    name = next(iter(data["entries"][0]["values"]))
    data["entries"][0]["values"][name]["value"] = "HERE"
    with pytest.raises(BadSubmission, match=r"values|JSON"):
        read_submission(packed(data).replace(b'"HERE"', number.encode()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b"[" * 100_000,
        b"\x89PNG",
        b"{}" + b" " * MAX_BYTES,
        b'{"schema": 1e999}',
        b"\xff\xfe{",
    ],
)
def test_whatever_else_is_sent_is_refused(data):
    with pytest.raises(BadSubmission):
        read_submission(data)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists, max_leaves=9))
def test_whatever_json_is_read_or_refused(value):
    with pytest.raises(BadSubmission):
        read_submission(json.dumps({"schema": 1, "format": "paperworks evidence", "paper": value}).encode())


def test_intervals_hold_their_values(data):
    entry = data["entries"][0]
    value = next(iter(entry["values"].values()))
    value |= {"value": 3.0, "low": 4.0, "high": 5.0}
    with pytest.raises(BadSubmission, match="outside of its interval"):
        read_submission(packed(data))
    value |= {"low": None}
    with pytest.raises(BadSubmission, match="two ends"):
        read_submission(packed(data))


def test_machines_are_counted_once_each_by_the_code_at_hand(store, data):
    people, kept, paper = People(store), Submissions(store), load(SLUG)
    views = paper_views(paper, read_evidence(SLUG))
    ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
    (c1,) = [entry for entry in data["entries"] if entry["id"] == "c1-orders"]
    data["entries"] = [c1]
    for _ in range(2):  # the same machine again
        assert kept.add(ann, packed(data)) == (SLUG, 1)
    found = kept.of(paper, views)["claim", "c1-orders"]
    assert (found.held, found.machines, len(found.views)) == (2, 2, 1), "ours and Ann's"
    c1["machine"]["cpu"] = "another <b>one</b>"
    kept.add(ann, packed(data))
    c1["values"] = {name: {**value, "value": 0.0, "low": -1.0, "high": 0.5} for name, value in c1["values"].items()}
    kept.add(bo, packed(data))
    found = kept.of(paper, views)["claim", "c1-orders"]
    assert (found.held, found.machines, len(found.views)) == (3, 4, 3)
    assert [view.verdict for view in found.views].count("holds") == 2
    c1["digest"] = "0" * 64
    kept.add(bo, packed(data))
    found = kept.of(paper, views)["claim", "c1-orders"]
    assert (found.held, found.machines, len(found.views)) == (3, 3, 3), "what other code gave is shown, not counted"
    assert kept.papers(bo) == [SLUG]
    assert [(row[0], row[2]) for row in kept.overview()] == [("bo@example.org", 1), ("ann@example.org", 2)]
    kept.drop(bo, SLUG)
    assert kept.papers(bo) == []
    people.delete(ann)
    assert kept.of(paper, views) == {}


def test_whatever_a_system_says_of_itself_is_written_so_that_it_is_taken(evidence):
    machine = {"cpu": "x" * 500 + "\n", "cores": 2, "system": "Linux\0"}
    odd = {"machine": machine, "versions": {"a b": "1", "torch": "2.1 (ours)", "n": "1"}}
    entries = tuple(replace(e, provenance=replace(e.provenance, **odd)) for e in evidence.entries)
    _, written = read_submission(submission(SLUG, replace(evidence, entries=entries)))
    assert written[0]["machine"] == {"cpu": "x" * 120, "cores": 2, "system": "Linux"}
    assert written[0]["versions"] == {"n": "1"}


def test_a_range_takes_its_samples_each_of_which_is_judged():
    """Without samples every bar of a range would hold."""
    slug, evidence = "neuralstagger", read_evidence("neuralstagger")
    _, entries = read_submission(submission(slug, evidence))
    (c3,) = [entry for entry in entries if entry["id"] == "c3-accuracy"]
    claim = next(claim for claim in load(slug).claims if claim.id == "c3-accuracy")
    assert judge(claim, _entry(c3)).name == judge(claim, evidence.newest("claim", claim.id)).name == "known shortfall"
    data = json.loads(submission(slug, evidence))
    for entry in data["entries"]:
        for value in entry["values"].values():
            value.pop("samples", None)
    with pytest.raises(BadSubmission, match="takes its samples"):
        read_submission(packed(data))
    for entry in data["entries"]:
        for value in entry["values"].values():
            if value["method"].startswith("range of "):
                value["samples"] = [value["high"] + 1]
    with pytest.raises(BadSubmission, match="outside of their interval"):
        read_submission(packed(data))


def c1_of(data):
    (c1,) = [entry for entry in data["entries"] if entry["id"] == "c1-orders"]
    data["entries"] = [c1]
    return c1


def test_one_person_s_many_machines_neither_hide_nor_outvote_the_others(memory, data):
    people, kept, paper = People(memory), Submissions(memory), load(SLUG)
    ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
    c1 = c1_of(data)
    kept.add(bo, packed(data))
    data["entries"] = [{**c1, "machine": {"cpu": f"number {number}"}} for number in range(60)]
    kept.add(ann, packed(data))
    found = kept.of(paper, [])["claim", "c1-orders"]
    assert (found.held, found.machines, len(found.views)) == (6, 6, 6)
    assert [view.machine.split(",")[0] for view in found.views][:2] == ["number 59", "number 58"]


def test_a_run_at_a_smaller_scale_decides_nothing(memory, data):
    people, kept, paper = People(memory), Submissions(memory), load(SLUG)
    ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
    c1 = c1_of(data)
    data["entries"] = [c1, {**c1, "scale": "smoke"}]
    kept.add(ann, packed(data))
    found = kept.of(paper, [])["claim", "c1-orders"]
    assert [view.scale for view in found.views] == ["desk"], "the largest scale of a machine"
    data["entries"] = [{**c1, "scale": "smoke"}]
    kept.add(bo, packed(data))
    found = kept.of(paper, [])["claim", "c1-orders"]
    assert (found.held, found.machines, len(found.views)) == (1, 1, 2)


def test_many_measurements_are_shown_by_one_look_at_the_sources(memory, data, monkeypatch):
    people, kept, paper = People(memory), Submissions(memory), load(SLUG)
    for number in range(3):
        kept.add(people.of_email(f"p{number}@example.org"), packed(data))
    looks = []
    monkeypatch.setattr(digests, "_stamps", lambda root, old=digests._stamps: (looks.append(root), old(root))[1])
    kept.of(paper, [])
    assert len(looks) == len(set(looks)) <= 3


def test_two_files_of_one_person_at_once_are_both_taken(store, data):
    people, kept = People(store), Submissions(store)
    ann = people.of_email("ann@example.org")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: kept.add(ann, packed(data)), range(4)))
    assert done == [(SLUG, len(data["entries"]))] * 4
    assert kept.overview()[0][2] == len(data["entries"])


def test_one_person_s_measurements_are_bounded(memory, data, monkeypatch):
    ann = People(memory).of_email("ann@example.org")
    kept = Submissions(memory)
    monkeypatch.setattr("paperworks.feed.submissions.MOST_OF_ONE", len(data["entries"]))
    kept.add(ann, packed(data))
    for entry in data["entries"]:
        entry["machine"]["cpu"] = "another machine"
    with pytest.raises(BadSubmission, match="which is all that is kept"):
        kept.add(ann, packed(data))
    with pytest.raises(LookupError, match="no person"):
        kept.add(999, packed(data))
