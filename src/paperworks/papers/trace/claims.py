"""What the paper reports of traces as a means to optimise workflows, measured without a language model."""

import contextlib
import importlib.util
import time
import types
from collections.abc import Callable
from statistics import median as middle
from typing import Any

import numpy as np

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    mean,
    measures,
    median,
    proportion,
    races,
    ratio,
)
from paperworks.optimization import (
    AutodiffPropagator,
    BayesOptimizer,
    ExecutionError,
    FiniteFeedbackOptimizer,
    Sandbox,
    SearchOptimizer,
    SymbolicInverse,
    TraceAutodiff,
    WorkflowOptimizer,
    batchify,
    bundle,
    minimal_subgraph,
    node,
)
from paperworks.papers.trace.arithmetic import Problem, Recipe, random_problem, random_recipe
from paperworks.papers.trace.battleship import SHOTS, Game, features, random_boards
from paperworks.papers.trace.bugs import BUGS, RAISING, Bug
from paperworks.papers.trace.examples import bad_replies, greeting, strange_sort
from paperworks.papers.trace.graphs import backward_seconds, bare, by_definition, chain, grid, no_collection
from paperworks.papers.trace.pendulum import mean_cost, remarks, roll
from paperworks.papers.trace.rivals import AWKWARD, imports, ours_reads, theirs_read


@measures("r1-backpropagation")
def backpropagation(run: Run) -> Measurement:
    """Compare gradients along the trace with those of torch on random graphs."""
    import torch

    rng, count = run.rng(), run.at(smoke=20, desk=200, full=1000)
    worst, sizes = 0.0, []
    for _ in run.progress(range(count), label="graphs"):
        recipe = random_recipe(rng)
        roots = [node(x, trainable=i < recipe.trainable) for i, x in enumerate(recipe.inputs)]
        total = _summed(recipe.run(roots, np), recipe)
        total.backward(1.0, propagator=AutodiffPropagator())
        tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in recipe.inputs]
        _summed(recipe.run(tensors, torch), recipe).backward()
        ours = np.array([sum(r.feedback) for r in roots[: recipe.trainable]])
        theirs = np.array([0.0 if t.grad is None else t.grad.item() for t in tensors[: recipe.trainable]])
        scale = max(float(np.linalg.norm(theirs)), 1e-300)
        worst = max(worst, float(np.linalg.norm(ours - theirs)) / scale)
        sizes.append(len(recipe.steps))
    return Measurement(exact(worst), remark=f"{count} graphs of {min(sizes)} to {max(sizes)} recipe steps.")


def _summed(values: list[Any], recipe: Recipe) -> Any:
    """Return the sum of the last nodes and of what every root adds, so that each parameter counts."""
    total = values[-1]
    for value in values[-4:-1]:
        total = total + value
    for root in values[: len(recipe.inputs)]:
        total = total + root * root
    return total


@measures("r2-cost", exclusive=True)
def cost(run: Run) -> Measurement:
    """Time the backward pass against the number of nodes, and compare subgraphs with the definition."""
    sizes = run.at(
        smoke=[100, 200, 400], desk=[100, 300, 1000, 3000, 10_000], full=[100, 300, 1000, 3000, 10_000, 30_000]
    )
    rounds, operations = run.repeats(smoke=2, desk=12, full=20), run.at(smoke=500, desk=5000, full=5000)
    exponents: dict[str, list[float]] = {"chain": [], "grid": []}
    at_800, per_operation = [], []
    table: dict[int, dict[str, list[float]]] = {size: {"chain": [], "grid": []} for size in sizes}
    makers = {"chain": chain, "grid": grid}
    for _ in run.progress(range(rounds), label="rounds"):
        for name, make in makers.items():
            seconds = [backward_seconds(make, size) for size in sizes]
            for size, s in zip(sizes, seconds, strict=True):
                table[size][name].append(s)
            exponents[name].append(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]))
        at_800.append(1e3 * backward_seconds(chain, run.at(smoke=200, desk=800, full=800)))
        with no_collection():
            started = time.perf_counter()
            chain(operations)
            per_operation.append((time.perf_counter() - started) / operations * 1e6)
    figure, axes = run.figure()
    for name in makers:
        axes.loglog(sizes, [1e3 * middle(table[s][name]) for s in sizes], "o-", label=name)
    axes.set(xlabel="nodes", ylabel="backward pass, ms")
    axes.legend()
    rows = [[s, *[1e3 * middle(table[s][name]) for name in makers]] for s in sizes]
    return Measurement(
        {
            "exponent": greatest([median(found, "rounds") for found in exponents.values()]),
            "backward_ms": median(at_800, "rounds"),
            "operation_us": median(per_operation, "rounds"),
            "mismatches": exact(_mismatches(run)),
        },
        table=Table(["nodes", "chain, ms", "grid, ms"], rows),
        figure=figure,
    )


