"""What the paper proves about private answers over time, measured on streams that are hard for its mechanisms."""

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from sklearn.datasets import load_digits

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    least,
    mean,
    measures,
    median,
    proportion,
    races,
    ratio,
)
from paperworks.inference import (
    AdaptivePrivacyGame,
    ContinualMechanism,
    FactorizationCounter,
    NoisyAnswers,
    PrivateMultiplicativeWeights,
    RecomputeMaxSum,
    RecomputeSumSelect,
    ReusableHoldout,
    SparseVector,
    TreeCounter,
    TreeMaxSum,
    TreeSumSelect,
    auto_mechanism,
    lower_bound_rate,
    marginals_from_maxsum,
    marginals_from_sumselect,
    tracing_scores,
)

RHO = 0.5


def leader_switch(T: int) -> np.ndarray:
    """Return a stream of which one coordinate leads until the other, which begins after a third, overtakes it."""
    late = np.arange(T) >= T // 3
    return np.stack([~late, late], axis=1).astype(int)


def alternating(T: int, window: int) -> np.ndarray:
    """Return a stream whose two sums stay near each other and take turns to lead."""
    turn = np.arange(T) // window % 2
    return np.stack([turn == 0, turn == 1], axis=1).astype(int)


def largest_errors(mechanism: ContinualMechanism, stream: np.ndarray, repeats: int) -> np.ndarray:
    """Return the largest error over the stream in each of so many releases."""
    sums = np.cumsum(stream, axis=0)
    largest = sums.max(axis=1)
    selects = isinstance(mechanism, RecomputeSumSelect | TreeSumSelect)
    times = np.arange(len(stream))
    errors = []
    for _ in range(repeats):
        answers = mechanism.release(stream)
        error = largest - sums[times, answers] if selects else np.abs(np.ravel(answers) - largest)
        errors.append(error.max())
    return np.array(errors)


def slope(T: Sequence[int], errors: Sequence[float]) -> float:
    """Return the log-log slope of errors over horizons."""
    return float(np.polyfit(np.log(T), np.log(errors), 1)[0])


@measures("d1-cube-root")
def cube_root(run: Run) -> Measurement:
    """Release the hardest streams of many lengths by recomputing."""
    horizons = [2**k for k in run.at(smoke=(8, 10), desk=range(10, 21, 2), full=range(10, 25, 2))]
    repeats = run.repeats(smoke=3, desk=200, full=1000)
    names = ("MaxSum, all ones", "SumSelect, one switch", "SumSelect, alternating")
    errors: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows, within = [], []
    for T in run.progress(horizons, label="lengths"):
        maxsum = RecomputeMaxSum(T, rho=RHO, random_state=run.rng())
        select = RecomputeSumSelect(T, 2, rho=RHO, random_state=run.rng())
        streams = {
            "MaxSum, all ones": (maxsum, np.ones((T, 1), dtype=int)),
            "SumSelect, one switch": (select, leader_switch(T)),
            "SumSelect, alternating": (select, alternating(T, 2 * select.r)),
        }
        for name, (mechanism, stream) in streams.items():
            found = largest_errors(mechanism, stream, repeats)
            errors[name].append(found)
            within.append(proportion(int(np.sum(found <= mechanism.error_bound())), repeats, "releases"))
            rows.append([name, T, mechanism.r, float(found.mean()), mechanism.error_bound(), within[-1].value])
    means = {name: [float(found.mean()) for found in values] for name, values in errors.items()}
    slopes = {name: slope(horizons, values) for name, values in means.items()}
    without_log = slope(
        horizons, [e / math.log(T) ** (2 / 3) for T, e in zip(horizons, means["SumSelect, alternating"], strict=True)]
    )

    def slope_of(*columns: np.ndarray) -> float:
        return slope(horizons, [column.mean() for column in columns])

    figure, axes = run.figure()
    for name, values in means.items():
        axes.loglog(horizons, values, "o-", label=f"{name}: slope {slopes[name]:.3f}")
    axes.loglog(horizons, [means["MaxSum, all ones"][0] * (T / horizons[0]) ** (1 / 3) for T in horizons], "k:")
    axes.set(
        xlabel="length of the stream", ylabel="mean largest error", title="Recomputing: the price grows as a cube root"
    )
    axes.legend()
    return Measurement(
        {
            "maxsum_slope": bootstrap(slope_of, *errors["MaxSum, all ones"], of="releases"),
            "sumselect_slope": bootstrap(slope_of, *errors["SumSelect, one switch"], of="releases"),
            "runs_within_bound": least(within),
        },
        table=Table(["problem, stream", "T", "r", "mean largest error", "bound", "share within"], rows),
        figure=figure,
        remark=(
            f"On the alternating stream, whose every release is a near tie, the slope is "
            f"{slopes['SumSelect, alternating']:.3f}, and {without_log:.3f} after division by log(T)^(2/3)."
        ),
    )


