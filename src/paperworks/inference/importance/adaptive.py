"""Adaptive importance sampling with control variates: many expectations from one sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.importance.coefficients import optimal_alpha, optimal_beta
from paperworks.inference.importance.components import Family, GaussianComponents, fit_cross_entropy
from paperworks.inference.importance.estimator import ISCVEstimator, summarise
from paperworks.inference.importance.laws import InputLaws, log_mixture

Function = Callable[[Float[np.ndarray, "n d"]], ArrayLike]
Signed = Literal["split", "abs"] | None


@dataclass(frozen=True)
class AdaptationStep:
    """One batch of the adaptation.

    Parameters
    ----------
    alpha
        Weights of the mixture after this batch, of shape (J,).
    beta
        Control parameters after this batch, of shape (J,).

    Examples
    --------
    >>> result = multiple_expectations(lambda x: x**2, GaussianComponents([[0.0]], [[[1.0]]]), 1000, random_state=0)
    >>> [step.n_evals for step in result.history][:2]
    [100, 200]
    """

    n_evals: int
    """Evaluations up to the end of this batch."""
    alpha: Float[np.ndarray, " J"]
    beta: Float[np.ndarray, " J"]
    criterion: float
    """Weighted sum of the variances of one draw, in this batch."""


@dataclass(frozen=True)
class ExpectationsResult:
    """Estimates of J expectations, and the sample they come from.

    Parameters
    ----------
    estimate
        Estimated expectations, of shape (J,).
    covariance
        Estimated covariance of the estimates, of shape (J, J).
    alpha
        Weights of the components in the mixture, of shape (K,).
    beta
        Control parameters, of shape (K,).
    components
        The fitted densities, one for each expectation or part of it.
    history
        What each batch of the adaptation did, in order.

    Examples
    --------
    >>> result = multiple_expectations(lambda x: x**2, GaussianComponents([[0.0]], [[[1.0]]]), 1000, random_state=0)
    >>> bool(abs(result.estimate[0] - 1) < 4 * result.std_error[0]), result.n_evals
    (True, 1000)
    """

    estimate: Float[np.ndarray, " J"]
    covariance: Float[np.ndarray, "J J"]
    n_evals: int
    """Points at which the functions were evaluated, adaptation included."""
    alpha: Float[np.ndarray, " K"]
    beta: Float[np.ndarray, " K"]
    components: GaussianComponents
    history: tuple[AdaptationStep, ...]
    sample: Float[np.ndarray, "n d"]
    """The final sample, of which alone the estimates are made."""
    values: Float[np.ndarray, "n outputs"]
    """The functions at the final sample."""
    weights: Float[np.ndarray, "n laws"]
    """Importance weights of the final sample, one column a law: expectations of other functions are their means."""

    @property
    def std_error(self) -> Float[np.ndarray, " J"]:
        """Standard errors of the estimates."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def effective_sample_size(self) -> Float[np.ndarray, " laws"]:
        """``(sum W)^2 / sum W^2`` for each law; few where a component is too narrow for it."""
        return self.weights.sum(axis=0) ** 2 / (self.weights**2).sum(axis=0)