def _mismatches(run: Run) -> int:
    rng, wrong = run.rng(), 0
    for _ in range(run.at(smoke=10, desk=500, full=2000)):
        recipe = random_recipe(rng, most=150)
        values = bare(recipe)
        found = {id(n) for n in minimal_subgraph(values[-1])}
        wrong += [id(v) in found for v in values] != by_definition(recipe)
    return wrong


# Problems with a target that is said.
RUNS = 10


def _solve(problem: Problem, make: Callable[[list[Any]], WorkflowOptimizer], speak: Callable[[float], Any]) -> int:
    """Return after how many runs of the workflow an output was on target, more than there are where none was."""
    parameters = [node(x, trainable=True, name="p") for x in problem.start]
    optimizer = make(parameters)
    for number in range(1, RUNS + 1):
        output = problem.run(parameters)
        if problem.solved(output.data):
            return number
        optimizer.zero_feedback()
        optimizer.backward(output, speak(output.data))
        try:
            optimizer.step()
        except ValueError:  # a gradient that is not finite: the optimiser has diverged
            break
    return RUNS + 1


def _climb(scale: float, seed: int) -> Callable[[list[Any]], WorkflowOptimizer]:
    return lambda parameters: SearchOptimizer(parameters, scale=scale, random_state=seed)


def _inverse(seed: int) -> Callable[[list[Any]], WorkflowOptimizer]:
    return lambda parameters: SymbolicInverse(parameters, random_state=seed)


def _adam(lr: float) -> Callable[[list[Any]], WorkflowOptimizer]:
    return lambda parameters: TraceAutodiff(parameters, lr, method="adam")


@measures("r3-traces-help")
def traces_help(run: Run) -> Measurement:
    """Solve problems by the trace, by a hill-climb that sees scores, and by Adam, in as many runs of the workflow."""
    tuning, rng = run.rng(run.seed + 10_000), run.rng()
    practice = [random_problem(tuning) for _ in range(run.at(smoke=2, desk=60, full=200))]
    problems = [random_problem(rng) for _ in range(run.repeats(smoke=10, desk=200, full=1000))]

    def climbed(problem: Problem, scale: float, seed: int) -> int:
        return _solve(problem, _climb(scale, seed), lambda y: -abs(y - problem.target))

    def by_adam(problem: Problem, lr: float) -> int:
        return _solve(problem, _adam(lr), lambda y: 2 * (y - problem.target))

    scale = max((0.1, 0.3, 0.6, 1.0), key=lambda s: sum(climbed(p, s, i) <= RUNS for i, p in enumerate(practice)))
    lr = max((0.03, 0.1, 0.3, 0.6, 1.0), key=lambda v: sum(by_adam(p, v) <= RUNS for p in practice))
    found: dict[str, list[int]] = {"trace": [], "score": [], "adam": []}
    for number, problem in enumerate(run.progress(problems, label="problems")):
        words = f"The output should be {problem.target!r}."
        found["trace"].append(_solve(problem, _inverse(run.seed), lambda _: words))  # noqa: B023  # called at once
        found["score"].append(climbed(problem, scale, number))
        found["adam"].append(by_adam(problem, lr))
    solved = {name: sum(n <= RUNS for n in runs) for name, runs in found.items()}
    figure, axes = run.figure()
    labels = {"trace": "the trace, solved", "score": f"hill-climb, scale {scale:g}", "adam": f"Adam, lr {lr:g}"}
    for name, runs in found.items():
        axes.step(range(1, RUNS + 1), [np.mean(np.array(runs) <= r) for r in range(1, RUNS + 1)], label=labels[name])
    axes.set(xlabel="runs of the workflow", ylabel="share solved to 1 %")
    axes.legend()
    rows = [[labels[name], solved[name] / len(problems), float(np.median(runs))] for name, runs in found.items()]
    return Measurement(
        {
            "with_trace": proportion(solved["trace"], len(problems), "problems"),
            "score_only": proportion(solved["score"], len(problems), "problems"),
        },
        table=Table(["optimiser", "share solved", "median runs"], rows),
        figure=figure,
        remark="Settings of the hill-climb and of Adam are the best on other problems.",
    )


