"""The batches that densities are fitted in, and what the final sample is drawn from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from paperworks.inference.importance.coefficients import optimal_alpha, optimal_beta
from paperworks.inference.importance.components import RIDGE, Family, GaussianComponents, fit_cross_entropy
from paperworks.inference.importance.estimator import ISCVEstimator
from paperworks.inference.importance.laws import InputLaws, log_mixture
from paperworks.inference.importance.points import (
    PROFIT,
    REPLICATES,
    Net,
    net_variance,
    sobol_points,
    stratified_points,
)
from paperworks.inference.importance.targets import Pool, Targets

# Defensive shares: Hesterberg's (1995), which bounds weights by ten at a tenth of the sample's cost; and one for
# functions that are 0 at most points, whose fitted densities are narrower than the law all around: intervals cover so.
# And most of the sample for laws whose tails are heavier than Gaussian, which no fitted density reaches: with a tenth,
# errors are told from too few draws in the tails, and are larger than with most draws from the law.
DEFENSIVE, SUPPORT_DEFENSIVE, TAIL_DEFENSIVE = 0.1, 0.3, 0.6
# Share of the densities of lower levels and of a wide one, which bound the weights of what the highest level's misses;
# and how much wider than the law that is, for tails that aren't Gaussian.
LADDER, WIDE = 0.2, 3.0


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
    >>> from paperworks.inference import GaussianComponents, multiple_expectations
    >>> result = multiple_expectations(lambda x: x**2, GaussianComponents([[0.0]], [[[1.0]]]), 1000, random_state=0)
    >>> [step.n_evals for step in result.history][:2]
    [96, 192]
    """

    n_evals: int
    """Evaluations up to the end of this batch."""
    alpha: Float[np.ndarray, " J"]
    beta: Float[np.ndarray, " J"]
    criterion: float
    """Weighted sum of the variances of one draw, in this batch."""


@dataclass(frozen=True)
class Options:
    """What a caller chose of the adaptation."""

    n_max: int
    batches: int
    weights: Any
    family: Family
    n_components: int
    diag: bool
    defensive: float | None


