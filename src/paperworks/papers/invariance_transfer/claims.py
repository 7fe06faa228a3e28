"""What the paper proves and reports of stable predictors, measured on its graph, exact models and simulations."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import chdir
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import networkx as nx
import numpy as np
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.neural_network import MLPRegressor

from paperworks.evidence import Measurement, Run, Table, every, exact, interleaved, mean, measures, races
from paperworks.inference import (
    CausalGraph,
    DiscreteSCM,
    EquivalenceClass,
    MinimaxInvariantRegressor,
    StablePredictor,
    WorstCaseRisk,
    core,
    full_set_counterexample,
    stable_equivalence_classes,
)
from paperworks.papers.invariance_transfer.environments import (
    STABLE_EDGES,
    Columns,
    Linear,
    anchor_regression,
    edges,
    invariant_prediction,
    invariant_risk,
    least_squares,
    paper_graph,
    pooled,
    simulate,
    standardised,
)

STABLE_GRAPH = CausalGraph.from_edges(edges(STABLE_EDGES))


def published_classes() -> set[frozenset[frozenset[Hashable]]]:
    """Read the classes that the authors' code found on the paper's graph, one a line, each subset by its digits.

    They are those of cache/eqclses.json of github.com/lmz123321/which_invariance (MIT licence).
    """
    text = Path(__file__).with_name("published_classes.txt").read_text()
    return {
        frozenset(frozenset(f"X{digit}" for digit in subset if digit != "0") for subset in line.split())
        for line in text.splitlines()
    }


class Counting(CausalGraph):
    """A graph that counts its tests of d-separation."""

    tests = 0

    def connected_bits(self, start: int, given: int) -> int:
        self.tests += 1
        return super().connected_bits(start, given)


@measures("i1-class-search")
def class_search(run: Run) -> Measurement:
    """Find the classes of the paper's graph, of chains, and of random graphs whose subsets are all looked at."""
    rows = []

    def search(name: str, graph: CausalGraph) -> list[EquivalenceClass]:
        counting = Counting(graph.nodes, graph.edges)
        classes = list(stable_equivalence_classes(counting))
        subsets = sum(one.size for one in classes)
        rows.append([name, len(graph.nodes) - 1, len(classes), subsets, counting.tests, released_tests(graph)])
        return classes

    classes = search("the paper's", STABLE_GRAPH)
    list_mismatches = len({frozenset(one) for one in classes} ^ published_classes())
    chains = run.at(smoke=[5, 10], desk=[5, 10, 20], full=[5, 10, 20, 50])
    chain_mismatches = 0
    for d in chains:
        chain = CausalGraph.from_edges(pairwise(["Y", *range(d)]))
        found = search(f"chain of {d}", chain) if d <= 10 else list(stable_equivalence_classes(chain))
        chain_mismatches += len(found) != d + 1 or {len(one.core) for one in found} != {0, 1}
    rng, mismatches = run.rng(), 0
    most, graphs = run.at(smoke=6, desk=10, full=12), run.at(smoke=20, desk=500, full=500)
    counts = []
    for _ in run.progress(range(graphs), label="random graphs"):
        graph = random_graph(rng, most)
        members = {subset: one.core for one in stable_equivalence_classes(graph) for subset in one}
        nodes = [node for node in graph.nodes if node != "Y"]
        brute = {subset: core(graph, "Y", subset) for subset in powerset(nodes)}
        mismatches += members != brute
        counts.append((len(set(members.values())), len(brute)))
    work = rows[0][-1] / rows[0][-2]
    return Measurement(
        {
            "classes": exact(len(classes)),
            "subsets": exact(sum(one.size for one in classes)),
            "list_mismatches": exact(list_mismatches),
            "chain_mismatches": exact(chain_mismatches),
            "random_mismatches": exact(mismatches),
        },
        table=Table(
            ["graph", "nodes", "classes", "subsets", "tests of d-separation", "tests of the released search"], rows
        ),
        remark=(
            f"The released search makes {work:.0f} times as many tests on the paper's graph. Random graphs have "
            f"{np.mean([c / s for c, s in counts]):.0%} as many classes as subsets on average."
        ),
    )