def _policy() -> list[Any]:
    @bundle(trainable=True, sandbox=Sandbox(steps=1000))
    def target(beside, in_line):  # type: ignore[no-untyped-def]
        """Weigh cells by the hits beside them and by pairs of hits in line with them."""
        return 0.0 * beside + 0.0 * in_line

    @bundle(trainable=True, sandbox=Sandbox(steps=1000))
    def hunt(free, colour):  # type: ignore[no-untyped-def]
        """Weigh cells by their unknown neighbours and by their colour on the chessboard."""
        return 0.0 * free + 0.0 * colour

    return [target, hunt]


def _play(policy: list[Any], boards: np.ndarray, seed: int) -> tuple[Any, np.ndarray]:
    """Play all boards; return the node of the weights of the last shot, and the hits."""
    game, target, hunt = Game(boards, np.random.default_rng(seed)), *policy
    weights: list[Any] = []
    for number in range(SHOTS):  # code that divides by nothing gives weights that are no numbers, and plays badly
        beside, in_line, free, colour = features(game.hits, game.unknown)
        with np.errstate(all="ignore"):
            weights.append(target(beside, in_line) + hunt(free, colour))
        game.shoot(weights[-1].data, number)
    return batchify(*weights), game.score()


@measures("r4a-battleship")
def battleship(run: Run) -> Measurement:
    """Learn the code of a policy on some boards, and play others with it."""
    seeds, proposals = range(run.repeats(smoke=2, desk=8, full=10)), run.at(smoke=6, desk=300, full=300)
    held_out = run.at(smoke=40, desk=400, full=2000)
    gains, rows = [], []
    for seed in run.progress(seeds, label="seeds"):
        boards = random_boards(run.at(smoke=8, desk=40, full=100), run.rng(1000 + seed))
        others = random_boards(held_out, run.rng(50_000 + seed))
        policy, idle = _policy(), _policy()
        optimizer = SearchOptimizer([f.parameter for f in policy], random_state=seed, patience=None)
        for _ in range(proposals):
            try:
                output, hits = _play(policy, boards, seed)
                feedback: Any = (float(hits.mean()), f"{hits.mean():.2f} hits of 17 in {SHOTS} shots")
            except ExecutionError as error:
                output, feedback = error.node, (0.0, str(error))
            optimizer.zero_feedback()
            optimizer.backward(output, feedback)
            optimizer.step()
        optimizer.restore_best()
        ours, chance = (_play(p, others, 90_000 + seed)[1].mean() for p in (policy, idle))
        gains.append(float(ours / chance))
        rows.append([seed, float(chance), float(ours), "; ".join(f.source.splitlines()[-1].strip() for f in policy)])
    return Measurement(
        mean(gains, "searches"),
        table=Table(["seed", "hits by chance", "hits by the learned code", "learned code"], rows),
        remark=f"{proposals} proposals each.",
    )


