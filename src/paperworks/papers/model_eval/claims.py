"""What the review of model evaluation advises, measured by simulation and on known tables."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneOut,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_predict,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from paperworks.evidence import (
    Estimate,
    Measurement,
    Run,
    Table,
    every,
    exact,
    greatest,
    interleaved,
    least,
    magnitude,
    mean,
    measures,
    proportion,
    races,
)
from paperworks.inference import (
    accuracy_interval,
    adjust_pvalues,
    bootstrap_score,
    cochrans_q,
    compare_scores,
    loo_predict,
    looney_f_test,
    mcnemar,
    nested_cv,
    refit_predictions,
    split_scores,
)

# How often each pattern of right (1) and wrong (0) of three models occurs among 100 samples.
PATTERNS = {"000": 3, "001": 3, "010": 1, "011": 9, "100": 2, "110": 2, "111": 80}


def known_table() -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels and the predictions of three models that are right by the known patterns."""
    rows = [[int(c) for c in pattern] for pattern, times in PATTERNS.items() for _ in range(times)]
    right = np.array(rows)
    return np.ones(len(right), dtype=int), list(right.T)


@measures("e1-test-statistics")
def test_statistics(run: Run) -> Measurement:
    """Compare the statistics and p-values of a known table with known values."""
    y, predictions = known_table()
    pairs = [(0, 1), (0, 2), (1, 2)]
    corrected = [mcnemar(y, predictions[a], predictions[b], exact=False) for a, b in pairs]
    binomial = [mcnemar(y, predictions[a], predictions[b], exact=True).pvalue for a, b in pairs]
    q, f = cochrans_q(y, *predictions), looney_f_test(y, *predictions)
    f_samples = looney_f_test(y, *predictions, df2="samples")
    found: dict[str, float] = {
        **{f"accuracy of model {i + 1}": float(np.mean(p == y)) for i, p in enumerate(predictions)},
        "Cochran's Q": q.statistic,
        "Cochran's Q, p": q.pvalue,
        "Looney's F": f.statistic,
        "Looney's F, p with (L-1)(n-1)": f.pvalue,
        "Looney's F, p with (L-1)n": f_samples.pvalue,
        **{f"McNemar {a + 1}-{b + 1}": t.statistic for (a, b), t in zip(pairs, corrected, strict=True)},
        **{f"exact p {a + 1}-{b + 1}": p for (a, b), p in zip(pairs, binomial, strict=True)},
        **{f"Holm {a + 1}-{b + 1}": p for (a, b), p in zip(pairs, adjust_pvalues(binomial, "holm"), strict=True)},
    }
    # SSA / SSAB is 16 / 409 here, and with 2 and m degrees of freedom p is (1 + SSA / SSAB)^(-m / 2).
    known = [0.84, 0.92, 0.92, 7.529412, 0.0231744, 3.872861, (409 / 425) ** 99, (409 / 425) ** 100]
    # Both models of the last pair err three times alone: the difference to correct is 0, and so is the statistic.
    known += [4.083333, 3.0625, 0.0, 0.0385742, 0.0768127, 1.0, 0.1157227, 0.1536255, 1.0]
    rows = [[name, value, true] for (name, value), true in zip(found.items(), known, strict=True)]
    worst = max(abs(value - true) for value, true in zip(found.values(), known, strict=True))
    return Measurement(exact(worst), table=Table(["statistic", "ours", "known"], rows))


# The tests by the splits that they share, and that ttest_resampled, ttest_kfold, ttest_5x2cv and ftest_5x2cv draw:
# two of them take one set of refits.
FAMILIES: list[tuple[Callable[..., Any], dict[str, str]]] = [
    (
        partial(StratifiedShuffleSplit, 30, test_size=1 / 3),
        {"resampled t": "paired-t", "resampled t, Nadeau-Bengio": "corrected-t"},
    ),
    (
        partial(RepeatedStratifiedKFold, n_splits=10, n_repeats=1),
        {"10-fold t": "paired-t", "10-fold t, corrected": "corrected-t"},
    ),
    (
        partial(RepeatedStratifiedKFold, n_splits=2, n_repeats=5),
        {"5x2cv t": "5x2cv-t", "5x2cv F": "5x2cv-f"},
    ),
]
TESTS = [name for _, tests in FAMILIES for name in tests]


