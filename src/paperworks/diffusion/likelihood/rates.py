"""What theory says of the estimate: its rates, and the noise to add."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paperworks.core.validation import check_count, check_number


@dataclass(frozen=True)
class SieveRates:
    """Rates of the sieve maximum likelihood estimator, up to constants and log factors.

    Parameters
    ----------
    hellinger
        Rate of the density of the data with the best noise added.
    wasserstein
        Rate of the distribution without noise, in Wasserstein-1 distance, from data with the best noise added.
    hellinger_unperturbed, wasserstein_unperturbed
        The same from the data as they are; at least 1, up to infinity, where the theory guarantees nothing.
    perturbation
        Standard deviation of the best noise to add, for data of unit scale; 0 where they are noisy enough.
    adversarial
        Rate of generative adversarial estimators in Wasserstein-1 distance, for reference.

    Examples
    --------
    >>> sieve_rates(10_000, beta=2, t=1).wasserstein < sieve_rates(10_000, beta=1, t=1).wasserstein
    True
    """

    hellinger: float
    wasserstein: float
    hellinger_unperturbed: float
    wasserstein_unperturbed: float
    perturbation: float
    adversarial: float


def composite_smoothness(betas: Sequence[float], ts: Sequence[float]) -> tuple[float, float]:
    """Return (beta, t) that govern the rate for a composition of maps, listed from the first applied to the last.

    Map i has smoothness ``betas[i]`` and depends on ``ts[i]`` variables at a time; its effective smoothness is
    ``betas[i]`` times ``min(beta, 1)`` of all that are applied after it, and the worst ``t/beta`` governs
    (arXiv 2105.04046, section 3).

    Returns
    -------
    tuple[float, float]
        The smoothness and the number of variables of the worst map.

    Examples
    --------
    >>> composite_smoothness([2.0, 0.5], [4, 1])
    (1.0, 4.0)
    """
    if len(betas) != len(ts) or not betas:
        raise ValueError(f"betas has {len(betas)} entries and ts {len(ts)}; they take one of each for each map")
    for i, (beta, t) in enumerate(zip(betas, ts, strict=True)):
        check_number(f"betas[{i}]", beta, gt=0)
        check_number(f"ts[{i}]", t, gt=0)
    effective = [
        (beta * math.prod(min(later, 1.0) for later in betas[i + 1 :]), float(t))
        for i, (beta, t) in enumerate(zip(betas, ts, strict=True))
    ]
    return max(effective, key=lambda pair: pair[1] / pair[0])


def sieve_rates(n: int, beta: float, t: float, sigma: float = 0.0) -> SieveRates:
    """Return the rates at sample size `n` for smoothness `beta` and intrinsic dimension `t`.

    ``eps_n = n^(-beta/(2 beta + t)) s^(-t/(2 beta + t))`` in Hellinger distance at noise level s, ``eps_n + s`` in
    Wasserstein distance, least at ``s = n^(-beta/(2(beta + t)))`` (arXiv 2105.04046, theorems 3 and 7).

    Parameters
    ----------
    n
        Number of samples, at least one.
    beta, t
        Smoothness and dimension of the generator, or what `composite_smoothness` says of it.
    sigma
        Standard deviation of the noise that the data have of themselves, relative to their scale.

    Returns
    -------
    SieveRates
        The rates in both distances, and the best noise level.

    Examples
    --------
    >>> rates = sieve_rates(10_000, beta=1, t=1)
    >>> round(rates.perturbation, 6), round(rates.adversarial, 4)
    (0.1, 0.0464)
    """
    n = check_count("n", n)
    beta, t = check_number("beta", beta, gt=0), check_number("t", t, gt=0)
    sigma = check_number("sigma", sigma, ge=0)
    best = n ** (-beta / (2 * (beta + t)))
    total = max(sigma, best)
    exponent = 1 / (2 * beta + t)

    def hellinger(level: float) -> float:
        return n ** (-beta * exponent) * level ** (-t * exponent) if level > 0 else math.inf

    return SieveRates(
        hellinger=hellinger(total),
        wasserstein=hellinger(total) + total,
        hellinger_unperturbed=hellinger(sigma),
        wasserstein_unperturbed=hellinger(sigma) + sigma,
        perturbation=math.sqrt(total**2 - sigma**2),
        adversarial=max(n ** (-beta * exponent), sigma),
    )