def powerset(nodes: Iterable[Hashable]) -> Iterator[frozenset[Hashable]]:
    """Yield all subsets."""
    names = list(nodes)
    for size in range(len(names) + 1):
        yield from map(frozenset, combinations(names, size))


def random_graph(rng: np.random.Generator, most: int) -> CausalGraph:
    """Draw a sparse graph of the target and at most `most` - 1 other nodes."""
    names = ["Y", *(f"V{i}" for i in range(rng.integers(1, most)))]
    order = [names[i] for i in rng.permutation(len(names))]
    share = min(1.0, 1.5 / (len(names) - 1))
    return CausalGraph.from_edges([pair for pair in combinations(order, 2) if rng.random() < share], names)


def released_tests(graph: CausalGraph) -> int:
    """Count the tests of d-separation by which the released search finds the ancestral graphs it needs.

    For each pair of observed nodes without an edge it tries all sets of other observed nodes by size, up to the first
    that separates of each size. Its further tests, which direct edges, are not counted.
    """

    def visit(L: frozenset[Hashable], C: frozenset[Hashable]) -> int:
        observed = [node for node in graph.nodes if node not in L | C]
        tests = 0
        adjacent = set()
        for x, y in combinations(observed, 2):
            joined = y in graph.children(x) or x in graph.children(y)
            if not joined:
                tests += 1
                if graph.d_separated(x, y, C):
                    continue
                joined = True
                others = [node for node in observed if node not in (x, y)]
                for size in range(1, len(others) + 1):
                    for given in combinations(others, size):
                        tests += 1
                        if graph.d_separated(x, y, {*given, *C}):
                            joined = False
                            break
            if joined and "Y" in (x, y):
                adjacent.add(y if x == "Y" else x)
        if adjacent:
            tests += sum(visit(L | (adjacent - chosen), C | chosen) for chosen in powerset(sorted(adjacent, key=str)))
        return tests

    return visit(frozenset(), frozenset())


@measures("i2-full-set-not-optimal")
def full_set_not_optimal(run: Run) -> Measurement:
    """Compare exact risks of a model of three binary variables, and let an ascent find the interventions."""
    model = full_set_counterexample()
    known = {("S1",): 0.106, (): 0.09}
    rows = []
    for subset, risk in known.items():
        enumerated, climbed = model.worst_case_risk(subset), model.worst_case_risk(subset, "ascent")
        rows.append(
            [", ".join(subset) or "none", enumerated.risk, abs(enumerated.risk - risk), climbed.risk / enumerated.risk]
        )
    return Measurement(
        {"risk_error": exact(max(row[2] for row in rows)), "ascent_to_exact": exact(min(row[3] for row in rows))},
        table=Table(["stable variables", "worst-case risk", "error", "ascent / exact"], rows),
    )


@measures("i3-graphical-condition")
def graphical_condition(run: Run) -> Measurement:
    """Enumerate random binary models, and compare the full set with all subsets."""
    models, rng = run.at(smoke=30, desk=200, full=1000), run.rng()
    excess: dict[bool, list[float]] = {True: [], False: []}
    for _ in run.progress(range(models), label="models that satisfy the condition"):
        satisfied = False
        while not satisfied:
            model = random_model(rng)
            parts = model.components
            satisfied = parts.is_full_set
            risks = {subset: model.worst_case_risk(subset).risk for subset in powerset(parts.X_S)}
            excess[satisfied].append(risks[frozenset(parts.X_S)] - min(risks.values()))
    rows = [
        ["holds" if satisfied else "fails", len(e), float(max(e, default=0.0)), float(np.mean(np.array(e) > 1e-9))]
        for satisfied, e in excess.items()
    ]
    return Measurement(
        every(excess[True], "models"),
        table=Table(
            ["condition", "models", "largest excess risk of the full set", "share where it is not optimal"], rows
        ),
    )


