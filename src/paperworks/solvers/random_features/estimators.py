"""scikit-learn estimators whose hidden weights are drawn from a band."""

from typing import Any, Literal

import numpy as np
from scipy.linalg import lstsq
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.solvers.random_features.activations import Name, activation_named
from paperworks.solvers.random_features.least_squares import RCOND, decompose, within_budget
from paperworks.solvers.random_features.ridgelets import RidgeletSampler
from paperworks.solvers.random_features.scales import (
    Distribution,
    draw_unit_weights,
    hidden_layer,
    place_biases,
    recommend_scale,
)


class RandomFeaturesTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features sigma(a·x - b) with weights a and biases b drawn once, from a band.

    Parameters
    ----------
    n_features
        Number of features.
    scale
        Half side of the cube that weights are drawn from, as the paper has it.
    bias_scale
        Half length of the interval of biases round 0; "paper" for `scale` itself. Default: round what the mean of the
        samples gives, `scale` times their largest distance from it in the 1-norm, so that ridges lie all over the data.
    activation
        Name of the activation: "tanh", "sigmoid", "relu", "gauss", "softplus", "sin" or "cos".
    distribution
        Law of the weights: "uniform" in the cube, "normal" of the same variance, or on a "sphere" of radius `scale`.
    direct_links
        Whether the inputs and a constant are features too.
    random_state
        Seed of the draws.

    Examples
    --------
    >>> RandomFeaturesTransformer(n_features=3, random_state=0).fit_transform(np.ones((2, 1))).shape
    (2, 3)
    """

    def __init__(
        self,
        n_features: int = 500,
        *,
        scale: float = 1.0,
        bias_scale: float | Literal["paper"] | None = None,
        activation: Name = "tanh",
        distribution: Distribution = "uniform",
        direct_links: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_features = n_features
        self.scale = scale
        self.bias_scale = bias_scale
        self.activation = activation
        self.distribution = distribution
        self.direct_links = direct_links
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "RandomFeaturesTransformer":
        """Draw weights and biases for data of this many columns.

        Parameters
        ----------
        X
            Samples, one row each.
        y
            Not looked at.

        Returns
        -------
        RandomFeaturesTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            For parameters out of range, or data that aren't finite.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        check_count("n_features", self.n_features)
        scale = check_number("scale", self.scale, gt=0)
        activation_named(self.activation)
        draw = draw_unit_weights(self.n_features, X.shape[1], self.distribution, check_random_state(self.random_state))
        self.weights_ = scale * draw[0]
        self.biases_ = place_biases(draw[1], self.weights_, X, scale, self.bias_scale)
        self._n_features_out = self.n_features + (X.shape[1] + 1 if self.direct_links else 0)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of samples.

        Parameters
        ----------
        X
            Samples, one row each.

        Returns
        -------
        ndarray of shape (samples, features)
            One row for each sample, in the precision of `X`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        weights, biases = self.weights_.astype(X.dtype, copy=False), self.biases_.astype(X.dtype, copy=False)
        return hidden_layer(X, weights, biases, self.activation, self.direct_links)


