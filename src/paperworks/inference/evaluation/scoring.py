"""What is scored: a loss of each sample, a loss of pairs of samples, or any scorer of scikit-learn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import xlogy
from sklearn import metrics
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

Response = Literal["predict", "predict_proba", "decision"]


@dataclass(frozen=True)
class SampleLoss:
    """A loss of every sample, whose mean is what is scored: as good a `scoring` as a name of scikit-learn's.

    Parameters
    ----------
    loss
        Takes labels and predictions, broadcast against each other, and returns losses of the same shape. With
        ``predict_proba`` it takes the number of each label's class, from 0 in the classes' order, and probabilities
        with a last axis of classes.
    best
        The score of no loss: the score is `best` less the mean loss.
    response
        What is asked of the fitted model: ``predict`` or ``predict_proba``.

    Examples
    --------
    >>> absolute = SampleLoss(lambda y, p: np.abs(y - p))
    >>> absolute.loss(np.array([0, 1]), np.array([[0, 3]]))
    array([[0, 2]])
    """

    loss: Callable[[Any, Any], np.ndarray]
    best: float = 0.0
    response: Response = "predict"

    def of(self, y: Any, responses: np.ndarray) -> np.ndarray:
        """Return the losses of labels, given responses to samples.

        Parameters
        ----------
        y
            Labels of shape (n,), or one label for all; for ``predict_proba`` the numbers of their classes.
        responses
            Predictions of shape (..., n), or probabilities of shape (..., n, classes).

        Returns
        -------
        ndarray
            Losses of shape (..., n).

        Raises
        ------
        ValueError
            Where the loss returns another shape, or something that isn't finite.
        """
        losses = np.asarray(self.loss(y, responses), dtype=float)
        shape = responses.shape[:-1] if self.response == "predict_proba" else responses.shape
        if losses.shape != shape or not np.all(np.isfinite(losses)):
            bad = "elements that aren't finite" if losses.shape == shape else f"shape {losses.shape}"
            raise ValueError(f"scoring has a loss that returns {bad}; it takes one finite loss a sample, {shape}")
        return losses


@dataclass(frozen=True)
class PairLoss:
    """The area under the ROC curve: one less the share of pairs of a positive and a negative in wrong order."""

    best: float = 1.0
    response: Response = "decision"


Scoring = str | Callable[..., float] | SampleLoss | None


def _of_class(codes: Any, probabilities: np.ndarray) -> np.ndarray:
    chosen = np.broadcast_to(codes, probabilities.shape[:-1])[..., None]
    return np.take_along_axis(probabilities, chosen, axis=-1)[..., 0]


def _log_loss(codes: Any, probabilities: np.ndarray) -> np.ndarray:
    least = np.finfo(probabilities.dtype).eps
    return -np.log(np.clip(_of_class(codes, probabilities), least, 1 - least))


def _brier(codes: Any, probabilities: np.ndarray) -> np.ndarray:
    squares = np.sum(probabilities**2, axis=-1) - 2 * _of_class(codes, probabilities) + 1
    return squares / 2 if probabilities.shape[-1] == 2 else squares


def _numbers(values: Any) -> np.ndarray:
    """Return floats: differences of small or unsigned integers wrap round, and truth values have none."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError("scoring is a loss of numbers, and labels are none; it takes one of labels") from None


def _gap(y: Any, p: Any) -> np.ndarray:
    return _numbers(y) - _numbers(p)


def _poisson(y: Any, p: Any) -> np.ndarray:
    y, p = _numbers(y), _numbers(p)
    _positive(p)
    return 2 * (xlogy(y, y / p) - y + p)


def _gamma(y: Any, p: Any) -> np.ndarray:
    y, p = _numbers(y), _numbers(p)
    _positive(p)
    return 2 * (np.log(p / y) + y / p - 1)


def _positive(p: Any) -> None:
    if np.any(np.asarray(p) <= 0):
        raise ValueError(f"scoring is a deviance, and a prediction is {np.min(p)!r}; it takes predictions > 0")


SAMPLE_LOSSES = {
    "accuracy": SampleLoss(lambda y, p: (y != p).astype(float), 1.0),
    "neg_mean_squared_error": SampleLoss(lambda y, p: _gap(y, p) ** 2),
    "neg_mean_absolute_error": SampleLoss(lambda y, p: np.abs(_gap(y, p))),
    "neg_mean_absolute_percentage_error": SampleLoss(
        lambda y, p: np.abs(_gap(y, p)) / np.maximum(np.abs(_numbers(y)), np.finfo(float).eps)
    ),
    "neg_mean_squared_log_error": SampleLoss(lambda y, p: (np.log1p(_numbers(y)) - np.log1p(_numbers(p))) ** 2),
    "neg_mean_poisson_deviance": SampleLoss(_poisson),
    "neg_mean_gamma_deviance": SampleLoss(_gamma),
    "neg_log_loss": SampleLoss(_log_loss, response="predict_proba"),
    "neg_brier_score": SampleLoss(_brier, response="predict_proba"),
}
_BY_FUNCTION = {  # by the metric of a scorer, and whether greater is better
    (metrics.accuracy_score, 1): SAMPLE_LOSSES["accuracy"],
    (metrics.mean_squared_error, -1): SAMPLE_LOSSES["neg_mean_squared_error"],
    (metrics.mean_absolute_error, -1): SAMPLE_LOSSES["neg_mean_absolute_error"],
}


