"""What the paper says of target surrogates: lower losses for each gradient, descent, tuning, and imitation."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch.nn import functional as F

from paperworks.evidence import Measurement, Run, Table, every, exact, mean, measures, races
from paperworks.numerics import mlp
from paperworks.optimization import SSO, ExponentialDecay, TargetSurrogate, fit_linear_sso, target_lipschitz
from paperworks.papers.target_surrogates.imitation import CLONING, SCHEDULES, TASKS, imitate

Data = tuple[np.ndarray, np.ndarray, Any]


def digits() -> Data:
    """Return digits with a constant feature, one-hot labels, and the loss."""
    X, y = load_digits(return_X_y=True)
    return np.c_[X / 16, np.ones(len(X))], np.eye(10)[y], "cross_entropy"


def breast_cancer() -> Data:
    """Return standardised features with a constant one, labels -1 and 1, and the loss."""
    X, y = load_breast_cancer(return_X_y=True)
    return np.c_[(X - X.mean(0)) / X.std(0), np.ones(len(X))], 2.0 * y[:, None] - 1, "logistic"


def full(data: Data, W: np.ndarray) -> tuple[float, float]:
    """Return the loss and the norm of its gradient over all data."""
    X, y, _ = data
    value, g = loss_and_gradient(data, X @ W, y)
    return value, float(np.linalg.norm(X.T @ g) / len(X))


def loss_and_gradient(data: Data, z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean loss and the gradients of single samples."""
    with np.errstate(over="ignore", invalid="ignore"):
        if data[2] == "logistic":
            return float(np.logaddexp(0, -y * z).mean()), -y / (1 + np.exp(y * z))
        z = z - z.max(1, keepdims=True)
        p = np.exp(z)
        total = p.sum(1, keepdims=True)
        return float((np.log(total[:, 0]) - (y * z).sum(1)).mean()), p / total - y


@measures("s1-inner-steps")
def inner_steps(run: Run) -> Measurement:
    """Fit softmax regression to digits with the full batch, from 0, by gradient descent and by 1 to 100 inner steps."""
    data, steps = digits(), run.at(smoke=20, desk=200, full=200)
    X, y, loss = data
    W, lr = np.zeros((X.shape[1], y.shape[1])), len(X) / (target_lipschitz(loss) * np.linalg.norm(X, 2) ** 2)
    for _ in range(steps):
        W -= lr * X.T @ loss_and_gradient(data, X @ W, y)[1] / len(X)
    rows: list[list[Any]] = [["gradient descent", *full(data, W)]]
    losses: dict[int, float] = {}
    for m in run.progress((1, 5, 20, 100), label="inner steps"):
        found = full(data, fit_linear_sso(X, y, loss, steps=steps, inner="gd", inner_steps=m).weights)
        rows.append([f"{m} inner steps", *found])
        losses[m] = found[0]
    values = list(losses.values())
    return Measurement(
        {
            "loss_to_gd": exact(losses[20] / rows[0][1]),
            "monotone": exact(all(b < a for a, b in itertools.pairwise(values))),
        },
        table=Table(["method", f"loss after {steps} calls", "gradient norm"], rows),
    )