def multiple_expectations(
    func: Function,
    input_dist: Any,
    n_max: int = 10_000,
    weights: ArrayLike | Literal["relative"] | None = None,
    family: Family = "sg",
    n_components: int = 2,
    diag: bool = False,
    adapt_fraction: float = 0.5,
    n_batches: int = 5,
    signed: Signed = None,
    defensive: float = 0.0,
    random_state: np.random.Generator | int | None = None,
) -> ExpectationsResult:
    """Estimate many expectations ``E_{f_j}[phi_j(X)]`` from one sample, for models that are costly to evaluate.

    A density is fitted to each expectation in a few batches; their mixture is drawn from, and each is the control
    variate of its own expectation. A batch that doesn't pay for its evaluations ends the adaptation, and all that are
    left make the final sample, which is independent of it, so that the estimates are unbiased.

    Parameters
    ----------
    func
        Maps points (n, d) to values (n, J), or (n,) for one function. Called once a batch.
    input_dist
        A law with ``rvs(size, random_state)`` and ``logpdf``, as SciPy's frozen multivariate ones, or one of OpenTURNS;
        or a list of J laws. An object whose ``logpdf`` has J columns stands for J laws.
    n_max
        Evaluations in all.
    weights
        Weight of each expectation's variance in what is minimised; by default 1. ``relative`` takes one over the square
        of the first batch's estimates.
    family
        ``sg``: Gaussians; ``gm``: mixtures of `n_components` Gaussians.
    diag
        Covariances are diagonal.
    adapt_fraction, n_batches
        Largest share of the evaluations for the adaptation, and the number of batches it is divided into.
    signed
        Functions have to be non-negative, as the ideal densities are. For others, ``split`` estimates positive and
        negative parts apart and subtracts; ``abs`` fits densities to absolute values, which has no zero-variance limit.
    defensive
        Share of each later batch that is drawn from the input laws. Above 0 it bounds the importance weights, which
        indicators and other functions of bounded support need.
    random_state
        Source of randomness.
    n_components
        Gaussians of a mixture, for the family ``gm``.

    Returns
    -------
    ExpectationsResult
        The estimates with their covariance, and the sample behind them.

    Raises
    ------
    ValueError
        For negative values where `signed` is None, values that aren't finite, shapes that don't match, weights that
        aren't positive, fewer than ten evaluations for each expectation, or an expectation that no point contributed
        to.

    References
    ----------
    arXiv 2212.00568, section 4.

    Examples
    --------
    >>> from scipy import stats
    >>> law = stats.multivariate_normal(0, 1)
    >>> moments = multiple_expectations(lambda x: x ** [2, 4, 6], law, weights="relative", random_state=0)
    >>> (moments.estimate / [1, 3, 15]).round(1)
    array([1., 1., 1.])
    """
    n_max, batches = check_count("n_max", n_max), check_count("n_batches", n_batches, at_least=2)
    check_number("adapt_fraction", adapt_fraction, gt=0, lt=1)
    check_number("defensive", defensive, ge=0, lt=1)
    size = int(n_max * adapt_fraction) // batches
    if size < 2:
        raise ValueError(f"n_max is {n_max}; it takes at least two evaluations for each of {batches} batches")
    rng = np.random.default_rng(random_state)
    laws = InputLaws(input_dist)
    evaluate = _Targets(func, laws, signed)

    # The first batch is drawn from the input laws.
    pool = _Pool(laws.rvs(size, rng), evaluate)
    if n_max < 10 * evaluate.J:
        raise ValueError(f"n_max is {n_max}; it takes at least ten for each of {evaluate.J} expectations")
    WY = pool.W * pool.Y
    beta, variance = WY.mean(axis=0), WY.var(axis=0, ddof=1)
    w = evaluate.target_weights(weights, beta)
    alpha = np.sqrt(w) * np.abs(WY).mean(axis=0)
    if not alpha.any() or (not np.all(alpha) and signed != "split"):
        raise ValueError(f"func has no value but 0 for expectation {int(alpha.argmin())} in {size} draws of its law")
    alpha, criterion = alpha / alpha.sum(), float(w @ variance)
    history = [AdaptationStep(size, alpha, beta, criterion)]

    for _ in range(batches - 1):
        W, Y = pool.W, pool.Y
        masses = np.abs(W * Y)
        masses = np.where(masses.any(axis=0), masses, W)  # a part that no point hit has the law itself
        components = fit_cross_entropy(pool.X, masses, family, n_components, diag, rng)
        R = np.exp(components.logpdf(pool.X) - pool.log_H[:, None])
        # The defensive share belongs to all components alike, as alpha sums to 1.
        law = np.exp(log_mixture(pool.log_f) - pool.log_H)[:, None] if defensive else 0.0
        drawn = (1 - defensive) * R + defensive * law
        alpha = optimal_alpha((W * Y - beta * R) ** 2 @ w, drawn, alpha0=alpha)
        estimator = ISCVEstimator(components, alpha, beta, defensive, laws)
        W, Y, R = pool.add(estimator, estimator.rvs(size, rng))
        beta = optimal_beta(R, W * Y)  # of the new batch alone
        previous, criterion = criterion, float(w @ (W * Y - beta * R).var(axis=0, ddof=1))
        history.append(AdaptationStep(len(pool.X), alpha, beta, criterion))
        left = n_max - len(pool.X)
        if previous / (left + size) <= criterion / left:  # the batch didn't pay for its evaluations
            break

    X = estimator.rvs(left, rng)
    log_f, Y = evaluate(X)
    W, R = estimator.ratios(X, log_f)
    final = summarise(W, Y, R, beta)
    combine = evaluate.combination
    return ExpectationsResult(
        estimate=combine @ final.estimate,
        covariance=combine @ final.covariance @ combine.T,
        n_evals=n_max,
        alpha=alpha,
        beta=beta,
        components=components,
        history=tuple(history),
        sample=X,
        values=evaluate.outputs(Y),
        weights=W[:, : evaluate.n_laws],
    )


