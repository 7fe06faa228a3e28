"""Adaptive importance sampling with control variates: many expectations from one sample."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.inference.importance.adaptation import Adaptation, AdaptationStep, Options
from paperworks.inference.importance.components import Family, GaussianComponents
from paperworks.inference.importance.estimator import summarise
from paperworks.inference.importance.laws import InputLaws
from paperworks.inference.importance.points import REPLICATES, Net, Sampling, largest_net, smallest_net
from paperworks.inference.importance.targets import RANGE, Function, Signed, Targets


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
    >>> low, high = result.interval(0.001)
    >>> bool(low[0] < 1 < high[0]), result.n_evals <= 1000
    (True, True)
    """

    estimate: Float[np.ndarray, " J"]
    covariance: Float[np.ndarray, "J J"]
    n_evals: int
    """Points drawn, adaptation included; where no law has density the functions weren't called."""
    alpha: Float[np.ndarray, " K"]
    beta: Float[np.ndarray, " K"]
    components: GaussianComponents
    history: tuple[AdaptationStep, ...]
    sample: Float[np.ndarray, "n d"]
    """The final sample, of which alone the estimates are made."""
    values: Float[np.ndarray, "n outputs"]
    """The functions at the final sample, 0 or the lowest score where no law has density."""
    weights: Float[np.ndarray, "n laws"]
    """Importance weights of the final sample, one column a law: expectations of other functions are their means."""
    replicates: int | None
    """Replicates of scrambled Sobol' nets in the final sample, one after the other; None for independent draws."""

    @property
    def std_error(self) -> Float[np.ndarray, " J"]:
        """Standard errors of the estimates."""
        return np.sqrt(np.diagonal(self.covariance))

    def interval(self, alpha: float = 0.05) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
        """Return confidence intervals of the expectations, by Student's law where replicates are few.

        Parameters
        ----------
        alpha
            One minus the coverage.

        Returns
        -------
        tuple[ndarray of shape (J,), ndarray of shape (J,)]
            Lower and upper ends.
        """
        check_number("alpha", alpha, gt=0, lt=1)
        freedom = (len(self.sample) if self.replicates is None else self.replicates) - 1
        half = stats.t.isf(alpha / 2, freedom) * self.std_error
        return self.estimate - half, self.estimate + half

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
    n_batches: int | None = None,
    signed: Signed = None,
    defensive: float | None = None,
    random_state: np.random.Generator | int | None = None,
    sampling: Sampling = "auto",
    replicates: int = REPLICATES,
    threshold: ArrayLike | None = None,
) -> ExpectationsResult:
    """Estimate many expectations ``E_{f_j}[phi_j(X)]`` from one sample, for models that are costly to evaluate.

    A density is fitted to each expectation in a few batches; their mixture is drawn from, and each is the control
    variate of its own expectation. A batch that doesn't pay for its evaluations ends the adaptation, and all that are
    left make the final sample, which is independent of it, so that the estimates are unbiased.

    Parameters
    ----------
    func
        Maps points (n, d) to values (n, J), or (n,) for one function. Called once a batch, and only for points where a
        law has density.
    input_dist
        A law with ``rvs(size, random_state)`` and ``logpdf``, as SciPy's frozen multivariate ones, or one of OpenTURNS;
        or a list of J laws. An object whose ``logpdf`` has J columns stands for J laws.
    n_max
        Evaluations at most.
    weights
        Weight of each expectation's variance in what is minimised; by default 1. ``relative`` takes one over the square
        of the first batch's estimates; with a `threshold` it is the default and follows the levels.
    family
        ``sg``: Gaussians; ``gm``: mixtures of `n_components` Gaussians.
    diag
        Covariances are diagonal.
    adapt_fraction, n_batches
        Largest share of the evaluations for the adaptation, and the number of batches it is divided into: 5, or 10 with
        a `threshold`.
    signed
        Functions have to be non-negative, as the ideal densities are. For others, ``split`` estimates positive and
        negative parts apart and subtracts; ``abs`` fits densities to absolute values, which has no zero-variance limit.
    defensive
        Share of each later batch that is drawn from the input laws. It bounds the importance weights, without which
        indicators and other functions of bounded support have errors that no sample tells of. By default 0.1, 0.3 where
        a function is 0 at more than half of the first batch's points, 0.6 where that shows tails heavier than Gaussian,
        as of Student's or exponential laws, but none for a density that nowhere had a weight above ten; 0 is the
        paper's method.
    random_state
        Source of randomness.
    n_components
        Gaussians of a mixture, for the family ``gm``.
    sampling
        ``sobol`` draws by scrambled Sobol' nets, a power of two points for each component, and takes errors from the
        spread of replicates; ``random`` draws independently, as the paper does. ``auto`` draws the adaptation by nets,
        and the final sample too if the last batch's nets had less than a third of the variance of as many independent
        draws. With nets, of several expectations the last batch tries one density for all without controls, and the
        final sample takes it if its nets vary less. The input law itself is drawn by nets where it is Gaussian,
        univariate of SciPy, of OpenTURNS, or has a method ``from_uniform``.
    replicates
        Replicates of the nets in the final sample at least. Fewer make estimates better and their errors less known.
    threshold
        Makes the expectations probabilities: func's values are scores of any sign, and the events are that they reach
        the threshold, one for all outputs or one each. Events far rarer than one in a hundred are found by levels: each
        batch is drawn from densities fitted to what the highest tenth of the last batch's scores reached.

    Returns
    -------
    ExpectationsResult
        The estimates with their covariance, and the sample behind them.

    Raises
    ------
    ValueError
        For negative values where `signed` is None, values that aren't finite, shapes that don't match, weights that
        aren't positive, fewer than ten evaluations for each expectation, functions that are 0 wherever the first batch
        fell, or scores that don't get to a threshold within the adaptation.

    Warns
    -----
    RuntimeWarning
        Where one of several functions was 0 at every point: its estimate is 0, and nothing is known of its error.

    References
    ----------
    arXiv 2212.00568, section 4. Levels are those of the cross-entropy method (Rubinstein and Kroese, 2004).

    Examples
    --------
    >>> from scipy import stats
    >>> law = stats.multivariate_normal(0, 1)
    >>> moments = multiple_expectations(lambda x: x ** [2, 4, 6], law, weights="relative", random_state=0)
    >>> (moments.estimate / [1, 3, 15]).round(2)
    array([1., 1., 1.])
    >>> tail = multiple_expectations(lambda x: x, law, threshold=4.0, random_state=0)
    >>> bool(abs(tail.estimate[0] / stats.norm.sf(4) - 1) < 0.05)
    True
    """
    check_choice("sampling", sampling, get_args(Sampling))
    check_number("adapt_fraction", adapt_fraction, gt=0, lt=1)
    n_max = check_count("n_max", n_max)
    batches = check_count("n_batches", (5 if threshold is None else 10) if n_batches is None else n_batches, at_least=2)
    share = None if defensive is None else check_number("defensive", defensive, ge=0, lt=1)
    if threshold is not None and signed is not None:
        raise ValueError(f"signed is {signed!r} with a threshold; it takes None, as scores may have any sign")
    check_count("replicates", replicates, at_least=2)
    rng = np.random.default_rng(random_state)
    laws = InputLaws(input_dist)
    targets = Targets(func, laws, signed, threshold)
    size, net = _batch(n_max, adapt_fraction, batches, sampling)
    if net is not None and sampling != "random" and replicates > n_max - int(n_max * adapt_fraction):
        left = n_max - int(n_max * adapt_fraction)
        raise ValueError(f"replicates is {replicates} with n_max {n_max}; it takes at most the final sample's {left}")

    weights = "relative" if weights is None and threshold is not None else weights
    options = Options(n_max, batches, weights, family, n_components, diag, share)
    adaptation = Adaptation(targets, laws, options, size, net, rng)
    if n_max < 10 * targets.J:
        raise ValueError(f"n_max is {n_max}; it takes at least ten for each of {targets.J} expectations")
    estimator, by_nets = adaptation.run(sampling == "sobol")
    spent = len(adaptation.pool)
    X, counts, drawn = adaptation.draw(estimator, n_max - spent, replicates if by_nets else None)
    log_f, scores = targets(X)
    Y = targets.values(scores)
    W, R = (counts[:, None] * ratio for ratio in estimator.ratios(X, log_f))
    final = summarise(W, Y, R, estimator.beta, drawn)
    combine = targets.combination
    _warn_of_zeros(combine, Y)
    return ExpectationsResult(
        estimate=combine @ final.estimate,
        covariance=combine @ final.covariance @ combine.T,
        n_evals=spent + len(X),
        alpha=estimator.alpha,
        beta=estimator.beta,
        components=estimator.components,
        history=tuple(adaptation.history),
        sample=X,
        values=targets.outputs(scores),
        weights=W[:, : targets.n_laws],
        replicates=drawn,
    )


