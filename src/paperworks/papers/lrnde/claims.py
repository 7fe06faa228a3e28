"""What local regularisation saves and costs: evaluations, time, accuracy, memory; and its two ways of sampling."""

import math
import statistics
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.dynamics import BrownianTree, NeuralODE, local_regularizer, solve_sde
from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    every,
    exact,
    interleaved,
    magnitude,
    mean,
    measures,
    races,
    ratio,
    statistic,
)
from paperworks.numerics import seeded, solve_ode
from paperworks.papers.lrnde.digits import Fields, Recipe, Result, data, evaluate, predictor, train
from paperworks.papers.lrnde.noisy import NoisyRecipe, evaluate_noisy, train_noisy

ATTACHED = (("detach_slope", False),)
LOCAL = tuple(
    Recipe(sampling, kind, options=ATTACHED)
    for sampling in ("unbiased", "biased")
    for kind in ("error_estimate", "stiffness_estimate")
)
AS_PUBLISHED = Recipe("unbiased")  # its code holds the first slope fast
GLOBAL = tuple(Recipe("global", kind) for kind in ("error_estimate", "stiffness_estimate"))
STEER = Recipe(options=(("steer", 0.25),))
TUNING_SEED = 1000


def grid(recipe: Recipe) -> list[float]:
    """Return the weights to choose from; a local error is that of a first, short step, and takes greater ones."""
    if recipe.reg_type == "stiffness_estimate":
        return [10.0**k for k in ((-4, -3, -2, -1, 0) if recipe.regularize == "global" else (-2, -1, 0, 1, 2))]
    return [10.0**k for k in ((-2, -1, 0, 1, 2) if recipe.regularize == "global" else (4, 5, 6, 7, 8))]


def seeds(run: Run) -> list[int]:
    return list(run.at(smoke=run.seeds, desk=range(max(5, len(run.seeds))), full=range(max(5, len(run.seeds)))))


def trained(run: Run, recipes: Sequence[Recipe], members: Sequence[int], iterations: int) -> Fields:
    """Train, or take what another claim has trained."""
    fields = run.trained(
        "lrnde-digits",
        Fields(members),
        lambda fields: train(recipes, members, iterations),
        recipes=[asdict(recipe) for recipe in recipes],
        seeds=list(members),
        iterations=iterations,
    )
    assert isinstance(fields, Fields)
    return fields


def lengths(run: Run) -> tuple[int, int]:
    """Return the iterations of what is tuned and of what is judged."""
    return run.at(smoke=(2, 3), desk=(400, 1500), full=(2000, 7500))


def tuned(run: Run, variants: Iterable[Recipe]) -> tuple[Recipe, list[list[Any]]]:
    """Choose variant and weight on validation data: fewest evaluations within half a point of no regulariser.

    The networks that it is chosen on have a seed of their own.
    """
    iterations, _ = lengths(run)
    count = run.at(smoke=2, desk=5, full=5)
    (plain,) = evaluate(trained(run, [Recipe()], [TUNING_SEED], iterations), "validation")
    rows: list[list[Any]] = [["none", 0.0, plain.evaluations, plain.points]]
    found: list[tuple[int, float, Recipe]] = []
    for variant in run.progress(list(variants), label="tuning"):
        recipes = [replace(variant, weight=weight) for weight in grid(variant)[:count]]
        results = evaluate(trained(run, recipes, [TUNING_SEED] * count, iterations), "validation")
        for recipe, result in zip(recipes, results, strict=True):
            rows.append([recipe.name, recipe.weight, result.evaluations, result.points])
            if result.points >= plain.points - 0.5 or run.scale == "smoke":
                found.append((result.evaluations, -result.points, recipe))
    if not found:
        raise RuntimeError("no weight keeps the accuracy on the validation data")
    return min(found, key=lambda item: item[:2])[2], rows


def judged(run: Run, recipe: Recipe) -> list[Result]:
    return evaluate(final(run, recipe), "test")


def final(run: Run, recipe: Recipe) -> Fields:
    return trained(run, [recipe] * len(seeds(run)), seeds(run), lengths(run)[1])