def _repair(bug: Bug, seed: int, most: int, use_error_line: bool) -> int:
    """Return after how many proposals all tests pass, `most` where they never do."""
    function = bundle(trainable=True, sandbox=Sandbox(steps=2000), source=bug.source)(_named(bug.name))
    optimizer = SearchOptimizer(
        [function.parameter], goal=1.0, random_state=seed, patience=None, use_error_line=use_error_line, explore=0.5
    )
    for proposal in range(most + 1):
        outputs, failed, passed = [], None, 0
        for arguments, wanted in bug.tests:
            try:
                output = function(*arguments)
            except ExecutionError as error:
                failed = error.node if failed is None else failed
                continue
            outputs.append(output)
            passed += output.data == wanted and type(output.data) is type(wanted)
        optimizer.zero_feedback()
        said = f"{passed} of {len(bug.tests)} pass"
        optimizer.backward(batchify(*outputs) if failed is None else failed, (passed / len(bug.tests), said))
        optimizer.step()
        if optimizer.status == "solved":
            return proposal
        if optimizer.status == "stalled":
            break
    return most


def _named(name: str) -> Any:
    """Return an empty function of a name, which its given source replaces."""
    space: dict[str, Any] = {"__name__": __name__}
    function = types.FunctionType((lambda *values: None).__code__, space, name)
    function.__module__ = __name__
    return function


@measures("r4b-repairs")
def repairs(run: Run) -> Measurement:
    """Repair functions by mutations, with and without the line of the error."""
    seeds, most = range(run.repeats(smoke=1, desk=12, full=20)), run.at(smoke=15, desk=200, full=200)
    bugs = run.at(smoke=BUGS[:3] + BUGS[-2:], desk=BUGS, full=BUGS)
    raising = {b.name for b in RAISING}
    with_line: dict[str, list[int]] = {b.name: [] for b in bugs}
    without: dict[str, list[int]] = {b.name: [] for b in bugs if b.name in raising}
    for seed in run.progress(seeds, label="seeds"):
        for bug in bugs:
            with_line[bug.name].append(_repair(bug, run.seed + seed, most, True))
            if bug.name in raising:
                without[bug.name].append(_repair(bug, run.seed + seed, most, False))
    counts = np.array(list(with_line.values()))
    pairs = [np.array([table[name] for name in without]).T for table in (with_line, without)]
    rows = [
        [b, float(np.median(n)), float(np.median(without[b])) if b in without else "–"] for b, n in with_line.items()
    ]
    quiet = [n for b, n in with_line.items() if b not in raising]
    return Measurement(
        {
            "repaired": every((counts < most).mean(axis=0).tolist(), "seeds"),
            "over_no_error_line": bootstrap(
                lambda ours, theirs: np.median(theirs) / np.median(ours), pairs[0], pairs[1], of="seeds"
            ),
        },
        table=Table(["function", "median proposals", "without the error line"], rows),
        remark=f"Of those that only return a wrong value {np.mean(np.array(quiet) < most):.0%} are repaired.",
    )


@measures("r4c-hyperparameters")
def hyperparameters(run: Run) -> Measurement:
    """Tune a support vector machine in 25 trials, and compare with a grid."""
    points, trials = run.at(smoke=2, desk=20, full=20), run.at(smoke=3, desk=25, full=25)
    seeds, samples = range(run.repeats(smoke=1, desk=8, full=20)), run.at(smoke=60, desk=600, full=600)
    low, high = np.array([1e-2, 1e-5]), np.array([1e4, 1e-1])

    def on_grid() -> float:
        Cs, gammas = (np.geomspace(a, b, points) for a, b in zip(low, high, strict=True))
        return max(accuracy(float(C), float(g), samples) for C in Cs for g in gammas)

    best = run.cached("svc-grid", on_grid, points=points, samples=samples)
    gaps = []
    for seed in run.progress(seeds, label="seeds"):
        C = node(1.0, trainable=True, name="C", bounds=(low[0], high[0]))
        gamma = node(1e-3 * 3 ** (seed % 3 - 1), trainable=True, name="gamma", bounds=(low[1], high[1]))
        traced = bundle(lambda C, gamma: accuracy(C, gamma, samples))
        optimizer = BayesOptimizer([C, gamma], random_state=seed, patience=None)
        for _ in range(trials):
            output = traced(C, gamma)
            optimizer.zero_feedback()
            optimizer.backward(output, output.data)
            optimizer.step()
        gaps.append(100 * (best - float(optimizer.best_score or 0.0)))
    return Measurement(mean(gaps, "searches"), unit="points", remark=f"The grid's best accuracy is {best:.4f}.")


