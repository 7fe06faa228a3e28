"""Runs what every measured paper promises: its claims and races at smoke scale, and its usage."""

import importlib
import os
import subprocess
import sys

import pytest

from paperworks.evidence import Measurement, NotAtThisScale, Run
from paperworks.evidence.figures import save_figure
from paperworks.evidence.run import tasks_of
from paperworks.evidence.verdicts import items_of
from paperworks.papers import load, load_all
from paperworks.testbeds import DatasetMissing

MEASURED = [paper for paper in load_all() if not paper.planned]
ITEMS = [
    (paper.slug, kind, item.id) for paper in MEASURED for kind in ("claim", "peer") for item in items_of(paper, kind)
]


def tasks(slug):
    module = importlib.import_module(f"paperworks.papers.{slug.replace('-', '_')}.claims")
    return tasks_of(vars(module))


@pytest.mark.parametrize(("slug", "kind", "id"), ITEMS, ids=[f"{slug}-{id}" for slug, _, id in ITEMS])
def test_it_runs_at_smoke_scale_and_gives_a_value_for_each_bar(slug, kind, id, tmp_path):
    (item,) = (item for item in items_of(load(slug), kind) if item.id == id)
    try:
        measurement = tasks(slug)[kind, id].function(Run("smoke", (0,)))
    except NotAtThisScale:
        return
    except DatasetMissing as error:
        if "PAPERWORKS_DATA" in os.environ or "PAPERWORKS_DATA" not in str(error):
            raise  # what the set-up brings is there, and what the user names holds what it should
        pytest.skip(str(error))
    except ImportError as error:
        if kind == "claim":
            raise
        pytest.skip(f"the peer is not installed: {error}")
    assert isinstance(measurement, Measurement)
    assert measurement.values.keys() == item.bars.keys()
    assert all(isinstance(float(found.value), float) for found in measurement.values.values())
    if measurement.figure is not None:
        assert all(path.stat().st_size for path in save_figure(measurement.figure, tmp_path / "figure"))


@pytest.mark.parametrize("slug", [paper.slug for paper in MEASURED])
def test_every_function_measures_something_of_the_record(slug):
    paper = load(slug)
    assert tasks(slug).keys() == {(kind, item.id) for kind in ("claim", "peer") for item in items_of(paper, kind)}


@pytest.mark.parametrize("slug", [paper.slug for paper in MEASURED])
def test_the_usage_runs_and_shows_something(slug):
    usage = load(slug).folder / "usage.py"
    result = subprocess.run([sys.executable, str(usage)], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
