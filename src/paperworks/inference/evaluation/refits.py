"""Predictions of a model refitted on many subsets or resamples of one data set."""

from types import ModuleType
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import LeaveOneOut
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing, check_array, check_X_y, indexable

from paperworks.inference.evaluation import discriminant, linear, naive_bayes, neighbours, scaled
from paperworks.inference.evaluation.checks import counts_from, targets_of, weights_of
from paperworks.inference.evaluation.scoring import Response, fitted, response_of, weight_argument

_SMALL = 1e-70  # sizes of numbers whose products of four are still numbers
_CLOSED_FORMS = (linear, discriminant, naive_bayes, neighbours)


def refit_predictions(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    counts: np.ndarray,
    X_eval: Any = None,
    *,
    sample_weight: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> np.ndarray:
    """Return predictions of the model refitted on each of many resamples.

    Least squares, ridge, linear discriminant analysis, Gaussian naive Bayes and uniform nearest neighbours are refitted
    all at once, with the counts as weights, also at the end of a pipeline of `FunctionTransformer` steps; every other
    estimator is cloned and fitted round by round.

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X, y
        The data, n samples.
    counts
        Shape (rounds, n): how often each sample is in each round's training set (0 or 1 for plain subsets).
    X_eval
        Where to predict; by default at `X`.
    sample_weight
        Weights of the samples in the fits, for an estimator whose `fit` takes them.
    n_jobs
        Processes for the round-by-round fits.

    Returns
    -------
    numpy.ndarray
        Shape (rounds, samples of `X_eval`).

    Raises
    ------
    ValueError
        Where the counts are negative, are not whole, leave a round without samples, or don't fit the data.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 4.0])
    >>> refit_predictions(LinearRegression(), X, y, np.array([[1, 1, 0], [0, 2, 1]])).round(6)
    array([[ 0.,  1.,  2.],
           [-2.,  1.,  4.]])
    """
    return refit_responses(estimator, X, y, counts, X_eval, "predict", sample_weight, n_jobs)


def refit_responses(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    counts: np.ndarray,
    X_eval: Any = None,
    response: Response = "predict",
    sample_weight: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> np.ndarray:
    """Return what `refit_predictions` does, or probabilities (rounds, n, classes of y), or decisions (rounds, n)."""
    X, target = indexable(X, targets_of(y))
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] != len(target):
        raise ValueError(f"counts has shape {counts.shape}; it takes (rounds, {len(target)})")
    if counts.dtype.kind not in "biu" or np.any(counts < 0) or np.any(counts.sum(axis=1) == 0):
        raise ValueError("counts takes whole numbers >= 0, with at least one sample in every round")
    counts, weights = counts.astype(np.int64), weights_of(sample_weight, len(target))
    estimator, X, evaluated = _without_stateless_steps(estimator, X, X if X_eval is None else X_eval)
    found = _at_once(estimator, X, target, counts, evaluated, weights) if response == "predict" else None
    if found is not None:
        return found
    classes = None if response == "predict" else np.unique(target)

    def one(row: np.ndarray) -> np.ndarray:
        chosen = np.repeat(np.arange(len(target)), row)
        return response_of(_fit_to_rows(estimator, X, target, chosen, weights), evaluated, response, classes)

    return np.stack(Parallel(n_jobs=n_jobs)(delayed(one)(row) for row in counts))


def _at_once(
    estimator: Any, X: Any, y: np.ndarray, counts: np.ndarray, X_eval: Any, weights: np.ndarray | None
) -> np.ndarray | None:
    """Return predictions by a closed form, None where there is none. Of those, linear models alone take weights."""
    closed = closed_form_of(estimator)
    weighted = weights is not None and weight_argument(estimator) is not None
    if closed is None or issparse(X) or issparse(X_eval) or (weighted and closed is not linear):
        return None
    dense, evaluated = check_X_y(X, y, dtype=float)[0], check_array(X_eval, dtype=float)
    if not _squares_fit(dense, y) or not _squares_fit(evaluated, y):
        return None
    each = counts * weights if weighted else counts
    if weighted and np.any(each.sum(axis=1) == 0):
        return None
    return closed.refit_predictions(estimator, dense, y, each, evaluated)


def _squares_fit(X: np.ndarray, y: np.ndarray) -> bool:
    """Say whether products of samples and targets neither overflow nor vanish; where they do, refits are asked."""
    sizes = [np.abs(values).max(initial=0.0) for values in (X, y if y.dtype.kind == "f" else np.zeros(1))]
    return all(size == 0 or _SMALL < size < 1 / _SMALL for size in sizes)


def _fit_to_rows(estimator: Any, X: Any, y: np.ndarray, rows: np.ndarray, weights: np.ndarray | None) -> Any:
    return fitted(estimator, _safe_indexing(X, rows), y[rows], None if weights is None else weights[rows])


def loo_predict(estimator: Any, X: Any, y: ArrayLike, *, n_jobs: int | None = None) -> np.ndarray:
    """Return each sample's prediction by the model fitted on all other samples.

    In closed form, at the cost of about one fit, for least squares, ridge, linear discriminant analysis, Gaussian naive
    Bayes and nearest neighbours. A `StandardScaler` before one of them is fitted in each fold too, by updates of means
    and variances. Every other estimator is refitted n times.

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X, y
        The data, n samples.
    n_jobs
        Processes for the refits.

    Returns
    -------
    numpy.ndarray
        Shape (n,): what `sklearn.model_selection.cross_val_predict` returns with `LeaveOneOut`.

    Raises
    ------
    ValueError
        For fewer than two samples, or X and y of different lengths.

    References
    ----------
    Raschka, arXiv 1811.12808, section 3.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> loo_predict(Ridge(alpha=1.0), [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]).round(3)
    array([1., 2., 1.])
    """
    X, target = indexable(X, targets_of(y))
    if len(target) < 2:
        raise ValueError(f"y has shape {target.shape}; it takes one target for each of at least two samples")
    estimator, X, _ = _without_stateless_steps(estimator, X, X)
    scaler, model = _scaler_and_model(estimator)
    closed = closed_form_of(model)
    if closed and not issparse(X):
        dense, _ = check_X_y(X, target, dtype=float)
        found = (
            None
            if not _squares_fit(dense, target)
            else closed.loo_predictions(model, dense, target)
            if scaler is None
            else scaled.loo_predictions(scaler, model, closed, dense, target)
        )
        if found is not None:
            return found

    def one(train: np.ndarray, test: np.ndarray) -> Any:
        return _fit_to_rows(estimator, X, target, train, None).predict(_safe_indexing(X, test))[0]

    splits = LeaveOneOut().split(target)
    return np.array(Parallel(n_jobs=n_jobs)(delayed(one)(train, test) for train, test in splits))


def split_responses(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    splits: list[tuple[np.ndarray, np.ndarray]],
    response: Response = "predict",
    sample_weight: np.ndarray | None = None,
    n_jobs: int | None = None,
) -> list[np.ndarray]:
    """Return each split's responses on its test samples, of the model fitted on its training samples in their order."""
    estimator, X, _ = _without_stateless_steps(estimator, X, X)
    if response == "predict":
        found = _at_once(estimator, X, y, counts_from(splits, len(y)), X, sample_weight)
        if found is not None:
            return [row[test] for row, (_, test) in zip(found, splits, strict=True)]
    classes = None if response == "predict" else np.unique(y)

    def one(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = _fit_to_rows(estimator, X, y, train, sample_weight)
        return response_of(model, _safe_indexing(X, test), response, classes)

    return list(Parallel(n_jobs=n_jobs)(delayed(one)(train, test) for train, test in splits))


def closed_form_of(estimator: Any) -> ModuleType | None:
    """Return the module that refits the estimator in closed form, if one does."""
    found = next((module for module in _CLOSED_FORMS if module.applies(estimator)), None)
    if found is not None:
        estimator._validate_params()  # as its own fit would: no closed form looks at what a parameter may be
    return found


def _without_stateless_steps(estimator: Any, X: Any, X_eval: Any) -> tuple[Any, Any, Any]:
    """Apply a pipeline's first transformations that learn nothing, once for all refits, and return what is left."""
    if not isinstance(estimator, Pipeline):
        return estimator, X, X_eval
    steps, same = list(estimator.steps), X_eval is X
    while len(steps) > 1 and isinstance(steps[0][1], FunctionTransformer):
        step = steps.pop(0)[1]
        X = clone(step).fit_transform(X)
        X_eval = X if same else clone(step).fit_transform(X_eval)
    return (Pipeline(steps) if len(steps) > 1 else steps[0][1]), X, X_eval


def _scaler_and_model(estimator: Any) -> tuple[Any, Any]:
    """Return the two steps of a pipeline of a scaler and a model, else None and the estimator."""
    if isinstance(estimator, Pipeline) and len(estimator.steps) == 2:
        return estimator.steps[0][1], estimator.steps[1][1]
    return None, estimator