class _RandomFeatures(BaseEstimator):
    """What the regressor and the classifier share."""

    def __init__(
        self,
        n_features: int = 500,
        *,
        scale: float | Literal["auto"] = "auto",
        bias_scale: float | Literal["paper"] | None = None,
        activation: Name = "tanh",
        alpha: float | Literal["auto"] = 0.0,
        rcond: float = RCOND,
        direct_links: bool = False,
        distribution: Distribution | Literal["ridgelet"] = "uniform",
        coef_budget: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_features = n_features
        self.scale = scale
        self.bias_scale = bias_scale
        self.activation = activation
        self.alpha = alpha
        self.rcond = rcond
        self.direct_links = direct_links
        self.distribution = distribution
        self.coef_budget = coef_budget
        self.random_state = random_state

    def _solve(self, X: np.ndarray, y: np.ndarray) -> None:
        self._check()
        rng = check_random_state(self.random_state)
        scale, alpha = self.scale, self.alpha
        if scale == "auto" or alpha == "auto":
            law: Distribution = "uniform" if self.distribution == "ridgelet" else self.distribution
            advice = recommend_scale(
                X, y, self.activation, n_features=self.n_features, distribution=law, alpha=alpha,
                bias_scale=self.bias_scale, direct_links=self.direct_links, random_state=rng.randint(2**31),
                scales=None if scale == "auto" else (scale,),
            )  # fmt: skip
            scale, alpha = advice.scale, advice.alpha
        self.scale_, self.alpha_ = float(scale), float(alpha)
        if self.distribution == "ridgelet":
            self.weights_, self.biases_ = self._ridgelets(X, y, rng)
        else:
            a, b = draw_unit_weights(self.n_features, X.shape[1], self.distribution, rng)
            self.weights_ = self.scale_ * a
            self.biases_ = place_biases(b, self.weights_, X, self.scale_, self.bias_scale)
        H = self._features(X)
        if self.coef_budget is not None:
            parts = decompose(H, self.rcond)
            columns = y.reshape(len(y), -1).T
            coef = np.stack([within_budget(parts, column, self.coef_budget) for column in columns], axis=-1)
            self.coef_ = coef.reshape(H.shape[1], *y.shape[1:])
        elif self.alpha_ > 0:
            self.coef_ = decompose(H, 0.0).solve(y, self.alpha_ * float(np.square(H).sum()) / len(H))
        else:
            self.coef_ = lstsq(H, y, cond=self.rcond, lapack_driver="gelsd", check_finite=False, overwrite_a=True)[0]

    def _check(self) -> None:
        check_count("n_features", self.n_features)
        activation_named(self.activation)
        check_choice("distribution", self.distribution, ("uniform", "normal", "sphere", "ridgelet"))
        for name, value in (("scale", self.scale), ("alpha", self.alpha)):
            if not (isinstance(value, str) and value == "auto"):
                check_number(name, value, **({"gt": 0} if name == "scale" else {"ge": 0}))
        check_number("rcond", self.rcond, ge=0, lt=1)
        if self.coef_budget is not None:
            check_number("coef_budget", self.coef_budget, ge=0)

    def _ridgelets(self, X: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        order = 2 if activation_named(self.activation).parity == 1 else 3
        sampler = RidgeletSampler(self.scale_, order)
        columns = y.reshape(len(y), -1).T
        parts = np.array_split(np.arange(self.n_features), len(columns))
        drawn = [
            sampler.draw(X, column - column.mean(), len(part), rng)
            for column, part in zip(columns, parts, strict=True)
            if len(part)
        ]
        return np.concatenate([a for a, _ in drawn]).T, np.concatenate([b for _, b in drawn])

    def _features(self, X: np.ndarray) -> np.ndarray:
        return hidden_layer(X, self.weights_, self.biases_, self.activation, self.direct_links)

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._features(validate_data(self, X, dtype=np.float64, reset=False)) @ self.coef_


class BandlimitedRandomFeaturesRegressor(RegressorMixin, _RandomFeatures):
    """Regression on features sigma(a·x - b) with weights drawn from a band; only the outer weights are fitted.

    Parameters
    ----------
    n_features
        Number of hidden units.
    scale
        Half side of the cube that weights are drawn from, or "auto" to choose it from the data; see `recommend_scale`.
    bias_scale
        Half length of the interval of biases round 0; "paper" for `scale` itself. Default: round what the mean of the
        samples gives, `scale` times their largest distance from it in the 1-norm, so that ridges lie all over the data.
    activation
        Name of the activation: "tanh", "sigmoid", "relu", "gauss", "softplus", "sin" or "cos".
    alpha
        Ridge, in units of the mean squared norm of a sample's features, or "auto" to choose it from the data. Default
        0: least squares with singular values below `rcond` left out, which reaches errors that any ridge would forbid.
    rcond
        Share of the largest singular value below which the others are rounding. Errors near it depend on it.
    direct_links
        Whether the output is also linear in the inputs, as in a random vector functional-link network.
    distribution
        Law of the weights: "uniform" in the cube, "normal" of the same variance, on a "sphere", or "ridgelet", in
        proportion to the ridgelet transform of the data, in up to three dimensions.
    coef_budget
        Largest 2-norm of the outer weights, of each output.
    random_state
        Seed of the draws.

    Attributes
    ----------
    weights_, biases_
        Hidden weights, one column for each unit, and their biases.
    coef_
        Outer weights, one for each feature.
    scale_, alpha_
        Scale and ridge that were used.

    Notes
    -----
    arXiv 2008.08427. The paper draws biases from the same interval as weights: ``bias_scale="paper"``.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 300)[:, None]
    >>> model = BandlimitedRandomFeaturesRegressor(n_features=100, random_state=0).fit(x, np.sin(20 * x[:, 0]))
    >>> bool(np.abs(model.predict(x) - np.sin(20 * x[:, 0])).max() < 1e-4)
    True
    """

    def fit(self, X: Any, y: Any) -> "BandlimitedRandomFeaturesRegressor":
        """Draw the hidden weights and fit the outer ones.

        Parameters
        ----------
        X
            Samples, one row each.
        y
            Values, in one column or several.

        Returns
        -------
        BandlimitedRandomFeaturesRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            For parameters out of range, or data that aren't finite or don't fit.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, multi_output=True)
        self._solve(X, np.asarray(y, dtype=float))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the network's values.

        Parameters
        ----------
        X
            Samples, one row each.

        Returns
        -------
        ndarray of shape (samples,) or (samples, outputs)
            One value, or row, for each sample.
        """
        return self._outputs(X)

    def __sklearn_tags__(self) -> Any:
        """Say what scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class BandlimitedRandomFeaturesClassifier(ClassifierMixin, _RandomFeatures):
    """Classification by least squares on features with weights from a band: the class with the largest output.

    Parameters
    ----------
    n_features, scale, bias_scale, activation, alpha, rcond, direct_links, distribution, coef_budget, random_state
        As those of `BandlimitedRandomFeaturesRegressor`.

    Attributes
    ----------
    classes_
        The classes, in order.
    coef_
        Outer weights, one column for each class; one alone for two classes.
    scale_, alpha_
        Scale and ridge that were used.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 100)[:, None]
    >>> model = BandlimitedRandomFeaturesClassifier(n_features=50, alpha="auto", random_state=0)
    >>> model.fit(x, np.abs(x[:, 0]) > 0.5).score(x, np.abs(x[:, 0]) > 0.5) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> "BandlimitedRandomFeaturesClassifier":
        """Draw the hidden weights and fit the outer ones to 1 for the class and -1 for others.

        Parameters
        ----------
        X
            Samples, one row each.
        y
            Class of each sample.

        Returns
        -------
        BandlimitedRandomFeaturesClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For parameters out of range, data that aren't finite or don't fit, or a single class.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; it takes two or more")
        columns = 2.0 * np.eye(len(self.classes_))[numbers] - 1
        self._solve(X, columns[:, 1] if len(self.classes_) == 2 else columns)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the outputs: positive for the second of two classes, or one for each class.

        Parameters
        ----------
        X
            Samples, one row each.

        Returns
        -------
        ndarray of shape (samples,) or (samples, classes)
            One output, or row of outputs, for each sample.
        """
        return self._outputs(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the classes.

        Parameters
        ----------
        X
            Samples, one row each.

        Returns
        -------
        ndarray of shape (samples,)
            One class for each sample.
        """
        outputs = self.decision_function(X)
        return self.classes_[(outputs > 0).astype(int) if outputs.ndim == 1 else outputs.argmax(1)]