@measures("s2-majorisation")
def majorisation(run: Run) -> Measurement:
    """Compare surrogate and loss at random pairs of parameters, and follow the loss of a network as it is trained."""
    pairs, generator, violations, worst = run.at(smoke=60, desk=10_000, full=10_000), run.torch_rng(), 0, -math.inf
    X = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (20,), generator=generator)
    one_hot = F.one_hot(y, 3).double()
    losses: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "cross_entropy": lambda z: F.cross_entropy(z, y),
        "logistic": lambda z: F.binary_cross_entropy_with_logits(z, one_hot, reduction="sum") / len(z),
        "squared": lambda z: (z - one_hot).square().sum() / (2 * len(z)),
    }
    kinds = [(name, deep) for name in losses for deep in (False, True)]

    def outputs(deep: bool) -> torch.Tensor:
        scale = 10 ** (2 * float(torch.rand((), generator=generator)) - 1)
        hidden = X
        if deep:
            hidden = torch.tanh(X @ torch.randn(5, 8, generator=generator, dtype=torch.float64))
        return scale * hidden @ torch.randn(hidden.shape[1], 3, generator=generator, dtype=torch.float64)

    for number in run.progress(range(pairs), label="pairs"):
        name, deep = kinds[number % len(kinds)]
        z, other = outputs(deep).requires_grad_(), outputs(deep)
        value = losses[name](z)
        g, eta = torch.autograd.grad(value, z)[0], 1 / target_lipschitz(name)
        S = TargetSurrogate(z, g, eta, loss=float(value.detach()))
        below = float(losses[name](other) - S(other))
        worst = max(worst, below)
        violations += below > 1e-10 * (1 + abs(float(S(other))))
    rises = 0
    for name in losses:
        for m in run.at(smoke=(2,), desk=(1, 5, 20), full=(1, 5, 20)):
            torch.manual_seed(run.seed)
            model = mlp([5, 8, 3], torch.nn.Tanh).double()
            optimizer = SSO(model.parameters(), 1 / target_lipschitz(name), m)
            seen = [
                float(optimizer.step(lambda model=model: model(X), losses[name]))
                for _ in range(run.at(smoke=3, desk=30, full=100))
            ]
            rises += sum(b > a + 1e-10 for a, b in itertools.pairwise(seen))
    return Measurement(
        {"pairs": exact(violations), "rises": exact(rises)},
        table=Table(["pairs", "largest loss - surrogate"], [[pairs, worst]]),
    )


GRID = tuple(10 ** (e / 2) for e in range(-1, 7))
"""Step sizes that SGD and the surrogates try in the stochastic setting, from 10^-0.5 to 10^3."""


def sgd(data: Data, lr: float, steps: int, schedule: str, seed: int, batch_size: int = 25) -> np.ndarray:
    """Return the weights that stochastic gradient descent finds, with batches drawn in passes."""
    X, y, _ = data
    W, rng, order = np.zeros((X.shape[1], y.shape[1])), np.random.default_rng(seed), np.zeros(0, dtype=int)
    decay = ExponentialDecay(lr, steps, 1 / steps) if schedule == "exponential" else lambda k: lr
    for t in range(steps):
        if len(order) < batch_size:
            order = rng.permutation(len(X))
        rows, order = order[:batch_size], order[batch_size:]
        W -= decay(t) * X[rows].T @ loss_and_gradient(data, X[rows] @ W, y[rows])[1] / batch_size
    return W


