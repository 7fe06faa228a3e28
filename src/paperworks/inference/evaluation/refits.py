"""Predictions of a model refitted on many subsets or resamples of one data set."""

from types import ModuleType
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import LeaveOneOut
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing, check_array, check_X_y, indexable

from paperworks.inference.evaluation import discriminant, linear, naive_bayes, neighbours
from paperworks.inference.evaluation.checks import counts_from

_CLOSED_FORMS = (linear, discriminant, naive_bayes, neighbours)


def refit_predictions(
    estimator: BaseEstimator,
    X: Any,
    y: ArrayLike,
    counts: np.ndarray,
    X_eval: Any = None,
    *,
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
    X, target = indexable(X, np.asarray(y))
    if target.ndim != 1:
        raise ValueError(f"y has shape {target.shape}; it takes one target a sample")
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] != len(target):
        raise ValueError(f"counts has shape {counts.shape}; it takes (rounds, {len(target)})")
    if counts.dtype.kind not in "biu" or np.any(counts < 0) or np.any(counts.sum(axis=1) == 0):
        raise ValueError("counts takes whole numbers >= 0, with at least one sample in every round")
    counts = counts.astype(np.int64)
    estimator, X, evaluated = _without_stateless_steps(estimator, X, X if X_eval is None else X_eval)
    if closed := closed_form_of(estimator):
        dense, _ = check_X_y(X, target, dtype=float)
        found = closed.refit_predictions(estimator, dense, target, counts, check_array(evaluated, dtype=float))
        if found is not None:
            return found

    def one(row: np.ndarray) -> np.ndarray:
        chosen = np.repeat(np.arange(len(target)), row)
        return clone(estimator).fit(_safe_indexing(X, chosen), target[chosen]).predict(evaluated)

    return np.stack(Parallel(n_jobs=n_jobs)(delayed(one)(row) for row in counts))


def loo_predict(estimator: BaseEstimator, X: Any, y: ArrayLike, *, n_jobs: int | None = None) -> np.ndarray:
    """Return each sample's prediction by the model fitted on all other samples.

    In closed form, at the cost of about one fit, for least squares, ridge, linear discriminant analysis, Gaussian naive
    Bayes and nearest neighbours; by n refits for every other estimator.

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
    X, target = indexable(X, np.asarray(y))
    if target.ndim != 1 or len(target) < 2:
        raise ValueError(f"y has shape {target.shape}; it takes one target for each of at least two samples")
    estimator, X, _ = _without_stateless_steps(estimator, X, X)
    if closed := closed_form_of(estimator):
        dense, _ = check_X_y(X, target, dtype=float)
        found = closed.loo_predictions(estimator, dense, target)
        if found is not None:
            return found

    def one(train: np.ndarray, test: np.ndarray) -> Any:
        return clone(estimator).fit(_safe_indexing(X, train), target[train]).predict(_safe_indexing(X, test))[0]

    splits = LeaveOneOut().split(target)
    return np.array(Parallel(n_jobs=n_jobs)(delayed(one)(train, test) for train, test in splits))


def split_predictions(
    estimator: BaseEstimator, X: Any, y: ArrayLike, splits: list[tuple[np.ndarray, np.ndarray]], n_jobs: int | None
) -> np.ndarray:
    """Return predictions (splits, n) of the model refitted on each split's training set."""
    return refit_predictions(estimator, X, y, counts_from(splits, len(np.asarray(y))), n_jobs=n_jobs)


def closed_form_of(estimator: Any) -> ModuleType | None:
    """Return the module that refits the estimator in closed form, if one does."""
    return next((module for module in _CLOSED_FORMS if module.applies(estimator)), None)


def _without_stateless_steps(estimator: Any, X: Any, X_eval: Any) -> tuple[Any, Any, Any]:
    """Apply a pipeline's transformations that learn nothing, once for all refits, and return what is left of it."""
    if not isinstance(estimator, Pipeline) or not all(
        isinstance(s, FunctionTransformer) for _, s in estimator.steps[:-1]
    ):
        return estimator, X, X_eval
    same = X_eval is X
    for _, step in estimator.steps[:-1]:
        X = clone(step).fit_transform(X)
        X_eval = X if same else clone(step).fit_transform(X_eval)
    return estimator.steps[-1][1], X, X_eval