class _Targets:
    """The functions with their laws, as targets that a density can be fitted to: J of them, or 2 J parts if split."""

    J: int
    n_laws: int

    def __init__(self, func: Function, laws: InputLaws, signed: Signed) -> None:
        self._func, self._laws, self.signed = func, laws, signed

    def __call__(
        self, X: Float[np.ndarray, "n d"]
    ) -> tuple[Float[np.ndarray, "n laws"], Float[np.ndarray, "n outputs"]]:
        """Return the log densities of the laws and the values of the functions; either may be one column for all."""
        Y = np.asarray(self._func(X), dtype=float)
        Y = Y[:, None] if Y.ndim == 1 else Y
        if Y.ndim != 2 or len(Y) != len(X):
            raise ValueError(f"func returned shape {Y.shape} for {len(X)} points; it takes ({len(X)}, J)")
        if not np.all(np.isfinite(Y)):
            raise ValueError("func returned NaN or infinite values; it takes finite ones")
        if self.signed is None and np.any(Y < 0):
            j = int(Y.min(axis=0).argmin())
            raise ValueError(f"func returned {Y[:, j].min():g} for output {j}; it takes values >= 0, or signed='split'")
        log_f = self._laws.logpdf(X)
        if len({Y.shape[1], log_f.shape[1]} - {1}) > 1:
            raise ValueError(
                f"func has {Y.shape[1]} outputs for {log_f.shape[1]} laws; it takes as many or one of either"
            )
        self.J, self.n_laws = max(Y.shape[1], log_f.shape[1]), log_f.shape[1]
        if self.signed == "split":
            Y = np.broadcast_to(Y, (len(Y), self.J))
            Y = np.concatenate([np.maximum(Y, 0), np.maximum(-Y, 0)], axis=1)
            log_f = log_f if self.n_laws == 1 else np.tile(log_f, 2)
        return log_f, Y

    def outputs(self, Y: Float[np.ndarray, "n outputs"]) -> Float[np.ndarray, "n outputs2"]:
        """Return the functions' own values."""
        return Y[:, : self.J] - Y[:, self.J :] if self.signed == "split" else Y

    @property
    def combination(self) -> Float[np.ndarray, "J K"]:
        """The matrix that makes expectations of targets' ones."""
        identity = np.eye(self.J)
        return np.concatenate([identity, -identity], axis=1) if self.signed == "split" else identity

    def target_weights(self, weights: Any, estimate: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """Return the weights of the targets' variances from the user's."""
        if isinstance(weights, str):
            check_choice("weights", weights, ("relative",))
            w = (self.combination @ estimate) ** -2.0
        else:
            w = np.ones(self.J) if weights is None else np.asarray(weights, dtype=float)
        if w.shape != (self.J,) or not np.all((w > 0) & (w < np.inf)):
            raise ValueError(f"weights is {weights!r}; it takes {self.J} finite numbers > 0")
        return np.tile(w, 2) if self.signed == "split" else w


class _Pool:
    """All evaluations of the adaptation, with the law that they were drawn from: the mixture of all batches' ones."""

    def __init__(self, X: Float[np.ndarray, "n d"], evaluate: _Targets) -> None:
        self._evaluate, self._proposals, self._size = evaluate, list[ISCVEstimator](), len(X)
        self.X = X
        self.log_f, self.Y = evaluate(X)
        self._log_sum = log_mixture(self.log_f)  # of the densities of all proposals, each of one batch of points

    @property
    def log_H(self) -> Float[np.ndarray, " n"]:
        return self._log_sum - np.log(1 + len(self._proposals))

    @property
    def W(self) -> Float[np.ndarray, "n laws"]:
        return np.exp(self.log_f - self.log_H[:, None])

    def add(
        self, estimator: ISCVEstimator, X: Float[np.ndarray, "m d"]
    ) -> tuple[Float[np.ndarray, "m laws"], Float[np.ndarray, "m outputs"], Float[np.ndarray, "m K"]]:
        """Evaluate a batch drawn from `estimator`; return the batch's ``f / g_alpha``, values and ``g / g_alpha``."""
        log_f, Y = self._evaluate(X)
        log_sum = log_mixture(log_f)
        for proposal in self._proposals:
            log_sum = np.logaddexp(log_sum, proposal.logpdf(X, log_f))
        old = np.logaddexp(self._log_sum, estimator.logpdf(self.X, self.log_f))
        W, R = estimator.ratios(X, log_f)
        self._log_sum = np.concatenate([old, np.logaddexp(log_sum, estimator.logpdf(X, log_f))])
        self._proposals.append(estimator)
        self.X, self.Y = np.concatenate([self.X, X]), np.concatenate([self.Y, Y])
        self.log_f = np.concatenate([self.log_f, log_f])
        return W, Y, R
