"""What the paper says of values in continuous time, on processes whose value functions are known."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtr

from paperworks.dynamics import (
    CGTD,
    CLSTD,
    CTD,
    LinearValue,
    MartingaleLoss,
    Trajectories,
    martingale_increments,
    mstde_loss,
)
from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    exact,
    greatest,
    interleaved,
    mean,
    measures,
    races,
    statistic,
)
from paperworks.testbeds import BrownianTerminal, CallOption, OUQuadratic

Quadratic = tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"]]
"""Functions a(t) x^2 + b(t), by their coefficients at the times of a grid."""


@measures("m1-td-error")
def td_error(run: Run) -> Measurement:
    """Minimise the mean-square TD error in the mean over all paths, and ours on sampled ones."""
    problem = BrownianTerminal()
    family = LinearValue(problem.features, problem.value)
    minimisers, rows = {}, []
    for steps in (10, 100, 1000):
        # Of d(x (1 + theta tau)) the mean square is h (1 + theta tau')^2 + t theta^2 h^2: a parabola in theta.
        t, h = np.linspace(0, 1, steps + 1), 1 / steps
        later = 1 - t[1:]
        minimisers[steps] = float(-later.sum() / (later**2 + t[:-1] * h).sum())
    steps, paths = 100, run.at(smoke=1000, desk=20_000, full=100_000)
    deviations = []
    for seed in run.progress(run.seeds, label="seeds"):
        sample = problem.sample(paths, steps, random_state=seed)
        found = {"martingale loss": MartingaleLoss(family), "CTD(0)": CLSTD(family), "CTD(1/2)": CLSTD(family, 0.5)}
        for name, estimator in found.items():
            thetas = [float(estimator.fit(part).theta_[0]) for part in sample.parts(paths // 20)]
            deviations.append(abs(np.mean(thetas)) / (np.std(thetas, ddof=1) / math.sqrt(len(thetas))))
            rows.append([name, seed, float(np.mean(thetas)), float(deviations[-1])])
        grid = np.linspace(-2, 0.5, 51)
        losses = []
        for theta in grid:
            family.theta = np.array([theta])
            losses.append(mstde_loss(family, sample))
        rows.append(["mean-square TD error of the sample", seed, float(grid[np.argmin(losses)]), ""])
    return Measurement(
        {
            **{f"steps_{steps}": exact(value) for steps, value in minimisers.items()},
            "ours": statistic(max(deviations), "greatest deviation from the truth, in standard errors of 20 parts"),
        },
        table=Table(["minimised", "seed", "theta", "standard errors from 0"], rows),
    )


class Moments:
    """Means over all paths of an Ornstein-Uhlenbeck process, on an even grid.

    Parameters
    ----------
    problem
        The process and its rewards.
    steps
        Steps of the grid.
    """

    def __init__(self, problem: OUQuadratic, steps: int) -> None:
        self.problem, self.h = problem, problem.horizon / steps
        self.t = np.linspace(0, problem.horizon, steps + 1)
        fade = np.exp(-problem.k * self.t)
        mean_ = problem.mean * fade
        variance = problem.variance * fade**2 + problem.s**2 * -np.expm1(-2 * problem.k * self.t) / (2 * problem.k)
        self.second = mean_**2 + variance
        self.fourth = mean_**4 + 6 * mean_**2 * variance + 3 * variance**2
        self.fade = math.exp(-2 * problem.k * self.h)
        self.noise = problem.s**2 * -math.expm1(-2 * problem.k * self.h) / (2 * problem.k)

    def quadratic(self, function: Callable[[Any, Any], Any]) -> Quadratic:
        """Return the coefficients of a function that is one, (K + 1, p)."""
        b = np.asarray(function(self.t, np.zeros_like(self.t)))
        a = np.asarray(function(self.t, np.ones_like(self.t))) - b
        return (a, b) if a.ndim == 2 else (a[:, None], b[:, None])

    def product(self, f: Quadratic, g: Quadratic) -> Float[np.ndarray, "p q"]:
        """Return the sums over the left ends of steps of the means of all products."""
        (a, b), (c, d) = (tuple(part[: len(self.t) - 1] for part in pair) for pair in (f, g))
        second, fourth = self.second[:-1, None], self.fourth[:-1, None]
        return (a * fourth).T @ c + (a * second).T @ d + (b * second).T @ c + b.T @ d

    def drift(self, f: Quadratic) -> Quadratic:
        """Return the functions less their means a step later."""
        a, b = f
        return a[:-1] - self.fade * a[1:], b[:-1] - b[1:] - self.noise * a[1:]

    def discrete_value(self) -> Quadratic:
        """Return the value of the rewards at left ends."""
        a, b = np.empty_like(self.t), np.empty_like(self.t)
        a[-1], b[-1] = -self.problem.g, 0
        for i in range(len(self.t) - 1)[::-1]:
            a[i] = -self.problem.q * self.h + self.fade * a[i + 1]
            b[i] = b[i + 1] + a[i + 1] * self.noise
        return a[:, None], b[:, None]

    def best(self, features: Any) -> Float[np.ndarray, " p"]:
        """Return the minimiser of the martingale loss."""
        phi = self.quadratic(features)
        a, b = self.discrete_value()
        c, d = self.quadratic(self.problem.offset)
        return np.linalg.solve(self.product(phi, phi), self.product(phi, (a - c, b - d))[:, 0])

    def orthogonal(self, features: Any) -> Float[np.ndarray, " p"]:
        """Return the solution of the orthogonality conditions with the features as tests."""
        phi, offset = self.quadratic(features), self.quadratic(self.problem.offset)
        a, b = self.drift(offset)
        A = self.product(phi, self.drift(phi))
        return np.linalg.solve(A, self.product(phi, (-a - self.problem.q * self.h, -b))[:, 0])

    def misfit(self, features: Any, theta: Any) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return half the mean-square error of the value and its gradient by the parameters."""
        phi, (a, b) = self.quadratic(features), self.quadratic(self.problem.value)
        c, d = self.quadratic(self.problem.offset)
        miss = (phi[0] @ theta)[:, None] + c - a, (phi[1] @ theta)[:, None] + d - b
        return float(self.product(miss, miss)[0, 0]) * self.h / 2, self.product(phi, miss)[:, 0] * self.h


