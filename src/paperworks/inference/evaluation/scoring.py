"""What is scored: a loss of each sample, or any scorer of scikit-learn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import check_scoring

Scoring = str | Callable[..., float] | None


@dataclass(frozen=True)
class PointScore:
    """A score that is a mean over samples: ``best`` minus the mean loss.

    Examples
    --------
    >>> POINT_SCORES["accuracy"].loss(np.array([0, 1]), np.array([[0, 0]]))
    array([[0., 1.]])
    """

    loss: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of labels and predictions, broadcast against each other
    best: float


POINT_SCORES = {
    "accuracy": PointScore(lambda y, p: (y != p).astype(float), 1.0),
    "neg_mean_squared_error": PointScore(lambda y, p: (y - p) ** 2, 0.0),
    "neg_mean_absolute_error": PointScore(lambda y, p: np.abs(y - p), 0.0),
}


def scoring_of(estimator: Any, scoring: Scoring) -> PointScore | Callable[..., float]:
    """Return how to score: a `PointScore` where the score is a mean over samples, else a scorer of scikit-learn.

    None stands for the accuracy of a classifier and the negative mean squared error of a regressor.

    Raises
    ------
    ValueError
        Where `scoring` is None and the estimator is neither, or scikit-learn knows no scorer of that name.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> scoring_of(Ridge(), None) is POINT_SCORES["neg_mean_squared_error"]
    True
    """
    if scoring is None:
        if is_classifier(estimator):
            scoring = "accuracy"
        elif is_regressor(estimator):
            scoring = "neg_mean_squared_error"
        else:
            raise ValueError(
                f"scoring is None and {estimator!r} is neither classifier nor regressor; it takes a scorer"
            )
    if isinstance(scoring, str) and scoring in POINT_SCORES:
        return POINT_SCORES[scoring]
    return check_scoring(estimator, scoring)
