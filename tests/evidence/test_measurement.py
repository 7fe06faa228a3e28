import pytest

from paperworks.evidence import Measurement, Table
from paperworks.evidence.estimates import exact


def test_a_single_value_has_the_empty_name():
    assert {name: e.value for name, e in Measurement(exact(2)).values.items()} == {"": 2}


def test_named_values_keep_their_names():
    found = Measurement({"a": exact(1.0), "b": exact(True)}).values
    assert {name: estimate.value for name, estimate in found.items()} == {"a": 1.0, "b": True}


def test_over_seeds_takes_the_mean():
    found = Measurement.over_seeds([1.0, 2.0, 6.0], unit="s")
    assert found.values[""].value == 3.0
    assert found.values[""].samples == (1.0, 2.0, 6.0)
    assert found.unit == "s"


def test_over_seeds_of_named_values():
    found = Measurement.over_seeds({"a": [1.0, 3.0], "b": [0.0]})
    assert {name: estimate.samples for name, estimate in found.values.items()} == {"a": (1.0, 3.0), "b": (0.0,)}


def test_over_no_seeds_is_refused():
    with pytest.raises(ValueError, match="samples"):
        Measurement.over_seeds([])


@pytest.mark.parametrize("value", [1.0, True, {"a": 1.0}])
def test_a_number_that_does_not_say_how_far_chance_moves_it_is_refused(value, untyped):
    with pytest.raises(TypeError, match="it takes an Estimate"):
        Measurement(value)


def test_a_table_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match="rows"):
        Table(["a", "b"], [[1, 2], [3]])
