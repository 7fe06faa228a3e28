"""Whole optimisations of test functions, from a seed to what was found after each evaluation."""

from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.optimization import (
    BayesianOptimizer,
    GaussianProcess,
    LogEI,
    MaternKernel,
    Sources,
    fill_batch,
    optimize_acquisition,
)
from paperworks.testbeds import TestFunction, branin

Values = Float[np.ndarray, " n"]


def regrets(function: TestFunction, values: Values) -> Values:
    """Return after each evaluation how far the best value so far is above the minimum."""
    return np.maximum(np.minimum.accumulate(values) - function.minimum, 1e-12)


def maximise(function: TestFunction, seed: int, first: int, total: int, **options: Any) -> Values:
    """Return the values of a function at the points that sequential expected improvement asks for."""
    optimizer = BayesianOptimizer(function.bounds, n_initial=first, random_state=seed, noise=0.0, **options)
    X = optimizer.ask(first)
    optimizer.tell(X, -function(X))
    for _ in range(total - first):
        X = optimizer.ask()
        optimizer.tell(X, -function(X))
    return -optimizer.y


def random_search(function: TestFunction, seed: int, total: int) -> Values:
    """Return the values of a function at uniformly random points."""
    low, high = np.array(function.bounds).T
    return function(low + (high - low) * np.random.default_rng(seed).random((total, len(low))))


