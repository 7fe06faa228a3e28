import math

import pytest

from paperworks.evidence import compare
from paperworks.evidence.entry import Smoke, Value
from paperworks.evidence.same import same_smoke


def test_equal_is_what_overlaps(make_entry, value):
    committed = make_entry(values={"a": value(1.0, 0.2), "b": value(3.0)})
    assert compare(committed, make_entry(values={"a": value(1.3, 0.2), "b": value(3.0 + 1e-9)})).result == "equal"
    found = compare(committed, make_entry(values={"a": value(1.5, 0.2), "b": value(3.1)}))
    assert found.result == "different"
    assert found.detail == "a: 1 [0.8, 1.2] committed, 1.5 [1.3, 1.7] yours; b: 3 committed, 3.1 yours"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"scale": "smoke"}, "desk scale against smoke scale"),
        ({"seeds": (1,)}, "other seeds"),
        ({"outcome": "error"}, "you have not measured it"),
        ({"values": {"b": Value(1.0)}}, "other values"),
    ],
)
def test_what_can_not_be_compared_says_why(make_entry, value, change, detail):
    found = compare(make_entry(values={"": value(1.0)}), make_entry(**{"values": {"": value(1.0)}, **change}))
    assert (found.result, found.detail) == ("not comparable", detail)


def test_more_seeds_are_still_comparable(make_entry, value):
    few, many = (make_entry(values={"": value(1.0)}, seeds=tuple(range(n))) for n in (3, 6))
    assert compare(few, many).result == compare(many, few).result == "equal"


def test_nothing_is_compared_with_nothing(make_entry, value):
    assert compare(None, make_entry(values={"": value(1.0)})).detail == "nothing is committed"
    assert compare(make_entry(values={"": value(1.0)}), None).detail == "you have not measured it"


def test_values_without_intervals_are_equal_only_to_rounding(make_entry):
    committed = make_entry(values={"": Value(1.0)})
    assert compare(committed, make_entry(values={"": Value(1.0 + 1e-8)})).result == "equal"
    assert compare(committed, make_entry(values={"": Value(1.01)})).result == "different"


def test_smoke_values_are_the_same_to_rounding_table_included(make_entry, value):
    before = Smoke({"a": 1.0, "b": True, "c": math.nan}, (("x", 2.0, None),))
    values = {"a": value(1.0 + 1e-9), "b": value(True), "c": value(math.nan)}
    table = {"columns": ["n", "v", "w"], "rows": [["x", 2.0, None]]}
    assert same_smoke(before, make_entry(values=values, table=table))
    assert not same_smoke(before, make_entry(values={**values, "a": value(1.001)}, table=table))
    assert not same_smoke(before, make_entry(values={**values, "b": value(False)}, table=table))
    assert not same_smoke(before, make_entry(values=values, table={**table, "rows": [["x", 2.1, None]]}))
    assert not same_smoke(before, make_entry(values=values))
