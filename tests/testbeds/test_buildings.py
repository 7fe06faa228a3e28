import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from paperworks.testbeds import DatasetMissing, citylearn_building
from paperworks.testbeds import buildings as module

needs_data = pytest.mark.skipif(importlib.util.find_spec("citylearn") is None, reason="CityLearn is not installed")


@needs_data
def test_a_year_of_a_building():
    building = citylearn_building("Building_6")
    assert all(len(values) == 8760 for values in building.series().values())
    assert all(np.isfinite(values).all() for values in building.series().values())
    assert (building.load >= 0).all()
    night = np.isin(building.calendar[:, 2], [1, 2, 3, 24])
    assert building.pv[night].max() < 0.05 * building.pv.max()
    assert 0 < building.pv.max() <= 4.0
    assert 0.2 < building.price[:, 0].min() < building.price[:, 0].max() < 0.6
    for column, (low, high) in enumerate([(1, 12), (1, 8), (1, 24)]):
        assert building.calendar[:, column].min() == low
        assert building.calendar[:, column].max() <= high
    assert np.array_equal(np.diff(building.calendar[:100, 2]) % 24, np.ones(99))


@needs_data
def test_columns_are_those_of_the_files():
    (folder,) = importlib.util.find_spec("citylearn").submodule_search_locations
    folder = Path(folder) / "data" / module._CHALLENGE
    building = citylearn_building("Building_10")
    with (folder / "weather.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = ("Outdoor Drybulb Temperature [C]", "Relative Humidity [%]", "Diffuse Solar Radiation [W/m2]")
    for k, kind in enumerate((*kinds, "Direct Solar Radiation [W/m2]")):
        names = [kind, *(f"{ahead}h Prediction {kind}" for ahead in (6, 12, 24))]
        for j, name in enumerate(names):
            expected = [float(row[name]) for row in rows[:50]]
            np.testing.assert_allclose(building.weather[:50, 4 * k + j], expected, err_msg=name)
    with (folder / "Building_10.csv").open() as file:
        row = next(csv.DictReader(file))
    assert building.load[0] == float(row["Equipment Electric Power [kWh]"])
    assert building.calendar[0].tolist() == [float(row[name]) for name in ("Month", "Day Type", "Hour")]


@pytest.mark.usefixtures("untyped")
def test_what_is_missing_is_told(monkeypatch):
    with pytest.raises(ValueError, match="name is 'Building_1'"):
        citylearn_building("Building_1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    citylearn_building.cache_clear()
    with pytest.raises(DatasetMissing, match=r"pip install --no-deps CityLearn==2\.1\.2"):
        citylearn_building("Building_7")
