import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import get_scorer, make_scorer, mean_pinball_loss, mean_squared_error, roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from paperworks.inference import SampleLoss, bootstrap_score
from paperworks.inference.evaluation import bootstrap
from paperworks.inference.evaluation.scoring import SAMPLE_LOSSES

X, Y = make_classification(24, 4, n_informative=3, n_redundant=0, class_sep=0.5, flip_y=0.2, random_state=0)
NUMBERS = np.exp(X @ np.arange(4.0) / 4 + np.random.default_rng(0).normal(size=24) / 2)
COUNTS = np.stack([np.bincount(np.random.default_rng(i).integers(0, 24, 24), minlength=24) for i in range(10)])
MODELS = {
    "accuracy": DecisionTreeClassifier(max_depth=3, random_state=0),
    "neg_log_loss": LogisticRegression(),
    "neg_brier_score": GaussianNB(),
    "neg_mean_poisson_deviance": PoissonRegressor(),
    "neg_mean_gamma_deviance": PoissonRegressor(),
    "neg_mean_squared_log_error": PoissonRegressor(),
}


@pytest.fixture
def resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "draw_resamples", lambda *_: COUNTS)


def data(name):
    model = MODELS.get(name, Ridge())
    return model, X, Y if hasattr(model, "predict_proba") else NUMBERS


def plus(train, e1, gamma):
    e1 = min(e1, gamma)
    rate = (e1 - train) / (gamma - train) if e1 > train and gamma > train else 0.0
    weight = 0.632 / (1 - 0.368 * min(rate, 1))
    return (1 - weight) * train + weight * e1


def by_definition(model, y, scorer, weights=None):
    """Return errors in training, out of bag by sample and by rounds, and gamma, one sample after the other."""
    w = np.ones(24) if weights is None else weights
    given = {} if weights is None else {"sample_weight": weights}
    of_sample = np.full((10, 24), np.nan)
    for j, row in enumerate(COUNTS):
        rows = np.repeat(np.arange(24), row)
        fitted = clone(model).fit(X[rows], y[rows], **{name: v[rows] for name, v in given.items()})
        for i in np.flatnonzero(row == 0):
            of_sample[j, i] = -scorer(fitted, X[[i]], y[[i]])
    whole = clone(model).fit(X, y, **given)
    train = np.average([-scorer(whole, X[[i]], y[[i]]) for i in range(24)], weights=w)
    pairs = [[-scorer(whole, X[[j]], y[[i]]) for j in range(24)] for i in range(24)]
    gamma = np.average(np.average(pairs, axis=1, weights=w), weights=w)
    left = ~np.isnan(of_sample)
    by_round = np.nansum(of_sample * w, axis=1) / np.sum(left * w, axis=1)
    return train, np.average(np.nanmean(of_sample, axis=0), weights=w), by_round.mean(), gamma


def scorer_of(name):
    """One that knows of all classes, whatever sample it is called with."""
    if name == "neg_log_loss":
        return lambda m, x, y: float(np.log(m.predict_proba(x)[0, y[0]]))
    if name == "neg_brier_score":
        return lambda m, x, y: -float((y[0] - m.predict_proba(x)[0, 1]) ** 2)
    if name == "accuracy":
        return lambda m, x, y: float(m.predict(x)[0] == y[0])
    return get_scorer(name)


@pytest.mark.parametrize("name", SAMPLE_LOSSES)
def test_any_mean_over_samples_has_its_632_plus(name, resamples):
    model, _, y = data(name)
    train, e1, by_round, gamma = by_definition(model, y, scorer_of(name))
    scores = {m: bootstrap_score(model, X, y, m, n_splits=10, scoring=name).score for m in ("oob", ".632", ".632+")}
    errors = {"oob": by_round, ".632": 0.368 * train + 0.632 * by_round, ".632+": plus(train, e1, gamma)}
    for method, error in errors.items():
        assert np.isclose(-scores[method], error), method


def test_weights_are_those_of_the_definition(resamples):
    weights = np.random.default_rng(1).random(24)
    train, e1, by_round, gamma = by_definition(Ridge(), NUMBERS, get_scorer("neg_mean_squared_error"), weights)
    options = {"n_splits": 10, "sample_weight": weights}
    assert np.isclose(-bootstrap_score(Ridge(), X, NUMBERS, **options).score, plus(train, e1, gamma))
    assert np.isclose(-bootstrap_score(Ridge(), X, NUMBERS, "oob", **options).score, by_round)


def test_own_losses_and_scorers_are_means_too(resamples):
    model = DecisionTreeRegressor(max_depth=3, random_state=0)
    pinball = SampleLoss(lambda y, p: np.where(y >= p, 0.9 * (y - p), 0.1 * (p - y)))
    scorer = make_scorer(mean_pinball_loss, greater_is_better=False, alpha=0.9)
    train, e1, by_round, gamma = by_definition(model, NUMBERS, scorer)
    found = bootstrap_score(model, X, NUMBERS, n_splits=10, scoring=pinball)
    assert np.isclose(-found.score, plus(train, e1, gamma))
    # A scorer doesn't tell the losses of samples, so that the mean out of bag is that of the rounds.
    found = bootstrap_score(model, X, NUMBERS, n_splits=10, scoring=scorer)
    assert np.isclose(-found.score, plus(train, by_round, gamma))
    weights = np.random.default_rng(1).random(24)
    options = {"n_splits": 10, "aggregate": "round", "sample_weight": weights}
    ours, theirs = (bootstrap_score(model, X, NUMBERS, scoring=s, **options).score for s in (pinball, scorer))
    assert np.isclose(ours, theirs)