def batches(function: TestFunction, seed: int, first: int, total: int, how: str) -> Values:
    """Return the values at the points of batches of 4: "qei", "naive", or a way to fill a batch."""
    options = {"acq": "ei" if how in ("qei", "naive") else how, "batch_size": 4, "noise": 0.0}
    optimizer = BayesianOptimizer(function.bounds, n_initial=first, random_state=seed, **options)
    X = optimizer.ask(first)
    optimizer.tell(X, -function(X))
    low, high = np.array(function.bounds).T
    for _ in range((total - first) // 4):
        if how == "naive":
            X = low + (high - low) * fill_batch(optimizer.model, optimizer.box, float(optimizer.y.max()), 4, "naive")
        else:
            X = optimizer.ask()
        optimizer.tell(X, -function(X))
    return -optimizer.y


def with_gradients(function: TestFunction, seed: int, first: int, total: int) -> Values:
    """Return the values at the points of expected improvement where gradients are observed too."""
    assert function.gradient is not None
    low, high = np.array(function.bounds).T
    X = BayesianOptimizer(function.bounds, n_initial=first, random_state=seed, noise=0.0).ask(first)
    rng = np.random.default_rng([seed, 2])
    model = GaussianProcess(noise=0.0, bounds=function.bounds, n_starts=2, warm_start=True)
    for _ in range(total - first):
        y = -function(X)
        model.fit(X, y, -function.gradient(X))
        top = X[np.argsort(-y)[:2]]
        near = np.repeat(top, 16, axis=0)
        near = near + (high - low) * rng.normal(size=near.shape) * 10.0 ** rng.uniform(-3, -1, (len(near), 1))
        candidates = np.concatenate([top, near])
        x, _ = optimize_acquisition(
            LogEI(model, float(y.max())), function.bounds, 256, candidates=candidates, random_state=rng
        )
        X = np.concatenate([X, x[None]])
    return function(X)


def two_fidelities(seed: int, budget: float, goal: float) -> tuple[float, float]:
    """Return the cost and the regret of Branin's function with a fidelity at a tenth of the cost.

    It ends once the regret of what is reported, the maximiser of the posterior mean, is at most the goal.
    """
    cheap, true = branin(0.5), branin()
    sources = Sources((0.5, 1.0), costs=(0.1, 1.0), kernel="truncated")
    optimizer = BayesianOptimizer(true.bounds, fidelities=sources, n_initial=12, random_state=seed, noise=0.0)
    spent, X = 0.0, optimizer.ask(12)
    while True:
        levels = X[:, 2]
        optimizer.tell(X, -np.where(levels == 1.0, true(X[:, :2]), cheap(X[:, :2])))
        spent += float(np.where(levels == 1.0, 1.0, 0.1).sum())
        regret = float(true(np.asarray(optimizer.best.x, dtype=float)[None])[0]) - true.minimum
        if regret <= goal or spent >= budget:
            return spent, regret
        X = optimizer.ask()


def constrained(seed: int, first: int, total: int) -> tuple[float, bool]:
    """Return the regret of Branin's function within a disc, and whether what is reported lies in it."""
    function = branin()

    def outside(X: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 1"]:
        return ((X - [2.5, 7.5]) ** 2).sum(axis=1, keepdims=True) - 50

    optimizer = BayesianOptimizer(function.bounds, constraints=1, n_initial=first, random_state=seed, noise=0.0)
    X = optimizer.ask(first)
    optimizer.tell(X, -function(X), outside(X))
    for _ in range(total - first):
        X = optimizer.ask()
        optimizer.tell(X, -function(X), outside(X))
    x = optimizer.best.x[None]
    return float(function(x)[0] - function.minimum), bool(outside(x)[0, 0] <= 0)


def drawn_function(rng: np.random.Generator, covariance: Float[np.ndarray, "t t"]) -> Any:
    """Return correlated random functions of two variables as one of points (x, y) and the number of a function.

    They are the mean of a Matern process of lengthscale 0.3 through random values at 80 points.
    """
    anchors = rng.random((80, 2))
    kernel, theta = MaternKernel(2.5, ard=False), np.log([0.3, 1.0])
    K = kernel.at(theta, anchors, anchors)[0] + 1e-6 * np.eye(80)
    values = np.linalg.cholesky(K) @ rng.standard_normal((80, len(covariance))) @ np.linalg.cholesky(covariance).T
    weights = np.linalg.solve(K, values)
    return lambda X: kernel.at(theta, np.asarray(X, dtype=float), anchors)[0] @ weights


def environments(seed: int, total: int) -> tuple[float, float]:
    """Return the regret of the mean over four environments by the knowledge gradient, and by random choices."""
    rng = np.random.default_rng([seed, 3])
    f = drawn_function(rng, 0.5 * np.ones((4, 4)) + 0.5 * np.eye(4))
    p = np.array([0.4, 0.3, 0.2, 0.1])
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    top = float((f(grid) @ p).max())
    found = []
    for chooses in (True, False):
        sources = Sources((0, 1, 2, 3), weights=p.tolist(), kernel="tasks")
        n_initial = 8 if chooses else total
        optimizer = BayesianOptimizer([(0, 1)] * 2, fidelities=sources, n_initial=8, random_state=seed, noise=1e-6)
        for k in range(total):
            if chooses or (k < n_initial and k < 8):
                X = optimizer.ask()
            else:
                X = np.append(rng.random(2), float(rng.integers(4)))[None]
            optimizer.tell(X, f(X[:, :2])[np.arange(len(X)), X[:, 2].astype(int)])
        x = np.asarray(optimizer.best.x, dtype=float)[None]
        found.append(max(top - float((f(x) @ p)[0]), 0.0))
    return found[0], found[1]


def two_tasks(seed: int, budget: float) -> tuple[float, float]:
    """Return the regret of a task with the help of a cheap one of correlation 0.9, and of one task alone."""
    rng = np.random.default_rng([seed, 4])
    f = drawn_function(rng, np.array([[1.0, 0.9], [0.9, 1.0]]))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    top = float(f(grid)[:, 0].max())
    sources = Sources((0, 1), costs=(1.0, 0.1), kernel="tasks")
    both = BayesianOptimizer([(0, 1)] * 2, fidelities=sources, n_initial=8, random_state=seed, noise=1e-6)
    spent = 0.0
    while spent < budget - 1e-9:
        X = both.ask()
        spent += 1.0 if X[0, 2] == 0 else 0.1
        both.tell(X, f(X[:, :2])[np.arange(1), X[:, 2].astype(int)])
    alone = BayesianOptimizer([(0, 1)] * 2, acq="kg", n_initial=5, random_state=seed, noise=1e-6)
    for _ in range(int(budget)):
        X = alone.ask()
        alone.tell(X, f(X)[:, 0])
    reports = [np.asarray(both.best.x, dtype=float), np.asarray(alone.best.x, dtype=float)]
    regret = [max(top - float(f(x[None])[0, 0]), 0.0) for x in reports]
    return regret[0], regret[1]