LEARNERS = {"LDA": LinearDiscriminantAnalysis(), "1-NN": KNeighborsClassifier(1)}


def equally_good(learner: BaseEstimator, rng: np.random.Generator) -> tuple[list[Pipeline], np.ndarray, np.ndarray]:
    """Return two models that see five features each, drawn alike given the class, and 200 samples."""
    y = rng.integers(0, 2, 200)
    X = rng.standard_normal((200, 10)) + y[:, None]
    halves = [FunctionTransformer(partial(columns, start=start)) for start in (0, 5)]
    return [make_pipeline(half, learner) for half in halves], X, y


def columns(X: np.ndarray, start: int) -> np.ndarray:
    """Return five features."""
    return X[:, start : start + 5]


def pvalues_of(models: list[Pipeline], X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return the p-value of each test for two models, on the splits that it draws from the seed."""
    found: dict[str, float] = {}
    for splitter, tests in FAMILIES:
        splits = list(splitter(random_state=seed).split(X, y))
        scores = [split_scores(model, X, y, splits) for model in models]
        found |= {name: compare_scores(*scores, splits, test=test).pvalue for name, test in tests.items()}
    return found


def holdout_mcnemar(models: list[Pipeline], X: np.ndarray, y: np.ndarray, random_state: int) -> float:
    """Return McNemar's p-value on a third of the samples."""
    train, test = train_test_split(np.arange(len(y)), test_size=1 / 3, stratify=y, random_state=random_state)
    counts = np.bincount(train, minlength=len(y))[None]
    return mcnemar(y[test], *(refit_predictions(model, X, y, counts)[0, test] for model in models)).pvalue


@measures("e2-type-one-error")
def type_one_error(run: Run) -> Measurement:
    """Count how often each test tells two equally good models apart at the level 0.05."""
    repeats = run.repeats(smoke=1, desk=1000, full=10_000)
    rejected = {learner: dict.fromkeys([*TESTS, "McNemar, one split"], 0) for learner in LEARNERS}
    rng = run.rng()
    for _ in run.progress(range(repeats), label="pairs of models"):
        for learner, estimator in LEARNERS.items():
            models, X, y = equally_good(estimator, rng)
            seed = int(rng.integers(2**31))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                pvalues = pvalues_of(models, X, y, seed)
            pvalues["McNemar, one split"] = holdout_mcnemar(models, X, y, seed)
            for name, pvalue in pvalues.items():
                rejected[learner][name] += pvalue <= 0.05
    shares = {learner: {name: n / repeats for name, n in counts.items()} for learner, counts in rejected.items()}
    names = list(shares["LDA"])
    figure, axes = run.figure()
    for offset, (learner, share) in zip((-0.2, 0.2), shares.items(), strict=True):
        axes.barh([i + offset for i in range(len(names))], [share[n] for n in names], height=0.4, label=learner)
    axes.axvline(0.05, color="black", linestyle=":")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="share rejected", title="Two equally good models")
    axes.legend()
    return Measurement(
        {
            "resampled": least(proportion(counts["resampled t"], repeats, "pairs") for counts in rejected.values()),
            "others": greatest(
                proportion(n, repeats, "pairs")
                for counts in rejected.values()
                for name, n in counts.items()
                if name != "resampled t"
            ),
        },
        table=Table(["test", *shares], [[name, *(share[name] for share in shares.values())] for name in names]),
        figure=figure,
    )