def test_a_scorer_at_its_defaults_is_as_good_as_its_name(resamples):
    scorer = make_scorer(mean_squared_error, greater_is_better=False)
    by_name, by_scorer = (
        bootstrap_score(Ridge(), X, NUMBERS, n_splits=10, scoring=s, ci="bca") for s in (None, scorer)
    )
    assert by_name.interval == by_scorer.interval


def test_the_area_under_the_curve_is_that_of_pairs_left_out_together(resamples):
    model = GaussianNB()
    wrong, times = np.zeros((24, 24)), np.zeros((24, 24))
    rounds = []
    for row in COUNTS:
        rows, left = np.repeat(np.arange(24), row), np.flatnonzero(row == 0)
        p = clone(model).fit(X[rows], Y[rows]).predict_proba(X)[:, 1]
        rounds.append(roc_auc_score(Y[left], p[left]))
        for i in left:
            for j in left:
                if Y[i] == 1 and Y[j] == 0:
                    times[i, j] += 1
                    wrong[i, j] += (p[i] < p[j]) + 0.5 * (p[i] == p[j])
    e1 = np.mean(wrong[times > 0] / times[times > 0])
    train = 1 - roc_auc_score(Y, clone(model).fit(X, Y).predict_proba(X)[:, 1])
    options = {"n_splits": 10, "scoring": "roc_auc"}
    assert np.isclose(bootstrap_score(model, X, Y, "oob", aggregate="sample", **options).score, 1 - e1)
    assert np.isclose(bootstrap_score(model, X, Y, "oob", **options).score, np.mean(rounds))
    assert np.isclose(bootstrap_score(model, X, Y, **options).score, 1 - plus(train, e1, 0.5))
    weighted = bootstrap_score(model, X, Y, aggregate="sample", sample_weight=np.full(24, 2.0), **options)
    assert np.isclose(weighted.score, 1 - plus(train, e1, 0.5))


def test_what_is_left_out_has_both_classes_for_the_area_under_the_curve():
    y = np.arange(12) < 3
    found = bootstrap_score(GaussianNB(), X[:12], y, "oob", n_splits=40, scoring="roc_auc", random_state=0)
    assert np.all(np.isfinite(found.scores))
    with pytest.raises(ValueError, match="one class"):
        bootstrap_score(GaussianNB(), X[:12], y, scoring="roc_auc", on_degenerate="raise", random_state=0)


def test_on_noise_the_area_out_of_bag_is_a_half_and_632_is_optimistic():
    rng = np.random.default_rng(5)
    scores = []
    for seed in range(12):
        noise, labels = rng.normal(size=(40, 3)), rng.permutation(np.arange(40) % 2)
        options = {"n_splits": 25, "scoring": "roc_auc", "random_state": seed}
        model = DecisionTreeClassifier(random_state=0)
        scores.append([bootstrap_score(model, noise, labels, m, **options).score for m in (".632", ".632+")])
    plain, corrected = np.mean(scores, axis=0)
    assert plain > 0.62
    assert abs(corrected - 0.5) < 0.06


def test_a_resample_without_a_class_gives_it_no_probability():
    y = np.r_[np.zeros(12), np.ones(10), [2, 2]].astype(int)
    found = bootstrap_score(
        GaussianNB(var_smoothing=1.0), X, y, "oob", n_splits=20, scoring="neg_brier_score", random_state=0
    )
    assert np.all(np.isfinite(found.scores))


BAD = [
    (lambda: bootstrap_score(Ridge(), X, NUMBERS, scoring="r2"), "no mean over samples"),
    (lambda: bootstrap_score(Ridge(), X, NUMBERS, scoring="neg_root_mean_squared_error"), "no mean over samples"),
    (lambda: bootstrap_score(GaussianNB(), X, Y, scoring="f1", aggregate="sample"), "losses of samples"),
    (lambda: bootstrap_score(GaussianNB(), X, Y, scoring="roc_auc", ci="bca"), "losses of samples"),
    (lambda: bootstrap_score(GaussianNB(), X, Y + (X[:, 0] > 1), scoring="roc_auc"), "3 classes"),
    (lambda: bootstrap_score(Ridge(), X, NUMBERS, scoring=SampleLoss(lambda y, p: np.mean(y - p))), "one finite loss"),
    (lambda: bootstrap_score(Ridge(), X, -NUMBERS, scoring="neg_mean_poisson_deviance"), "predictions > 0"),
    (lambda: bootstrap_score(Ridge(), X, NUMBERS, groups=np.zeros(24)), "number of groups is 1"),
    (lambda: bootstrap_score(Ridge(), X, NUMBERS, sample_weight=np.arange(24) == 3), "zero on all"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[f"{i}-{message}" for i, (_, message) in enumerate(BAD)])
def test_bad_input_is_named(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()