def misspecified(t: Any, x: Any) -> Any:
    """Return x^2 tau and tau, to whose span the value doesn't belong."""
    return np.stack(np.broadcast_arrays(np.asarray(x) ** 2 * (1 - t), 1 - t), axis=-1)


@measures("m2-best-fit")
def best_fit(run: Run) -> Measurement:
    """Minimise the loss by exact moments in a family without the value, and look at the value's error there."""
    problem = OUQuadratic()
    rows, sizes = [], []
    for steps in (25, 50, 100, 200, 400):
        moments = Moments(problem, steps)
        theta, other = moments.best(misspecified), moments.orthogonal(misspecified)
        loss, gradient = moments.misfit(misspecified, theta)
        sizes.append(float(np.linalg.norm(gradient)))
        rows.append([steps, *theta.tolist(), loss, sizes[-1], *other.tolist(), moments.misfit(misspecified, other)[0]])
    last = rows[-1]
    reference = (1.477, -0.305)
    return Measurement(
        {
            "gradient_vanishes": exact(all(b < 0.55 * a for a, b in pairwise(sizes))),
            "parameters": exact(max(abs(a - b) for a, b in zip(last[1:3], reference, strict=True))),
            "loss_error": exact(last[3]),
            "clstd_error": exact(last[7]),
        },
        table=Table(
            ["steps", "theta of the loss", "and", "error", "its gradient", "theta of CLSTD", "and", "error of CLSTD"],
            rows,
        ),
    )


@measures("m3-mesh-rate")
def mesh_rate(run: Run) -> Measurement:
    """Solve on grids of 10 to 320 steps by exact moments, in a family with the value."""
    problem, steps = OUQuadratic(), np.array([10, 20, 40, 80, 160, 320])
    errors: dict[str, list[float]] = {"loss": [], "clstd": []}
    for k in steps:
        moments = Moments(problem, int(k))
        for name, theta in (("loss", moments.best(problem.features)), ("clstd", moments.orthogonal(problem.features))):
            errors[name].append(float(np.linalg.norm(theta - problem.theta)))
    orders = {name: float(-np.polyfit(np.log(steps[2:]), np.log(found[2:]), 1)[0]) for name, found in errors.items()}
    figure, axes = run.figure()
    for name, found in errors.items():
        axes.loglog(1 / steps, found, "o-", label={"loss": "martingale loss", "clstd": "CLSTD"}[name])
    axes.set(xlabel="step", ylabel="error of the parameters", title="First order in the step")
    axes.legend()
    return Measurement(
        {name: exact(order) for name, order in orders.items()},
        table=Table(["steps", *errors], [[int(k), *pair] for k, *pair in zip(steps, *errors.values(), strict=True)]),
        figure=figure,
    )


