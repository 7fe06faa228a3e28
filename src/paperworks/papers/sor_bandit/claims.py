"""What the paper says of bandits that set a solver's parameter, counted on its two sequences of systems."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as scipy_cg

from paperworks.evidence import (
    Estimate,
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
)
from paperworks.papers.sor_bandit.problems import SHIFTS, Heat, Instance, golden_section, shifted
from paperworks.solvers import (
    AdaptiveSolver,
    BinnedBandit,
    ChebCB,
    Splitting,
    TsallisINF,
    cg,
    energy_bound,
    estimate_tau,
    jacobi_radius,
    laplacian,
    near_asymptotic_bound,
    optimal_omega,
    sor,
    sor_radius,
    ssor_pcg,
)

ARMS = np.linspace(1, 1.95, 20)
"""The parameters that all learners choose from."""
COARSE = (1.0, 1.3, 1.5, 1.75, 1.95)
"""Where the search for an instance's best parameter begins."""
TRIALS = (1001, 1002, 1003, 1004, 1005)
"""Seeds on which a peer's policy is chosen; no race is on them."""
BETAS = {"low": (2.0, 6.0), "high": (0.5, 1.5)}
"""The laws of the shifts, of low and of high variance."""


def learnt(problem: list[Instance], bandit: Any) -> np.ndarray:
    """Count the sweeps of each system where a bandit sets the parameter."""
    solver = AdaptiveSolver(sor, bandit)
    return np.array([solver.solve(A, b, context=context).iterations for A, b, context in problem])


def fixed(problem: list[Instance], arms: np.ndarray) -> np.ndarray:
    """Count the sweeps of each system with each parameter, in rows by parameter."""
    return np.array([[sor(A, b, omega=omega).iterations for A, b, _ in problem] for omega in arms])