def evaluations(results: Sequence[Result]) -> np.ndarray:
    return np.array([result.evaluations for result in results], float)


def points(results: Sequence[Result]) -> np.ndarray:
    return np.array([result.points for result in results])


@measures("l1-fewer-evaluations")
def fewer_evaluations(run: Run) -> Measurement:
    """Choose a local variant and its weight on validation data, and judge it on test data with other seeds."""
    best, rows = tuned(run, LOCAL)
    # What the official code does is shown beside it, whether or not a weight of it keeps the accuracy. Its gradients
    # are millions of times as great, and the paper's weights go from 2.5 to 1.
    weights = [10.0**k for k in (-4, -2, 0, 2, 4)][: run.at(smoke=2, desk=5, full=5)]
    recipes = [replace(AS_PUBLISHED, weight=weight) for weight in weights]
    fields = trained(run, recipes, [TUNING_SEED] * len(recipes), lengths(run)[0])
    published = [[AS_PUBLISHED.name, weight, r.evaluations, r.points]
                 for weight, r in zip(weights, evaluate(fields, "validation"), strict=True)]  # fmt: skip
    plain, local = judged(run, Recipe()), judged(run, best)
    ratios = evaluations(local) / evaluations(plain)
    lost = points(plain) - points(local)
    figure, axes = run.figure(1, 2)
    for name in dict.fromkeys(row[0] for row in (*rows, *published)):
        chosen = [row for row in (*rows, *published) if row[0] == name]
        axes[0].plot([row[2] for row in chosen], [row[3] for row in chosen], "o-", label=name, ms=4)
    axes[0].set(xlabel="evaluations", ylabel="validation accuracy, points", title="Tuning: each weight of each variant")
    axes[0].legend(fontsize=7)
    for name, results in (("none", plain), (best.name, local)):
        axes[1].plot(evaluations(results), points(results), "o", label=name)
    axes[1].set(xlabel="evaluations", ylabel="test accuracy, points", title="Test: each seed")
    axes[1].legend(fontsize=7)
    spread = float(np.std(ratios, ddof=1) / math.sqrt(len(ratios))) if len(ratios) > 1 else math.nan
    return Measurement(
        {"evaluations": every(ratios.tolist()), "accuracy_lost": mean(lost.tolist())},
        table=Table(["regulariser", "weight", "evaluations", "accuracy"], [
            *rows, *published,
            *[[f"test, seed {seed}: {name}", weight, r.evaluations, r.points]
              for name, weight, results in (("none", 0.0, plain), (best.name, best.weight, local))
              for seed, r in zip(seeds(run), results, strict=True)],
        ]),
        figure=figure,
        remark=f"Chosen: {best.name}, weight {best.weight:g}; ratio {ratios.mean():.3f} +- {spread:.3f}. With the "
        f"first slope detached, as the official code does, weights from {weights[0]:g} to {weights[-1]:g} have "
        f"{min(row[2] for row in published)} to {max(row[2] for row in published)} evaluations at "  # type: ignore[type-var]
        f"{min(row[3] for row in published):.1f} to {max(row[3] for row in published):.1f} points on validation, no "  # type: ignore[type-var]
        f"regulariser {rows[0][2]} at {rows[0][3]:.1f}.",
    )  # fmt: skip


@measures("l2-faster", exclusive=True)
def faster(run: Run) -> Measurement:
    """Time predictions of the networks of the first claim."""
    best, _ = tuned(run, LOCAL)
    x, _ = data()["test"]
    jobs: dict[str, Callable[[], Any]] = {}
    for name, recipe in (("none", Recipe()), ("local", best)):
        fields = final(run, recipe)
        solvers = [predictor(fields.member(i)) for i in range(len(seeds(run)))]

        def predict(solvers: list[NeuralODE] = solvers) -> None:
            with torch.no_grad():
                for solver in solvers:
                    solver(x[None])

        jobs[name] = predict
    times = interleaved(run, jobs, run.at(smoke=1, desk=20, full=20))
    return Measurement(
        times.ratio("none", "local"),
        table=Table(["regulariser", "seconds, all seeds"], [list(item) for item in times.medians().items()]),
        settings=f"{len(x)} test digits at a time, tolerance 1e-8, float64; {best.name}, weight {best.weight:g}",
    )


