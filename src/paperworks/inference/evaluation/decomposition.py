"""Bias and variance of a learning algorithm, from refits on bootstrap resamples."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import _num_samples

from paperworks.core.validation import check_choice, check_count
from paperworks.inference.evaluation.refits import refit_predictions
from paperworks.inference.evaluation.resamples import draw_resamples
from paperworks.inference.evaluation.scoring import classifies
from paperworks.inference.evaluation.splits import RandomState


class BiasVarianceResult(NamedTuple):
    """Mean loss over rounds and test samples, and the bias (squared, for squared loss) and variance it consists of.

    Parameters
    ----------
    loss
        Mean loss over rounds and test samples.
    bias
        Loss of the main prediction, squared for squared loss.
    variance
        Mean loss of the rounds' predictions against the main one.
    """

    loss: float
    bias: float
    variance: float


def bias_variance(
    estimator: Any,
    X_train: Any,
    y_train: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    *,
    loss: Literal["zero-one", "squared"] | None = None,
    n_rounds: int = 200,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> BiasVarianceResult:
    """Decompose the expected loss on a test set over models fitted on bootstrap resamples of the training set.

    The main prediction of a test sample is the mean of the rounds' predictions (squared loss) or their most frequent
    one (zero-one loss); the bias is its loss, the variance the mean loss of the rounds' predictions against it. For
    squared loss the two add up to the loss (noise is counted as bias); for zero-one loss they don't, since variance
    helps where the main prediction is wrong.

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X_train, y_train, X_test, y_test
        Training and test set.
    loss
        ``zero-one`` (classifiers by default) or ``squared``.
    n_rounds
        Number of bootstrap rounds.
    n_jobs
        Processes for models that aren't refitted in closed form.
    random_state
        Seed or generator of the resamples.

    Returns
    -------
    BiasVarianceResult
        Means of loss, bias and variance over rounds and test samples.

    Raises
    ------
    ValueError
        For an unknown loss, ``n_rounds < 1``, or test data of unequal lengths.

    References
    ----------
    Raschka, arXiv 1811.12808, section 2; Domingos (2000).

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, y = np.arange(8.0)[:, None], np.arange(8.0) ** 2
    >>> found = bias_variance(LinearRegression(), X, y, X, y, random_state=0)
    >>> bool(np.isclose(found.loss, found.bias + found.variance))
    True
    """
    loss = check_choice("loss", loss or ("zero-one" if classifies(estimator) else "squared"), ("zero-one", "squared"))
    check_count("n_rounds", n_rounds)
    target, truth = np.asarray(y_train), np.asarray(y_test)
    if truth.ndim != 1 or len(truth) != _num_samples(X_test):
        raise ValueError(
            f"y_test has shape {truth.shape}; it takes one target for each of {_num_samples(X_test)} samples"
        )
    classes = target if classifies(estimator) else None
    counts = draw_resamples(classes, len(target), n_rounds, "resample", random_state)
    predictions = refit_predictions(estimator, X_train, target, counts, X_test, n_jobs=n_jobs)
    if loss == "squared":
        predictions, truth = predictions.astype(float), truth.astype(float)
        main = predictions.mean(axis=0)
        losses, bias, variance = (predictions - truth) ** 2, (main - truth) ** 2, (predictions - main) ** 2
    else:
        found = np.unique(predictions)
        main = found[np.stack([np.sum(predictions == label, axis=0) for label in found]).argmax(axis=0)]
        losses, bias, variance = predictions != truth, main != truth, predictions != main
    return BiasVarianceResult(float(losses.mean()), float(bias.mean()), float(variance.mean()))
