"""What the paper reports of evaluations to a small residual, measured against deterministic methods at their best."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, linprog
from sklearn.datasets import load_breast_cancer, load_digits

from paperworks.evidence import Measurement, Run, Table, bootstrap, every, exact, interleaved, mean, measures, races
from paperworks.optimization import (
    BilinearGame,
    FiniteSumOperator,
    LeastSquaresOperator,
    RobustRegressionGame,
    anchored_extragradient,
    extragradient,
    extragradient_vr,
    game_gap,
    halpern,
    halpern_vr,
    natural_residual,
)

STEPS = {"1/(4L)": 0.25, "1/(2L)": 0.5, "1/L": 1.0}
ANCHORED = (1 / 8, 0.5, 0.7, 0.9, 1.0)
"""Steps of extra anchored gradient that are tried, times its Lipschitz constant: the theory's first."""


def common_rows(n: int, seed: int, d: int = 30, share: float = 0.87, size: float = 55.0) -> LeastSquaresOperator:
    """Return least squares whose rows of unit length lie round a common mean; the solution is the same for every n."""
    solution = np.random.default_rng(seed).normal(size=d)
    solution *= size / np.linalg.norm(solution)
    rng = np.random.default_rng([seed, n])
    A = np.sqrt((1 - share) / d) * rng.normal(size=(n, d))
    A[:, 0] += np.sqrt(share)
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    return LeastSquaresOperator(A, A @ solution, sampling="uniform")


def heavy_rows(n: int, seed: int, d: int = 30) -> LeastSquaresOperator:
    """Return least squares with a few rows that dominate."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, d)) * rng.pareto(3.0, size=(n, 1))
    A /= np.sqrt(np.linalg.norm(A, 2) ** 2 / n)
    return LeastSquaresOperator(A, A @ rng.normal(size=d), sampling="uniform")


def passes(solver: Callable[..., OptimizeResult], F: FiniteSumOperator, start: np.ndarray, **options: Any) -> float:
    """Return the passes that a solver takes to its tolerance, infinity where it doesn't get there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no gain is promised is what is measured
        found = solver(F, start, **options)
    return found.npasses if found.success else math.inf


@measures("v1-fewer-evaluations")
def fewer_evaluations(run: Run) -> Measurement:
    """Count passes to a residual of 0.1, ours by three steps and the deterministic iteration's by two."""
    n, limit = run.at(smoke=2500, desk=40_000, full=160_000), 5000
    counts: dict[str, list[float]] = {}
    for seed in run.progress(run.seeds, label="seeds"):
        for kind, F in (("", common_rows(n, seed)), (", heavy-tailed rows", heavy_rows(2000, seed))):
            start = np.zeros(F.size)
            for name, factor in {"Halpern 1/L_F": 1.0, "Halpern 2/L_F": 2.0}.items():
                took = passes(halpern, F, start, eta=factor / F.L_F, atol=0.1, max_passes=limit)
                counts.setdefault(name + kind, []).append(took)
            for name, factor in STEPS.items():
                options = {"G": "cocoercive", "eta": factor / F.L, "atol": 0.1, "random_state": seed}
                most = limit if not kind else 500
                counts.setdefault(name + kind, []).append(passes(halpern_vr, F, start, max_passes=most, **options))
    best = np.minimum(counts["Halpern 1/L_F"], counts["Halpern 2/L_F"])
    return Measurement(
        {
            "theory_step": mean(best / counts["1/(4L)"]),
            "double_step": mean(best / counts["1/(2L)"]),
        },
        table=Table(
            ["method", "median passes to a residual of 0.1", "best deterministic / its"],
            [
                [name, float(np.median(found)), float(np.median(best / found)) if "heavy" not in name else math.nan]
                for name, found in counts.items()
            ],
        ),
        remark=f"{n} rows of unit length round a common mean; the heavy-tailed ones are 2000, where L is 10 to 100 L_F "
        "and sampling uniformly loses, as the pitfalls say. The deterministic iteration takes its better step.",
    )