def accuracy(C: float, gamma: float, samples: int) -> float:
    """Return the accuracy of a support vector machine on digits over three folds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import SVC

    X, y = load_digits(return_X_y=True)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return float(cross_val_score(SVC(C=C, gamma=gamma), X[:samples], y[:samples], cv=folds).mean())


BOUNDS = {"pump": (0.0, 5.0), "pull": (0.0, 40.0), "brake": (0.0, 10.0)}


def _tuned(seed: int, steps: int, make: Callable[[list[Any]], WorkflowOptimizer], words: bool) -> list[float]:
    """Return gains after as many steps of three rollouts each, from a poor start; the last have no rollout after."""
    rng = np.random.default_rng(seed)
    start = {"pump": rng.uniform(0.01, 0.1), "pull": rng.uniform(0.5, 3.0), "brake": rng.uniform(0.1, 5.0)}
    gains = [node(float(v), trainable=True, name=k, bounds=BOUNDS[k]) for k, v in start.items()]
    optimizer = make(gains)
    swing = bundle(lambda *values: [roll(values, 1000 * seed + i) for i in range(3)])
    costs, tried = [], []
    for _ in range(steps):
        output = swing(*gains)
        costs.append(sum(r.cost for r in output.data) / 3)
        tried.append([g.data for g in gains])
        optimizer.zero_feedback()
        optimizer.backward(output, remarks(output.data) if words else -costs[-1])
        optimizer.step()
        if optimizer.status != "running":
            break
    return tried[int(np.argmin(costs))]


@measures("r4d-controller")
def controller(run: Run) -> Measurement:
    """Tune gains by an observer's words and by the score, with as many rollouts."""
    steps, count = run.at(smoke=3, desk=10, full=10), run.repeats(smoke=1, desk=30, full=60)
    judged = run.at(smoke=2, desk=8, full=20)

    def searched(seed: int, scale: float) -> list[float]:
        return _tuned(seed, steps, lambda gains: SearchOptimizer(gains, scale=scale, random_state=seed), False)

    practice = range(700, 700 + run.at(smoke=1, desk=5, full=10))
    scales = run.at(smoke=(0.3,), desk=(0.1, 0.2, 0.4), full=(0.05, 0.1, 0.2, 0.4))
    scale = min(scales, key=lambda s: sum(mean_cost(searched(i, s), range(90_000, 90_002)) for i in practice))
    ours, theirs, rows = [], [], []
    for seed in run.progress(range(count), label="seeds"):
        spoken = _tuned(seed, steps, lambda gains: FiniteFeedbackOptimizer(gains), True)
        scored = searched(seed, scale)
        starts = range(500_000 + 100 * seed, 500_000 + 100 * seed + judged)
        ours.append(mean_cost(spoken, starts))
        theirs.append(mean_cost(scored, starts))
        rows.append([seed, ours[-1], theirs[-1], ", ".join(f"{g:.2f}" for g in spoken)])
    return Measurement(
        bootstrap(lambda a, b: np.mean(a) / np.mean(b), ours, theirs, of="seeds"),
        table=Table(["seed", "cost by words", "cost by score", "gains by words"], rows),
        remark=f"{3 * steps} rollouts each at most; the search by score has its best scale of other seeds, {scale:g}.",
    )


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@measures("r5-overhead", exclusive=True)
def overhead(run: Run) -> Measurement:
    """Time a workflow with and without a trace, follow scripts to the letter, and ask a server that misbehaves."""
    operations = run.at(smoke=20, desk=50, full=200)

    def work(x: float, y: float) -> float:
        total = x
        for k in range(WORK):
            total = total + y * k
        return total

    traced = bundle(work)
    a = node(1.0, trainable=True)

    def with_trace() -> Any:
        x: Any = a
        for _ in range(operations):
            x = traced(x, 1e-9)
        return x

    def plain() -> float:
        x = 1.0
        for _ in range(operations):
            x = work(x, 1e-9)
        return x

    times = interleaved(run, {"traced": with_trace, "plain": plain}, run.at(smoke=3, desk=30, full=60))
    ratios = [t / p - 1 for t, p in zip(times.seconds["traced"], times.seconds["plain"], strict=True)]
    handled, rows = bad_replies()
    return Measurement(
        {
            "overhead": median(ratios, "paired rounds"),
            "scripted_exact": every([greeting(), strange_sort()], "examples"),
            "replies_handled": every(list(handled), "replies"),
        },
        table=Table(["reply of the server", "what came of it"], rows),
        remark=f"An operation takes {1e3 * times.median('plain') / operations:.2f} ms.",
    )