@measures("e3-bootstrap-632")
def bootstrap_632(run: Run) -> Measurement:
    """Estimate the error of 1-nearest neighbour on noise, which is 0.5, and average over data sets."""
    repeats, rounds = run.repeats(smoke=5, desk=200, full=2000), run.at(smoke=50, desk=200, full=200)
    rng = run.rng()
    errors = []
    for _ in run.progress(range(repeats), label="data sets"):
        X, y = rng.standard_normal((40, 5)), rng.permutation(np.arange(40) % 2)
        model, seed = KNeighborsClassifier(1), int(rng.integers(2**31))
        scores = [
            bootstrap_score(model, X, y, method, n_splits=rounds, aggregate="sample", random_state=seed).score
            for method in ("oob", ".632", ".632+")
        ]
        errors.append([np.mean(model.fit(X, y).predict(X) != y), *(1 - score for score in scores)])
    means, deviations = np.mean(errors, axis=0), np.std(errors, axis=0)
    names = ["resubstitution", "out_of_bag", "e632", "e632_plus"]
    found: dict[str, Estimate] = {
        name: every(column, "data sets") if name == "resubstitution" else mean(column, "data sets")
        for name, column in zip(names, np.transpose(errors).tolist(), strict=True)
    }
    return Measurement(
        found,
        table=Table(
            ["estimate", "mean error", "deviation over data sets", "truth"],
            [[n, float(m), float(d), 0.5] for n, m, d in zip(names, means, deviations, strict=True)],
        ),
    )


def few_samples(run: Run) -> dict[tuple[str, str], np.ndarray]:
    """Return by data set and model the deviations (repeats, numbers of folds) of cross-validation from the truth."""
    repeats = run.repeats(smoke=2, desk=300, full=2000)
    data = {"digits": load_digits(return_X_y=True), "breast cancer": load_breast_cancer(return_X_y=True)}
    models = {"ridge": RidgeClassifier(), "3-NN": KNeighborsClassifier(3), "logistic": LogisticRegression()}
    rng = run.rng()
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _ in run.progress(range(repeats), label="subsamples"):
        for name, (X, y) in data.items():
            # The scale of the features is taken as known, so that it can't leak from one fold into another.
            X = StandardScaler().fit_transform(X)
            chosen = rng.permutation(len(y))
            few, rest = chosen[:50], chosen[50:]
            for model_name, model in models.items():
                if (name, model_name) == ("digits", "logistic"):
                    continue  # ten classes make its thousands of refits take longer than all others together
                truth = model.fit(X[few], y[few]).score(X[rest], y[rest])
                seed = int(rng.integers(2**31))
                estimates = [fold_accuracy(model, X[few], y[few], k, seed) for k in FOLDS]
                estimates.append(float(np.mean(loo_predict(model, X[few], y[few]) == y[few])))
                found.setdefault((name, model_name), []).append([e - truth for e in estimates])
    return {key: np.array(rows) for key, rows in found.items()}


FOLDS = (2, 5, 10)


def fold_accuracy(model: BaseEstimator, X: np.ndarray, y: np.ndarray, folds: int, seed: int) -> float:
    """Return the share of right predictions over all test folds."""
    splits = list(KFold(folds, shuffle=True, random_state=seed).split(X))
    return float(np.dot(split_scores(model, X, y, splits), [len(test) for _, test in splits]) / len(y))


@measures("e4-number-of-folds")
def number_of_folds(run: Run) -> Measurement:
    """Compare cross-validation on 50 samples with the accuracy of the fitted model on all the others."""
    found = few_samples(run)
    bias = np.mean(list(found.values()), axis=0)  # by subsample, which all models share, and number of folds
    names = [*(f"{k} folds" for k in FOLDS), "leave-one-out"]
    figure, axes = run.figure()
    for (data, model), rows in found.items():
        axes.plot(names, rows.mean(axis=0), "o-", label=f"{data}, {model}", alpha=0.7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="estimate minus truth (accuracy)", title="Cross-validation on 50 samples")
    axes.legend()
    return Measurement(
        {
            "ten_minus_two": mean(bias[:, 2] - bias[:, 0], "subsamples"),
            "loo_minus_ten": mean(bias[:, 3] - bias[:, 2], "subsamples"),
            "loo_bias": magnitude(mean(bias[:, 3], "subsamples")),
        },
        table=Table(
            ["data", "model", *(f"bias, {n}" for n in names), *(f"deviation, {n}" for n in names)],
            [[*key, *rows.mean(axis=0).tolist(), *rows.std(axis=0).tolist()] for key, rows in found.items()],
        ),
        figure=figure,
    )