@measures("v2-last-iterate")
def last_iterate(run: Run) -> Measurement:
    """Follow the exact residual of every iterate."""
    n, steps = run.at(smoke=400, desk=2500, full=40_000), run.at(smoke=200, desk=50_000, full=100_000)
    curves, scales = [], []
    for seed in run.progress(run.seeds, label="seeds"):
        F = common_rows(n, seed)
        found: list[float] = []

        def follow(result: OptimizeResult, F: FiniteSumOperator = F, found: list[float] = found) -> None:
            found.append(float(np.linalg.norm(F(result.x))))
            if len(found) == steps:
                raise StopIteration

        passes(halpern_vr, F, np.zeros(F.size), G="cocoercive", atol=0, max_passes=1e9, random_state=seed,
               callback=follow)  # fmt: skip
        curves.append(found)
        scales.append(F.L * 55.0)
    k = np.arange(1, steps + 1)
    # The slowest direction, of eigenvalue m, follows 1 / (1 + k m / (8 L)): late is where that is 1/k to a tenth.
    slowest = min(float(np.linalg.eigvalsh(F.A.T @ F.A / n)[0]) for F in (common_rows(n, seed) for seed in run.seeds))
    late = k >= min(80 / slowest, steps / 2)

    def constant(rows: np.ndarray) -> float:
        return float(((k + 4) * np.mean(rows, axis=0)).max())

    def slope(rows: np.ndarray) -> float:
        return float(np.polyfit(np.log(k[late] + 4), np.log(np.mean(rows, axis=0)[late]), 1)[0])

    scaled = np.array(curves) / np.array(scales)[:, None]
    figure, axes = run.figure()
    axes.loglog(k, scaled.mean(0), label="mean over seeds")
    axes.loglog(k, 8 / (k + 4), "--", label="8 / (k + 4)")
    axes.set(xlabel="step k", ylabel="residual / (L D)")
    axes.legend()
    return Measurement(
        {"constant": bootstrap(constant, scaled, of="seeds"), "slope": bootstrap(slope, scaled, of="seeds")},
        figure=figure,
        remark="Exact residuals of all iterates, evaluated beside the run; the slope is fitted from step "
        f"{k[late][0]} on, where the slowest direction has left its start.",
    )


def burglar(m: int, seed: int) -> BilinearGame:
    """Return the game of a policeman and a burglar with random wealth of the houses, of unit norm."""
    wealth, house = np.abs(np.random.default_rng(seed).normal(size=m)), np.arange(m)
    A = wealth[:, None] * (1 - np.exp(-0.8 * np.abs(house[:, None] - house)))
    return BilinearGame(A / np.linalg.norm(A, 2))


def uniform(game: BilinearGame) -> np.ndarray:
    """Return both players' uniform strategies."""
    p, d = game.A.shape
    return np.concatenate([np.full(d, 1 / d), np.full(p, 1 / p)])


def passes_to(solver: Callable[..., OptimizeResult], F: FiniteSumOperator, start: np.ndarray, residual: float,
              **options: Any) -> float:  # fmt: skip
    """Return the passes to a natural residual, with 1/L_F for its step, which is evaluated beside the run."""

    def reached(result: OptimizeResult) -> None:
        if natural_residual(F, F.resolvent, result.x, 1 / F.L_F) <= residual:
            raise StopIteration

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = solver(F, start, atol=0.0, callback=reached, **options)
    return found.npasses if found.status == 2 else math.inf