@measures("d2-small-dimension")
def small_dimension(run: Run) -> Measurement:
    """Compare the tree with recomputing for few and many coordinates."""
    T = run.at(smoke=2**8, desk=2**14, full=2**18)
    fours, between = run.at(
        smoke=((1, 4), (6,)), desk=((1, 4, 16, 64, 256), (2, 3, 5, 6, 7, 8)), full=((1, 4, 16, 64), ())
    )
    repeats = run.repeats(smoke=2, desk=30, full=100)
    dims = sorted({*fours, *between})
    tree, recompute, takes_tree, rows = {}, {}, {}, []
    for d in run.progress(dims, label="dimensions"):
        ones = np.ones((T, d), dtype=int)
        tree[d] = largest_errors(TreeMaxSum(T, d, rho=RHO, random_state=run.rng()), ones, repeats)
        recompute[d] = largest_errors(RecomputeMaxSum(T, d, rho=RHO, random_state=run.rng()), ones, repeats)
        chosen = auto_mechanism("maxsum", T, d, rho=RHO)
        takes_tree[d] = isinstance(chosen, TreeMaxSum)
        root = float(
            largest_errors(TreeMaxSum(T, d, rho=RHO, factorization="sqrt", random_state=run.rng()), ones, 3).mean()
        )
        of_both = float(tree[d].mean()), float(recompute[d].mean())
        rows.append([d, *of_both, root, type(chosen).__name__, lower_bound_rate(T, d, rho=RHO)])

    def factor(*columns: np.ndarray) -> float:
        return float(np.mean([b.mean() / a.mean() for a, b in itertools.pairwise(columns)]))

    def crossover(*columns: np.ndarray) -> float:
        trees, others = columns[: len(dims)], columns[len(dims) :]
        crossed = [d for d, a, b in zip(dims, trees, others, strict=True) if a.mean() >= b.mean()]
        return float(min(crossed, default=math.inf))

    def excess(trees: np.ndarray, others: np.ndarray, tree_taken: bool) -> float:
        means = float(trees.mean()), float(others.mean())
        return (means[0] if tree_taken else means[1]) / min(means) - 1

    return Measurement(
        {
            "factor_per_four": bootstrap(factor, *(tree[d] for d in fours), of="releases"),
            "crossover": bootstrap(crossover, *(tree[d] for d in dims), *(recompute[d] for d in dims), of="releases"),
            "auto_excess": greatest(
                bootstrap(partial(excess, tree_taken=takes_tree[d]), tree[d], recompute[d], of="releases") for d in dims
            ),
        },
        table=Table(
            ["d", "tree", "recompute", "square-root factorisation", "automatic choice", "lower bound's rate"], rows
        ),
    )


