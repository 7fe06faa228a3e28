"""Bootstrap estimates of a model's performance: out of bag, .632 and .632+."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.evaluation.intervals import Interval
from paperworks.inference.evaluation.refits import refit_predictions
from paperworks.inference.evaluation.scoring import PointScore, Scoring, scoring_of

Method = Literal["oob", ".632", ".632+"]
Aggregate = Literal["round", "sample"]
TrainError = Literal["resub", "bootstrap_full", "bootstrap_train"]
BootstrapCI = Literal["percentile", "t", "bca"]
OnDegenerate = Literal["resample", "raise"]
RandomState = int | np.random.RandomState | None
_TRIES = 1000  # redraws of a degenerate resample before giving up


class BootstrapOutOfBag:
    """A splitter of scikit-learn's kind: train on a bootstrap resample, test on what it left out.

    Parameters
    ----------
    n_splits
        Number of rounds.
    random_state
        Seed or generator of the resamples.

    Examples
    --------
    >>> splitter = BootstrapOutOfBag(n_splits=2, random_state=0)
    >>> [(train.tolist(), test.tolist()) for train, test in splitter.split([10, 20, 30, 40])]
    [([0, 3, 1, 0], [2]), ([3, 3, 3, 3], [0, 1, 2])]
    """

    def __init__(self, n_splits: int = 200, random_state: RandomState = None) -> None:
        self.n_splits = check_count("n_splits", n_splits)
        self.random_state = random_state

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices, in [0, n), of each round's resample and of the samples it left out, never none.

        Parameters
        ----------
        X
            Samples, of which only the number is used.
        y, groups
            Ignored; they are scikit-learn's convention.

        Returns
        -------
        Iterator[tuple[ndarray, ndarray]]
            For each round the n indices of the resample and those of the samples left out.
        """
        n = check_count("number of samples", len(X), at_least=2)
        rng = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            train = rng.randint(0, n, n)
            while len(test := np.setdiff1d(np.arange(n), train)) == 0:
                train = rng.randint(0, n, n)
            yield train, test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of rounds.

        Parameters
        ----------
        X, y, groups
            Ignored; they are scikit-learn's convention.

        Returns
        -------
        int
            The number `n_splits` of resamples.
        """
        return self.n_splits


@dataclass(frozen=True)
class BootstrapResult:
    """A bootstrap estimate of a score.

    Attributes
    ----------
    score
        The point estimate.
    scores
        Shape (n_splits,): the estimate with each round's own out-of-bag (and training) score in place of the mean.
    interval
        Confidence interval of the score.
    oob_counts
        Shape (n_splits,): number of samples left out in each round.
    """

    score: float
    scores: np.ndarray
    interval: Interval
    oob_counts: np.ndarray


def bootstrap_score(
    estimator: BaseEstimator,
    X: Any,
    y: ArrayLike,
    method: Method = ".632+",
    *,
    n_splits: int = 200,
    scoring: Scoring = None,
    aggregate: Aggregate | None = None,
    train_error: TrainError = "resub",
    ci: BootstrapCI = "percentile",
    alpha: float = 0.05,
    on_degenerate: OnDegenerate = "resample",
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> BootstrapResult:
    """Estimate how well a model trained on all of the data will score on new samples.

    With ``err`` the training error, ``e1`` the error out of bag and ``gamma`` the error of predictions paired with
    labels at random: ``.632`` is ``.368 err + .632 e1``; ``.632+`` is ``(1 - w) err + w min(e1, gamma)`` with
    ``w = .632 / (1 - .368 R)`` and the relative overfitting rate ``R = (e1 - err) / (gamma - err)`` cut to [0, 1].

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X, y
        The data, n samples.
    method
        ``oob``, ``.632`` or ``.632+``.
    n_splits
        Bootstrap rounds; 200 is the article's advice.
    scoring
        ``accuracy`` (classifiers by default), ``neg_mean_squared_error`` (regressors by default),
        ``neg_mean_absolute_error``, or any other scorer of scikit-learn, with which ``.632+`` and
        ``aggregate="sample"`` are not defined, for they need a loss of every sample.
    aggregate
        Average the out-of-bag error over rounds (``round``) or, as Efron does, over samples (``sample``: first over the
        rounds that left a sample out). By default ``sample`` for ``.632+``, else ``round``.
    train_error
        Training error of the model fitted on all of the data (``resub``, Efron's), or of each round's model on all of
        the data (``bootstrap_full``) or on its own resample (``bootstrap_train``).
    ci
        ``percentile`` of the rounds' scores, shifted to the point estimate; ``t``: the estimate plus and minus
        Student's quantile times the standard deviation of the rounds' scores; ``bca``: bias-corrected and accelerated,
        with the acceleration of the jackknife after the bootstrap.
    alpha
        Significance level: the interval covers with probability ``1 - alpha``; in (0, 1).
    on_degenerate
        What to do with a resample of a classifier's data that holds one class only: draw again, or raise. A resample
        that leaves nothing out is always drawn again.
    n_jobs
        Processes for models that aren't refitted in closed form.
    random_state
        Seed or generator of the resamples.

    Returns
    -------
    BootstrapResult
        The estimate with its interval and what it was made of.

    Raises
    ------
    ValueError
        For unknown options, ``n_splits < 1`` (2 for an interval by ``t``), fewer than two samples, a ``scoring`` that
        doesn't fit, an estimator without a default one, or degenerate resamples.

    References
    ----------
    Raschka, arXiv 1811.12808, section 2; Efron and Tibshirani (1997).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> X, y = load_iris(return_X_y=True)
    >>> found = bootstrap_score(LinearDiscriminantAnalysis(), X, y, random_state=0)
    >>> round(found.score, 2), found.interval.low < found.score < found.interval.high
    (0.98, True)
    """
    check_choice("method", method, get_args(Method))
    check_choice("train_error", train_error, get_args(TrainError))
    check_choice("ci", ci, get_args(BootstrapCI))
    check_choice("on_degenerate", on_degenerate, get_args(OnDegenerate))
    by: Aggregate = aggregate or ("sample" if method == ".632+" else "round")
    check_choice("aggregate", by, get_args(Aggregate))
    check_count("n_splits", n_splits, at_least=1 if ci == "percentile" else 2)
    check_number("alpha", alpha, gt=0, lt=1)
    target = np.asarray(y)
    if target.ndim != 1 or len(target) < 2 or len(target) != _num_samples(X):
        raise ValueError(f"y has shape {target.shape}; it takes one target for each of at least two samples of X")
    counts = draw_resamples(
        target if is_classifier(estimator) else None, len(target), n_splits, on_degenerate, random_state
    )
    how = scoring_of(estimator, scoring)
    if isinstance(how, PointScore):
        return _of_losses(estimator, X, target, counts, how, method, by, train_error, ci, alpha, n_jobs)
    if method == ".632+" or by == "sample" or ci == "bca":
        raise ValueError(
            f"scoring is {scoring!r}, which is no mean over samples; .632+, aggregate='sample' and ci='bca' take "
            "accuracy, neg_mean_squared_error or neg_mean_absolute_error"
        )
    return _of_scorer(estimator, X, target, counts, how, method, train_error, ci, alpha)


def no_information_rate(y: ArrayLike, predictions: ArrayLike, how: PointScore) -> float:
    """Return the mean loss over all pairs of a label and a prediction: what a model without information would lose.

    Examples
    --------
    >>> from paperworks.inference.evaluation.scoring import POINT_SCORES
    >>> no_information_rate([0, 0, 1, 1], [0, 1, 1, 1], POINT_SCORES["accuracy"])
    0.5
    """
    labels, label_counts = np.unique(np.asarray(y), return_counts=True)
    values, value_counts = np.unique(np.asarray(predictions), return_counts=True)
    losses = sum(c * (how.loss(label, values) @ value_counts) for label, c in zip(labels, label_counts, strict=True))
    return float(losses / (label_counts.sum() * value_counts.sum()))


def draw_resamples(
    labels: np.ndarray | None, n: int, rounds: int, on_degenerate: OnDegenerate, random_state: RandomState
) -> np.ndarray:
    """Return how often each of n samples is in each resample, shape (rounds, n).

    Each resample leaves something out and, where labels are given, holds at least two classes.

    Examples
    --------
    >>> draw_resamples(None, 4, 2, "resample", 0)
    array([[2, 1, 0, 1],
           [0, 0, 0, 4]])
    """
    rng = check_random_state(random_state)
    if labels is not None and len(np.unique(labels)) < 2:
        raise ValueError("y holds one class; a classifier takes at least two")
    counts = np.stack([np.bincount(rng.randint(0, n, n), minlength=n) for _ in range(rounds)])

    def bad(rows: np.ndarray) -> np.ndarray:
        found = np.all(rows > 0, axis=1)
        if labels is not None:
            one_hot = labels[:, None] == np.unique(labels)
            single = np.sum(rows @ one_hot > 0, axis=1) < 2
            if on_degenerate == "raise" and single.any():
                raise ValueError(
                    f"{single.sum()} of {len(rows)} resamples hold one class; on_degenerate='resample' redraws"
                )
            found |= single
        return found

    for _ in range(_TRIES):
        again = np.flatnonzero(bad(counts))
        if not len(again):
            return counts
        counts[again] = [np.bincount(rng.randint(0, n, n), minlength=n) for _ in again]
    raise ValueError(f"y has too few samples of all classes but one: {_TRIES} resamples in a row held one class")


def _of_losses(
    estimator: BaseEstimator,
    X: Any,
    y: np.ndarray,
    counts: np.ndarray,
    how: PointScore,
    method: Method,
    aggregate: Aggregate,
    train_error: TrainError,
    ci: BootstrapCI,
    alpha: float,
    n_jobs: int | None,
) -> BootstrapResult:
    # The last row is the model fitted on all of the data.
    with_all = counts if method == "oob" else np.vstack([counts, np.ones_like(y, dtype=int)])
    predictions = refit_predictions(estimator, X, y, with_all, n_jobs=n_jobs)
    losses = how.loss(y, predictions[: len(counts)])
    out = counts == 0
    oob_counts = out.sum(axis=1)
    oob = np.sum(losses * out, axis=1) / oob_counts
    left_out = out.sum(axis=0)
    if aggregate == "sample":
        seen = left_out > 0
        e1 = float(np.mean(np.sum(losses * out, axis=0)[seen] / left_out[seen]))
    else:
        e1 = float(oob.mean())
    if method == "oob":
        point, rounds = e1, oob
    else:
        fitted = predictions[-1]
        train_rounds = {
            "resub": lambda: np.full(len(counts), how.loss(y, fitted).mean()),
            "bootstrap_full": lambda: losses.mean(axis=1),
            "bootstrap_train": lambda: np.sum(losses * counts, axis=1) / len(y),
        }[train_error]()
        train = float(train_rounds.mean())
        weight = 0.632
        if method == ".632+":
            gamma = no_information_rate(y, fitted, how)
            e1_capped = min(e1, gamma)
            overfit = (e1_capped - train) / (gamma - train) if e1_capped > train and gamma > train else 0.0
            weight = 0.632 / (1 - 0.368 * min(overfit, 1.0))
            e1 = e1_capped
        point = (1 - weight) * train + weight * e1
        rounds = (1 - weight) * train_rounds + weight * oob
    acceleration = _acceleration(losses, out) if ci == "bca" else 0.0
    return _result(how.best - point, how.best - rounds, oob_counts, ci, alpha, acceleration)


def _acceleration(losses: np.ndarray, out: np.ndarray) -> float:
    """Return the acceleration by the jackknife after the bootstrap: each sample left out by the rounds without it."""
    sums, sizes = np.sum(losses * out, axis=1), out.sum(axis=1)
    without = []
    for i in range(out.shape[1]):
        rounds = out[:, i] & (sizes > 1)
        if rounds.any():
            without.append(np.mean((sums[rounds] - losses[rounds, i]) / (sizes[rounds] - 1)))
    away = np.mean(without) - np.array(without) if without else np.zeros(1)
    spread = np.sum(away**2)
    return float(-np.sum(away**3) / (6 * spread**1.5)) if spread > 0 else 0.0  # a score falls where the loss rises


def _of_scorer(
    estimator: BaseEstimator,
    X: Any,
    y: np.ndarray,
    counts: np.ndarray,
    scorer: Any,
    method: Method,
    train_error: TrainError,
    ci: BootstrapCI,
    alpha: float,
) -> BootstrapResult:
    """Estimate a score that is no mean over samples, by one fitted model a round."""
    everything = np.arange(len(y))
    whole = scorer(clone(estimator).fit(X, y), X, y) if method == ".632" and train_error == "resub" else 0.0
    rounds = np.empty(len(counts))
    for i, row in enumerate(counts):
        resample, left = np.repeat(everything, row), np.flatnonzero(row == 0)
        fitted = clone(estimator).fit(_safe_indexing(X, resample), y[resample])
        rounds[i] = scorer(fitted, _safe_indexing(X, left), y[left])
        if method == ".632":
            seen = {"resub": None, "bootstrap_full": everything, "bootstrap_train": resample}[train_error]
            train = whole if seen is None else scorer(fitted, _safe_indexing(X, seen), y[seen])
            rounds[i] = 0.368 * train + 0.632 * rounds[i]
    return _result(float(rounds.mean()), rounds, (counts == 0).sum(axis=1), ci, alpha, 0.0)


def _result(
    point: float, rounds: np.ndarray, oob_counts: np.ndarray, ci: BootstrapCI, alpha: float, acceleration: float
) -> BootstrapResult:
    tails = np.array([alpha / 2, 1 - alpha / 2])
    if ci == "t":
        half = stats.t.ppf(tails[1], len(rounds) - 1) * rounds.std(ddof=1)
        ends = np.array([point - half, point + half])
    else:
        if ci == "bca":
            tails = _bca_tails(
                tails, float(np.mean(rounds < rounds.mean()) + np.mean(rounds == rounds.mean()) / 2), acceleration
            )
        ends = np.quantile(rounds, tails) - rounds.mean() + point
    return BootstrapResult(float(point), rounds, Interval(float(ends[0]), float(ends[1])), oob_counts)


def _bca_tails(tails: np.ndarray, below: float, acceleration: float) -> np.ndarray:
    """Return the quantiles to read, given the share of rounds below the estimate."""
    if not 0 < below < 1:
        return tails
    z0 = stats.norm.ppf(below)
    z = z0 + stats.norm.ppf(tails)
    return stats.norm.cdf(z0 + z / (1 - acceleration * z))
