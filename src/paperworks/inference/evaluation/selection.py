"""Splits and searches that keep the estimate of performance apart from the choice of hyper-parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_validate,
    train_test_split,
)
from sklearn.utils import check_random_state

from paperworks.core.validation import check_count, check_number
from paperworks.inference.evaluation.algorithms import split_scores
from paperworks.inference.evaluation.scoring import SampleLoss, Scoring, classifies, scoring_of
from paperworks.inference.evaluation.splits import RandomState, drawn_splits, folds_of_groups, random_parts


def three_way_split(
    X: Any,
    y: ArrayLike,
    *,
    validation_size: float = 0.2,
    test_size: float = 0.2,
    stratify: bool = True,
    random_state: RandomState = None,
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Split data at random into a training, a validation and a test set.

    Parameters
    ----------
    X, y
        Samples in rows, and their targets.
    validation_size, test_size
        Shares of all samples, together below 1.
    stratify
        Keep the classes of `y` in proportion.
    random_state
        Seed or generator of the split.

    Returns
    -------
    tuple
        ``X_train, X_validation, X_test, y_train, y_validation, y_test``.

    Raises
    ------
    ValueError
        For shares outside (0, 1) or of 1 and more together.

    Examples
    --------
    >>> parts = three_way_split(np.arange(20.0)[:, None], np.arange(20) % 2, random_state=0)
    >>> [len(part) for part in parts[:3]]
    [12, 4, 4]
    """
    check_number("validation_size", validation_size, gt=0, lt=1)
    check_number("test_size", test_size, gt=0, lt=1 - validation_size)
    rng = check_random_state(random_state)
    labels = np.asarray(y)
    X_rest, X_test, y_rest, y_test = train_test_split(
        X, labels, test_size=test_size, stratify=labels if stratify else None, random_state=rng
    )
    X_train, X_validation, y_train, y_validation = train_test_split(
        X_rest,
        y_rest,
        test_size=round(validation_size * len(labels)),
        stratify=y_rest if stratify else None,
        random_state=rng,
    )
    return X_train, X_validation, X_test, y_train, y_validation, y_test