def random_model(rng: np.random.Generator) -> DiscreteSCM:
    """Draw a binary model of three to six variables, some mutable, whose interventions are few enough to enumerate."""
    while True:
        names = ["Y", *(f"V{i}" for i in range(rng.integers(2, 6)))]
        order = [names[i] for i in rng.permutation(len(names))]
        drawn = [pair for pair in combinations(order, 2) if rng.random() < 0.5]
        mutable = [name for name in names[1:] if rng.random() < 0.4]
        graph = CausalGraph.from_edges([*drawn, *(("E", name) for name in mutable)], names)
        parents = {name: sum(effect == name for _, effect in drawn) for name in names}
        if mutable and len(mutable) < len(names) - 1 and sum(sorted(2 ** parents[m] for m in mutable)[:-1]) <= 8:
            tables = {name: 2 if name in mutable else rng.dirichlet([1, 1], [2] * parents[name]) for name in names}
            return DiscreteSCM(graph, tables)


class Recipe(NamedTuple):
    """How predictors are learned."""

    name: str
    regressor: Any
    cut: Literal["X_M", "X_do"]


def recipes(steps: int, samples: int) -> list[Recipe]:
    """Return the paper's way to learn predictors, and the one that is default here."""
    network = MLPRegressor(
        hidden_layer_sizes=(12,), activation="logistic", alpha=0, batch_size=samples, learning_rate_init=0.02,
        max_iter=steps, tol=0, n_iter_no_change=10**9, random_state=0,
    )  # fmt: skip
    return [Recipe("ours", None, "X_M"), Recipe("the paper's", network, "X_do")]


