import dataclasses
import json
import math

import pytest

from paperworks.evidence.entry import Carried, Entry, Smoke, Value, plain


def test_an_entry_survives_json(make_entry):
    entry = make_entry(
        values={"a": Value(1.5, -4.0, 7.0, "Student's t over 2 seeds", (1.0, 2.0)), "b": Value(True)},
        unit="s",
        level=0.975,
        table={"columns": ["x"], "rows": [[1], ["two"], [None]]},
        remark="seen",
        settings="defaults",
        floor=0.5,
        figures=("slug/c1.desk.svg",),
        seconds=1.25,
        processor_seconds=1.0,
        memory=123,
        smoke=Smoke({"a": 1.0, "b": False}, ((1, "two"), (None, 2.5))),
        carried=Carried("abc", "2024-05-01T12:00:00Z"),
        origin={"python": "CPython 3.11.7", "blas": ("openblas 0.3",), "lock": "0123"},
    )
    assert Entry.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False))) == entry


def test_nan_and_infinity_survive_strict_json(make_entry):
    entry = make_entry(values={"": Value(math.nan, -math.inf, math.inf, "mean", (math.nan, 1.0))})
    back = Entry.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False))).values[""]
    assert math.isnan(back.value)
    assert (back.low, back.high) == (-math.inf, math.inf)
    assert math.isnan(back.samples[0])


def test_what_is_no_unicode_survives_strict_json(make_entry):
    data = plain(make_entry(remark="file \udc80 is bad", outcome="error").to_json())
    assert json.dumps(data, ensure_ascii=False).encode()
    assert data["remark"] == "file \\udc80 is bad"


def test_truth_values_stay_truth_values(make_entry):
    back = Entry.from_json(make_entry(values={"": Value(False)}).to_json())
    assert back.values[""].value is False


def test_what_is_empty_is_left_out(make_entry):
    assert set(make_entry().to_json()) == {"kind", "id", "scale", "seeds", "outcome", "provenance", "level"}


@pytest.mark.parametrize(
    "change",
    [{"scale": "tiny"}, {"kind": "method"}, {"outcome": "fine"}, {"surprise": 1}, {"values": {"": {"value": "five"}}}],
)
def test_what_is_no_entry_is_refused(make_entry, change):
    with pytest.raises((ValueError, TypeError), match=r"scale|kind|outcome|surprise|five"):
        Entry.from_json({**make_entry().to_json(), **change})


def test_every_field_is_required_that_has_no_default(make_entry):
    data = make_entry().to_json()
    for field in dataclasses.fields(Entry):
        if field.name in data and field.default is dataclasses.MISSING:
            with pytest.raises((KeyError, TypeError)):
                Entry.from_json({name: value for name, value in data.items() if name != field.name})