@measures("l3-like-global")
def like_global(run: Run) -> Measurement:
    """Compare with the global penalties at their best weight, and both ways to the gradient."""
    best, _ = tuned(run, LOCAL)
    whole, rows = tuned(run, GLOBAL)
    results = {name: judged(run, recipe) for name, recipe in
               (("none", Recipe()), ("local", best), ("global", whole), ("STEER", STEER))}  # fmt: skip
    short, _ = lengths(run)
    by_adjoint = replace(best, options=(*best.options, ("adjoint", "adjoint")))
    pair = [evaluate(trained(run, [recipe] * len(seeds(run)), seeds(run), short), "test")
            for recipe in (best, by_adjoint)]  # fmt: skip
    gap = [float(a - b) for a, b in zip(points(pair[0]), points(pair[1]), strict=True)]
    apart = mean(gap) if len(set(gap)) > 1 or len(gap) < 3 else exact(gap[0])
    table = [[name, float(evaluations(r).mean()), float(points(r).mean())] for name, r in results.items()]
    table += [[f"local, by {way}, {short} iterations", float(evaluations(r).mean()), float(points(r).mean())]
              for way, r in zip(("backprop", "adjoint"), pair, strict=True)]  # fmt: skip
    return Measurement(
        {
            "to_global": mean((points(results["local"]) - points(results["global"])).tolist()),
            "adjoint": magnitude(apart),
        },
        table=Table(["regulariser", "mean evaluations", "mean accuracy"], table),
        settings=f"local: {best.name}, {best.weight:g}; global: {whole.name}, {whole.weight:g}; STEER: 0.25",
        remark=f"Evaluations of local and global: {evaluations(results['local']).mean():.0f} and "
        f"{evaluations(results['global']).mean():.0f}; tuning saw {len(rows) - 1} weights of the global penalties.",
    )


@measures("l4-sde")
def stochastic(run: Run) -> Measurement:
    """Choose sampling and weight on validation data, and judge on test data along the same paths."""
    short, long = run.at(smoke=(1, 2), desk=(120, 300), full=(1000, 4000))
    paths = run.at(smoke=1, desk=20, full=20)
    candidates = [NoisyRecipe("unbiased", weight) for weight in run.at(
        smoke=(1.0,), desk=(0.1, 1.0, 10.0, 100.0, 1000.0), full=(0.1, 1.0, 10.0, 100.0, 1000.0))]  # fmt: skip
    candidates += [replace(candidate, regularize="biased") for candidate in candidates]

    def results(recipe: NoisyRecipe, seed: int, iterations: int, part: Any, count: int) -> tuple[float, float]:
        found = run.cached(
            "lrnde-sde",
            lambda: list(evaluate_noisy(train_noisy(recipe, seed, iterations), part, count)),
            recipe=asdict(recipe), seed=seed, iterations=iterations, part=part, paths=count,
        )  # fmt: skip
        return found[0], found[1]

    plain = results(NoisyRecipe(), TUNING_SEED, short, "validation", 3)
    rows: list[list[Any]] = [["validation", "none", 0.0, *plain]]
    kept = []
    for candidate in run.progress(candidates, label="tuning"):
        cost, right = results(candidate, TUNING_SEED, short, "validation", 3)
        rows.append(["validation", candidate.regularize, candidate.weight, cost, right])
        if right >= plain[1] - 0.5 or run.scale == "smoke":
            kept.append((cost, candidate))
    best = min(kept, key=lambda item: item[0])[1] if kept else candidates[0]
    ratios, lost = [], []
    for seed in run.progress(seeds(run), label="seeds"):
        (cost, right), (less, now) = (results(recipe, seed, long, "test", paths) for recipe in (NoisyRecipe(), best))
        ratios.append(less / cost)
        lost.append(right - now)
        rows += [[f"test, seed {seed}", "none", 0.0, cost, right],
                 [f"test, seed {seed}", best.regularize, best.weight, less, now]]  # fmt: skip
    return Measurement(
        {"evaluations": mean(ratios), "accuracy_lost": mean(lost)},
        table=Table(["part", "regulariser", "weight", "evaluations, drift and diffusion", "accuracy"], rows),
        settings="64 pixels to 32 states, SOSRI at a tolerance of 0.14, the same Brownian paths for both",
    )