class Outcome(NamedTuple):
    """Largest test errors of one split, and for each class the predicted worst case and the one met."""

    selected: float
    full: float
    best: float
    predicted: np.ndarray
    met: np.ndarray

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation over classes of predicted worst cases and largest test errors."""
        return float(stats.spearmanr(self.predicted, self.met)[0])


def worst_test_error(predict: Callable[[Columns], np.ndarray], tests: list[Columns]) -> float:
    """Return the largest mean squared error over test environments."""
    return max(float(np.mean((test["Y"] - predict(test)) ** 2)) for test in tests)


def select_and_test(recipe: Recipe, ascent: WorstCaseRisk, train: Columns, tests: list[Columns]) -> Outcome:
    """Choose stable variables on the training environments; test the choice, all classes and the full set."""
    graph = paper_graph()
    options = {"regressor": recipe.regressor, "cut": recipe.cut}
    chosen = MinimaxInvariantRegressor(graph, worst_case=ascent, **options).fit(train, train["Y"])
    met = np.array([worst_test_error(predictor.predict, tests) for predictor in chosen.predictors_])
    full = StablePredictor(graph, **options).fit(train, train["Y"])
    return Outcome(
        selected=worst_test_error(chosen.predict, tests),
        full=worst_test_error(full.predict, tests),
        best=float(met.min()),
        predicted=np.array([risk.risk for risk in chosen.risks_]),
        met=met,
    )


@measures("i4-worst-environment")
def worst_environment(run: Run) -> Measurement:
    """Train in ten of the paper's twenty environments, and test in the other ten.

    What is learned has the paper's hundred samples of an environment. Its risks are of the environments themselves: a
    hundred samples more would rank classes by which ones were drawn.
    """
    splits, rng = run.repeats(smoke=1, desk=5, full=20), run.rng()
    n, n_test = run.at(smoke=30, desk=100, full=100), run.at(smoke=200, desk=10_000, full=10_000)
    learners = recipes(run.at(smoke=50, desk=300, full=10_000), samples=10 * n)
    ascent = WorstCaseRisk(steps=run.at(smoke=10, desk=100, full=300))
    outcomes: dict[str, list[Outcome]] = {recipe.name: [] for recipe in learners}
    rivals: dict[str, list[float]] = {}
    for _ in run.progress(range(splits), label="splits"):
        environments = simulate(rng, n)
        chosen = rng.permutation(20)[:10]
        raw = pooled(environments[i] for i in chosen)
        train = standardised(raw, raw)
        unseen = simulate(rng, n_test)
        tests = [standardised(unseen[i], raw) for i in range(20) if i not in chosen]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the paper's networks have a fixed number of steps
            for recipe in learners:
                outcomes[recipe.name].append(select_and_test(recipe, ascent, train, tests))
        for name, error in _rival_errors(train, np.repeat(chosen, n), tests).items():
            rivals.setdefault(name, []).append(error)
    rows: list[list[Any]] = []
    for name, each in outcomes.items():
        of_each = [float(np.mean([getattr(o, field) for o in each])) for field in ("selected", "full", "best")]
        rank = float(np.mean([o.rank_correlation for o in each]))
        rows += [[f"{name}, selected", of_each[0], rank], [f"{name}, full set", of_each[1], rank]]
        rows += [[f"{name}, best class by its test errors", of_each[2], rank]]
    rows += [[name, float(np.mean(errors)), None] for name, errors in rivals.items()]
    decisive = outcomes["the paper's"]
    figure, panels = run.figure(1, len(outcomes), sharey=True)
    for axes, (name, each) in zip(panels, outcomes.items(), strict=True):
        for o in each:
            axes.plot(o.predicted, o.met, "o", markersize=3, alpha=0.6)
        axes.set(xlabel="predicted worst case", title=f"recipe: {name}")
    panels[0].set_ylabel("largest test error")
    return Measurement(
        {
            "selected_minus_full": mean([o.selected - o.full for o in decisive], "splits"),
            "rank_correlation": mean([o.rank_correlation for o in decisive], "splits"),
        },
        table=Table(["predictor", "largest test error", "rank correlation of risk and test error"], rows),
        figure=figure,
        remark=(
            f"Standardised errors. By the paper's recipe predicted worst cases are above those met in "
            f"{np.mean([np.mean(o.predicted >= o.met) for o in decisive]):.0%} of classes."
        ),
    )


def _rival_errors(train: Columns, env: np.ndarray, tests: list[Columns]) -> dict[str, float]:
    names = [name for name in train if name != "Y"]

    def matrix(columns: Columns) -> np.ndarray:
        return np.stack([columns[name] for name in names], axis=1)

    X, y = matrix(train), train["Y"]
    kept = list(invariant_prediction(X, y, env))
    subset = least_squares(X[:, kept], y)
    fits: dict[str, Linear] = {
        "mean of training data": lambda inputs: np.zeros(len(inputs)),
        "ordinary least squares": least_squares(X, y),
        "anchor regression": anchor_regression(X, y, env),
        "invariant risk minimisation": invariant_risk(X, y, env),
        "invariant causal prediction": lambda inputs: subset(inputs[:, kept]),
    }
    return {
        name: worst_test_error(lambda test, fit=fit: fit(matrix(test)), tests)  # type: ignore[misc]
        for name, fit in fits.items()
    }


@measures("i5-real-data")
def real_data(run: Run) -> Measurement:
    """Hold out each third of ages of the diabetes data, with a causal graph that is assumed.

    Sex and weight act on blood values and progression, blood values on one another and on progression; age changes how
    blood pressure and glucose come about. Progression is measured a year later and causes none of them, so that the
    graphical condition holds and the full set is optimal.
    """
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    columns = dict(zip(data.feature_names, data.data.T, strict=True))
    age, y = columns.pop("age"), (data.target - data.target.mean()) / data.target.std()
    graph = CausalGraph.from_edges(
        [
            *edges("sex>bmi sex>bp bmi>bp bmi>s6 bmi>s1 bmi>s3 bmi>s5 sex>s3 s1>s2 s1>s4 s3>s4 s1>s5 s3>s5 s5>s6"),
            *[(cause, "Y") for cause in ("sex", "bmi", "bp", "s3", "s5", "s6")],
            *edges("age>bp age>s6"),
        ]
    )
    third = np.digitize(age, np.quantile(age, [1 / 3, 2 / 3]))
    rows = []
    for held_out in run.progress(range(3), label="thirds"):
        train, test = third != held_out, third == held_out
        seen, unseen = ({name: column[mask] for name, column in columns.items()} for mask in (train, test))
        stable = MinimaxInvariantRegressor(graph, regressor=LinearRegression(), env="age").fit(seen, y[train])
        X = np.stack(list(columns.values()), axis=1)
        ridge = RidgeCV(np.logspace(-4, 2, 13)).fit(X[train], y[train])
        predictions = {"ours": stable.predict(unseen), "ridge": ridge.predict(X[test])}
        errors = {name: float(np.mean((y[test] - p) ** 2)) for name, p in predictions.items()}
        rows.append([["youngest", "middle", "oldest"][held_out], len(stable.subset_), *errors.values()])
    worst = [max(row[k] for row in rows) for k in (2, 3)]
    return Measurement(
        {"reported": exact(True)},
        table=Table(["third held out", "stable variables used", "error, ours", "error, ridge"], rows),
        remark=f"Largest standardised error: ours {worst[0]:.3f}, ridge {worst[1]:.3f}.",
    )


@races("networkx")
def against_networkx(run: Run) -> Measurement:
    """Run the same recursion on graphs of networkx."""
    graphs = [STABLE_GRAPH, *(random_graph(run.rng(), 10) for _ in range(run.at(smoke=1, desk=20, full=50)))]
    references = [graph.to_networkx() for graph in graphs]

    def ours() -> list[int]:
        return [sum(1 for _ in stable_equivalence_classes(graph)) for graph in graphs]

    def theirs() -> list[int]:
        return [_count_classes(reference, frozenset(), frozenset()) for reference in references]

    same = ours() == theirs()
    jobs: dict[str, Callable[[], Any]] = {"ours": ours, "theirs": theirs}
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=15))
    return Measurement(
        times.ratio("ours", "theirs"),
        table=Table(["job", "seconds"], [[name, s] for name, s in times.medians().items()]),
        remark=f"Numbers of classes of {len(graphs)} graphs are {'the same' if same else 'different'}.",
    )


def _count_classes(graph: nx.DiGraph, L: frozenset[Hashable], C: frozenset[Hashable]) -> int:
    observed = set(graph) - L - C - {"Y"}

    def inseparable(x: Hashable) -> bool:
        causes = set().union(*(nx.ancestors(graph, node) | {node} for node in (x, "Y", *C)))
        return not nx.is_d_separator(graph, {x}, {"Y"}, causes & observed - {x} | C)

    adjacent = frozenset(x for x in observed if inseparable(x))
    if not adjacent:
        return 1
    return sum(_count_classes(graph, L | (adjacent - chosen), C | chosen) for chosen in powerset(adjacent))


@races("which-invariance")
def against_released(run: Run) -> Measurement:
    """Find the classes of the paper's graph by the authors' code."""
    recover, DAG, folder = load_official()
    graph = DAG(arcs=set(STABLE_GRAPH.edges))

    def theirs() -> Any:
        with chdir(folder):
            return recover(graph)

    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: list(stable_equivalence_classes(STABLE_GRAPH)),
        "theirs": theirs,
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=8, full=9))
    return Measurement(
        times.ratio("ours", "theirs"),
        table=Table(["code", "seconds"], [[name, s] for name, s in times.medians().items()]),
        remark=f"It finds {len(theirs())} classes.",
    )


def load_official() -> tuple[Callable[[Any], Any], Any, Path]:
    """Load the authors' search from the checkout that PAPERWORKS_WHICH_INVARIANCE names; it needs R with ggm and rpy2.

    Raises
    ------
    ImportError
        Where the variable isn't set, the folder holds no such file, or something the code needs is missing.
    """
    root = os.environ.get("PAPERWORKS_WHICH_INVARIANCE", "")
    found = sorted(Path(root).rglob("eqcls_search.py")) if root else []
    if not found:
        raise ImportError(
            f"PAPERWORKS_WHICH_INVARIANCE is {root!r}; it takes the folder of a checkout of "
            "github.com/lmz123321/which_invariance, and R with ggm, rpy2 and graphical_models"
        )
    folder = found[0].parent
    sys.path[:0] = [str(folder), str(folder.parent / "utils")]
    try:
        with chdir(folder):
            search = importlib.import_module("eqcls_search")
        return search.recover, search.DAG, folder
    finally:
        del sys.path[:2]
