"""Holds the house to its plan: the table of rooms, no circles, and papers that import public names only."""

import runpy
from pathlib import Path

ROOMS = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "rooms.py"))


def test_the_table_of_rooms_is_current():
    text = ROOMS["ARCHITECTURE"].read_text(encoding="utf-8")
    assert ROOMS["BEGIN"] in text
    assert ROOMS["written"](text) == text, "python scripts/rooms.py writes it"