@measures("m4-special-cases")
def special_cases(run: Run) -> Measurement:
    """Compare CTD(1) with the loss's gradient, and CLSTD on a Markov chain with least-squares TD."""
    problem, rng = OUQuadratic(), run.rng()
    family = LinearValue(problem.features, problem.offset)
    family.theta = rng.standard_normal(3)
    paths = problem.sample(20, 50, random_state=rng)
    family_step = []
    for k in range(len(paths)):
        path = paths[k : k + 1]
        left = path.t[:, :-1], path.x[:, :-1]
        misses = (path.returns()[:, :-1] - family(*left)) * path.dt
        by_loss = np.einsum("mk,mkp->p", misses, family.gradient(*left))
        estimator = CTD(family, lam=1.0, mode="offline", lr=lambda k: 1.0, averaging=False).fit(path)
        family_step.append(np.abs(estimator.theta_ - family.theta - by_loss).max())
    # A chain of five states with a reward for each, seen for 400 steps of length 1.
    states, discount = rng.integers(5, size=401), 0.1
    rewards, phi = rng.standard_normal(5), np.eye(5)[:, :4] + 0.1 * rng.standard_normal((5, 4))
    chain = Trajectories(np.arange(401.0), states[None], rewards[states[None, :-1]], discount=discount)
    ours = CLSTD(LinearValue(lambda t, x: phi[np.asarray(x, dtype=int)])).fit(chain).theta_
    now, then = phi[states[:-1]], phi[states[1:]]
    theirs = np.linalg.solve(now.T @ (now - math.exp(-discount) * then), now.T @ rewards[states[:-1]])
    return Measurement({"ctd": exact(float(max(family_step))), "clstd": exact(float(np.abs(ours - theirs).max()))})


def rmse(problem: OUQuadratic, estimator: Any, paths: Trajectories) -> float:
    """Return the root of the mean-square error of the value along paths."""
    t = np.broadcast_to(paths.t, paths.x.shape)
    return float(np.sqrt(np.mean((estimator.predict(t, paths.x) - problem.value(t, paths.x)) ** 2)))


@measures("m5-learning")
def learning(run: Run) -> Measurement:
    """Learn a value step by step with three traces, and from all paths at once."""
    problem, steps = OUQuadratic(), 100
    family = LinearValue(problem.features, problem.offset, problem.horizon)
    episodes, many = run.at(smoke=300, desk=4000, full=4000), run.at(smoke=2000, desk=20_000, full=20_000)
    online: dict[float, list[float]] = {0.0: [], 0.1: [], 1.0: []}
    batch, apart = [], {"gtd0": [], "gtd2": []}  # type: ignore[var-annotated]
    for seed in run.progress(run.seeds, label="seeds"):
        paths, judged = problem.sample(many, steps, seed), problem.sample(2000, steps, np.random.default_rng([seed, 1]))
        for lam, found in online.items():
            found.append(rmse(problem, CTD(family, lam, lr=3.0).fit(paths[:episodes]), judged))
        solved = CLSTD(family).fit(paths)
        batch.append(float(np.abs(solved.theta_ - problem.theta).max()))
        for variant, found in apart.items():
            descended = CGTD(
                family, variant, lr=3.0, ratio={"gtd0": 0.2, "gtd2": 4.0}[variant], batch_size=500, epochs=20
            )
            found.append(float(np.abs(descended.fit(paths).theta_ - solved.theta_).max()))
    return Measurement(
        {
            "online": greatest(mean(found) for found in online.values()),
            "clstd": mean(batch),
            "cgtd": greatest(mean(found) for found in apart.values()),
        },
        table=Table(
            ["what", "mean over seeds"],
            [[f"error of the value, CTD({lam:g})", float(np.mean(found))] for lam, found in online.items()]
            + [["largest error of a parameter, CLSTD", float(np.mean(batch))]]
            + [[f"largest distance to CLSTD, {v}", float(np.mean(found))] for v, found in apart.items()],
        ),
        settings=f"{episodes} paths of {steps} steps, step size 3 / root of the number of paths, second half averaged",
    )


