"""The loop: finds optima, keeps pending points, resumes, takes mixed spaces, and names bad input."""

import json

import numpy as np
import pytest

from paperworks.optimization import (
    BayesianOptimizer,
    Categorical,
    Continuous,
    ExpectedImprovement,
    Integer,
    Sources,
    minimize,
)
from paperworks.optimization.bayesian.spaces import Space
from paperworks.testbeds import branin, hartmann6, rosenbrock

pytestmark = pytest.mark.usefixtures("untyped")


def bowl(X):
    return -((np.asarray(X, dtype=float)[:, :2] - [0.3, 0.8]) ** 2).sum(axis=1)


def test_functions_have_their_minima():
    for function in (branin(), hartmann6(), rosenbrock(3)):
        low, high = np.array(function.bounds).T
        X = low + (high - low) * np.random.default_rng(0).random((2000, len(low)))
        assert function(X).min() >= function.minimum
    assert branin()(np.array([[np.pi, 2.275], [9.42478, 2.475]])) == pytest.approx(branin().minimum, abs=1e-5)
    valley, x, h = rosenbrock(3), np.array([[0.3, -0.4, 1.2]]), 1e-6
    slopes = [(valley(x + h * e)[0] - valley(x - h * e)[0]) / (2 * h) for e in np.eye(3)]
    assert valley.gradient(x)[0] == pytest.approx(slopes, rel=1e-6)
    with pytest.raises(ValueError, match="dim"):
        rosenbrock(1)


@pytest.mark.parametrize("acq", ["ei", "noisy_ei", "kg", "mes", "es", "pes"])
def test_each_acquisition_finds_the_top_of_a_bowl(acq):
    optimizer = BayesianOptimizer([(0, 1)] * 2, acq=acq, noise=1e-8, random_state=0)
    X = optimizer.ask(6)
    optimizer.tell(X, bowl(X))
    for _ in range(2):
        X = optimizer.ask()
        optimizer.tell(X, bowl(X))
    assert optimizer.best.y > -0.04


@pytest.mark.parametrize("acq", ["ei", "kg", "liar_min"])
def test_batches_are_of_different_points(acq):
    optimizer = BayesianOptimizer([(0, 1)] * 2, acq=acq, batch_size=3, noise=1e-8)
    X = optimizer.ask(6)
    optimizer.tell(X, bowl(X))
    assert len(np.unique(optimizer.ask(), axis=0)) == 3


def test_pending_points_are_not_asked_for_again():
    optimizer = BayesianOptimizer([(0, 1)] * 2, noise=0.0, random_state=1)
    X = optimizer.ask(6)
    optimizer.tell(X, bowl(X))
    asked = np.concatenate([optimizer.ask() for _ in range(3)])
    np.testing.assert_allclose(optimizer.pending, asked)
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(asked) for b in asked[:i]]
    assert min(gaps) > 1e-4
    optimizer.tell(asked[[2]], bowl(asked[[2]]))
    assert len(optimizer.pending) == 2