@measures("v3-matrix-games")
def matrix_games(run: Run) -> Measurement:
    """Count passes to a natural residual of 2e-3 in games of almost rank one, and in one of full rank."""
    m, limit = run.at(smoke=24, desk=400, full=1000), run.at(smoke=60, desk=20_000, full=20_000)
    target = run.at(smoke=2e-2, desk=2e-3, full=2e-3)
    counts: dict[str, list[float]] = {}
    flat = np.random.default_rng(12345).normal(size=(m, m))
    for seed in run.progress(run.seeds, label="seeds"):
        games = {"": burglar(m, seed)}
        if seed == run.seed:
            games[", normal entries"] = BilinearGame(flat / np.linalg.norm(flat, 2))
        for kind, game in games.items():
            start = uniform(game)
            jobs: dict[str, tuple[Callable[..., OptimizeResult], dict[str, Any]]] = {
                f"EAG {factor:g}/L": (anchored_extragradient, {"eta": factor / game.L_F}) for factor in ANCHORED
            }
            jobs["extragradient 0.9/L"] = extragradient, {"eta": 0.9 / game.L_F}
            jobs["variance-reduced extragradient"] = extragradient_vr, {"random_state": seed}
            jobs["ours, single components"] = halpern_vr, {"random_state": seed, "batch_size": 1}
            jobs["ours, batches of sqrt(n)"] = halpern_vr, {"random_state": seed}
            for name, (solver, options) in jobs.items():
                most = limit if not kind else min(limit, 500)
                took = passes_to(solver, game, start, target, max_passes=most, **options)
                counts.setdefault(name + kind, []).append(min(took, float(limit)))
    ours = np.array(counts["ours, single components"])
    anchored = np.array([counts[f"EAG {factor:g}/L"] for factor in ANCHORED])
    return Measurement(
        {"theory": mean(anchored[0] / ours), "best": mean(anchored.min(axis=0) / ours)},
        table=Table(
            ["method", "median passes", "passes / ours"],
            [[name, float(np.median(found)), float(np.median(found / ours[: len(found)]))]
             for name, found in counts.items()],
        ),
        remark=f"{m} houses; residual {target:g}; a run that doesn't get there counts with its {limit} passes. With "
        "normal entries the Frobenius norm is ten times the spectral one, and nothing is gained.",
    )  # fmt: skip


@measures("v4-root-n")
def root_n(run: Run) -> Measurement:
    """Count evaluations to one residual for sums of more and more terms with one spectrum and one solution."""
    sizes = run.at(smoke=(400, 1600), desk=(2500, 10_000, 40_000, 160_000), full=(2500, 10_000, 40_000, 160_000))
    found = [
        [
            n * passes(halpern_vr, F, np.zeros(F.size), G="cocoercive", eta=1 / (2 * F.L), atol=0.1, max_passes=5000,
                       random_state=seed)
            for n in sizes
            for F in (common_rows(n, seed),)
        ]
        for seed in run.progress(run.seeds, label="seeds")
    ]  # fmt: skip
    slopes = [float(np.polyfit(np.log(sizes), np.log(row), 1)[0]) for row in found]
    figure, axes = run.figure()
    axes.loglog(sizes, np.transpose(found), "o-")
    axes.set(xlabel="terms n", ylabel="evaluations of terms to a residual of 0.1")
    columns = ["terms", "median passes", "median evaluations"]
    medians = np.median(found, axis=0)
    rows = [[n, float(count / n), float(count)] for n, count in zip(sizes, medians, strict=True)]
    return Measurement(mean(slopes), table=Table(columns, rows), figure=figure)


def regressions() -> dict[str, RobustRegressionGame]:
    """Return robust regressions of labels on the standardised features of two data sets."""
    games = {}
    for name, load in {"breast cancer": load_breast_cancer, "digits": load_digits}.items():
        X, y = load(return_X_y=True)
        X = X[:, X.std(0) > 0]
        X = (X - X.mean(0)) / X.std(0)
        X /= np.linalg.norm(X, axis=1).mean()
        games[name] = RobustRegressionGame(X, (y - y.mean()) / y.std(), budget=0.1, ridge=0.01)
    return games


@measures("v5-real-data")
def real_data(run: Run) -> Measurement:
    """Say by sqrt(n) L_F / L whether variance reduction will pay on data, and then count passes."""
    rows, agreed, limit = [], [], run.at(smoke=60, desk=3000, full=30_000)
    target = run.at(smoke=1e-2, desk=1e-4, full=1e-4)
    for name, game in run.progress(regressions().items(), label="data sets"):
        start, gain = np.zeros(game.size), math.sqrt(game.n) * game.L_F / game.L
        anchored = [
            passes_to(anchored_extragradient, game, start, target, eta=factor / game.L_F, max_passes=limit)
            for factor in ANCHORED
        ]
        ours = [
            passes_to(halpern_vr, game, start, target, batch_size=1, random_state=seed, max_passes=limit / 10)
            for seed in run.seeds[: run.at(smoke=1, desk=2, full=5)]
        ]
        agreed += [(count < min(anchored)) == (gain >= 40) for count in ours]
        rows.append([name, game.n, gain, "gain" if gain >= 40 else "loss", min(anchored), float(np.median(ours))])
    return Measurement(
        every(agreed),
        table=Table(["data", "samples", "sqrt(n) L_F / L", "predicted", "EAG at its best step, passes", "ours"], rows),
        remark=f"Passes to a natural residual of {target:g}; inf is more than {limit} for EAG, a tenth of it for ours.",
    )


