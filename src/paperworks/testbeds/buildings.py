"""Real buildings with solar panels and a battery, hour by hour: the data inside the wheel of CityLearn."""

import functools
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from paperworks.core.validation import check_choice
from paperworks.testbeds.data import DatasetMissing

BuildingName = Literal["Building_6", "Building_7", "Building_8", "Building_9", "Building_10"]
"""The buildings of the CityLearn challenge of 2022, phase 2."""
_CHALLENGE = "citylearn_challenge_2022_phase_2"


@dataclass(frozen=True)
class Building:
    """A year of a building: what a `BatteryDispatchEnv` is made of.

    Parameters
    ----------
    load, pv
        Consumption and solar generation in kWh.
    price
        In $/kWh, now and forecast for 6, 12 and 24 hours later.
    carbon
        In kg of CO2 per kWh.
    weather
        Temperature, humidity, diffuse and direct solar radiation, and forecasts of each.
    calendar
        Month, day type and hour.

    Examples
    --------
    >>> building = citylearn_building()  # doctest: +SKIP
    >>> env = BatteryDispatchEnv(**building.series(), horizon=168)  # doctest: +SKIP
    """

    load: Float[np.ndarray, " hours"]
    pv: Float[np.ndarray, " hours"]
    price: Float[np.ndarray, "hours 4"]
    carbon: Float[np.ndarray, " hours"]
    weather: Float[np.ndarray, "hours 16"]
    calendar: Float[np.ndarray, "hours 3"]

    def series(self) -> dict[str, np.ndarray]:
        """Return the series by name.

        Returns
        -------
        dict
            Arrays by the names of the fields, as `BatteryDispatchEnv` takes them.
        """
        return asdict(self)


@functools.cache
def citylearn_building(name: BuildingName = "Building_6") -> Building:
    """Load a building of the second phase of the CityLearn challenge of 2022, 8760 hours.

    Parameters
    ----------
    name
        Which of the five.

    Returns
    -------
    Building
        Shared by all who ask.

    Raises
    ------
    DatasetMissing
        Where no release of CityLearn that carries data is installed, such as 2.1.2.
    ValueError
        For an unknown building.

    Examples
    --------
    >>> citylearn_building("Building_6").weather.shape  # doctest: +SKIP
    (8760, 16)
    """
    check_choice("name", name, get_args(BuildingName))
    # Found, not imported: the simulator asks for packages of its time, and its data don't need it.
    found = importlib.util.find_spec("citylearn")
    folder = Path(next(iter(found.submodule_search_locations or []), "")) / "data" / _CHALLENGE if found else None
    if folder is None or not (folder / f"{name}.csv").is_file():
        raise DatasetMissing(f"{name}.csv is in no CityLearn; `pip install --no-deps CityLearn==2.1.2` brings it")
    rows = _read(folder / f"{name}.csv")
    schema = json.loads((folder / "schema.json").read_text())["buildings"][name]
    weather = _read(folder / "weather.csv")
    # In the file, what is forecast stands after all that is; here it stands after what it is a forecast of.
    order = [column for first in range(4) for column in (first, *range(4 + 3 * first, 7 + 3 * first))]
    return Building(
        load=rows[:, 7],
        pv=rows[:, 11] * schema["pv"]["attributes"]["nominal_power"] / 1000,
        price=_read(folder / "pricing.csv"),
        carbon=_read(folder / "carbon_intensity.csv")[:, 0],
        weather=weather[:, order],
        calendar=rows[:, [0, 2, 1]],
    )


def _read(path: Path) -> Float[np.ndarray, "rows columns"]:
    return np.genfromtxt(path, delimiter=",", skip_header=1).reshape(-1, path.open().readline().count(",") + 1)