def hinges(t: Any, x: Any) -> Any:
    """Return eight functions of the price times the time that is left: powers and hinges round the strike."""
    left = 1 - np.asarray(t)
    y = np.asarray(x) - 1
    knots = (np.maximum(y - k, 0) for k in (-0.2, -0.1, 0.0, 0.1, 0.2))
    return np.stack([left * f for f in (np.ones_like(y), y, y**2, *knots)], axis=-1)


def powers(t: Any, x: Any) -> Any:
    """Return eight powers of the price, times the time that is left or its square."""
    left = 1 - np.asarray(t)
    y = np.asarray(x) - 1
    return np.stack([left * y**k for k in range(5)] + [left**2 * y**k for k in range(3)], axis=-1)


def smoothed(paths: Trajectories) -> Callable[[Any, Any], Any]:
    """Return the payment at the end in the mean over a normal price, with the volatility that the paths show."""
    rises = np.diff(np.log(paths.x), axis=1)
    volatility = float(np.sqrt((rises.var(axis=0) / paths.dt[0]).mean()))

    def payment(t: Any, x: Any) -> Any:
        spread = volatility * np.sqrt(np.maximum(1 - np.asarray(t), 1e-300))
        y = np.asarray(x) - 1
        return y * ndtr(y / spread) + spread * np.exp(-((y / spread) ** 2) / 2) / math.sqrt(2 * math.pi)

    return payment


@measures("m6-option-price")
def option_price(run: Run) -> Measurement:
    """Price a call from paths, beside plain Monte Carlo and a regression of returns on the same paths."""
    problem, paths = CallOption(), run.at(smoke=2000, desk=20_000, full=100_000)
    truth = float(problem.value(np.array(0.0), np.array(1.0)))
    errors: dict[str, list[float]] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        sample = problem.sample(paths, 50, random_state=seed)
        payment = smoothed(sample)
        prices = {"Monte Carlo": float(sample.returns()[:, 0].mean())}
        for name, features, offset in (
            ("powers, payment smoothed", powers, payment),
            ("hinges, payment smoothed", hinges, payment),
            ("hinges, payment itself", hinges, lambda t, x: np.maximum(np.asarray(x) - 1, 0)),
        ):
            family = LinearValue(features, offset)
            prices[f"CLSTD: {name}"] = float(CLSTD(family).fit(sample).predict(0.0, 1.0))
            prices[f"martingale loss: {name}"] = float(MartingaleLoss(family).fit(sample).predict(0.0, 1.0))
        for name, price in prices.items():
            errors.setdefault(name, []).append(abs(price / truth - 1))
    return Measurement(
        mean(errors["CLSTD: powers, payment smoothed"]),
        table=Table(["method", "mean relative error"], [[name, float(np.mean(e))] for name, e in errors.items()]),
        remark=f"Black and Scholes' price is {truth:.6f}; chance moves a price from {paths:,} paths by about 1 %.",
    )


STEPS = (10, 100, 1000)