class Adaptation:
    """Batches of evaluations, densities fitted to all of them, and the rule that ends it.

    Parameters
    ----------
    size
        Evaluations of a batch.
    net
        How the first batch is drawn as a net; all are drawn independently where it is None.
    """

    def __init__(
        self,
        targets: Targets,
        laws: InputLaws,
        options: Options,
        size: int,
        net: Net | None,
        random_state: np.random.Generator,
    ) -> None:
        self._targets, self._laws, self._options, self._rng = targets, laws, options, random_state
        self._size, self._replicates = size, None if net is None else REPLICATES
        known = laws.uniform_dimension
        if net is None or known is None:
            first = laws.rvs(size, random_state)
        else:
            first = laws.from_uniform(sobol_points(1 + known, net, random_state))
        self.pool, self.d = Pool(first, targets), first.shape[1]
        self._spread = np.cov(first, rowvar=False).reshape(self.d, self.d) + RIDGE * np.diag(first.var(axis=0))
        self._levels = targets.levels(self.pool.Y)
        WY = self.pool.W * targets.values(self.pool.Y, self._levels)
        self._beta = WY.mean(axis=0)
        self._w = targets.target_weights(options.weights, self._beta)
        shares = np.sqrt(self._w) * np.abs(WY).mean(axis=0)
        if not shares.any():
            raise ValueError(
                f"func is 0 at all {size} points drawn from its law; if it indicates a rare event, let it return the "
                "score that the event goes by, and give the threshold"
            )
        self._arrived = [targets.arrived(self._levels)]  # for each step of the history, whether at the thresholds
        narrow = targets.threshold is None and (WY == 0).mean(axis=0).max() > 0.5
        kurtosis = stats.kurtosis(first, axis=0).max()  # of noise in Gaussian draws, beyond 1 and four standard errors
        self._heavy = targets.threshold is None and bool(kurtosis > max(1.0, 4 * np.sqrt(24 / size)))
        usual = TAIL_DEFENSIVE if self._heavy else SUPPORT_DEFENSIVE if narrow else DEFENSIVE
        self._share = usual if options.defensive is None else options.defensive
        alpha = shares / shares.sum()
        self._ladder = list[GaussianComponents]()  # of densities for lower levels
        self.history = [AdaptationStep(len(first), alpha, self._beta, float(self._w @ WY.var(axis=0, ddof=1)))]

    def run(self, sobol: bool) -> tuple[ISCVEstimator, bool]:
        """Adapt; return what to draw the final sample from, and whether by nets: always, where `sobol` says so."""
        # With nets the last batch tries another proposal, where there is one.
        trial = self._replicates is not None and len(self._beta) > 1 and self._options.batches > 2
        for _ in range(self._options.batches - (2 if trial else 1)):
            estimator, W, summands = self._step()
            if self._paid_too_much(len(W)):
                break
        if not self._arrived[-1]:
            raise ValueError(self._targets.missed(self.pool.Y[-len(W) :], len(self.pool)))
        if self._drawn is None:
            return estimator, False
        single, theirs, ours = estimator, np.inf, net_variance(summands, self._drawn, self._w)
        if trial:
            single, theirs = self._single()
        independent = self.history[-1].criterion / len(W)
        if not sobol and min(ours, theirs) >= PROFIT * independent:
            return estimator, False
        return (single if theirs < ours else estimator), True

    def draw(
        self, estimator: ISCVEstimator, n: int, replicates: int | None
    ) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, " m"], int | None]:
        """Return at most n draws, what each counts, and their replicates: stratified nets, or independent draws."""
        if replicates is None:
            return estimator.rvs(n, self._rng), np.ones(n), None
        U, counts, replicates = stratified_points(estimator.shares, self.d, n, replicates, self._rng)
        return estimator.from_uniform(U, self._rng), counts, replicates

    def _step(self) -> tuple[ISCVEstimator, Float[np.ndarray, "m laws"], Float[np.ndarray, "m K"]]:
        """Fit densities to all evaluations, and draw and evaluate a batch from their mixture."""
        pool, targets, share = self.pool, self._targets, self._share
        W, Y = pool.W, targets.values(pool.Y, self._levels)
        if targets.threshold is not None:  # as the levels are new
            self._beta = (W * Y).mean(axis=0)
            self._w = targets.target_weights(self._options.weights, self._beta)
        fitted = self._fit(np.abs(W * Y), W)
        components = fitted
        if targets.threshold is not None:
            components = fitted.with_share_of([*self._ladder, fitted.at_least(WIDE**2 * self._spread)], LADDER)
            self._ladder.append(fitted)
        R = pool.counts[:, None] * np.exp(components.logpdf(pool.X) - pool.log_H[:, None])
        # The defensive share belongs to all components alike, as alpha sums to 1.
        law = np.exp(log_mixture(pool.log_f) - pool.log_H)[:, None] if share else 0.0
        drawn = (1 - share) * R + share * law
        alpha = optimal_alpha((W * Y - self._beta * R) ** 2 @ self._w, drawn, alpha0=self.history[-1].alpha)
        proposal = ISCVEstimator(components, alpha, self._beta, share, self._laws)
        X, counts, self._drawn = self.draw(proposal, self._size, self._replicates)
        W, scores, R = pool.add(proposal, X, counts)
        Y = targets.values(scores, self._levels)
        self._beta = optimal_beta(R, W * Y)  # of the new batch alone
        summands = W * Y - self._beta * R
        criterion = float(self._w @ summands.var(axis=0, ddof=1))
        self.history.append(AdaptationStep(len(pool), alpha, self._beta, criterion))
        self._arrived.append(targets.arrived(self._levels))
        self._levels = targets.levels(scores)
        return ISCVEstimator(components, alpha, self._beta, share, self._laws), W, summands

    def _paid_too_much(self, size: int) -> bool:
        """Say whether the last batch wasn't worth its evaluations, of two that had the same targets."""
        if not all(self._arrived[-2:]):
            return False
        left = self._options.n_max - len(self.pool)
        before, now = (step.criterion for step in self.history[-2:])
        return before / (left + size) <= now / left

    def _single(self) -> tuple[ISCVEstimator, float]:
        """Return a density for all targets together, without controls, and its nets' variance in a batch.

        Nets profit from integrands that vanish smoothly in the tails of what is drawn; a mixture has narrow components
        in whose tails others' targets are, and controls with the same.
        """
        pool, targets = self.pool, self._targets
        masses = np.abs(pool.W * targets.values(pool.Y)) @ np.sqrt(self._w)
        components = self._fit(masses[:, None], pool.W.mean(axis=1, keepdims=True))
        # A density that is as wide as the laws needs no defence, whose draws are where others' targets end.
        share = self._share
        if (
            self._options.defensive is None
            and not self._heavy
            and (pool.log_f - components.logpdf(pool.X)).max() <= -np.log(DEFENSIVE)
        ):
            share = 0.0
        single = ISCVEstimator(components, [1.0], [0.0], share, self._laws)
        X, counts, replicates = self.draw(single, self._size, REPLICATES)
        W, scores, _ = pool.add(single, X, counts)
        return single, net_variance(W * targets.values(scores), replicates or REPLICATES, self._w)

    def _fit(self, masses: Float[np.ndarray, "n K"], W: Float[np.ndarray, "n laws"]) -> GaussianComponents:
        """Fit densities to masses; half of them are the law's where too few points hit a target for a fit."""
        options, total, law = self._options, masses.sum(axis=0), np.broadcast_to(W, masses.shape)
        few = np.count_nonzero(masses, axis=0) < self.d + 2
        shares = masses / np.where(total > 0, total, 1.0)
        shares = np.where(few, shares + law / law.sum(axis=0), shares)
        least = np.count_nonzero(shares, axis=0).min()
        if least < self.d + 2:
            raise ValueError(
                f"n_max is {options.n_max}; of {len(self.pool)} points {least} lie where one of the laws has density, "
                f"and {self.d} variables take {self.d + 2}"
            )
        fitted = fit_cross_entropy(self.pool.X, shares, options.family, options.n_components, options.diag, self._rng)
        if self._targets.threshold is None:
            return fitted
        # What is beyond a level is narrow where the next level is wide: no Gaussian may be narrower than the law.
        return fitted.at_least(self._spread)
