import numpy as np
import pytest
import torch

from paperworks.evidence import Measurement, Run, measures, races
from paperworks.evidence.estimates import exact
from paperworks.evidence.run import exclusive_tasks, tasks_of


def measure(run: Run) -> Measurement:
    return Measurement(exact(1.0))


@pytest.mark.parametrize(("scale", "expected"), [("smoke", 1), ("desk", 2), ("full", 3)])
def test_at_chooses_by_scale(scale, expected):
    assert Run(scale).at(smoke=1, desk=2, full=3) == expected


def test_generators_are_made_from_the_seed():
    run = Run("smoke", (3, 4))
    assert run.seed == 3
    np.testing.assert_array_equal(run.rng().random(4), np.random.default_rng(3).random(4))
    assert not np.array_equal(run.rng(4).random(4), run.rng().random(4))
    first = torch.rand(4, generator=run.torch_rng())
    torch.testing.assert_close(first, torch.rand(4, generator=torch.Generator().manual_seed(3)), rtol=0, atol=0)


def test_progress_reports_from_nothing_to_everything():
    seen = []
    run = Run(report=lambda done, total, label: seen.append((done, total, label)))
    assert list(run.progress("ab", label="letters")) == ["a", "b"]
    assert seen == [(0, 2, "letters"), (1, 2, "letters"), (2, 2, "letters")]


def test_progress_of_an_iterator_has_no_total_unless_told():
    seen = []
    run = Run(report=lambda done, total, label: seen.append(total))
    list(run.progress(iter("ab")))
    list(run.progress(iter("ab"), total=2))
    assert seen == [None] * 3 + [2] * 3


def test_a_figure_is_in_the_house_style():
    figure, axes = Run().figure(1, 2)
    assert len(figure.axes) == 2
    assert not axes[0].spines["top"].get_visible()


def test_repeats_grow_with_the_effort():
    assert Run("smoke").repeats(smoke=2, desk=10, full=100) == 2
    assert Run("desk", effort=4).repeats(smoke=2, desk=10, full=100) == 40


def test_what_is_cached_is_made_once(tmp_path):
    run, made = Run(cache_folder=tmp_path), []

    def make():
        made.append(1)
        return {"x": np.arange(3), "y": (torch.ones(2), 1.5, "text", None)}

    first, second = run.cached("thing", make, size=3), run.cached("thing", make, size=3)
    np.testing.assert_array_equal(second["x"], first["x"])
    assert isinstance(second["x"], np.ndarray)
    assert second["y"][1:] == (1.5, "text", None)
    run.cached("thing", make, size=4)
    assert len(made) == 2


def test_a_network_is_trained_once_and_comes_back_frozen(tmp_path):
    run, trained = Run(cache_folder=tmp_path), []

    def train(network):
        trained.append(1)
        torch.nn.init.constant_(network.weight, 2.0)

    for _ in range(2):
        network = run.trained("net", torch.nn.Linear(2, 1), train, steps=3)
        assert network.weight.tolist() == [[2.0, 2.0]]
        assert not network.weight.requires_grad
        assert not network.training
    assert len(trained) == 1


def test_tasks_are_found_with_what_the_runner_needs():
    def other(run: Run) -> Measurement:
        return Measurement(exact(2.0))

    found = tasks_of({"a": measures("c1")(measure), "b": races("numpy")(other), "c": 3})
    assert set(found) == {("claim", "c1"), ("peer", "numpy")}
    assert not found["claim", "c1"].exclusive
    assert found["peer", "numpy"].exclusive


def test_a_claim_with_two_functions_is_refused():
    def one(run: Run) -> Measurement:
        return Measurement(exact(1.0))

    def two(run: Run) -> Measurement:
        return Measurement(exact(2.0))

    with pytest.raises(ValueError, match="claim 'c1' has two functions"):
        tasks_of({"a": measures("c1")(one), "b": measures("c1")(two)})


def test_exclusive_tasks_are_read_from_the_source():
    source = """
import nothing_that_exists
import paperworks.evidence as e

@measures("c1")
def c1(run): ...

@e.measures("c2", exclusive=True)
def c2(run): ...

@races("p1")
def p1(run): ...

@races("p2", exclusive=False)
def p2(run): ...
"""
    assert exclusive_tasks(source) == {("claim", "c2"), ("peer", "p1")}
    assert exclusive_tasks("def broken(:") == set()