@races("torchrl", exclusive=False)
def against_torchrl(run: Run) -> Measurement:
    """Learn from the same paths on three grids, each method with the step size that is best on the middle one."""
    from torchrl.objectives.value.functional import vec_td_lambda_return_estimate

    problem = OUQuadratic()
    family = LinearValue(problem.features, problem.offset, problem.horizon)
    episodes = run.at(smoke=60, desk=1000, full=4000)

    def ours(paths: Trajectories, lr: float) -> Any:
        return CTD(family, lam=0.1, lr=lr).fit(paths)

    def torchrls(paths: Trajectories, lr: float) -> Any:
        """Take a semi-gradient step a path towards torchrl's lambda-returns, with averages as ours."""
        fitted = LinearValue(problem.features, problem.offset)
        theta, kept = np.zeros(3), []
        t = paths.t[0]
        done = torch.zeros(1, paths.steps, 1, dtype=torch.bool)
        done[:, -1] = True
        for k in range(len(paths)):
            phi = family.gradient(t, paths.x[k])
            values = family.fixed(t, paths.x[k]) + phi @ theta
            assert paths.terminal is not None
            # The end's payment is the last reward, after which nothing is worth anything.
            rewards = paths.income[k] + np.append(np.zeros(paths.steps - 1), paths.terminal[k])
            goals = vec_td_lambda_return_estimate(
                1.0, 0.9, *(torch.from_numpy(v)[None, :, None] for v in (values[1:], rewards)), done, done
            )
            theta = theta + lr / math.sqrt(k + 1) * (goals[0, :, 0].numpy() - values[:-1]) @ phi[:-1]
            if not np.abs(theta).max() < 1e12:
                break
            kept.append(theta)
        fitted.theta = np.mean(kept[len(paths) // 2 :], axis=0) if len(kept) == len(paths) else np.full(3, 1e12)
        return Fitted(fitted)

    def squared(paths: Trajectories, lr: float) -> Any:
        """Minimise the mean-square TD error exactly."""
        fitted = LinearValue(problem.features, problem.offset)
        rows = []
        for p in np.vstack([np.zeros(3), np.eye(3)]):
            fitted.theta = p
            rows.append(martingale_increments(fitted, paths).ravel())
        moves = np.array(rows[1:]).T - rows[0][:, None]
        fitted.theta = np.linalg.lstsq(moves, -rows[0])[0]
        return Fitted(fitted)

    ways = {"ours": ours, "lambda = 0.9 a step": torchrls, "squared TD error": squared}
    rates = run.at(
        smoke=(0.3, 3.0), desk=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), full=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    )
    found: dict[str, dict[int, list[float]]] = {name: {k: [] for k in STEPS} for name in ways}
    chosen: dict[str, float] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        fine, judged = problem.sample(episodes, 1000, seed), problem.sample(2000, 100, np.random.default_rng([seed, 1]))
        tuned_on = problem.sample(episodes, 100, np.random.default_rng([seed, 2]))
        for name, way in ways.items():
            error = partial(error_of, problem, way, judged=judged)

            if name not in chosen:
                chosen[name] = min(rates, key=partial(error, tuned_on)) if way is not squared else math.nan
            for steps in STEPS:
                found[name][steps].append(min(error(fine.coarsened(1000 // steps), chosen[name]), 1e6))
    means = {name: {k: float(np.mean(v)) for k, v in by.items()} for name, by in found.items()}
    flat = lambda *lists: max(map(np.mean, lists)) / min(map(np.mean, lists))  # noqa: E731
    return Measurement(
        {
            "ours_varies": bootstrap(flat, *found["ours"].values(), of="seeds"),
            "squared": bootstrap(
                lambda a, b: np.mean(a) / np.mean(b), found["squared TD error"][1000], found["ours"][1000], of="seeds"
            ),
        },
        table=Table(
            ["method", *(f"{k} steps" for k in STEPS), "step size"],
            [[name, *by.values(), chosen[name]] for name, by in means.items()],
        ),
        settings=f"{episodes} paths; root-mean-square error of the value along 2000 others",
    )


def error_of(problem: OUQuadratic, way: Any, paths: Trajectories, lr: float, judged: Trajectories) -> float:
    """Return the error of what a method learns, infinite where it diverges."""
    try:
        return rmse(problem, way(paths, lr), judged)
    except ValueError:
        return math.inf


class Fitted:
    """A family whose values are asked for as an estimator's are."""

    def __init__(self, family: LinearValue) -> None:
        self.predict = family


@races("numpy")
def against_einsum(run: Run) -> Measurement:
    """Time the equations of given features on 20 000 paths beside the sums of products that they are."""
    problem = OUQuadratic()
    paths = problem.sample(run.at(smoke=500, desk=20_000, full=20_000), 100, random_state=run.seed)
    t = np.broadcast_to(paths.t, paths.x.shape)
    phi, fixed = problem.features(t, paths.x), problem.offset(t, paths.x)
    family = LinearValue(lambda t, x: phi[: len(t), 0] if t.ndim == 1 else phi, lambda t, x: fixed)
    solution: dict[str, Any] = {}

    def einsum() -> None:
        A = np.einsum("mkp,mkq->pq", phi[:, :-1], phi[:, :-1] - phi[:, 1:])
        b = np.einsum("mkp,mk->p", phi[:, :-1], fixed[:, 1:] - fixed[:, :-1] + paths.income)
        solution["numpy"] = np.linalg.solve(A, b)

    def ours() -> None:
        solution["ours"] = CLSTD(family, batch_size=len(paths)).fit(paths).theta_

    times = interleaved(run, {"ours": ours, "numpy": einsum}, run.at(smoke=2, desk=9, full=15))
    apart = float(np.abs(solution["ours"] - solution["numpy"]).max())
    return Measurement(
        {"time": times.ratio("ours", "numpy"), "difference": exact(apart)},
        table=Table(["what", "seconds"], [[name, seconds] for name, seconds in times.medians().items()]),
    )