def repeated_holdout(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    n_splits: int = 50,
    test_size: float = 0.3,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    scoring: Scoring = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> np.ndarray:
    """Return the scores of repeated random hold-outs (Monte Carlo cross-validation); report their mean and deviation.

    Parameters
    ----------
    estimator
        Any classifier or regressor of scikit-learn's conventions; it is cloned, never fitted in place.
    X, y
        The data; classes are kept in proportion.
    n_splits, test_size
        Number of splits and share of the test samples.
    groups
        The group of each sample; groups stay together.
    sample_weight, scoring, n_jobs
        As in `split_scores`.
    random_state
        Seed or generator of the splits.

    Returns
    -------
    ndarray
        One score for each split, of shape (n_splits,).

    Raises
    ------
    ValueError
        For no splits, a share outside (0, 1), or an estimator without a default score.

    References
    ----------
    Raschka, arXiv 1811.12808, section 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> scores = repeated_holdout(GaussianNB(), *load_iris(return_X_y=True), random_state=0)
    >>> scores.shape, bool(scores.mean() > 0.9)
    ((50,), True)
    """
    check_count("n_splits", n_splits)
    check_number("test_size", test_size, gt=0, lt=1)
    splits = drawn_splits(estimator, X, y, random_parts(n_splits, test_size, random_state), groups=groups)
    return split_scores(estimator, X, y, splits, scoring, n_jobs, sample_weight=sample_weight)


@dataclass(frozen=True)
class NestedCVResult:
    """What nested cross-validation found.

    Attributes
    ----------
    scores
        Shape (outer folds,): score of each outer test fold by the model chosen inside its training part.
    inner_scores
        Shape (outer folds,): the best inner score of each fold, which is optimistic.
    best_params
        The hyper-parameters chosen in each fold.
    search
        The search refitted on all of the data, or None.
    """

    scores: np.ndarray
    inner_scores: np.ndarray
    best_params: list[dict[str, Any]]
    search: BaseEstimator | None

    @property
    def mean(self) -> float:
        """Mean of the outer scores."""
        return float(self.scores.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the outer scores."""
        return float(self.scores.std(ddof=1))


def nested_cv(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]] | None = None,
    *,
    inner_cv: Any = 2,
    outer_cv: Any = 5,
    scoring: Scoring = None,
    rule: str | Callable[[Mapping[str, Any]], int] = "best",
    refit: bool = True,
    groups: ArrayLike | None = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> NestedCVResult:
    """Estimate the performance of a model together with the search for its hyper-parameters.

    Parameters
    ----------
    estimator
        A model to search over `param_grid`, or a search of scikit-learn's kind, with `param_grid` None.
    X, y
        Samples in rows, and their targets.
    param_grid
        As in `sklearn.model_selection.GridSearchCV`.
    inner_cv, outer_cv
        Folds, or any splitter of scikit-learn's kind; whole numbers are shuffled folds, stratified for classifiers, of
        groups where those are given.
    scoring
        A scorer of scikit-learn; None is accuracy for classifiers, negative mean squared error for regressors.
    rule
        ``best``, or a function from a search's results to the index of the candidate to take, such as
        `one_standard_error` makes. Ignored where `estimator` is a search.
    refit
        Run the search on all of the data in the end.
    groups
        Groups of samples that splitters keep together; handed to both.
    n_jobs
        Processes for the outer folds.
    random_state
        Seed or generator of the folds.

    Returns
    -------
    NestedCVResult
        Outer scores with the choices of the inner search.

    Raises
    ------
    ValueError
        Where neither a grid nor a search is given, or both; for fewer than two folds, an unknown rule, or an estimator
        without a default score.

    References
    ----------
    Raschka, arXiv 1811.12808, section 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> found = nested_cv(KNeighborsClassifier(), X, y, {"n_neighbors": [1, 5, 15]}, random_state=0)
    >>> found.scores.shape, len(found.best_params), found.mean > 0.9
    ((5,), 5, True)
    """
    rng = check_random_state(random_state)
    searches = hasattr(estimator, "cv") and hasattr(estimator, "refit")
    if searches == (param_grid is not None):
        raise ValueError("param_grid: nested_cv takes either a model with a grid, or a search without one")
    if searches:
        search = clone(estimator)
    else:
        if rule != "best" and not callable(rule):
            raise ValueError(f"rule is {rule!r}; it takes 'best' or a function of the search's results")
        scoring_of(estimator, scoring)
        if isinstance(scoring, SampleLoss):
            raise TypeError("scoring is a SampleLoss; the search of nested_cv takes a scorer of scikit-learn")
        name = scoring or ("accuracy" if classifies(estimator) else "neg_mean_squared_error")
        inner = _folds(inner_cv, "inner_cv", estimator, rng, groups is not None)
        search = GridSearchCV(
            clone(estimator), param_grid, scoring=name, cv=inner, refit=rule if callable(rule) else True
        )
    outer = _folds(outer_cv, "outer_cv", estimator, rng, groups is not None)
    given = {} if groups is None else {"groups": groups}
    found = cross_validate(
        search, X, y, cv=outer, n_jobs=n_jobs, return_estimator=True, error_score="raise", params=given, **given
    )
    chosen = found["estimator"]
    return NestedCVResult(
        scores=found["test_score"],
        inner_scores=np.array([s.cv_results_["mean_test_score"][s.best_index_] for s in chosen]),
        best_params=[s.best_params_ for s in chosen],
        search=clone(search).fit(X, y, **given) if refit else None,
    )


def one_standard_error(complexity: Callable[[Mapping[str, Any]], float]) -> Callable[[Mapping[str, Any]], int]:
    """Make a rule that takes the simplest candidate within one standard error of the best.

    Parameters
    ----------
    complexity
        From the hyper-parameters of a candidate to a number that is smaller for simpler models.

    Returns
    -------
    Callable
        From the ``cv_results_`` of a search to the index of the candidate; for `nested_cv`'s `rule` and for the `refit`
        of `sklearn.model_selection.GridSearchCV`.

    References
    ----------
    Raschka, arXiv 1811.12808, section 3; Breiman et al. (1984).

    Examples
    --------
    >>> rule = one_standard_error(lambda params: params["depth"])
    >>> results = {"params": [{"depth": 9}, {"depth": 2}], "mean_test_score": [0.9, 0.89],
    ...            "std_test_score": [0.06, 0.05], "split0_test_score": [0.96, 0.94], "split1_test_score": [0.84, 0.84]}
    >>> rule(results)
    1
    """

    def rule(results: Mapping[str, Any]) -> int:
        folds = sum(name.startswith("split") and name.endswith("_test_score") for name in results)
        means = np.asarray(results["mean_test_score"])
        best = int(means.argmax())
        least = means[best] - results["std_test_score"][best] / np.sqrt(folds)
        near = np.flatnonzero(means >= least)
        return int(min(near, key=lambda i: (complexity(results["params"][i]), -means[i])))

    return rule


def _folds(cv: Any, name: str, estimator: Any, rng: np.random.RandomState, grouped: bool) -> Any:
    if not hasattr(cv, "__index__"):
        return cv
    stratify = classifies(estimator)
    kind = folds_of_groups(stratify) if grouped else StratifiedKFold if stratify else KFold
    return kind(check_count(name, cv, at_least=2), shuffle=True, random_state=rng.randint(2**31))
