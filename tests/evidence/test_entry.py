import dataclasses
import json
import math

import pytest

from paperworks.evidence.entry import Entry


def test_an_entry_survives_json(make_entry):
    entry = make_entry(
        values={"a": 1.5, "b": True},
        per_seed={"a": (1.0, 2.0)},
        interval={"a": (-4.0, 7.0)},
        unit="s",
        table={"columns": ["x"], "rows": [[1], ["two"], [None]]},
        remark="seen",
        figures=("slug/c1.desk.svg",),
        seconds=1.25,
        memory=123,
    )
    assert Entry.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False))) == entry


def test_nan_and_infinity_survive_strict_json(make_entry):
    entry = make_entry(values={"": math.nan, "up": math.inf, "down": -math.inf}, per_seed={"": (math.nan, 1.0)})
    back = Entry.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False)))
    assert math.isnan(back.values[""])
    assert back.values["up"] == math.inf
    assert back.values["down"] == -math.inf
    assert math.isnan(back.per_seed[""][0])


def test_truth_values_stay_truth_values(make_entry):
    back = Entry.from_json(make_entry(values={"": False}).to_json())
    assert back.values[""] is False


def test_what_is_empty_is_left_out(make_entry):
    assert set(make_entry().to_json()) == {"kind", "id", "scale", "seeds", "outcome", "provenance"}


@pytest.mark.parametrize(
    "change", [{"scale": "tiny"}, {"kind": "method"}, {"outcome": "fine"}, {"surprise": 1}, {"values": {"": "five"}}]
)
def test_what_is_no_entry_is_refused(make_entry, change):
    with pytest.raises(ValueError, match=r"scale|kind|outcome|surprise|five"):
        Entry.from_json({**make_entry().to_json(), **change})


def test_every_field_is_required_that_has_no_default(make_entry):
    data = make_entry().to_json()
    for field in dataclasses.fields(Entry):
        if field.name in data:
            with pytest.raises((KeyError, TypeError)):
                Entry.from_json({name: value for name, value in data.items() if name != field.name})
