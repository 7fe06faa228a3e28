"""Errors out of bag and in training, of a model refitted on bootstrap resamples: what the estimates are made of."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing

from paperworks.inference.evaluation.refits import refit_responses
from paperworks.inference.evaluation.scoring import PairLoss, SampleLoss, fitted, pair_error, score_of

Method = Literal["oob", ".632", ".632+"]
Aggregate = Literal["round", "sample"]
TrainError = Literal["resub", "bootstrap_full", "bootstrap_train"]


class Errors(NamedTuple):
    """What an estimate is made of: errors out of bag and in training, of all and of each round, and gamma."""

    e1: float
    oob: np.ndarray
    train: np.ndarray
    gamma: float
    losses: np.ndarray


def no_information_rate(
    y: ArrayLike, responses: ArrayLike, how: SampleLoss, sample_weight: ArrayLike | None = None
) -> float:
    """Return the mean loss over all pairs of a label and a prediction: what a model without information would lose.

    Examples
    --------
    >>> from paperworks.inference.evaluation.scoring import SAMPLE_LOSSES
    >>> no_information_rate([0, 0, 1, 1], [0, 1, 1, 1], SAMPLE_LOSSES["accuracy"])
    0.5
    """
    labels, member = np.unique(np.asarray(y), return_inverse=True)
    predicted = np.asarray(responses)
    weights = np.ones(len(member)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    shares = np.bincount(member, weights) / weights.sum()
    means = [np.average(how.of(label, predicted), weights=weights) for label in labels]
    return float(np.dot(shares, means))


def errors_of_losses(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    counts: np.ndarray,
    how: SampleLoss,
    method: Method,
    aggregate: Aggregate,
    train_error: TrainError,
    weights: np.ndarray | None,
    n_jobs: int | None,
) -> Errors:
    """Return errors that are means of losses of samples."""
    # The last row is the model fitted on all of the data.
    with_all = counts if method == "oob" else np.vstack([counts, np.ones_like(counts[:1])])
    responses = refit_responses(estimator, X, y, with_all, response=how.response, sample_weight=weights, n_jobs=n_jobs)
    labels = y if how.response == "predict" else np.unique(y, return_inverse=True)[1]
    losses = how.of(labels, responses[: len(counts)])
    one = np.ones(len(y)) if weights is None else weights
    out = (counts == 0) * one
    oob = np.sum(losses * out, axis=1) / out.sum(axis=1)
    if aggregate == "sample":
        left = (counts == 0).sum(axis=0)
        seen = left > 0
        means = np.sum(losses * (counts == 0), axis=0)[seen] / left[seen]
        e1 = float(np.sum(one[seen] * means) / one[seen].sum())
    else:
        e1 = float(oob.mean())
    if method == "oob":
        return Errors(e1, oob, oob, np.nan, losses)
    whole = responses[-1]
    train = {
        "resub": lambda: np.full(len(counts), np.average(how.of(labels, whole), weights=one)),
        "bootstrap_full": lambda: np.average(losses, axis=1, weights=one),
        "bootstrap_train": lambda: np.sum(losses * counts * one, axis=1) / np.sum(counts * one, axis=1),
    }[train_error]()
    gamma = no_information_rate(labels, whole, how, weights) if method == ".632+" else np.nan
    return Errors(e1, oob, train, gamma, losses)


def errors_of_pairs(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    counts: np.ndarray,
    how: PairLoss,
    method: Method,
    aggregate: Aggregate,
    train_error: TrainError,
    weights: np.ndarray | None,
    n_jobs: int | None,
) -> Errors:
    """Return errors that are shares of pairs of a positive and a negative."""
    with_all = counts if method == "oob" else np.vstack([counts, np.ones_like(counts[:1])])
    responses = refit_responses(estimator, X, y, with_all, response=how.response, sample_weight=weights, n_jobs=n_jobs)
    scores, whole = responses[: len(counts)], responses[-1]
    positive = y == np.unique(y)[1]
    out, one = (counts == 0).astype(float), np.ones(len(y)) if weights is None else weights
    oob = np.array([pair_error(positive, s, w) for s, w in zip(scores, out * one, strict=True)])
    e1 = float(oob.mean())
    if aggregate == "sample":
        wrong = np.zeros((positive.sum(), (~positive).sum()))
        for s, left in zip(scores, out, strict=True):
            of_pair = 0.5 * (1 - np.sign(s[positive][:, None] - s[~positive]))
            wrong += left[positive][:, None] * left[~positive] * of_pair
        times = out[:, positive].T @ out[:, ~positive]
        share = one[positive][:, None] * one[~positive] * (times > 0)
        e1 = float(np.sum(share * wrong / np.maximum(times, 1)) / share.sum())
    if method == "oob":
        return Errors(e1, oob, oob, 0.5, scores)
    seen = {"bootstrap_full": np.ones_like(out), "bootstrap_train": counts}.get(train_error)
    if seen is None:
        train = np.full(len(counts), pair_error(positive, whole, one))
    else:
        train = np.array([pair_error(positive, s, w) for s, w in zip(scores, seen * one, strict=True)])
    return Errors(e1, oob, train, 0.5, scores)


def errors_of_scorer(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    counts: np.ndarray,
    scorer: Any,
    method: Method,
    train_error: TrainError,
    weights: np.ndarray | None,
) -> Errors:
    """Return errors, which are negative scores, by one fitted model a round."""
    everything = np.arange(len(y))

    def error(model: Any, rows: np.ndarray, labels: np.ndarray, w: np.ndarray | None) -> float:
        return -score_of(scorer, model, _safe_indexing(X, rows), labels[rows], None if w is None else w[rows])

    whole = fitted(estimator, X, y, weights) if method != "oob" else None
    gamma = np.nan
    if method == ".632+":
        _check_mean(error, whole, y, weights)
        # Labels and predictions are paired at every distance once, so that each is with each.
        shifted = [(np.roll(y, s), None if weights is None else weights * np.roll(weights, s)) for s in everything]
        sums = [len(y) if w is None else w.sum() for _, w in shifted]
        means = [error(whole, everything, *pair) if sums[s] else 0.0 for s, pair in enumerate(shifted)]
        gamma = float(np.average(means, weights=sums))
    oob, train = np.empty(len(counts)), np.empty(len(counts))
    if method != "oob" and train_error == "resub":
        train[:] = error(whole, everything, y, weights)
    for i, row in enumerate(counts):
        resample, left = np.repeat(everything, row), np.flatnonzero(row == 0)
        model = fitted(
            estimator, _safe_indexing(X, resample), y[resample], None if weights is None else weights[resample]
        )
        oob[i] = error(model, left, y, weights)
        if method != "oob" and train_error != "resub":
            train[i] = error(model, everything if train_error == "bootstrap_full" else resample, y, weights)
    return Errors(float(oob.mean()), oob, train, gamma, np.empty(0))


def _check_mean(error: Any, model: Any, y: np.ndarray, weights: np.ndarray | None) -> None:
    """Raise ValueError where a score isn't the mean of those of two halves of the samples, for true or other labels."""
    everything = np.arange(len(y))
    for labels in (y, np.roll(y, 1)):
        parts = [everything, everything[::2], everything[1::2]]
        total, *halves = (error(model, rows, labels, weights) for rows in parts)
        sizes = [len(rows) if weights is None else weights[rows].sum() for rows in parts[1:]]
        if not np.isclose(np.average(halves, weights=sizes), total, rtol=1e-6, atol=1e-9):
            raise ValueError(
                "scoring is no mean over samples: that of all isn't the mean of those of two halves; .632+ takes one "
                "that is, such as a SampleLoss, or 'roc_auc'"
            )
