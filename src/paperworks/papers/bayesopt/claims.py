"""What the tutorial's methods have to fulfil: exact sums, equal quantities, and few evaluations."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    least,
    measures,
    median,
    proportion,
    races,
    statistic,
)
from paperworks.optimization import (
    BayesianOptimizer,
    EntropySearch,
    ExpectedImprovement,
    GaussianProcess,
    KnowledgeGradient,
    MaternKernel,
    NoisyExpectedImprovement,
    PredictiveEntropySearch,
    piecewise_expectation,
)
from paperworks.papers.bayesopt import rivals
from paperworks.papers.bayesopt.loops import (
    batches,
    constrained,
    environments,
    maximise,
    random_search,
    regrets,
    two_fidelities,
    two_tasks,
    with_gradients,
)
from paperworks.papers.bayesopt.simulation import GridProcess, Policy
from paperworks.testbeds import branin, hartmann6, rosenbrock


def expected_maximum(a: Float[np.ndarray, " m"], b: Float[np.ndarray, " m"]) -> float:
    """Return E[max_i (a_i + b_i Z)] - max_i a_i by Gauss-Legendre quadrature between all crossings of two lines.

    What is integrated is how far the maximum is above the line of the greatest intercept, which is never negative, so
    that small values keep their digits.
    """
    i = int(np.lexsort((b, a))[-1])
    rise, fall = b[:, None] - b[None], a[None] - a[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (fall / rise)[np.abs(rise) > 0]
    ends = np.concatenate([crossings[np.isfinite(crossings)], np.arange(-39.0, 40.0, 0.5)])
    ends = np.unique(np.clip(ends, -39.0, 39.0))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(ends)[:, None] / 2
    z = (ends[:-1, None] + half) + half * nodes
    above = (a[:, None, None] - a[i] + (b[:, None, None] - b[i]) * z).max(axis=0)
    return float((above * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * half * weights).sum())


def known_process(
    rng: np.random.Generator, d: int, n: int, noise: float, own: bool = False
) -> tuple[GaussianProcess, Float[np.ndarray, "n d"]]:
    """Return a process of given hyper-parameters, conditioned on a random function or on its own draw."""
    X = rng.random((n, d))
    y = np.sin(X @ rng.normal(0, 4, d)) + 0.5 * rng.standard_normal(n)
    lengths = rng.uniform(0.2, 0.8, d)
    values = {"lengthscale": lengths, "amplitude": 1.0}
    if own:
        K = MaternKernel(2.5).at(np.log([*lengths, 1.0]), X, X)[0]
        y = np.linalg.cholesky(K + 1e-10 * np.eye(n)) @ rng.standard_normal(n)
    model = GaussianProcess(
        noise=noise, mean="zero", inference="fixed", hyperparameters=values, bounds=[(0, 1)] * d, standardize=False
    )
    return model.fit(X, y), X


@measures("t1-closed-forms")
def closed_forms(run: Run) -> Measurement:
    """Compare the closed forms with quadrature, and the noisy form without noise with expected improvement."""
    relative: list[float] = []
    rng, errors = run.rng(), {name: [0.0] for name in ("ei", "noisy_ei", "kg", "noiseless_limit")}
    for k in run.progress(range(run.at(smoke=6, desk=60, full=300)), label="processes"):
        d, n = 1 + k % 3, int(rng.integers(3, 16))
        noise = float(10 ** rng.uniform(-2, 0))
        model, X = known_process(rng, d, n, noise)
        posterior, points = model.posteriors_[0], rng.random((5, d))
        mean, deviation = model.predict(points, return_std=True)
        best = float(model.predict(X).max())
        grid = rng.random((12, d))
        a_old, a_grid = model.predict(X), model.predict(grid)
        cross_old, cross_grid = posterior.covariance(points, X), posterior.covariance(points, grid)
        s = np.sqrt(deviation**2 + noise)
        ours = {
            "ei": ExpectedImprovement(model, best)(points),
            "noisy_ei": NoisyExpectedImprovement(model, log=False)(points),
            "kg": KnowledgeGradient(model, [(0, 1)] * d, discretization=grid)(points),
        }
        for i in range(len(points)):
            lead = max(mean[i] - best, 0.0)
            lines = np.array([best, mean[i]]), np.array([0.0, deviation[i]])
            theirs = {
                "ei": expected_maximum(*lines) + lead,
                "noisy_ei": lead
                + expected_maximum(np.append(a_old, mean[i]), np.append(cross_old[i], deviation[i] ** 2) / s[i]),
                "kg": expected_maximum(np.append(a_grid, mean[i]), np.append(cross_grid[i], deviation[i] ** 2) / s[i]),
            }
            for name, value in theirs.items():
                if value > 1e-30:
                    errors[name].append(abs(ours[name][i] / value - 1))
        quiet, X = known_process(np.random.default_rng(run.seed + k), d, n, 1e-10, own=True)
        observed = float(quiet.predict(X).max())
        everywhere = rng.random((500, d))
        plain = ExpectedImprovement(quiet, observed)(everywhere)
        noisy = NoisyExpectedImprovement(quiet, log=False)(everywhere)
        errors["noiseless_limit"].append(float(np.abs(noisy - plain).max()))  # the prior's deviation is 1
        relative.append(errors["noiseless_limit"][-1] / float(plain.max()))
    return Measurement(
        {name: exact(float(max(found))) for name, found in errors.items()},
        table=Table(
            ["quantity", "points", "median error", "largest error"],
            [
                [name, len(found), float(np.median(found)), max(found)]
                for name, found in [
                    *((name, found[1:]) for name, found in errors.items()),
                    ("limit / largest EI", relative),
                ]
            ],
        ),
        remark=(
            "The limit's error is the largest over 500 points of a process that the data are drawn from, in standard "
            "deviations of f; "
            "the last row has it relative to the greatest expected improvement among them."
        ),
    )


@measures("t2-kg-gradient")
def kg_gradient(run: Run) -> Measurement:
    """Compare the mean of simulated gradients with finite differences of the exact value on a fine grid."""
    rng, draws = run.rng(), run.repeats(smoke=2000, desk=20_000, full=100_000)
    grid = np.linspace(0, 1, run.at(smoke=201, desk=1001, full=1001))[:, None]
    scores, rows = [], []
    for k in run.progress(range(20), label="points"):
        if k % 4 == 0:
            model, _ = known_process(rng, 1, 6, 0.1)
            acq = KnowledgeGradient(model, [(0, 1)], "mc", discretization=grid, refine=False, n_draws=2)
        x = rng.random((1, 1))
        posterior, mean, h = model.posteriors_[0], model.predict(grid), 1e-4

        def value(x: Float[np.ndarray, "1 1"], posterior: Any = posterior, mean: Any = mean) -> float:
            s = math.sqrt(float(posterior.covariance(x, x)[0, 0]) + posterior.noise_variance)
            return float(piecewise_expectation(mean[None], posterior.covariance(x, grid) / s).value[0])

        reference = (value(x + h) - value(x - h)) / (2 * h)
        G = acq.gradient_draws(x[0], rng.standard_normal(draws))[:, 0]
        error = float(G.std(ddof=1) / math.sqrt(draws))
        scores.append((float(G.mean()) - reference) / error)
        rows.append([float(x[0, 0]), reference, float(G.mean()), error, scores[-1]])
    return Measurement(
        statistic(float(np.abs(scores).max()), "the largest of 20 z-scores of the bias"),
        table=Table(["x", "finite difference", "mean of draws", "standard error", "z"], rows),
    )


@measures("t3-entropy-searches")
def entropy_searches(run: Run) -> Measurement:
    """Compute the two entropy searches from independent draws, and the Gaussian approximation from the second's."""
    rng, batches = run.rng(), 4
    each = run.repeats(smoke=2000, desk=50_000, full=200_000)
    processes, points = run.at(smoke=1, desk=10, full=10), run.at(smoke=2, desk=5, full=5)
    ratios, excess, rows = [], [], []
    for _ in run.progress(range(processes), label="processes"):
        model, _ = known_process(rng, 2, 6, 0.05)
        candidates, X = rng.random((50, 2)), rng.random((points, 2))
        seeds = rng.integers(2**31, size=(batches, 2))
        es = np.array([
            EntropySearch(model, candidates, n_samples=each, n_nodes=10, random_state=int(s))(X) for s in seeds[:, 0]
        ])  # fmt: skip
        pes, moments = (
            np.array([
                PredictiveEntropySearch(model, candidates, method=kind, n_samples=each, random_state=int(s))(X)
                for s in seeds[:, 1]
            ])
            for kind in ("exact", "moments")
        )  # fmt: skip
        error = np.sqrt((es.var(axis=0, ddof=1) + pes.var(axis=0, ddof=1)) / batches)
        gap = np.abs(es.mean(axis=0) - pes.mean(axis=0))
        ratios += (gap / np.maximum(0.05 * pes.mean(axis=0), 3 * error)).tolist()
        excess += (moments.mean(axis=0) - pes.mean(axis=0)).tolist()
        rows += [
            [*map(float, x), float(1 - m / p)]
            for x, m, p in zip(
                np.stack([es.mean(axis=0), pes.mean(axis=0), moments.mean(axis=0), error], axis=1),
                moments.mean(axis=0),
                pes.mean(axis=0),
                strict=True,
            )
        ]
    return Measurement(
        {
            "difference": statistic(max(ratios), "the largest difference over what 5 % or 3 standard errors allow"),
            "moments_excess": every(excess, "points"),
        },
        table=Table(["entropy search", "predictive", "by moments", "standard error", "moments' shortfall"], rows),
        remark=f"Moment matching is {100 * float(np.median([row[4] for row in rows])):.1f} % low in the median.",
    )


