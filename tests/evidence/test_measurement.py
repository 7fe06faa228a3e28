import pytest

from paperworks.evidence import Measurement, Table


def test_a_single_value_has_the_empty_name():
    assert Measurement(2).values == {"": 2}


def test_named_values_keep_their_names():
    assert Measurement({"a": 1.0, "b": True}).values == {"a": 1.0, "b": True}


def test_over_seeds_takes_the_mean():
    found = Measurement.over_seeds([1.0, 2.0, 6.0], unit="s")
    assert found.value == 3.0
    assert found.seed_values == {"": [1.0, 2.0, 6.0]}
    assert found.unit == "s"


def test_over_seeds_of_named_values():
    found = Measurement.over_seeds({"a": [1.0, 3.0], "b": [0.0]})
    assert found.values == {"a": 2.0, "b": 0.0}
    assert found.seed_values == {"a": [1.0, 3.0], "b": [0.0]}


def test_over_no_seeds_is_refused():
    with pytest.raises(ValueError, match="per_seed"):
        Measurement.over_seeds([])


def test_without_seeds_there_are_no_seed_values():
    assert Measurement(1.0).seed_values == {}


def test_a_table_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match="rows"):
        Table(["a", "b"], [[1, 2], [3]])