class Swirl(nn.Module):
    """A small network whose dynamics change along time."""

    def __init__(self, width: int = 16, states: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(states + 1, width), nn.Linear(width, states)
        self.double()

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        place = t.expand(len(u)) if t.ndim == 0 else t
        return 4 * self.last(torch.tanh(3 * self.first(torch.cat([u, torch.sin(4 * place)[:, None]], 1))))


@measures("l5-unbiased")
def unbiased(run: Run) -> Measurement:
    """Draw penalties as training does, and compare their means with the integral and with all steps."""
    draws = run.repeats(smoke=20, desk=4000, full=20_000)
    points_ = run.at(smoke=50, desk=2000, full=2000)
    with seeded(run.seed):
        func, u0 = Swirl(), torch.randn(8, 2, dtype=torch.float64)
    values: dict[str, Any] = {}
    rows: list[list[Any]] = []
    tolerance = 1e-3
    with torch.no_grad():
        middles = [(i + 0.5) / points_ for i in range(points_)]
        states = solve_ode(func, u0, (0.0, 1.0), atol=tolerance, rtol=tolerance, t_eval=middles).states
        curve = [float(local_regularizer(func, u, t, 1.0, tolerance, tolerance)) for t, u in
                 zip(middles, states, strict=True)]  # fmt: skip
        steps = solve_ode(func, u0, (0.0, 1.0), atol=tolerance, rtol=tolerance, keep_states=True).steps
        at_steps = [float(local_regularizer(func, step.u, float(step.t[0]), 1.0, tolerance, tolerance))
                    for step in steps if step.u is not None]  # fmt: skip
        for sampling, expected in (("unbiased", statistics.fmean(curve)), ("biased", statistics.fmean(at_steps))):
            layer = NeuralODE(func, atol=tolerance, rtol=tolerance, regularize=sampling, random_state=run.seed)
            drawn = [float(layer(u0)[1].reg) for _ in run.progress(range(draws), label=sampling)]
            error = statistics.stdev(drawn) / math.sqrt(draws)
            gap = statistics.fmean(drawn) - expected
            values[sampling] = statistic(abs(gap) / error, f"z-score of {draws} draws")
            rows.append([sampling, statistics.fmean(drawn), error, expected])
    figure, axes = run.figure()
    axes.semilogy(middles, curve, label="penalty of a step from there")
    axes.semilogy([float(step.t[0]) for step in steps], at_steps, "o", label="the solver's steps")
    axes.axhline(rows[0][1], ls="--", c="C2", label="mean of draws, unbiased")
    axes.axhline(rows[1][1], ls=":", c="C3", label="mean of draws, biased")
    axes.set(xlabel="time", ylabel="h E", title="What is drawn, and what it estimates")
    axes.legend(fontsize=8)
    return Measurement(values, table=Table(["sampling", "mean of draws", "standard error", "expected"], rows),
                       figure=figure)  # fmt: skip


class Held:
    """Bytes of tensors kept for gradients: how many there are now, and how many there were at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, x: Tensor) -> Any:
        size = x.numel() * x.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        kept = [x]
        box = type("Box", (), {})()
        box.kept = kept
        weakref.finalize(box, self._free, size)
        return box

    def _free(self, size: int) -> None:
        self.now -= size


@measures("l6-cost", exclusive=True)
def cost(run: Run) -> Measurement:
    """Time training steps in turn, and count what each keeps for its gradient at few and at many steps."""
    with seeded(run.seed):
        func, u0 = Swirl(32, 16), torch.randn(64, 16, dtype=torch.float64)

    def layer(sampling: Any, way: Any, tolerance: float) -> NeuralODE:
        return NeuralODE(func, atol=tolerance, rtol=tolerance, regularize=sampling, adjoint=way, detach_slope=False)

    def step(solver: NeuralODE) -> None:
        u, info = solver(u0)
        func.zero_grad()
        (u.square().mean() + 1e-3 * info.reg).backward()

    jobs: dict[str, Callable[[], None]] = {}
    memory: dict[str, list[int]] = {}
    for way in ("backprop", "adjoint"):
        for sampling in (None, "unbiased", "biased", "global"):
            if (sampling, way) == ("global", "adjoint"):
                continue
            name = f"{sampling or 'none'}, {way}"
            jobs[name] = lambda solver=layer(sampling, way, 1e-7): step(solver)  # type: ignore[misc]
            memory[name] = []
            for tolerance in (1e-4, 1e-9):
                held = Held()
                with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda box: box.kept[0]):
                    step(layer(sampling, way, tolerance))
                memory[name].append(held.most)
    refused = False
    try:
        layer("global", "adjoint", 1e-6)
    except ValueError:
        refused = True
    times = interleaved(run, jobs, run.at(smoke=2, desk=40, full=100))
    few, many = (int(layer(None, "backprop", tol)(u0)[1].n_accept) for tol in (1e-4, 1e-9))
    grown = [
        memory[f"{sampling}, adjoint"][1] / memory[f"{sampling}, adjoint"][0] for sampling in ("unbiased", "biased")
    ]
    return Measurement(
        {
            "local": times.ratio("unbiased, backprop", "none, backprop"),
            "biased": times.ratio("biased, backprop", "unbiased, backprop"),
            "adjoint_memory": exact(max(grown)),
            "global_refuses": exact(refused),
        },
        table=Table(
            ["penalty and gradient", "milliseconds a step", f"kB kept, {few} steps", f"kB kept, {many} steps"],
            [[name, 1e3 * times.median(name), memory[name][0] / 1024, memory[name][1] / 1024] for name in jobs],
        ),
    )


# Races.
class Wide(nn.Module):
    """A tanh network of one hidden layer, of as many units as states."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)).to(dtype)

    def forward(self, t: Any, u: Tensor, *others: Any) -> Tensor:
        return 4 * self.net(u)


def problem(run: Run, batch: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Wide, Tensor]:
    with seeded(run.seed):
        return Wide(width, dtype).requires_grad_(False), torch.randn(batch, width, dtype=dtype)


SPAN, TOLERANCE = (0.0, 3.0), 1e-6


def counted(func: Wide, solve: Callable[[Callable[..., Tensor]], Any]) -> int:
    """Return how often a solver calls."""
    calls = 0

    def count(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return func(*args, **kwargs)

    solve(count)
    return calls


@races("torchdiffeq")
def against_torchdiffeq(run: Run) -> Measurement:
    """Time solves at equal tolerances, and take off what the network itself takes for as many evaluations."""
    from torchdiffeq import odeint

    rounds = run.at(smoke=1, desk=21, full=51)
    rows: list[list[Any]] = []
    found: dict[str, Any] = {}
    for name, batch, width in (("overhead", *run.at(smoke=(4, 8), desk=(64, 64), full=(64, 64))),
                               ("large", *run.at(smoke=(8, 16), desk=(512, 784), full=(512, 784)))):  # fmt: skip
        large = name == "large"
        func, u0 = problem(run, batch, width, torch.float32 if large else torch.float64)
        end = 1.0 if large else SPAN[1]
        tolerance = 1e-4 if large else TOLERANCE
        span = torch.tensor([0.0, end], dtype=u0.dtype)

        def ours(f: Any = func, u0: Tensor = u0, end: float = end, tol: float = tolerance) -> Any:
            return solve_ode(f, u0, (0.0, end), atol=tol, rtol=tol)

        def theirs(f: Any = func, u0: Tensor = u0, span: Tensor = span, tol: float = tolerance) -> Any:
            return odeint(f, u0, span, rtol=tol, atol=tol, method="dopri5")[-1]

        with torch.no_grad():
            solution = ours()
            gap = float((solution.states[-1] - theirs()).abs().max())
            calls = counted(func, theirs)
            accepted = {"ours": int(solution.n_accept[0]), "theirs": accepted_steps(func, u0, span, tolerance)}

            def network(n: int, func: Wide = func, u0: Tensor = u0) -> None:
                for _ in range(n):
                    func(0.0, u0)

            # Two jobs of the network's alone, which leaves noise of the machine on both sides alike.
            nfe = int(solution.nfe[0])
            jobs = {"ours": ours, "theirs": theirs, "network, ours": lambda nfe=nfe: network(nfe),
                    "network, theirs": lambda calls=calls: network(calls)}  # fmt: skip
            times = interleaved(run, jobs, run.at(smoke=1, desk=5, full=9) if large else rounds)
        per_step = {
            side: [(whole - (0.0 if large else part)) / accepted[side] for whole, part in
                   zip(times.seconds[side], times.seconds[f"network, {side}"], strict=True)]
            for side in ("ours", "theirs")
        }  # fmt: skip
        found[name] = ratio(per_step["ours"], per_step["theirs"])
        for side, evals in (("ours", nfe), ("theirs", calls)):
            rows.append([f"{batch} x {width}, {side}", evals, accepted[side], 1e3 * times.median(side),
                         1e6 * statistics.median(per_step[side]), gap])  # fmt: skip
    return Measurement(
        found,
        table=Table(
            ["solve", "evaluations", "accepted steps", "milliseconds", "microseconds a step", "difference"], rows
        ),
        settings=f"dopri5 at the same tolerances ({TOLERANCE:g} and 1e-4), without gradient; ours Tsit5",
    )


def accepted_steps(func: Wide, u0: Tensor, span: Tensor, tolerance: float) -> int:
    """Return how many steps torchdiffeq accepts, by its callback."""
    from torchdiffeq import odeint

    class Counting(nn.Module):
        steps = 0

        def forward(self, t: Tensor, u: Tensor) -> Tensor:
            return func(t, u)

        def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            self.steps += 1

    counting = Counting()
    odeint(counting, u0, span, rtol=tolerance, atol=tolerance, method="dopri5")
    return counting.steps


def against(run: Run, name: str, make: Callable[[Wide, Tensor], Callable[[], Tensor]], settings: str) -> Measurement:
    """Time whole solves of a batch of 64 states at equal tolerances; the peer's samples may have steps of their own."""
    func, u0 = problem(run, *run.at(smoke=(4, 8), desk=(64, 64), full=(64, 64)))
    theirs = make(func, u0)

    def ours() -> Tensor:
        return solve_ode(func, u0, SPAN, atol=TOLERANCE, rtol=TOLERANCE).states[-1]

    with torch.no_grad():
        gap = float((ours() - torch.as_tensor(np.array(theirs()))).abs().max())
        times = interleaved(run, {"ours": ours, name: theirs}, run.at(smoke=1, desk=21, full=51))
    return Measurement(
        times.ratio("ours", name),
        table=Table(["solver", "seconds", "largest difference"],
                    [[side, seconds, gap] for side, seconds in times.medians().items()]),
        settings=settings,
    )  # fmt: skip


@races("torchode")
def against_torchode(run: Run) -> Measurement:
    """Time its Tsit5 with its automatic first step and I-controller."""
    import torchode as to

    def make(func: Wide, u0: Tensor) -> Callable[[], Tensor]:
        term = to.ODETerm(func)
        method = to.Tsit5(term=term)
        solver = to.AutoDiffAdjoint(method, to.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term))
        ends = torch.tensor([SPAN], dtype=u0.dtype).expand(len(u0), 2)

        def solve() -> Tensor:
            return solver.solve(to.InitialValueProblem(y0=u0, t_start=ends[:, 0], t_end=ends[:, 1])).ys[:, -1]

        return solve

    return against(run, "torchode", make, "Tsit5, IntegralController, AutoDiffAdjoint, as it runs without compilation")


@races("diffrax")
def against_diffrax(run: Run) -> Measurement:
    """Time its Tsit5, compiled, with the same weights, on the processor."""
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)

    def make(func: Wide, u0: Tensor) -> Callable[[], Tensor]:
        first, second = (layer for layer in func.net if isinstance(layer, nn.Linear))
        w1, b1, w2, b2 = (jax.numpy.asarray(p.numpy()) for p in (first.weight, first.bias, second.weight, second.bias))
        term = diffrax.ODETerm(lambda t, u, args: 4 * (jax.numpy.tanh(u @ w1.T + b1) @ w2.T + b2))
        control = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
        start = jax.numpy.asarray(u0.numpy())

        @jax.jit
        def solve(u: Any) -> Any:
            found = diffrax.diffeqsolve(term, diffrax.Tsit5(), *SPAN, None, u, stepsize_controller=control)
            return found.ys[-1]

        return lambda: solve(start).block_until_ready()

    return against(run, "diffrax", make, "Tsit5, PIDController's defaults, compiled by jax.jit before it is timed")