def scoring_of(estimator: Any, scoring: Scoring) -> SampleLoss | PairLoss | Callable[..., float]:
    """Return how to score: a loss of samples or pairs where the score is a mean over them, else a scorer.

    None stands for the accuracy of a classifier and the negative mean squared error of a regressor.

    Raises
    ------
    ValueError
        Where `scoring` is None and the estimator is neither, or scikit-learn knows no scorer of that name, or takes it
        for a metric's function.
    TypeError
        Where it is several scorers, or none.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> scoring_of(Ridge(), None) is SAMPLE_LOSSES["neg_mean_squared_error"]
    True
    """
    if scoring is None:
        if classifies(estimator):
            scoring = "accuracy"
        elif _has_type(estimator, is_regressor, "regressor"):
            scoring = "neg_mean_squared_error"
        else:
            raise ValueError(
                f"scoring is None and {estimator!r} is neither classifier nor regressor; it takes a scorer"
            )
    if isinstance(scoring, SampleLoss):
        return scoring
    if isinstance(scoring, str) and scoring in SAMPLE_LOSSES:
        return SAMPLE_LOSSES[scoring]
    if scoring == "roc_auc":
        return PairLoss()
    if not isinstance(scoring, str) and not callable(scoring):
        raise TypeError(f"scoring is {scoring!r}; it takes one name, scorer or SampleLoss")
    # A scorer made by scikit-learn from a metric at its defaults is as good as the metric's name.
    kind = getattr(scoring, "_score_func", None), getattr(scoring, "_sign", None)
    asks = getattr(scoring, "_response_method", None)
    if kind in _BY_FUNCTION and not getattr(scoring, "_kwargs", None) and asks in (None, "predict"):
        return _BY_FUNCTION[kind]
    return check_scoring(scoring=scoring)


def classifies(estimator: Any) -> bool:
    """Say whether an estimator is a classifier; one without scikit-learn's tags is what it says it is, if anything.

    Examples
    --------
    >>> from sklearn.naive_bayes import GaussianNB
    >>> classifies(GaussianNB()), classifies(object())
    (True, False)
    """
    return _has_type(estimator, is_classifier, "classifier")


def _has_type(estimator: Any, asks: Callable[[Any], bool], name: str) -> bool:
    try:
        return asks(estimator)
    except AttributeError:
        return getattr(estimator, "_estimator_type", None) == name


def fitted(estimator: Any, X: Any, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
    """Return a fitted clone of an estimator (a copy, if it has no parameters to clone).

    Weights are passed to a `fit` that takes them, in a pipeline to that of its last step.
    """
    model = clone(estimator, safe=False)
    name = None if sample_weight is None else weight_argument(model)
    model.fit(X, y, **({} if name is None else {name: sample_weight}))
    return model


def weight_argument(estimator: Any) -> str | None:
    """Return the name by which a `fit` takes weights of samples, None if it doesn't.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> weight_argument(make_pipeline(Ridge()))
    'ridge__sample_weight'
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = weight_argument(last)
        return None if inner is None else f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None


def response_of(model: Any, X: Any, response: Response, classes: np.ndarray | None = None) -> np.ndarray:
    """Return a fitted model's predictions, probabilities of all `classes`, or decision for the second of two."""
    if response == "predict":
        return np.asarray(model.predict(X))
    if response == "decision" and hasattr(model, "decision_function"):
        return np.asarray(model.decision_function(X), dtype=float)
    if not hasattr(model, "predict_proba"):
        raise TypeError(f"scoring asks for probabilities or decisions, and {model!r} has none; it takes another")
    probabilities = np.asarray(model.predict_proba(X), dtype=float)
    if response == "decision" and probabilities.shape[1:] != (2,):
        raise ValueError("scoring is 'roc_auc', and a model was trained on one class; it takes samples of both")
    if response == "decision":
        return probabilities[:, 1]
    if classes is None:
        return probabilities
    aligned = np.zeros((len(probabilities), len(classes)))
    aligned[:, np.searchsorted(classes, model.classes_)] = probabilities
    return aligned


def check_two_classes(y: np.ndarray) -> None:
    """Raise ValueError where labels are not of two classes, as the area under the ROC curve has it."""
    if (count := len(np.unique(y))) != 2:
        raise ValueError(f"y has {count} classes; scoring='roc_auc' takes two")


def score_of(how: Any, model: Any, X: Any, y: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
    """Return the score of a fitted model by a scorer that is called with it, as scikit-learn's are."""
    if sample_weight is None:
        return float(how(model, X, y))
    return float(how(model, X, y, sample_weight=sample_weight))


def pair_error(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted share of pairs in wrong order, ties by half: one less the area under the ROC curve.

    Examples
    --------
    >>> pair_error(np.array([True, False, False]), np.array([0.5, 0.2, 0.5]), np.ones(3))
    0.25
    """
    levels, of_level = np.unique(scores, return_inverse=True)
    of_class = [np.bincount(of_level, weights * chosen, len(levels)) for chosen in (positive, ~positive)]
    pairs = of_class[0].sum() * of_class[1].sum()
    if not pairs > 0:
        raise ValueError("scoring is 'roc_auc', and a test has one class; it takes samples of both, of weights > 0")
    above = of_class[1].sum() - of_class[1].cumsum() + of_class[1] / 2
    return float(of_class[0] @ above / pairs)