@races("linprog")
def against_linprog(run: Run) -> Measurement:
    """Solve a large game: to a gap of a hundredth against an exact solver, and to what a minute allows all others."""
    m, most = run.at(smoke=24, desk=2000, full=3000), run.at(smoke=0.3, desk=20.0, full=60.0)
    game = burglar(m, run.seed)
    A, largest = game.A, float(np.abs(game.A).max())

    def exactly() -> None:
        cost = np.append(np.zeros(m), 1.0)
        linprog(cost, A_ub=np.c_[A, -np.ones(m)], b_ub=np.zeros(m), A_eq=np.append(np.ones(m), 0.0)[None], b_eq=[1.0],
                bounds=[(0, None)] * m + [(None, None)], method="highs", options={"time_limit": 60.0})  # fmt: skip

    reached: dict[str, float] = {"linprog": 0.0}

    def by(name: str, target: float, solver: Callable[..., OptimizeResult], **options: Any) -> Callable[[], None]:
        def solve() -> None:
            end = time.perf_counter() + most

            def small(result: OptimizeResult) -> None:
                reached[name] = game_gap(A, *game.split(result.x)) / largest
                if reached[name] <= target or time.perf_counter() > end:
                    raise StopIteration

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                solver(game, uniform(game), atol=0.0, max_passes=1e9, callback=small, **options)

        return solve

    anchored = anchored_extragradient
    jobs = {"linprog": exactly} | {
        name: by(name, *job, **options)
        for name, job, options in [
            ("ours", (0.01, halpern_vr), {"random_state": run.seed}),
            ("ours to a gap of 0.3", (0.3, halpern_vr), {"random_state": run.seed}),
            ("EAG, theory's step, to 0.3", (0.3, anchored), {}),
            ("EAG, step 1/L, to 0.3", (0.3, anchored), {"eta": 1 / game.L_F}),
        ]
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=6, full=6))
    return Measurement(
        {
            "linprog": times.ratio("ours", "linprog"),
            "anchored": times.ratio("ours to a gap of 0.3", "EAG, theory's step, to 0.3"),
        },
        table=Table(
            ["method", "seconds", "gap reached, to the largest payoff"],
            [[name, seconds, reached[name]] for name, seconds in times.medians().items()],
        ),
        remark=f"{m} houses. HiGHS solves the game exactly; the others stop after {most:g} s.",
    )


@races("pepit", exclusive=False)
def against_pepit(run: Run) -> Measurement:
    """Hold the residual of deterministic Halpern iteration against the certified worst case of every step."""
    from PEPit.examples.fixed_point_problems import wc_halpern_iteration

    steps = run.at(smoke=2, desk=10, full=25)
    rng, worst = run.rng(), 0.0
    certified = [wc_halpern_iteration(n=k, wrapper="cvxpy", solver=None, verbose=0)[0] for k in range(1, steps + 1)]
    rows = []
    for _ in run.progress(range(run.at(smoke=5, desk=200, full=1000)), label="operators"):
        # A rotation's distance to the identity is twice a cocoercive operator with constant 1.
        turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        u0 = rng.normal(size=6)
        found = halpern(lambda u, T=turn: (u - T @ u) / 2, u0, L=1.0, eta=2.0, atol=0, max_passes=steps + 1)
        # The certificate is of |u - T u|^2 over the squared distance to a fixed point, 0 here.
        ratios = (2 * found.residual_history[1 : steps + 1]) ** 2 / (u0 @ u0) / certified[: found.nit - 1]
        rows.append(ratios)
        worst = max(worst, float(ratios.max()))
    columns = ["step", "certified worst case", "largest measured / certified"]
    table = [[k, certified[k - 1], float(np.max(rows, axis=0)[k - 1])] for k in range(1, steps + 1)]
    return Measurement(exact(worst), table=Table(columns, table))
