"""Any regressor with error bars, made to keep a known total."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.operators.conservation.conditioning import condition_linear


class ConservingRegressor(RegressorMixin, BaseEstimator):
    """Wraps a regressor with error bars, so that weighted sums of its predictions are what is known.

    Parameters
    ----------
    base
        A regressor whose `predict` takes ``return_cov=True`` or ``return_std=True``, such as scikit-learn's
        `GaussianProcessRegressor` or `BayesianRidge`.
    noise_var
        Variance of the noise of the totals. 0, the default, makes them hold exactly.
    pseudo_inverse
        Whether totals may depend on each other, as months and years do, as long as they agree.

    Attributes
    ----------
    base_
        The fitted base.
    n_features_in_, feature_names_in_
        Number of features that it was fitted on, and their names where they had any.

    Notes
    -----
    arXiv 2302.11002. With a covariance the correction follows the correlations; standard deviations count as
    independent.

    Examples
    --------
    >>> from sklearn.linear_model import BayesianRidge
    >>> x = np.arange(6.0)[:, None]
    >>> model = ConservingRegressor(BayesianRidge()).fit(x, 2 * x[:, 0] + np.array([0.1, -0.1, 0, 0.2, -0.2, 0]))
    >>> round(float(model.predict(x, G=np.ones((1, 6)), value=np.array([36.0])).sum()), 6)
    36.0
    """

    def __init__(self, base: Any = None, *, noise_var: float = 0.0, pseudo_inverse: bool = False) -> None:
        self.base = base
        self.noise_var = noise_var
        self.pseudo_inverse = pseudo_inverse

    def fit(self, X: Any, y: Any) -> "ConservingRegressor":
        """Fit the base.

        Parameters
        ----------
        X
            Samples, one row each.
        y
            Values, one for each sample.

        Returns
        -------
        ConservingRegressor
            The fitted estimator.
        """
        if self.base is None:
            from sklearn.linear_model import BayesianRidge

            self.base_ = BayesianRidge().fit(X, y)
        else:
            self.base_ = clone(self.base).fit(X, y)
        validate_data(self, X, skip_check_array=True)  # counts and names features
        return self

    def predict(self, X: Any, G: Any = None, value: Any = None, return_std: bool = False) -> Any:
        """Predict, and keep totals where they are given.

        Parameters
        ----------
        X
            Samples, one row each.
        G
            Weights of the totals, (m, samples) or (samples,); none, for the base's own predictions.
        value
            What the totals are, (m,) or one number.
        return_std
            Whether to return standard deviations too.

        Returns
        -------
        ndarray or tuple of ndarray
            Predictions, and their standard deviations if asked for.

        Raises
        ------
        TypeError
            Where the base has no error bars.
        ValueError
            Where only one of G and value is given, or shapes don't fit.
        """
        check_is_fitted(self)
        validate_data(self, X, reset=False, dtype=None, accept_sparse=True, ensure_all_finite=False)
        if (G is None) != (value is None):
            raise ValueError("G or value is None; it takes both, or neither")
        if G is None and not return_std:
            return self.base_.predict(X)
        mean, cov = self._with_covariance(X)
        if G is None:
            return mean, np.sqrt(cov if cov.ndim == 1 else cov.diagonal())
        rows = np.atleast_2d(np.asarray(G, dtype=float))
        totals = np.atleast_1d(np.asarray(value, dtype=float))
        found = condition_linear(mean, cov, rows, totals, self.noise_var, pseudo_inverse=self.pseudo_inverse)
        return (found.mean, np.sqrt(found.variance)) if return_std else found.mean

    def _with_covariance(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        try:
            mean, cov = self.base_.predict(X, return_cov=True)
        except TypeError:
            try:
                mean, std = self.base_.predict(X, return_std=True)
            except TypeError:
                raise TypeError(
                    f"base is {type(self.base_).__name__}, whose predict takes neither return_cov nor return_std; it"
                    " takes a regressor with error bars"
                ) from None
            cov = np.asarray(std) ** 2
        mean = np.asarray(mean, dtype=float)
        if mean.ndim != 1:
            raise ValueError(f"base predicts shape {mean.shape}; it takes one value for each sample")
        return mean, np.asarray(cov, dtype=float)