@measures("e5-nested-cv")
def nesting(run: Run) -> Measurement:
    """Search the hyper-parameters of a support vector machine on labels that nothing can tell."""
    repeats = run.repeats(smoke=1, desk=120, full=2000)
    grid = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.01, 0.1, 1.0]}
    rng = run.rng()
    flat, nested = [], []
    for _ in run.progress(range(repeats), label="data sets"):
        X, y, seed = rng.standard_normal((60, 5)), rng.permutation(np.arange(60) % 2), int(rng.integers(2**31))
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        flat.append(GridSearchCV(SVC(), grid, cv=folds, refit=False).fit(X, y).best_score_)
        nested.append(nested_cv(SVC(), X, y, grid, inner_cv=2, outer_cv=5, refit=False, random_state=seed).mean)
    rows = [
        [name, float(np.mean(v)), float(np.std(v) / np.sqrt(repeats))]
        for name, v in (("flat", flat), ("nested", nested))
    ]
    return Measurement(
        {"flat": mean(flat, "data sets"), "nested": mean(nested, "data sets")},
        table=Table(["cross-validation", "mean accuracy (truth 0.5)", "standard error"], rows),
    )


@measures("e6-interval-coverage")
def interval_coverage(run: Run) -> Measurement:
    """Sum the binomial probabilities of the outcomes whose interval holds the true accuracy."""
    rows, wilson, wald = [], [], 0.0
    for n in (50, 100, 500):
        k = np.arange(n + 1)
        # The bootstrap of k right answers is binomial, so its percentiles are known too.
        percentile = stats.binom.ppf([[0.025], [0.975]], n, k / n) / n
        intervals = {
            "normal": accuracy_interval(k / n, n, "normal"),
            "normal, corrected": accuracy_interval(k / n, n, "normal-corrected"),
            "percentile bootstrap": tuple(percentile),
            "Wilson": accuracy_interval(k / n, n, "wilson"),
            "Clopper-Pearson": accuracy_interval(k / n, n, "clopper-pearson"),
        }
        for p in (0.8, 0.95):
            inside = {name: (low <= p) & (p <= high) for name, (low, high) in intervals.items()}
            coverage = {name: float(stats.binom.pmf(k, n, p)[hit].sum()) for name, hit in inside.items()}
            rows.append([n, p, *coverage.values()])
            wilson.append(abs(coverage["Wilson"] - 0.95))
            if (n, p) == (50, 0.95):
                wald = coverage["normal"]
    return Measurement(
        {"wilson_deviation": exact(max(wilson)), "wald": exact(wald)}, table=Table(["n", "accuracy", *intervals], rows)
    )


@races("mlxtend")
def against_mlxtend(run: Run) -> Measurement:
    """Run the same number of bootstrap rounds on the same data by both, for a regressor and a classifier."""
    from mlxtend.evaluate import bootstrap_point632_score

    n, rounds = run.at(smoke=60, desk=1000, full=1000), run.at(smoke=5, desk=200, full=200)
    rng = run.rng()
    X = rng.standard_normal((n, run.at(smoke=5, desk=50, full=50)))
    linear = X @ rng.standard_normal(X.shape[1]) + rng.standard_normal(n)
    rows, ratios = [], []
    for name, model, y in (("ridge", Ridge(), linear), ("LDA", LinearDiscriminantAnalysis(), (linear > 0).astype(int))):
        jobs = {
            "ours": partial(
                bootstrap_score, model, X, y, ".632", n_splits=rounds, train_error="bootstrap_full", random_state=0
            ),
            "mlxtend": partial(bootstrap_point632_score, model, X, y, n_splits=rounds, method=".632", random_seed=0),
        }
        times = interleaved(run, jobs, run.at(smoke=1, desk=9, full=9))
        ratios.append(times.ratio("ours", "mlxtend"))
        scores = [jobs["ours"]().score, float(np.mean(jobs["mlxtend"]()))]
        rows.append([name, *times.medians().values(), ratios[-1].value, *scores])
    return Measurement(
        greatest(ratios),
        settings="bootstrap_point632_score with method .632, the same number of rounds, one thread",
        table=Table(["model", "ours (s)", "mlxtend (s)", "ratio", "our score", "mlxtend's score"], rows),
    )