def test_it_resumes_from_a_file(tmp_path):
    space = [Continuous(1e-3, 1.0, log=True), Integer(1, 9), Categorical(("a", "b", "c"))]
    first = BayesianOptimizer(space, random_state=3, n_initial=4)
    X = first.ask(5 - 1)
    first.tell(X, [float(x[1]) for x in X])
    first.ask()
    file = tmp_path / "state.json"
    first.save(file)
    second = BayesianOptimizer.load(file)
    assert second.pending.tolist() == first.pending.tolist()
    assert second.ask().tolist() == first.ask().tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="path"):
        BayesianOptimizer.load(file)
    file.write_text(json.dumps({"format": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match="format"):
        BayesianOptimizer.load(file)
    with pytest.raises(ValueError, match="acq"):
        BayesianOptimizer([(0, 1)], acq=lambda model, box: None).save(file)


def test_mixed_spaces_stay_on_their_grid():
    space = [Integer(0, 20), Categorical((16, 32)), (0.0, 1.0), Integer(1, 1000, log=True)]
    optimizer = BayesianOptimizer(space, n_initial=9, noise=1e-6)
    for n in (9, 1, 1):
        X = optimizer.ask(n)
        for x in X:
            assert isinstance(x[0], int)
            assert x[1] in (16, 32)
            assert 1 <= x[3] <= 1000
        optimizer.tell(X, [-((x[0] - 13) ** 2) / 50 + (x[1] == 32) - x[2] for x in X])
    assert optimizer.best.x[1] == 32
    assert abs(optimizer.best.x[0] - 13) <= 3


def test_spaces_go_there_and_back():
    space = Space([Continuous(1e-3, 10, log=True), Integer(-3, 4), Categorical("xyz"), (2, 5)])
    U = space.sample(16, 0)
    np.testing.assert_allclose(space.encode(space.decode(U)), U, atol=1e-12)
    moved = np.clip(U + 0.05, 0, 1)
    np.testing.assert_allclose(space.snap(space.snap(moved)), space.snap(moved), atol=1e-12)
    assert {row[1] for row in space.decode(space.sample(64, 0))} == set(range(-3, 5))
    assert len(space.neighbours(U[0])) >= 3


def test_constraints_are_kept():
    optimizer = BayesianOptimizer([(0, 1)] * 2, constraints=1, noise=1e-8, n_initial=9)
    for n in (9, 1, 1):
        X = optimizer.ask(n)
        optimizer.tell(X, bowl(X), X[:, :1] - 0.2)
    assert optimizer.best.x[0] <= 0.2
    assert optimizer.best.y > -0.03


def test_the_least_violated_is_reported_where_nothing_is_feasible():
    optimizer = BayesianOptimizer([(0, 1)], constraints=2)
    optimizer.tell([[0.1], [0.9]], [1.0, 2.0], [[1.0, 1.0], [5.0, 5.0]])
    assert optimizer.best.x[0] == pytest.approx(0.1)
    optimizer.ask()


@pytest.mark.parametrize(
    ("sources", "asked"),
    [
        (Sources((0.5, 1.0), costs=(0.1, 1.0), kernel="truncated"), (12, 1)),
        (Sources((0.5, 1.0), kernel="additive"), (12,)),
        (Sources((0, 1), costs=(1.0, 0.1), kernel="tasks"), (12,)),
        (Sources((0, 1, 2), weights=(0.5, 0.3, 0.2)), (12, 1)),
    ],
)
def test_sources_are_chosen_with_the_points(sources, asked, tmp_path):
    optimizer = BayesianOptimizer([(0, 1)] * 2, fidelities=sources, n_initial=12, noise=1e-6)
    for n in asked:
        X = optimizer.ask(n)
        assert set(X[:, 2]) <= set(sources.levels)
        optimizer.tell(X, bowl(X) + 0.1 * (X[:, 2] - 1))
    assert np.linalg.norm(optimizer.best.x - [0.3, 0.8]) < 0.3
    optimizer.save(tmp_path / "state.json")
    assert BayesianOptimizer.load(tmp_path / "state.json").X.shape == (sum(asked), 3)


def test_an_acquisition_of_ones_own():
    optimizer = BayesianOptimizer([(0, 1)] * 2, acq=lambda model, box: ExpectedImprovement(model, 0.0), noise=1e-8)
    X = optimizer.ask(6)
    optimizer.tell(X, bowl(X))
    assert optimizer.ask(2).shape == (2, 2)


def test_minimise_returns_scipys_result():
    seen = []
    result = minimize(
        lambda x: (x[0] - 0.3) ** 2, [(0, 1)], 8, x0=[[0.9]], callback=lambda r: seen.append(r.nfev), noise=0.0
    )
    assert result.success
    assert result.nfev == len(result.func_vals) == 8
    assert result.x_iters[0, 0] == pytest.approx(0.9)
    assert result.fun == result.func_vals.min() < 1e-3
    assert seen == list(range(1, 9))
    again = minimize(lambda x: (x[0] - 0.3) ** 2, [(0, 1)], 8, x0=[[0.9]], noise=0.0)
    assert np.array_equal(again.x_iters, result.x_iters)
    stopped = minimize(lambda x: x[0], [(0, 1)], 10, callback=lambda r: r.nfev == 3)
    assert stopped.nfev == 3
    known = minimize(lambda x: x[0], [(0, 1)], 2, x0=[[0.5], [0.2]], y0=[0.5, 0.2])
    assert known.nfev == 2
    assert len(known.func_vals) == 4


def test_repeated_points_do_no_harm():
    optimizer = BayesianOptimizer([(0, 1)], random_state=0)
    optimizer.tell([[0.2]] * 4 + [[0.7]], [1.0, 1.1, 0.9, 1.0, 0.2])
    assert optimizer.ask(3).shape == (3, 1)
    strict = BayesianOptimizer([(0, 1)], noise=0.0, n_initial=1)
    strict.tell([[0.2], [0.2]], [1.0, 2.0])
    with pytest.raises(ValueError, match="noise"):
        strict.ask()


@pytest.mark.parametrize("scale", [1e-140, 1e30])
def test_units_of_the_values_do_not_matter(scale):
    asked = []
    for unit in (1.0, scale):
        optimizer = BayesianOptimizer([(0, 1)], noise=0.0, n_initial=5)
        X = optimizer.ask(5)
        optimizer.tell(X, unit * np.sin(5 * X[:, 0]))
        asked.append(optimizer.ask())
    np.testing.assert_allclose(*asked, atol=1e-3)


def test_constant_values_and_a_single_one_do_no_harm():
    flat = BayesianOptimizer([(0, 1)], acq="es", noise=0.0, n_initial=3)
    flat.tell([[0.1], [0.4], [0.8]], [3.0, 3.0, 3.0])
    assert 0 <= flat.ask()[0, 0] <= 1
    single = BayesianOptimizer([(0, 1)], n_initial=1)
    single.tell(single.ask(), [1.0])
    assert single.ask().shape == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"U": [[9.0]]},
        {"y": [1.0, float("nan")]},
        {"y": []},
        {"thetas": "x"},
        {"asked": -1},
        {"options": {"hack": 1}},
        {"dimensions": [{"kind": "os"}]},
        {"pending": [[9.0]]},
    ],
)
def test_damaged_files_are_named(tmp_path, change):
    optimizer = BayesianOptimizer([(0, 1)])
    optimizer.tell([[0.1], [0.4]], [3.0, 2.0])
    file = tmp_path / "state.json"
    optimizer.save(file)
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(ValueError, match="path"):
        BayesianOptimizer.load(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="path"):
        BayesianOptimizer.load(file)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BayesianOptimizer([(1, 0)]), "bounds"),
        (lambda: BayesianOptimizer([(-1e308, 1e308)]), "width"),
        (lambda: BayesianOptimizer([Integer(0, np.inf)]), "high"),
        (lambda: BayesianOptimizer([(0, 1)], noise="fixed"), "noise"),
        (lambda: BayesianOptimizer([(0, 1)], random_state=-1), "random_state"),
        (lambda: BayesianOptimizer([(0, 1)]).tell([0.5], [1.0]), "X"),
        (lambda: BayesianOptimizer([Categorical("ab")]).tell(["a"], [1.0]), "X"),
        (lambda: minimize(lambda x: 0.0, [(0, 1)], 3, x0=[[5.0]]), "X"),
        (lambda: BayesianOptimizer([]), "bounds"),
        (lambda: BayesianOptimizer([(0, np.inf)]), "bounds"),
        (lambda: BayesianOptimizer([(0, 1)], acq="guess"), "acq"),
        (lambda: BayesianOptimizer([(0, 1)], noise=-1.0), "noise"),
        (lambda: BayesianOptimizer([(0, 1)], batch_size=0), "batch_size"),
        (lambda: BayesianOptimizer([Integer(0, 3)], fidelities=Sources((0, 1))), "fidelities"),
        (lambda: BayesianOptimizer([(0, 1)]).best, "no data"),
        (lambda: BayesianOptimizer([(0, 1)], n_initial=1).ask(2), "told"),
        (lambda: BayesianOptimizer([(0, 1)]).tell([[0.5]], [np.nan]), "y"),
        (lambda: BayesianOptimizer([(0, 1)]).tell([[0.5]], [1.0, 2.0]), "y"),
        (lambda: BayesianOptimizer([(0, 1)]).tell([[0.5, 0.5]], [1.0]), "X"),
        (lambda: BayesianOptimizer([(0, 1)]).tell([[5.0]], [1.0]), "X"),
        (lambda: BayesianOptimizer([(0, 1)], constraints=1).tell([[0.5]], [1.0]), "constraints"),
        (lambda: BayesianOptimizer([Categorical("ab")]).tell([["c"]], [1.0]), "X"),
        (lambda: BayesianOptimizer([Integer(0, 3)]).tell([[1.5]], [1.0]), "whole"),
        (lambda: Categorical("a"), "choices"),
        (lambda: Continuous(-1.0, 1.0, log=True), "low"),
        (lambda: Integer(0.5, 3), "low"),
        (lambda: minimize(lambda x: np.nan, [(0, 1)], 3), "fun"),
        (lambda: minimize(lambda x: 0.0, [(0, 1)], 0), "n_calls"),
        (lambda: minimize(lambda x: 0.0, [(0, 1)], 3, y0=[1.0]), "y0"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