def _batch(n_max: int, adapt_fraction: float, batches: int, sampling: Sampling) -> tuple[int, Net | None]:
    """Return the points of a batch, and its net: the final sample keeps its share of the evaluations as a net too."""
    kept = smallest_net(n_max - int(n_max * adapt_fraction))
    net = largest_net((n_max - kept.total) // batches) if n_max - kept.total >= REPLICATES * batches else None
    if net is not None and sampling != "random":
        return net.total, net
    if sampling == "sobol":
        raise ValueError(f"n_max is {n_max}; nets in {batches} batches and a final sample take more evaluations")
    size = int(n_max * adapt_fraction) // batches
    if size < 2:
        raise ValueError(f"n_max is {n_max}; it takes at least two evaluations for each of {batches} batches")
    return size, None


def _warn_of_zeros(combine: Float[np.ndarray, "J K"], Y: Float[np.ndarray, "n outputs"]) -> None:
    hit = np.abs(combine) @ np.broadcast_to(Y.any(axis=0), combine.shape[1:])
    if not hit.all():
        zero = ", ".join(map(str, np.flatnonzero(hit == 0)))
        warnings.warn(
            f"func is 0 for expectation {zero} at all {len(Y)} points: estimated as 0, with an error that isn't known",
            RuntimeWarning,
            stacklevel=3,
        )
    largest = np.abs(Y).max(axis=0)
    if np.any((largest > 0) & (largest < RANGE[0])):
        warnings.warn(
            f"func is nowhere above {largest[largest > 0].min():g}, whose square is 0 in floating point: errors aren't "
            "known; scale it",
            RuntimeWarning,
            stacklevel=3,
        )
