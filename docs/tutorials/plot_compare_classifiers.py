"""
Compare two classifiers without fooling yourself
================================================

You have two classifiers, one a point better than the other on your test set. You want to know whether that is a
difference or luck, and how good either will be on new data.

Two questions hide in this, and they take different tests. *These two fitted models, on this test set*: McNemar's test.
*These two ways of learning, on data of this kind*: tests on many refits. This tutorial asks both for the breast cancer
data of scikit-learn, checks each answer against statsmodels or against a case whose answer is known, and puts an
interval on the accuracy.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedShuffleSplit, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from paperworks.inference import (
    accuracy_interval,
    bootstrap_score,
    compare_algorithms,
    compare_scores,
    mcnemar,
    split_scores,
)

X, y = load_breast_cancer(return_X_y=True)
algorithms = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "logistic, C=10": make_pipeline(StandardScaler(), LogisticRegression(C=10)),
    "naive Bayes": GaussianNB(),
}
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
predictions = {name: model.fit(X_train, y_train).predict(X_test) for name, model in algorithms.items()}

# %%
# One test set: intervals first
# -----------------------------
# An accuracy of a few hundred samples is known to some percent only. Wilson's interval says how well.

for name, predicted in predictions.items():
    accuracy = float((predicted == y_test).mean())
    low, high = accuracy_interval(accuracy, len(y_test))
    print(f"{name:15} accuracy {accuracy:.3f}, 95 % interval [{low:.3f}, {high:.3f}]")

hits = int((predictions["naive Bayes"] == y_test).sum())
reference = proportion_confint(hits, len(y_test), method="wilson")
assert np.allclose(accuracy_interval(hits / len(y_test), len(y_test)), reference)

# %%
# Two fitted models: McNemar's test
# ---------------------------------
# Intervals that overlap prove nothing: both models saw the same samples. What counts is where they differ, and how
# often each alone is right there.

first, second = (predictions[name] == y_test for name in ("logistic", "naive Bayes"))
print(f"only logistic right: {(first & ~second).sum()}, only naive Bayes right: {(~first & second).sum()}")
found = mcnemar(y_test, predictions["logistic"], predictions["naive Bayes"], exact=True)
print(f"McNemar's test: p = {found.pvalue:.4f}")

table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
reference = statsmodels_mcnemar(table, exact=True)
print(f"statsmodels:    p = {reference.pvalue:.4f}")
assert np.isclose(found.pvalue, reference.pvalue)

# %%
# Two ways of learning: refit both
# --------------------------------
# Another training set would give other models. :func:`~paperworks.inference.compare_algorithms` refits all algorithms
# on 30 random splits and tests each pair, with two corrections: Nadeau and Bengio's, because the training sets
# overlap, and Holm's, because we ask three questions at once.

report = compare_algorithms(algorithms, X, y, test="resampled-t", random_state=0)
print(report)

# %%
# Does the test lie?
# ------------------
# A test should seldom say *different* where there is no difference. So ask it where you know that there is none: two
# classifiers of the same kind, one of which sees ten noisy features and the other one ten more of the same law.
# Neither is better. At level 0.05 a test may reject in one data set of twenty; the plain t-test over random splits,
# which takes overlapping training sets for independent ones, is still in many articles; the 5x2cv F-test is often
# recommended.

columns = [FunctionTransformer(lambda X: X[:, :10]), FunctionTransformer(lambda X: X[:, 10:])]
equal = [make_pipeline(select, GaussianNB()) for select in columns]
rng = np.random.default_rng(0)
tests = {"plain t, 30 splits": "paired-t", "corrected t, 30 splits": "corrected-t", "5x2cv F": "5x2cv-f"}
rejected = dict.fromkeys(tests, 0)
sets = 200
for _ in range(sets):
    labels = rng.permutation(np.repeat([0, 1], 60))
    samples = rng.standard_normal((120, 20)) + 0.35 * labels[:, None]
    seed = int(rng.integers(2**31))
    many = list(StratifiedShuffleSplit(30, test_size=1 / 3, random_state=seed).split(samples, labels))
    halves = list(RepeatedStratifiedKFold(n_splits=2, n_repeats=5, random_state=seed).split(samples, labels))
    for name, test in tests.items():
        splits = halves if test == "5x2cv-f" else many
        scores = [split_scores(model, samples, labels, splits) for model in equal]
        rejected[name] += compare_scores(*scores, splits, test=test).pvalue < 0.05
shares = {name: count / sets for name, count in rejected.items()}
for name, share in shares.items():
    print(f"{name:24} rejects a true null hypothesis in {share:.1%} of {sets} data sets")

figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
intervals = np.array([accuracy_interval(share, sets) for share in shares.values()])
middles = np.array(list(shares.values()))
axis.barh(list(shares), 100 * middles, xerr=100 * np.abs(intervals.T - middles), color=["C1", "C0", "C2"], capsize=4)
axis.axvline(5, color="gray", linestyle="--", label="what the level allows")
axis.set(xlabel="differences found where there are none (% of data sets)")
axis.set_title("False alarms of three tests at level 0.05")
axis.invert_yaxis()
axis.legend()

# %%
# That is why we took the corrected test above. The plain one finds differences in most data sets where there are none.
# The 5x2cv F-test too is not safe here: its ten differences come from one small data set, on which one group of
# features happens to do better, and all ten see that.

# %%
# How good will it be?
# --------------------
# Report an accuracy with an interval that doesn't spend a test set: the .632+ bootstrap refits the model on 200
# resamples.

found = bootstrap_score(algorithms["naive Bayes"], X, y, random_state=0)
low, high = found.interval
print(f"naive Bayes trained on all: {found.score:.3f}, 95 % interval [{low:.3f}, {high:.3f}]")

# %%
# What it costs, and when not to use it
# -------------------------------------
# McNemar's test costs nothing beyond the predictions; the corrected test 30 fits of each algorithm; the bootstrap two
# hundred, which for naive Bayes, linear discriminants, least squares and nearest neighbours are computed all at once.
#
# * Samples of one patient or one day are not independent: give them as ``groups``.
# * A data set this small seldom proves that two good classifiers differ. That is an answer too.
# * Networks that take a day to train can't be refitted thirty times. Compare fitted models on a large test set, and
#   say so.

differ = {(pair.first, pair.second): pair.adjusted for pair in report.pairs}
assert differ["logistic", "naive Bayes"] < 0.05
assert shares["plain t, 30 splits"] > 0.3
assert shares["corrected t, 30 splits"] < 0.1
