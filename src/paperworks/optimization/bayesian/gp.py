"""Gaussian process regression with the interface of scikit-learn (arXiv 1807.02811, Section 3)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.bayesian.derivatives import VALUE, DerivativeKernel
from paperworks.optimization.bayesian.hyperparameters import Fit, Likelihood
from paperworks.optimization.bayesian.kernels import Kernel, kernel_of
from paperworks.optimization.bayesian.posterior import Posterior, Scaling
from paperworks.optimization.bayesian.priors import Prior, default_priors
from paperworks.optimization.bayesian.trend import Trend

_LARGEST, _SMALLEST = 1e150, 1e-150  # values whose squares are numbers


class GaussianProcess(RegressorMixin, BaseEstimator):
    """A Gaussian process that is conditioned on data, its hyper-parameters fitted or sampled.

    Points are scaled to the unit cube and values to mean 0 and variance 1. The posterior comes from a Cholesky factor
    of K = Sigma_0(X, X) + noise: mean mu_0(x) + Sigma_0(x, X) K^-1 (y - mu_0(X)), and covariance
    Sigma_0(x, x') - Sigma_0(x, X) K^-1 Sigma_0(X, x').

    Parameters
    ----------
    kernel
        "matern52", "matern32", "matern12", "rbf", or a kernel.
    noise
        Variance of the noise in squared units of y: "auto" to estimate it, a number, 0 where there is none, or "fixed"
        for variances of each point that `fit` is given.
    ard
        Whether each column has a lengthscale of its own, for a kernel that is named.
    mean
        "constant", "linear", "zero", a number for a mean that is known, or a function from scaled points to columns of
        basis functions, whose coefficients are fitted.
    inference
        "map" for the greatest posterior density, "mle" for the greatest likelihood, "bayes" for draws from the
        posterior by slice sampling, "fixed" for the values of `hyperparameters`.
    hyperparameters
        Values by name ("lengthscale", "amplitude", "noise"), in scaled units, for "fixed".
    priors
        Laws by name; by default lengthscale LogNormal(sqrt 2 + 1/2 ln d, sqrt 3), amplitude Gamma(2, 0.15) and noise
        LogNormal(-4, 1), which are those of recent practice and not the tutorial's.
    bounds
        Low and high of each column, which are scaled to 0 and 1; those of the data by default.
    standardize
        Whether values are scaled.
    n_samples
        Draws of the hyper-parameters for "bayes".
    n_starts
        Starts of the search for hyper-parameters.
    warm_start
        Whether a fit begins where the last one ended.
    random_state
        Seed of the starts and draws.

    Attributes
    ----------
    posteriors_
        One posterior, or one for each draw of the hyper-parameters.
    hyperparameters_
        Values by name, in scaled units, of the first posterior.
    noise_variance_
        Variance of the noise of an observation to come, in squared units of y.
    log_marginal_likelihood_
        That of the first posterior, of scaled data.

    Raises
    ------
    ValueError
        Where data hold NaN or infinity, where a point is repeated without noise and with another value, or where
        an option is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 8)[:, None]
    >>> model = GaussianProcess(noise=0.0).fit(X, np.sin(6 * X[:, 0]))
    >>> mean, deviation = model.predict([[0.5]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(3)) < 0.01)
    True
    """

    posteriors_: list[Posterior]

    def __init__(
        self,
        kernel: str | Kernel = "matern52",
        *,
        noise: float | str = "auto",
        ard: bool = True,
        mean: str | float | Callable[[np.ndarray], np.ndarray] = "constant",
        inference: Literal["map", "mle", "bayes", "fixed"] = "map",
        hyperparameters: Mapping[str, Any] | None = None,
        priors: Mapping[str, Prior] | None = None,
        bounds: Sequence[tuple[float, float]] | None = None,
        standardize: bool = True,
        n_samples: int = 10,
        n_starts: int = 4,
        warm_start: bool = False,
        random_state: int | None = 0,
    ) -> None:
        self.kernel = kernel
        self.noise = noise
        self.ard = ard
        self.mean = mean
        self.inference = inference
        self.hyperparameters = hyperparameters
        self.priors = priors
        self.bounds = bounds
        self.standardize = standardize
        self.n_samples = n_samples
        self.n_starts = n_starts
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, dY: ArrayLike | None = None, noise_variance: ArrayLike | None = None
    ) -> "GaussianProcess":
        """Condition the process on data.

        Parameters
        ----------
        X
            Points, one a row.
        y
            Values at the points.
        dY
            Gradients at the points, one a row; NaN where a derivative is not known.
        noise_variance
            Variance of the noise of each value, for noise="fixed"; of a gradient's entries, that of its value.

        Returns
        -------
        GaussianProcess
            The estimator itself.
        """
        self._check_options()
        checked = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        points, values = np.asarray(checked[0]), np.asarray(checked[1], dtype=float)
        scaling = self._scaling(points, values)
        U, target = scaling.unit(points), (values - scaling.shift) / scaling.scale
        kernel = kernel_of(self.kernel, self.ard)
        noise = self._noise(noise_variance, len(values), scaling.scale)
        if dY is not None:
            kernel = DerivativeKernel(kernel)  # type: ignore[arg-type]
            U, target, noise = _with_derivatives(U, target, noise, dY, scaling)
        if noise is not None:
            _refuse_contradictions(U, target, noise)
        trend = Trend(self.mean, dY is not None)
        known = None
        if isinstance(self.mean, (int, float)) and not isinstance(self.mean, bool):
            known = np.array([(self.mean - scaling.shift) / scaling.scale])
        priors = {} if self.inference == "mle" else {**default_priors(points.shape[1]), **(self.priors or {})}
        likelihood = Likelihood(kernel, U, target, trend.basis(U), noise, priors, known)
        rng = np.random.default_rng(self.random_state)
        fits = self._infer(likelihood, rng)
        free = noise is None
        self.posteriors_ = []
        for state in fits:
            if noise is None:
                shared = float(np.exp(state.theta[-1]))
                variances = np.full(len(target), shared)
            else:
                variances, shared = noise, float(noise.mean())
            theta = state.theta[: len(state.theta) - free]
            self.posteriors_.append(
                Posterior(kernel, theta, trend, state.beta, scaling, U, state.residual, variances, shared, state.L)
            )
        self.theta_ = fits[0].theta
        self.log_marginal_likelihood_ = fits[0].log_likelihood
        self.noise_variance_ = self.posteriors_[0].noise_variance
        names: dict[str, list[float]] = {}
        for parameter, raw in zip(likelihood.parameters, self.theta_, strict=True):
            names.setdefault(parameter.name, []).append(float(np.exp(raw)) if parameter.log else float(raw))
        self.hyperparameters_ = {name: np.array(v) if len(v) > 1 else v[0] for name, v in names.items()}
        return self

    def _check_options(self) -> None:
        check_choice("inference", self.inference, ("map", "mle", "bayes", "fixed"))
        if isinstance(self.noise, str):
            check_choice("noise", self.noise, ("auto", "fixed"))
        else:
            check_number("noise", self.noise, ge=0)
        if isinstance(self.mean, str):
            check_choice("mean", self.mean, ("constant", "linear", "zero"))
        elif not callable(self.mean):
            check_number("mean", self.mean)
        check_count("n_starts", self.n_starts)
        check_count("n_samples", self.n_samples)

    def _scaling(self, X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]) -> Scaling:
        if self.bounds is None:
            low, high = X.min(axis=0), X.max(axis=0)
            width = np.where(high > low, high - low, 1.0)
        else:
            box = np.asarray(self.bounds, dtype=float)
            if box.shape != (X.shape[1], 2) or not np.isfinite(box).all() or not (box[:, 0] < box[:, 1]).all():
                raise ValueError(
                    f"bounds is {self.bounds!r}; it takes a finite low < high for each of {X.shape[1]} columns"
                )
            low, width = box[:, 0], box[:, 1] - box[:, 0]
        if not self.standardize:
            return Scaling(low, width)
        size = float(np.abs(y).max())
        if size > _LARGEST:
            raise ValueError(f"y has values of {size:.3g}, whose squares overflow; it takes values up to {_LARGEST:g}")
        unit = y / size if size > 0 else y  # so that squares don't underflow either
        deviation = float(unit.std()) * size
        spread = deviation if deviation > max(1e-12 * size, _SMALLEST) else 1.0
        return Scaling(low, width, float(unit.mean() * size) if size > 0 else 0.0, spread)

    def _noise(self, noise_variance: ArrayLike | None, n: int, scale: float) -> Float[np.ndarray, " n"] | None:
        if (self.noise == "fixed") != (noise_variance is not None):
            raise ValueError(
                f"noise_variance is {'not ' if noise_variance is None else ''}given and noise is {self.noise!r}; "
                "noise='fixed' takes a variance for each point, and no other does"
            )
        if self.noise == "auto":
            if self.inference == "fixed":
                return np.full(n, float((self.hyperparameters or {}).get("noise", 0.0)))
            return None
        if noise_variance is None:
            return np.full(n, float(self.noise) / scale**2)
        variances = np.asarray(noise_variance, dtype=float)
        if variances.shape != (n,) or not np.isfinite(variances).all() or (variances < 0).any():
            raise ValueError(
                f"noise_variance has shape {variances.shape}; it takes {n} finite numbers >= 0, one for each point"
            )
        return variances / scale**2

    def _infer(self, likelihood: Likelihood, rng: np.random.Generator) -> list[Fit]:
        if self.inference == "fixed":
            return [likelihood.fit(_raw(likelihood, self.hyperparameters or {}))]
        warm = getattr(self, "theta_", None) if self.warm_start else None
        best = likelihood.maximise(self.n_starts, rng, warm)
        if self.inference != "bayes":
            return [likelihood.fit(best)]
        draws = likelihood.sample(best, self.n_samples, rng)
        return [likelihood.draw_trend(likelihood.fit(theta), rng) for theta in draws]

    def _checked(self, X: ArrayLike) -> Float[np.ndarray, "m d"]:
        check_is_fitted(self, "posteriors_")
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64))

    def predict(self, X: ArrayLike, return_std: bool = False, return_cov: bool = False) -> Any:
        """Return the posterior mean of f, and its deviations or covariances.

        Parameters
        ----------
        X
            Points, one a row.
        return_std
            Whether standard deviations of f, without noise, are returned too.
        return_cov
            Whether covariances of f are returned too.

        Returns
        -------
        Any
            The means as an array (m,), alone or with the deviations or the covariance matrix; over draws of the
            hyper-parameters, the moments of the mixture.
        """
        if return_std and return_cov:
            raise ValueError("return_std and return_cov are both true; it takes one of the two at most")
        points = self._checked(X)
        if return_cov:
            joints = [p.joint(points[None]) for p in self.posteriors_]
            means = np.array([joint.mean[0] for joint in joints])
            covariance = np.mean([joint.covariance[0] for joint in joints], axis=0)
            centred = means - means.mean(axis=0)
            return means.mean(axis=0), covariance + centred.T @ centred / len(means)
        found = [p.moments(points) for p in self.posteriors_]
        means = np.array([mean for mean, _ in found])
        if not return_std:
            return means.mean(axis=0)
        variance = np.mean([deviation**2 for _, deviation in found], axis=0) + means.var(axis=0)
        return means.mean(axis=0), np.sqrt(variance)

    def sample(
        self, X: ArrayLike, n: int = 1, random_state: int | np.random.Generator | None = None
    ) -> Float[np.ndarray, "n m"]:
        """Draw functions from the posterior at given points.

        Parameters
        ----------
        X
            Points, one a row.
        n
            How many functions.
        random_state
            Seed or generator of the draws; the estimator's own by default.

        Returns
        -------
        Float[np.ndarray, "n m"]
            One row for each function.
        """
        mean, covariance = self.predict(X, return_cov=True)
        rng = np.random.default_rng(self.random_state if random_state is None else random_state)
        w, Q = np.linalg.eigh(covariance)
        return mean + rng.standard_normal((check_count("n", n), len(mean))) * np.sqrt(np.maximum(w, 0.0)) @ Q.T

    def log_marginal_likelihood(
        self, theta: Float[np.ndarray, " p"] | None = None, gradient: bool = False
    ) -> float | tuple[float, Float[np.ndarray, " p"]]:
        """Return the log marginal likelihood of the scaled data, at the fitted parameters or others.

        Parameters
        ----------
        theta
            Raw parameters, most of them logarithms; the fitted ones by default.
        gradient
            Whether the gradient by `theta` is returned too.

        Returns
        -------
        float | tuple[float, Float[np.ndarray, " p"]]
            The value, alone or with its gradient.
        """
        check_is_fitted(self, "posteriors_")
        likelihood = self._likelihood()
        raw = self.theta_[: likelihood.size] if theta is None else np.asarray(theta, dtype=float)
        if raw.shape != (likelihood.size,):
            raise ValueError(f"theta has shape {raw.shape}; it takes {likelihood.size} numbers")
        value, slope = likelihood.value(raw)
        return (value, slope) if gradient else value

    def _likelihood(self) -> Likelihood:
        """Return the likelihood of the data that the first posterior holds."""
        p = self.posteriors_[0]
        free = self.noise == "auto" and self.inference != "fixed" and bool((p.noise == p.new_noise).all())
        basis = p.trend.basis(p.U)
        known = p.beta if isinstance(self.mean, (int, float)) else None
        return Likelihood(p.kernel, p.U, p.residual + basis @ p.beta, basis, None if free else p.noise, {}, known)

    def condition(self, X: ArrayLike, y: ArrayLike, noise_variance: ArrayLike | None = None) -> "GaussianProcess":
        """Return a process with further data at the same hyper-parameters, by rows appended to its Cholesky factors.

        Parameters
        ----------
        X
            Further points, one a row.
        y
            Values at these points.
        noise_variance
            Variances of their noise, by default that of an observation to come.

        Returns
        -------
        GaussianProcess
            A new estimator; this one stays as it is.
        """
        points = self._checked(X)
        values = np.asarray(y, dtype=float).reshape(-1)
        if values.shape != (len(points),) or not np.isfinite(values).all():
            raise ValueError(f"y has {values.size} values; it takes {len(points)} finite numbers, one for each point")
        variance = None if noise_variance is None else np.asarray(noise_variance, dtype=float)
        other = copy.copy(self)
        other.posteriors_ = [p.condition(points, values, variance) for p in self.posteriors_]
        other.log_marginal_likelihood_ = other.posteriors_[0].log_likelihood
        return other


def _raw(likelihood: Likelihood, values: Mapping[str, Any]) -> Float[np.ndarray, " p"]:
    """Return the vector of raw parameters with the values of the names that are given."""
    theta = likelihood.start.copy()
    names = [p.name for p in likelihood.parameters]
    unknown = set(values) - {*names, "noise"}
    if unknown:
        raise ValueError(f"hyperparameters has {sorted(unknown)}; it takes {', '.join(sorted(set(names)))} and noise")
    for name, value in values.items():
        where = [i for i, own in enumerate(names) if own == name]
        if where:
            logs = likelihood.parameters[where[0]].log
            given = np.broadcast_to(np.asarray(value, dtype=float), len(where))
            if logs and not (given > 0).all():
                raise ValueError(f"hyperparameters has {name} {value!r}; it takes positive numbers")
            theta[where] = np.log(given) if logs else given
    return theta


def _with_derivatives(
    U: Float[np.ndarray, "n d"],
    target: Float[np.ndarray, " n"],
    noise: Float[np.ndarray, " n"] | None,
    dY: ArrayLike,
    scaling: Scaling,
) -> tuple[Float[np.ndarray, "k e"], Float[np.ndarray, " k"], Float[np.ndarray, " k"] | None]:
    """Return rows (x, component) of values and of derivatives that are known, in scaled units."""
    gradients = np.asarray(dY, dtype=float)
    n, d = U.shape
    if gradients.shape != (n, d) or np.isinf(gradients).any():
        raise ValueError(f"dY has shape {gradients.shape}; it takes ({n}, {d}) numbers, NaN where one is not known")
    scaled = gradients * scaling.width / scaling.scale
    rows, columns = np.nonzero(~np.isnan(scaled))
    values = np.column_stack([U, np.full(n, VALUE)])
    added = np.column_stack([U[rows], columns.astype(float)])
    widths = (scaling.width[columns]) ** 2
    variances = None if noise is None else np.append(noise, noise[rows] * widths)
    return np.concatenate([values, added]), np.append(target, scaled[rows, columns]), variances


def _refuse_contradictions(
    U: Float[np.ndarray, "n d"], target: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]
) -> None:
    exact = noise == 0
    U, target, rows = U[exact], target[exact], np.nonzero(exact)[0]
    order = np.lexsort(U.T)
    same = (np.diff(U[order], axis=0) == 0).all(axis=1)
    apart = np.abs(np.diff(target[order])) > 1e-9
    if (same & apart).any():
        i = rows[order[int(np.nonzero(same & apart)[0][0])]]
        raise ValueError(
            f"y has different values at a point that X repeats (row {i}) and noise is 0; it takes noise='auto' or a "
            "positive variance where observations of one point differ"
        )