def best_of_fixed(problem: list[Instance], arms: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the parameter of the least mean, and its sweeps of each system.

    What takes more than 1.3 times the least on a tenth of the systems isn't followed further.
    """
    tenth = fixed(problem[: max(len(problem) // 10, 20)], arms).mean(1)
    near = arms[tenth <= 1.3 * tenth.min()]
    counts = fixed(problem, near)
    best = int(counts.mean(1).argmin())
    return float(near[best]), counts[best]


def choices(run: Run) -> np.ndarray:
    """Return the parameters to choose from: the paper's, or a few of them where all has to be quick."""
    return run.at(smoke=ARMS[::5], desk=ARMS, full=ARMS)


def smoothed(costs: np.ndarray, width: int) -> np.ndarray:
    """Return means over windows."""
    return np.convolve(costs, np.full(width, 1 / width), mode="valid")


@measures("c1-best-fixed")
def best_fixed(run: Run) -> Measurement:
    """Hold the learner's sweeps to those of the best fixed parameter on the same systems."""
    rounds = run.at(smoke=60, desk=5000, full=5000)
    last, arms = min(500, rounds // 3), choices(run)
    late, whole, rows = [], [], []
    figure, axes = run.figure()
    for seed in run.progress(run.seeds, label="seeds"):
        problem = shifted(rounds, BETAS["low"], run.rng(seed))
        best, counts = best_of_fixed(problem, arms)
        costs = learnt(problem, TsallisINF(arms, random_state=seed))
        weighted = learnt(problem, TsallisINF(arms, estimator="importance_weighted", random_state=seed))
        late.append(costs[-last:].mean() / counts[-last:].mean())
        whole.append(costs.mean() / counts.mean())
        means = [counts, costs, weighted]
        rows.append([seed, best, *(c[-last:].mean() for c in means), *(c.mean() for c in means)])
        if seed == run.seed:
            axes.plot(smoothed(costs, rounds // 25), label="Tsallis-INF, estimates of reduced variance")
            axes.plot(smoothed(weighted, rounds // 25), label="Tsallis-INF, importance weights")
            axes.axhline(counts.mean(), color="C2", label=f"best fixed parameter, {best:g}")
    axes.set(xlabel="round", ylabel="sweeps, moving mean", title="Learning a fixed parameter")
    axes.legend()
    return Measurement(
        {"last_500": mean(late), "whole_run": mean(whole)},
        table=Table(
            [
                "seed",
                "best fixed",
                *(
                    f"{which}, {when}"
                    for when in (f"last {last}", "all")
                    for which in ("its sweeps", "Tsallis-INF", "with importance weights")
                ),
            ],
            rows,
        ),
        figure=figure,
        settings=f"{rounds} systems, shifts by Beta(2, 6), tolerance 1e-8",
        remark="The bars are held against the default, estimates of reduced variance; the paper's are importance "
        "weights.",
    )


@measures("c2-instance-optimal")
def instance_optimal(run: Run) -> Measurement:
    """Hold the contextual learner's last sweeps to each system's own best parameter and to the best fixed one."""
    rounds = run.at(smoke=60, desk=2500, full=5000)
    last, arms = min(500, rounds // 5), choices(run)
    values: dict[str, Estimate] = {}
    rows = []
    figure, axes = run.figure(1, 2)
    for ax, (name, beta) in zip(axes, BETAS.items(), strict=True):
        found: list[dict[str, float]] = []
        for seed in run.progress(run.seeds, label=f"seeds, {name} variance"):
            problem = shifted(rounds, beta, run.rng(seed))
            bandits = {
                "Tsallis-INF": TsallisINF(arms, random_state=seed),
                "Tsallis-INF-CB": BinnedBandit(arms, 5, low=SHIFTS[0], high=SHIFTS[1], random_state=seed),
                "ChebCB": ChebCB(arms, 5, low=SHIFTS[0], high=SHIFTS[1], random_state=seed),
            }
            costs = {label: learnt(problem, bandit) for label, bandit in bandits.items()}
            end = problem[-last:]
            best = [instance_best(A, b) for A, b, _ in end]
            found.append(
                {
                    **{label: float(cost[-last:].mean()) for label, cost in costs.items()},
                    "best fixed": float(fixed(end, arms).mean(1).min()),
                    "instance-optimal": float(np.mean(best)),
                }
            )
        for label, cost in costs.items():
            ax.plot(smoothed(cost, rounds // 25), label=label)
        for number, label in enumerate(("best fixed", "instance-optimal"), start=len(costs)):
            ax.axhline(found[-1][label], color=f"C{number}", label=label)
        ax.set(xlabel="round", ylabel="sweeps, moving mean", title=f"Shifts of {name} variance")
        ax.legend()
        for other, key in (("instance-optimal", "optimal"), ("best fixed", "fixed")):
            values[f"{name}_to_{key}"] = mean([each["ChebCB"] / each[other] for each in found])
        rows += [[name, label, float(np.mean([each[label] for each in found]))] for label in found[0]]
    return Measurement(
        values,
        table=Table(["variance of the shifts", "parameter", f"sweeps in the last {last} rounds"], rows),
        figure=figure,
        settings=f"{rounds} systems, tolerance 1e-8; the best fixed parameter is that of the last {last} rounds",
    )


def instance_best(A: Any, b: np.ndarray) -> int:
    """Count the sweeps with a system's own best parameter: the formula's, or the least of a search if it is less."""
    counts: dict[float, int] = {}

    def count(omega: float) -> int:
        counts[omega] = sor(A, b, omega=omega).iterations
        return counts[omega]

    count(optimal_omega(A))
    golden_section(count, COARSE)
    return min(counts.values())


Solve = Callable[[Any, np.ndarray, np.ndarray, float], Any]


def simulate(heat: Heat, steps: int, solve: Solve) -> np.ndarray:
    """Follow the heat equation, and count the iterations of each step."""
    u, counts = heat.start, np.empty(steps, dtype=int)
    for number in range(steps):
        A, b, context = heat.system(number, u)
        result = solve(A, b, u, context)
        u, counts[number] = result.x, result.iterations
    return counts


def with_fixed(omega: float) -> Solve:
    """Solve with one parameter throughout."""
    return lambda A, b, u, context: ssor_pcg(A, b, u, omega=omega)


def with_bandit(bandit: Any) -> Solve:
    """Solve with the parameter that a bandit sets."""
    solver = AdaptiveSolver(ssor_pcg, bandit)
    return lambda A, b, u, context: solver.solve(A, b, u, context=context)


def plain(A: Any, b: np.ndarray, u: np.ndarray, context: float) -> Any:
    """Solve by conjugate gradients without a preconditioner."""
    return cg(A, b, u, rtol=1e-8, maxiter=10_000)


def best_of_instance(A: Any, b: np.ndarray, u: np.ndarray, context: float) -> Any:
    """Solve with the best parameter that a search finds for this one system."""
    omega = golden_section(lambda omega: ssor_pcg(A, b, u, omega=omega).iterations, COARSE)
    return ssor_pcg(A, b, u, omega=omega)


@measures("c3-heat-equation")
def heat_equation(run: Run) -> Measurement:
    """Count the iterations of a simulation with learnt and with fixed parameters."""
    cells, steps = run.at(smoke=(15, 30), desk=(50, 2000), full=(100, 5000))
    heat, arms = Heat(cells), choices(run)
    low, high = heat.contexts
    totals: dict[str, float] = {"conjugate gradients": float(simulate(heat, steps, plain).sum())}
    paths = {float(omega): simulate(heat, steps, with_fixed(omega)) for omega in run.progress(arms)}
    single = {omega: float(counts.sum()) for omega, counts in paths.items()}
    best, one = min(single, key=lambda omega: single[omega]), single[1.0]
    totals |= {f"fixed at {omega:g}": single[omega] for omega in (1.0, float(ARMS[10]), float(ARMS[15]), best)}
    optimal = simulate(heat, steps, best_of_instance)
    makers: dict[str, Callable[[int], Any]] = {
        "Tsallis-INF": lambda seed: TsallisINF(arms, random_state=seed),
        "Tsallis-INF-CB": lambda seed: BinnedBandit(arms, 6, low=low, high=high, random_state=seed),
        "ChebCB": lambda seed: ChebCB(arms, 5, low=low, high=high, random_state=seed),
    }
    learnt_totals: dict[str, list[float]] = {label: [] for label in makers}
    figure, axes = run.figure()
    for label, make in makers.items():
        for seed in run.progress(run.seeds, label=label):
            counts = simulate(heat, steps, with_bandit(make(seed)))
            learnt_totals[label].append(float(counts.sum()))
        axes.plot(np.cumsum(counts), label=label)
        totals[label] = float(np.mean(learnt_totals[label]))
    totals["instance-optimal"] = float(optimal.sum())
    axes.plot(np.cumsum(optimal), "k--", label="instance-optimal")
    axes.plot(np.cumsum(paths[best]), ":", label=f"best fixed, {best:g}")
    axes.plot(np.cumsum(paths[1.0]), ":", label="fixed at 1")
    axes.set(xlabel="time step", ylabel="iterations so far", title=f"Heat equation, {cells} x {cells} cells")
    axes.legend()

    def relative(label: str, other: float) -> Estimate:
        return mean([total / other for total in learnt_totals[label]])

    return Measurement(
        {
            "contextual_to_fixed": relative("ChebCB", single[best]),
            "contextual_to_one": relative("ChebCB", one),
            "tsallis_to_one": relative("Tsallis-INF", one),
            "contextual_to_cg": relative("ChebCB", totals["conjugate gradients"]),
            "tsallis_to_cg": relative("Tsallis-INF", totals["conjugate gradients"]),
        },
        table=Table(["parameter", "iterations", "/ fixed at 1"], [[k, v, v / one] for k, v in totals.items()]),
        figure=figure,
        settings=f"{steps} steps of 1e-3, started from the solution before, tolerance 1e-8",
    )


@measures("c4-surrogate")
def surrogate(run: Run) -> Measurement:
    """Hold counts of many right-hand sides to the surrogate on a grid of parameters."""
    sides, vectors = run.at(smoke=((6,), 4), desk=((10, 20), 20), full=((10, 20, 30), 20))
    violations, rows, tightness, energy, optimum, errors = 0, [], [], [], [], []
    figure, axes = run.figure(1, len(sides), squeeze=False)
    for ax, side in zip(axes[0], sides, strict=True):
        A, rng = laplacian((side, side)), run.rng()
        beta, best = jacobi_radius(A), optimal_omega(A)
        omegas = np.sort(
            np.append(np.arange(1, 1.995, run.at(smoke=0.09, desk=0.01 if side == 10 else 0.03, full=0.01)), best)
        )
        rhs = rng.normal(size=(vectors, side * side))
        counts = np.array(
            [[sor(A, b, omega=omega).iterations for b in rhs] for omega in run.progress(omegas, label=f"side {side}")]
        )
        tau = estimate_tau(A, omegas, counts[:, 0].tolist())
        bound, loose = near_asymptotic_bound(beta, omegas, tau), energy_bound(A, omegas)
        means, at = counts.mean(1), int(np.flatnonzero(omegas == best)[0])
        violations += int((counts >= bound[:, None]).sum())
        # The constant's own right-hand side stays out of what is resampled for the tightness.
        tightness.append(bootstrap(lambda sample, at=at, bound=bound: bound[at] / np.mean(sample), counts[at, 1:]))
        energy.append(float((bound / loose).max()))
        optimum.append(abs(float(omegas[means.argmin()]) - best))
        if side <= 10:
            errors += [
                abs(radius_of(A, omega) - sor_radius(beta, omega)) for omega in omegas if abs(omega - best) > 1e-3
            ]
        rows.append(
            [side * side, tau, best, float(omegas[means.argmin()]), means[at], bound[at], loose[at], energy[-1]]
        )
        ax.semilogy(omegas, means, label="mean count")
        ax.semilogy(omegas, bound, label="surrogate")
        ax.semilogy(omegas, loose, label="energy bound")
        ax.axvline(best, color="0.7", label="optimum of the formula")
        ax.set(xlabel="relaxation parameter", ylabel="sweeps", title=f"{side} x {side} unknowns")
        ax.legend()
    return Measurement(
        {
            "violations": exact(violations),
            "tightness": greatest(tightness),
            "to_energy": exact(max(energy)),
            "optimum": exact(max(optimum)),
            "radius": exact(float(max(errors))),
        },
        table=Table(
            [
                "unknowns",
                "tau",
                "optimum by formula",
                "best measured",
                "mean count there",
                "surrogate there",
                "energy bound there",
                "surrogate / energy bound, greatest",
            ],
            rows,
        ),
        figure=figure,
        settings="the constant tau is estimated from one of the right-hand sides",
        remark="At the optimum itself the iteration has a defective eigenvalue, known to 1e-7 only: the radius is "
        "compared elsewhere.",
    )


def radius_of(A: Any, omega: float) -> float:
    """Return the spectral radius of the iteration from dense eigenvalues."""
    dense = A.toarray()
    W = np.tril(dense, -1) + np.diag(np.diag(dense) / omega)
    return float(abs(np.linalg.eigvals(np.eye(len(dense)) - np.linalg.solve(W, dense))).max())


@measures("c5-overhead", exclusive=True)
def overhead(run: Run) -> Measurement:
    """Time choosing and learning against the solves that they serve."""
    rounds = run.at(smoke=1000, desk=5000, full=5000)
    heat, solves = Heat(run.at(smoke=30, desk=100, full=100)), run.at(smoke=10, desk=200, full=1000)
    low, high = heat.contexts
    u = heat.start
    each = []
    for number in range(solves):
        # Over a whole period of the coefficient.
        A, b, _ = heat.system(number * 1000 // solves, u)
        started = time.process_time()
        u = ssor_pcg(A, b, u, omega=1.5).x
        each.append(time.process_time() - started)
    solve = float(np.mean(each))
    contexts = np.array([heat.kappa(number * heat.step) for number in range(rounds)]).clip(low, high)
    spent: dict[str, list[np.ndarray]] = {"tsallis": [], "contextual": []}
    for seed in run.progress(run.seeds, label="seeds"):
        rng = run.rng(seed)
        noise = rng.integers(0, 4, size=rounds)
        for name, bandit in (
            ("tsallis", TsallisINF(ARMS, random_state=seed)),
            ("contextual", ChebCB(ARMS, 5, low=low, high=high, random_state=seed)),
        ):
            taken = np.empty(rounds)
            for number, context in enumerate(contexts.tolist()):
                started = time.process_time()
                omega = bandit.predict(context)
                between = time.process_time() - started
                cost = float(10 + 3 * context * (1 + 4 * abs(omega - 1.3 - 0.05 * context)) // 1 + noise[number])
                started = time.process_time()
                bandit.update(cost)
                taken[number] = between + time.process_time() - started
            spent[name].append(taken)

    def growth(name: str) -> Estimate:
        return mean([taken[-500:].mean() / taken[500:1000].mean() for taken in spent[name]])

    figure, axes = run.figure()
    for name, label in (("tsallis", "Tsallis-INF"), ("contextual", "ChebCB")):
        axes.semilogy(smoothed(1e3 * spent[name][0], 100), label=label)
    axes.axhline(1e3 * solve, color="C2", label="a solve")
    axes.set(xlabel="round", ylabel="milliseconds, moving mean", title="Time to choose and to learn")
    axes.legend()
    return Measurement(
        {
            **{name: mean([taken.mean() / solve for taken in spent[name]]) for name in spent},
            **{f"{name}_growth": growth(name) for name in spent},
        },
        table=Table(
            ["what", "milliseconds, mean"],
            [["a solve", 1e3 * solve], *([name, 1e3 * float(np.mean(spent[name]))] for name in spent)],
        ),
        figure=figure,
        settings="processor time; solves with parameter 1.5 over a period of the coefficient",
    )


@races("pyamg")
def against_pyamg(run: Run) -> Measurement:
    """Time an SOR iteration with the norm of its residual, with numba and with SciPy alone."""
    import numba  # noqa: F401  # of the loops that are raced
    import pyamg.relaxation.relaxation as relaxation
    from scipy import sparse

    side = run.at(smoke=40, desk=100, full=100)
    A, b = laplacian((side, side)), run.rng().normal(size=side * side)
    theirs = sparse.csr_matrix(A)
    x, sweeps = np.zeros(len(b)), 20

    def pyamg() -> None:
        for _ in range(sweeps):
            relaxation.sor(theirs, x, b, 1.5, iterations=1)
            np.linalg.norm(b - theirs @ x)

    times = interleaved(
        run,
        {
            "compiled": sweeping(A, b, sweeps, compile=True),
            "plain": sweeping(A, b, sweeps, compile=False),
            "pyamg": pyamg,
            "product": lambda: [A @ b for _ in range(sweeps)],
        },
        run.at(smoke=3, desk=41, full=101),
    )
    return Measurement(
        {name: times.ratio(name, "pyamg") for name in ("compiled", "plain")},
        table=Table(
            ["what", "microseconds a sweep"],
            [[name, 1e6 * seconds / sweeps] for name, seconds in times.medians().items()],
        ),
        settings=f"{side * side:,} unknowns; the setting up of ours is in none of the times",
        remark="Ours reads the matrix once for a sweep and the residual, pyamg's twice; SciPy alone solves by SuperLU.",
    )


def sweeping(A: Any, b: np.ndarray, sweeps: int, compile: bool) -> Callable[[], Any]:
    """Return sweeps that go on from one call to the next, with numba's loops or SciPy's factors."""
    advance = Splitting(A, 1.5, compile=compile).sor(np.zeros(len(b)), b.copy())
    return lambda: advance(0.0, sweeps)


@races("scipy")
def against_scipy(run: Run) -> Measurement:
    """Time steps of the heat equation by ours, by SciPy's cg with pyamg's symmetric sweeps, and by SciPy's plain cg."""
    import pyamg.relaxation.relaxation as relaxation
    from scipy import sparse

    cells, steps = run.at(smoke=(30, 3), desk=(100, 25), full=(100, 250))
    heat, omega, n = Heat(cells), 1.5, (cells - 1) ** 2
    # Steps over a whole period of the coefficient; every contender solves the same systems from the same starts.
    systems, u = [], heat.start
    for number in range(steps):
        A, b, _ = heat.system(number * 1000 // steps, u)
        systems.append((A, sparse.csr_matrix(A), b, u))
        u = ssor_pcg(A, b, u, omega=omega).x

    def swept() -> None:
        for _, A, b, start in systems:

            def sweep(r: np.ndarray, A: Any = A) -> np.ndarray:
                z = np.zeros(n)
                relaxation.sor(A, z, r, omega, iterations=1, sweep="symmetric")
                return z

            scipy_cg(A, b, start, rtol=1e-8, M=LinearOperator((n, n), matvec=sweep, dtype=float))

    times = interleaved(
        run,
        {
            "ours": lambda: [ssor_pcg(A, b, start, omega=omega) for A, _, b, start in systems],
            "SciPy's cg with pyamg's sweeps": swept,
            "SciPy's plain cg": lambda: [scipy_cg(A, b, start, rtol=1e-8) for _, A, b, start in systems],
        },
        run.at(smoke=3, desk=11, full=21),
    )
    return Measurement(
        {
            "ssor": times.ratio("ours", "SciPy's cg with pyamg's sweeps"),
            "plain": times.ratio("ours", "SciPy's plain cg"),
        },
        table=Table(
            ["what", "milliseconds a step"],
            [[name, 1e3 * seconds / steps] for name, seconds in times.medians().items()],
        ),
        settings=f"{cells} x {cells} cells, {steps} steps over a period of the coefficient, parameter {omega:g}",
    )


@races("mabwiser", exclusive=False)
def against_mabwiser(run: Run) -> Measurement:
    """Count the sweeps of shifted systems where policies of mabwiser set the parameter, and take their best."""
    from mabwiser.mab import MAB, LearningPolicy, NeighborhoodPolicy

    rounds, trial = run.at(smoke=(30, 20), desk=(1500, 300), full=(5000, 1000))
    arms = choices(run)
    policies: dict[str, tuple[Any, Any]] = {
        "epsilon-greedy, 0.05": (LearningPolicy.EpsilonGreedy(0.05), None),
        "epsilon-greedy, 0.15": (LearningPolicy.EpsilonGreedy(0.15), None),
        "UCB1, 0.1": (LearningPolicy.UCB1(0.1), None),
        "UCB1, 1": (LearningPolicy.UCB1(1.0), None),
        "softmax, 0.02": (LearningPolicy.Softmax(0.02), None),
        "LinUCB, 0.1": (LearningPolicy.LinUCB(0.1), None),
        "LinTS, 0.05": (LearningPolicy.LinTS(0.05), None),
        "LinGreedy, 0.05": (LearningPolicy.LinGreedy(0.05), None),
        "tree of contexts, epsilon-greedy, 0.05": (LearningPolicy.EpsilonGreedy(0.05), NeighborhoodPolicy.TreeBandit()),
        "5 clusters, epsilon-greedy, 0.05": (LearningPolicy.EpsilonGreedy(0.05), NeighborhoodPolicy.Clusters(5)),
        "5 clusters, epsilon-greedy, 0.02": (LearningPolicy.EpsilonGreedy(0.02), NeighborhoodPolicy.Clusters(5)),
    }
    if run.scale == "smoke":
        policies = dict(list(policies.items())[:6])
    scale = float(fixed(shifted(20, BETAS["low"], run.rng(TRIALS[0])), arms).max())

    def play(label: str, problem: list[Instance], seed: int) -> float:
        learning, neighbours = policies[label]
        policy = MAB(arms.tolist(), learning, neighbours, seed=seed)
        return policy_mean(policy, problem, scale, contextual=neighbours is not None or label.startswith("Lin"))

    trials = [(shifted(trial, BETAS["low"], run.rng(seed)), seed) for seed in TRIALS[: run.at(smoke=1, desk=2, full=5)]]
    tried = {
        label: float(np.mean([play(label, problem, seed) for problem, seed in trials]))
        for label in run.progress(list(policies), label="policies")
    }
    # The best that see a context and the best that don't, by the trials; of the two the better in the race itself.
    chosen = [
        min(kind, key=lambda label: tried[label])
        for kind in (
            [label for label, (_, neighbours) in policies.items() if neighbours is None and label[:3] != "Lin"],
            [label for label, (_, neighbours) in policies.items() if neighbours is not None or label[:3] == "Lin"],
        )
    ]
    totals: dict[str, list[float]] = {label: [] for label in ("ChebCB", "Tsallis-INF", *chosen)}
    for seed in run.progress(run.seeds, label="seeds"):
        problem = shifted(rounds, BETAS["low"], run.rng(seed))
        totals["ChebCB"].append(learnt(problem, ChebCB(arms, low=SHIFTS[0], high=SHIFTS[1], random_state=seed)).mean())
        totals["Tsallis-INF"].append(learnt(problem, TsallisINF(arms, random_state=seed)).mean())
        for label in chosen:
            totals[label].append(play(label, problem, seed))
    best = min(chosen, key=lambda label: np.mean(totals[label]))
    return Measurement(
        mean([ours / theirs for ours, theirs in zip(totals["ChebCB"], totals[best], strict=True)]),
        table=Table(
            ["policy", f"mean sweeps of a system, {rounds} rounds", f"in trials of {trial} rounds"],
            [
                *([label, float(np.mean(found)), tried.get(label)] for label, found in totals.items()),
                *([label, None, found] for label, found in tried.items() if label not in chosen),
            ],
        ),
        settings=f"{rounds} systems, shifts by Beta(2, 6); contextual policies get the Chebyshev features of ChebCB",
        remark="Of mabwiser's policies race the best without a context and the best with one, by trials on systems of "
        f"other seeds; {best} is the better of the two and the peer.",
    )


def policy_mean(policy: Any, problem: list[Instance], scale: float, contextual: bool) -> float:
    """Play a policy of mabwiser over all rounds, from one round with each arm, and return its mean cost.

    Its rewards are 1 - cost / scale; its contexts are the features that ChebCB has.
    """
    arms, costs = policy.arms, list[int]()
    shifts = np.array([context for _, _, context in problem])
    features = np.polynomial.chebyshev.chebvander(2 * (shifts - SHIFTS[0]) / (SHIFTS[1] - SHIFTS[0]) - 1, 5)
    omegas, told = list(arms), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (A, b, _) in enumerate(problem):
            if number >= len(arms):
                given = [omegas[told:number], 1 - np.array(costs[told:number]) / scale]
                if contextual:
                    given.append(features[told:number])
                (policy.partial_fit if told else policy.fit)(*given)
                told = number
                omegas.append(policy.predict(features[number : number + 1]) if contextual else policy.predict())
            costs.append(sor(A, b, omega=float(omegas[number])).iterations)
    return float(np.mean(costs))