@measures("s3-minibatch")
def minibatches(run: Run) -> Measurement:
    """Choose each method's step on one other seed, and compare final gradients over all data."""
    epochs, rows = run.at(smoke=1, desk=5, full=5), []
    ratios: dict[str, list[float]] = {}
    grid = run.at(smoke=(10.0, 100.0), desk=GRID, full=GRID)
    seeds = run.seeds[: run.at(smoke=1, desk=len(run.seeds), full=len(run.seeds))]
    for kind, data in run.progress({"digits": digits(), "breast cancer": breast_cancer()}.items(), label="data"):
        X, _y, _loss = data
        steps = epochs * (len(X) // 25)
        for schedule in ("constant", "exponential"):
            final: dict[int, list[float]] = {}
            for m in (1, 10, 50):

                def gradient(step: float, seed: int, m: int = m, data: Data = data, schedule: Any = schedule,
                             steps: int = steps) -> float:  # fmt: skip
                    X, y, loss = data
                    if m == 1:
                        W = sgd(data, step, steps, schedule, seed)
                    else:
                        W = fit_linear_sso(X, y, loss, eta=step, steps=steps, inner="gd", inner_steps=m, batch_size=25,
                                           eta_schedule=schedule, random_state=seed).weights  # fmt: skip
                    return full(data, W)[1]

                tried = [gradient(step, 10_000 + run.seed) for step in grid]
                best = grid[int(np.nanargmin(tried))]
                final[m] = [gradient(best, seed) for seed in seeds]
                interior = best not in (grid[0], grid[-1])
                name = "SGD" if m == 1 else f"{m} inner steps"
                rows.append([kind, schedule, name, best, interior, float(np.mean(final[m])),
                             float(np.mean(final[m]) / np.mean(final[1]))])  # fmt: skip
            if kind == "digits":
                for m in (10, 50):
                    ratios[f"{schedule}_{m}"] = (np.array(final[m]) / np.array(final[1])).tolist()
    return Measurement(
        {name: mean(ratios[name]) for name in ("constant_50", "exponential_10", "exponential_50")},
        table=Table(["data", "schedule", "method", "best step", "interior", "gradient norm", "over SGD's"], rows),
        remark=f"Batches of 25, {epochs} epochs; steps from {grid[0]:.3g} to {grid[-1]:.3g} for all methods.",
    )


@measures("s5-line-search")
def line_search(run: Run) -> Measurement:
    """Run the line search at its defaults, and fixed steps from 1/L to 64/L, with exact inner solutions."""
    steps, rows, ratios, diverged = run.at(smoke=10, desk=200, full=1000), [], {}, 0
    for name, data in {"digits": digits(), "cancer": breast_cancer()}.items():
        X, y, loss = data
        searched = fit_linear_sso(X, y, loss, steps=steps, eta_schedule="armijo")
        ours = full(data, searched.weights)
        diverged += not math.isfinite(ours[0]) or ours[0] > full(data, 0 * searched.weights)[0]
        fixed = {}
        for factor in (1, 4, 16, 64):
            eta = factor / target_lipschitz(loss)
            fixed[factor] = full(data, fit_linear_sso(X, y, loss, eta=eta, steps=steps).weights)[1]
            rows.append([name, f"eta = {factor}/L", fixed[factor], 0.0])
        rows.append([name, "line search", ours[1], searched.n_loss_calls / steps])
        ratios[name] = ours[1] / fixed[1]
        rows.append([name, "line search / best fixed step", ours[1] / min(fixed.values()), math.nan])
    return Measurement(
        {"divergences": exact(diverged), **{name: exact(found) for name, found in ratios.items()}},
        table=Table(["data", "step", f"gradient norm after {steps} steps", "loss calls a step"], rows),
    )


IMITATION_STEPS = {
    ("pendulum", False): tuple(10 ** (e / 2) for e in range(-6, 1)),
    ("pendulum", True): tuple(10 ** (e / 2) for e in range(-8, -1)),
    ("cart_pole", False): tuple(10 ** (e / 2) for e in range(-2, 5)),
    ("cart_pole", True): tuple(10 ** (e / 2) for e in range(-2, 5)),
}
"""Seven steps for each environment and kind of policy, the same for all methods and with each one's best inside."""


@measures("s4-imitation")
def imitation(run: Run) -> Measurement:
    """Imitate experts in gymnasium's environments, each method at its best of seven steps on a seed for tuning."""
    rounds = run.at(smoke=2, desk=25, full=50)
    methods = ["SSO", "OGD", "AdaOGD", *run.at(smoke=[], desk=[], full=[*SCHEDULES, *CLONING])]
    rows: list[list[Any]] = []
    ratios = {}
    depths = run.at(smoke=(False,), desk=(False, True), full=(False, True))
    settings = [(name, deep) for deep in depths for name in TASKS]
    for name, deep in run.progress(settings, label="environments"):
        samples = run.at(smoke=50, desk=200 if deep else 1000, full=1000)
        seeds = run.seeds[: run.at(smoke=1, desk=1 if deep else 3, full=5) * run.effort]
        grid = run.at(smoke=(0.1,), desk=IMITATION_STEPS[name, deep], full=IMITATION_STEPS[name, deep])
        found: dict[str, np.ndarray] = {}
        for method in methods:
            play = partial(imitate, TASKS[name], deep, method, rounds=rounds, samples=samples)
            tried = [play(step=step, seed=10_000 + run.seed).excess for step in grid]
            best = grid[int(np.argmin(tried))]
            found[method] = np.array([play(step=best, seed=seed) for seed in seeds])
            kind, inside = "network" if deep else "linear", grid[0] < best < grid[-1]
            rows.append([name, kind, samples, method, best, inside, *map(float, found[method].mean(0))])
        if not deep:
            ratios[name] = (found["SSO"][:, 1] / found["OGD"][:, 1]).tolist()
    return Measurement(
        {name: every(found) for name, found in ratios.items()},
        table=Table(["environment", "policy", "states a round", "method", "best step", "inside the seven",
                     "cumulative average loss", "excess over the best policy"], rows),
        remark="Observations come as the environment gives them.",
    )  # fmt: skip


def calls_to(data: Data, make: Callable[[torch.nn.Parameter], torch.optim.Optimizer], target: float, most: int) -> int:
    """Return after how many gradients of the full loss an optimiser of torch has a small one; `most` if it doesn't."""
    X, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    W, calls, done = torch.nn.Parameter(torch.zeros(X.shape[1], y.shape[1], dtype=torch.float64)), 0, 0
    optimizer = make(W)
    getattr(optimizer, "train", lambda: None)()

    def closure() -> Any:
        nonlocal calls, done
        calls += 1
        loss = F.cross_entropy(X @ W, y)
        W.grad = torch.autograd.grad(loss, W)[0]
        if float(W.grad.norm()) <= target and not done:
            done = calls
        return loss

    while calls < most and not done:
        optimizer.step(closure)
    return done or most


def surrogate_calls(data: Data, target: float, most: int) -> tuple[float, int]:
    """Return the best step of the surrogates with exact inner solutions, and the gradients it takes."""
    X, y, loss = data
    best = (0.0, most)
    for factor in (1, 4, 16, 64):
        W = np.zeros((X.shape[1], y.shape[1]))
        low, high = 1, best[1]
        eta = factor / target_lipschitz(loss)
        inverse = np.linalg.pinv(X)
        for calls in range(low, high):
            g = loss_and_gradient(data, X @ W, y)[1]
            if np.linalg.norm(X.T @ g) / len(X) <= target:
                best = (float(factor), calls)
                break
            W -= eta * inverse @ g
    return best


def compared(run: Run, peers: dict[str, Callable[..., torch.optim.Optimizer]],
             barred: dict[str, str]) -> Measurement:  # fmt: skip
    """Count gradients of the loss of digits to a small gradient, each method at its best step."""
    data, target, most = digits(), run.at(smoke=0.05, desk=1e-2, full=1e-3), run.at(smoke=30, desk=3000, full=20_000)
    factor, ours = surrogate_calls(data, target, most)
    rows: list[list[Any]] = [["ours, exact inner solutions", f"{factor:g}/L", ours]]
    values = {}
    for name, make in run.progress(peers.items(), label="peers"):
        steps = run.at(smoke=(1.0,), desk=(0.01, 0.1, 1.0, 10.0), full=(0.01, 0.1, 1.0, 10.0))
        counts = [calls_to(data, partial(make, s=s), target, most) for s in steps]
        rows.append([name, f"{steps[int(np.argmin(counts))]:g}", min(counts)])
        if name in barred:
            values[barred[name]] = exact(ours / min(counts))
    return Measurement(
        values if len(values) > 1 else next(iter(values.values())),
        table=Table(["method", "best step", f"gradients to a norm of {target:g}"], rows),
        settings=f"Best of four steps; one that doesn't get there counts with its {most} gradients.",
    )


@races("torch", exclusive=False)
def against_torch(run: Run) -> Measurement:
    """Count gradients of SGD, Adam and, without a bar, L-BFGS."""
    peers: dict[str, Any] = {
        "SGD": lambda W, s: torch.optim.SGD([W], lr=s),
        "Adam": lambda W, s: torch.optim.Adam([W], lr=s),
        "L-BFGS": lambda W, s: torch.optim.LBFGS([W], lr=1.0, max_iter=1, line_search_fn="strong_wolfe"),
    }
    return compared(run, peers, {"SGD": "sgd_calls", "Adam": "adam_calls"})


@races("schedulefree", exclusive=False)
def against_schedulefree(run: Run) -> Measurement:
    """Count gradients of schedule-free AdamW."""
    import schedulefree

    peers = {"schedule-free AdamW": lambda W, s: schedulefree.AdamWScheduleFree([W], lr=s)}
    return compared(run, peers, {"schedule-free AdamW": "calls"})