POLICIES: dict[str, tuple[Policy, str]] = {
    "plug-in": ("plug-in", "observed"), "noisy_ei": ("noisy", "evaluated"), "kg": ("kg", "domain")
}  # fmt: skip


@measures("t4-noise")
def noise(run: Run) -> Measurement:
    """Optimise many random functions on a grid under noise by three policies from the same starts."""
    side, rows = run.at(smoke=7, desk=13, full=13), []
    first, steps = 6, run.at(smoke=6, desk=24, full=24)
    found: dict[float, dict[str, dict[str, np.ndarray]]] = {}
    for level, count in (
        (1.0, run.repeats(smoke=20, desk=300, full=1000)),
        (0.3, run.at(smoke=10, desk=300, full=1000)),
    ):
        process = GridProcess(side, count, level, run.rng())
        found[level] = {
            name: process.run(policy, first, steps, run.seed)
            for name, (policy, _) in run.progress(POLICIES.items(), label=f"noise {level}")
        }
        for name, (_, rule) in POLICIES.items():
            costs = found[level][name]
            same = costs["domain"] - found[level]["plug-in"]["domain"]
            error = 1.96 * same.std(ddof=1) / math.sqrt(count)
            rows.append([level, name, costs[rule].mean(), costs["domain"].mean(), f"{same.mean():+.3f} +- {error:.3f}"])
    costs = {name: found[1.0][name][rule] for name, (_, rule) in POLICIES.items()}
    return Measurement(
        {name: bootstrap(_mean_ratio, costs[name], costs["plug-in"], of="functions") for name in ("noisy_ei", "kg")},
        table=Table(["noise", "policy", "cost by its own rule", "by the domain's mean", "less plug-in's"], rows),
        remark="At noise 0.3 plug-in expected improvement need not be worse; the table says how the policies compare.",
    )