@races("torchdyn")
def against_torchdyn(run: Run) -> Measurement:
    """Time its functional solver's Tsit5."""
    from torchdyn.numerics import odeint

    def make(func: Wide, u0: Tensor) -> Callable[[], Tensor]:
        span = torch.tensor(SPAN, dtype=u0.dtype)
        return lambda: odeint(func, u0, span, solver="tsit5", atol=TOLERANCE, rtol=TOLERANCE)[1][-1]

    return against(run, "torchdyn", make, "torchdyn.numerics.odeint with tsit5")


@races("torchsde")
def against_torchsde(run: Run) -> Measurement:
    """Find for each the loosest setting of a strong error, on geometric Brownian motion, and time both there."""
    import torchsde

    batch = run.at(smoke=8, desk=64, full=64)
    u0 = torch.ones(batch, 8, dtype=torch.float64)

    class Motion(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Any, u: Tensor) -> Tensor:
            return 0.1 * u

        def g(self, t: Any, u: Tensor) -> Tensor:
            return 0.8 * u

    motion, span = Motion(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    wanted, number = 5e-3, run.at(smoke=1, desk=3, full=10)

    def error(end: Tensor, w: Tensor) -> float:
        return float((end - (0.1 - 0.32 + 0.8 * w).exp()).abs().mean())

    def ours(tolerance: float, seed: int) -> tuple[Tensor, Tensor]:
        path = BrownianTree((batch, 8), (0.0, 1.0), seed)
        solution = solve_sde(motion.f, motion.g, u0, (0.0, 1.0), path, atol=tolerance, rtol=tolerance)
        return solution.states[-1], path(0.0, 1.0)[0]

    def theirs(dt: float, seed: int) -> tuple[Tensor, Tensor]:
        path = torchsde.BrownianInterval(0.0, 1.0, size=(batch, 8), dtype=torch.float64, entropy=seed,
                                         levy_area_approximation="space-time")  # fmt: skip
        return torchsde.sdeint(motion, u0, span, bm=path, method="srk", dt=dt)[-1], path(0.0, 1.0)

    def loosest(solve: Callable[[float, int], tuple[Tensor, Tensor]], values: Sequence[float]) -> tuple[float, float]:
        for value in values:
            worst = statistics.fmean(error(*solve(value, 100 + seed)) for seed in range(number))
            if worst <= wanted:
                return value, worst
        raise RuntimeError(f"no setting of {list(values)} comes to an error of {wanted}")

    with torch.no_grad():
        tolerance, mine = loosest(ours, [0.2 * 0.7**k for k in range(16)])
        dt, other = loosest(theirs, [1 / n for n in (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)])
        seed = iter(range(10_000))
        jobs = {"ours": lambda: ours(tolerance, next(seed)), "torchsde": lambda: theirs(dt, next(seed))}
        times = interleaved(run, jobs, run.at(smoke=1, desk=21, full=51))
    return Measurement(
        times.ratio("ours", "torchsde"),
        table=Table(["solver", "setting", "mean strong error", "seconds"],
                    [["SOSRI, adaptive", tolerance, mine, times.median("ours")],
                     ["torchsde SRK, fixed steps", dt, other, times.median("torchsde")]]),
        settings="srk with fixed steps, its best at this error, BrownianInterval with space-time Lévy area",
    )  # fmt: skip
