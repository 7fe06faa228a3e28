"""What the paper proves about adaptively chosen questions, measured with analysts who overfit on purpose."""

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from paperworks.evidence import (
    Measurement,
    Run,
    Table,
    bootstrap,
    every,
    exact,
    greatest,
    interleaved,
    least,
    magnitude,
    mean,
    measures,
    races,
)
from paperworks.inference import (
    BoundMethod,
    BudgetExhausted,
    EmpiricalAnswers,
    Ladder,
    NoisyAnswers,
    PrivateMultiplicativeWeights,
    ReusableHoldout,
    agreeing_features,
    freedman_regression,
    generalization_bound,
    sign_vote,
    sign_vote_accuracy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@measures("a1-naive-overfits")
def naive_overfits(run: Run) -> Measurement:
    """Ask for the correlation of every feature with random labels, and vote by the signs of the answers."""
    n, d, repeats = (
        run.at(smoke=200, desk=1000, full=1000),
        run.at(smoke=50, desk=500, full=500),
        run.repeats(smoke=2, desk=200, full=2000),
    )
    noises = {"naive": 0.0, "noise_002": 0.02, "noise_005": 0.05, "noise_01": 0.1}
    rng = run.rng()
    accuracies: dict[str, list[float]] = {name: [] for name in noises}
    fresh: dict[str, list[float]] = {name: [] for name in noises}
    freedman: list[bool] = []
    for _ in run.progress(range(repeats), label="repeats"):
        X, y = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)
        X_fresh, y_fresh = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)
        products = X.T * y
        for name, std in noises.items():
            oracle = (
                NoisyAnswers(X, std, value_range=None, random_state=rng)
                if std
                else EmpiricalAnswers(X, value_range=None)
            )
            answers = oracle.answer_all(products)
            accuracies[name].append(float(np.mean(sign_vote(answers, X) == y)))
            fresh[name].append(float(np.mean(sign_vote(answers, X_fresh) == y_fresh)))
        if len(freedman) < 20:
            freedman.append(freedman_regression(X[:, : n // 5], y).pvalue < 0.05)
    rows = [
        [std, float(np.mean(accuracies[name])), sign_vote_accuracy(d, n, std), float(np.mean(fresh[name]))]
        for name, std in noises.items()
    ]
    return Measurement(
        {name: mean(found, "repeats") for name, found in accuracies.items()},
        table=Table(["noise", "accuracy reported", "closed form", "accuracy on fresh data"], rows),
        remark=(
            f"Regression on {n // 5} such features, repeated on those that pass a test at 25 %, calls itself "
            f"significant at 5 % in {np.mean(freedman):.0%} of {len(freedman)} runs."
        ),
    )


def science_experiment(rng: np.random.Generator, n: int, ks: list[int], signal: bool) -> dict[str, np.ndarray]:
    """Select features with a standard and with a reusable holdout, and return accuracies for each number of features.

    As in Science 349:636 (2015): as many features as samples, standard Gaussian; with a signal the first 20 are shifted
    by 6 / sqrt(n) towards the label. The analyst keeps features whose correlations on the training data and the holdout
    agree, and asks the holdout for the accuracy of their vote.
    """

    def draw() -> tuple[np.ndarray, np.ndarray]:
        X, y = rng.standard_normal((n, n), dtype=np.float32), 2 * rng.integers(0, 2, n).astype(np.float32) - 1
        if signal:
            X[:, :20] += 6 / math.sqrt(n) * y[:, None]
        return X, y

    samples = {name: draw() for name in ("train", "holdout", "fresh")}
    correlations = {name: (X.T @ y / n).astype(float) for name, (X, y) in samples.items()}
    error = 1 / math.sqrt(n)
    reusable = ReusableHoldout(
        threshold=4 * error, noise_scale=error, noise="gaussian", value_range=None, random_state=rng
    )
    answered = reusable.query_means(correlations["train"], correlations["holdout"])
    found: dict[str, list[float]] = {}
    for k in ks:
        for kind, confirmed in (("standard", correlations["holdout"]), ("reusable", answered)):
            weights = agreeing_features(correlations["train"], confirmed, k, error).astype(np.float32)
            accuracy = {name: float(np.mean(sign_vote(weights, X) == y)) for name, (X, y) in samples.items()}
            reported = accuracy["holdout"]
            if kind == "reusable":
                reported = float(reusable.query_means([accuracy["train"]], [accuracy["holdout"]])[0])
            for name, value in {**accuracy, "reported": reported}.items():
                found.setdefault(f"{kind} {name}", []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def science_runs(run: Run, signal: bool) -> tuple[list[int], dict[str, np.ndarray], Table, "Figure"]:
    """Repeat the experiment; return the numbers of features, accuracies (repeats, numbers), a table and a figure."""
    n = run.at(smoke=300, desk=2000, full=10_000)
    ks: list[int] = run.at(
        smoke=[10, 20, 200],
        desk=[10, 20, 30, 45, 70, 100, 150, 200],
        full=[10, 20, 30, 45, 70, 100, 150, 200, 300, 500],
    )
    rng = run.rng()
    repeats = run.progress(range(run.repeats(smoke=2, desk=100, full=100)), label="repeats")
    each = [science_experiment(rng, n, ks, signal) for _ in repeats]
    found = {name: np.stack([one[name] for one in each]) for name in each[0]}
    columns = [
        "standard train",
        "standard reported",
        "standard fresh",
        "reusable train",
        "reusable reported",
        "reusable fresh",
    ]
    rows = [[k, *(float(found[name][:, i].mean()) for name in columns)] for i, k in enumerate(ks)]
    figure, panels = run.figure(1, 2, sharey=True)
    for axes, kind in zip(panels, ("standard", "reusable"), strict=True):
        for name, label in (("train", "training"), ("reported", "reported by the holdout"), ("fresh", "fresh data")):
            values = found[f"{kind} {name}"]
            centre, std = values.mean(axis=0), values.std(axis=0)
            axes.plot(ks, centre, "o-", markersize=3, label=label)
            axes.fill_between(ks, centre - std, centre + std, alpha=0.15)
        axes.set(xlabel="features selected", title=f"{kind} holdout")
    panels[0].set_ylabel("accuracy")
    panels[0].legend()
    return ks, found, Table(["features", *columns], rows), figure


@measures("a2-no-signal")
def no_signal(run: Run) -> Measurement:
    """Select among features that have nothing to do with the labels."""
    _, found, table, figure = science_runs(run, signal=False)
    reported, fresh = found["reusable reported"][:, -1], found["reusable fresh"][:, -1]
    return Measurement(
        {
            "standard": mean(found["standard reported"][:, -1], "repeats"),
            "thresholdout_gap": magnitude(mean(reported - fresh, "repeats")),
            "fresh": mean(fresh, "repeats"),
        },
        table=table,
        figure=figure,
        remark=f"In a single run the gap is {np.mean(np.abs(reported - fresh)):.3f} on average, noise included.",
    )


@measures("a3-signal-kept")
def signal_kept(run: Run) -> Measurement:
    """Select among features of which twenty say something about the labels."""
    ks, found, table, figure = science_runs(run, signal=True)
    gaps = {kind: found[f"{kind} reported"] - found[f"{kind} fresh"] for kind in ("standard", "reusable")}
    twenty, many = ks.index(20), ks.index(200)
    return Measurement(
        {
            "fresh_20": least(mean(found[f"{kind} fresh"][:, twenty], "repeats") for kind in gaps),
            "error_20": greatest(magnitude(mean(gap[:, twenty], "repeats")) for gap in gaps.values()),
            "thresholdout_gap_200": magnitude(mean(gaps["reusable"][:, many], "repeats")),
        },
        table=table,
        figure=figure,
        remark=f"The standard holdout's gap at 200 features is {abs(gaps['standard'][:, many].mean()):.3f}.",
    )


@measures("a4-many-queries")
def many_queries(run: Run) -> Measurement:
    """Ask about very many coins, and now and then about a vote that was made to overfit the training data."""
    n, tau, budget, votes = 5000, 0.1, 20, 20
    sizes = run.at(smoke=[200, 400], desk=[1000, 10_000, 100_000], full=[1000, 10_000, 100_000, 1_000_000])
    repeats, rng = run.repeats(smoke=1, desk=5, full=10), run.rng()
    deviation = 1 / (2 * math.sqrt(n))  # of the mean of n fair coins
    # Six deviations of the difference of two means, which no plain question reaches, and more than five of one mean
    # below the tolerance, so that an answer within it of the holdout is within the tolerance of the population.
    threshold = 6 * math.sqrt(2) * deviation
    rows, ratios, worst, used = [], [], list[float](), list[int]()
    for m in run.progress(sizes, label="numbers of questions"):
        plain, all_errors, spent = [], [], []
        for _ in range(repeats):
            reusable = ReusableHoldout(threshold=threshold, noise_scale=0.0005, budget=budget, random_state=rng)
            errors, overfitted = _ask_coins(reusable, rng, n, m, votes)
            plain.append(errors.max())
            all_errors.append(max(errors.max(), overfitted.max()))
            spent.append(int(budget - reusable.remaining_budget))
        ratios.append(mean(np.array(plain) / (deviation * math.sqrt(2 * math.log(2 * errors.size))), "repeats"))
        worst += all_errors
        used += spent
        rows.append([errors.size, float(np.mean(plain)), ratios[-1].value, float(np.max(all_errors)), max(spent)])
    return Measurement(
        {
            "error_to_tolerance": every([error / tau for error in worst], "repeats"),
            "budget_used": every(used, "repeats"),
            "growth_to_sqrt_log": greatest(ratios),
        },
        table=Table(
            ["questions", "largest error, plain", "over the Gaussian tail", "largest error, all", "exceedances"], rows
        ),
    )


def _ask_coins(
    reusable: ReusableHoldout, rng: np.random.Generator, n: int, m: int, votes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ask for the means of m fair coins on n samples and for `votes` overfitted votes; return the errors of both.

    Each vote is the majority of 501 coins that were asked about, each taken with the side that is commoner in the
    training data, so that its training mean is far above the population's one half.
    """
    errors, overfitted = [], []
    for part in np.array_split(np.arange(m), votes):
        errors.append(np.abs(reusable.query_means(*rng.binomial(n, 0.5, (2, len(part))) / n) - 0.5))
        train, holdout = rng.integers(0, 2, (2, 501, n), dtype=np.uint8)
        errors.append(np.abs(reusable.query_values(train, holdout) - 0.5))
        flip = (train.mean(axis=1) < 0.5)[:, None]
        vote = [((coins ^ flip).sum(axis=0) > 250)[None] for coins in (train, holdout)]
        overfitted.append(abs(reusable.query_values(*vote)[0] - 0.5))
    return np.concatenate(errors), np.array(overfitted)


@measures("a5-transfer")
def transfer(run: Run) -> Measurement:
    """Let an exponential mechanism pick the most overfitted of many questions, and hold its error to the bounds."""
    questions, n, repeats = 1000, run.at(smoke=100, desk=2000, full=2000), run.at(smoke=50, desk=20_000, full=200_000)
    beta, rng, rows, violations = 0.05, run.rng(), [], 0
    for epsilon in run.progress([0.01, 0.03, 0.1, 0.3, 1.0], label="epsilon"):
        errors = _overfitted(rng, epsilon, n, questions, repeats)
        low = float(errors.mean() - 5 * errors.std() / math.sqrt(repeats))
        delta = 1e-6
        bounds: dict[BoundMethod, float] = {"expectation": generalization_bound("expectation", epsilon=epsilon)}
        theorems: list[tuple[BoundMethod, float]] = [("pure", 0.0), ("approximate", delta), ("monitor", delta)]
        for method, private in theorems:
            try:
                bounds[method] = generalization_bound(method, n=n, epsilon=epsilon, delta=private, beta=beta)
            except ValueError:  # too few samples for this theorem at this epsilon
                continue
        for method, bound in bounds.items():
            if method == "expectation":
                violated, found = low > bound, float(errors.mean())
            else:
                allowed = delta / epsilon if method == "monitor" else beta
                times = int(np.sum(errors > bound))
                violated = stats.binom.sf(times - 1, repeats, allowed) < 1e-6
                found = float(np.quantile(errors, 1 - allowed))
            violations += int(violated)
            rows.append([epsilon, method, found, bound, found / bound])
    return Measurement(
        exact(violations),  # each a test at 1e-6 by itself
        table=Table(["epsilon", "bound", "error found", "bound's value", "tightness"], rows),
        remark="The error found is a mean for the bound in expectation, else the quantile that the bound is about.",
    )


def _overfitted(rng: np.random.Generator, epsilon: float, n: int, questions: int, repeats: int) -> np.ndarray:
    """Return the errors of questions that an epsilon-private exponential mechanism selects for being overfitted.

    Each question is a fair coin on the n samples. Its score, the sample mean, has sensitivity 1 / n, so that the
    mechanism's weights are ``exp(epsilon n score / 2)``, sampled by the Gumbel trick.
    """
    errors = []
    for start in range(0, repeats, 1000):
        means = rng.binomial(n, 0.5, (min(1000, repeats - start), questions)) / n
        chosen = (epsilon * n / 2 * means + rng.gumbel(size=means.shape)).argmax(axis=1)
        errors.append(means[np.arange(len(means)), chosen] - 0.5)
    return np.concatenate(errors)


@measures("a6-multiplicative-weights")
def multiplicative_weights(run: Run) -> Measurement:
    """Ask as many questions as there are samples, of which one in fifty aims at the hypothesis' weakest side."""
    N, n, m = 256, 5000, run.at(smoke=500, desk=5000, full=50_000)
    alpha, repeats, rng = 0.08, run.repeats(smoke=1, desk=10, full=30), run.rng()
    rows, columns = [], []
    for concentration in (1.0, 0.1):
        found = []
        for _ in run.progress(range(repeats), label=f"Dirichlet({concentration:g})"):
            population = rng.dirichlet(np.full(N, concentration))
            samples = rng.choice(N, n, p=population)
            weights = PrivateMultiplicativeWeights(
                samples, N, threshold=alpha, comparison_scale=0.1 * alpha, noise_scale=0.01, max_updates=30,
                lr=2 * alpha, random_state=rng,
            )  # fmt: skip
            rho = weights.privacy()["rho"]
            error, answered = _worst_error(weights, rng, population, m)
            noisy = np.abs(rng.normal(0, math.sqrt(m / (2 * rho)) / n, m)).max()
            found.append([error, noisy, weights.updates, answered, rho])
        columns.append(np.transpose(found))
        error, noisy, updates, answered, rho = np.mean(found, axis=0)
        rows.append([concentration, rho, answered, updates, error, noisy, error / noisy])
    error, noisy, updates, *_ = columns[0]
    return Measurement(
        {
            "error": mean(error, "repeats"),
            "updates_to_budget": every(updates / (4 * math.log(N) / alpha**2), "repeats"),
            "error_to_gaussian": mean(error / noisy, "repeats"),
        },
        table=Table(
            ["Dirichlet parameter", "rho", "answered", "updates", "largest error", "Gaussian noise's", "ratio"], rows
        ),
        remark=(
            "Errors are to the population. At this privacy the 30 updates do not suffice for a population with few "
            "heavy points (second row): its questions end there."
        ),
    )


def _worst_error(
    weights: PrivateMultiplicativeWeights, rng: np.random.Generator, population: np.ndarray, m: int, every: int = 50
) -> tuple[float, int]:
    """Ask m questions, return the largest error and how many were answered.

    All but one in `every` are random sets of points. That one is the set of points that the hypothesis gives too
    little, on which it errs most; an analyst who doesn't know the population could not do worse to it.
    """
    worst, answered = 0.0, 0
    for _ in range(m // every):
        questions = rng.integers(0, 2, (every, len(population))).astype(float)
        questions[0] = population > weights.hypothesis
        try:
            answers = weights.answer_all(questions)
        except BudgetExhausted:
            break
        worst = max(worst, float(np.abs(answers - questions @ population).max()))
        answered += every
    return worst, answered


@measures("a7-small-holdout")
def small_holdout(run: Run) -> Measurement:
    """Score many models of pure chance on a holdout of 200 samples, and let an analyst make the best of the scores."""
    n, d, models = 200, 1000, run.at(smoke=50, desk=200, full=200)
    rng, found = run.rng(), []
    for _ in run.progress(range(run.repeats(smoke=2, desk=200, full=1000)), label="repeats"):
        train, holdout = ((rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)) for _ in range(2))
        # Each model is a vote of 200 features with their signs in training, where it is right four times in five.
        features = np.argsort(rng.random((models, d)), axis=1)[:, :n]
        signs = np.sign(train[0].T @ train[1])
        votes = [np.array([sign_vote(signs[f], X[:, f]) for f in features]) for X, _ in (train, holdout)]
        right = [vote == y for vote, (_, y) in zip(votes, (train, holdout), strict=True)]
        found.append(
            [_best_and_aggregate(answer, votes[1], holdout[1], right) for answer in _answerers(n, models, rng)]
        )
    scores = np.array(found) - 0.5  # (repeats, ways to answer, best and aggregate); the truth is a half
    best, aggregate = scores[:, :, 0], scores[:, :, 1]

    def to_plain(ladder: np.ndarray, plain: np.ndarray) -> float:
        return float(ladder.mean() / plain.mean())

    names = ["plain holdout", "reusable, by default", "reusable, as published", "Ladder"]
    return Measurement(
        {
            "default_excess": mean(best[:, 1] - best[:, 0], "repeats"),
            "ladder_best": bootstrap(to_plain, best[:, 3], best[:, 0], of="repeats"),
            "ladder_aggregate": bootstrap(to_plain, aggregate[:, 3], aggregate[:, 0], of="repeats"),
        },
        table=Table(
            ["holdout", "best score shown, less the truth", "aggregate's score, less the truth"],
            [[name, *scores[:, i].mean(axis=0).tolist()] for i, name in enumerate(names)],
        ),
        remark="As published the threshold is 4 / sqrt(n) and the noise 1 / sqrt(n), which warn at this size.",
    )


def _answerers(n: int, m: int, rng: np.random.Generator) -> list[Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Return ways to answer which samples (m, n) of training and holdout each submission gets right."""
    error, labels = 1 / math.sqrt(n), np.zeros(n)
    default = ReusableHoldout(labels, labels, m=m, random_state=rng)
    published = ReusableHoldout(threshold=4 * error, noise_scale=error, random_state=rng)
    plain, ladder = EmpiricalAnswers(labels), Ladder(labels)
    return [
        lambda train, holdout: plain.answer_all(holdout),
        default.query_values,
        published.query_values,
        lambda train, holdout: ladder.answer_all(holdout),
    ]


def _best_and_aggregate(
    answer: Callable[[np.ndarray, np.ndarray], np.ndarray], votes: np.ndarray, y: np.ndarray, right: list[np.ndarray]
) -> tuple[float, float]:
    """Return the best score shown, and how often the vote of the models that seem good is right on the holdout.

    A model seems good where its score is above the median of all, as long as scores tell models apart.
    """
    shown = answer(*right)
    good = shown > np.median(shown)
    return float(shown.max()), float(np.mean(np.sign(votes[good].sum(axis=0)) == y)) if good.any() else 0.5


Noises = dict[int, Callable[[float], float]]
"""Adds noise to a number, by the scale of the noise in units of Thresholdout's."""


def _race(run: Run, noises: Callable[[float], Noises], rounds: int) -> Measurement:
    """Time Thresholdout against a loop that calls a peer's mechanism for each noise."""
    m, rng = run.at(smoke=500, desk=100_000, full=1_000_000), run.rng()
    train, holdout = 0.5 + 0.01 * rng.standard_normal((2, m))
    holdout[:: m // 10] += 0.2  # ten that are overfitted
    threshold, scale = 0.1, 0.002
    add = noises(scale)

    def theirs() -> list[float]:
        noisy, answers = add[2](threshold), []
        for a, b in zip(train.tolist(), holdout.tolist(), strict=True):
            if add[4](abs(a - b)) > noisy:
                noisy = add[2](threshold)
                answers.append(add[1](b))
            else:
                answers.append(a)
        return answers

    def ours(seed: int | None = None) -> np.ndarray:
        source = None if seed is None else np.random.default_rng(seed)
        return ReusableHoldout(threshold=threshold, noise_scale=scale, random_state=source).query_means(train, holdout)

    jobs: dict[str, Callable[[], Any]] = {"ours": partial(ours, 0), "ours, secure noise": ours, "theirs": theirs}
    times = interleaved(run, jobs, run.at(smoke=1, desk=rounds, full=rounds))
    rows = [[name, s, m / s, s / times.median("theirs")] for name, s in times.medians().items()]
    differ = int(np.sum(ours(0) != train)), int(np.sum(np.array(theirs()) != train))
    return Measurement(
        times.ratio("ours, secure noise", "theirs"),
        table=Table(["job", "seconds", "questions a second", "ours / theirs"], rows),
        settings="its Laplace mechanism, made once for each scale and called for each noise",
        remark=f"Answers from the holdout: ours {differ[0]}, theirs {differ[1]}.",
    )


@races("diffprivlib")
def against_diffprivlib(run: Run) -> Measurement:
    """Answer by Thresholdout, with diffprivlib's Laplace mechanism for each noise of the loop."""
    mechanisms = _diffprivlib_mechanisms()
    return _race(
        run,
        lambda scale: {k: mechanisms.Laplace(epsilon=1 / (k * scale), sensitivity=1).randomise for k in (1, 2, 4)},
        rounds=8,
    )


@races("opendp")
def against_opendp(run: Run) -> Measurement:
    """Answer by Thresholdout, with an OpenDP measurement for each noise of the loop."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.atom_domain(T=float, nan=False), dp.absolute_distance(T=float)
    return _race(run, lambda scale: {k: dp.m.make_laplace(*space, scale=k * scale) for k in (1, 2, 4)}, rounds=6)


def _diffprivlib_mechanisms() -> types.ModuleType:
    """Import diffprivlib's mechanisms without its models, which need an older scikit-learn than they say."""
    spec = importlib.util.find_spec("diffprivlib")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("diffprivlib is not installed")
    package = types.ModuleType("diffprivlib")
    package.__path__ = list(spec.submodule_search_locations)  # a package whose __init__ is not run
    sys.modules["diffprivlib"] = package
    try:
        return importlib.import_module("diffprivlib.mechanisms")
    finally:
        del sys.modules["diffprivlib"]
