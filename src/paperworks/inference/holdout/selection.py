"""The reusable holdout in scikit-learn: a scorer for searches, and selection of features."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from paperworks.core.validation import check_count, check_number
from paperworks.inference.holdout.thresholdout import ReusableHoldout

Scorer = Callable[[Any, Any, Any], float]


def thresholdout_scorer(
    reusable: ReusableHoldout, X_train: Any, y_train: Any, scoring: str | Scorer | None = "accuracy"
) -> Scorer:
    """Return a scorer that answers holdout scores through a reusable holdout.

    Where it is called with a fitted estimator and the holdout data, it scores the estimator on both samples and passes
    the two scores to `reusable`, whose answer it returns. Use it in a loop, or as ``scoring`` of a search whose `cv` is
    the one split into these training data and the holdout (``PredefinedSplit``), with ``n_jobs=None``: the answers
    depend on one another.

    Parameters
    ----------
    reusable
        Its threshold and noise have to fit the metric: the default ones fit accuracy.
    X_train, y_train
        What the estimators are trained on.
    scoring
        A scorer or its name in scikit-learn; None is the estimator's own score.

    Returns
    -------
    Scorer
        Called with a fitted estimator, the holdout's data and labels; returns a number.

    Raises
    ------
    ValueError
        For an unknown name; when called, as `ReusableHoldout.query_means`.

    References
    ----------
    Dwork et al., Science 349:636 (2015).

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(400, 5)), rng.integers(0, 2, 400)
    >>> reusable = ReusableHoldout(X[:200], X[200:], random_state=rng)
    >>> score = thresholdout_scorer(reusable, X[:200], y[:200])
    >>> 0.4 < score(DecisionTreeClassifier().fit(X[:200], y[:200]), X[200:], y[200:]) < 0.65  # it scores 1 in training
    True
    """
    if isinstance(scoring, str):
        scoring = check_scoring(scoring=scoring)

    def score(estimator: Any, X: Any, y: Any) -> float:
        metric = check_scoring(estimator, scoring)
        train, holdout = metric(estimator, X_train, y_train), metric(estimator, X, y)
        return float(reusable.query_means([train], [holdout])[0])

    return score


def agreeing_features(train: ArrayLike, holdout: ArrayLike, k: int, floor: float) -> np.ndarray:
    """Return the signs of the k features of largest training correlation, of those that the holdout confirms.

    A feature counts where both its correlations are at least `floor` in size and have the same sign; where fewer than k
    do, there are fewer.

    Parameters
    ----------
    train, holdout
        Shape (d,): correlations with the target on the two samples.
    k
        How many features to keep.
    floor
        Least size of a correlation.

    Returns
    -------
    numpy.ndarray
        Shape (d,): 1, -1, or 0 for a feature that isn't kept.

    Raises
    ------
    ValueError
        For shapes that differ, a k below 1 or a negative floor.

    References
    ----------
    The experiment of Dwork et al., Science 349:636 (2015).

    Examples
    --------
    >>> agreeing_features([0.3, -0.2, 0.1, 0.5], [0.2, -0.3, -0.4, 0.01], k=3, floor=0.05)
    array([ 1., -1.,  0.,  0.])
    """
    a, b = (np.asarray(values, dtype=float) for values in (train, holdout))
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"train and holdout have shapes {a.shape} and {b.shape}; it takes (d,)")
    k, floor = check_count("k", k), check_number("floor", floor, ge=0)
    agree = (np.abs(a) >= floor) & (np.abs(b) >= floor) & (a * b > 0)
    strength = np.where(agree, np.abs(a), 0.0)
    weights = np.zeros(len(a))
    kept = np.argsort(-strength, kind="stable")[:k]
    weights[kept] = np.where(agree[kept], np.sign(a[kept]), 0.0)
    return weights


class ReusableHoldoutSelector(SelectorMixin, BaseEstimator):
    """Select the features that correlate most with the target, each confirmed by a holdout that stays reusable.

    The samples are split into a training part and a holdout; features and target are standardised by the training part.
    The holdout's correlations are asked for through `ReusableHoldout` with Gaussian noise, and `agreeing_features`
    decides.

    Parameters
    ----------
    k
        Greatest number of features.
    holdout_size
        Share of the samples held out.
    threshold, noise_scale
        Threshold and noise of the reusable holdout, in units of 1 / sqrt(n), n being the size of the holdout. The
        defaults are the published experiment's.
    floor
        Least size of a correlation, in the same units.
    noise
        ``gaussian`` or ``laplace``.
    random_state
        Seed of the split and the noise, for tests and simulations; None takes noise that nobody can repeat.

    Attributes
    ----------
    weights_
        Shape (d,): the sign of each kept feature's correlation, 0 for the others.
    correlations_
        Shape (d,): the correlations as the reusable holdout answered them.
    reusable_holdout_
        The reusable holdout, for further questions such as the accuracy of a model on these features. It isn't copied
        or pickled with the selector, since the copy would answer anew.
    holdout_
        Indices of the samples held out.

    Raises
    ------
    ValueError
        From `fit`, for parameters out of range or a target that isn't numeric or of two classes.

    References
    ----------
    Dwork et al., Science 349:636 (2015); arXiv 1506.02629, section 4.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 30))
    >>> y = X[:, 3] > 0
    >>> ReusableHoldoutSelector(k=1, random_state=0).fit(X, y).get_support(indices=True)
    array([3])
    """

    # scikit-learn's estimators take anything here and check it in `fit`.
    def __init__(
        self,
        k: Any = 20,
        *,
        holdout_size: Any = 0.5,
        threshold: Any = 4.0,
        noise_scale: Any = 1.0,
        floor: Any = 1.0,
        noise: Any = "gaussian",
        random_state: Any = None,
    ) -> None:
        self.k = k
        self.holdout_size = holdout_size
        self.threshold = threshold
        self.noise_scale = noise_scale
        self.floor = floor
        self.noise = noise
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "ReusableHoldoutSelector":
        """Select features of X, shape (n, d), by their correlation with y, shape (n,).

        Returns
        -------
        ReusableHoldoutSelector
            The fitted selector itself.
        """
        features, target = validate_data(self, X, y, dtype=float, ensure_min_samples=4, y_numeric=False)
        type_of_target(target, input_name="y", raise_unknown=True)
        target = _as_numbers(column_or_1d(target))
        check_number("holdout_size", self.holdout_size, gt=0, lt=1)
        rng = check_random_state(self.random_state)
        # The split is of samples in the order of their values: the order they came in has no part in it.
        samples = np.lexsort([*features.T, target])
        train, self.holdout_ = train_test_split(samples, test_size=self.holdout_size, random_state=rng)
        error = 1 / math.sqrt(len(self.holdout_))
        columns = np.column_stack([features, target])
        centre, spread = columns[train].mean(axis=0), columns[train].std(axis=0)
        columns = (columns - centre) / np.where(spread > 0, spread, 1.0)
        on_train, on_holdout = (columns[part, :-1].T @ columns[part, -1] / len(part) for part in (train, self.holdout_))
        self.reusable_holdout_ = ReusableHoldout(
            threshold=check_number("threshold", self.threshold, gt=0) * error,
            noise_scale=check_number("noise_scale", self.noise_scale, gt=0) * error,
            noise=self.noise,
            value_range=None,
            random_state=None if self.random_state is None else np.random.default_rng(rng.randint(2**31)),
        )
        self.correlations_ = self.reusable_holdout_.query_means(on_train, on_holdout)
        self.weights_ = agreeing_features(on_train, self.correlations_, self.k, self.floor * error)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "reusable_holdout_"}

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.weights_ != 0

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _as_numbers(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind in "biuf":
        return y.astype(float)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) > 2:
        raise ValueError(f"y has {len(classes)} classes that aren't numbers; it takes numbers or two classes")
    return codes.astype(float)