@races("scikit-learn")
def against_scikit_learn(run: Run) -> Measurement:
    """Leave every sample out once, by both; the predictions have to agree."""
    n = run.at(smoke=50, desk=2000, full=2000)
    rng = run.rng()
    X = rng.standard_normal((n, run.at(smoke=5, desk=50, full=50)))
    y = X @ rng.standard_normal(X.shape[1]) + rng.standard_normal(n)
    jobs = {
        "ours": partial(loo_predict, Ridge(), X, y),
        "cross_val_predict": partial(cross_val_predict, Ridge(), X, y, cv=LeaveOneOut()),
    }
    times = interleaved(run, jobs, run.at(smoke=1, desk=8, full=9))
    difference = float(np.abs(jobs["ours"]() - jobs["cross_val_predict"]()).max())
    return Measurement(
        times.ratio("ours", "cross_val_predict"),
        table=Table(
            ["leave-one-out by", "seconds", "largest difference"],
            [[name, s, difference] for name, s in times.medians().items()],
        ),
        settings="cross_val_predict with LeaveOneOut, one thread",
    )


@races("statsmodels", exclusive=False)
def against_statsmodels(run: Run) -> Measurement:
    """Compare p-values on random tables, predictions and sets of p-values."""
    from statsmodels.stats.contingency_tables import cochrans_q as their_q
    from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
    from statsmodels.stats.multitest import multipletests

    rng = run.rng()
    worst = dict.fromkeys(["McNemar, exact", "McNemar, chi-square", "Cochran's Q"], 0.0)
    excess = 0.0
    names = {"bonferroni": "bonferroni", "sidak": "sidak", "holm": "holm", "hochberg": "simes-hochberg"}
    names |= {"bh": "fdr_bh", "by": "fdr_by"}
    worst |= dict.fromkeys(names, 0.0)
    for _ in run.progress(range(run.at(smoke=5, desk=500, full=500)), label="cases"):
        table = rng.integers(0, 40, (2, 2))
        for binomial, key in ((True, "McNemar, exact"), (False, "McNemar, chi-square")):
            theirs = their_mcnemar(table, exact=binomial, correction=True).pvalue
            if table[0, 1] == table[1, 0]:  # the two-sided p is 1, which a difference of 0 corrected by -1 doesn't give
                excess, theirs = max(excess, 1 - theirs), 1.0
            worst[key] = max(worst[key], abs(mcnemar(table, exact=binomial).pvalue - theirs))
        right = rng.random((80, 4)) < 0.7
        difference = abs(cochrans_q(np.ones(80), *right.T).pvalue - their_q(right.astype(int)).pvalue)
        worst["Cochran's Q"] = max(worst["Cochran's Q"], difference)
        pvalues = rng.random(12) ** 3
        for ours, theirs in names.items():
            adjusted = multipletests(pvalues, method=theirs)[1]
            worst[ours] = max(worst[ours], float(np.abs(adjust_pvalues(pvalues, ours) - adjusted).max()))
    return Measurement(
        exact(max(worst.values())),
        table=Table(["test", "largest difference of p"], [[k, float(v)] for k, v in worst.items()]),
        remark=f"Where both models err equally often, p is 1; statsmodels' is up to {excess:.2f} below it.",
        settings="exact and corrected chi-square McNemar, Cochran's Q, six corrections, at their defaults",
    )