WORK = 25_000  # turns of a loop that take about 1 ms


# Races.
@races("trace-opt")
def against_trace_opt(run: Run) -> Measurement:
    """Trace, go backward and parse by the authors' package."""
    with contextlib.redirect_stderr(None):
        import opto.trace as theirs

    size = run.at(smoke=100, desk=800, full=800)

    def their_chain(length: int) -> Any:
        theirs.GRAPH.clear()
        a, b = theirs.node(1.0, trainable=True), theirs.node(1e-4)
        x = a
        for i in range(length):
            x = x + b if i % 2 else x * b
        return x

    rounds = run.repeats(smoke=2, desk=8, full=12)
    backward: dict[str, list[float]] = {"ours": [], "theirs": []}
    operation: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in run.progress(range(rounds), label="rounds"):
        for name, make in {"ours": chain, "theirs": their_chain}.items():
            backward[name].append(backward_seconds(make, size, tries=2))
            with no_collection():
                started = time.perf_counter()
                make(size)
                operation[name].append((time.perf_counter() - started) / size)
    loading = imports(run, "opto.trace")
    reads = {"ours": [ours_reads(a) for a in AWKWARD], "theirs": theirs_read()}
    rows = [
        [name, 1e3 * middle(backward[name]), 1e6 * middle(operation[name]), middle(loading[name]), sum(reads[name])]
        for name in ("ours", "theirs")
    ]
    columns = ["package", f"backward at {size}, ms", "operation, µs", "import, s", f"read of {len(AWKWARD)} answers"]
    return Measurement(
        {
            "backward": ratio(backward["ours"], backward["theirs"]),
            "operation": ratio(operation["ours"], operation["theirs"]),
            "import": ratio(loading["ours"], loading["theirs"]),
            "parsing": exact((sum(reads["theirs"]) - sum(reads["ours"])) / len(AWKWARD)),
        },
        table=Table(
            columns,
            rows,
        ),
        settings="a chain of sums and products; the garbage collector is off while both are timed",
    )


def _import_race(run: Run, module: str) -> Measurement:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{module} is not installed")
    times = imports(run, module)
    rows = [[name, middle(found)] for name, found in times.items()]
    return Measurement(
        ratio(times["ours"], times["theirs"]),
        table=Table(["package", "s of a fresh process"], rows),
        settings="the package alone; the start of Python counts for both",
    )


@races("textgrad")
def against_textgrad(run: Run) -> Measurement:
    """Import TextGrad in a fresh process."""
    return _import_race(run, "textgrad")


@races("dspy")
def against_dspy(run: Run) -> Measurement:
    """Import DSPy in a fresh process."""
    return _import_race(run, "dspy")


@races("agentlightning")
def against_agentlightning(run: Run) -> Measurement:
    """Import Agent Lightning in a fresh process."""
    return _import_race(run, "agentlightning")