def _mean_ratio(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    return float(a.mean() / b.mean())


def _median_ratio(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    return float(np.median(a) / max(np.median(b), 1e-300))


def _seeds(run: Run) -> list[int]:
    """Return the seeds of whole optimisations: ten, and as many more as a run's effort asks for."""
    return [1000 * run.seed + k for k in range(run.repeats(smoke=1, desk=10, full=30))]


@measures("t5-few-evaluations")
def few_evaluations(run: Run) -> Measurement:
    """Optimise two functions and the hyper-parameters of a classifier on two data sets."""
    seeds, values, rows, ratios = _seeds(run), {}, [], []
    for name, function, first, total in (("branin", branin(), 8, 30), ("hartmann6", hartmann6(), 12, 50)):
        total = run.at(smoke=first + 1, desk=total, full=total)
        ours = [
            regrets(function, maximise(function, seed, first, total))[-1] for seed in run.progress(seeds, label=name)
        ]
        random = [regrets(function, random_search(function, seed, total))[-1] for seed in seeds]
        evolution = [_evolution(function, seed, total) for seed in seeds]
        values[name] = median(ours)
        ratios.append(bootstrap(_median_ratio, random, np.maximum(ours, 1e-12), of="seeds"))
        rows += [[name, kind, float(np.median(r)), max(r)] for kind, r in
                 (("ours", ours), ("random search", random), ("differential evolution", evolution))]  # fmt: skip
    values["random_to_ours"] = least(ratios)
    for name in ("digits", "breast_cancer"):
        values[f"svc_{name}"], more = _classifier(run, name)
        rows += more
    return Measurement(values, table=Table(["problem", "method", "median regret", "largest"], rows))


def _evolution(function: Any, seed: int, total: int) -> float:
    """Return the regret of SciPy's differential evolution within as many evaluations."""
    from scipy.optimize import differential_evolution

    seen: list[float] = []

    def counted(x: Float[np.ndarray, " d"]) -> float:
        seen.append(float(function(x[None])[0]))
        return seen[-1]

    per_generation = 5 * len(function.bounds)
    differential_evolution(
        counted, function.bounds, popsize=5, maxiter=1 + total // per_generation, polish=False, rng=seed, init="sobol"
    )
    return min(seen[:total]) - function.minimum


def _classifier(run: Run, name: str) -> tuple[Estimate, list[list[Any]]]:
    """Tune C and gamma of a support vector machine in 20 evaluations, and compare with a grid of 400."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    data = load_digits() if name == "digits" else load_breast_cancer()
    count = run.at(smoke=150, desk=600, full=len(data.target))
    X, y = data.data[:count], data.target[:count]
    folds = StratifiedKFold(run.at(smoke=2, desk=5, full=5), shuffle=True, random_state=0)
    box = [(-2.0, 4.0), (-5.0, 1.0)]  # log10 of C and gamma

    def accuracy(point: Float[np.ndarray, " 2"]) -> float:
        model = make_pipeline(StandardScaler(), SVC(C=10 ** float(point[0]), gamma=10 ** float(point[1])))
        return 100 * float(cross_val_score(model, X, y, cv=folds).mean())

    side = run.at(smoke=2, desk=20, full=20)
    axes = [np.linspace(low, high, side) for low, high in box]

    def scan() -> float:
        points = [np.array([c, g]) for c in axes[0] for g in axes[1]]
        return max(accuracy(p) for p in run.progress(points, label=f"grid, {name}"))

    top = run.cached(f"bayesopt-grid-{name}", scan, side=side, count=count, folds=folds.n_splits)
    found = []
    for seed in run.progress(range(run.repeats(smoke=1, desk=6, full=10)), label=name):
        optimizer = BayesianOptimizer(box, random_state=1000 * run.seed + seed, acq="ei")
        for _ in range(run.at(smoke=7, desk=20, full=20)):
            x = optimizer.ask()
            optimizer.tell(x, [accuracy(x[0])])
        found.append(top - float(optimizer.y.max()))
    return every(found, "seeds"), [[f"SVC, {name}", f"ours, against {top:.2f} %", float(np.median(found)), max(found)]]


def hitting_times(traces: list[Float[np.ndarray, " n"]], goal: float, cap: int) -> Float[np.ndarray, " s"]:
    """Return after how many steps each trace of regrets is at most the goal, twice the cap where it never is."""
    return np.array([float(np.argmax(t <= goal) + 1) if (t <= goal).any() else 2.0 * cap for t in traces])


def _by_half(times: Float[np.ndarray, " s"]) -> float:
    """Return when half of the seeds were there, the lower median: that of those which never are counts for none."""
    return float(np.quantile(times, 0.5, method="lower"))


def _time_ratio(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"]) -> float:
    return _by_half(ours) / _by_half(theirs)


Traces = dict[str, list[Float[np.ndarray, " n"]]]
Policies = dict[str, Callable[[int], Float[np.ndarray, " n"]]]


def _traces(run: Run, policies: Policies, label: str) -> Traces:
    return {
        name: [policy(seed) for seed in run.progress(_seeds(run), label=f"{label}, {name}")]
        for name, policy in policies.items()
    }


@measures("t6-variants")
def variants(run: Run) -> Measurement:
    """Count rounds, evaluations and cost until sequential expected improvement's own median final regret is reached."""
    values: dict[str, Estimate] = {}
    rows: list[list[Any]] = []
    found: dict[str, list[Estimate]] = {"rounds": [], "evaluations": [], "over_naive": []}
    problems = [("Branin", branin(), 8, 30), ("Hartmann 6", hartmann6(), 12, 50)]
    for name, function, first, total in problems[: run.at(smoke=1, desk=2, full=2)]:
        total = run.at(smoke=first + 4, desk=total, full=total)
        chosen = total - first
        sequential = [regrets(function, maximise(function, s, first, total))[first:] for s in run.progress(_seeds(run))]
        goal = float(np.median([trace[-1] for trace in sequential]))
        times = {"sequential": hitting_times(sequential, goal, chosen)}
        for how in run.at(
            smoke=("qei", "naive"),
            desk=("qei", "naive", "believer", "liar_min"),
            full=("qei", "naive", "believer", "liar_min"),
        ):
            budget = total + 4 if how != "naive" else 2 * total
            runs = [
                regrets(function, batches(function, s, first, run.at(smoke=total, desk=budget, full=2 * total), how))
                for s in run.progress(_seeds(run), label=f"{name}, {how}")
            ]
            # A batch counts once it is done: regrets at the ends of rounds.
            times[how] = hitting_times([r[first:][3::4] for r in runs], goal, chosen // 4)
            rows.append([name, how, 4 * _by_half(times[how]), float(np.median([r[-1] for r in runs]))])
        rows.append([name, "sequential", _by_half(times["sequential"]), goal])
        found["rounds"].append(bootstrap(_time_ratio, times["qei"], times["sequential"], of="seeds"))
        found["evaluations"].append(bootstrap(_time_ratio, 4 * times["qei"], times["sequential"], of="seeds"))
        found["over_naive"].append(bootstrap(_time_ratio, times["qei"], times["naive"], of="seeds"))
    values |= {name: greatest(each) for name, each in found.items()}
    valley = rosenbrock(4)
    total = run.at(smoke=12, desk=50, full=50)
    plain = _traces(run, {"EI": lambda s: regrets(valley, maximise(valley, s, 10, total))}, "Rosenbrock")["EI"]
    goal = float(np.median([trace[-1] for trace in plain]))
    steeper = [regrets(valley, with_gradients(valley, s, 10, total // 2)) for s in run.progress(_seeds(run))]
    ours, theirs = hitting_times(steeper, goal, total), hitting_times(plain, goal, total)
    values["gradients_free"] = bootstrap(_time_ratio, ours, theirs, of="seeds")
    values["gradients_paid"] = bootstrap(_time_ratio, 2 * ours, theirs, of="seeds")
    rows.append(["Rosenbrock 4", "EI", _by_half(theirs), goal])
    rows.append(["Rosenbrock 4", "EI with gradients", _by_half(ours), float(np.median([t[-1] for t in steeper]))])
    values["fidelities"], more = _fidelities(run)
    return Measurement(values, table=Table(["problem", "method", "evaluations or cost", "regret"], rows + more))


def _fidelities(run: Run) -> tuple[Estimate, list[list[Any]]]:
    """Return the cost of two fidelities over that of one, until the regret of what is reported is as small."""
    function, total = branin(), run.at(smoke=10, desk=30, full=30)
    plain = [regrets(function, maximise(function, s, 8, total)) for s in _seeds(run)]
    goal = float(np.median([trace[-1] for trace in plain]))
    theirs = hitting_times(plain, goal, total)
    costs = []
    for seed in run.progress(_seeds(run), label="two fidelities"):
        spent, regret = two_fidelities(seed, run.at(smoke=3.0, desk=float(total), full=float(total)), goal)
        costs.append(spent if regret <= goal else 2.0 * total)
    rows = [["Branin", "one fidelity", _by_half(theirs), goal],
            ["Branin", "two fidelities", _by_half(np.array(costs)), goal]]  # fmt: skip
    return bootstrap(_time_ratio, costs, theirs, of="seeds"), rows


@measures("t7-exotic-problems")
def exotic_problems(run: Run) -> Measurement:
    """Optimise under a constraint, over a random environment, and with the help of a second task."""
    seeds = _seeds(run)
    more = [1000 * run.seed + k for k in range(run.repeats(smoke=1, desk=40, full=60))]  # a share takes more of them
    limited = [constrained(s, 10, run.at(smoke=11, desk=40, full=40)) for s in run.progress(more, label="constraint")]
    feasible = [regret for regret, met in limited if met]
    outer = [environments(s, run.at(smoke=8, desk=30, full=30)) for s in run.progress(seeds, label="environments")]
    tasks = [two_tasks(s, run.at(smoke=4.4, desk=12.0, full=12.0)) for s in run.progress(seeds, label="tasks")]
    values = {
        "constrained": median([regret for regret, _ in limited]),
        "feasible": proportion(len(feasible), len(limited), "seeds"),
        "environments": bootstrap(_mean_ratio, *zip(*outer, strict=True), of="seeds"),
        "tasks": bootstrap(_mean_ratio, *zip(*tasks, strict=True), of="seeds"),
    }
    columns = ["seed", "constrained", "environments", "random", "two tasks", "one task"]
    rows = [[s, c[0], *o, *t] for s, c, o, t in zip(seeds, limited, outer, tasks, strict=False)]
    return Measurement(values, table=Table(columns, rows))


@races("botorch")
def against_botorch(run: Run) -> Measurement:
    """Compare posteriors, the time of an iteration and regrets with BoTorch's."""
    return rivals.against_botorch(run)


@races("scikit-optimize")
def against_scikit_optimize(run: Run) -> Measurement:
    """Minimise Branin's function by skopt's gp_minimize."""
    return rivals.against_scikit_optimize(run)


@races("bayesian-optimization")
def against_bayesian_optimization(run: Run) -> Measurement:
    """Minimise Branin's function by bayes_opt with expected improvement."""
    return rivals.against_bayesian_optimization(run)


@races("smt")
def against_smt(run: Run) -> Measurement:
    """Minimise Branin's function by SMT's EGO."""
    return rivals.against_smt(run)


@races("emukit")
def against_emukit(run: Run) -> Measurement:
    """Minimise Branin's function by max-value entropy search, ours and Emukit's."""
    return rivals.against_emukit(run)
