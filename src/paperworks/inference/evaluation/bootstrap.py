"""Bootstrap estimates of a model's performance: out of bag, .632 and .632+."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.utils.validation import _num_samples

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.evaluation.checks import targets_of, weights_of
from paperworks.inference.evaluation.intervals import Interval
from paperworks.inference.evaluation.out_of_bag import (
    Aggregate,
    Errors,
    Method,
    TrainError,
    errors_of_losses,
    errors_of_pairs,
    errors_of_scorer,
)
from paperworks.inference.evaluation.resamples import OnDegenerate, draw_resamples
from paperworks.inference.evaluation.scoring import (
    PairLoss,
    SampleLoss,
    Scoring,
    check_two_classes,
    classifies,
    scoring_of,
)
from paperworks.inference.evaluation.splits import RandomState

BootstrapCI = Literal["percentile", "t", "bca"]


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
    estimator: Any,
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
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> BootstrapResult:
    """Estimate how well a model trained on all of the data will score on new samples.

    With ``err`` the training error, ``e1`` the error out of bag and ``gamma`` the error of predictions paired with
    labels at random: ``.632`` is ``.368 err + .632 e1``; ``.632+`` is ``(1 - w) err + w min(e1, gamma)`` with
    ``w = .632 / (1 - .368 R)`` and the relative overfitting rate ``R = (e1 - err) / (gamma - err)`` cut to [0, 1].

    The area under the ROC curve is no mean over samples but over pairs of a positive and a negative: its error out of
    bag is that of each pair in the rounds that left both out (the leave-pair-out bootstrap), and its gamma is 1/2.

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
        ``accuracy`` (classifiers by default), ``neg_mean_squared_error`` (regressors by default), any other name or
        scorer of scikit-learn, or a `SampleLoss`. ``.632+`` takes what is a mean over samples, which is tried on the
        data, and ``roc_auc`` of two classes.
    aggregate
        Average the out-of-bag error over rounds (``round``) or, as Efron does, over samples (``sample``: first over the
        rounds that left a sample, or for ``roc_auc`` a pair, out). By default ``sample`` for ``.632+``, else ``round``.
        A scorer doesn't tell the losses of samples, so that it takes ``round``, and a `SampleLoss` either.
    train_error
        Training error of the model fitted on all of the data (``resub``, Efron's), or of each round's model on all of
        the data (``bootstrap_full``) or on its own resample (``bootstrap_train``).
    ci
        ``percentile`` of the rounds' scores, shifted to the point estimate; ``t``: the estimate plus and minus
        Student's quantile times the standard deviation of the rounds' scores; ``bca``: bias-corrected and accelerated,
        with the acceleration of the jackknife after the bootstrap, for losses of samples.
    alpha
        Significance level: the interval covers with probability ``1 - alpha``; in (0, 1).
    on_degenerate
        What to do with a resample of a classifier's data that holds one class only: draw again, or raise. A resample
        that leaves nothing out is always drawn again. For ``roc_auc`` what is left out has to hold both classes, too.
    groups
        The group of each sample. Where given, whole groups are drawn and left out.
    sample_weight
        Weights of the samples in the scores, and in the fits of estimators whose `fit` takes them.
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
        doesn't fit, an estimator without a default one, degenerate resamples, or groups or weights that don't fit.

    References
    ----------
    Raschka, arXiv 1811.12808, section 2; Efron and Tibshirani (1997); Yousef, Wagner and Loew (2005) and Sahiner, Chan
    and Hadjiiski (2008) for the area under the curve.

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
    how = scoring_of(estimator, scoring)
    usual: Aggregate = "sample" if method == ".632+" and isinstance(how, SampleLoss | PairLoss) else "round"
    by = check_choice("aggregate", aggregate or usual, get_args(Aggregate))
    check_count("n_splits", n_splits, at_least=1 if ci == "percentile" else 2)
    check_number("alpha", alpha, gt=0, lt=1)
    target = targets_of(y)
    if len(target) != _num_samples(X) or len(target) < 2:
        raise ValueError(f"y has shape {target.shape}; it takes one target for each of at least two samples of X")
    if not isinstance(how, SampleLoss) and (ci == "bca" or (by == "sample" and not isinstance(how, PairLoss))):
        raise ValueError(
            f"scoring is {scoring!r}, which doesn't tell the losses of samples; ci='bca' takes a name such as "
            "'accuracy' or a SampleLoss, and aggregate='sample' those or 'roc_auc'"
        )
    weights = weights_of(sample_weight, len(target))
    pairs = isinstance(how, PairLoss)
    if pairs:
        check_two_classes(target)
    counts = draw_resamples(
        target if pairs or classifies(estimator) else None,
        len(target),
        n_splits,
        on_degenerate,
        random_state,
        groups,
        pairs,
    )
    if weights is not None and not np.all(np.stack([counts, counts == 0]) @ weights > 0):
        raise ValueError("sample_weight is zero on all that a resample holds or leaves out; it takes more weights > 0")
    data, best = (estimator, X, target, counts), getattr(how, "best", 0.0)
    if isinstance(how, SampleLoss):
        errors = errors_of_losses(*data, how, method, by, train_error, weights, n_jobs)
    elif isinstance(how, PairLoss):
        errors = errors_of_pairs(*data, how, method, by, train_error, weights, n_jobs)
    else:
        errors, best = errors_of_scorer(*data, how, method, train_error, weights), 0.0
    point, rounds = _estimate(method, errors)
    acceleration = _acceleration(errors.losses, counts == 0) if ci == "bca" else 0.0
    return _result(best - point, best - rounds, (counts == 0).sum(axis=1), ci, alpha, acceleration)


def _estimate(method: Method, errors: Errors) -> tuple[float, np.ndarray]:
    """Return the error by a method, and that with each round's own errors."""
    e1, train = errors.e1, float(errors.train.mean())
    if method == "oob":
        return e1, errors.oob
    weight = 0.632
    if method == ".632+":
        e1 = min(e1, errors.gamma)
        overfit = (e1 - train) / (errors.gamma - train) if e1 > train and errors.gamma > train else 0.0
        weight = 0.632 / (1 - 0.368 * min(overfit, 1.0))
    return (1 - weight) * train + weight * e1, (1 - weight) * errors.train + weight * errors.oob


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