@measures("d3-counting")
def counting(run: Run) -> Measurement:
    """Count to a thousand and to a million."""
    horizons = run.at(smoke=(2**6, 2**8), desk=(2**10, 2**15, 2**20), full=(2**10, 2**15, 2**20, 2**24))
    repeats = run.repeats(smoke=3, desk=100, full=200)
    kinds = {"tree": TreeCounter, "square root": FactorizationCounter, "recompute": RecomputeMaxSum}
    rows, errors = [], {}
    for T in run.progress(horizons, label="lengths"):
        ones = np.ones((T, 1), dtype=int)
        for name, kind in kinds.items():
            times = max(2, repeats // 5) if name == "square root" else repeats
            errors[name, T] = largest_errors(kind(T, rho=RHO, random_state=run.rng()), ones, times)
        rows.append([T, *(float(errors[name, T].mean()) for name in kinds)])
    long, short = horizons[run.at(smoke=1, desk=2, full=2)], horizons[0]
    growth = bootstrap(lambda a, b: a.mean() / b.mean(), errors["tree", long], errors["tree", short], of="releases")
    other = errors["recompute", long].mean() / errors["recompute", short].mean()
    return Measurement(
        growth, table=Table(["T", *kinds], rows), remark=f"Ratio of the recomputing mechanism: {other:.3g}."
    )


class Recorded:
    """A mechanism whose largest error on the stream it was given is kept."""

    def __init__(self, mechanism: ContinualMechanism) -> None:
        self.mechanism = mechanism

    def release(self, stream: np.ndarray) -> np.ndarray:
        """Release the stream and note the error."""
        answers = self.mechanism.release(stream)
        sums = np.cumsum(stream, axis=0)
        if isinstance(self.mechanism, RecomputeSumSelect | TreeSumSelect):
            self.error = float((sums.max(axis=1) - sums[np.arange(len(stream)), answers]).max())
        else:
            self.error = float(np.abs(answers - sums.max(axis=1)).max())
        return answers


def violations(run: Run, kinds: Sequence[Callable[..., ContinualMechanism]], rho: float, cases: int) -> list[int]:
    """Count, case by case, columns whose estimate is further from the truth than the largest error allows."""
    rng, found = run.rng(), []
    for _ in range(cases):
        n, d = rng.integers(1, 12), rng.integers(1, 12)
        Y, bad = rng.integers(0, 2, (n, d)), 0
        for kind in kinds:
            attack, slack = (
                (marginals_from_maxsum, 0) if kind in (TreeMaxSum, RecomputeMaxSum) else (marginals_from_sumselect, 1)
            )
            made: list[Recorded] = []

            def factory(T: int, d: int, kind: Any = kind, made: list[Recorded] = made) -> Any:
                made.append(Recorded(kind(T, d, rho=rho, random_state=rng)))
                return made[-1]

            estimates = attack(factory, Y)
            bad += int(np.sum(np.abs(estimates - Y.sum(axis=0)) > made[0].error + slack + 1e-9))
        found.append(bad)
    return found


def tracing_auc(run: Run, n: int, d: int, rho: float, repeats: int) -> list[float]:
    """Return, table by table, how well a tree with this budget tells its members from others of the population."""
    rng, areas = run.rng(), []
    for _ in range(repeats):
        p = rng.uniform(size=d)
        members, others = ((rng.uniform(size=(n, d)) < p).astype(int) for _ in range(2))
        sums = marginals_from_maxsum(lambda T, d: TreeMaxSum(T, d, rho=rho, random_state=rng), members)
        inside, outside = (tracing_scores(sums / n, p, rows) for rows in (members, others))
        areas.append(stats.mannwhitneyu(inside, outside).statistic / n**2)
    return areas


@measures("d4-reductions")
def reductions(run: Run) -> Measurement:
    """Read marginals out of answers that are exact, private, or less private than is needed."""
    cases, repeats = run.at(smoke=5, desk=300, full=3000), run.repeats(smoke=2, desk=20, full=50)
    n, d = run.at(smoke=(5, 20), desk=(20, 400), full=(20, 400))
    kinds = (TreeMaxSum, RecomputeMaxSum, TreeSumSelect, RecomputeSumSelect)
    without_noise = violations(run, kinds, math.inf, cases)
    noisy = [bad for rho in (0.05, 0.5, 50.0) for bad in violations(run, kinds, rho, cases)]
    budgets = [math.inf, RHO * 1e4, RHO * 1e3, RHO * 1e2, RHO]
    areas = {rho: tracing_auc(run, n, d, rho, repeats) for rho in run.progress(budgets, label="tracing")}

    def fall_in_order(*columns: np.ndarray) -> float:
        most, *middle, private = (float(column.mean()) for column in columns)
        return float(private < max(middle) and min(middle) < most and middle == sorted(middle)[::-1])

    between = bootstrap(fall_in_order, *areas.values(), of="tables")
    return Measurement(
        {
            "exact_violations": every(without_noise, "tables"),
            "noisy_violations": every(noisy, "tables"),
            "auc_exact": every(areas[math.inf], "tables"),
            "auc_private": mean(areas[RHO], "tables"),
            "auc_between": replace(between, value=bool(between.value)),
        },
        table=Table(
            ["rho of the noise", "share of member and non-member pairs told apart"],
            [[r, float(np.mean(a))] for r, a in areas.items()],
        ),
    )


class LeaderFlipper:
    """Always adds to the coordinate that was not selected; the challenge decides which one gets a record."""

    def __init__(self, T: int) -> None:
        self.challenge = T // 2

    def choose(self, answers: Sequence[Any]) -> Any:
        """Return a record for the coordinate that doesn't lead."""
        if len(answers) == self.challenge:
            return [1, 0], [0, 1]
        leads = int(answers[-1]) if answers else 0
        return [1, 0] if leads else [0, 1]

    def score(self, answers: Sequence[Any]) -> float:
        """Return how often the second coordinate was selected after the challenge, less what was sent to it."""
        after = np.array(answers[self.challenge :], dtype=float)
        return float(after.sum() + after[0])


class Thresholder:
    """Sends a record only where the last answer was small; the challenge sends one or none."""

    def __init__(self, T: int) -> None:
        self.challenge = T // 2 - 1

    def choose(self, answers: Sequence[Any]) -> Any:
        """Return a one where the count seems low."""
        if len(answers) == self.challenge:
            return [0], [1]
        return [self._sent(answers)]

    def score(self, answers: Sequence[Any]) -> float:
        """Return the mean of the answers from the challenge on, less what they would be without it."""
        sent = [0 if t == self.challenge else self._sent(answers[:t]) for t in range(len(answers))]
        residual = np.ravel(answers) - np.cumsum(sent)
        return float(residual[self.challenge])

    @staticmethod
    def _sent(answers: Sequence[Any]) -> int:
        return int(not answers or float(np.ravel(answers[-1])[0]) < len(answers) / 2)


@measures("d5-adaptive-privacy")
def adaptive_privacy(run: Run) -> Measurement:
    """Play games against streams that react, and check the variances of the nodes."""
    T, games, epsilon, delta = 16, run.repeats(smoke=40, desk=10_000, full=1_000_000), 1.0, 1e-6
    rng, flipper, thresholder = run.rng(), LeaderFlipper(T), Thresholder(T)
    pure: dict[str, Any] = {"epsilon": epsilon, "random_state": rng}
    approximate: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "random_state": rng}
    plays = {
        "tree counter, Laplace": (TreeCounter(T, **pure), thresholder, 0.0),
        "tree counter, Gaussian": (TreeCounter(T, **approximate), thresholder, delta),
        "recomputed MaxSum, Laplace": (RecomputeMaxSum(T, r=4, **pure), thresholder, 0.0),
        "recomputed SumSelect, pure": (RecomputeSumSelect(T, 2, r=2, **pure), flipper, 0.0),
    }
    rows, ratios = [], []
    for name, (mechanism, adversary, slack) in run.progress(list(plays.items()), label="games"):
        found = AdaptivePrivacyGame(mechanism, adversary).run(games // 2, delta=slack)
        rows.append([name, found.epsilon, epsilon, found.true_positive_rate, found.false_positive_rate])
        ratios.append(leakage(found, games // 2 - games // 4, slack))  # all claim an epsilon of 1
    careless = TreeCounter(T, epsilon=epsilon * T.bit_length(), random_state=rng)  # forgets the levels of a binary tree
    found = AdaptivePrivacyGame(careless, thresholder).run(max(20, games // 20))
    rows.append(["tree counter, a fifth of the noise", found.epsilon, epsilon, *found[1:]])
    variance = 0.0
    for horizon in (1, 7, 8, 16, 1000, 2**20):
        for d in (1, 5, 64):
            expected = d * (math.floor(math.log2(horizon)) + 1) / (2 * RHO)
            variance = max(variance, abs(TreeCounter(horizon, d, rho=RHO).node_scale ** 2 / expected - 1))
    return Measurement(
        {"epsilon_to_claimed": greatest(ratios), "variance": exact(variance)},
        table=Table(["mechanism", "epsilon at least", "epsilon claimed", "right side found", "falsely"], rows),
        remark="The last row has a known fault, and the game finds it.",
    )


def leakage(found: Any, games: int, delta: float) -> Estimate:
    """Return the epsilon that an adversary's rates amount to, with the interval of both rates together."""
    rates = found.true_positive_rate, found.false_positive_rate

    def epsilon(right: float, false: float) -> float:
        return math.log((right - delta) / false) if right > delta and false > 0 else math.inf if right > delta else 0.0

    def interval(level: float) -> tuple[float, float]:
        each = 1 - (1 - level) / 2
        (low, high), (least_false, most_false) = (
            proportion(round(rate * games), games).interval(each) for rate in rates
        )
        return max(0.0, epsilon(low, most_false)), max(0.0, epsilon(high, least_false))

    return Estimate(max(0.0, epsilon(*rates)), f"Clopper-Pearson of both rates over {games} games a side", interval)


@measures("d6-real-data")
def real_data(run: Run) -> Measurement:
    """Select the most frequent dark pixel of handwritten digits after each of them, and at the end only."""
    pixels = (load_digits().data >= 8).astype(int)[: run.at(smoke=100, desk=1797, full=1797)]
    repeats = run.at(smoke=3, desk=200, full=2000)
    T, d = pixels.shape
    sums, rng, rows = np.cumsum(pixels, axis=0), run.rng(), []
    best = sums.max(axis=1)
    budgets: dict[str, dict[str, float]] = {
        "epsilon 1": {"epsilon": 1.0},
        "epsilon 1, delta 1e-6": {"epsilon": 1.0, "delta": 1e-6},
    }
    for name, budget in budgets.items():
        mechanisms = {
            "recompute": RecomputeSumSelect(T, d, **budget, random_state=rng),
            "tree": TreeSumSelect(T, d, **budget, random_state=rng),
        }
        batch = RecomputeSumSelect(T, d, **budget, r=T, random_state=rng)
        at_end = np.mean([best[-1] - sums[-1, batch.release(pixels)[-1]] for _ in range(repeats)])
        for kind, mechanism in mechanisms.items():
            errors = np.array([best - sums[np.arange(T), mechanism.release(pixels)] for _ in range(repeats)])
            largest = float(errors.max(axis=1).mean())
            rows.append(
                [
                    name,
                    kind,
                    largest,
                    float(errors.mean()),
                    float(errors[:, -1].mean()),
                    float(at_end),
                    largest / at_end if at_end else "no batch error",
                ]
            )
    return Measurement(
        {"reported": exact(True)},
        table=Table(
            ["budget", "mechanism", "largest error", "mean error", "error at the end", "batch error", "ratio"], rows
        ),
    )


@measures("d7-daily-counts", exclusive=True)
def daily_counts(run: Run) -> Measurement:
    """Publish a running count at the end of each day of a year, one event protected, with secure noise."""
    T, epsilon, repeats = 365, 1.0, run.repeats(smoke=3, desk=200, full=2000)
    days = run.rng().poisson(200, T)
    truth = np.cumsum(days)
    counter = TreeCounter(T, epsilon=epsilon)
    releases = {"ours": lambda: counter.release(days)[:, 0]}
    if importlib.util.find_spec("opendp"):
        releases["opendp's tree, made consistent"] = partial(opendp_tree(T, epsilon), days.tolist())
    errors = {name: np.array([np.abs(release() - truth) for _ in range(repeats)]) for name, release in releases.items()}
    figure, axes = run.figure()
    for name, found in errors.items():
        axes.plot(np.arange(1, T + 1), found.mean(axis=0), label=f"{name}: mean largest {found.max(axis=1).mean():.1f}")
    axes.set(xlabel="day", ylabel="mean error, in events", title=f"A year's running count of {truth[-1]:,} events")
    axes.legend()
    largest = errors["ours"].max(axis=1)
    return Measurement(
        {
            "largest_error": mean(largest, "releases"),
            "within_bound": proportion(int(np.sum(largest <= counter.error_bound(0.05))), repeats, "releases"),
            "first_draws": median([first_draws(run.rng(i)) for i in range(max(9, repeats // 10))], "rounds"),
        },
        table=Table(
            ["mechanism", "mean largest error", "5 %", "95 %", "mean error"],
            [
                [name, float(e.max(axis=1).mean()), *np.quantile(e.max(axis=1), [0.05, 0.95]).tolist(), float(e.mean())]
                for name, e in errors.items()
            ],
        ),
        figure=figure,
        remark=f"Bound at 5 %: {counter.error_bound(0.05):.1f}. opendp's answers come after the year, ours each day.",
    )


def opendp_tree(T: int, epsilon: float) -> Callable[[list[int]], np.ndarray]:
    """Return opendp's release of running counts: a binary tree with Laplace noise, after its least-squares step."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    tree = dp.t.make_b_ary_tree(*space, leaf_count=T, branching_factor=2)
    scale = dp.binary_search(lambda s: (tree >> dp.m.then_laplace(s)).map(1) <= epsilon, bounds=(0.1, 1000.0))
    private, consistent = tree >> dp.m.then_laplace(scale), dp.t.make_consistent_b_ary_tree(branching_factor=2)
    return lambda counts: np.cumsum(consistent(private(counts)))[:T]


def first_draws(rng: np.random.Generator) -> float:
    """Return the seconds in which one of each mechanism, with scales that were never drawn from, gives an answer."""
    epsilon, samples = float(rng.uniform(0.5, 1.0)), np.arange(100)
    values = samples / 100
    budgets = {"epsilon": epsilon}, {"rho": epsilon}, {"epsilon": epsilon * 1e-6}
    trees, others = (TreeCounter, TreeMaxSum, TreeSumSelect), (RecomputeMaxSum, RecomputeSumSelect)
    queries: list[Callable[[], Any]] = [
        *(lambda k=kind, b=budget: k(1000, **b).update([1]) for kind in trees for budget in budgets),
        *(lambda k=kind, b=budget: k(1000, r=1, **b).update([1]) for kind in others for budget in budgets),
        lambda: FactorizationCounter(1000, rho=epsilon).update([1]),
        lambda: NoisyAnswers(samples, epsilon).answer(values),
        lambda: NoisyAnswers(samples, epsilon, noise="laplace").answer(values),
        lambda: SparseVector(samples, 0.5, epsilon=epsilon, c=3, numeric=True).answer(values),
        lambda: PrivateMultiplicativeWeights(
            samples, 100, threshold=0.1, comparison_scale=epsilon, noise_scale=epsilon
        ).answer(values),
        lambda: ReusableHoldout(threshold=0.1, noise_scale=epsilon).query_means([0.1], [0.9]),
    ]
    started = time.perf_counter()
    for query in queries:
        query()
    return time.perf_counter() - started


@races("opendp")
def against_opendp(run: Run) -> Measurement:
    """Release noisy running counts of a million steps at once, by both with noise that is cryptographically safe."""
    import opendp.prelude as dp

    T, epsilon = run.at(smoke=1000, desk=10**6, full=10**6), 1.0
    dp.enable_features("contrib")
    steps = run.rng().integers(0, 2, T)
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    tree = dp.t.make_b_ary_tree(*space, leaf_count=T, branching_factor=2)
    scale = dp.binary_search(lambda s: (tree >> dp.m.then_laplace(s)).map(1) <= epsilon, bounds=(0.1, 1000.0))
    private = tree >> dp.m.then_laplace(scale)
    consistent = dp.t.make_consistent_b_ary_tree(branching_factor=2)
    counts = steps.tolist()
    counter = TreeCounter(T, epsilon=epsilon)
    jobs: dict[str, Callable[[], Any]] = {
        "ours": partial(counter.release, steps),
        "opendp, nodes only": partial(private, counts),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=3, full=9))
    truth = np.cumsum(steps)
    errors = [
        float(np.abs(np.ravel(found) - truth).mean())
        for found in (jobs["ours"](), np.cumsum(consistent(private(counts))))
    ]
    # A round of theirs takes half a minute, and each one decides: a median would want ten.
    ratios = [a / b for a, b in zip(*times.seconds.values(), strict=True)]
    return Measurement(
        every(ratios, "paired rounds"),
        table=Table(["job", "seconds"], [[name, s] for name, s in times.medians().items()]),
        settings="a binary tree of 1e6 leaves with Laplace noise at epsilon 1, its nodes only",
        remark=f"Mean errors at epsilon 1: ours {errors[0]:.1f}, opendp after its least-squares step {errors[1]:.1f}.",
    )


@races("tensorflow-privacy")
def against_tensorflow_privacy(run: Run) -> Measurement:
    """Stream a million counts, step by step where the peer has no other way."""
    import tensorflow as tf
    from tensorflow_privacy import TreeCumulativeSumQuery

    T, n = run.at(smoke=100, desk=10**6, full=10**6), run.at(smoke=10, desk=2000, full=20_000)
    ones = np.ones((T, 1), dtype=int)
    counter = TreeCounter(T, rho=RHO)
    query = TreeCumulativeSumQuery.build_l2_gaussian_query(
        1.0, counter.node_scale, tf.TensorSpec([1]), use_efficient=False
    )

    def theirs() -> None:
        state = query.initial_global_state()
        for _ in range(n):
            params = query.derive_sample_params(state)
            sample = query.preprocess_record(params, tf.ones([1]))
            _, state, _ = query.get_noised_result(query.accumulate_preprocessed_record(tf.zeros([1]), sample), state)

    jobs = {"ours": partial(counter.release, ones), "theirs": theirs}
    times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=9))
    return Measurement(ratio(times.seconds["ours"], [s * T / n for s in times.seconds["theirs"]]))
